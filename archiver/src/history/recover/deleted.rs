//! Everything that was deleted since a time and is not there again. What that takes in memory does not grow with the history, but for a
//! few bytes for each document that must be put together.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use bson::Timestamp;
use bson_walker::{Doc, Writer, kind};
use bytes::Bytes;
use futures_util::TryStreamExt;

use super::gather::{Key, Spread, gather_to};
use super::many::Wide;
use super::returned::{Fate, Returns};
use super::{Answer, Lost, ONE_BY_ONE, Recovered, Summary, id_text};
use crate::error::Result;
use crate::history::detail::target;
use crate::history::id::{DocumentId, Id};
use crate::history::policies::{Origin, Policies};
use crate::history::released::place;
use crate::history::states::{Identity, Known, State, States};
use crate::history::timeline::Timeline;
use crate::history::vanished::{Concerned, Moment, Vanished};
use crate::history::{History, Namespace, Salts, holds, in_order, policies};
use crate::record::Record;

/// What a document that is deleted last ended with.
const ENDS: [&str; 3] = ["delete", "insert", "snapshot"];
/// What is to be known of such a record; `before` of deletions only.
const KEPT: [&str; 7] = ["_id", "op", "ns", "key", "clusterTime", "policy", "detail"];

/// Gives all documents back that were deleted since a second and are not there again, as they were just before: by an event of
/// their own, with their collection or database, or because another collection took its name. `take` gets them, and those that
/// history can't give.
///
/// In no order, but always the same one; those whose deletion brought an image come first, unless a collection ended since then.
pub async fn deleted_since(
    history: &History,
    source: &str,
    since: i64,
    namespace: Option<&Namespace>,
    mut take: impl AsyncFnMut(Answer) -> Result<()>,
) -> Result<Summary> {
    history.require(source).await?;
    let since = Timestamp { time: u32::try_from(since.max(0)).unwrap_or(u32::MAX), increment: 0 };
    let wide = history.wide(source).await?;
    let removed_until = history.removed_until(source).await?;
    let mut summary = Summary { policies: policies(&wide)?, removed_until, ..Summary::default() };
    note_renames(&wide, since, &mut summary)?;
    let concerned = Concerned::since(&wide, since)?;
    let returns = Returns::among(&wide, history.salts(source).await?, removed_until)?;
    summary.unseen.unnamed = returns.unnamed_since(since, namespace);
    summary.withheld = returns.deletions_since(since, namespace);
    let mut states = States::new(Policies::default(), Salts::default());
    for bytes in &wide {
        states.advance(&Record::new(bytes)?)?;
    }
    let mut search =
        Search { source, since, namespace, concerned, returns, states, wide, summary, take: &mut take };
    let left = search.by_images(history).await?;
    match left.count <= ONE_BY_ONE && search.concerned.is_empty() {
        true => search.one_by_one(history, left).await?,
        false => search.together(history, left).await?,
    }
    Ok(search.summary)
}

struct Search<'a, T> {
    source: &'a str,
    since: Timestamp,
    namespace: Option<&'a Namespace>,
    /// Whose documents may have ended, or live on, without an event of their own.
    concerned: Concerned,
    returns: Returns,
    /// What is to be known of whole namespaces.
    states: States,
    /// The source's records about more than one document.
    wide: Vec<Vec<u8>>,
    summary: Summary,
    take: &'a mut T,
}

/// A document's last deletion.
pub(super) struct End {
    pub(super) identity: Identity,
    pub(super) at: Moment,
    /// Whether its record came long after it.
    pub(super) is_late: bool,
    /// The document before it, where it brought that.
    image: Option<(Bytes, Origin)>,
}

/// The documents that are not given yet.
struct Left {
    /// Their ends, …
    ends: Spread,
    /// … how many these are, …
    count: usize,
    /// … the first of them once more, where each may be put together by itself, …
    first: Vec<End>,
    /// … and digests of their ids.
    ids: HashSet<u64>,
}

