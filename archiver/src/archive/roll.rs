//! The archive loop of one stream: records are cut into segments, committed, sealed, and trimmed from the log.
//!
//! Each step is durable before the next begins, so a crash between any two leaves a state that the next pass goes on
//! from: a segment without manifest is found again by its name, and records are trimmed only behind manifests.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::TryStreamExt;
use tokio::sync::Semaphore;
use tracing::{debug, info, warn};

use super::day::Day;
use super::delta::Delta;
use super::manifest::{Context, Manifest};
use super::merkle;
use super::segment::{SegmentBuilder, Summary};
use super::store::{Archive, Commit, Sealed};
use crate::audit_log::AuditLog;
use crate::config::{ArchiveConfig, TableFormat};
use crate::error::{Error, Kind, Result};
use crate::fail_point::fail_point;
use crate::record::{Record, hex};
use crate::stream_id::StreamId;

/// Records in one segment at most.
const SEGMENT_MAX_ROWS: usize = 1_000_000;

/// A segment that is cut for its age alone waits, without `segment_max_age`, until it has so many bytes, or until its day is
/// over: a source of ten events a day would else give ten files a day for ever.
const SMALL: usize = 1 << 20;

/// The age at which a segment is cut without `segment_max_age`, unless it is small.
const USUAL_AGE: Duration = Duration::from_secs(3600);

/// Seconds of a UTC day.
const DAY_SECONDS: u64 = 86_400;

/// Rolls one stream.
#[derive(Debug)]
pub struct Roller {
    stream: StreamId,
    /// Which audit log this is.
    identity: String,
    log: AuditLog,
    archive: Archive,
    config: ArchiveConfig,
    server: String,
    /// One segment is built at a time in the whole process: each takes as much memory as `segment_max_bytes`.
    building: Arc<Semaphore>,
    /// Where the chain stands.
    last: Option<Sealed>,
    /// Sealed segments whose records the log may still hold, oldest first.
    untrimmed: VecDeque<Manifest>,
    /// Sealed segments that the source's table may lack, oldest first; none where there is no table.
    unpublished: Vec<Manifest>,
    /// The table, once it has been looked at.
    table: Option<Delta>,
    /// The first record that no segment holds yet, and when it was met here.
    open_since: Option<(i64, SystemTime)>,
}

/// What the log holds beyond the last manifest, as the last pass left it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Open {
    /// Bytes of the records that no segment holds yet.
    pub bytes: usize,
    /// When they are to be rolled; `None` where there are none.
    pub due: Option<Due>,
}

/// When an open segment is to be rolled because of its age.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    small: SystemTime,
    grown: SystemTime,
}

impl Due {
    /// The time, where the segment's records have so many bytes.
    pub fn at(&self, bytes: usize) -> SystemTime {
        if bytes < SMALL { self.small } else { self.grown }
    }
}

/// What one pass did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rolled {
    /// The manifests written, in order.
    pub sealed: Vec<Sealed>,
    /// What is left for a later pass.
    pub open: Open,
}

/// Which records a pass leaves for later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Those that fill no segment and are not old enough.
    Due,
    /// None.
    Everything,
}

/// Makes sure, before anything is captured, that the log goes on behind what the archive holds; `last` is its
/// [`Archive::last_manifest`]. A log that was restored
/// from a backup would give out seqs a second time, and nobody could tell the two apart later.
pub async fn check_continues(stream: &StreamId, log: &AuditLog, last: &Sealed) -> Result<()> {
    if last.manifest.log != log.identity().await? {
        return Err(of_another_log(stream, last.manifest.first_seq));
    }
    if last.manifest.stream() != *stream {
        return Ok(());
    }
    let next_seq = log.checkpoint(stream).await?.map_or(1, |checkpoint| checkpoint.next_seq);
    if next_seq < last.manifest.end_seq {
        return Err(ahead(stream, last.manifest.end_seq, next_seq));
    }
    Ok(())
}

