//! Gives documents back as they were: from the image that came with their deletion, else from baseline and deltas.
//! Decides nothing about where they go.

mod conditions;
mod gather;
mod many;

use std::collections::{BTreeSet, HashMap, HashSet};

use bson::Timestamp;
use bson_walker::Doc;
use bytes::Bytes;
use futures_util::TryStreamExt;

use super::document::Unapplied;
use super::gaps::{Finding, Found, is_inside, window_of};
use super::id::{DocumentId, Id};
use super::policies::{Origin, Policies};
use super::states::{Identity, Known, Reason, State, States, target};
use super::timeline::{Entry, Timeline};
use super::vanished::{Moment, Vanished};
use super::{History, Namespace, policies, removed_words};
use crate::archive::extjson::doc_id_text;
use crate::error::{Error, Result};
use crate::record::{Record, RecordId};

pub use conditions::Conditions;
pub use many::{as_of, by_ids, by_many_ids};

/// Bytes of documents that are held in memory while they are rebuilt; history is read once more for what is beyond.
const REBUILD_BYTES: usize = if cfg!(test) { 1024 } else { 256 * 1024 * 1024 };

/// Up to this many documents are looked up one by one; more are gathered in one pass over the whole history.
const ONE_BY_ONE: usize = 32;

/// A document as it was.
#[derive(Debug, Clone)]
pub struct Recovered {
    /// Where it was.
    pub namespace: Namespace,
    /// Its `_id`, for people.
    pub id: String,
    /// Its BSON.
    pub document: Bytes,
    /// The record just before which (a deletion), or with which (a time), it was like this.
    pub seq: i64,
    /// What it was recorded under.
    pub origins: BTreeSet<Origin>,
    /// Whether plugins have changed it, or may have: what they took away is not in it.
    pub is_redacted: bool,
}

/// A document that history can't give back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// Where it was.
    pub namespace: Namespace,
    /// Its `_id`, for people.
    pub id: String,
    /// Why not.
    pub why: String,
}

/// What else is to be said of a recovery.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    /// How many documents were given back.
    pub recovered: u64,
    /// Those that were not.
    pub lost: Vec<Lost>,
    /// Renames in the period, the old and the new name: the documents went on under the new one.
    pub renamed: Vec<(Namespace, Namespace)>,
    /// Until when history has been removed by retention: documents that have not changed since are not known.
    pub removed_until: Option<Timestamp>,
    /// The policies, to name the plugins of [`Recovered::origins`].
    pub policies: Policies,
}

/// Gives one document back as it was at a time, by default just before it was last deleted.
///
/// `at` is in seconds, and changes count that are of a second before it: cluster times have whole seconds. Fails as not found where the
/// document did not exist then and where history can't tell; as invalid where no time is given and it was never deleted.
pub async fn by_id(
    history: &History,
    source: &str,
    id: &DocumentId,
    at: Option<i64>,
    namespace: Option<&Namespace>,
) -> Result<(Recovered, Policies)> {
    let timeline = history.timeline(source, id, namespace).await?;
    let recovered = of_timeline(&timeline, id, at)?;
    Ok((recovered, timeline.states.policies().clone()))
}

/// Gives the document of a timeline back, which must have an entry.
fn of_timeline(timeline: &Timeline, id: &DocumentId, at: Option<i64>) -> Result<Recovered> {
    let Timeline { entries, states, removed_until, .. } = timeline;
    let mut identities: Vec<&Identity> = entries.iter().map(|e| &e.identity).collect();
    identities.sort_by_key(|i| (&i.namespace, &i.id));
    identities.dedup();
    let [identity] = identities[..] else {
        let mut places: Vec<_> = identities.iter().map(|i| i.namespace.to_string()).collect();
        places.dedup();
        return Err(Error::invalid(format!("the id {:?} is that of several documents", id.given())).hint(
            format!(
                "say which with --namespace, or write the id as Extended JSON; there are such in: {}",
                places.join(", ")
            ),
        ));
    };
    let own: Vec<&Entry> = entries.iter().filter(|e| e.identity == *identity).collect();
    let removed = removed_until.map(|until| i64::from(until.time));
    let (known, seq) = match at {
        // What is there of that time may be a part of what was.
        Some(at) if removed.is_some_and(|until| at <= until) => {
            (Known::unknown(Reason::Removed(removed.unwrap_or(at))), 0)
        }
        Some(at) => at_time(&own, states, at)?,
        None => before_deletion(&own, states, identity, id)?,
    };
    let document = match known.state {
        State::Present(document) => document,
        State::Absent => {
            return Err(Error::not_found(format!(
                "the document {:?} did not exist at that time",
                id.given()
            )));
        }
        State::Unknown(reason) => {
            return Err(Error::not_found(format!(
                "history can't tell what the document {:?} was: {reason}",
                id.given()
            ))
            .hint(match (reason, *removed_until) {
                (Reason::Gap(_) | Reason::InsideGap(_), _) => "archiver history shows the gap; with --at a time before it gives the document as it was then".to_owned(),
                (Reason::Delta(_, Unapplied::Ambiguous), _) => "its next replacement or image tells again what it is; with pre- and post-images no path is ambiguous".to_owned(),
                (Reason::BeforeBaseline, Some(until)) => format!("{}: it was there before", removed_words(until)),
                _ => "archiver history shows what is kept of it; with --at another time may be given".to_owned(),
            }));
        }
    };
    let (namespace, id) = (identity.namespace.clone(), id_text(identity));
    let is_redacted = states.policies().may_be_redacted(&known.origins);
    Ok(Recovered { namespace, id, document, seq, origins: known.origins, is_redacted })
}

