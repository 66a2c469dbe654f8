//! The records of one segment, against what its manifest says. The file's digest is known to be right.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::finding::{Code, Finding};
use crate::archive::day::Day;
use crate::archive::manifest::{ClusterTime, Manifest};
use crate::archive::merkle::Tree;
use crate::archive::paths::{self, Key};
use crate::archive::segment::{self, Audited, Flaw, Footer, MAX_ROWS};
use crate::history::gaps::Found;
use crate::history::stream::is_timed;
use crate::record::{Record, RecordId, Sha, hex};

/// MongoDB nests at most 180 to 200 levels, and a record adds a few.
const MAX_DEPTH: usize = 256;
/// More findings in one segment say nothing new.
const MOST_FINDINGS: usize = 20;

/// What was seen of a segment's records.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// How many records there are.
    pub(super) records: u64,
    /// What is wrong, at most [`MOST_FINDINGS`] and how many more.
    pub(super) findings: Vec<Finding>,
    /// The first and the last time, in seq order, of records that stand in the order of time.
    pub(super) span: Option<(ClusterTime, ClusterTime)>,
}

/// Decodes every row, and compares it with its record. CPU-bound; holds a few records and one digest per record.
pub(super) fn check(manifest: &Manifest, file: Bytes) -> Contents {
    let mut found = Findings { file: &manifest.segment, kept: Vec::new(), more: 0 };
    let mut sums = Sums::default();
    if let Err(error) = read(manifest, file, &mut sums, &mut found) {
        found.add(Code::SegmentUnreadable, None, format!("it can't be decoded: {}", error.explain()));
        return Contents { records: sums.rows, findings: found.all(), span: None };
    }
    let span = sums.check_times(manifest, &mut found);
    sums.compare(manifest, &mut found);
    Contents { records: sums.rows, findings: found.all(), span }
}

fn read(
    manifest: &Manifest,
    file: Bytes,
    sums: &mut Sums,
    found: &mut Findings<'_>,
) -> crate::error::Result<()> {
    let audit = segment::audit(file)?;
    check_footer(manifest, audit.footer(), found);
    // As many as the footer names, and no more than a segment can hold: whatever the manifest says.
    let slots = usize::try_from(manifest.rows).unwrap_or(usize::MAX).min(MAX_ROWS);
    sums.slots = vec![None; slots];
    for row in audit {
        sums.add(row?, manifest, found);
    }
    Ok(())
}

fn check_footer(manifest: &Manifest, footer: &Footer, found: &mut Findings<'_>) {
    let expected = Footer {
        stream: manifest.stream(),
        first_seq: manifest.first_seq,
        end_seq: manifest.end_seq,
        merkle_root: manifest.merkle_root.clone(),
    };
    if *footer != expected {
        found.add(
            Code::SegmentFooter,
            None,
            "its footer names another stream, seqs or digest than its manifest",
        );
    }
}

/// Findings about one file.
struct Findings<'a> {
    file: &'a str,
    kept: Vec<Finding>,
    more: usize,
}

impl Findings<'_> {
    fn add(&mut self, code: Code, seq: Option<i64>, reason: impl Into<String>) {
        match self.kept.len() < MOST_FINDINGS {
            true => self.kept.push(Finding::new(code, self.file, seq, reason)),
            false => self.more += 1,
        }
    }

    fn all(mut self) -> Vec<Finding> {
        if let Some(code) = self.kept.last().map(|last| last.code).filter(|_| self.more > 0) {
            let more = format!("{} more findings in this file", self.more);
            self.kept.push(Finding::new(code, self.file, None, more));
        }
        self.kept
    }
}

/// One record's place in its segment.
#[derive(Debug, Clone, Copy)]
struct Slot {
    leaf: Sha,
    /// Its time, where it stands in the order of time.
    time: Option<ClusterTime>,
}

/// What the rows add up to.
#[derive(Default)]
struct Sums {
    rows: u64,
    bson_bytes: u64,
    first: Option<ClusterTime>,
    last: Option<ClusterTime>,
    ops: BTreeMap<String, u64>,
    /// By seq.
    slots: Vec<Option<Slot>>,
}

impl Sums {
    fn add(&mut self, row: Audited, manifest: &Manifest, found: &mut Findings<'_>) {
        let seq = Some(row.seq);
        for flaw in &row.flaws {
            let code = match flaw {
                Flaw::Column(_) => Code::RowColumn,
                Flaw::Order => Code::RowOrder,
                Flaw::Bloom | Flaw::Statistics(_) => Code::RowIndex,
            };
            found.add(code, seq, flaw.to_string());
        }
        let taken = row.record.and_then(|bytes| self.take(&bytes, manifest, found));
        if let Err(error) = taken {
            found.add(Code::RowUnreadable, seq, format!("no record comes of it: {}", error.explain()));
        }
    }

