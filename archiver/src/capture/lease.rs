//! A lease says which process writes a source. It keeps two from working at once; that two never both write is the
//! epoch's doing, which every append checks. All times are the audit server's.
//!
//! It also names the session in which its holder appends. A process that is killed leaves its last transaction open, and the
//! server keeps it, and the checkpoint that it has locked, for a minute (transactionLifetimeLimitSeconds): whoever takes
//! over ends that session first.

use std::time::Duration;

use bson::{Bson, Document, doc};
use mongodb::Collection;
use mongodb::options::ReturnDocument;
use tracing::warn;

use crate::audit_log::{AuditLog, LEASES, mongo_error};
use crate::deployment::code;
use crate::error::{Error, Result};

/// How long a lease holds without renewal.
const TTL: Duration = Duration::from_secs(15);
/// How often it is renewed: three tries before it runs out.
pub const RENEWAL: Duration = Duration::from_secs(5);
const DUPLICATE_KEY: i32 = 11000;

/// A source's lease, held.
#[derive(Debug, Clone)]
pub struct Lease {
    leases: Collection<Document>,
    source: String,
    holder: String,
    /// The writer's number that came with it; higher than every one before.
    pub epoch: i64,
}

impl Lease {
    /// Takes the lease of a source; `None` while another process holds it.
    pub async fn acquire(log: &AuditLog, source: &str, holder: &str) -> Result<Option<Lease>> {
        let leases = log.database().collection::<Document>(LEASES);
        let free = doc! {"$or": [
            {"$eq": ["$holder", holder]},
            {"$lte": [{"$ifNull": ["$expires", "$$NOW"]}, "$$NOW"]},
        ]};
        let if_free = |taken: Bson, field: &str| doc! {"$cond": [&free, taken, format!("${field}")]};
        let take = vec![doc! {"$set": {
            "holder": if_free(doc! {"$literal": holder}.into(), "holder"),
            "epoch": if_free(doc! {"$add": [{"$ifNull": ["$epoch", 0_i64]}, 1_i64]}.into(), "epoch"),
            "expires": if_free(expiry().into(), "expires"),
        }}];
        let lease = doc! {"_id": source};
        let taken =
            leases.find_one_and_update(lease, take).upsert(true).return_document(ReturnDocument::After).await;
        let lease = match taken {
            Ok(Some(lease)) if lease.get_str("holder").is_ok_and(|h| h == holder) => lease,
            Ok(_) => return Ok(None),
            // Another process has created it at this very moment.
            Err(e) if code(&e) == Some(DUPLICATE_KEY) => return Ok(None),
            Err(e) => return Err(mongo_error("taking the lease", e)),
        };
        if let Ok(session) = lease.get_document("session") {
            // It may belong to another account, or be long gone; then the transaction ends by its own time limit.
            if let Err(e) = log.database().run_command(doc! {"killSessions": [session]}).await {
                let error = mongo_error("ending the session of the writer before this one", e);
                warn!(%source, error = error.explain(), "waiting for its last transaction to time out");
            }
        }
        let epoch = lease.get_i64("epoch").map_err(|e| Error::corrupt("a lease has no epoch").because(e))?;
        Ok(Some(Lease { leases, source: source.to_owned(), holder: holder.to_owned(), epoch }))
    }

    fn mine(&self) -> Document {
        doc! {"_id": &self.source, "holder": &self.holder, "epoch": self.epoch}
    }

    /// Names the session in which the holder appends, before it does so for the first time.
    pub async fn name_session(&self, session: &Document) -> Result<()> {
        let named = self.leases.update_one(self.mine(), doc! {"$set": {"session": session}}).await;
        match named.map_err(|e| mongo_error("naming the session in the lease", e))?.matched_count {
            0 => Err(self.lost()),
            _ => Ok(()),
        }
    }

    fn lost(&self) -> Error {
        Error::fenced(format!("another process has taken the lease source={}", self.source))
    }

    /// Holds it for another [`TTL`]. Fails as fenced where another process has taken it.
    pub async fn renew(&self) -> Result<()> {
        let renewed = self.leases.update_one(self.mine(), vec![doc! {"$set": {"expires": expiry()}}]).await;
        match renewed.map_err(|e| mongo_error("renewing the lease", e))?.matched_count {
            0 => Err(self.lost()),
            _ => Ok(()),
        }
    }

    /// Gives it back, so that another process need not wait for it to run out. Leaves `error` for `status` to show.
    pub async fn release(&self, error: Option<&Error>) -> Result<()> {
        let message: Bson = error.map_or(Bson::Null, |e| Bson::String(e.explain()));
        let last_error = match error {
            // As a literal: nothing in a message may be read as an expression.
            Some(_) => doc! {"at": "$$NOW", "message": {"$literal": message}},
            None => doc! {"$ifNull": ["$lastError", "$$REMOVE"]},
        };
        let update = vec![
            doc! {"$set": {"expires": "$$NOW", "holder": Bson::Null, "session": "$$REMOVE", "lastError": last_error}},
        ];
        let released = self.leases.update_one(self.mine(), update).await;
        released.map(|_| ()).map_err(|e| mongo_error("releasing the lease", e))
    }
}

fn expiry() -> Document {
    doc! {"$add": ["$$NOW", TTL.as_millis() as i64]}
}
