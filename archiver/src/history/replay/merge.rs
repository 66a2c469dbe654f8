//! The records of several streams in one order: each stream's own, and the changes of all by cluster time.

use std::time::{Duration, Instant};

use tracing::warn;

use super::baselines::Survivors;
use super::range::{Range, ordered};
use super::tail::{Place, Step, Tail};
use crate::error::Result;
use crate::history::History;
use crate::history::stream::is_timed;
use crate::record::Record;
use crate::stream_id::StreamId;

/// How long a followed stream waits for another one that has not been captured as far: a quiet one says so every five seconds.
const WAIT: Duration = Duration::from_secs(15);

/// One step of one stream.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) stream: StreamId,
    pub(super) step: Step,
    /// Where it stands among the others.
    pub(super) time: (u32, u32),
    /// What it leaves, where it ends a collection whose successor was read already.
    pub(super) survivors: Option<Survivors>,
    /// Where its stream goes on.
    pub(super) place: Place,
}

/// What is to be done next.
#[derive(Debug)]
pub(super) enum Next {
    /// Deal with this one.
    Item(Box<Item>),
    /// Nothing until there is more; everything before this time has been given.
    Wait((u32, u32)),
    /// Nothing any more; everything before this time has been given.
    End((u32, u32)),
}

/// Where the streams that are read together end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// Nowhere: they are followed.
    Never,
    /// Each where it is captured to: everything that is recorded is given.
    OfStreams,
    /// Those of a source at one time, so that a later run has nothing that happened before what was given.
    OfSources,
    /// All at one time, so that a transaction is whole in each of them.
    OfAll,
}

/// Reads several streams at once.
pub(super) struct Merge {
    heads: Vec<Head>,
    ending: Ending,
    /// The latest time that has been given: streams that are not captured as far as that have been waited for.
    given: (u32, u32),
    /// Since when an item has been held back for other streams.
    waiting: Option<Instant>,
    warned: bool,
}

struct Head {
    tail: Tail,
    next: Option<Item>,
    /// The time of its last record that stands where its time says.
    time: (u32, u32),
    /// Nothing comes any more.
    ended: bool,
}

impl Merge {
    /// The streams of these sources, each from where `place` says. Those that are followed are all that there will be: how many
    /// partitions a source has is known from its first one on.
    pub(super) async fn open(
        history: &History,
        sources: &[String],
        range: Range,
        ending: Ending,
        place: impl Fn(&StreamId) -> Option<Place>,
    ) -> Result<Merge> {
        let mut heads = Vec::new();
        for source in sources {
            let released = history.released(source).await?;
            let begun = history.streams(source).await?;
            let streams = match ending {
                Ending::Never => history.streams_to_come(source).await?,
                _ => begun.clone(),
            };
            for stream in streams {
                let (place, is_to_come) = (place(&stream), !begun.contains(&stream));
                let mut tail = Tail::open(history, stream, range, released.clone(), place).await?;
                if is_to_come {
                    tail.wait_for_its_beginning();
                }
                heads.push(Head { tail, next: None, time: (0, 0), ended: false });
            }
        }
        Ok(Merge { heads, ending, given: (0, 0), waiting: None, warned: false })
    }

