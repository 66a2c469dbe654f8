//! The quickstart: a shop on a real MongoDB, its changes captured, redacted, archived, queried, and one of them undone.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod shop;
mod show;
mod tour;

use std::process::ExitCode;

use anyhow::{Result, bail};
use tokio::signal::unix::{SignalKind, signal};

const USAGE: &str = "usage: examples/quickstart/run [--keep]";

fn main() -> ExitCode {
    let keep = match std::env::args().skip(1).collect::<Vec<_>>().as_slice() {
        [] => false,
        [flag] if flag == "--keep" => true,
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    let result =
        tokio::runtime::Runtime::new().map_err(Into::into).and_then(|r| r.block_on(until_stopped(keep)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("\nThe quickstart stopped: {e:#}");
            ExitCode::FAILURE
        }
    }
}

/// The tour; a signal ends it early, and what it started and wrote goes with it.
async fn until_stopped(keep: bool) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        result = tour::run(keep) => result,
        _ = tokio::signal::ctrl_c() => if keep { Ok(()) } else { bail!("interrupted") },
        _ = terminate.recv() => bail!("terminated"),
    }
}
