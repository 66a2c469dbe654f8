//! A checkpoint: where a stream's capture stands. Written in the same transaction as the records before it.

use std::collections::BTreeMap;

use bson::Timestamp;
use serde::{Deserialize, Serialize};

use crate::event::Position;
pub use crate::progress::SnapshotProgress;
use crate::record::RecordId;
use crate::salt::Salt;
use crate::stream_id::StreamId;

/// Where one stream's capture stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// Which stream.
    pub stream: StreamId,
    /// How many streams its source is split into.
    pub partitions: u32,
    /// The writer's number; only the holder of the highest one can advance the checkpoint.
    pub epoch: i64,
    /// The seq that the next record gets; the log holds `..next_seq`.
    pub next_seq: i64,
    /// The stream is to be read from here.
    pub position: Position,
    /// The baseline's progress, until it is complete.
    pub snapshot: Option<SnapshotProgress>,
    /// Stretches of lost history behind which the present has not been compared yet, oldest first.
    pub resyncs: Vec<Resync>,
    /// The seq of the policy record in force, 0 before the first one.
    pub policy: i64,
    /// The digest of the plugin chain and its configuration in force.
    pub policy_digest: String,
    /// The digest of everything that determines what the stream delivers that the position is one of.
    pub options: String,
    /// What is watched since the policy record in force, as configured.
    pub watch: Vec<String>,
    /// The watched deployment when the position was stored: its version and feature compatibility version.
    pub server: Option<ServerVersion>,
    /// Who acts in the transaction that the position is in the middle of.
    pub context: Option<ActorContext>,
    /// What the stream makes digests with; `None` in a checkpoint of an earlier version, until it gets its next writer.
    pub salt: Option<Salt>,
    /// On how many of the last events plugins failed.
    pub failures: RecentFailures,
    /// What the last request to try withheld events again has released.
    pub retried: Option<Retried>,
    /// One after the last record of which the log says that it has expired; 1 where none has.
    pub expired_end: i64,
    /// The number of the last legal hold, or release of one, that the log has a record of as far as it concerns the source.
    pub holds_recorded: i64,
    /// What was read, and what became of it.
    pub counters: Counters,
}

impl Checkpoint {
    /// The `_id` of the next record.
    pub fn next_id(&self) -> RecordId {
        RecordId::new(&self.stream, self.next_seq)
    }
}

/// The watched deployment's version, on which the form of its resume tokens depends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerVersion {
    /// Such as "6.0.5".
    pub version: String,
    /// The feature compatibility version, such as "6.0"; `None` where the account may not see it.
    pub feature: Option<String>,
    /// Which deployment it is: the id of its replica set or of its cluster; `None` where the account may not see it.
    #[serde(default)]
    pub deployment: Option<String>,
}

/// A stretch of history that is missing, behind which the present is compared with what is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Resync {
    /// The seq of its `gap` record.
    pub gap: i64,
    /// The one namespace that it concerns; `None`: everything the stream watches.
    pub namespace: Option<(String, String)>,
    /// What is missing happened after this time …
    pub after: Timestamp,
    /// … and no later than this one.
    pub until: Timestamp,
    /// Whether everything that was there before was recorded: the source has a baseline, and it was complete.
    #[serde(default)]
    pub whole: bool,
}

/// What a request to try withheld events again has released so far. Durable together with the releases: whoever goes on with the
/// request after a fault can tell of all of them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Retried {
    /// The request.
    pub request: String,
    /// How many events were appended late.
    pub late: i64,
    /// How many documents were read again.
    #[serde(default)]
    pub snapshots: i64,
    /// How many each plugin dropped.
    pub dropped: BTreeMap<String, i64>,
    /// The seqs of their quarantine records, where the request names those that it wants.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub seqs: Vec<i64>,
}

/// What the application said about a transaction: who acts in it, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActorContext {
    /// The transaction: the raw BSON of an event's `txn`.
    #[serde(with = "serde_bytes_vec")]
    pub txn: Vec<u8>,
    /// Who acts.
    pub actor: String,
    /// Why.
    pub reason: Option<String>,
}

mod serde_bytes_vec {
    use bson::{Binary, spec::BinarySubtype};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &[u8], s: S) -> Result<S::Ok, S::Error> {
        Binary { subtype: BinarySubtype::Generic, bytes: value.to_vec() }.serialize(s)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
        Ok(Binary::deserialize(d)?.bytes)
    }
}

