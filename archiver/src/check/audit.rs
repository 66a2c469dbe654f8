//! The audit database: reachable, and writable in a transaction, which is tried and taken back.

use std::collections::BTreeSet;

use bson::oid::ObjectId;
use bson::{Document, doc};

use super::access::{Side, report_transport};
use super::roles;
use super::{Findings, begun};
use crate::audit_log::{AuditLog, MARKER};
use crate::config::Config;
use crate::deployment::mongo_error;
use crate::error::{Error, Result};

const ABOUT: &str = "audit log";

/// Checks the audit database. Fails as unavailable where the server can't be reached. `watched` is the other side.
pub(super) async fn check(config: &Config, watched: &Side, findings: &mut Findings) -> Result<()> {
    if let Some(uri) = &config.audit_uri {
        report_transport(ABOUT, uri, findings).await?;
    }
    let log = AuditLog::connect(config).await?;
    let hello = log.database().run_command(doc! {"hello": 1}).await;
    let hello = hello.map_err(|e| mongo_error("reaching the audit database", e))?;
    if hello.get_str("setName").is_err() && hello.get_str("msg").ok() != Some("isdbgrid") {
        let error = Error::unavailable("this is a standalone server: transactions need a replica set");
        let hint = "start mongod with --replSet rs0 and run rs.initiate() once; one member is enough";
        findings.fail(ABOUT, &error.hint(hint));
        return Ok(());
    }
    let side = Side::ask(log.database().client(), &hello).await?;
    access(config, watched, &side, findings)?;
    match try_transaction(&log).await {
        Ok(()) => {
            findings.ok(ABOUT, format!("can be written in transactions, database {}", config.audit_database))
        }
        Err(error) => findings.fail(ABOUT, &error),
    }
    begun::check(&log, config, findings).await;
    Ok(())
}

/// What the account lacks or may do beyond its job, and whether it is the one that watches.
fn access(config: &Config, watched: &Side, side: &Side, findings: &mut Findings) -> Result<()> {
    let needs = roles::auditing(config)?;
    let database = BTreeSet::from([config.audit_database.as_str()]);
    side.report(ABOUT, &needs, &[], findings);
    side.report_beyond(ABOUT, &needs, &database, findings);
    if !side.is(watched) {
        findings.ok(ABOUT, "it lies on another deployment than the watched one");
        return Ok(());
    }
    findings.info(
        ABOUT,
        "it lies on the watched deployment; on another one ([audit] uri) it outlives the loss of it",
    );
    let (Some(writer), Some(watcher)) = (&side.account, &watched.account) else { return Ok(()) };
    if writer.name == watcher.name {
        let what =
            format!("one account serves both sides: {} reads documents and trims records", writer.name);
        findings.warn(ABOUT, what, "give [audit] uri an account of its own, with role archiverAudit alone");
    } else {
        watched.report_beyond("mongodb", &[], &database, findings);
    }
    Ok(())
}

/// Writes and takes back; leaves nothing behind, also not when it ends half way.
async fn try_transaction(log: &AuditLog) -> Result<()> {
    let failed = |e| mongo_error("writing into the audit database in a transaction", e);
    let mut session = log.database().client().start_session().await.map_err(failed)?;
    session.start_transaction().await.map_err(failed)?;
    let marker = log.database().collection::<Document>(MARKER);
    let tried = marker.insert_one(doc! {"_id": ObjectId::new()}).session(&mut session).await;
    let aborted = session.abort_transaction().await;
    tried.map_err(failed)?;
    aborted.map_err(failed)
}
