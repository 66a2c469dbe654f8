//! Archives in temporary folders for tests: records of a small shop, cut into segments and sealed.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use bson::{Document, doc};
use bson_walker::Doc;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use tempfile::TempDir;

use crate::archive::manifest::{Context, Manifest, Sealed};
use crate::archive::segment::SegmentBuilder;
use crate::archive::store::{Archive, Commit};
use crate::checkpoint::Counters;
use crate::record::{Record, RecordId};
use crate::stream_id::StreamId;

/// An archive in memory, whose objects can be changed: tens of thousands of verifications are quick there.
pub(super) struct Memory {
    pub(super) archive: Archive,
    store: Arc<InMemory>,
}

impl Memory {
    pub(super) fn new() -> Memory {
        let store = Arc::new(InMemory::new());
        let archive = Archive::new(Arc::clone(&store) as Arc<dyn ObjectStore>, "a/prefix", "memory").unwrap();
        Memory { archive, store }
    }

    /// Puts an object there, whatever was there before.
    pub(super) async fn put(&self, key: &str, bytes: Vec<u8>) {
        self.store.put(&Path::from(format!("a/prefix/{key}")), bytes.into()).await.unwrap();
    }
}

/// 2026-11-21T00:00:00Z
pub(super) const DAY: u32 = 1_795_219_200;

/// A source's records as capture would append them, one second after the other.
#[derive(Debug, Default)]
pub(super) struct Shop {
    pub(super) records: Vec<Vec<u8>>,
    policy: i64,
    /// The cluster time of the next record; counted up by one second each.
    pub(super) second: u32,
}

impl Shop {
    /// A shop whose records go through these plugins.
    pub(super) fn with_plugins(plugins: &[&str]) -> Shop {
        let mut shop = Shop { second: DAY, ..Shop::default() };
        let plugins: Vec<_> =
            plugins.iter().map(|name| doc! {"name": name, "version": "1", "sha256": "ab"}).collect();
        shop.policy = shop.push(doc! {"op": "policy"}, doc! {"detail": {"plugins": plugins}});
        shop
    }

    /// Puts another policy in force.
    pub(super) fn policy(&mut self, detail: Document) {
        self.policy = self.next_seq();
        self.push(doc! {"op": "policy"}, doc! {"detail": detail});
    }

    pub(super) fn next_seq(&self) -> i64 {
        self.records.len() as i64 + 1
    }

    /// Appends a record of these fields around its time, and returns its seq.
    pub(super) fn push(&mut self, head: Document, tail: Document) -> i64 {
        let seq = self.next_seq();
        let mut body = head;
        body.insert("clusterTime", bson::Timestamp { time: self.second, increment: 1 });
        body.extend(tail);
        let body = bson::serialize_to_vec(&body).unwrap();
        let policy = if self.policy == 0 { seq } else { self.policy };
        self.records.push(Record::encode(
            RecordId { partition: None, seq },
            Doc::new(&body).unwrap(),
            policy,
        ));
        self.second += 1;
        seq
    }

    /// Appends a change of one order.
    pub(super) fn change(&mut self, op: &str, id: impl Into<bson::Bson>, rest: Document) -> i64 {
        self.push(doc! {"op": op, "ns": {"db": "shop", "coll": "orders"}, "key": {"_id": id}}, rest)
    }

    /// All records in an archive, a segment ending before each of these seqs.
    pub(super) async fn archive(&self, ends: &[i64]) -> (Archive, TempDir) {
        let folder = TempDir::new().unwrap();
        let archive = Archive::open_url(&format!("file://{}", folder.path().display()), &[]).unwrap();
        let counters = |end: i64| {
            let read = end - 2;
            Some(Counters { read, appended: read, own: 1, ..Counters::default() })
        };
        seal(&archive, &StreamId::whole("shop"), &self.records, ends, counters).await;
        (archive, folder)
    }
}

/// Puts the records of a stream into an archive, a segment ending before each of these seqs.
pub(super) async fn seal(
    archive: &Archive,
    stream: &StreamId,
    records: &[Vec<u8>],
    ends: &[i64],
    counters: impl Fn(i64) -> Option<Counters>,
) {
    let mut previous: Option<Sealed> = None;
    let mut first = 1;
    for end in ends.iter().copied().chain([records.len() as i64 + 1]) {
        let mut builder = SegmentBuilder::new(stream);
        for record in &records[first as usize - 1..end as usize - 1] {
            builder.push(record).unwrap();
        }
        let segment = builder.finish().unwrap();
        assert_eq!(archive.commit(&segment).await.unwrap(), Commit::Done);
        let context = Context {
            log: "log",
            counters: counters(end),
            policy_digest: "ef",
            server: "6.0.5",
            created: "2026-11-21T12:00:00Z".to_owned(),
            previous: previous.as_ref(),
        };
        previous = Some(archive.seal(&Manifest::new(&segment, context)).await.unwrap());
        first = end;
    }
}
