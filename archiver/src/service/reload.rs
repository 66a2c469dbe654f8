//! Reads the configuration again while the streams run: other plugins are loaded aside, all of them, and count from each stream's
//! next batch on; where one of them can't be loaded everything stays as it was. Nothing else changes without a restart.
//!
//! A stream that has halted is tried again with it, whatever stopped it: somebody has acted, and a start is always safe.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use bson::DateTime;
use tokio::sync::{mpsc, watch};
use tracing::{error, info, warn};

use super::load_plugins;
use super::members::Seat;
use crate::capture::Plugins;
use crate::capture::lease::{Failed, Reloaded};
use crate::config::{ArchiveConfig, CaptureConfig, Config, SourceConfig};
use crate::error::{Error, Result};

/// Requests that an answer names: those of one moment, and the last ones before it.
const ANSWERED: usize = 16;

/// How a running service is told to read its configuration again.
#[derive(Debug)]
pub struct Reload {
    /// The file.
    pub path: PathBuf,
    /// Gets something whenever it is to be read, for example at a SIGHUP.
    pub asked: mpsc::Receiver<()>,
}

/// The plugins of each source by its name, which the streams watch for changes.
pub(super) type PluginsOf = BTreeMap<String, watch::Sender<Plugins>>;

/// Reads the configuration again when it is asked to.
pub(super) struct Reloader {
    pub(super) path: PathBuf,
    /// As it was when the process started.
    pub(super) config: Config,
    pub(super) plugins: Arc<PluginsOf>,
    pub(super) seats: Vec<Arc<Seat>>,
    /// Tells the streams that it was read, once other plugins are there.
    pub(super) reloads: watch::Sender<()>,
    /// How it went the last time.
    pub(super) last: watch::Sender<Option<Reloaded>>,
}

impl Reloader {
    /// Reloads whenever it is `asked` to, or gets one of the `requests` of other processes, until these are gone.
    pub(super) async fn run(self, mut asked: mpsc::Receiver<()>, mut requests: mpsc::Receiver<String>) {
        let mut answered: Vec<String> = Vec::new();
        loop {
            let request = tokio::select! {
                Some(()) = asked.recv() => None,
                request = requests.recv() => match request {
                    Some(request) => Some(request),
                    None => return,
                },
            };
            answered.extend(request);
            // Those that wait already are answered by this very reading.
            while let Ok(request) = requests.try_recv() {
                answered.push(request);
            }
            let old = answered.len().saturating_sub(ANSWERED);
            answered.drain(..old);
            let reloaded = self.reload().await;
            self.last.send_replace(Some(Reloaded { requests: answered.clone(), ..reloaded }));
        }
    }

    async fn reload(&self) -> Reloaded {
        let mut reloaded = Reloaded {
            at: DateTime::now(),
            requests: Vec::new(),
            changed: Vec::new(),
            restart: Vec::new(),
            revived: Vec::new(),
            failed: None,
        };
        match self.load().await {
            Ok((plugins, restart)) => {
                for (source, plugins) in plugins {
                    let swap = |now: &mut Plugins| {
                        let other = now.chain.digest() != plugins.chain.digest()
                            || now.tolerance != plugins.tolerance;
                        if other {
                            *now = plugins;
                        }
                        other
                    };
                    if self.plugins.get(&source).is_some_and(|now| now.send_if_modified(swap)) {
                        reloaded.changed.push(source);
                    }
                }
                reloaded.restart = restart;
                let halted = self.seats.iter().filter(|seat| seat.halted().is_some());
                reloaded.revived = halted.map(|seat| seat.stream.to_string()).collect();
                // Behind the change: what is tried again, is tried with the new plugins.
                self.reloads.send_replace(());
                let (changed, revived) = (reloaded.changed.join(", "), reloaded.revived.join(", "));
                info!(changed, revived, "the configuration was read again");
                if !reloaded.restart.is_empty() {
                    warn!(restart = reloaded.restart.join(", "), "these changes count after a restart only");
                }
            }
            Err(e) => {
                error!(
                    error = e.explain(),
                    hint = e.hint_text(),
                    "the configuration was read again and is refused; everything stays as it was"
                );
                reloaded.failed = Some(Failed::of(&e));
            }
        }
        reloaded
    }

