//! Takes part in the sharing of streams among all living archivers: announces this one, looks who holds what, and says to each
//! stream's task whether it is wanted here.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::balance::share;
use super::metrics::Tally;
use crate::capture::headroom::Gauge;
use crate::capture::lease::{Announcement, Ask, Board, Instance, Leases, Reloaded};
use crate::capture::retry::Retry;
use crate::error::{Kind, Result};
use crate::stream_id::StreamId;

/// How often all leases are looked at, with one query for all of them.
pub(super) const POLL: Duration = Duration::from_millis(200);
/// How long a stream may be free before anybody takes it who can: whoever is to have it is not quick enough, or gone.
const OVERDUE: Duration = Duration::from_secs(1);
/// A stream is not given up for the sake of an even spread before it has been held for this long, or for one lease time where
/// that is shorter: so those who see things differently for a moment do not push it to and fro.
const SETTLED: Duration = Duration::from_secs(5);
/// For how long a stream that kept failing here is left to others.
const SHUNNED: Duration = Duration::from_secs(300);

/// What one stream's task and the sharing of streams say to each other.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) stream: StreamId,
    /// Where it stands and what is measured, while the stream runs here.
    pub(super) headroom: Arc<Gauge>,
    /// What happened to it here.
    pub(super) tally: Tally,
    wanted: watch::Sender<bool>,
    /// Which withheld events are to be tried again.
    retry: watch::Sender<Option<Retry>>,
    health: Mutex<Health>,
    changed: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Health {
    /// What it has stopped for here, until a human mends it.
    halted: Option<Kind>,
    /// When it last failed, where it kept failing.
    failed: Option<Instant>,
}

impl Seat {
    /// `changed` wakes the [`Members`].
    pub(super) fn new(stream: StreamId, changed: Arc<Notify>) -> Self {
        Seat {
            stream,
            headroom: Arc::default(),
            tally: Tally::default(),
            wanted: watch::Sender::new(false),
            retry: watch::Sender::new(None),
            health: Mutex::default(),
            changed,
        }
    }

    /// Which withheld events are to be tried again, while the stream runs here.
    pub(super) fn retries(&self) -> watch::Receiver<Option<Retry>> {
        self.retry.subscribe()
    }

    /// Waits until the stream is wanted here. Cancel safe.
    pub(super) async fn wanted(&self) {
        if !*self.wanted.borrow() {
            self.headroom.forget();
        }
        // The sender lives in `self`.
        self.wanted.subscribe().wait_for(|wanted| *wanted).await.ok();
    }

    /// Waits until the stream is to be given up. Cancel safe.
    pub(super) async fn unwanted(&self) {
        self.wanted.subscribe().wait_for(|wanted| !wanted).await.ok();
    }

    /// Says that the stream has stopped here until a human mends it.
    pub(super) fn halt(&self, kind: Kind) {
        self.health().halted = Some(kind);
        self.changed.notify_one();
    }

    /// Says that a stream that has halted is tried again.
    pub(super) fn revive(&self) {
        *self.health() = Health::default();
        self.changed.notify_one();
    }

    /// Says that the stream keeps failing here.
    pub(super) fn fails(&self) {
        self.health().failed = Some(Instant::now());
        self.changed.notify_one();
    }

    /// What it has stopped for here, until a human mends it; `None`: it has not.
    pub(super) fn halted(&self) -> Option<Kind> {
        self.health().halted
    }

    fn is_halted(&self) -> bool {
        self.halted().is_some()
    }

