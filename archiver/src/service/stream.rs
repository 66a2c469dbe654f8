//! One stream for as long as this process runs: it waits for its turn, captures and archives under its lease, gives it up
//! again, and starts over after faults.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bson::Timestamp;
use futures_util::FutureExt;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::keeping::Keeper;
use super::members::{POLL, Seat};
use super::{STOP_GRACE, Service};
use crate::archive::roll::{Extent, check_continues};
use crate::backoff::Backoff;
use crate::capture::lease::Lease;
use crate::capture::{Capture, Plugins, check_partitions};
use crate::config::SourceConfig;
use crate::deployment::operation_time;
use crate::error::{Error, Kind, Result};
use crate::fault::Fault;
use crate::stream_id::StreamId;

/// How often `run --once` asks for a lease that another process holds.
const LEASE_RETRY: Duration = Duration::from_secs(1);
/// How much longer than a lease holds `run --once` waits for that of a process that was killed.
const LEASE_PATIENCE: Duration = Duration::from_secs(5);
/// How long preparing the audit collection may take. What happens under a lease ends with it; this does not.
const PREPARE_LIMIT: Duration = Duration::from_secs(30);
/// How often a source that has stopped says so again.
const HALTED_REMINDER: Duration = Duration::from_secs(60);
/// After this long without a fault the faults before it are forgotten.
const HEALTHY: Duration = Duration::from_secs(60);
/// After this many faults in a row a stream is left to other archivers, where there are any.
const FAILS: u32 = 2;
/// How many times `run --once` tries a source again after a fault that may pass.
const ONCE_ATTEMPTS: u32 = 3;

/// What it takes to run one stream.
pub(super) struct StreamTask {
    pub(super) service: Arc<Service>,
    pub(super) source: SourceConfig,
    pub(super) plugins: watch::Receiver<Plugins>,
    /// Changes whenever the configuration was read again.
    pub(super) reloads: watch::Receiver<()>,
    pub(super) seat: Arc<Seat>,
    pub(super) once: bool,
}

impl StreamTask {
    fn stream(&self) -> &StreamId {
        &self.seat.stream
    }

