//! The oracle of the fault tests: everything that happened in one database, with its contents, read from the oplog alone.
//!
//! It shares nothing with the code under test: transactions are put together from their oplog entries, changes are described
//! from the server's own `$v: 2` differences, and what every document was at any time follows from applying those. Wants a
//! server of its own: it reads the entries of every transaction.

mod check;
mod diff;

use std::collections::BTreeMap;

use bson::{Bson, Document, Timestamp, doc};
use futures_util::TryStreamExt;
use mongodb::Client;

pub use check::{Watched, assert_counted, assert_told};
pub use diff::Delta;

/// One event that a change stream of the database must deliver.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// When, in cluster time; for a transaction that of its last oplog entry.
    pub time: Timestamp,
    /// As MongoDB's change events name it.
    pub op: &'static str,
    /// The collection; `None` where it concerns the whole database.
    pub collection: Option<String>,
    /// The document's `_id`.
    pub id: Option<Bson>,
    /// What happened to it.
    pub contents: Contents,
    /// Whether it was part of a transaction.
    pub in_transaction: bool,
}

/// What an event tells beyond its identity.
#[derive(Debug, Clone, PartialEq)]
pub enum Contents {
    /// The document after an insert or a replacement.
    Whole(Document),
    /// The parts that an update changed.
    Parts(Delta),
    /// The collection's new name, in the same database.
    Renamed(String),
    /// Nothing.
    Nothing,
}

/// What one document was after the event of this index; `None`: it was gone.
type Version = (usize, Timestamp, Option<Document>);

/// Everything that happened in one database.
#[derive(Debug, Default)]
pub struct Story {
    /// The database.
    pub database: String,
    /// In the oplog's order.
    pub events: Vec<Event>,
    present: BTreeMap<String, BTreeMap<String, Document>>,
    past: BTreeMap<(String, String), Vec<Version>>,
}

impl Story {
    /// Reads the whole oplog of a server of one's own.
    pub async fn read(client: &Client, database: &str) -> Story {
        let oplog = client.database("local").collection::<Document>("oplog.rs");
        let ours = doc! {"$regex": format!("^{database}\\.")};
        let filter = doc! {"$or": [{"ns": ours}, {"o.applyOps": {"$exists": true}}]};
        let mut entries = oplog.find(filter).sort(doc! {"$natural": 1}).await.expect("the oplog can be read");
        let mut story = Story { database: database.to_owned(), ..Story::default() };
        // The operations of transactions whose last entry has not come yet.
        let mut open: BTreeMap<String, Vec<Bson>> = BTreeMap::new();
        while let Some(entry) = entries.try_next().await.expect("the oplog can be read") {
            let time = entry.get_timestamp("ts").expect("an oplog entry has a time");
            let object = entry.get_document("o").expect("an oplog entry has an object");
            let Ok(operations) = object.get_array("applyOps") else {
                story.tell(time, &entry, false);
                continue;
            };
            let transaction = format!("{:?} {:?}", entry.get("lsid"), entry.get("txnNumber"));
            open.entry(transaction.clone()).or_default().extend(operations.iter().cloned());
            if object.get_bool("partialTxn").unwrap_or(false) {
                continue;
            }
            for operation in open.remove(&transaction).unwrap_or_default() {
                let operation = operation.as_document().expect("an operation is a document");
                story.tell(time, operation, entry.contains_key("txnNumber"));
            }
        }
        // The database began with a collection; a member's oplog begins when it joins.
        assert_eq!(
            story.events.first().map(|event| event.op),
            Some("create"),
            "the oplog has lost its beginning"
        );
        assert!(open.is_empty(), "transactions without an end: {:?}", open.keys());
        story
    }

    fn tell(&mut self, time: Timestamp, entry: &Document, in_transaction: bool) {
        let namespace = entry.get_str("ns").unwrap_or_default();
        let Some(collection) = namespace.strip_prefix(&format!("{}.", self.database)) else { return };
        let object = entry.get_document("o").expect("an oplog entry has an object");
        let id_of = |field: &str| entry.get_document(field).ok()?.get("_id").cloned();
        let collection = collection.to_owned();
        let (op, id, contents) = match entry.get_str("op").expect("an oplog entry has an operation") {
            "i" => ("insert", id_of("o"), Contents::Whole(object.clone())),
            "d" => ("delete", id_of("o"), Contents::Nothing),
            "u" if object.contains_key("$v") => {
                let difference = object.get_document("diff").expect("an update has a difference");
                ("update", id_of("o2"), Contents::Parts(Delta::of(difference)))
            }
            "u" => ("replace", id_of("o2"), Contents::Whole(object.clone())),
            "c" => return self.tell_command(time, object, in_transaction),
            _ => return,
        };
        let id = id.expect("a change of a document has its _id");
        let difference = object.get_document("diff").ok();
        self.change(&collection, &id, time, &contents, difference);
        self.push(Event { time, op, collection: Some(collection), id: Some(id), contents, in_transaction });
    }

