//! Keeps the records of one document in the order of its changes while documents are read beside the stream.
//!
//! Whoever reads documents holds the barrier at the time that is read. No event after the lowest held time is appended
//! until the documents are, so that in the log, too, a document stands before the changes that came after it was read.
//! Every hold is at the present of its beginning, so the stream follows however many readers there are.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bson::Timestamp;
use tokio::sync::watch;

/// Shared by the writer and those that read documents. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Barrier(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Everything up to this time is appended.
    appended: watch::Sender<Timestamp>,
    /// Counts releases, to wake the writer.
    released: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    /// How many hold it at each time.
    held: BTreeMap<Timestamp, usize>,
    /// Events up to this time are appended, or are on their way into the log and can't be held any more.
    passed: Timestamp,
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
            state: Mutex::new(State { held: BTreeMap::new(), passed: appended }),
            appended: watch::Sender::new(appended),
            released: watch::Sender::new(0),
        };
        Barrier(Arc::new(shared))
    }

    /// Holds it at the present, which has just been asked for, or at a later time where the log has passed that in between.
    /// The time to read at is the hold's.
    pub(super) fn hold(&self, present: Timestamp) -> Hold {
        let mut state = self.state();
        let time = present.max(state.passed);
        *state.held.entry(time).or_default() += 1;
        Hold { barrier: self.clone(), time }
    }

    /// Lets events up to this time pass, or up to the lowest held time where that is earlier. Returns the lowest held time,
    /// after which none may be appended.
    pub(super) fn pass(&self, last: Timestamp) -> Option<Timestamp> {
        let mut state = self.state();
        let lowest = state.held.keys().next().copied();
        let passing = lowest.map_or(last, |lowest| lowest.min(last));
        state.passed = state.passed.max(passing);
        lowest
    }

    /// Notes that everything up to this time is appended. The writer calls it with what it has passed only.
    pub(super) fn note_appended(&self, time: Timestamp) {
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
    pub(super) async fn moves(&self, lowest: Option<Timestamp>) {
        let mut released = self.0.released.subscribe();
        while self.state().held.keys().next().copied() == lowest {
            released.changed().await.ok();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = self.barrier.state();
        if let Some(holders) = state.held.get_mut(&self.time) {
            *holders -= 1;
            if *holders == 0 {
                state.held.remove(&self.time);
            }
        }
        drop(state);
        self.barrier.0.released.send_modify(|n| *n += 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(time: u32) -> Timestamp {
        Timestamp { time, increment: 0 }
    }

    #[test]
    fn no_event_passes_the_lowest_of_several_holds_until_it_is_dropped() {
        let barrier = Barrier::new(at(5));
        let first = barrier.hold(at(7));
        let second = barrier.hold(at(9));
        assert_eq!(barrier.pass(at(20)), Some(at(7)));
        drop(first);
        assert_eq!(barrier.pass(at(20)), Some(at(9)));
        drop(second);
        assert_eq!(barrier.pass(at(20)), None);
    }

    #[test]
    fn what_is_on_its_way_into_the_log_can_t_be_held_any_more() {
        let barrier = Barrier::new(at(5));
        assert_eq!(barrier.hold(at(3)).time, at(5));
        assert_eq!(barrier.pass(at(8)), None);
        let hold = barrier.hold(at(6));
        assert_eq!(hold.time, at(8));
        // Held back, so not passed: it can still be held.
        barrier.pass(at(20));
        assert_eq!(barrier.hold(at(7)).time, at(8));
    }

    #[tokio::test]
    async fn the_writer_is_woken_where_a_hold_was_dropped_before_it_waits() {
        let barrier = Barrier::new(at(5));
        let hold = barrier.hold(at(7));
        let lowest = barrier.pass(at(20));
        drop(hold);
        barrier.moves(lowest).await;
    }

    #[tokio::test]
    async fn a_reader_waits_until_the_log_has_reached_its_time() {
        let barrier = Barrier::new(at(5));
        let mut waiting = std::pin::pin!(barrier.appended(at(7)));
        assert!(futures_util::poll!(waiting.as_mut()).is_pending());
        barrier.note_appended(at(7));
        waiting.await;
    }
}
