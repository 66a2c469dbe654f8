//! Where every source stands, gathered from its checkpoint, its lease and its manifests. Changes nothing, and says
//! what it can where one of these can't be reached.

mod instances;

use std::time::Duration;

use bson::{DateTime, Document, Timestamp, doc};
use futures_util::TryStreamExt;
use serde::Serialize;

pub use self::instances::{InstanceStatus, instances};
use crate::archive::store::Archive;
use crate::audit_log::{AuditLog, FoundWrong, Holds, LEASES, Verified};
use crate::capture::headroom::Headroom;
use crate::checkpoint::{Checkpoint, Counters, Resync, SnapshotProgress};
use crate::config::Config;
use crate::deployment::{connect, mongo_error, operation_time, oplog_start};
use crate::error::{Error, Kind, Result};
use crate::record::Record;
use crate::stream_id::StreamId;

/// Where one stream stands. `None` and `null` mean unknown or not yet.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceStatus {
    /// The source's name.
    pub source: String,
    /// The partition, where the source has several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partition: Option<u32>,
    /// What it is doing.
    pub state: State,
    /// The last record's seq; 0 before the first.
    pub seq: i64,
    /// The seq of the last record that is sealed in the archive; 0 before the first.
    pub rolled_seq: Option<i64>,
    /// The seq of the last record that has expired; 0 where none has.
    pub expired_seq: Option<i64>,
    /// Until when history has been removed by retention, RFC 3339 in UTC.
    pub expired_until: Option<String>,
    /// How many segments are older than `retention` and still there.
    pub overdue: u64,
    /// How many legal holds in force concern the source.
    pub legal_holds: usize,
    /// How long ago the oldest record happened that is not sealed in the archive; 0 where all are.
    pub unrolled_seconds: Option<i64>,
    /// The number of the current or last writer.
    pub epoch: Option<i64>,
    /// The process that holds the lease.
    pub holder: Option<String>,
    /// How long it has held it.
    pub lease_age_seconds: Option<i64>,
    /// Everything up to this time (RFC 3339, UTC) is in the audit log.
    pub captured_to: Option<String>,
    /// How far that is behind the source's present.
    pub lag_seconds: Option<i64>,
    /// How much longer the source may stand still before history is lost: the age of what the oplog still holds
    /// before the checkpoint.
    pub oplog_headroom_seconds: Option<i64>,
    /// The same as a share of all that the oplog holds, 0 to 100.
    pub oplog_headroom_percent: Option<i64>,
    /// How far the baseline has been read, until it is complete.
    pub snapshot: Option<SnapshotStatus>,
    /// What was read, and what became of it.
    pub counters: Counters,
    /// How many events were withheld because a plugin failed on them.
    pub quarantined: i64,
    /// How many of them are withheld still.
    pub withheld: u64,
    /// How many notices of reads and recoveries wait to become records of the source; its first partition has them all.
    pub notices: u64,
    /// How many stretches of history are known to be missing.
    pub gaps: Option<i64>,
    /// Gaps behind which the present has not been compared yet with what is known, the one that is being compared first.
    pub comparisons: Vec<Comparison>,
    /// When the background verification last looked through the archive (RFC 3339, UTC).
    pub verified_at: Option<String>,
    /// How many findings of it stand; the first of them are among the problems.
    pub verify_findings: Option<i64>,
    /// What stopped the last writer, if it was an error.
    pub last_error: Option<LastError>,
    /// What a human must look at, or could not be found out.
    pub problems: Vec<String>,
}

/// What a source is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum State {
    /// It has neither a checkpoint nor a writer.
    #[default]
    NeverStarted,
    /// A writer holds its lease.
    Running,
    /// Nobody holds its lease.
    Stopped,
    /// Nobody holds its lease, because only a human can mend what stopped it: see the last error.
    Halted,
}

