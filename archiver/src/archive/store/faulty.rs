//! An object store in memory that does what it is told: refuse, lose the answer after the write, answer slowly.
#![allow(clippy::unwrap_used)]

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// What the next PUT does instead of succeeding.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// Fails, and nothing is written.
    Rejected,
    /// Fails after it was written: the lost reply.
    LostReply,
    /// Says "already exists" about its own write, as a retried 5xx does.
    OwnWriteExists,
    /// Says "already exists" though nothing is there, as S3's 409 does.
    Conflict,
    /// Refuses for good.
    Forbidden,
    /// Succeeds, but stores something else.
    Garbled,
    /// Somebody else writes these bytes first.
    Overtaken(Bytes),
    /// Succeeds even where something exists.
    Overwrites,
}

/// The store, its faults to come, and the requests so far.
#[derive(Debug, Default, Clone)]
pub(crate) struct Faulty {
    pub(crate) inner: Arc<InMemory>,
    pub(crate) faults: Arc<Mutex<VecDeque<Fault>>>,
    pub(crate) requests: Arc<Mutex<Vec<String>>>,
}

impl Faulty {
    pub(crate) fn with(faults: impl IntoIterator<Item = Fault>) -> Self {
        let store = Faulty::default();
        store.faults.lock().unwrap().extend(faults);
        store
    }

    fn note(&self, request: String) {
        self.requests.lock().unwrap().push(request);
    }

    pub(crate) fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.requests.lock().unwrap())
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("faulty")
    }
}

fn broken() -> Error {
    Error::Generic { store: "faulty", source: "the connection broke".into() }
}

fn exists(location: &Path) -> Error {
    Error::AlreadyExists { path: location.to_string(), source: "it exists".into() }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.note(format!("put {location}"));
        let fault = self.faults.lock().unwrap().pop_front();
        match fault {
            None => self.inner.put_opts(location, payload, opts).await,
            Some(Fault::Rejected) => Err(broken()),
            Some(Fault::LostReply) => self.inner.put_opts(location, payload, opts).await.and(Err(broken())),
            Some(Fault::OwnWriteExists) => {
                self.inner.put_opts(location, payload, opts).await.and(Err(exists(location)))
            }
            Some(Fault::Conflict) => Err(exists(location)),
            Some(Fault::Forbidden) => {
                Err(Error::PermissionDenied { path: location.to_string(), source: "forbidden".into() })
            }
            Some(Fault::Garbled) => {
                self.inner.put_opts(location, Bytes::from_static(b"garbled").into(), opts).await
            }
            Some(Fault::Overtaken(other)) => {
                self.inner.put_opts(location, other.into(), PutOptions::default()).await?;
                self.inner.put_opts(location, payload, opts).await
            }
            Some(Fault::Overwrites) => self.inner.put_opts(location, payload, PutOptions::default()).await,
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.note(format!("multipart {location}"));
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.note(format!("get {location}"));
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.note(format!("ranges {location}"));
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.note("delete".to_owned());
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.note(format!("list {}", prefix.map_or("", |prefix| prefix.as_ref())));
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.note("list".to_owned());
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.note(format!("copy {from}"));
        self.inner.copy_opts(from, to, options).await
    }
}
