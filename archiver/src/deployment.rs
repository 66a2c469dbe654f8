//! A MongoDB deployment: connecting to it, asking its clock, and turning its errors into ours without their contents.

pub mod transport;

use std::time::Duration;

use bson::{Document, Timestamp, doc};
use mongodb::error::{Error as MongoError, ErrorKind};
use mongodb::options::{
    Acknowledgment, ClientOptions, ReadConcern, ReadPreference, SelectionCriteria, WriteConcern,
};
pub use mongodb::{Client, Database};

use crate::config::Secret;
use crate::error::{Error, Result};
pub use crate::fault::code;
use crate::fault::{Meaning, meaning};

/// How long to look for a usable server before giving up; the loops try again with backoff.
const SERVER_SELECTION_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections of a client, unless the URI says otherwise: every change stream occupies one while it waits for events.
const POOL: u32 = 200;
/// Connections of a client for small operations: a slow one leaves room for others.
const SMALL_POOL: u32 = 4;

/// Command errors whose message names commands, users and servers, never documents, and helps whoever reads it:
/// Unauthorized, AuthenticationFailed, NotWritablePrimary, 40573 (change streams need a replica set), CommandNotFound,
/// InvalidNamespace, NoReplicationEnabled, NotYetInitialized, ReadConcernMajorityNotAvailableYet, SnapshotTooOld.
const HARMLESS_MESSAGES: [i32; 10] = [13, 18, 10107, 40573, 59, 73, 76, 94, 134, 239];

/// Connects with majority reads and journaled majority writes. Fails only on a malformed URI: servers are looked
/// for when first used.
pub async fn connect(uri: &Secret) -> Result<Client> {
    with_options(options(uri).await?)
}

/// A client like that of [`connect`] with few connections of its own, for small operations that nothing else may hold up. It
/// asks the primary alone, and a write that has not reached a majority within `limit` fails.
pub async fn connect_small(uri: &Secret, limit: Duration) -> Result<Client> {
    let mut options = options(uri).await?;
    options.max_pool_size = Some(SMALL_POOL);
    options.min_pool_size = None;
    options.selection_criteria = Some(SelectionCriteria::ReadPreference(ReadPreference::Primary));
    let durable = WriteConcern::builder().w(Acknowledgment::Majority).journal(true).w_timeout(limit).build();
    options.write_concern = Some(durable);
    with_options(options)
}

fn with_options(options: ClientOptions) -> Result<Client> {
    // It opens no connection, but the files with certificates.
    Client::with_options(options).map_err(|e| {
        let error = Error::invalid("the MongoDB URI can't be used").because(Shown(harmless_text(&e)));
        error.hint(
            "check the files that tlsCAFile and tlsCertificateKeyFile name: PEM, readable by this process",
        )
    })
}

async fn options(uri: &Secret) -> Result<ClientOptions> {
    let mut options = ClientOptions::parse(uri.expose()).await.map_err(unusable_uri)?;
    options.app_name.get_or_insert_with(|| "archiver".to_owned());
    options.max_pool_size.get_or_insert(POOL);
    options.server_selection_timeout.get_or_insert(SERVER_SELECTION_TIMEOUT);
    options.read_concern = Some(ReadConcern::majority());
    options.write_concern = Some(durable());
    Ok(options)
}

fn unusable_uri(error: MongoError) -> Error {
    if matches!(error.kind.as_ref(), ErrorKind::DnsResolve { .. }) {
        return mongo_error("looking up the servers of the MongoDB URI", error);
    }
    Error::invalid("the MongoDB URI can't be used").because(Shown(harmless_text(&error))).hint(
        "it looks like mongodb://user:password@host:27017/?replicaSet=rs0, with special characters percent-encoded",
    )
}

/// What a write must reach before it counts: the journals of a majority, so that no failover takes it back.
pub fn durable() -> WriteConcern {
    WriteConcern::builder().w(Acknowledgment::Majority).journal(true).build()
}

