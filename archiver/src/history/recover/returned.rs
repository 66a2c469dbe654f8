//! Deleted documents that may be there again, though no record tells what they are: their return was withheld, is missing, or may have
//! expired.

use std::collections::HashMap;

use bson::Timestamp;

use super::deleted::End;
use crate::error::Result;
use crate::history::detail::quarantined;
use crate::history::id::Id;
use crate::history::released::Released;
use crate::history::states::{Identity, Reason, State};
use crate::history::timeline::Timeline;
use crate::history::{Namespace, Salts};
use crate::record::{Record, unsalted_id_digest};

/// Changes whose contents are not recorded, with the time of the last one of each document.
pub(super) struct Returns {
    missing: HashMap<Identity, Timestamp>,
    /// By the digest of the document's `_id`.
    withheld: HashMap<(Namespace, String), Timestamp>,
    /// When changes were withheld of which nobody can say whose they are.
    unnamed: Vec<(Namespace, Timestamp)>,
    salts: Salts,
    removed_until: Option<Timestamp>,
}

/// What became of a document behind its last recorded deletion.
pub(super) enum Fate {
    /// Nothing.
    Ended,
    /// It is there again.
    Back,
    /// History can't tell.
    Unknown(Reason),
}

impl Returns {
    /// Those among the source's records about more than one document.
    pub(super) fn among(wide: &[Vec<u8>], salts: Salts, removed_until: Option<Timestamp>) -> Result<Returns> {
        let released = Released::among(wide)?;
        let (mut missing, mut withheld, mut unnamed) = (HashMap::new(), HashMap::new(), Vec::new());
        for bytes in wide {
            let record = Record::new(bytes)?;
            let (id, time) = (record.record_id()?, record.cluster_time()?);
            if let Some(identity) = Identity::of(&record) {
                missing.insert(identity, time);
            } else if let (Some(_), Some(namespace)) = (quarantined(&record, "op"), Namespace::of(&record))
                && record.op() == "quarantine"
                && !released.holds(id)
            {
                match quarantined(&record, "keyDigest").filter(|_| salts.contains_key(&id.partition)) {
                    Some(digest) => drop(withheld.insert((namespace, digest.to_owned()), time)),
                    None => unnamed.push((namespace, time)),
                }
            }
        }
        Ok(Returns { missing, withheld, unnamed, salts, removed_until })
    }

    /// How many changes were withheld since a time, in one namespace or all, of which nobody can say whose they are.
    pub(super) fn unnamed_since(&self, since: Timestamp, namespace: Option<&Namespace>) -> usize {
        let counts = |(of, time): &&(Namespace, Timestamp)| {
            *time >= since && namespace.is_none_or(|namespace| namespace == of)
        };
        self.unnamed.iter().filter(counts).count()
    }

    /// Whether something may have become of a document behind this end.
    pub(super) fn concern(&self, end: &End) -> bool {
        let at = end.time();
        let is_behind = |time: Option<&Timestamp>| time.is_some_and(|time| *time >= at);
        let may_be_gone = end.is_late && self.removed_until.is_some_and(|until| at <= until);
        may_be_gone || is_behind(self.missing.get(&end.identity)) || self.is_withheld_behind(end, is_behind)
    }

    fn is_withheld_behind(&self, end: &End, is_behind: impl Fn(Option<&Timestamp>) -> bool) -> bool {
        if self.withheld.is_empty() {
            return false;
        }
        let salt = self.salts.get(&end.at.2.partition);
        let digests = end.identity.id.forms().into_iter().flat_map(|Id(kind, value)| {
            let salted = salt.map(|salt| salt.id_digest(kind, &value));
            salted.into_iter().chain([unsalted_id_digest(kind, &value)])
        });
        let mut named = digests.map(|digest| (end.identity.namespace.clone(), digest));
        named.any(|key| is_behind(self.withheld.get(&key)))
    }
}

impl Fate {
    /// Of a document, by its history.
    pub(super) fn of(timeline: &Timeline, end: &End) -> Result<Fate> {
        let mut fate = None;
        for entry in timeline.entries.iter().filter(|entry| entry.identity == end.identity) {
            let record = Record::new(&entry.record)?;
            if record.record_id()? == end.at.2 {
                fate = Some(match entry.after.state {
                    State::Unknown(reason @ Reason::Removed(_)) => Fate::Unknown(reason),
                    _ => Fate::Ended,
                });
            } else if let Some(before) = fate {
                let is_named = || timeline.states.is_named(&record, &end.identity);
                fate = Some(match record.op() {
                    "insert" | "update" | "replace" | "snapshot" => Fate::Back,
                    "gap" if record.id().is_some() => lost(&record, Reason::Gap(record.seq()?)),
                    "quarantine" if is_named() => lost(&record, Reason::Quarantined(record.seq()?)),
                    _ => before,
                });
            }
        }
        Ok(fate.unwrap_or(Fate::Ended))
    }
}

/// What a change without contents says: it was there then, unless it was deleted once more.
fn lost(record: &Record<'_>, reason: Reason) -> Fate {
    match quarantined(record, "op") {
        Some("delete") => Fate::Unknown(reason),
        _ => Fate::Back,
    }
}
