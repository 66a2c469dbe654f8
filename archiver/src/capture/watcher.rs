//! The watcher: one task that reads one change stream and hands on events in order, bounded by count and bytes.
//! It never stores a position, and never skips to a later one.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bson::{RawDocumentBuf, Timestamp};
use bson_walker::Doc;
use mongodb::Client;
use mongodb::change_stream::ChangeStream;
use mongodb::change_stream::event::ResumeToken;
use mongodb::options::{FullDocumentBeforeChangeType, FullDocumentType};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::change_event::to_event;
use super::lifecycle::LIFECYCLE;
use super::namespaces::ImageCache;
use super::stream::StreamOptions;
use super::users::SessionUsers;
use crate::audit_log::MARKER;
use crate::config::CaptureConfig;
use crate::deployment::mongo_error;
use crate::error::{Error, Result};
use crate::event::{Event, Position};

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

/// Where and how to read.
#[derive(Debug)]
pub struct Watcher {
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
}

impl Watcher {
    /// Starts reading after `from`. The receiver gets events and positions in order, then possibly one error, and
    /// then nothing. Reading ends when the receiver is dropped or `stop` is cancelled.
    pub fn start(self, from: Position, stop: CancellationToken) -> mpsc::Receiver<Result<Read>> {
        let (sender, receiver) = mpsc::channel(self.limits.batch_max_events * BATCHES_AHEAD);
        tokio::spawn(async move {
            let read = Reading {
                bytes: Arc::new(Semaphore::new(self.limits.batch_max_bytes * BATCHES_AHEAD / PERMIT)),
                most: (self.limits.batch_max_bytes * BATCHES_AHEAD / PERMIT) as u32,
                images: ImageCache::default(),
                users: SessionUsers::default(),
                position: from,
                watcher: self,
                sender,
                stop,
            };
            let sender = read.sender.clone();
            if let Err(error) = read.run().await {
                // A closed channel means that nobody wants to know any more.
                sender.send(Err(error)).await.ok();
            }
        });
        receiver
    }

    /// Opens the stream after `from`; the one place that does, so that `check` tries what capture will use.
    pub(crate) async fn open(&self, from: &Position) -> Result<ChangeStream<RawDocumentBuf>> {
        let database = self.options.database.as_ref().map(|name| self.client.database(name));
        let watch = match &database {
            Some(database) => database.watch(),
            None => self.client.watch(),
        };
        let mut watch = watch
            .pipeline(self.options.pipeline.clone())
            .full_document(FullDocumentType::WhenAvailable)
            .full_document_before_change(FullDocumentBeforeChangeType::WhenAvailable)
            .show_expanded_events(true)
            .max_await_time(MAX_AWAIT)
            .batch_size(self.limits.batch_max_events as u32);
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
    images: ImageCache,
    users: SessionUsers,
    position: Position,
    stop: CancellationToken,
}

impl Reading {
    async fn run(mut self) -> Result<()> {
        let mut stream = self.watcher.open(&self.position).await?;
        while !self.stop.is_cancelled() {
            // Awaited to its end: a dropped `next` leaves the driver's stream unusable.
            let next = stream.next_if_any().await.map_err(|e| mongo_error("reading the change stream", e))?;
            let sent = match next {
                Some(change) => self.pass_on(change.as_bytes()).await?,
                None => self.pass_on_quiet(stream.resume_token()).await?,
            };
            if !sent {
                return Ok(());
            }
            if !stream.is_alive() {
                // An invalidate ended it: the database was dropped. The stream behind it goes on with a new one.
                stream = self.watcher.open(&self.position).await?;
            }
        }
        Ok(())
    }

    /// Whether anybody still listens.
    async fn pass_on(&mut self, change: &[u8]) -> Result<bool> {
        let view = Doc::new(change)
            .map_err(|e| Error::unavailable("a change event is not valid BSON").because(e))?;
        let name = |part| view.get_path(&["ns", part]).and_then(|e| e.as_str()).unwrap_or("");
        let (database, collection) = (name("db"), name("coll"));
        self.keep_settings_current(view, database, collection).await;
        let user = self.users.name(&self.watcher.client, view).await?;
        let event = to_event(change, &self.images, user)?;
        self.position = event.position.clone();
        if database == self.watcher.audit_database || self.watcher.left_out.contains(database) {
            return Ok(!self.sender.is_closed());
        }
        let keyless = view.get_path(&["documentKey", "_id"]).is_none();
        if keyless && !self.watcher.options.keyless && !LIFECYCLE.contains(&operation(view)) {
            return Ok(!self.sender.is_closed());
        }
        let permits = ((event.body.len() / PERMIT) as u32 + 1).min(self.most);
        let acquired = Arc::clone(&self.bytes).acquire_many_owned(permits).await;
        let permit = acquired.map_err(|e| Error::internal("the byte budget is gone").because(e))?;
        Ok(self.sender.send(Ok(Read::Event(event, permit))).await.is_ok())
    }

    async fn keep_settings_current(&mut self, change: Doc<'_>, database: &str, collection: &str) {
        match operation(change) {
            "insert" => {
                if collection == MARKER {
                    self.watcher.left_out.insert(database.to_owned());
                }
            }
            "update" | "replace" | "delete" => self.images.load(&self.watcher.client, database).await,
            _ => self.images.forget(database),
        }
    }

    async fn pass_on_quiet(&mut self, token: Option<ResumeToken>) -> Result<bool> {
        let Some(position) = token.as_ref().map(position_of).transpose()?.flatten() else {
            return Ok(!self.sender.is_closed());
        };
        // Positions never go back.
        if position.cluster_time < self.position.cluster_time {
            return Ok(!self.sender.is_closed());
        }
        self.position = position.clone();
        Ok(self.sender.send(Ok(Read::Quiet(position))).await.is_ok())
    }
}

fn operation<'a>(change: Doc<'a>) -> &'a str {
    change.get("operationType").and_then(|e| e.as_str()).unwrap_or("")
}

fn position_of(token: &ResumeToken) -> Result<Option<Position>> {
    let encoded = bson::serialize_to_vec(token);
    let encoded = encoded.map_err(|e| Error::internal("a resume token can't be encoded").because(e))?;
    Ok(token_time(&encoded).map(|cluster_time| Position { token: Some(encoded), cluster_time }))
}

/// The cluster time in a token `{_data: <hex>}`: after the type byte 0x82 (a timestamp, in the server's KeyString
/// encoding) come seconds and ordinal, big endian. `None` for tokens of another shape.
fn token_time(token: &[u8]) -> Option<Timestamp> {
    let data = Doc::new(token).ok()?.get("_data")?.as_str()?;
    let number = |range| u32::from_str_radix(data.get(range)?, 16).ok();
    (data.get(..2)? == "82").then_some(Timestamp { time: number(2..10)?, increment: number(10..18)? })
}

#[cfg(test)]
mod tests {
    use bson::doc;

    use super::*;

    #[test]
    fn the_time_of_a_token_is_read_from_its_first_bytes() {
        let token = bson::serialize_to_vec(&doc! {"_data": "8264A1B2C3000000052B0429296E04"}).unwrap();
        assert_eq!(token_time(&token), Some(Timestamp { time: 0x64A1_B2C3, increment: 5 }));
        for odd in ["", "82", "8264A1B2C3", "7F64A1B2C300000005", "82é"] {
            assert_eq!(token_time(&bson::serialize_to_vec(&doc! {"_data": odd}).unwrap()), None);
        }
    }
}
