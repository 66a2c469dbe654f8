//! Who looked at what is kept, and who gave it back: noted durably before anything is given, so that nobody reads unseen where the
//! configuration wants reads seen. The notes are notices, which become records of the source.

use bson::{Bson, Document, doc};

use super::History;
use super::id::DocumentId;
use crate::audit_log::AuditLog;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::hold::check_text;
use crate::notice::{NoticeOf, person};

/// Ids that a notice names, by their digests; the rest is a number.
const NAMED: usize = 100;

/// What somebody wants to see.
#[derive(Debug, Clone, Default)]
pub struct Access<'a> {
    /// The command, such as "history".
    pub command: &'a str,
    /// The ids that were asked for. They are noted as digests.
    pub ids: &'a [DocumentId],
    /// What else was asked for: bounds, names. Nothing that documents may hold.
    pub what: Document,
}

/// A recovery that has begun.
#[derive(Debug)]
pub struct Recovery {
    log: AuditLog,
    source: String,
    /// The notice with which it began.
    began: Bson,
}

impl History {
    /// Notes that somebody reads a source, where `record_access` wants it. To be called before anything is shown: it returns when the
    /// note is durable, and whoever gets an error shows nothing.
    ///
    /// Fails as not found where nothing is kept of the source.
    pub async fn note_access(&self, config: &Config, source: &str, access: Access<'_>) -> Result<()> {
        let Some(log) = self.log.as_ref().filter(|_| config.record_access) else { return Ok(()) };
        let detail = self.noted(log, source, access).await?;
        log.give_notice(source, NoticeOf::Access, detail).await.map_err(unnoted)?;
        Ok(())
    }

    /// Notes that a recovery begins, and why. It returns when the note is durable, and whoever gets an error recovers nothing.
    pub async fn begin_recovery(
        &self,
        source: &str,
        access: Access<'_>,
        reason: Option<&str>,
    ) -> Result<Recovery> {
        let log =
            self.log.as_ref().ok_or_else(|| Error::invalid("there is no audit database to note it in"))?;
        let mut detail = self.noted(log, source, access).await?;
        if let Some(reason) = reason {
            check_text("--reason", reason)?;
            detail.insert("reason", reason);
        }
        let began = log.give_notice(source, NoticeOf::Recovery, detail).await.map_err(unnoted)?;
        Ok(Recovery { log: log.clone(), source: source.to_owned(), began })
    }

    /// Who does what.
    async fn noted(&self, log: &AuditLog, source: &str, access: Access<'_>) -> Result<Document> {
        self.require(source).await?;
        let Access { command, ids, mut what } = access;
        if !ids.is_empty() {
            what.insert("ids", ids.len() as i64);
            // Of the stream that records it.
            if let Some(salt) = self.salts(source).await?.values().next() {
                let values = ids.iter().take(NAMED).flat_map(DocumentId::values);
                let digests = values.map(|value| salt.id_digest(value.kind(), value.value()));
                what.insert("keyDigests", digests.collect::<Vec<_>>());
            }
        }
        let mut detail = who(log).await?;
        detail.extend(doc! {"command": command, "what": what});
        Ok(detail)
    }
}

impl Recovery {
    /// Notes how it ended: how many documents there were of what became of them, and the kind of error that ended it.
    pub async fn end(self, counts: Document, failed: Option<&str>) -> Result<()> {
        let mut detail = who(&self.log).await?;
        detail.extend(doc! {"ends": &self.began, "counts": counts});
        detail.extend(failed.map(|kind| ("failed".to_owned(), kind.into())));
        let ended = self.log.give_notice(&self.source, NoticeOf::Recovery, detail).await;
        ended.map(drop).map_err(|error| {
            Error::new(error.kind(), "the recovery is over, but its end could not be noted")
                .hint("its beginning is noted; see `archiver recover` without --apply for what is there now")
                .because(error)
        })
    }
}

async fn who(log: &AuditLog) -> Result<Document> {
    let mut who = doc! {"by": person()};
    who.extend(log.account().await?.map(|user| ("user".to_owned(), user.into())));
    Ok(who)
}

fn unnoted(error: Error) -> Error {
    Error::new(error.kind(), "nothing is given: it could not be noted who asks for it")
        .hint("who reads must be able to add to archiver.notices in the audit database: role archiverRead of deploy/mongodb-roles.js")
        .because(error)
}
