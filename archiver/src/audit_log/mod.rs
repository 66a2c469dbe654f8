//! The hot tier: one append-only collection per source, and the contract of what is durable when.
//!
//! [`AuditLog::append`] is the only way records come into being: the records and the checkpoint after them become
//! durable together or not at all, in one journaled majority transaction, and only for the writer whose epoch the
//! checkpoint carries. Does not know what records mean, nor how they are rolled.

mod holds;
mod notices;
mod overflow;
mod plans;
mod quarantine;
mod stored;
mod verified;

use std::ops::Range;
use std::time::{Duration, Instant};

use bson::{Bson, DateTime, Document, RawDocumentBuf, Timestamp, doc};
use bson_walker::{Element, Writer};
use futures_util::{Stream, StreamExt, TryStreamExt};
use mongodb::options::IndexOptions;
use mongodb::{Client, ClientSession, Collection, Database, IndexModel};

use crate::checkpoint::Checkpoint;
use crate::config::Config;
pub use crate::deployment::mongo_error;
use crate::deployment::{code, connect, durable};
use crate::error::{Error, Result};
use crate::fail_point::fail_point;
use crate::record::{Record, RecordId};
use crate::stream_id::StreamId;
pub use holds::{Claim, Expiring, Holds, NewHold};
pub use notices::account_of;
pub use quarantine::{Withheld, WithheldId};
pub use verified::{FoundWrong, Verified};

/// Collections beside the sources' own; a source can't be named so.
const CHECKPOINTS: &str = "archiver.checkpoints";
/// See `capture::lease`.
pub const LEASES: &str = "archiver.leases";
/// Says "an archiver's database", so that no archiver ever watches it.
pub const MARKER: &str = "archiver.marker";
/// How many times a commit whose outcome is unknown is asked for again before the source starts over.
const COMMIT_ATTEMPTS: usize = 5;
/// Records deleted in one step of trimming: small, so that the server is never loaded by it.
const TRIM_STEP: i64 = 1_000;
/// How long trimming pauses between two steps, at least and at most.
const TRIM_PAUSE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(1));
/// Records in one reply of the server: without this bound every reply is 16 MiB, and held twice while it is taken apart.
const READ_AHEAD: u32 = 1_000;
const DUPLICATE_KEY: i32 = 11000;

/// What becomes durable together with a checkpoint.
#[derive(Debug, Default)]
pub struct Append {
    /// Records with the next seqs.
    pub records: Vec<Vec<u8>>,
    /// The events whose `quarantine` records are among them.
    pub withheld: Vec<Withheld>,
    /// The seqs of `quarantine` records whose events are released.
    pub released: Vec<i64>,
    /// The notices whose records are among them.
    pub noticed: Vec<Bson>,
}

impl From<Vec<Vec<u8>>> for Append {
    fn from(records: Vec<Vec<u8>>) -> Append {
        Append { records, ..Append::default() }
    }
}

/// The audit database. Cheap to clone.
#[derive(Debug, Clone)]
pub struct AuditLog {
    client: Client,
    database: Database,
}

impl AuditLog {
    /// Connects to the audit database of this configuration. Reaches no server yet.
    pub async fn connect(config: &Config) -> Result<Self> {
        let client = connect(config.audit_uri.as_ref().unwrap_or(&config.mongodb_uri)).await?;
        Ok(AuditLog { database: client.database(&config.audit_database), client })
    }

