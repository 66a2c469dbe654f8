//! `archiver recover`: gives documents back as they were.

use anyhow::Result;
use clap::ValueEnum;

use super::{EXIT_CODES, Global, Outcome, parse_time};

/// Gives documents back as they were at a time, by default just before they were deleted
///
/// Prints them; writes nothing without --apply.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Args {
    /// The source
    #[arg(long, value_name = "NAME")]
    pub(super) source: String,
    /// The document's _id: plain text for a string or ObjectId, else Extended JSON; may be given several times
    #[arg(long, required_unless_present = "deleted_since", conflicts_with = "deleted_since")]
    pub(super) id: Vec<String>,
    /// Every document deleted since this time (RFC 3339) that was not inserted again
    #[arg(long, value_name = "TIME")]
    pub(super) deleted_since: Option<String>,
    /// As the documents were at this time (RFC 3339) [default: just before their deletion]
    #[arg(long, value_name = "TIME")]
    pub(super) at: Option<String>,
    /// The collection into which --apply writes
    #[arg(long, value_name = "DB.COLLECTION")]
    pub(super) to_namespace: Option<String>,
    /// Write the documents to --to-namespace; never over a live document
    #[arg(long, requires = "to_namespace")]
    pub(super) apply: bool,
    /// Let --apply replace live documents
    #[arg(long, requires = "apply")]
    pub(super) overwrite: bool,
    /// How the documents are printed
    #[arg(long, value_enum, default_value_t = DocumentFormat::Ndjson)]
    pub(super) format: DocumentFormat,
}

/// How documents are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DocumentFormat {
    /// One canonical Extended JSON document a line.
    Ndjson,
    /// Concatenated BSON, as mongorestore reads it.
    Bson,
}

pub(super) async fn run(args: Args, global: &Global) -> Result<Outcome> {
    let _since = args.deleted_since.as_deref().map(|t| parse_time("--deleted-since", t)).transpose()?;
    let _at = args.at.as_deref().map(|t| parse_time("--at", t)).transpose()?;
    let _config = global.config()?;
    Err(archiver::Error::internal(format!("recover {args:?}")).into())
}