/// The deployment's present, as its logical clock says: everything up to it is visible to majority reads soon.
pub async fn operation_time(database: &Database) -> Result<Timestamp> {
    let reply =
        database.run_command(doc! {"ping": 1}).await.map_err(|e| mongo_error("asking for the time", e))?;
    reply.get_timestamp("operationTime").map_err(|_| {
        Error::unavailable("the server gives no operationTime, so it is not part of a replica set").hint(
            "change streams need a replica set: start mongod with --replSet rs0 and run rs.initiate() once",
        )
    })
}

/// The time of the oldest entry of the oplog; `None` where there is no oplog or the account may not see it.
pub async fn oplog_start(client: &Client) -> Result<Option<Timestamp>> {
    const UNAUTHORIZED: i32 = 13;
    let oplog = client.database("local").collection::<Document>("oplog.rs");
    match oplog.find_one(doc! {}).sort(doc! {"$natural": 1}).projection(doc! {"ts": 1}).await {
        Ok(entry) => Ok(entry.and_then(|e| e.get_timestamp("ts").ok())),
        Err(e) if code(&e) == Some(UNAUTHORIZED) => Ok(None),
        Err(e) => Err(mongo_error("reading the oplog's oldest entry", e)),
    }
}

/// The server's version, such as "6.0.5".
pub async fn server_version(database: &Database) -> Result<String> {
    let reply: Document = database
        .run_command(doc! {"buildInfo": 1})
        .await
        .map_err(|e| mongo_error("asking for the version", e))?;
    Ok(reply.get_str("version").unwrap_or("unknown").to_owned())
}

/// A cause that was made safe to show.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Shown(String);

/// Turns a driver's error into ours. Server messages can quote documents and tokens ("dup key: { … }"), so only
/// messages known to be harmless are kept; of others the code and its name.
pub fn mongo_error(doing: &str, error: MongoError) -> Error {
    let Meaning { fault, kind, hint } = meaning(&error);
    let shown =
        Error::new(kind, format!("{doing} failed")).with_fault(fault).because(Shown(harmless_text(&error)));
    match hint {
        Some(hint) => shown.hint(hint),
        None => shown,
    }
}

/// Cuts the command out of "not authorized on shop to execute command { find: …, filter: … }", all but its name: its
/// filters and resume tokens quote documents.
fn without_command(message: &str) -> String {
    match message.split_once(" command {") {
        Some((before, command)) => {
            let name = command.split(':').next().unwrap_or_default().trim();
            format!("{before} command {name}")
        }
        None => message.to_owned(),
    }
}

fn harmless_text(error: &MongoError) -> String {
    match error.kind.as_ref() {
        ErrorKind::Command(e) if HARMLESS_MESSAGES.contains(&e.code) => {
            format!("{} code={}", without_command(&e.message), e.code)
        }
        ErrorKind::Command(e) => format!("the server refused code={} name={}", e.code, e.code_name),
        ErrorKind::Write(_) | ErrorKind::InsertMany(_) | ErrorKind::BulkWrite(_) => {
            format!("the server refused a write code={}", code(error).unwrap_or(0))
        }
        ErrorKind::Authentication { message, .. }
        | ErrorKind::ServerSelection { message, .. }
        | ErrorKind::DnsResolve { message, .. }
        | ErrorKind::InvalidTlsConfig { message, .. }
        | ErrorKind::ConnectionPoolCleared { message, .. }
        | ErrorKind::InvalidArgument { message, .. } => message.clone(),
        ErrorKind::Io(e) => format!("connection error: {e}"),
        ErrorKind::Transaction { message, .. } => message.clone(),
        other => format!("{other:?}").split([' ', '(', '{']).next().unwrap_or("error").to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_command_is_named_without_what_it_quotes() {
        let message =
            "not authorized on shop to execute command { find: \"payments\", filter: { _id: \"4111\" } }";
        assert_eq!(without_command(message), "not authorized on shop to execute command find");
        assert_eq!(without_command("Authentication failed."), "Authentication failed.");
    }
}