    /// Where each stream begins.
    pub(super) fn places(&self) -> impl Iterator<Item = (StreamId, Place)> + '_ {
        self.heads.iter().map(|head| (head.tail.stream.clone(), head.tail.place().clone()))
    }

    /// The next item, or that there is none for now.
    pub(super) async fn next(&mut self) -> Result<Next> {
        for head in &mut self.heads {
            head.read(self.ending == Ending::Never).await?;
        }
        let Some(first) = self.first() else {
            self.warn_of_held();
            let over = self.ending != Ending::Never || self.heads.iter().all(|head| head.ended);
            return Ok(if over { Next::End(self.reached()) } else { Next::Wait(self.reached()) });
        };
        let time = self.heads[first].next.as_ref().map_or((0, 0), |item| item.time);
        if self.is_early(time) {
            return Ok(Next::Wait(self.reached()));
        }
        self.waiting = None;
        self.given = self.given.max(time);
        let Some(mut item) = self.heads[first].next.take() else { return Ok(Next::Wait(time)) };
        self.heads[first].tail.give(&mut item.step, &mut item.place)?;
        item.survivors = self.survivors(&item)?;
        Ok(Next::Item(Box::new(item)))
    }

    /// Equal times: the first stream's.
    fn first(&self) -> Option<usize> {
        let heads = self.heads.iter().enumerate().filter(|(_, head)| self.held_by(head).is_none());
        let times = heads.filter_map(|(n, head)| Some((head.next.as_ref()?.time, n)));
        times.min().map(|(_, n)| n)
    }

    /// The stream at whose end this one ends too: of what was captured late, some may have happened before this one's next item.
    fn held_by(&self, head: &Head) -> Option<&Tail> {
        let time = head.next.as_ref()?.time;
        let ends = |other: &&Head| {
            let is_joined = match self.ending {
                Ending::Never | Ending::OfStreams => false,
                Ending::OfSources => other.tail.stream.source == head.tail.stream.source,
                Ending::OfAll => true,
            };
            // Of an archive alone nobody says how far it was captured.
            let is_late = other.ended && !other.tail.is_over && other.tail.is_live();
            is_late && is_joined && ordered(other.tail.reached) < time
        };
        self.heads.iter().find(ends).map(|other| &other.tail)
    }

    fn warn_of_held(&self) {
        for head in &self.heads {
            if let Some(late) = self.held_by(head) {
                warn!(
                    "a stream is not captured as far as others: what these have from there on waits for a later run \
                     stream={} reached={} waiting={}",
                    late.stream, late.reached.time, head.tail.stream
                );
            }
        }
    }

    /// Whether other streams may still have something of an earlier time.
    fn is_early(&mut self, time: (u32, u32)) -> bool {
        let behind = |head: &&Head| {
            let is_late = ordered(head.tail.reached) < self.given;
            head.next.is_none() && !head.ended && !is_late && ordered(head.tail.reached) < time
        };
        let Some(head) = self.heads.iter().find(behind) else { return false };
        if self.waiting.get_or_insert_with(Instant::now).elapsed() < WAIT {
            return true;
        }
        if !self.warned {
            warn!(
                "a stream is captured late: what it has comes behind later changes of others stream={}",
                head.tail.stream
            );
            self.warned = true;
        }
        false
    }

    /// Everything before this time has been given.
    fn reached(&self) -> (u32, u32) {
        let of = |head: &Head| match &head.next {
            Some(item) => item.time,
            // Nobody says that there is no more of that time.
            None if !head.tail.is_over && !head.tail.is_live() => head.time,
            None => ordered(head.tail.reached),
        };
        self.heads.iter().map(of).min().unwrap_or((u32::MAX, u32::MAX))
    }

    /// Asks how far the streams of which nothing is left have been captured meanwhile.
    pub(super) async fn look_ahead(&mut self) -> Result<()> {
        for head in self.heads.iter_mut().filter(|head| head.next.is_none() && !head.ended) {
            head.tail.look_ahead().await?;
        }
        Ok(())
    }

    fn survivors(&self, item: &Item) -> Result<Option<Survivors>> {
        let Step::Record(bytes, _) = &item.step else { return Ok(None) };
        let record = Record::new(bytes)?;
        if !matches!(record.op(), "drop" | "dropDatabase" | "rename") {
            return Ok(None);
        }
        let time = ordered(record.cluster_time()?);
        let mut survivors = Survivors::default();
        for head in self.heads.iter().filter(|head| head.tail.stream.source == item.stream.source) {
            head.tail.baselines.read_since(time, &mut survivors);
        }
        Ok(Some(survivors).filter(|survivors| !survivors.is_empty()))
    }
}

impl Head {
    /// Reads its next item, where it has none.
    async fn read(&mut self, follow: bool) -> Result<()> {
        if self.next.is_some() || self.ended {
            return Ok(());
        }
        let Some(step) = self.tail.next().await? else {
            self.ended = self.tail.is_over || !follow || !self.tail.is_live();
            return Ok(());
        };
        let mut time = self.time;
        if let Step::Record(bytes, _) = &step {
            let record = Record::new(bytes)?;
            if is_timed(&record) {
                time = ordered(record.cluster_time()?);
                self.time = self.time.max(time);
            }
        }
        let (stream, place) = (self.tail.stream.clone(), self.tail.place().clone());
        self.next = Some(Item { stream, step, time, survivors: None, place });
        Ok(())
    }
}
