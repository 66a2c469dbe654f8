//! Tries withheld events again: what the plugins let pass now is appended late, under the event's own time, and what they drop is
//! dropped. Either way the event leaves open quarantine in the same transaction, so it is released once; one that fails again stays.
//!
//! A late record says which `quarantine` record it stands for (`detail.late`), and a `quarantine` record of the archiver's own says
//! behind them what became of each: history puts them in the place of the events.
//!
//! A document that was read beside the stream is read again, as it is now: it gets an ordinary `snapshot` record of this time. Its
//! `quarantine` record still says that nothing was known of it until then.
//!
//! A fault in the middle ends the writer, and the next one goes on with the same request: what was released before is in the
//! checkpoint, and what was not is tried again, so the answer tells of everything.

use std::collections::BTreeMap;

use bson_walker::{Doc, Element, Writer};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{info, warn};

use super::actor::{self, CONTEXT_DROPPED};
use super::assemble::{Identity, SNAPSHOT};
use super::lifecycle;
use super::lookup::{Looked, Lookup};
use super::reread::{Reread, Rereading};
use super::watcher::Watcher;
use super::writer::{BatchWriter, own_record};
use crate::audit_log::{Append, Withheld};
use crate::capture::lease::{Answer, Failed, Seqs};
use crate::checkpoint::{ActorContext, Checkpoint, Retried};
use crate::error::{Error, Result};
use crate::event::Event;
use crate::plugin::Outcome;
use crate::record::Record;

/// Seqs that are named one by one; the rest is a number.
const NAMED: usize = 1_000;

/// What is to be tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// The request, which gets the answer.
    pub request: String,
    /// Which events.
    pub seqs: Seqs,
}

/// What became of the events that were tried again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tried {
    /// How many are tried.
    pub of: i64,
    /// How many were appended late.
    pub late: i64,
    /// How many documents that a baseline or a comparison had read were read again, and appended as they are now.
    #[serde(default)]
    pub snapshots: i64,
    /// How many each plugin dropped.
    pub dropped: BTreeMap<String, i64>,
    /// How many failed again, by plugin and code.
    pub failed: BTreeMap<String, Named>,
    /// The oplog does not reach back to these any more.
    pub lost: Named,
    /// The stream does not deliver these: it is configured otherwise by now. Documents: they are not there any more.
    pub missing: Named,
    /// Documents that a baseline or a comparison read, and of which nothing tells which they were.
    pub read_beside: Named,
    /// These are not withheld: they never were, or are released.
    pub unknown: Named,
}

/// Some `quarantine` records.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// How many.
    pub count: i64,
    /// The seqs of the first of them.
    pub seqs: Vec<i64>,
}

impl Extend<i64> for Named {
    fn extend<I: IntoIterator<Item = i64>>(&mut self, seqs: I) {
        for seq in seqs {
            self.count += 1;
            if self.seqs.len() < NAMED {
                self.seqs.push(seq);
            }
        }
    }
}

impl Tried {
    fn note(&mut self, released: &Retried) {
        (self.late, self.snapshots) = (released.late, released.snapshots);
        self.dropped = released.dropped.clone();
    }

    /// How many were released.
    pub fn released(&self) -> i64 {
        self.late + self.snapshots + self.dropped.values().sum::<i64>()
    }

    /// How many have been dealt with.
    pub fn done(&self) -> i64 {
        let failed: i64 = self.failed.values().map(|named| named.count).sum();
        self.released() + failed + self.lost.count + self.missing.count + self.read_beside.count
    }
}

/// Events that are being tried again.
pub(super) struct Trying {
    retry: Retry,
    reads: mpsc::Receiver<Result<Reread>>,
    tried: Tried,
    /// What has been released, by writers before this one, too.
    released: Retried,
    /// Who acts in the transaction that the last event was in.
    context: Option<ActorContext>,
    _stop_reading: DropGuard,
}

impl Trying {
    /// Who asked for it.
    pub(super) fn request(&self) -> &str {
        &self.retry.request
    }

