//! What documents were before and after each record: images where there are any, else baseline plus deltas.
//!
//! Fed with records in seq order or by cluster time, of one document or of many. Says `Unknown`, with the reason,
//! where history can't tell; never guesses.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use bson::Timestamp;
use bson_walker::Doc;
use bytes::Bytes;

use super::Namespace;
use super::document::{Contents, Unapplied, apply};
use super::watched::Watched;
use crate::error::Result;
use crate::record::{Record, RecordId, id_digest};

/// Operations on one document.
const DOCUMENT_OPS: [&str; 5] = ["insert", "update", "replace", "delete", "snapshot"];

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
    /// The contents of this change were withheld because a plugin failed on it.
    Quarantined(i64),
    /// It is not watched since this record.
    Unwatched(i64),
    /// Another collection took this one's name.
    Renamed(i64),
    /// This record changed a document of another collection of that name.
    OtherCollection(i64),
    /// This record's delta could not be applied.
    Delta(i64, Unapplied),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::BeforeBaseline => write!(f, "nothing is kept of it from before"),
            Reason::NoImage(seq) => write!(f, "the document is missing in its record seq={seq}"),
            Reason::Gap(seq) => write!(f, "history is missing before seq={seq}"),
            Reason::Quarantined(seq) => write!(f, "a change was quarantined seq={seq}"),
            Reason::Unwatched(seq) => write!(f, "it is no longer watched since seq={seq}"),
            Reason::Renamed(seq) => write!(f, "another collection was renamed to this one seq={seq}"),
            Reason::OtherCollection(seq) => write!(f, "the collection is another one of that name seq={seq}"),
            Reason::Delta(seq, why) => write!(f, "{why} seq={seq}"),
        }
    }
}

/// The plugin chains that records were made under, by their policy record.
#[derive(Debug, Clone, Default)]
pub struct Policies(BTreeMap<RecordId, Vec<String>>);

impl Policies {
    /// Takes a policy record's plugins down; other records are none of its business.
    pub fn note(&mut self, record: &Record<'_>) -> Result<()> {
        if record.op() != "policy" {
            return Ok(());
        }
        let list = record.part("detail").and_then(|d| d.get("plugins")).and_then(|e| e.as_doc());
        let plugins = list.map(|list| list.elements().map_while(|e| e.ok()?.as_doc()).map(plugin).collect());
        self.0.insert(record.record_id()?, plugins.unwrap_or_default());
        Ok(())
    }

    /// The plugins of a policy, each as "name version (sha256 …)"; `None` where the policy record is not known.
    pub fn plugins(&self, policy: RecordId) -> Option<&[String]> {
        self.0.get(&policy).map(Vec::as_slice)
    }

    /// Whether a record's contents are MongoDB's own. Where the policy is not known, they need not be.
    fn contents(&self, record: &Record<'_>) -> Contents {
        match self.plugins(policy_of(record)) {
            Some([]) => Contents::Full,
            _ => Contents::Redacted,
        }
    }
}

fn plugin(plugin: Doc<'_>) -> String {
    let text = |name| plugin.get(name).and_then(|e| e.as_str()).unwrap_or("?");
    let sha256 = text("sha256");
    format!("{} {} (sha256 {})", text("name"), text("version"), sha256.get(..12).unwrap_or(sha256))
}

/// The policy record that was in force for this one: of the same stream.
pub(super) fn policy_of(record: &Record<'_>) -> RecordId {
    let seq = record.doc().get("policy").and_then(|e| e.as_i64()).unwrap_or(0);
    RecordId { partition: record.record_id().ok().and_then(|id| id.partition), seq }
}

/// A state, and the policies that what it is made of was recorded under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// What the document was.
    pub state: State,
    /// The policy records.
    pub policies: BTreeSet<RecordId>,
}

impl Known {
    fn unknown(reason: Reason) -> Known {
        Known { state: State::Unknown(reason), policies: BTreeSet::new() }
    }

    /// Nothing is kept.
    pub(super) fn unrecorded() -> Known {
        Known::unknown(Reason::BeforeBaseline)
    }

    fn absent() -> Known {
        Known { state: State::Absent, policies: BTreeSet::new() }
    }

    fn image(doc: Doc<'_>, policy: RecordId) -> Known {
        let state = State::Present(Bytes::copy_from_slice(doc.as_bytes()));
        Known { state, policies: BTreeSet::from([policy]) }
    }
}

/// What one record did to its document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The document before it.
    pub before: Known,
    /// The document after it.
    pub after: Known,
}

