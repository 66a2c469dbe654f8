//! What one document's history costs out of an archive: bytes, requests and time, beside DuckDB asked for the same.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Result, ensure};
use archiver::archive::manifest::Sealed;
use archiver::archive::segment::SegmentBuilder;
use archiver::archive::store::Archive;
use archiver::history::History;
use archiver::history::id::DocumentId;
use archiver::history::recover::by_id;
use archiver::stream_id::StreamId;
use archiver_tests::cloud::{Bucket, Kind};
use archiver_tests::duckdb;
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use futures_util::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetRange, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt as _, PutMultipartOptions, PutOptions, PutPayload, PutResult,
};

use crate::chain;
use crate::roll;
use crate::spread::Spread;

/// Builds an archive of so many segments with so many records each, and looks so many documents up in it: in a local folder, then
/// in a copy of it on an S3 server.
pub(crate) async fn run(segments: usize, records: usize, rounds: usize) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let local = Place {
        name: "local",
        store: Counting::new(Arc::new(LocalFileSystem::new_with_prefix(folder.path())?)),
        prefix: "",
        duckdb: String::new(),
        glob: format!("{}/source=*/date=*/*.parquet", folder.path().display()),
    };
    let archive = local.archive()?;
    let ids = fill(&archive, segments, records).await?;
    let size: u64 = archive.objects(None).await?.iter().map(|(_, size)| size).sum();
    println!(
        "{segments} segments of {records} records, {} documents, {:.0} MB",
        ids.len(),
        size as f64 / 1e6
    );
    let absent: Vec<_> =
        (0..rounds).map(|n| format!("{:08x}ffffffff{n:08x}", 1_795_000_000 + n * 977)).collect();
    let present: Vec<_> = ids.iter().step_by((ids.len() / rounds).max(1)).take(rounds).cloned().collect();
    let bucket = Bucket::new(Kind::S3).await;
    let s3 = Place {
        name: "S3",
        store: Counting::new(bucket.store()?),
        prefix: "audit",
        duckdb: bucket.duckdb(),
        glob: bucket.glob("*"),
    };
    copy(&local, &s3).await?;
    for place in [local, s3] {
        for (name, ids) in [("present", &present), ("absent", &absent)] {
            println!("{}, {name}: {}", place.name, measure(&place, ids, size).await?);
        }
    }
    Ok(())
}

/// Where an archive lies.
struct Place {
    name: &'static str,
    store: Counting,
    prefix: &'static str,
    /// What DuckDB is told first.
    duckdb: String,
    glob: String,
}

impl Place {
    fn archive(&self) -> Result<Archive> {
        Ok(Archive::new(Arc::new(self.store.clone()), self.prefix, "here")?)
    }
}

async fn copy(from: &Place, to: &Place) -> Result<()> {
    let files: Vec<_> = from.store.inner.list(None).try_collect().await?;
    for file in files {
        let bytes = from.store.inner.get(&file.location).await?.bytes().await?;
        let name = Path::from(format!("{}/{}", to.prefix, file.location));
        to.store.inner.put(&name, bytes.into()).await?;
    }
    Ok(())
}

async fn measure(place: &Place, ids: &[String], size: u64) -> Result<String> {
    let history = History::new(None, place.archive()?);
    let (mut bytes, mut requests, mut times) = (Vec::new(), Vec::new(), Vec::new());
    let (mut found, mut recovered) = (Vec::new(), Vec::new());
    for id in ids {
        let id = DocumentId::parse(id)?;
        place.store.reset();
        let started = Instant::now();
        found.push(history.document("bench", &id).await?.len());
        times.push(started.elapsed().as_secs_f64() * 1e3);
        let (read, asked) = place.store.counted();
        bytes.push(read as f64 / size as f64 * 100.0);
        requests.push(asked as f64);
        let started = Instant::now();
        // One that was never there is not found, after the same search.
        let _ = by_id(&history, "bench", &id, Some(i64::from(u32::MAX)), None).await;
        recovered.push(started.elapsed().as_secs_f64() * 1e3);
    }
    let duckdb = ids.iter().map(|id| by_duckdb(place, id)).collect::<Result<Vec<_>>>()?;
    ensure!(duckdb.iter().map(|(n, _)| *n).eq(found.iter().copied()), "DuckDB finds others");
    Ok(format!(
        "{:.1} records; read {:.3} % of the archive in {:.0} requests and {:.1} ms; DuckDB {:.1} ms; recovered in {:.1} ms",
        found.iter().sum::<usize>() as f64 / found.len() as f64,
        Spread::of(bytes),
        Spread::of(requests),
        Spread::of(times),
        Spread::of(duckdb.into_iter().map(|(_, time)| time)),
        Spread::of(recovered),
    ))
}

/// Gives the ids of the documents in it.
async fn fill(archive: &Archive, segments: usize, records: usize) -> Result<Vec<String>> {
    let mut history = roll::History::new(1_000, 8);
    let mut last: Option<Sealed> = None;
    for _ in 0..segments {
        let mut builder = SegmentBuilder::new(&StreamId::whole("bench"));
        for _ in 0..records {
            builder.push(&history.next().to_vec()?)?;
        }
        chain::extend(archive, builder, &mut last).await?;
    }
    Ok(history.ids())
}

/// How many rows, and milliseconds, all of it in one process with nothing cached but files.
fn by_duckdb(place: &Place, id: &str) -> Result<(usize, f64)> {
    let Place { duckdb, glob, .. } = place;
    let sql = format!(
        "{duckdb} CREATE TABLE started AS SELECT epoch_us(get_current_timestamp()) AS us; \
         CREATE TABLE found AS SELECT * FROM read_parquet('{glob}') WHERE doc_id = '{id}' ORDER BY seq; \
         SELECT (SELECT count(*) FROM found) AS n, (epoch_us(get_current_timestamp()) - (SELECT us FROM started)) / 1e3 AS ms"
    );
    let row = duckdb::query(&sql).remove(0);
    Ok((row["n"].as_u64().unwrap_or_default() as usize, row["ms"].as_f64().unwrap_or_default()))
}

/// A store that counts what is read of it.
#[derive(Debug, Clone)]
struct Counting {
    inner: Arc<dyn ObjectStore>,
    bytes: Arc<AtomicU64>,
    requests: Arc<AtomicU64>,
}

impl Counting {
    fn new(inner: Arc<dyn ObjectStore>) -> Counting {
        Counting { inner, bytes: Arc::default(), requests: Arc::default() }
    }

    fn reset(&self) {
        self.bytes.store(0, Ordering::Relaxed);
        self.requests.store(0, Ordering::Relaxed);
    }

    fn counted(&self) -> (u64, u64) {
        (self.bytes.load(Ordering::Relaxed), self.requests.load(Ordering::Relaxed))
    }

    fn count(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.requests.fetch_add(1, Ordering::Relaxed);
    }
}

impl std::fmt::Display for Counting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("counting")
    }
}

#[async_trait]
impl ObjectStore for Counting {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> object_store::Result<PutResult> {
        self.inner.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        let range = options.range.clone();
        let result = self.inner.get_opts(location, options).await?;
        self.count(match range {
            Some(GetRange::Bounded(range)) => range.end - range.start,
            _ => result.range.end - result.range.start,
        });
        Ok(result)
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> object_store::Result<Vec<Bytes>> {
        ranges.iter().for_each(|range| self.count(range.end - range.start));
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.count(0);
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.count(0);
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
