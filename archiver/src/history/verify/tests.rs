//! Every change to an archive is found, and none makes the verification panic.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use bson::doc;
use bytes::Bytes;
use tempfile::TempDir;

use super::super::testing::Shop;
use super::*;
use crate::archive::manifest::Manifest;
use crate::stream_id::StreamId;

fn shop() -> Shop {
    let mut shop = Shop::with_plugins(&[]);
    for n in 0..12 {
        shop.change("insert", n, doc! {"after": {"_id": n, "total": n * 7, "note": "x".repeat(n as usize)}});
    }
    shop
}

struct Stored {
    archive: Archive,
    folder: TempDir,
    keys: Vec<String>,
}

impl Stored {
    async fn new() -> Stored {
        let (archive, folder) = shop().archive(&[5, 9]).await;
        let keys = archive.objects().await.unwrap().into_iter().map(|(key, _)| key).collect();
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
        verify(&self.archive, None, None).await.unwrap()
    }

    fn manifests(&self) -> Vec<&String> {
        self.keys.iter().filter(|key| key.ends_with(".json")).collect()
    }

    fn segments(&self) -> Vec<&String> {
        self.keys.iter().filter(|key| key.ends_with(".parquet")).collect()
    }
}

#[tokio::test]
async fn what_was_written_is_verified() {
    let report = Stored::new().await.verify().await;
    assert_eq!(report.findings, []);
    assert_eq!(report.notes, []);
    let source = &report.sources[0];
    assert_eq!((source.records, source.segments, source.manifests, source.end_seq), (13, 3, 3, 14));
    assert!(source.head.is_some());
}

#[tokio::test]
async fn one_changed_byte_anywhere_is_found() {
    let stored = Stored::new().await;
    for key in &stored.keys {
        let original = stored.read(key).await;
        // Every byte of the manifests; of the segments, whose digests are over all of it, some everywhere.
        let step = if key.ends_with(".json") { 1 } else { 97 };
        for at in (0..original.len()).step_by(step) {
            let mut changed = original.to_vec();
            changed[at] ^= 1 << (at % 8);
            stored.write(key, changed);
            let report = stored.verify().await;
            assert!(!report.is_clean(), "{key} byte {at}");
        }
        for shorter in [0, 1, original.len() / 2, original.len() - 1] {
            stored.write(key, original.slice(..shorter));
            assert!(!stored.verify().await.is_clean(), "{key} cut to {shorter}");
        }
        stored.write(key, [&original[..], b"\n"].concat());
        assert!(!stored.verify().await.is_clean(), "{key} with a byte more");
        stored.write(key, original);
    }
    assert!(stored.verify().await.is_clean());
}

#[tokio::test]
async fn a_removed_file_is_found() {
    let stored = Stored::new().await;
    let newest = stored.manifests()[2].clone();
    for key in &stored.keys {
        let original = stored.read(key).await;
        stored.remove(key);
        let report = stored.verify().await;
        // The archive alone can't know that its newest manifest existed; its segment shows.
        let shown = if *key == newest { &report.notes } else { &report.findings };
        assert!(!shown.is_empty(), "{key}");
        stored.write(key, original);
    }
}

#[tokio::test]
async fn swapped_files_are_found() {
    let stored = Stored::new().await;
    for kind in [stored.manifests(), stored.segments()] {
        for (a, b) in [(0, 1), (1, 2), (0, 2)] {
            let (first, second) = (stored.read(kind[a]).await, stored.read(kind[b]).await);
            stored.write(kind[a], second.clone());
            stored.write(kind[b], first.clone());
            assert!(!stored.verify().await.is_clean(), "{} and {}", kind[a], kind[b]);
            stored.write(kind[a], first);
            stored.write(kind[b], second);
        }
    }
}

#[tokio::test]
async fn added_files_are_found() {
    let stored = Stored::new().await;
    let segment = stored.read(stored.segments()[0]).await;
    for key in [
        "source=shop/date=2026-11-21/seg-00000000000000000003.parquet",
        "source=shop/date=2026-11-22/seg-00000000000000000001.parquet",
        "source=shop/date=2026-11-21/seg-p1-00000000000000000014.parquet",
        "source=shop/date=2026-11-21/seg-00000000000000000001.parquet.bak",
        "source=shop/notes.txt",
        "_manifests/source=shop/00000000000000000014.json",
        "_manifests/source=shop/14.json",
        "stray",
    ] {
        stored.write(key, segment.clone());
        let report = stored.verify().await;
        assert!(report.findings.iter().any(|f| f.file == key), "{key}: {:?}", report.findings);
        stored.remove(key);
    }
    stored.write("_checks/0123", "a write check");
    assert!(stored.verify().await.is_clean());
}

#[tokio::test]
async fn a_rewritten_segment_with_a_fitting_manifest_breaks_the_chain() {
    let stored = Stored::new().await;
    // Somebody who can write everything forges the first segment and its manifest, and nothing else.
    let mut forged = shop();
    forged.records[3] = {
        let mut other = Shop::with_plugins(&[]);
        for n in 0..3 {
            other.change("insert", n, doc! {"after": {"_id": n, "total": 0}});
        }
        other.records[3].clone()
    };
    let (archive, _folder) = forged.archive(&[5, 9]).await;
    for key in [stored.segments()[0], stored.manifests()[0]] {
        stored.write(key, archive.read_segment(key).await.unwrap());
    }
    let report = stored.verify().await;
    assert_eq!(report.findings[0].file, *stored.manifests()[0]);
}

#[tokio::test]
async fn a_manifest_that_says_something_else_than_its_segment_is_found() {
    let changes: [fn(&mut Manifest); 9] = [
        |m| m.merkle_root = "0".repeat(64),
        |m| m.bson_bytes += 1,
        |m| m.ops = [("insert".to_owned(), 13)].into(),
        |m| m.first_cluster_time.t -= 1,
        |m| m.last_cluster_time.i += 1,
        |m| m.sha256 = "0".repeat(64),
        |m| m.size += 1,
        |m| m.previous = Some("0".repeat(64)),
        |m| m.counters.as_mut().unwrap().read += 1,
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let (archive, folder) = shop().archive(&[]).await;
        let key = paths::manifest_key(&StreamId::whole("shop"), 1);
        let mut manifest = Manifest::from_json(&archive.read_segment(&key).await.unwrap()).unwrap();
        change(&mut manifest);
        std::fs::write(folder.path().join(&key), manifest.to_json().unwrap()).unwrap();
        let report = verify(&archive, None, None).await.unwrap();
        assert!(!report.is_clean(), "change {number}");
    }
}

#[tokio::test]
async fn an_unknown_source_is_not_found_and_says_which_there_are() {
    let stored = Stored::new().await;
    let error = verify(&stored.archive, Some("shops"), None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    assert!(error.hint_text().unwrap().contains("shop"));
    assert!(verify(&stored.archive, Some("shop"), None).await.unwrap().is_clean());
}