/// The document just before its last deletion, whether it was inserted again or not.
fn before_deletion(
    own: &[&Entry],
    states: &States,
    identity: &Identity,
    id: &DocumentId,
) -> Result<(Known, i64)> {
    if let Some(last) = own.iter().rev().find(|e| e.after.state == State::Absent) {
        return Ok((last.before.clone(), Record::new(&last.record)?.seq()?));
    }
    let why = match states.now(identity).state {
        State::Unknown(_) => "was never seen being deleted, and history can't tell whether it exists",
        _ => "is not deleted",
    };
    Err(Error::invalid(format!("the document {:?} {why}", id.given()))
        .hint("give --at TIME to get it back as it was then; archiver history shows when it changed"))
}

/// The document after all changes before a second.
fn at_time(own: &[&Entry], states: &States, at: i64) -> Result<(Known, i64)> {
    for entry in own {
        if let Some((gap, after, until)) = window_of(&Record::new(&entry.record)?)?
            && is_inside(after, until, at)
        {
            return Ok((Known::unknown(Reason::InsideGap(gap)), gap));
        }
    }
    if let Some(first) = own.first()
        && is_before_capture(first, states, at)?
    {
        return Ok((Known::unrecorded(), Record::new(&first.record)?.seq()?));
    }
    let mut last = None;
    for entry in own {
        let record = Record::new(&entry.record)?;
        let seq = record.seq()?;
        if i64::from(record.cluster_time()?.time) < at {
            last = Some((entry.after.clone(), seq));
            continue;
        }
        // The first change after it tells what was there before, even where nothing earlier is kept.
        let told = record.op() == "insert" || record.part("before").is_some();
        let unknown = last.as_ref().is_none_or(|(known, _)| matches!(known.state, State::Unknown(_)));
        if told && unknown {
            return Ok((entry.before.clone(), seq));
        }
        break;
    }
    match last {
        Some(found) => Ok(found),
        None => {
            let first = own.first().ok_or_else(|| Error::internal("a history without records"))?;
            Ok((before_first(first, at)?, Record::new(&first.record)?.seq()?))
        }
    }
}

/// Whether a time is before that from which on all changes of one collection were recorded until the document's first record.
fn is_before_capture(first: &Entry, states: &States, at: i64) -> Result<bool> {
    let record = Record::new(&first.record)?;
    let id = record.record_id()?;
    let event = RecordId { seq: record.late().unwrap_or(id.seq), ..id };
    let since = states.recorded_since(&first.identity.namespace, event, record.cluster_time()?);
    Ok(since.is_some_and(|since| at <= i64::from(since.time)))
}

/// The document at a time before its first record.
fn before_first(first: &Entry, at: i64) -> Result<Known> {
    Ok(match Found::of(&Record::new(&first.record)?) {
        // Since the gap it has been what it was found to be: no change of it was read in between.
        Some(found) if at > i64::from(found.until.time) => first.after.clone(),
        Some(found) if found.finding == Finding::Inserted => Known::absent(),
        _ => first.before.clone(),
    })
}

/// Where a document last ended, and whether it came back.
#[derive(Debug, Clone, Copy)]
struct Last {
    at: Moment,
    deleted: bool,
}

