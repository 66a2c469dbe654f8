//! What recovering many documents costs, in time and memory, and how long one is waited for: out of archives without an audit log.

use std::io::Read as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use archiver::archive::manifest::Sealed;
use archiver::archive::segment::SegmentBuilder;
use archiver::archive::store::Archive;
use archiver::config::Config;
use archiver::stream_id::StreamId;
use archiver_tests::cloud::{Bucket, Kind};
use archiver_tests::{Fixture, Server, tools};
use bson::{Document, Timestamp, doc, oid::ObjectId};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::chain;
use crate::process::peak_memory;
use crate::spread::Spread;

/// BSON in one segment, as by default.
const SEGMENT_BYTES: usize = 128 << 20;
/// 2026-11-21T00:00:00Z, and how many changes happen in a second.
const DAY: u32 = 1_795_219_200;
const A_SECOND: usize = 1_000;

/// Measures so many documents, each inserted, updated and deleted without images; looks so many up one by one.
pub(crate) async fn run(documents: usize, rounds: usize) -> Result<()> {
    let server = Server::own(archiver_tests::replica_set::Settings::default()).await;
    let source = Fixture::source("bench", &["documents"]);
    let folder = Fixture::new(&server);
    folder.configure(&source);
    let (bytes, then) = fill(&folder, documents).await?;
    println!(
        "{documents} documents, {} records, {:.0} MB of BSON, in a folder",
        3 * documents + 1,
        bytes as f64 / 1e6
    );
    let selections: [(&str, Vec<&str>); 3] = [
        ("as of a time", vec!["--all", "--at", &then]),
        ("by a condition as of a time", vec!["--where", "n<1000", "--at", &then]),
        ("deleted since", vec!["--deleted-since", "2020-01-01T00:00:00Z"]),
    ];
    for (name, selection) in selections {
        let Measured { seconds, first, megabytes, printed } = measure(&folder, &selection)?;
        println!(
            "{name}: {seconds:.1} s, {:.0} documents/s, the first byte after {first:.1} s, {:.0} MB printed, {megabytes:.0} MB of memory",
            documents as f64 / seconds,
            printed as f64 / 1e6
        );
    }
    one_by_one("a folder", &folder, documents, rounds)?;
    let bucket = Bucket::new(Kind::S3).await;
    let store = Fixture::new(&server);
    store.configure(&(bucket.section("") + &source));
    fill(&store, documents).await?;
    one_by_one("S3 (moto)", &store, documents, rounds)
}

fn one_by_one(place: &str, fixture: &Fixture, documents: usize, rounds: usize) -> Result<()> {
    let (mut first, mut whole) = (Vec::new(), Vec::new());
    for n in 0..rounds {
        let id = id(n * documents / rounds).to_hex();
        let measured = measure(fixture, &["--id", &id])?;
        ensure!(measured.printed > 100, "nothing came back");
        first.push(measured.first * 1e3);
        whole.push(measured.seconds * 1e3);
    }
    println!(
        "--id out of {place}: first byte after {:.0} ms, over after {:.0} ms (least / median / most)",
        Spread::of(first),
        Spread::of(whole)
    );
    Ok(())
}

/// One run of `archiver recover`.
struct Measured {
    seconds: f64,
    /// Until the first byte came.
    first: f64,
    megabytes: f64,
    printed: u64,
}

fn measure(fixture: &Fixture, selection: &[&str]) -> Result<Measured> {
    let started = Instant::now();
    let mut child = Command::new(tools::archiver())
        .arg("--config")
        .arg(fixture.path("archiver.toml"))
        .args(["recover", "--source", "bench", "--format", "bson"])
        .args(selection)
        .env("ARCHIVER_TEST_URI", fixture.uri())
        .stdout(Stdio::piped())
        .spawn()?;
    let pid = child.id();
    let mut output = child.stdout.take().context("stdout")?;
    let (mut first, mut printed, mut megabytes) = (None, 0, 0.0_f64);
    let mut buffer = vec![0; 1 << 20];
    let mut looked = Instant::now();
    loop {
        let read = output.read(&mut buffer)?;
        first.get_or_insert_with(|| started.elapsed());
        if read == 0 {
            break;
        }
        printed += read as u64;
        if looked.elapsed() > Duration::from_millis(20) {
            megabytes = megabytes.max(peak_memory(pid).unwrap_or_default());
            looked = Instant::now();
        }
    }
    ensure!(child.wait()?.success(), "recover failed: {selection:?}");
    let first = first.unwrap_or_default().as_secs_f64();
    Ok(Measured { seconds: started.elapsed().as_secs_f64(), first, megabytes, printed })
}