    /// The audit database itself, for leases and for `check`.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// Creates what the log of this source needs: its collection, its index, and the marker. Harmless when repeated.
    pub async fn prepare(&self, source: &str) -> Result<()> {
        let marker = self.database.collection::<Document>(MARKER);
        let made = doc! {"format": 1, "id": bson::Uuid::new().to_string(), "created": DateTime::now()};
        let update = doc! {"$setOnInsert": made};
        marker
            .update_one(doc! {"_id": "archiver"}, update)
            .upsert(true)
            .await
            .map_err(|e| mongo_error("marking the audit database", e))?;
        fail_point!("audit:marked");
        for name in [
            source,
            CHECKPOINTS,
            LEASES,
            overflow::COLLECTION,
            quarantine::COLLECTION,
            holds::COLLECTION,
            notices::COLLECTION,
        ] {
            const NAMESPACE_EXISTS: i32 = 48;
            match self.database.create_collection(name).await {
                Err(e) if code(&e) != Some(NAMESPACE_EXISTS) => {
                    return Err(mongo_error(&format!("creating the audit collection {name}"), e));
                }
                _ => {}
            }
        }
        let options = IndexOptions::builder().name("document".to_owned()).build();
        let index = IndexModel::builder().keys(doc! {"key._id": 1}).options(options).build();
        let created = self.records_of(source).create_index(index).await;
        created.map(|_| ()).map_err(|e| mongo_error("creating the index of the audit collection", e))
    }

    /// Which audit log this is: made with the database's marker, and never again. An archive knows by it whose records it holds.
    pub async fn identity(&self) -> Result<String> {
        let marker = self.database.collection::<Document>(MARKER).find_one(doc! {"_id": "archiver"}).await;
        let marker = marker.map_err(|e| mongo_error("reading the audit database's marker", e))?;
        marker.as_ref().and_then(|m| m.get_str("id").ok()).map(str::to_owned).ok_or_else(|| {
            Error::not_found(format!(
                "this is no audit database, it has no marker database={}",
                self.database.name()
            ))
            .hint("`archiver run` makes one")
        })
    }

    /// Notes how far the archive has been sealed, beside the lease, so that `verify` misses manifests that are removed.
    pub async fn note_sealed(&self, stream: &StreamId, end_seq: i64, manifest: &str) -> Result<()> {
        let leases = self.database.collection::<Document>(LEASES);
        let note = doc! {"$set": {"sealed": {"endSeq": end_seq, "manifest": manifest}}};
        let older = doc! {"_id": stream.to_string(), "sealed.endSeq": {"$not": {"$gte": end_seq}}};
        let noted = leases.update_one(older, note).await;
        noted.map_err(|e| mongo_error("noting how far the archive is sealed", e))?;
        fail_point!("archive:noted");
        Ok(())
    }

    /// How far the archive was sealed when it was last noted, and the digest of the manifest that did it.
    pub async fn sealed(&self, stream: &StreamId) -> Result<Option<(i64, String)>> {
        let leases = self.database.collection::<Document>(LEASES);
        let found = leases.find_one(doc! {"_id": stream.to_string()}).await;
        let lease = found.map_err(|e| mongo_error("reading how far the archive is sealed", e))?;
        let sealed = lease.as_ref().and_then(|lease| lease.get_document("sealed").ok());
        let read = |sealed: &Document| {
            Some((sealed.get_i64("endSeq").ok()?, sealed.get_str("manifest").ok()?.to_owned()))
        };
        Ok(sealed.and_then(read))
    }

    fn records_of(&self, source: &str) -> Collection<RawDocumentBuf> {
        self.database.collection(source)
    }

    fn checkpoints(&self) -> Collection<Document> {
        self.database.collection(CHECKPOINTS)
    }

    /// All streams that have a checkpoint, sorted.
    pub async fn streams(&self) -> Result<Vec<StreamId>> {
        let ids = self.checkpoints().distinct("_id", doc! {}).await;
        let ids = ids.map_err(|e| mongo_error("listing the sources", e))?;
        let mut streams: Vec<_> = ids.iter().filter_map(|id| StreamId::parse(id.as_str()?)).collect();
        streams.sort();
        Ok(streams)
    }

    /// The streams of one source that have a checkpoint, sorted.
    pub async fn streams_of(&self, source: &str) -> Result<Vec<StreamId>> {
        Ok(self.streams().await?.into_iter().filter(|stream| stream.source == source).collect())
    }

