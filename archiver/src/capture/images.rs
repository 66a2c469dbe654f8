//! Images before and after a change: which collections kept them at the place where the stream stands, and switching them
//! on. A setting is its collection's, whatever name that has, so it goes by the collection's UUID.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::time::{Duration, Instant};

use bson::{Bson, Timestamp, doc};
use bson_walker::{Doc, Element};
use mongodb::Client;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::change_event::{ImageSettings, missing_images};
use super::namespaces::{Listed, list_collections, watched_databases};
use super::portion::Portion;
use super::watcher::{Watcher, operation, position_of};
use crate::config::Watch;
use crate::deployment::{code, mongo_error, operation_time};
use crate::error::{Error, Result};
use crate::event::Position;

/// How long the stream waits at most while the changes of settings ahead of it are looked for.
const LOOK_AHEAD: Duration = Duration::from_secs(20);

type Uuid = Vec<u8>;

/// Which collections kept images at the place in the stream that [`Images::follow`] has reached.
///
/// Changes of a setting stand in the stream. What it was before the first one is told by the changes that are still ahead, or else
/// by the present; both are looked up when the first image is missing, and once per database.
#[derive(Debug, Default)]
pub struct Images {
    /// `None` where it can't be known.
    enabled: HashMap<Uuid, Option<bool>>,
    /// What settings were before their first change ahead of the place in the stream from which they were looked for.
    before_change: HashMap<Uuid, bool>,
    /// How far changes were looked for.
    looked_to: Option<Timestamp>,
    /// The databases whose collections were listed, and when.
    listed: HashMap<String, Timestamp>,
}

impl Images {
    /// Takes the next change event in, looks up the setting of its collection where an image is missing, and switches images on
    /// where a watched collection comes and the watcher is told to.
    pub async fn follow(&mut self, watcher: &Watcher, change: Doc<'_>, stop: &CancellationToken) {
        let name = |path: &[&'static str]| change.get_path(path).and_then(|e| e.as_str()).unwrap_or("");
        match operation(change) {
            "create" => {
                let enabled = image_setting(change, &["operationDescription"]).unwrap_or(false);
                self.set(change, Some(enabled));
                let ordinary = change.get("collectionUUID").is_some()
                    && change.get_path(&["operationDescription", "temp"]).is_none();
                if ordinary && !enabled {
                    watcher.enable_images(name(&["ns", "db"]), name(&["ns", "coll"])).await;
                }
            }
            "modify" => {
                if let Some(enabled) = image_setting(change, &["operationDescription"]) {
                    self.set(change, Some(enabled));
                }
            }
            "rename" => watcher.enable_images(name(&["to", "db"]), name(&["to", "coll"])).await,
            "drop" => drop(uuid(change).and_then(|uuid| self.enabled.remove(uuid))),
            _ if missing_images(change) != (false, false) => self.load(watcher, change, stop).await,
            _ => {}
        }
    }

    fn set(&mut self, change: Doc<'_>, enabled: Option<bool>) {
        if let Some(uuid) = uuid(change) {
            self.enabled.insert(uuid.to_vec(), enabled);
        }
    }

    /// Makes sure that the setting of this change's collection is known, as far as the account may see it.
    async fn load(&mut self, watcher: &Watcher, change: Doc<'_>, stop: &CancellationToken) {
        let (Some(uuid), Some(time)) = (uuid(change), time_of(change)) else { return };
        if self.enabled.contains_key(uuid) {
            return;
        }
        let database = change.get_path(&["ns", "db"]).and_then(|e| e.as_str()).unwrap_or("");
        if self.listed.get(database).is_none_or(|listed| *listed < time)
            && let Err(error) = self.list(watcher, database, time, stop).await
        {
            debug!(database, error = %error.explain(), "why images are missing can't be known");
        }
        let known = self.before_change.get(uuid).copied();
        self.enabled.entry(uuid.to_vec()).or_insert(known);
    }

    async fn list(
        &mut self,
        watcher: &Watcher,
        db: &str,
        from: Timestamp,
        stop: &CancellationToken,
    ) -> Result<()> {
        let collections = list_collections(&watcher.client, db).await?;
        // Whatever changes a setting after the listing is found by looking up to here.
        let to = operation_time(&watcher.client.database("admin")).await?;
        self.listed.insert(db.to_owned(), to);
        let looked_to = self.looked_to.filter(|looked_to| *looked_to >= from);
        self.look_ahead(watcher, looked_to.unwrap_or(from), to, stop).await?;
        for Listed { uuid, images, .. } in collections {
            let Some(uuid) = uuid else { continue };
            let enabled = self.before_change.get(&uuid).copied().unwrap_or(images);
            self.enabled.entry(uuid).or_insert(Some(enabled));
        }
        Ok(())
    }

    /// Looks for changes of settings in the part of the stream that has not been read yet.
    async fn look_ahead(
        &mut self,
        watcher: &Watcher,
        from: Timestamp,
        to: Timestamp,
        stop: &CancellationToken,
    ) -> Result<()> {
        let mut watcher = watcher.clone();
        let settings = doc! {"$match": {"operationType": {"$in": ["modify", "invalidate"]}}};
        watcher.options.pipeline.insert(0, settings);
        let from = Position { token: None, cluster_time: from };
        let batch = watcher.limits.batch_max_events as u32;
        let mut changes = watcher.open(&from, Portion::Whole, batch).await?;
        let start = Instant::now();
        loop {
            let next = changes.next_if_any().await;
            let next = next.map_err(|e| mongo_error("looking for changes of image settings", e))?;
            if let Some(change) = &next
                && let Ok(change) = Doc::new(change.as_bytes())
                && let (Some(uuid), Some(_)) =
                    (uuid(change), image_setting(change, &["operationDescription"]))
            {
                let before = image_setting(change, &["stateBeforeChange", "collectionOptions"]);
                self.before_change.entry(uuid.to_vec()).or_insert(before.unwrap_or(false));
            }
            let token = changes.resume_token();
            let at = token.as_ref().map(position_of).transpose()?.flatten().map(|p| p.cluster_time);
            if next.is_none() && at.is_some_and(|at| at >= to) {
                self.looked_to = Some(to);
                return Ok(());
            }
            if stop.is_cancelled() || start.elapsed() > LOOK_AHEAD || !changes.is_alive() {
                return Err(Error::unavailable(
                    "the changes of image settings ahead were not read to their end",
                ));
            }
        }
    }
}

impl ImageSettings for Images {
    fn why_missing(&self, change: Doc<'_>) -> &'static str {
        match uuid(change).and_then(|uuid| self.enabled.get(uuid).copied().flatten()) {
            Some(true) => "expired",
            Some(false) => "disabled",
            None => "unknown",
        }
    }
}

fn uuid(change: Doc<'_>) -> Option<&[u8]> {
    change.get("collectionUUID")?.as_binary().map(|(_, uuid)| uuid)
}

fn time_of(change: Doc<'_>) -> Option<Timestamp> {
    let (time, increment) = change.get("clusterTime")?.as_timestamp()?;
    Some(Timestamp { time, increment })
}

/// Whether the options in this part of a change event say that images are on.
fn image_setting(change: Doc<'_>, part: &[&str]) -> Option<bool> {
    let options = change.get_path(part)?.as_doc()?;
    options.get_path(&["changeStreamPreAndPostImages", "enabled"]).as_ref().and_then(Element::as_bool)
}

/// How long a deployment keeps images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// The account may not see it.
    Unknown,
    /// As long as the oplog holds the change.
    Oplog,
    /// As long as the oplog, but no longer than this many seconds.
    Seconds(i64),
}

impl fmt::Display for Lifetime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Lifetime::Unknown => write!(f, "for a time that this account may not see"),
            Lifetime::Oplog => write!(f, "as long as the oplog"),
            Lifetime::Seconds(seconds) => write!(f, "at most expireAfterSeconds={seconds}"),
        }
    }
}