    fn is_failing(&self) -> bool {
        self.health().failed.is_some_and(|at| at.elapsed() < SHUNNED)
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// This archiver among all that live.
pub(super) struct Members {
    pub(super) leases: Leases,
    pub(super) seats: Vec<Arc<Seat>>,
    pub(super) lease_time: Duration,
    /// What the others are told, but for the streams.
    pub(super) about: Announcement,
    /// A stream halts or fails.
    pub(super) changed: Arc<Notify>,
    /// Gets the requests to read the configuration again, once each.
    pub(super) requests: mpsc::Sender<String>,
    /// How that went the last time.
    pub(super) reloaded: watch::Receiver<Option<Reloaded>>,
}

impl Members {
    /// Takes part until stopped, and takes leave.
    pub(super) async fn take_part(self, stop: CancellationToken) {
        let (mut free_since, mut passed_on) = (BTreeMap::new(), HashSet::new());
        let mut failed = false;
        let taking_part = async {
            loop {
                match self.round(&mut free_since, &mut passed_on).await {
                    Ok(()) => failed = false,
                    // What is held goes on as long as the leases can be renewed.
                    Err(error) if !std::mem::replace(&mut failed, true) => {
                        warn!(error = error.explain(), "can't see what the other archivers do; trying again");
                    }
                    Err(_) => {}
                }
                tokio::select! {
                    () = tokio::time::sleep(POLL) => {}
                    () = self.changed.notified() => {}
                }
            }
        };
        tokio::select! {
            () = taking_part => {}
            // At once, so that nobody waits for this one to take what the others give up.
            () = stop.cancelled() => {
                if let Err(error) = self.leases.leave().await {
                    debug!(error = error.explain(), "the announcement was not taken back; it expires by itself");
                }
            }
        }
    }

    async fn round(
        &self,
        free_since: &mut BTreeMap<StreamId, Instant>,
        passed_on: &mut HashSet<String>,
    ) -> Result<()> {
        let announcement = self.announcement();
        if self.leases.announcement().as_ref() != Some(&announcement) {
            self.leases.announce(announcement.clone()).await?;
        }
        let mut board = self.leases.look().await?;
        self.put_own_truth(&mut board, announcement);
        free_since.retain(|stream, _| !board.held.contains_key(stream));
        let share = share(self.leases.holder(), &board);
        for seat in &self.seats {
            let wanted = self.wants(seat, &board, &share, free_since);
            seat.wanted.send_if_modified(|before| std::mem::replace(before, wanted) != wanted);
        }
        self.pass_on(&board, passed_on);
        if board.expired
            && let Err(error) = self.leases.sweep().await
        {
            debug!(error = error.explain(), "announcements of archivers that are gone were not removed");
        }
        Ok(())
    }

    fn announcement(&self) -> Announcement {
        let named = |seats: &dyn Fn(&Seat) -> bool| {
            self.seats.iter().filter(|seat| seats(seat)).map(|seat| seat.stream.clone()).collect()
        };
        Announcement {
            streams: named(&|seat| !seat.is_halted()),
            failing: named(&|seat| !seat.is_halted() && seat.is_failing()),
            reloaded: self.reloaded.borrow().clone(),
            ..self.about.clone()
        }
    }

    /// Passes on what operators ask for: of the holder of a stream, or of everybody.
    fn pass_on(&self, board: &Board, passed_on: &mut HashSet<String>) {
        passed_on.retain(|id| board.requests.iter().any(|request| request.id == *id));
        for request in board.requests.iter().filter(|request| request.ask == Ask::Reload) {
            // Full, or nobody reloads here: then it is asked again in the next round, or for nothing.
            if !passed_on.contains(&request.id) && self.requests.try_send(request.id.clone()).is_ok() {
                passed_on.insert(request.id.clone());
            }
        }
        for seat in &self.seats {
            let asked = board.requests.iter().find_map(|request| match &request.ask {
                Ask::Retry(stream, seqs) if *stream == seat.stream => {
                    Some(Retry { request: request.id.clone(), seqs: seqs.clone() })
                }
                _ => None,
            });
            let asked = asked.filter(|_| self.leases.held_for(&seat.stream).is_some());
            seat.retry.send_if_modified(|before| {
                let other = *before != asked;
                if other {
                    *before = asked;
                }
                other
            });
        }
    }

    /// What this process holds and is willing to run is known better here than from what was read a moment ago.
    fn put_own_truth(&self, board: &mut Board, announcement: Announcement) {
        let me = self.leases.holder();
        board.held.retain(|_, holder| holder != me);
        for seat in &self.seats {
            if self.leases.held_for(&seat.stream).is_some() {
                board.held.insert(seat.stream.clone(), me.to_owned());
            }
        }
        board.instances.retain(|instance| instance.holder != me);
        board.instances.push(Instance {
            holder: me.to_owned(),
            streams: announcement.streams,
            failing: announcement.failing,
            fresh: true,
        });
    }

    fn wants(
        &self,
        seat: &Seat,
        board: &Board,
        share: &BTreeSet<StreamId>,
        free_since: &mut BTreeMap<StreamId, Instant>,
    ) -> bool {
        let stream = &seat.stream;
        let mine = share.contains(stream);
        match self.leases.held_for(stream) {
            Some(held_for) => mine || held_for < SETTLED.min(self.lease_time),
            None if board.held.contains_key(stream) => false,
            None => {
                let since = free_since.entry(stream.clone()).or_insert_with(Instant::now);
                !seat.is_halted() && (mine || since.elapsed() > OVERDUE)
            }
        }
    }
}
