//! The archive loop of a stream: rolls what is due, trims the log and lets records expire, beside the capture.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::Service;
use super::keeping::Keeper;
use super::members::Seat;
use crate::archive::roll::{Extent, Open, Roller};
use crate::backoff::Backoff;
use crate::error::{Error, Kind};
use crate::stream_id::StreamId;

/// How often the archive loop looks whether there is something to roll or to trim.
const ROLL_TICK: Duration = Duration::from_secs(1);
/// How often trimming is considered.
const TRIM_EVERY: Duration = Duration::from_secs(10);

impl Service {
    /// Rolls and trims until stopped. Its faults are its own: capture goes on, and the log holds what is not rolled.
    pub(super) async fn archive_loop(
        &self,
        seat: &Seat,
        mut keeper: Keeper,
        appended_bytes: &AtomicU64,
        stop: &CancellationToken,
    ) {
        let stream = &seat.stream;
        let mut backoff = Backoff::default();
        let mut failed = false;
        let mut roller = None;
        seat.tally.all_rolled();
        while !stop.is_cancelled() {
            let ended = tokio::select! {
                ended = self.archive_until_fault(seat, &mut roller, &mut keeper, appended_bytes, &mut failed) => ended,
                () = stop.cancelled() => return,
            };
            // A store that comes and goes need not be asked for every manifest each time. What else happened wants a new look.
            if ended.kind() != Kind::Unavailable {
                roller = None;
            }
            if !std::mem::replace(&mut failed, true) {
                backoff.reset();
            }
            seat.tally.archive_failed(ended.kind());
            let delay = backoff.next_delay();
            match ended.kind() {
                Kind::Corrupt | Kind::Invalid => {
                    error!(source = %stream, error = ended.explain(), hint = ended.hint_text(), "the archive of this source needs a human; capture goes on");
                }
                _ => {
                    warn!(source = %stream, error = ended.explain(), retry_in_ms = delay.as_millis() as u64, "archiving failed; the log holds what is not rolled")
                }
            }
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    async fn archive_until_fault(
        &self,
        seat: &Seat,
        roller: &mut Option<Roller>,
        keeper: &mut Keeper,
        appended_bytes: &AtomicU64,
        failed: &mut bool,
    ) -> Error {
        let work = async {
            let roller = match roller {
                Some(roller) => roller,
                None => roller.insert(self.roller(&seat.stream).await?),
            };
            seat.tally.rolled_to(roller.end_seq());
            let mut pass = Pass::default();
            let mut publisher = Publisher::default();
            let mut trimmed = Instant::now();
            loop {
                let appended = appended_bytes.load(Ordering::Relaxed);
                if let Some(Open { bytes: 0, due: None }) = pass.open
                    && appended > pass.appended
                {
                    // The first records since the last pass begin the next segment, and its age.
                    pass.open = Some(Open { bytes: 0, due: roller.due_time().await? });
                }
                if pass.is_due(appended, self.config.archive.segment_max_bytes) {
                    pass = Pass { open: Some(roller.roll(Extent::Due).await?.open), appended };
                    seat.tally.rolled_to(roller.end_seq());
                    *failed = false;
                }
                seat.tally.all_rolled();
                if trimmed.elapsed() > TRIM_EVERY || self.config.archive.hot_retention < TRIM_EVERY {
                    roller.trim().await?;
                    trimmed = Instant::now();
                }
                if let Some(kind) = keeper.tick().await {
                    seat.tally.archive_failed(kind);
                }
                publisher.publish(roller, &seat.stream).await;
                tokio::time::sleep(ROLL_TICK).await;
            }
        };
        match work.await {
            Ok(never) => never,
            Err(error) => error,
        }
    }
}

/// Publishes what is rolled in the source's table. Its faults hold up neither rolling nor trimming: the table is derived.
#[derive(Default)]
struct Publisher {
    backoff: Backoff,
    /// Not before then: it has failed.
    again: Option<Instant>,
}

impl Publisher {
    async fn publish(&mut self, roller: &mut Roller, stream: &StreamId) {
        if self.again.is_some_and(|again| Instant::now() < again) {
            return;
        }
        let Err(failed) = roller.publish().await else {
            *self = Publisher::default();
            return;
        };
        let delay = self.backoff.next_delay();
        self.again = Some(Instant::now() + delay);
        let (text, hint, retry_in_ms) = (failed.explain(), failed.hint_text(), delay.as_millis() as u64);
        if failed.kind().needs_a_human() {
            error!(source = %stream, error = text, hint, "the table of this source needs a human; rolling goes on");
        } else {
            warn!(source = %stream, error = text, retry_in_ms, "publishing segments in the table failed; rolling goes on");
        }
    }
}

/// What the last pass over the log left, and when that was.
#[derive(Default)]
struct Pass {
    /// `None` before the first pass.
    open: Option<Open>,
    /// `appended_bytes` at that time.
    appended: u64,
}

impl Pass {
    /// Whether another pass would roll something.
    fn is_due(&self, appended: u64, segment_max_bytes: usize) -> bool {
        let Some(open) = self.open else { return true };
        let bytes = open.bytes + usize::try_from(appended - self.appended).unwrap_or(usize::MAX / 2);
        let old_enough = open.due.is_some_and(|due| due.at(bytes) <= SystemTime::now());
        old_enough || bytes >= segment_max_bytes
    }
}
