//! `archiver history`: every record of one document, hot and cold, oldest first.

use std::collections::HashSet;
use std::io::Write;

use anyhow::Result;
use archiver::Kind;
use archiver::archive::extjson;
use archiver::history::History;
use archiver::history::access::Access;
use archiver::history::detail::quarantined;
use archiver::history::gaps::{Finding, Found, GapRecord};
use archiver::history::id::DocumentId;
use archiver::history::replay::Follow;
use archiver::history::states::{Identity, State, States};
use archiver::history::timeline::{Entry, FieldChange, Timeline};
use archiver::history::{self, Namespace, removed_words};
use archiver::record::{Record, RecordId};
use bson_walker::Doc;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::output::{Colour, Lines};
use super::{EXIT_CODES, Format, Global, Outcome, output, parse_time};

/// Longer values are cut in the table; JSON has them whole.
const SHOWN_CHARACTERS: usize = 40;
/// More fields of one change are counted only.
const SHOWN_FIELDS: usize = 4;

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
    /// Only in this namespace [default: all of the source]
    #[arg(long, value_name = "DB.COLLECTION")]
    pub(super) namespace: Option<String>,
    /// Only records from this time on (RFC 3339)
    #[arg(long, value_name = "TIME")]
    pub(super) from: Option<String>,
    /// Only records before this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    pub(super) to: Option<String>,
    /// table: what changed, from what to what; json: one whole record a line, as relaxed Extended JSON
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub(super) format: Format,
    /// Go on with records as they come, until stopped by SIGTERM or Ctrl-C
    #[arg(long, conflicts_with = "to")]
    pub(super) follow: bool,
}

pub(super) async fn run(args: Args, global: &Global) -> Result<Outcome> {
    let from = args.from.as_deref().map(|t| parse_time("--from", t)).transpose()?;
    let to = args.to.as_deref().map(|t| parse_time("--to", t)).transpose()?;
    let namespace = args.namespace.as_deref().map(Namespace::parse).transpose()?;
    let id = DocumentId::parse(&args.id)?;
    let history = open(global).await?;
    let access = Access { command: "history", ids: std::slice::from_ref(&id), ..Access::default() };
    history.note_access(&global.config()?, &args.source, access).await?;
    let period = Period { from, to };
    let mut listing = Listing::new(args.format);
    if !args.follow {
        let timeline = history.timeline(&args.source, &id, namespace.as_ref()).await?;
        note_removed(timeline.removed_until)?;
        listing.print(&timeline, period)?;
        return Ok(Outcome::Fine);
    }
    let stop = CancellationToken::new();
    super::run::cancel_on_signal(stop.clone())?;
    note_removed(history.removed_until(&args.source).await?)?;
    // From before the first look: what is recorded meanwhile is looked at again.
    let mut follow = Follow::open(&history, &args.source).await?;
    loop {
        match history.timeline(&args.source, &id, namespace.as_ref()).await {
            Ok(timeline) => listing.print(&timeline, period)?,
            // It may come yet.
            Err(error) if error.kind() == Kind::NotFound => history.require(&args.source).await?,
            Err(error) => return Err(error.into()),
        }
        if !follow.recorded(&id, &stop).await? {
            return Ok(Outcome::Fine);
        }
    }
}

fn note_removed(until: Option<bson::Timestamp>) -> Result<()> {
    match until {
        Some(until) => {
            say(&format!("note: {}; the document may have been there before", removed_words(until)))
        }
        None => Ok(()),
    }
}

/// The time that is listed.
#[derive(Debug, Clone, Copy)]
struct Period {
    from: Option<Timestamp>,
    to: Option<Timestamp>,
}

/// What has been printed of a document's history.
struct Listing {
    format: Format,
    printed: HashSet<(RecordId, Identity)>,
    table: Lines,
}

impl Listing {
    fn new(format: Format) -> Listing {
        let header = ["SEQ", "TIME", "OPERATION", "DOCUMENT IN", "WHO", "CHANGES"];
        Listing { format, printed: HashSet::new(), table: Lines::new(&header) }
    }

    /// Prints what has not been printed yet.
    fn print(&mut self, timeline: &Timeline, period: Period) -> Result<()> {
        let mut rows = Vec::new();
        for entry in &timeline.entries {
            let record = Record::new(&entry.record)?;
            let time = history::time_of(&record)?;
            let outside =
                period.from.is_some_and(|from| time < from) || period.to.is_some_and(|to| time >= to);
            if outside || !self.printed.insert((record.record_id()?, entry.identity.clone())) {
                continue;
            }
            match self.format {
                Format::Table => {
                    rows.push((row(entry, &record, time, &timeline.states)?, Colour::of(record.op())));
                }
                Format::Json => output::text(&json_line(record.doc()))?,
            }
        }
        match self.format {
            Format::Table => self.table.print(rows),
            Format::Json => Ok(()),
        }
    }
}

fn say(line: &str) -> Result<()> {
    Ok(writeln!(std::io::stderr().lock(), "{line}")?)
}

/// The history that the configuration names.
pub(super) async fn open(global: &Global) -> Result<History> {
    let config = global.config()?;
    let archive = archiver::archive::store::Archive::open(&config.archive)?;
    let log = archiver::audit_log::AuditLog::connect(&config).await?;
    Ok(History::new(Some(log), archive))
}

fn json_line(doc: Doc<'_>) -> String {
    let mut line = String::new();
    let _ = extjson::to_relaxed(doc, &mut line);
    line.push('\n');
    line
}

