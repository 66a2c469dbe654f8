//! The capture loop: events are read, redacted, and appended together with the checkpoint after them.
//!
//! Sequential within a stream. The position that is stored is always one behind which everything is appended.

mod actor;
mod assemble;
mod barrier;
mod batch;
pub mod change_event;
mod fragments;
pub mod headroom;
pub mod images;
pub mod keeping;
pub mod lease;
mod lifecycle;
mod lookup;
pub mod namespaces;
pub mod portion;
mod reread;
mod resume;
mod resync;
pub mod retry;
pub mod snapshot;
pub mod standing;
pub mod stream;
pub mod tail;
mod token;
pub mod users;
mod watchdog;
pub mod watcher;
mod withheld;
mod writer;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use bson::Timestamp;
use mongodb::Client;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::info;

use self::barrier::Barrier;
use self::batch::Batches;
use self::headroom::Gauge;
use self::keeping::Keeping;
use self::lease::Lease;
use self::namespaces::archivers_databases;
use self::retry::Retry;
use self::snapshot::{Report, Snapshot, plan};
use self::stream::{StreamOptions, partition_filter};
use self::watcher::{Start, Watcher};
use self::writer::{BatchWriter, Documents, End};
use crate::archive::store::Archive;
use crate::audit_log::AuditLog;
use crate::checkpoint::{Checkpoint, Counters, RecentFailures};
use crate::config::{CaptureConfig, OnHistoryLost, Snapshot as SnapshotMode, SourceConfig, Tolerance};
use crate::deployment::{feature_too_old, is_supported, operation_time, server};
use crate::error::{Error, Result};
use crate::event::Position;
use crate::fault::Fault;
use crate::plugin::PluginChain;
use crate::salt::Salt;
use crate::stream_id::StreamId;

/// What may change of a source while it is captured: its plugins, and what happens when they fail.
#[derive(Debug, Clone)]
pub struct Plugins {
    /// All of them, loaded.
    pub chain: Arc<PluginChain>,
    /// What happens when they fail.
    pub tolerance: Tolerance,
}

/// One stream's capture, for as long as this process holds its lease.
#[derive(Debug)]
pub struct Capture {
    /// Which stream of the source.
    pub stream: StreamId,
    /// What to watch, and how to deal with failures.
    pub source: SourceConfig,
    /// The bounds of a batch.
    pub limits: CaptureConfig,
    /// The watched deployment.
    pub client: Client,
    /// Where records go.
    pub log: AuditLog,
    /// Where they go from there: asked what is known, when history is lost.
    pub archive: Archive,
    /// The source's plugins. Others count from the next batch on.
    pub plugins: watch::Receiver<Plugins>,
    /// Which withheld events are to be tried again.
    pub retries: watch::Receiver<Option<Retry>>,
    /// Holds and removals that are to be recorded.
    pub keeping: watch::Receiver<Keeping>,
    /// The stream's lease, held.
    pub lease: Lease,
    /// Measures how much of the oplog is left.
    pub headroom: Arc<Gauge>,
    /// Bytes appended since the start, for whoever decides when to roll.
    pub appended_bytes: Arc<AtomicU64>,
    /// Ends the capture at the next batch boundary.
    pub stop: CancellationToken,
}

impl Capture {
    /// Captures until stopped, or until everything up to `until` is appended. Where history is lost, says so in the log and
    /// goes on behind the gap, unless the source is to halt.
    ///
    /// Ends without error when stopped. After an error the stored checkpoint is where the next capture goes on.
    pub async fn run(self, until: Option<Timestamp>) -> Result<()> {
        let (mut writer, options) = self.open().await?;
        writer.record_policy().await?;
        writer.record_keeping().await?;
        let mut behind_gap = None;
        loop {
            let error = match self.read(&mut writer, &options, until).await {
                Ok(End::Done) => return Ok(()),
                Ok(End::OtherPlugins) => {
                    writer.change_plugins().await?;
                    continue;
                }
                Err(error) => error,
            };
            // Lost again before anything was read: rather than one gap after the other, start over, with backoff.
            let again = behind_gap.as_ref() == Some(&writer.durable.position);
            match error.fault() {
                Some(Fault::PositionLost) if self.source.on_history_lost == OnHistoryLost::Halt => {
                    return Err(error);
                }
                Some(Fault::PositionLost) if again => {
                    return Err(Error::unavailable("history was lost again before the stream could go on")
                        .hint("the oplog is too short for what the deployment writes; enlarge it")
                        .because(error));
                }
                Some(Fault::PositionLost) => writer.open_gap(error).await?,
                _ => return Err(error),
            }
            behind_gap = Some(writer.durable.position.clone());
        }
    }

