//! How far a verification is, on stderr: one line that is written over on a terminal, else a log line from time to time.

use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use archiver::history::verify::Progress;
use tracing::info;

/// How often the line on a terminal is written anew.
const REDRAW: Duration = Duration::from_millis(200);
/// How often a log line says how far it is.
const LOG: Duration = Duration::from_secs(30);
/// Goes to the line's beginning and empties it.
const ERASE: &str = "\r\x1b[2K";

/// What is shown of the progress.
pub(super) struct Shown {
    terminal: bool,
    started: Instant,
    last: Mutex<Option<Instant>>,
}

impl Shown {
    pub(super) fn new() -> Shown {
        Shown { terminal: io::stderr().is_terminal(), started: Instant::now(), last: Mutex::new(None) }
    }

    pub(super) fn update(&self, progress: Progress) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let pause = if self.terminal { REDRAW } else { LOG };
        // The first log line comes when there is something to say.
        let since = last.or((!self.terminal).then_some(self.started));
        if since.is_some_and(|since| since.elapsed() < pause) {
            return;
        }
        *last = Some(Instant::now());
        let text = describe(progress, self.started.elapsed());
        if self.terminal {
            // Nobody is left to be told when stderr itself is closed.
            let _ = write!(io::stderr().lock(), "{ERASE}verifying: {text}");
        } else {
            info!("verifying: {text}");
        }
    }

    /// Takes the line away.
    pub(super) fn clear(&self) {
        let drawn = self.last.lock().unwrap_or_else(PoisonError::into_inner).take();
        if self.terminal && drawn.is_some() {
            let _ = write!(io::stderr().lock(), "{ERASE}");
        }
    }
}

/// `12 of 40 segments, 1.5 of 5.0 GB, 210 MB/s, about 17s left`
fn describe(progress: Progress, elapsed: Duration) -> String {
    let Progress { segments_done, segments, bytes_done, bytes } = progress;
    let mut text = format!("{segments_done} of {segments} segments");
    if bytes > 0 {
        let (unit, name) = if bytes >= 1_000_000_000 { (1e9, "GB") } else { (1e6, "MB") };
        text += &format!(", {:.1} of {:.1} {name}", bytes_done as f64 / unit, bytes as f64 / unit);
        let rate = bytes_done as f64 / elapsed.as_secs_f64().max(0.001);
        if bytes_done > 0 {
            let left = ((bytes - bytes_done.min(bytes)) as f64 / rate).ceil() as u64;
            text += &format!(", {:.0} MB/s, about {} left", rate / 1e6, duration(left));
        }
    }
    text
}

fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m {}s", seconds / 60, seconds % 60),
        _ => format!("{}h {}m", seconds / 3_600, seconds % 3_600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_it_is_how_fast_and_how_long_it_takes() {
        let progress =
            Progress { segments_done: 1, segments: 4, bytes_done: 500_000_000, bytes: 2_000_000_000 };
        assert_eq!(
            describe(progress, Duration::from_secs(5)),
            "1 of 4 segments, 0.5 of 2.0 GB, 100 MB/s, about 15s left"
        );
        let none = Progress { segments: 4, ..Progress::default() };
        assert_eq!(describe(none, Duration::ZERO), "0 of 4 segments");
        let begun = Progress { bytes: 3_000_000, ..none };
        assert_eq!(describe(begun, Duration::ZERO), "0 of 4 segments, 0.0 of 3.0 MB");
        assert_eq!([59, 60, 3_599, 7_260].map(duration).join(" "), "59s 1m 0s 59m 59s 2h 1m");
    }
}
