//! The configuration: what may stand in the TOML file, read with all its problems reported at once.

mod parse;
mod read;
mod substitute;
mod suggest;
#[cfg(test)]
mod tests;
pub(crate) mod units;
mod watch;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, Result};
use substitute::Outside;
pub(crate) use units::duration;

/// The whole configuration, checked: every name resolves, every value is in its range.
#[derive(Debug, Clone)]
pub struct Config {
    /// `[mongodb] uri`: the deployment that is watched.
    pub mongodb_uri: Secret,
    /// `[audit] uri`; `None`: the same deployment.
    pub audit_uri: Option<Secret>,
    /// `[audit] database`, default `audit`.
    pub audit_database: String,
    /// `[audit] record_access`: whether commands that show documents leave records of it.
    pub record_access: bool,
    /// `[archive]`.
    pub archive: ArchiveConfig,
    /// `[capture]`.
    pub capture: CaptureConfig,
    /// `[metrics] listen`: where metrics are served; `None`: nowhere.
    pub metrics: Option<SocketAddr>,
    /// `[[plugin]]`, in the file's order.
    pub plugins: Vec<PluginConfig>,
    /// `[[source]]`, in the file's order.
    pub sources: Vec<SourceConfig>,
    /// `development = true`: plugins may go without a pin.
    pub development: bool,
}

/// `[archive]`: where segments go and how they are cut.
#[derive(Debug, Clone)]
pub struct ArchiveConfig {
    /// `file:///…`, `s3://bucket/prefix`, `az://container/prefix`, `gs://bucket/prefix`.
    pub url: String,
    /// Uncompressed BSON bytes of a segment's records at which it is cut. Default 128 MiB.
    pub segment_max_bytes: usize,
    /// Age at which a segment is cut. Default: 1 hour, but a segment of less than 1 MiB waits for the end of its UTC day.
    pub segment_max_age: Option<Duration>,
    /// How long rolled records stay in MongoDB. Default 7 days.
    pub hot_retention: Duration,
    /// In what time everything in the archive is verified once, in the background; `None`: never. Default 30 days.
    pub verify_every: Option<Duration>,
    /// How long archived records are kept, by their cluster time; never shorter than `hot_retention`. Default: for ever.
    pub retention: Option<Duration>,
    /// Whether the store is to protect what is written by itself (Object Lock, an immutability policy), and to delete what has
    /// expired. Default: no.
    pub object_lock: bool,
    /// Whether segments are published in a table of their source, too. Default none.
    pub table_format: TableFormat,
    /// `[archive.options]`: passed to object_store.
    pub options: Vec<(String, Secret)>,
}

/// In which format the segments of a source are published as a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableFormat {
    /// In none: the files are all.
    None,
    /// As a Delta table over the same files.
    Delta,
}

/// `[capture]`: the bounds of one batch, and of a lease.
#[derive(Debug, Clone, Copy)]
pub struct CaptureConfig {
    /// Events in one batch at most. Default 1000.
    pub batch_max_events: usize,
    /// Bytes in one batch at most, a single larger event excepted. Default 8 MiB.
    pub batch_max_bytes: usize,
    /// How long a batch waits for more events. Default 20 ms.
    pub batch_max_wait: Duration,
    /// How long a lease holds without renewal: a source whose archiver died is taken over after it. Default 15 s.
    pub lease_time: Duration,
}

/// `[[plugin]]`: one plugin with its configuration.
#[derive(Debug, Clone)]
pub struct PluginConfig {
    /// The name sources refer to.
    pub name: String,
    /// The WebAssembly file, relative to the configuration file's folder.
    pub path: PathBuf,
    /// The SHA-256 of the file, in hex; `None` only in development.
    pub sha256: Option<String>,
    /// What the plugin's `configure` gets: its `config` table as JSON text, `{}` where there is none.
    pub config_json: Secret,
    /// The values in it that came from the environment or from files; no message may show them.
    pub secrets: Vec<Secret>,
    /// `allow`: what the plugin may do at most. One that declares more is refused. Default: whatever it declares.
    pub allow: Grants,
    /// `[[plugin.test]]`: events with what is to become of them, tried whenever the plugin is loaded.
    pub tests: Vec<PluginTest>,
}

/// What a plugin may do to events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grants {
    /// Leave them out.
    pub drop: bool,
    /// Replace them.
    pub modify: bool,
}

impl Grants {
    /// Everything there is.
    pub const ALL: Grants = Grants { drop: true, modify: true };
}

/// `[[plugin.test]]`: one event with what is to become of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginTest {
    /// The event, as Extended JSON.
    pub event: String,
    /// What is to become of it.
    pub expect: Expected,
}

/// `expect` of a test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// `"keep"`: it stays as it is.
    Keep,
    /// `"drop"`: it is left out.
    Drop,
    /// This event, as Extended JSON, takes its place.
    Event(String),
}

