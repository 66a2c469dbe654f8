//! What the deployment has: collections to read a baseline of, and databases of other archivers to leave out.

use std::collections::HashSet;

use bson::{Document, doc};
use futures_util::TryStreamExt;
use mongodb::Client;
use mongodb::results::{CollectionSpecification, CollectionType};

use super::stream::INTERNAL_DATABASES;
use crate::audit_log::MARKER;
use crate::checkpoint::SnapshotProgress;
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

/// What is left of a baseline when `watch` was another one before, given the watched collections that exist: all that was
/// left of it anyway, and the collections that are watched only now. `None`: nothing.
pub fn baseline_of_new(
    progress: Option<SnapshotProgress>,
    collections: &[(String, String)],
    before: &[Watch],
) -> Option<SnapshotProgress> {
    let watched_before = |(db, coll): &(String, String)| before.iter().any(|watch| watch.covers(db, coll));
    let name = |(db, coll): &(String, String)| format!("{db}.{coll}");
    let (old, new): (Vec<_>, Vec<_>) = collections.iter().partition(|c| watched_before(c));
    match progress {
        None if new.is_empty() => None,
        None => Some(SnapshotProgress {
            done: old.into_iter().map(name).collect(),
            ..SnapshotProgress::default()
        }),
        // What was read, then not watched for a while, is to be read again.
        Some(mut progress) => {
            progress.done.retain(|done| !new.iter().any(|new| name(new) == *done));
            Some(progress)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_collections_that_were_not_watched_before_get_a_baseline() {
        let collections = ["a", "b", "c"].map(|coll| ("shop".to_owned(), coll.to_owned()));
        let before = [Watch::Collection("shop".into(), "b".into())];
        let done = |progress: Option<SnapshotProgress>| progress.map(|p| p.done);
        assert_eq!(done(baseline_of_new(None, &collections, &before)), Some(vec!["shop.b".to_owned()]));
        assert_eq!(done(baseline_of_new(None, &collections[1..2], &before)), None);
        assert_eq!(done(baseline_of_new(None, &collections, &[Watch::Everything])), None);
        // A baseline that is not complete goes on; what was not watched in between is read again.
        let progress =
            SnapshotProgress { done: vec!["shop.a".into(), "shop.b".into()], ..SnapshotProgress::default() };
        assert_eq!(
            done(baseline_of_new(Some(progress), &collections, &before)),
            Some(vec!["shop.b".to_owned()])
        );
    }
}
