//! `archiver sql`: prints the DuckDB statements that create views and macros over this archive.

use anyhow::Result;
use archiver::archive::store::Archive;
use archiver::history::removed_words;
use archiver::sql::{Source, statements};

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
    let (url, options, configured) = match args.archive {
        Some(url) => (url, parse_options(&args.options)?, Vec::new()),
        None => {
            let config = global.config()?;
            let names = config.sources.into_iter().map(|source| source.name).collect();
            (config.archive.url, config.archive.options, names)
        }
    };
    let archive = Archive::open_url(&url, &options)?;
    let mut names: Vec<String> = archive.sources().await?.into_iter().chain(configured).collect();
    names.sort_unstable();
    names.dedup();
    let (mut sources, mut missing) = (Vec::new(), Vec::new());
    for name in names {
        if let Some(until) = archive.removed_until(&name).await? {
            missing.push(format!("{name}: {}", removed_words(until)));
        }
        let has_segments = !archive.segments(&name).await?.is_empty();
        sources.push(Source { name, has_segments });
    }
    output::text(&statements(&url, &options, &sources, &missing)?)?;
    Ok(Outcome::Fine)
}
