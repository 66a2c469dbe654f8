//! The archive in one object store location: listing, reading, and the commit protocol. Nothing in it is ever overwritten or
//! renamed, and nothing is deleted but segments that have expired, so that buckets under Object Lock work.

mod checksum;
mod credentials;
mod expired;
#[cfg(test)]
pub(super) mod faulty;
mod lock;
mod open;
mod profile;
mod refusal;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bson::Timestamp;
use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use object_store::path::Path;
use object_store::{Error as StoreError, ObjectStore, ObjectStoreExt as _, PutMode, PutPayload};
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;
use sha2::{Digest as _, Sha256};

use self::credentials::Access;
use self::refusal::{Doing, is_missing_container};
use super::day::Day;
use super::manifest::Manifest;
use super::merkle::sha256;
use super::paths::{self, Key};
use super::segment::{Search, Segment, damaged};
use crate::config::{ArchiveConfig, Secret};
use crate::error::{Error, Result};
use crate::fail_point::fail_point;
use crate::record::{Sha, hex};
use crate::stream_id::StreamId;

pub use super::manifest::Sealed;
pub use lock::{Deletes, Lock, LockMode};
pub use open::install_tls;

/// How often a create is tried before the archive counts as unavailable. Each try has object_store's own retries inside.
const TRIES: u32 = 4;
/// The pause after the first try, at most; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(if cfg!(test) { 1 } else { 250 });
/// What is read of an object at a time where it need not be in memory as a whole.
const PIECE: u64 = 8 << 20;
/// Manifests fetched at a time.
pub(super) const PARALLEL: usize = 16;

/// One segment in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its key, relative to the archive's root.
    pub key: String,
    /// The stream whose records it holds.
    pub stream: StreamId,
    /// The first record's seq.
    pub first_seq: i64,
    /// The UTC day of its records.
    pub day: Day,
    /// The file's size in bytes.
    pub size: u64,
}

/// One manifest in a listing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ListedManifest {
    /// In whose chain it is.
    pub stream: StreamId,
    /// The first seq of the segment it seals.
    pub first_seq: i64,
    /// Whether a tombstone lies beside it.
    pub expired: bool,
}

/// How a commit ended. In every case the archive durably holds a segment under the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Commit {
    /// Ours, created now or by an earlier try.
    Done,
    /// Somebody else's of the same first seq, perhaps cut elsewhere: compare its records with the log, and go on after its
    /// last seq.
    Adopted(Box<Segment>),
}

/// The archive of all sources in one object store location.
#[derive(Debug, Clone)]
pub struct Archive {
    store: Arc<dyn ObjectStore>,
    root: Path,
    location: Arc<str>,
    /// How the store says what it does with what is deleted.
    settings: lock::Settings,
    access: Option<Arc<Access>>,
}

impl Archive {
    /// Opens the configured location; creates the folder of a `file:` URL. Connects to nothing yet.
    pub fn open(config: &ArchiveConfig) -> Result<Archive> {
        open::open(&config.url, &config.options, true)
    }

    /// Opens a location that exists, without changing anything. Fails as not found where a `file:` URL's folder is missing.
    pub fn open_url(url: &str, options: &[(String, Secret)]) -> Result<Archive> {
        open::open(url, options, false)
    }

    /// An archive in any object store, under this prefix (empty: its root).
    pub fn new(store: Arc<dyn ObjectStore>, prefix: &str, location: &str) -> Result<Archive> {
        let root = Path::parse(prefix)
            .map_err(|e| Error::invalid("the archive's prefix is not usable").because(e))?;
        let settings = lock::Settings::Unseen;
        Ok(Archive { store, root, location: location.into(), settings, access: None })
    }

    /// Where it is, for people; holds no secret.
    pub fn location(&self) -> &str {
        &self.location
    }

    /// Which store it is and whose credentials are used, for people; `None` for a folder. Holds no secret.
    pub fn access(&self) -> Option<(&str, &str)> {
        self.access.as_ref().map(|access| (access.store.as_str(), access.credentials.as_str()))
    }