/// How far the baseline has been read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotStatus {
    /// When it began, RFC 3339 in UTC.
    pub started: String,
    /// Collections completely read.
    pub done: u32,
    /// Collections to read in all.
    pub collections: u32,
    /// Ranges of the collections that are being read.
    pub ranges: usize,
    /// Documents read.
    pub documents: i64,
    /// Documents to read in all, about.
    pub estimated: i64,
    /// How much of the estimate is read.
    pub percent: u8,
    /// How fast the last writer has been reading.
    pub documents_per_second: Option<i64>,
    /// How long the rest takes at that rate.
    pub seconds_left: Option<i64>,
}

impl From<SnapshotProgress> for SnapshotStatus {
    fn from(progress: SnapshotProgress) -> Self {
        SnapshotStatus {
            started: rfc3339(progress.started.timestamp_millis()),
            done: progress.done(),
            collections: progress.collections,
            ranges: progress.open.iter().map(|open| open.ranges.len()).sum(),
            documents: progress.documents,
            estimated: progress.estimated,
            percent: progress.percent(),
            documents_per_second: progress.per_second().map(|rate| rate.round() as i64),
            seconds_left: progress.time_left().map(|left| left.as_secs() as i64),
        }
    }
}

/// A gap behind which the present has yet to be compared with what is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Comparison {
    /// The seq of the gap's record.
    pub gap: i64,
    /// The one namespace that it concerns; `None`: everything the source watches.
    pub namespace: Option<String>,
    /// What is missing happened after this time (RFC 3339, UTC) …
    pub after: String,
    /// … and no later than this one.
    pub until: String,
}

impl Comparison {
    fn of(resync: &Resync) -> Comparison {
        Comparison {
            gap: resync.gap,
            namespace: resync.namespace.as_ref().map(|(db, coll)| format!("{db}.{coll}")),
            after: rfc3339(i64::from(resync.after.time) * 1000),
            until: rfc3339(i64::from(resync.until.time) * 1000),
        }
    }
}

/// What stopped the last writer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LastError {
    /// When, RFC 3339 in UTC.
    pub at: String,
    /// Its kind, as in the exit codes: `unavailable`, `plugin`, `historyLost`, …
    pub kind: String,
    /// The error.
    pub message: String,
}

/// What all sources share.
struct Deployment {
    log: AuditLog,
    retention: Option<Duration>,
    holds: Holds,
    /// `None` where there is no archive yet.
    archive: Result<Option<Archive>>,
    /// The audit server's clock, which leases go by.
    now: DateTime,
    /// The source's present and the oldest entry of its oplog, as far as the account may see it.
    present: Result<Timestamp>,
    oldest: Result<Option<Timestamp>>,
}

/// The status of one configured source, or of all, and of those that left a checkpoint behind: of each of their streams.
///
/// Fails as unavailable where the audit log can't be read, and as not found where there is no such source.
pub async fn status(config: &Config, source: Option<&str>) -> Result<Vec<SourceStatus>> {
    let deployment = Deployment::connect(config).await?;
    let configured: Vec<_> =
        config.sources.iter().flat_map(|s| StreamId::all(&s.name, s.partitions)).collect();
    let mut streams = configured.clone();
    for left_behind in deployment.log.streams().await? {
        if !streams.contains(&left_behind) {
            streams.push(left_behind);
        }
    }
    if let Some(source) = source {
        if !streams.iter().any(|stream| stream.source == source) {
            config.source(source)?;
        }
        streams.retain(|stream| stream.source == source);
    }
    let mut found = Vec::with_capacity(streams.len());
    for stream in streams {
        found.push(deployment.stream(&stream, configured.contains(&stream)).await?);
    }
    Ok(found)
}

impl Deployment {
    /// The audit log and its server's clock.
    async fn log(config: &Config) -> Result<(AuditLog, DateTime)> {
        let log = AuditLog::connect(config).await?;
        let hello = log.database().run_command(doc! {"hello": 1}).await;
        let hello = hello.map_err(|e| mongo_error("reaching the audit database", e))?;
        let now = hello.get_datetime("localTime").copied().unwrap_or_else(|_| DateTime::now());
        Ok((log, now))
    }

