//! Runs capture and archive for every source until stopped. Any fault ends a source's loop and starts it again from
//! its checkpoint; what only a human can mend stops that source, loudly, and not the others.

use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use bson::Timestamp;
use futures_util::FutureExt;
use mongodb::Client;
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::archive::roll::{Extent, Open, Roller, check_continues};
use crate::archive::store::{Archive, Sealed};
use crate::audit_log::AuditLog;
use crate::backoff::Backoff;
use crate::capture::Capture;
use crate::capture::lease::Lease;
use crate::config::{Config, PluginConfig, SourceConfig};
use crate::deployment::{connect, operation_time, server_version};
use crate::error::{Error, Kind, Result};
use crate::plugin::PluginChain;
use crate::stream_id::StreamId;

/// How often the archive loop looks whether there is something to roll or to trim.
const ROLL_TICK: Duration = Duration::from_secs(1);
/// How often trimming is considered.
const TRIM_EVERY: Duration = Duration::from_secs(10);
/// How often a lease that another process holds is asked for.
const LEASE_RETRY: Duration = Duration::from_secs(1);
/// How much longer than a lease holds `run --once` waits for that of a process that was killed.
const LEASE_PATIENCE: Duration = Duration::from_secs(5);
/// How often a source that has stopped says so again.
const HALTED_REMINDER: Duration = Duration::from_secs(60);
/// How many times `run --once` tries a source again after a fault that may pass.
const ONCE_ATTEMPTS: u32 = 3;

/// Everything that the sources of this process share.
struct Service {
    config: Config,
    client: Client,
    log: AuditLog,
    archive: Archive,
    server: String,
    holder: String,
    building: Arc<Semaphore>,
    stop: CancellationToken,
    /// Streams that have not stopped for good.
    working: AtomicUsize,
    /// Cancelled when there are no such streams any more.
    none_left: CancellationToken,
}

/// Captures and archives every source of the configuration. With `once`: until everything that had happened when it
/// was called is in the archive. Otherwise until `stop` is cancelled, which is a clean end.
///
/// Fails with the first error that only a human can mend, once no source is left to run.
pub async fn run(config: Config, once: bool, stop: CancellationToken) -> Result<()> {
    // Plugins first: they need no server, and nothing may be read before they are all in order.
    let mut sources = Vec::new();
    for source in &config.sources {
        sources.push((source.clone(), Arc::new(load_chain(&config, source)?)));
    }
    let service = Arc::new(Service::connect(config, stop.clone()).await?);
    let mut running = JoinSet::new();
    for (source, chain) in sources {
        for stream in StreamId::all(&source.name, source.partitions) {
            let service = Arc::clone(&service);
            let (source, chain) = (source.clone(), Arc::clone(&chain));
            running.spawn(async move { service.run_stream(stream, source, chain, once).await });
        }
    }
    let mut first_error = None;
    while let Some(ended) = running.join_next().await {
        let ended = ended.unwrap_or_else(|e| Err(Error::internal("a source's task panicked").because(e)));
        if let Err(error) = ended {
            first_error.get_or_insert(error);
        }
    }
    match first_error {
        Some(error) => Err(error),
        None if once && stop.is_cancelled() => {
            Err(Error::unavailable("stopped before everything was archived")
                .hint("nothing is lost: the next run goes on from here"))
        }
        None => Ok(()),
    }
}

/// One segment that `roll` wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RolledSegment {
    /// The source's name.
    pub source: String,
    /// The segment's key.
    pub segment: String,
    /// How many records it holds.
    pub rows: u64,
    /// The first record's seq.
    pub first_seq: i64,
    /// One after the last record's seq.
    pub end_seq: i64,
}

/// Rolls what the log holds now, of one source or of all.
pub async fn roll(config: &Config, source: Option<&str>) -> Result<Vec<RolledSegment>> {
    let sources = match source {
        Some(name) => vec![config.source(name)?],
        None => config.sources.iter().collect(),
    };
    let service = Service::connect(config.clone(), CancellationToken::new()).await?;
    let mut segments = Vec::new();
    for source in sources {
        let mut roller = service.roller(&source.name).await?;
        for Sealed { manifest, .. } in roller.roll(Extent::Everything).await?.sealed {
            segments.push(RolledSegment {
                source: manifest.source,
                segment: manifest.segment,
                rows: manifest.rows,
                first_seq: manifest.first_seq,
                end_seq: manifest.end_seq,
            });
        }
    }
    Ok(segments)
}

/// Loads the plugins of a source, in its order.
pub fn load_chain(config: &Config, source: &SourceConfig) -> Result<PluginChain> {
    let plugin = |name: &String| config.plugins.iter().find(|p| p.name == *name);
    let plugins: Vec<&PluginConfig> = source.plugins.iter().filter_map(plugin).collect();
    PluginChain::load(&plugins, config.development)
}

