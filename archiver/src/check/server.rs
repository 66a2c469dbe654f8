//! The watched deployment: replica set, version, compatibility, access, oplog, lifetime of images.

use bson::{Document, doc};

use super::Findings;
use super::access::{Side, report_transport};
use super::roles;
use crate::capture::images::{Lifetime, lifetime};
use crate::config::Config;
use crate::deployment::{
    Client, Database, feature_too_old, is_supported, mongo_error, operation_time, oplog_start, server,
};
use crate::error::{Error, Result};

const ABOUT: &str = "mongodb";

/// What the account is like; `None` where change streams need not be tried at all. Fails as unavailable where the
/// server can't be reached.
pub(super) async fn check(client: &Client, config: &Config, findings: &mut Findings) -> Result<Option<Side>> {
    report_transport(ABOUT, &config.mongodb_uri, findings).await?;
    let admin = client.database("admin");
    let hello = command(&admin, doc! {"hello": 1}, "reaching MongoDB").await?;
    let build = command(&admin, doc! {"buildInfo": 1}, "asking for the version").await?;
    let version = build.get_str("version").unwrap_or("unknown");
    if !topology(&hello, version, findings) {
        return Ok(None);
    }
    if !is_supported(version) {
        findings.fail(
            ABOUT,
            &Error::unavailable(format!("the server is too old version={version}"))
                .hint("Archiver needs MongoDB 6.0 or newer, for images before and after a change"),
        );
        return Ok(None);
    }
    let side = Side::ask(client, &hello).await?;
    access(&side, config, findings)?;
    compatibility(&admin, findings).await;
    oplog(client, findings).await;
    image_lifetime(client, findings).await;
    identity(client, findings).await?;
    Ok(Some(side))
}

/// A position is stored with the deployment that it is one of.
async fn identity(client: &Client, findings: &mut Findings) -> Result<()> {
    if server(client).await?.deployment.is_none() {
        findings.info(
            ABOUT,
            "which replica set this is may not be seen by this account, so that another one at this address is told by its \
             clock and oplog alone; role archiverMonitor allows it",
        );
    }
    Ok(())
}

async fn command(admin: &Database, command: Document, doing: &str) -> Result<Document> {
    admin.run_command(command).await.map_err(|e| mongo_error(doing, e))
}

fn topology(hello: &Document, version: &str, findings: &mut Findings) -> bool {
    let cluster = hello.get_str("msg").ok() == Some("isdbgrid");
    match hello.get_str("setName") {
        Ok(set) => findings.ok(ABOUT, format!("reachable, replica set {set}, version {version}")),
        Err(_) if cluster => findings.ok(ABOUT, format!("reachable, sharded cluster, version {version}")),
        Err(_) => {
            let error = Error::unavailable("this is a standalone server: change streams need a replica set");
            let hint = "start mongod with --replSet rs0 and run rs.initiate() once; one member is enough";
            findings.fail(ABOUT, &error.hint(hint));
            return false;
        }
    }
    true
}

async fn compatibility(admin: &Database, findings: &mut Findings) {
    let asked = admin.run_command(doc! {"getParameter": 1, "featureCompatibilityVersion": 1}).await;
    let version = asked.ok().and_then(|reply| {
        let compatibility = reply.get_document("featureCompatibilityVersion").ok()?;
        compatibility.get_str("version").ok().map(str::to_owned)
    });
    match version.as_deref() {
        Some(text) if !is_supported(text) => findings.fail(ABOUT, &feature_too_old(text)),
        Some(text) => findings.ok(ABOUT, format!("feature compatibility version {text}")),
        None => findings.info(ABOUT, "the feature compatibility version may not be seen by this account; role archiverMonitor allows it"),
    }
}

fn access(side: &Side, config: &Config, findings: &mut Findings) -> Result<()> {
    let (needs, images) = (roles::watching(config)?, roles::imaging(config)?);
    side.report(ABOUT, &needs, &images, findings);
    let watched = config.sources.iter().flat_map(|s| &s.watch).map(roles::database_of).collect();
    side.report_beyond(ABOUT, &[needs, images].concat(), &watched, findings);
    Ok(())
}

async fn oplog(client: &Client, findings: &mut Findings) {
    let present = operation_time(&client.database("admin")).await;
    match (present, oplog_start(client).await) {
        (Ok(present), Ok(Some(oldest))) => {
            let hours = f64::from(present.time.saturating_sub(oldest.time)) / 3600.0;
            let what = format!("the oplog reaches back {hours:.1} hours: a longer standstill loses history");
            findings.info(ABOUT, what);
        }
        (_, Ok(None)) => {
            findings
                .info(ABOUT, "the oplog may not be seen by this account, so `status` can't show its headroom; role archiverMonitor allows it");
        }
        (Err(error), _) | (_, Err(error)) => findings.fail(ABOUT, &error),
    }
}

async fn image_lifetime(client: &Client, findings: &mut Findings) {
    let lifetime = lifetime(client).await;
    let what = format!("images are kept {lifetime}");
    match lifetime {
        Lifetime::Seconds(..3600) => {
            let hint = "a standstill longer than that loses images, though no changes; raise preAndPostImages.\
                        expireAfterSeconds of the cluster parameter changeStreamOptions";
            findings.warn(ABOUT, what, hint);
        }
        Lifetime::Unknown => findings.info(ABOUT, format!("{what}; role archiverMonitor allows it")),
        _ => findings.info(ABOUT, what),
    }
}
