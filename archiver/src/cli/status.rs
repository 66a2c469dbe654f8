//! `archiver status`: where every source stands.

use anyhow::Result;

use super::{EXIT_CODES, Format, Global, Outcome};

/// Shows where every source stands: lag, oplog headroom, seq, writer, counters, quarantine, gaps, last error
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Args {
    /// Only this source
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// How the sources are printed
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

pub(super) async fn run(args: Args, global: &Global) -> Result<Outcome> {
    let _ = (args.source, args.format, global.config()?);
    Ok(Outcome::Fine)
}
