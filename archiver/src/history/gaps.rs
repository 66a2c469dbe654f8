//! What `gap` records say: that a stretch of history is missing, or that it has been dealt with; and what the
//! comparison of the present with the recorded found behind one.

use std::collections::BTreeSet;

use bson::Timestamp;
use bson_walker::{Doc, kind};

use super::Namespace;
use crate::error::Result;
use crate::record::{Record, RecordId};

/// A stretch of history that is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// Its record: it concerns the documents of that one's partition.
    pub id: RecordId,
    /// The one namespace that it concerns; `None`: everything the source watched.
    pub namespace: Option<Namespace>,
    /// What is missing happened after this time …
    pub after: Timestamp,
    /// … and no later than this one.
    pub until: Timestamp,
}

/// What a `gap` record without a document key says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GapRecord {
    /// History is missing.
    Opens(Gap),
    /// The present has been compared with what is known from before a gap: what differed has records of its own.
    Closes {
        /// The gap's record.
        gap: RecordId,
        /// Namespaces of which it could not be told: their documents stay unknown.
        undecided: Vec<Namespace>,
    },
}

impl GapRecord {
    /// Reads a `gap` record.
    pub fn of(record: &Record<'_>) -> Result<GapRecord> {
        let detail = record.part("detail").unwrap_or(Doc::EMPTY);
        if let Some(gap) = detail.get("closes").and_then(|e| e.as_i64()) {
            let list = detail.get("undecided").and_then(|e| e.as_doc()).unwrap_or(Doc::EMPTY);
            let undecided = list.elements().map_while(|e| namespace(e.ok()?.as_doc()?)).collect();
            return Ok(GapRecord::Closes { gap: RecordId { seq: gap, ..record.record_id()? }, undecided });
        }
        let (after, until) = window(detail).unwrap_or((record.cluster_time()?, record.cluster_time()?));
        Ok(GapRecord::Opens(Gap { id: record.record_id()?, namespace: Namespace::of(record), after, until }))
    }
}

/// What a comparison found out about one document: `found` in a record's `detail`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    /// It was not there before the gap.
    Inserted,
    /// It is not what it was before the gap.
    Changed,
    /// It was there before the gap, and is not any more.
    Deleted,
    /// What it was before the gap can't be told.
    Unknown,
}

impl Finding {
    /// As it is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Finding::Inserted => "inserted",
            Finding::Changed => "changed",
            Finding::Deleted => "deleted",
            Finding::Unknown => "unknown",
        }
    }
}

/// A finding, and when what was found has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// What was found.
    pub finding: Finding,
    /// The seq of the gap, in the record's own stream, behind which the comparison was made.
    pub gap: i64,
    /// It happened after this time …
    pub after: Timestamp,
    /// … and no later than this one.
    pub until: Timestamp,
}

impl Found {
    /// What a comparison found, where the record was made by one.
    pub fn of(record: &Record<'_>) -> Option<Found> {
        if !matches!(record.op(), "snapshot" | "delete") {
            return None;
        }
        let detail = record.part("detail")?;
        let found = detail.get("found")?.as_str()?;
        let findings = [Finding::Inserted, Finding::Changed, Finding::Deleted, Finding::Unknown];
        let finding = findings.into_iter().find(|finding| finding.as_str() == found)?;
        let (after, until) = window(detail)?;
        Some(Found { finding, gap: detail.get("gap")?.as_i64()?, after, until })
    }

    /// Whether it is known when it happened: at one moment, as when another collection takes a watched name.
    pub fn at_one_moment(&self) -> bool {
        self.after >= self.until
    }
}

/// All gaps of a source there have been, and what comparisons have told of them.
#[derive(Debug, Clone, Default)]
pub(super) struct PastGaps {
    gaps: Vec<PastGap>,
    /// The partitions of which something had expired: a comparison knows only of what was still there.
    expired: BTreeSet<Option<u32>>,
}

