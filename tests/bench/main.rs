//! Benchmarks against a real MongoDB, each a ratio to what the same server gives a bare driver, or beside it:
//! `cargo run --release -p archiver-tests --bin bench -- capture`.
#![forbid(unsafe_code)]
#![allow(clippy::expect_used, clippy::print_stdout, clippy::print_stderr)]

mod bare;
mod capture;
mod chain;
mod hand_over;
mod latency;
mod lookup;
mod plugins;
mod process;
mod recover;
mod replay;
mod roll;
mod sources;
mod spread;
mod verify;

use std::process::ExitCode;

use anyhow::{Context, Result, bail};

const USAGE: &str = "\
usage: bench capture [--events N] [--rounds N] [--segment-mib N]
       bench sources [--events N]
       bench latency [--seconds N]
       bench plugins [--rounds N]
       bench hand-over [--rounds N]
       bench roll [--megabytes N] [--rounds N]
       bench lookup [--segments N] [--records N] [--rounds N]
       bench verify [--megabytes N] [--rounds N]
       bench recover [--documents N] [--rounds N]
       bench replay [--records N] [--rounds N]

  capture drains a backlog of N change events (default 50000, about 1 KB each; --events 1000000 for the documented run)
  through `archiver run` with the redact plugin and ten rules, and through a bare program: the same change stream with the
  same options, one batch drained, one insert_many of the very same bytes, and so on. Both take turns on one mongod, N
  rounds (default 3). Also gives the rate of every hundred thousand events, and the most memory it took. Segments are built
  beside it where the backlog holds more than one (default 128 MiB); --segment-mib 4096 measures capture by itself.

  sources drains the same backlog with 1, 2, 4 and 8 sources, and gives throughput and CPU seconds of both processes.

  latency writes 1000 and 5000 events a second, N seconds each (default 10), and gives the time from the acknowledged write
  until a majority read sees the record, beside that until a bare change stream delivers the event.

  hand-over stops and kills one of two archivers by turns, N times each, and gives the time from the signal until each of the
  streams it held is appended to by the other.

  verify writes an archive of N megabytes of records (default 64) into a temporary folder, and gives the time of `archiver verify` as a
  ratio to hashing the same files. It needs no MongoDB.

  recover writes archives of N documents (default 100000; 1000000 for the documented run), each inserted, updated and deleted without
  images, into a folder and an S3 server, and gives time and memory of `archiver recover` for all of them, and the time to the first
  byte for N of them one by one.

  plugins gives nanoseconds an event for an empty plugin, for redact with ten paths, with value rules, and for a chain of
  three, in the sandbox and natively. It needs no MongoDB; take some hundred rounds. Build misbehave.wasm for it, too.

  roll builds segments of N megabytes of records (default 64) for documents of four sizes, changed once and eight times each:
  speed against zstd -3 of the same bytes, size against gzip -6 and zstd -19 of them. One core; needs both programs.

  lookup builds an archive of N segments (default 20) of N records (default 100000) and looks N documents up that are in it, and
  N that are not: how much of the archive is read, in how many requests and milliseconds, beside DuckDB; in a local folder and
  in a copy of it on an S3 server. It needs what tests/tools gets.

  replay plays a history of N records (default 100000) from segments: as change events to nowhere, and into a collection, inserts
  beside a bare insert_many of the same documents, and changes with images and by deltas.

  Measures the binaries beside this one: run it from a release build, after
  cargo build --release -p archiver && cargo build --release --target wasm32-unknown-unknown -p redact -p misbehave";

fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("bench: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn start() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().context(USAGE)?;
    let (mut events, mut rounds, mut seconds, mut segment_mebibytes) = (50_000, 3, 10, 128);
    let (mut megabytes, mut segments, mut records, mut documents) = (64, 20, 100_000, 100_000);
    while let Some(flag) = arguments.next() {
        let value: usize = arguments.next().and_then(|v| v.parse().ok()).filter(|v| *v > 0).context(USAGE)?;
        match flag.as_str() {
            "--events" => events = value,
            "--rounds" => rounds = value,
            "--seconds" => seconds = value,
            "--segments" => segments = value,
            "--records" => records = value,
            "--documents" => documents = value,
            "--megabytes" => megabytes = value,
            "--segment-mib" => segment_mebibytes = value,
            _ => bail!("{USAGE}"),
        }
    }
    let runtime = tokio::runtime::Runtime::new()?;
    match name.as_str() {
        "capture" => runtime.block_on(capture::run(capture::Settings { events, rounds, segment_mebibytes })),
        "sources" => runtime.block_on(sources::run(events)),
        "lookup" => runtime.block_on(lookup::run(segments, records, rounds)),
        "recover" => runtime.block_on(recover::run(documents, rounds)),
        "roll" => roll::run(megabytes, rounds),
        "plugins" => plugins::run(rounds),
        "latency" => runtime.block_on(latency::run(seconds)),
        "verify" => runtime.block_on(verify::run(megabytes, rounds)),
        "replay" => runtime.block_on(replay::run(records, rounds)),
        "hand-over" => runtime.block_on(hand_over::run(rounds)),
        _ => bail!("{USAGE}"),
    }
}

/// An oplog that holds a backlog and everything that so many rounds write behind it: records of the archiver and the bare
/// program go into the same one.
fn oplog_megabytes(events: usize, rounds: usize) -> u32 {
    let kilobytes = events * (2 * rounds + 1) * 3 / 2;
    2_048 + u32::try_from(kilobytes / 1_024).unwrap_or(u32::MAX / 2)
}
