//! The baseline: every present document of the watched collections, each true at a cluster time that is known exactly.
//!
//! It is read beside the stream, in short reads of one batch, each at a time of its own at which it holds the barrier. What
//! was appended is in the checkpoint, so that it goes on after a crash where it was. See [`crate::progress`].

pub(super) mod plan;
mod read;
mod split;

use std::time::{Duration, Instant};

use bson::{DateTime, RawDocumentBuf};
use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use mongodb::Client;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::barrier::{Barrier, Hold};
use super::writer::Documents;
use crate::config::{CaptureConfig, Watch};
use crate::error::{Error, Result};
use crate::event::{Event, Position};
use crate::progress::{Did, OpenCollection, Planned, RangeProgress, SnapshotProgress, Step};

/// Ranges that are read at the same time. Each holds a reply of the server (16 MiB at most, by default about one batch) and
/// the batch that is made of it; that and the batches on their way to the writer is all the memory that a baseline takes,
/// however large it is.
const READERS: usize = 4;
/// Batches that may wait, read but not yet appended, besides one in every reader's hands.
const BATCHES_AHEAD: usize = 1;
/// How often a baseline that is being read says how far it is.
const REPORT: Duration = Duration::from_secs(10);

/// Documents of one batch, and what has been done once they are appended.
#[derive(Debug)]
pub(super) struct SnapshotBatch {
    /// The documents as events.
    pub(super) events: Vec<Event>,
    /// What the checkpoint has to know of it.
    pub(super) step: Step,
    /// Dropped once the documents are appended: no event after the time they were read at may come before them.
    pub(super) hold: Option<Hold>,
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
    pub(super) filter: Option<RawDocumentBuf>,
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
        let (sender, receiver) = mpsc::channel(BATCHES_AHEAD);
        tokio::spawn(async move {
            let read = self
                .parts(left, &sender)
                .try_for_each_concurrent(READERS, |part| self.read_range(part, &sender, &stop))
                .await;
            if let Err(error) = read {
                // A closed channel means that nobody wants to know any more.
                sender.send(Err(error)).await.ok();
            }
        });
        Ok(receiver)
    }

    /// The ranges to read, in the plan's order. Large collections are cut when it is their turn.
    fn parts<'a>(
        &'a self,
        left: Vec<(OpenCollection, Planned)>,
        sender: &'a mpsc::Sender<Result<Documents>>,
    ) -> impl Stream<Item = Result<Part>> + 'a {
        let ranges = stream::iter(left).then(move |(open, collection)| async move {
            let number = open.number;
            let bounds = match open.is_unread() {
                true => self.cut(&collection).await,
                false => Vec::new(),
            };
            let ranges = match bounds.is_empty() {
                true => open.ranges,
                false => {
                    let ranges = RangeProgress::cut(&bounds);
                    let step = Step { number, did: Did::Split(bounds) };
                    let batch = SnapshotBatch { events: Vec::new(), step, hold: None };
                    // Before any reader sends what is in them.
                    sender.send(Ok(Documents::Baseline(batch))).await.ok();
                    ranges
                }
            };
            stream::iter(ranges).map(move |range| Ok(Part { number, collection: collection.clone(), range }))
        });
        ranges.flatten()
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
    pub(super) fn note(&mut self, stream: &str, progress: &SnapshotProgress) {
        if self.0.elapsed() < REPORT {
            return;
        }
        self.0 = Instant::now();
        info!(
            source = stream,
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
