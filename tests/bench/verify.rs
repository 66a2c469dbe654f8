//! How fast `archiver verify` reads an archive, as a ratio to hashing the same files with SHA-256.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Result, ensure};
use archiver::archive::manifest::Sealed;
use archiver::archive::segment::SegmentBuilder;
use archiver::archive::store::Archive;
use archiver::stream_id::StreamId;
use archiver_tests::{fixture, tools};
use bson::{Document, doc};
use sha2::{Digest, Sha256};

use crate::chain;
use crate::plugins::event;
use crate::spread::Spread;

/// BSON in one segment, as by default.
const SEGMENT_BYTES: usize = 128 << 20;

/// Measures an archive of so many megabytes of records.
pub(crate) async fn run(megabytes: usize, rounds: usize) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let url = format!("file://{}", folder.path().display());
    let (records, bson) = write(&Archive::open_url(&url, &[])?, megabytes * 1_000_000).await?;
    let files = fixture::files_in(folder.path());
    let stored = files.iter().map(|file| Ok(file.metadata()?.len())).sum::<Result<u64>>()? as f64 / 1e6;
    println!(
        "{records} records, {:.0} MB of BSON, in {stored:.1} MB of files; least / median / most",
        bson as f64 / 1e6
    );
    let hashing = (0..rounds).map(|_| hash(&files)).collect::<Result<Vec<_>>>()?;
    let hashing = Spread::of(hashing);
    println!("hashing the files: {hashing:.0} ms, {:.0} MB/s", stored * 1e3 / hashing.median());
    for arguments in [&["--level", "structure"][..], &["--jobs", "1"], &[]] {
        let times = (0..rounds).map(|_| verify(&url, arguments)).collect::<Result<Vec<_>>>()?;
        let times = Spread::of(times);
        println!(
            "archiver verify {}: {times:.0} ms, {:.0} MB/s of files, {:.0} MB/s of BSON; {:.1} times the hashing",
            arguments.join(" "),
            stored * 1e3 / times.median(),
            bson as f64 / 1e3 / times.median(),
            times.median() / hashing.median(),
        );
    }
    Ok(())
}

/// Writes records until there are so many bytes of them, and gives their number and bytes.
async fn write(archive: &Archive, bytes: usize) -> Result<(i64, usize)> {
    let stream = StreamId::whole("orders");
    let (mut seq, mut written) = (0, 0);
    let mut previous: Option<Sealed> = None;
    while written < bytes {
        let mut builder = SegmentBuilder::new(&stream);
        while builder.bson_bytes() < SEGMENT_BYTES && written + builder.bson_bytes() < bytes {
            seq += 1;
            let mut record = doc! {"_id": seq};
            record.extend(bson::deserialize_from_slice::<Document>(&event(seq)?)?);
            // What is the same in every event all but vanishes in a segment: a file of nothing is hashed in no time.
            let unlike: String = (0..12).map(|_| format!("{:032x}", rand::random::<u128>())).collect();
            record.insert("detail", doc! {"unlike": unlike});
            record.insert("policy", 1_i64);
            builder.push(&record.to_vec()?)?;
        }
        written += builder.bson_bytes();
        chain::extend(archive, builder, &mut previous).await?;
    }
    Ok((seq, written))
}

/// Milliseconds that it takes to read and hash these files one after the other.
fn hash(files: &[std::path::PathBuf]) -> Result<f64> {
    let started = Instant::now();
    let mut sum = 0;
    for file in files {
        sum ^= u64::from(Sha256::digest(std::fs::read(Path::new(file))?)[0]);
    }
    std::hint::black_box(sum);
    Ok(started.elapsed().as_secs_f64() * 1e3)
}

fn verify(url: &str, arguments: &[&str]) -> Result<f64> {
    let started = Instant::now();
    let ended =
        Command::new(tools::archiver()).args(["verify", "--archive", url]).args(arguments).output()?;
    ensure!(ended.status.success(), "verify failed: {}", String::from_utf8_lossy(&ended.stdout));
    Ok(started.elapsed().as_secs_f64() * 1e3)
}
