//! One stream's records for a replay: in seq order, late ones in the places of their events as far as these have been released, and
//! nothing before it is durable together with its checkpoint.

use bson::Timestamp;

use super::baselines::Baselines;
use super::given::Given;
use super::range::{Bound, Range, ordered};
use crate::error::{Error, Result};
use crate::fail_point::fail_point;
use crate::history::released::{LateRecords, Released};
use crate::history::stream::{Records, is_timed};
use crate::history::{BEGINNING, History};
use crate::record::{Record, RecordId};
use crate::stream_id::StreamId;

const END_OF_TIME: Timestamp = Timestamp { time: u32::MAX, increment: u32::MAX };

/// Where a stream is gone on with: everything before it has been given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// The seq at which the replay of the stream began, whatever became of it meanwhile.
    pub(super) start: i64,
    /// The seq of the next record that stands where it was written.
    pub(super) next: i64,
    /// From here on documents were read to whose time the stream has not come yet: `next` where there are none.
    pub(super) since: i64,
    /// Late records behind it that have been given already, in the places of their events.
    pub(super) late: Given,
}

/// What comes next in a stream.
#[derive(Debug)]
pub(super) enum Step {
    /// A record, and whether a baseline has it in it already: known once it is given.
    Record(Vec<u8>, bool),
    /// The records of these seqs have been removed by retention, but for those that come.
    Expired(std::ops::Range<i64>),
}

/// Reads one stream.
pub(super) struct Tail {
    history: History,
    pub(super) stream: StreamId,
    records: Records,
    released: Released,
    late: LateRecords,
    place: Place,
    range: Range,
    pub(super) baselines: Baselines,
    /// The record that was read behind expired ones.
    kept: Option<Vec<u8>>,
    /// Before this seq everything is durable; `None`: whatever there is.
    end: Option<i64>,
    /// Up to this time the stream has been read: nothing before it comes any more behind `end`, or behind the range.
    pub(super) reached: Timestamp,
    /// When the last record of the range that stands where its time says is of a transaction, which may go on behind it: its time.
    transaction: Option<Timestamp>,
    /// What comes next is outside of the range.
    pub(super) is_over: bool,
}

impl Tail {
    /// At the beginning of a range, or where an earlier replay of it has got to.
    pub(super) async fn open(
        history: &History,
        stream: StreamId,
        range: Range,
        released: Released,
        place: Option<Place>,
    ) -> Result<Tail> {
        let place = match place {
            Some(place) => place,
            None => {
                let start = history.first_seq(&stream, range.from).await?;
                Place { start, next: start, since: start, late: Given::default() }
            }
        };
        let mut tail = Tail {
            history: history.clone(),
            records: history.records(&stream, place.next),
            late: LateRecords::of(history, &stream),
            stream,
            released,
            place,
            range,
            baselines: Baselines::default(),
            kept: None,
            end: None,
            reached: END_OF_TIME,
            transaction: None,
            is_over: false,
        };
        tail.look_ahead().await?;
        tail.require_recorded()?;
        tail.read_baselines_again().await?;
        Ok(tail)
    }

    /// Fails as invalid where more has been given than is recorded: then other records will have these seqs.
    fn require_recorded(&self) -> Result<()> {
        let Place { start, next, .. } = self.place;
        let Some(end) = self.end.filter(|end| next > start && next > *end) else { return Ok(()) };
        Err(Error::invalid(format!(
            "the state of the replay is ahead of what is recorded stream={} next_seq={end} replayed_to={next}",
            self.stream
        ))
        .hint(
            "the audit database has been restored from before, and numbers what is recorded since anew: begin anew, with another \
             --state file and an empty target",
        ))
    }

    /// Learns again which documents were read ahead of the stream.
    async fn read_baselines_again(&mut self) -> Result<()> {
        let mut records = self.history.records(&self.stream, self.place.since);
        while records.next_seq() < self.place.next {
            let Some(bytes) = records.next().await? else { break };
            let record = Record::new(&bytes)?;
            if self.range.holds(&record)? {
                self.baselines.advance(&record, record.seq()?)?;
            }
        }
        Ok(())
    }

    /// Where to go on once everything that was given has been dealt with.
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// Nothing is kept of the stream yet, and all that will be is to come.
    pub(super) fn wait_for_its_beginning(&mut self) {
        if self.end.is_none() {
            (self.end, self.reached) = (Some(self.place.next), BEGINNING);
        }
    }

    /// Whether more may come.
    pub(super) fn is_live(&self) -> bool {
        self.end.is_some()
    }

    /// Asks how far the stream has been captured.
    pub(super) async fn look_ahead(&mut self) -> Result<()> {
        let Some(log) = &self.history.log else { return Ok(()) };
        if let Some(checkpoint) = log.checkpoint(&self.stream).await? {
            self.end = Some(checkpoint.next_seq);
            self.reached = checkpoint.position.cluster_time;
        }
        Ok(())
    }

