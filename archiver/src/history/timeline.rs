//! The history of one document: its records in order, with the document before and after each.

use std::collections::HashMap;

use bson::Timestamp;
use bson_walker::{Doc, Element};

use super::detail::target;
use super::expected::Expected;
use super::gaps::Found;
use super::id::DocumentId;
use super::released::{Released, place};
use super::states::{Change, Identity, Known, Reason, State, States};
use super::{History, Namespace, Salts, in_order, policies, removed_words};
use crate::archive::extjson::doc_id_text;
use crate::error::{Error, Kind, Result};
use crate::record::{Record, RecordId};

/// One record of a document's history.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The record's canonical bytes.
    pub record: Vec<u8>,
    /// The document that it is about.
    pub identity: Identity,
    /// The document before it.
    pub before: Known,
    /// The document after it.
    pub after: Known,
}

/// What became of one field in one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldChange {
    /// The dotted path, as MongoDB reports it.
    pub path: String,
    /// The value before, in short form; `None` where there was none or it is not known.
    pub from: Option<String>,
    /// The value after; `None` where it was removed.
    pub to: Option<String>,
}

/// All records of the documents with one id, replayed.
#[derive(Debug)]
pub struct Timeline {
    /// Oldest first.
    pub entries: Vec<Entry>,
    /// The states after the last one.
    pub states: States,
    /// All documents with the id, wherever they are.
    pub(super) identities: Vec<Identity>,
    /// Until when history has been removed by retention.
    pub removed_until: Option<Timestamp>,
}

impl History {
    /// The history of the documents with this id, in one namespace or in all. Fails as not found where there is none.
    ///
    /// Besides the document's own records it has those that changed it with its whole namespace: drops, renames, gaps; and those of
    /// changes that were withheld and are, or may be, its.
    pub async fn timeline(
        &self,
        source: &str,
        id: &DocumentId,
        namespace: Option<&Namespace>,
    ) -> Result<Timeline> {
        self.require(source).await?;
        let wide = self.wide(source).await?;
        let removed_until = self.removed_until(source).await?;
        self.timeline_among(source, id, namespace, &wide, removed_until).await.map_err(|error| {
            match removed_until.filter(|_| error.kind() == Kind::NotFound) {
                Some(until) => error.hint(format!("{}: it may have been there before", removed_words(until))),
                None => error,
            }
        })
    }

    /// The same, with what concerns all documents of the source at hand.
    pub(super) async fn timeline_among(
        &self,
        source: &str,
        id: &DocumentId,
        namespace: Option<&Namespace>,
        wide: &[Vec<u8>],
        removed_until: Option<Timestamp>,
    ) -> Result<Timeline> {
        let own = self.document(source, id).await?;
        let timeline = Timeline::of(id, own, wide, self.salts(source).await?, removed_until)?;
        let identities = timeline.identities.clone();
        let timeline = timeline.within(namespace);
        if timeline.entries.is_empty() {
            return Err(unknown_document(source, id, namespace, &identities));
        }
        Ok(timeline)
    }
}

impl Timeline {
    /// The history of the documents with this id, of which these are all records, among the source's wide ones. It may have no entry.
    pub(super) fn of(
        id: &DocumentId,
        own: Vec<Vec<u8>>,
        wide: &[Vec<u8>],
        salts: Salts,
        removed_until: Option<Timestamp>,
    ) -> Result<Timeline> {
        let mut states = States::new(policies(wide)?, salts).removed_until(removed_until);
        let released = Released::among(wide)?;
        let expected = Expected::of(id, &own)?;
        let mut identities: Vec<Identity> = Vec::new();
        let mut entries = Vec::new();
        let mut renames: HashMap<Namespace, Vec<u8>> = HashMap::new();
        // A gap record of one lost change is about its document alone.
        let wide = wide.iter().filter(|bytes| Record::new(bytes).is_ok_and(|record| record.id().is_none()));
        for bytes in in_order(own.into_iter().chain(wide.cloned()).collect())? {
            let record = Record::new(&bytes)?;
            if released.holds(record.record_id()?) {
                continue;
            }
            if record.op() == "quarantine" {
                for identity in expected.by(&record, &states)? {
                    states.expect(&identity, record.record_id()?.partition);
                    if !identities.contains(&identity) {
                        identities.push(identity);
                    }
                }
            }
            match Identity::of(&record) {
                Some(identity) => {
                    let doubt = states.doubt(&identity);
                    let may_have_come = match states.recorded(&identity).map(|known| &known.state) {
                        Some(State::Absent) => record.op() != "insert",
                        Some(State::Unknown(Reason::Renamed(_))) => true,
                        _ => false,
                    };
                    if let Some(Change { before, after }) = states.advance(&record)? {
                        if Found::of(&record).is_some() {
                            resolve(&mut entries, &identity, doubt, &after)?;
                        } else if may_have_come {
                            let then = if record.op() == "snapshot" { &after } else { &before };
                            came_along(&mut entries, &identity, renames.get(&identity.namespace), then)?;
                        }
                        entries.push(Entry {
                            record: bytes.clone(),
                            identity: identity.clone(),
                            before,
                            after,
                        });
                    }
                    if !identities.contains(&identity) {
                        identities.push(identity);
                    }
                }
                None => {
                    if let Some(to) = target(&record).filter(|_| record.op() == "rename") {
                        renames.insert(to, bytes.clone());
                    }
                    wide_entries(&bytes, &mut identities, &mut states, &mut entries)?;
                }
            }
        }
        Ok(Timeline { entries, states, identities, removed_until })
    }