    /// The sources that have anything in the archive, sorted.
    pub async fn sources(&self) -> Result<Vec<String>> {
        let mut sources = Vec::new();
        for prefix in [String::new(), paths::all_manifests_prefix()] {
            let path = self.path(&prefix)?;
            let prefix = (!path.as_ref().is_empty()).then_some(&path);
            let listing = match self.store.list_with_delimiter(prefix).await {
                Ok(listing) => listing,
                Err(StoreError::NotFound { .. }) => continue,
                Err(error) => return Err(self.failed(Doing::List, "sources", &error)),
            };
            let folders = listing.common_prefixes.iter().filter_map(|folder| folder.filename());
            sources.extend(folders.filter_map(paths::source_of_folder).map(str::to_owned));
        }
        sources.sort_unstable();
        sources.dedup();
        Ok(sources)
    }

    /// The streams of a source that have manifests, sorted.
    pub async fn streams(&self, source: &str) -> Result<Vec<StreamId>> {
        let listed = self.manifests_listed(source).await?;
        let mut streams: Vec<_> = listed.into_iter().map(|listed| listed.stream).collect();
        streams.dedup();
        Ok(streams)
    }

    /// The manifests of a stream in seq order. Fails as corrupt where one is unreadable, or where they are not one chain from
    /// the first seq on.
    pub async fn manifests(&self, stream: &StreamId) -> Result<Vec<Sealed>> {
        chains(self.read_manifests(stream).await?)
    }

    /// The manifests of all streams of a source, stream by stream, each as [`Archive::manifests`] gives them.
    pub async fn manifests_of(&self, source: &str) -> Result<Vec<Sealed>> {
        let listed = self.manifests_listed(source).await?;
        chains(self.read_listed(listed).await?)
    }

    /// The manifests of a stream in seq order, each with its key and checked by itself, nothing checked between them: for
    /// `verify`.
    pub async fn read_manifests(&self, stream: &StreamId) -> Result<Vec<(String, Result<Sealed>)>> {
        let listed = self.manifests_listed(&stream.source).await?;
        self.read_listed(listed.into_iter().filter(|listed| listed.stream == *stream).collect()).await
    }

    async fn read_listed(&self, listed: Vec<ListedManifest>) -> Result<Vec<(String, Result<Sealed>)>> {
        let reads = futures_util::stream::iter(listed).map(|listed| async move {
            let sealed = match self.read_manifest(&listed).await {
                Err(error) if error.kind() == crate::Kind::Unavailable => return Err(error),
                sealed => sealed,
            };
            Ok((paths::manifest_key(&listed.stream, listed.first_seq), sealed))
        });
        reads.buffered(PARALLEL).try_collect().await
    }

    /// The newest manifest of a stream, or, where it has none yet, of another stream of its source: all of them are of one
    /// audit log. One listing, one read.
    pub async fn last_manifest(&self, stream: &StreamId) -> Result<Option<Sealed>> {
        let listed = self.manifests_listed(&stream.source).await?;
        match listed.iter().rfind(|listed| listed.stream == *stream).or(listed.last()) {
            Some(listed) => self.read_manifest(listed).await.map(Some),
            None => Ok(None),
        }
    }

    async fn read_manifest(&self, listed: &ListedManifest) -> Result<Sealed> {
        let ListedManifest { stream, first_seq, expired } = listed;
        let key = paths::manifest_key(stream, *first_seq);
        let Some(json) = self.get(&key).await? else {
            return Err(Error::corrupt(format!("a listed manifest is not there: key={key}")));
        };
        let sealed = Sealed::from_json(&json)?;
        if sealed.manifest.stream() != *stream || sealed.manifest.first_seq != *first_seq {
            return Err(Error::corrupt(format!("a manifest is another's: key={key}")));
        }
        Ok(Sealed { expired: *expired, ..sealed })
    }

