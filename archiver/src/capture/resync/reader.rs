//! Reads one collection in `_id` order, a batch at a time, each as the documents were at a given cluster time.

use bson::{Document, Timestamp, doc};
use bson_walker::{Doc, Writer};
use mongodb::Client;

use crate::capture::change_event::snapshot_event;
use crate::config::CaptureConfig;
use crate::deployment::{code, mongo_error};
use crate::error::{Error, Result};
use crate::event::{Event, Position};

/// SnapshotUnavailable: the collection was made or renamed after the time; SnapshotTooOld.
const READ_LATER: [i32; 2] = [246, 239];
/// How many times in a row a batch is tried at a later time.
const ATTEMPTS: usize = 10;

pub(super) struct Reader {
    client: Client,
    db: String,
    coll: String,
    /// Selects the documents of the stream's partition.
    filter: Option<Document>,
    limits: CaptureConfig,
    /// The last document's `{_id: …}`.
    last: Option<Vec<u8>>,
    done: bool,
    failed: usize,
}

impl Reader {
    pub(super) fn new(
        client: Client,
        db: String,
        coll: String,
        filter: Option<Document>,
        limits: CaptureConfig,
    ) -> Self {
        Reader { client, db, coll, filter, limits, last: None, done: false, failed: 0 }
    }

    /// Whether there is no further document.
    pub(super) fn is_done(&self) -> bool {
        self.done
    }

    /// The next documents as they were at this time; `None` where they have to be read at a later one.
    pub(super) async fn read(&mut self, time: Timestamp, position: &Position) -> Result<Option<Vec<Event>>> {
        let failed = |e| mongo_error(&format!("reading {}.{} to compare it", self.db, self.coll), e);
        let mut find = doc! {
            "find": &self.coll,
            "filter": self.filter.clone().unwrap_or_default(),
            "hint": {"_id": 1},
            "batchSize": self.limits.batch_max_events as i64 + 1,
            "readConcern": {"level": "snapshot", "atClusterTime": time},
        };
        if let Some(last) = &self.last {
            // A bound on the index instead of a comparison in a filter: `$gt` would skip every `_id` of another type. It is
            // inclusive: the last document may come once more.
            let last: Document = bson::deserialize_from_slice(last)
                .map_err(|e| Error::internal("an _id can't be read").because(e))?;
            find.insert("min", last);
        }
        let mut cursor = match self.client.database(&self.db).run_cursor_command(find).await {
            Ok(cursor) => cursor,
            Err(e) if code(&e).is_some_and(|code| READ_LATER.contains(&code)) && self.failed < ATTEMPTS => {
                self.failed += 1;
                return Ok(None);
            }
            Err(e) => return Err(failed(e)),
        };
        self.failed = 0;
        let (mut events, mut bytes) = (Vec::new(), 0);
        while events.len() < self.limits.batch_max_events && bytes < self.limits.batch_max_bytes {
            if !cursor.advance().await.map_err(failed)? {
                self.done = true;
                break;
            }
            let document = cursor.current().as_bytes();
            let id = id_of(document)?;
            if self.last.as_ref() != Some(&id) {
                bytes += document.len();
                events.push(snapshot_event(&self.db, &self.coll, document, time, position)?);
                self.last = Some(id);
            }
        }
        Ok(Some(events))
    }
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
