//! What is added to and taken from an archive when records expire: tombstones, segments, and copies of legal holds.

use bson::Timestamp;
use bytes::Bytes;
use object_store::{Error as StoreError, ObjectStoreExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Archive, Doing, Key, ListedManifest, Sealed, Stored, paths};
use crate::archive::manifest::{ClusterTime, Manifest, with_digest, without_digest};
use crate::archive::tombstone::{Buried, KEPT, Tombstone, is_kept};
use crate::error::{Error, Result};
use crate::hold::{Held, Hold, Release};
use crate::record::{Record, hex};
use crate::stream_id::StreamId;

/// Quarantine records of a segment at most that its tombstone keeps: with more, a plugin had failed on everything.
const MOST_QUARANTINED: u64 = 10_000;

impl Archive {
    /// The manifests of a stream as they are listed, in seq order.
    pub async fn chain_of(&self, stream: &StreamId) -> Result<Vec<ListedManifest>> {
        let mut listed = self.manifests_listed(&stream.source).await?;
        listed.retain(|listed| listed.stream == *stream);
        Ok(listed)
    }

    /// A manifest that was listed.
    pub async fn sealed_at(&self, listed: &ListedManifest) -> Result<Sealed> {
        self.read_manifest(listed).await
    }

    /// The tombstone beside a manifest; `None` where its segment has not expired.
    pub async fn tombstone(&self, stream: &StreamId, first_seq: i64) -> Result<Option<Buried>> {
        let key = paths::tombstone_key(stream, first_seq);
        self.get(&key).await?.map(|json| Buried::from_json(&json)).transpose()
    }

    /// The records that stay when this segment expires.
    pub async fn kept_of(&self, manifest: &Manifest) -> Result<Vec<Vec<u8>>> {
        let few = manifest.ops.get("quarantine").is_none_or(|n| *n <= MOST_QUARANTINED);
        let kept: Vec<&str> = KEPT.into_iter().filter(|op| few || *op != "quarantine").collect();
        let mut records = self.find_ops(manifest, &kept, Timestamp { time: 0, increment: 0 }).await?;
        records.retain(|record| Record::new(record).is_ok_and(|record| is_kept(&record)));
        Ok(records)
    }

    /// Until when everything of a source has expired: the highest cluster time that any of its streams lacks; `None` where nothing
    /// has.
    pub async fn removed_until(&self, source: &str) -> Result<Option<Timestamp>> {
        let mut until: Option<Timestamp> = None;
        let listed = self.manifests_listed(source).await?;
        let last_of_stream = |n: &usize| {
            listed.get(n + 1).is_none_or(|next| !next.expired || next.stream != listed[*n].stream)
        };
        for n in (0..listed.len()).filter(|n| listed[*n].expired).filter(last_of_stream) {
            if let Some(Buried { tombstone, .. }) =
                self.tombstone(&listed[n].stream, listed[n].first_seq).await?
            {
                let ClusterTime { t, i } = tombstone.removed_until;
                until = until.max(Some(Timestamp { time: t, increment: i }));
            }
        }
        Ok(until)
    }

    /// As [`Archive::find_document`], of a segment that may have expired, also meanwhile: then there is nothing.
    pub async fn document_in(&self, sealed: &Sealed, doc_id: &str) -> Result<Vec<Vec<u8>>> {
        if sealed.expired {
            return Ok(Vec::new());
        }
        match self.find_document(&sealed.manifest, doc_id).await {
            Err(error) if self.is_expired_by_now(&error, &sealed.manifest).await? => Ok(Vec::new()),
            found => found,
        }
    }

    /// As [`Archive::find_ops`], of a segment that may have expired, also meanwhile: then what its tombstone keeps.
    pub async fn ops_in(&self, sealed: &Sealed, ops: &[&str], from: Timestamp) -> Result<Vec<Vec<u8>>> {
        let manifest = &sealed.manifest;
        if !sealed.expired {
            match self.find_ops(manifest, ops, from).await {
                Err(error) if self.is_expired_by_now(&error, manifest).await? => {}
                found => return found,
            }
        }
        let mut left = self.left_of(manifest).await?;
        left.retain(|record| {
            let record = Record::new(record);
            record.is_ok_and(|r| ops.contains(&r.op()) && r.cluster_time().is_ok_and(|time| time >= from))
        });
        Ok(left)
    }

    /// The file of a segment; `None` where it has expired, also meanwhile.
    pub async fn file_of(&self, sealed: &Sealed) -> Result<Option<Bytes>> {
        if sealed.expired {
            return Ok(None);
        }
        match self.read_sealed(&sealed.manifest).await {
            Err(error) if self.is_expired_by_now(&error, &sealed.manifest).await? => Ok(None),
            file => file.map(Some),
        }
    }

    async fn is_expired_by_now(&self, error: &Error, manifest: &Manifest) -> Result<bool> {
        let missing = error.kind() == crate::Kind::Corrupt;
        Ok(missing && self.tombstone(&manifest.stream(), manifest.first_seq).await?.is_some())
    }