    /// Where this stream's capture stands; `None` before its first start.
    pub async fn checkpoint(&self, stream: &StreamId) -> Result<Option<Checkpoint>> {
        let found = self.checkpoints().find_one(doc! {"_id": stream.to_string()}).await;
        found.map_err(|e| mongo_error("reading the checkpoint", e))?.map(|d| stored::decode(&d)).transpose()
    }

    /// Writes a stream's first checkpoint. Fails as fenced where there is one already.
    pub async fn create_checkpoint(&self, checkpoint: &Checkpoint) -> Result<()> {
        match self.checkpoints().insert_one(stored::encode(checkpoint)?).await {
            Ok(_) => {
                fail_point!("checkpoint:created");
                Ok(())
            }
            Err(e) if code(&e) == Some(DUPLICATE_KEY) => Err(Error::fenced(format!(
                "another archiver has just started this source source={}",
                checkpoint.stream
            ))),
            Err(e) => Err(mongo_error("writing the first checkpoint", e)),
        }
    }

    /// Makes `epoch` the writer of this stream: from then on every writer of a lower epoch is fenced. Returns the
    /// checkpoint to go on from.
    pub async fn fence(&self, stream: &StreamId, epoch: i64) -> Result<Option<Checkpoint>> {
        let update = doc! {"$max": {"epoch": epoch}};
        let after = mongodb::options::ReturnDocument::After;
        let own = doc! {"_id": stream.to_string()};
        let found = self.checkpoints().find_one_and_update(own, update).return_document(after).await;
        let found = found.map_err(|e| mongo_error("taking the checkpoint over", e))?;
        fail_point!("checkpoint:fenced");
        let checkpoint = found.map(|d| stored::decode(&d)).transpose()?;
        match checkpoint {
            Some(c) if c.epoch > epoch => Err(fenced(stream, epoch)),
            other => Ok(other),
        }
    }

    /// A session for appending. All of a writer's transactions run in one, so that whoever takes over after a crash can end
    /// the last of them; see `capture::lease`.
    pub async fn session(&self) -> Result<ClientSession> {
        self.client.start_session().await.map_err(|e| mongo_error("starting a session", e))
    }

    /// Appends records and advances the checkpoint, in one transaction. `expected_seq` is the first record's seq, and
    /// the `next_seq` of the stored checkpoint. Events that are withheld, or released, are so from the same moment on.
    ///
    /// Atomic: after an error either all of it is durable or nothing; the stored checkpoint tells which. Fails as
    /// fenced when the stored epoch or seq is another writer's. Cancelled half way it leaves one of the two as well.
    pub async fn append(
        &self,
        session: &mut ClientSession,
        append: impl Into<Append>,
        expected_seq: i64,
        checkpoint: &Checkpoint,
    ) -> Result<()> {
        let begun = session.start_transaction().write_concern(durable()).await;
        begun.map_err(|e| mongo_error("starting a transaction", e))?;
        let written = self.write_batch(session, append.into(), expected_seq, checkpoint).await;
        if let Err(error) = written {
            // The transaction leaves nothing behind even where this abort does not arrive.
            session.abort_transaction().await.ok();
            return Err(error);
        }
        for attempt in 1.. {
            match session.commit_transaction().await {
                Ok(()) => break,
                Err(e) if e.contains_label("UnknownTransactionCommitResult") && attempt < COMMIT_ATTEMPTS => {
                }
                Err(e) => return Err(mongo_error("committing a batch", e)),
            }
        }
        fail_point!("append:committed");
        Ok(())
    }