    /// A source's manifests, sorted here: listings come in any order.
    async fn manifests_listed(&self, source: &str) -> Result<Vec<ListedManifest>> {
        let (mut listed, mut expired) = (Vec::new(), BTreeSet::new());
        for (key, _) in self.list(&paths::manifests_prefix(source)).await? {
            match paths::parse(&key) {
                Some(Key::Manifest { stream, first_seq }) if stream.source == source => {
                    listed.push(ListedManifest { stream, first_seq, expired: false });
                }
                Some(Key::Tombstone { stream, first_seq }) => {
                    expired.insert((stream, first_seq));
                }
                _ => {}
            }
        }
        for manifest in &mut listed {
            manifest.expired = expired.remove(&(manifest.stream.clone(), manifest.first_seq));
        }
        listed.sort_unstable();
        Ok(listed)
    }

    /// The segments of a source that the store lists, sealed or not, stream by stream in seq order.
    pub async fn segments(&self, source: &str) -> Result<Vec<Listed>> {
        let keys = self.list(&paths::segments_prefix(source)).await?;
        let mut segments: Vec<Listed> = keys
            .into_iter()
            .filter_map(|(key, size)| match paths::parse(&key)? {
                Key::Segment { stream, day, first_seq } => Some(Listed { key, stream, first_seq, day, size }),
                _ => None,
            })
            .collect();
        segments
            .sort_unstable_by(|a, b| (&a.stream, a.first_seq, &a.key).cmp(&(&b.stream, b.first_seq, &b.key)));
        Ok(segments)
    }

    /// Everything that is stored here, or in the folders of one source, sorted; keys relative to the root, with sizes: for `verify`,
    /// which must see what does not belong. Every segment in it that was sealed when it was listed has its manifest in it, but
    /// perhaps the newest of a stream: segments are listed before the manifests.
    pub async fn objects(&self, source: Option<&str>) -> Result<Vec<(String, u64)>> {
        let (all, manifests) = match source {
            Some(source) => (paths::segments_prefix(source), paths::manifests_prefix(source)),
            None => (String::new(), paths::all_manifests_prefix()),
        };
        let mut objects = self.list(&all).await?;
        objects.extend(self.list(&manifests).await?);
        objects.sort_unstable();
        objects.dedup_by(|a, b| a.0 == b.0);
        Ok(objects)
    }

    /// An object's size, and when the store says that it was written; `None` where there is none.
    pub async fn stat(&self, key: &str) -> Result<Option<(u64, SystemTime)>> {
        match self.store.head(&self.path(key)?).await {
            Ok(found) => Ok(Some((found.size, found.last_modified.into()))),
            Err(StoreError::NotFound { source, .. }) if !is_missing_container(&*source) => Ok(None),
            Err(error) => Err(self.failed(Doing::LookFor, key, &error)),
        }
    }

    /// The SHA-256 of an object of this size, read piece by piece; `None` where there is none.
    pub async fn digest(&self, key: &str, size: u64) -> Result<Option<Sha>> {
        let path = self.path(key)?;
        let (mut at, mut digest) = (0, Sha256::new());
        while at < size {
            let end = size.min(at + PIECE);
            match self.store.get_range(&path, at..end).await {
                Ok(piece) => digest.update(&piece),
                Err(StoreError::NotFound { .. }) => return Ok(None),
                Err(error) => return Err(self.failed(Doing::Read, key, &error)),
            }
            at = end;
        }
        Ok(Some(digest.finalize().into()))
    }

    /// A segment's file as it is stored; not found where there is none.
    pub async fn read_segment(&self, key: &str) -> Result<Bytes> {
        let file = self.get(key).await?;
        file.ok_or_else(|| Error::not_found(format!("the archive has no such segment: key={key}")))
    }

