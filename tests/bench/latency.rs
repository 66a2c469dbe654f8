//! From the acknowledged write to the record: at a steady rate, with what a bare change stream needs beside it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use archiver_tests::record::must;
use archiver_tests::{Fixture, Server, replica_set, wait_until};
use bson::{Document, RawDocumentBuf, doc};
use futures_util::TryStreamExt;
use mongodb::options::ReadConcern;
use serde_json::json;

use crate::capture::document;
use crate::spread::Spread;

const RATES: [usize; 2] = [1_000, 5_000];
/// How often documents are written, and how often the log is looked at.
const TICK: Duration = Duration::from_millis(10);
const POLL: Duration = Duration::from_millis(1);
const START: Duration = Duration::from_secs(60);

/// When something happened to a document, by its `_id`.
type Times = HashMap<i32, Instant>;

pub(crate) async fn run(seconds: usize) -> Result<()> {
    let server = Server::own(replica_set::Settings { oplog_megabytes: 2_048, ..Default::default() }).await;
    println!("{seconds} s at each rate, milliseconds from the acknowledged write\n");
    println!("{:>8}  {:>30}  {:>30}", "events/s", "record: p50 / p99 / max", "bare stream: p50 / p99 / max");
    let mut results = Vec::new();
    for rate in RATES {
        let (records, bare, achieved) = measure(&server, rate, seconds).await?;
        let shown = |s: &Spread| format!("{:.1} / {:.1} / {:.1}", s.median(), s.at(0.99), s.at(1.0));
        println!("{achieved:>8.0}  {:>30}  {:>30}", shown(&records), shown(&bare));
        let figures = |s: &Spread| json!({"p50": s.median(), "p99": s.at(0.99), "max": s.at(1.0)});
        results.push(
            json!({"rate": rate, "achieved": achieved, "record": figures(&records), "bare": figures(&bare)}),
        );
    }
    println!("\n{}", json!({"bench": "latency", "seconds": seconds, "results": results}));
    Ok(())
}

async fn measure(server: &Server, rate: usize, seconds: usize) -> Result<(Spread, Spread, f64)> {
    let fixture = Fixture::new(server);
    let events = fixture.collection("events");
    fixture.db.create_collection("events").await?;
    fixture.configure("[[source]]\nname = \"events\"\nwatch = [\"{db}.events\"]\nsnapshot = \"never\"\n");
    fixture.run_once().await;
    let mut archiver = fixture.start();
    // Starting up happens once in a service's life.
    events.insert_one(document(-1)).await?;
    let log = fixture.audit.collection::<Document>("events");
    wait_until("the first record", START, async || log.find_one(doc! {"op": "insert"}).await.ok()?).await;
    let bare = Arc::new(Mutex::new(Times::new()));
    let stream = events.watch().await?.with_type::<RawDocumentBuf>();
    let watching = tokio::spawn(watch(stream, Arc::clone(&bare)));
    let total = (rate * seconds) as i32;
    let polling = tokio::spawn(poll(fixture.audit.clone(), total));
    let each = rate * TICK.as_millis() as usize / 1_000;
    let mut written = Times::new();
    let mut ticks = tokio::time::interval(TICK);
    let begun = Instant::now();
    for first in (0..total).step_by(each) {
        ticks.tick().await;
        let ids = first..(first + each as i32).min(total);
        events.insert_many(ids.clone().map(document)).await?;
        let now = Instant::now();
        written.extend(ids.map(|id| (id, now)));
    }
    let achieved = f64::from(total) / begun.elapsed().as_secs_f64();
    let recorded = polling.await??;
    ensure!(archiver.is_alive(), "archiver ended\n{}", archiver.stderr());
    archiver.terminate().await.expect_code(0);
    watching.abort();
    let bare = bare.lock().map_err(|_| anyhow::anyhow!("the stream's task panicked"))?;
    let since = |seen: &Times| {
        let wait = |(id, at): (&i32, &Instant)| {
            Some(at.saturating_duration_since(*written.get(id)?).as_secs_f64() * 1e3)
        };
        Spread::of(seen.iter().filter_map(wait))
    };
    Ok((since(&recorded), since(&bare), achieved))
}

async fn watch(
    mut stream: mongodb::change_stream::ChangeStream<RawDocumentBuf>,
    seen: Arc<Mutex<Times>>,
) -> Result<()> {
    while let Some(event) = stream.try_next().await? {
        let now = Instant::now();
        let id = event.get_document("documentKey")?.get_i32("_id")?;
        if let Ok(mut seen) = seen.lock() {
            seen.insert(id, now);
        }
    }
    Ok(())
}

/// Looks at the audit collection until it has this many inserts.
async fn poll(audit: mongodb::Database, total: i32) -> Result<Times> {
    let log = audit.collection::<Document>("events");
    let mut seen = Times::new();
    let mut last = 0_i64;
    let mut quiet = Instant::now();
    while seen.len() < total as usize {
        let new = log
            .find(doc! {"_id": {"$gt": last}})
            .sort(doc! {"_id": 1})
            .projection(doc! {"op": 1, "key": 1})
            .read_concern(ReadConcern::majority());
        let new: Vec<Document> = new.await?.try_collect().await?;
        let now = Instant::now();
        for record in &new {
            last = record.get_i64("_id").context("a seq")?;
            if record.get_str("op").is_ok_and(|op| op == "insert") {
                let id = must(record, "key._id").as_i32().context("an _id")?;
                // The first one was not measured.
                if id >= 0 {
                    seen.insert(id, now);
                }
            }
            quiet = now;
        }
        ensure!(quiet.elapsed() < Duration::from_secs(60), "no more records");
        tokio::time::sleep(POLL).await;
    }
    Ok(seen)
}
