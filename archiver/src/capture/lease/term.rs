//! How long a lease is certain to hold, by this process's monotonic clock: counted from before the server was asked, so that it
//! ends here before it ends there, whatever happens to the answers.

use std::time::{Duration, Instant};

use tokio::sync::watch;

/// The term of one lease.
#[derive(Debug)]
pub(super) struct Term {
    /// When the lease was taken.
    pub(super) since: Instant,
    end: watch::Sender<End>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// It runs out then, unless it is renewed.
    At(Instant),
    /// Another process has the lease.
    Taken,
}

impl Term {
    pub(super) fn new(end: Instant) -> Self {
        Term { since: Instant::now(), end: watch::Sender::new(End::At(end)) }
    }

    /// Goes on until `end`. A term that is over stays over: its holder may have stopped already.
    pub(super) fn extend(&self, end: Instant) {
        if !self.is_over() {
            self.end.send_if_modified(|old| {
                let longer = matches!(*old, End::At(before) if before < end);
                if longer {
                    *old = End::At(end);
                }
                longer
            });
        }
    }

    /// Ends at once: another process has the lease.
    pub(super) fn take_away(&self) {
        self.end.send_replace(End::Taken);
    }

    pub(super) fn is_taken(&self) -> bool {
        *self.end.borrow() == End::Taken
    }

    pub(super) fn is_over(&self) -> bool {
        self.left().is_zero()
    }

    fn left(&self) -> Duration {
        match *self.end.borrow() {
            End::At(end) => end.saturating_duration_since(Instant::now()),
            End::Taken => Duration::ZERO,
        }
    }

    /// Waits for the end. Cancel safe.
    pub(super) async fn over(&self) {
        let mut end = self.end.subscribe();
        loop {
            let left = self.left();
            if left.is_zero() {
                return;
            }
            // Renewed meanwhile, or over: both are seen in the next round.
            tokio::time::timeout(left, end.changed()).await.ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(600);

    #[tokio::test]
    async fn a_term_that_is_not_renewed_is_over_and_stays_over() {
        let term = Term::new(Instant::now() + Duration::from_millis(10));
        term.over().await;
        assert!(term.is_over() && !term.is_taken());
        term.extend(Instant::now() + LONG);
        assert!(term.is_over());
    }

    #[tokio::test]
    async fn a_renewed_term_goes_on_and_ends_at_once_when_the_lease_is_taken() {
        let term = Term::new(Instant::now() + Duration::from_secs(60));
        term.extend(Instant::now() + LONG);
        let mut over = std::pin::pin!(term.over());
        assert!(futures_util::poll!(over.as_mut()).is_pending());
        assert!(!term.is_over());
        term.take_away();
        over.await;
        assert!(term.is_over() && term.is_taken());
        term.extend(Instant::now() + LONG);
        assert!(term.is_over() && term.is_taken());
    }
}
