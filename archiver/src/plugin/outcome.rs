//! What the chain says about each event: kept, dropped, or failed with a code. Never quotes an event.

use std::fmt;
use std::sync::Arc;

/// What became of one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It goes on with this body: the one that came in, or what the plugins made of it.
    Keep(Vec<u8>),
    /// A plugin that may drop events dropped it.
    Dropped {
        /// The plugin's name in the configuration.
        plugin: Arc<str>,
    },
    /// A plugin failed on it; no plugin behind that one has seen it, and its body is gone.
    Failed(Failure),
}

/// Which plugin failed on an event, and how. Holds nothing of the event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The plugin's name in the configuration.
    pub plugin: Arc<str>,
    /// The SHA-256 of the plugin's file, in hex.
    pub sha256: Arc<str>,
    /// What went wrong.
    pub code: FailureCode,
    /// What the plugin said about it, as far as the words stand in its own file: not to be believed, nor stored in records.
    pub words: Option<Arc<str>>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "plugin `{}` failed on an event: {}", self.plugin, self.code.explanation())?;
        match &self.words {
            Some(words) => write!(f, "; in its own words: \"{words}\""),
            None => Ok(()),
        }
    }
}

/// How a plugin failed on an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureCode {
    /// The code stopped itself: a panic, an access out of bounds, a stack that overflowed.
    Trap,
    /// It did not finish in time.
    Timeout,
    /// It wanted more memory than it may have.
    Memory,
    /// It returned an error for this event.
    Refused,
    /// What it returned is not what the contract asks for.
    InvalidOutput,
    /// It changed, added or removed a field that no plugin may touch.
    IdentityChanged,
    /// It dropped the event without having declared `may-drop`.
    DropNotGranted,
    /// It replaced the event without having declared `may-modify`.
    ModifyNotGranted,
    /// It failed on a batch, and on none of the batch's parts: its results can't be trusted.
    Unstable,
    /// The host had no sandbox for it: not the plugin's fault.
    Sandbox,
}

impl FailureCode {
    /// The code as it stands in records and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            FailureCode::Trap => "trap",
            FailureCode::Timeout => "timeout",
            FailureCode::Memory => "memory",
            FailureCode::Refused => "refused",
            FailureCode::InvalidOutput => "invalid-output",
            FailureCode::IdentityChanged => "identity-changed",
            FailureCode::DropNotGranted => "drop-not-granted",
            FailureCode::ModifyNotGranted => "modify-not-granted",
            FailureCode::Unstable => "unstable",
            FailureCode::Sandbox => "sandbox",
        }
    }

    /// Whether the host is to blame and not the plugin or the event: trying again later helps, quarantine loses
    /// something for nothing.
    pub fn blames_host(self) -> bool {
        self == FailureCode::Sandbox
    }

    /// The code as the end of a sentence.
    pub fn explanation(self) -> &'static str {
        match self {
            FailureCode::Trap => "it trapped (a panic or a bad memory access)",
            FailureCode::Timeout => "it did not finish in time",
            FailureCode::Memory => "it wanted more memory than it may have",
            FailureCode::Refused => "it returned an error",
            FailureCode::InvalidOutput => "it returned something that is not a valid event",
            FailureCode::IdentityChanged => "it changed one of the fields op, ns, clusterTime, wallTime",
            FailureCode::DropNotGranted => "it dropped the event, but does not declare `may-drop`",
            FailureCode::ModifyNotGranted => "it changed the event, but does not declare `may-modify`",
            FailureCode::Unstable => "it fails on a batch and not on the batch's parts",
            FailureCode::Sandbox => "the host could not start its sandbox",
        }
    }
}

impl fmt::Display for FailureCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
