//! Many documents at once, each exactly as it would be found alone: all that there were at a time, or those of a list of ids.

use std::collections::HashMap;

use bson::Timestamp;
use bson_walker::Doc;

use super::conditions::Conditions;
use super::gather::{Key, gather};
use super::returned::withheld_inserts;
use super::{Answer, Lost, ONE_BY_ONE, Recovered, Summary, at_time, by_id, id_text, of_timeline};
use crate::error::{Error, Kind, Result};
use crate::history::detail::quarantined;
use crate::history::id::{DocumentId, Id};
use crate::history::policies::Policies;
use crate::history::released::notes;
use crate::history::states::{Identity, State};
use crate::history::timeline::{Entry, Timeline, unknown_document};
use crate::history::{History, Namespace, Salts, policies, removed_words};
use crate::record::{Record, unsalted_id_digest};
use crate::salt::Salt;

/// Ids that are looked for in one pass over the history.
const IDS_A_PASS: usize = if cfg!(test) { 50 } else { 100_000 };

/// Gives every document back as it was after all changes before a second, of those that were there and match.
///
/// `take` gets them in no order, but always the same one. Of a document that history can't tell of, it can't tell whether it matched
/// either: it is among the lost. Fails as not found where history has been removed up to that time or later.
pub async fn as_of(
    history: &History,
    source: &str,
    at: i64,
    namespace: Option<&Namespace>,
    conditions: &Conditions,
    mut take: impl AsyncFnMut(Answer) -> Result<()>,
) -> Result<Summary> {
    history.require(source).await?;
    let wide = history.wide(source).await?;
    let withheld = withheld_inserts(&wide, at, namespace)?;
    let removed_until = history.removed_until(source).await?;
    let wide = Wide::of(wide, history.salts(source).await?, removed_until)?;
    if let Some(until) = removed_until.filter(|until| at <= i64::from(until.time)) {
        return Err(Error::not_found("history can't tell what there was at that time")
            .hint(format!("{}; a later --at can be answered", removed_words(until))));
    }
    let policies = wide.policies.clone();
    let mut summary = Summary { policies, removed_until, withheld, ..Summary::default() };
    let key: &Key<'_> = &|record: &Record<'_>| Some(Id::of(&record.id()?).key());
    let mut gathered = gather(history, source, key).await?;
    while let Some(group) = gathered.next(key)? {
        for (_, own) in group.documents() {
            for found in wide.at_time(own, at, namespace)? {
                match found {
                    Ok(recovered) => {
                        if Doc::new(&recovered.document).is_ok_and(|doc| conditions.match_doc(doc)) {
                            summary.recovered += 1;
                            take(Ok(recovered)).await?;
                        }
                    }
                    Err(lost) => {
                        summary.lost += 1;
                        take(Err(lost)).await?;
                    }
                }
            }
        }
    }
    Ok(summary)
}

/// Gives the documents with these ids back in their order, each like [`by_id`]; `take` gets them, and what is wrong with the others.
/// Returns the policies.
pub async fn by_ids(
    history: &History,
    source: &str,
    ids: &[DocumentId],
    at: Option<i64>,
    namespace: Option<&Namespace>,
    mut take: impl AsyncFnMut(Result<Recovered>) -> Result<()>,
) -> Result<Policies> {
    let mut known = Policies::default();
    for id in ids {
        match by_id(history, source, id, at, namespace).await {
            Ok((recovered, policies)) => {
                known = policies;
                take(Ok(recovered)).await?;
            }
            Err(error) if is_of_one(&error) => take(Err(error)).await?,
            Err(error) => return Err(error),
        }
    }
    Ok(known)
}