impl Service {
    async fn connect(config: Config, stop: CancellationToken) -> Result<Self> {
        let archive = Archive::open(&config.archive)?;
        let client = connect(&config.mongodb_uri).await?;
        let server = server_version(&client.database("admin")).await?;
        // Also shows at once whether this is a replica set.
        operation_time(&client.database("admin")).await?;
        let log = AuditLog::connect(&config).await?;
        let holder = format!("{}:{}:{:08x}", host_name(), std::process::id(), rand::random::<u32>());
        Ok(Service {
            working: AtomicUsize::new(config.sources.iter().map(|s| s.partitions as usize).sum()),
            none_left: CancellationToken::new(),
            archive,
            client,
            server,
            log,
            holder,
            building: Arc::new(Semaphore::new(1)),
            stop,
            config,
        })
    }

    async fn roller(&self, source: &str) -> Result<Roller> {
        let building = Arc::clone(&self.building);
        Roller::open(
            source,
            self.log.clone(),
            self.archive.clone(),
            self.config.archive.clone(),
            self.server.clone(),
            building,
        )
        .await
    }

    /// Runs one stream for as long as it takes, starting over after faults.
    async fn run_stream(
        self: Arc<Self>,
        stream: StreamId,
        source: SourceConfig,
        chain: Arc<PluginChain>,
        once: bool,
    ) -> Result<()> {
        let mut backoff = Backoff::default();
        let mut attempts = 0;
        loop {
            let started = Instant::now();
            // A panic is a fault like others: the state outside is consistent, and the checkpoint is where to go on.
            let ran =
                AssertUnwindSafe(self.hold_and_run(&stream, &source, &chain, once)).catch_unwind().await;
            let ran = ran.unwrap_or_else(|_| Err(Error::internal("a source's task panicked; this is a bug")));
            let Err(error) = ran else { return Ok(()) };
            if self.stop.is_cancelled() {
                // A fault while stopping loses nothing: the checkpoint is where the next start goes on.
                warn!(source = %stream, error = error.explain(), "stopped with an error");
                return Ok(());
            }
            attempts += 1;
            let may_pass = matches!(error.kind(), Kind::Unavailable | Kind::Fenced | Kind::Internal);
            let enough = once && (attempts >= ONCE_ATTEMPTS || error.kind() == Kind::Fenced);
            if !may_pass || enough {
                self.stay_halted(&stream, &error, once).await;
                return Err(error);
            }
            if started.elapsed() > HALTED_REMINDER {
                backoff.reset();
            }
            let delay = backoff.next_delay();
            warn!(source = %stream, error = error.explain(), retry_in_ms = delay.as_millis() as u64, "starting over from the checkpoint");
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = self.stop.cancelled() => return Ok(()),
            }
        }
    }

    /// Says that a source has stopped, again and again while others work.
    async fn stay_halted(&self, stream: &StreamId, error: &Error, once: bool) {
        if self.working.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.none_left.cancel();
        }
        loop {
            error!(source = %stream, error = error.explain(), hint = error.hint_text(), "this source has stopped and needs a human");
            if once {
                return;
            }
            tokio::select! {
                biased;
                () = self.none_left.cancelled() => return,
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(HALTED_REMINDER) => {}
            }
        }
    }

    /// Takes the lease, captures and archives under it, and gives it back.
    async fn hold_and_run(
        &self,
        stream: &StreamId,
        source: &SourceConfig,
        chain: &Arc<PluginChain>,
        once: bool,
    ) -> Result<()> {
        self.log.prepare(&source.name).await?;
        let patience = if once { self.config.capture.lease_time + LEASE_PATIENCE } else { Duration::MAX };
        let Some(lease) = self.wait_for_lease(stream, patience).await? else { return Ok(()) };
        let outcome = self.run_under_lease(stream, source, chain, &lease, once).await;
        if let Err(error) = lease.release(outcome.as_ref().err()).await {
            warn!(source = %stream, error = error.explain(), "the lease was not given back; it runs out by itself");
        }
        outcome
    }

    async fn wait_for_lease(&self, stream: &StreamId, patience: Duration) -> Result<Option<Lease>> {
        let asked = Instant::now();
        let mut said = false;
        loop {
            if let Some(lease) =
                Lease::acquire(&self.log, stream, &self.holder, self.config.capture.lease_time).await?
            {
                return Ok(Some(lease));
            }
            if asked.elapsed() > patience {
                return Err(Error::fenced(format!("another archiver writes this source source={stream}"))
                    .hint("it captures everything already; `archiver roll` rolls what it has appended, or stop it first"));
            }
            if !said {
                info!(source = %stream, "another archiver writes this source; waiting for its lease");
                said = true;
            }
            tokio::select! {
                () = tokio::time::sleep(LEASE_RETRY) => {}
                () = self.stop.cancelled() => return Ok(None),
            }
        }
    }

    async fn run_under_lease(
        &self,
        stream: &StreamId,
        source: &SourceConfig,
        chain: &Arc<PluginChain>,
        lease: &Lease,
        once: bool,
    ) -> Result<()> {
        match self.archive.last_manifest(&source.name).await {
            Ok(None) => {}
            Ok(Some(last)) => check_continues(&source.name, &self.log, &last).await?,
            // Capture does not wait for the archive: the log holds what can't be rolled, and rolling compares once more.
            Err(e) => {
                warn!(source = %source.name, error = e.explain(), "the archive can't be asked how far it is")
            }
        }
        let stop = self.stop.child_token();
        let appended_bytes = Arc::new(AtomicU64::new(0));
        let capture = Capture {
            stream: stream.clone(),
            source: source.clone(),
            limits: self.config.capture,
            client: self.client.clone(),
            log: self.log.clone(),
            archive: self.archive.clone(),
            chain: Arc::clone(chain),
            lease: lease.clone(),
            appended_bytes: Arc::clone(&appended_bytes),
            stop: stop.clone(),
        };
        let until: Option<Timestamp> = match once {
            true => Some(operation_time(&self.client.database("admin")).await?),
            false => None,
        };
        let working = async {
            let _stop_the_other = stop.clone().drop_guard();
            match once {
                true => {
                    capture.run(until).await?;
                    self.roll_everything(&source.name).await
                }
                false => {
                    let (captured, ()) = tokio::join!(
                        async {
                            let _stop_the_other = stop.clone().drop_guard();
                            capture.run(None).await
                        },
                        self.archive_loop(&source.name, &appended_bytes, &stop)
                    );
                    captured
                }
            }
        };
        // A lease that can't be renewed ends the work where it is: whatever is cut off here is either durable or not,
        // and the checkpoint tells.
        tokio::select! {
            done = working => done,
            lost = keep_renewing(lease) => Err(lost),
        }
    }

    async fn roll_everything(&self, source: &str) -> Result<()> {
        if self.stop.is_cancelled() {
            return Ok(());
        }
        let mut roller = self.roller(source).await?;
        roller.roll(Extent::Everything).await?;
        roller.trim().await.map(|_| ())
    }

    /// Rolls and trims until stopped. Its faults are its own: capture goes on, and the log holds what is not rolled.
    async fn archive_loop(&self, source: &str, appended_bytes: &AtomicU64, stop: &CancellationToken) {
        let mut backoff = Backoff::default();
        let mut failed = false;
        while !stop.is_cancelled() {
            let ended = tokio::select! {
                ended = self.archive_until_fault(source, appended_bytes, &mut failed) => ended,
                () = stop.cancelled() => return,
            };
            if !std::mem::replace(&mut failed, true) {
                backoff.reset();
            }
            let delay = backoff.next_delay();
            match ended.kind() {
                Kind::Corrupt | Kind::Invalid => {
                    error!(%source, error = ended.explain(), hint = ended.hint_text(), "the archive of this source needs a human; capture goes on");
                }
                _ => {
                    warn!(%source, error = ended.explain(), retry_in_ms = delay.as_millis() as u64, "archiving failed; the log holds what is not rolled")
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
        source: &str,
        appended_bytes: &AtomicU64,
        failed: &mut bool,
    ) -> Error {
        let work = async {
            let mut roller = self.roller(source).await?;
            let mut pass = Pass::default();
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
                    *failed = false;
                }
                if trimmed.elapsed() > TRIM_EVERY || self.config.archive.hot_retention < TRIM_EVERY {
                    roller.trim().await?;
                    trimmed = Instant::now();
                }
                tokio::time::sleep(ROLL_TICK).await;
            }
        };
        match work.await {
            Ok(never) => never,
            Err(error) => error,
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
        let old_enough = open.due.is_some_and(|due| due <= SystemTime::now());
        old_enough || open.bytes as u64 + (appended - self.appended) >= segment_max_bytes as u64
    }
}

async fn keep_renewing(lease: &Lease) -> Error {
    let mut missed = 0;
    loop {
        tokio::time::sleep(lease.renewal()).await;
        match lease.renew().await {
            Ok(()) => missed = 0,
            // One miss is not the end of a lease that holds for three; being fenced is.
            Err(error) if error.kind() == Kind::Fenced || missed >= 1 => return error,
            Err(_) => missed += 1,
        }
    }
}

fn host_name() -> String {
    let named = std::env::var("HOSTNAME")
        .ok()
        .or_else(|| std::fs::read_to_string(PathBuf::from("/etc/hostname")).ok());
    named.map_or_else(|| "unknown".to_owned(), |name| name.trim().to_owned())
}
