//! Reads one range of one collection, a batch at a time: each as of a time of its own, behind the place where the last one
//! ended.

use std::time::{Duration, Instant};

use bson::{Bson, Document, RawDocument, RawDocumentBuf, Timestamp, doc};
use bson_walker::{Doc, Writer};
use mongodb::Cursor;
use mongodb::error::Error as MongoError;
use tracing::{debug, info, warn};

use super::{Outlet, Part, Snapshot};
use crate::capture::barrier::Hold;
use crate::capture::change_event::{ReadFrom, snapshot_event};
use crate::deployment::{code, mongo_error, operation_time};
use crate::error::{Error, Result};
use crate::event::Event;
use crate::progress::{Did, IdKey, Planned, RangeProgress, Step};

/// How many times one batch is tried where the collection changes while it is read, …
const ATTEMPTS: usize = 20;
/// … and how long to wait in between.
const PAUSE: Duration = Duration::from_millis(100);
/// The collection was or is changed while a batch is read, or its past is gone: NamespaceNotFound, CursorNotFound,
/// WriteConflict, QueryPlanKilled, SnapshotTooOld, SnapshotUnavailable. It can be read at a newer time.
const CHANGED: [i32; 6] = [26, 43, 112, 175, 239, 246];
/// LockTimeout: somebody waits for the collection, to build an index say, behind a transaction that has changed it. MongoDB
/// ends that after a minute at most (`transactionLifetimeLimitSeconds`), …
const LOCKED: i32 = 24;
/// … so it passes: how often to look, …
const LOCK_PAUSE: Duration = Duration::from_millis(500);
/// … and to say so.
const LOCK_REMINDER: Duration = Duration::from_secs(60);
const LOCK_HINT: &str = "most often an index build or a change of the collection waits for it behind an open transaction; \
    db.currentOp({waitingForLock: true}) shows who waits";
/// CollectionUUIDMismatch: the collection has another name, which the answer gives, or is gone.
const UUID_MISMATCH: i32 = 361;
/// `min` is not before `max`, and nothing is in between: they are one `_id` in two types, or the last document was `MaxKey`.
const EMPTY_RANGE: i32 = 51175;

/// What one read found.
#[derive(Default)]
pub(in crate::capture) struct Found {
    /// In `_id` order.
    pub(in crate::capture) documents: Vec<RawDocumentBuf>,
    bytes: usize,
    /// Whether there is nothing behind it in the range.
    pub(in crate::capture) done: bool,
}

impl Found {
    /// Takes a document, unless it is this one.
    fn take(&mut self, document: &RawDocument, known: Option<&IdKey>) {
        if known.is_none() || id_of(document.as_bytes()).ok().as_ref() != known {
            self.bytes += document.as_bytes().len();
            self.documents.push(document.to_owned());
        }
    }
}

