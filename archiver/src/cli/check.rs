//! `archiver check`: says whether this configuration can work here, and what it does not cover.

use anyhow::Result;
use archiver::check::{Findings, Level, check};

use super::{EXIT_CODES, Format, Global, Outcome, output};

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
    let config = global.config()?;
    let mut findings = Findings::default();
    let checked = check(&config, &mut findings).await;
    // What was found before a server could not be reached is worth knowing too.
    match args.format {
        Format::Json => output::json(&findings.list())?,
        Format::Table => table(&findings)?,
    }
    checked?;
    Ok(if findings.failed() { Outcome::Findings } else { Outcome::Fine })
}

fn table(findings: &Findings) -> Result<()> {
    let mut rows = Vec::new();
    for finding in findings.list() {
        let level = match finding.level {
            Level::Ok => "ok",
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Fail => "FAIL",
        };
        rows.push(vec![level.to_owned(), finding.about.clone(), finding.what.clone()]);
        rows.extend(finding.hint.iter().map(|hint| vec![String::new(), String::new(), format!("→ {hint}")]));
    }
    output::table(&["", "about", "finding"], rows)
}
