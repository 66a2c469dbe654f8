//! Sources that were captured before: what the configuration changes about them, and what `run` will do about that.

use super::Findings;
use crate::audit_log::AuditLog;
use crate::capture::check_partitions;
use crate::checkpoint::Checkpoint;
use crate::config::{Config, Snapshot, SourceConfig};
use crate::error::Result;
use crate::stream_id::StreamId;

/// Checks every source that has a checkpoint.
pub(super) async fn check(log: &AuditLog, config: &Config, findings: &mut Findings) {
    for source in &config.sources {
        if let Err(error) = check_source(log, source, findings).await {
            findings.fail(format!("source {}", source.name), &error);
        }
    }
}

async fn check_source(log: &AuditLog, source: &SourceConfig, findings: &mut Findings) -> Result<()> {
    check_partitions(log, source).await?;
    for stream in StreamId::all(&source.name, source.partitions) {
        // What is watched is the same for all of them.
        if let Some(checkpoint) = log.checkpoint(&stream).await? {
            rewatched(&checkpoint, source, findings);
            break;
        }
    }
    Ok(())
}

/// What is watched now and was not before, and the other way round.
fn rewatched(checkpoint: &Checkpoint, source: &SourceConfig, findings: &mut Findings) {
    let about = format!("source {}", source.name);
    let now: Vec<String> = source.watch.iter().map(ToString::to_string).collect();
    let before = &checkpoint.watch;
    // Nothing is known of it before the first policy record.
    if checkpoint.policy == 0 {
        return;
    }
    let missing_in = |all: &[String], of: &[String]| {
        of.iter().filter(|entry| !all.contains(entry)).cloned().collect::<Vec<_>>().join(", ")
    };
    let (added, left_out) = (missing_in(before, &now), missing_in(&now, before));
    if !added.is_empty() {
        let baseline = match source.snapshot {
            Snapshot::Initial => "collections that are watched only now get a baseline",
            Snapshot::Never => "without a baseline (snapshot = \"never\")",
        };
        let what = format!(
            "`watch` has more than before: {added}; `run` captures it from the checkpoint on, {baseline}"
        );
        findings.info(&about, what);
    }
    if !left_out.is_empty() {
        let what = format!("`watch` has no longer: {left_out}; its changes are not captured any more");
        let hint = "what is recorded stays readable; history says nothing of these documents from then on";
        findings.warn(&about, what, hint);
    }
}
