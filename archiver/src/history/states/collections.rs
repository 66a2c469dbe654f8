//! What becomes of documents when something happens to their whole collection, and when a change is withheld that may be any one's.

use bson::Timestamp;

use super::{DOCUMENT_OPS, Identity, Known, Reason, State, States, Tracked};
use crate::error::Result;
use crate::history::Namespace;
use crate::history::detail::{is_from_watched, quarantined, target};
use crate::history::released::notes;
use crate::history::watched::Turned;
use crate::record::Record;

/// Operations after which another collection can have a name.
const ENDING_OPS: [&str; 3] = ["drop", "dropDatabase", "rename"];

impl States {
    pub(super) fn end_namespace(&mut self, record: &Record<'_>) -> Result<()> {
        let time = record.cluster_time()?;
        self.watched.turn(time, record.db().unwrap_or_default(), record.coll(), Turned::Ended);
        for (identity, tracked) in &mut self.documents {
            let in_it = record.db() == Some(identity.namespace.db.as_str())
                && record.coll().is_none_or(|coll| coll == identity.namespace.coll);
            if in_it && !tracked.is_read_after(time) {
                tracked.set(Known::absent());
            }
        }
        Ok(())
    }

    /// The documents go on under the other name; what was there before is gone. Where nothing was recorded of the collection
    /// that takes the name, its documents are unknown: any that were there may be in it too. What a baseline read at that time may have
    /// been read under either name.
    pub(super) fn rename(&mut self, record: &Record<'_>) -> Result<()> {
        let (Some(from), Some(to)) = (Namespace::of(record), target(record)) else { return Ok(()) };
        let (id, time) = (record.record_id()?, record.cluster_time()?);
        let is_complete = self.is_complete(&from, record)?;
        let came = is_from_watched(record).then(|| from.clone());
        self.watched.turn(time, &from.db, Some(&from.coll), Turned::Ended);
        self.watched.turn(time, &to.db, Some(&to.coll), Turned::Renamed(came));
        if !is_from_watched(record) {
            self.doubt_all(id, time, |identity, _| identity.namespace == to);
            self.renames.insert(id);
            return Ok(());
        }
        let of_to = |(identity, tracked): &(&Identity, &Tracked)| {
            identity.namespace == to && !tracked.is_read_after(time)
        };
        let replaced: Vec<Identity> =
            self.documents.iter().filter(of_to).map(|(identity, _)| identity.clone()).collect();
        for identity in replaced {
            let before = Identity { namespace: from.clone(), id: identity.id.clone() };
            // Nothing may be recorded of one that came with the collection.
            let is_gone = is_complete || self.documents.contains_key(&before);
            let known = if is_gone { Known::absent() } else { Known::unknown(Reason::Renamed(id.seq)) };
            if let Some(tracked) = self.documents.get_mut(&identity) {
                tracked.set(known);
            }
        }
        let is_moved = |(identity, tracked): &(&Identity, &Tracked)| {
            identity.namespace == from && tracked.baseline.is_none_or(|baseline| baseline <= time)
        };
        let moved: Vec<Identity> =
            self.documents.iter().filter(is_moved).map(|(identity, _)| identity.clone()).collect();
        for identity in moved {
            let Some(tracked) = self.documents.get_mut(&identity) else { continue };
            let mut gone = tracked.clone();
            gone.set(Known::absent());
            let mut tracked = std::mem::replace(tracked, gone);
            let is_left_out = self.watched.last(tracked.partition).is_some_and(|list| !list.covers(&to));
            if is_left_out && tracked.known.state != State::Absent {
                tracked.set(Known::unknown(Reason::Unwatched(id.seq)));
            }
            let there = Identity { namespace: to.clone(), id: identity.id };
            if !self.documents.get(&there).is_some_and(|read| read.is_read_after(time)) {
                self.documents.insert(there, tracked);
            }
        }
        Ok(())
    }

    pub(super) fn quarantine(&mut self, record: &Record<'_>) -> Result<()> {
        if notes(record).is_some() {
            return Ok(());
        }
        let (reason, time) = (Reason::Quarantined(record.seq()?), record.cluster_time()?);
        let (op, to) = (quarantined(record, "op"), target(record));
        if let Some(db) = record.db().filter(|_| op.is_some_and(|op| ENDING_OPS.contains(&op))) {
            self.watched.turn(time, db, record.coll(), Turned::Renamed(None));
            if let Some(to) = &to {
                self.watched.turn(time, &to.db, Some(&to.coll), Turned::Renamed(None));
            }
        }
        // A rename of an earlier version does not say whereto.
        let Some(namespace) = Namespace::of(record).filter(|_| op != Some("rename") || to.is_some()) else {
            self.lose(reason, time, |_, _| true);
            return Ok(());
        };
        let key = quarantined(record, "keyDigest");
        // One without a document, such as a drop, is withheld in the first partition and concerns all.
        let of_document = op.is_some_and(|op| DOCUMENT_OPS.contains(&op));
        let partition = record.record_id()?.partition;
        let salt = self.salts.get(&partition).cloned();
        self.lose(reason, time, |identity, tracked| {
            (identity.namespace == namespace || to.as_ref() == Some(&identity.namespace))
                && (!of_document || tracked.partition == partition)
                && key.is_none_or(|key| identity.id.may_have(key, salt.as_ref()))
        });
        Ok(())
    }

    /// Makes states unknown, but for those read by a later baseline.
    fn lose(&mut self, reason: Reason, time: Timestamp, concerns: impl Fn(&Identity, &Tracked) -> bool) {
        for (identity, tracked) in &mut self.documents {
            if concerns(identity, tracked) && !tracked.is_read_after(time) {
                tracked.set(Known::unknown(reason));
            }
        }
    }
}
