//! What one writer does to documents: one at a time, many at once, and in transactions.

use bson::oid::ObjectId;
use bson::{Bson, Document, doc};
use mongodb::error::Error;
use mongodb::options::{ReturnDocument, UpdateModifications};
use mongodb::{ClientSession, Collection};
use rand::RngExt;

use super::updates::{self, Update};
use super::{RESTLESS, STEADY, Writer};

/// Documents of one collection have one of this many `_id`s, so that they are deleted and inserted again all the time.
const IDS: u32 = 48;
/// Operations of a large transaction: several oplog entries, on a server with a bound on the operations of one.
const LARGE: u32 = 14;

impl Writer {
    /// One operation, whatever becomes of it.
    pub async fn step(&mut self) {
        let choice = self.rng.random_range(0..100);
        // A server that is gone must not hold up the rest.
        let step = async {
            match choice {
                0..=4 => self.change_schema().await,
                5..=14 => self.transaction().await,
                _ => {
                    let (name, outcome) = self.change_documents(choice).await;
                    self.tally.note(name, outcome);
                }
            }
        };
        if tokio::time::timeout(Writer::LIMIT, step).await.is_err() {
            *self.tally.refused.entry("timeout".to_owned()).or_default() += 1;
        }
    }

    async fn change_documents(&mut self, choice: u32) -> (&'static str, Result<(), Error>) {
        match choice {
            15..=29 => self.insert().await,
            30..=37 => self.insert_many().await,
            38..=45 => self.delete().await,
            46..=49 => self.replace().await,
            50..=55 => self.find_and_modify().await,
            56..=59 => self.bulk().await,
            60..=62 => self.update_many().await,
            63 => self.delete_many().await,
            64..=65 => self.merge().await,
            _ => self.update().await,
        }
    }

    fn collection(&mut self) -> Collection<Document> {
        let names = if self.rng.random_bool(0.75) { STEADY } else { RESTLESS };
        self.db.collection(names[self.rng.random_range(0..names.len())])
    }

    /// One of the few `_id`s, of every type that applications use.
    fn id(&mut self) -> Bson {
        let n = self.rng.random_range(0..IDS);
        match n % 6 {
            0 => format!("id-{n}").into(),
            1 => ObjectId::from_bytes([n as u8; 12]).into(),
            2 => doc! {"shop": n, "no": "x"}.into(),
            3 => i64::from(n).into(),
            _ => (n as i32).into(),
        }
    }

    fn document(&mut self) -> Document {
        let mut document = doc! {"_id": self.id()};
        document.extend(updates::fields(&mut self.rng));
        document
    }

    async fn insert(&mut self) -> (&'static str, Result<(), Error>) {
        let (collection, document) = (self.collection(), self.document());
        ("insert", collection.insert_one(document).await.map(drop))
    }

    async fn insert_many(&mut self) -> (&'static str, Result<(), Error>) {
        let collection = self.collection();
        let documents: Vec<_> = (0..5).map(|_| self.document()).collect();
        ("insert many", collection.insert_many(documents).ordered(false).await.map(drop))
    }

    async fn delete(&mut self) -> (&'static str, Result<(), Error>) {
        let (collection, id) = (self.collection(), self.id());
        if self.rng.random_bool(0.5) {
            return ("delete", collection.delete_one(doc! {"_id": id}).await.map(drop));
        }
        let mut document = doc! {"_id": &id};
        document.extend(updates::fields(&mut self.rng));
        let both = async {
            collection.delete_one(doc! {"_id": id}).await?;
            collection.insert_one(document).await
        };
        ("delete and insert", both.await.map(drop))
    }

    async fn replace(&mut self) -> (&'static str, Result<(), Error>) {
        let (collection, id, upsert) = (self.collection(), self.id(), self.rng.random_bool(0.5));
        let fields = updates::fields(&mut self.rng);
        let replaced = collection.replace_one(doc! {"_id": id}, fields).upsert(upsert).await;
        (if upsert { "replace or insert" } else { "replace" }, replaced.map(drop))
    }

    fn random_update(&mut self) -> (Document, Update) {
        let update = updates::random(&mut self.rng);
        let mut filter = doc! {"_id": self.id()};
        filter.extend(update.wanted.clone());
        (filter, update)
    }

    async fn update(&mut self) -> (&'static str, Result<(), Error>) {
        let collection = self.collection();
        if self.rng.random_bool(0.1) {
            let (id, fields) = (self.id(), updates::fields(&mut self.rng));
            let change = doc! {"$setOnInsert": fields, "$set": {"touched": true}};
            return ("upsert", collection.update_one(doc! {"_id": id}, change).upsert(true).await.map(drop));
        }
        let (filter, update) = self.random_update();
        let mut action = collection.update_one(filter, update.change);
        if let Some(filters) = update.array_filters {
            action = action.array_filters(filters);
        }
        (update.name, action.await.map(drop))
    }

