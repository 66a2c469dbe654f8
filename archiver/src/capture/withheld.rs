//! Events that plugins failed on: what the operator is told of them, and when they are too many.

use std::collections::BTreeMap;

use tracing::warn;

use super::assemble::Identity;
use crate::checkpoint::{Checkpoint, RecentFailures};
use crate::config::Tolerance;
use crate::error::Error;
use crate::plugin::{Failure, Outcome};
use crate::stream_id::StreamId;

/// Failures of one batch that are told apart, at most.
const TOLD: usize = 16;

/// Says on how many events of a batch plugins failed, how, and in which words of their own.
pub(super) fn report(stream: &StreamId, outcomes: &[(Identity, Outcome)]) {
    let mut failures: BTreeMap<_, usize> = BTreeMap::new();
    for (_, outcome) in outcomes {
        if let Outcome::Failed(Failure { plugin, code, words, .. }) = outcome {
            *failures.entry((plugin, code.as_str(), words.as_deref())).or_default() += 1;
        }
    }
    let not_told: usize = failures.values().skip(TOLD).sum();
    for ((plugin, code, words), events) in failures.into_iter().take(TOLD) {
        warn!(source = %stream, plugin = &**plugin, code, events, untrusted = words, "a plugin failed: these events are withheld");
    }
    if not_told > 0 {
        warn!(source = %stream, events = not_told, "a plugin failed in further ways: these events are withheld, too");
    }
}

/// The source halts before the transaction in which its quarantine would exceed the limit.
pub(super) fn too_many(last: &Failure, tolerance: Tolerance, checkpoint: &Checkpoint) -> Error {
    Error::plugin(format!(
        "plugins failed on more than {} of {} successive events, the last time: {last}; the source has stopped before them source={}",
        tolerance.quarantine_limit, RecentFailures::WINDOW, checkpoint.stream
    ))
    .hint("mend the plugin and `archiver reload`, or start again: nothing is lost while the oplog holds the events; or raise quarantine_limit")
}
