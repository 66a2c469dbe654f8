//! Benchmarks against a real MongoDB, each a ratio to what the same server gives a bare driver:
//! `cargo run --release -p archiver-tests --bin bench -- capture`.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod bare;
mod capture;

use std::process::ExitCode;

use anyhow::{Context, Result, bail};

const USAGE: &str = "\
usage: bench capture [--events N] [--rounds N]

  Drains a backlog of N change events (default 50000, about 1 KB each) through `archiver run` with the redact plugin and
  ten rules, and through a bare program: the same change stream with the same options, one batch drained, one
  insert_many of the very same bytes, and so on. Both take turns on one mongod, N rounds (default 3).

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
    match arguments.next().as_deref() {
        Some("capture") => {}
        _ => bail!("{USAGE}"),
    }
    let mut settings = capture::Settings { events: 50_000, rounds: 3 };
    while let Some(flag) = arguments.next() {
        let value: usize = arguments.next().and_then(|v| v.parse().ok()).context(USAGE)?;
        match flag.as_str() {
            "--events" => settings.events = value,
            "--rounds" => settings.rounds = value,
            _ => bail!("{USAGE}"),
        }
    }
    tokio::runtime::Runtime::new()?.block_on(capture::run(settings))
}
