//! Which records a replay is of: from when on, up to when, and of which namespace.

use bson::Timestamp;

use crate::error::{Error, Result};
use crate::history::Namespace;
use crate::record::Record;

/// Where a range begins or ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// At the record of this seq.
    Seq(i64),
    /// At this second of the source's clock.
    Second(u32),
}

impl Bound {
    /// Reads a seq, or a time. A change's time is the beginning of its second.
    pub fn parse(argument: &str, text: &str) -> Result<Bound> {
        let wrong = || {
            Error::invalid(format!("{argument} is neither a seq nor a time: {text:?}")).hint(
                "a seq is the number of a record, for example 1042; times are RFC 3339 with a zone, for example \
                 2026-11-21T09:30:00Z",
            )
        };
        if let Ok(seq) = text.parse::<i64>() {
            return if seq > 0 { Ok(Bound::Seq(seq)) } else { Err(wrong()) };
        }
        let time: jiff::Timestamp = text.parse().map_err(|_| wrong())?;
        let second = time.as_second() + i64::from(time.subsec_nanosecond() > 0);
        Ok(Bound::Second(u32::try_from(second.max(0)).unwrap_or(u32::MAX)))
    }
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Bound::Seq(seq) => write!(f, "{seq}"),
            Bound::Second(second) => {
                let time = jiff::Timestamp::from_second(i64::from(*second)).unwrap_or_default();
                write!(f, "{time}")
            }
        }
    }
}

/// A stretch of history, half-open.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Range {
    /// Its beginning; `None`: that of history.
    pub from: Option<Bound>,
    /// Its end; `None`: the present, or none at all where it is followed.
    pub to: Option<Bound>,
}

impl Range {
    /// Whether it names records by seq, which only has a meaning in a single stream.
    pub fn is_by_seq(&self) -> bool {
        [self.from, self.to].iter().flatten().any(|bound| matches!(bound, Bound::Seq(_)))
    }

    /// Whether a record is in it.
    pub(super) fn holds(&self, record: &Record<'_>) -> Result<bool> {
        let at = |bound: Bound| -> Result<std::cmp::Ordering> {
            Ok(match bound {
                // A late record stands in the place of its event.
                Bound::Seq(seq) => record.late().unwrap_or(record.seq()?).cmp(&seq),
                Bound::Second(second) => record.cluster_time()?.time.cmp(&second),
            })
        };
        let begun = self.from.map(at).transpose()?.is_none_or(std::cmp::Ordering::is_ge);
        Ok(begun && self.to.map(at).transpose()?.is_none_or(std::cmp::Ordering::is_lt))
    }

    /// Whether it ends before everything that happens from this time on.
    pub(super) fn ends_before(&self, time: Timestamp) -> bool {
        matches!(self.to, Some(Bound::Second(second)) if time.time >= second)
    }

    /// Whether a record of a stream, and everything that follows it there, is behind the end. Only those that stand where their time
    /// says tell it of times.
    pub(super) fn is_behind(&self, record: &Record<'_>, is_timed: bool) -> Result<bool> {
        Ok(match self.to {
            None => false,
            Some(Bound::Seq(seq)) => record.late().is_none() && record.seq()? >= seq,
            Some(Bound::Second(second)) => {
                is_timed && record.late().is_none() && record.cluster_time()?.time >= second
            }
        })
    }
}

/// Which namespaces' records are replayed. What concerns whole databases or the source belongs to all.
pub(super) fn concerns(record: &Record<'_>, namespace: Option<&Namespace>) -> bool {
    let Some(wanted) = namespace else { return true };
    let renamed_to = || crate::history::detail::target(record).is_some_and(|to| to == *wanted);
    match (record.db(), record.coll()) {
        (Some(db), Some(coll)) => (db == wanted.db && coll == wanted.coll) || renamed_to(),
        (Some(db), None) => db == wanted.db,
        _ => true,
    }
}

/// A cluster time, comparable with others.
pub(super) fn ordered(time: Timestamp) -> (u32, u32) {
    (time.time, time.increment)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_a_seq_or_the_second_that_begins_no_earlier_than_a_time() {
        assert_eq!(Bound::parse("--from", "17").unwrap(), Bound::Seq(17));
        let second = |text| Bound::parse("--from", text).unwrap();
        assert_eq!(second("1970-01-01T00:00:05Z"), Bound::Second(5));
        assert_eq!(second("1970-01-01T00:00:05.001Z"), Bound::Second(6));
        assert_eq!(second("1970-01-01T00:00:05Z").to_string(), "1970-01-01T00:00:05Z");
        for wrong in ["0", "-3", "yesterday", "2026-11-21", ""] {
            let error = Bound::parse("--to", wrong).unwrap_err();
            assert!(error.to_string().starts_with("--to is neither"), "{error}");
        }
    }
}
