//! What this process knows of its streams, as metrics and as health. Asks no server: a scrape costs and waits for nothing.
//!
//! Where a stream stands is told only by whoever captures it, or captured it last and can't go on. Labels name sources, partitions,
//! plugins and kinds of errors, and never anything that documents hold.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use tracing::info;

use super::members::Seat;
use crate::capture::headroom::Measured;
use crate::capture::lease::Leases;
use crate::capture::standing::Standing;
use crate::error::{Kind, Result};
use crate::metrics::server::{Answer, Server};
use crate::metrics::{CONTENT_TYPE, Labels, Page, Type};

/// The errors after which a stream starts over, which are counted from 0 on; others are there once they happen.
const PASSING: [Kind; 3] = [Kind::Unavailable, Kind::Fenced, Kind::Internal];

/// What happened to a stream in this process.
#[derive(Debug, Default)]
pub(super) struct Tally(Mutex<Counts>);

#[derive(Debug, Clone, Default)]
struct Counts {
    restarts: BTreeMap<&'static str, u64>,
    archive_failures: BTreeMap<&'static str, u64>,
    rolled_seq: Option<i64>,
    /// Findings of the verification that stand.
    findings: Option<i64>,
    segments_verified: u64,
    rolled_at: Option<SystemTime>,
}

impl Tally {
    /// Capture starts over after an error of this kind.
    pub(super) fn restarted(&self, kind: Kind) {
        *self.counts().restarts.entry(kind.name()).or_default() += 1;
    }

    /// Rolling or trimming failed, and is tried again.
    pub(super) fn archive_failed(&self, kind: Kind) {
        *self.counts().archive_failures.entry(kind.name()).or_default() += 1;
    }

    /// The archive holds everything before this seq.
    pub(super) fn rolled_to(&self, end_seq: i64) {
        self.counts().rolled_seq = Some(end_seq - 1);
    }

    /// So many findings stand against the archive.
    pub(super) fn found(&self, findings: i64) {
        self.counts().findings = Some(findings);
    }

    /// A segment was verified.
    pub(super) fn verified(&self) {
        self.counts().segments_verified += 1;
    }

    /// Everything that was due is rolled, or archiving only begins.
    pub(super) fn all_rolled(&self) {
        self.counts().rolled_at = Some(SystemTime::now());
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves `/metrics`, `/healthz` and `/livez` until it is dropped.
pub(super) fn serve(
    server: Server,
    seats: Vec<Arc<Seat>>,
    leases: Leases,
) -> Result<impl Future<Output = ()> + Send + 'static> {
    info!(address = %server.address()?, "serving metrics");
    let started = SystemTime::now();
    Ok(server.serve(move |path| match path {
        "/metrics" => {
            let body = metrics(&seats, &leases, started);
            Some(Answer { status: "200 OK", content_type: CONTENT_TYPE, body })
        }
        "/healthz" => Some(health(&seats)),
        // For whoever restarts what does not answer: a stream that needs a human is not mended by that.
        "/livez" => Some(Answer::text("200 OK", "ok\n")),
        _ => None,
    }))
}

fn health(seats: &[Arc<Seat>]) -> Answer {
    let halted = seats.iter().filter_map(|seat| Some((seat, seat.halted()?)));
    let lines: String = halted
        .map(|(seat, kind)| {
            format!("halted: {} ({}, exit code {})\n", seat.stream, kind.name(), kind.exit_code())
        })
        .collect();
    match lines.is_empty() {
        true => Answer::text("200 OK", "ok\n"),
        false => Answer::text("503 Service Unavailable", lines),
    }
}

/// One stream at the moment of a scrape.
struct Stream<'a> {
    source: &'a str,
    partition: Option<String>,
    held: bool,
    halted: Option<Kind>,
    counts: Counts,
    measured: Measured,
}

impl<'s> Stream<'s> {
    fn of(seat: &'s Seat, leases: &Leases) -> Stream<'s> {
        Stream {
            source: &seat.stream.source,
            partition: seat.stream.partition.map(|n| n.to_string()),
            held: leases.held_for(&seat.stream).is_some(),
            halted: seat.halted(),
            counts: seat.tally.counts().clone(),
            measured: seat.headroom.read(),
        }
    }

    fn labels(&self) -> Labels<'_> {
        let partition = self.partition.as_deref().map(|partition| ("partition", partition));
        [("source", self.source)].into_iter().chain(partition).collect()
    }

    fn labels_with<'a>(&'a self, name: &'static str, value: &'a str) -> Labels<'a> {
        [self.labels(), vec![(name, value)]].concat()
    }
}

fn metrics(seats: &[Arc<Seat>], leases: &Leases, started: SystemTime) -> String {
    let streams: Vec<Stream<'_>> = seats.iter().map(|seat| Stream::of(seat, leases)).collect();
    let mut page = Page::default();
    let version = vec![("version", env!("CARGO_PKG_VERSION"))];
    page.metric("archiver_build_info", Type::Gauge, "Always 1.", [(version, 1)]);
    let started = started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let help = "When this process began to serve metrics, since 1970.";
    page.metric("process_start_time_seconds", Type::Gauge, help, [(Vec::new(), started)]);
    states(&mut page, &streams);
    positions(&mut page, &streams);
    counters(&mut page, &streams);
    page.into_text()
}