#[derive(Debug, Clone)]
struct PastGap {
    gap: Gap,
    /// Once it is closed by a comparison that knew everything: the namespaces of which it could not tell.
    undecided: Option<Vec<Namespace>>,
}

impl PastGap {
    fn concerns(&self, namespace: &Namespace, partition: Option<u32>) -> bool {
        let Gap { id, namespace: only, .. } = &self.gap;
        id.partition == partition && only.as_ref().is_none_or(|only| only == namespace)
    }

    /// Whether each document that was there before it, and is not what it was, has a record that says so.
    fn is_told(&self, namespace: &Namespace) -> bool {
        self.undecided.as_ref().is_some_and(|undecided| !undecided.contains(namespace))
    }
}

impl PastGaps {
    pub(super) fn open(&mut self, gap: Gap) {
        self.gaps.push(PastGap { gap, undecided: None });
    }

    pub(super) fn close(&mut self, gap: RecordId, undecided: Vec<Namespace>) {
        let is_known = !self.expired.contains(&gap.partition);
        if let Some(past) = self.gaps.iter_mut().find(|past| past.gap.id == gap && is_known) {
            past.undecided = Some(undecided);
        }
    }

    /// Notes what a policy record says of what has expired.
    pub(super) fn note_expired(&mut self, record: &Record<'_>) -> Result<()> {
        if record.part("detail").is_some_and(|detail| detail.get("expired").is_some()) {
            self.expired.insert(record.record_id()?.partition);
        }
        Ok(())
    }

    /// The gap in which a moment lies, after all changes of the seconds before `at`, if it can be of a namespace's documents whose
    /// records are in this partition.
    pub(super) fn around(&self, namespace: &Namespace, partition: Option<u32>, at: i64) -> Option<RecordId> {
        let mut concerned = self.gaps.iter().filter(|past| past.concerns(namespace, partition));
        concerned.find(|past| is_inside(past.gap.after, past.gap.until, at)).map(|past| past.gap.id)
    }

    /// The gap behind a moment and before a document's first record in which the document may have ended: what its record tells of the
    /// time before is not told of that moment.
    pub(super) fn between(&self, namespace: &Namespace, at: i64, first: RecordId) -> Option<RecordId> {
        let concerned = self.gaps.iter().filter(|past| past.concerns(namespace, first.partition));
        let mut open = concerned.filter(|past| !past.is_told(namespace));
        let is_between = |gap: &Gap| at <= i64::from(gap.until.time) && gap.id.seq < first.seq;
        open.find(|past| is_between(&past.gap)).map(|past| past.gap.id)
    }
}

/// Whether a state that is asked for, after all changes of the seconds before `at`, is that of a moment in a stretch of which
/// history is missing: some of what happened in it counts and some may not.
pub fn is_inside(after: Timestamp, until: Timestamp, at: i64) -> bool {
    after < until && i64::from(after.time) < at && at <= i64::from(until.time)
}

/// Reads a record's gap, whether it opens one or was found behind one: its seq and window.
pub(super) fn window_of(record: &Record<'_>) -> Result<Option<(i64, Timestamp, Timestamp)>> {
    if let Some(found) = Found::of(record) {
        return Ok(Some((found.gap, found.after, found.until)));
    }
    if record.op() != "gap" {
        return Ok(None);
    }
    Ok(match GapRecord::of(record)? {
        GapRecord::Opens(gap) => Some((gap.id.seq, gap.after, gap.until)),
        GapRecord::Closes { .. } => None,
    })
}

fn window(detail: Doc<'_>) -> Option<(Timestamp, Timestamp)> {
    let time = |name| {
        let (time, increment) = detail.get(name)?.as_timestamp()?;
        Some(Timestamp { time, increment })
    };
    Some((time("after")?, time("until")?))
}

fn namespace(doc: Doc<'_>) -> Option<Namespace> {
    let text = |name| doc.get(name).filter(|e| e.kind() == kind::STRING)?.as_str().map(str::to_owned);
    Some(Namespace { db: text("db")?, coll: text("coll")? })
}