/// Writes the archive; gives the bytes of its records, and a time behind the last update.
async fn fill(fixture: &Fixture, documents: usize) -> Result<(usize, String)> {
    let archive = Archive::open(&config(fixture)?.archive)?;
    let mut writer = Filling { archive, builder: new_builder(), last: None, bytes: 0, seq: 0 };
    writer.push("policy", None, doc! {"detail": {"plugins": []}}, 0).await?;
    let mut random = StdRng::seed_from_u64(7);
    for n in 0..documents {
        let document = document(&mut random, n);
        writer.push("insert", Some(n), doc! {"after": document}, n).await?;
    }
    for n in 0..documents {
        let delta = doc! {"updatedFields": {"status": "paid", "n": n as i64, "customer.seen": true}, "removedFields": ["draft"]};
        writer.push("update", Some(n), doc! {"delta": delta}, documents + n).await?;
    }
    let then = DAY as usize + 2 * documents / A_SECOND + 1;
    for n in 0..documents {
        writer.push("delete", Some(n), doc! {}, 2 * documents + 2 * A_SECOND + n).await?;
    }
    writer.seal().await?;
    let then = bson::DateTime::from_millis(then as i64 * 1_000).try_to_rfc3339_string()?;
    Ok((writer.bytes, then))
}

fn config(fixture: &Fixture) -> Result<Config> {
    let file = fixture.path("archiver.toml");
    let text = std::fs::read_to_string(&file)?.replace("${ARCHIVER_TEST_URI}", fixture.uri());
    let own = fixture.path("own.toml");
    std::fs::write(&own, text)?;
    Ok(Config::load(&own)?)
}

fn new_builder() -> SegmentBuilder {
    SegmentBuilder::new(&StreamId::whole("bench"))
}

fn id(n: usize) -> ObjectId {
    let mut bytes = [0; 12];
    bytes[..4].copy_from_slice(&(1_795_000_000 + n as u32 / 16).to_be_bytes());
    bytes[8..].copy_from_slice(&(n as u32).to_be_bytes());
    ObjectId::from_bytes(bytes)
}

/// Half a kilobyte, like an order.
fn document(random: &mut StdRng, n: usize) -> Document {
    let text = |random: &mut StdRng, len: usize| -> String {
        (0..len).map(|_| char::from(random.random_range(b'a'..=b'z'))).collect()
    };
    let customer = doc! {"name": text(random, 16), "email": text(random, 20), "city": text(random, 9)};
    let line = doc! {"sku": random.random_range(0..100_000_i64), "count": 2, "note": text(random, 60)};
    doc! {
        "_id": id(n), "n": 0_i64, "status": "new", "customer": customer, "lines": [line.clone(), line],
        "note": text(random, 120), "draft": true, "total": random.random_range(0.0..1_000.0),
    }
}

struct Filling {
    archive: Archive,
    builder: SegmentBuilder,
    last: Option<Sealed>,
    bytes: usize,
    seq: i64,
}

impl Filling {
    async fn push(&mut self, op: &str, of: Option<usize>, rest: Document, moment: usize) -> Result<()> {
        self.seq += 1;
        let mut record = doc! {"_id": self.seq, "op": op};
        if let Some(n) = of {
            record.extend(doc! {"ns": {"db": "shop", "coll": "documents"}, "key": {"_id": id(n)}});
        }
        let time = DAY + (moment / A_SECOND) as u32;
        record.insert("clusterTime", Timestamp { time, increment: (moment % A_SECOND) as u32 + 1 });
        record.extend(rest);
        record.insert("policy", 1_i64);
        self.builder.push(&record.to_vec()?)?;
        if self.builder.bson_bytes() >= SEGMENT_BYTES {
            self.seal().await?;
        }
        Ok(())
    }

    async fn seal(&mut self) -> Result<()> {
        self.bytes += self.builder.bson_bytes();
        let builder = std::mem::replace(&mut self.builder, new_builder());
        chain::extend(&self.archive, builder, &mut self.last).await?;
        Ok(())
    }
}
