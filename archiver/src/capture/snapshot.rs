//! The baseline: every present document of the watched collections, each true at a cluster time that is known exactly.

use std::time::{Duration, Instant};

use bson::{Document, Timestamp, doc};
use bson_walker::{Doc, Writer};
use mongodb::Client;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::barrier::{Barrier, Hold};
use super::change_event::snapshot_event;
use super::writer::Documents;
use crate::checkpoint::SnapshotProgress;
use crate::config::CaptureConfig;
use crate::deployment::{mongo_error, operation_time};
use crate::error::{Error, Result};
use crate::event::{Event, Position};

/// How often a running snapshot says how far it is.
const SNAPSHOT_REPORT: Duration = Duration::from_secs(10);
/// Batches that may wait, read but not yet appended.
const BATCHES_AHEAD: usize = 1;

/// Documents of one batch, and the progress once they are appended.
#[derive(Debug)]
pub(super) struct SnapshotBatch {
    /// The documents as events.
    pub(super) events: Vec<Event>,
    /// `None` when the baseline is complete.
    pub(super) progress: Option<SnapshotProgress>,
    /// Dropped once the documents are appended; no event after the time they were read at may come before them.
    pub(super) hold: Option<Hold>,
}

/// Reads collection by collection in `_id` order, so that it can go on after any document.
#[derive(Debug)]
pub struct Snapshot {
    client: Client,
    limits: CaptureConfig,
    position: Position,
    left: Vec<(String, String)>,
    progress: SnapshotProgress,
    /// Selects the documents of the stream's partition.
    filter: Option<Document>,
}

impl Snapshot {
    /// Goes on from `progress` over these collections. `position` is the stream's.
    pub fn new(
        client: Client,
        collections: Vec<(String, String)>,
        progress: SnapshotProgress,
        position: Position,
        limits: CaptureConfig,
    ) -> Self {
        let left = still_to_read(collections, &progress);
        Snapshot { client, limits, position, left, progress, filter: None }
    }

    /// Reads only the documents that this filter selects.
    pub fn of(self, filter: Option<Document>) -> Self {
        Snapshot { filter, ..self }
    }

    /// Starts reading. The receiver gets batches until the one without progress, or an error.
    pub(super) fn start(
        mut self,
        barrier: Barrier,
        stop: CancellationToken,
    ) -> mpsc::Receiver<Result<Documents>> {
        let (sender, receiver) = mpsc::channel(BATCHES_AHEAD);
        tokio::spawn(async move {
            let mut reported = Instant::now();
            let mut read = 0;
            while !stop.is_cancelled() {
                let batch = self.next(&barrier).await;
                let more = batch.as_ref().is_ok_and(|b| b.progress.is_some());
                read += batch.as_ref().map_or(0, |b| b.events.len());
                if sender.send(batch.map(Documents::Baseline)).await.is_err() || !more {
                    return;
                }
                if reported.elapsed() > SNAPSHOT_REPORT {
                    info!(documents = read, "reading the baseline");
                    reported = Instant::now();
                }
            }
        });
        receiver
    }

    /// The next batch; after the one without progress there is none.
    async fn next(&mut self, barrier: &Barrier) -> Result<SnapshotBatch> {
        let Some((db, coll)) = self.left.last().cloned() else {
            return Ok(SnapshotBatch { events: Vec::new(), progress: None, hold: None });
        };
        let name = format!("{db}.{coll}");
        if self.progress.current.as_ref() != Some(&name) {
            self.progress.current = Some(name);
            self.progress.last_id = None;
        }
        let hold = barrier.hold(operation_time(&self.client.database(&db)).await?);
        let (events, complete) = self.read(&db, &coll, hold.time).await?;
        if complete {
            self.left.pop();
            self.progress.done.extend(self.progress.current.take());
            self.progress.last_id = None;
        }
        Ok(SnapshotBatch { events, progress: Some(self.progress.clone()), hold: Some(hold) })
    }

    /// As many documents as fit a batch, after the last one, as they were at `time`, and whether there are no more.
    async fn read(&mut self, db: &str, coll: &str, time: Timestamp) -> Result<(Vec<Event>, bool)> {
        let failed = |e| mongo_error(&format!("reading the baseline of {db}.{coll}"), e);
        let mut limit = self.limits.batch_max_events;
        let mut find = doc! {
            "find": coll,
            "hint": {"_id": 1},
            "readConcern": {"level": "snapshot", "atClusterTime": time},
            "filter": self.filter.clone().unwrap_or_default(),
        };
        if let Some(last) = &self.progress.last_id {
            // A bound on the index instead of a comparison in a filter: `$gt` would skip every `_id` of another type.
            // It is inclusive, so the last document may come once more.
            let last: std::result::Result<Document, _> = bson::deserialize_from_slice(last);
            let last =
                last.map_err(|e| Error::corrupt("the snapshot's stored progress can't be read").because(e))?;
            find.insert("min", last);
            limit += 1;
        }
        find.insert("limit", limit as i64);
        find.insert("batchSize", limit as i64);
        let mut cursor = self.client.database(db).run_cursor_command(find).await.map_err(failed)?;
        let mut events = Vec::new();
        let mut bytes = 0;
        while cursor.advance().await.map_err(failed)? {
            let document = cursor.current().as_bytes();
            let id = id_of(document)?;
            if self.progress.last_id.as_ref() != Some(&id) {
                bytes += document.len();
                events.push(snapshot_event(db, coll, document, time, &self.position)?);
                self.progress.last_id = Some(id);
            }
            if events.len() >= self.limits.batch_max_events || bytes >= self.limits.batch_max_bytes {
                return Ok((events, false));
            }
        }
        Ok((events, true))
    }
}

/// What is left of these collections, the next one last: that is the one which was being read, even where others have
/// been created since that would come before it.
fn still_to_read(
    mut collections: Vec<(String, String)>,
    progress: &SnapshotProgress,
) -> Vec<(String, String)> {
    collections.retain(|(db, coll)| !progress.done.contains(&format!("{db}.{coll}")));
    collections.sort_by_key(|(db, coll)| progress.current.as_ref() != Some(&format!("{db}.{coll}")));
    collections.reverse();
    collections
}

/// `{_id: …}` of a document.
fn id_of(document: &[u8]) -> Result<Vec<u8>> {
    let doc =
        Doc::new(document).map_err(|e| Error::unavailable("a document is not valid BSON").because(e))?;
    let id = doc.get("_id");
    Ok(Writer::build(|writer| {
        if let Some(id) = &id {
            writer.append(id);
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_collection_that_was_being_read_comes_first_and_finished_ones_not_again() {
        let named =
            |names: &[&str]| names.iter().map(|n| ("db".to_owned(), (*n).to_owned())).collect::<Vec<_>>();
        let progress =
            SnapshotProgress { done: vec!["db.b".into()], current: Some("db.d".into()), last_id: None };
        // "a" has been created while the archiver was down.
        let left = still_to_read(named(&["a", "b", "c", "d", "e"]), &progress);
        assert_eq!(left, named(&["e", "c", "a", "d"]));
    }
}
