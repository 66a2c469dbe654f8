//! Runs a plugin natively, through the same glue as in the sandbox, for `cargo test`.

use crate::batch;
use crate::plugin::Plugin;

/// What became of one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It stays as it is.
    Kept,
    /// This BSON document takes its place.
    Replaced(Vec<u8>),
    /// It is left out.
    Dropped,
}

impl Outcome {
    /// The bytes that go on to the history: the event's own where it was kept, none where it was dropped.
    pub fn into_bytes(self, event: &[u8]) -> Option<Vec<u8>> {
        match self {
            Outcome::Kept => Some(event.to_vec()),
            Outcome::Replaced(bytes) => Some(bytes),
            Outcome::Dropped => None,
        }
    }
}

/// Processes one event, given as BSON bytes.
pub fn run<P: Plugin>(plugin: &P, event: impl AsRef<[u8]>) -> Result<Outcome, String> {
    let batch = batch::process(plugin, event.as_ref()).map_err(|e| e.message)?;
    match batch.verdicts[..] {
        [0] => Ok(Outcome::Kept),
        [1] => Ok(Outcome::Replaced(batch.docs)),
        [2] => Ok(Outcome::Dropped),
        _ => Err(format!("expected one event, got {}", batch.verdicts.len())),
    }
}