    async fn connect(config: &Config) -> Result<Self> {
        let (log, now) = Deployment::log(config).await?;
        let client = connect(&config.mongodb_uri).await?;
        let present = operation_time(&client.database("admin")).await;
        let oldest = match &present {
            Ok(_) => oplog_start(&client).await,
            Err(_) => Ok(None),
        };
        let archive = match Archive::open_url(&config.archive.url, &config.archive.options) {
            Err(error) if error.kind() == Kind::NotFound => Ok(None),
            opened => opened.map(Some),
        };
        let (retention, holds) = (config.archive.retention, log.holds().await?);
        Ok(Deployment { log, retention, holds, archive, now, present, oldest })
    }

    async fn stream(&self, stream: &StreamId, configured: bool) -> Result<SourceStatus> {
        let StreamId { source, partition } = stream.clone();
        let mut status = SourceStatus { source, partition, ..SourceStatus::default() };
        if !configured {
            status.problems.push("it left a checkpoint but is not in the configuration".to_owned());
        }
        status.legal_holds = self.holds.in_force_of(&stream.source);
        status.notices = self.log.count_notices(stream).await?;
        self.add_lease(stream, &mut status).await?;
        if let Some(checkpoint) = self.log.checkpoint(stream).await? {
            if status.state == State::NeverStarted {
                status.state = State::Stopped;
            }
            status.withheld = self.log.count_withheld(stream).await?;
            self.add_checkpoint(&mut status, checkpoint);
        }
        if let Err(error) = self.add_archive(stream, &mut status).await {
            status.problems.push(error.explain());
            status.problems.extend(error.hint_text().map(str::to_owned));
            // What the log knows of it serves until the store can be asked again.
            status.rolled_seq = Some(self.log.sealed(stream).await?.map_or(0, |(end, _)| end - 1));
        }
        if let Some(rolled) = status.rolled_seq {
            status.unrolled_seconds = Some(self.waiting(stream, rolled + 1).await?);
        }
        Ok(status)
    }

    /// How long ago the first record from this seq on happened; 0 where there is none.
    async fn waiting(&self, stream: &StreamId, seq: i64) -> Result<i64> {
        let mut records = std::pin::pin!(self.log.records(stream, seq..seq + 1).await?);
        let Some(record) = records.try_next().await? else { return Ok(0) };
        let happened = Record::new(&record)?.cluster_time()?;
        let now = self.present.as_ref().map_or(self.now.timestamp_millis() / 1000, |now| i64::from(now.time));
        Ok((now - i64::from(happened.time)).max(0))
    }

    async fn add_lease(&self, stream: &StreamId, status: &mut SourceStatus) -> Result<()> {
        let leases = self.log.database().collection::<Document>(LEASES);
        let lease = leases.find_one(doc! {"_id": stream.to_string()}).await;
        let Some(lease) = lease.map_err(|e| mongo_error("reading the lease", e))? else { return Ok(()) };
        status.epoch = lease.get_i64("epoch").ok();
        let held = lease.get_datetime("expires").is_ok_and(|expires| *expires > self.now);
        status.state = match lease.contains_key("halted") {
            true => State::Halted,
            false => State::Stopped,
        };
        if let Some(holder) = lease.get_str("holder").ok().filter(|_| held) {
            status.state = State::Running;
            status.holder = Some(holder.to_owned());
            let since = lease.get_datetime("since").ok();
            status.lease_age_seconds =
                since.map(|since| (self.now.timestamp_millis() - since.timestamp_millis()).max(0) / 1000);
        }
        if let Some(Verified { at, found, findings }) = Verified::of_lease(&lease) {
            status.verified_at = Some(rfc3339(at.timestamp_millis()));
            status.verify_findings = Some(found);
            status.problems.extend(findings.into_iter().map(|FoundWrong { code, file, seq, reason }| {
                let seq = seq.map(|seq| format!(" seq={seq}")).unwrap_or_default();
                format!("the archive is not what was written: {file}{seq}: {reason} [{code}]")
            }));
        }
        if let Ok(error) = lease.get_document("lastError") {
            let at = error.get_datetime("at").map(|at| rfc3339(at.timestamp_millis())).unwrap_or_default();
            let text = |field| error.get_str(field).unwrap_or_default().to_owned();
            status.last_error = Some(LastError { at, kind: text("kind"), message: text("message") });
        }
        Ok(())
    }

