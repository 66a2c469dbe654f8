//! The types of `plugin-sdk/wit/plugin.wit` as the host sees them, and the names of what crosses the boundary.

use wasmtime::component::{ComponentType, Lift};

/// The newest contract this host speaks, as it stands in policy records.
pub(super) const CONTRACT: &str = "archiver:plugin@1.0.0";

/// Every version of the contract that this host speaks. A new one is added here and linked beside the others (`host::linker`);
/// none is ever taken away, because plugins are files that somebody reviewed and pinned.
pub(super) const VERSIONS: [&str; 1] = ["1.0.0"];

/// The contract's name, behind which its interfaces and versions stand.
pub(super) const PACKAGE: &str = "archiver:plugin";

/// The one interface with functions that a plugin may import.
pub(super) const HOST: &str = "archiver:plugin/host@1.0.0";

/// The interface with types only; a component names it as an import too.
pub(super) const TYPES: &str = "archiver:plugin/types@1.0.0";

/// The version of the contract that an import is of, where it is one of the contract's.
pub(super) fn version(import: &str) -> Option<&str> {
    let (_, version) = import.strip_prefix(PACKAGE)?.strip_prefix('/')?.split_once('@')?;
    Some(version)
}

/// The contract that a plugin with these imports was built for, as it stands in policy records. One that names no version is
/// connected by the first.
pub(super) fn spoken<'i>(imports: impl IntoIterator<Item = &'i str>) -> String {
    let version = imports.into_iter().find_map(version).unwrap_or(VERSIONS[0]);
    format!("{PACKAGE}@{version}")
}

/// What every plugin exports, in the order in which the host calls it.
pub(super) const EXPORTS: [&str; 3] = ["describe", "configure", "process-batch"];

/// What a plugin says about itself.
#[derive(Debug, Clone, ComponentType, Lift)]
#[component(record)]
pub(super) struct Manifest {
    pub(super) name: String,
    pub(super) version: String,
    #[component(name = "may-drop")]
    pub(super) may_drop: bool,
    #[component(name = "may-modify")]
    pub(super) may_modify: bool,
    #[component(name = "config-schema")]
    pub(super) config_schema: String,
}

/// What a plugin returns for a batch it could not process. Its message may quote the event.
#[derive(ComponentType, Lift)]
#[component(record)]
pub(super) struct EventError {
    #[expect(dead_code, reason = "the host finds the guilty event by itself")]
    pub(super) index: u32,
    pub(super) message: String,
}

/// What a plugin returns for a batch: nothing of it is believed before it is checked.
#[derive(ComponentType, Lift)]
#[component(record)]
pub(super) struct BatchResult {
    pub(super) verdicts: Vec<u8>,
    pub(super) docs: Vec<u8>,
}

/// The level of a log line, as the plugin sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ComponentType, Lift)]
#[component(enum)]
#[repr(u8)]
#[expect(dead_code, reason = "only guests make values of it")]
pub(super) enum Level {
    #[component(name = "debug")]
    Debug,
    #[component(name = "info")]
    Info,
    #[component(name = "warn")]
    Warn,
    #[component(name = "error")]
    Error,
}

impl Level {
    /// Its name in the contract.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
        }
    }
}
