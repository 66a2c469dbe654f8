//! What became of withheld events when they were tried again: their late records stand in the place of their `quarantine` records,
//! in time and in the stream's order.

use std::collections::BTreeMap;

use bson::Timestamp;
use bson_walker::Doc;

use super::stream::Records;
use super::{BEGINNING, History};
use crate::error::Result;
use crate::record::{Record, RecordId};
use crate::stream_id::StreamId;

/// The `quarantine` records whose events were released, with the late record of each; `None`: a plugin dropped it. Those of documents
/// that were only read again later are not among them: they still say that nothing was known until then.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Released(BTreeMap<RecordId, Option<RecordId>>);

impl Released {
    /// What these records tell; those that tell nothing of it are none of its business.
    pub fn among(records: &[Vec<u8>]) -> Result<Released> {
        let mut released = Released::default();
        for bytes in records {
            released.note(&Record::new(bytes)?)?;
        }
        Ok(released)
    }

    fn note(&mut self, record: &Record<'_>) -> Result<()> {
        let Some(list) = notes(record) else { return Ok(()) };
        let partition = record.record_id()?.partition;
        let entries = list.elements().map_while(|e| e.ok()?.as_doc());
        for entry in entries.filter(|entry| entry.get("snapshot").is_none()) {
            let id = |name| Some(RecordId { partition, seq: entry.get(name)?.as_i64()? });
            self.0.extend(id("seq").map(|quarantine| (quarantine, id("late"))));
        }
        Ok(())
    }

    /// What became of this `quarantine` record's event, where it was released: its late record, or none where a plugin dropped it.
    pub(super) fn outcome(&self, quarantine: RecordId) -> Option<Option<RecordId>> {
        self.0.get(&quarantine).copied()
    }

    /// Whether this `quarantine` record's event was released.
    pub fn holds(&self, quarantine: RecordId) -> bool {
        self.0.contains_key(&quarantine)
    }
}

/// What a `quarantine` record of the archiver's own says about others.
pub fn notes<'a>(record: &Record<'a>) -> Option<Doc<'a>> {
    match record.op() {
        "quarantine" => record.part("detail")?.get("released")?.as_doc(),
        _ => None,
    }
}

/// Where a record stands among all: by its time, and among those of one time by seq, a late one with its event's `quarantine` record.
pub(super) fn place(record: &Record<'_>) -> Result<(Timestamp, RecordId, RecordId)> {
    let id = record.record_id()?;
    let event = record.late().map_or(id, |seq| RecordId { seq, ..id });
    Ok((record.cluster_time()?, event, id))
}

/// A stream's records in seq order, but for late ones, which stand where their events stood.
pub struct Placed {
    records: Records,
    released: Released,
    late: LateRecords,
}

/// Reads late records: they lie together, in about the order in which they are asked for.
pub(super) struct LateRecords {
    history: History,
    stream: StreamId,
    /// Stands behind the last one.
    records: Option<Records>,
}

impl LateRecords {
    /// Those of this stream.
    pub(super) fn of(history: &History, stream: &StreamId) -> LateRecords {
        LateRecords { history: history.clone(), stream: stream.clone(), records: None }
    }

    /// One of them; `None` where it has expired, which it may behind its quarantine record.
    pub(super) async fn read(&mut self, late: RecordId) -> Result<Option<Vec<u8>>> {
        let at = self.records.take().filter(|records| records.next_seq() == late.seq);
        let mut records = at.unwrap_or_else(|| self.history.records(&self.stream, late.seq));
        let Some(found) = records.next().await? else { return Ok(None) };
        if Record::new(&found)?.record_id()? != late {
            return Ok(None);
        }
        self.records = Some(records);
        Ok(Some(found))
    }
}

impl History {
    /// The events of a source that have been released by now.
    pub(super) async fn released(&self, source: &str) -> Result<Released> {
        Released::among(&self.operations(source, &["quarantine"], BEGINNING).await?)
    }

    /// The records of a stream with the late ones in their places, as far as events have been released by now.
    pub async fn placed_records(&self, stream: &StreamId) -> Result<Placed> {
        let released = self.released(&stream.source).await?;
        Ok(Placed { records: self.records(stream, 1), released, late: LateRecords::of(self, stream) })
    }
}

impl Placed {
    /// The seq of the next record that stands where it was written.
    pub fn next_seq(&self) -> i64 {
        self.records.next_seq()
    }

    /// The next record before this seq; `None` where there is none.
    pub async fn next_before(&mut self, end: i64) -> Result<Option<Vec<u8>>> {
        while self.next_seq() < end {
            let Some(bytes) = self.records.next().await? else { return Ok(None) };
            let record = Record::new(&bytes)?;
            match self.released.outcome(record.record_id()?) {
                _ if record.late().is_some() => {}
                Some(Some(late)) => {
                    if let Some(record) = self.late.read(late).await? {
                        return Ok(Some(record));
                    }
                }
                Some(None) => {}
                None => return Ok(Some(bytes)),
            }
        }
        Ok(None)
    }
}
