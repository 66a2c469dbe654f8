//! The oplog headroom: how much longer a stream may stand still before MongoDB has forgotten the events behind its checkpoint.
//! Measured while capturing, and loud in time.

use std::convert::Infallible;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bson::Timestamp;
use mongodb::Client;
use serde::Serialize;
use tracing::{debug, error, info, warn};

use super::standing::Standing;
use crate::checkpoint::Checkpoint;
use crate::deployment::{operation_time, oplog_start};
use crate::error::Result;
use crate::stream_id::StreamId;

/// How often it is measured.
const EVERY: Duration = Duration::from_secs(30);
/// How often the same thing is said at most.
const REMINDER: Duration = Duration::from_secs(60);
/// A stream that is no further behind than this is well, however young or short the oplog is: a quiet one stores its position
/// every five seconds.
const UP_TO_DATE: i64 = 15;
/// At or below this share of the oplog's window somebody is warned …
const LOW: i64 = 50;
/// … and at or below this one somebody must act.
const CRITICAL: i64 = 25;

/// How much of the oplog lies before a stream's checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Headroom {
    /// From the oldest entry to the checkpoint; negative where the entries after the checkpoint are gone.
    pub seconds: i64,
    /// From the oldest entry to the newest.
    pub window: i64,
}

/// How much anybody should care.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Fine,
    Low,
    Critical,
}

impl Headroom {
    /// Of a checkpoint in an oplog with these ends.
    pub fn new(oldest: Timestamp, checkpoint: Timestamp, newest: Timestamp) -> Headroom {
        let since_oldest = |time: Timestamp| i64::from(time.time) - i64::from(oldest.time);
        Headroom { seconds: since_oldest(checkpoint), window: since_oldest(newest.max(checkpoint)) }
    }

    /// The share of the window, 0 to 100.
    pub fn percent(self) -> i64 {
        match self.window {
            0 => 100,
            window => (self.seconds * 100 / window).clamp(0, 100),
        }
    }

    fn level(self) -> Level {
        match self.percent() {
            _ if self.window - self.seconds <= UP_TO_DATE => Level::Fine,
            percent if percent <= CRITICAL => Level::Critical,
            percent if percent <= LOW => Level::Low,
            _ => Level::Fine,
        }
    }
}

/// What was said last, of each level.
#[derive(Debug, Default)]
struct Said {
    low: Option<Instant>,
    critical: Option<Instant>,
}

impl Said {
    /// Whether to speak of a level now.
    fn is_due(&mut self, level: Level, now: Instant) -> bool {
        let last = match level {
            Level::Fine => return false,
            Level::Low => &mut self.low,
            Level::Critical => &mut self.critical,
        };
        let due = last.is_none_or(|last| now.duration_since(last) >= REMINDER);
        if due {
            *last = Some(now);
        }
        due
    }
}

/// Measures a stream's headroom for as long as its writer captures, and tells how far that is.
#[derive(Debug, Default)]
pub struct Gauge(Mutex<Measured>);

/// What is known of a stream that is captured here.
#[derive(Debug, Clone, Default)]
pub struct Measured {
    /// What was stored last; `None` before this process has captured the stream.
    pub standing: Option<Standing>,
    /// What was measured last.
    pub headroom: Option<Headroom>,
    /// The watched deployment's time, and when it was asked for it.
    present: Option<(Timestamp, Instant)>,
}

impl Measured {
    /// How far the audit log is behind the watched deployment, in seconds. Grows while nobody can ask it for its time.
    pub fn lag(&self, now: Instant) -> Option<f64> {
        let (standing, (present, asked)) = (self.standing.as_ref()?, self.present?);
        let behind = f64::from(present.time) - f64::from(standing.captured.time);
        Some((behind + now.duration_since(asked).as_secs_f64()).max(0.0))
    }
}

impl Gauge {
    /// Notes what is stored.
    pub(super) fn note_stored(&self, checkpoint: &Checkpoint) {
        self.measured().standing = Some(Standing::of(checkpoint));
    }

    /// What is known now.
    pub fn read(&self) -> Measured {
        self.measured().clone()
    }

    /// Forgets everything: another archiver knows better from here on.
    pub fn forget(&self) {
        *self.measured() = Measured::default();
    }

