//! Every record of a stream in seq order, cold first and then hot, with nothing missing in between; and those of all streams
//! of a source in one order.

use std::collections::VecDeque;
use std::pin::Pin;
use std::time::{Duration, Instant};

use futures_util::{Stream, StreamExt};
use tokio_util::task::AbortOnDropHandle;

use super::History;
use super::gaps::Found;
use super::released::Placed;
use crate::archive::manifest::{Manifest, Sealed};
use crate::archive::segment;
use crate::archive::store::Archive;
use crate::error::{Error, Result};
use crate::record::Record;
use crate::stream_id::StreamId;

type Hot = Pin<Box<dyn Stream<Item = Result<Vec<u8>>> + Send>>;

/// The server forgets a cursor that nobody asks for ten minutes: one that has rested half of it is opened anew.
const CURSOR_RESTS: Duration = Duration::from_secs(300);

/// Reads a stream's records one after the other.
///
/// The archiver may roll and trim while this reads: where the log's next record is not the expected one, the archive
/// has it by then, and is asked again.
pub struct Records {
    history: History,
    stream: StreamId,
    next_seq: i64,
    /// As last listed: asked for again only where the next record is in none of them.
    manifests: Vec<Sealed>,
    /// The segment that is being read.
    cold: Option<Cold>,
    /// The one behind it, on its way meanwhile; not where several streams are read at once, each with a segment of its own.
    ahead: Option<(i64, AbortOnDropHandle<Result<Option<segment::Records>>>)>,
    reads_ahead: bool,
    hot: Option<Hot>,
    hot_asked: Instant,
    /// The log had the last record: it will have the next one, and the manifests need not be listed to know.
    in_log: bool,
}

/// The records of a segment that are to come.
enum Cold {
    /// Its own, and the place of the next one.
    Whole(segment::Records, usize),
    /// Those that were kept when it expired, and where it ended: they do not reach there.
    Kept(VecDeque<Vec<u8>>, i64),
}

impl Cold {
    fn next(&mut self) -> Result<Option<Vec<u8>>> {
        match self {
            Cold::Whole(records, place) => {
                *place += 1;
                records.get(*place - 1)
            }
            Cold::Kept(records, _) => Ok(records.pop_front()),
        }
    }
}

/// What the log has at the next record's place.
enum Opened {
    /// The record.
    At(Vec<u8>),
    /// A later one: a segment that holds the record has been loaded.
    Later,
    /// Nothing, and no segment either.
    End,
}

impl History {
    /// The records of a stream from a seq on.
    pub fn records(&self, stream: &StreamId, from_seq: i64) -> Records {
        Records {
            history: self.clone(),
            stream: stream.clone(),
            next_seq: from_seq.max(1),
            manifests: Vec::new(),
            cold: None,
            ahead: None,
            reads_ahead: stream.partition.is_none(),
            hot: None,
            hot_asked: Instant::now(),
            in_log: false,
        }
    }

    /// The records of all streams of a source: each stream's in seq order, late ones in their places, and the change events of all by cluster time.
    pub async fn all_records(&self, source: &str) -> Result<AllRecords> {
        let mut streams = Vec::new();
        for stream in self.streams(source).await? {
            streams.push(Head { next: None, time: (0, 0), records: self.placed_records(&stream).await? });
        }
        Ok(AllRecords { streams })
    }
}

impl Records {
    /// The seq of the next record.
    pub fn next_seq(&self) -> i64 {
        self.next_seq
    }