    /// What was read next; `None` at the end. Cancel safe.
    pub(super) async fn next(&mut self) -> Option<Result<Reread>> {
        self.reads.recv().await
    }
}

/// What became of one event.
enum Release {
    Late(i64),
    Snapshot(i64),
    Dropped(String),
}

impl BatchWriter<'_> {
    /// Begins to read withheld events again.
    pub(super) async fn try_again(&self, retry: Retry, watcher: &Watcher) -> Result<Trying> {
        let mut tried = Tried::default();
        let begun = self.durable.retried.clone().filter(|begun| begun.request == retry.request);
        let released =
            begun.unwrap_or_else(|| Retried { request: retry.request.clone(), ..Retried::default() });
        tried.note(&released);
        let mut withheld = self.capture.log.withheld(&self.capture.stream).await?;
        if let Some(wanted) = &retry.seqs {
            withheld.retain(|withheld| wanted.contains(&withheld.id.seq));
            let withheld = |seq: &i64| withheld.iter().any(|withheld| withheld.id.seq == *seq);
            let known = |seq: &i64| withheld(seq) || released.seqs.contains(seq);
            tried.unknown.extend(wanted.iter().copied().filter(|seq| !known(seq)));
        }
        tried.of = tried.released() + withheld.len() as i64;
        let (in_stream, beside): (Vec<_>, Vec<_>) = withheld.into_iter().partition(|w| w.event.is_some());
        let (beside, unknown): (Vec<_>, Vec<_>) = beside.into_iter().partition(Withheld::is_known_document);
        tried.read_beside.extend(unknown.iter().map(|withheld| withheld.id.seq));
        let salt = self.durable.salt.clone().ok_or_else(|| Error::internal("the checkpoint has no salt"))?;
        info!(source = %self.capture.stream, events = tried.of, "trying withheld events again");
        let stop = CancellationToken::new();
        let watcher = Watcher { enable_images: Vec::new(), ..watcher.clone() };
        let lookup = Lookup {
            snapshot: self.capture.snapshot(self.durable.position.clone(), self.barrier.clone()),
            salt: salt.clone(),
            audit_database: self.capture.log.database().name().to_owned(),
            left_out: self.left_out.clone(),
        };
        let reading = Rereading { watcher, salt, source: self.capture.source.clone(), lookup };
        Ok(Trying {
            retry,
            tried,
            released,
            context: None,
            reads: reading.start(in_stream, beside, stop.clone()),
            _stop_reading: stop.drop_guard(),
        })
    }

    /// Says that nothing can be tried.
    pub(super) async fn refuse(&self, request: &str, error: &Error) {
        warn!(source = %self.capture.stream, error = error.explain(), "withheld events can't be tried again");
        let answer = Answer { so_far: Tried::default(), done: true, failed: Some(Failed::of(error)) };
        self.answer(request, &answer).await;
    }

    async fn answer(&self, request: &str, answer: &Answer<impl Serialize>) {
        if let Err(error) = self.capture.lease.answer(request, answer).await {
            warn!(source = %self.capture.stream, error = error.explain(), "whoever asked can't be answered");
        }
    }

    /// Takes what was read, and answers. Returns whether there is more to come.
    pub(super) async fn take_again(
        &mut self,
        trying: &mut Trying,
        read: Option<Result<Reread>>,
    ) -> Result<bool> {
        let (more, failed) = match read {
            None => (false, None),
            Some(Err(error)) => {
                warn!(source = %self.capture.stream, error = error.explain(), "withheld events can't be read again");
                (false, Some(Failed::of(&error)))
            }
            Some(Ok(Reread::Lost(seqs))) => {
                trying.tried.lost.extend(seqs);
                (true, None)
            }
            Some(Ok(Reread::Missing(seqs) | Reread::Looked(Looked::Gone(seqs)))) => {
                trying.tried.missing.extend(seqs);
                (true, None)
            }
            Some(Ok(Reread::Looked(Looked::Found(documents, hold)))) => {
                let documents = documents.into_iter().map(|(event, withheld)| (event, Some(withheld)));
                self.release(documents.collect(), trying).await?;
                // Events after the time at which they were read may follow now.
                drop(hold);
                (true, None)
            }
            Some(Ok(Reread::Events(events, permits))) => {
                self.release(events, trying).await?;
                drop(permits);
                (true, None)
            }
        };
        let answer = Answer { so_far: &trying.tried, done: !more, failed };
        if !more {
            let (late, of) = (trying.tried.late, trying.tried.of);
            info!(source = %self.capture.stream, late, released = trying.tried.released(), of, "withheld events were tried again");
        }
        self.answer(&trying.retry.request, &answer).await;
        Ok(more)
    }

    /// Passes events through the plugins, and appends the withheld ones among them that pass.
    async fn release(&mut self, events: Vec<(Event, Option<Withheld>)>, trying: &mut Trying) -> Result<()> {
        let (events, withheld): (Vec<_>, Vec<_>) = events.into_iter().unzip();
        // Where an unknown collection took a watched name, the gap is recorded already.
        let (parts, _) = lifecycle::split(events, &self.capture.source.watch, true, false)?;
        let events = parts.into_iter().flat_map(|part| part.events).collect();
        let mut next = self.durable.clone();
        let outcomes = self.pass(events, &mut next).await?;
        let mut append = Append::default();
        let mut releases = Vec::new();
        for ((identity, outcome), withheld) in outcomes.into_iter().zip(withheld) {
            let Some((seq, release)) =
                self.judge((identity, outcome), withheld, trying, &mut next, &mut append)?
            else {
                continue;
            };
            append.released.push(seq);
            releases.push((seq, release));
        }
        if releases.is_empty() {
            return Ok(());
        }
        next.counters.read += releases.len() as i64;
        next.counters.released += releases.len() as i64;
        append.records.push(own_record(&note(&releases, &next), &mut next)?);
        let mut released = trying.released.clone();
        for (seq, release) in releases {
            match release {
                Release::Late(_) => released.late += 1,
                Release::Snapshot(_) => released.snapshots += 1,
                Release::Dropped(plugin) => *released.dropped.entry(plugin).or_default() += 1,
            }
            released.seqs.extend(trying.retry.seqs.is_some().then_some(seq));
        }
        next.retried = Some(released.clone());
        self.store(append, next).await?;
        trying.tried.note(&released);
        trying.released = released;
        Ok(())
    }

    /// What becomes of one event; `None` for one that is not released.
    fn judge(
        &self,
        (identity, outcome): (Identity, Outcome),
        withheld: Option<Withheld>,
        trying: &mut Trying,
        next: &mut Checkpoint,
        append: &mut Append,
    ) -> Result<Option<(i64, Release)>> {
        let source = &self.capture.source;
        let context = &mut trying.context;
        context.take_if(|context| identity.txn() != Some(&context.txn));
        let is_context = actor::is_context(identity.doc(), source);
        let body = match (outcome, &withheld) {
            (Outcome::Keep(body), _) => body,
            (Outcome::Failed(failure), _) if failure.code.blames_host() => {
                return Err(Error::unavailable(format!("{failure} source={}", next.stream)));
            }
            (_, None) => return Ok(None),
            (Outcome::Dropped { plugin }, Some(withheld)) => {
                *next.counters.dropped.entry(plugin.to_string()).or_default() += 1;
                return Ok(Some((withheld.id.seq, Release::Dropped(plugin.to_string()))));
            }
            (Outcome::Failed(failure), Some(withheld)) => {
                let why = format!("{}: {}", failure.plugin, failure.code);
                trying.tried.failed.entry(why).or_default().extend([withheld.id.seq]);
                return Ok(None);
            }
        };
        let doc = Doc::new(&body)
            .map_err(|e| Error::internal("an event's body is not one BSON document").because(e))?;
        if is_context && let Some(txn) = identity.txn() {
            *context = actor::context(doc, txn);
        }
        let Some(seq) = withheld.map(|withheld| withheld.id.seq) else { return Ok(None) };
        if is_context && !actor::context_is_watched(source) {
            *next.counters.dropped.entry(CONTEXT_DROPPED.to_owned()).or_default() += 1;
            return Ok(Some((seq, Release::Dropped(CONTEXT_DROPPED.to_owned()))));
        }
        let context = context.as_ref().filter(|context| identity.txn() == Some(&context.txn));
        let attributed = actor::attribute(doc, source.actor_field.as_deref(), context);
        let doc = attributed.as_deref().and_then(|event| Doc::new(event).ok()).unwrap_or(doc);
        let is_snapshot = identity.op() == SNAPSHOT;
        let body = if is_snapshot { doc.as_bytes().to_vec() } else { late(doc, seq) };
        let doc =
            Doc::new(&body).map_err(|e| Error::internal("a late record is not valid BSON").because(e))?;
        append.records.push(Record::encode(next.next_id(), doc, next.policy));
        next.next_seq += 1;
        next.counters.appended += 1;
        let record = next.next_seq - 1;
        Ok(Some((seq, if is_snapshot { Release::Snapshot(record) } else { Release::Late(record) })))
    }
}