impl Roller {
    /// Reads where the stream's chain stands. `server` is MongoDB's version, for the manifests.
    pub async fn open(
        stream: &StreamId,
        log: AuditLog,
        archive: Archive,
        config: ArchiveConfig,
        server: String,
        building: Arc<Semaphore>,
    ) -> Result<Self> {
        let identity = log.identity().await?;
        let sealed = archive.manifests(stream).await?;
        if let Some(other) = sealed.iter().find(|s| s.manifest.log != identity) {
            return Err(of_another_log(stream, other.manifest.first_seq));
        }
        let first_hot = log.first_seq(stream).await?;
        let last = sealed.last().cloned();
        let held = |m: &Manifest| first_hot.is_some_and(|first| m.end_seq > first);
        let sealed: Vec<Manifest> = sealed.into_iter().map(|s| s.manifest).collect();
        let untrimmed = sealed.iter().filter(|m| held(m)).cloned().collect();
        let roller = Roller {
            stream: stream.clone(),
            identity,
            log,
            archive,
            server,
            building,
            last,
            untrimmed,
            unpublished: if config.table_format == TableFormat::Delta { sealed } else { Vec::new() },
            table: None,
            open_since: None,
            config,
        };
        roller.check_overlap().await?;
        Ok(roller)
    }

    /// Makes sure that what the log still holds of the newest sealed segment is what was sealed: behind a log that gave out
    /// seqs anew, after it was restored from a backup, nothing may be rolled or trimmed.
    async fn check_overlap(&self) -> Result<()> {
        let Some(newest) = self.untrimmed.back() else { return Ok(()) };
        let held = |first: Option<i64>| first.is_some_and(|first| first <= newest.first_seq);
        if !held(self.log.first_seq(&self.stream).await?)
            || self.root(newest.first_seq..newest.end_seq).await? == newest.merkle_root
            // Trimmed while it was read.
            || !held(self.log.first_seq(&self.stream).await?)
        {
            return Ok(());
        }
        Err(of_another_log(&self.stream, newest.first_seq))
    }

    /// The Merkle root of the log's records in this range, in hex.
    async fn root(&self, range: Range<i64>) -> Result<String> {
        let mut leaves = merkle::Tree::default();
        let mut records = std::pin::pin!(self.log.records(&self.stream, range).await?);
        while let Some(record) = records.try_next().await? {
            leaves.push(Record::new(&record)?.leaf());
        }
        Ok(hex(&leaves.root()))
    }

    /// One after the last record that is sealed in the archive; 1 where none is.
    pub fn end_seq(&self) -> i64 {
        self.next_seq()
    }

    fn next_seq(&self) -> i64 {
        self.last.as_ref().map_or(1, |sealed| sealed.manifest.end_seq)
    }

