//! How far a baseline has been read: part of the checkpoint, advanced together with the documents that are appended.
//!
//! Collections are read in the order of a plan that is stored once, so that neither it nor what is done is written again
//! with every batch: only what is open is. Does not know how documents are read.

use std::time::Duration;

use bson::spec::BinarySubtype;
use bson::{Binary, DateTime, Uuid};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Error, Result};

/// One collection of a baseline's plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned {
    /// The database.
    pub db: String,
    /// Its name when the plan was made; what is read is the collection with this `uuid`, whatever its name is by then.
    pub coll: String,
    /// Its identity; `None` where the server does not tell.
    pub uuid: Option<Uuid>,
    /// Whether it is capped: MongoDB before 8.0 does not read such ones as of a time.
    pub capped: bool,
    /// How many documents it had, about.
    pub documents: i64,
}

/// How far the baseline has been read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SnapshotProgress {
    /// The plan, which `archiver.snapshots` holds.
    pub plan: String,
    /// How many collections the plan has.
    pub collections: u32,
    /// The first of them, in the plan's order, are done or open.
    pub begun: u32,
    /// Those that are being read.
    pub open: Vec<OpenCollection>,
    /// Documents read, of all collections.
    pub documents: i64,
    /// Documents there were when the plan was made, about.
    pub estimated: i64,
    /// When the plan was made.
    pub started: DateTime,
    /// When the present reader began, and how many documents had been read by then.
    pub since: (DateTime, i64),
    /// When the last batch was taken.
    pub until: DateTime,
}

/// A collection that is being read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenCollection {
    /// Its number in the plan, from 0.
    pub number: u32,
    /// What is left of it.
    pub ranges: Vec<RangeProgress>,
}

/// A stretch of a collection's `_id` index that has not been read to its end.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangeProgress {
    /// Where it begins, inclusive; `None`: at the beginning of the index. No two ranges of a collection begin alike.
    pub min: Option<IdKey>,
    /// Where it ends, exclusive; `None`: at the end of the index.
    pub max: Option<IdKey>,
    /// The last document that was read.
    pub last: Option<IdKey>,
}

/// A place in an `_id` index: the raw BSON of `{_id: …}`. Stored as binary data, so that no store and no library looks into
/// it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdKey(pub Vec<u8>);

impl Serialize for IdKey {
    fn serialize<S: Serializer>(&self, s: S) -> std::result::Result<S::Ok, S::Error> {
        Binary { subtype: BinarySubtype::Generic, bytes: self.0.clone() }.serialize(s)
    }
}

impl<'de> Deserialize<'de> for IdKey {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        Ok(IdKey(Binary::deserialize(d)?.bytes))
    }
}

/// One step of a baseline, of one of its collections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The collection's number in the plan.
    pub number: u32,
    /// What was done.
    pub did: Did,
}

/// What a step did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Did {
    /// Cut a collection of which nothing had been read at these places, which rise.
    Split(Vec<IdKey>),
    /// Read on in the range that begins at `min`.
    Read {
        /// See [`RangeProgress::min`].
        min: Option<IdKey>,
        /// The last document read.
        last: Option<IdKey>,
        /// How many were read.
        documents: i64,
        /// Whether that was all of the range.
        done: bool,
    },
}

impl OpenCollection {
    /// A collection of which nothing has been read.
    pub fn unread(number: u32) -> Self {
        OpenCollection { number, ranges: vec![RangeProgress::default()] }
    }

    /// Whether nothing of it has been read, nor has it been cut.
    pub fn is_unread(&self) -> bool {
        self.ranges == [RangeProgress::default()]
    }
}

impl RangeProgress {
    /// A collection that nothing was read of, cut at these places.
    pub fn cut(bounds: &[IdKey]) -> Vec<RangeProgress> {
        let begins = std::iter::once(None).chain(bounds.iter().cloned().map(Some));
        let ends = bounds.iter().cloned().map(Some).chain([None]);
        begins.zip(ends).map(|(min, max)| RangeProgress { min, max, last: None }).collect()
    }
}