/// The event with `detail.late`: the seq of its `quarantine` record.
fn late(event: Doc<'_>, seq: i64) -> Vec<u8> {
    Writer::build(|writer| {
        for element in elements(event).filter(|element| element.name() != b"detail") {
            writer.append(&element);
        }
        let mut detail = writer.begin_doc(b"detail");
        let before = event.get("detail").and_then(|detail| detail.as_doc()).unwrap_or(Doc::EMPTY);
        for element in elements(before).filter(|element| element.name() != b"late") {
            detail.append(&element);
        }
        detail.i64("late", seq);
        detail.end();
    })
}

fn elements<'a>(doc: Doc<'a>) -> impl Iterator<Item = Element<'a>> {
    doc.elements().map_while(std::result::Result::ok)
}

/// Says of some `quarantine` records what became of their events.
fn note(releases: &[(i64, Release)], checkpoint: &Checkpoint) -> Vec<u8> {
    let time = checkpoint.position.cluster_time;
    Writer::build(|writer| {
        writer.str("op", "quarantine");
        writer.timestamp("clusterTime", time.time, time.increment);
        let mut detail = writer.begin_doc(b"detail");
        let mut list = detail.begin_array(b"released");
        for (n, (seq, release)) in releases.iter().enumerate() {
            let mut released = list.begin_doc(n.to_string().as_bytes());
            released.i64("seq", *seq);
            match release {
                Release::Late(late) => released.i64("late", *late),
                Release::Snapshot(snapshot) => released.i64("snapshot", *snapshot),
                Release::Dropped(plugin) => released.str("dropped", plugin),
            }
            released.end();
        }
        list.end();
        detail.end();
    })
}

#[cfg(test)]
mod tests {
    use bson::{Document, doc};

    use super::*;

    #[test]
    fn a_late_event_says_so_in_its_detail_and_is_otherwise_as_it_was() {
        let late = |event: Document| -> Document {
            let event = bson::serialize_to_vec(&event).unwrap();
            bson::deserialize_from_slice(&late(Doc::new(&event).unwrap(), 7)).unwrap()
        };
        assert_eq!(late(doc! {"op": "insert"}), doc! {"op": "insert", "detail": {"late": 7_i64}});
        let full = doc! {"op": "rename", "detail": {"late": "of a plugin", "to": 1}};
        assert_eq!(late(full), doc! {"op": "rename", "detail": {"to": 1, "late": 7_i64}});
    }

    #[test]
    fn of_many_seqs_the_first_are_named_and_all_are_counted() {
        let mut named = Named::default();
        named.extend(1..=NAMED as i64 + 5);
        assert_eq!((named.count, named.seqs.len()), (NAMED as i64 + 5, NAMED));
    }
}