fn row(entry: &Entry, record: &Record<'_>, time: Timestamp, states: &States) -> Result<Vec<String>> {
    let actor = record.part("actor").and_then(|actor| actor.get("id")).and_then(|id| id.as_str());
    Ok(vec![
        record.record_id()?.to_string(),
        time.to_string(),
        record.op().to_owned(),
        entry.identity.namespace.to_string(),
        printable(actor.unwrap_or("-")),
        summary(entry, record, states)?,
    ])
}

/// What happened, on one line.
fn summary(entry: &Entry, record: &Record<'_>, states: &States) -> Result<String> {
    match record.op() {
        "gap" => return gap(entry, record),
        "quarantine" => return Ok(withheld(record, states.is_named(record, &entry.identity))),
        _ => {}
    }
    let found = Found::of(record);
    let changes = entry.changes()?;
    let said = if changes.is_empty() { begun_or_ended(entry, record, found) } else { listed(&changes) };
    Ok(match found {
        None => said,
        Some(found) if found.at_one_moment() => format!("found {}: {said}", found.finding.as_str()),
        Some(found) => {
            let (after, until) = (second(found.after), second(found.until));
            format!("found {}, unseen between {after} and {until}: {said}", found.finding.as_str())
        }
    })
}

fn listed(changes: &[FieldChange]) -> String {
    let mut parts: Vec<String> = changes.iter().take(SHOWN_FIELDS).map(field).collect();
    if changes.len() > SHOWN_FIELDS {
        parts.push(format!("and {} more", changes.len() - SHOWN_FIELDS));
    }
    parts.join("; ")
}

fn begun_or_ended(entry: &Entry, record: &Record<'_>, found: Option<Found>) -> String {
    let fields = |state: &State| match state {
        State::Present(bytes) => Doc::new(bytes).ok().map(|doc| doc.elements().count()),
        _ => None,
    };
    match (record.op(), fields(&entry.after.state), &entry.after.state) {
        ("snapshot", Some(n), _) => match found.map(|found| found.finding) {
            None => format!("baseline: {n} fields"),
            Some(Finding::Inserted) => format!("new: {n} fields"),
            Some(_) => format!("{n} fields"),
        },
        ("insert", Some(n), _) => format!("new: {n} fields"),
        ("replace", Some(n), _) => format!("replaced: {n} fields"),
        (_, _, State::Absent) => "the document ended".to_owned(),
        (_, _, State::Unknown(reason)) => format!("unknown from here on: {reason}"),
        _ => String::new(),
    }
}

/// What a withheld change means for the document.
fn withheld(record: &Record<'_>, is_its: bool) -> String {
    let detail = |field| printable(quarantined(record, field).unwrap_or("unknown"));
    let whose = if is_its { "its" } else { "perhaps its:" };
    let (op, plugin, error) = (detail("op"), detail("plugin"), detail("error"));
    format!("{whose} {op} is withheld, plugin {plugin} failed on it ({error}); unknown from here on")
}

/// What a gap means for the document.
fn gap(entry: &Entry, record: &Record<'_>) -> Result<String> {
    let about_one = record.key().is_some();
    Ok(match GapRecord::of(record)? {
        GapRecord::Closes { gap, .. } => match &entry.after.state {
            State::Unknown(_) => format!("compared with the present; unknown all the same (gap seq={gap})"),
            _ => format!("compared with the present: nothing else has changed (gap seq={gap})"),
        },
        GapRecord::Opens(gap) => {
            let reason = record.part("detail").and_then(|d| d.get("reason")).and_then(|e| e.as_str());
            let reason = printable(reason.unwrap_or("unknown"));
            let what = if about_one { "a change of it is missing" } else { "history is missing" };
            match gap.after < gap.until {
                true => {
                    format!("{what} between {} and {}: {reason}", second(gap.after), second(gap.until))
                }
                false => format!("{what}: {reason}"),
            }
        }
    })
}

fn second(time: bson::Timestamp) -> String {
    Timestamp::from_second(i64::from(time.time)).map(|t| t.to_string()).unwrap_or_default()
}

fn field(change: &FieldChange) -> String {
    let path = printable(&change.path);
    match (&change.from, &change.to) {
        (Some(from), Some(to)) => format!("{path}: {} → {}", short(from), short(to)),
        (None, Some(to)) => format!("{path}: → {}", short(to)),
        (Some(from), None) => format!("{path}: {} removed", short(from)),
        (None, None) => format!("{path}: removed"),
    }
}

fn short(value: &str) -> String {
    let shown = printable(value);
    match shown.char_indices().nth(SHOWN_CHARACTERS) {
        Some((at, _)) => format!("{}…", &shown[..at]),
        None => shown,
    }
}

/// Without characters that would break the line or steer the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_can_neither_break_lines_nor_steer_terminals() {
        assert_eq!(short("a\nb\u{1b}[31m"), "a b [31m");
        assert_eq!(short(&"ü".repeat(50)), format!("{}…", "ü".repeat(SHOWN_CHARACTERS)));
    }

    #[test]
    fn a_change_says_from_what_to_what() {
        let change = |from: Option<&str>, to: Option<&str>| {
            field(&FieldChange {
                path: "a.b".to_owned(),
                from: from.map(str::to_owned),
                to: to.map(str::to_owned),
            })
        };
        assert_eq!(change(Some("1"), Some("2")), "a.b: 1 → 2");
        assert_eq!(change(None, Some("2")), "a.b: → 2");
        assert_eq!(change(Some("1"), None), "a.b: 1 removed");
    }
}