impl SnapshotProgress {
    /// Nothing of this plan has been read.
    pub fn new(plan: String, collections: u32, estimated: i64, now: DateTime) -> Self {
        SnapshotProgress {
            plan,
            collections,
            begun: 0,
            open: Vec::new(),
            documents: 0,
            estimated,
            started: now,
            since: (now, 0),
            until: now,
        }
    }

    /// Whether everything has been read.
    pub fn is_complete(&self) -> bool {
        self.open.is_empty() && self.begun == self.collections
    }

    /// How many collections are done.
    pub fn done(&self) -> u32 {
        self.begun - self.open.len() as u32
    }

    /// The collections that are left, in the plan's order.
    pub fn left(&self) -> impl Iterator<Item = OpenCollection> + use<> {
        let unread = (self.begun..self.collections).map(OpenCollection::unread);
        self.open.clone().into_iter().chain(unread)
    }

    /// The number of the first collection that is left.
    pub fn first_left(&self) -> u32 {
        self.open.iter().map(|open| open.number).min().unwrap_or(self.begun)
    }

    /// Goes on with another baseline, whose collections that were left, as [`Self::left`] gives them, come first in this plan.
    pub fn take_over(&mut self, other: &SnapshotProgress, left: Vec<OpenCollection>) {
        let open = left.into_iter().zip(0..).take(other.open.len());
        self.open = open.map(|(open, number)| OpenCollection { number, ..open }).collect();
        self.begun = self.open.len() as u32;
        self.documents = other.documents;
        self.estimated += other.estimated;
        self.started = other.started;
        self.resume(self.until);
    }

    /// Notes that reading begins, or goes on after a pause.
    pub fn resume(&mut self, now: DateTime) {
        self.since = (now, self.documents);
        self.until = now;
    }

    /// Takes a step in. Steps of one range come in order; those of different ones come as they like.
    pub fn advance(&mut self, step: Step, now: DateTime) -> Result<()> {
        let lost = || Error::internal("the baseline's progress does not know what was read");
        // Collections are begun in the plan's order, but by several readers: one before this may have nothing to tell yet.
        for number in self.begun..=step.number {
            self.open.push(OpenCollection::unread(number));
            self.begun = number + 1;
        }
        let at = self.open.iter().position(|open| open.number == step.number).ok_or_else(lost)?;
        let open = &mut self.open[at];
        match step.did {
            Did::Split(bounds) => open.ranges = RangeProgress::cut(&bounds),
            Did::Read { min, last, documents, done } => {
                let at = open.ranges.iter().position(|range| range.min == min).ok_or_else(lost)?;
                open.ranges[at].last = last;
                if done {
                    open.ranges.remove(at);
                }
                self.documents += documents;
            }
        }
        if open.ranges.is_empty() {
            self.open.remove(at);
        }
        self.until = now;
        Ok(())
    }

    /// Documents a second since the present reader began; `None` before it has read any.
    pub fn per_second(&self) -> Option<f64> {
        let (since, before) = self.since;
        let seconds = (self.until.timestamp_millis() - since.timestamp_millis()) as f64 / 1000.0;
        let read = (self.documents - before) as f64;
        (seconds > 0.0 && read > 0.0).then(|| read / seconds)
    }

    /// How long it takes to read the rest, as far as the rate and the estimate tell.
    pub fn time_left(&self) -> Option<Duration> {
        let left = (self.estimated - self.documents).max(0) as f64;
        self.per_second().map(|rate| Duration::from_secs_f64((left / rate).min(1e9)))
    }

