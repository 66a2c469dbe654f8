//! Reads withheld events again: from the change stream, at their own cluster times, told from others of the same time by what
//! is kept of their resume tokens. Does not know what becomes of them.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use bson::{Timestamp, doc};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::sync::CancellationToken;

use super::actor;
use super::lookup::{Looked, Lookup};
use super::portion::Portion;
use super::watcher::{Read, Start, Watcher};
use crate::audit_log::Withheld;
use crate::config::SourceConfig;
use crate::error::{Error, Result};
use crate::event::{Event, Position};
use crate::fault::Fault;
use crate::salt::Salt;

/// Events that are looked for in one stream at most …
const AT_A_TIME: usize = 1_000;
/// … and how long after the first of them, in seconds: the server reads everything in between.
const WITHIN: u32 = 600;
/// How long the stream may stand still.
const STANDSTILL: Duration = Duration::from_secs(60);

/// What came of reading some of them.
#[derive(Debug)]
pub(super) enum Reread {
    /// Events in the order of the stream; without a [`Withheld`], those that say who acts in a transaction. The permits count their bytes.
    Events(Vec<(Event, Option<Withheld>)>, Vec<OwnedSemaphorePermit>),
    /// The oplog does not reach back to these any more.
    Lost(Vec<i64>),
    /// The stream, as it is configured now, does not deliver these.
    Missing(Vec<i64>),
    /// Documents, which are in no stream.
    Looked(Looked),
}

impl From<Looked> for Reread {
    fn from(looked: Looked) -> Self {
        Reread::Looked(looked)
    }
}

/// Reads events again.
#[derive(Debug)]
pub(super) struct Rereading {
    /// Of the source's stream, as it is configured now.
    pub(super) watcher: Watcher,
    pub(super) salt: Salt,
    pub(super) source: SourceConfig,
    /// For those that are in no stream.
    pub(super) lookup: Lookup,
}

