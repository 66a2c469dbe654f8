//! Makes batches durable, one after the other: through the plugins, into records, and into the log together with the
//! checkpoint behind them.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bson::Timestamp;
use bson_walker::{Doc, Writer};
use mongodb::ClientSession;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::assemble::{Identity, assemble, ids_are_kept};
use super::barrier::Barrier;
use super::batch::{Batch, Batches};
use super::keeping::Keeping;
use super::lifecycle::{self, Part};
use super::reread::Reread;
use super::resync::{Compared, Comparison, opening};
use super::retry::{Retry, Trying};
use super::snapshot::{Report, SnapshotBatch, now, plan};
use super::token;
use super::watcher::Watcher;
use super::withheld;
use super::{Capture, Plugins};
use crate::audit_log::Append;
use crate::checkpoint::{Checkpoint, RecentFailures, Resync};
use crate::config::{Snapshot as SnapshotMode, Tolerance, Watch};
use crate::deployment::operation_time;
use crate::error::{Error, Result};
use crate::event::{Event, Position};
use crate::history::History;
use crate::plugin::{Outcome, PluginChain};
use crate::record::{Record, RecordId};

/// How often a source on which nothing happens stores how far it has looked, so that its position never ages out of
/// the oplog.
const IDLE_ADVANCE: Duration = Duration::from_secs(5);

/// What is read beside the stream.
#[derive(Debug)]
pub(super) enum Documents {
    /// Of the baseline.
    Baseline(SnapshotBatch),
    /// Compared with what is known from before a gap.
    Compared(Compared),
}

/// Why taking events has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Stopped, or everything is appended.
    Done,
    /// What comes next is for other plugins.
    OtherPlugins,
}

/// Makes batches durable, one after the other.
pub(super) struct BatchWriter<'a> {
    pub(super) capture: &'a Capture,
    /// The one that the lease names.
    pub(super) session: ClientSession,
    /// The plugins in force.
    pub(super) chain: Arc<PluginChain>,
    /// What happens when they fail.
    pub(super) tolerance: Tolerance,
    /// Those that are to be.
    pub(super) plugins: watch::Receiver<Plugins>,
    /// Which withheld events are to be tried again.
    pub(super) retries: watch::Receiver<Option<Retry>>,
    /// Holds and removals that are to be recorded.
    pub(super) keeping: watch::Receiver<Keeping>,
    /// The request for such events that was answered last.
    pub(super) answered: Option<String>,
    /// The digest of the stream's options, which every position that comes from it is one of.
    pub(super) options: String,
    /// The stored checkpoint.
    pub(super) durable: Checkpoint,
    pub(super) stored_at: Instant,
    /// Held by those who read documents.
    pub(super) barrier: Barrier,
    /// How far the baseline is, now and then.
    pub(super) report: Report,
    /// Databases of other archivers.
    pub(super) left_out: HashSet<String>,
    /// Ends those who read.
    pub(super) stop_reading: CancellationToken,
    /// When the stream began to be read, or of the last event of a collection that this partition saw and another records.
    pub(super) lifecycle: watch::Sender<Timestamp>,
}

