//! Waits until something is recorded that may concern one document.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::given::Given;
use super::merge::{Ending, Merge, Next};
use super::range::Range;
use super::tail::{Place, Step};
use crate::error::Result;
use crate::history::id::DocumentId;
use crate::history::{History, WIDE};
use crate::record::Record;
use crate::stream_id::StreamId;

/// How often the log is asked for more.
const POLL: Duration = Duration::from_millis(200);

/// Reads what is recorded from when it was made.
pub struct Follow {
    merge: Merge,
}

impl Follow {
    /// From the present of a source on.
    pub async fn open(history: &History, source: &str) -> Result<Follow> {
        let mut places: BTreeMap<StreamId, Place> = BTreeMap::new();
        for stream in history.streams(source).await? {
            let Some(log) = &history.log else { continue };
            let next = log.checkpoint(&stream).await?.map_or(1, |checkpoint| checkpoint.next_seq);
            places.insert(stream, Place { start: next, next, since: next, late: Given::default() });
        }
        let sources = [source.to_owned()];
        let place = |stream: &StreamId| places.get(stream).cloned();
        Ok(Follow { merge: Merge::open(history, &sources, Range::default(), Ending::Never, place).await? })
    }

    /// Waits for records of this document, or of what may be its collection; false where it was stopped before.
    pub async fn recorded(&mut self, id: &DocumentId, stop: &CancellationToken) -> Result<bool> {
        let mut recorded = false;
        while !stop.is_cancelled() {
            match self.merge.next().await? {
                Next::Item(item) => recorded |= concerns(&item.step, id)?,
                Next::End(_) => return Ok(recorded),
                Next::Wait(_) if recorded => return Ok(true),
                Next::Wait(_) => {
                    tokio::select! {
                        () = tokio::time::sleep(POLL) => {}
                        () = stop.cancelled() => break,
                    }
                    self.merge.look_ahead().await?;
                }
            }
        }
        Ok(false)
    }
}

fn concerns(step: &Step, id: &DocumentId) -> Result<bool> {
    let Step::Record(bytes, _) = step else { return Ok(false) };
    let record = Record::new(bytes)?;
    Ok(match record.id() {
        Some(its) => id.matches(&its),
        None => WIDE.contains(&record.op()) && record.op() != "create",
    })
}