    /// The segment file that a manifest seals. Fails as corrupt where it is missing, or size or digest differ.
    pub async fn read_sealed(&self, manifest: &Manifest) -> Result<Bytes> {
        let key = &manifest.segment;
        let Some(file) = self.get(key).await? else {
            return Err(Error::corrupt(format!("a sealed segment is missing: key={key}")));
        };
        if file.len() as u64 != manifest.size || hex(&sha256(&file)) != manifest.sha256 {
            return Err(Error::corrupt(format!(
                "a segment is not the file that its manifest seals: key={key}"
            )));
        }
        Ok(file)
    }

    /// Makes sure that the segment a manifest seals is still there with its size, without reading it; fails as corrupt where it is
    /// not.
    pub async fn check_present(&self, manifest: &Manifest) -> Result<()> {
        let key = &manifest.segment;
        match self.store.head(&self.path(key)?).await {
            Ok(found) if found.size == manifest.size => Ok(()),
            Ok(found) => Err(Error::corrupt(format!(
                "a sealed segment has another size than its manifest says: key={key} size={} expected={}",
                found.size, manifest.size
            ))),
            Err(StoreError::NotFound { .. }) => {
                Err(Error::corrupt(format!("a sealed segment is missing: key={key}")))
            }
            Err(error) => Err(self.failed(Doing::LookFor, key, &error)),
        }
    }

    /// Creates the segment's object: the commit. When it returns, the store has given the very bytes back, and
    /// [`super::segment::SegmentBuilder::finish`] has proved that these bytes give every record back. May be called again after
    /// any error, by anybody.
    pub async fn commit(&self, segment: &Segment) -> Result<Commit> {
        match self.create(&segment.key, segment.file.clone()).await? {
            Stored::Same => Ok(Commit::Done),
            Stored::Other(file) => {
                let key = segment.key.clone();
                let adopted = tokio::task::spawn_blocking(move || Segment::from_file(&key, file)).await;
                let adopted = adopted
                    .map_err(|e| Error::internal("reading a segment was interrupted").because(e))??;
                Ok(Commit::Adopted(Box::new(adopted)))
            }
        }
    }

    /// Creates the manifest's object. One that is already there and seals the same segment at the same place of the chain is
    /// returned as it is stored; any other is corrupt.
    pub async fn seal(&self, manifest: &Manifest) -> Result<Sealed> {
        let key = paths::manifest_key(&manifest.stream(), manifest.first_seq);
        let json = manifest.to_json()?;
        let ours = Sealed::from_json(&json)?;
        match self.create(&key, json.into()).await? {
            Stored::Same => Ok(ours),
            Stored::Other(stored) => {
                match Sealed::from_json(&stored) {
                    Ok(theirs) if theirs.manifest.seals_the_same(manifest) => Ok(theirs),
                    Err(error) if error.kind() != crate::Kind::Corrupt => Err(error),
                    _ => {
                        let error = Error::corrupt(format!(
                            "another manifest is stored where this one belongs: key={key}"
                        ));
                        Err(error.hint("two archivers may be writing to one location; archiver verify shows what is there"))
                    }
                }
            }
        }
    }

    /// Creates an object that must not exist yet, in one conditional PUT, and reads it back. An error of a PUT says nothing about
    /// whether it happened (a retried success comes back as "already exists", S3's 409 too, a broken connection may hide a
    /// success), so what counts is what is there afterwards.
    pub(super) async fn create(&self, key: &str, bytes: Bytes) -> Result<Stored> {
        let path = self.path(key)?;
        let expected = sha256(&bytes);
        let mut pause = FIRST_PAUSE;
        for attempt in 1.. {
            let put =
                self.store.put_opts(&path, PutPayload::from(bytes.clone()), PutMode::Create.into()).await;
            fail_point!("object:put");
            // Read back before anybody trims anything: until here a crash leaves an object that the next start adopts.
            let failure = match (self.get(key).await, put) {
                (Ok(Some(stored)), _) if sha256(&stored) == expected => return Ok(Stored::Same),
                (Ok(Some(_)), Ok(_)) => {
                    let error =
                        Error::corrupt(format!("the store does not give back what it was given: key={key}"));
                    return Err(error.hint("do not trust this store; nothing was trimmed"));
                }
                (Ok(Some(stored)), Err(_)) => return Ok(Stored::Other(stored)),
                (Ok(None), Ok(_)) => {
                    Error::unavailable(format!("an object that was just created is not there: key={key}"))
                }
                (_, Err(error)) => self.failed(Doing::Create, key, &error),
                (Err(error), Ok(_)) => error,
            };
            if attempt == TRIES || failure.kind() != crate::Kind::Unavailable {
                return Err(failure);
            }
            tracing::warn!(
                key,
                attempt,
                error = failure.explain(),
                "creating an object failed; trying again"
            );
            let some_of_it = rand::random_range(0.5..=1.0);
            tokio::time::sleep(pause.mul_f64(some_of_it)).await;
            pause *= 2;
        }
        Err(Error::internal("unreachable"))
    }

