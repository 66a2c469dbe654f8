//! `archiver plugin test`: what a plugin does to events, shown to its author.

use std::io::IsTerminal;
use std::path::PathBuf;

use anyhow::Result;
use archiver::Error;
use archiver::authoring::diff::{Change, diff};
use archiver::capture::tail::tail;
use archiver::plugin::FailureCode;
use archiver::plugin::workbench::{Judged, Trial, Workbench};
use bson_walker::Doc;
use serde::Serialize;

use super::subject::Subject;
use super::{EXIT_CODES, Format, Global, Outcome, output};

/// Runs a plugin on events in the sandbox, and shows what it changes, says, and fails on
///
/// Each event runs in an instance of its own, with the limits and checks of the service. Exits with 14 when the plugin fails on
/// any of them. Colours are left out where stdout is no terminal or NO_COLOR is set.
///
/// This shows events in clear, also what the plugin exists to hide: use sample events, or be somebody who may see those of
/// --source. Nothing is written anywhere.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Args {
    /// The plugin's .wasm file, or the folder of its crate, which is built first
    #[arg(value_name = "FILE|DIR")]
    plugin: PathBuf,
    /// Events, one a line, as Extended JSON: in the layout that plugins get, or change events as `EJSON.stringify` prints them in
    /// mongosh [default: the crate's events.jsonl, else a few of a small shop]
    #[arg(long, value_name = "FILE", conflicts_with = "source")]
    events: Option<PathBuf>,
    /// The plugin's configuration, TOML or JSON [default: the crate's config.toml, else none]
    #[arg(long, value_name = "FILE")]
    plugin_config: Option<PathBuf>,
    /// Take the events that come from now on from this source's change stream; needs archiver.toml, and shows them in clear
    #[arg(long, value_name = "NAME", requires = "tail")]
    source: Option<String>,
    /// How many events to take
    #[arg(long, value_name = "N", requires = "source")]
    tail: Option<usize>,
    /// How the result is printed; JSON is one object for each event, a line each
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

pub(super) async fn run(args: Args, global: &Global) -> Result<Outcome> {
    let config = args.source.as_ref().map(|_| global.config()).transpose()?;
    let source = config.as_ref().zip(args.source.as_deref()).map(|(c, name)| c.source(name)).transpose()?;
    let subject = Subject::find(&args.plugin)?;
    let workbench = subject.load(&subject.config(args.plugin_config.as_deref())?)?;
    let mut report = Report { workbench, format: args.format, paint: Paint::for_stdout(), counts: [0; 4] };
    match (config.as_ref().zip(source), args.tail) {
        (Some((config, source)), Some(count)) => {
            let waiting = || {
                // On stderr, which is not part of the result.
                tracing::warn!(source = source.name, count, "waiting for events; they are shown in clear");
                Ok(())
            };
            let mut number = 0;
            let each = |body: Vec<u8>| {
                number += 1;
                report.event(&number.to_string(), &body).map_err(|e| Error::internal("stdout").because(e))
            };
            tail(config, source, count, waiting, each).await?;
        }
        _ => {
            let (samples, _) = subject.events(args.events.as_deref())?;
            for sample in samples {
                report.event(&sample.line.to_string(), &sample.body)?;
            }
        }
    }
    report.end()
}

/// One event, as JSON.
#[derive(Serialize)]
struct Line<'a> {
    /// The line in the file of events, or the number of the event.
    event: &'a str,
    op: &'a str,
    ns: &'a str,
    verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Failed<'a>>,
    changes: &'a [Change],
    log: Vec<Said<'a>>,
}

#[derive(Serialize)]
struct Failed<'a> {
    code: &'static str,
    explanation: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
}

#[derive(Serialize)]
struct Said<'a> {
    level: &'static str,
    message: &'a str,
}

const VERDICTS: [&str; 4] = ["kept", "replaced", "dropped", "failed"];

struct Report {
    workbench: Workbench,
    format: Format,
    paint: Paint,
    /// Events by their verdict, in the order of [`VERDICTS`].
    counts: [usize; 4],
}

impl Report {
    /// Runs the plugin on an event and prints what became of it.
    fn event(&mut self, number: &str, body: &[u8]) -> Result<()> {
        let trial = self.workbench.judge(body);
        let doc = Doc::new(body)?;
        let text = |path: &[&str]| doc.get_path(path).and_then(|e| e.as_str()).unwrap_or("").to_owned();
        let ns = [text(&["ns", "db"]), text(&["ns", "coll"])];
        let ns = ns.iter().filter(|part| !part.is_empty()).map(String::as_str).collect::<Vec<_>>().join(".");
        let (which, changes) = match &trial.verdict {
            Judged::Kept => (0, Vec::new()),
            Judged::Replaced(after) => (1, diff(doc, Doc::new(after)?)),
            Judged::Dropped => (2, Vec::new()),
            Judged::Failed { .. } => (3, Vec::new()),
        };
        self.counts[which] += 1;
        let line = Line {
            event: number,
            op: &text(&["op"]),
            ns: &ns,
            verdict: VERDICTS[which],
            error: failed(&trial),
            changes: &changes,
            log: trial.log.iter().map(|(level, message)| Said { level, message }).collect(),
        };
        match self.format {
            Format::Json => output::text(&format!("{}\n", serde_json::to_string(&line)?)),
            Format::Table => output::text(&self.paint.event(&line)),
        }
    }

