//! What documents were before and after each record: images where there are any, else baseline plus deltas.
//!
//! Fed with records in seq order or by cluster time, of one document or of many. Says `Unknown`, with the reason,
//! where history can't tell; never guesses.
//!
//! Behind a gap every document is in doubt: what is known of it is kept, and changes are applied to it, but it is
//! `Unknown` to whoever asks, until a record tells what it is, or a comparison with the present is complete and found
//! nothing else.

mod collections;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use bson::Timestamp;
use bytes::Bytes;

use super::detail::{is_whole, quarantined};
use super::document::{Contents, Unapplied};
use super::effect::{Effect, effect};
use super::gaps::{Gap, GapRecord, PastGaps};
use super::id::Id;
use super::policies::{Origin, Policies};
use super::watched::{Turned, WatchLists, Watched};
use super::{Namespace, Salts, removed_words};
use crate::error::Result;
use crate::record::{Record, RecordId};

/// Operations on one document.
pub(super) const DOCUMENT_OPS: [&str; 5] = ["insert", "update", "replace", "delete", "snapshot"];

/// What a document was at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// History can't tell.
    Unknown(Reason),
    /// There was none.
    Absent,
    /// These bytes.
    Present(Bytes),
}

/// Why a state is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Nothing is kept of the document from before.
    BeforeBaseline,
    /// The record should hold the document and does not.
    NoImage(i64),
    /// History is missing before this gap record.
    Gap(i64),
    /// The moment that was asked for is in the stretch that this gap record says is missing.
    InsideGap(i64),
    /// The moment that was asked for is in a time of which history has been removed by retention, up to this second.
    Removed(i64),
    /// The contents of this change were withheld because a plugin failed on it.
    Quarantined(i64),
    /// It is not watched since this record.
    Unwatched(i64),
    /// Another collection took this one's name.
    Renamed(i64),
    /// This record changed a document of another collection of that name.
    OtherCollection(i64),
    /// It goes on under another `_id` since this record, which MongoDB takes for the same one.
    OtherId(i64),
    /// This record's delta could not be applied.
    Delta(i64, Unapplied),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::BeforeBaseline => write!(f, "nothing is kept of it from before"),
            Reason::NoImage(seq) => write!(f, "the document is missing in its record seq={seq}"),
            Reason::Gap(seq) => write!(f, "history is missing before seq={seq}"),
            Reason::InsideGap(seq) => write!(f, "the time is inside a gap of history seq={seq}"),
            Reason::Removed(until) => {
                let until = u32::try_from(*until).unwrap_or(u32::MAX);
                f.write_str(&removed_words(Timestamp { time: until, increment: 0 }))
            }
            Reason::Quarantined(seq) => write!(f, "a change was quarantined seq={seq}"),
            Reason::Unwatched(seq) => write!(f, "it is no longer watched since seq={seq}"),
            Reason::Renamed(seq) => write!(f, "another collection was renamed to this one seq={seq}"),
            Reason::OtherCollection(seq) => write!(f, "the collection is another one of that name seq={seq}"),
            Reason::OtherId(seq) => {
                write!(f, "its _id was replaced by an equal one of another type seq={seq}")
            }
            Reason::Delta(seq, why) => write!(f, "{why} seq={seq}"),
        }
    }
}

/// A state, and what it is made of was recorded under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// What the document was.
    pub state: State,
    /// The policies, and which of the records are marked as changed by plugins.
    pub origins: BTreeSet<Origin>,
}

impl Known {
    pub(super) fn unknown(reason: Reason) -> Known {
        Known { state: State::Unknown(reason), origins: BTreeSet::new() }
    }

    /// Nothing is kept.
    pub(super) fn unrecorded() -> Known {
        Known::unknown(Reason::BeforeBaseline)
    }

    pub(super) fn absent() -> Known {
        Known { state: State::Absent, origins: BTreeSet::new() }
    }

    pub(super) fn image(document: Bytes, origin: Origin) -> Known {
        Known { state: State::Present(document), origins: BTreeSet::from([origin]) }
    }
}

