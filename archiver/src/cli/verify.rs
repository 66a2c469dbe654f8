//! `archiver verify`: proves that the archive is what was written.

use anyhow::Result;

use super::{EXIT_CODES, Format, Global, Outcome};

/// Checks manifests, digests, seq continuity and every record of the archive
///
/// Needs neither MongoDB nor a configuration when given --archive.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Args {
    /// Only this source
    #[arg(long, value_name = "NAME")]
    pub(super) source: Option<String>,
    /// The archive's location [default: the configuration's]
    #[arg(long, value_name = "URL")]
    pub(super) archive: Option<String>,
    /// An option for the object store, as under [archive.options]; may be given several times
    #[arg(long = "option", value_name = "KEY=VALUE", requires = "archive")]
    pub(super) options: Vec<String>,
    /// How the findings are printed
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub(super) format: Format,
}

pub(super) async fn run(args: Args, _global: &Global) -> Result<Outcome> {
    Err(archiver::Error::internal(format!("verify {args:?}")).into())
}
