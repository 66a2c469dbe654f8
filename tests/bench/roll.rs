//! What rolling costs and how small segments are: against zstd and gzip of the same records' bare bytes, by size of document.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use archiver::archive::segment::{Segment, SegmentBuilder, rows};
use archiver::stream_id::StreamId;
use bson::{Binary, DateTime, Document, Timestamp, doc, oid::ObjectId, spec::BinarySubtype};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::spread::Spread;

/// What is compressed at once where a stream is cut into pieces, as a segment's pages are.
const PIECE: usize = 1 << 20;

/// Documents of about so many bytes.
const SIZES: [usize; 4] = [150, 1_000, 20_000, 250_000];

/// Measures segments of so many megabytes of records, so many rounds each.
pub(crate) fn run(megabytes: usize, rounds: usize) -> Result<()> {
    println!("{megabytes} MB of records each; least / median / most of {rounds} rounds");
    for size in SIZES {
        for changes in [1, 8] {
            let records = History::new(size, changes).records(megabytes << 20);
            measure(size, changes, &records, rounds)?;
        }
    }
    Ok(())
}

fn measure(size: usize, changes: usize, records: &[Vec<u8>], rounds: usize) -> Result<()> {
    let bare = records.concat();
    let megabytes = bare.len() as f64 / 1e6;
    let (mut ratios, mut speeds, mut reads) = (Vec::new(), Vec::new(), Vec::new());
    let mut file = 0;
    for _ in 0..rounds {
        let (segment, built) = timed(|| build(records))?;
        let (_, compressed) = timed(|| pieces(&bare, 3))?;
        let (count, read) = timed(|| Ok(rows(segment.file.clone())?.filter(|row| row.is_ok()).count()))?;
        ensure!(count == records.len(), "a record is missing");
        ratios.push(compressed / built);
        speeds.push(megabytes / built);
        reads.push(megabytes / read);
        file = segment.file.len();
    }
    let (gzip, best) = (through("gzip", &["-6"], &bare)?, through("zstd", &["-19", "-T1"], &bare)?);
    println!(
        "{size:6} bytes, {changes} changes each: {} records of {:.0} bytes\n  \
         rolled (proof included) at {:.0} MB/s, {:.2} of zstd -3; read at {:.0} MB/s\n  \
         file {:.1} % of the records; {:.2} of gzip -6, {:.2} of zstd -19",
        records.len(),
        bare.len() as f64 / records.len() as f64,
        Spread::of(speeds),
        Spread::of(ratios),
        Spread::of(reads),
        file as f64 / bare.len() as f64 * 100.0,
        file as f64 / gzip as f64,
        file as f64 / best as f64,
    );
    Ok(())
}

fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, f64)> {
    let started = Instant::now();
    let done = work()?;
    Ok((done, started.elapsed().as_secs_f64()))
}

fn build(records: &[Vec<u8>]) -> Result<Segment> {
    let mut builder = SegmentBuilder::new(&StreamId::whole("bench"));
    for record in records {
        builder.push(record)?;
    }
    Ok(builder.finish()?)
}

fn pieces(bytes: &[u8], level: i32) -> Result<usize> {
    let mut compressor = zstd::bulk::Compressor::new(level)?;
    let mut size = 0;
    for piece in bytes.chunks(PIECE) {
        size += compressor.compress(piece)?.len();
    }
    Ok(size)
}

/// How many bytes a program makes of these.
fn through(program: &str, arguments: &[&str], bytes: &[u8]) -> Result<usize> {
    let mut child = Command::new(program)
        .args(arguments)
        .arg("-c")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("{program} can't be started"))?;
    let mut input = child.stdin.take().context("stdin is piped")?;
    std::thread::scope(|scope| {
        scope.spawn(move || input.write_all(bytes));
        Ok(child.wait_with_output()?.stdout.len())
    })
}

/// Orders that are inserted, changed, and one in twenty deleted, with images, as records.
pub(crate) struct History {
    random: StdRng,
    size: usize,
    changes: usize,
    live: Vec<Document>,
    seq: i64,
}

