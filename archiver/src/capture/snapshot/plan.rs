//! What a baseline reads: the collections that are there when it begins. Those created later are in the stream from their
//! birth.

use std::collections::HashSet;

use bson::{Uuid, doc};
use futures_util::{StreamExt, TryStreamExt, stream};
use mongodb::Client;

use super::now;
use crate::audit_log::AuditLog;
use crate::capture::namespaces::{ordinary_collections, watched_databases};
use crate::config::Watch;
use crate::deployment::mongo_error;
use crate::error::{Error, Result};
use crate::progress::{Planned, SnapshotProgress};
use crate::stream_id::StreamId;

/// Collections counted at the same time.
const COUNTS: usize = 16;

/// The watched collections that exist, sorted: ordinary ones only, neither views nor time series nor MongoDB's own.
pub(in crate::capture) async fn present(
    client: &Client,
    watch: &[Watch],
    audit_database: &str,
    left_out: &HashSet<String>,
) -> Result<Vec<Planned>> {
    let mut found = Vec::new();
    for db in watched_databases(client, watch, audit_database).await? {
        if left_out.contains(&db) {
            continue;
        }
        for collection in ordinary_collections(client, &db).await? {
            if watch.iter().any(|w| w.covers(&db, &collection.name)) {
                found.push(Planned {
                    db: db.clone(),
                    coll: collection.name,
                    uuid: collection.info.uuid.and_then(|uuid| uuid.to_uuid().ok()),
                    capped: collection.options.capped == Some(true),
                    documents: 0,
                });
            }
        }
    }
    found.sort_by(|a, b| (&a.db, &a.coll).cmp(&(&b.db, &b.coll)));
    stream::iter(found).map(|planned| counted(client, planned)).buffered(COUNTS).try_collect().await
}

/// With the number of documents that the server's bookkeeping has.
async fn counted(client: &Client, planned: Planned) -> Result<Planned> {
    let reply = client.database(&planned.db).run_command(doc! {"count": &planned.coll}).await;
    let reply = reply.map_err(|e| mongo_error(&format!("counting {}.{}", planned.db, planned.coll), e))?;
    let n = reply.get("n").and_then(|n| n.as_i64().or(n.as_i32().map(i64::from)));
    Ok(Planned { documents: n.unwrap_or(0), ..planned })
}

/// Plans a baseline of these collections, and of what `running` has left where one is being read; `None` where there is
/// nothing to read. The plan counts once the progress is in the checkpoint.
pub(in crate::capture) async fn plan(
    log: &AuditLog,
    stream: &StreamId,
    partitions: u32,
    running: Option<&SnapshotProgress>,
    collections: Vec<Planned>,
) -> Result<Option<SnapshotProgress>> {
    let mut left = Vec::new();
    if let Some(running) = running {
        let first = running.first_left();
        let mut planned = log.read_plan(stream, &running.plan, first).await?;
        for open in running.left() {
            let at = (open.number - first) as usize;
            let lost = || Error::corrupt("the baseline's stored plan lacks a collection");
            left.push((open, planned.get_mut(at).cloned().ok_or_else(lost)?));
        }
    }
    let known: HashSet<Option<Uuid>> = left.iter().map(|(_, planned)| planned.uuid).collect();
    let new = collections.into_iter().filter(|c| c.uuid.is_none() || !known.contains(&c.uuid));
    let new: Vec<Planned> = new.collect();
    let estimated = new.iter().map(|c| c.documents).sum::<i64>() / i64::from(partitions.max(1));
    let (open, mut planned): (Vec<_>, Vec<_>) = left.into_iter().unzip();
    planned.extend(new);
    if planned.is_empty() {
        return Ok(None);
    }
    let name = Uuid::new().to_string();
    log.write_plan(stream, &name, &planned).await?;
    let mut progress = SnapshotProgress::new(name, planned.len() as u32, estimated, now());
    if let Some(running) = running {
        progress.take_over(running, open);
    }
    Ok(Some(progress))
}
