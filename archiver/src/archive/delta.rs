//! The Delta table of a source, over its segments as they are: Spark, Trino, Athena and DuckDB's `delta_scan` read it.
//!
//! Each commit is one object that is created once, like a segment. All streams of a source write into one log: whoever
//! finds a version taken reads what took it, and goes on behind it. A stream's commits carry how far it has published,
//! as a Delta application transaction, in the order of its chain. So whoever has seen every version below the one that he
//! creates publishes each segment exactly once, whatever was interrupted, and whoever else does the same.
//!
//! The log is derived from the manifests. Nothing in Archiver reads segments through it.

mod actions;
mod statistics;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};

pub use self::actions::{Add, Commit, Position};
use super::manifest::Manifest;
use super::merkle::sha256;
use super::paths::{self, Key};
use super::store::{Archive, PARALLEL, Stored};
use crate::error::{Error, Kind, Result};
use crate::fail_point::fail_point;
use crate::record::hex;
use crate::stream_id::StreamId;

/// Segments in one commit at most: what a backlog is cut into.
const MAX_SEGMENTS: usize = 500;

/// One stream's view of its source's Delta log. After an error it is to be opened anew.
#[derive(Debug)]
pub struct Delta {
    archive: Archive,
    stream: StreamId,
    /// The version behind the newest one that has been seen.
    next_version: i64,
    position: Position,
}

impl Delta {
    /// Reads how far the stream's segments are published; makes the table where there is none. `log` names the audit log
    /// that the archive belongs to.
    ///
    /// Fails as invalid where somebody else's table is in its place, and as corrupt where versions are missing.
    pub async fn open(archive: &Archive, stream: &StreamId, log: &str) -> Result<Delta> {
        let versions = versions(archive, &stream.source).await?;
        if !versions.iter().copied().eq(0..versions.len() as i64) {
            let what = format!("versions are missing in the Delta log source={}", stream.source);
            return Err(Error::corrupt(what).hint(ANEW));
        }
        let table = table_id(log, &stream.source);
        let position = Position::BEGIN;
        let mut delta = Delta { archive: archive.clone(), stream: stream.clone(), next_version: 0, position };
        if versions.is_empty() {
            delta.create(actions::table(&table, &stream.source)?, position).await?;
        }
        if read(archive, &stream.source, 0).await?.table != Some(table) {
            let what = format!("the Delta table in the archive is another's source={}", stream.source);
            return Err(Error::invalid(what).hint(ANEW));
        }
        delta.next_version = delta.next_version.max(versions.len() as i64);
        delta.position = delta.last_position().await?;
        Ok(delta)
    }

