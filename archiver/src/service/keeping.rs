//! What is kept and what is not, for one stream: lets records expire, copies legal holds into the archive, and tells the capture
//! what to record of both, and of what people did with what is kept.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tracing::{error, warn};

use super::Service;
use crate::archive::retention::{Expired, Removal, Retention};
use crate::capture::keeping::Keeping;
use crate::error::{Error, Kind, Result};
use crate::stream_id::StreamId;

/// How often legal holds and notices are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How much later holds are looked at where they could not be copied.
const COPY_AGAIN: Duration = Duration::from_secs(60);
/// How often what is old enough is looked for, at most and at least; in between a hundredth of the retention.
const EXPIRE_EVERY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3_600));

/// Keeps one stream's records as long as they are to be kept, for as long as this process holds its lease.
pub(super) struct Keeper {
    service: Arc<Service>,
    stream: StreamId,
    to_capture: watch::Sender<Keeping>,
    looked: Option<Instant>,
    expired: Option<Instant>,
    /// The last of the holds that are known to have their copies.
    copied: i64,
    /// Whether something may have been removed since it was last looked up.
    removed: bool,
    removal: Option<Removal>,
}

impl Keeper {
    pub(super) fn new(service: Arc<Service>, stream: StreamId) -> Keeper {
        let to_capture = watch::Sender::new(Keeping::default());
        Keeper {
            service,
            stream,
            to_capture,
            looked: None,
            expired: None,
            copied: 0,
            removed: true,
            removal: None,
        }
    }

    /// What the capture is to record.
    pub(super) fn keeping(&self) -> watch::Receiver<Keeping> {
        self.to_capture.subscribe()
    }

    /// Looks up what is to be recorded. Where the archive can't be asked, that waits, and capture does not.
    pub(super) async fn look(&mut self) -> Result<()> {
        self.looked = Some(Instant::now());
        let holds = self.service.log.holds().await?;
        if holds.last > self.copied {
            match self.service.archive.copy_holds(&holds.list).await {
                Ok(()) => self.copied = holds.last,
                Err(error) => {
                    self.said(error);
                    self.looked = Some(Instant::now() + COPY_AGAIN);
                }
            }
        }
        // Not every time: it takes listings.
        if self.removed {
            let first = self.service.log.checkpoint(&self.stream).await?.map_or(1, |c| c.expired_end);
            match self.retention().removed_since(first).await {
                Ok(removal) => (self.removal, self.removed) = (removal, false),
                Err(error) => drop(self.said(error)),
            }
        }
        let notices = self.service.log.notices(&self.stream).await?;
        let keeping = Keeping { holds, removal: self.removal.clone(), notices };
        self.to_capture.send_if_modified(|known| {
            let other = *known != keeping;
            *known = keeping;
            other
        });
        Ok(())
    }

    /// Lets expire what is old enough.
    pub(super) async fn expire(&mut self) -> Result<Expired> {
        self.expired = Some(Instant::now());
        // Also where it fails half way.
        self.removed = true;
        let expired = self.retention().expire().await?;
        if expired.more {
            self.expired = None;
        }
        Ok(expired)
    }

    /// Does what is due by now; what fails is said and tried again.
    pub(super) async fn tick(&mut self) -> Option<Kind> {
        let mut failed = None;
        let due = |last: Option<Instant>, every: Duration| last.is_none_or(|last| last.elapsed() >= every);
        let mut look = due(self.looked, LOOK_EVERY);
        if let Some(retention) = self.service.config.archive.retention
            && due(self.expired, (retention / 100).clamp(EXPIRE_EVERY.0, EXPIRE_EVERY.1))
        {
            match self.expire().await {
                Ok(expired) => look |= expired.segments > 0,
                Err(error) => failed = Some(self.said(error)),
            }
        }
        if look && let Err(error) = self.look().await {
            failed = Some(self.said(error));
        }
        failed
    }

    fn retention(&self) -> Retention {
        let service = &self.service;
        Retention {
            stream: self.stream.clone(),
            log: service.log.clone(),
            archive: service.archive.clone(),
            config: service.config.archive.clone(),
            by: service.leases.holder().to_owned(),
        }
    }

    fn said(&self, error: Error) -> Kind {
        let source = &self.stream;
        match error.kind() {
            Kind::Corrupt | Kind::Invalid => {
                error!(%source, error = error.explain(), hint = error.hint_text(), "retention needs a human; nothing more expires, all else goes on");
            }
            _ => {
                warn!(%source, error = error.explain(), "retention or legal holds could not be seen to; tried again");
            }
        }
        error.kind()
    }
}