    /// Only what happened in a namespace; `None`: everything.
    pub(super) fn within(mut self, namespace: Option<&Namespace>) -> Timeline {
        if let Some(wanted) = namespace {
            self.entries.retain(|entry| entry.identity.namespace == *wanted);
        }
        self
    }
}

/// Takes a record in that is not about one document, and notes which documents it changed all the same.
fn wide_entries(
    bytes: &[u8],
    identities: &mut Vec<Identity>,
    states: &mut States,
    entries: &mut Vec<Entry>,
) -> Result<()> {
    let record = Record::new(bytes)?;
    let told = |identity: &Identity| (states.now(identity), states.doubt(identity));
    let before: Vec<(Known, Option<RecordId>)> = identities.iter().map(told).collect();
    let is_complete = match target(&record).filter(|_| record.op() == "rename") {
        Some(to) => states.is_complete(&to, &record)?,
        None => false,
    };
    states.advance(&record)?;
    for (identity, (mut before, doubt)) in identities.iter().zip(before) {
        let after = states.now(identity);
        // Of what is in doubt already, a gap says that even more is missing.
        let is_in_gap = record.op() == "gap" && states.is_in_doubt(identity, record.record_id()?);
        if before.state != after.state || is_in_gap {
            if record.op() == "gap" && states.doubt(identity).is_none() {
                resolve(entries, identity, doubt, &after)?;
                before = after.clone();
            }
            entries.push(Entry { record: bytes.to_vec(), identity: identity.clone(), before, after });
        }
    }
    let (Some(from), Some(to)) = (Namespace::of(&record), target(&record)) else { return Ok(()) };
    let moved = identities.iter().filter(|i| record.op() == "rename" && i.namespace == from);
    let moved: Vec<_> = moved.map(|i| Identity { namespace: to.clone(), id: i.id.clone() }).collect();
    let is_there =
        |identity: &Identity| states.recorded(identity).is_some_and(|known| known.state != State::Absent);
    for identity in moved.into_iter().filter(is_there) {
        if !identities.contains(&identity) {
            let before = if is_complete { Known::absent() } else { Known::unrecorded() };
            let after = states.now(&identity);
            entries.push(Entry { record: bytes.to_vec(), identity: identity.clone(), before, after });
            identities.push(identity);
        }
    }
    Ok(())
}

/// Says what a document was since its last record behind a gap, once that is known: nothing has happened to it in between.
fn resolve(entries: &mut [Entry], identity: &Identity, doubt: Option<RecordId>, known: &Known) -> Result<()> {
    let Some(doubt) = doubt else { return Ok(()) };
    if let Some(last) = entries.iter_mut().rev().find(|entry| entry.identity == *identity)
        && is_behind(&Record::new(&last.record)?, doubt)?
    {
        last.after = known.clone();
    }
    Ok(())
}

/// Says what a document was since the last rename to its name, where its next record shows that it was there: it came with the
/// renamed collection, in which no baseline had read it yet.
fn came_along(
    entries: &mut Vec<Entry>,
    identity: &Identity,
    rename: Option<&Vec<u8>>,
    known: &Known,
) -> Result<()> {
    let Some(rename) = rename else { return Ok(()) };
    let Some(at) = entries.iter().rposition(|entry| entry.identity == *identity) else { return Ok(()) };
    let (moved, last) = (place(&Record::new(rename)?)?, place(&Record::new(&entries[at].record)?)?);
    if last == moved {
        entries[at].after = known.clone();
    } else if last < moved {
        let (identity, before, after) = (identity.clone(), entries[at].after.clone(), known.clone());
        let mut to = entries.len();
        while place(&Record::new(&entries[to - 1].record)?)? > moved {
            to -= 1;
        }
        entries.insert(to, Entry { record: rename.clone(), identity, before, after });
    }
    Ok(())
}