/// Gives all documents back that were deleted since a second and are not there again, as they were just before: by an event of
/// their own, with their collection or database, or because another collection took its name.
///
/// Calls `give` for each: those whose deletion brought an image first, in the order of the log and then of the archive. Held in
/// memory at once: the `_id`s, and [`REBUILD_BYTES`] of the documents without an image, as they are rebuilt.
pub async fn deleted_since(
    history: &History,
    source: &str,
    since: i64,
    namespace: Option<&Namespace>,
    mut give: impl AsyncFnMut(Recovered) -> Result<()>,
) -> Result<Summary> {
    history.require(source).await?;
    let since = Timestamp { time: u32::try_from(since.max(0)).unwrap_or(u32::MAX), increment: 0 };
    let wide = history.wide(source).await?;
    let removed_until = history.removed_until(source).await?;
    let mut summary = Summary { policies: policies(&wide)?, removed_until, ..Summary::default() };
    note_renames(&wide, since, &mut summary)?;
    let mut wanted = find_deleted(history, source, since, namespace).await?;
    let vanished = Vanished::since(history, source, since, &wide).await?;
    wanted.retain(|identity, _| !vanished.is_alive(identity));
    let within = |identity: &Identity| namespace.is_none_or(|wanted| *wanted == identity.namespace);
    let vanished = vanished.ended().filter(|(identity, _)| within(identity));
    wanted.extend(vanished.map(|(identity, at)| (identity, Last { at, deleted: true })));
    let mut found = async |bytes: Vec<u8>| -> Result<()> {
        let record = Record::new(&bytes)?;
        let (Some(identity), Some(image)) = (Identity::of(&record), record.part("before")) else {
            return Ok(());
        };
        if wanted.get(&identity).is_none_or(|last| record.record_id().ok() != Some(last.at.2)) {
            return Ok(());
        }
        wanted.remove(&identity);
        summary.recovered += 1;
        let origins = BTreeSet::from([Origin::of(&record)]);
        give(Recovered {
            id: id_text(&identity),
            namespace: identity.namespace,
            document: Bytes::copy_from_slice(image.as_bytes()),
            seq: record.seq()?,
            is_redacted: summary.policies.may_be_redacted(&origins),
            origins,
        })
        .await
    };
    each_operation(history, source, &["delete"], since, &mut found).await?;
    // An image that was there in the first pass and is not in the second is rebuilt like the others.
    if wanted.len() <= ONE_BY_ONE {
        rebuild_few(history, source, wanted, &wide, &mut summary, &mut give).await?;
    } else {
        rebuild_many(history, source, wanted, &mut summary, &mut give).await?;
    }
    Ok(summary)
}

/// Which documents are deleted at the end, of those deleted since a time.
async fn find_deleted(
    history: &History,
    source: &str,
    since: Timestamp,
    namespace: Option<&Namespace>,
) -> Result<HashMap<Identity, Last>> {
    let mut last: HashMap<Identity, Last> = HashMap::new();
    let mut note = async |bytes: Vec<u8>| -> Result<()> {
        let record = Record::new(&bytes)?;
        let Some(identity) = Identity::of(&record) else { return Ok(()) };
        if namespace.is_some_and(|wanted| *wanted != identity.namespace) {
            return Ok(());
        }
        let time = record.cluster_time()?;
        let at = (time.time, time.increment, record.record_id()?);
        if last.get(&identity).is_none_or(|other| other.at < at) {
            last.insert(identity, Last { at, deleted: record.op() == "delete" });
        }
        Ok(())
    };
    each_operation(history, source, &["delete", "insert", "snapshot"], since, &mut note).await?;
    last.retain(|_, last| last.deleted);
    Ok(last)
}

/// Calls `take` with every record of some operations since a time, the log's first; one may come twice.
async fn each_operation(
    history: &History,
    source: &str,
    operations: &[&str],
    since: Timestamp,
    take: &mut impl AsyncFnMut(Vec<u8>) -> Result<()>,
) -> Result<()> {
    if let Some(log) = &history.log {
        let mut records = Box::pin(log.operations_since(source, operations, since).await?);
        while let Some(record) = records.try_next().await? {
            take(record).await?;
        }
    }
    for sealed in
        history.archive.manifests_of(source).await?.iter().filter(|s| super::holds(s, operations, since))
    {
        for record in history.archive.ops_in(sealed, operations, since).await? {
            take(record).await?;
        }
    }
    Ok(())
}

/// Rebuilds documents whose end brought no image, one by one.
async fn rebuild_few(
    history: &History,
    source: &str,
    wanted: HashMap<Identity, Last>,
    wide: &[Vec<u8>],
    summary: &mut Summary,
    give: &mut impl AsyncFnMut(Recovered) -> Result<()>,
) -> Result<()> {
    let mut wanted: Vec<_> = wanted.into_iter().collect();
    wanted.sort_by_key(|(_, last)| last.at);
    for (identity, last) in wanted {
        let id = identity.id.document();
        let Some(element) = Doc::new(&id).ok().and_then(|d| d.get("_id")) else { continue };
        let timeline = history
            .timeline_among(source, &DocumentId::of(&element), Some(&identity.namespace), wide)
            .await?;
        let mut before = Known::unrecorded();
        for entry in timeline.entries.into_iter().filter(|e| e.identity == identity) {
            if Record::new(&entry.record)?.record_id()? == last.at.2 {
                before = entry.before;
            }
        }
        hand_over(&identity, before, last, summary, give).await?;
    }
    Ok(())
}

