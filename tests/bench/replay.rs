//! How fast history is played again: from segments as change events, and into MongoDB, beside a bare insert_many of the same documents.

use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Result, ensure};
use archiver::archive::manifest::Sealed;
use archiver::archive::segment::SegmentBuilder;
use archiver::archive::store::Archive;
use archiver::stream_id::StreamId;
use archiver_tests::{Fixture, Server, replica_set, tools};
use bson::{Document, RawDocumentBuf, doc};
use mongodb::options::{Acknowledgment, CollectionOptions, WriteConcern};

use crate::chain;
use crate::process::peak_memory;
use crate::roll::History;
use crate::spread::Spread;

const SEGMENT_RECORDS: usize = 100_000;
/// Documents in one insert_many: what a replay hands to each of its four writers.
const BATCH: usize = 1_250;

/// Measures histories of so many records: of inserts alone, and of eight changes to each document, with images and by deltas.
pub(crate) async fn run(records: usize, rounds: usize) -> Result<()> {
    let settings =
        replica_set::Settings { oplog_megabytes: 4_096, cache_megabytes: 2_048, ..Default::default() };
    let server = Server::own(settings).await;
    println!(
        "{records} records of documents of about 1 KB; least / median / most of {rounds} rounds, in events/s\n"
    );
    let inserts = world(&server, records, 0, true).await?;
    let mut ratios = Vec::new();
    let (mut bare_rates, mut rates, mut printed) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        printed.push(ndjson(&inserts, records).await?);
        let bare = insert_many(&server, &inserts.documents).await?;
        let replayed = into(&inserts, &format!("inserts{round}"), records).await?;
        ratios.push(replayed / bare);
        bare_rates.push(bare);
        rates.push(replayed);
    }
    println!("inserts to NDJSON             {:.0}", Spread::of(printed));
    println!("inserts into MongoDB          {:.0}", Spread::of(rates));
    println!(
        "the same by bare insert_many  {:.0}; replay reaches {:.2} of it",
        Spread::of(bare_rates),
        Spread::of(ratios)
    );
    for (name, images) in [("with images", true), ("by deltas  ", false)] {
        let changes = world(&server, records, 8, images).await?;
        let (mut rates, mut printed) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            printed.push(ndjson(&changes, records).await?);
            rates.push(into(&changes, &format!("changes{round}"), records).await?);
        }
        println!(
            "changes {name} to NDJSON {:.0}; into MongoDB {:.0}",
            Spread::of(printed),
            Spread::of(rates)
        );
    }
    Ok(())
}

/// An archive, and a configuration that names it.
struct World {
    fixture: Fixture,
    /// Those that were inserted.
    documents: Vec<RawDocumentBuf>,
}

async fn world(server: &Server, records: usize, changes: usize, images: bool) -> Result<World> {
    let fixture = Fixture::new(server);
    fixture.configure("[[source]]\nname = \"bench\"\nwatch = [\"shop.orders\"]\n");
    std::fs::create_dir_all(fixture.archive())?;
    let archive = Archive::open_url(&fixture.archive_url(), &[])?;
    let mut history = History::new(1_000, changes);
    let mut documents = Vec::new();
    let mut last: Option<Sealed> = None;
    let mut left = records;
    while left > 0 {
        let mut builder = SegmentBuilder::new(&StreamId::whole("bench"));
        for _ in 0..left.min(SEGMENT_RECORDS) {
            let mut record: Document = history.next();
            if record.get_str("op").is_ok_and(|op| op == "insert") {
                documents.push(RawDocumentBuf::try_from(record.get_document("after")?)?);
            } else if !images {
                record.remove("before");
                record.remove("after");
            }
            builder.push(&record.to_vec()?)?;
        }
        left -= left.min(SEGMENT_RECORDS);
        chain::extend(&archive, builder, &mut last).await?;
    }
    Ok(World { fixture, documents })
}

/// Events a second to nowhere.
async fn ndjson(world: &World, records: usize) -> Result<f64> {
    replay(world, "ndjson", records, Stdio::null())
}

async fn into(world: &World, collection: &str, records: usize) -> Result<f64> {
    let database = format!("again_{}", world.fixture.tag());
    let (hosts, options) = world.fixture.uri().split_once("/?").unwrap_or((world.fixture.uri(), ""));
    let output = format!("{hosts}/{database}.{collection}?{options}");
    let rate = replay(world, &output, records, Stdio::null())?;
    let client = mongodb::Client::with_uri_str(world.fixture.uri()).await?;
    let target = client.database(&database).collection::<Document>(collection);
    ensure!(target.find_one(doc! {}).await?.is_some(), "nothing was replayed");
    target.drop().await?;
    Ok(rate)
}

fn replay(world: &World, output: &str, records: usize, stdout: Stdio) -> Result<f64> {
    let mut command = Command::new(tools::archiver());
    command.arg("--config").arg(world.fixture.path("archiver.toml"));
    command.args(["replay", "--source", "bench", "--output", output]);
    command.env("ARCHIVER_TEST_URI", world.fixture.uri());
    let started = Instant::now();
    let mut child = command.stdout(stdout).stderr(Stdio::piped()).spawn()?;
    let pid = child.id();
    let mut peak = 0.0;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        peak = peak_memory(pid).unwrap_or(peak);
        std::thread::sleep(std::time::Duration::from_millis(10));
    };
    let seconds = started.elapsed().as_secs_f64();
    let said = std::io::read_to_string(child.stderr.take().ok_or_else(|| anyhow::anyhow!("no stderr"))?)?;
    ensure!(status.success() && said.contains(&format!("replayed {records} events")), "{said}");
    println!("  {output:.12}… {seconds:.1} s, at most {peak:.0} MB");
    Ok(records as f64 / seconds)
}

/// Documents a second, one batch after the other, each durable.
async fn insert_many(server: &Server, documents: &[RawDocumentBuf]) -> Result<f64> {
    let majority = WriteConcern::builder().w(Acknowledgment::Majority).journal(true).build();
    let options = CollectionOptions::builder().write_concern(majority).build();
    let into = server.client().database("bare").collection_with_options::<RawDocumentBuf>("inserts", options);
    into.drop().await?;
    let started = Instant::now();
    for batch in documents.chunks(BATCH) {
        into.insert_many(batch).await?;
    }
    Ok(documents.len() as f64 / started.elapsed().as_secs_f64())
}