/// How long the deployment keeps images.
pub async fn lifetime(client: &Client) -> Lifetime {
    let asked =
        client.database("admin").run_command(doc! {"getClusterParameter": "changeStreamOptions"}).await;
    let seconds = asked.ok().and_then(|reply| {
        let parameter = reply.get_array("clusterParameters").ok()?.first()?.as_document()?;
        parameter.get_document("preAndPostImages").ok()?.get("expireAfterSeconds").cloned()
    });
    match seconds {
        None => Lifetime::Unknown,
        Some(Bson::Int32(seconds)) => Lifetime::Seconds(i64::from(seconds)),
        Some(Bson::Int64(seconds)) => Lifetime::Seconds(seconds),
        Some(Bson::Double(seconds)) => Lifetime::Seconds(seconds as i64),
        Some(_) => Lifetime::Oplog,
    }
}

/// Switches images on for every watched collection that is there. Says loudly where it may not.
pub async fn enable_everywhere(
    client: &Client,
    watch: &[Watch],
    audit_database: &str,
    left_out: &HashSet<String>,
) -> Result<()> {
    for database in watched_databases(client, watch, audit_database).await? {
        if left_out.contains(&database) {
            continue;
        }
        for collection in list_collections(client, &database).await? {
            let watched = watch.iter().any(|w| w.covers(&database, &collection.name));
            if watched && !collection.images && collection.without_stream.is_none() {
                enable(client, &database, &collection.name).await;
            }
        }
    }
    Ok(())
}

impl Watcher {
    /// Switches images on for a collection that has come, where this is wanted and it is watched.
    async fn enable_images(&self, database: &str, collection: &str) {
        let watched = self.enable_images.iter().any(|w| w.covers(database, collection));
        // A collection on its way into another database comes under its own name in the end.
        let temporary = collection.starts_with("tmp") && collection.ends_with(".renameCollection");
        let archivers = database == self.audit_database || self.left_out.contains(database);
        if watched && !temporary && !archivers {
            enable(&self.client, database, collection).await;
        }
    }
}

async fn enable(client: &Client, database: &str, collection: &str) {
    const NAMESPACE_NOT_FOUND: i32 = 26;
    let command = doc! {"collMod": collection, "changeStreamPreAndPostImages": {"enabled": true}};
    match client.database(database).run_command(command).await {
        Ok(_) => info!(database, collection, "images before and after a change are on from now"),
        Err(error) if code(&error) == Some(NAMESPACE_NOT_FOUND) => {}
        Err(error) => {
            let error = mongo_error("switching images on", error);
            warn!(
                database,
                collection,
                privilege = "collMod",
                error = %error.explain(),
                "enable_images is set, and images could not be switched on: capture goes on without them"
            );
        }
    }
}
