//! `archiver sql`: prints the DuckDB statements that create views and macros over this archive.

use anyhow::Result;
use archiver::archive::store::Archive;
use archiver::history::removed_words;
use archiver::sql::statements;

use super::{EXIT_CODES, Global, Outcome, output, parse_options};

/// Prints DuckDB statements that create views and macros over the archive
///
/// Needs neither MongoDB nor a configuration when given --archive. Prints no secrets.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Args {
    /// The archive's location [default: the configuration's]
    #[arg(long, value_name = "URL")]
    archive: Option<String>,
    /// An option for the object store, as under [archive.options]; may be given several times
    #[arg(long = "option", value_name = "KEY=VALUE", requires = "archive")]
    options: Vec<String>,
}

pub(super) async fn run(args: Args, global: &Global) -> Result<Outcome> {
    let (url, options) = match args.archive {
        Some(url) => (url, parse_options(&args.options)?),
        None => {
            let archive = global.config()?.archive;
            (archive.url, archive.options)
        }
    };
    let archive = Archive::open_url(&url, &options)?;
    let (mut sources, mut missing) = (Vec::new(), Vec::new());
    for source in archive.sources().await? {
        if let Some(until) = archive.removed_until(&source).await? {
            missing.push(format!("{source}: {}", removed_words(until)));
        }
        // A view over no file at all would be refused.
        if !archive.segments(&source).await?.is_empty() {
            sources.push(source);
        }
    }
    output::text(&statements(&url, &options, &sources, &missing)?)?;
    Ok(Outcome::Fine)
}