    /// Rolls what is there: full segments, days that are over, and what is old enough, or everything.
    pub async fn roll(&mut self, extent: Extent) -> Result<Rolled> {
        let one_at_a_time = Arc::clone(&self.building);
        let _building =
            one_at_a_time.acquire().await.map_err(|e| Error::internal("rolling has ended").because(e))?;
        let mut rolled = Rolled::default();
        let Some(checkpoint) = self.log.checkpoint(&self.stream).await? else { return Ok(rolled) };
        if checkpoint.next_seq < self.next_seq() {
            return Err(ahead(&self.stream, self.next_seq(), checkpoint.next_seq));
        }
        while self.next_seq() < checkpoint.next_seq {
            match self.roll_next(extent, checkpoint.next_seq).await {
                Ok(Next::Sealed(sealed)) => rolled.sealed.push(*sealed),
                Ok(Next::NotDue(open)) => {
                    rolled.open = open;
                    break;
                }
                Err(error) if error.kind() == Kind::Corrupt && self.is_overtaken().await? => {
                    warn!(source = %self.stream, end_seq = self.next_seq(), "another writer has rolled and trimmed this; going on behind it");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(rolled)
    }

    /// Rolls the next segment of the records before `end`, if it is due.
    async fn roll_next(&mut self, extent: Extent, end: i64) -> Result<Next> {
        let cut = self.cut(end).await?;
        let (due, bytes) = (self.due(cut.happened), cut.builder.bson_bytes());
        if !cut.complete && extent == Extent::Due && due.at(bytes) > SystemTime::now() {
            return Ok(Next::NotDue(Open { bytes, due: Some(due) }));
        }
        self.commit(cut.builder).await.map(|sealed| Next::Sealed(Box::new(sealed)))
    }

    /// Whether records are missing in the log because another writer has sealed them meanwhile, and trimmed them too. Then goes on
    /// behind the last that is sealed.
    async fn is_overtaken(&mut self) -> Result<bool> {
        let here = self.next_seq();
        if self.log.first_seq(&self.stream).await?.is_some_and(|first| first <= here) {
            return Ok(false);
        }
        let mut sealed = self.archive.manifests(&self.stream).await?;
        sealed.retain(|sealed| sealed.manifest.end_seq > here);
        let Some(last) = sealed.last().cloned() else { return Ok(false) };
        if last.manifest.log != self.identity {
            return Err(of_another_log(&self.stream, last.manifest.first_seq));
        }
        let sealed = sealed.into_iter().map(|sealed| sealed.manifest);
        self.untrimmed.extend(sealed.clone());
        if self.config.table_format == TableFormat::Delta {
            self.unpublished.extend(sealed);
        }
        self.last = Some(last);
        self.check_overlap().await?;
        Ok(true)
    }

    /// When the records that no segment holds yet are to be rolled, from the first one alone; `None` where there are none.
    pub async fn due_time(&mut self) -> Result<Option<Due>> {
        let first = self.next_seq();
        let mut records = std::pin::pin!(self.log.records(&self.stream, first..first + 1).await?);
        let Some(record) = records.try_next().await? else { return Ok(None) };
        let happened = Duration::from_secs(u64::from(Record::new(&record)?.cluster_time()?.time));
        Ok(Some(self.due(SystemTime::UNIX_EPOCH + happened)))
    }

    /// The next segment's records.
    async fn cut(&self, end: i64) -> Result<Cut> {
        let first = self.next_seq();
        let mut cut = Cut {
            builder: SegmentBuilder::new(&self.stream),
            happened: SystemTime::UNIX_EPOCH,
            complete: false,
        };
        let mut records = std::pin::pin!(self.log.records(&self.stream, first..end).await?);
        while let Some(record) = records.try_next().await? {
            let view = Record::new(&record)?;
            let expected = first + cut.builder.rows() as i64;
            if view.seq()? != expected {
                return Err(missing(&self.stream, expected));
            }
            let time = view.cluster_time()?.time;
            match cut.builder.day() {
                None => cut.happened += Duration::from_secs(u64::from(time)),
                Some(day) if day != Day::of_seconds(time) => return Ok(Cut { complete: true, ..cut }),
                Some(_) => {}
            }
            cut.builder.push(&record)?;
            if cut.builder.bson_bytes() >= self.config.segment_max_bytes
                || cut.builder.rows() >= SEGMENT_MAX_ROWS
            {
                return Ok(Cut { complete: true, ..cut });
            }
        }
        match first + cut.builder.rows() as i64 {
            at if at < end => Err(missing(&self.stream, at)),
            _ => Ok(cut),
        }
    }

    /// When an open segment is to be rolled: `segment_max_age` after its first record happened, or after the last segment
    /// was written, whichever is later. So catching up with an old backlog does not cut a segment at every pass.
    fn due(&mut self, happened: SystemTime) -> Due {
        let first = self.next_seq();
        let met = match self.open_since {
            Some((seq, met)) if seq == first => met,
            _ => self.open_since.insert((first, SystemTime::now())).1,
        };
        let written = self.last.as_ref().and_then(|sealed| created_at(&sealed.manifest));
        due(self.config.segment_max_age, happened, met, written)
    }

    async fn commit(&mut self, builder: SegmentBuilder) -> Result<Sealed> {
        let built = tokio::task::spawn_blocking(move || builder.finish()).await;
        let segment = built.map_err(|e| Error::internal("building a segment panicked").because(e))??;
        fail_point!("segment:built");
        let stored = match self.archive.commit(&segment).await? {
            Commit::Done => segment,
            Commit::Adopted(other) => {
                warn!(source = %self.stream, key = %other.key, "another writer has committed this segment; going on behind it");
                self.compare(&other.summary).await?;
                *other
            }
        };
        // Read behind the manifest before, whoever wrote that: so the counters in the chain never fall.
        let checkpoint = self.log.checkpoint(&self.stream).await?;
        let checkpoint = checkpoint.ok_or_else(|| missing(&self.stream, self.next_seq()))?;
        let manifest = Manifest::new(
            &stored,
            Context {
                log: &self.identity,
                counters: Some(checkpoint.counters.clone()),
                policy_digest: &checkpoint.policy_digest,
                server: &self.server,
                created: jiff::Timestamp::now().to_string(),
                previous: self.last.as_ref(),
            },
        );
        fail_point!("segment:committed");
        // Crash here: the segment is committed and has no manifest. The next pass builds it again, finds it, and seals it.
        let sealed = self.archive.seal(&manifest).await?;
        fail_point!("segment:sealed");
        self.log.note_sealed(&self.stream, sealed.manifest.end_seq, &hex(&sealed.sha256)).await?;
        info!(
            source = %self.stream,
            first_seq = sealed.manifest.first_seq,
            end_seq = sealed.manifest.end_seq,
            bytes = sealed.manifest.size,
            "segment sealed"
        );
        self.untrimmed.push_back(sealed.manifest.clone());
        if self.config.table_format == TableFormat::Delta {
            self.unpublished.push(sealed.manifest.clone());
        }
        self.last = Some(sealed.clone());
        Ok(sealed)
    }

    /// Makes sure that a segment which another writer committed holds exactly the log's records.
    async fn compare(&self, other: &Summary) -> Result<()> {
        match self.root(other.first_seq..other.end_seq).await? == hex(&other.merkle_root) {
            true => Ok(()),
            false => Err(of_another_log(&self.stream, other.first_seq)),
        }
    }

    /// Puts what is sealed into the source's table, where the configuration wants one. The table is derived: a fault here says
    /// nothing about segments and manifests, and the next call goes on.
    pub async fn publish(&mut self) -> Result<()> {
        if self.unpublished.is_empty() {
            return Ok(());
        }
        // Taken out meanwhile: after a fault what is there is looked at anew.
        let mut table = match self.table.take() {
            Some(table) => table,
            None => {
                let listed = self.archive.chain_of(&self.stream).await?;
                let expired: BTreeSet<i64> =
                    listed.iter().filter(|listed| listed.expired).map(|listed| listed.first_seq).collect();
                self.unpublished.retain(|manifest| !expired.contains(&manifest.first_seq));
                Delta::open(&self.archive, &self.stream, &self.identity).await?
            }
        };
        table.publish(&self.unpublished).await?;
        self.unpublished.clear();
        self.table = Some(table);
        Ok(())
    }

    /// Deletes from the log what has been sealed for at least `hot_retention`. Where the store can't be asked about a segment, what
    /// lies before that one is deleted all the same.
    pub async fn trim(&mut self) -> Result<u64> {
        let mut checked = Ok(());
        let (mut end, mut segments) = (None, 0);
        for manifest in &self.untrimmed {
            let sealed_for = created_at(manifest).and_then(|at| SystemTime::now().duration_since(at).ok());
            if sealed_for.is_none_or(|age| age < self.config.hot_retention) {
                break;
            }
            // It was read back when it was sealed. That it is still there is asked once more: after this there is no other copy.
            match self.archive.check_present(manifest).await {
                Ok(()) => {}
                Err(error) if error.kind() == Kind::Unavailable => {
                    checked = Err(error);
                    break;
                }
                Err(error) => return Err(error),
            }
            fail_point!("trim:begun");
            (end, segments) = (Some(manifest.end_seq), segments + 1);
        }
        let mut deleted = 0;
        if let Some(end) = end {
            deleted = self.log.trim(&self.stream, end).await?;
            self.untrimmed.drain(..segments);
            debug!(source = %self.stream, end, deleted, "trimmed the log");
        }
        checked.map(|()| deleted)
    }
}

/// When a segment is due whose first record happened and was met here at these times; the one before it was written at `written`.
fn due(max_age: Option<Duration>, happened: SystemTime, met: SystemTime, written: Option<SystemTime>) -> Due {
    // The watched cluster's clock may be ahead of this machine's: then by so much the segment would be late.
    let begun = happened.min(met);
    let begun = written.map_or(begun, |written| begun.max(written));
    let grown = begun + max_age.unwrap_or(USUAL_AGE);
    let seconds = happened.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let day_ends = SystemTime::UNIX_EPOCH + Duration::from_secs((seconds / DAY_SECONDS + 1) * DAY_SECONDS);
    let small = if max_age.is_some() { grown } else { grown.max(day_ends) };
    Due { small, grown }
}

/// What became of the next segment.
enum Next {
    Sealed(Box<Sealed>),
    NotDue(Open),
}

/// The records of the next segment.
struct Cut {
    builder: SegmentBuilder,
    /// When the first of them happened.
    happened: SystemTime,
    /// Whether it is full, or the record after it is of another day.
    complete: bool,
}

fn created_at(manifest: &Manifest) -> Option<SystemTime> {
    manifest.created.parse::<jiff::Timestamp>().ok().map(SystemTime::from)
}

fn ahead(stream: &StreamId, archive_end: i64, next_seq: i64) -> Error {
    Error::corrupt(format!(
        "the archive is ahead of the checkpoint source={stream} archive_end={archive_end} next_seq={next_seq}"
    ))
    .hint("the audit database was restored from a backup or belongs to another archive: do not go on before this is understood")
}

fn of_another_log(stream: &StreamId, seq: i64) -> Error {
    Error::corrupt(format!("the archive holds segments that are not of this audit log source={stream} seq={seq}"))
        .hint("another audit database is rolled into the same location, or the audit database was made anew; give each its own location")
}

fn missing(stream: &StreamId, seq: i64) -> Error {
    Error::corrupt(format!("the audit log lacks a record that it must hold source={stream} seq={seq}"))
        .hint("something deleted from the audit collection; the archive goes on only when this is understood")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600;
    /// Noon of some day.
    const NOON: u64 = 20_000 * DAY_SECONDS + 12 * HOUR;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn a_small_segment_waits_for_the_end_of_its_day_and_a_grown_one_does_not() {
        let due = due(None, at(NOON), at(NOON + 1), None);
        assert_eq!(due.at(SMALL), at(NOON + HOUR));
        assert_eq!(due.at(SMALL - 1), at(NOON + 12 * HOUR));
    }

    #[test]
    fn what_is_late_does_not_wait_for_the_end_of_a_day_that_is_over() {
        let met = at(NOON + 48 * HOUR);
        // A record of the day before yesterday, and a segment that was written just now.
        assert_eq!(due(None, at(NOON), met, Some(met)).at(0), met + Duration::from_secs(HOUR));
    }

    #[test]
    fn an_age_that_is_asked_for_is_kept_whatever_the_size() {
        let due = due(Some(Duration::from_secs(60)), at(NOON), at(NOON), None);
        assert_eq!((due.at(0), due.at(SMALL)), (at(NOON + 60), at(NOON + 60)));
    }

    #[test]
    fn a_watched_clock_that_is_ahead_delays_no_grown_segment() {
        assert_eq!(due(None, at(NOON + 7 * HOUR), at(NOON), None).at(SMALL), at(NOON + HOUR));
    }
}
