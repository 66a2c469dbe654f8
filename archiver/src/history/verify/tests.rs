//! Every change to an archive is found and named, nothing that was written is, and nothing makes the verification panic.
#![allow(clippy::unwrap_used)]

mod forged;
mod random;
mod sampled;
mod table;
mod tampered;

use std::path::PathBuf;

use bson::doc;
use bytes::Bytes;
use tempfile::TempDir;

use super::super::testing::Shop;
use super::*;
use crate::archive::merkle::sha256;
use crate::archive::paths;
use crate::error::Kind;
use crate::record::hex;

fn shop() -> Shop {
    let mut shop = Shop::with_plugins(&[]);
    for n in 0..12 {
        shop.change("insert", n, doc! {"after": {"_id": n, "total": n * 7, "note": "x".repeat(n as usize)}});
    }
    shop
}

/// Thirteen records in three segments, in a folder.
struct Stored {
    archive: Archive,
    folder: TempDir,
    keys: Vec<String>,
}

impl Stored {
    async fn new() -> Stored {
        Stored::of(&shop(), &[5, 9]).await
    }

    async fn of(shop: &Shop, ends: &[i64]) -> Stored {
        let (archive, folder) = shop.archive(ends).await;
        let keys = archive.objects(None).await.unwrap().into_iter().map(|(key, _)| key).collect();
        Stored { archive, folder, keys }
    }

    async fn read(&self, key: &str) -> Bytes {
        self.archive.read_segment(key).await.unwrap()
    }

    fn path(&self, key: &str) -> PathBuf {
        self.folder.path().join(key)
    }

    fn write(&self, key: &str, bytes: impl AsRef<[u8]>) {
        std::fs::create_dir_all(self.path(key).parent().unwrap()).unwrap();
        std::fs::write(self.path(key), bytes).unwrap();
    }

    fn remove(&self, key: &str) {
        std::fs::remove_file(self.path(key)).unwrap();
    }

    async fn verify(&self) -> Report {
        self.verify_as(&Request::default()).await
    }

    async fn verify_as(&self, request: &Request<'_>) -> Report {
        verify(&self.archive, None, request).await.unwrap()
    }

    /// The findings of a full verification with this digest noted.
    async fn codes_with(&self, noted: &str) -> Vec<Code> {
        let noted = [Noted::parse(noted).unwrap()];
        codes(&self.verify_as(&Request { noted: &noted, ..Request::default() }).await)
    }

    fn manifests(&self) -> Vec<&String> {
        self.keys.iter().filter(|key| key.ends_with(".json")).collect()
    }

    fn segments(&self) -> Vec<&String> {
        self.keys.iter().filter(|key| key.ends_with(".parquet")).collect()
    }

    /// Changes a manifest and everything behind it so that the chain holds, as somebody would who may write everything.
    async fn reseal(&self, number: usize, change: impl FnOnce(&mut Manifest)) {
        let mut change = Some(change);
        let mut previous = None;
        for (n, key) in self.manifests().into_iter().enumerate() {
            let json = self.read(key).await;
            let mut manifest = Manifest::from_json(&json).unwrap();
            if n >= number {
                manifest.previous = previous.or(manifest.previous);
                if let Some(change) = change.take_if(|_| n == number) {
                    change(&mut manifest);
                }
                self.write(key, manifest.to_json().unwrap());
            }
            previous = Some(hex(&sha256(&self.read(key).await)));
        }
    }

    /// Puts another file in the place of a segment, and seals it anew with everything behind it.
    async fn replace(&self, number: usize, file: &[u8]) {
        self.write(self.segments()[number], file);
        self.reseal(number, |manifest| {
            manifest.size = file.len() as u64;
            manifest.sha256 = hex(&sha256(file));
        })
        .await;
    }
}

fn codes(report: &Report) -> Vec<Code> {
    report.findings.iter().map(|finding| finding.code).collect()
}

fn newest(report: &Report) -> String {
    format!("{}={}", report.sources[0].stream(), report.sources[0].newest.as_ref().unwrap())
}

#[tokio::test]
async fn what_was_written_is_verified_and_what_was_looked_at_is_counted() {
    let stored = Stored::new().await;
    let counted = [(Level::Listing, (0, 0, 0)), (Level::Structure, (3, 0, 0)), (Level::Full, (3, 3, 13))];
    for (level, expected) in counted {
        let report = stored.verify_as(&Request { scope: Scope::only(level), ..Request::default() }).await;
        assert_eq!((&report.findings, &report.notes), (&vec![], &vec![]));
        let source = &report.sources[0];
        assert_eq!((source.files, source.segments, source.records), expected, "{level:?}");
        assert_eq!((source.manifests, source.end_seq), (3, 14));
        assert_eq!(source.bytes > 0, level > Level::Listing);
    }
    let report = stored.verify().await;
    assert_eq!(stored.codes_with(&newest(&report)).await, []);
}

#[tokio::test]
async fn progress_is_told_from_nothing_to_everything() {
    let stored = Stored::new().await;
    let told = std::sync::Mutex::new(Vec::new());
    let progress = |progress| told.lock().unwrap().push(progress);
    stored.verify_as(&Request { progress: &progress, jobs: 3, ..Request::default() }).await;
    let told = told.into_inner().unwrap();
    let done: Vec<u64> = told.iter().map(|p| p.segments_done).collect();
    assert_eq!(done, [0, 1, 2, 3]);
    assert!(told.iter().all(|p| p.segments == 3 && p.bytes_done <= p.bytes));
    assert_eq!(told[3].bytes_done, told[3].bytes);
}

#[tokio::test]
async fn an_unknown_source_is_not_found_and_says_which_there_are() {
    let stored = Stored::new().await;
    let request = |source| Request { source: Some(source), ..Request::default() };
    let error = verify(&stored.archive, None, &request("shops")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    assert!(error.hint_text().unwrap().contains("shop"));
    let report = stored.verify_as(&request("shop")).await;
    assert!(report.is_clean() && report.sources.len() == 1);
}
