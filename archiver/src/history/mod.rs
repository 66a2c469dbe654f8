//! The whole history of documents: one ordered stream over the archive and the log, and what is made of it.
//!
//! Reads only. Where both tiers are read, the log comes first and the archive's manifests after it: a record that is
//! rolled and trimmed in between is then seen twice, never not at all.

pub mod access;
pub mod detail;
pub mod document;
mod effect;
mod expected;
pub mod gaps;
pub mod id;
pub mod policies;
pub mod recover;
pub mod released;
pub mod replay;
pub mod restore;
pub mod states;
pub mod stream;
#[cfg(test)]
mod testing;
pub mod timeline;
mod vanished;
pub mod verify;
mod watched;

use std::collections::{BTreeMap, HashSet};

use bson::Timestamp;
use futures_util::{StreamExt, TryStreamExt, stream as futures};

use crate::archive::manifest::Sealed;
use crate::archive::store::Archive;
use crate::audit_log::AuditLog;
use crate::error::{Error, Result};
use crate::record::{Record, RecordId};
use crate::salt::Salt;
use crate::stream_id::StreamId;
use id::DocumentId;
use policies::Policies;
use released::place;
use states::Identity;

/// Segments looked into at the same time.
const LOOKUPS: usize = 16;
const BEGINNING: Timestamp = Timestamp { time: 0, increment: 0 };
/// Operations that concern more than one document: whole namespaces, or the source.
const WIDE: [&str; 7] = ["create", "drop", "dropDatabase", "rename", "gap", "quarantine", "policy"];

/// Reads what is kept, hot and cold.
#[derive(Debug, Clone)]
pub struct History {
    log: Option<AuditLog>,
    archive: Archive,
}

/// What the streams of a source make digests with, by partition.
pub type Salts = BTreeMap<Option<u32>, Salt>;

/// A database and a collection.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Namespace {
    /// The database.
    pub db: String,
    /// The collection.
    pub coll: String,
}

impl Namespace {
    /// Reads `db.collection`; only the first dot separates.
    pub fn parse(text: &str) -> Result<Namespace> {
        match text.split_once('.') {
            Some((db, coll)) if !db.is_empty() && !coll.is_empty() => {
                Ok(Namespace { db: db.to_owned(), coll: coll.to_owned() })
            }
            _ => Err(Error::invalid(format!("not a namespace: {text:?}"))
                .hint("a namespace is written db.collection, for example shop.payments")),
        }
    }

    /// Where a record happened; `None` for records of a whole database or of the archiver itself.
    pub fn of(record: &Record<'_>) -> Option<Namespace> {
        Some(Namespace { db: record.db()?.to_owned(), coll: record.coll()?.to_owned() })
    }
}

impl std::fmt::Display for Namespace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.db, self.coll)
    }
}

impl History {
    /// The history in this log and archive; without a log only what is archived.
    pub fn new(log: Option<AuditLog>, archive: Archive) -> History {
        History { log, archive }
    }

    /// The sources that anything is kept of, sorted.
    pub async fn sources(&self) -> Result<Vec<String>> {
        let mut sources = match &self.log {
            Some(log) => log.streams().await?.into_iter().map(|stream| stream.source).collect(),
            None => Vec::new(),
        };
        sources.extend(self.archive.sources().await?);
        sources.sort();
        sources.dedup();
        Ok(sources)
    }

    /// Fails as not found, naming the sources there are, where nothing is kept of this one.
    pub async fn require(&self, source: &str) -> Result<()> {
        let known = self.sources().await?;
        if known.iter().any(|s| s == source) {
            return Ok(());
        }
        Err(Error::not_found(format!("nothing is kept of a source named {source:?}")).hint(
            match known.is_empty() {
                true => "nothing has been captured yet; start with: archiver run".to_owned(),
                false => format!("the sources are: {}", known.join(", ")),
            },
        ))
    }

    /// Which audit log the records of a source are of; `None` where nothing tells.
    async fn audit_log_of(&self, source: &str) -> Result<Option<String>> {
        if let Some(log) = &self.log
            && !log.streams_of(source).await?.is_empty()
        {
            return log.identity().await.map(Some);
        }
        for stream in self.archive.streams(source).await? {
            if let Some(last) = self.archive.manifests(&stream).await?.pop() {
                return Ok(Some(last.manifest.log));
            }
        }
        Ok(None)
    }