    async fn write_batch(
        &self,
        session: &mut ClientSession,
        append: Append,
        expected_seq: i64,
        checkpoint: &Checkpoint,
    ) -> Result<()> {
        fail_point!("append:begun");
        // The checkpoint first: a fenced writer must learn it before it has sent a batch.
        let stream = &checkpoint.stream;
        let filter = doc! {"_id": stream.to_string(), "epoch": checkpoint.epoch, "nextSeq": expected_seq};
        let replaced =
            self.checkpoints().replace_one(filter, stored::encode(checkpoint)?).session(&mut *session).await;
        let replaced = replaced.map_err(|e| mongo_error("advancing the checkpoint", e))?;
        if replaced.matched_count == 0 {
            return Err(fenced(stream, checkpoint.epoch));
        }
        fail_point!("append:checkpoint_replaced");
        let Append { records, withheld, released, noticed } = append;
        self.withhold(session, &withheld).await?;
        self.release(session, stream, &released).await?;
        self.take_notices(session, &stream.source, &noticed).await?;
        if records.is_empty() {
            return Ok(());
        }
        let mut small = Vec::with_capacity(records.len());
        for (record, seq) in records.into_iter().zip(expected_seq..) {
            if Record::new(&record)?.record_id()? != RecordId::new(stream, seq) {
                return Err(Error::internal(format!(
                    "a record to append is not the next one source={stream} seq={seq}"
                )));
            }
            let (record, chunks) = overflow::split(stream, record)?;
            for chunk in chunks {
                let inserted = self
                    .database
                    .collection::<RawDocumentBuf>(overflow::COLLECTION)
                    .insert_one(chunk)
                    .session(&mut *session)
                    .await;
                inserted.map_err(|e| mongo_error("appending a large record", e))?;
            }
            let record = RawDocumentBuf::from_bytes(record);
            small.push(record.map_err(|e| Error::internal("a record is not valid BSON").because(e))?);
        }
        let inserted = self.records_of(&stream.source).insert_many(small).session(&mut *session).await;
        inserted.map_err(|e| match code(&e) {
            Some(DUPLICATE_KEY) => Error::corrupt(format!(
                "the audit log already has a record of the next seq source={stream} seq={expected_seq}"
            ))
            .hint("something else wrote into the audit collection; compare it with its checkpoint before going on"),
            _ => mongo_error("appending a batch", e),
        })?;
        fail_point!("append:records_inserted");
        Ok(())
    }

    /// The records of a stream's seq range in seq order, as canonical bytes. May end early where the log does.
    pub async fn records(
        &self,
        stream: &StreamId,
        range: Range<i64>,
    ) -> Result<impl Stream<Item = Result<Vec<u8>>> + Send + use<>> {
        self.find(&stream.source, in_range(stream, range)).await
    }

    /// The records of one document, by its `_id`, in the order of their ids, whatever stream they are of.
    pub async fn document(&self, source: &str, id: &Element<'_>) -> Result<Vec<Vec<u8>>> {
        let mut filter = Vec::new();
        let mut writer = Writer::begin(&mut filter);
        let mut equal = writer.begin_doc(b"key._id");
        equal.append_as("$eq", id);
        equal.end();
        writer.end();
        let filter = bson::deserialize_from_slice(&filter);
        let filter: Document =
            filter.map_err(|e| Error::invalid("the id can't be searched for").because(e))?;
        self.find(source, filter).await?.try_collect().await
    }

    /// The records of these operations from a time on, stream by stream in seq order.
    pub async fn operations_since(
        &self,
        source: &str,
        operations: &[&str],
        from: Timestamp,
    ) -> Result<impl Stream<Item = Result<Vec<u8>>> + Send + use<>> {
        let operations: Vec<Bson> = operations.iter().map(|o| Bson::from(*o)).collect();
        self.find(source, doc! {"op": {"$in": operations}, "clusterTime": {"$gte": from}}).await
    }

