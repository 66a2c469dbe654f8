//! Batches of events on their way into the log: full ones, or as much as came within the wait.

use bson::Timestamp;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::Instant;

use super::watcher::Read;
use crate::config::CaptureConfig;
use crate::error::{Error, Result};
use crate::event::{Event, Position};

/// Events in order, and where the stream stands behind them.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) events: Vec<Event>,
    bytes: usize,
    /// Where the stream stands behind the batch.
    pub(super) position: Option<Position>,
    /// Whether the stream had nothing after it at that moment.
    quiet: bool,
    /// Held until the batch is appended: they count its bytes against those ahead.
    pub(super) permits: Vec<OwnedSemaphorePermit>,
    /// The watcher has ended behind this batch, with its error.
    pub(super) end: Option<Option<Error>>,
}

/// Gathers what the watcher hands on into batches.
pub(super) struct Batches {
    events: mpsc::Receiver<Result<Read>>,
    limits: CaptureConfig,
    /// What has been gathered; kept here so that giving up the wait for more loses nothing.
    open: Batch,
    due: Option<Instant>,
}

impl Batches {
    pub(super) fn new(events: mpsc::Receiver<Result<Read>>, limits: CaptureConfig) -> Self {
        Batches { events, limits, open: Batch::default(), due: None }
    }

    /// The next batch. Cancel safe.
    pub(super) async fn next(&mut self) -> Batch {
        if self.due.is_none() {
            let first = self.events.recv().await;
            self.open.add(first);
            self.due = Some(Instant::now() + self.limits.batch_max_wait);
        }
        while let Some(due) = self.due.filter(|_| self.open.wants_more(self.limits)) {
            match tokio::time::timeout_at(due, self.events.recv()).await {
                Ok(read) => self.open.add(read),
                Err(_) => break,
            }
        }
        self.due = None;
        std::mem::take(&mut self.open)
    }
}

impl Batch {
    fn add(&mut self, read: Option<Result<Read>>) {
        match read {
            Some(Ok(Read::Event(event, permit))) => {
                self.bytes += event.body.len();
                self.position = Some(event.position.clone());
                self.quiet = false;
                self.events.push(event);
                self.permits.push(permit);
            }
            Some(Ok(Read::Quiet(position))) => {
                self.position = Some(position);
                self.quiet = true;
            }
            Some(Err(error)) => self.end = Some(Some(error)),
            None => self.end = Some(None),
        }
    }

    fn wants_more(&self, limits: CaptureConfig) -> bool {
        let full = self.events.len() >= limits.batch_max_events || self.bytes >= limits.batch_max_bytes;
        !full && !self.events.is_empty() && self.end.is_none()
    }

    /// The last event's time.
    pub(super) fn last_time(&self) -> Option<Timestamp> {
        self.events.last().map(|event| event.position.cluster_time)
    }

    /// Splits off what comes after a time; without one, or where nothing does, nothing. The rest has the batch's position.
    pub(super) fn split_after(&mut self, time: Option<Timestamp>) -> Option<Batch> {
        let later = |event: &Event| time.is_some_and(|time| event.position.cluster_time > time);
        let first = self.events.iter().position(later)?;
        let rest = Batch {
            events: self.events.split_off(first),
            permits: self.permits.split_off(first),
            position: self.position.take(),
            end: self.end.take(),
            quiet: std::mem::take(&mut self.quiet),
            bytes: self.bytes,
        };
        self.position = self.events.last().map(|event| event.position.clone());
        Some(rest)
    }

    /// The time up to which nothing more can come behind this batch: its position's, or, where an event has that time and
    /// another could follow, the one before.
    pub(super) fn complete_to(&self) -> Option<Timestamp> {
        let Timestamp { time, increment } = self.position.as_ref()?.cluster_time;
        Some(match (self.quiet, increment) {
            (true, _) => Timestamp { time, increment },
            (false, 0) => Timestamp { time: time.saturating_sub(1), increment: u32::MAX },
            (false, _) => Timestamp { time, increment: increment - 1 },
        })
    }

    /// Whether everything up to `until` is in this batch or before it. An event of that very time may be followed by
    /// another: only a quiet stream, or a later event, shows its end.
    pub(super) fn reaches(&self, until: Timestamp) -> bool {
        self.position
            .as_ref()
            .is_some_and(|p| p.cluster_time > until || (self.quiet && p.cluster_time == until))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::Semaphore;

    use super::*;

    fn position(time: u32) -> Position {
        Position { token: None, cluster_time: Timestamp { time, increment: 1 } }
    }

    /// A batch that ends with an event of this time, or with the stream's word that nothing more has happened until then.
    fn batch(time: u32, quiet: bool) -> Batch {
        let permit = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        let event = Event { body: Vec::new(), position: position(time) };
        let mut batch = Batch::default();
        batch.add(Some(Ok(Read::Event(event, permit))));
        if quiet {
            batch.add(Some(Ok(Read::Quiet(position(time)))));
        }
        batch
    }

    #[test]
    fn an_event_of_the_target_time_may_be_followed_by_another_of_that_time() {
        let until = position(5).cluster_time;
        assert!(!batch(5, false).reaches(until), "the rest of its transaction may still come");
        assert!(batch(5, true).reaches(until));
        assert!(batch(6, false).reaches(until));
        assert!(!batch(4, true).reaches(until));
    }

    #[test]
    fn only_a_quiet_stream_is_complete_up_to_its_position() {
        assert_eq!(batch(5, true).complete_to(), Some(position(5).cluster_time));
        assert_eq!(batch(5, false).complete_to(), Some(Timestamp { time: 5, increment: 0 }));
    }
}
