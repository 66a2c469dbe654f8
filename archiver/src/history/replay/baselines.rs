//! Which changes a baseline has in it already: a stream delivers some only after their documents were read, at a later time.
//!
//! Holds an entry for each document that was read at a time to which its stream has not come yet.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use super::range::ordered;
use crate::error::Result;
use crate::history::Namespace;
use crate::history::states::Identity;
use crate::history::stream::is_timed;
use crate::record::Record;

/// Stands for a document. One of billions may be taken for another with a probability of less than 1 in 10¹⁸.
type Mark = u128;

fn mark(identity: &Identity) -> Mark {
    let half = |salt: u8| {
        let mut hash = DefaultHasher::new();
        (salt, identity).hash(&mut hash);
        u128::from(hash.finish())
    };
    half(1) << 64 | half(2)
}

/// The documents of one stream that were read ahead of it.
#[derive(Debug, Default)]
pub(super) struct Baselines {
    /// When each was read, and in which collection.
    read_at: HashMap<Mark, ((u32, u32), Arc<Namespace>)>,
    /// Those that were read at the same time one after the other: the time, the seq of the first, and which they are.
    runs: VecDeque<((u32, u32), i64, Vec<Mark>)>,
    latest: (u32, u32),
    last: Arc<Namespace>,
}

impl Baselines {
    /// Takes a record in, and says whether the document was read later than what it tells of happened.
    pub(super) fn advance(&mut self, record: &Record<'_>, place: i64) -> Result<bool> {
        let time = ordered(record.cluster_time()?);
        let identity = Identity::of(record);
        if record.op() == "snapshot" {
            if let Some(identity) = identity.filter(|_| time >= self.latest) {
                self.note(identity, time, place);
            }
            return Ok(false);
        }
        let is_in =
            identity.is_some_and(|i| self.read_at.get(&mark(&i)).is_some_and(|(read, _)| time <= *read));
        if is_timed(record) && time > self.latest && record.late().is_none() {
            self.latest = time;
            self.forget();
        }
        Ok(is_in)
    }

    fn note(&mut self, identity: Identity, time: (u32, u32), place: i64) {
        let mark = mark(&identity);
        if *self.last != identity.namespace {
            self.last = Arc::new(identity.namespace);
        }
        self.read_at.insert(mark, (time, Arc::clone(&self.last)));
        match self.runs.back_mut() {
            Some((at, _, marks)) if *at == time => marks.push(mark),
            _ => self.runs.push_back((time, place, vec![mark])),
        }
    }

    /// Forgets the documents to whose time the stream has come.
    fn forget(&mut self) {
        while self.runs.front().is_some_and(|(time, ..)| *time < self.latest) {
            let Some((time, _, marks)) = self.runs.pop_front() else { return };
            for mark in marks {
                if self.read_at.get(&mark).is_some_and(|(read, _)| *read == time) {
                    self.read_at.remove(&mark);
                }
            }
        }
    }

    /// From where its stream must be read again to know the same.
    pub(super) fn since(&self) -> Option<i64> {
        self.runs.front().map(|(_, place, _)| *place)
    }

    /// Adds the documents that were read at this time or later.
    pub(super) fn read_since(&self, time: (u32, u32), survivors: &mut Survivors) {
        for (mark, (_, namespace)) in self.read_at.iter().filter(|(_, (read, _))| *read >= time) {
            survivors.marks.insert(*mark);
            if !survivors.namespaces.contains(&**namespace) {
                survivors.namespaces.insert(Namespace::clone(namespace));
            }
        }
    }
}

/// The documents that the end of a collection leaves there, because they were read later: they are of the one that came after it.
#[derive(Debug, Default)]
pub(super) struct Survivors {
    marks: HashSet<Mark>,
    namespaces: HashSet<Namespace>,
}

impl Survivors {
    pub(super) fn holds(&self, identity: &Identity) -> bool {
        self.marks.contains(&mark(identity))
    }

    /// Whether there are any in a collection.
    pub(super) fn are_in(&self, namespace: &Namespace) -> bool {
        self.namespaces.contains(namespace)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.marks.is_empty()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use bson::doc;

    use super::super::super::testing::Shop;
    use super::*;

    #[test]
    fn a_change_from_before_the_reading_is_in_the_baseline_and_the_documents_are_forgotten_in_time() {
        let mut shop = Shop::with_plugins(&[]);
        let early = shop.second;
        shop.second += 10;
        shop.change("snapshot", 1, doc! {"after": {"_id": 1}});
        shop.change("snapshot", 2, doc! {"after": {"_id": 2}});
        shop.second = early;
        shop.change("update", 1, doc! {"delta": {}});
        shop.change("update", 3, doc! {"delta": {}});
        shop.second = early + 11;
        shop.change("update", 1, doc! {"delta": {}});
        shop.change("update", 2, doc! {"delta": {}});
        shop.change("update", 2, doc! {"delta": {}});
        let mut baselines = Baselines::default();
        let mut told = Vec::new();
        for (bytes, seq) in shop.records.iter().zip(1..) {
            told.push(baselines.advance(&Record::new(bytes).unwrap(), seq).unwrap());
            if seq == 5 {
                assert_eq!(baselines.since(), Some(2));
                let mut survivors = Survivors::default();
                baselines.read_since((early + 11, 0), &mut survivors);
                assert!(survivors.marks.len() == 1 && survivors.namespaces.len() == 1);
            }
        }
        assert_eq!(told, [false, false, false, true, false, false, false, false]);
        assert_eq!((baselines.since(), baselines.read_at.len()), (None, 0));
    }
}
