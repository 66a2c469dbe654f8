//! A program of random writes by a seed, in every way that MongoDB has to write, and beside it the truth: what every document was
//! after each of its changes, as the server itself says when it is asked for its past.
//!
//! Shares nothing with the code under test. The oplog says which documents changed when, and a read of the server's snapshot of that
//! very time what they were then; inside of a transaction, its own session reads after each of its writes.

mod writes;

use std::collections::{BTreeMap, VecDeque};

use bson::{Bson, Document, RawDocumentBuf, Timestamp, doc};
use futures_util::TryStreamExt;
use mongodb::{Client, Database};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::oplog::{Change, changes_after};
use crate::updates::Names;

pub use writes::ids;

/// A collection of a program: what may be in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Names of letters.
    Plain,
    /// Numbers for names, too.
    Numbers,
    /// The documents of a `Numbers` collection that was renamed.
    Moved,
    /// And names that hold dots.
    Dotted,
    /// The same, with pre- and post-images.
    Images,
}

/// All of them.
pub const KINDS: [Kind; 5] = [Kind::Plain, Kind::Numbers, Kind::Moved, Kind::Dotted, Kind::Images];

impl Kind {
    /// What the names in its documents may be.
    pub fn names(self) -> Names {
        match self {
            Kind::Plain => Names::Plain,
            Kind::Numbers | Kind::Moved => Names::Numbers,
            Kind::Dotted | Kind::Images => Names::Dotted,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Kind::Plain => "plain",
            Kind::Numbers => "numbers",
            Kind::Moved => "moved",
            Kind::Dotted => "dotted",
            Kind::Images => "images",
        }
    }
}

/// One document: where it is, and the bytes of `{_id: …}`, its `_id` written as [`same`] says.
pub type Key = (Kind, Vec<u8>);

/// What brought a document to what it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// A change of its own.
    Itself,
    /// The end of its collection.
    Drop,
    /// A collection that took its collection's name.
    Replacement,
    /// Its collection's going away, or coming, under another name.
    Rename,
}

/// What a document was from a time on.
#[derive(Debug, Clone)]
pub struct Version {
    /// Since when.
    pub time: Timestamp,
    /// Its bytes; `None`: it was not there.
    pub document: Option<RawDocumentBuf>,
    /// What made it so.
    pub by: By,
}

/// A writer, and the truth of what it has written.
#[derive(Debug)]
pub struct Program {
    seed: u64,
    number: usize,
    rng: StdRng,
    client: Client,
    db: Database,
    ids: Vec<Bson>,
    present: BTreeMap<Key, RawDocumentBuf>,
    /// What every document ever was, oldest first.
    pub versions: BTreeMap<Key, Vec<Version>>,
    /// What its transaction's session read, of changes that the oplog tells next.
    within: BTreeMap<Key, VecDeque<Option<RawDocumentBuf>>>,
    read_until: Timestamp,
    /// Whether the next write meets the documents as they are known.
    is_fit: bool,
    /// What it did last, for whoever looks into a failure.
    pub did: VecDeque<String>,
}

/// An `_id` as it is compared: of numbers that are one `_id` to MongoDB, an integer where it can be one.
pub fn same(id: &Bson) -> Bson {
    match id {
        Bson::Int32(n) => Bson::Int64(i64::from(*n)),
        Bson::Double(n) if (*n as i64) as f64 == *n && n.abs() < 9e15 => Bson::Int64(*n as i64),
        other => other.clone(),
    }
}

/// The bytes of `{_id: …}` by which documents are told apart.
pub fn id_key(id: &Bson) -> Vec<u8> {
    bson::serialize_to_vec(&doc! {"_id": same(id)}).expect("an _id can be encoded")
}

impl Program {
    /// A program of its own seed among others on one database, whose collections are there and empty.
    pub async fn new(client: &Client, db: &Database, seed: u64, number: usize) -> Program {
        let mut rng = StdRng::seed_from_u64(seed);
        let ids = ids(&mut rng);
        let oplog = client.database("local").collection::<RawDocumentBuf>("oplog.rs");
        let program = Program {
            seed,
            number,
            rng,
            client: client.clone(),
            db: db.clone(),
            ids,
            present: BTreeMap::new(),
            versions: BTreeMap::new(),
            within: BTreeMap::new(),
            read_until: Timestamp { time: 0, increment: 0 },
            is_fit: true,
            did: VecDeque::new(),
        };
        for kind in KINDS.into_iter().filter(|kind| *kind != Kind::Moved) {
            program.create(kind).await;
        }
        let newest = oplog.find_one(doc! {}).sort(doc! {"$natural": -1}).await.expect("readable");
        let read_until = newest.expect("an entry").get_timestamp("ts").expect("an oplog entry has a time");
        Program { read_until, ..program }
    }

