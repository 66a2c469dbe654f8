//! Keeps the records of one document in the order of its changes while documents are read beside the stream.
//!
//! Whoever reads documents holds the barrier at the time that is read. No event after the lowest held time is appended
//! until the documents are, so that in the log, too, a document stands before the changes that came after it was read.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bson::Timestamp;
use tokio::sync::watch;

/// Shared by the writer and those that read documents. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Barrier(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// How many hold it at each time.
    held: Mutex<BTreeMap<Timestamp, usize>>,
    /// Everything up to this time is appended.
    appended: watch::Sender<Timestamp>,
    /// Counts changes of `held`, to wake the writer.
    changes: watch::Sender<u64>,
}

/// Holds the barrier until it is dropped.
#[derive(Debug)]
pub(super) struct Hold {
    barrier: Barrier,
    /// No event after this time is appended.
    pub(super) time: Timestamp,
}

impl Barrier {
    /// A barrier that nobody holds; everything up to `appended` is in the log.
    pub(super) fn new(appended: Timestamp) -> Self {
        let shared = Shared {
            held: Mutex::default(),
            appended: watch::Sender::new(appended),
            changes: watch::Sender::new(0),
        };
        Barrier(Arc::new(shared))
    }

    /// Holds it where the log stands now. The time to read is then asked for, which is no earlier, and the hold
    /// [raised](Hold::raise) to it.
    pub(super) fn hold(&self) -> Hold {
        let mut held = self.held();
        let time = *self.0.appended.borrow();
        *held.entry(time).or_default() += 1;
        Hold { barrier: self.clone(), time }
    }

    /// The earliest time that is held.
    pub(super) fn lowest(&self) -> Option<Timestamp> {
        self.held().keys().next().copied()
    }

    /// Notes that everything up to this time is appended. The writer calls it under [`Self::lowest`] only.
    pub(super) fn note_appended(&self, time: Timestamp) {
        let _held = self.held();
        self.0.appended.send_if_modified(|appended| {
            let later = time > *appended;
            *appended = time.max(*appended);
            later
        });
    }

    /// Waits until everything up to this time is appended.
    pub(super) async fn appended(&self, time: Timestamp) {
        // The sender lives in `self`.
        self.0.appended.subscribe().wait_for(|appended| *appended >= time).await.ok();
    }

    /// Waits until the lowest held time is another one than `lowest`. Cancel safe.
    pub(super) async fn passes(&self, lowest: Option<Timestamp>) {
        let mut changes = self.0.changes.subscribe();
        while self.lowest() == lowest {
            changes.changed().await.ok();
        }
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<Timestamp, usize>> {
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hold {
    /// Holds a later time instead.
    pub(super) fn raise(&mut self, time: Timestamp) {
        let mut held = self.barrier.held();
        release(&mut held, self.time);
        *held.entry(time).or_default() += 1;
        drop(held);
        self.time = time;
        self.barrier.0.changes.send_modify(|n| *n += 1);
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        release(&mut self.barrier.held(), self.time);
        self.barrier.0.changes.send_modify(|n| *n += 1);
    }
}

fn release(held: &mut BTreeMap<Timestamp, usize>, time: Timestamp) {
    if let Some(holders) = held.get_mut(&time) {
        *holders -= 1;
        if *holders == 0 {
            held.remove(&time);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(time: u32) -> Timestamp {
        Timestamp { time, increment: 0 }
    }

    #[test]
    fn the_lowest_of_several_holds_counts_until_it_is_raised_or_dropped() {
        let barrier = Barrier::new(at(5));
        assert_eq!(barrier.lowest(), None);
        let mut first = barrier.hold();
        let second = barrier.hold();
        first.raise(at(9));
        assert_eq!(barrier.lowest(), Some(at(5)));
        drop(second);
        assert_eq!(barrier.lowest(), Some(at(9)));
        drop(first);
        assert_eq!(barrier.lowest(), None);
    }

    #[tokio::test]
    async fn a_reader_waits_until_the_log_has_reached_its_time() {
        let barrier = Barrier::new(at(5));
        let mut waiting = std::pin::pin!(barrier.appended(at(7)));
        assert!(futures_util::poll!(waiting.as_mut()).is_pending());
        barrier.note_appended(at(7));
        waiting.await;
        barrier.note_appended(at(6));
        assert_eq!(barrier.hold().time, at(7));
    }
}
