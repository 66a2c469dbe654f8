//! Each source: its change stream opened as capture will open it, every watched collection read once, and what of the
//! watched databases is not covered.

use std::collections::HashSet;

use bson::{Document, doc};

use super::Findings;
use crate::capture::images::{Lifetime, lifetime};
use crate::capture::namespaces::{Listed, archivers_databases, list_collections, watched_databases};
use crate::capture::portion::Portion;
use crate::capture::stream::StreamOptions;
use crate::capture::users::list_users;
use crate::capture::watcher::Watcher;
use crate::config::{Config, Snapshot, SourceConfig, Watch};
use crate::deployment::{Client, mongo_error, operation_time};
use crate::error::{Error, Result};
use crate::event::Position;
use crate::stream_id::StreamId;

/// What no source of any kind can see, said once.
const NEVER_COVERED: [&str; 2] = [
    "views and time series collections: MongoDB has no change stream of them",
    "MongoDB's own databases and system collections",
];

/// Checks every source.
pub(super) async fn check(client: &Client, config: &Config, findings: &mut Findings) {
    for source in &config.sources {
        let about = format!("source {}", source.name);
        if source.plugins.is_empty() {
            let hint =
                "list plugins under [[source]] if its documents hold anything that must not be kept in clear";
            findings.warn(&about, "no plugins: everything is kept as it is", hint);
        }
        if let Err(error) = check_source(client, config, source, findings).await {
            findings.fail(&about, &error);
        }
    }
    users(client, findings).await;
    for what in NEVER_COVERED {
        findings.info("not covered", what);
    }
}

/// Says how far it can be known who made a change.
async fn users(client: &Client, findings: &mut Findings) {
    let about = "who did it";
    match list_users(client).await {
        Ok(Some(users)) => findings.ok(
            about,
            format!("the users of transactions' sessions can be named, users={}", users.len()),
        ),
        Ok(None) => findings.info(
            about,
            "the users of transactions' sessions can't be named: that takes the privilege viewUser on the cluster",
        ),
        Err(error) => findings.fail(about, &error),
    }
    findings.info(
        about,
        "outside of transactions only what the application writes into the document tells (actor_field)",
    );
}

async fn check_source(
    client: &Client,
    config: &Config,
    source: &SourceConfig,
    findings: &mut Findings,
) -> Result<()> {
    open_streams(client, config, source).await?;
    let what = match source.partitions {
        1 => "its change stream can be opened".to_owned(),
        n => format!("its {n} change streams, one for each partition, can be opened"),
    };
    findings.ok(format!("source {}", source.name), what);
    let lifetime = lifetime(client).await;
    let other_archivers = archivers_databases(client, &source.watch, &config.audit_database).await?;
    for database in watched_databases(client, &source.watch, &config.audit_database).await? {
        if other_archivers.contains(&database) {
            findings.info("not covered", format!("{database}: it is another archiver's database"));
            continue;
        }
        let collections = list_collections(client, &database).await?;
        missing(source, &database, &collections, findings);
        for collection in collections.iter().filter(|c| is_watched(source, &database, &c.name)) {
            check_collection(client, source, &database, collection, lifetime, findings).await;
        }
    }
    Ok(())
}

/// Opens the streams that `run` will open, each with its own options.
async fn open_streams(client: &Client, config: &Config, source: &SourceConfig) -> Result<()> {
    let cluster_time = operation_time(&client.database("admin")).await?;
    let from = Position { token: None, cluster_time };
    for stream in StreamId::all(&source.name, source.partitions) {
        let watcher = Watcher {
            source: stream.to_string(),
            client: client.clone(),
            options: StreamOptions::of_source(source, &stream, &config.audit_database, client).await?,
            audit_database: config.audit_database.clone(),
            left_out: HashSet::new(),
            limits: config.capture,
            enable_images: Vec::new(),
        };
        watcher.open(&from, Portion::Whole, 1).await?;
    }
    Ok(())
}

/// Whether the collection is named by an entry of its own.
fn is_named(source: &SourceConfig, database: &str, collection: &str) -> bool {
    source
        .watch
        .iter()
        .any(|w| matches!(w, Watch::Collection(db, coll) if db == database && coll == collection))
}

fn is_watched(source: &SourceConfig, database: &str, collection: &str) -> bool {
    source.watch.iter().any(|watch| watch.covers(database, collection))
}

/// Warns of entries that name what is not there: it may come, or be a misspelling.
fn missing(source: &SourceConfig, database: &str, found: &[Listed], findings: &mut Findings) {
    for watch in &source.watch {
        let absent = match watch {
            Watch::Collection(db, coll) if db == database => {
                (!found.iter().any(|c| &c.name == coll)).then(|| format!("{db}.{coll}"))
            }
            Watch::Database(db) if db == database => found.is_empty().then(|| format!("{db}.*")),
            _ => None,
        };
        if let Some(namespace) = absent {
            let hint = "it is captured from its first document on; check the spelling if it should be there";
            findings.warn(namespace, "does not exist yet", hint);
        }
    }
}

async fn check_collection(
    client: &Client,
    source: &SourceConfig,
    database: &str,
    collection: &Listed,
    lifetime: Lifetime,
    findings: &mut Findings,
) {
    let namespace = format!("{database}.{}", collection.name);
    if let Some(kind) = collection.without_stream {
        if is_named(source, database, &collection.name) {
            let error = Error::invalid(format!("is {kind}, which has no change stream"));
            findings.fail(namespace, &error.hint("watch the collections that its documents come from"));
        } else {
            findings.info("not covered", format!("{namespace}: it is {kind}"));
        }
        return;
    }
    let read = client.database(database).collection::<Document>(&collection.name);
    if let Err(error) = read.find_one(doc! {}).projection(doc! {"_id": 1}).await {
        findings.fail(&namespace, &mongo_error("reading the collection", error));
        return;
    }
    images_of(&namespace, collection.images, lifetime, source, findings);
}

fn images_of(
    namespace: &str,
    enabled: bool,
    lifetime: Lifetime,
    source: &SourceConfig,
    findings: &mut Findings,
) {
    if enabled {
        let what = format!("can be read, images before and after a change are on and kept {lifetime}");
        return findings.ok(namespace, what);
    }
    if source.enable_images {
        let what = "can be read, images before and after a change are off: `run` switches them on (enable_images), \
                    which takes the privilege collMod; changes before that have none";
        return findings.info(namespace, what);
    }
    let what = match source.snapshot {
        Snapshot::Initial => {
            "images before and after a change are off: documents are rebuilt from the baseline and the deltas"
        }
        Snapshot::Never => {
            "images before and after a change are off, and there is no baseline: a document that is only updated or \
             deleted can't be recovered"
        }
    };
    let collection = namespace.split_once('.').map_or("", |(_, coll)| coll);
    let collection = serde_json::Value::from(collection);
    let hint =
        format!("db.runCommand({{collMod: {collection}, changeStreamPreAndPostImages: {{enabled: true}}}})");
    findings.warn(namespace, what, &hint);
}