    /// The records of one document in one sealed segment, in seq order, by range requests: one read of the file's tail says
    /// "not here". `doc_id` is [`super::extjson::doc_id_text`]; different values can share it.
    pub async fn find_document(&self, manifest: &Manifest, doc_id: &str) -> Result<Vec<Vec<u8>>> {
        let search = async { self.search(manifest).await?.document(doc_id).await };
        self.found(manifest, search).await
    }

    /// The records of these operations with a cluster time at or after `from` in one sealed segment, in seq order. Reads nothing
    /// where the manifest says that there are none.
    pub async fn find_ops(&self, manifest: &Manifest, ops: &[&str], from: Timestamp) -> Result<Vec<Vec<u8>>> {
        let last = manifest.last_cluster_time;
        if (last.t, last.i) < (from.time, from.increment)
            || !ops.iter().any(|op| manifest.ops.contains_key(*op))
        {
            return Ok(Vec::new());
        }
        let search = async { self.search(manifest).await?.ops(ops, from).await };
        self.found(manifest, search).await
    }

    /// The footer of a sealed segment, by one read of the file's tail.
    pub(super) async fn footer(&self, manifest: &Manifest) -> Result<Arc<ParquetMetaData>> {
        let footer = async { Ok(Ok(self.search(manifest).await?.metadata())) };
        self.found(manifest, footer).await
    }

