//! What open quarantine holds: which events are withheld, why, and whether they can be tried again. Changes nothing.

use serde::Serialize;

use crate::audit_log::{AuditLog, Withheld};
use crate::config::Config;
use crate::deployment::{connect, oplog_start};
use crate::error::Result;
use crate::stream_id::StreamId;

/// One withheld event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OpenEvent {
    /// The source's name.
    pub source: String,
    /// The partition, where the source has several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partition: Option<u32>,
    /// The seq of its `quarantine` record.
    pub seq: i64,
    /// When it happened (RFC 3339, UTC, whole seconds).
    pub time: String,
    /// Its operation.
    pub op: String,
    /// Where it happened: `db.collection`, a database, or nothing.
    pub namespace: String,
    /// How the plugin failed.
    pub error: String,
    /// The plugin's name.
    pub plugin: String,
    /// The plugin's file.
    pub sha256: String,
    /// When it was withheld (RFC 3339, UTC).
    pub withheld: String,
    /// Whether it can be tried again.
    pub retry: Chance,
}

/// Whether an event can be tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Chance {
    /// The oplog still has it.
    Possible,
    /// The oplog has it no longer.
    Lost,
    /// A document that a baseline or a comparison read: it can be read again as it is now, where it is still there.
    AsItIsNow,
    /// It is in no stream, a document that a baseline or a comparison read, and nothing tells which one it was.
    ReadBeside,
    /// The account may not see how far the oplog reaches back.
    Unknown,
}

/// The withheld events of one source, or of all that have a checkpoint: by stream, cluster time and seq.
pub async fn list(config: &Config, source: Option<&str>) -> Result<Vec<OpenEvent>> {
    let log = AuditLog::connect(config).await?;
    let mut streams = log.streams().await?;
    if let Some(source) = source {
        if !streams.iter().any(|stream| stream.source == source) {
            config.source(source)?;
        }
        streams.retain(|stream| stream.source == source);
    }
    let oldest = oplog_start(&connect(&config.mongodb_uri).await?).await?;
    let mut open = Vec::new();
    for stream in streams {
        for withheld in log.withheld(&stream).await? {
            let chance = match (&withheld.event, oldest) {
                (None, _) if withheld.is_known_document() => Chance::AsItIsNow,
                (None, _) => Chance::ReadBeside,
                (Some(_), None) => Chance::Unknown,
                (Some(_), Some(oldest)) if withheld.cluster_time < oldest => Chance::Lost,
                (Some(_), Some(_)) => Chance::Possible,
            };
            open.push(event(&stream, withheld, chance));
        }
    }
    Ok(open)
}

fn event(stream: &StreamId, withheld: Withheld, retry: Chance) -> OpenEvent {
    let names = ["db", "coll"].iter().filter_map(|part| withheld.ns.get_str(part).ok());
    OpenEvent {
        source: stream.source.clone(),
        partition: stream.partition,
        seq: withheld.id.seq,
        time: rfc3339(i64::from(withheld.cluster_time.time) * 1000),
        namespace: names.collect::<Vec<_>>().join("."),
        op: withheld.op,
        error: withheld.error,
        plugin: withheld.plugin,
        sha256: withheld.sha256,
        withheld: rfc3339(withheld.at.timestamp_millis()),
        retry,
    }
}

fn rfc3339(millis: i64) -> String {
    jiff::Timestamp::from_millisecond(millis).map(|t| t.to_string()).unwrap_or_default()
}
