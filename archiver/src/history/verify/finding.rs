//! What a verification can find. The codes are for programs and do not change; docs/operating.md explains each.

use serde::{Deserialize, Serialize};

macro_rules! codes {
    ($($code:ident = $name:literal),* $(,)?) => {
        /// What kind of finding it is.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Code {
            $(
                #[doc = concat!("`", $name, "`: see docs/operating.md.")]
                #[serde(rename = $name)]
                $code,
            )*
        }

        impl Code {
            /// All there are.
            pub const ALL: &'static [Code] = &[$(Code::$code),*];

            /// Its name in JSON.
            pub fn name(self) -> &'static str {
                match self {
                    $(Code::$code => $name,)*
                }
            }
        }
    };
}

codes! {
    ObjectUnknown = "object-unknown",
    ManifestMissing = "manifest-missing",
    ManifestChanged = "manifest-changed",
    ManifestUnreadable = "manifest-unreadable",
    ManifestMisplaced = "manifest-misplaced",
    ManifestSeq = "manifest-seq",
    ManifestDay = "manifest-day",
    ManifestCounters = "manifest-counters",
    ManifestLog = "manifest-log",
    SegmentMissing = "segment-missing",
    SegmentUnsealed = "segment-unsealed",
    SegmentUnchecked = "segment-unchecked",
    SegmentSize = "segment-size",
    SegmentDigest = "segment-digest",
    SegmentUnreadable = "segment-unreadable",
    SegmentFooter = "segment-footer",
    SegmentSummary = "segment-summary",
    RowUnreadable = "row-unreadable",
    RowSeq = "row-seq",
    RowDay = "row-day",
    RowTime = "row-time",
    RowColumn = "row-column",
    RowOrder = "row-order",
    RowIndex = "row-index",
    TableCommit = "table-commit",
    TableSegment = "table-segment",
    ChainShortened = "chain-shortened",
    ChainRewritten = "chain-rewritten",
    TombstoneWrong = "tombstone-wrong",
    TombstoneUntold = "tombstone-untold",
    SegmentExpired = "segment-expired",
    HoldWrong = "hold-wrong",
    LogBehind = "log-behind",
    LogGap = "log-gap",
}

impl Code {
    /// Whether it takes the file of a segment to see it.
    pub fn is_of_contents(self) -> bool {
        matches!(
            self,
            Code::SegmentDigest
                | Code::SegmentUnreadable
                | Code::SegmentFooter
                | Code::SegmentSummary
                | Code::RowUnreadable
                | Code::RowSeq
                | Code::RowDay
                | Code::RowTime
                | Code::RowColumn
                | Code::RowOrder
                | Code::RowIndex
        )
    }
}

/// One thing that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What kind of thing.
    pub code: Code,
    /// The object's key, or the stream where none is concerned.
    pub file: String,
    /// The record, where one is concerned.
    pub seq: Option<i64>,
    /// What is wrong.
    pub reason: String,
}

impl Finding {
    pub(super) fn new(code: Code, file: &str, seq: Option<i64>, reason: impl Into<String>) -> Finding {
        Finding { code, file: file.to_owned(), seq, reason: reason.into() }
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Finding { code, file, seq, reason } = self;
        let seq = seq.map(|seq| format!(" seq={seq}")).unwrap_or_default();
        write!(f, "{file}{seq}: {reason} [{}]", code.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manual_explains_every_code() {
        let manual = include_str!("../../../../docs/operating.md");
        let missing: Vec<_> =
            Code::ALL.iter().filter(|code| !manual.contains(&format!("| `{}` |", code.name()))).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }
}
