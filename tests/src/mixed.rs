//! An application whose documents have `_id`s of every type, and what a baseline of them must be, whatever happened to them
//! while it was read.

use std::collections::BTreeMap;

use bson::oid::ObjectId;
use bson::spec::BinarySubtype;
use bson::{Binary, Bson, DateTime, Document, RawDocumentBuf, Timestamp, doc};
use mongodb::Collection;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::oplog::{Change, DOCUMENT_OPS};
use crate::record::{must, text, time};

/// An `_id`, as the bytes of `{_id: …}`: NaN is itself, and 1 is not 1.0.
pub type Key = Vec<u8>;

/// A writer on one collection.
#[derive(Debug)]
pub struct Mixed {
    rng: StdRng,
    collection: Collection<Document>,
    live: Vec<Bson>,
    gone: Vec<Bson>,
    fresh: i32,
    /// What every document was after each of its changes, oldest first; `None`: deleted.
    pub states: BTreeMap<Key, Vec<Option<RawDocumentBuf>>>,
}

/// The bytes of `{_id: …}`.
pub fn key(id: &Bson) -> Key {
    bson::serialize_to_vec(&doc! {"_id": id}).expect("an _id can be encoded")
}

/// `_id`s of every type that MongoDB takes, about this many.
pub fn ids(about: i32) -> Vec<Bson> {
    let each = (0..about / 11).flat_map(|n| -> [Bson; 11] {
        let name = format!("{n:05}");
        let binary = |subtype, bytes| Binary { subtype, bytes };
        let uuid = [[7; 12].as_slice(), &n.to_be_bytes()].concat();
        [
            n.into(),
            ((1_i64 << 40) + i64::from(n)).into(),
            (f64::from(n) + 0.5).into(),
            format!("{name} Grüße").into(),
            ObjectId::new().into(),
            binary(BinarySubtype::Uuid, uuid).into(),
            binary(BinarySubtype::Generic, name.into_bytes()).into(),
            DateTime::from_millis(i64::from(n) * 1_000_000 - 50_000_000).into(),
            doc! {"a": n, "b": {"c": "x"}}.into(),
            Timestamp { time: n as u32, increment: 7 }.into(),
            format!("{n}.25").parse::<bson::Decimal128>().expect("a number").into(),
        ]
    });
    let single = [
        Bson::MinKey,
        Bson::MaxKey,
        Bson::Null,
        true.into(),
        false.into(),
        f64::NAN.into(),
        f64::NEG_INFINITY.into(),
        "l".repeat(100_000).into(),
        "".into(),
        doc! {}.into(),
    ];
    each.chain(single).collect()
}

impl Mixed {
    /// A collection with a document for each of these `_id`s.
    pub async fn new(collection: Collection<Document>, ids: Vec<Bson>, seed: u64) -> Mixed {
        let documents: Vec<_> =
            ids.iter().map(|id| doc! {"_id": id, "n": 0, "text": "as it was in the beginning"}).collect();
        for some in documents.chunks(500) {
            collection.insert_many(some).await.expect("insert");
        }
        let raw = |d: &Document| Some(RawDocumentBuf::try_from(d).expect("BSON"));
        let states = documents.iter().map(|d| (key(d.get("_id").expect("_id")), vec![raw(d)])).collect();
        Mixed { rng: StdRng::seed_from_u64(seed), collection, live: ids, gone: Vec::new(), fresh: 0, states }
    }

    /// Makes one change: mostly updates, but documents are deleted and come back, too.
    pub async fn step(&mut self) {
        let id = match self.rng.random_range(0..20) {
            0..=2 if self.live.len() > 10 => {
                let id = self.live.swap_remove(self.rng.random_range(0..self.live.len()));
                self.collection.delete_one(doc! {"_id": &id}).await.expect("delete");
                self.gone.push(id.clone());
                id
            }
            3..=5 if !self.gone.is_empty() => {
                let id = self.gone.swap_remove(self.rng.random_range(0..self.gone.len()));
                self.insert(id).await
            }
            6 => {
                self.fresh += 1;
                let id = format!("fresh {:05}", (self.fresh * 7_919) % 100_000);
                self.insert(id.into()).await
            }
            _ => {
                let id = self.live[self.rng.random_range(0..self.live.len())].clone();
                let value = self.rng.random_range(0..1_000_000_i64);
                let update = doc! {"$inc": {"n": 1}, "$set": {"text": format!("changed {value}")}};
                self.collection.update_one(doc! {"_id": &id}, update).await.expect("update");
                id
            }
        };
        let raw = self.collection.clone_with_type::<RawDocumentBuf>();
        let now = raw.find_one(doc! {"_id": &id}).await.expect("find");
        self.states.entry(key(&id)).or_default().push(now);
    }

