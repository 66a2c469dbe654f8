//! `archiver quarantine`: withheld events, and trying them again.

use std::collections::BTreeMap;
use std::io::Write;

use anyhow::Result;
use archiver::capture::retry::{Named, Tried};
use archiver::quarantine::{Chance, OpenEvent, list};
use archiver::service::{StreamTried, retry};
use archiver::stream_id::StreamId;
use archiver::{Error, Kind};
use clap::Subcommand;

use super::{EXIT_CODES, Format, Global, Outcome, output};

/// Shows the events that are withheld because a plugin failed on them, and tries them again
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows which events are withheld, and whether the oplog still has them
    #[command(after_help = EXIT_CODES)]
    List(ListArgs),
    /// Passes withheld events through the plugins in force now, and appends those that pass
    ///
    /// An event is read again from the change stream, for as long as the oplog has it, and appended once, with its own time, as a
    /// late record; history shows it where it belongs. A document that a baseline read is looked for in its collection, and appended
    /// as it is now. What fails again stays withheld. The archiver that captures the source
    /// does the work; where none does, this command.
    #[command(after_help = EXIT_CODES)]
    Retry(RetryArgs),
}

#[derive(Debug, clap::Args)]
struct ListArgs {
    /// Only this source
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// One line for each event in the table, instead of one for those that are alike
    #[arg(long)]
    each: bool,
    /// How they are printed; JSON has each event
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

#[derive(Debug, clap::Args)]
struct RetryArgs {
    /// Only this source
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// Only the event with this quarantine record; may be given several times
    #[arg(long, value_name = "N", requires = "source")]
    seq: Vec<i64>,
    /// How the result is printed
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

pub(super) async fn run(args: Args, global: &Global) -> Result<Outcome> {
    match args.command {
        Command::List(args) => show(args, global).await,
        Command::Retry(args) => try_again(args, global).await,
    }
}

async fn show(args: ListArgs, global: &Global) -> Result<Outcome> {
    let open = list(&global.config()?, args.source.as_deref()).await?;
    match args.format {
        Format::Json => output::json(&open)?,
        Format::Table if args.each => output::table(
            &["source", "seq", "time", "operation", "namespace", "error", "plugin", "retry"],
            open.iter().map(row),
        )?,
        Format::Table => output::table(
            &["source", "operation", "namespace", "error", "plugin", "retry", "events", "seqs", "oldest"],
            alike(&open).into_iter().map(|(shared, events)| group(shared, &events)),
        )?,
    }
    Ok(Outcome::Fine)
}

/// What the events of one line have in common.
type Shared<'a> = (String, &'a str, &'a str, &'a str, &'a str, Chance);

fn alike(open: &[OpenEvent]) -> BTreeMap<Shared<'_>, Vec<&OpenEvent>> {
    let mut groups: BTreeMap<Shared<'_>, Vec<&OpenEvent>> = BTreeMap::new();
    for event in open {
        let shared = (name(event), &*event.op, &*event.namespace, &*event.error, &*event.plugin, event.retry);
        groups.entry(shared).or_default().push(event);
    }
    groups
}

fn group((source, op, namespace, error, plugin, retry): Shared<'_>, events: &[&OpenEvent]) -> Vec<String> {
    let (first, last) = (events.iter().map(|e| e.seq).min(), events.iter().map(|e| e.seq).max());
    let (first, last) = (first.unwrap_or(0), last.unwrap_or(0));
    let seqs = if first == last { first.to_string() } else { format!("{first}..={last}") };
    let oldest = events.first().map(|event| event.time.clone()).unwrap_or_default();
    let texts = [&source, op, namespace, error, plugin, chance(retry)].map(str::to_owned);
    texts.into_iter().chain([events.len().to_string(), seqs, oldest]).collect()
}

fn row(event: &OpenEvent) -> Vec<String> {
    let seq = event.seq.to_string();
    let texts = [&event.time, &event.op, &event.namespace, &event.error, &event.plugin];
    let texts = texts.into_iter().cloned().chain([chance(event.retry).to_owned()]);
    [name(event), seq].into_iter().chain(texts).collect()
}

fn name(event: &OpenEvent) -> String {
    StreamId { source: event.source.clone(), partition: event.partition }.to_string()
}

fn chance(chance: Chance) -> &'static str {
    match chance {
        Chance::Possible => "possible",
        Chance::Lost => "lost: the oplog no longer has it",
        Chance::AsItIsNow => "possible, as it is now",
        Chance::ReadBeside => "no: read by a baseline or a comparison",
        Chance::Unknown => "unknown",
    }
}