/// One document: where it is, and its id.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The namespace it is in.
    pub namespace: Namespace,
    /// The `_id`'s type byte and value.
    pub id: (u8, Vec<u8>),
}

impl Identity {
    /// The document that a record is about; `None` where it is about none.
    pub fn of(record: &Record<'_>) -> Option<Identity> {
        let id = record.id()?;
        Some(Identity { namespace: Namespace::of(record)?, id: (id.kind(), id.value().to_vec()) })
    }
}

#[derive(Debug, Clone)]
struct Tracked {
    known: Known,
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
        if another && self.known.state != State::Absent {
            self.known = Known::unknown(Reason::OtherCollection(record.seq()?));
        }
        self.collection = collection;
        Ok(())
    }
}

/// The states of the documents whose records were fed in.
#[derive(Debug, Clone, Default)]
pub struct States {
    policies: Policies,
    documents: HashMap<Identity, Tracked>,
    /// As the last policy record of each partition says.
    watched: BTreeMap<Option<u32>, Watched>,
}

impl States {
    /// None yet. Policy records that are fed in later are noted too.
    pub fn new(policies: Policies) -> States {
        States { policies, ..States::default() }
    }

    /// The policies known so far.
    pub fn policies(&self) -> &Policies {
        &self.policies
    }

    /// What a document is after all records so far.
    pub fn now(&self, identity: &Identity) -> Known {
        match self.documents.get(identity) {
            Some(tracked) => tracked.known.clone(),
            None => Known::unknown(Reason::BeforeBaseline),
        }
    }

    /// Takes the next record in. Returns what it did to its document; `None` for records that are not about one.
    pub fn advance(&mut self, record: &Record<'_>) -> Result<Option<Change>> {
        match record.op() {
            "policy" => {
                self.policies.note(record)?;
                self.note_watched(record)?;
            }
            "drop" | "dropDatabase" => self.end_namespace(record)?,
            "rename" => self.rename(record)?,
            // One change of one document is missing; else all may have changed.
            "gap" if record.id().is_some() => return self.change(record),
            "gap" => {
                let RecordId { partition, seq } = record.record_id()?;
                self.lose(Reason::Gap(seq), record.cluster_time()?, |_, t| t.partition == partition);
            }
            "quarantine" => self.quarantine(record)?,
            _ => return self.change(record),
        }
        Ok(None)
    }

    fn change(&mut self, record: &Record<'_>) -> Result<Option<Change>> {
        let Some(identity) = Identity::of(record) else { return Ok(None) };
        let time = record.cluster_time()?;
        let contents = self.policies.contents(record);
        let partition = record.record_id()?.partition;
        let namespace = identity.namespace.clone();
        let tracked = self.documents.entry(identity).or_insert_with(|| Tracked {
            known: Known::unknown(Reason::BeforeBaseline),
            partition,
            baseline: None,
            collection: None,
        });
        let is_snapshot = record.op() == "snapshot";
        if !is_snapshot && tracked.baseline.is_some_and(|baseline| time <= baseline) {
            // The baseline was read after this change; its images still say what it did.
            let (before, after) = effect(record, &Known::unknown(Reason::BeforeBaseline), contents)?;
            return Ok(Some(Change { before, after }));
        }
        tracked.be_in(record)?;
        let (before, mut after) = effect(record, &tracked.known, contents)?;
        if let Some(watched) = self.watched.get(&partition)
            && watched.ends(&namespace, record.seq()?)
        {
            after = Known::unknown(Reason::Unwatched(watched.seq));
        }
        tracked.known = after.clone();
        if is_snapshot {
            tracked.baseline = Some(time);
        }
        Ok(Some(Change { before, after }))
    }

    /// Nobody sees any more what becomes of documents that are left out, whenever they were read; of those that are watched
    /// again, nothing is known yet.
    fn note_watched(&mut self, record: &Record<'_>) -> Result<()> {
        let Some(watched) = Watched::of(record)? else { return Ok(()) };
        let partition = record.record_id()?.partition;
        for (identity, tracked) in self.documents.iter_mut().filter(|(_, t)| t.partition == partition) {
            let was_left_out = matches!(tracked.known.state, State::Unknown(Reason::Unwatched(_)));
            match watched.covers(&identity.namespace) {
                false if !was_left_out => tracked.known = Known::unknown(Reason::Unwatched(watched.seq)),
                true if was_left_out => tracked.known = Known::unrecorded(),
                _ => {}
            }
        }
        self.watched.insert(partition, watched);
        Ok(())
    }

