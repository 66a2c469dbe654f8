//! Adds, lists and releases legal holds. Each is in force, or ended, in the audit database first; its copy in the archive follows.

use crate::archive::store::Archive;
use crate::audit_log::{AuditLog, NewHold};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::hold::{Held, Hold, Release, check_text};

/// Puts a hold in force. When it returns, nothing that the hold covers is deleted any more.
///
/// Fails as invalid for a reason or name that is no line of text, or a time that ends before it begins, and as not found for a
/// source of which nothing is kept; as unavailable where the hold is in force and its copy is not in the archive yet.
pub async fn add_hold(config: &Config, new: NewHold) -> Result<Hold> {
    check_text("--reason", &new.reason)?;
    check_text("--by", &new.by)?;
    if let (Some(from), Some(to)) = (new.from, new.to)
        && from >= to
    {
        return Err(Error::invalid("--from is not before --to"));
    }
    let log = AuditLog::connect(config).await?;
    if let Some(source) = &new.source
        && log.streams_of(source).await?.is_empty()
    {
        config.source(source)?;
    }
    let hold = log.add_hold(new).await?;
    copy(config, &log, &format!("legal hold {} is in force", hold.id)).await?;
    Ok(hold)
}

/// Ends a hold: what it covered may expire again. Fails as not found where there is no such hold in force.
pub async fn release_hold(config: &Config, id: i64, reason: &str, by: &str) -> Result<Release> {
    check_text("--reason", reason)?;
    check_text("--by", by)?;
    let log = AuditLog::connect(config).await?;
    let release = log.release_hold(id, reason, by).await?;
    copy(config, &log, &format!("legal hold {id} is released")).await?;
    Ok(release)
}

/// The holds in the order in which they were added, released ones included.
pub async fn list_holds(config: &Config) -> Result<Vec<Held>> {
    Ok(AuditLog::connect(config).await?.holds().await?.list)
}

async fn copy(config: &Config, log: &AuditLog, done: &str) -> Result<()> {
    let holds = log.holds().await?;
    let copied = async { Archive::open(&config.archive)?.copy_holds(&holds.list).await };
    copied.await.map_err(|error| {
        Error::new(error.kind(), format!("{done}, but its copy could not be written into the archive"))
            .hint("a running archiver writes it within a minute, once the archive can be written again")
            .because(error)
    })
}