async fn try_again(args: RetryArgs, global: &Global) -> Result<Outcome> {
    let seqs = (!args.seq.is_empty()).then_some(args.seq);
    let mut shown = None;
    let progress = |stream: &StreamId, tried: &Tried| {
        let now = (stream.clone(), tried.done(), tried.of);
        if shown.as_ref() != Some(&now) {
            // Nobody is left to be told when stderr itself is closed.
            let _ = writeln!(std::io::stderr().lock(), "{stream}: {} of {} tried", tried.done(), tried.of);
            shown = Some(now);
        }
    };
    let tried = retry(&global.config()?, args.source.as_deref(), seqs, progress).await?;
    match args.format {
        Format::Json => output::json(&tried)?,
        Format::Table => {
            output::text(&tried.iter().map(summary).collect::<String>())?;
            if tried.is_empty() {
                output::text("nothing is withheld\n")?;
            }
        }
    }
    match verdict(&tried) {
        None => Ok(Outcome::Fine),
        Some(error) => Err(error.into()),
    }
}

/// One line for everything that became of a stream's events.
fn summary(stream: &StreamTried) -> String {
    let StreamTried { source, partition, tried } = stream;
    let name = StreamId { source: source.clone(), partition: *partition };
    let mut lines = vec![format!("{} of {} appended late", tried.late, tried.of)];
    if tried.snapshots > 0 {
        lines.push(format!("{} read again as they are now", tried.snapshots));
    }
    lines.extend(tried.dropped.iter().map(|(plugin, n)| format!("{n} dropped by {plugin}")));
    lines.extend(tried.failed.iter().map(|(why, named)| listed(named, &format!("failed again ({why})"))));
    for (named, what) in [
        (&tried.lost, "lost: the oplog no longer has them"),
        (&tried.missing, "not in the stream as it is configured now, or not in their collection any more"),
        (
            &tried.read_beside,
            "read by a baseline or a comparison, and nothing tells which documents they were: a new baseline reads them again",
        ),
        (&tried.unknown, "not withheld: released already, or never"),
    ] {
        if named.count > 0 {
            lines.push(listed(named, what));
        }
    }
    lines.iter().map(|line| format!("{name}: {line}\n")).collect()
}

fn listed(named: &Named, what: &str) -> String {
    const SHOWN: usize = 20;
    let seqs: Vec<String> = named.seqs.iter().take(SHOWN).map(i64::to_string).collect();
    let more = if named.count > seqs.len() as i64 { ", …" } else { "" };
    format!("{} {what}: seq {}{more}", named.count, seqs.join(", "))
}

/// The error for events that are still withheld, the gravest first; `None` where there are none.
fn verdict(tried: &[StreamTried]) -> Option<Error> {
    let sum = |count: fn(&Tried) -> i64| tried.iter().map(|stream| count(&stream.tried)).sum::<i64>();
    let failed = sum(|tried| tried.failed.values().map(|named| named.count).sum());
    let gone = sum(|tried| tried.lost.count + tried.missing.count + tried.read_beside.count);
    let unknown = sum(|tried| tried.unknown.count);
    if gone > 0 {
        let what = format!("events stay withheld and can't be read again from the stream events={gone}");
        return Some(
            Error::history_lost(what)
                .hint("`archiver quarantine list` shows them; docs/operating.md says what is left to do"),
        );
    }
    if failed > 0 {
        let what = format!("a plugin failed again, and events stay withheld events={failed}");
        return Some(Error::plugin(what).hint(
            "mend the plugin, put it in force with `archiver reload`, and try again while the oplog has them",
        ));
    }
    (unknown > 0).then(|| {
        Error::new(Kind::NotFound, format!("some of these events are not withheld events={unknown}"))
            .hint("`archiver quarantine list --each` shows which are")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(seqs: &[i64]) -> Named {
        let mut named = Named::default();
        named.extend(seqs.iter().copied());
        named
    }

    #[test]
    fn the_exit_code_is_that_of_the_gravest_thing_left() {
        let code = |tried: Tried| {
            let stream = StreamTried { source: "s".into(), partition: None, tried };
            verdict(&[stream]).map(|error| error.kind().exit_code())
        };
        let failed = BTreeMap::from([("p: trap".to_owned(), named(&[4]))]);
        assert_eq!(code(Tried { of: 2, late: 2, ..Tried::default() }), None);
        assert_eq!(code(Tried { unknown: named(&[1]), ..Tried::default() }), Some(16));
        assert_eq!(
            code(Tried { failed: failed.clone(), unknown: named(&[1]), ..Tried::default() }),
            Some(14)
        );
        assert_eq!(code(Tried { failed, lost: named(&[2]), ..Tried::default() }), Some(12));
    }

    #[test]
    fn many_seqs_are_not_all_listed() {
        let text = listed(&named(&(1..=25).collect::<Vec<_>>()), "lost");
        assert!(text.starts_with("25 lost: seq 1, 2,") && text.ends_with("20, …"), "{text}");
    }
}