impl Snapshot {
    /// Reads a range to its end and sends what it finds.
    pub(super) async fn read_range(&self, part: Part, outlet: &Outlet) -> Result<()> {
        let Part { number, mut collection, mut range } = part;
        let mut limit = self.limits.batch_max_events;
        let mut done = false;
        while !done {
            let (found, hold) = self.read_batch(&mut collection, &range, limit).await?;
            limit = self.limit_after(&found, limit);
            done = found.done;
            if let Some(last) = found.documents.last() {
                range.last = Some(id_of(last.as_bytes())?);
            }
            let documents = found.documents.len() as i64;
            let did = Did::Read { min: range.min.clone(), last: range.last.clone(), documents, done };
            let events = match &hold {
                Some(hold) => self.events(found.documents, &collection, hold.time).await?,
                None => Vec::new(),
            };
            if !outlet.send(Step { number, did }, events, hold).await? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// How many documents to ask for next, so that the server sends no more than a batch takes.
    pub(in crate::capture) fn limit_after(&self, found: &Found, limit: usize) -> usize {
        found.bytes.checked_div(found.documents.len()).map_or(limit, |average| {
            (self.limits.batch_max_bytes / average.max(1)).clamp(1, self.limits.batch_max_events)
        })
    }

    /// The next batch, as of the hold's time. Tries again where the collection is changed meanwhile, and follows it to a new
    /// name; where it is gone, there is nothing more, and the stream tells of its end.
    pub(in crate::capture) async fn read_batch(
        &self,
        collection: &mut Planned,
        range: &RangeProgress,
        limit: usize,
    ) -> Result<(Found, Option<Hold>)> {
        let nothing = || (Found { done: true, ..Found::default() }, None);
        let mut attempt = 1;
        let mut said: Option<Instant> = None;
        loop {
            let present = operation_time(&self.client.database(&collection.db)).await?;
            let hold = self.barrier.hold(present);
            let read = match self.fetch(collection, range, limit, hold.time).await {
                // A rename has its time a moment before its collection has the other name. What was read in between would stand
                // behind the rename under the old name, so it is only taken where the name still holds.
                Ok(found) => self.check_name(collection).await.map(|()| found),
                Err(error) => Err(error),
            };
            let error = match read {
                Ok(found) => return Ok((found, Some(hold))),
                Err(error) => error,
            };
            drop(hold);
            let Planned { db, coll, .. } = &*collection;
            match code(&error) {
                Some(EMPTY_RANGE) => return Ok(nothing()),
                Some(UUID_MISMATCH) if attempt < ATTEMPTS => match self.new_name(db, &error) {
                    Some(name) => collection.coll = name,
                    None => {
                        info!(database = %db, collection = %coll, "gone before its baseline was read");
                        return Ok(nothing());
                    }
                },
                Some(LOCKED) => {
                    if said.is_none_or(|said| said.elapsed() > LOCK_REMINDER) {
                        said = Some(Instant::now());
                        warn!(database = %db, collection = %coll, hint = LOCK_HINT, "the baseline waits for a lock");
                    }
                    tokio::time::sleep(LOCK_PAUSE).await;
                    continue;
                }
                Some(code) if CHANGED.contains(&code) && attempt < ATTEMPTS => {
                    debug!(database = %db, collection = %coll, code, "changed while it is read, trying again");
                    tokio::time::sleep(PAUSE).await;
                }
                _ => return Err(mongo_error(&format!("reading the baseline of {db}.{coll}"), error)),
            }
            attempt += 1;
        }
    }

    async fn fetch(
        &self,
        collection: &Planned,
        range: &RangeProgress,
        limit: usize,
        time: Timestamp,
    ) -> Result<Found, MongoError> {
        let asked = limit + usize::from(range.last.is_some());
        let filter = self.filter.as_ref().map(bson::serialize_to_vec).transpose()?;
        let bounds = |find: &mut Writer<'_>| {
            if let Some(IdKey(min)) = range.last.as_ref().or(range.min.as_ref()) {
                find.doc("min", min);
            }
            if let Some(IdKey(max)) = &range.max {
                find.doc("max", max);
            }
            if let Some(filter) = &filter {
                find.doc("filter", filter);
            }
        };
        let mut cursor = self.find(collection, asked, time, bounds).await?;
        let mut found = Found::default();
        let mut seen = 0;
        while found.bytes < self.limits.batch_max_bytes {
            if !cursor.advance().await? {
                found.done = seen < asked;
                break;
            }
            seen += 1;
            // The lower bound is inclusive: the last batch's last document comes once more, if it is still there.
            found.take(cursor.current(), range.last.as_ref());
        }
        if found.done && range.max.is_none() {
            self.fetch_greatest(collection, &mut found, time).await?;
        }
        Ok(found)
    }

    /// MongoDB ends a range without `max` before the document whose `_id` is `MaxKey`, except where it does not (clustered
    /// collections, and where there is no `min` either).
    async fn fetch_greatest(
        &self,
        collection: &Planned,
        found: &mut Found,
        time: Timestamp,
    ) -> Result<(), MongoError> {
        let greatest = doc! {"_id": Bson::MaxKey};
        let filter = match self.filter.clone() {
            None => bson::serialize_to_vec(&greatest)?,
            Some(filter) => bson::serialize_to_vec(&doc! {"$and": [greatest, filter]})?,
        };
        let mut cursor = self.find(collection, 1, time, |find| find.doc("filter", &filter)).await?;
        if cursor.advance().await? {
            let last = found.documents.last().and_then(|last| id_of(last.as_bytes()).ok());
            found.take(cursor.current(), last.as_ref());
        }
        Ok(())
    }

    /// Bounds are those of the index, not comparisons in a filter: `$gt` would skip every `_id` of another type. Raw, because
    /// an `_id` can be what no library decodes exactly.
    async fn find(
        &self,
        collection: &Planned,
        limit: usize,
        time: Timestamp,
        what: impl FnOnce(&mut Writer<'_>),
    ) -> Result<Cursor<Document>, MongoError> {
        let command = Writer::build(|find| {
            find.str("find", &collection.coll);
            let mut hint = find.begin_doc(b"hint");
            hint.i32("_id", 1);
            hint.end();
            what(find);
            find.i64("limit", limit as i64);
            find.i64("batchSize", limit as i64);
            let mut concern = find.begin_doc(b"readConcern");
            let (level, at) = match collection.capped {
                false => ("snapshot", "atClusterTime"),
                true => ("majority", "afterClusterTime"),
            };
            concern.str("level", level);
            concern.timestamp(at, time.time, time.increment);
            concern.end();
            if let Some(uuid) = collection.uuid {
                find.binary("collectionUUID", 4, &uuid.bytes());
            }
        });
        let command = RawDocumentBuf::from_bytes(command)?;
        self.client.database(&collection.db).run_raw_cursor_command(command).await
    }

    /// Fails where the collection does not have its name any more. In a transaction, because only there a read takes the collection's
    /// lock: so it comes before a rename, or behind the whole of it.
    async fn check_name(&self, collection: &Planned) -> Result<(), MongoError> {
        let Planned { db, coll, uuid, .. } = collection;
        let mut find = doc! {"find": coll, "limit": 1, "singleBatch": true, "projection": {"_id": 1}};
        find.extend(uuid.map(|uuid| ("collectionUUID".to_owned(), uuid.into())));
        let mut session = self.client.start_session().await?;
        session.start_transaction().await?;
        let found = self.client.database(db).run_command(find).session(&mut session).await;
        // Nothing was written: where this does not arrive, the server ends it by itself.
        session.abort_transaction().await.ok();
        found.map(|_| ())
    }

    /// The name that a collection has now, in the answer to its old one; `None` where it is gone or not watched.
    fn new_name(&self, db: &str, error: &MongoError) -> Option<String> {
        let answer = error.server_response()?;
        let name = answer.get_str("actualCollection").ok()?;
        self.watch.iter().any(|w| w.covers(db, name)).then(|| name.to_owned())
    }

    async fn events(
        &self,
        documents: Vec<RawDocumentBuf>,
        collection: &Planned,
        time: Timestamp,
    ) -> Result<Vec<Event>> {
        let Planned { db, coll, uuid, .. } = collection;
        // What was not read as of the time was read before this moment.
        let until = match collection.capped {
            true => Some(operation_time(&self.client.database(db)).await?),
            false => None,
        };
        let from = ReadFrom { db, coll, uuid: uuid.map(|uuid| uuid.bytes()), time, until };
        documents.iter().map(|document| snapshot_event(&from, document.as_bytes(), &self.position)).collect()
    }
}

/// `{_id: …}` of a document.
pub(in crate::capture) fn id_of(document: &[u8]) -> Result<IdKey> {
    let doc =
        Doc::new(document).map_err(|e| Error::unavailable("a document is not valid BSON").because(e))?;
    let id = doc.get("_id");
    Ok(IdKey(Writer::build(|writer| {
        if let Some(id) = &id {
            writer.append(id);
        }
    })))
}
