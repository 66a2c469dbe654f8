//! Names one stream: a source, or one partition of a partitioned source. Each has a change stream, a lease, a checkpoint,
//! a sequence of records and a chain of segments of its own.

use std::fmt;

/// One stream of a source. Its text, `payments` or `payments/3`, is the `_id` of its lease and its checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId {
    /// The source's name.
    pub source: String,
    /// Which of the source's partitions, from 0; `None` where it has only one.
    pub partition: Option<u32>,
}

impl StreamId {
    /// The one stream of a source that has no partitions.
    pub fn whole(source: &str) -> StreamId {
        StreamId { source: source.to_owned(), partition: None }
    }

    /// The streams of a source with this many partitions.
    pub fn all(source: &str, partitions: u32) -> Vec<StreamId> {
        let stream = |partition| StreamId { source: source.to_owned(), partition };
        match partitions {
            0 | 1 => vec![stream(None)],
            n => (0..n).map(|p| stream(Some(p))).collect(),
        }
    }

    /// Reads what [`fmt::Display`] wrote; `None` for any other text.
    pub fn parse(text: &str) -> Option<StreamId> {
        let Some((source, partition)) = text.split_once('/') else {
            return Some(StreamId { source: text.to_owned(), partition: None });
        };
        let number: u32 = partition.parse().ok()?;
        (number.to_string() == partition)
            .then(|| StreamId { source: source.to_owned(), partition: Some(number) })
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.partition {
            None => write!(f, "{}", self.source),
            Some(partition) => write!(f, "{}/{partition}", self.source),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        for stream in StreamId::all("payments", 1).into_iter().chain(StreamId::all("payments", 3)) {
            assert_eq!(StreamId::parse(&stream.to_string()), Some(stream));
        }
        for odd in ["payments/", "payments/03", "payments/x", "payments/1/2"] {
            assert_eq!(StreamId::parse(odd), None, "{odd}");
        }
    }
}
