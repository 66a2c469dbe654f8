//! Lets what is older than `[archive] retention` expire: whole segments of a stream, oldest first, each with a tombstone that is
//! written before the segment is deleted, and none under a legal hold.
//!
//! The order is: claim, tombstone, out of the source's table, deletion, claim given back. A crash behind the tombstone leaves a segment that is deleted by
//! the next pass; there is no order in which a segment is deleted and has no tombstone. The manifests stay, so the chain does.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use tracing::{info, warn};

use super::delta::Delta;
use super::manifest::{ClusterTime, Manifest, Sealed};
use super::store::{Archive, Deletes};
use super::tombstone::{Buried, DeletedBy, Expiry, Tombstone};
use crate::audit_log::{AuditLog, Claim, Expiring};
use crate::config::ArchiveConfig;
use crate::config::units::show_duration;
use crate::error::{Error, Result};
use crate::fail_point::fail_point;
use crate::stream_id::StreamId;

/// Segments that expire in one pass at most.
const MOST_A_PASS: usize = 100;
/// Tombstones that one record in the audit log names at most.
const MOST_A_RECORD: usize = 100;

/// What of one stream may be kept no longer.
#[derive(Debug, Clone)]
pub struct Retention {
    /// Which stream.
    pub stream: StreamId,
    /// Where its hot tier and the legal holds are.
    pub log: AuditLog,
    /// Where its segments are.
    pub archive: Archive,
    /// How long they are kept.
    pub config: ArchiveConfig,
    /// This process, as tombstones name it.
    pub by: String,
}

/// What one pass did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Expired {
    /// Segments that have expired.
    pub segments: usize,
    /// The hold that keeps the next one, which is old enough.
    pub held: Option<i64>,
    /// Whether there was more than fits a pass.
    pub more: bool,
}

/// What has expired of a stream behind a seq, for the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    /// The first seq that has expired.
    pub first_seq: i64,
    /// One after the last one.
    pub end_seq: i64,
    /// How many records that is.
    pub rows: u64,
    /// The highest cluster time in them and all before.
    pub removed_until: ClusterTime,
    /// The policy of the last one.
    pub policy: String,
    /// Who deletes them.
    pub deleted_by: DeletedBy,
    /// The SHA-256 of each tombstone, in hex, oldest first.
    pub tombstones: Vec<String>,
}

/// What became of a segment that is old enough.
enum Outcome {
    Expired(Box<Buried>),
    Held(i64),
    NotYet,
}

impl Retention {
    /// Who deletes here. Fails as invalid where the store does not say what it does with what is deleted.
    async fn deletes(&self) -> Result<Deletes> {
        if self.config.object_lock {
            return Ok(Deletes::Store);
        }
        Ok(self.archive.lock().await?.deletes())
    }

    /// Lets expire what is old enough, as far as nothing keeps it. To be called under the stream's lease.
    ///
    /// Nothing that the hot tier still holds expires, and nothing behind a segment that is kept: what remains has no hole.
    pub async fn expire(&self) -> Result<Expired> {
        let mut expired = Expired::default();
        let Some(retention) = self.config.retention else { return Ok(expired) };
        let Some(checkpoint) = self.log.checkpoint(&self.stream).await? else { return Ok(expired) };
        let deletes = self.deletes().await?;
        let present: BTreeSet<i64> = match deletes {
            Deletes::Store => BTreeSet::new(),
            Deletes::Archiver => self.present().await?,
        };
        let hot = self.log.first_seq(&self.stream).await?;
        // By this machine's clock and by the watched deployment's: one that is wrong deletes nothing.
        let now = seconds_now().min(u64::from(checkpoint.position.cluster_time.time));
        let log = self.log.identity().await?;
        let mut table = Delta::open_existing(&self.archive, &self.stream, &log).await?;
        let (mut removed_before, mut left) = (None, Vec::new());
        for listed in self.archive.chain_of(&self.stream).await? {
            let is_gone = deletes == Deletes::Store || !present.contains(&listed.first_seq);
            if listed.expired && is_gone {
                removed_before = Some(listed.first_seq);
                if table.as_ref().is_some_and(|table| table.may_list(listed.first_seq)) {
                    // A crash came between its tombstone and this.
                    left.push(self.archive.sealed_at(&listed).await?.manifest);
                }
                continue;
            }
            let sealed = self.archive.sealed_at(&listed).await?;
            let trimmed = hot.is_none_or(|first| first >= sealed.manifest.end_seq);
            if !is_due(&sealed.manifest, retention, now) || !trimmed {
                break;
            }
            if expired.segments == MOST_A_PASS {
                expired.more = true;
                break;
            }
            if let Some(table) = &mut table {
                table.remove(&std::mem::take(&mut left)).await?;
            }
            match self.expire_one(&sealed, removed_before, table.as_mut(), retention, deletes).await? {
                Outcome::NotYet => break,
                Outcome::Held(hold) => {
                    info!(source = %self.stream, hold, segment = %sealed.manifest.segment, "a legal hold keeps what would have expired");
                    expired.held = Some(hold);
                    break;
                }
                Outcome::Expired(buried) => {
                    let Tombstone { segment, policy, rows, .. } = &buried.tombstone;
                    warn!(source = %self.stream, segment, policy, rows, deleted = deletes == Deletes::Archiver, "a segment has expired");
                    expired.segments += 1;
                    removed_before = Some(sealed.manifest.first_seq);
                }
            }
        }
        if let Some(table) = &mut table {
            table.remove(&left).await?;
        }
        Ok(expired)
    }