    fn end(self) -> Result<Outcome> {
        let all: usize = self.counts.iter().sum();
        if self.format == Format::Table {
            let counts = self.counts.iter().zip(VERDICTS).filter(|(count, _)| **count > 0);
            let counts: Vec<_> = counts.map(|(count, verdict)| format!("{count} {verdict}")).collect();
            let events = if all == 1 { "event" } else { "events" };
            output::text(&format!("{all} {events}: {}\n", counts.join(", ")))?;
        }
        match self.counts[3] {
            0 => Ok(Outcome::Fine),
            failed => Err(Error::plugin(format!("the plugin failed on {failed} of {all} events"))
                .hint("the service would withhold them (quarantine) or stop before them (halt)")
                .into()),
        }
    }
}

fn failed(trial: &Trial) -> Option<Failed<'_>> {
    let Judged::Failed { code, detail } = &trial.verdict else { return None };
    let code: FailureCode = *code;
    Some(Failed { code: code.as_str(), explanation: code.explanation(), detail: detail.as_deref() })
}

/// Colours, or none.
struct Paint {
    colours: bool,
}

const RED: &str = "31";
const GREEN: &str = "32";
const YELLOW: &str = "33";
const BOLD: &str = "1";

impl Paint {
    fn for_stdout() -> Paint {
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Paint { colours: !unwanted && std::io::stdout().is_terminal() }
    }

    fn in_colour(&self, colour: &str, text: &str) -> String {
        // What comes from an event or a plugin must not move the cursor.
        let text: String = text.chars().flat_map(visible).collect();
        if self.colours { format!("\x1b[{colour}m{text}\x1b[0m") } else { text }
    }

    fn event(&self, line: &Line<'_>) -> String {
        let colour = match line.verdict {
            "kept" => GREEN,
            "failed" => RED,
            _ => YELLOW,
        };
        let head = format!("{}  {} {}", line.event, line.op, line.ns);
        let mut text =
            format!("{}  {}\n", self.in_colour(BOLD, head.trim_end()), self.in_colour(colour, line.verdict));
        if let Some(Failed { code, explanation, detail }) = &line.error {
            let detail = detail.map(|detail| format!(": {detail}")).unwrap_or_default();
            text.push_str(&format!(
                "    {}\n",
                self.in_colour(RED, &format!("{code}: {explanation}{detail}"))
            ));
        }
        for Change { path, before, after } in line.changes {
            let old = before.as_ref().map(|value| (RED, '-', value));
            let new = after.as_ref().map(|value| (GREEN, '+', value));
            for (colour, sign, value) in old.into_iter().chain(new) {
                text.push_str(&format!(
                    "    {}\n",
                    self.in_colour(colour, &format!("{sign} {path}: {value}"))
                ));
            }
        }
        for Said { level, message } in &line.log {
            text.push_str(&format!("    {}\n", self.in_colour(YELLOW, &format!("log {level}: {message}"))));
        }
        text
    }
}

/// A character, or its escape where it is a control character.
fn visible(c: char) -> impl Iterator<Item = char> {
    let (plain, escaped) = match c.is_control() {
        true => (None, Some(c.escape_default())),
        false => (Some(c), None),
    };
    plain.into_iter().chain(escaped.into_iter().flatten())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line<'a>(changes: &'a [Change], message: &'a str) -> Line<'a> {
        let log = vec![Said { level: "error", message }];
        Line { event: "3", op: "update", ns: "shop.orders", verdict: "replaced", error: None, changes, log }
    }

    #[test]
    fn changes_are_shown_path_by_path_and_nothing_moves_the_cursor() {
        let changes = [
            Change { path: "after.a".into(), before: Some("\"x\"".into()), after: Some("\"***\"".into()) },
            Change { path: "after.b".into(), before: Some("1".into()), after: None },
        ];
        let plain = Paint { colours: false }.event(&line(&changes, "a\x1b[2J\nb"));
        let expected = "3  update shop.orders  replaced\n    - after.a: \"x\"\n    + after.a: \"***\"\n    - after.b: 1\n    \
                        log error: a\\u{1b}[2J\\nb\n";
        assert_eq!(plain, expected);
    }

    #[test]
    fn colours_are_put_around_each_part() {
        let shown = Paint { colours: true }.event(&line(&[], "x"));
        assert_eq!(
            shown,
            "\x1b[1m3  update shop.orders\x1b[0m  \x1b[33mreplaced\x1b[0m\n    \x1b[33mlog error: x\x1b[0m\n"
        );
    }
}