    /// The next record's canonical bytes; `None` at the end. Of records that have expired come only those that were kept. Fails as
    /// corrupt where a record is in neither tier.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>> {
        loop {
            if let Some(record) = self.next_cold()? {
                return Ok(Some(record));
            }
            if let Some(record) = self.next_hot().await? {
                return Ok(Some(record));
            }
            if !self.in_log && self.load_segment().await? {
                continue;
            }
            match self.open_log().await? {
                Opened::At(record) => return Ok(Some(record)),
                Opened::Later => {}
                Opened::End => return Ok(None),
            }
        }
    }

    /// The next record of the segment that is loaded. Behind its last one the seq is that of the segment after it.
    fn next_cold(&mut self) -> Result<Option<Vec<u8>>> {
        let record = self.cold.as_mut().map_or(Ok(None), Cold::next)?;
        match &record {
            Some(record) => self.next_seq = Record::new(record)?.seq()? + 1,
            None => {
                if let Some(Cold::Kept(_, end_seq)) = self.cold.take() {
                    self.next_seq = end_seq;
                }
            }
        }
        Ok(record)
    }

    /// The next record of the open log stream; `None`, and no stream any more, where it does not go on.
    async fn next_hot(&mut self) -> Result<Option<Vec<u8>>> {
        let rested = self.hot_asked.elapsed() > CURSOR_RESTS;
        self.hot_asked = Instant::now();
        let Some(hot) = self.hot.as_mut().filter(|_| !rested) else {
            self.hot = None;
            return Ok(None);
        };
        if let Some(record) = hot.next().await.transpose()?
            && Record::new(&record)?.seq()? == self.next_seq
        {
            self.next_seq += 1;
            return Ok(Some(record));
        }
        self.hot = None;
        Ok(None)
    }

    /// Loads the segment that holds the next record; false where no manifest knows it.
    async fn load_segment(&mut self) -> Result<bool> {
        let wanted = self.next_seq;
        let holds = |s: &Sealed| (s.manifest.first_seq..s.manifest.end_seq).contains(&wanted);
        if !self.manifests.iter().any(holds) {
            self.manifests = self.history.archive.manifests(&self.stream).await?;
        }
        let Some(at) = self.manifests.iter().position(holds) else { return Ok(false) };
        let Manifest { first_seq, end_seq, .. } = self.manifests[at].manifest;
        let records = self.read(at).await?;
        self.in_log = false;
        let Some(records) = records else {
            let mut kept = VecDeque::from(self.history.archive.left_of(&self.manifests[at].manifest).await?);
            while kept.front().is_some_and(|r| Record::new(r).and_then(|r| r.seq()).is_ok_and(|s| s < wanted))
            {
                kept.pop_front();
            }
            self.cold = Some(Cold::Kept(kept, end_seq));
            return Ok(true);
        };
        let place = usize::try_from(wanted - first_seq).unwrap_or(usize::MAX);
        if place >= records.len() {
            return Err(Error::corrupt(format!(
                "a segment has fewer records than its manifest says seq={wanted}"
            )));
        }
        self.cold = Some(Cold::Whole(records, place));
        Ok(true)
    }

    /// The records of a segment, `None` where it has expired, and begins to read the one behind it.
    async fn read(&mut self, at: usize) -> Result<Option<segment::Records>> {
        let wanted = self.manifests[at].manifest.first_seq;
        let read = |sealed: &Sealed| read_segment(self.history.archive.clone(), sealed.clone());
        let records = match self.ahead.take() {
            Some((first_seq, reading)) if first_seq == wanted => {
                reading.await.map_err(|e| Error::internal("reading a segment was cut short").because(e))??
            }
            _ => read(&self.manifests[at]).await?,
        };
        if let Some(behind) = self.manifests.get(at + 1).filter(|_| self.reads_ahead) {
            let reading = AbortOnDropHandle::new(tokio::spawn(read(behind)));
            self.ahead = Some((behind.manifest.first_seq, reading));
        }
        Ok(records)
    }

    /// Opens the log at the next record and takes it.
    async fn open_log(&mut self) -> Result<Opened> {
        let Some(log) = &self.history.log else { return Ok(Opened::End) };
        let mut hot: Hot = Box::pin(log.records(&self.stream, self.next_seq..i64::MAX).await?);
        let Some(record) = hot.next().await.transpose()? else {
            // Nothing more, or everything that was left has been rolled and trimmed since the manifests were listed.
            return Ok(if self.load_segment().await? { Opened::Later } else { Opened::End });
        };
        let seq = Record::new(&record)?.seq()?;
        if seq == self.next_seq {
            self.hot = Some(hot);
            self.in_log = true;
            self.next_seq += 1;
            return Ok(Opened::At(record));
        }
        // Rolled and trimmed since the manifests were listed.
        if self.load_segment().await? {
            return Ok(Opened::Later);
        }
        Err(Error::corrupt(format!(
            "records are missing: neither the archive nor the audit log has them source={} seq={}..{seq}",
            self.stream, self.next_seq
        ))
        .hint("archiver verify says what the archive holds"))
    }
}

async fn read_segment(archive: Archive, sealed: Sealed) -> Result<Option<segment::Records>> {
    let Some(file) = archive.file_of(&sealed).await? else { return Ok(None) };
    let records = tokio::task::spawn_blocking(move || segment::read(file)).await;
    records.map_err(|e| Error::internal("reading a segment was cut short").because(e))?.map(Some)
}

/// Reads the records of all streams of a source one after the other.
pub struct AllRecords {
    streams: Vec<Head>,
}

/// Where one of the streams stands.
struct Head {
    /// Its next record, read already.
    next: Option<Vec<u8>>,
    /// When that is to come among the other streams' records.
    time: (u32, u32),
    records: Placed,
}

/// Operations whose records stand where they were written: what they tell of was read, or happened, at another time.
const UNTIMED: [&str; 5] = ["snapshot", "policy", "quarantine", "recovery", "access"];

/// Whether a record stands among those of its stream where its time says. One that a comparison found does: it was read behind
/// everything that had happened by then.
pub fn is_timed(record: &Record<'_>) -> bool {
    !UNTIMED.contains(&record.op()) || Found::of(record).is_some()
}

impl AllRecords {
    /// The next record's canonical bytes; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>> {
        let mut n = 0;
        while let Some(head) = self.streams.get_mut(n) {
            if head.next.is_none() && !head.read().await? {
                self.streams.remove(n);
            } else {
                n += 1;
            }
        }
        // Equal times: the first stream's.
        Ok(self.streams.iter_mut().min_by_key(|head| head.time).and_then(|head| head.next.take()))
    }
}

impl Head {
    /// Reads the next record; false at the end.
    async fn read(&mut self) -> Result<bool> {
        let Some(bytes) = self.records.next_before(i64::MAX).await? else { return Ok(false) };
        let record = Record::new(&bytes)?;
        if is_timed(&record) {
            let time = record.cluster_time()?;
            self.time = (time.time, time.increment);
        }
        self.next = Some(bytes);
        Ok(true)
    }
}