    async fn create(&self, kind: Kind) {
        let enabled = kind == Kind::Images;
        let images = mongodb::options::ChangeStreamPreAndPostImages::builder().enabled(enabled).build();
        let created = self.db.create_collection(self.collection(kind));
        created.change_stream_pre_and_post_images(images).await.expect("a collection can be created");
    }

    /// Its seed.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The name of its database.
    pub fn db(&self) -> &str {
        self.db.name()
    }

    /// The name of one of its collections.
    pub fn collection(&self, kind: Kind) -> String {
        format!("{}_{}", kind.name(), self.number)
    }

    /// Which of its collections has this name.
    pub fn kind(&self, collection: &str) -> Option<Kind> {
        KINDS.into_iter().find(|kind| self.collection(*kind) == collection)
    }

    /// Writes this many times; behind each the truth is read.
    pub async fn run(&mut self, steps: usize) {
        for _ in 0..steps {
            match self.rng.random_range(0..40) {
                0 => self.rename().await,
                1 => self.drop_moved().await,
                2..5 => self.transaction().await,
                _ => {
                    self.is_fit = true;
                    let (_, command) = self.command();
                    self.note(&command);
                    // Random writes are often refused; what was done before it was is in the oplog.
                    let _ = self.db.run_command(command).await;
                }
            }
            self.read().await;
        }
    }

    fn note(&mut self, what: &impl std::fmt::Display) {
        let mut text = what.to_string();
        if text.len() > 2_000 {
            text = text.chars().take(2_000).collect();
        }
        self.did.push_back(text);
        if self.did.len() > 60 {
            self.did.pop_front();
        }
    }

    /// Some writes in one transaction, which one of four times is given up in the end.
    async fn transaction(&mut self) {
        let mut session = self.client.start_session().await.expect("session");
        session.start_transaction().await.expect("transaction");
        let mut read: Vec<(Key, Option<RawDocumentBuf>)> = Vec::new();
        let mut now = self.present.clone();
        let mut is_whole = true;
        for _ in 0..self.rng.random_range(1..5) {
            self.is_fit = false;
            let (kind, command) = self.command();
            self.note(&format!("in a transaction: {command}"));
            let result = self.db.run_command(command).session(&mut session).await;
            if !result.is_ok_and(|answer| !answer.contains_key("writeErrors")) {
                is_whole = false;
                break;
            }
            let collection = self.db.collection::<RawDocumentBuf>(&self.collection(kind));
            let mut cursor = collection.find(doc! {}).session(&mut session).await.expect("readable");
            let found: Vec<RawDocumentBuf> =
                cursor.stream(&mut session).try_collect().await.expect("readable");
            let found: BTreeMap<Key, RawDocumentBuf> =
                found.into_iter().map(|document| ((kind, id_key(&id_of(&document))), document)).collect();
            let keys: Vec<Key> =
                now.keys().chain(found.keys()).filter(|key| key.0 == kind).cloned().collect();
            for key in keys {
                if now.get(&key) != found.get(&key) {
                    read.push((key.clone(), found.get(&key).cloned()));
                    match found.get(&key) {
                        Some(document) => now.insert(key, document.clone()),
                        None => now.remove(&key),
                    };
                }
            }
        }
        if is_whole && self.rng.random_range(0..4) > 0 {
            session.commit_transaction().await.expect("commit");
            read.into_iter().for_each(|(key, state)| self.within.entry(key).or_default().push_back(state));
        } else {
            let _ = session.abort_transaction().await;
        }
    }

    /// Reads what changed, and what it was then.
    async fn read(&mut self) {
        let prefix = format!("{}.", self.db.name());
        for change in changes_after(&self.client, &prefix, self.read_until).await {
            self.read_until = self.read_until.max(change.time);
            let collection = change.namespace.strip_prefix(&prefix).expect("a namespace of the database");
            let Some(kind) = self.kind(collection) else { continue };
            let key = (kind, id_key(&change.id));
            let document = match self.within.get_mut(&key).and_then(VecDeque::pop_front) {
                Some(read) => read,
                None => self.as_of(collection, &change).await,
            };
            self.is_now(key, document, change.time, By::Itself);
        }
        self.within.retain(|_, states| !states.is_empty());
        assert!(self.within.is_empty(), "a transaction's session read what the oplog does not tell");
    }

