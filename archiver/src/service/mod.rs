//! Runs capture and archive for every source until stopped. Any fault ends a source's loop and starts it again from
//! its checkpoint; what only a human can mend stops that source, loudly, and not the others.

mod archiving;
mod asking;
mod balance;
mod holding;
mod keeping;
mod members;
mod metrics;
mod reload;
mod stream;
mod verifying;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use bson::DateTime;
use serde::Serialize;
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use self::asking::{StreamTried, reload, retry};
pub use self::holding::{add_hold, list_holds, release_hold};
use self::members::{Members, Seat};
pub use self::reload::Reload;
use self::reload::{PluginsOf, Reloader};
use self::stream::StreamTask;
use crate::archive::roll::{Extent, Roller};
use crate::archive::store::{Archive, Sealed};
use crate::audit_log::AuditLog;
use crate::capture::Plugins;
use crate::capture::lease::{Announcement, Leases};
use crate::config::{Config, PluginConfig, SourceConfig};
use crate::deployment::{Client, connect, operation_time, server_version};
use crate::error::{Error, Result};
use crate::metrics::server::Server;
use crate::notice::host_name;
use crate::plugin::PluginChain;
use crate::stream_id::StreamId;

/// How long a stream may go on with the batch that it is in when it is to stop. After that the batch is given up, which is
/// safe: it is in the log or not, and the checkpoint tells.
const STOP_GRACE: Duration = Duration::from_millis(250);

/// Requests to read the configuration again that may wait.
const REQUESTS: usize = 16;

/// Everything that the sources of this process share.
struct Service {
    config: Config,
    client: Client,
    log: AuditLog,
    archive: Archive,
    server: String,
    leases: Leases,
    building: Arc<Semaphore>,
    /// One segment is verified at a time in the whole process.
    verifying: Semaphore,
    stop: CancellationToken,
    /// Streams that have not halted.
    working: AtomicUsize,
    /// Cancelled when there are no such streams any more.
    none_left: CancellationToken,
}

/// Captures and archives every source of the configuration. With `once`: until everything that had happened when it
/// was called is in the archive. Otherwise until `stop` is cancelled, which is a clean end; where `reload` is given, the plugins
/// may change meanwhile, and what has halted is tried again with it.
///
/// Fails with the first error that only a human can mend, once no source is left to run.
pub async fn run(config: Config, once: bool, reload: Option<Reload>, stop: CancellationToken) -> Result<()> {
    // Before anything is begun: what is wrong with the address shows at once.
    let listener = match config.metrics.filter(|_| !once) {
        Some(address) => Some(Server::bind(address).await?),
        None => None,
    };
    // Plugins first: they need no server, and nothing may be read before they are all in order.
    let mut plugins = PluginsOf::new();
    for source in &config.sources {
        plugins.insert(source.name.clone(), watch::Sender::new(load_plugins(&config, source)?));
    }
    let plugins = Arc::new(plugins);
    let reloads = watch::Sender::new(());
    let service = Arc::new(Service::connect(config, stop.clone()).await?);
    let (mut seats, changed) = (Vec::new(), Arc::new(Notify::new()));
    let mut running = JoinSet::new();
    for source in &service.config.sources {
        let Some(plugins) = plugins.get(&source.name) else { continue };
        for stream in StreamId::all(&source.name, source.partitions) {
            let seat = Arc::new(Seat::new(stream, Arc::clone(&changed)));
            seats.push(Arc::clone(&seat));
            let task = StreamTask {
                service: Arc::clone(&service),
                source: source.clone(),
                plugins: plugins.subscribe(),
                reloads: reloads.subscribe(),
                seat,
                once,
            };
            running.spawn(task.run());
        }
    }
    let reloader = reload.map(|Reload { path, asked }| {
        let (config, seats) = (service.config.clone(), seats.clone());
        (Reloader { path, config, plugins, seats, reloads, last: watch::Sender::new(None) }, asked)
    });
    let mut beside = service.beside(seats.clone(), changed, once, reloader);
    if let Some(listener) = listener {
        beside.spawn(metrics::serve(listener, seats, service.leases.clone())?);
    }
    let mut first_error = None;
    while let Some(ended) = running.join_next().await {
        let ended = ended.unwrap_or_else(|e| Err(Error::internal("a source's task panicked").because(e)));
        if let Err(error) = ended {
            first_error.get_or_insert(error);
        }
    }
    // Nobody waits for this one any more, whatever it has stopped for; if it does not succeed, the announcement expires.
    tokio::time::timeout(STOP_GRACE, service.leases.leave()).await.ok();
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
    /// The partition, where the source has several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partition: Option<u32>,
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
    let mut streams = Vec::new();
    for source in sources {
        match service.log.streams_of(&source.name).await? {
            none if none.is_empty() => streams.extend(StreamId::all(&source.name, source.partitions)),
            // As it was captured, whatever the configuration says by now.
            captured => streams.extend(captured),
        }
    }
    for stream in streams {
        let mut roller = service.roller(&stream).await?;
        for Sealed { manifest, .. } in roller.roll(Extent::Everything).await?.sealed {
            segments.push(RolledSegment {
                source: manifest.source,
                partition: manifest.partition,
                segment: manifest.segment,
                rows: manifest.rows,
                first_seq: manifest.first_seq,
                end_seq: manifest.end_seq,
            });
        }
        roller.publish().await?;
    }
    Ok(segments)
}

fn load_plugins(config: &Config, source: &SourceConfig) -> Result<Plugins> {
    Ok(Plugins { chain: Arc::new(load_chain(config, source)?), tolerance: source.tolerance })
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
        let leases = Leases::connect(&config, &holder).await?;
        Ok(Service {
            working: AtomicUsize::new(config.sources.iter().map(|s| s.partitions as usize).sum()),
            none_left: CancellationToken::new(),
            archive,
            client,
            server,
            log,
            leases,
            building: Arc::new(Semaphore::new(1)),
            verifying: Semaphore::new(1),
            stop,
            config,
        })
    }

    /// What runs beside the streams, until it is dropped: the renewal of their leases and, in a service, the sharing of streams
    /// with other archivers, and reading the configuration again.
    fn beside(
        &self,
        seats: Vec<Arc<Seat>>,
        changed: Arc<Notify>,
        once: bool,
        reloader: Option<(Reloader, mpsc::Receiver<()>)>,
    ) -> JoinSet<()> {
        let mut beside = JoinSet::new();
        let leases = self.leases.clone();
        beside.spawn(async move { leases.keep().await });
        if !once {
            let about = Announcement {
                started: DateTime::now(),
                host: host_name(),
                pid: std::process::id(),
                streams: BTreeSet::new(),
                failing: BTreeSet::new(),
                reloaded: None,
            };
            let leases = self.leases.clone();
            let (requests, asked) = mpsc::channel(REQUESTS);
            let reloaded = match &reloader {
                Some((reloader, _)) => reloader.last.subscribe(),
                None => watch::channel(None).1,
            };
            let members = Members {
                leases,
                seats,
                lease_time: self.config.capture.lease_time,
                about,
                changed,
                requests,
                reloaded,
            };
            if let Some((reloader, by_signal)) = reloader {
                beside.spawn(reloader.run(by_signal, asked));
            }
            beside.spawn(members.take_part(self.stop.clone()));
        }
        beside
    }

    async fn roller(&self, stream: &StreamId) -> Result<Roller> {
        let building = Arc::clone(&self.building);
        Roller::open(
            stream,
            self.log.clone(),
            self.archive.clone(),
            self.config.archive.clone(),
            self.server.clone(),
            building,
        )
        .await
    }
}