    fn measured(&self) -> MutexGuard<'_, Measured> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Measures and warns until it is dropped.
    pub(super) async fn watch(&self, client: &Client, stream: &StreamId) -> Infallible {
        let mut said = Said::default();
        let mut invisible = false;
        loop {
            match self.measure(client).await {
                Ok(Some(headroom)) => tell(headroom, &mut said, stream),
                Ok(None) if std::mem::replace(&mut invisible, true) => {}
                Ok(None) => {
                    info!(source = %stream, "the oplog headroom is unknown: the account may not read local.oplog.rs")
                }
                Err(error) => {
                    debug!(source = %stream, error = error.explain(), "the oplog headroom can't be measured now")
                }
            }
            tokio::time::sleep(EVERY).await;
        }
    }

    async fn measure(&self, client: &Client) -> Result<Option<Headroom>> {
        // Before the oplog is asked, so that it is no later than the newest entry.
        let checkpoint = self.read().standing.map(|standing| standing.captured);
        let oldest = oplog_start(client).await?;
        let newest = operation_time(&client.database("admin")).await?;
        let headroom =
            oldest.zip(checkpoint).map(|(oldest, checkpoint)| Headroom::new(oldest, checkpoint, newest));
        let mut measured = self.measured();
        (measured.headroom, measured.present) = (headroom, Some((newest, Instant::now())));
        Ok(headroom)
    }
}

fn tell(headroom: Headroom, said: &mut Said, stream: &StreamId) {
    let level = headroom.level();
    if !said.is_due(level, Instant::now()) {
        return;
    }
    let (seconds, percent, window) = (headroom.seconds, headroom.percent(), headroom.window);
    if level == Level::Critical {
        error!(source = %stream, headroom_seconds = seconds, percent, oplog_seconds = window,
            "the oplog will soon have forgotten what is not captured yet; enlarge it with replSetResizeOplog, and find out what slows this source down");
    } else {
        warn!(source = %stream, headroom_seconds = seconds, percent, oplog_seconds = window,
            "half of the oplog is used up by what is not captured yet");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Counters;

    fn at(time: u32) -> Timestamp {
        Timestamp { time, increment: 1 }
    }

    #[test]
    fn the_headroom_is_what_lies_before_the_checkpoint() {
        let headroom = Headroom::new(at(1000), at(1300), at(2000));
        assert_eq!((headroom.seconds, headroom.window, headroom.percent()), (300, 1000, 30));
        let lost = Headroom::new(at(1000), at(900), at(2000));
        assert_eq!((lost.seconds, lost.percent(), lost.level()), (-100, 0, Level::Critical));
        // A newer checkpoint than what was asked for before it.
        assert_eq!(Headroom::new(at(1000), at(1001), at(1000)).percent(), 100);
        assert_eq!(Headroom::new(at(1000), at(1000), at(1000)).percent(), 100);
    }

    #[test]
    fn the_lag_grows_while_the_deployment_can_t_be_asked() {
        let start = Instant::now();
        let standing = Standing {
            seq: 0,
            epoch: 1,
            captured: at(1000),
            counters: Counters::default(),
            baseline: None,
            comparisons: 0,
        };
        let mut measured = Measured { standing: Some(standing), ..Measured::default() };
        assert_eq!(measured.lag(start), None, "nobody has asked");
        measured.present = Some((at(1005), start));
        assert_eq!(measured.lag(start), Some(5.0));
        assert_eq!(measured.lag(start + Duration::from_secs(60)), Some(65.0));
        measured.present = Some((at(990), start));
        assert_eq!(measured.lag(start), Some(0.0), "what was stored since");
    }

    #[test]
    fn half_is_low_a_quarter_is_critical_and_who_is_up_to_date_is_well_in_any_oplog() {
        let level = |checkpoint| Headroom::new(at(0), at(checkpoint), at(1000)).level();
        assert_eq!([1000, 510, 509].map(level), [Level::Fine, Level::Fine, Level::Low]);
        assert_eq!([500, 260, 259, 1].map(level), [Level::Low, Level::Low, Level::Critical, Level::Critical]);
        assert_eq!(Headroom::new(at(0), at(2), at(17)).level(), Level::Fine);
        assert_eq!(Headroom::new(at(0), at(1), at(17)).level(), Level::Critical);
    }

    #[test]
    fn each_level_is_spoken_of_once_a_minute() {
        let mut said = Said::default();
        let start = Instant::now();
        let mut due = |level, seconds| said.is_due(level, start + Duration::from_secs(seconds));
        assert!(!due(Level::Fine, 0));
        assert!(due(Level::Low, 0));
        assert!(!due(Level::Low, 30));
        assert!(due(Level::Critical, 30), "it got worse");
        assert!(due(Level::Low, 60));
        assert!(!due(Level::Critical, 60));
        assert!(due(Level::Critical, 90));
    }
}
