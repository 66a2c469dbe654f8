//! Runs capture and archive for every source until stopped.

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::error::{Error, Result};

/// One segment that `roll` wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rolled {
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

/// Captures and archives until `shutdown`, or with `once` until everything present is rolled.
pub async fn run(_config: Config, _once: bool, _shutdown: CancellationToken) -> Result<()> {
    Err(Error::internal("run"))
}

/// Rolls what the hot tier holds now.
pub async fn roll(_config: &Config, _source: Option<&str>) -> Result<Vec<Rolled>> {
    Err(Error::internal("roll"))
}