/// What one record did to its document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The document before it. Of a document that a comparison found, as it was last known before the gap.
    pub before: Known,
    /// The document after it.
    pub after: Known,
}

/// One document: where it is, and its id.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The namespace it is in.
    pub namespace: Namespace,
    /// The `_id`, in one of its forms.
    pub id: Id,
}

impl Identity {
    /// The document that a record is about; `None` where it is about none.
    pub fn of(record: &Record<'_>) -> Option<Identity> {
        let id = record.id()?;
        Some(Identity { namespace: Namespace::of(record)?, id: Id::of(&id) })
    }
}

#[derive(Debug, Clone)]
struct Tracked {
    /// As far as it is recorded.
    known: Known,
    /// The records (of gaps and renames) behind which it is in doubt.
    doubts: BTreeSet<RecordId>,
    /// The partition that its records are in: losses of other partitions are none of its business.
    partition: Option<u32>,
    /// The time of the baseline it was read by: changes up to it are in it already.
    baseline: Option<Timestamp>,
    /// The UUID of the collection that it was in, where its last record says so.
    collection: Option<Vec<u8>>,
}

impl Tracked {
    /// Notes in which collection this record found the document. What was known is that of another document where the
    /// collection is another one: a name can be used again, in a gap without a record of it.
    fn be_in(&mut self, record: &Record<'_>) -> Result<()> {
        let uuid = record.part("detail").and_then(|d| d.get("collectionUUID")).and_then(|e| e.as_binary());
        let collection = uuid.map(|(_, uuid)| uuid.to_vec());
        let another = self.collection.as_ref().zip(collection.as_ref()).is_some_and(|(was, is)| was != is);
        if another && self.known.state != State::Absent && self.doubts.is_empty() {
            self.known = Known::unknown(Reason::OtherCollection(record.seq()?));
        }
        self.collection = collection;
        Ok(())
    }
}

impl Tracked {
    fn unrecorded(partition: Option<u32>) -> Tracked {
        let (known, doubts) = (Known::unrecorded(), BTreeSet::new());
        Tracked { known, doubts, partition, baseline: None, collection: None }
    }

    fn set(&mut self, known: Known) {
        self.known = known;
        self.doubts.clear();
    }

    /// Ends the doubt behind a gap, if there is any: the document was compared, in whatever collection it is by now.
    fn settle(&mut self, gap: RecordId) -> bool {
        let doubted = self.doubts.remove(&gap);
        if doubted {
            self.collection = None;
        }
        doubted
    }

    /// Whether a baseline read it at this time or later.
    fn is_read_after(&self, time: Timestamp) -> bool {
        self.baseline.is_some_and(|baseline| time <= baseline)
    }
}

/// The states of the documents whose records were fed in.
#[derive(Debug, Clone, Default)]
pub struct States {
    policies: Policies,
    /// What quarantine records' digests were made with.
    salts: Salts,
    documents: HashMap<Identity, Tracked>,
    /// Those that no comparison has closed.
    gaps: BTreeMap<RecordId, Gap>,
    past_gaps: PastGaps,
    /// Renames of unknown collections into known ones.
    renames: BTreeSet<RecordId>,
    watched: WatchLists,
    removed_until: Option<Timestamp>,
}

impl States {
    /// None yet. Policy records that are fed in later are noted too. Without its salt, a quarantine record concerns every document
    /// of its namespace.
    pub fn new(policies: Policies, salts: Salts) -> States {
        States { policies, salts, ..States::default() }
    }

    /// Where retention has removed history up to a time.
    pub(super) fn removed_until(self, removed_until: Option<Timestamp>) -> States {
        States { removed_until, ..self }
    }

    /// The policies known so far.
    pub fn policies(&self) -> &Policies {
        &self.policies
    }

    /// What a document is after all records so far.
    pub fn now(&self, identity: &Identity) -> Known {
        self.documents.get(identity).map_or_else(Known::unrecorded, |tracked| self.told(tracked))
    }

    /// What is recorded of a document, even where it is in doubt; `None` where nothing is.
    pub fn recorded(&self, identity: &Identity) -> Option<&Known> {
        self.documents.get(identity).map(|tracked| &tracked.known)
    }

