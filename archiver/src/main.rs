//! The `archiver` program: reads its arguments, runs one command, and turns its end into an exit code.

mod cli;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    cli::start(cli::Cli::parse())
}