    /// The first seqs of the stream's segments that are there.
    async fn present(&self) -> Result<BTreeSet<i64>> {
        let segments = self.archive.segments(&self.stream.source).await?;
        let own = segments.into_iter().filter(|listed| listed.stream == self.stream);
        Ok(own.map(|listed| listed.first_seq).collect())
    }

    async fn expire_one(
        &self,
        sealed: &Sealed,
        removed_before: Option<i64>,
        table: Option<&mut Delta>,
        retention: Duration,
        deletes: Deletes,
    ) -> Result<Outcome> {
        let manifest = &sealed.manifest;
        let removed_before = match removed_before {
            None => None,
            Some(seq) => {
                self.archive.tombstone(&self.stream, seq).await?.map(|buried| buried.tombstone.removed_until)
            }
        };
        // Everything that takes long before the claim.
        let kept = self.archive.kept_of(manifest).await?;
        let expiring = Expiring {
            stream: &self.stream,
            first_seq: manifest.first_seq,
            first: manifest.first_cluster_time.t,
            last: manifest.last_cluster_time.t,
        };
        let claim = match self.log.claim(expiring).await? {
            Ok(claim) => claim,
            Err(hold) => return Ok(Outcome::Held(hold.id)),
        };
        // And by the audit server's clock.
        if !is_due(manifest, retention, u64::try_from(claim.at.as_second()).unwrap_or(0)) {
            claim.give_back().await?;
            return Ok(Outcome::NotYet);
        }
        let tombstone = Tombstone::new(
            sealed,
            Expiry {
                removed_before,
                policy: &format!("retention = \"{}\"", show_duration(retention)),
                retention_seconds: retention.as_secs(),
                deleted_by: match deletes {
                    Deletes::Archiver => DeletedBy::Archiver,
                    Deletes::Store => DeletedBy::Store,
                },
                by: &self.by,
                at: claim.at,
                kept: &kept,
            },
        );
        let buried = within(&claim, self.archive.bury(&tombstone, sealed)).await?;
        fail_point!("expire:buried");
        // Whoever reads the table asks for what it lists: a segment leaves it before it is gone.
        if let Some(table) = table {
            within(&claim, table.remove(std::slice::from_ref(manifest))).await?;
        }
        if deletes == Deletes::Archiver {
            within(&claim, self.archive.delete_segment(manifest)).await?;
            fail_point!("expire:deleted");
        }
        // Not so after an error: a deletion may still be on its way, and holds wait until the claim is over.
        claim.give_back().await?;
        Ok(Outcome::Expired(Box::new(buried)))
    }

    /// What has expired from this seq on and is gone, or left to the store; `None` where nothing is.
    pub async fn removed_since(&self, first_seq: i64) -> Result<Option<Removal>> {
        let chain = self.archive.chain_of(&self.stream).await?;
        let expired: Vec<_> =
            chain.into_iter().take_while(|l| l.expired).filter(|l| l.first_seq >= first_seq).collect();
        if expired.is_empty() {
            return Ok(None);
        }
        let present = self.present().await?;
        let mut removal: Option<Removal> = None;
        for listed in expired.iter().take(MOST_A_RECORD) {
            let Some(Buried { tombstone, sha256 }) =
                self.archive.tombstone(&self.stream, listed.first_seq).await?
            else {
                break;
            };
            let pending = present.contains(&listed.first_seq) && tombstone.deleted_by == DeletedBy::Archiver;
            let expected = removal.as_ref().map_or(first_seq, |removal| removal.end_seq);
            if pending || tombstone.first_seq != expected {
                break;
            }
            let before = removal.take();
            let mut tombstones = before.as_ref().map(|r| r.tombstones.clone()).unwrap_or_default();
            tombstones.push(sha256);
            removal = Some(Removal {
                first_seq,
                end_seq: tombstone.end_seq,
                rows: tombstone.rows + before.map_or(0, |before| before.rows),
                removed_until: tombstone.removed_until,
                policy: tombstone.policy,
                deleted_by: tombstone.deleted_by,
                tombstones,
            });
        }
        Ok(removal)
    }
}

/// Whether all records of a segment are older than this, at a time in seconds.
fn is_due(manifest: &Manifest, retention: Duration, now: u64) -> bool {
    u64::from(manifest.last_cluster_time.t).saturating_add(retention.as_secs()) <= now
}

fn seconds_now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.as_secs())
}

/// Does it as long as the claim allows it.
async fn within<T>(claim: &Claim, work: impl Future<Output = Result<T>>) -> Result<T> {
    match tokio::time::timeout(claim.time_left(), work).await {
        Ok(done) => done,
        Err(_) => Err(Error::unavailable("the store took too long for a deletion")
            .hint("nothing is lost: the next pass goes on from here")),
    }
}