    /// How much of the estimate has been read; never 100 while something is left.
    pub fn percent(&self) -> u8 {
        let percent = self.documents.max(0).saturating_mul(100) / self.estimated.max(1);
        percent.clamp(0, if self.is_complete() { 100 } else { 99 }) as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> Option<IdKey> {
        Some(IdKey(vec![n]))
    }

    fn planned(collections: u32) -> SnapshotProgress {
        SnapshotProgress::new("p".into(), collections, 100 * i64::from(collections), DateTime::from_millis(0))
    }

    fn read(number: u32, min: Option<IdKey>, last: Option<IdKey>, done: bool) -> Step {
        Step { number, did: Did::Read { min, last, documents: 10, done } }
    }

    #[test]
    fn a_collection_that_was_begun_out_of_order_leaves_those_before_it_open() {
        let mut progress = planned(3);
        progress.advance(read(1, None, id(5), true), DateTime::from_millis(1)).unwrap();
        let left: Vec<_> = progress.left().map(|open| open.number).collect();
        assert_eq!((left, progress.done()), (vec![0, 2], 1));
        for number in [2, 0] {
            assert!(!progress.is_complete());
            progress.advance(read(number, None, None, true), DateTime::from_millis(1)).unwrap();
        }
        assert!(progress.is_complete());
        assert_eq!((progress.done(), progress.documents), (3, 30));
    }

    #[test]
    fn ranges_go_on_behind_their_last_document_and_are_forgotten_when_done() {
        let mut progress = planned(1);
        let bounds = [id(3), id(6)].map(Option::unwrap).to_vec();
        progress.advance(Step { number: 0, did: Did::Split(bounds) }, DateTime::from_millis(1)).unwrap();
        progress.advance(read(0, id(3), id(4), false), DateTime::from_millis(1)).unwrap();
        progress.advance(read(0, None, id(2), true), DateTime::from_millis(1)).unwrap();
        let range = |min, max, last| RangeProgress { min, max, last };
        assert_eq!(progress.open[0].ranges, [range(id(3), id(6), id(4)), range(id(6), None, None)]);
        assert!(progress.advance(read(0, None, None, true), DateTime::from_millis(1)).is_err());
    }

    #[test]
    fn the_rate_counts_from_when_reading_went_on() {
        let mut progress = planned(2);
        assert_eq!((progress.per_second(), progress.time_left(), progress.percent()), (None, None, 0));
        progress.advance(read(0, None, id(1), false), DateTime::from_millis(500)).unwrap();
        assert_eq!(progress.per_second(), Some(20.0));
        progress.resume(DateTime::from_millis(60_000));
        progress.advance(read(0, None, id(2), false), DateTime::from_millis(62_000)).unwrap();
        assert_eq!(progress.per_second(), Some(5.0));
        assert_eq!((progress.time_left(), progress.percent()), (Some(Duration::from_secs(36)), 10));
    }

    #[test]
    fn a_baseline_with_more_collections_goes_on_where_the_other_was() {
        let mut other = planned(4);
        other.advance(read(2, None, id(5), false), DateTime::from_millis(1)).unwrap();
        other.advance(read(0, None, id(1), true), DateTime::from_millis(1)).unwrap();
        let left: Vec<_> = other.left().collect();
        assert_eq!(left.iter().map(|open| open.number).collect::<Vec<_>>(), [1, 2, 3]);
        let mut progress = SnapshotProgress::new("q".into(), 5, 200, DateTime::from_millis(9));
        progress.take_over(&other, left);
        assert_eq!((progress.begun, progress.documents, progress.estimated), (2, 20, 600));
        let left: Vec<_> = progress.left().map(|open| (open.number, open.ranges[0].last.clone())).collect();
        assert_eq!(left, [(0, None), (1, id(5)), (2, None), (3, None), (4, None)]);
    }

    #[test]
    fn what_is_stored_is_read_back() {
        let mut progress = planned(2);
        progress.advance(read(0, None, id(1), false), DateTime::from_millis(500)).unwrap();
        let stored = bson::serialize_to_bson(&progress).unwrap();
        assert_eq!(bson::deserialize_from_bson::<SnapshotProgress>(stored).unwrap(), progress);
    }
}