    fn tell_command(&mut self, time: Timestamp, object: &Document, in_transaction: bool) {
        let (command, value) = object.iter().next().expect("a command has a name");
        let collection = value.as_str().map(str::to_owned);
        let mut contents = Contents::Nothing;
        let (op, collection) = match command.as_str() {
            "create" => ("create", collection),
            "createIndexes" | "commitIndexBuild" => ("createIndexes", collection),
            "dropIndexes" | "deleteIndexes" => ("dropIndexes", collection),
            "collMod" => ("modify", collection),
            "drop" => {
                self.clear(collection.as_deref().expect("a name"), time);
                ("drop", collection)
            }
            "renameCollection" => {
                let name = |namespace: &str| namespace.split_once('.').expect("a namespace").1.to_owned();
                let from = name(value.as_str().expect("a namespace"));
                let to = name(object.get_str("to").expect("a namespace"));
                self.rename(&from, &to, time);
                contents = Contents::Renamed(to);
                ("rename", Some(from))
            }
            "dropDatabase" => ("dropDatabase", None),
            "startIndexBuild" | "abortIndexBuild" => return,
            other => panic!("the oracle does not know the command {other}"),
        };
        self.push(Event { time, op, collection, id: None, contents, in_transaction });
    }

    fn push(&mut self, event: Event) {
        self.events.push(event);
    }

    fn change(
        &mut self,
        collection: &str,
        id: &Bson,
        time: Timestamp,
        contents: &Contents,
        diff: Option<&Document>,
    ) {
        let key = id.to_string();
        let documents = self.present.entry(collection.to_owned()).or_default();
        let now = match contents {
            Contents::Whole(document) => Some(document.clone()),
            Contents::Parts(_) => {
                let before = documents.get(&key).expect("only what exists is updated");
                Some(diff::apply(before, diff.expect("an update has a difference")))
            }
            _ => None,
        };
        match &now {
            Some(document) => documents.insert(key.clone(), document.clone()),
            None => documents.remove(&key),
        };
        self.past.entry((collection.to_owned(), key)).or_default().push((self.events.len(), time, now));
    }

    /// Every document of a collection is gone, without events of its own.
    fn clear(&mut self, collection: &str, time: Timestamp) -> BTreeMap<String, Document> {
        let documents = self.present.remove(collection).unwrap_or_default();
        for key in documents.keys() {
            let past = self.past.entry((collection.to_owned(), key.clone())).or_default();
            past.push((self.events.len(), time, None));
        }
        documents
    }

    fn rename(&mut self, from: &str, to: &str, time: Timestamp) {
        self.clear(to, time);
        let documents = self.clear(from, time);
        for (key, document) in &documents {
            let past = self.past.entry((to.to_owned(), key.clone())).or_default();
            past.push((self.events.len(), time, Some(document.clone())));
        }
        self.present.insert(to.to_owned(), documents);
    }

    /// The events that a source delivers.
    pub fn watched<'a>(&'a self, watched: Watched<'a>) -> impl Iterator<Item = &'a Event> {
        self.events.iter().filter(move |event| watched.covers(event))
    }

    /// What a document was at a time, that time's changes included.
    pub fn state_at(&self, collection: &str, id: &Bson, time: Timestamp) -> Option<&Document> {
        self.last_version(collection, id, |version| version.1 <= time)
    }

    /// What a document was before and after the event of this index.
    pub fn states_around(&self, event: usize) -> (Option<&Document>, Option<&Document>) {
        let Event { collection: Some(collection), id: Some(id), .. } = &self.events[event] else {
            return (None, None);
        };
        (
            self.last_version(collection, id, |version| version.0 < event),
            self.last_version(collection, id, |version| version.0 <= event),
        )
    }

    fn last_version(
        &self,
        collection: &str,
        id: &Bson,
        seen: impl Fn(&Version) -> bool,
    ) -> Option<&Document> {
        let past = self.past.get(&(collection.to_owned(), id.to_string()))?;
        past.iter().rfind(|version| seen(version))?.2.as_ref()
    }

    /// The documents that are there in the end: collection and `_id` as text.
    pub fn present(&self) -> impl Iterator<Item = (&str, &str, &Document)> {
        self.present.iter().flat_map(|(collection, documents)| {
            documents.iter().map(|(key, document)| (collection.as_str(), key.as_str(), document))
        })
    }
}