    /// The records that stayed when this segment expired.
    pub async fn left_of(&self, manifest: &Manifest) -> Result<Vec<Vec<u8>>> {
        if !KEPT.iter().any(|op| manifest.ops.contains_key(*op)) {
            return Ok(Vec::new());
        }
        match self.tombstone(&manifest.stream(), manifest.first_seq).await? {
            Some(buried) => buried.tombstone.kept_records(),
            None => Err(Error::corrupt(format!("a listed tombstone is not there: key={}", manifest.segment))),
        }
    }

    /// Creates the tombstone of a manifest's segment. Returns the one that is stored: another process may have been first. Fails
    /// as corrupt where that one is not of this manifest.
    pub async fn bury(&self, tombstone: &Tombstone, sealed: &Sealed) -> Result<Buried> {
        let key = paths::tombstone_key(&tombstone.stream(), tombstone.first_seq);
        let json = Bytes::from(tombstone.to_json()?);
        let stored = match self.create(&key, json.clone()).await? {
            Stored::Same => json,
            Stored::Other(other) => other,
        };
        let buried = Buried::from_json(&stored)?;
        let keeps_other = buried.tombstone.kept != tombstone.kept;
        let keeps_other = keeps_other.then(|| "it does not keep what is to be kept".to_owned());
        match buried.tombstone.problem(&sealed.manifest, &hex(&sealed.sha256)).or(keeps_other) {
            None => Ok(buried),
            Some(problem) => Err(Error::corrupt(format!("a tombstone is not right: {problem}, key={key}"))
                .hint("nothing was deleted; archiver verify lists everything that is wrong")),
        }
    }

    /// Deletes the segment of an expired manifest, and makes sure that it is gone. Harmless when repeated.
    pub async fn delete_segment(&self, manifest: &Manifest) -> Result<()> {
        let key = &manifest.segment;
        match self.store.delete(&self.path(key)?).await {
            Ok(()) | Err(StoreError::NotFound { .. }) => {}
            Err(error) => return Err(self.failed(Doing::Delete, key, &error)),
        }
        match self.get(key).await? {
            None => Ok(()),
            Some(_) => {
                Err(Error::unavailable(format!("a segment that was deleted is still there: key={key}")))
            }
        }
    }

    /// Makes sure that every hold, and every release, has its copy here, for whoever verifies without the audit database. Fails
    /// as corrupt where there is another one under its name.
    pub async fn copy_holds(&self, holds: &[Held]) -> Result<()> {
        let there = self.list(&paths::holds_prefix()).await?;
        let is_there = |key: &String| there.iter().any(|(found, _)| found == key);
        for Held { hold, released } in holds {
            let key = paths::hold_key(hold.id);
            if !is_there(&key) {
                self.copy(&key, hold).await?;
            }
            if let Some(released) = released {
                let key = paths::hold_released_key(hold.id);
                if !is_there(&key) {
                    self.copy(&key, released).await?;
                }
            }
        }
        Ok(())
    }

    async fn copy<T: Serialize>(&self, key: &str, value: &T) -> Result<()> {
        match self.create(key, with_digest(value)?.into()).await? {
            Stored::Same => Ok(()),
            Stored::Other(_) => Err(Error::corrupt(format!("another legal hold is stored here: key={key}"))
                .hint("two audit databases may be rolled into one location; give each its own")),
        }
    }

    /// The copies of holds and releases, each with its key: for `verify`.
    pub async fn read_holds(&self) -> Result<(Vec<(String, Result<Hold>)>, Vec<(String, Result<Release>)>)> {
        let (mut holds, mut releases) = (Vec::new(), Vec::new());
        let mut keys: Vec<String> =
            self.list(&paths::holds_prefix()).await?.into_iter().map(|(key, _)| key).collect();
        keys.sort_unstable();
        for key in keys {
            match paths::parse(&key) {
                Some(Key::Hold(id)) => {
                    let hold: Result<Hold> = self.read_copy(&key).await?;
                    holds.push((key, hold.and_then(|hold| is_of(hold.id == id, hold))));
                }
                Some(Key::HoldReleased(id)) => {
                    let release: Result<Release> = self.read_copy(&key).await?;
                    releases.push((key, release.and_then(|release| is_of(release.id == id, release))));
                }
                _ => {}
            }
        }
        Ok((holds, releases))
    }

    /// Fails where the store does; what is wrong with the copy is inside.
    async fn read_copy<T: DeserializeOwned>(&self, key: &str) -> Result<Result<T>> {
        let unreadable = || Error::corrupt("a legal hold's copy does not read as one");
        Ok(match self.get(key).await? {
            None => Err(Error::corrupt("a listed object is not there")),
            Some(json) => without_digest(&json)
                .ok_or_else(|| Error::corrupt("a legal hold's copy is not what its own digest says"))
                .and_then(|json| serde_json::from_slice(&json).map_err(|e| unreadable().because(e))),
        })
    }
}

fn is_of<T>(same: bool, value: T) -> Result<T> {
    match same {
        true => Ok(value),
        false => Err(Error::corrupt("its name says another hold than its contents")),
    }
}
