//! `archiver verify`: proves that the archive is what was written.

use anyhow::Result;
use archiver::Error;
use archiver::archive::store::Archive;
use archiver::audit_log::AuditLog;
use archiver::config::Secret;
use archiver::history::verify::{Finding, Report, verify};
use archiver::stream_id::StreamId;

use super::{EXIT_CODES, Format, Global, Outcome, output};

/// Checks manifests, digests, seq continuity and every record of the archive
///
/// Needs neither MongoDB nor a configuration when given --archive. With a configuration it also checks that the audit
/// log goes on where the archive ends.
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

pub(super) async fn run(args: Args, global: &Global) -> Result<Outcome> {
    let (archive, log) = match &args.archive {
        Some(url) => (Archive::open_url(url, &options(&args.options)?)?, None),
        None => {
            let config = global.config()?;
            let log = AuditLog::connect(&config).await?;
            (Archive::open_url(&config.archive.url, &config.archive.options)?, Some(log))
        }
    };
    let report = verify(&archive, args.source.as_deref(), log.as_ref()).await?;
    match args.format {
        Format::Json => output::json(&report)?,
        Format::Table => print(&report)?,
    }
    Ok(if report.is_clean() { Outcome::Fine } else { Outcome::Findings })
}

fn options(given: &[String]) -> archiver::Result<Vec<(String, Secret)>> {
    let split = |option: &String| {
        let (key, value) = option.split_once('=').filter(|(key, _)| !key.is_empty())?;
        Some((key.to_owned(), Secret::new(value)))
    };
    let parsed: Option<Vec<_>> = given.iter().map(split).collect();
    parsed.ok_or_else(|| {
        Error::invalid("--option is not KEY=VALUE").hint("for example: --option region=eu-west-1")
    })
}

fn print(report: &Report) -> Result<()> {
    let sources = report.sources.iter().map(|s| {
        vec![
            StreamId { source: s.source.clone(), partition: s.partition }.to_string(),
            s.records.to_string(),
            format!("1..{}", s.end_seq),
            s.segments.to_string(),
            s.bytes.to_string(),
            s.head.clone().unwrap_or_else(|| "-".to_owned()),
        ]
    });
    output::table(&["SOURCE", "RECORDS", "SEQ", "SEGMENTS", "BYTES", "NEWEST MANIFEST'S SHA-256"], sources)?;
    list("note", &report.notes)?;
    list("FINDING", &report.findings)?;
    output::text(&match (report.findings.len(), report.sources.is_empty()) {
        (0, false) => "verified: everything is as it was written\n".to_owned(),
        (0, true) => "the archive is empty: nothing to verify\n".to_owned(),
        (1, _) => "1 finding: the archive is not what was written\n".to_owned(),
        (n, _) => format!("{n} findings: the archive is not what was written\n"),
    })
}

fn list(label: &str, findings: &[Finding]) -> Result<()> {
    for Finding { file, seq, reason } in findings {
        let seq = seq.map(|seq| format!(" seq={seq}")).unwrap_or_default();
        output::text(&format!("{label} {file}{seq}: {reason}\n"))?;
    }
    Ok(())
}