    /// What the server had at the time of a change.
    async fn as_of(&self, collection: &str, change: &Change) -> Option<RawDocumentBuf> {
        let command = doc! {
            "find": collection, "filter": {"_id": {"$eq": change.id.clone()}}, "limit": 1,
            "readConcern": {"level": "snapshot", "atClusterTime": change.time},
        };
        let cursor = self.db.run_cursor_command(command).await.expect("the past can be read");
        cursor.with_type::<RawDocumentBuf>().try_next().await.expect("the past can be read")
    }

    fn is_now(&mut self, key: Key, document: Option<RawDocumentBuf>, time: Timestamp, by: By) {
        match &document {
            Some(document) => self.present.insert(key.clone(), document.clone()),
            None => self.present.remove(&key),
        };
        self.versions.entry(key).or_default().push(Version { time, document, by });
    }

    /// `Numbers` goes on as `Moved`, whatever that was; and begins anew.
    async fn rename(&mut self) {
        let [from, to] =
            [Kind::Numbers, Kind::Moved].map(|kind| format!("{}.{}", self.db.name(), self.collection(kind)));
        self.note(&format!("rename {from} to {to}"));
        let command = doc! {"renameCollection": &from, "to": to, "dropTarget": true};
        self.client.database("admin").run_command(command).await.expect("a collection can be renamed");
        let time = self.time_of(doc! {"o.renameCollection": from}).await;
        let replaced = self.take(Kind::Moved);
        let moved = self.take(Kind::Numbers);
        for (id, _) in replaced.into_iter().filter(|(id, _)| !moved.contains_key(id)) {
            self.is_now((Kind::Moved, id), None, time, By::Replacement);
        }
        for (id, document) in moved {
            self.is_now((Kind::Numbers, id.clone()), None, time, By::Rename);
            self.is_now((Kind::Moved, id), Some(document), time, By::Rename);
        }
        self.create(Kind::Numbers).await;
    }

    async fn drop_moved(&mut self) {
        let name = self.collection(Kind::Moved);
        if self.db.list_collection_names().await.expect("listable").contains(&name) {
            self.note(&format!("drop {name}"));
            self.db.collection::<Document>(&name).drop().await.expect("a collection can be dropped");
            let time = self.time_of(doc! {"o.drop": name}).await;
            for (id, _) in self.take(Kind::Moved) {
                self.is_now((Kind::Moved, id), None, time, By::Drop);
            }
        }
    }

    /// When the newest command of this kind happened.
    async fn time_of(&self, filter: Document) -> Timestamp {
        let oplog = self.client.database("local").collection::<RawDocumentBuf>("oplog.rs");
        let mut filter = filter;
        filter.insert("ts", doc! {"$gt": self.read_until});
        filter.insert("ns", format!("{}.$cmd", self.db.name()));
        let entry = oplog.find_one(filter).sort(doc! {"$natural": -1}).await.expect("readable");
        entry.expect("the command is in the oplog").get_timestamp("ts").expect("it has a time")
    }

    fn take(&mut self, kind: Kind) -> BTreeMap<Vec<u8>, RawDocumentBuf> {
        let taken = self.present.iter().filter(|(key, _)| key.0 == kind);
        let taken: BTreeMap<_, _> = taken.map(|(key, document)| (key.1.clone(), document.clone())).collect();
        self.present.retain(|key, _| key.0 != kind);
        taken
    }

    /// Panics unless what was told of every document ends with what is there now.
    pub async fn assert_present(&self) {
        for kind in KINDS {
            let collection = self.db.collection::<RawDocumentBuf>(&self.collection(kind));
            let found: Vec<RawDocumentBuf> =
                collection.find(doc! {}).await.expect("readable").try_collect().await.expect("readable");
            let found: BTreeMap<Key, RawDocumentBuf> =
                found.into_iter().map(|document| ((kind, id_key(&id_of(&document))), document)).collect();
            let known: BTreeMap<Key, RawDocumentBuf> = self
                .present
                .iter()
                .filter(|(key, _)| key.0 == kind)
                .map(|(k, d)| (k.clone(), d.clone()))
                .collect();
            assert_eq!(known, found, "the truth of {kind:?} is not what is there, seed {}", self.seed);
        }
    }
}

/// A document's `_id`.
pub fn id_of(document: &RawDocumentBuf) -> Bson {
    let id = document.get("_id").expect("valid").expect("a stored document has an _id");
    id.try_into().expect("an _id is a value")
}
