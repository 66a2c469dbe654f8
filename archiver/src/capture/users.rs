//! Whose session it was: events of a transaction carry the SHA-256 of their user's name, and an account that may list the
//! users can tell whose that is. The digest itself is stored nowhere: names are few, and it has no salt.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bson::{Document, doc};
use bson_walker::Doc;
use mongodb::Client;
use mongodb::error::{Error as MongoError, ErrorKind};
use sha2::{Digest, Sha256};

use crate::deployment::mongo_error;
use crate::error::Result;
use crate::record::Sha;

/// How long a digest that nobody's name has stays unknown before the users are listed again.
const ASK_AGAIN: Duration = Duration::from_secs(600);
/// Digests remembered at most.
const MOST: usize = 100_000;
/// Errors of a member that is no primary any more: another one will answer.
const NO_PRIMARY: [i32; 6] = [10_107, 13_435, 11_602, 11_600, 189, 91];

/// The users of a deployment by the digests of their names, listed when a new digest is met.
#[derive(Debug, Default)]
pub struct SessionUsers {
    names: HashMap<Sha, String>,
    /// Digests that no user had, and when the users were listed.
    unknown: HashMap<Sha, Instant>,
}

impl SessionUsers {
    /// The name, `user@database`, of the user whose session made this change; `None` outside of transactions, and where
    /// the account may not see the users.
    pub async fn name(&mut self, client: &Client, change: Doc<'_>) -> Result<Option<&str>> {
        let Some(digest) = change.get_path(&["lsid", "uid"]).and_then(|e| e.as_binary()) else {
            return Ok(None);
        };
        let Ok(digest) = Sha::try_from(digest.1) else { return Ok(None) };
        let asked = self.unknown.get(&digest).is_some_and(|asked| asked.elapsed() < ASK_AGAIN);
        if !asked && !self.names.contains_key(&digest) {
            self.ask(client, digest).await?;
        }
        Ok(self.names.get(&digest).map(String::as_str))
    }

    async fn ask(&mut self, client: &Client, digest: Sha) -> Result<()> {
        if self.names.len() + self.unknown.len() >= MOST {
            *self = SessionUsers::default();
        }
        // Names are added and never taken away: a user who is gone by now may have made the change.
        for name in list_users(client).await?.into_iter().flatten().take(MOST) {
            self.names.insert(Sha256::digest(&name).into(), name);
        }
        if !self.names.contains_key(&digest) {
            self.unknown.insert(digest, Instant::now());
        }
        Ok(())
    }
}

/// The names of all users that the account may see, as `user@database`; `None` where it may see none.
pub async fn list_users(client: &Client) -> Result<Option<Vec<String>>> {
    if let Some(all) = users_info(client, "admin", doc! {"usersInfo": {"forAllDBs": true}}).await? {
        return Ok(Some(all));
    }
    // Without the cluster-wide privilege: those of the databases in which accounts usually are.
    let mut found = None;
    for database in ["admin", "$external"] {
        if let Some(users) = users_info(client, database, doc! {"usersInfo": 1}).await? {
            found.get_or_insert_with(Vec::new).extend(users);
        }
    }
    Ok(found)
}

/// `None` where the server refuses to tell.
async fn users_info(client: &Client, database: &str, command: Document) -> Result<Option<Vec<String>>> {
    let reply = match client.database(database).run_command(command).await {
        Ok(reply) => reply,
        Err(error) if is_refusal(&error) => return Ok(None),
        Err(error) => return Err(mongo_error("listing the users", error)),
    };
    let name = |user: &bson::Bson| {
        let user = user.as_document()?;
        Some(format!("{}@{}", user.get_str("user").ok()?, user.get_str("db").ok()?))
    };
    Ok(reply.get_array("users").ok().map(|users| users.iter().filter_map(name).collect()))
}

fn is_refusal(error: &MongoError) -> bool {
    matches!(error.kind.as_ref(), ErrorKind::Command(e) if !NO_PRIMARY.contains(&e.code))
}