    fn end_namespace(&mut self, record: &Record<'_>) -> Result<()> {
        let time = record.cluster_time()?;
        for (identity, tracked) in &mut self.documents {
            let in_it = record.db() == Some(identity.namespace.db.as_str())
                && record.coll().is_none_or(|coll| coll == identity.namespace.coll);
            if in_it && tracked.baseline.is_none_or(|baseline| time > baseline) {
                tracked.known = Known::absent();
            }
        }
        Ok(())
    }

    /// The documents go on under the other name; what was there before is gone.
    fn rename(&mut self, record: &Record<'_>) -> Result<()> {
        let (Some(from), Some(to)) = (Namespace::of(record), target(record)) else { return Ok(()) };
        let seq = record.seq()?;
        self.lose(Reason::Renamed(seq), record.cluster_time()?, |identity, _| identity.namespace == to);
        let moved: Vec<Identity> = self.documents.keys().filter(|i| i.namespace == from).cloned().collect();
        for identity in moved {
            let Some(tracked) = self.documents.get_mut(&identity) else { continue };
            let tracked = std::mem::replace(tracked, Tracked { known: Known::absent(), ..tracked.clone() });
            self.documents.insert(Identity { namespace: to.clone(), id: identity.id }, tracked);
        }
        Ok(())
    }

    fn quarantine(&mut self, record: &Record<'_>) -> Result<()> {
        let reason = Reason::Quarantined(record.seq()?);
        let Some(namespace) = Namespace::of(record) else {
            self.lose(reason, record.cluster_time()?, |_, _| true);
            return Ok(());
        };
        let detail = |name| record.part("detail").and_then(|d| d.get(name)).and_then(|e| e.as_str());
        let key = detail("keyDigest");
        // One without a document, such as a drop, is withheld in the first partition and concerns all.
        let of_document = detail("op").is_some_and(|op| DOCUMENT_OPS.contains(&op));
        let partition = record.record_id()?.partition;
        self.lose(reason, record.cluster_time()?, |identity, tracked| {
            identity.namespace == namespace
                && (!of_document || tracked.partition == partition)
                && key.is_none_or(|key| key == id_digest(identity.id.0, &identity.id.1))
        });
        Ok(())
    }

    /// Makes states unknown, but for those read by a later baseline.
    fn lose(&mut self, reason: Reason, time: Timestamp, concerns: impl Fn(&Identity, &Tracked) -> bool) {
        for (identity, tracked) in &mut self.documents {
            if concerns(identity, tracked) && tracked.baseline.is_none_or(|baseline| time > baseline) {
                tracked.known = Known::unknown(reason);
            }
        }
    }
}

/// The new namespace of a rename.
pub(super) fn target(record: &Record<'_>) -> Option<Namespace> {
    let to = record.part("detail")?.get("to")?.as_doc()?;
    let text = |name| to.get(name).and_then(|e| e.as_str()).map(str::to_owned);
    Some(Namespace { db: text("db")?, coll: text("coll")? })
}

/// The document before and after a record, given what it was before.
fn effect(record: &Record<'_>, known: &Known, contents: Contents) -> Result<(Known, Known)> {
    let seq = record.seq()?;
    let policy = policy_of(record);
    let image = |name| record.part(name).map(|doc| Known::image(doc, policy));
    let before = match record.op() {
        "insert" => Known::absent(),
        // Reading a document says nothing of what it was before.
        "snapshot" => known.clone(),
        _ => image("before").unwrap_or_else(|| known.clone()),
    };
    let after = match record.op() {
        "delete" => Known::absent(),
        "gap" => Known::unknown(Reason::Gap(seq)),
        "update" => image("after").unwrap_or_else(|| updated(record, seq, &before, contents)),
        "insert" | "replace" | "snapshot" => {
            image("after").unwrap_or_else(|| Known::unknown(Reason::NoImage(seq)))
        }
        // Operations this version does not know may change the document or not.
        _ => image("after").unwrap_or_else(|| known.clone()),
    };
    Ok((before, after))
}

fn updated(record: &Record<'_>, seq: i64, before: &Known, contents: Contents) -> Known {
    let (bytes, delta) = match (&before.state, record.part("delta")) {
        (State::Present(bytes), Some(delta)) => (bytes, delta),
        (State::Present(_), None) => return Known::unknown(Reason::NoImage(seq)),
        (State::Absent, _) => return Known::unknown(Reason::BeforeBaseline),
        (State::Unknown(reason), _) => return Known::unknown(*reason),
    };
    match apply(bytes, delta, contents) {
        Ok(after) => {
            let mut policies = before.policies.clone();
            policies.insert(policy_of(record));
            Known { state: State::Present(after.into()), policies }
        }
        Err(why) => Known::unknown(Reason::Delta(seq, why)),
    }
}