    /// Tries withheld events again and nothing else, for a stream that nobody captures. The request gets the answer.
    pub async fn retry(self, retry: Retry) -> Result<()> {
        let (mut writer, options) = self.open().await?;
        writer.record_policy().await?;
        let watcher = self.watcher(&options, &writer);
        let mut trying = writer.try_again(retry, &watcher).await?;
        loop {
            let read = trying.next().await;
            if !writer.take_again(&mut trying, read).await? {
                return Ok(());
            }
        }
    }

    /// Takes the stream over under this writer's epoch. Reads nothing yet.
    async fn open(&self) -> Result<(BatchWriter<'_>, StreamOptions)> {
        let audit_database = self.log.database().name().to_owned();
        if let Some(version) = server(&self.client).await?.feature.filter(|version| !is_supported(version)) {
            return Err(feature_too_old(&version));
        }
        let options =
            StreamOptions::of_source(&self.source, &self.stream, &audit_database, &self.client).await?;
        let left_out = archivers_databases(&self.client, &self.source.watch, &audit_database).await?;
        if self.source.enable_images && options.keyless {
            images::enable_everywhere(&self.client, &self.source.watch, &audit_database, &left_out).await?;
        }
        let checkpoint = self.begin(&options, &left_out).await?;
        info!(source = %self.stream, epoch = self.lease.epoch, next_seq = checkpoint.next_seq, "capture started");
        let session = self.log.session().await?;
        self.lease.name_session(session.id()).await?;
        let lifecycle = watch::Sender::new(checkpoint.position.cluster_time);
        self.headroom.note_stored(&checkpoint);
        let (mut plugins, retries) = (self.plugins.clone(), self.retries.clone());
        let Plugins { chain, tolerance } = plugins.borrow_and_update().clone();
        let writer = BatchWriter {
            capture: self,
            chain,
            tolerance,
            plugins,
            retries,
            keeping: self.keeping.clone(),
            answered: None,
            session,
            options: options.digest(),
            barrier: Barrier::new(checkpoint.position.cluster_time),
            durable: checkpoint,
            stored_at: Instant::now(),
            report: Report::new(),
            left_out,
            stop_reading: self.stop.child_token(),
            lifecycle,
        };
        Ok((writer, options))
    }

    /// Reads the stream, and documents beside it, from the checkpoint on.
    async fn read(
        &self,
        writer: &mut BatchWriter<'_>,
        options: &StreamOptions,
        until: Option<Timestamp>,
    ) -> Result<End> {
        let stop = self.stop.child_token();
        let _stop_reading = stop.clone().drop_guard();
        let position = writer.durable.position.clone();
        writer.barrier = Barrier::new(position.cluster_time);
        writer.stop_reading = stop.clone();
        writer.lifecycle.send_replace(position.cluster_time);
        let documents = self.baseline(writer, &stop).await?;
        let start = match writer.durable.options == writer.options {
            true => Start::After(position),
            false => {
                info!(source = %self.stream, "the stream has other options now; it is reopened at the checkpoint's time");
                Start::Among(position)
            }
        };
        let watcher = self.watcher(options, writer);
        let events = watcher.clone().start(start, stop);
        tokio::select! {
            taken = writer.take(Batches::new(events, self.limits), documents, until, &watcher) => taken,
            never = self.headroom.watch(&self.client, &self.stream) => match never {},
        }
    }

    fn watcher(&self, options: &StreamOptions, writer: &BatchWriter<'_>) -> Watcher {
        let enable_images = match self.source.enable_images && options.keyless {
            true => self.source.watch.clone(),
            false => Vec::new(),
        };
        Watcher {
            source: self.stream.to_string(),
            client: self.client.clone(),
            options: options.clone(),
            audit_database: self.log.database().name().to_owned(),
            left_out: writer.left_out.clone(),
            limits: self.limits,
            enable_images,
        }
    }

