//! The comparison behind a gap: the present documents are read beside the stream and compared with what history knows of
//! them, so that what happened unseen gets records of its own.
//!
//! Every batch of documents is read at a cluster time at which the barrier is held, and what differs is compared with what
//! is recorded up to that very time. So a difference is never one that the stream is about to deliver. A crash repeats the comparison:
//! what it recorded makes documents equal to what is known of them, so nothing is recorded twice.
//!
//! Documents are compared as the plugins leave them. What a comparison reads is counted where a record comes of it, and
//! nowhere else: `read` and `appended` grow together.

mod bodies;
mod judge;
pub(super) mod reader;
mod recorded;

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bson::Timestamp;
use mongodb::Client;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::info;

use self::judge::Judge;
use self::reader::Reader;
use self::recorded::{Recorded, Slice};
use super::assemble::Identity as Kept;
use super::barrier::{Barrier, Hold};
use super::snapshot::{Snapshot, plan};
use super::stream::partition_filter;
use super::writer::Documents;
use crate::audit_log::AuditLog;
use crate::checkpoint::Resync;
use crate::config::{CaptureConfig, Snapshot as SnapshotMode, SourceConfig};
use crate::deployment::operation_time;
use crate::error::{Error, Result};
use crate::event::{Event, Position};
use crate::history::states::{Identity, State};
use crate::history::{History, Namespace};
use crate::plugin::{Outcome, PluginChain};
use crate::progress::Planned;
use crate::record::RecordId;
use crate::stream_id::StreamId;

pub(super) use self::bodies::opening;

/// Batches that may wait, compared but not yet appended.
const BATCHES_AHEAD: usize = 1;
/// What is known of the documents may take as much memory as this many batches; of more documents than fit, a part is
/// compared at a time, and each part is a pass over the history and the collections.
const BATCHES_KNOWN: usize = 32;
/// A comparison starts over when a collection is renamed meanwhile; no application does that this often in a row.
const ATTEMPTS: usize = 100;
/// How long a comparison waits for the first partition before it starts over, and how often it looks.
const FIRST_PARTITION: Duration = Duration::from_secs(60);
const FIRST_PARTITION_POLL: Duration = Duration::from_millis(200);

/// What a comparison has found in one batch of documents.
#[derive(Debug)]
pub(super) struct Compared {
    /// Documents that differ, or that a plugin failed on, as they came out of the plugins.
    pub(super) outcomes: Vec<(Kept, Outcome)>,
    /// Whether the plugins leave `_id`s as they are.
    pub(super) ids_are_kept: bool,
    /// Bodies of records of the archiver's own: documents that are gone, and the gap's closing.
    pub(super) own: Vec<Vec<u8>>,
    /// The gap that is closed with it.
    pub(super) closes: Option<i64>,
    /// Dropped once all this is appended.
    pub(super) hold: Hold,
}

/// Compares the present with what is known from before one gap.
pub(super) struct Comparison {
    pub(super) client: Client,
    pub(super) log: AuditLog,
    pub(super) history: History,
    pub(super) stream: StreamId,
    pub(super) source: SourceConfig,
    pub(super) chain: Arc<PluginChain>,
    pub(super) limits: CaptureConfig,
    pub(super) left_out: HashSet<String>,
    pub(super) barrier: Barrier,
    /// The gap.
    pub(super) resync: Resync,
    /// The policy record in force.
    pub(super) policy: RecordId,
    /// When the stream began to be read, or of the last event of a collection that it saw and the first partition records.
    pub(super) lifecycle: watch::Receiver<Timestamp>,
    /// The stream's, which reading documents does not move.
    pub(super) position: Position,
}