    /// All plugins that the file names now, loaded, and what else is different in it.
    async fn load(&self) -> Result<(Vec<(String, Plugins)>, Vec<String>)> {
        let path = self.path.clone();
        let names: Vec<String> = self.plugins.keys().cloned().collect();
        let loading = move || {
            let config = Config::load(&path)?;
            let mut plugins = Vec::new();
            for source in config.sources.iter().filter(|source| names.contains(&source.name)) {
                plugins.push((source.name.clone(), load_plugins(&config, source)?));
            }
            Ok((config, plugins))
        };
        let loaded = tokio::task::spawn_blocking(loading).await;
        let loaded: Result<_> = loaded.map_err(|e| Error::internal("loading plugins panicked").because(e))?;
        let (config, plugins) = loaded?;
        Ok((plugins, different(&self.config, &config)))
    }
}

/// What counts after a restart only, where it is different: the names of the keys.
fn different(now: &Config, new: &Config) -> Vec<String> {
    let Config { mongodb_uri, audit_uri, audit_database, archive, capture, sources, .. } = now;
    let Config { metrics, plugins: _, development: _, .. } = now;
    let mut keys = vec![
        ("[mongodb] uri", *mongodb_uri == new.mongodb_uri),
        ("[audit] uri", *audit_uri == new.audit_uri),
        ("[audit] database", *audit_database == new.audit_database),
        ("[metrics] listen", *metrics == new.metrics),
    ];
    keys.extend(of_archive(archive, &new.archive));
    keys.extend(of_capture(capture, &new.capture));
    let mut found = unequal(keys);
    for source in sources {
        match new.sources.iter().find(|other| other.name == source.name) {
            Some(other) => found.extend(
                unequal(of_source(source, other))
                    .iter()
                    .map(|key| format!("[[source]] {}: {key}", source.name)),
            ),
            None => found.push(format!("[[source]] {} is gone", source.name)),
        }
    }
    let known = |source: &&SourceConfig| sources.iter().any(|other| other.name == source.name);
    let added = new.sources.iter().filter(|source| !known(source));
    found.extend(added.map(|source| format!("[[source]] {} is new", source.name)));
    found
}

type Keys = Vec<(&'static str, bool)>;

fn unequal(keys: Keys) -> Vec<String> {
    keys.into_iter().filter(|(_, equal)| !equal).map(|(key, _)| key.to_owned()).collect()
}

fn of_archive(now: &ArchiveConfig, new: &ArchiveConfig) -> Keys {
    let ArchiveConfig { url, segment_max_bytes, segment_max_age, hot_retention, .. } = now;
    let ArchiveConfig { verify_every, retention, object_lock, table_format, options, .. } = now;
    vec![
        ("[archive] url", *url == new.url),
        ("[archive] segment_max_bytes", *segment_max_bytes == new.segment_max_bytes),
        ("[archive] segment_max_age", *segment_max_age == new.segment_max_age),
        ("[archive] hot_retention", *hot_retention == new.hot_retention),
        ("[archive] verify_every", *verify_every == new.verify_every),
        ("[archive] retention", *retention == new.retention),
        ("[archive] object_lock", *object_lock == new.object_lock),
        ("[archive] table_format", *table_format == new.table_format),
        ("[archive.options]", *options == new.options),
    ]
}

fn of_capture(now: &CaptureConfig, new: &CaptureConfig) -> Keys {
    let CaptureConfig { batch_max_events, batch_max_bytes, batch_max_wait, lease_time } = now;
    vec![
        ("[capture] batch_max_events", *batch_max_events == new.batch_max_events),
        ("[capture] batch_max_bytes", *batch_max_bytes == new.batch_max_bytes),
        ("[capture] batch_max_wait", *batch_max_wait == new.batch_max_wait),
        ("[capture] lease_time", *lease_time == new.lease_time),
    ]
}

fn of_source(now: &SourceConfig, new: &SourceConfig) -> Keys {
    let SourceConfig { watch, snapshot, actor_field, actor_context, .. } = now;
    let SourceConfig { on_history_lost, enable_images, partitions, .. } = now;
    let SourceConfig { name: _, plugins: _, tolerance: _, .. } = now;
    vec![
        ("watch", *watch == new.watch),
        ("snapshot", *snapshot == new.snapshot),
        ("actor_field", *actor_field == new.actor_field),
        ("actor_context", *actor_context == new.actor_context),
        ("on_history_lost", *on_history_lost == new.on_history_lost),
        ("enable_images", *enable_images == new.enable_images),
        ("partitions", *partitions == new.partitions),
    ]
}