impl<T: AsyncFnMut(Answer) -> Result<()>> Search<'_, T> {
    /// Gives those back whose deletion brought an image and is known to be their end.
    async fn by_images(&mut self, history: &History) -> Result<Left> {
        let mut ends = ends_since(history, self.source, self.since).await?;
        let mut left = Left { ends: Spread::new(), count: 0, first: Vec::new(), ids: HashSet::new() };
        while let Some(group) = ends.next(BY_ID)? {
            for (key, records) in group.documents() {
                for record in last_of_each(&records)? {
                    let Some(end) = End::of(&record)? else { continue };
                    let may_be_elsewhere = self.concerned.hold(&end.identity.namespace);
                    if !may_be_elsewhere && !self.is_wanted(&end.identity) {
                        continue;
                    }
                    if !may_be_elsewhere && end.image.is_some() && !self.returns.concern(&end) {
                        self.hand_over(end, Known::unrecorded()).await?;
                        continue;
                    }
                    left.ids.insert(digest(key));
                    left.ends.push(key, &marker(&record))?;
                    left.count += 1;
                    if left.first.len() < ONE_BY_ONE && self.concerned.is_empty() {
                        left.first.push(end);
                    }
                }
            }
        }
        Ok(left)
    }

    /// Puts a few documents together, each by itself.
    async fn one_by_one(&mut self, history: &History, mut left: Left) -> Result<()> {
        left.first.sort_by_key(|end| end.at);
        for end in left.first {
            let Some(id) = document_id(&end.identity) else { continue };
            let namespace = Some(&end.identity.namespace);
            let timeline = history
                .timeline_among(self.source, &id, namespace, &self.wide, self.summary.removed_until)
                .await?;
            self.decide(end, &timeline).await?;
        }
        Ok(())
    }

    /// Puts any number of documents together, in one pass over the history.
    async fn together(&mut self, history: &History, left: Left) -> Result<()> {
        let Left { ends, ids, .. } = left;
        let is_looked_for = |record: &Record<'_>, key: &[u8]| {
            let is_concerned = || Namespace::of(record).is_some_and(|own| self.concerned.hold(&own));
            ids.contains(&digest(key)) || is_concerned()
        };
        let key = |record: &Record<'_>| BY_ID(record).filter(|key| is_looked_for(record, key));
        let mut gathered = gather_to(ends, history, self.source, &key).await?;
        let wide =
            Wide::of(self.wide.clone(), history.salts(self.source).await?, self.summary.removed_until)?;
        while let Some(group) = gathered.next(BY_ID)? {
            for (_, records) in group.documents() {
                self.document(records, &wide).await?;
            }
        }
        Ok(())
    }

    /// Gives the documents of one `_id` back that have ended.
    async fn document(&mut self, records: Vec<Vec<u8>>, wide: &Wide) -> Result<()> {
        let (mut ends, mut own) = (Vec::new(), Vec::new());
        for bytes in records {
            match marked(&bytes) {
                Some(end) => ends.extend(End::of(&Record::new(end.as_bytes())?)?),
                None => own.push(bytes),
            }
        }
        if !self.concerned.is_empty() {
            let all = in_order(own.iter().chain(&self.wide).cloned().collect())?;
            let vanished = Vanished::among(&all, self.since, &self.concerned)?;
            ends.retain(|end| !vanished.is_alive(&end.identity) && !vanished.has_ended(&end.identity));
            ends.extend(vanished.ended().map(|(identity, at)| End::of_all(identity, at)));
        }
        ends.retain(|end| self.is_wanted(&end.identity));
        ends.sort_by(|a, b| (a.at, &a.identity.namespace).cmp(&(b.at, &b.identity.namespace)));
        let mut timeline = None;
        for end in ends {
            let is_told = end.image.is_some() && !self.returns.concern(&end);
            match document_id(&end.identity).filter(|_| !is_told) {
                Some(id) => {
                    let timeline = match &mut timeline {
                        Some(timeline) => timeline,
                        none => none.insert(wide.timeline(&id, &own)?),
                    };
                    self.decide(end, timeline).await?;
                }
                None => self.hand_over(end, Known::unrecorded()).await?,
            }
        }
        Ok(())
    }

    /// Gives a document back as its history tells.
    async fn decide(&mut self, mut end: End, timeline: &Timeline) -> Result<()> {
        let known = match Fate::of(timeline, &end)? {
            Fate::Back => return Ok(()),
            Fate::Ended => before(timeline, &end)?,
            Fate::Unknown(reason) => {
                end.image = None;
                Known::unknown(reason)
            }
        };
        self.hand_over(end, known).await
    }

    fn is_wanted(&self, identity: &Identity) -> bool {
        self.namespace.is_none_or(|wanted| *wanted == identity.namespace)
    }

    /// Gives a document back by the image that its end brought, else as it is known otherwise.
    async fn hand_over(&mut self, end: End, known: Known) -> Result<()> {
        let End { identity, at, image, .. } = end;
        let known = match image {
            Some((document, origin)) => Known { state: State::Present(document), origins: [origin].into() },
            None => known,
        };
        let (id, namespace, summary) = (id_text(&identity), identity.namespace, &mut self.summary);
        let why = match known.state {
            State::Present(document) => {
                summary.recovered += 1;
                if self.states.may_be_unseen(&namespace, Timestamp { time: at.0, increment: at.1 }) {
                    summary.unseen.namespaces.insert(namespace.clone());
                }
                let (seq, origins) = (at.2.seq, known.origins);
                let is_redacted = summary.policies.may_be_redacted(&origins);
                let recovered = Recovered { namespace, id, document, seq, origins, is_redacted };
                return (self.take)(Ok(recovered)).await;
            }
            State::Unknown(reason) => reason.to_string(),
            State::Absent => "its deletion is recorded, and its existence is not".to_owned(),
        };
        summary.lost += 1;
        (self.take)(Err(Lost { namespace, id, why })).await
    }
}