    /// The last of the records behind which a document is in doubt.
    pub fn doubt(&self, identity: &Identity) -> Option<RecordId> {
        self.documents.get(identity)?.doubts.last().copied()
    }

    /// All gaps there have been so far.
    pub(super) fn past_gaps(&self) -> &PastGaps {
        &self.past_gaps
    }

    /// Whether a document is in doubt behind this gap.
    pub fn is_in_doubt(&self, identity: &Identity, gap: RecordId) -> bool {
        self.documents.get(identity).is_some_and(|tracked| tracked.doubts.contains(&gap))
    }

    /// The documents that are in doubt behind this gap.
    pub fn in_doubt(&self, gap: RecordId) -> impl Iterator<Item = (&Identity, &Known)> {
        let doubted = self.documents.iter().filter(move |(_, tracked)| tracked.doubts.contains(&gap));
        doubted.map(|(identity, tracked)| (identity, &tracked.known))
    }

    /// Ends the doubt behind this gap: the document was found to be what is recorded, or a record says otherwise.
    pub fn settle(&mut self, identity: &Identity, gap: RecordId) {
        if let Some(tracked) = self.documents.get_mut(identity) {
            tracked.settle(gap);
        }
    }

    /// When a document could have changed unseen: the stretches of all open gaps that it is in doubt behind; for one of which
    /// nothing is recorded, of all that concern its namespace.
    pub fn unseen_window(&self, identity: &Identity) -> Option<(Timestamp, Timestamp)> {
        let tracked = self.documents.get(identity).filter(|tracked| !tracked.doubts.is_empty());
        let concerns = |gap: &&Gap| match tracked {
            Some(tracked) => tracked.doubts.contains(&gap.id),
            None => gap.namespace.as_ref().is_none_or(|namespace| *namespace == identity.namespace),
        };
        let gaps: Vec<&Gap> = self.gaps.values().filter(concerns).collect();
        Some((gaps.iter().map(|gap| gap.after).min()?, gaps.iter().map(|gap| gap.until).max()?))
    }

    /// Since when nothing that happened in this namespace, in the partition of this record, was left out until it came; `None` where
    /// no policy record says.
    pub fn recorded_since(
        &self,
        namespace: &Namespace,
        record: RecordId,
        time: Timestamp,
    ) -> Option<Timestamp> {
        self.watched.since(namespace, record, time)
    }

    /// Whether nothing was in a collection, just before a record, of which nothing is recorded.
    pub(super) fn is_complete(&self, namespace: &Namespace, record: &Record<'_>) -> Result<bool> {
        let (time, removed) = (record.cluster_time()?, self.removed_until);
        Ok(self.watched.is_complete(namespace, time, removed, is_whole(record), &self.past_gaps))
    }

    /// Whether a document of this namespace that was there no more at a time can be there again, and no record would tell: a gap is not
    /// closed, or it is not watched.
    pub(super) fn may_be_unseen(&self, namespace: &Namespace, since: Timestamp) -> bool {
        self.past_gaps.is_open_since(namespace, since) || !self.watched.is_watched(namespace)
    }

    /// The partition that the records of a document are in, where any is known.
    pub(super) fn partition(&self, identity: &Identity) -> Option<u32> {
        self.documents.get(identity).and_then(|tracked| tracked.partition)
    }

    /// Notes that there may be such a document, so that what concerns it is known of it before anything is recorded of it.
    pub(super) fn expect(&mut self, identity: &Identity, partition: Option<u32>) {
        let tracked = || Tracked::unrecorded(partition);
        self.documents.entry(identity.clone()).or_insert_with(tracked);
    }

    /// Whether a quarantine record says by its digest that it is of this document, and nobody could say otherwise.
    pub fn is_named(&self, record: &Record<'_>, identity: &Identity) -> bool {
        let salt = record.record_id().ok().and_then(|id| self.salts.get(&id.partition));
        let digest = quarantined(record, "keyDigest");
        salt.is_some() && digest.is_some_and(|digest| identity.id.may_have(digest, salt))
    }

