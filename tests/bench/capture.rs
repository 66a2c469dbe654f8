//! Capture from end to end: change stream, plugin, audit log; events per second over the whole of a backlog, and the memory
//! it takes.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use archiver_tests::record::integer;
use archiver_tests::replica_set;
use archiver_tests::{Fixture, Server};
use bson::{Document, RawDocumentBuf, Timestamp, doc};
use futures_util::TryStreamExt;
use serde_json::json;

use crate::process::peak_memory;
use crate::spread::Spread;
use crate::{bare, oplog_megabytes};

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    pub(crate) events: usize,
    pub(crate) rounds: usize,
    /// Where segments are cut: with more than the backlog in one, capture is measured without the rolling beside it.
    pub(crate) segment_mebibytes: usize,
}

/// Ten rules of every kind; five find something in the documents below.
const RULES: &str = r#"
    { path = "card.number", action = "mask", keep_last = 4 },
    { path = "card.cvc", action = "remove" },
    { path = "customer.email", action = "replace", value = "[redacted]" },
    { path = "customer.address.street", action = "remove" },
    { path = "**.phone", action = "remove" },
    { path = "**.ssn", action = "mask", keep_last = 4 },
    { path = "lines.note", action = "remove" },
    { path = "history.*.ip", action = "remove" },
    { path = "session.token", action = "remove" },
    { path = "**.iban", action = "mask", keep_last = 4 }"#;

/// Events after which the rate is taken: so that it shows whether it stays the same over a long backlog.
const SLICE: usize = 100_000;

/// One measurement of Archiver.
#[derive(Debug)]
struct Capture {
    events_per_second: f64,
    peak_megabytes: f64,
    /// Events per second of each slice.
    slices: Vec<f64>,
    /// The first ones.
    records: Vec<RawDocumentBuf>,
}

/// Takes turns, and prints a table and JSON.
pub(crate) async fn run(settings: Settings) -> Result<()> {
    let server = replica_set::Settings {
        oplog_megabytes: oplog_megabytes(settings.events, settings.rounds),
        cache_megabytes: 2_048,
        ..Default::default()
    };
    let server = Server::own(server).await;
    let first = Fixture::new(&server);
    // Before anybody watches: its creation would be one event more.
    first.db.create_collection("events").await?;
    let mut fixtures = Vec::new();
    for _ in 0..settings.rounds {
        let fixture = first.second(&server);
        fixture.configure(&configuration(settings.segment_mebibytes));
        fixture.run_once().await;
        fixtures.push(fixture);
    }
    let start = fill(&first, "events", settings.events).await?;
    println!(
        "{} events of about 1 KB, {} rounds, taking turns on one mongod\n",
        settings.events, settings.rounds
    );
    println!(
        "{:>5}  {:>16}  {:>12}  {:>5}  {:>12}  slices of {}: min / median / max",
        "round",
        "archiver events/s",
        "bare events/s",
        "ratio",
        "peak memory",
        slice(settings.events)
    );
    let mut rounds = Vec::new();
    for (n, fixture) in (1..).zip(&fixtures) {
        let capture = measure(fixture, settings.events).await?;
        let records = &capture.records;
        let took =
            bare::drain_and_insert(server.client(), start, first.db.name(), records, settings.events).await?;
        let bare = settings.events as f64 / took.as_secs_f64();
        let ratio = capture.events_per_second / bare;
        let (ours, peak) = (capture.events_per_second, capture.peak_megabytes);
        let slices = Spread::of(capture.slices.iter().copied());
        println!("{n:>5}  {ours:>17.0}  {bare:>13.0}  {ratio:>5.2}  {peak:>9.0} MB  {slices:.0}");
        rounds.push((
            ratio,
            json!({"archiver": ours, "bare": bare, "ratio": ratio, "peak_megabytes": peak, "slices": capture.slices}),
        ));
        fixture.audit.drop().await?;
    }
    let ratios = Spread::of(rounds.iter().map(|(ratio, _)| *ratio));
    let median = ratios.median();
    println!("\nratio: min / median / max {ratios} (goal: 0.9; memory under 300 MB)\n");
    let rounds: Vec<_> = rounds.into_iter().map(|(_, json)| json).collect();
    println!(
        "{}",
        json!({"bench": "capture", "events": settings.events, "median_ratio": median, "rounds": rounds})
    );
    Ok(())
}

