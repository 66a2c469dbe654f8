//! The capture loop: events are read, redacted, and appended together with the checkpoint after them.
//!
//! Sequential within a source. The position that is stored is always one behind which everything is appended.

mod assemble;
pub mod change_event;
pub mod lease;
pub mod namespaces;
pub mod snapshot;
pub mod stream;
pub mod watcher;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bson::Timestamp;
use bson_walker::{Doc, Writer};
use mongodb::{Client, ClientSession};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use self::assemble::{Identity, assemble};
use self::lease::Lease;
use self::namespaces::{archivers_databases, watched_collections};
use self::snapshot::Snapshot;
use self::stream::StreamOptions;
use self::watcher::{Read, Watcher};
use crate::audit_log::AuditLog;
use crate::checkpoint::{Checkpoint, Counters, SnapshotProgress};
use crate::config::{CaptureConfig, Snapshot as SnapshotMode, SourceConfig};
use crate::deployment::operation_time;
use crate::error::{Error, Result};
use crate::event::{Event, Position};
use crate::plugin::PluginChain;
use crate::record::Record;

/// How often a source on which nothing happens stores how far it has looked, so that its position never ages out of
/// the oplog.
const IDLE_ADVANCE: Duration = Duration::from_secs(5);
/// How often a running snapshot says how far it is.
const SNAPSHOT_REPORT: Duration = Duration::from_secs(10);

/// One source's capture, for as long as this process holds its lease.
#[derive(Debug)]
pub struct Capture {
    /// What to watch, and how to deal with failures.
    pub source: SourceConfig,
    /// The bounds of a batch.
    pub limits: CaptureConfig,
    /// The watched deployment.
    pub client: Client,
    /// Where records go.
    pub log: AuditLog,
    /// The source's plugins.
    pub chain: Arc<PluginChain>,
    /// The source's lease, held.
    pub lease: Lease,
    /// Bytes appended since the start, for whoever decides when to roll.
    pub appended_bytes: Arc<AtomicU64>,
    /// Ends the capture at the next batch boundary.
    pub stop: CancellationToken,
}

impl Capture {
    /// Captures until stopped, or until everything up to `until` is appended.
    ///
    /// Ends without error when stopped. After an error the stored checkpoint is where the next capture goes on.
    pub async fn run(self, until: Option<Timestamp>) -> Result<()> {
        let audit_database = self.log.database().name().to_owned();
        let options = StreamOptions::new(&self.source.watch, &audit_database);
        let checkpoint = self.begin(&options).await?;
        info!(source = %self.source.name, epoch = self.lease.epoch, next_seq = checkpoint.next_seq, "capture started");
        let left_out = archivers_databases(&self.client, &self.source.watch, &audit_database).await?;
        let session = self.log.session().await?;
        self.lease.name_session(session.id()).await?;
        let mut writer =
            BatchWriter { capture: &self, session, durable: checkpoint, stored_at: Instant::now() };
        writer.record_policy().await?;
        if let Some(progress) = writer.durable.snapshot.clone() {
            let collections =
                watched_collections(&self.client, &self.source.watch, &audit_database, &left_out).await?;
            let position = writer.durable.position.clone();
            let snapshot = Snapshot::new(self.client.clone(), collections, progress, position, self.limits);
            writer.take_snapshot(snapshot).await?;
        }
        if self.stop.is_cancelled() {
            return Ok(());
        }
        let watcher =
            Watcher { client: self.client.clone(), options, audit_database, left_out, limits: self.limits };
        let stop = self.stop.child_token();
        let _stop_reading = stop.clone().drop_guard();
        let events = watcher.start(writer.durable.position.clone(), stop);
        writer.take_events(events, until).await
    }

    /// The checkpoint to go on from, taken over under this writer's epoch; the first one where there is none.
    async fn begin(&self, options: &StreamOptions) -> Result<Checkpoint> {
        let name = &self.source.name;
        let digest = options.digest();
        if let Some(checkpoint) = self.log.fence(name, self.lease.epoch).await? {
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
            source: name.clone(),
            epoch: self.lease.epoch,
            next_seq: 1,
            position: Position { token: None, cluster_time },
            snapshot: (self.source.snapshot == SnapshotMode::Initial).then(SnapshotProgress::default),
            policy: 0,
            policy_digest: String::new(),
            options: digest,
            counters: Counters::default(),
        };
        self.log.create_checkpoint(&checkpoint).await?;
        Ok(checkpoint)
    }
}

/// A batch on its way into the log.
#[derive(Default)]
struct Batch {
    events: Vec<Event>,
    bytes: usize,
    /// Where the stream stands behind the batch.
    position: Option<Position>,
    /// Whether the stream had nothing after it at that moment.
    quiet: bool,
    permits: Vec<OwnedSemaphorePermit>,
    /// The watcher has ended behind this batch, with its error.
    end: Option<Option<Error>>,
}

/// Makes batches durable, one after the other.
struct BatchWriter<'a> {
    capture: &'a Capture,
    /// The one that the lease names.
    session: ClientSession,
    /// The stored checkpoint.
    durable: Checkpoint,
    stored_at: Instant,
}