    /// What the streams of a source make digests with, by partition; empty where there are no checkpoints to tell.
    pub async fn salts(&self, source: &str) -> Result<Salts> {
        let mut salts = Salts::new();
        let Some(log) = &self.log else { return Ok(salts) };
        for stream in log.streams_of(source).await? {
            let checkpoint = log.checkpoint(&stream).await?;
            salts.extend(checkpoint.and_then(|c| c.salt).map(|salt| (stream.partition, salt)));
        }
        Ok(salts)
    }

    /// The streams of a source that anything is kept of, sorted.
    pub async fn streams(&self, source: &str) -> Result<Vec<StreamId>> {
        let mut streams = match &self.log {
            Some(log) => log.streams_of(source).await?,
            None => Vec::new(),
        };
        streams.extend(self.archive.streams(source).await?);
        streams.sort();
        streams.dedup();
        Ok(streams)
    }

    /// The streams of a source that anything is kept of, and those of its partitions that have not begun yet; sorted.
    async fn streams_to_come(&self, source: &str) -> Result<Vec<StreamId>> {
        let mut streams = self.streams(source).await?;
        let Some(log) = &self.log else { return Ok(streams) };
        for stream in streams.clone() {
            if let Some(checkpoint) = log.checkpoint(&stream).await? {
                streams.extend(StreamId::all(source, checkpoint.partitions));
                break;
            }
        }
        streams.sort();
        streams.dedup();
        Ok(streams)
    }

    /// Until when history has been removed by retention: nothing is known of what happened up to then but what later records tell,
    /// and what happened to whole namespaces. `None` where nothing has been removed.
    pub async fn removed_until(&self, source: &str) -> Result<Option<Timestamp>> {
        self.archive.removed_until(source).await
    }

    /// All records of one document (of every namespace that has this id), oldest first: by cluster time, then partition and
    /// seq.
    pub async fn document(&self, source: &str, id: &DocumentId) -> Result<Vec<Vec<u8>>> {
        let mut found = Vec::new();
        if let Some(log) = &self.log {
            for value in id.values() {
                found.extend(log.document(source, &value).await?);
            }
        }
        let manifests = self.archive.manifests_of(source).await?;
        let texts = id.texts();
        let lookups = manifests.iter().flat_map(|sealed| texts.iter().map(move |text| (sealed, text)));
        let lookups: Vec<_> = lookups.collect();
        let mut cold = futures::iter(lookups)
            .map(|(sealed, text)| self.archive.document_in(sealed, text))
            .buffered(LOOKUPS);
        while let Some(records) = cold.try_next().await? {
            found.extend(records);
        }
        let found = found
            .into_iter()
            .filter(|r| Record::new(r).is_ok_and(|r| r.id().is_some_and(|e| id.matches(&e))));
        in_order(found.collect())
    }

    /// All records that concern more than one document, oldest first; of collections that began, those that a rename has to do with.
    pub async fn wide(&self, source: &str) -> Result<Vec<Vec<u8>>> {
        let mut records = in_order(self.operations(source, &WIDE, BEGINNING).await?)?;
        let mut renamed = HashSet::new();
        for bytes in &records {
            let record = Record::new(bytes)?;
            let to = detail::target(&record).filter(|_| record.op() == "rename");
            renamed.extend(to.into_iter().chain(Namespace::of(&record).filter(|_| record.op() == "rename")));
        }
        records.retain(|bytes| {
            let began = Record::new(bytes).ok().filter(|record| record.op() == "create");
            began.is_none_or(|record| Namespace::of(&record).is_some_and(|of| renamed.contains(&of)))
        });
        Ok(records)
    }