/// `[[source]]`.
#[derive(Debug, Clone)]
pub struct SourceConfig {
    /// `[a-z][a-z0-9_-]*`; the audit collection, folder and lease are named after it.
    pub name: String,
    /// What is watched, at least one.
    pub watch: Vec<Watch>,
    /// Plugins in order, by name.
    pub plugins: Vec<String>,
    /// Whether a baseline is read first.
    pub snapshot: Snapshot,
    /// What happens when plugins fail.
    pub tolerance: Tolerance,
    /// The (dotted) field in which the application writes who did it.
    pub actor_field: Option<String>,
    /// The collection (database, collection) into which the application inserts `{actor, reason}` as the first write of a
    /// transaction.
    pub actor_context: Option<(String, String)>,
    /// What happens when MongoDB no longer has the events after the checkpoint.
    pub on_history_lost: OnHistoryLost,
    /// Whether images before and after a change are switched on where they are off.
    pub enable_images: bool,
    /// Into how many streams the source is split, by its documents' `_id`s; at least 1.
    pub partitions: u32,
}

/// What happens when a source's plugins fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tolerance {
    /// What happens when one fails on an event.
    pub on_plugin_error: OnPluginError,
    /// Of ten thousand successive events, how many may be quarantined before the source halts.
    pub quarantine_limit: u32,
}

/// One entry of `watch`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Watch {
    /// `db.collection`
    Collection(String, String),
    /// `db.*`
    Database(String),
    /// `*`
    Everything,
}

/// `snapshot`: whether a baseline of present documents is read first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Snapshot {
    /// Read it before the first change event.
    Initial,
    /// Start with the change events.
    Never,
}

/// `on_plugin_error`; there is no pass-through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnPluginError {
    /// Keep a record without the event's contents and go on.
    Quarantine,
    /// Stop the source.
    Halt,
}

/// `on_history_lost`; nothing ever goes on without a `gap` record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnHistoryLost {
    /// Record the gap, go on behind it, and compare the present documents with what is known of them.
    Resync,
    /// Stop the source.
    Halt,
}

/// A value that may be secret: its `Debug` shows nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a value.
    pub fn new(value: impl Into<String>) -> Self {
        Secret(value.into())
    }

    /// The value itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Somebody else's text without this value, as it is or as messages quote it. Values of less than four characters
    /// stay: they hide nothing, and are parts of any text.
    pub fn hide_in(&self, text: &str) -> String {
        if self.0.chars().count() < 4 {
            return text.to_owned();
        }
        let quoted = [self.0.escape_debug().to_string(), serde_json::Value::from(self.expose()).to_string()];
        let json = quoted[1].trim_matches('"');
        text.replace(&self.0, "[secret]").replace(&quoted[0], "[secret]").replace(json, "[secret]")
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[secret]")
    }
}

/// Reads a plugin's configuration from a file of its own: TOML, as under `config` of a `[[plugin]]`, or JSON where its name ends
/// so. Gives the JSON text, and the values in it that no message may show. Kind Invalid.
pub fn plugin_config(path: &Path) -> Result<(Secret, Vec<Secret>)> {
    let text = std::fs::read_to_string(path).map_err(|e| {
        Error::invalid(format!("the plugin's configuration can't be read: {}", path.display())).because(e)
    })?;
    if path.extension().is_none_or(|extension| extension != "json") {
        let outside = Outside { env: &|name| std::env::var(name).ok(), file: &substitute::read_file };
        return parse::plugin_config(&text, path, &outside);
    }
    match serde_json::from_str::<serde_json::Value>(&text) {
        Ok(serde_json::Value::Object(_)) => Ok((Secret::new(text), Vec::new())),
        Ok(_) => {
            Err(Error::invalid(format!("the plugin's configuration is not an object: {}", path.display())))
        }
        Err(e) => Err(Error::invalid(format!("invalid JSON: {}", path.display())).because(e)),
    }
}

/// Puts environment variables and files into an argument, as the configuration does: `${NAME}`, `${file:PATH}`. Kind Invalid.
pub fn argument(name: &str, text: &str) -> Result<Secret> {
    let outside = Outside { env: &|name| std::env::var(name).ok(), file: &substitute::read_file };
    let put_in = substitute::substitute(text, Path::new(""), &outside, &mut |_| {});
    put_in.map(Secret::new).map_err(|wrong| Error::invalid(format!("{name} {wrong}")))
}

impl Config {
    /// Reads and checks the file; every problem in it is reported, each with its line. Kind Invalid.
    pub fn load(path: &Path) -> Result<Config> {
        let bytes = std::fs::read(path).map_err(|e| {
            Error::invalid(format!("the configuration file can't be read: {}", path.display()))
                .hint("name it with --config FILE or the environment variable ARCHIVER_CONFIG")
                .because(e)
        })?;
        let text = String::from_utf8(bytes).map_err(|e| {
            let valid = &e.as_bytes()[..e.utf8_error().valid_up_to()];
            let line = 1 + valid.iter().filter(|&&b| b == b'\n').count();
            Error::invalid(format!("the configuration is not UTF-8: {}:{line}", path.display()))
        })?;
        let outside = Outside { env: &|name| std::env::var(name).ok(), file: &substitute::read_file };
        parse::config(&text, path, &outside)
    }

    /// The configured source of this name. Kind NotFound.
    pub fn source(&self, name: &str) -> Result<&SourceConfig> {
        self.sources.iter().find(|s| s.name == name).ok_or_else(|| {
            let names: Vec<&str> = self.sources.iter().map(|s| s.name.as_str()).collect();
            Error::not_found(format!("no source has this name: {name}"))
                .hint(format!("the configured sources are {}", names.join(", ")))
        })
    }
}
