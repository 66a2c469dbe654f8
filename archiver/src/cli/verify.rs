//! `archiver verify`: proves that the archive is what was written.

mod progress;

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use archiver::Error;
use archiver::archive::store::Archive;
use archiver::audit_log::AuditLog;
use archiver::history::verify::{Finding, Level, Noted, Part, Report, Request, Scope, verify};
use clap::ValueEnum;

use self::progress::Shown;
use super::{EXIT_CODES, Format, Global, Outcome, output, parse_options};

const SECONDS_PER_DAY: u64 = 86_400;
/// Segments checked at a time unless --jobs says otherwise: each is in memory as a whole.
const MAX_JOBS: usize = 4;

/// Checks manifests, digests, seq continuity and every record of the archive
///
/// Needs neither MongoDB nor a configuration when given --archive. With a configuration it also checks that the audit
/// log goes on where the archive ends, and that the archive ends where the log noted.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Args {
    /// Only this source
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// The archive's location [default: the configuration's]
    #[arg(long, value_name = "URL")]
    archive: Option<String>,
    /// An option for the object store, as under [archive.options]; may be given several times
    #[arg(long = "option", value_name = "KEY=VALUE", requires = "archive")]
    options: Vec<String>,
    /// What is checked of every segment [default: full; with --sample: structure]
    #[arg(long, value_enum)]
    level: Option<Depth>,
    /// Check the records of one in N segments only: of another N-th every day, so that N days are everything
    #[arg(long, value_name = "1/N", value_parser = one_of)]
    sample: Option<u32>,
    /// Which of the N parts, from 1 [default: the day's turn]
    #[arg(long, value_name = "K", requires = "sample")]
    part: Option<u32>,
    /// A digest that an earlier run printed: it must be in the chain still; may be given several times
    #[arg(long, value_name = "[SOURCE=]DIGEST")]
    newest: Vec<String>,
    /// Segments checked at a time, each held in memory [default: the number of processors, at most 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    jobs: Option<u16>,
    /// How the findings are printed
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

/// What is checked of a segment.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Depth {
    /// Manifests, names and sizes: no segment is read
    Listing,
    /// Also that every file has the SHA-256 with which it was sealed
    Structure,
    /// Also every record, and every column against its record
    Full,
}

/// Reads `1/N`.
fn one_of(text: &str) -> Result<u32, String> {
    let parts = text.strip_prefix("1/").and_then(|n| n.parse().ok()).filter(|n| (1..=10_000).contains(n));
    parts.ok_or_else(|| "write 1/30 for one in thirty, at most 1/10000".to_owned())
}

pub(super) async fn run(args: Args, global: &Global) -> Result<Outcome> {
    let scope = scope(&args)?;
    let noted = args.newest.iter().map(|text| Noted::parse(text)).collect::<archiver::Result<Vec<_>>>()?;
    check_noted(&noted, args.source.as_deref())?;
    let (archive, log) = match &args.archive {
        Some(url) => (Archive::open_url(url, &parse_options(&args.options)?)?, None),
        None => {
            let config = global.config()?;
            let log = AuditLog::connect(&config).await?;
            (Archive::open_url(&config.archive.url, &config.archive.options)?, Some(log))
        }
    };
    let processors = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_JOBS);
    let shown = Shown::new();
    let request = Request {
        source: args.source.as_deref(),
        scope,
        noted: &noted,
        jobs: args.jobs.map_or(processors, usize::from),
        progress: &|progress| shown.update(progress),
    };
    let report = verify(&archive, log.as_ref(), &request).await;
    shown.clear();
    let report = report?;
    match args.format {
        Format::Json => output::json(&report)?,
        Format::Table => print(&report)?,
    }
    Ok(if report.is_clean() { Outcome::Fine } else { Outcome::Findings })
}

