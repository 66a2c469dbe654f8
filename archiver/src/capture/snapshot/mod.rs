//! The baseline: every present document of the watched collections, each true at a cluster time that is known exactly.
//!
//! It is read beside the stream, in short reads of one batch, each at a time of its own at which it holds the barrier. What
//! was appended is in the checkpoint, so that it goes on after a crash where it was. See [`crate::progress`].

pub(super) mod plan;
pub(super) mod read;
mod split;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bson::{DateTime, Document};
use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use mongodb::Client;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::barrier::{Barrier, Hold};
use super::writer::Documents;
use crate::config::{CaptureConfig, Watch};
use crate::error::{Error, Result};
use crate::event::{Event, Position};
use crate::progress::{Did, OpenCollection, Planned, RangeProgress, SnapshotProgress, Step};
use crate::stream_id::StreamId;

/// Ranges that are read at the same time. Each holds one reply of the server, which is about a batch and 16 MiB at most, and
/// the events made of it. That, and what waits for the writer, is all the memory that a baseline takes, however large it is.
const READERS: usize = 4;
/// Batches that may wait for the writer, in bytes …
const BATCHES_AHEAD: usize = 2;
/// … and in number: those of small collections, which the writer puts together.
const SMALL_BATCHES_AHEAD: usize = 64;
/// Permits are counted in units of this many bytes.
const PERMIT: usize = 1024;
/// How often a baseline that is being read says how far it is.
const REPORT: Duration = Duration::from_secs(10);

/// Documents, and what has been done once they are appended.
#[derive(Debug, Default)]
pub(super) struct SnapshotBatch {
    /// The documents as events.
    pub(super) events: Vec<Event>,
    /// What the checkpoint has to know of it.
    pub(super) steps: Vec<Step>,
    /// Dropped once the documents are appended: no event after the times they were read at may come before them.
    holds: Vec<Hold>,
    /// They count its bytes against those that wait.
    permits: Vec<OwnedSemaphorePermit>,
}

impl SnapshotBatch {
    /// Takes the documents of another in, to append both at once.
    pub(super) fn add(&mut self, other: SnapshotBatch) {
        self.events.extend(other.events);
        self.steps.extend(other.steps);
        self.holds.extend(other.holds);
        self.permits.extend(other.permits);
    }
}

/// The way to the writer, bounded by bytes.
#[derive(Debug)]
struct Outlet {
    sender: mpsc::Sender<Result<Documents>>,
    bytes: Arc<Semaphore>,
    most: usize,
}

impl Outlet {
    fn new(sender: mpsc::Sender<Result<Documents>>, limits: CaptureConfig) -> Self {
        let most = limits.batch_max_bytes * BATCHES_AHEAD / PERMIT;
        Outlet { sender, bytes: Arc::new(Semaphore::new(most)), most }
    }

    /// Sends a step and its documents. Whether anybody still listens.
    async fn send(&self, step: Step, events: Vec<Event>, hold: Option<Hold>) -> Result<bool> {
        let bytes: usize = events.iter().map(|event| event.body.len()).sum();
        let permits = (bytes / PERMIT + 1).min(self.most) as u32;
        let permit = Arc::clone(&self.bytes).acquire_many_owned(permits).await;
        let permit = permit.map_err(|e| Error::internal("the byte budget is gone").because(e))?;
        let holds = hold.into_iter().collect();
        let batch = SnapshotBatch { events, steps: vec![step], holds, permits: vec![permit] };
        Ok(self.sender.send(Ok(Documents::Baseline(batch))).await.is_ok())
    }
}

/// What to read, and how.
#[derive(Debug)]
pub(super) struct Snapshot {
    /// The watched deployment.
    pub(super) client: Client,
    /// What is watched: a collection that is renamed meanwhile is read on where its new name is.
    pub(super) watch: Vec<Watch>,
    /// The bounds of a batch.
    pub(super) limits: CaptureConfig,
    /// Where the stream stands; a baseline does not move it.
    pub(super) position: Position,
    /// Selects the documents of the stream's partition.
    pub(super) filter: Option<Document>,
    /// Keeps each document's records in order.
    pub(super) barrier: Barrier,
}

