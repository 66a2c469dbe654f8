//! An application that writes in every way MongoDB knows: several writers at once on shared collections, drawn from one seed.
//!
//! What its writes did is not its business: they may conflict, fail half way, or be taken back by a failover, and the oracle
//! reads the oplog. Each writer's choices are a function of the seed, so that a run can be made again, up to the order in
//! which the writers' operations meet.

mod operations;
mod schema;
mod updates;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bson::{Document, doc};
use mongodb::error::{Error, ErrorKind, WriteFailure};
use mongodb::options::ChangeStreamPreAndPostImages;
use mongodb::{Client, Database};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;

use crate::wait::wait_until;

/// Collections of documents that stay under their names. The last one keeps images.
pub const STEADY: [&str; 3] = ["orders", "items", "imaged"];
/// Collections that are created, dropped and renamed into each other.
pub const RESTLESS: [&str; 3] = ["red", "green", "blue"];
/// The longest pause between two operations of one writer, where nothing else is asked for.
const PAUSE: Duration = Duration::from_millis(8);
/// An open transaction, behind which others wait, ends by itself.
const LIMIT: Duration = Duration::from_secs(120);

/// How often each operation was done, and how often one was refused, by error code.
#[derive(Debug, Default, Clone)]
pub struct Tally {
    /// By the operation's name.
    pub done: BTreeMap<&'static str, u64>,
    /// By what the server, or the driver, said.
    pub refused: BTreeMap<String, u64>,
}

/// A running application.
#[derive(Debug)]
pub struct Application {
    db: Database,
    writers: JoinSet<Tally>,
    stop: Arc<AtomicBool>,
}

impl Application {
    /// Starts writing into a database that was [prepared](prepare), as fast as writers do who pause shortly.
    pub async fn start(client: &Client, database: &str, seed: u64, writers: u64) -> Application {
        Application::start_with_pause(client, database, seed, writers, PAUSE).await
    }

    /// [`Application::start`], with this longest pause between two operations of one writer.
    pub async fn start_with_pause(
        client: &Client,
        database: &str,
        seed: u64,
        writers: u64,
        longest: Duration,
    ) -> Application {
        let db = client.database(database);
        let stop = Arc::new(AtomicBool::new(false));
        let mut running = JoinSet::new();
        for n in 0..writers {
            let mut writer = Writer::new(client, &db, seed.wrapping_add(n));
            let stop = Arc::clone(&stop);
            running.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    writer.step().await;
                    let pause = longest.mul_f64(writer.rng.random_range(0.0..1.0));
                    tokio::time::sleep(pause).await;
                }
                writer.tally
            });
        }
        Application { db, writers: running, stop }
    }

    /// Lets every writer finish what it does, and the server what a writer has not waited for.
    pub async fn stop(self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        let mut sum = Tally::default();
        for tally in self.writers.join_all().await {
            sum.add(&tally);
        }
        finished(&self.db).await;
        println!("{} operations, refused {:?}", sum.done.values().sum::<u64>(), sum.refused);
        sum
    }
}

/// Creates the collection that keeps images, before anybody writes.
pub async fn prepare(db: &Database) {
    let images = ChangeStreamPreAndPostImages::builder().enabled(true).build();
    let created = db.create_collection(STEADY[2]).change_stream_pre_and_post_images(images).await;
    created.expect("a collection can be created");
}

/// Waits until nothing is at work in a database that could still change it: an index build goes on by itself where its
/// primary has stepped down, and what waits for a lock goes on when its client has given up.
pub async fn finished(db: &Database) {
    wait_until("the application's last operations", LIMIT, async || {
        (!is_written(db).await.ok()? && !is_indexed(db).await.ok()?).then_some(())
    })
    .await;
}

/// Whether an operation is at work in a database, other than reads.
async fn is_written(db: &Database) -> mongodb::error::Result<bool> {
    let writes = doc! {
        "active": true,
        "ns": {"$regex": format!("^{}\\.", db.name())},
        "op": {"$nin": ["query", "getmore"]},
    };
    let pipeline = [doc! {"$currentOp": {}}, doc! {"$match": writes}];
    db.client().database("admin").aggregate(pipeline).await?.advance().await
}

/// Whether an index is being built, which the operations of a new primary do not tell.
async fn is_indexed(db: &Database) -> mongodb::error::Result<bool> {
    let building = [
        doc! {"$collStats": {"storageStats": {}}},
        doc! {"$match": {"storageStats.indexBuilds.0": {"$exists": true}}},
    ];
    for name in db.list_collection_names().await? {
        let collection = db.collection::<Document>(&name);
        if collection.aggregate(building.clone()).await?.advance().await? {
            return Ok(true);
        }
    }
    Ok(false)
}

impl Tally {
    fn add(&mut self, other: &Tally) {
        for (name, count) in &other.done {
            *self.done.entry(name).or_default() += count;
        }
        for (name, count) in &other.refused {
            *self.refused.entry(name.clone()).or_default() += count;
        }
    }

    fn note(&mut self, name: &'static str, outcome: Result<(), Error>) {
        match outcome {
            Ok(()) => *self.done.entry(name).or_default() += 1,
            Err(e) => *self.refused.entry(cause(&e)).or_default() += 1,
        }
    }
}

/// What went wrong, without the particulars: MongoDB's name of the error, or the driver's.
fn cause(error: &Error) -> String {
    match error.kind.as_ref() {
        ErrorKind::Command(e) => e.code_name.clone(),
        ErrorKind::Write(WriteFailure::WriteError(e)) => format!("write error {}", e.code),
        ErrorKind::InsertMany(e) => match e.write_errors.as_ref().and_then(|errors| errors.first()) {
            Some(e) => format!("write error {}", e.code),
            None => "write concern error".to_owned(),
        },
        other => format!("{other:?}").split([' ', '(', '{']).next().unwrap_or_default().to_owned(),
    }
}

/// One of the application's writers.
#[derive(Debug)]
pub struct Writer {
    rng: StdRng,
    client: Client,
    db: Database,
    /// What it has done.
    pub tally: Tally,
}

impl Writer {
    /// A writer that has written nothing yet.
    pub fn new(client: &Client, db: &Database, seed: u64) -> Writer {
        let rng = StdRng::seed_from_u64(seed);
        Writer { rng, client: client.clone(), db: db.clone(), tally: Tally::default() }
    }
}