impl BatchWriter<'_> {
    /// Passes events through the plugins and appends what comes out, together with the checkpoint that `advance`
    /// leaves.
    async fn append(&mut self, events: Vec<Event>, advance: impl FnOnce(&mut Checkpoint)) -> Result<()> {
        let mut next = self.durable.clone();
        advance(&mut next);
        let source = &self.capture.source;
        let records = if events.is_empty() {
            Vec::new()
        } else {
            let chain = Arc::clone(&self.capture.chain);
            let process = move || {
                let identities = events.iter().map(Identity::of).collect::<Result<Vec<_>>>()?;
                let outcomes = chain.process(events.into_iter().map(|e| e.body).collect());
                if identities.len() != outcomes.len() {
                    return Err(Error::internal("the plugin chain lost count of its events"));
                }
                Ok(identities.into_iter().zip(outcomes).collect::<Vec<_>>())
            };
            let outcomes = tokio::task::spawn_blocking(process).await;
            let outcomes =
                outcomes.map_err(|e| Error::internal("the plugin chain panicked").because(e))??;
            assemble(outcomes, source.actor_field.as_deref(), source.on_plugin_error, &mut next)?
        };
        self.store(records, next).await
    }

    async fn store(&mut self, records: Vec<Vec<u8>>, next: Checkpoint) -> Result<()> {
        let bytes: usize = records.iter().map(Vec::len).sum();
        let withheld = next.counters.quarantined - self.durable.counters.quarantined;
        if withheld > 0 {
            warn!(source = %next.source, events = withheld, "a plugin failed: these events are kept without their contents");
        }
        debug!(source = %next.source, records = records.len(), bytes, next_seq = next.next_seq, "append");
        self.capture.log.append(&mut self.session, records, self.durable.next_seq, &next).await?;
        self.capture.appended_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.durable = next;
        self.stored_at = Instant::now();
        Ok(())
    }

    /// Appends a policy record where the plugins or their configuration are not those of the last one.
    async fn record_policy(&mut self) -> Result<()> {
        let chain = &self.capture.chain;
        if self.durable.policy_digest == chain.digest() && self.durable.policy != 0 {
            return Ok(());
        }
        let time = operation_time(&self.capture.client.database("admin")).await?;
        let detail = chain.policy();
        let body = Writer::build(|writer| {
            writer.str("op", "policy");
            writer.timestamp("clusterTime", time.time, time.increment);
            writer.doc("detail", &detail);
        });
        let mut next = self.durable.clone();
        next.policy = next.next_seq;
        next.policy_digest = chain.digest().to_owned();
        next.counters.own += 1;
        next.next_seq += 1;
        let doc =
            Doc::new(&body).map_err(|e| Error::internal("a policy record is not valid BSON").because(e))?;
        let record = Record::encode(next.policy, doc, next.policy);
        self.store(vec![record], next).await
    }

    async fn take_snapshot(&mut self, mut snapshot: Snapshot) -> Result<()> {
        let mut read = 0;
        let mut reported = Instant::now();
        while !self.capture.stop.is_cancelled() {
            let batch = snapshot.next().await?;
            read += batch.events.len();
            let complete = batch.progress.is_none();
            self.append(batch.events, |next| next.snapshot = batch.progress).await?;
            if complete {
                info!(source = %self.durable.source, documents = read, "baseline complete");
                break;
            }
            if reported.elapsed() > SNAPSHOT_REPORT {
                info!(source = %self.durable.source, documents = read, "reading the baseline");
                reported = Instant::now();
            }
        }
        Ok(())
    }

    async fn take_events(
        &mut self,
        mut events: mpsc::Receiver<Result<Read>>,
        until: Option<Timestamp>,
    ) -> Result<()> {
        loop {
            let batch = tokio::select! {
                biased;
                () = self.capture.stop.cancelled() => return Ok(()),
                batch = next_batch(&mut events, self.capture.limits) => batch,
            };
            let done = until.is_some_and(|until| batch.reaches(until));
            if let Some(position) = batch.position {
                let moved = position != self.durable.position;
                let due =
                    !batch.events.is_empty() || (moved && (done || self.stored_at.elapsed() >= IDLE_ADVANCE));
                if due {
                    self.append(batch.events, |next| next.position = position).await?;
                }
            }
            drop(batch.permits);
            match batch.end {
                _ if done => return Ok(()),
                None => {}
                Some(Some(error)) => return Err(error),
                Some(None) => return Err(Error::internal("the watcher ended by itself")),
            }
        }
    }
}

/// The next batch: full, or as much as came within the wait.
async fn next_batch(events: &mut mpsc::Receiver<Result<Read>>, limits: CaptureConfig) -> Batch {
    let mut batch = Batch::default();
    let first = events.recv().await;
    batch.add(first);
    let deadline = tokio::time::Instant::now() + limits.batch_max_wait;
    while batch.wants_more(limits) {
        match tokio::time::timeout_at(deadline, events.recv()).await {
            Ok(read) => batch.add(read),
            Err(_) => break,
        }
    }
    batch
}

impl Batch {
    fn add(&mut self, read: Option<Result<Read>>) {
        match read {
            Some(Ok(Read::Event(event, permit))) => {
                self.bytes += event.body.len();
                self.position = Some(event.position.clone());
                self.quiet = false;
                self.events.push(event);
                self.permits.push(permit);
            }
            Some(Ok(Read::Quiet(position))) => {
                self.position = Some(position);
                self.quiet = true;
            }
            Some(Err(error)) => self.end = Some(Some(error)),
            None => self.end = Some(None),
        }
    }

    fn wants_more(&self, limits: CaptureConfig) -> bool {
        let full = self.events.len() >= limits.batch_max_events || self.bytes >= limits.batch_max_bytes;
        !full && !self.events.is_empty() && self.end.is_none()
    }

    /// Whether everything up to `until` is in this batch or before it. An event of that very time may be followed by
    /// another: only a quiet stream, or a later event, shows its end.
    fn reaches(&self, until: Timestamp) -> bool {
        self.position
            .as_ref()
            .is_some_and(|p| p.cluster_time > until || (self.quiet && p.cluster_time == until))
    }
}