fn configuration(segment_mebibytes: usize) -> String {
    let archive =
        format!("[archive]\nurl = \"{{archive}}\"\nsegment_max_bytes = \"{segment_mebibytes}MiB\"\n\n");
    let source = "[[source]]\nname = \"events\"\nwatch = [\"{db}.events\"]\nplugins = [\"redact\"]\nsnapshot = \"never\"\n";
    archive + &Fixture::redact("redact", RULES) + source
}

/// Writes the backlog; gives the time from which on the stream has all of it.
pub(crate) async fn fill(fixture: &Fixture, collection: &str, events: usize) -> Result<Timestamp> {
    let hello = fixture.db.run_command(doc! {"hello": 1}).await?;
    let time = hello.get_timestamp("operationTime").context("the server's time")?;
    let ids: Vec<i32> = (0..i32::try_from(events)?).collect();
    for chunk in ids.chunks(1_000) {
        fixture.collection(collection).insert_many(chunk.iter().map(|n| document(*n))).await?;
    }
    Ok(time)
}

/// Runs `archiver run` until the backlog is in the audit log. The clock starts with the first batch: starting up and
/// compiling the plugin happen once in a service's life, and have no counterpart in the bare program.
async fn measure(fixture: &Fixture, events: usize) -> Result<Capture> {
    let mut archiver = fixture.start();
    let launched = Instant::now();
    let mut begun = None;
    let mut slices = Vec::new();
    let mut slice_begun = None;
    let (read, elapsed) = loop {
        let checkpoint = fixture.checkpoint("events").await.context("a checkpoint")?;
        let read = integer(&checkpoint, "counters.read");
        if read > 0 && begun.is_none() {
            begun = Some((read, Instant::now()));
            slice_begun = begun;
        }
        if let Some((first, at)) = slice_begun.filter(|(first, _)| (read - first) as usize >= slice(events)) {
            slices.push((read - first) as f64 / at.elapsed().as_secs_f64());
            slice_begun = Some((read, Instant::now()));
        }
        if let Some((first, at)) = begun.filter(|_| read as usize >= events) {
            break (read - first, at.elapsed());
        }
        ensure!(archiver.is_alive(), "archiver ended\n{}", archiver.stderr());
        ensure!(launched.elapsed() < patience(events), "archiver is stuck\n{}", archiver.stderr());
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    let peak_megabytes = peak_memory(archiver.pid())?;
    archiver.terminate().await.expect_code(0);
    let log = fixture.audit.collection::<RawDocumentBuf>("events");
    let made = log.count_documents(doc! {"op": "insert"}).await?;
    ensure!(made as usize == events, "{events} events made {made} records");
    let first = log.find(doc! {"op": "insert"}).sort(doc! {"_id": 1}).limit(bare::SAMPLE as i64);
    let records = first.await?.try_collect().await?;
    Ok(Capture { events_per_second: read as f64 / elapsed.as_secs_f64(), peak_megabytes, slices, records })
}

/// Events in one slice of a backlog: at least four to one.
fn slice(events: usize) -> usize {
    SLICE.min(events / 4).max(1)
}

/// How long a backlog may take before something must be wrong.
pub(crate) fn patience(events: usize) -> Duration {
    Duration::from_secs(600 + events as u64 / 500)
}

/// A document of about 1 KB.
pub(crate) fn document(n: i32) -> Document {
    let lines: Vec<_> = (0..4)
        .map(|i| doc! {"sku": format!("SKU-{n}-{i}"), "count": i, "price": f64::from(n % 1000) / 7.0, "note": "gift"})
        .collect();
    doc! {
        "_id": n,
        "customer": {"name": format!("Customer {n}"), "email": format!("customer{n}@example.org"),
            "phone": format!("+47 {n:08}"), "address": {"street": format!("Storgata {n}"), "city": "Oslo", "zip": "0150"}},
        "card": {"brand": "visa", "number": format!("{:016}", i64::from(n) * 7_919), "cvc": "123", "expires": "12/29"},
        "lines": lines,
        "status": "new",
        "placed": bson::DateTime::from_millis(1_790_000_000_000 + i64::from(n)),
        "total": f64::from(n) / 3.0,
        "flags": [true, false, true],
        "text": "x".repeat(330),
    }
}
