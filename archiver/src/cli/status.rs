//! `archiver status`: where every source stands.

use anyhow::Result;
use archiver::checkpoint::PluginCounters;
use archiver::status::{InstanceStatus, SnapshotStatus, SourceStatus, State, instances, status};
use archiver::stream_id::StreamId;

use super::{EXIT_CODES, Format, Global, Outcome, output};

/// Shows where every source stands: lag, oplog headroom, seq, writer, counters, quarantine, gaps, last error
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Args {
    /// Only this source
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// The living archivers and what each holds, instead of the sources
    #[arg(long, conflicts_with = "source")]
    instances: bool,
    /// How it is printed
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

const INSTANCE_HEADER: [&str; 7] = ["instance", "host", "pid", "version", "since", "holds", "failing"];
const HEADER: [&str; 16] = [
    "source",
    "state",
    "seq",
    "rolled",
    "epoch",
    "holder",
    "held for",
    "captured to",
    "lag",
    "headroom",
    "read",
    "appended",
    "dropped",
    "quarantined",
    "withheld",
    "gaps",
];

pub(super) async fn run(args: Args, global: &Global) -> Result<Outcome> {
    let config = global.config()?;
    let alive = match args.format == Format::Table || args.instances {
        true => instances(&config).await?,
        false => Vec::new(),
    };
    if args.instances {
        match args.format {
            Format::Json => output::json(&alive)?,
            Format::Table => output::table(&INSTANCE_HEADER, alive.iter().map(instance_row))?,
        }
        return Ok(Outcome::Fine);
    }
    let sources = status(&config, args.source.as_deref()).await?;
    match args.format {
        Format::Json => output::json(&sources)?,
        Format::Table => {
            output::table(&HEADER, sources.iter().map(row))?;
            output::text(&sources.iter().map(remarks).collect::<String>())?;
            if args.source.is_none() && !alive.is_empty() {
                output::text("\n")?;
                output::table(&INSTANCE_HEADER, alive.iter().map(instance_row))?;
            }
        }
    }
    Ok(Outcome::Fine)
}

fn row(source: &SourceStatus) -> Vec<String> {
    let state = match (source.state, &source.snapshot) {
        (State::NeverStarted, _) => "never started",
        (State::Running, Some(_)) => "reading baseline",
        (State::Running, None) if !source.comparisons.is_empty() => "comparing",
        (State::Running, None) => "running",
        (State::Stopped, _) => "stopped",
        (State::Halted, _) => "halted",
    };
    let seconds = |seconds: Option<i64>| seconds.map_or("unknown".to_owned(), duration);
    let counters = &source.counters;
    vec![
        name(source),
        state.to_owned(),
        source.seq.to_string(),
        source.rolled_seq.map_or("unknown".to_owned(), |seq| seq.to_string()),
        source.epoch.map_or("-".to_owned(), |epoch| epoch.to_string()),
        source.holder.clone().unwrap_or_else(|| "-".to_owned()),
        source.lease_age_seconds.map_or("-".to_owned(), duration),
        source.captured_to.clone().unwrap_or_else(|| "-".to_owned()),
        seconds(source.lag_seconds),
        headroom(source),
        counters.read.to_string(),
        counters.appended.to_string(),
        counters.dropped.values().sum::<i64>().to_string(),
        source.quarantined.to_string(),
        source.withheld.to_string(),
        source.gaps.map_or("unknown".to_owned(), |gaps| gaps.to_string()),
    ]
}

/// `payments`, or `payments/3` for one of its partitions.
fn name(source: &SourceStatus) -> String {
    StreamId { source: source.source.clone(), partition: source.partition }.to_string()
}

/// `5h 3m, 80%`
fn headroom(source: &SourceStatus) -> String {
    match (source.oplog_headroom_seconds, source.oplog_headroom_percent) {
        (Some(seconds), Some(percent)) => format!("{}, {percent}%", duration(seconds)),
        _ => "unknown".to_owned(),
    }
}

fn instance_row(instance: &InstanceStatus) -> Vec<String> {
    let names = |names: &[String]| if names.is_empty() { "-".to_owned() } else { names.join(",") };
    vec![
        instance.holder.clone(),
        instance.host.clone(),
        instance.pid.to_string(),
        instance.version.clone(),
        instance.since.clone(),
        names(&instance.holds),
        names(&instance.failing),
    ]
}

/// What does not fit a column: which plugin dropped, the last error, problems.
fn remarks(source: &SourceStatus) -> String {
    let mut lines = Vec::new();
    lines.extend(source.snapshot.as_ref().map(|snapshot| baseline(snapshot, source.state)));
    for comparison in &source.comparisons {
        let what = comparison.namespace.as_deref().unwrap_or("everything");
        let (gap, after, until) = (comparison.gap, &comparison.after, &comparison.until);
        lines.push(format!("to be compared behind a gap: {what} gap={gap} after={after} until={until}"));
    }
    lines.extend(source.counters.plugins.iter().map(|(name, counters)| plugin(name, counters)));
    let others =
        source.counters.dropped.iter().filter(|(name, _)| !source.counters.plugins.contains_key(*name));
    lines.extend(others.map(|(name, n)| format!("dropped by {name}: {n}")));
    lines.extend(noted(source));
    lines.extend(kept(source));
    lines.extend(source.last_error.iter().map(|e| format!("last error at {}: {}", e.at, e.message)));
    lines.extend(source.problems.iter().map(|problem| format!("problem: {problem}")));
    lines.iter().map(|line| format!("{}: {line}\n", name(source))).collect()
}

/// What was read or recovered and is not on record yet.
fn noted(source: &SourceStatus) -> Option<String> {
    let when = match source.state {
        State::Running => "in a moment",
        _ => "when it runs again",
    };
    let notices = source.notices;
    (notices > 0).then(|| format!("notices of reads and recoveries: {notices}; they become records {when}"))
}

/// What has expired, and what is held.
fn kept(source: &SourceStatus) -> Vec<String> {
    let mut lines = Vec::new();
    if let (Some(seq @ 1..), Some(until)) = (source.expired_seq, &source.expired_until) {
        lines.push(format!("history up to {until} has been removed by retention: seq=1..={seq}"));
    }
    if source.overdue > 0 {
        let why = match source.legal_holds {
            0 => "they expire with one of the next passes; where not, the log of its archiver says why",
            _ => "a legal hold may keep them",
        };
        lines.push(format!("segments older than retention: {}; {why}", source.overdue));
    }
    if source.legal_holds > 0 {
        lines.push(format!("legal holds in force: {}; archiver hold list shows them", source.legal_holds));
    }
    lines
}

/// What one plugin did.
fn plugin(name: &str, counters: &PluginCounters) -> String {
    let PluginCounters { kept, replaced, dropped, failed, .. } = counters;
    let micros =
        counters.micros_per_event().map_or(String::new(), |micros| format!(", {micros:.1} µs per event"));
    format!("plugin {name}: {kept} kept, {replaced} replaced, {dropped} dropped, {failed} failed{micros}")
}

/// How far the baseline is, and for how long it is still being read.
fn baseline(snapshot: &SnapshotStatus, state: State) -> String {
    let SnapshotStatus { documents, estimated, percent, done, collections, ranges, .. } = snapshot;
    let mut text = format!(
        "baseline: {documents} of about {estimated} documents ({percent} %), {done} of {collections} collections, {ranges} ranges open"
    );
    if state == State::Running
        && let (Some(rate), Some(left)) = (snapshot.documents_per_second, snapshot.seconds_left)
    {
        text.push_str(&format!(", {rate}/s, about {} left", duration(left)));
    }
    text
}

/// Two units are exact enough for a person.
fn duration(seconds: i64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h {}m", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_has_at_most_two_units() {
        let shown: Vec<String> = [0, 59, 60, 3_599, 3_600, 86_399, 86_400, 900_000].map(duration).into();
        assert_eq!(shown, ["0s", "59s", "1m 0s", "59m 59s", "1h 0m", "23h 59m", "1d 0h", "10d 10h"]);
    }

    #[test]
    fn a_baseline_says_how_far_it_is_and_how_long_it_takes() {
        let snapshot = SnapshotStatus {
            started: String::new(),
            done: 3,
            collections: 9,
            ranges: 5,
            documents: 1_200,
            estimated: 4_000,
            percent: 30,
            documents_per_second: Some(15),
            seconds_left: Some(187),
        };
        let stopped = "baseline: 1200 of about 4000 documents (30 %), 3 of 9 collections, 5 ranges open";
        assert_eq!(baseline(&snapshot, State::Stopped), stopped);
        assert_eq!(baseline(&snapshot, State::Running), format!("{stopped}, 15/s, about 3m 7s left"));
    }

    #[test]
    fn every_plugin_has_a_line_with_what_it_did_and_how_fast() {
        let counters = PluginCounters { kept: 1, replaced: 2, dropped: 3, failed: 4, micros: 25 };
        let line = "plugin p: 1 kept, 2 replaced, 3 dropped, 4 failed, 2.5 µs per event";
        assert_eq!(plugin("p", &counters), line);
        assert!(plugin("p", &PluginCounters::default()).ends_with("0 failed"));
    }

    #[test]
    fn what_is_not_known_is_said_so() {
        let source =
            SourceStatus { source: "payments".into(), problems: vec!["x".into()], ..Default::default() };
        assert_eq!(row(&source)[..10].join("|"), "payments|never started|0|unknown|-|-|-|-|unknown|unknown");
        assert_eq!(row(&source).len(), HEADER.len());
        assert_eq!(remarks(&source), "payments: problem: x\n");
    }
}