impl End {
    /// Of a record that is the last of its document; `None` where the document is there.
    fn of(record: &Record<'_>) -> Result<Option<End>> {
        let Some(identity) = Identity::of(record).filter(|_| record.op() == "delete") else {
            return Ok(None);
        };
        let image = record.part("before");
        let image = image.map(|image| (Bytes::copy_from_slice(image.as_bytes()), Origin::of(record)));
        Ok(Some(End { identity, at: moment(record)?, is_late: record.late().is_some(), image }))
    }

    /// Of one that ended together with others.
    fn of_all(identity: Identity, at: Moment) -> End {
        End { identity, at, is_late: false, image: None }
    }

    pub(super) fn time(&self) -> Timestamp {
        Timestamp { time: self.at.0, increment: self.at.1 }
    }
}

/// By `_id` alone: a document's life goes on under another name when its collection is renamed.
const BY_ID: &Key<'static> = &|record: &Record<'_>| Some(Id::of(&record.id()?).key());

fn digest(key: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

fn moment(record: &Record<'_>) -> Result<Moment> {
    let time = record.cluster_time()?;
    Ok((time.time, time.increment, record.record_id()?))
}

/// What is to be known of each record since a time that says whether a document is deleted. One may come twice.
async fn ends_since(history: &History, source: &str, since: Timestamp) -> Result<super::gather::Gathered> {
    let mut ends = Spread::new();
    let mut take = |bytes: &[u8]| -> Result<()> {
        let record = Record::new(bytes)?;
        match BY_ID(&record) {
            Some(key) => ends.push(&key, &without_contents(&record)),
            None => Ok(()),
        }
    };
    if let Some(log) = &history.log {
        let mut records = Box::pin(log.operations_since(source, &ENDS, since).await?);
        while let Some(record) = records.try_next().await? {
            take(&record)?;
        }
    }
    for sealed in history.archive.manifests_of(source).await?.iter().filter(|s| holds(s, &ENDS, since)) {
        for record in history.archive.ops_in(sealed, &ENDS, since).await? {
            take(&record)?;
        }
    }
    Ok(ends.gathered())
}

/// A record, of its contents only what a deletion brought.
fn without_contents(record: &Record<'_>) -> Vec<u8> {
    Writer::build(|writer| {
        let image = (record.op() == "delete").then_some("before");
        for element in KEPT.into_iter().chain(image).filter_map(|name| record.doc().get(name)) {
            writer.append(&element);
        }
    })
}

/// The last record of each document with one `_id`, in the order of the documents' names.
fn last_of_each(records: &[Vec<u8>]) -> Result<Vec<Record<'_>>> {
    let mut last: Vec<(Identity, _, Record<'_>)> = Vec::new();
    for bytes in records {
        let record = Record::new(bytes)?;
        let (Some(identity), at) = (Identity::of(&record), place(&record)?) else { continue };
        match last.iter_mut().find(|(other, ..)| *other == identity) {
            Some(other) if other.1 >= at => {}
            Some(other) => *other = (identity, at, record),
            None => last.push((identity, at, record)),
        }
    }
    last.sort_by(|a, b| a.0.namespace.cmp(&b.0.namespace));
    Ok(last.into_iter().map(|(.., record)| record).collect())
}

/// The end of a document, to stand among its records, which all have another `_id`.
fn marker(end: &Record<'_>) -> Vec<u8> {
    Writer::build(|writer| {
        writer.null("_id");
        if let Some(key) = end.key() {
            writer.doc("key", key.as_bytes());
        }
        writer.doc("end", end.bytes());
    })
}

fn marked(bytes: &[u8]) -> Option<Doc<'_>> {
    let doc = Doc::new(bytes).ok()?;
    doc.get("_id").filter(|id| id.kind() == kind::NULL)?;
    doc.get("end")?.as_doc()
}

fn document_id(identity: &Identity) -> Option<DocumentId> {
    let id = identity.id.document();
    Some(DocumentId::of(&Doc::new(&id).ok()?.get("_id")?))
}

/// What a document was before its end.
fn before(timeline: &Timeline, end: &End) -> Result<Known> {
    let mut before = Known::unrecorded();
    for entry in &timeline.entries {
        let record = Record::new(&entry.record)?;
        if entry.identity == end.identity && record.record_id()? == end.at.2 {
            return Ok(entry.before.clone());
        }
        // What made it unknown, under another name too, is a better answer than that nothing is known.
        if matches!(entry.after.state, State::Unknown(_)) && moment(&record)? < end.at {
            before = entry.after.clone();
        }
    }
    Ok(before)
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