    /// The log as it is, for a stream whose segments are about to be deleted; `None` where the source has no table, or one that
    /// is not gone on with: that one holds nothing up.
    pub async fn open_existing(archive: &Archive, stream: &StreamId, log: &str) -> Result<Option<Delta>> {
        if versions(archive, &stream.source).await?.is_empty() {
            return Ok(None);
        }
        match Delta::open(archive, stream, log).await {
            Ok(delta) => Ok(Some(delta)),
            Err(error) if matches!(error.kind(), Kind::Corrupt | Kind::Invalid) => {
                tracing::warn!(source = %stream, error = error.explain(), hint = error.hint_text(), "the table of this source lists segments that expire");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// What the newest commit of the stream says.
    async fn last_position(&self) -> Result<Position> {
        let newest_first = futures_util::stream::iter((1..self.next_version).rev());
        let read_one = |version| async move { read(&self.archive, &self.stream.source, version).await };
        let mut commits = newest_first.map(read_one).buffered(PARALLEL);
        while let Some(commit) = commits.try_next().await? {
            if let Some(position) = commit.position(&self.stream) {
                return Ok(position);
            }
        }
        Ok(Position::BEGIN)
    }

    /// Puts those of the stream's segments into the table that have not been there yet. The manifests are in the order of their
    /// chain, and leave none out from where the table ends, but those that have expired.
    pub async fn publish(&mut self, manifests: &[Manifest]) -> Result<()> {
        loop {
            let missing = manifests.iter().filter(|m| m.first_seq >= self.position.published);
            let missing: Vec<Manifest> = missing.take(MAX_SEGMENTS).cloned().collect();
            let (Some(first), Some(last)) = (missing.first(), missing.last()) else { return Ok(()) };
            let (first_seq, end_seq) = (first.first_seq, last.end_seq);
            let described = futures_util::stream::iter(missing).map(|manifest| async {
                let statistics = statistics::of(&*self.archive.footer(&manifest).await?);
                Ok::<_, Error>((manifest, statistics))
            });
            let described: Vec<_> = described.buffered(PARALLEL).try_collect().await?;
            let before = self.position.published;
            // Each turn passes a commit that somebody else has created meanwhile.
            while self.position.published == before {
                let mut next = Position { published: end_seq, ..self.position };
                if next.expired >= before {
                    next.expired = first_seq;
                }
                self.create(actions::add(&self.stream, next, &described)?, next).await?;
            }
            fail_point!("delta:published");
        }
    }

    /// Whether the table may list the stream's segment that begins with this seq.
    pub fn may_list(&self, first_seq: i64) -> bool {
        (self.position.expired..self.position.published).contains(&first_seq)
    }

    /// Takes segments that have expired out of the table, oldest first, before their objects are deleted: whoever reads the table
    /// from then on does not ask for them. Those that are not in it are passed over, and must not be published later.
    pub async fn remove(&mut self, manifests: &[Manifest]) -> Result<()> {
        // Each turn creates a commit, or passes one that somebody else has created meanwhile.
        loop {
            let listed = manifests.iter().filter(|m| self.may_list(m.first_seq));
            let listed: Vec<&Manifest> = listed.take(MAX_SEGMENTS).collect();
            let Some(expired) = listed.last().map(|newest| newest.end_seq) else { return Ok(()) };
            let next = Position { expired, ..self.position };
            self.create(actions::remove(&self.stream, next, &listed)?, next).await?;
        }
    }

    /// Creates the next version, or passes somebody else's, which may be of this stream too: then that one's position counts.
    async fn create(&mut self, commit: Bytes, next: Position) -> Result<()> {
        let key = paths::delta_commit_key(&self.stream.source, self.next_version);
        self.position = match self.archive.create(&key, commit).await? {
            Stored::Same => next,
            Stored::Other(theirs) => {
                Commit::parse(&key, &theirs)?.position(&self.stream).unwrap_or(self.position)
            }
        };
        self.next_version += 1;
        Ok(())
    }
}

/// What to do about a log that is not gone on with.
const ANEW: &str = "stop archiver, delete the folder _delta_log of this source, and start it again: it is made anew from the manifests";

/// The table's id: of one audit log and source always the same, so that it does not matter who makes the table.
fn table_id(log: &str, source: &str) -> String {
    let digest = hex(&sha256(format!("{log}/{source}").as_bytes()));
    let part = |range: std::ops::Range<usize>| digest.get(range).unwrap_or_default();
    [part(0..8), part(8..12), part(12..16), part(16..20), part(20..32)].join("-")
}

/// The versions in a source's log, sorted.
async fn versions(archive: &Archive, source: &str) -> Result<Vec<i64>> {
    let listed = archive.list(&paths::delta_log_prefix(source)).await?;
    let version = |(key, _): (String, u64)| match paths::parse(&key)? {
        Key::DeltaCommit { version, .. } => Some(version),
        _ => None,
    };
    let mut versions: Vec<i64> = listed.into_iter().filter_map(version).collect();
    versions.sort_unstable();
    Ok(versions)
}

/// One commit of a source's log.
pub async fn read(archive: &Archive, source: &str, version: i64) -> Result<Commit> {
    let key = paths::delta_commit_key(source, version);
    match archive.get(&key).await? {
        Some(json) => Commit::parse(&key, &json),
        None => Err(Error::corrupt(format!("a commit of a Delta log is missing: key={key}")).hint(ANEW)),
    }
}
