//! The watchdog: notices a stream that stands still while the deployment's clock goes on. It goes by the position's time, not by
//! activity: a stream can answer for ever and get nowhere.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bson::Timestamp;
use mongodb::Client;
use tokio::time::Instant;
use tracing::warn;

use crate::deployment::operation_time;

/// How often it looks.
const INTERVAL: Duration = Duration::from_secs(15);
/// How long a stream may stand still before it says so, and before it says so again.
const PATIENCE: Duration = Duration::from_secs(120);

/// How far the stream has been read, as the watcher says.
#[derive(Debug, Default)]
pub(super) struct Progress(AtomicU64);

impl Progress {
    pub(super) fn note(&self, time: Timestamp) {
        self.0.store(u64::from(time.time) << 32 | u64::from(time.increment), Ordering::Relaxed);
    }

    fn time(&self) -> Timestamp {
        let bits = self.0.load(Ordering::Relaxed);
        Timestamp { time: (bits >> 32) as u32, increment: bits as u32 }
    }
}

/// Looks until it is dropped.
pub(super) async fn watch(client: Client, source: String, progress: &Progress) {
    let mut stand = Stand::new(progress.time(), Instant::now());
    loop {
        tokio::time::sleep(INTERVAL).await;
        // A deployment that does not answer is noticed by the stream itself.
        let Ok(present) = operation_time(&client.database("admin")).await else { continue };
        if let Some(lag) = stand.look(progress.time(), present, Instant::now()) {
            warn!(
                source,
                lag_seconds = lag.as_secs(),
                "the change stream stands still while the deployment's clock goes on: its majority may be lost, a shard may not \
                 answer, or the audit log takes nothing; history is lost once the oplog has rolled past this position"
            );
        }
    }
}

/// Since when the stream has been where it is.
struct Stand {
    at: Timestamp,
    since: Instant,
}

impl Stand {
    fn new(at: Timestamp, now: Instant) -> Self {
        Stand { at, since: now }
    }

    /// How far the stream is behind, where that is to be said now.
    fn look(&mut self, at: Timestamp, present: Timestamp, now: Instant) -> Option<Duration> {
        if at != self.at || present <= at {
            *self = Stand::new(at, now);
        }
        if now - self.since < PATIENCE {
            return None;
        }
        self.since = now;
        Some(Duration::from_secs(u64::from(present.time - at.time)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(time: u32) -> Timestamp {
        Timestamp { time, increment: 1 }
    }

    /// Looks every ten seconds, with what the stream and the deployment are at; returns when it was said, and the lags.
    fn said(looks: impl Iterator<Item = (u32, u32)>) -> Vec<(usize, u64)> {
        let start = Instant::now();
        let mut stand = Stand::new(at(100), start);
        let look = |(n, (stream, present)): (usize, (u32, u32))| {
            let lag = stand.look(at(stream), at(present), start + Duration::from_secs(10 * n as u64))?;
            Some((10 * n, lag.as_secs()))
        };
        looks.enumerate().filter_map(look).collect()
    }

    #[test]
    fn a_stream_that_stands_still_is_reported_with_its_lag_again_and_again() {
        assert_eq!(said((0..30).map(|n| (100, 100 + 10 * n))), [(120, 120), (240, 240)]);
    }

    #[test]
    fn neither_a_slow_stream_nor_a_deployment_that_rests_is_reported() {
        assert_eq!(said((0..60).map(|n| (100 + n / 6, 200 + 10 * n))), []);
        assert_eq!(said((0..60).map(|_| (100, 100))), []);
    }

    #[test]
    fn what_is_noted_is_read_back() {
        let progress = Progress::default();
        progress.note(Timestamp { time: u32::MAX, increment: 7 });
        assert_eq!(progress.time(), Timestamp { time: u32::MAX, increment: 7 });
    }
}
