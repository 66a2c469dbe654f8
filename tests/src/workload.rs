//! An application that writes: random changes of every shape, drawn from a printed seed, with the truth kept beside.

use std::collections::BTreeMap;

use bson::{Document, RawDocumentBuf, doc};
use mongodb::{Client, Collection};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// A seed: `$ARCHIVER_TEST_SEED`, or a random one; printed, so that a failure can be replayed.
pub fn seed() -> u64 {
    let given = std::env::var("ARCHIVER_TEST_SEED").ok().and_then(|s| s.parse().ok());
    let seed = given.unwrap_or_else(rand::random);
    println!("ARCHIVER_TEST_SEED={seed}");
    seed
}

/// A writer on one collection. Every change makes exactly one event, and counts up the document's field `n`.
#[derive(Debug)]
pub struct Workload {
    rng: StdRng,
    client: Client,
    collection: Collection<Document>,
    next_id: i32,
    live: Vec<i32>,
    /// What every document was after each of its changes, oldest first; `None`: deleted.
    pub states: BTreeMap<i32, Vec<Option<RawDocumentBuf>>>,
    /// How many changes were made.
    pub changes: u64,
}

impl Workload {
    /// A writer that has written nothing yet.
    pub fn new(client: &Client, collection: Collection<Document>, seed: u64) -> Workload {
        Workload {
            rng: StdRng::seed_from_u64(seed),
            client: client.clone(),
            collection,
            next_id: 0,
            live: Vec::new(),
            states: BTreeMap::new(),
            changes: 0,
        }
    }

    /// Makes this many changes, one after the other.
    pub async fn run(&mut self, changes: u64) {
        let end = self.changes + changes;
        while self.changes < end {
            self.step().await;
        }
    }

    /// Makes one change, or some in one transaction.
    pub async fn step(&mut self) {
        let choice = if self.live.len() < 5 { 0 } else { self.rng.random_range(0..20) };
        match choice {
            0..=4 => self.insert().await,
            5..=6 => self.delete().await,
            7 => self.replace().await,
            8 => self.transaction().await,
            _ => self.update().await,
        }
    }

    /// A document that exists.
    pub fn any_live(&mut self) -> i32 {
        self.live[self.rng.random_range(0..self.live.len())]
    }

    async fn insert(&mut self) {
        let id = self.next_id;
        self.next_id += 1;
        let document = self.document(id, 0);
        self.collection.insert_one(document).await.expect("insert");
        self.live.push(id);
        self.changed(id).await;
    }

    async fn delete(&mut self) {
        let id = self.live.swap_remove(self.rng.random_range(0..self.live.len()));
        self.collection.delete_one(doc! {"_id": id}).await.expect("delete");
        self.changed(id).await;
    }

    async fn replace(&mut self) {
        let id = self.any_live();
        let n = self.states[&id].len() as i32;
        let document = self.document(id, n);
        self.collection.replace_one(doc! {"_id": id}, document).await.expect("replace");
        self.changed(id).await;
    }

    async fn update(&mut self) {
        let id = self.any_live();
        let query = doc! {"_id": id};
        let value = self.rng.random_range(0..1_000_000_i64);
        let update = match self.rng.random_range(0..9) {
            0 => doc! {"$set": {"customer.name": format!("Name {value}")}},
            1 => doc! {"$set": {"customer.address": {"city": format!("City {value}"), "zip": value}}},
            2 => doc! {"$push": {"items": {"sku": value, "count": 1_i32}}},
            3 => doc! {"$push": {"tags": {"$each": [value, "x"], "$slice": -3_i32}}},
            4 => doc! {"$unset": {"customer.address": ""}},
            5 => doc! {"$set": {"items": [], "total": value as f64 / 3.0}},
            6 => doc! {"$pop": {"items": -1_i32}, "$set": {"status": format!("s{value}")}},
            7 => doc! {"$rename": {"customer.email": "customer.mail"}, "$currentDate": {"updated": true}},
            _ => return self.pipeline(id, value).await,
        };
        let mut update = update;
        update.insert("$inc", doc! {"n": 1_i32});
        self.collection.update_one(query, update).await.expect("update");
        self.changed(id).await;
    }

    async fn pipeline(&mut self, id: i32, value: i64) {
        let stages = vec![
            doc! {"$set": {"n": {"$add": ["$n", 1_i32]}, "tags": {"$slice": ["$tags", 1_i32]}}},
            doc! {"$set": {"summary": {"$concat": [{"$toString": "$_id"}, "-", {"$literal": value.to_string()}]}}},
        ];
        self.collection.update_one(doc! {"_id": id}, stages).await.expect("pipeline update");
        self.changed(id).await;
    }

    async fn transaction(&mut self) {
        let mut session = self.client.start_session().await.expect("session");
        session.start_transaction().await.expect("transaction");
        let mut ids = vec![self.any_live(), self.any_live()];
        ids.dedup();
        for id in &ids {
            let update = doc! {"$inc": {"n": 1_i32}, "$set": {"paid": true}};
            self.collection.update_one(doc! {"_id": id}, update).session(&mut session).await.expect("update");
        }
        session.commit_transaction().await.expect("commit");
        for id in ids {
            self.changed(id).await;
        }
    }

    /// Reads back what the document is now: the server's word, not ours.
    async fn changed(&mut self, id: i32) {
        let now = self
            .collection
            .clone_with_type::<RawDocumentBuf>()
            .find_one(doc! {"_id": id})
            .await
            .expect("find");
        self.states.entry(id).or_default().push(now);
        self.changes += 1;
    }

    fn document(&mut self, id: i32, n: i32) -> Document {
        let value = self.rng.random_range(0..1_000_000_i64);
        doc! {
            "_id": id,
            "n": n,
            "customer": {"name": format!("Customer {id}"), "email": format!("c{id}@example.org"),
                         "address": {"city": "Oslo", "zip": value}},
            "items": [{"sku": value, "count": 2_i32}, {"sku": 7_i64, "count": 1_i32}],
            "tags": ["a", "b", value],
            "total": value as f64 / 7.0,
            "status": "new",
        }
    }
}
