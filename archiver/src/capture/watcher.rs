//! The watcher: one task that reads one change stream and hands on events in order, bounded by count and bytes.
//! It never stores a position, and never skips to a later one.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bson::RawDocumentBuf;
use bson_walker::Doc;
use mongodb::Client;
use mongodb::change_stream::ChangeStream;
use mongodb::change_stream::event::ResumeToken;
use mongodb::options::{FullDocumentBeforeChangeType, FullDocumentType};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::change_event::to_event;
use super::fragments::Fragments;
use super::images::Images;
use super::lifecycle::LIFECYCLE;
use super::portion::Portion;
use super::stream::StreamOptions;
use super::token::{self, Recorded};
use super::users::SessionUsers;
use super::watchdog::{self, Progress};
use crate::audit_log::MARKER;
use crate::config::{CaptureConfig, Watch};
use crate::deployment::mongo_error;
use crate::error::{Error, Result};
use crate::event::{Event, Position};
use crate::fault::Fault;

/// How long the server waits for events before it answers with none and a newer position.
const MAX_AWAIT: Duration = Duration::from_millis(250);
/// Batches that may wait, read but not yet appended.
const BATCHES_AHEAD: usize = 2;
/// Permits are counted in units of this many bytes.
const PERMIT: usize = 1024;

/// What the watcher hands on.
#[derive(Debug)]
pub enum Read {
    /// The next event; it counts against the bytes ahead until it is dropped.
    Event(Event, OwnedSemaphorePermit),
    /// Nothing further happened up to here; may repeat the last position.
    Quiet(Position),
}

/// Where to begin.
#[derive(Debug, Clone)]
pub enum Start {
    /// Right behind this place, which is one of this very stream.
    After(Position),
    /// At the cluster time of this place of a stream with other options. What stands up to it is not passed on again.
    Among(Position),
}

/// Where and how to read.
#[derive(Debug, Clone)]
pub struct Watcher {
    /// The stream's name, for log lines.
    pub source: String,
    /// The watched deployment.
    pub client: Client,
    /// What to read of it.
    pub options: StreamOptions,
    /// The audit database, whose events are never passed on even where the server sends them.
    pub audit_database: String,
    /// Databases of other archivers.
    pub left_out: HashSet<String>,
    /// The bounds of a batch.
    pub limits: CaptureConfig,
    /// Where images are to be switched on for collections that come.
    pub enable_images: Vec<Watch>,
}

impl Watcher {
    /// Starts reading after `from`. The receiver gets events and positions in order, then possibly one error, and
    /// then nothing. Reading ends when the receiver is dropped or `stop` is cancelled.
    pub fn start(self, from: Start, stop: CancellationToken) -> mpsc::Receiver<Result<Read>> {
        let (sender, receiver) = mpsc::channel(self.limits.batch_max_events * BATCHES_AHEAD);
        let (position, recorded) = match from {
            Start::After(position) => (position, None),
            Start::Among(position) => {
                let by_time = Position { token: None, cluster_time: position.cluster_time };
                (by_time, Some(Recorded::up_to(position)))
            }
        };
        tokio::spawn(async move {
            let reading = Reading {
                bytes: Arc::new(Semaphore::new(self.limits.batch_max_bytes * BATCHES_AHEAD / PERMIT)),
                most: (self.limits.batch_max_bytes * BATCHES_AHEAD / PERMIT) as u32,
                images: Images::default(),
                progress: Arc::new(Progress::default()),
                position,
                recorded,
                users: SessionUsers::default(),
                watcher: self,
                sender,
                stop,
            };
            let sender = reading.sender.clone();
            let progress = Arc::clone(&reading.progress);
            progress.note(reading.position.cluster_time);
            let watchdog =
                watchdog::watch(reading.watcher.client.clone(), reading.watcher.source.clone(), &progress);
            let ended = tokio::select! {
                ended = reading.run() => ended,
                () = watchdog => Ok(()),
            };
            if let Err(error) = ended {
                // A closed channel means that nobody wants to know any more.
                sender.send(Err(error)).await.ok();
            }
        });
        receiver
    }

    /// Opens the stream after `from`; the one place that does, so that `check` tries what capture will use.
    pub(crate) async fn open(
        &self,
        from: &Position,
        portion: Portion,
        batch: u32,
    ) -> Result<ChangeStream<RawDocumentBuf>> {
        let database = self.options.database.as_ref().map(|name| self.client.database(name));
        let watch = match &database {
            Some(database) => database.watch(),
            None => self.client.watch(),
        };
        let mut watch = watch
            .pipeline(self.options.stages(portion))
            .full_document(FullDocumentType::WhenAvailable)
            .full_document_before_change(FullDocumentBeforeChangeType::WhenAvailable)
            .show_expanded_events(true)
            .max_await_time(MAX_AWAIT)
            .batch_size(batch);
        // startAfter also goes on behind an invalidate event, where resumeAfter fails.
        watch = match &from.token {
            Some(token) => watch.start_after(resume_token(token)?),
            None => watch.start_at_operation_time(from.cluster_time),
        };
        let opened = watch.await.map_err(|e| mongo_error("opening the change stream", e))?;
        Ok(opened.with_type::<RawDocumentBuf>())
    }
}

fn resume_token(token: &[u8]) -> Result<ResumeToken> {
    bson::deserialize_from_slice::<bson::Document>(token)
        .and_then(|token| bson::deserialize_from_bson(token.into()))
        .map_err(|e| Error::corrupt("the stored resume token can't be read").because(e))
}

