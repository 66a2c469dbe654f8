//! How long nobody captures when an archiver stops, or dies: from the signal to the first append of the one that goes on.

use std::time::{Duration, Instant};

use anyhow::Result;
use archiver_tests::record::{integer, text};
use archiver_tests::replica_set;
use archiver_tests::tools::signal;
use archiver_tests::{Fixture, Running, Server};
use bson::{Document, doc};
use serde_json::json;

const SOURCES: [&str; 4] = ["ash", "birch", "cedar", "elm"];
/// The shortest that is allowed.
const LEASE_SECONDS: u64 = 2;
const POLL: Duration = Duration::from_millis(2);

/// Stops and kills archivers by turns, and prints a table and JSON.
pub(crate) async fn run(rounds: usize) -> Result<()> {
    let server = Server::own(replica_set::Settings::default()).await;
    let fixture = Fixture::new(&server);
    let sources: String = SOURCES.iter().map(|name| Fixture::source(name, &[name])).collect();
    fixture.configure(&format!("[capture]\nlease_time = \"{LEASE_SECONDS}s\"\n\n{sources}"));
    for name in SOURCES {
        let collection = fixture.collection(name);
        tokio::spawn(async move {
            while collection.insert_one(doc! {"text": "something"}).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
    }
    for (name, how) in [("SIGTERM", "TERM"), ("kill -9", "KILL")] {
        let mut millis = Vec::new();
        let mut running = fixture.start();
        for _ in 0..rounds {
            let next = fixture.start();
            wait_for_both(&fixture, &running, &next).await;
            millis.extend(measure(&fixture, &running, how).await);
            running = next;
        }
        running.terminate().await;
        millis.sort_unstable();
        let (least, median, most) = (millis[0], millis[millis.len() / 2], millis[millis.len() - 1]);
        println!(
            "{name:<8} {} streams handed over: min {least} ms, median {median} ms, max {most} ms",
            millis.len()
        );
        println!(
            "{}",
            json!({"bench": "hand-over", "by": name, "min_ms": least, "median_ms": median, "max_ms": most})
        );
    }
    Ok(())
}

/// Sends the signal; gives the milliseconds until each of the streams that this archiver held is appended to by the other.
async fn measure(fixture: &Fixture, archiver: &Running, how: &str) -> Vec<u128> {
    let held = held_by(fixture, archiver).await;
    let epoch = async |source: &str| integer(&checkpoint(fixture, source).await, "epoch");
    let mut waiting = Vec::new();
    for source in held {
        let before = epoch(&source).await;
        waiting.push((source, before, None));
    }
    let start = Instant::now();
    signal(archiver.pid(), how);
    let mut millis = Vec::new();
    while !waiting.is_empty() {
        let mut left = Vec::new();
        for (source, before, taken_at) in waiting {
            let now = checkpoint(fixture, &source).await;
            let next_seq = integer(&now, "nextSeq");
            match taken_at {
                None if integer(&now, "epoch") > before => left.push((source, before, Some(next_seq))),
                Some(seq) if next_seq > seq => millis.push(start.elapsed().as_millis()),
                other => left.push((source, before, other)),
            }
        }
        waiting = left;
        tokio::time::sleep(POLL).await;
    }
    millis
}

async fn wait_for_both(fixture: &Fixture, first: &Running, second: &Running) {
    let half = SOURCES.len() / 2;
    let holds = async |archiver: &Running| held_by(fixture, archiver).await.len();
    archiver_tests::wait_until("an even spread", Duration::from_secs(60), || async {
        (holds(first).await == half && holds(second).await == half).then_some(())
    })
    .await;
    // Everything that was handed over is being captured.
    for source in SOURCES {
        let before = integer(&checkpoint(fixture, source).await, "nextSeq");
        archiver_tests::wait_until("appends", Duration::from_secs(60), || async {
            (integer(&checkpoint(fixture, source).await, "nextSeq") > before + 5).then_some(())
        })
        .await;
    }
}

async fn held_by(fixture: &Fixture, archiver: &Running) -> Vec<String> {
    let leases = fixture.audit.collection::<Document>("archiver.leases");
    let filter =
        doc! {"_id": {"$in": SOURCES.to_vec()}, "holder": {"$regex": format!(":{}:", archiver.pid())}};
    let mut found = leases.find(filter).await.expect("leases");
    let mut held = Vec::new();
    while found.advance().await.expect("leases") {
        held.push(text(&found.deserialize_current().expect("a lease"), "_id").to_owned());
    }
    held
}

async fn checkpoint(fixture: &Fixture, source: &str) -> Document {
    loop {
        if let Some(checkpoint) = fixture.checkpoint(source).await {
            return checkpoint;
        }
        tokio::time::sleep(POLL).await;
    }
}
