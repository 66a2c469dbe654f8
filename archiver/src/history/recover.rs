//! Gives documents back as they were: from the image that came with their deletion, else from baseline and deltas.
//! Decides nothing about where they go.

mod conditions;
mod deleted;
mod gather;
mod many;
mod number;
mod returned;

use std::collections::BTreeSet;

use bson::Timestamp;
use bson_walker::Doc;
use bytes::Bytes;

use super::document::Unapplied;
use super::gaps::{Finding, Found, is_inside, window_of};
use super::id::DocumentId;
use super::policies::{Origin, Policies};
use super::released::place;
use super::states::{Identity, Known, Reason, State, States};
use super::timeline::{Entry, Timeline};
use super::{History, Namespace, removed_words};
use crate::archive::extjson::doc_id_text;
use crate::error::{Error, Result};
use crate::record::{Record, RecordId};

pub use conditions::Conditions;
pub use deleted::deleted_since;
pub use many::{as_of, by_ids, by_many_ids};

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

/// What history tells of one of many documents.
pub type Answer = std::result::Result<Recovered, Lost>;

/// What else is to be said of a recovery.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    /// How many documents were given back.
    pub recovered: u64,
    /// How many were not.
    pub lost: u64,
    /// Renames in the period, the old and the new name: the documents went on under the new one.
    pub renamed: Vec<(Namespace, Namespace)>,
    /// Until when history has been removed by retention: documents that have not changed since are not known.
    pub removed_until: Option<Timestamp>,
    /// What may be there again, though it is given as deleted.
    pub unseen: Unseen,
    /// How many events were withheld that may have brought, or ended, documents of which nothing is said.
    pub withheld: usize,
    /// The policies, to name the plugins of [`Recovered::origins`].
    pub policies: Policies,
}

/// Why documents that are given as deleted may be there again.
#[derive(Debug, Clone, Default)]
pub struct Unseen {
    /// How many changes were withheld of which nobody can say whose they are.
    pub unnamed: usize,
    /// The namespaces of such documents in which history is missing behind their deletion, or that are not watched any more.
    pub namespaces: BTreeSet<Namespace>,
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
    // Behind a gap, too, in which nothing has happened to it, it is not there.
    let is_end = |e: &&&Entry| match e.after.state {
        State::Absent => e.before.state != State::Absent,
        // A late one, behind which something has expired.
        State::Unknown(Reason::Removed(_)) => Record::new(&e.record).is_ok_and(|r| r.op() == "delete"),
        _ => false,
    };
    if let Some(last) = own.iter().rev().find(is_end) {
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
    // It may have lived and ended there, though nothing is recorded of it before.
    if let Some(first) = own.first()
        && let partition = states.partition(&first.identity)
        && let Some(gap) = states.past_gaps().around(&first.identity.namespace, partition, at)
    {
        return Ok((Known::unknown(Reason::InsideGap(gap.seq)), gap.seq));
    }
    if let Some(first) = own.first()
        && is_before_capture(first, states, at)?
    {
        return Ok((Known::unrecorded(), Record::new(&first.record)?.seq()?));
    }
    if let Some(first) = own.first()
        && let Some(gap) = gap_before(first, states, at)?
    {
        return Ok((Known::unknown(Reason::Gap(gap.seq)), gap.seq));
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

/// The gap between a time and the document's first record in which what it was may have ended, but for that of which the record itself tells.
fn gap_before(first: &Entry, states: &States, at: i64) -> Result<Option<RecordId>> {
    let record = Record::new(&first.record)?;
    if i64::from(record.cluster_time()?.time) < at {
        return Ok(None);
    }
    let (time, event, _) = place(&record)?;
    let own = window_of(&record)?.map(|(gap, ..)| gap);
    let (namespace, partition) = (&first.identity.namespace, states.partition(&first.identity));
    let gap = states.past_gaps().between(namespace, partition, at, (time, event));
    Ok(gap.filter(|gap| own != Some(gap.seq)))
}

/// Whether a time is before that from which on all changes of one collection were recorded until the document's first record.
fn is_before_capture(first: &Entry, states: &States, at: i64) -> Result<bool> {
    let (time, event, _) = place(&Record::new(&first.record)?)?;
    let since = states.recorded_since(&first.identity.namespace, event, time);
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

fn id_text(identity: &Identity) -> String {
    let id = identity.id.document();
    Doc::new(&id).ok().and_then(|doc| doc.get("_id")).map(doc_id_text).unwrap_or_default()
}