impl Comparison {
    /// Starts comparing. The receiver gets what is found, the gap's closing last, or an error.
    pub(super) fn start(self, stop: CancellationToken) -> mpsc::Receiver<Result<Documents>> {
        let (sender, receiver) = mpsc::channel(BATCHES_AHEAD);
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                done = self.run(&sender) => if let Err(error) = done {
                    // A closed channel means that nobody wants to know any more.
                    sender.send(Err(error)).await.ok();
                }
            }
        });
        receiver
    }

    async fn run(&self, found: &mpsc::Sender<Result<Documents>>) -> Result<()> {
        info!(source = %self.stream, gap = self.resync.gap, "comparing the present documents with what is known from before a gap");
        // Where history has expired, a document of which nothing is recorded may have been there all the same.
        let baseline = self.source.snapshot == SnapshotMode::Initial
            && self.history.removed_until(&self.stream.source).await?.is_none();
        for _ in 0..ATTEMPTS {
            let mut judge = Judge::new(RecordId::new(&self.stream, self.resync.gap), self.policy, baseline);
            if self.compare(&mut judge, found).await? {
                info!(
                    source = %self.stream, gap = self.resync.gap, compared = judge.compared, found = judge.found,
                    without_id = judge.nameless, "the comparison is complete"
                );
                return Ok(());
            }
            info!(source = %self.stream, gap = self.resync.gap, "a collection was renamed meanwhile: comparing again");
        }
        Err(Error::unavailable("collections are renamed faster than their documents can be compared"))
    }

    /// One pass. False where a collection got another name meanwhile, so that it must be done again.
    async fn compare(&self, judge: &mut Judge, found: &mpsc::Sender<Result<Documents>>) -> Result<bool> {
        let budget = self.limits.batch_max_bytes * BATCHES_KNOWN;
        let lifecycle = *self.lifecycle.borrow();
        self.first_partition_reaches(lifecycle).await?;
        let mut slices = vec![Slice::ALL];
        let snapshot = Snapshot {
            client: self.client.clone(),
            watch: self.source.watch.clone(),
            limits: self.limits,
            position: self.position.clone(),
            filter: partition_filter(&self.stream, self.source.partitions, "$_id"),
            barrier: self.barrier.clone(),
        };
        while let Some(slice) = slices.pop() {
            let mut recorded =
                Recorded::new(&self.history, &self.stream, &self.resync, slice, budget).await?;
            if !recorded.read_to(self.end().await?).await? {
                slices.extend(slice.halves());
                continue;
            }
            recorded.take_renamed();
            for collection in self.collections(recorded.scope()).await? {
                let mut reader = Reader::new(&snapshot, collection);
                while let Some((events, hold)) = reader.next().await? {
                    self.compare_batch(&mut recorded, events, hold, judge, found).await?;
                }
            }
            self.find_deleted(&mut recorded, judge, found).await?;
            let hold = self.catch_up(&mut recorded, self.hold().await?).await?;
            if recorded.take_renamed() || *self.lifecycle.borrow() != lifecycle {
                return Ok(false);
            }
            if slices.is_empty() {
                // What the baseline had not read before the gap may have ended in it.
                let whole = judge.baseline && self.resync.whole;
                let own = vec![bodies::closing(&self.resync, hold.time, &judge.undecided(), whole)];
                let closes = Some(self.resync.gap);
                self.send(found, Compared { outcomes: Vec::new(), ids_are_kept: false, own, closes, hold })
                    .await;
            }
        }
        Ok(true)
    }

    /// Compares one batch of documents.
    async fn compare_batch(
        &self,
        recorded: &mut Recorded,
        events: Vec<Event>,
        hold: Hold,
        judge: &mut Judge,
        found: &mpsc::Sender<Result<Documents>>,
    ) -> Result<()> {
        let kept = events.iter().map(Kept::of).collect::<Result<Vec<_>>>()?;
        let before = events.iter().map(judge::identity).collect::<Result<Vec<_>>>()?;
        let chain = Arc::clone(&self.chain);
        let bodies = events.into_iter().map(|event| event.body).collect();
        let outcomes = tokio::task::spawn_blocking(move || chain.process(bodies)).await;
        let outcomes = outcomes.map_err(|e| Error::internal("the plugin chain panicked").because(e))?;
        if outcomes.len() != kept.len() {
            return Err(Error::internal("the plugin chain lost count of its events"));
        }
        // What equals what is known at an earlier time is equal at this one too: changes in between are in both. Only before
        // something is said to differ is it worth to wait for the stream, which tells of a silence with delay.
        let hold = match judge.may_differ(recorded, &outcomes)? {
            true => self.catch_up(recorded, hold).await?,
            false => hold,
        };
        let mut differing = Vec::new();
        for ((kept, before), outcome) in kept.into_iter().zip(before).zip(outcomes) {
            let window = |recorded: &Recorded, identity: &Identity| self.window(recorded, identity);
            if let Some(outcome) = judge.judge(recorded, before, outcome, window)? {
                differing.push((kept, outcome));
            }
        }
        if differing.is_empty() {
            return Ok(());
        }
        let ids_are_kept = judge.ids_are_kept();
        let compared = Compared { outcomes: differing, ids_are_kept, own: Vec::new(), closes: None, hold };
        self.send(found, compared).await;
        Ok(())
    }

    /// Records the documents that were known and are not there any more: those that are still in doubt, now that every
    /// present one has been compared.
    async fn find_deleted(
        &self,
        recorded: &mut Recorded,
        judge: &mut Judge,
        found: &mpsc::Sender<Result<Documents>>,
    ) -> Result<()> {
        let undecided = judge.undecided();
        let gap = RecordId::new(&self.stream, self.resync.gap);
        let missing = |identity: &Identity, state: &State| {
            let Namespace { db, coll } = &identity.namespace;
            matches!(state, State::Present(_))
                && self.source.watch.iter().any(|w| w.covers(db, coll))
                && !undecided.contains(&identity.namespace)
        };
        let in_doubt = recorded.states.in_doubt(gap);
        let gone: Vec<Identity> = in_doubt
            .filter(|(identity, known)| missing(identity, &known.state))
            .filter(|(identity, _)| recorded.scope().is_none_or(|scope| scope.contains(&identity.namespace)))
            .map(|(identity, _)| identity.clone())
            .collect();
        for batch in gone.chunks(self.limits.batch_max_events) {
            let hold = self.catch_up(recorded, self.hold().await?).await?;
            let mut own = Vec::new();
            for identity in batch {
                // An event may have settled it since.
                if recorded.states.is_in_doubt(identity, gap) && !recorded.is_renamed() {
                    let window = self.window(recorded, identity);
                    own.push(bodies::deleted(identity, self.resync.gap, window, hold.time));
                    recorded.states.settle(identity, gap);
                    judge.found += 1;
                }
            }
            let compared = Compared { outcomes: Vec::new(), ids_are_kept: false, own, closes: None, hold };
            self.send(found, compared).await;
        }
        Ok(())
    }

    /// Holds the barrier at the present.
    async fn hold(&self) -> Result<Hold> {
        Ok(self.barrier.hold(operation_time(&self.client.database("admin")).await?))
    }

    /// Waits until everything up to the time that is held is appended, and takes it in. Nothing after it is there yet.
    async fn catch_up(&self, recorded: &mut Recorded, hold: Hold) -> Result<Hold> {
        self.barrier.appended(hold.time).await;
        // The budget counts for what history holds at the start; what comes in meanwhile is no second history.
        recorded.read_to(self.end().await?).await?;
        Ok(hold)
    }

    /// Waits until the first partition has recorded what happened to collections up to this time: it does so for all of them.
    async fn first_partition_reaches(&self, time: Timestamp) -> Result<()> {
        if self.stream.partition.is_none_or(|partition| partition == 0) {
            return Ok(());
        }
        let first = StreamId { partition: Some(0), ..self.stream.clone() };
        let asked = Instant::now();
        while self.log.checkpoint(&first).await?.is_none_or(|c| c.position.cluster_time < time) {
            if asked.elapsed() > FIRST_PARTITION {
                return Err(Error::unavailable(format!(
                    "the comparison waits for the first partition, which is behind source={}",
                    self.stream
                )));
            }
            tokio::time::sleep(FIRST_PARTITION_POLL).await;
        }
        Ok(())
    }

    /// The seq that the log's next record gets.
    async fn end(&self) -> Result<i64> {
        let checkpoint = self.log.checkpoint(&self.stream).await?;
        Ok(checkpoint.ok_or_else(|| Error::corrupt("the checkpoint is gone"))?.next_seq)
    }

    /// When a document could have changed unseen.
    fn window(&self, recorded: &Recorded, identity: &Identity) -> (Timestamp, Timestamp) {
        recorded.states.unseen_window(identity).unwrap_or((self.resync.after, self.resync.until))
    }

    /// The watched collections that the gap concerns.
    async fn collections(&self, scope: Option<&BTreeSet<Namespace>>) -> Result<Vec<Planned>> {
        let audit_database = self.log.database().name();
        let mut collections =
            plan::present(&self.client, &self.source.watch, audit_database, &self.left_out).await?;
        if let Some(scope) = scope {
            collections.retain(|c| scope.contains(&Namespace { db: c.db.clone(), coll: c.coll.clone() }));
        }
        Ok(collections)
    }

    /// Hands on what was found; a closed channel means that nobody wants to know any more.
    async fn send(&self, found: &mpsc::Sender<Result<Documents>>, compared: Compared) {
        found.send(Ok(Documents::Compared(compared))).await.ok();
    }
}
