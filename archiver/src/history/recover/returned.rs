//! Deleted documents that may be there again, though no record tells what they are: their return was withheld, is missing, or may have
//! expired.

use std::collections::HashMap;

use bson::Timestamp;

use super::deleted::End;
use crate::error::Result;
use crate::history::detail::{quarantined, target};
use crate::history::id::Id;
use crate::history::released::Released;
use crate::history::states::{DOCUMENT_OPS, Identity, Reason, State};
use crate::history::timeline::Timeline;
use crate::history::{Namespace, Salts};
use crate::record::{Record, unsalted_id_digest};

/// Changes whose contents are not recorded, with the time of the last one of each document.
pub(super) struct Returns {
    missing: HashMap<Identity, Timestamp>,
    /// By the digest of the document's `_id`.
    withheld: HashMap<(Namespace, String), Timestamp>,
    /// Events that were withheld of which nobody can say whose they are, and all deletions.
    events: Vec<Withheld>,
    /// When another collection took a name.
    renamed: HashMap<Namespace, Timestamp>,
    salts: Salts,
    removed_until: Option<Timestamp>,
}

/// A withheld event.
struct Withheld {
    namespace: Namespace,
    time: Timestamp,
    ends: bool,
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
        let (mut missing, mut withheld, mut renamed) = (HashMap::new(), HashMap::new(), HashMap::new());
        let mut events = Vec::new();
        for bytes in wide {
            let record = Record::new(bytes)?;
            let (id, time) = (record.record_id()?, record.cluster_time()?);
            if let Some(to) = target(&record).filter(|_| record.op() == "rename") {
                renamed.insert(to, time);
            } else if let Some(identity) = Identity::of(&record) {
                missing.insert(identity, time);
            } else if let Some((op, namespace)) = unreleased(&record, &released)? {
                let ends = op == "delete" || !DOCUMENT_OPS.contains(&op);
                let digest = quarantined(&record, "keyDigest").filter(|_| salts.contains_key(&id.partition));
                if ends || digest.is_none() {
                    events.push(Withheld { namespace: namespace.clone(), time, ends });
                }
                if let Some(digest) = digest {
                    withheld.insert((namespace, digest.to_owned()), time);
                }
            }
        }
        Ok(Returns { missing, withheld, events, renamed, salts, removed_until })
    }

    /// How many changes were withheld since a time, in one namespace or all, of which nobody can say whose they are, and that do not end
    /// documents.
    pub(super) fn unnamed_since(&self, since: Timestamp, namespace: Option<&Namespace>) -> usize {
        self.count(since, namespace, false)
    }

    /// How many events were withheld that end documents.
    pub(super) fn deletions_since(&self, since: Timestamp, namespace: Option<&Namespace>) -> usize {
        self.count(since, namespace, true)
    }

    fn count(&self, since: Timestamp, namespace: Option<&Namespace>, ends: bool) -> usize {
        let counts = |event: &&Withheld| {
            event.ends == ends
                && event.time >= since
                && namespace.is_none_or(|namespace| *namespace == event.namespace)
        };
        self.events.iter().filter(counts).count()
    }

    /// Whether something may have become of a document behind this end.
    pub(super) fn concern(&self, end: &End) -> bool {
        let at = end.time();
        let is_behind = |time: Option<&Timestamp>| time.is_some_and(|time| *time >= at);
        let may_be_gone = end.is_late && self.removed_until.is_some_and(|until| at <= until);
        may_be_gone
            || is_behind(self.missing.get(&end.identity))
            || is_behind(self.renamed.get(&end.identity.namespace))
            || self.is_withheld_behind(end, is_behind)
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
                    _ => match (&entry.after.state, before, &entry.before.state) {
                        (State::Present(_), ..) if record.op() == "rename" => Fate::Back,
                        (State::Unknown(reason), ..) if record.op() == "rename" => Fate::Unknown(*reason),
                        // It ended once more with its collection, and nobody knows as what.
                        (State::Absent, Fate::Back, State::Unknown(reason)) => Fate::Unknown(*reason),
                        (_, before, _) => before,
                    },
                });
            }
        }
        Ok(fate.unwrap_or(Fate::Ended))
    }
}

/// The operation and namespace of an event that is still withheld.
fn unreleased<'a>(record: &Record<'a>, released: &Released) -> Result<Option<(&'a str, Namespace)>> {
    let is_withheld = record.op() == "quarantine" && !released.holds(record.record_id()?);
    let op = quarantined(record, "op").filter(|_| is_withheld);
    Ok(op.zip(Namespace::of(record)))
}

/// How many inserts were withheld before a second, in one namespace or all: of such a document nothing else need be recorded.
pub(super) fn withheld_inserts(wide: &[Vec<u8>], at: i64, namespace: Option<&Namespace>) -> Result<usize> {
    let released = Released::among(wide)?;
    let mut count = 0;
    for bytes in wide {
        let record = Record::new(bytes)?;
        if let Some(("insert" | "snapshot", of)) = unreleased(&record, &released)?
            && i64::from(record.cluster_time()?.time) < at
        {
            count += usize::from(namespace.is_none_or(|namespace| *namespace == of));
        }
    }
    Ok(count)
}

/// What a change without contents says: it was there then, unless it was deleted once more.
fn lost(record: &Record<'_>, reason: Reason) -> Fate {
    match quarantined(record, "op") {
        Some("delete") => Fate::Unknown(reason),
        _ => Fate::Back,
    }
}