impl History {
    pub(crate) fn new(size: usize, changes: usize) -> History {
        History { random: StdRng::seed_from_u64(size as u64), size, changes, live: Vec::new(), seq: 0 }
    }

    fn records(&mut self, bytes: usize) -> Vec<Vec<u8>> {
        let (mut records, mut written) = (Vec::new(), 0);
        while written < bytes {
            let record = self.next().to_vec().unwrap_or_default();
            written += record.len();
            records.push(record);
        }
        records
    }

    pub(crate) fn next(&mut self) -> Document {
        self.seq += 1;
        if self.live.is_empty() || self.random.random_range(0..=self.changes) == 0 {
            let order = self.order();
            self.live.push(order.clone());
            return self.record("insert", None, Some(order), None);
        }
        let at = self.random.random_range(0..self.live.len());
        if self.random.random_range(0..20) == 0 {
            let gone = self.live.swap_remove(at);
            return self.record("delete", Some(gone), None, None);
        }
        let before = self.live[at].clone();
        let status = ["new", "paid", "packed", "sent", "returned"][self.random.random_range(0..5)];
        let set = doc! {"status": status, "total": self.random.random_range(0..100_000) as f64 / 100.0, "version": self.seq};
        self.live[at].extend(set.clone());
        let after = self.live[at].clone();
        self.record(
            "update",
            Some(before),
            Some(after),
            Some(doc! {"updatedFields": set, "removedFields": []}),
        )
    }

    /// The ids of the documents that are left, in hex.
    pub(crate) fn ids(&self) -> Vec<String> {
        self.live.iter().filter_map(|order| Some(order.get_object_id("_id").ok()?.to_hex())).collect()
    }

    fn record(
        &mut self,
        op: &str,
        before: Option<Document>,
        after: Option<Document>,
        delta: Option<Document>,
    ) -> Document {
        let document = after.as_ref().or(before.as_ref());
        let id = document.and_then(|d| d.get("_id").cloned());
        let seconds = 1_795_000_000 + (self.seq / 500) as u32;
        let mut record = doc! {"_id": self.seq, "op": op, "ns": {"db": "shop", "coll": "orders"}, "key": {"_id": id},
        "clusterTime": Timestamp { time: seconds, increment: (self.seq % 500) as u32 + 1 },
        "wallTime": DateTime::from_millis(i64::from(seconds) * 1_000 + self.seq % 1_000)};
        let parts = [("before", before), ("after", after), ("delta", delta)];
        record.extend(parts.into_iter().filter_map(|(name, part)| Some((name.to_owned(), part?.into()))));
        record.insert("actor", doc! {"id": format!("clerk{}", self.seq % 40), "from": "after"});
        record.insert("policy", 1_i64);
        record
    }

    fn order(&mut self) -> Document {
        let mut id = [0; 12];
        id[..4].copy_from_slice(&(1_795_000_000 + self.seq as u32).to_be_bytes());
        id[8..].copy_from_slice(&(self.seq as u32).to_be_bytes());
        let mut order =
            doc! {"_id": ObjectId::from_bytes(id), "status": "new", "total": 1.0, "version": self.seq};
        let mut written = 80;
        for n in 0.. {
            if written >= self.size {
                break;
            }
            let digest = self.random.random::<u128>().to_be_bytes().to_vec();
            let part = doc! {
                "name": self.words(2), "sku": format!("sku-{:05}", self.random.random_range(0..20_000)), "quantity": n,
                "price": self.random.random_range(0..10_000) as f64 / 100.0, "note": self.words(9),
                "at": DateTime::from_millis(1_795_000_000_000 + self.random.random_range(0..1_000_000)),
                "digest": Binary { subtype: BinarySubtype::Generic, bytes: digest },
            };
            written += part.to_vec().map_or(0, |bytes| bytes.len() + 12);
            order.insert(format!("part{n}"), part);
        }
        order
    }

    fn words(&mut self, count: usize) -> String {
        let word = |n: u32| {
            format!("{}{}", ["lor", "ips", "dol", "sit", "ame", "con", "sec", "adi"][(n % 8) as usize], n / 8)
        };
        (0..count).map(|_| word(self.random.random_range(0..2_000))).collect::<Vec<_>>().join(" ")
    }
}
