//! What the deployment has: collections to read a baseline of, and databases of other archivers to leave out.

use std::collections::HashSet;

use bson::{Document, doc};
use futures_util::TryStreamExt;
use mongodb::Client;
use mongodb::results::{CollectionSpecification, CollectionType};

use super::stream::INTERNAL_DATABASES;
use crate::audit_log::MARKER;
use crate::config::Watch;
use crate::deployment::mongo_error;
use crate::error::{Error, Result};

/// Databases other than `audit_database` that belong to some archiver, among those watched. Fails where one is
/// watched by its name.
pub async fn archivers_databases(
    client: &Client,
    watch: &[Watch],
    audit_database: &str,
) -> Result<HashSet<String>> {
    let mut marked = HashSet::new();
    for database in watched_databases(client, watch, audit_database).await? {
        let marker = client.database(&database).collection::<Document>(MARKER).find_one(doc! {}).await;
        if marker.map_err(|e| mongo_error("looking for other archivers", e))?.is_some() {
            if watch.iter().any(|w| names(w, &database)) {
                return Err(Error::invalid(format!(
                    "the watched database is an archiver's own database={database}"
                ))
                .hint(
                    "two archivers that watch each other would never rest; watch the application's databases",
                ));
            }
            marked.insert(database);
        }
    }
    Ok(marked)
}

fn names(watch: &Watch, database: &str) -> bool {
    match watch {
        Watch::Collection(db, _) | Watch::Database(db) => db == database,
        Watch::Everything => false,
    }
}

/// The databases that are watched, sorted, but for the audit database and MongoDB's own.
pub async fn watched_databases(
    client: &Client,
    watch: &[Watch],
    audit_database: &str,
) -> Result<Vec<String>> {
    let mut databases: Vec<String> = watch
        .iter()
        .filter_map(|w| match w {
            Watch::Collection(db, _) | Watch::Database(db) => Some(db.clone()),
            Watch::Everything => None,
        })
        .collect();
    if watch.contains(&Watch::Everything) {
        databases =
            client.list_database_names().await.map_err(|e| mongo_error("listing the databases", e))?;
    }
    databases.sort();
    databases.dedup();
    databases.retain(|db| db != audit_database && !INTERNAL_DATABASES.contains(&db.as_str()));
    Ok(databases)
}

/// The ordinary collections of a database: neither views nor time series nor MongoDB's own.
pub async fn ordinary_collections(client: &Client, database: &str) -> Result<Vec<CollectionSpecification>> {
    let failed = |e| mongo_error(&format!("listing the collections of {database}"), e);
    let listing = client.database(database).list_collections().await.map_err(failed)?;
    let mut found = listing.try_collect::<Vec<_>>().await.map_err(failed)?;
    found.retain(|c| c.collection_type == CollectionType::Collection && !c.name.starts_with("system."));
    Ok(found)
}

/// One collection of a database, as far as `check` cares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// What tells it from other collections that have had or will have its name.
    pub uuid: Option<Vec<u8>>,
    /// Why it has no change stream: "a view", "a time series collection"; `None` for an ordinary collection.
    pub without_stream: Option<&'static str>,
    /// Whether it keeps images before and after a change.
    pub images: bool,
}

/// All collections of a database but MongoDB's own, sorted.
pub async fn list_collections(client: &Client, database: &str) -> Result<Vec<Listed>> {
    let failed = |e| mongo_error(&format!("listing the collections of {database}"), e);
    let listing = client.database(database).list_collections().await.map_err(failed)?;
    let mut found = listing.try_collect::<Vec<_>>().await.map_err(failed)?;
    found.retain(|c| !c.name.starts_with("system."));
    found.sort_by(|a, b| a.name.cmp(&b.name));
    let listed = |c: CollectionSpecification| Listed {
        without_stream: match c.collection_type {
            CollectionType::Collection => None,
            CollectionType::View => Some("a view"),
            _ => Some("a time series collection"),
        },
        images: c.options.change_stream_pre_and_post_images.is_some_and(|images| images.enabled),
        uuid: c.info.uuid.map(|uuid| uuid.bytes),
        name: c.name,
    };
    Ok(found.into_iter().map(listed).collect())
}