    fn add_checkpoint(&self, status: &mut SourceStatus, checkpoint: Checkpoint) {
        let captured = checkpoint.position.cluster_time;
        status.seq = checkpoint.next_seq - 1;
        status.epoch = Some(checkpoint.epoch.max(status.epoch.unwrap_or(0)));
        status.captured_to = Some(rfc3339(i64::from(captured.time) * 1000));
        status.snapshot = checkpoint.snapshot.map(SnapshotStatus::from);
        status.comparisons = checkpoint.resyncs.iter().map(Comparison::of).collect();
        status.quarantined = checkpoint.counters.quarantined;
        status.gaps = Some(checkpoint.counters.gaps);
        if !checkpoint.counters.add_up() {
            status.problems.push("the counters do not add up: read is not appended + dropped".to_owned());
        }
        status.counters = checkpoint.counters;
        match &self.present {
            Ok(present) => status.lag_seconds = Some(seconds_between(captured, *present).max(0)),
            Err(error) => status.problems.push(format!("the lag is unknown: {}", error.explain())),
        }
        match &self.oldest {
            Ok(Some(oldest)) => {
                let newest = self.present.as_ref().copied().unwrap_or(captured);
                let headroom = Headroom::new(*oldest, captured, newest);
                if headroom.seconds < 0 {
                    status
                        .problems
                        .push("the oplog no longer holds the events after the checkpoint".to_owned());
                }
                status.oplog_headroom_seconds = Some(headroom.seconds.max(0));
                status.oplog_headroom_percent = Some(headroom.percent());
            }
            Ok(None) => {}
            Err(error) => status.problems.push(format!("the oplog headroom is unknown: {}", error.explain())),
        }
    }

    async fn add_archive(&self, stream: &StreamId, status: &mut SourceStatus) -> Result<()> {
        let archive = self.archive.as_ref().map_err(|e| Error::unavailable(e.explain()))?;
        let (mut end_seq, mut expired_end) = (1, 1);
        // What happened up to then is too old.
        let old =
            self.retention.map(|retention| self.now.timestamp_millis() / 1000 - retention.as_secs() as i64);
        let manifests = match archive {
            Some(archive) => archive.read_manifests(stream).await?,
            None => Vec::new(),
        };
        for (key, manifest) in manifests {
            match manifest {
                Ok(sealed) => {
                    end_seq = end_seq.max(sealed.manifest.end_seq);
                    match sealed.expired {
                        true => expired_end = sealed.manifest.end_seq,
                        false
                            if old
                                .is_some_and(|old| i64::from(sealed.manifest.last_cluster_time.t) <= old) =>
                        {
                            status.overdue += 1;
                        }
                        false => {}
                    }
                }
                Err(_) => {
                    status.problems.push(format!("a manifest can't be read, run `archiver verify`: {key}"))
                }
            }
        }
        status.rolled_seq = Some(end_seq - 1);
        status.expired_seq = Some(expired_end - 1);
        if let Some(archive) = archive
            && expired_end > 1
        {
            let until = archive.removed_until(&stream.source).await?;
            status.expired_until = until.map(|until| rfc3339(i64::from(until.time) * 1000));
        }
        Ok(())
    }
}

fn seconds_between(from: Timestamp, to: Timestamp) -> i64 {
    i64::from(to.time) - i64::from(from.time)
}

fn rfc3339(millis: i64) -> String {
    jiff::Timestamp::from_millisecond(millis).map(|t| t.to_string()).unwrap_or_default()
}