impl Rereading {
    /// Starts reading these, which are sorted by cluster time, and looking up `beside`. The receiver gets what comes of it, then
    /// possibly one error.
    pub(super) fn start(
        self,
        wanted: Vec<Withheld>,
        beside: Vec<Withheld>,
        stop: CancellationToken,
    ) -> mpsc::Receiver<Result<Reread>> {
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                done = self.run(wanted, beside, &sender, &stop) => if let Err(error) = done {
                    // A closed channel means that nobody wants to know any more.
                    sender.send(Err(error)).await.ok();
                }
            }
        });
        receiver
    }

    async fn run(
        &self,
        wanted: Vec<Withheld>,
        beside: Vec<Withheld>,
        found: &mpsc::Sender<Result<Reread>>,
        stop: &CancellationToken,
    ) -> Result<()> {
        let mut wanted = VecDeque::from(wanted);
        while let Some(first) = wanted.front().map(|first| first.cluster_time.time) {
            let near = |w: &&Withheld| w.cluster_time.time <= first.saturating_add(WITHIN);
            let count = wanted.iter().take(AT_A_TIME).take_while(near).count();
            let mut part: Vec<Withheld> = wanted.drain(..count).collect();
            while !part.is_empty() {
                match self.read(&mut part, found, stop).await {
                    Ok(()) => {
                        let missing = std::mem::take(&mut part);
                        if !missing.is_empty() {
                            found.send(Ok(Reread::Missing(seqs(&missing)))).await.ok();
                        }
                    }
                    Err(error) if error.fault() == Some(Fault::PositionLost) => {
                        let lost: Vec<Withheld> = part.drain(..self.out_of_reach(&part).await?).collect();
                        if lost.is_empty() {
                            return Err(error);
                        }
                        found.send(Ok(Reread::Lost(seqs(&lost)))).await.ok();
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        match beside.is_empty() {
            true => Ok(()),
            false => self.lookup.run(beside, found).await,
        }
    }

    /// Reads until all of these have come, or the stream is behind the last one. Takes out those that came.
    async fn read(
        &self,
        wanted: &mut Vec<Withheld>,
        found: &mpsc::Sender<Result<Reread>>,
        stop: &CancellationToken,
    ) -> Result<()> {
        let (Some(first), Some(last)) = (wanted.first(), wanted.last()) else { return Ok(()) };
        let (first, last) = (first.cluster_time, last.cluster_time);
        let mut open: HashMap<&str, usize> = HashMap::new();
        for (n, withheld) in wanted.iter().enumerate() {
            open.extend(withheld.event.as_deref().map(|event| (event, n)));
        }
        let stop = stop.child_token();
        let _stop_reading = stop.clone().drop_guard();
        let mut reads = self.at(wanted).start(Start::After(at(first)), stop);
        let (mut events, mut permits, mut bytes) = (Vec::new(), Vec::new(), 0);
        let mut came = Vec::new();
        while !open.is_empty() {
            let next = tokio::time::timeout(STANDSTILL, reads.recv()).await;
            match next.map_err(|_| Error::unavailable("the change stream stands still"))? {
                Some(Ok(Read::Event(event, _))) if event.position.cluster_time > last => break,
                Some(Ok(Read::Event(event, permit))) => {
                    let token = event.position.token.as_deref().map(|token| self.salt.token_digest(token));
                    let n = token.and_then(|token| open.remove(token.as_str()));
                    if n.is_none() && !actor::is_context(event.doc()?, &self.source) {
                        continue;
                    }
                    came.extend(n);
                    bytes += event.body.len();
                    events.push((event, n.map(|n| wanted[n].clone())));
                    permits.push(permit);
                }
                // At the last one's own time it may still come.
                Some(Ok(Read::Quiet(position))) if position.cluster_time > last => break,
                Some(Ok(Read::Quiet(_))) => {}
                Some(Err(error)) => return Err(error),
                None => return Err(Error::internal("the watcher ended by itself")),
            }
            if bytes >= self.watcher.limits.batch_max_bytes || open.is_empty() {
                let events = Reread::Events(std::mem::take(&mut events), std::mem::take(&mut permits));
                found.send(Ok(events)).await.ok();
                bytes = 0;
            }
        }
        if !events.is_empty() {
            found.send(Ok(Reread::Events(events, permits))).await.ok();
        }
        let mut n = 0;
        wanted.retain(|_| {
            n += 1;
            !came.contains(&(n - 1))
        });
        Ok(())
    }

    /// The stream with the events of these times only. A filter does not change its tokens.
    fn at(&self, wanted: &[Withheld]) -> Watcher {
        let mut times: Vec<Timestamp> = wanted.iter().map(|withheld| withheld.cluster_time).collect();
        times.dedup();
        let mut watcher = self.watcher.clone();
        // Without the event that ends a stream, the stream would just end.
        let selected = doc! {"$or": [{"clusterTime": {"$in": times}}, {"operationType": "invalidate"}]};
        watcher.options.pipeline.push(doc! {"$match": selected});
        watcher
    }

    /// How many of these, the oldest, the oplog does not reach back to.
    async fn out_of_reach(&self, wanted: &[Withheld]) -> Result<usize> {
        let (mut lost, mut reached) = (0, wanted.len());
        while lost < reached {
            let middle = lost.midpoint(reached);
            match self.reaches(wanted[middle].cluster_time).await? {
                true => reached = middle,
                false => lost = middle + 1,
            }
        }
        Ok(lost)
    }

    async fn reaches(&self, time: Timestamp) -> Result<bool> {
        let opened = self.watcher.open(&at(time), Portion::Identity, 1).await;
        match opened {
            Err(error) if error.fault() == Some(Fault::PositionLost) => Ok(false),
            Err(error) if error.fault() != Some(Fault::PoisonousEvent) => Err(error),
            _ => Ok(true),
        }
    }
}

fn at(cluster_time: Timestamp) -> Position {
    Position { token: None, cluster_time }
}

fn seqs(withheld: &[Withheld]) -> Vec<i64> {
    withheld.iter().map(|withheld| withheld.id.seq).collect()
}