    fn take(
        &mut self,
        bytes: &[u8],
        manifest: &Manifest,
        found: &mut Findings<'_>,
    ) -> crate::error::Result<()> {
        let whole = bson_walker::validate(bytes, MAX_DEPTH);
        whole.map_err(|e| crate::error::Error::corrupt("a record is not valid BSON").because(e))?;
        let record = Record::new(bytes)?;
        let RecordId { partition, seq } = record.record_id()?;
        let time = record.cluster_time()?;
        let time = ClusterTime { t: time.time, i: time.increment };
        self.rows += 1;
        self.bson_bytes += bytes.len() as u64;
        *self.ops.entry(record.op().to_owned()).or_default() += 1;
        self.first = Some(self.first.map_or(time, |first| first.min(time)));
        self.last = Some(self.last.map_or(time, |last| last.max(time)));
        let at = seq.checked_sub(manifest.first_seq).and_then(|at| usize::try_from(at).ok());
        let slot = at.and_then(|at| self.slots.get_mut(at));
        match slot.filter(|slot| slot.is_none()) {
            Some(slot) => *slot = Some(Slot { leaf: record.leaf(), time: in_order(&record).then_some(time) }),
            None => found.add(Code::RowSeq, Some(seq), "this seq is there twice, or is not of this segment"),
        }
        if partition != manifest.partition {
            found.add(Code::RowSeq, Some(seq), "it is a record of another partition");
        }
        if !is_of_day(&manifest.segment, time) {
            found.add(Code::RowDay, Some(seq), "its cluster time is not of the segment's day");
        }
        Ok(())
    }

    /// Goes through the records in seq order, and gives the first and the last time.
    fn check_times(
        &self,
        manifest: &Manifest,
        found: &mut Findings<'_>,
    ) -> Option<(ClusterTime, ClusterTime)> {
        let mut span: Option<(ClusterTime, ClusterTime)> = None;
        for (seq, slot) in (manifest.first_seq..).zip(&self.slots) {
            let Some(time) = slot.and_then(|slot| slot.time) else { continue };
            if span.is_some_and(|(_, last)| time < last) {
                found.add(Code::RowTime, Some(seq), STEPS_BACK);
            }
            span = Some(span.map_or((time, time), |(first, last)| (first, last.max(time))));
        }
        span
    }

    fn compare(&self, manifest: &Manifest, found: &mut Findings<'_>) {
        let leaves: Option<Tree> = self.slots.iter().map(|slot| Some(slot.as_ref()?.leaf)).collect();
        let missing = (manifest.first_seq..).zip(&self.slots).find(|(_, slot)| slot.is_none());
        if let Some((seq, _)) = missing {
            found.add(Code::RowSeq, Some(seq), "no row has this seq");
        }
        let mut same = |is: bool, what: &str| {
            if !is {
                let reason = format!("{what} not what its manifest says");
                found.add(Code::SegmentSummary, None, reason);
            }
        };
        if let Some(tree) = leaves {
            same(hex(&tree.root()) == manifest.merkle_root, "the digest over its records is");
        }
        same(self.rows == manifest.rows, "the number of its records is");
        same(self.bson_bytes == manifest.bson_bytes, "the size of its records is");
        same(self.ops == manifest.ops, "the operations of its records are");
        same(self.first == Some(manifest.first_cluster_time), "the first cluster time is");
        same(self.last == Some(manifest.last_cluster_time), "the last cluster time is");
    }
}

/// Said of a record that is out of the order of time.
pub(super) const STEPS_BACK: &str = "it happened before a record of a lower seq, which only records that were read beside the stream, or released late, may";

/// Whether a segment with this key may hold records of this time.
pub(super) fn is_of_day(key: &str, time: ClusterTime) -> bool {
    matches!(paths::parse(key), Some(Key::Segment { day, .. }) if day == Day::of_seconds(time.t))
}

/// Whether the record stands where the change stream had it: none of these is earlier than one before it. Others are true as of a
/// time at which they were read, or at which somebody did something, or come late.
fn in_order(record: &Record<'_>) -> bool {
    is_timed(record) && record.op() != "gap" && Found::of(record).is_none() && record.late().is_none()
}
