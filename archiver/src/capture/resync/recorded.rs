//! What history knows of a source's documents, kept up with the log while they are compared; in slices, so that it fits
//! the memory it may take.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::checkpoint::Resync;
use crate::error::{Error, Result};
use crate::history::states::{Identity, States, is_from_watched, target};
use crate::history::stream::Records;
use crate::history::{History, Namespace};
use crate::record::Record;

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

    pub(super) fn has(self, kind: u8, id: &[u8]) -> bool {
        let mut hasher = DefaultHasher::new();
        (kind, id).hash(&mut hasher);
        hasher.finish() % self.of == self.rest
    }
}

/// The states of one slice.
pub(super) struct Recorded {
    pub(super) slice: Slice,
    pub(super) states: States,
    records: Records,
    gap: i64,
    /// The namespaces that the gap concerns, under the names they have by now; `None`: all.
    scope: Option<BTreeSet<Namespace>>,
    /// Whether a collection has got another name since the last time this was asked.
    renamed: bool,
    budget: usize,
}

impl Recorded {
    pub(super) fn new(history: &History, source: &str, resync: &Resync, slice: Slice, budget: usize) -> Self {
        let scope = resync.namespace.clone().map(|(db, coll)| BTreeSet::from([Namespace { db, coll }]));
        Recorded {
            slice,
            states: States::default(),
            records: history.records(source, 1),
            gap: resync.gap,
            scope,
            renamed: false,
            budget,
        }
    }

    /// Takes in the records before `end`. False where the states outgrow what they may take; they are then of no use.
    pub(super) async fn read_to(&mut self, end: i64) -> Result<bool> {
        let mut unchecked = 0;
        while self.records.next_seq() < end {
            let Some(record) = self.records.next().await? else {
                return Err(Error::unavailable("the audit log ends before its checkpoint"));
            };
            self.take(&Record::new(&record)?)?;
            unchecked += 1;
            if unchecked > SIZE_CHECK.max(self.states.len()) {
                unchecked = 0;
                if self.states.size() > self.budget {
                    return Ok(false);
                }
            }
        }
        Ok(self.states.size() <= self.budget)
    }

    fn take(&mut self, record: &Record<'_>) -> Result<()> {
        let Some(id) = record.id() else {
            self.states.advance(record)?;
            if matches!(record.op(), "drop" | "dropDatabase" | "rename") {
                self.states.forget_absent();
            }
            return self.follow(record);
        };
        if self.slice.has(id.kind(), id.value()) {
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
            && record.seq()? > self.gap
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_document_is_in_exactly_one_slice_however_often_they_are_halved() {
        let mut slices = vec![Slice::ALL];
        for _ in 0..4 {
            let ids: Vec<[u8; 4]> = (0..500_u32).map(u32::to_le_bytes).collect();
            for id in &ids {
                assert_eq!(slices.iter().filter(|slice| slice.has(0x10, id)).count(), 1);
            }
            let last = slices.remove(0);
            slices.extend(last.halves());
        }
    }
}