/// What was read, and what became of it: `read = appended + dropped`, always.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counters {
    /// Change events and snapshot documents read; those that were released from quarantine, twice.
    pub read: i64,
    /// Of these, how many became records, quarantined ones included.
    pub appended: i64,
    /// Of these, how many each plugin dropped.
    pub dropped: BTreeMap<String, i64>,
    /// Of the appended, how many are quarantine records.
    pub quarantined: i64,
    /// Records of the archiver's own doing: policy, gap, recovery.
    pub own: i64,
    /// How many say that history is missing: records of the archiver's own, and single events that were too large.
    #[serde(default)]
    pub gaps: i64,
    /// How many events were released from quarantine: tried again, and appended or dropped.
    #[serde(default)]
    pub released: i64,
    /// What each plugin did with the events that came to it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub plugins: BTreeMap<String, PluginCounters>,
}

/// What one plugin did with the events that came to it. Documents that are only compared behind a gap are not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PluginCounters {
    /// Left as they were.
    pub kept: i64,
    /// Replaced by what it made of them.
    pub replaced: i64,
    /// Dropped.
    pub dropped: i64,
    /// Withheld, because it failed on them.
    pub failed: i64,
    /// How long it took for all of them, in microseconds.
    pub micros: i64,
}

impl PluginCounters {
    /// How many events came to it.
    pub fn events(&self) -> i64 {
        self.kept + self.replaced + self.dropped + self.failed
    }

    /// Microseconds an event on average; `None` before the first one.
    pub fn micros_per_event(&self) -> Option<f64> {
        (self.events() > 0).then(|| self.micros as f64 / self.events() as f64)
    }
}

/// On how many of the last ten thousand events plugins failed: counted by the thousand, so that it stays small in the
/// checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RecentFailures {
    /// Which thousand of all events that were read the last count is of.
    thousand: i64,
    /// Failures in each of the last thousands, oldest first.
    counts: Vec<i64>,
}

impl RecentFailures {
    /// How many successive events are looked at.
    pub const WINDOW: i64 = 10_000;
    const STEP: i64 = 1_000;

    /// Counts a failure on the event of this number, from 1, and says how many there are among the last events, this one
    /// included.
    pub fn note(&mut self, number: i64) -> i64 {
        let thousand = (number - 1) / Self::STEP;
        let windows = (Self::WINDOW / Self::STEP) as usize;
        let passed = (thousand - self.thousand).clamp(0, Self::WINDOW / Self::STEP) as usize;
        self.counts.resize(self.counts.len().max(1) + passed, 0);
        self.counts.drain(..self.counts.len().saturating_sub(windows));
        self.thousand = thousand;
        if let Some(last) = self.counts.last_mut() {
            *last += 1;
        }
        self.counts.iter().sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }
}

impl Counters {
    /// Adds what plugins did with further events.
    pub fn add_plugins(&mut self, plugins: BTreeMap<String, PluginCounters>) {
        for (name, more) in plugins {
            let counters = self.plugins.entry(name).or_default();
            counters.kept += more.kept;
            counters.replaced += more.replaced;
            counters.dropped += more.dropped;
            counters.failed += more.failed;
            counters.micros += more.micros;
        }
    }

    /// How many events are kept without their contents, and were not released.
    pub fn withheld(&self) -> i64 {
        self.quarantined - self.released
    }

    /// Whether everything that was read is accounted for.
    pub fn add_up(&self) -> bool {
        self.read == self.appended + self.dropped.values().sum::<i64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_counted_over_the_last_ten_thousand_events_and_no_more() {
        let mut failures = RecentFailures::default();
        assert!(failures.is_empty());
        assert_eq!([1, 2, 1_000, 1_001].map(|n| failures.note(n)), [1, 2, 3, 4]);
        // The first thousand is forgotten with the eleventh.
        assert_eq!(failures.note(10_000), 5);
        assert_eq!(failures.note(10_001), 3);
        assert_eq!(failures.note(1_000_000), 1);
        assert_eq!(failures.counts.len(), 10);
    }

    #[test]
    fn an_event_every_now_and_then_never_adds_up_to_many() {
        let mut failures = RecentFailures::default();
        let most = (1..=500).map(|n| failures.note(n * 997)).max();
        assert_eq!(most, Some(11));
    }
}