/// Rebuilds documents whose end brought no image, together; where they take more than [`REBUILD_BYTES`], each half by itself.
async fn rebuild_many(
    history: &History,
    source: &str,
    wanted: HashMap<Identity, Last>,
    summary: &mut Summary,
    give: &mut impl AsyncFnMut(Recovered) -> Result<()>,
) -> Result<()> {
    let mut groups = vec![wanted];
    while let Some(mut group) = groups.pop() {
        let complete = rebuild_group(history, source, &mut group, summary, give).await?;
        if complete {
            for (identity, last) in group {
                hand_over(&identity, Known::unrecorded(), last, summary, give).await?;
            }
            continue;
        }
        let half = group.len() / 2;
        let mut group = group.into_iter();
        groups.push(group.by_ref().take(half).collect());
        groups.push(group.collect());
    }
    Ok(())
}

/// Hands over the documents of a group as their ends are met, and takes them out of it. Whether it got to the end of the
/// history: not so where they took more than [`REBUILD_BYTES`], which only a single one may.
async fn rebuild_group(
    history: &History,
    source: &str,
    group: &mut HashMap<Identity, Last>,
    summary: &mut Summary,
    give: &mut impl AsyncFnMut(Recovered) -> Result<()>,
) -> Result<bool> {
    // By `_id` alone: a document's life goes on under another name when its collection is renamed.
    let ids: HashSet<Id> = group.keys().map(|identity| identity.id.clone()).collect();
    let mut ends: HashMap<RecordId, Vec<Identity>> = HashMap::new();
    for (identity, last) in &*group {
        ends.entry(last.at.2).or_default().push(identity.clone());
    }
    let mut states = States::new(summary.policies.clone(), history.salts(source).await?);
    // Wherever they are: a collection may still have another name than at its end.
    let mut places: HashSet<Identity> = group.keys().cloned().collect();
    let mut read = 0;
    let mut records = history.all_records(source).await?;
    while let Some(bytes) = records.next().await? {
        let record = Record::new(&bytes)?;
        let own = Identity::of(&record);
        if own.as_ref().is_some_and(|identity| !ids.contains(&identity.id)) {
            continue;
        }
        places.extend(own.clone());
        let ended = ends.remove(&record.record_id()?).unwrap_or_default();
        let before: Vec<Known> = ended.iter().map(|identity| states.now(identity)).collect();
        let change = states.advance(&record)?;
        for (identity, known) in ended.into_iter().zip(before) {
            let Some(last) = group.remove(&identity) else { continue };
            // A deletion of its own can bring what was not known.
            let told = change.as_ref().filter(|_| own.is_some()).map(|change| change.before.clone());
            hand_over(&identity, told.unwrap_or(known), last, summary, give).await?;
        }
        read += bytes.len();
        if read > REBUILD_BYTES && group.len() > 1 {
            read = places.iter().map(|identity| size(&states.now(identity))).sum();
            if read > REBUILD_BYTES {
                return Ok(false);
            }
            // Looked at again when as much was read as there is room left.
            read = read.max(REBUILD_BYTES / 2);
        }
    }
    Ok(true)
}

fn size(known: &Known) -> usize {
    match &known.state {
        State::Present(document) => document.len(),
        _ => 0,
    }
}

async fn hand_over(
    identity: &Identity,
    known: Known,
    last: Last,
    summary: &mut Summary,
    give: &mut impl AsyncFnMut(Recovered) -> Result<()>,
) -> Result<()> {
    let (namespace, id) = (identity.namespace.clone(), id_text(identity));
    let why = match known.state {
        State::Present(document) => {
            summary.recovered += 1;
            let (seq, origins) = (last.at.2.seq, known.origins);
            let is_redacted = summary.policies.may_be_redacted(&origins);
            return give(Recovered { namespace, id, document, seq, origins, is_redacted }).await;
        }
        State::Unknown(reason) => reason.to_string(),
        State::Absent => "its deletion is recorded, and its existence is not".to_owned(),
    };
    summary.lost.push(Lost { namespace, id, why });
    Ok(())
}

/// Notes which collections were renamed.
fn note_renames(wide: &[Vec<u8>], since: Timestamp, summary: &mut Summary) -> Result<()> {
    for bytes in wide {
        let record = Record::new(bytes)?;
        if record.op() == "rename"
            && record.cluster_time()? >= since
            && let (Some(from), Some(to)) = (Namespace::of(&record), target(&record))
        {
            summary.renamed.push((from, to));
        }
    }
    Ok(())
}

fn id_text(identity: &Identity) -> String {
    let id = identity.id.document();
    Doc::new(&id).ok().and_then(|doc| doc.get("_id")).map(doc_id_text).unwrap_or_default()
}
