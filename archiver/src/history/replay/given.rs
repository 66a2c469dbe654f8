//! Which late records have been given already, in the places of their events. Each item of a replay carries that set as it is behind it:
//! so copies share all but the last few.

use std::collections::BTreeSet;
use std::sync::Arc;

/// Seqs that a copy has of its own at most.
const OWN: usize = 64;

/// A set of seqs that is cheap to copy.
#[derive(Debug, Clone, Default)]
pub(super) struct Given {
    shared: Arc<BTreeSet<i64>>,
    own: Vec<i64>,
}

impl Given {
    /// Adds a seq, where those before `next` are of no more use.
    pub(super) fn insert(&mut self, seq: i64, next: i64) {
        if self.own.len() >= OWN {
            self.shared = Arc::new(self.from(next).collect());
            self.own.clear();
        }
        self.own.push(seq);
    }

    pub(super) fn contains(&self, seq: i64) -> bool {
        self.own.contains(&seq) || self.shared.contains(&seq)
    }

    /// Those from a seq on, in no order.
    pub(super) fn from(&self, next: i64) -> impl Iterator<Item = i64> {
        let own = self.own.iter().filter(move |seq| **seq >= next);
        self.shared.range(next..).chain(own).copied()
    }
}

impl PartialEq for Given {
    fn eq(&self, other: &Given) -> bool {
        self.from(0).collect::<BTreeSet<_>>() == other.from(0).collect()
    }
}

impl Eq for Given {}

impl FromIterator<i64> for Given {
    fn from_iter<T: IntoIterator<Item = i64>>(seqs: T) -> Given {
        Given { shared: Arc::new(seqs.into_iter().collect()), own: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_set_whose_copies_share_all_but_a_few() {
        let (mut given, mut copies) = (Given::default(), Vec::new());
        for seq in 1..=10_000 {
            given.insert(seq * 2, 100);
            copies.push(given.clone());
        }
        for (copy, n) in copies.iter().zip(1_i64..) {
            assert!(copy.contains(n * 2) && !copy.contains(n * 2 + 2) && !copy.contains(n * 2 - 1), "{n}");
            assert!(copy.own.len() <= OWN);
        }
        let shared: BTreeSet<_> = copies.iter().map(|copy| Arc::as_ptr(&copy.shared)).collect();
        assert!(shared.len() <= 10_000 / OWN + 1, "{} sets for all copies", shared.len());
        let expected: BTreeSet<i64> = (1..=10_000).map(|n| n * 2).filter(|seq| *seq >= 5_000).collect();
        assert_eq!(given.from(5_000).collect::<BTreeSet<_>>(), expected);
        assert_eq!(given.from(0).filter(|seq| *seq < 100).count(), 0, "those are of no more use");
        assert_eq!(given, given.from(0).collect());
    }
}