    /// Runs the stream for as long as it takes, starting over after faults.
    pub(super) async fn run(self) -> Result<()> {
        let stop = &self.service.stop;
        let mut backoff = Backoff::default();
        let mut failures = 0;
        let mut reloads = self.reloads.clone();
        loop {
            reloads.mark_unchanged();
            let started = Instant::now();
            // A panic is a fault like others: the state outside is consistent, and the checkpoint is where to go on.
            let ran = AssertUnwindSafe(self.hold_and_run()).catch_unwind().await;
            let ran = ran.unwrap_or_else(|_| Err(Error::internal("a source's task panicked; this is a bug")));
            let error = match ran {
                Ok(()) if self.once || stop.is_cancelled() => return Ok(()),
                // Given up for an even share, and taken again when it is wanted here.
                Ok(()) => continue,
                Err(error) => error,
            };
            if stop.is_cancelled() {
                // A fault while stopping loses nothing: the checkpoint is where the next start goes on.
                warn!(source = %self.stream(), error = error.explain(), "stopped with an error");
                return Ok(());
            }
            if started.elapsed() > HEALTHY {
                backoff.reset();
                failures = 0;
            }
            failures += 1;
            let enough = self.once && (failures >= ONCE_ATTEMPTS || error.kind() == Kind::Fenced);
            if error.kind().needs_a_human() || enough {
                if !self.is_revived(&error, &mut reloads).await {
                    return Err(error);
                }
                backoff.reset();
                failures = 0;
                continue;
            }
            if failures >= FAILS && error.kind() != Kind::Fenced {
                self.seat.fails();
            }
            self.seat.tally.restarted(error.kind());
            let delay = backoff.next_delay();
            self.say_again(&error, delay);
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = stop.cancelled() => return Ok(()),
            }
        }
    }

    fn say_again(&self, error: &Error, delay: Duration) {
        let (source, retry_in_ms) = (self.stream(), delay.as_millis() as u64);
        match error.fault() {
            Some(Fault::NeedsHuman) => {
                error!(%source, error = error.explain(), hint = error.hint_text(), retry_in_ms, "this does not pass by itself; tried again until somebody has mended it");
            }
            _ => {
                warn!(%source, error = error.explain(), retry_in_ms, "starting over from the checkpoint");
            }
        }
    }

    /// Halts: says that a source has stopped, again and again while others work. Returns whether it is to be tried again, because
    /// the configuration was read again since it began.
    async fn is_revived(&self, error: &Error, reloads: &mut watch::Receiver<()>) -> bool {
        // It may have failed before it had what was read.
        if reloads.has_changed().unwrap_or(false) {
            warn!(source = %self.stream(), error = error.explain(), "tried again, because the configuration was read again meanwhile");
            return true;
        }
        self.seat.halt(error.kind());
        if self.service.working.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.service.none_left.cancel();
        }
        loop {
            error!(source = %self.stream(), error = error.explain(), hint = error.hint_text(), "this source has stopped and needs a human");
            if self.once {
                return false;
            }
            tokio::select! {
                biased;
                () = self.service.none_left.cancelled() => return false,
                () = self.service.stop.cancelled() => return false,
                Ok(()) = reloads.changed() => break,
                () = tokio::time::sleep(HALTED_REMINDER) => {}
            }
        }
        self.service.working.fetch_add(1, Ordering::Relaxed);
        if self.service.none_left.is_cancelled() {
            // The last of the others has halted at this very moment, and everything ends.
            return false;
        }
        self.seat.revive();
        info!(source = %self.stream(), "the configuration was read again: this source is tried again");
        true
    }

    /// Takes the lease, captures and archives under it, and gives it back. Ends without error when stopped, when another
    /// archiver is to have the stream, and with `once` when everything is done.
    async fn hold_and_run(&self) -> Result<()> {
        check_partitions(&self.service.log, &self.source).await?;
        // Before the lease, so that a hand-over does not wait for it.
        let prepared = tokio::time::timeout(PREPARE_LIMIT, self.service.log.prepare(&self.source.name)).await;
        prepared
            .unwrap_or_else(|_| Err(Error::unavailable("preparing the audit collection took too long")))?;
        if let Err(error) = self.service.leases.sweep().await {
            warn!(error = error.explain(), "announcements of archivers that are gone were not removed");
        }
        let Some(lease) = self.wait_for_lease().await? else { return Ok(()) };
        let stop = self.service.stop.child_token();
        let mut in_order = false;
        let outcome = tokio::select! {
            done = self.run_under_lease(&lease, &stop) => { in_order = done.is_ok(); done }
            // Whatever is cut off here is either durable or not, and the checkpoint tells.
            lost = lease.lost() => Err(lost),
            () = self.told_to_stop(&stop) => {
                info!(source = %self.stream(), "stopping took too long; the batch that was under way is given up");
                Ok(())
            }
        };
        if let Err(error) = lease.release(outcome.as_ref().err(), in_order).await {
            warn!(source = %self.stream(), error = error.explain(), "the lease was not given back; it runs out by itself");
        }
        outcome
    }

    /// Waits until the stream is to stop here, says so to `stop`, and gives it time to end its batch.
    async fn told_to_stop(&self, stop: &CancellationToken) {
        tokio::select! {
            () = self.service.stop.cancelled() => {}
            () = self.seat.unwanted(), if !self.once => {
                info!(source = %self.stream(), "handing over to another archiver, for an even share");
                stop.cancel();
            }
        }
        tokio::time::sleep(STOP_GRACE).await;
    }

    /// The lease, once it is this process's turn; `None` when stopped before.
    async fn wait_for_lease(&self) -> Result<Option<Lease>> {
        let asked = Instant::now();
        let patience = self.service.config.capture.lease_time + LEASE_PATIENCE;
        let mut said = false;
        loop {
            if !self.once {
                tokio::select! {
                    () = self.seat.wanted() => {}
                    () = self.service.stop.cancelled() => return Ok(None),
                }
            }
            if let Some(lease) = self.service.leases.acquire(self.stream()).await? {
                return Ok(Some(lease));
            }
            self.seat.headroom.forget();
            if self.once && asked.elapsed() > patience {
                return Err(Error::fenced(format!("another archiver writes this source source={}", self.stream()))
                    .hint("it captures everything already; `archiver roll` rolls what it has appended, or stop it first"));
            }
            if !std::mem::replace(&mut said, true) {
                info!(source = %self.stream(), "another archiver writes this source; waiting for its lease");
            }
            tokio::select! {
                () = tokio::time::sleep(if self.once { LEASE_RETRY } else { POLL }) => {}
                () = self.service.stop.cancelled() => return Ok(None),
            }
        }
    }

    async fn run_under_lease(&self, lease: &Lease, stop: &CancellationToken) -> Result<()> {
        let service = &self.service;
        match service.archive.last_manifest(self.stream()).await {
            Ok(None) => {}
            Ok(Some(last)) => check_continues(self.stream(), &service.log, &last).await?,
            // Capture does not wait for the archive: the log holds what can't be rolled, and rolling compares once more.
            Err(e) => {
                warn!(source = %self.stream(), error = e.explain(), "the archive can't be asked how far it is")
            }
        }
        let mut keeper = Keeper::new(Arc::clone(service), self.stream().clone());
        // Before anything is captured, so that what has expired now is recorded now.
        let expired = match self.once {
            true => keeper.expire().await.map(|_| ()),
            false => Ok(()),
        };
        keeper.look().await?;
        let appended_bytes = Arc::new(AtomicU64::new(0));
        let capture = Capture {
            stream: self.stream().clone(),
            source: self.source.clone(),
            limits: service.config.capture,
            client: service.client.clone(),
            log: service.log.clone(),
            archive: service.archive.clone(),
            plugins: self.plugins.clone(),
            retries: self.seat.retries(),
            keeping: keeper.keeping(),
            lease: lease.clone(),
            headroom: Arc::clone(&self.seat.headroom),
            appended_bytes: Arc::clone(&appended_bytes),
            stop: stop.clone(),
        };
        let _stop_the_other = stop.clone().drop_guard();
        if self.once {
            let until: Timestamp = operation_time(&service.client.database("admin")).await?;
            capture.run(Some(until)).await?;
            self.roll_everything().await?;
            return expired;
        }
        let capturing = async {
            let _stop_the_other = stop.clone().drop_guard();
            capture.run(None).await
        };
        let (captured, (), ()) = tokio::join!(
            capturing,
            service.archive_loop(&self.seat, keeper, &appended_bytes, stop),
            service.verify_loop(&self.seat, stop),
        );
        captured
    }

    async fn roll_everything(&self) -> Result<()> {
        if self.service.stop.is_cancelled() {
            return Ok(());
        }
        let mut roller = self.service.roller(self.stream()).await?;
        roller.roll(Extent::Everything).await?;
        roller.trim().await?;
        roller.publish().await
    }
}
