//! A MongoDB deployment: connecting to it, asking its clock, and turning its errors into ours without their contents.

mod connection;
pub mod transport;

use std::time::Duration;

use bson::{Document, Timestamp, doc};
use mongodb::error::{Error as MongoError, ErrorKind};
use mongodb::options::{
    Acknowledgment, ClientOptions, ReadConcern, ReadPreference, SelectionCriteria, WriteConcern,
};
pub use mongodb::{Client, Database};

use crate::checkpoint::ServerVersion;
use crate::config::Secret;
use crate::error::{Error, Result};
pub use crate::fault::code;
use crate::fault::{Fault, Meaning, meaning};

/// How long to look for a usable server before giving up; the loops try again with backoff.
const SERVER_SELECTION_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a server is asked whether it is there, unless the URI says otherwise. A host or network that vanishes without a word
/// is given up after this and `connectTimeoutMS` (10 s) together; then every operation that waits for it fails, and starts over.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Connections of a client, unless the URI says otherwise: every change stream occupies one while it waits for events.
const POOL: u32 = 200;
/// Connections of a client for small operations: a slow one leaves room for others.
const SMALL_POOL: u32 = 4;

/// What to do where a server asks for an account and the URI has none.
pub const NO_ACCOUNT: &str = "write mongodb://user:password@host/?authSource=admin, the password as ${ENV_NAME}; or, with a \
    certificate, authMechanism=MONGODB-X509 and tlsCertificateKeyFile";

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
    options.heartbeat_freq.get_or_insert(HEARTBEAT);
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

/// Whether a version, of a server or of its features, has what change streams are opened with: images and the events of
/// collections and indexes came with 6.0.
pub fn is_supported(version: &str) -> bool {
    version.split('.').next().and_then(|major| major.parse::<u32>().ok()).is_some_and(|major| major >= 6)
}

/// That an upgrade was not finished, or is to be taken back.
pub fn feature_too_old(version: &str) -> Error {
    Error::unavailable(format!("the feature compatibility version is too old version={version}"))
        .with_fault(Fault::NeedsHuman)
        .hint("finish the upgrade: db.adminCommand({setFeatureCompatibilityVersion: \"6.0\"})")
}

/// Which deployment this is, and of which version, as far as the account may see it.
pub async fn server(client: &Client) -> Result<ServerVersion> {
    let admin = client.database("admin");
    let asked = admin.run_command(doc! {"getParameter": 1, "featureCompatibilityVersion": 1}).await.ok();
    let feature = asked.and_then(|reply| {
        reply.get_document("featureCompatibilityVersion").ok()?.get_str("version").ok().map(str::to_owned)
    });
    Ok(ServerVersion { version: server_version(&admin).await?, feature, deployment: identity(client).await })
}

/// The id that a replica set got when it was initiated, or a sharded cluster when it was made.
async fn identity(client: &Client) -> Option<String> {
    if let Ok(reply) = client.database("admin").run_command(doc! {"replSetGetConfig": 1}).await {
        let settings = reply.get_document("config").ok()?.get_document("settings").ok()?;
        return settings.get_object_id("replicaSetId").ok().map(|id| id.to_hex());
    }
    let version = client.database("config").collection::<Document>("version").find_one(doc! {}).await;
    version.ok()??.get_object_id("clusterId").ok().map(|id| id.to_hex())
}

/// A cause that was made safe to show.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Shown(String);

/// Turns a driver's error into ours. Server messages can quote documents and tokens ("dup key: { … }"), so only
/// messages known to be harmless are kept; of others the code and its name.
pub fn mongo_error(doing: &str, error: MongoError) -> Error {
    let Meaning { fault, kind, hint } = meaning(&error);
    let hint = more_exactly(&error).or(hint);
    let shown =
        Error::new(kind, format!("{doing} failed")).with_fault(fault).because(Shown(harmless_text(&error)));
    match hint {
        Some(hint) => shown.hint(hint),
        None => shown,
    }
}

/// What to do about an error, where more can be said than [`meaning`] does from its code.
fn more_exactly(error: &MongoError) -> Option<&'static str> {
    match error.kind.as_ref() {
        ErrorKind::Command(e) if e.code == 13 && e.message.contains("requires authentication") => {
            Some(NO_ACCOUNT)
        }
        ErrorKind::Authentication { message, .. } if message.contains("X509") => Some(
            "the certificate in tlsCertificateKeyFile needs an account in $external, named after its subject",
        ),
        ErrorKind::ServerSelection { message, .. } | ErrorKind::DnsResolve { message, .. } => {
            Some(connection::hint(message))
        }
        ErrorKind::Io(e) => Some(connection::hint(&e.to_string())),
        _ => None,
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

/// Cuts out what servers answered, which the driver shows in hex where it tells of an operation that failed before this one.
fn without_responses(message: &str) -> String {
    let mut parts = message.split("server response: Some(");
    let mut kept = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        kept.push_str("server response cut");
        kept.push_str(part.split_once(')').map_or("", |(_, rest)| rest));
    }
    kept
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
        ErrorKind::ServerSelection { message, .. } => connection::reasons(&without_responses(message)),
        ErrorKind::Authentication { message, .. }
        | ErrorKind::DnsResolve { message, .. }
        | ErrorKind::InvalidTlsConfig { message, .. }
        | ErrorKind::InvalidArgument { message, .. } => message.clone(),
        ErrorKind::ConnectionPoolCleared { message, .. } => without_responses(message),
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

    #[test]
    fn what_a_server_answered_to_another_operation_is_not_shown() {
        let message = "Connection pool cleared: code 91, source: None, server response: Some(RawDocumentBuf { data: \"0f01\" }) }, \
                       and { Error: x, server response: Some(RawDocumentBuf { data: \"aa\" }), Type: Unknown }";
        assert_eq!(
            without_responses(message),
            "Connection pool cleared: code 91, source: None, server response cut }, and { Error: x, server response cut, Type: Unknown }"
        );
        assert_eq!(without_responses("No available servers."), "No available servers.");
    }
}