impl BatchWriter<'_> {
    /// Passes events through the plugins and appends what comes out, together with the checkpoint that `advance`
    /// leaves.
    pub(super) async fn append(
        &mut self,
        events: Vec<Event>,
        advance: impl FnOnce(&mut Checkpoint),
    ) -> Result<()> {
        let mut next = self.durable.clone();
        advance(&mut next);
        let reached = events.last().map_or(self.durable.position.cluster_time, |e| e.position.cluster_time);
        let reached = reached.max(self.durable.position.cluster_time);
        let append = self.append_of(events, &mut next).await?;
        // All events of a transaction have one cluster time: behind it, nobody acts in it any more.
        next.context.take_if(|_| next.position.cluster_time > reached);
        self.store(append, next).await
    }

    /// Passes events through the plugins; what comes out is counted in `next`.
    async fn append_of(&self, events: Vec<Event>, next: &mut Checkpoint) -> Result<Append> {
        if events.is_empty() {
            return Ok(Append::default());
        }
        let outcomes = self.pass(events, next).await?;
        let id_is_kept = ids_are_kept(&outcomes);
        assemble(outcomes, id_is_kept, &self.capture.source, self.tolerance, next)
    }

    /// Passes events through the plugins; what each did is counted in `next`.
    pub(super) async fn pass(
        &self,
        events: Vec<Event>,
        next: &mut Checkpoint,
    ) -> Result<Vec<(Identity, Outcome)>> {
        debug!(source = %self.capture.stream, events = events.len(), "to the plugins");
        let chain = Arc::clone(&self.chain);
        let process = move || {
            let identities = events.iter().map(Identity::of).collect::<Result<Vec<_>>>()?;
            let bodies = events.into_iter().map(|e| e.body).collect();
            let (outcomes, counters) = chain.process_counting(bodies);
            if identities.len() != outcomes.len() {
                return Err(Error::internal("the plugin chain lost count of its events"));
            }
            Ok((identities.into_iter().zip(outcomes).collect::<Vec<_>>(), counters))
        };
        let outcomes = tokio::task::spawn_blocking(process).await;
        let (outcomes, counters) =
            outcomes.map_err(|e| Error::internal("the plugin chain panicked").because(e))??;
        next.counters.add_plugins(counters);
        withheld::report(&next.stream, &outcomes);
        Ok(outcomes)
    }

    /// Appends events, and behind each with which an unknown collection took a watched name, that history is missing.
    async fn append_events(
        &mut self,
        events: Vec<Event>,
        advance: impl FnOnce(&mut Checkpoint),
    ) -> Result<()> {
        let keyless = self.capture.stream.partition.is_none_or(|partition| partition == 0);
        let whole = self.is_whole();
        // Of other partitions nobody can say here.
        let of_all = whole && self.capture.stream.partition.is_none();
        let (parts, seen) = lifecycle::split(events, &self.capture.source.watch, keyless, of_all)?;
        if let Some(time) = seen.filter(|_| !keyless) {
            self.lifecycle.send_replace(time);
        }
        for Part { events, replaced } in parts {
            let Some((namespace, behind)) = replaced else {
                return self.append(events, advance).await;
            };
            let mut next = self.durable.clone();
            let time = behind.cluster_time;
            next.position = behind;
            let mut append = self.append_of(events, &mut next).await?;
            let namespace = Some(namespace);
            let resync = Resync { gap: next.next_seq, namespace, after: time, until: time, whole };
            append.records.push(own_record(&opening(&resync, "renamed-into", None), &mut next)?);
            next.counters.gaps += 1;
            next.resyncs.push(resync);
            self.store(append, next).await?;
            warn!(source = %self.durable.stream, gap = self.durable.next_seq - 1, "a collection that is not watched took a watched name: its documents are compared with what is known");
        }
        Ok(())
    }

    /// Whether everything that is there is recorded: the source has a baseline, and it is complete.
    fn is_whole(&self) -> bool {
        self.durable.snapshot.is_none() && self.capture.source.snapshot == SnapshotMode::Initial
    }

    /// Records that everything between the checkpoint and the present is missing, and goes on from the present.
    ///
    /// The stream is opened at that very time, inclusive. So what happened then is delivered, and nothing before it; nothing of
    /// it is in the log, which ends at the checkpoint. The documents are read later still, and compared with what the stream
    /// has delivered by then.
    pub(super) async fn open_gap(&mut self, lost: Error) -> Result<()> {
        let after = self.durable.position.cluster_time;
        let until = operation_time(&self.capture.client.database("admin")).await?;
        if until <= after {
            return Err(lost);
        }
        let mut next = self.durable.clone();
        let whole = self.is_whole();
        let resync = Resync { gap: next.next_seq, namespace: None, after, until, whole };
        let reason = "the change stream can't go on from the checkpoint";
        let record = own_record(&opening(&resync, reason, Some(&lost)), &mut next)?;
        next.position = Position { token: None, cluster_time: until };
        next.context = None;
        next.counters.gaps += 1;
        next.resyncs.push(resync);
        self.store(vec![record], next).await?;
        error!(
            source = %self.durable.stream, gap = self.durable.next_seq - 1, after = after.time, until = until.time,
            error = lost.explain(), "history is lost: what happened in between is missing; going on behind the gap, and comparing what is there with what is known"
        );
        Ok(())
    }

    pub(super) async fn store(&mut self, append: impl Into<Append>, next: Checkpoint) -> Result<()> {
        let append = append.into();
        if token::goes_back(&self.durable.position, &next.position) {
            return Err(Error::internal(format!("the position would go back source={}", next.stream)));
        }
        let bytes: usize = append.records.iter().map(Vec::len).sum();
        debug!(source = %next.stream, records = append.records.len(), bytes, next_seq = next.next_seq, "append");
        self.capture.lease.check()?;
        self.capture.log.append(&mut self.session, append, self.durable.next_seq, &next).await?;
        self.capture.appended_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.durable = next;
        self.capture.headroom.note_stored(&self.durable);
        self.stored_at = Instant::now();
        Ok(())
    }

    /// Appends a policy record where the plugins, their configuration or what is watched are not those of the last one. It is in
    /// force from the position on, and has its time. Collections that are watched only now get a baseline with it.
    pub(super) async fn record_policy(&mut self) -> Result<()> {
        let (chain, source) = (Arc::clone(&self.chain), &self.capture.source);
        let mut watch: Vec<String> = source.watch.iter().map(ToString::to_string).collect();
        watch.sort();
        let first = self.durable.policy == 0;
        let rewatched = self.durable.watch != watch;
        if !first && !rewatched && self.durable.policy_digest == chain.digest() {
            return Ok(());
        }
        let mut next = self.durable.clone();
        if rewatched && !first && source.snapshot == SnapshotMode::Initial {
            let before: Vec<Watch> = next.watch.iter().filter_map(|text| Watch::parse(text)).collect();
            let audit_database = self.capture.log.database().name();
            let mut new =
                plan::present(&self.capture.client, &source.watch, audit_database, &self.left_out).await?;
            new.retain(|c| !before.iter().any(|watch| watch.covers(&c.db, &c.coll)));
            if !new.is_empty() {
                let (log, running) = (&self.capture.log, next.snapshot.as_ref());
                next.snapshot = plan::plan(log, &next.stream, source.partitions, running, new).await?;
            }
        }
        let body = policy_body(next.position.cluster_time, &chain.policy(), &watch);
        next.policy = next.next_seq;
        if next.policy_digest != chain.digest() {
            // Other plugins are judged by what they do themselves.
            next.failures = RecentFailures::default();
        }
        next.policy_digest = chain.digest().to_owned();
        next.watch = watch;
        let record = own_record(&body, &mut next)?;
        self.store(vec![record], next).await
    }

    /// Puts the plugins in force that are to be. Between two batches, and with nothing read that others have passed on: so each
    /// record is by the plugins that its policy names.
    pub(super) async fn change_plugins(&mut self) -> Result<()> {
        Plugins { chain: self.chain, tolerance: self.tolerance } = self.plugins.borrow_and_update().clone();
        self.record_policy().await?;
        info!(source = %self.durable.stream, policy = self.durable.policy, "other plugins are in force");
        Ok(())
    }

    /// Takes in what is to happen when plugins fail. Returns whether there are to be other plugins, too.
    fn are_others(&mut self) -> bool {
        let plugins = self.plugins.borrow();
        self.tolerance = plugins.tolerance;
        plugins.chain.digest() != self.chain.digest()
    }

    /// The request to try events again that has not been answered yet.
    fn asked(&mut self) -> Option<Retry> {
        let asked = self.retries.borrow_and_update().clone();
        asked.filter(|retry| self.answered.as_ref() != Some(&retry.request))
    }

    /// Takes events and documents as they come, until stopped, until there are other plugins, or until everything up to `until`
    /// and every document is appended.
    pub(super) async fn take(
        &mut self,
        mut events: Batches,
        mut documents: Option<mpsc::Receiver<Result<Documents>>>,
        until: Option<Timestamp>,
        watcher: &Watcher,
    ) -> Result<End> {
        let mut trying: Option<Trying> = None;
        let mut reached = false;
        // Read, but later than the documents that are being read.
        let mut waiting: Option<Batch> = None;
        let mut lowest = None;
        let mut compared = 0;
        while !(reached && documents.is_none() && self.durable.resyncs.is_empty()) {
            if let (None, Some(resync)) = (&documents, self.durable.resyncs.first().cloned()) {
                // One comparison after the other, and none before the baseline is complete.
                if std::mem::replace(&mut compared, resync.gap) == resync.gap {
                    return Err(Error::internal("the comparison ended by itself"));
                }
                documents = Some(self.comparison(resync).start(self.stop_reading.clone()));
            }
            if trying.is_none()
                && let Some(retry) = self.asked()
            {
                trying = self.try_or_refuse(retry, watcher).await;
            }
            tokio::select! {
                biased;
                () = self.capture.stop.cancelled() => return Ok(End::Done),
                () = changed(&mut self.plugins), if trying.is_none() => if self.are_others() {
                    return Ok(End::OtherPlugins);
                },
                () = changed(&mut self.retries), if trying.is_none() => {}
                () = changed(&mut self.keeping) => self.record_keeping().await?,
                read = next_again(&mut trying), if trying.is_some() => self.take_tried(&mut trying, read).await?,
                // Events first: what the stream has read may age out of the oplog, what a snapshot reads stays.
                batch = events.next(), if waiting.is_none() => waiting = Some(batch),
                () = self.barrier.moves(lowest), if waiting.is_some() => {}
                read = next_documents(&mut documents) => match (read.transpose()?, &mut documents) {
                    (Some(read), Some(behind)) => self.take_documents(read, behind).await?,
                    _ => documents = self.end_of_documents()?,
                },
            }
            if let Some(mut batch) = waiting.take() {
                lowest = batch.last_time().and_then(|last| self.barrier.pass(last));
                waiting = batch.split_after(lowest);
                reached |= self.take_events(batch, until).await?;
                if let (Some(time), Some(_)) = (lowest, &waiting) {
                    // Something later is here already, so nothing up to this time is to come.
                    self.barrier.note_appended(time);
                }
            }
        }
        Ok(End::Done)
    }

    /// Begins to try again; where that fails, whoever asked is told, and capture goes on.
    async fn try_or_refuse(&mut self, retry: Retry, watcher: &Watcher) -> Option<Trying> {
        let request = retry.request.clone();
        match self.try_again(retry, watcher).await {
            Ok(trying) => return Some(trying),
            Err(error) => self.refuse(&request, &error).await,
        }
        self.answered = Some(request);
        None
    }

    async fn take_tried(&mut self, trying: &mut Option<Trying>, read: Option<Result<Reread>>) -> Result<()> {
        let Some(current) = trying else { return Ok(()) };
        if !self.take_again(current, read).await? {
            self.answered = Some(current.request().to_owned());
            *trying = None;
        }
        Ok(())
    }

    /// Whether everything up to `until` is appended.
    async fn take_events(&mut self, batch: Batch, until: Option<Timestamp>) -> Result<bool> {
        let done = until.is_some_and(|until| batch.reaches(until));
        let complete_to = batch.complete_to();
        if let Some(position) = batch.position {
            let moved = position != self.durable.position;
            let due =
                !batch.events.is_empty() || (moved && (done || self.stored_at.elapsed() >= IDLE_ADVANCE));
            if due {
                let options = self.options.clone();
                let advance = |next: &mut Checkpoint| (next.position, next.options) = (position, options);
                self.append_events(batch.events, advance).await?;
            }
        }
        if let Some(time) = complete_to {
            self.barrier.note_appended(time);
        }
        drop(batch.permits);
        match batch.end {
            _ if done => Ok(true),
            None => Ok(false),
            Some(Some(error)) => Err(error),
            Some(None) => Err(Error::internal("the watcher ended by itself")),
        }
    }

    fn end_of_documents<T>(&self) -> Result<Option<T>> {
        match self.durable.snapshot {
            None => Ok(None),
            Some(_) => Err(Error::internal("the baseline ended before it was complete")),
        }
    }

    /// Appends documents, and small batches that wait behind them in one go.
    async fn take_documents(
        &mut self,
        first: Documents,
        behind: &mut mpsc::Receiver<Result<Documents>>,
    ) -> Result<()> {
        let mut next = Some(Ok(first));
        while let Some(read) = next.take() {
            match read? {
                Documents::Baseline(mut batch) => {
                    while next.is_none() && batch.events.len() * 2 < self.capture.limits.batch_max_events {
                        match behind.try_recv() {
                            Ok(Ok(Documents::Baseline(more))) => batch.add(more),
                            Ok(other) => next = Some(other),
                            Err(_) => break,
                        }
                    }
                    self.take_baseline(batch).await?;
                }
                Documents::Compared(compared) => self.append_compared(compared).await?,
            }
        }
        Ok(())
    }

    async fn append_compared(&mut self, compared: Compared) -> Result<()> {
        let mut next = self.durable.clone();
        let Compared { outcomes, ids_are_kept, own, closes, hold } = compared;
        let source = &self.capture.source;
        withheld::report(&next.stream, &outcomes);
        let mut append = assemble(outcomes, ids_are_kept, source, self.tolerance, &mut next)?;
        for body in &own {
            append.records.push(own_record(body, &mut next)?);
        }
        next.resyncs.retain(|resync| Some(resync.gap) != closes);
        if !append.records.is_empty() {
            self.store(append, next).await?;
        }
        drop(hold);
        Ok(())
    }

    /// The comparison behind a gap, with everything as it is now.
    fn comparison(&self, resync: Resync) -> Comparison {
        let capture = self.capture;
        Comparison {
            client: capture.client.clone(),
            log: capture.log.clone(),
            history: History::new(Some(capture.log.clone()), capture.archive.clone()),
            stream: capture.stream.clone(),
            source: capture.source.clone(),
            chain: Arc::clone(&self.chain),
            limits: capture.limits,
            left_out: self.left_out.clone(),
            barrier: self.barrier.clone(),
            resync,
            policy: RecordId::new(&capture.stream, self.durable.policy),
            lifecycle: self.lifecycle.subscribe(),
            position: self.durable.position.clone(),
        }
    }
    async fn take_baseline(&mut self, mut batch: SnapshotBatch) -> Result<()> {
        let SnapshotBatch { events, steps, .. } = &mut batch;
        let unasked = || Error::internal("documents of a baseline that nobody reads");
        let mut progress = self.durable.snapshot.clone().ok_or_else(unasked)?;
        for step in std::mem::take(steps) {
            progress.advance(step, now())?;
        }
        self.report.note(&self.durable.stream, &progress);
        let (complete, documents) = (progress.is_complete(), progress.documents);
        let left = (!complete).then_some(progress);
        self.append(std::mem::take(events), |next| next.snapshot = left).await?;
        // With its holds: events after the times that were read may follow now.
        drop(batch);
        if complete {
            info!(source = %self.durable.stream, documents, "baseline complete");
            self.capture.log.forget_plans(&self.capture.stream).await?;
        }
        Ok(())
    }
}

