//! Reads one collection in `_id` order as a baseline does, a batch at a time, each as of the time at which it holds the barrier.

use crate::capture::barrier::Hold;
use crate::capture::change_event::{ReadFrom, snapshot_event};
use crate::capture::snapshot::Snapshot;
use crate::capture::snapshot::read::id_of;
use crate::error::Result;
use crate::event::Event;
use crate::progress::{Planned, RangeProgress};

pub(in crate::capture) struct Reader<'a> {
    snapshot: &'a Snapshot,
    collection: Planned,
    range: RangeProgress,
    limit: usize,
    done: bool,
}

impl<'a> Reader<'a> {
    pub(in crate::capture) fn new(snapshot: &'a Snapshot, collection: Planned) -> Self {
        let limit = snapshot.limits.batch_max_events;
        Reader { snapshot, collection, range: RangeProgress::default(), limit, done: false }
    }

    /// The next documents, and the hold at the time at which they are true. Of a capped collection, which MongoDB before 8.0
    /// does not read as of a time, they may be a moment newer: what the stream tells of that moment comes behind them all the
    /// same, and leaves what it says. `None` at the end.
    pub(in crate::capture) async fn next(&mut self) -> Result<Option<(Vec<Event>, Hold)>> {
        if self.done {
            return Ok(None);
        }
        let (found, hold) = self.snapshot.read_batch(&mut self.collection, &self.range, self.limit).await?;
        self.done = found.done;
        self.limit = self.snapshot.limit_after(&found, self.limit);
        if let Some(last) = found.documents.last() {
            self.range.last = Some(id_of(last.as_bytes())?);
        }
        let Some(hold) = hold else { return Ok(None) };
        let Planned { db, coll, uuid, .. } = &self.collection;
        let from = ReadFrom { db, coll, uuid: uuid.map(|uuid| uuid.bytes()), time: hold.time, until: None };
        let event = |bytes: &[u8]| snapshot_event(&from, bytes, &self.snapshot.position);
        let events = found.documents.iter().map(|document| event(document.as_bytes()));
        Ok(Some((events.collect::<Result<_>>()?, hold)))
    }
}
