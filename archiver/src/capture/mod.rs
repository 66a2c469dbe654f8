//! The capture loop: events are read, redacted, and appended together with the checkpoint after them.
//!
//! Sequential within a stream. The position that is stored is always one behind which everything is appended.

mod actor;
mod assemble;
mod barrier;
mod batch;
pub mod change_event;
pub mod lease;
mod lifecycle;
pub mod namespaces;
mod resync;
pub mod snapshot;
pub mod stream;
pub mod users;
pub mod watcher;
mod writer;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use bson::Timestamp;
use mongodb::Client;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::info;

use self::barrier::Barrier;
use self::batch::Batches;
use self::lease::Lease;
use self::namespaces::{archivers_databases, watched_collections};
use self::snapshot::Snapshot;
use self::stream::{StreamOptions, partition_filter};
use self::watcher::Watcher;
use self::writer::BatchWriter;
use crate::archive::store::Archive;
use crate::audit_log::AuditLog;
use crate::checkpoint::{Checkpoint, Counters, SnapshotProgress};
use crate::config::{CaptureConfig, OnHistoryLost, Snapshot as SnapshotMode, SourceConfig};
use crate::deployment::operation_time;
use crate::error::{Error, Result};
use crate::event::Position;
use crate::fault::Fault;
use crate::plugin::PluginChain;
use crate::stream_id::StreamId;

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
    /// The source's plugins.
    pub chain: Arc<PluginChain>,
    /// The stream's lease, held.
    pub lease: Lease,
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
        let audit_database = self.log.database().name().to_owned();
        let options = StreamOptions::new(&self.source.watch, &audit_database)
            .of(&self.stream, self.source.partitions)
            .with_context(&self.source);
        let checkpoint = self.begin(&options).await?;
        info!(source = %self.stream, epoch = self.lease.epoch, next_seq = checkpoint.next_seq, "capture started");
        let left_out = archivers_databases(&self.client, &self.source.watch, &audit_database).await?;
        let session = self.log.session().await?;
        self.lease.name_session(session.id()).await?;
        let lifecycle = watch::Sender::new(checkpoint.position.cluster_time);
        let mut writer = BatchWriter {
            capture: &self,
            session,
            barrier: Barrier::new(checkpoint.position.cluster_time),
            durable: checkpoint,
            stored_at: Instant::now(),
            left_out,
            stop_reading: self.stop.child_token(),
            lifecycle,
        };
        writer.record_policy().await?;
        let mut behind_gap = None;
        loop {
            let Err(error) = self.read(&mut writer, &options, until).await else { return Ok(()) };
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

    /// Reads the stream, and documents beside it, from the checkpoint on.
    async fn read(
        &self,
        writer: &mut BatchWriter<'_>,
        options: &StreamOptions,
        until: Option<Timestamp>,
    ) -> Result<()> {
        let stop = self.stop.child_token();
        let _stop_reading = stop.clone().drop_guard();
        let position = writer.durable.position.clone();
        writer.barrier = Barrier::new(position.cluster_time);
        writer.stop_reading = stop.clone();
        writer.lifecycle.send_replace(position.cluster_time);
        let audit_database = self.log.database().name().to_owned();
        let documents = match writer.durable.snapshot.clone() {
            Some(progress) => {
                let collections =
                    watched_collections(&self.client, &self.source.watch, &audit_database, &writer.left_out)
                        .await?;
                let snapshot =
                    Snapshot::new(self.client.clone(), collections, progress, position.clone(), self.limits);
                let filter = partition_filter(&self.stream, self.source.partitions, "$_id");
                Some(snapshot.of(filter).start(writer.barrier.clone(), stop.clone()))
            }
            None => None,
        };
        let watcher = Watcher {
            client: self.client.clone(),
            options: options.clone(),
            audit_database,
            left_out: writer.left_out.clone(),
            limits: self.limits,
        };
        let events = watcher.start(position, stop);
        writer.take(Batches::new(events, self.limits), documents, until).await
    }

    /// The checkpoint to go on from, taken over under this writer's epoch; the first one where there is none.
    async fn begin(&self, options: &StreamOptions) -> Result<Checkpoint> {
        let name = &self.stream;
        let digest = options.digest();
        if let Some(checkpoint) = self.log.fence(name, self.lease.epoch).await? {
            if checkpoint.partitions != self.source.partitions {
                return Err(partitions_changed(
                    &self.source.name,
                    checkpoint.partitions,
                    self.source.partitions,
                ));
            }
            if checkpoint.options != digest {
                return Err(Error::invalid(format!("what this source watches has changed since its last start source={name}"))
                    .hint("a change stream can't go on under another filter; give the new set of namespaces a source of its own name, \
                           or restore `watch` and the audit database's name"));
            }
            if !checkpoint.counters.add_up() {
                return Err(Error::corrupt(format!("the checkpoint's counters do not add up source={name}")));
            }
            return Ok(checkpoint);
        }
        // The baseline is read after this moment and the stream goes on from it, so nothing falls between.
        let cluster_time = operation_time(&self.client.database("admin")).await?;
        let checkpoint = Checkpoint {
            stream: name.clone(),
            partitions: self.source.partitions,
            epoch: self.lease.epoch,
            next_seq: 1,
            position: Position { token: None, cluster_time },
            snapshot: (self.source.snapshot == SnapshotMode::Initial).then(SnapshotProgress::default),
            policy: 0,
            policy_digest: String::new(),
            options: digest,
            resyncs: Vec::new(),
            server: None,
            context: None,
            counters: Counters::default(),
        };
        self.log.create_checkpoint(&checkpoint).await?;
        Ok(checkpoint)
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