/// Whether a record comes after another one, which casts doubt, in the same stream.
fn is_behind(record: &Record<'_>, doubt: RecordId) -> Result<bool> {
    let id = record.record_id()?;
    Ok(id.partition == doubt.partition && id.seq >= doubt.seq)
}

/// That nothing is kept of documents with an id; `found`: those in other namespaces.
pub(super) fn unknown_document(
    source: &str,
    id: &DocumentId,
    wanted: Option<&Namespace>,
    found: &[Identity],
) -> Error {
    let error =
        Error::not_found(format!("source {source} has no record of a document with the id {:?}", id.given()));
    match wanted {
        Some(wanted) if !found.is_empty() => {
            let mut others: Vec<_> = found.iter().map(|i| i.namespace.to_string()).collect();
            others.sort();
            others.dedup();
            error.hint(format!("not in {wanted}, but in: {}", others.join(", ")))
        }
        _ => error.hint(
            "an id is plain text for a string or ObjectId, else Extended JSON such as {\"$numberLong\": \"42\"}",
        ),
    }
}

impl Entry {
    /// What became of the fields: for updates as MongoDB reported them, for replacements and documents that a comparison found
    /// changed the top-level fields that differ; nothing for records that begin or end a document.
    pub fn changes(&self) -> Result<Vec<FieldChange>> {
        let record = Record::new(&self.record)?;
        let before = present(&self.before);
        Ok(match (record.op(), record.part("delta")) {
            (_, Some(delta)) => delta_changes(before, delta),
            ("replace" | "snapshot", None) => match (before, present(&self.after)) {
                (Some(before), Some(after)) => differences(before, after),
                _ => Vec::new(),
            },
            _ => Vec::new(),
        })
    }
}

fn present(known: &Known) -> Option<Doc<'_>> {
    match &known.state {
        State::Present(bytes) => Doc::new(bytes).ok(),
        _ => None,
    }
}

fn delta_changes(before: Option<Doc<'_>>, delta: Doc<'_>) -> Vec<FieldChange> {
    let old = |path: &[u8]| before.and_then(|doc| at(doc, path)).map(text);
    let part = |name| {
        delta.get(name).and_then(|e| e.as_doc()).unwrap_or(Doc::EMPTY).elements().map_while(Result::ok)
    };
    let mut changes = Vec::new();
    for element in part("updatedFields") {
        let path = element.name();
        changes.push(FieldChange { path: lossy(path), from: old(path), to: Some(text(element)) });
    }
    for element in part("removedFields") {
        let path = element.string_bytes().unwrap_or_default();
        changes.push(FieldChange { path: lossy(path), from: old(path), to: None });
    }
    for item in part("truncatedArrays").filter_map(|e| e.as_doc()) {
        let path = item.get("field").and_then(|e| e.string_bytes()).unwrap_or_default();
        let size = item.get("newSize").map(text).unwrap_or_default();
        let from = before.and_then(|doc| at(doc, path)).and_then(|e| e.as_doc());
        let from = from.map(|array| format!("{} items", array.elements().count()));
        changes.push(FieldChange { path: lossy(path), from, to: Some(format!("{size} items")) });
    }
    changes
}

fn differences(before: Doc<'_>, after: Doc<'_>) -> Vec<FieldChange> {
    let fields =
        |doc: Doc<'_>| doc.elements().map_while(Result::ok).map(|e| e.name().to_vec()).collect::<Vec<_>>();
    let get = |doc: Doc<'_>, name: &[u8]| -> Option<(u8, Vec<u8>, String)> {
        let element = doc.elements().map_while(Result::ok).find(|e| e.name() == name)?;
        Some((element.kind(), element.value().to_vec(), text(element)))
    };
    let mut names = fields(before);
    names.extend(fields(after));
    let mut seen = std::collections::HashSet::new();
    names.retain(|name| seen.insert(name.clone()));
    let changed = names.into_iter().filter_map(|name| {
        let (from, to) = (get(before, &name), get(after, &name));
        (from != to).then(|| FieldChange { path: lossy(&name), from: from.map(|f| f.2), to: to.map(|t| t.2) })
    });
    changed.collect()
}

/// The value at a path as people read it: whole names first, then at the dots. For showing only.
fn at<'a>(doc: Doc<'a>, path: &[u8]) -> Option<Element<'a>> {
    let exact = doc.elements().map_while(Result::ok).find(|e| e.name() == path);
    exact.or_else(|| {
        let dot = path.iter().position(|b| *b == b'.')?;
        let parent = doc.elements().map_while(Result::ok).find(|e| e.name() == &path[..dot])?;
        at(parent.as_doc()?, &path[dot + 1..])
    })
}

fn text(element: Element<'_>) -> String {
    doc_id_text(element)
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
