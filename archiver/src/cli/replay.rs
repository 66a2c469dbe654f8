//! `archiver replay`: plays history again, as change events or into collections.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use archiver::config::argument;
use archiver::history::Namespace;
use archiver::history::replay::{Bound, Counted, Into, Output, Range, Selection, Speed, replay};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::run::cancel_on_signal;
use super::{EXIT_CODES, Global, Outcome};

/// How often the line on a terminal is written anew.
const REDRAW: Duration = Duration::from_millis(200);
/// How often a log line says how far it is.
const LOG: Duration = Duration::from_secs(30);
/// Goes to the line's beginning and empties it.
const ERASE: &str = "\r\x1b[2K";

/// Plays the history of a source again, as change events or into collections
///
/// Prints a range of the history, in order, as documents in the shape of MongoDB's change events; or applies it into a collection, or
/// all collections of a database, so that they are what the source was, byte for byte. Several sources come in the order in which
/// it happened.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Args {
    /// The source; may be given several times
    #[arg(long, value_name = "NAME", required = true)]
    source: Vec<String>,
    /// From this record on, by seq, or from this time on (RFC 3339) [default: the beginning]
    #[arg(long, value_name = "TIME|SEQ")]
    from: Option<String>,
    /// Up to but without this record, by seq, or this time (RFC 3339) [default: what is recorded by now]
    #[arg(long, value_name = "TIME|SEQ")]
    to: Option<String>,
    /// Only this collection [default: all of the source]
    #[arg(long, value_name = "DB.COLLECTION")]
    namespace: Option<String>,
    /// Go on with what happens from now on, until stopped by SIGTERM or Ctrl-C
    #[arg(long)]
    follow: bool,
    /// ndjson: a change event a line, on standard output, as canonical Extended JSON. mongodb://…/db.collection: applied into this
    /// collection; mongodb://…/db: into the collections of this database. ${NAME} and ${file:PATH} put secrets in, as in the configuration
    #[arg(long, value_name = "ndjson|URI")]
    output: String,
    /// Writes into this file how far it has got, and goes on from there if it is there already; one replay at a time
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// As fast as it happened (1x), some times faster (10x), or as fast as can be (max)
    #[arg(long, value_name = "N", default_value = "max")]
    speed: String,
    /// Into collections: keep the changes of a transaction together, in a transaction of their own
    #[arg(long)]
    atomic: bool,
    /// Into collections: go on where history is missing, with what is known
    #[arg(long)]
    allow_gaps: bool,
    /// Into collections: what is there is what the source was at --from
    #[arg(long)]
    allow_nonempty: bool,
    /// Into collections: so many writers at the same time, each for some of the documents
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
    parallel: u8,
    /// So many events at most are dealt with together
    #[arg(long, value_name = "N", default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    batch: u32,
}

pub(super) async fn run(args: Args, global: &Global) -> Result<Outcome> {
    let bound =
        |name: &str, text: &Option<String>| text.as_deref().map(|t| Bound::parse(name, t)).transpose();
    let range = Range { from: bound("--from", &args.from)?, to: bound("--to", &args.to)? };
    let namespace = args.namespace.as_deref().map(Namespace::parse).transpose()?;
    let speed = Speed::parse(&args.speed)?;
    let output = output(&args)?;
    let mut sources = args.source;
    sources.sort();
    sources.dedup();
    let config = global.config()?;
    let history = super::history::open(global).await?;
    let stop = CancellationToken::new();
    if args.follow {
        cancel_on_signal(stop.clone())?;
    }
    let (follow, batch) = (args.follow, args.batch as usize);
    let selection = Selection { sources, range, namespace, follow, speed, batch, state: args.state };
    let mut shown = Shown::new();
    let counted = replay(&history, &config, selection, output, stop, |counted| shown.update(counted)).await;
    shown.clear();
    let counted = counted?;
    summarize(&counted, shown.started.elapsed());
    Ok(Outcome::Fine)
}

fn output(args: &Args) -> Result<Output> {
    if args.output == "ndjson" {
        for (given, name) in [
            (args.atomic, "--atomic"),
            (args.allow_gaps, "--allow-gaps"),
            (args.allow_nonempty, "--allow-nonempty"),
        ] {
            if given {
                return Err(
                    archiver::Error::invalid(format!("{name} is for --output into collections")).into()
                );
            }
        }
        return Ok(Output::Ndjson);
    }
    Ok(Output::Collections(Into {
        uri: argument("--output", &args.output)?.expose().to_owned(),
        allow_nonempty: args.allow_nonempty,
        allow_gaps: args.allow_gaps,
        atomic: args.atomic,
        parallel: usize::from(args.parallel),
    }))
}

fn summarize(counted: &Counted, elapsed: Duration) {
    info!("replayed {}", describe(counted, elapsed));
    if counted.gaps > 0 {
        warn!("history is missing in {} places", counted.gaps);
    }
    if counted.unknown > 0 {
        warn!(
            "{} changes were of documents that were not there: from before a baseline had read them, or their beginning is not in the history",
            counted.unknown
        );
    }
    if counted.inexact > 0 {
        warn!(
            "Extended JSON does not hold all of {} events: names such as \"$oid\" as plain fields, NaN payloads",
            counted.inexact
        );
    }
}

/// How far it is, on stderr: one line that is written over on a terminal, else a log line from time to time.
struct Shown {
    terminal: bool,
    started: Instant,
    last: Instant,
    drawn: bool,
}

impl Shown {
    fn new() -> Shown {
        let now = Instant::now();
        Shown { terminal: io::stderr().is_terminal(), started: now, last: now, drawn: false }
    }

    fn update(&mut self, counted: &Counted) {
        if self.last.elapsed() < if self.terminal { REDRAW } else { LOG } {
            return;
        }
        self.last = Instant::now();
        let text = describe(counted, self.started.elapsed());
        if self.terminal {
            self.drawn = true;
            // Nobody is left to be told when stderr itself is closed.
            let _ = write!(io::stderr().lock(), "{ERASE}replaying: {text}");
        } else {
            info!("replaying: {text}");
        }
    }

    fn clear(&self) {
        if self.drawn {
            let _ = write!(io::stderr().lock(), "{ERASE}");
        }
    }
}

/// `1200 events up to 2026-11-21T09:30:00Z, 400 a second`
fn describe(counted: &Counted, elapsed: Duration) -> String {
    let mut text = format!("{} events", counted.events);
    if counted.second > 0 {
        let time = jiff::Timestamp::from_second(i64::from(counted.second)).unwrap_or_default();
        text += &format!(" up to {time}");
    }
    let rate = counted.events as f64 / elapsed.as_secs_f64().max(0.001);
    text + &format!(", {rate:.0} a second")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_many_up_to_when_and_how_fast() {
        let counted = Counted { events: 1_200, second: 5, ..Counted::default() };
        let text = describe(&counted, Duration::from_secs(3));
        assert_eq!(text, "1200 events up to 1970-01-01T00:00:05Z, 400 a second");
        assert_eq!(describe(&Counted::default(), Duration::ZERO), "0 events, 0 a second");
    }
}