struct Reading {
    watcher: Watcher,
    sender: mpsc::Sender<Result<Read>>,
    bytes: Arc<Semaphore>,
    most: u32,
    images: Images,
    users: SessionUsers,
    progress: Arc<Progress>,
    /// Behind the last event that was passed on.
    position: Position,
    /// What is not to be passed on a second time.
    recorded: Option<Recorded>,
    stop: CancellationToken,
}

impl Reading {
    async fn run(mut self) -> Result<()> {
        let batch = self.watcher.limits.batch_max_events as u32;
        while !self.is_over() {
            match self.read(Portion::Whole, batch, None).await {
                Err(error) if is_poisonous(&error) => self.step_over().await?,
                ended => return ended,
            }
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.stop.is_cancelled() || self.sender.is_closed()
    }

    /// Gets past one event that can't be delivered whole. Its position is like any other's: a restart at any moment goes on
    /// behind the last event that was appended, and comes here again or not.
    async fn step_over(&mut self) -> Result<()> {
        // The events of the reply that failed come one by one, and whole, up to the one that does not.
        let events = self.watcher.limits.batch_max_events;
        match self.read(Portion::Whole, 1, Some(events)).await {
            Err(error) if is_poisonous(&error) => {}
            passed => return passed,
        }
        match self.read(Portion::WithoutImages, 1, Some(1)).await {
            Err(error) if is_poisonous(&error) => {}
            passed => {
                info!(
                    source = self.watcher.source,
                    "an event of more than 16 MiB was asked for without its images"
                );
                return passed;
            }
        }
        warn!(
            source = self.watcher.source,
            "an event of more than 16 MiB can't be had from MongoDB: it becomes a gap"
        );
        self.read(Portion::Identity, 1, Some(1)).await
    }

    /// Reads from where it stands, this many events to a reply, until nobody listens or `most` events have come.
    async fn read(&mut self, portion: Portion, batch: u32, most: Option<usize>) -> Result<()> {
        let mut stream = self.watcher.open(&self.position, portion, batch).await?;
        let mut fragments = Fragments::default();
        let mut come = 0;
        while !self.is_over() && most.is_none_or(|most| come < most) {
            // Awaited to its end: a dropped `next` leaves the driver's stream unusable.
            let next = stream.next_if_any().await;
            match next.map_err(|e| mongo_error("reading the change stream", e))? {
                Some(change) => {
                    for change in fragments.add(change.into_bytes())? {
                        come += 1;
                        self.pass_on(&change).await?;
                    }
                }
                // In the middle of an event there is no place to go on from.
                None if fragments.is_open() => {}
                None => self.pass_on_quiet(stream.resume_token()).await?,
            }
            if !stream.is_alive() {
                // An invalidate ended it: the database was dropped. The stream behind it goes on with a new one.
                stream = self.watcher.open(&self.position, portion, batch).await?;
                fragments = Fragments::default();
            }
        }
        Ok(())
    }

    async fn pass_on(&mut self, change: &[u8]) -> Result<()> {
        let view = Doc::new(change)
            .map_err(|e| Error::unavailable("a change event is not valid BSON").because(e))?;
        let name = |part| view.get_path(&["ns", part]).and_then(|e| e.as_str()).unwrap_or("");
        let (database, collection) = (name("db"), name("coll"));
        if operation(view) == "insert" && collection == MARKER {
            self.watcher.left_out.insert(database.to_owned());
        }
        self.images.follow(&self.watcher, view, &self.stop).await;
        let user = self.users.name(&self.watcher.client, view).await?;
        let event = to_event(change, &self.images, user)?;
        self.move_to(event.position.clone());
        let known = self.recorded.as_ref().map(|recorded| recorded.holds(&event.position)).transpose()?;
        if known == Some(false) {
            self.recorded = None;
        }
        let is_own = database == self.watcher.audit_database || self.watcher.left_out.contains(database);
        let is_keyless =
            view.get_path(&["documentKey", "_id"]).is_none() && !LIFECYCLE.contains(&operation(view));
        if known == Some(true) || is_own || (is_keyless && !self.watcher.options.keyless) {
            return Ok(());
        }
        let permits = ((event.body.len() / PERMIT) as u32 + 1).min(self.most);
        let acquired = Arc::clone(&self.bytes).acquire_many_owned(permits).await;
        let permit = acquired.map_err(|e| Error::internal("the byte budget is gone").because(e))?;
        // Where nobody listens any more, the loop ends.
        self.sender.send(Ok(Read::Event(event, permit))).await.ok();
        Ok(())
    }

    fn move_to(&mut self, position: Position) {
        self.progress.note(position.cluster_time);
        self.position = position;
    }

    async fn pass_on_quiet(&mut self, token: Option<ResumeToken>) -> Result<()> {
        let Some(position) = token.as_ref().map(position_of).transpose()?.flatten() else { return Ok(()) };
        // A stream that was reopened by its time begins before events that are recorded.
        let behind = self.recorded.as_ref().is_some_and(|recorded| recorded.is_ahead_of(&position));
        if behind || token::goes_back(&self.position, &position) {
            return Ok(());
        }
        self.recorded = None;
        self.move_to(position.clone());
        self.sender.send(Ok(Read::Quiet(position))).await.ok();
        Ok(())
    }
}

fn is_poisonous(error: &Error) -> bool {
    error.fault() == Some(Fault::PoisonousEvent)
}

pub(super) fn operation<'a>(change: Doc<'a>) -> &'a str {
    change.get("operationType").and_then(|e| e.as_str()).unwrap_or("")
}

/// Where the stream stands, as its token says; `None` for tokens of an unknown shape.
pub(super) fn position_of(token: &ResumeToken) -> Result<Option<Position>> {
    let encoded = bson::serialize_to_vec(token);
    let encoded = encoded.map_err(|e| Error::internal("a resume token can't be encoded").because(e))?;
    Ok(token::position(encoded))
}