/// A range on its way to a reader.
#[derive(Debug)]
struct Part {
    number: u32,
    collection: Planned,
    range: RangeProgress,
}

impl Snapshot {
    /// Starts reading what `progress` leaves of the plan, whose collections are given from `first` on. The receiver gets
    /// batches and at the end nothing, or an error and then nothing.
    pub(super) fn start(
        self,
        progress: &SnapshotProgress,
        collections: Vec<Planned>,
        stop: CancellationToken,
    ) -> Result<mpsc::Receiver<Result<Documents>>> {
        let first = progress.first_left();
        let collection = |open: OpenCollection| {
            let planned = collections.get((open.number - first) as usize).cloned();
            let lost = || Error::corrupt("the baseline's stored plan lacks a collection");
            Ok((open, planned.ok_or_else(lost)?))
        };
        let left = progress.left().map(collection).collect::<Result<Vec<_>>>()?;
        let (sender, receiver) = mpsc::channel(SMALL_BATCHES_AHEAD);
        tokio::spawn(async move {
            let outlet = Outlet::new(sender, self.limits);
            let ranges = self.parts(left, &outlet);
            tokio::select! {
                () = stop.cancelled() => {}
                read = ranges.try_for_each_concurrent(READERS, |part| self.read_range(part, &outlet)) => {
                    if let Err(error) = read {
                        // A closed channel means that nobody wants to know any more.
                        outlet.sender.send(Err(error)).await.ok();
                    }
                }
            }
        });
        Ok(receiver)
    }

    /// The ranges to read, in the plan's order. Large collections are cut when it is their turn.
    fn parts<'a>(
        &'a self,
        left: Vec<(OpenCollection, Planned)>,
        outlet: &'a Outlet,
    ) -> impl Stream<Item = Result<Part>> + 'a {
        let ranges = stream::iter(left).then(move |(open, collection)| async move {
            let number = open.number;
            let ranges = self.ranges(open, &collection, outlet).await?;
            let part = move |range| Ok(Part { number, collection: collection.clone(), range });
            Ok(stream::iter(ranges).map(part))
        });
        ranges.try_flatten()
    }

    async fn ranges(
        &self,
        open: OpenCollection,
        collection: &Planned,
        outlet: &Outlet,
    ) -> Result<Vec<RangeProgress>> {
        if !open.is_unread() {
            return Ok(open.ranges);
        }
        let bounds = self.cut(collection).await;
        if bounds.is_empty() {
            return Ok(open.ranges);
        }
        let ranges = RangeProgress::cut(&bounds);
        // Before any reader sends what is in them.
        outlet.send(Step { number: open.number, did: Did::Split(bounds) }, Vec::new(), None).await?;
        Ok(ranges)
    }
}

/// Says now and then how far a baseline is.
#[derive(Debug)]
pub(super) struct Report(Instant);

impl Report {
    /// Says nothing for a while.
    pub(super) fn new() -> Self {
        Report(Instant::now())
    }

    /// Takes note of what has been appended.
    pub(super) fn note(&mut self, stream: &StreamId, progress: &SnapshotProgress) {
        if self.0.elapsed() < REPORT {
            return;
        }
        self.0 = Instant::now();
        info!(
            source = %stream,
            documents = progress.documents,
            of_about = progress.estimated,
            percent = progress.percent(),
            per_second = progress.per_second().map(f64::round),
            seconds_left = progress.time_left().map(|left| left.as_secs()),
            collections = progress.done(),
            of = progress.collections,
            "reading the baseline"
        );
    }
}

/// The present, for what is stored.
pub(super) fn now() -> DateTime {
    DateTime::now()
}
