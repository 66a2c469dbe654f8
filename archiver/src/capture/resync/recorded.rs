//! What history knows of a source's documents, kept up with the log while they are compared; in slices, so that it fits
//! the memory it may take.

use std::collections::{BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use bson::Timestamp;

use crate::capture::lifecycle::LIFECYCLE;
use crate::checkpoint::Resync;
use crate::error::{Error, Result};
use crate::history::detail::{is_from_watched, target};
use crate::history::id::Id;
use crate::history::policies::Policies;
use crate::history::released::Placed;
use crate::history::states::{Identity, States};
use crate::history::stream::is_timed;
use crate::history::{History, Namespace};
use crate::record::Record;
use crate::stream_id::StreamId;

/// How many records are taken in between two looks at the size.
const SIZE_CHECK: usize = 10_000;

/// A part of all documents, by the hash of their recorded `_id`: those of one slice stay in it when their collection is
/// renamed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slice {
    rest: u64,
    of: u64,
}

impl Slice {
    pub(super) const ALL: Slice = Slice { rest: 0, of: 1 };

    /// Two slices with the same documents.
    pub(super) fn halves(self) -> [Slice; 2] {
        let of = self.of * 2;
        [Slice { of, ..self }, Slice { rest: self.rest + self.of, of }]
    }

    pub(super) fn has(self, id: &Id) -> bool {
        let mut hasher = DefaultHasher::new();
        id.hash(&mut hasher);
        hasher.finish() % self.of == self.rest
    }
}

/// The states of one slice.
pub(super) struct Recorded {
    pub(super) slice: Slice,
    pub(super) states: States,
    records: Placed,
    /// What happened to collections, where another stream records it.
    collections: VecDeque<Vec<u8>>,
    /// The gap's time: what happens to the collections that it concerns is followed from there on.
    until: Timestamp,
    /// The namespaces that the gap concerns, under the names they have by now; `None`: all.
    scope: Option<BTreeSet<Namespace>>,
    /// Whether a collection has got another name since the last time this was asked.
    renamed: bool,
    budget: usize,
}

impl Recorded {
    pub(super) async fn new(
        history: &History,
        stream: &StreamId,
        resync: &Resync,
        slice: Slice,
        budget: usize,
    ) -> Result<Self> {
        let scope = resync.namespace.clone().map(|(db, coll)| BTreeSet::from([Namespace { db, coll }]));
        let collections = match stream.partition {
            None | Some(0) => VecDeque::new(),
            Some(_) => of_collections(history, stream).await?,
        };
        Ok(Recorded {
            slice,
            collections,
            states: States::new(Policies::default(), history.salts(&stream.source).await?),
            records: history.placed_records(stream).await?,
            until: resync.until,
            scope,
            renamed: false,
            budget,
        })
    }

    /// Takes in the records before `end`. False where the states outgrow what they may take; they are then of no use.
    pub(super) async fn read_to(&mut self, end: i64) -> Result<bool> {
        let mut unchecked = 0;
        while let Some(record) = self.records.next_before(end).await? {
            let record = Record::new(&record)?;
            if is_timed(&record) {
                self.take_collections(Some(record.cluster_time()?))?;
            }
            self.take(&record)?;
            unchecked += 1;
            if unchecked > SIZE_CHECK.max(self.states.len()) {
                unchecked = 0;
                if self.states.size() > self.budget {
                    return Ok(false);
                }
            }
        }
        if self.records.next_seq() < end {
            return Err(Error::unavailable("the audit log ends before its checkpoint"));
        }
        self.take_collections(None)?;
        Ok(self.states.size() <= self.budget)
    }

    /// Takes in what happened to collections up to this time; without one, all of it.
    fn take_collections(&mut self, until: Option<Timestamp>) -> Result<()> {
        while let Some(record) = self.collections.pop_front() {
            let view = Record::new(&record)?;
            if until.is_some_and(|until| view.cluster_time().is_ok_and(|time| time > until)) {
                self.collections.push_front(record);
                break;
            }
            self.take(&view)?;
        }
        Ok(())
    }

    fn take(&mut self, record: &Record<'_>) -> Result<()> {
        let Some(id) = record.id() else {
            self.states.advance(record)?;
            if matches!(record.op(), "drop" | "dropDatabase" | "rename") {
                self.states.forget_absent();
            }
            return self.follow(record);
        };
        if self.slice.has(&Id::of(&id)) {
            self.states.advance(record)?;
            if let Some(identity) = Identity::of(record) {
                self.states.forget_if_absent(&identity);
            }
        }
        Ok(())
    }

    /// Follows the collections that the gap concerns when they are renamed.
    fn follow(&mut self, record: &Record<'_>) -> Result<()> {
        let (true, Some(to)) = (record.op() == "rename", target(record)) else { return Ok(()) };
        self.renamed = true;
        if let (Some(scope), Some(from)) = (&mut self.scope, Namespace::of(record))
            && record.cluster_time()? >= self.until
            && is_from_watched(record)
            && scope.contains(&from)
        {
            scope.insert(to);
        }
        Ok(())
    }

    /// Whether a collection has been renamed since this was last asked: what was read of it may be of another one.
    pub(super) fn take_renamed(&mut self) -> bool {
        std::mem::take(&mut self.renamed)
    }

    pub(super) fn is_renamed(&self) -> bool {
        self.renamed
    }

    /// The namespaces that the gap concerns; `None`: all.
    pub(super) fn scope(&self) -> Option<&BTreeSet<Namespace>> {
        self.scope.as_ref()
    }
}

/// The first partition's records of what happened to collections, oldest first: it has them for all partitions.
async fn of_collections(history: &History, stream: &StreamId) -> Result<VecDeque<Vec<u8>>> {
    let wide = history.wide(&stream.source).await?.into_iter();
    let of_first = |record: &Record<'_>| record.record_id().is_ok_and(|id| id.partition == Some(0));
    let of_collection = |record: &Record<'_>| record.op() == "quarantine" || LIFECYCLE.contains(&record.op());
    let wanted = |bytes: &Vec<u8>| Record::new(bytes).is_ok_and(|r| of_first(&r) && of_collection(&r));
    Ok(wide.filter(wanted).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_document_is_in_exactly_one_slice_however_often_they_are_halved() {
        let mut slices = vec![Slice::ALL];
        for _ in 0..4 {
            for n in 0..500_i32 {
                let id = Id(0x10, n.to_le_bytes().to_vec());
                let in_it: Vec<_> = slices.iter().filter(|slice| slice.has(&id)).collect();
                assert_eq!(in_it.len(), 1);
                let long = Id(0x12, i64::from(n).to_le_bytes().to_vec());
                assert!(in_it[0].has(&long), "one document, whatever the type of its number");
            }
            let last = slices.remove(0);
            slices.extend(last.halves());
        }
    }
}