/// Waits for another value. Cancel safe.
async fn changed<T>(of: &mut watch::Receiver<T>) {
    if of.changed().await.is_err() {
        // Nobody is left to say anything.
        std::future::pending().await
    }
}

async fn next_again(trying: &mut Option<Trying>) -> Option<Result<Reread>> {
    match trying {
        Some(trying) => trying.next().await,
        None => std::future::pending().await,
    }
}

async fn next_documents(
    documents: &mut Option<mpsc::Receiver<Result<Documents>>>,
) -> Option<Result<Documents>> {
    match documents {
        Some(documents) => documents.recv().await,
        None => std::future::pending().await,
    }
}

fn policy_body(time: Timestamp, plugins: &[u8], watch: &[String]) -> Vec<u8> {
    Writer::build(|writer| {
        writer.str("op", "policy");
        writer.timestamp("clusterTime", time.time, time.increment);
        let mut detail = writer.begin_doc(b"detail");
        for element in Doc::new(plugins).unwrap_or(Doc::EMPTY).elements().map_while(std::result::Result::ok) {
            detail.append(&element);
        }
        let mut list = detail.begin_array(b"watch");
        for (n, entry) in watch.iter().enumerate() {
            list.str(&n.to_string(), entry);
        }
        list.end();
        detail.end();
    })
}

/// A record of the archiver's own doing, counted in `next` and given its seq.
pub(super) fn own_record(body: &[u8], next: &mut Checkpoint) -> Result<Vec<u8>> {
    let doc =
        Doc::new(body).map_err(|e| Error::internal("a record of our own is not valid BSON").because(e))?;
    let record = Record::encode(next.next_id(), doc, next.policy);
    next.counters.own += 1;
    next.next_seq += 1;
    Ok(record)
}