    /// The records of some operations from a time on, from both tiers, in no order and perhaps twice.
    async fn operations(&self, source: &str, operations: &[&str], from: Timestamp) -> Result<Vec<Vec<u8>>> {
        let mut found: Vec<Vec<u8>> = match &self.log {
            Some(log) => log.operations_since(source, operations, from).await?.try_collect().await?,
            None => Vec::new(),
        };
        for sealed in self.archive.manifests_of(source).await?.iter().filter(|s| holds(s, operations, from)) {
            found.extend(self.archive.ops_in(sealed, operations, from).await?);
        }
        Ok(found)
    }
}

/// Whether a segment can hold such records, as its manifest says.
fn holds(sealed: &Sealed, operations: &[&str], from: Timestamp) -> bool {
    let manifest = &sealed.manifest;
    let last = manifest.last_cluster_time;
    let any = operations.iter().any(|op| manifest.ops.get(*op).is_some_and(|n| *n > 0));
    any && (last.t, last.i) >= (from.time, from.increment)
}

/// Sorts records by cluster time, then partition and seq, late ones at the place of their events, documents that were read behind the changes of that time, which are in
/// them; and removes what was read from both tiers. Fails as corrupt where the tiers have different records of one seq.
fn in_order(records: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>> {
    let mut by_id: BTreeMap<RecordId, Vec<u8>> = BTreeMap::new();
    for bytes in records {
        let id = Record::new(&bytes)?.record_id()?;
        match by_id.get(&id) {
            Some(other) if *other != bytes => {
                return Err(Error::corrupt(format!(
                    "the audit log and the archive have different records seq={id}"
                ))
                .hint("archiver verify says whether the archive is what was written"));
            }
            _ => {
                by_id.insert(id, bytes);
            }
        }
    }
    let mut sorted = Vec::with_capacity(by_id.len());
    for bytes in by_id.into_values() {
        let record = Record::new(&bytes)?;
        sorted.push((place(&record)?, bytes));
    }
    sorted.sort_by_key(|(at, _)| *at);
    let mut sorted: Vec<(Timestamp, Vec<u8>)> = sorted.into_iter().map(|(at, bytes)| (at.0, bytes)).collect();
    for at in (0..sorted.len()).rev() {
        let behind = last_change_of_its_time(&sorted[at..])?;
        sorted[at..=at + behind].rotate_left(1);
    }
    Ok(sorted.into_iter().map(|(_, bytes)| bytes).collect())
}

/// How far behind a document that was read the last change of it is that has its very time, and is in it: one of itself, or the
/// renaming of its collection to the name under which it was read.
fn last_change_of_its_time(sorted: &[(Timestamp, Vec<u8>)]) -> Result<usize> {
    let Some(((time, bytes), rest)) = sorted.split_first() else { return Ok(0) };
    let record = Record::new(bytes)?;
    if record.op() != "snapshot" {
        return Ok(0);
    }
    let identity = Identity::of(&record);
    let mut last = 0;
    for (n, (_, bytes)) in (1..).zip(rest.iter().take_while(|(other, _)| other == time)) {
        let other = Record::new(bytes)?;
        let is_of_it = other.op() != "snapshot" && Identity::of(&other) == identity;
        if is_of_it || other.op() == "rename" && detail::target(&other) == Namespace::of(&record) {
            last = n;
        }
    }
    Ok(last)
}

/// What to say where history has been removed by retention, up to this time.
pub fn removed_words(until: Timestamp) -> String {
    let second =
        jiff::Timestamp::from_second(i64::from(until.time)).map(|t| t.to_string()).unwrap_or_default();
    format!("history up to {second} has been removed by retention")
}

/// When a record happened, by the source's clock, in whole seconds.
pub fn time_of(record: &Record<'_>) -> Result<jiff::Timestamp> {
    let seconds = i64::from(record.cluster_time()?.time);
    jiff::Timestamp::from_second(seconds)
        .map_err(|e| Error::corrupt("a record's time is not a time").because(e))
}

/// The policies among these records.
fn policies(wide: &[Vec<u8>]) -> Result<Policies> {
    let mut policies = Policies::default();
    for bytes in wide {
        policies.note(&Record::new(bytes)?)?;
    }
    Ok(policies)
}

#[cfg(test)]
mod doubt_tests;
#[cfg(test)]
mod expired_tests;
#[cfg(test)]
mod gap_tests;
#[cfg(test)]
mod many_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod told_tests;
