//! `archiver history`: every record of one document, hot and cold, oldest first.

use anyhow::Result;

use super::{EXIT_CODES, Format, Global, Outcome, parse_time};

/// Lists every record of one document, oldest first
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Args {
    /// The source
    #[arg(long, value_name = "NAME")]
    pub(super) source: String,
    /// The document's _id: plain text for a string or ObjectId, else Extended JSON
    #[arg(long)]
    pub(super) id: String,
    /// Only records from this time on (RFC 3339)
    #[arg(long, value_name = "TIME")]
    pub(super) from: Option<String>,
    /// Only records before this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    pub(super) to: Option<String>,
    /// How the records are printed
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub(super) format: Format,
}

pub(super) async fn run(args: Args, global: &Global) -> Result<Outcome> {
    let _from = args.from.as_deref().map(|t| parse_time("--from", t)).transpose()?;
    let _to = args.to.as_deref().map(|t| parse_time("--to", t)).transpose()?;
    let _config = global.config()?;
    Err(archiver::Error::internal(format!("history of {} {} {:?}", args.source, args.id, args.format)).into())
}