    async fn insert(&mut self, id: Bson) -> Bson {
        let n = self.rng.random_range(0..1_000);
        self.collection.insert_one(doc! {"_id": &id, "n": n, "text": "inserted"}).await.expect("insert");
        self.live.push(id.clone());
        id
    }

    /// What a document was at a time; the outer `None`: it had not been there yet.
    pub fn at(
        &self,
        times: &BTreeMap<Key, Vec<Timestamp>>,
        key: &Key,
        at: Timestamp,
    ) -> Option<&RawDocumentBuf> {
        let changes = times.get(key)?.iter().filter(|time| **time <= at).count();
        self.states.get(key)?.get(changes.checked_sub(1)?)?.as_ref()
    }

    /// Panics unless the records are a baseline and a stream of this collection without gap, repeat or untruth: every
    /// document that was there all the time is in the baseline once, and no other more than once; each is byte for byte what
    /// it was at its cluster time; it stands before every later change of it; and every change since the beginning is there
    /// once, in order. Returns how many documents the baseline has.
    #[track_caller]
    pub fn assert_baseline(&self, changes: &[Change], records: &[RawDocumentBuf]) -> usize {
        let times = times(changes);
        let decoded: Vec<Document> =
            records.iter().map(|r| bson::deserialize_from_slice(r.as_bytes()).expect("BSON")).collect();
        let recorded: Vec<&Document> =
            decoded.iter().filter(|r| DOCUMENT_OPS.contains(&text(r, "op"))).collect();
        let missing = changes.len().checked_sub(recorded.len()).expect("no more records than changes");
        for (expected, found) in changes[missing..].iter().zip(&recorded) {
            let found = (text(found, "op"), key(must(found, "key._id")), time(found));
            assert_eq!((expected.op.as_str(), key(&expected.id), expected.time), found);
        }
        let mut read: BTreeMap<Key, Timestamp> = BTreeMap::new();
        let mut last: BTreeMap<Key, Timestamp> = BTreeMap::new();
        for (record, raw) in decoded.iter().zip(records) {
            let Some(id) = crate::record::at(record, "key._id") else { continue };
            let (id, now) = (key(id), time(record));
            if text(record, "op") == "snapshot" {
                let after = raw.get_document("after").expect("a snapshot record has its document");
                let truth = self.at(&times, &id, now);
                let truth = truth.unwrap_or_else(|| panic!("it did not exist then: {record}"));
                assert_eq!(after.as_bytes(), truth.as_bytes(), "not what it was at its time: {record}");
                assert!(last.get(&id) <= Some(&now), "behind a later change of it: {record}");
                assert_eq!(read.insert(id.clone(), now), None, "in the baseline twice: {record}");
            }
            last.entry(id).and_modify(|time| *time = now.max(*time)).or_insert(now);
        }
        let end = read.values().max().copied().expect("a baseline with something in it");
        let begin = changes[..missing].last().map_or(Timestamp { time: 0, increment: 0 }, |c| c.time);
        for id in self.states.keys().filter(|id| self.at(&times, id, begin).is_some()) {
            let stayed = !changes
                .iter()
                .any(|c| c.op == "delete" && c.time > begin && c.time <= end && key(&c.id) == *id);
            assert!(!stayed || read.contains_key(id), "not in the baseline: {id:?}");
        }
        read.len()
    }
}

/// When each document changed, in order.
pub fn times(changes: &[Change]) -> BTreeMap<Key, Vec<Timestamp>> {
    let mut times: BTreeMap<Key, Vec<Timestamp>> = BTreeMap::new();
    for change in changes {
        times.entry(key(&change.id)).or_default().push(change.time);
    }
    times
}
