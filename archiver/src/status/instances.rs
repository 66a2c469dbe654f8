//! Which archivers live, what they are willing to run, and what each holds.

use bson::{DateTime, Document, doc};
use futures_util::TryStreamExt;
use serde::Serialize;

use super::{Deployment, rfc3339};
use crate::audit_log::LEASES;
use crate::capture::lease::instance_of;
use crate::config::Config;
use crate::deployment::mongo_error;
use crate::error::Result;
use crate::stream_id::StreamId;

/// One living archiver. Those of `run --once` do not announce themselves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InstanceStatus {
    /// Its name in the leases that it holds.
    pub holder: String,
    /// The host that it runs on.
    pub host: String,
    /// Its process id there.
    pub pid: i64,
    /// Its version.
    pub version: String,
    /// When it started (RFC 3339, UTC), by its own clock.
    pub since: String,
    /// The streams that it holds.
    pub holds: Vec<String>,
    /// The streams that it is willing to run.
    pub streams: Vec<String>,
    /// Those of them that keep failing there, and are left to others.
    pub failing: Vec<String>,
}

/// The living archivers of this audit database, in the order of their names.
pub async fn instances(config: &Config) -> Result<Vec<InstanceStatus>> {
    let (log, now) = Deployment::log(config).await?;
    let leases = log.database().collection::<Document>(LEASES);
    let documents =
        async { leases.find(doc! {}).sort(doc! {"_id": 1}).await?.try_collect::<Vec<Document>>().await };
    let documents = documents.await.map_err(|e| mongo_error("reading the leases", e))?;
    let living: Vec<&Document> = documents.iter().filter(|document| lives(document, now)).collect();
    Ok(living.iter().filter_map(|document| instance(document, &living)).collect())
}

fn lives(document: &Document, now: DateTime) -> bool {
    document.get_datetime("expires").is_ok_and(|expires| *expires > now)
}

fn instance(document: &Document, living: &[&Document]) -> Option<InstanceStatus> {
    let holder = instance_of(document.get_str("_id").ok()?)?;
    let text = |field| document.get_str(field).unwrap_or_default().to_owned();
    let names = |field| {
        let names = document.get_array(field).into_iter().flatten();
        names.filter_map(|name| name.as_str().map(str::to_owned)).collect()
    };
    let held = living.iter().filter(|lease| lease.get_str("holder").is_ok_and(|h| h == holder));
    let held = held.filter_map(|lease| StreamId::parse(lease.get_str("_id").ok()?));
    Some(InstanceStatus {
        holder: holder.to_owned(),
        host: text("host"),
        pid: document.get_i64("pid").unwrap_or_default(),
        version: text("version"),
        since: document.get_datetime("started").map(|at| rfc3339(at.timestamp_millis())).unwrap_or_default(),
        holds: held.map(|stream| stream.to_string()).collect(),
        streams: names("streams"),
        failing: names("failing"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_living_archiver_holds_is_found_and_what_has_expired_is_not() {
        let (now, later) = (DateTime::from_millis(5), DateTime::from_millis(6));
        let documents = [
            doc! {"_id": "ash", "holder": "h:1:x", "expires": later},
            doc! {"_id": "elm/0", "holder": "h:1:x", "expires": later},
            doc! {"_id": "fir", "holder": "h:1:x", "expires": now},
            doc! {"_id": "instance/h:1:x", "holder": "h:1:x", "expires": later, "pid": 1_i64, "host": "h", "streams": ["ash"]},
            doc! {"_id": "instance/h:2:y", "holder": "h:2:y", "expires": now},
        ];
        let living: Vec<&Document> = documents.iter().filter(|d| lives(d, now)).collect();
        let found: Vec<_> = living.iter().filter_map(|d| instance(d, &living)).collect();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].holds.join(" "), found[0].pid), ("ash elm/0".to_owned(), 1));
    }
}
