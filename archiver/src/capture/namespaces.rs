//! What the deployment has: collections to read a baseline of, databases of other archivers to leave out, and which
//! collections keep images.

use std::collections::{HashMap, HashSet};

use bson::{Document, doc};
use futures_util::TryStreamExt;
use mongodb::Client;
use mongodb::results::{CollectionSpecification, CollectionType};

use super::change_event::ImageSettings;
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

/// The watched collections that exist, sorted: ordinary ones only, neither views nor time series nor MongoDB's own.
pub async fn watched_collections(
    client: &Client,
    watch: &[Watch],
    audit_database: &str,
    left_out: &HashSet<String>,
) -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    for database in watched_databases(client, watch, audit_database).await? {
        if left_out.contains(&database) {
            continue;
        }
        let listing = client.database(&database).list_collections().await;
        let listing = listing.map_err(|e| mongo_error("listing the collections", e))?;
        let mut collections =
            listing.try_collect::<Vec<_>>().await.map_err(|e| mongo_error("listing the collections", e))?;
        collections
            .retain(|c| c.collection_type == CollectionType::Collection && !c.name.starts_with("system."));
        for collection in collections {
            if watch.iter().any(|w| w.covers(&database, &collection.name)) {
                found.push((database.clone(), collection.name));
            }
        }
    }
    found.sort();
    Ok(found)
}

/// One collection of a database, as far as `check` cares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// Why it has no change stream: "a view", "a time series collection"; `None` for an ordinary collection.
    pub without_stream: Option<&'static str>,
    /// Whether it keeps images before and after a change.
    pub images: bool,
    /// Whether its oldest documents go without an event.
    pub capped: bool,
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
        capped: c.options.capped == Some(true),
        name: c.name,
    };
    Ok(found.into_iter().map(listed).collect())
}

/// Which collections keep images, asked for once per database and again after its collections changed.
#[derive(Debug, Default)]
pub struct ImageCache {
    enabled: HashMap<String, Option<HashSet<String>>>,
}

impl ImageCache {
    /// Makes sure that the settings of this database are known, as far as the account may see them.
    pub async fn load(&mut self, client: &Client, database: &str) {
        if self.enabled.contains_key(database) {
            return;
        }
        let filter = doc! {"options.changeStreamPreAndPostImages.enabled": true};
        let enabled = match client.database(database).list_collections().filter(filter).await {
            Ok(listing) => listing.map_ok(|c| c.name).try_collect::<HashSet<_>>().await.ok(),
            Err(_) => None,
        };
        self.enabled.insert(database.to_owned(), enabled);
    }

    /// Forgets a database whose collections were created, changed or dropped.
    pub fn forget(&mut self, database: &str) {
        self.enabled.remove(database);
    }
}

impl ImageSettings for ImageCache {
    fn why_missing(&self, db: &str, coll: &str) -> &'static str {
        match self.enabled.get(db) {
            Some(Some(enabled)) if enabled.contains(coll) => "expired",
            Some(Some(_)) => "disabled",
            _ => "unknown",
        }
    }
}