/// The same for any number of ids: more than a few are looked for in passes over the whole history, a hundred thousand in each, and
/// come in no order.
pub async fn by_many_ids(
    history: &History,
    source: &str,
    ids: &[DocumentId],
    at: Option<i64>,
    namespace: Option<&Namespace>,
    mut take: impl AsyncFnMut(Result<Recovered>) -> Result<()>,
) -> Result<Policies> {
    if ids.len() <= ONE_BY_ONE {
        return by_ids(history, source, ids, at, namespace, take).await;
    }
    history.require(source).await?;
    let wide = Wide::read(history, source).await?;
    for ids in ids.chunks(IDS_A_PASS) {
        let mut wanted: HashMap<Id, Vec<u32>> = HashMap::new();
        for (n, id) in ids.iter().enumerate() {
            for meant in id.ids() {
                wanted.entry(meant).or_default().push(n as u32);
            }
        }
        // What one id can mean, another can too: their records are gathered together.
        let keys = together(&wanted, ids.len());
        let key = |record: &Record<'_>| -> Option<Vec<u8>> {
            let n = *wanted.get(&Id::of(&record.id()?))?.first()?;
            Some(keys[n as usize].to_be_bytes().to_vec())
        };
        let mut by_key: HashMap<u32, Vec<u32>> = HashMap::new();
        for (n, key) in keys.iter().enumerate() {
            by_key.entry(*key).or_default().push(n as u32);
        }
        let mut gathered = gather(history, source, &key).await?;
        while let Some(group) = gathered.next(&key)? {
            for (key, own) in group.documents() {
                let key = key.try_into().map(u32::from_be_bytes).unwrap_or(u32::MAX);
                for n in by_key.remove(&key).unwrap_or_default() {
                    let id = &ids[n as usize];
                    let is_its = |bytes: &&Vec<u8>| {
                        Record::new(bytes).is_ok_and(|record| record.id().is_some_and(|e| id.matches(&e)))
                    };
                    let own: Vec<Vec<u8>> = own.iter().filter(is_its).cloned().collect();
                    let timeline = wide.timeline(id, &own)?.within(namespace);
                    match one(&timeline, source, id, at, namespace) {
                        Err(error) if !is_of_one(&error) => return Err(error),
                        found => take(found).await?,
                    }
                }
            }
        }
        let mut rest: Vec<u32> = by_key.into_values().flatten().collect();
        rest.sort_unstable();
        for n in rest {
            // Nothing is recorded of them; a withheld change may bear witness to one all the same.
            let id = &ids[n as usize];
            let timeline = wide.timeline(id, &[])?.within(namespace);
            take(one(&timeline, source, id, at, namespace)).await?;
        }
    }
    Ok(wide.policies)
}

/// Whether an error is about one document, so that others can be looked for.
fn is_of_one(error: &Error) -> bool {
    matches!(error.kind(), Kind::NotFound | Kind::Invalid)
}

fn one(
    timeline: &Timeline,
    source: &str,
    id: &DocumentId,
    at: Option<i64>,
    namespace: Option<&Namespace>,
) -> Result<Recovered> {
    if !timeline.entries.is_empty() {
        return of_timeline(timeline, id, at);
    }
    let unknown = unknown_document(source, id, namespace, &timeline.identities);
    Err(match timeline.removed_until {
        Some(until) => unknown.hint(format!("{}: it may have been there before", removed_words(until))),
        None => unknown,
    })
}

/// The lowest of the ids that share a form with each one, directly or by way of others.
fn together(wanted: &HashMap<Id, Vec<u32>>, ids: usize) -> Vec<u32> {
    let mut lowest: Vec<u32> = (0..ids as u32).collect();
    fn root(lowest: &mut [u32], n: u32) -> u32 {
        let mut at = n;
        while lowest[at as usize] != at {
            lowest[at as usize] = lowest[lowest[at as usize] as usize];
            at = lowest[at as usize];
        }
        at
    }
    for same in wanted.values() {
        for pair in same.windows(2) {
            let (a, b) = (root(&mut lowest, pair[0]), root(&mut lowest, pair[1]));
            lowest[a.max(b) as usize] = a.min(b);
        }
    }
    (0..ids as u32).map(|n| root(&mut lowest, n)).collect()
}

