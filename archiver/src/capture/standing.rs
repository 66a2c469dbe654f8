//! Where a stream's writer stands, as it stored it last: for whoever looks at this process, who need not ask the database.

use bson::Timestamp;

use crate::checkpoint::{Checkpoint, Counters};

/// What was stored last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The last record's seq; 0 before the first.
    pub seq: i64,
    /// The writer's number.
    pub epoch: i64,
    /// Everything up to this time is in the audit log.
    pub captured: Timestamp,
    /// What was read, and what became of it.
    pub counters: Counters,
    /// Of a baseline that is not complete: documents read, and documents there are, about.
    pub baseline: Option<(i64, i64)>,
    /// Gaps behind which the present has not been compared yet.
    pub comparisons: usize,
}

impl Standing {
    /// Where this checkpoint stands.
    pub fn of(checkpoint: &Checkpoint) -> Standing {
        Standing {
            seq: checkpoint.next_seq - 1,
            epoch: checkpoint.epoch,
            captured: checkpoint.position.cluster_time,
            counters: checkpoint.counters.clone(),
            baseline: checkpoint.snapshot.as_ref().map(|s| (s.documents, s.estimated)),
            comparisons: checkpoint.resyncs.len(),
        }
    }
}