    /// The checkpoint to go on from, taken over under this writer's epoch; the first one where there is none.
    async fn begin(&self, options: &StreamOptions, left_out: &HashSet<String>) -> Result<Checkpoint> {
        let name = &self.stream;
        if let Some(mut checkpoint) = self.log.fence(name, self.lease.epoch).await? {
            if checkpoint.partitions != self.source.partitions {
                return Err(partitions_changed(
                    &self.source.name,
                    checkpoint.partitions,
                    self.source.partitions,
                ));
            }
            if !checkpoint.counters.add_up() {
                return Err(Error::corrupt(format!("the checkpoint's counters do not add up source={name}")));
            }
            resume::identify(&self.client, &mut checkpoint).await?;
            // Stored with the first digest that is made with it.
            checkpoint.salt.get_or_insert_with(Salt::random);
            return Ok(checkpoint);
        }
        // The baseline is read after this moment and the stream goes on from it, so nothing falls between.
        let cluster_time = operation_time(&self.client.database("admin")).await?;
        let snapshot = match self.source.snapshot {
            SnapshotMode::Never => None,
            SnapshotMode::Initial => {
                let audit_database = self.log.database().name();
                let collections =
                    plan::present(&self.client, &self.source.watch, audit_database, left_out).await?;
                plan::plan(&self.log, &self.stream, self.source.partitions, None, collections).await?
            }
        };
        let checkpoint = Checkpoint {
            stream: name.clone(),
            partitions: self.source.partitions,
            epoch: self.lease.epoch,
            next_seq: 1,
            position: Position { token: None, cluster_time },
            snapshot,
            policy: 0,
            policy_digest: String::new(),
            options: options.digest(),
            watch: Vec::new(),
            resyncs: Vec::new(),
            server: Some(server(&self.client).await?),
            context: None,
            salt: Some(Salt::random()),
            failures: RecentFailures::default(),
            retried: None,
            expired_end: 1,
            holds_recorded: 0,
            counters: Counters::default(),
        };
        self.log.create_checkpoint(&checkpoint).await?;
        Ok(checkpoint)
    }

    /// Starts reading what the checkpoint leaves of a baseline; `None` where there is none to read.
    async fn baseline(
        &self,
        writer: &mut BatchWriter<'_>,
        stop: &CancellationToken,
    ) -> Result<Option<mpsc::Receiver<Result<Documents>>>> {
        let Some(progress) = &mut writer.durable.snapshot else {
            // A crash may have left one behind that is read to its end, or was never begun.
            self.log.forget_plans(&self.stream).await?;
            return Ok(None);
        };
        progress.resume(snapshot::now());
        let first = progress.first_left();
        let collections = self.log.read_plan(&self.stream, &progress.plan, first).await?;
        let (position, barrier) = (writer.durable.position.clone(), writer.barrier.clone());
        self.snapshot(position, barrier).start(progress, collections, stop.clone()).map(Some)
    }

    /// How documents are read beside the stream.
    fn snapshot(&self, position: Position, barrier: Barrier) -> Snapshot {
        Snapshot {
            client: self.client.clone(),
            watch: self.source.watch.clone(),
            limits: self.limits,
            position,
            filter: partition_filter(&self.stream, self.source.partitions, "$_id"),
            barrier,
        }
    }
}

/// Makes sure, before anything is written, that a source still has as many partitions as it began with: under another number
/// a document's history would go on in another stream, whose order and baseline know nothing of it.
pub async fn check_partitions(log: &AuditLog, source: &SourceConfig) -> Result<()> {
    let wanted = StreamId::all(&source.name, source.partitions);
    let begun = log.streams_of(&source.name).await?;
    // Any of them tells; one that is not wanted tells for sure.
    let Some(stream) = begun.iter().find(|stream| !wanted.contains(stream)).or(begun.first()) else {
        return Ok(());
    };
    match log.checkpoint(stream).await? {
        Some(Checkpoint { partitions, .. }) if partitions != source.partitions => {
            Err(partitions_changed(&source.name, partitions, source.partitions))
        }
        _ => Ok(()),
    }
}

fn partitions_changed(source: &str, began_with: u32, wanted: u32) -> Error {
    Error::invalid(format!(
        "the number of a source's partitions can't change source={source} began_with={began_with} configured={wanted}"
    ))
    .hint(format!(
        "set partitions = {began_with} again, or give the source a new name with partitions = {wanted}: it begins with a baseline \
         of its own, and the history under {source} stays readable"
    ))
}
