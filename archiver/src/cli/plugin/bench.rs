//! `archiver plugin bench`: what a plugin costs per event, in the sandbox, natively, and next to one that does nothing.

use std::path::PathBuf;

use anyhow::Result;
use archiver::authoring::native;
use archiver::plugin::workbench::{BATCH, Workbench};
use serde::Serialize;

use super::subject::Subject;
use super::{EXIT_CODES, Format, Outcome, output};

/// Events of one round at least; fewer samples are repeated.
const EVENTS: usize = 8 * BATCH;

/// Measures a plugin: nanoseconds per event in the sandbox, next to an empty plugin and to the same code natively
///
/// Events go in batches of 256 with a fresh instance each, as in the service, checks included. Natively needs the crate: a small
/// program is built beside it. Compare figures of one machine and one run only.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Args {
    /// The plugin's .wasm file, or the folder of its crate, which is built first
    #[arg(value_name = "FILE|DIR")]
    plugin: PathBuf,
    /// Events as for `plugin test` [default: the crate's events.jsonl, else a few of a small shop]
    #[arg(long, value_name = "FILE")]
    events: Option<PathBuf>,
    /// The plugin's configuration, TOML or JSON [default: the crate's config.toml, else none]
    #[arg(long, value_name = "FILE")]
    plugin_config: Option<PathBuf>,
    /// How often everything is measured
    #[arg(long, value_name = "N", default_value_t = 21, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// How the result is printed
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

#[derive(Serialize)]
struct Measured {
    events: String,
    event_bytes: usize,
    sandbox: Times,
    empty: Times,
    #[serde(skip_serializing_if = "Option::is_none")]
    native: Option<Times>,
}

/// Nanoseconds per event.
#[derive(Serialize)]
struct Times {
    min: f64,
    median: f64,
}

impl Times {
    fn of(mut rounds: Vec<f64>) -> Times {
        rounds.sort_by(f64::total_cmp);
        let median = rounds.get(rounds.len() / 2).copied().unwrap_or(f64::NAN);
        Times { min: rounds.first().copied().unwrap_or(f64::NAN), median }
    }
}

pub(super) fn run(args: Args) -> Result<Outcome> {
    let subject = Subject::find(&args.plugin)?;
    let config = subject.config(args.plugin_config.as_deref())?;
    let (samples, name) = subject.events(args.events.as_deref())?;
    let workbench = subject.load(&config)?;
    let empty = Workbench::empty()?;
    let count = EVENTS.max(samples.len());
    let events: Vec<&[u8]> =
        samples.iter().map(|sample| sample.body.as_slice()).cycle().take(count).collect();
    let rounds = usize::from(args.rounds);
    // The first round finds cold caches.
    workbench.time(&events, 1)?;
    let measured = Measured {
        events: name,
        event_bytes: events.iter().map(|event| event.len()).sum::<usize>() / count,
        sandbox: Times::of(workbench.time(&events, rounds)?),
        empty: Times::of(empty.time(&events, rounds)?),
        native: match &subject.plugin {
            Some(plugin) => Some(Times::of(native::time(plugin, &config.json, &events, rounds)?)),
            None => None,
        },
    };
    match args.format {
        Format::Json => output::json(&measured)?,
        Format::Table => table(&measured)?,
    }
    Ok(Outcome::Fine)
}

fn table(measured: &Measured) -> Result<()> {
    let Measured { events, event_bytes, sandbox, empty, native } = measured;
    output::text(&format!("events of {event_bytes} bytes on average, from {events}\n\n"))?;
    let row = |name: &str, times: &Times| {
        let ratio = match std::ptr::eq(times, sandbox) {
            true => String::new(),
            false => format!("{:.1}", sandbox.min / times.min),
        };
        vec![name.to_owned(), format!("{:.0}", times.min), format!("{:.0}", times.median), ratio]
    };
    let mut rows = vec![row("this plugin, in the sandbox", sandbox)];
    rows.extend(native.as_ref().map(|native| row("this plugin, natively", native)));
    rows.push(row("an empty plugin, in the sandbox", empty));
    output::table(&["NS PER EVENT", "MIN", "MEDIAN", "THIS PLUGIN IS … TIMES THAT"], rows)?;
    if cfg!(debug_assertions) {
        output::text(
            "\nThis archiver is a debug build, and slow in the sandbox: measure with a release build.\n",
        )?;
    }
    Ok(())
}