fn states(page: &mut Page, streams: &[Stream<'_>]) {
    let mut gauge = |name, help, value: &dyn Fn(&Stream<'_>) -> u8| {
        page.metric(name, Type::Gauge, help, streams.iter().map(|s| (s.labels(), value(s))));
    };
    gauge("archiver_lease_held", "Whether this process holds the stream's lease.", &|s| s.held.into());
    gauge("archiver_source_halted", "Whether the stream has stopped here until a human mends it.", &|s| {
        s.halted.is_some().into()
    });
    gauge(
        "archiver_source_exit_code",
        "The exit code of what halted the stream; 0 where nothing did.",
        &|s| s.halted.map_or(0, Kind::exit_code),
    );
    let mut by_kind = |name, help, counts: &dyn Fn(&Counts) -> &BTreeMap<&'static str, u64>| {
        let values = streams.iter().flat_map(|s| {
            let mut all: BTreeMap<_, _> = PASSING.map(|kind| (kind.name(), 0)).into();
            all.extend(counts(&s.counts));
            all.into_iter().map(|(kind, count)| (s.labels_with("kind", kind), count)).collect::<Vec<_>>()
        });
        page.metric(name, Type::Counter, help, values);
    };
    let help = "How often capture started over in this process, by the kind of the error.";
    by_kind("archiver_restarts_total", help, &|c| &c.restarts);
    let help = "How often rolling or trimming failed in this process, by the kind of the error.";
    by_kind("archiver_archive_failures_total", help, &|c| &c.archive_failures);
    let help = "Segments that the verification has read in this process.";
    let verified = streams.iter().map(|s| (s.labels(), s.counts.segments_verified));
    page.metric("archiver_segments_verified_total", Type::Counter, help, verified);
}

/// Where the streams stand that are captured here.
fn positions(page: &mut Page, streams: &[Stream<'_>]) {
    let now = Instant::now();
    let mut gauge = |name, help, value: &dyn Fn(&Stream<'_>, &Standing) -> Option<f64>| {
        let value = |s: &Stream<'_>| value(s, s.measured.standing.as_ref()?);
        page.metric(name, Type::Gauge, help, streams.iter().filter_map(|s| Some((s.labels(), value(s)?))));
    };
    gauge("archiver_seq", "The last record's seq.", &|_, at| Some(at.seq as f64));
    gauge("archiver_rolled_seq", "The seq of the last record that is sealed in the archive.", &|s, _| {
        s.counts.rolled_seq.map(|seq| seq as f64)
    });
    let help = "What the verification of the archive found, and stands.";
    gauge("archiver_verify_findings", help, &|s, _| s.counts.findings.map(|n| n as f64));
    let help = "At this time, since 1970, everything that was due was sealed in the archive.";
    gauge("archiver_rolled_timestamp_seconds", help, &|s, _| {
        Some(s.counts.rolled_at?.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs() as f64)
    });
    gauge("archiver_epoch", "The number of the stream's writer.", &|_, at| Some(at.epoch as f64));
    let help = "Everything up to this time, since 1970, is in the audit log.";
    gauge("archiver_captured_timestamp_seconds", help, &|_, at| Some(at.captured.time.into()));
    let help = "How far that is behind the watched deployment.";
    gauge("archiver_lag_seconds", help, &|s, _| s.measured.lag(now));
    let help =
        "How much longer the stream may stand still before the oplog has forgotten what is not captured.";
    gauge("archiver_oplog_headroom_seconds", help, &|s, _| Some(s.measured.headroom?.seconds as f64));
    let help = "The time from the oplog's oldest entry to its newest.";
    gauge("archiver_oplog_window_seconds", help, &|s, _| Some(s.measured.headroom?.window as f64));
    let help = "Documents of the baseline that have been read, while it is not complete.";
    gauge("archiver_baseline_documents", help, &|_, at| Some(at.baseline?.0 as f64));
    let help = "Documents of the baseline, about, while it is not complete.";
    gauge("archiver_baseline_documents_estimated", help, &|_, at| Some(at.baseline?.1 as f64));
    let help = "Gaps behind which the present has not been compared yet with what is known.";
    gauge("archiver_comparisons_pending", help, &|_, at| Some(at.comparisons as f64));
    let help =
        "Events that are kept without their contents because a plugin failed, and that were not released.";
    gauge("archiver_events_withheld", help, &|_, at| Some(at.counters.withheld() as f64));
}

/// What the checkpoint counts, since the source began; whichever process captures goes on counting.
fn counters(page: &mut Page, streams: &[Stream<'_>]) {
    let standing = || streams.iter().filter_map(|s| Some((s, s.measured.standing.as_ref()?)));
    let mut counter = |name, help, value: &dyn Fn(&Standing) -> i64| {
        page.metric(name, Type::Counter, help, standing().map(|(s, at)| (s.labels(), value(at))));
    };
    let help = "Change events and baseline documents read.";
    counter("archiver_events_read_total", help, &|at| at.counters.read);
    let help = "Of what was read, what became records, quarantine records included.";
    counter("archiver_records_appended_total", help, &|at| at.counters.appended);
    let help = "Of the records, those that hold no contents because a plugin failed.";
    counter("archiver_records_quarantined_total", help, &|at| at.counters.quarantined);
    let help = "Events that were released from quarantine: tried again, and appended late or dropped.";
    counter("archiver_events_released_total", help, &|at| at.counters.released);
    let help = "Records of the archiver's own doing.";
    counter("archiver_own_records_total", help, &|at| at.counters.own);
    counter("archiver_gaps_total", "Stretches of history that are missing.", &|at| at.counters.gaps);
    let dropped = standing().flat_map(|(s, at)| {
        at.counters.dropped.iter().map(|(plugin, count)| (s.labels_with("plugin", plugin), *count))
    });
    let help = "Of what was read, what a plugin dropped.";
    page.metric("archiver_events_dropped_total", Type::Counter, help, dropped);
}