    /// The next record of the range; `None`: no more as of when it was last looked ahead, or ever, see `is_over`.
    pub(super) async fn next(&mut self) -> Result<Option<Step>> {
        loop {
            let Some(step) = self.next_of_all().await? else {
                // Captured beyond the end, though nothing happened there.
                self.is_over |=
                    self.is_live() && (self.range.ends_before(self.reached) || self.is_at_last_seq());
                return Ok(None);
            };
            let Step::Record(bytes, _) = step else { return Ok(Some(step)) };
            let record = Record::new(&bytes)?;
            let is_timed = is_timed(&record);
            // What was read or done in between does not say whether a transaction is over.
            if self.range.is_behind(&record, is_timed)? && (is_timed || self.transaction.is_none()) {
                self.is_over = true;
                self.reached = if is_timed { record.cluster_time()? } else { END_OF_TIME };
                return Ok(None);
            }
            if self.range.holds(&record)? {
                if is_timed {
                    self.transaction = record.part("txn").map(|_| record.cluster_time()).transpose()?;
                }
                return Ok(Some(Step::Record(bytes, false)));
            }
        }
    }

    /// Whether everything before the seq at which the range ends has come, and the transaction that it may cut is over.
    fn is_at_last_seq(&self) -> bool {
        let is_over = self.transaction.is_none_or(|time| ordered(time) < ordered(self.reached));
        is_over && matches!(self.range.to, Some(Bound::Seq(seq)) if self.place.next >= seq)
    }

    /// Takes note of a step when it is given, not when it is read: of several streams, some are read ahead of what is given.
    pub(super) fn give(&mut self, step: &mut Step, place: &mut Place) -> Result<()> {
        if let Step::Record(bytes, is_in_baseline) = step {
            *is_in_baseline = self.baselines.advance(&Record::new(bytes)?, place.next - 1)?;
        }
        place.since = self.baselines.since().unwrap_or(place.next);
        self.place.since = place.since;
        Ok(())
    }

    /// The next one, whether in the range or not.
    async fn next_of_all(&mut self) -> Result<Option<Step>> {
        while self.end.is_none_or(|end| self.place.next < end) {
            let bytes = match self.kept.take() {
                Some(bytes) => bytes,
                None => match self.records.next().await? {
                    Some(bytes) => bytes,
                    None => return Ok(None),
                },
            };
            let id = Record::new(&bytes)?.record_id()?;
            if id.seq > self.place.next {
                let expired = self.place.next..id.seq;
                self.place.next = id.seq;
                self.kept = Some(bytes);
                return Ok(Some(Step::Expired(expired)));
            }
            self.place.next = id.seq + 1;
            if let Some(bytes) = self.placed(id, bytes).await? {
                return Ok(Some(Step::Record(bytes, false)));
            }
        }
        Ok(None)
    }

    /// What stands in a record's place; `None` where it has been given already, or a plugin dropped its event in the end.
    async fn placed(&mut self, id: RecordId, bytes: Vec<u8>) -> Result<Option<Vec<u8>>> {
        if let Some(quarantine) = Record::new(&bytes)?.late() {
            // Of an event before the beginning, or given with its event.
            let is_other = quarantine < self.place.start || self.place.late.contains(id.seq);
            return Ok(Some(bytes).filter(|_| !is_other));
        }
        match self.released.outcome(id) {
            None => Ok(Some(bytes)),
            Some(None) => Ok(None),
            Some(Some(late)) => {
                let found = self.late.read(late).await?;
                self.place.late.insert(late.seq, self.place.next);
                Ok(found)
            }
        }
    }
}

impl History {
    /// The seq from which a stream must be read so that nothing from a bound on is missed. Segments that end before it are not read.
    async fn first_seq(&self, stream: &StreamId, from: Option<Bound>) -> Result<i64> {
        let second = match from {
            None => return Ok(1),
            Some(Bound::Seq(seq)) => return Ok(seq.max(1)),
            Some(Bound::Second(second)) => Timestamp { time: second, increment: 0 },
        };
        let mut before = None;
        loop {
            let (first, is_found) = self.first_sealed(stream, second).await?;
            fail_point!("replay:sealed");
            let Some(log) = self.log.as_ref().filter(|_| !is_found) else { return Ok(first) };
            // Asked before the records: of those that come meanwhile none is left out.
            let next =
                log.checkpoint(stream).await?.map_or(first, |checkpoint| checkpoint.next_seq.max(first));
            let hot = log.seq_since(stream, first, second).await?;
            // Meanwhile records may have been rolled and trimmed: then they are to be found in a segment now.
            let is_whole = log.first_seq(stream).await?.map_or(next == first, |oldest| oldest <= first);
            if is_whole || before.replace(first) == Some(first) {
                return Ok(hot.unwrap_or(next));
            }
        }
    }

    /// The first seq of the segment that comes up to a time, and true; or the seq behind all segments.
    async fn first_sealed(&self, stream: &StreamId, time: Timestamp) -> Result<(i64, bool)> {
        let mut first = 1;
        for sealed in self.archive.manifests(stream).await? {
            if sealed.manifest.last_cluster_time.t >= time.time {
                return Ok((first, true));
            }
            first = sealed.manifest.end_seq;
        }
        Ok((first, false))
    }
}
