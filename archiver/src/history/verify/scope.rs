//! How much of an archive one verification looks at: what of every segment, and of which part of them the records too.

use serde::{Serialize, Serializer};

use crate::archive::merkle::sha256;
use crate::archive::paths;
use crate::stream_id::StreamId;

/// What is checked of a segment. Each level includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// That it is there, under its name, with its size, and that its manifest is a link of the chain. No segment is read.
    Listing,
    /// Also that its file has the SHA-256 with which it was sealed. Every file is read, none is decoded.
    Structure,
    /// Also its records and everything else in it.
    Full,
}

/// One of so many parts of an archive. Which part a segment is in depends on its stream and first seq alone: the parts together
/// are everything, also while the archive grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    number: u32,
    of: u32,
}

impl Part {
    /// Everything.
    pub const ALL: Part = Part { number: 1, of: 1 };

    /// Part `number` of `of`, counted from 1; `None` where there is no such part.
    pub fn new(number: u32, of: u32) -> Option<Part> {
        (1..=of).contains(&number).then_some(Part { number, of })
    }

    /// The part whose turn it is: every unit of time the next one, from the first again behind the last.
    pub fn at(time: u64, of: u32) -> Part {
        let of = of.max(1);
        Part { number: (time % u64::from(of)) as u32 + 1, of }
    }

    /// Its number, from 1.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// How many parts there are.
    pub fn of(&self) -> u32 {
        self.of
    }

    /// Whether a segment is in it.
    pub fn holds(&self, stream: &StreamId, first_seq: i64) -> bool {
        place(stream, first_seq).0 % u64::from(self.of) == u64::from(self.number - 1)
    }
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.number, self.of)
    }
}

impl Serialize for Part {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Where in the turn of its part a segment comes, from 0 to below 1.
pub fn moment(stream: &StreamId, first_seq: i64) -> f64 {
    (place(stream, first_seq).1 >> 11) as f64 / (1_u64 << 53) as f64
}

/// Two numbers that depend on nothing but the segment, spread evenly.
fn place(stream: &StreamId, first_seq: i64) -> (u64, u64) {
    let digest = sha256(paths::manifest_key(stream, first_seq).as_bytes());
    let number = |at: usize| digest[at..at + 8].iter().fold(0, |n, byte| n << 8 | u64::from(*byte));
    (number(0), number(8))
}

/// What one verification looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Scope {
    /// What is checked of every segment.
    pub level: Level,
    /// The part of which everything is checked.
    pub part: Part,
}

impl Scope {
    /// Everything of everything.
    pub const FULL: Scope = Scope { level: Level::Full, part: Part::ALL };

    /// This level, and no more.
    pub fn only(level: Level) -> Scope {
        Scope { level, part: Part::ALL }
    }

    /// Whether it looks at the records of a part only.
    pub fn is_sample(&self) -> bool {
        self.part != Part::ALL
    }

    /// What is checked of one segment.
    pub(super) fn level_of(&self, stream: &StreamId, first_seq: i64) -> Level {
        match self.is_sample() && self.part.holds(stream, first_seq) {
            true => Level::Full,
            false => self.level,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_segment_is_in_exactly_one_part_and_the_parts_are_about_equal() {
        let stream = StreamId { source: "payments".to_owned(), partition: Some(3) };
        for of in [1, 2, 7, 30] {
            let mut counts = vec![0; of as usize];
            for seq in 1..3_000 {
                let held: Vec<u32> =
                    (1..=of).filter(|n| Part::new(*n, of).unwrap().holds(&stream, seq)).collect();
                assert_eq!(held.len(), 1);
                counts[held[0] as usize - 1] += 1;
                assert!((0.0..1.0).contains(&moment(&stream, seq)));
            }
            let even = 3_000 / of;
            assert!(counts.iter().all(|n| (even / 2..even * 2).contains(n)), "{counts:?}");
        }
    }

    #[test]
    fn so_many_days_in_a_row_are_every_part() {
        let numbers: Vec<u32> = (20_000..20_030).map(|day| Part::at(day, 30).number()).collect();
        let mut sorted = numbers.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (1..=30).collect::<Vec<_>>());
        assert_eq!(Part::at(20_030, 30), Part::at(20_000, 30));
        for (number, of) in [(0, 3), (4, 3), (0, 0)] {
            assert_eq!(Part::new(number, of), None);
        }
    }
}