fn scope(args: &Args) -> archiver::Result<Scope> {
    let level = args.level.map(|depth| match depth {
        Depth::Listing => Level::Listing,
        Depth::Structure => Level::Structure,
        Depth::Full => Level::Full,
    });
    let Some(of) = args.sample else { return Ok(Scope::only(level.unwrap_or(Level::Full))) };
    if level == Some(Level::Full) {
        return Err(Error::invalid("--level full leaves nothing to --sample").hint(
            "with --sample, --level says what is checked of all other segments: listing or structure",
        ));
    }
    let part = match args.part {
        Some(number) => Part::new(number, of).ok_or_else(|| {
            Error::invalid(format!("there is no such part: --part {number} of {of}"))
                .hint(format!("parts are numbered from 1 to {of}"))
        })?,
        None => {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            Part::at(since.as_secs() / SECONDS_PER_DAY, of)
        }
    };
    Ok(Scope { level: level.unwrap_or(Level::Structure), part })
}

/// A digest of a source that is not looked at could only be missed.
fn check_noted(noted: &[Noted], source: Option<&str>) -> archiver::Result<()> {
    let Some(source) = source else { return Ok(()) };
    let other = noted.iter().filter_map(|noted| noted.stream.as_ref()).find(|s| s.source != source);
    match other {
        None => Ok(()),
        Some(stream) => Err(Error::invalid(format!("--newest is of another source than --source: {stream}"))
            .hint("leave one of them out")),
    }
}

fn print(report: &Report) -> Result<()> {
    let sources = report.sources.iter().map(|s| {
        vec![
            s.stream().to_string(),
            format!("1..{}", s.end_seq),
            s.manifests.to_string(),
            s.files.to_string(),
            s.segments.to_string(),
            s.records.to_string(),
            s.bytes.to_string(),
        ]
    });
    output::table(&["SOURCE", "SEQ", "SEALED", "READ", "DECODED", "RECORDS", "BYTES"], sources)?;
    list("note", &report.notes)?;
    list("FINDING", &report.findings)?;
    output::text(&conclusion(report))?;
    if report.is_clean() { output::text(&to_be_noted(report)) } else { Ok(()) }
}

fn list(label: &str, findings: &[Finding]) -> Result<()> {
    for finding in findings {
        output::text(&format!("{label} {finding}\n"))?;
    }
    Ok(())
}

/// What the verification proves, and no more than that.
fn conclusion(report: &Report) -> String {
    let Scope { level, part } = report.scope;
    let sampled = match report.scope.is_sample() {
        true => format!("; the records of part {} of {}", part.number(), part.of()),
        false => String::new(),
    };
    match (report.findings.len(), level) {
        (0, _) if report.sources.is_empty() => "the archive is empty: nothing to verify\n".to_owned(),
        (0, Level::Full) => "verified: everything is as it was written\n".to_owned(),
        (0, Level::Structure) => format!("verified: every file is the one that was sealed{sampled}\n"),
        (0, Level::Listing) => {
            format!("verified: every manifest, and every segment's name and size{sampled}\n")
        }
        (1, _) => "1 finding: the archive is not what was written\n".to_owned(),
        (n, _) => format!("{n} findings: the archive is not what was written\n"),
    }
}

/// The digests of the newest manifests, as a later run takes them.
fn to_be_noted(report: &Report) -> String {
    let newest: Vec<String> = report
        .sources
        .iter()
        .filter_map(|s| Some(format!("--newest {}={}", s.stream(), s.newest.as_ref()?)))
        .collect();
    match newest.is_empty() {
        true => String::new(),
        false => format!(
            "keep this elsewhere, and give it to a later run: then nothing can be taken away or rewritten unseen\n  {}\n",
            newest.join(" ")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_one_in_so_many() {
        assert_eq!(one_of("1/30"), Ok(30));
        for odd in ["30", "2/30", "1/0", "1/", "1/-3", "1/10001"] {
            assert!(one_of(odd).is_err(), "{odd}");
        }
    }

    #[test]
    fn what_is_concluded_is_what_was_looked_at() {
        let report = |scope| Report {
            archive: String::new(),
            scope,
            sources: vec![Default::default()],
            findings: Vec::new(),
            notes: Vec::new(),
        };
        let said = |scope| conclusion(&report(scope));
        assert_eq!(said(Scope::FULL), "verified: everything is as it was written\n");
        let structure = said(Scope::only(Level::Structure));
        assert_eq!(structure, "verified: every file is the one that was sealed\n");
        let sample = said(Scope { level: Level::Listing, part: Part::at(6, 30) });
        assert!(sample.ends_with("size; the records of part 7 of 30\n"), "{sample}");
    }
}