    /// Waits for a search and says what went wrong with which segment. The file's digest is not known to be right here, and the
    /// Parquet reader panics on some damaged files.
    async fn found<T>(
        &self,
        manifest: &Manifest,
        search: impl Future<Output = Result<Result<T>, ParquetError>> + Send,
    ) -> Result<T> {
        match AssertUnwindSafe(search).catch_unwind().await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => Err(self.search_failed(&manifest.segment, error)),
            Err(_) => Err(damaged()),
        }
    }

    async fn search(&self, manifest: &Manifest) -> Result<Search, ParquetError> {
        let path = self.path(&manifest.segment).map_err(|e| ParquetError::External(Box::new(e)))?;
        Search::open(Arc::clone(&self.store), path, manifest).await
    }

    fn search_failed(&self, key: &str, error: ParquetError) -> Error {
        let error = match error {
            ParquetError::External(inner) => match inner.downcast::<StoreError>() {
                Ok(error) => match *error {
                    StoreError::NotFound { .. } => {
                        return Error::corrupt(format!("a sealed segment is missing: key={key}"));
                    }
                    error => return self.failed(Doing::Read, key, &error),
                },
                Err(inner) => ParquetError::External(inner),
            },
            other => other,
        };
        Error::corrupt(format!("a segment file does not read as Parquet: key={key}")).because(error)
    }

    /// Proves that the location can be listed, written and read, and that what exists can't be overwritten. Leaves a small object
    /// under `_checks/` where it may not delete it.
    pub async fn check_writable(&self) -> Result<()> {
        self.sources().await?;
        let key = paths::check_key(&format!("{:032x}", rand::random::<u128>()));
        let path = self.path(&key)?;
        let probe = Bytes::from_static(b"A write check of archiver. It can be deleted.\n");
        match self.create(&key, probe.clone()).await? {
            Stored::Same => {}
            Stored::Other(_) => {
                return Err(Error::internal("a write check met an object of its own random name"));
            }
        }
        let again = self.store.put_opts(&path, PutPayload::from(probe), PutMode::Create.into()).await;
        // Under Object Lock or without the right to delete it stays: it is tiny, and no reader looks there.
        let _ = self.store.delete(&path).await;
        match again {
            Err(StoreError::AlreadyExists { .. } | StoreError::Precondition { .. }) => Ok(()),
            // Azure's answer where one may create, and not write over what is there.
            Err(StoreError::PermissionDenied { .. }) => Ok(()),
            Err(error) => Err(self.failed(Doing::Create, &key, &error)),
            Ok(_) => {
                let error =
                    Error::invalid(format!("the store at {} overwrites objects that exist", self.location));
                Err(error.hint("it must support conditional creation (If-None-Match: *), or two writers could destroy history"))
            }
        }
    }

    /// The keys (relative to the root) and sizes below a prefix, in no order.
    pub(super) async fn list(&self, prefix: &str) -> Result<Vec<(String, u64)>> {
        let path = self.path(prefix)?;
        let root = self.root.as_ref();
        let mut listing = self.store.list(Some(&path));
        let mut found = Vec::new();
        loop {
            match listing.try_next().await {
                Ok(Some(object)) => {
                    let key = object.location.as_ref().strip_prefix(root).unwrap_or_default();
                    found.push((key.trim_start_matches('/').to_owned(), object.size));
                }
                Ok(None) => return Ok(found),
                Err(StoreError::NotFound { .. }) => return Ok(found),
                Err(error @ StoreError::InvalidPath { .. }) => {
                    let what = format!("a file has a name that no object can have, at {}", self.location);
                    return Err(Error::corrupt(what)
                        .because(error)
                        .hint("Archiver writes none: find out who did, and take it out of the archive"));
                }
                Err(error) => return Err(self.failed(Doing::List, prefix, &error)),
            }
        }
    }

    /// An object's bytes; `None` where there is none.
    pub(super) async fn get(&self, key: &str) -> Result<Option<Bytes>> {
        let path = self.path(key)?;
        let bytes = match self.store.get(&path).await {
            Ok(object) => object.bytes().await,
            Err(error) => Err(error),
        };
        match bytes {
            Ok(bytes) => Ok(Some(bytes)),
            Err(StoreError::NotFound { source, .. }) if !is_missing_container(&*source) => Ok(None),
            Err(error) => Err(self.failed(Doing::Read, key, &error)),
        }
    }

    fn path(&self, key: &str) -> Result<Path> {
        let joined = format!("{}/{}", self.root, key);
        let path = Path::parse(joined.trim_matches('/'));
        path.map_err(|e| Error::internal(format!("not an object key: {key}")).because(e))
    }

    /// What to tell about a failed request, and who acts.
    fn failed(&self, doing: Doing, key: &str, error: &StoreError) -> Error {
        refusal::explain(doing, key, &self.location, error)
    }
}

/// Checks that manifests, sorted by stream and seq, are one chain for each stream.
fn chains(read: Vec<(String, Result<Sealed>)>) -> Result<Vec<Sealed>> {
    let mut found: Vec<Sealed> = Vec::with_capacity(read.len());
    for (key, sealed) in read {
        let sealed = sealed?;
        let stream = sealed.manifest.stream();
        let before = found.last().filter(|before| before.manifest.stream() == stream);
        if let Some(problem) = sealed.chain_problem(before) {
            let error = Error::corrupt(format!(
                "the manifests of source {stream} are not one chain: {problem}, key={key}"
            ));
            return Err(error.hint("archiver verify lists everything that is wrong"));
        }
        found.push(sealed);
    }
    Ok(found)
}

/// What is under a key after a try to create it.
pub(super) enum Stored {
    /// The bytes that were to be created.
    Same,
    /// Others.
    Other(Bytes),
}
