//! What `gap` records say: that a stretch of history is missing, or that it has been dealt with; and what the
//! comparison of the present with the recorded found behind one.

use bson::Timestamp;
use bson_walker::{Doc, kind};

use super::Namespace;
use super::detail::is_whole;
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
        /// Whether everything was known from before the gap: what was there, and is not what it was, has a record.
        whole: bool,
    },
}

impl GapRecord {
    /// Reads a `gap` record.
    pub fn of(record: &Record<'_>) -> Result<GapRecord> {
        let detail = record.part("detail").unwrap_or(Doc::EMPTY);
        if let Some(gap) = detail.get("closes").and_then(|e| e.as_i64()) {
            let list = detail.get("undecided").and_then(|e| e.as_doc()).unwrap_or(Doc::EMPTY);
            let undecided = list.elements().map_while(|e| namespace(e.ok()?.as_doc()?)).collect();
            let whole = is_whole(record);
            let gap = RecordId { seq: gap, ..record.record_id()? };
            return Ok(GapRecord::Closes { gap, undecided, whole });
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
pub(super) struct PastGaps(Vec<PastGap>);

#[derive(Debug, Clone)]
struct PastGap {
    gap: Gap,
    /// Once it is closed: the namespaces of which the comparison could not tell.
    undecided: Option<Vec<Namespace>>,
    /// Whether the comparison knew everything from before.
    whole: bool,
}

impl PastGap {
    fn concerns(&self, namespace: &Namespace) -> bool {
        self.gap.namespace.as_ref().is_none_or(|only| only == namespace)
    }

    /// Whether each document that was there before it, and is not what it was, has a record that says so.
    fn is_told(&self, namespace: &Namespace) -> bool {
        self.whole && !self.is_open(namespace)
    }

    /// Whether nobody has compared what is known with the present.
    fn is_open(&self, namespace: &Namespace) -> bool {
        self.undecided.as_ref().is_none_or(|undecided| undecided.contains(namespace))
    }
}

impl PastGaps {
    pub(super) fn open(&mut self, gap: Gap) {
        self.0.push(PastGap { gap, undecided: None, whole: false });
    }

    /// Notes that a comparison is complete; `whole`: that it knew everything from before.
    pub(super) fn close(&mut self, gap: RecordId, undecided: Vec<Namespace>, whole: bool) {
        if let Some(past) = self.0.iter_mut().find(|past| past.gap.id == gap) {
            (past.undecided, past.whole) = (Some(undecided), whole);
        }
    }

    /// The gap in which a moment lies, after all changes of the seconds before `at`, if it can be of a namespace's documents whose
    /// records are in this partition.
    pub(super) fn around(&self, namespace: &Namespace, partition: Option<u32>, at: i64) -> Option<RecordId> {
        let mut concerned =
            self.0.iter().filter(|past| past.concerns(namespace) && past.gap.id.partition == partition);
        concerned.find(|past| is_inside(past.gap.after, past.gap.until, at)).map(|past| past.gap.id)
    }

    /// The gap behind a moment and before a document's first record, at this time, in which the document may have ended: what its
    /// record tells of the time before is not told of that moment. `partition`: in which its records are.
    pub(super) fn between(
        &self,
        namespace: &Namespace,
        partition: Option<u32>,
        at: i64,
        first: (Timestamp, RecordId),
    ) -> Option<RecordId> {
        let (time, id) = first;
        let is_before = |gap: &Gap| match gap.id.partition == id.partition {
            true => gap.id.seq < id.seq,
            false => gap.until < time,
        };
        let mut found = self.0.iter().filter(|past| {
            let gap = &past.gap;
            past.concerns(namespace)
                && gap.id.partition == partition
                && at <= i64::from(gap.until.time)
                && is_before(gap)
                && !past.is_told(namespace)
        });
        found.next().map(|past| past.gap.id)
    }

    /// Whether there is one that ends at a time or later, behind which nobody has compared what is known with the present.
    pub(super) fn is_open_since(&self, namespace: &Namespace, time: Timestamp) -> bool {
        self.0
            .iter()
            .any(|past| past.concerns(namespace) && past.gap.until >= time && past.is_open(namespace))
    }

    /// Whether there is one that ends at a time or later, and of which not everything is told.
    pub(super) fn is_untold_since(&self, namespace: &Namespace, time: Option<Timestamp>) -> bool {
        self.0.iter().any(|past| {
            let is_behind = time.is_none_or(|time| past.gap.until >= time);
            past.concerns(namespace) && is_behind && !past.is_told(namespace)
        })
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
