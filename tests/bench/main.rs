//! Benchmarks against a real MongoDB, each a ratio to what the same server gives a bare driver:
//! `cargo run --release -p archiver-tests --bin bench -- capture`.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod bare;
mod capture;
mod hand_over;

use std::process::ExitCode;

use anyhow::{Context, Result, bail};

const USAGE: &str = "\
usage: bench capture [--events N] [--rounds N]

  Drains a backlog of N change events (default 50000, about 1 KB each) through `archiver run` with the redact plugin and
  ten rules, and through a bare program: the same change stream with the same options, one batch drained, one
  insert_many of the very same bytes, and so on. Both take turns on one mongod, N rounds (default 3).

       bench hand-over [--rounds N]

  Of two archivers that share four sources one is stopped, and later one killed (with a lease of 2 s): the time from the signal to the
  first append of the other. N rounds each (default 3).

  Measures the binaries beside this one: run it from a release build, after
  cargo build --release -p archiver && cargo build --release --target wasm32-unknown-unknown -p redact";

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
    let bench =
        arguments.next().filter(|name| ["capture", "hand-over"].contains(&name.as_str())).context(USAGE)?;
    let mut settings = capture::Settings { events: 50_000, rounds: 3 };
    while let Some(flag) = arguments.next() {
        let value: usize = arguments.next().and_then(|v| v.parse().ok()).context(USAGE)?;
        match flag.as_str() {
            "--events" => settings.events = value,
            "--rounds" => settings.rounds = value,
            _ => bail!("{USAGE}"),
        }
    }
    let runtime = tokio::runtime::Runtime::new()?;
    match bench.as_str() {
        "capture" => runtime.block_on(capture::run(settings)),
        _ => runtime.block_on(hand_over::run(settings.rounds)),
    }
}
