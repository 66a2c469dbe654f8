//! Judges documents: whether what is there now is what history knows, and what to record where it is not.

use std::collections::BTreeSet;

use bson::Timestamp;
use bson_walker::Doc;

use super::bodies;
use super::recorded::Recorded;
use crate::error::{Error, Result};
use crate::event::Event;
use crate::history::Namespace;
use crate::history::gaps::Finding;
use crate::history::states::{Identity, Known, Reason, State};
use crate::plugin::Outcome;
use crate::record::{Record, RecordId};

/// Judges the documents of one pass.
pub(super) struct Judge {
    gap: RecordId,
    policy: RecordId,
    /// Whether a baseline was read, and nothing has expired, so that a document of which nothing is recorded was not there.
    pub(super) baseline: bool,
    /// Whether the plugins leave `_id`s as they are, as far as has been seen.
    ids: Ids,
    /// Namespaces with documents that the plugins dropped or failed on.
    withheld: BTreeSet<Namespace>,
    /// Documents looked at.
    pub(super) compared: u64,
    /// Documents that were not what was known of them.
    pub(super) found: u64,
    /// Documents whose `_id` the plugins took away: history can't follow them, so there is nothing to compare.
    pub(super) nameless: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ids {
    Unseen,
    Kept,
    Rewritten,
}

/// The document that an event is about, before the plugins.
pub(super) fn identity(event: &Event) -> Result<Option<Identity>> {
    Ok(Identity::of(&Record::new(&event.body)?))
}

impl Judge {
    pub(super) fn new(gap: RecordId, policy: RecordId, baseline: bool) -> Self {
        let (ids, withheld) = (Ids::Unseen, BTreeSet::new());
        Judge { gap, policy, baseline, ids, withheld, compared: 0, found: 0, nameless: 0 }
    }

    /// Whether the plugins leave `_id`s as they are. Without evidence: no.
    pub(super) fn ids_are_kept(&self) -> bool {
        self.ids == Ids::Kept
    }

    /// The namespaces of which it can't be told which of the known documents are there: the plugins rewrite `_id`s, and
    /// dropped or failed on some document, so that nothing says under which `_id` it is known.
    pub(super) fn undecided(&self) -> Vec<Namespace> {
        if self.ids_are_kept() { Vec::new() } else { self.withheld.iter().cloned().collect() }
    }

    /// Whether something is to be recorded, going by what is known so far.
    pub(super) fn may_differ(&self, recorded: &Recorded, outcomes: &[Outcome]) -> Result<bool> {
        for outcome in outcomes {
            let Outcome::Keep(body) = outcome else {
                if matches!(outcome, Outcome::Failed(_)) {
                    return Ok(true);
                }
                continue;
            };
            let record = Record::new(body)?;
            if let (Some(identity), Some(after)) = (Identity::of(&record), record.part("after"))
                && recorded.slice.has(&identity.id)
                && self.finding(recorded, &identity, after.as_bytes()).is_some()
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What is to be recorded of a document that was read; `None` where nothing.
    pub(super) fn judge(
        &mut self,
        recorded: &mut Recorded,
        before: Option<Identity>,
        outcome: Outcome,
        window: impl Fn(&Recorded, &Identity) -> (Timestamp, Timestamp),
    ) -> Result<Option<Outcome>> {
        self.compared += 1;
        let Some(before) = before else { return Ok(None) };
        let body = match outcome {
            Outcome::Keep(body) => body,
            Outcome::Dropped { .. } => {
                // It is there, and nothing more is to be said of it: what a plugin drops is not in the history.
                self.withheld.insert(before.namespace.clone());
                recorded.states.settle(&before, self.gap);
                return Ok(None);
            }
            failed @ Outcome::Failed(_) => return Ok(self.failed(recorded, before, failed)),
        };
        let doc = Doc::new(&body)
            .map_err(|e| Error::internal("an event's body is not one BSON document").because(e))?;
        let record = Record::new(&body)?;
        let (Some(identity), Some(after)) = (Identity::of(&record), record.part("after")) else {
            self.nameless += 1;
            return Ok(None);
        };
        match (self.ids, identity == before) {
            (Ids::Unseen, true) => self.ids = Ids::Kept,
            (_, false) => self.ids = Ids::Rewritten,
            _ => {}
        }
        if !recorded.slice.has(&identity.id) {
            return Ok(None);
        }
        let finding = self.finding(recorded, &identity, after.as_bytes());
        let with_finding = finding.map(|finding| {
            let window = window(recorded, &identity);
            bodies::with_finding(doc, finding, self.gap.seq, window)
        });
        recorded.states.settle(&identity, self.gap);
        self.found += u64::from(with_finding.is_some());
        Ok(with_finding.map(Outcome::Keep))
    }

    /// A quarantine record says that the document is unknown; a repeated comparison does not say it twice.
    fn failed(&mut self, recorded: &mut Recorded, before: Identity, failed: Outcome) -> Option<Outcome> {
        self.withheld.insert(before.namespace.clone());
        let said = match recorded.states.recorded(&before).map(|known| &known.state) {
            Some(State::Unknown(Reason::Quarantined(seq))) => *seq > self.gap.seq,
            _ => false,
        };
        recorded.states.settle(&before, self.gap);
        (!said && recorded.slice.has(&before.id)).then_some(failed)
    }

    fn finding(&self, recorded: &Recorded, identity: &Identity, after: &[u8]) -> Option<Finding> {
        let in_doubt = recorded.states.is_in_doubt(identity, self.gap);
        let unseen = if self.baseline { Finding::Inserted } else { Finding::Unknown };
        let Some(known) = recorded.states.recorded(identity) else { return Some(unseen) };
        match &known.state {
            State::Unknown(Reason::BeforeBaseline) => Some(unseen),
            State::Unknown(_) => Some(Finding::Unknown),
            _ if !in_doubt => None,
            State::Absent => Some(unseen),
            State::Present(bytes) if *bytes == after => None,
            // Under other plugins a document looks different without having changed.
            State::Present(_) if !self.is_of_this_policy(recorded, known) => Some(Finding::Unknown),
            State::Present(_) => Some(Finding::Changed),
        }
    }

    fn is_of_this_policy(&self, recorded: &Recorded, known: &Known) -> bool {
        let policies = recorded.states.policies();
        known.origins.iter().all(|origin| policies.are_alike(origin.policy, self.policy))
    }
}
