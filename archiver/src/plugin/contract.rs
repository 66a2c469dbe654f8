//! The types of `plugin-sdk/wit/plugin.wit` as the host sees them, and the names of what crosses the boundary.

use wasmtime::component::{ComponentType, Lift, WasmStr};

/// The contract this host speaks, as it stands in policy records.
pub(super) const CONTRACT: &str = "archiver:plugin@1.0.0";

/// The one interface with functions that a plugin may import.
pub(super) const HOST: &str = "archiver:plugin/host@1.0.0";

/// The interface with types only; a component names it as an import too.
pub(super) const TYPES: &str = "archiver:plugin/types@1.0.0";

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

/// What a plugin returns for a batch it could not process. Its message may quote the event, so it is not even copied out of
/// the sandbox, except for the plugin's author.
#[derive(ComponentType, Lift)]
#[component(record)]
pub(super) struct EventError {
    #[expect(dead_code, reason = "the host finds the guilty event by itself")]
    pub(super) index: u32,
    pub(super) message: WasmStr,
}

/// What a plugin returns for a batch: nothing of it is believed before it is checked.
#[derive(ComponentType, Lift)]
#[component(record)]
pub(super) struct BatchResult {
    pub(super) verdicts: Vec<u8>,
    pub(super) docs: Vec<u8>,
}

/// The level of a log line, as the plugin sees it.
#[derive(Debug, Clone, Copy, ComponentType, Lift)]
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