    async fn find_and_modify(&mut self) -> (&'static str, Result<(), Error>) {
        let (collection, id) = (self.collection(), doc! {"_id": self.id()});
        match self.rng.random_range(0..3) {
            0 => ("find and delete", collection.find_one_and_delete(id).await.map(drop)),
            1 => {
                let fields = updates::fields(&mut self.rng);
                ("find and replace", collection.find_one_and_replace(id, fields).await.map(drop))
            }
            _ => {
                let change = doc! {"$inc": {"n": 1_i32}, "$push": {"items": {"sku": 3_i64, "count": 1_i32}}};
                let after = ReturnDocument::After;
                (
                    "find and update",
                    collection.find_one_and_update(id, change).return_document(after).await.map(drop),
                )
            }
        }
    }

    /// Several different updates and deletes in two commands.
    async fn bulk(&mut self) -> (&'static str, Result<(), Error>) {
        let name = self.collection().name().to_owned();
        let mut updates = Vec::new();
        for _ in 0..4 {
            let (filter, update) = self.random_update();
            let change: Bson = match update.change {
                UpdateModifications::Document(change) => change.into(),
                UpdateModifications::Pipeline(stages) => stages.into(),
                other => panic!("a new kind of update: {other:?}"),
            };
            let mut statement = doc! {"q": filter, "u": change};
            if let Some(filters) = update.array_filters {
                statement.insert("arrayFilters", filters);
            }
            updates.push(statement);
        }
        let deletes = vec![
            doc! {"q": {"_id": self.id()}, "limit": 1_i32},
            doc! {"q": {"_id": self.id()}, "limit": 1_i32},
        ];
        let both = async {
            self.db.run_command(doc! {"update": &name, "updates": updates, "ordered": false}).await?;
            self.db.run_command(doc! {"delete": &name, "deletes": deletes}).await
        };
        ("bulk write", both.await.map(drop))
    }

    async fn update_many(&mut self) -> (&'static str, Result<(), Error>) {
        let (collection, low) = (self.collection(), self.rng.random_range(0..10_i32));
        let filter = doc! {"flags": {"$gte": low, "$lt": low + 6}};
        ("update many", collection.update_many(filter, doc! {"$inc": {"n": 1_i32}}).await.map(drop))
    }

    async fn delete_many(&mut self) -> (&'static str, Result<(), Error>) {
        let (collection, low) = (self.collection(), self.rng.random_range(0..14_i32));
        ("delete many", collection.delete_many(doc! {"flags": {"$in": [low, low + 1]}}).await.map(drop))
    }

    async fn merge(&mut self) -> (&'static str, Result<(), Error>) {
        let (from, low) = (self.collection(), self.rng.random_range(0..10_i32));
        let into = doc! {"into": "items", "whenMatched": "merge", "whenNotMatched": "insert"};
        let stages = vec![doc! {"$match": {"flags": {"$gte": low, "$lt": low + 2}}}, doc! {"$merge": into}];
        let merged = async { from.aggregate(stages).await?.advance().await };
        ("$merge", merged.await.map(drop))
    }

    async fn transaction(&mut self) {
        let (name, operations, commit) = match self.rng.random_range(0..10) {
            0 | 1 => ("aborted transaction", 4, false),
            2 | 3 => ("large transaction", LARGE, true),
            4 => ("large aborted transaction", LARGE, false),
            _ => ("transaction", self.rng.random_range(1..5), true),
        };
        let outcome = self.run_transaction(operations, commit).await;
        self.tally.note(name, outcome);
    }

    async fn run_transaction(&mut self, operations: u32, commit: bool) -> Result<(), Error> {
        let mut session = self.client.start_session().await?;
        session.start_transaction().await?;
        for _ in 0..operations {
            let done = self.in_transaction(&mut session).await;
            if done.is_err() || self.rng.random_bool(0.02) {
                session.abort_transaction().await?;
                return done;
            }
        }
        if commit { session.commit_transaction().await } else { session.abort_transaction().await }
    }

    async fn in_transaction(&mut self, session: &mut ClientSession) -> Result<(), Error> {
        let collection: Collection<Document> =
            self.db.collection(STEADY[self.rng.random_range(0..STEADY.len())]);
        match self.rng.random_range(0..6) {
            // Inserted at most once: a duplicate key ends a transaction.
            0 | 1 => {
                let mut document = doc! {"_id": ObjectId::from_bytes(self.rng.random())};
                document.extend(updates::fields(&mut self.rng));
                collection.insert_one(document).session(session).await.map(drop)
            }
            2 => collection.delete_one(doc! {"_id": self.id()}).session(session).await.map(drop),
            3 => {
                let (id, fields) = (self.id(), updates::fields(&mut self.rng));
                collection.replace_one(doc! {"_id": id}, fields).session(session).await.map(drop)
            }
            _ => {
                let (filter, update) = self.random_update();
                let mut action = collection.update_one(filter, update.change);
                if let Some(filters) = update.array_filters {
                    action = action.array_filters(filters);
                }
                action.session(session).await.map(drop)
            }
        }
    }
}