/// A source's records about more than one document, read once for many documents.
pub(super) struct Wide {
    pub(super) policies: Policies,
    salts: Salts,
    removed_until: Option<Timestamp>,
    /// Those that concern every document.
    of_all: Vec<Vec<u8>>,
    /// Of withheld changes of documents, by the digest that says which.
    of_one: HashMap<String, Vec<Vec<u8>>>,
}

impl Wide {
    async fn read(history: &History, source: &str) -> Result<Wide> {
        let removed_until = history.removed_until(source).await?;
        Wide::of(history.wide(source).await?, history.salts(source).await?, removed_until)
    }

    pub(super) fn of(all: Vec<Vec<u8>>, salts: Salts, removed_until: Option<Timestamp>) -> Result<Wide> {
        let (policies, of_all, of_one) = (policies(&all)?, Vec::new(), HashMap::new());
        let mut wide = Wide { policies, salts, removed_until, of_all, of_one };
        for bytes in all {
            let record = Record::new(&bytes)?;
            let digest = quarantined(&record, "keyDigest").map(str::to_owned);
            let detail = |name| record.part("detail").is_some_and(|detail| detail.get(name).is_some());
            // Those that tell of holds and removals change nothing.
            let is_of_none = record.op() == "policy" && !detail("plugins") && !detail("watch");
            match digest.filter(|_| record.op() == "quarantine" && notes(&record).is_none()) {
                // Without the salt it may be any document's.
                Some(digest) if wide.salts.contains_key(&record.record_id()?.partition) => {
                    wide.of_one.entry(digest).or_default().push(bytes);
                }
                _ if is_of_none => {}
                _ => wide.of_all.push(bytes),
            }
        }
        Ok(wide)
    }

    /// The history of the documents with an id, of which these are all records.
    pub(super) fn timeline(&self, id: &DocumentId, own: &[Vec<u8>]) -> Result<Timeline> {
        let mut wide = self.of_all.clone();
        if !self.of_one.is_empty() {
            for Id(kind, value) in id.ids().flat_map(|id| id.forms()) {
                let salted = self.salts.values().map(|salt: &Salt| salt.id_digest(kind, &value));
                for digest in salted.chain([unsalted_id_digest(kind, &value)]) {
                    wide.extend(self.of_one.get(&digest).into_iter().flatten().cloned());
                }
            }
        }
        Timeline::of(id, own.to_vec(), &wide, self.salts.clone(), self.removed_until)
    }

    /// What the documents with one `_id` were at a time, those that were not there left out.
    fn at_time(&self, own: Vec<Vec<u8>>, at: i64, namespace: Option<&Namespace>) -> Result<Vec<Answer>> {
        let first = own.first().map(|bytes| Record::new(bytes)).transpose()?;
        let Some(id) = first.and_then(|record| record.id()) else { return Ok(Vec::new()) };
        let timeline = self.timeline(&DocumentId::of(&id), &own)?.within(namespace);
        let mut identities: Vec<&Identity> = timeline.entries.iter().map(|e| &e.identity).collect();
        identities.sort_by_key(|i| (&i.namespace, &i.id));
        identities.dedup();
        let mut found = Vec::new();
        for identity in identities {
            let entries: Vec<&Entry> = timeline.entries.iter().filter(|e| e.identity == *identity).collect();
            let (known, seq) = at_time(&entries, &timeline.states, at)?;
            let (namespace, id) = (identity.namespace.clone(), id_text(identity));
            match known.state {
                State::Absent => {}
                State::Present(document) => {
                    let origins = known.origins;
                    let is_redacted = self.policies.may_be_redacted(&origins);
                    found.push(Ok(Recovered { namespace, id, document, seq, origins, is_redacted }));
                }
                State::Unknown(reason) => {
                    found.push(Err(Lost { namespace, id, why: reason.to_string() }));
                }
            }
        }
        Ok(found)
    }
}