    /// Forgets the documents that do not exist, which takes no more than for those that nothing is recorded of.
    pub fn forget_absent(&mut self) {
        self.documents.retain(|_, tracked| tracked.known.state != State::Absent);
    }

    /// The same for one document.
    pub fn forget_if_absent(&mut self, identity: &Identity) {
        if self.recorded(identity).is_some_and(|known| known.state == State::Absent) {
            self.documents.remove(identity);
        }
    }

    /// About how many bytes of memory the states take.
    pub fn size(&self) -> usize {
        /// A map entry, two names, and what an allocation costs.
        const OVERHEAD: usize = 320;
        let contents = |known: &Known| match &known.state {
            State::Present(bytes) => bytes.len(),
            _ => 0,
        };
        self.documents.iter().map(|(i, t)| OVERHEAD + i.id.1.len() + contents(&t.known)).sum()
    }

    /// How many documents there are.
    pub fn len(&self) -> usize {
        self.documents.len()
    }

    /// Whether there is no document.
    pub fn is_empty(&self) -> bool {
        self.documents.is_empty()
    }

    /// Takes the next record in. Returns what it did to its document; `None` for records that are not about one.
    pub fn advance(&mut self, record: &Record<'_>) -> Result<Option<Change>> {
        match record.op() {
            "policy" => {
                self.policies.note(record)?;
                self.note_dropping(record.record_id()?);
                self.note_watched(record)?;
            }
            "drop" | "dropDatabase" => self.end_namespace(record)?,
            "rename" => self.rename(record)?,
            "create" => {
                let (db, coll) = (record.db().unwrap_or_default(), record.coll());
                self.watched.turn(record.cluster_time()?, db, coll, Turned::Began);
            }
            // One change of one document is missing; else all may have changed.
            "gap" if record.id().is_none() => self.gap(record)?,
            "quarantine" => self.quarantine(record)?,
            _ => return self.change(record),
        }
        Ok(None)
    }

    /// What can be said of a document.
    fn told(&self, tracked: &Tracked) -> Known {
        match (&tracked.known.state, tracked.doubts.first()) {
            (State::Unknown(_), _) | (_, None) => tracked.known.clone(),
            (_, Some(rename)) if self.renames.contains(rename) => Known::unknown(Reason::Renamed(rename.seq)),
            (_, Some(gap)) => Known::unknown(Reason::Gap(gap.seq)),
        }
    }

    /// Takes a document out, to be put back once this record is taken in.
    fn tracked(&mut self, identity: &Identity, record: &Record<'_>) -> Result<Tracked> {
        let partition = record.record_id()?.partition;
        Ok(self.documents.remove(identity).unwrap_or_else(|| Tracked::unrecorded(partition)))
    }

    fn change(&mut self, record: &Record<'_>) -> Result<Option<Change>> {
        let Some(identity) = Identity::of(record) else { return Ok(None) };
        let time = record.cluster_time()?;
        let mut tracked = self.tracked(&identity, record)?;
        let contents = self.policies.contents_behind(record, &tracked.known.origins);
        let is_snapshot = record.op() == "snapshot";
        if !is_snapshot && tracked.is_read_after(time) {
            // The baseline was read after this change; its images still say what it did.
            let Effect { before, after, .. } = effect(record, &Known::unrecorded(), contents)?;
            self.documents.insert(identity, tracked);
            return Ok(Some(Change { before, after }));
        }
        tracked.be_in(record)?;
        let told = self.told(&tracked);
        let mut effect = effect(record, &tracked.known, contents)?;
        if let Some(watched) = self.watched.last(tracked.partition)
            && watched.ends(&identity.namespace, record.seq()?)
        {
            tracked.set(Known::unknown(Reason::Unwatched(watched.seq)));
        } else if let Some(id) = other_id(record, &identity, contents) {
            let mut other = tracked.clone();
            other.set(effect.after);
            self.documents.insert(Identity { id, ..identity.clone() }, other);
            tracked.set(Known::unknown(Reason::OtherId(record.seq()?)));
        } else if let Some(until) = self.removed_until
            && record.late().is_some()
            && time <= until
        {
            // What came behind its event may have expired, which it has not.
            tracked.set(Known::unknown(Reason::Removed(until.time.into())));
        } else if effect.is_certain {
            tracked.set(effect.after);
        } else {
            tracked.known = effect.after;
        }
        if !effect.tells_before {
            effect.before = told;
            let shows_it = match record.op() {
                "gap" => quarantined(record, "op") != Some("insert"),
                op => matches!(op, "update" | "replace" | "delete"),
            };
            if shows_it && effect.before.state == State::Absent {
                effect.before = Known::unrecorded();
            }
        }
        if is_snapshot {
            tracked.baseline = Some(time);
        }
        let change = Change { before: effect.before, after: self.told(&tracked) };
        self.documents.insert(identity, tracked);
        Ok(Some(change))
    }