    async fn find(
        &self,
        source: &str,
        filter: Document,
    ) -> Result<impl Stream<Item = Result<Vec<u8>>> + Send + use<>> {
        let found = self.records_of(source).find(filter).sort(doc! {"_id": 1}).batch_size(READ_AHEAD).await;
        let cursor = found.map_err(|e| mongo_error("reading the audit log", e))?;
        let log = self.clone();
        let source = source.to_owned();
        Ok(cursor.map_err(|e| mongo_error("reading the audit log", e)).and_then(move |record| {
            let log = log.clone();
            let source = source.clone();
            async move { overflow::join(&log.database, &source, record.into_bytes()).await }
        }))
    }

    /// The first seq that the log still holds of a stream; `None` where there is none.
    pub async fn first_seq(&self, stream: &StreamId) -> Result<Option<i64>> {
        let first = self
            .records_of(&stream.source)
            .find_one(in_range(stream, 0..i64::MAX))
            .sort(doc! {"_id": 1})
            .projection(doc! {"_id": 1})
            .await;
        let first = first.map_err(|e| mongo_error("reading the audit log", e))?;
        first.map(|r| Record::new(r.as_bytes())?.seq()).transpose()
    }

    /// The seq of a stream's first record from `first_seq` on that is of this time or later; `None` where there is none.
    pub async fn seq_since(&self, stream: &StreamId, first_seq: i64, from: Timestamp) -> Result<Option<i64>> {
        let mut filter = in_range(stream, first_seq..i64::MAX);
        filter.insert("clusterTime", doc! {"$gte": from});
        let records = self.records_of(&stream.source);
        let first = records.find_one(filter).sort(doc! {"_id": 1}).projection(doc! {"_id": 1}).await;
        let first = first.map_err(|e| mongo_error("reading the audit log", e))?;
        first.map(|r| Record::new(r.as_bytes())?.seq()).transpose()
    }

    /// Deletes a stream's records before `end`, oldest first, in small steps with pauses between them: for the server there is no
    /// long deletion, and no more load than what half of its time allows. The caller has made sure that they are sealed in the
    /// archive. Cancelled or ended half way it goes on from there the next time.
    pub async fn trim(&self, stream: &StreamId, end: i64) -> Result<u64> {
        let mut deleted = 0;
        // Once: whoever looks for the first record behind each step walks over all that has just been deleted.
        let mut first = self.first_seq(stream).await?.unwrap_or(end);
        while first < end {
            let begun = Instant::now();
            let step = first..end.min(first + TRIM_STEP);
            first = step.end;
            let gone = self
                .records_of(&stream.source)
                .delete_many(in_range(stream, step))
                .await
                .map_err(|e| mongo_error("trimming the audit log", e))?;
            deleted += gone.deleted_count;
            fail_point!("trim:step");
            pause_after(begun).await;
        }
        fail_point!("trim:records_deleted");
        // Chunks after records: a crash in between leaves chunks that nothing points to, and the next trim takes them.
        overflow::trim(&self.database, stream, end).await?;
        Ok(deleted)
    }
}

/// Waits as long as the last step took, within bounds.
async fn pause_after(begun: Instant) {
    tokio::time::sleep(begun.elapsed().clamp(TRIM_PAUSE.0, TRIM_PAUSE.1)).await;
}

/// Selects a seq range of a stream, through the `_id` index: of documents `{p, s}` MongoDB compares `p` first.
fn in_range(stream: &StreamId, range: Range<i64>) -> Document {
    let id = |seq| RecordId::new(stream, seq).to_bson();
    doc! {"_id": {"$gte": id(range.start), "$lt": id(range.end)}}
}

fn fenced(stream: &StreamId, epoch: i64) -> Error {
    Error::fenced(format!("another writer has taken this source over source={stream} epoch={epoch}"))
        .hint("nothing is lost: the other writer goes on from the same checkpoint")
}

/// Whether a stream of records has anything left; shorthand for callers that need one record.
pub async fn first(stream: impl Stream<Item = Result<Vec<u8>>>) -> Result<Option<Vec<u8>>> {
    let mut stream = std::pin::pin!(stream);
    stream.next().await.transpose()
}
