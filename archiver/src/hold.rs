//! Legal holds: what may not expire, who said so, when and why. Decides nothing about where they are kept.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The version of the stored form of a hold.
pub const FORMAT: u32 = 1;
/// Bytes of a reason or a name at most.
pub const TEXT_MAX: usize = 1_024;

/// One legal hold. Field order is the order in its file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hold {
    /// [`FORMAT`].
    pub format: u32,
    /// Its number in the audit database.
    pub id: i64,
    /// The source that it concerns; `None`: all.
    pub source: Option<String>,
    /// Only records from this time on, RFC 3339.
    pub from: Option<Timestamp>,
    /// Only records before this time.
    pub to: Option<Timestamp>,
    /// Why.
    pub reason: String,
    /// Who ordered it.
    pub by: String,
    /// Since when, by the audit server's clock.
    pub at: Timestamp,
}

/// The end of a legal hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// [`FORMAT`].
    pub format: u32,
    /// Which hold.
    pub id: i64,
    /// The number of this release among holds and releases.
    pub number: i64,
    /// Why.
    pub reason: String,
    /// Who ordered it.
    pub by: String,
    /// When, by the audit server's clock.
    pub at: Timestamp,
}

/// A hold, and its release where it has been released.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Held {
    /// The hold.
    #[serde(flatten)]
    pub hold: Hold,
    /// Its end.
    pub released: Option<Release>,
}

/// One thing that happened to holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// One was added.
    Added(&'a Hold),
    /// One was released.
    Released(&'a Release),
}

impl Hold {
    /// Whether it concerns records of this source that happened from `first` to `last`, in seconds, both included.
    pub fn covers(&self, source: &str, first: u32, last: u32) -> bool {
        let second = |time: u32| i128::from(time) * 1_000_000_000;
        self.source.as_deref().is_none_or(|held| held == source)
            // A record's time is the beginning of its second, and may be anywhere in it.
            && self.from.is_none_or(|from| from.as_nanosecond() < second(last) + 1_000_000_000)
            && self.to.is_none_or(|to| to.as_nanosecond() > second(first))
    }
}

impl Held {
    /// Whether it is in force.
    pub fn is_in_force(&self) -> bool {
        self.released.is_none()
    }

    /// Whether it was in force at a time.
    pub fn was_in_force(&self, at: Timestamp) -> bool {
        self.hold.at <= at && self.released.as_ref().is_none_or(|released| at < released.at)
    }

    /// What happened to it behind the event of number `after`, with the numbers.
    pub fn events(&self, after: i64) -> impl Iterator<Item = (i64, Event<'_>)> {
        let added = (self.hold.id, Event::Added(&self.hold));
        let released = self.released.as_ref().map(|released| (released.number, Event::Released(released)));
        std::iter::once(added).chain(released).filter(move |(number, _)| *number > after)
    }
}

/// Refuses a reason or a name that is empty, too long or would break lines.
pub fn check_text(what: &str, text: &str) -> Result<()> {
    if text.trim().is_empty() || text.len() > TEXT_MAX || text.chars().any(char::is_control) {
        return Err(Error::invalid(format!("{what} is not one line of 1 to {TEXT_MAX} bytes")).hint(
            "say it in one sentence, for example --reason \"Doe v. Example Corp., letter of 2026-11-21\"",
        ));
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn hold(source: Option<&str>, from: Option<&str>, to: Option<&str>) -> Hold {
        let time = |text: &str| text.parse().unwrap();
        Hold {
            format: FORMAT,
            id: 1,
            source: source.map(str::to_owned),
            from: from.map(time),
            to: to.map(time),
            reason: "r".to_owned(),
            by: "b".to_owned(),
            at: time("2026-01-01T00:00:00Z"),
        }
    }

    #[test]
    fn a_hold_covers_every_record_that_may_lie_in_its_time() {
        let (first, last) = (1_000_000_000, 1_000_000_010);
        assert!(hold(None, None, None).covers("a", first, last));
        assert!(hold(Some("a"), None, None).covers("a", first, last));
        assert!(!hold(Some("b"), None, None).covers("a", first, last));
        let from = |text| hold(None, Some(text), None).covers("a", first, last);
        assert!(from("2001-09-09T01:46:50Z") && from("2001-09-09T01:46:50.9Z"));
        assert!(!from("2001-09-09T01:46:51Z"));
        let to = |text| hold(None, None, Some(text)).covers("a", first, last);
        assert!(to("2001-09-09T01:46:40.1Z") && !to("2001-09-09T01:46:40Z"));
    }

    #[test]
    fn a_released_hold_was_in_force_until_then() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let release = Release {
            format: FORMAT,
            id: 1,
            number: 2,
            reason: "r".to_owned(),
            by: "b".to_owned(),
            at: at("2026-02-01T00:00:00Z"),
        };
        let held = Held { hold: hold(None, None, None), released: Some(release) };
        assert!(!held.was_in_force(at("2025-12-31T23:59:59Z")));
        assert!(held.was_in_force(at("2026-01-01T00:00:00Z")));
        assert!(!held.was_in_force(at("2026-02-01T00:00:00Z")));
        assert_eq!(held.events(1).count(), 1);
        assert_eq!(held.events(0).map(|(number, _)| number).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn a_reason_is_one_line() {
        assert!(check_text("--reason", "a case").is_ok());
        for bad in ["", "  ", "a\nb", &"x".repeat(TEXT_MAX + 1)] {
            assert!(check_text("--reason", bad).is_err());
        }
    }
}