    /// Takes in that history is missing, or what became of it.
    fn gap(&mut self, record: &Record<'_>) -> Result<()> {
        match GapRecord::of(record)? {
            GapRecord::Opens(gap) => {
                let renames = std::mem::take(&mut self.renames);
                self.doubt_all(gap.id, record.cluster_time()?, |identity, tracked| {
                    let concerned = tracked.partition == gap.id.partition
                        && gap.namespace.as_ref().is_none_or(|ns| *ns == identity.namespace);
                    if concerned && gap.namespace.is_some() {
                        // The rename that it comes with casts no other doubt.
                        tracked.doubts.retain(|doubt| !renames.contains(doubt));
                    }
                    concerned
                });
                self.renames = renames;
                self.past_gaps.open(gap.clone());
                self.gaps.insert(gap.id, gap);
            }
            GapRecord::Closes { gap, undecided, whole } => {
                self.gaps.remove(&gap);
                for (identity, tracked) in &mut self.documents {
                    if tracked.settle(gap) && undecided.contains(&identity.namespace) {
                        tracked.set(Known::unknown(Reason::Gap(gap.seq)));
                    }
                }
                self.past_gaps.close(gap, undecided, whole);
            }
        }
        Ok(())
    }

    /// Casts doubt on documents, but for those read by a later baseline.
    fn doubt_all(
        &mut self,
        id: RecordId,
        time: Timestamp,
        mut concerns: impl FnMut(&Identity, &mut Tracked) -> bool,
    ) {
        for (identity, tracked) in &mut self.documents {
            if !tracked.is_read_after(time) && concerns(identity, tracked) {
                tracked.doubts.insert(id);
            }
        }
    }

    /// From here on plugins may drop changes of documents that were recorded whole.
    fn note_dropping(&mut self, policy: RecordId) {
        if self.policies.may_drop(policy) {
            let origin = Origin { policy, is_redacted: false };
            for tracked in self.documents.values_mut().filter(|t| t.partition == policy.partition) {
                tracked.known.origins.insert(origin);
            }
        }
    }

    /// Nobody sees any more what becomes of documents that are left out, whenever they were read; of those that are watched
    /// again, nothing is known yet.
    fn note_watched(&mut self, record: &Record<'_>) -> Result<()> {
        self.watched.note(record)?;
        let Some(watched) = Watched::of(record)? else { return Ok(()) };
        let partition = record.record_id()?.partition;
        for (identity, tracked) in self.documents.iter_mut().filter(|(_, t)| t.partition == partition) {
            let was_left_out = matches!(tracked.known.state, State::Unknown(Reason::Unwatched(_)));
            match watched.covers(&identity.namespace) {
                false if !was_left_out => tracked.set(Known::unknown(Reason::Unwatched(watched.seq))),
                true if was_left_out => tracked.set(Known::unrecorded()),
                _ => {}
            }
        }
        Ok(())
    }
}

/// The `_id` that a document goes on under behind a replacement: MongoDB lets one be replaced by any that it takes for equal.
fn other_id(record: &Record<'_>, identity: &Identity, contents: Contents) -> Option<Id> {
    let is_own = record.op() == "replace" && contents == Contents::Full;
    let id = record.part("after").filter(|_| is_own)?.get("_id")?;
    Some(Id::of(&id)).filter(|id| *id != identity.id)
}
