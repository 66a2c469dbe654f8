//! Files that are changed, removed, added or swapped by somebody who leaves the rest as it is.

use std::time::SystemTime;

use super::super::super::testing::Memory;
use super::*;

#[tokio::test]
async fn one_flipped_bit_anywhere_is_found_without_decoding_anything() {
    let mut small = Shop::with_plugins(&[]);
    small.change("insert", 1, doc! {"after": {"_id": 1}});
    small.change("delete", 1, doc! {});
    let stored = Stored::of(&small, &[3]).await;
    let memory = Memory::new();
    for key in &stored.keys {
        memory.put(key, stored.read(key).await.to_vec()).await;
    }
    let request = Request { scope: Scope::only(Level::Structure), ..Request::default() };
    for key in &stored.keys {
        let original = stored.read(key).await;
        let manifest = key.ends_with(".json");
        for at in 0..original.len() {
            // Every bit of the manifests. Digests are over whole files: one bit of each byte of the segments is as good as all.
            for bit in if manifest { 0..8 } else { at % 8..at % 8 + 1 } {
                let mut changed = original.to_vec();
                changed[at] ^= 1 << bit;
                memory.put(key, changed).await;
                let found = codes(&verify(&memory.archive, None, &request).await.unwrap());
                match manifest {
                    true => assert!(!found.is_empty(), "{key} byte {at} bit {bit}"),
                    false => assert_eq!(found, [Code::SegmentDigest], "{key} byte {at} bit {bit}"),
                }
            }
        }
        memory.put(key, original.to_vec()).await;
    }
    assert!(verify(&memory.archive, None, &request).await.unwrap().is_clean());
}

#[tokio::test]
async fn a_file_that_is_cut_longer_empty_or_garbage_is_found_and_named() {
    let stored = Stored::new().await;
    for key in &stored.keys {
        let original = stored.read(key).await;
        let length = original.len();
        let mut others: Vec<Vec<u8>> =
            [0, 1, length / 2, length - 1].iter().map(|n| original[..*n].to_vec()).collect();
        others.push([&original[..], b"\n"].concat());
        others.push([b" ", &original[..]].concat());
        others.push(vec![0; length]);
        others.push([b"PAR1".repeat(length / 8), b"{\"format\":1}".to_vec()].concat());
        for (n, other) in others.into_iter().enumerate() {
            stored.write(key, other);
            let report = stored.verify().await;
            assert!(report.findings.iter().any(|f| f.file == *key), "{key} {n}: {:?}", report.findings);
            assert!(!codes(&report).contains(&Code::SegmentUnreadable), "nothing unsealed is parsed");
        }
        stored.write(key, original);
    }
    assert!(stored.verify().await.is_clean());
}

#[tokio::test]
async fn a_file_too_large_to_be_a_manifest_is_not_read() {
    let stored = Stored::new().await;
    let file = std::fs::File::create(stored.path(stored.manifests()[1])).unwrap();
    // Takes no room on the disk, and would take all of the memory.
    file.set_len(1 << 42).unwrap();
    let report = stored.verify().await;
    assert!(report.findings.iter().any(|f| f.reason.contains("too large")), "{:?}", report.findings);
    std::fs::File::create(stored.path(stored.segments()[1])).unwrap().set_len(1 << 42).unwrap();
    assert!(!stored.verify().await.is_clean());
}

#[tokio::test]
async fn a_removed_file_is_found_and_named() {
    let stored = Stored::new().await;
    let newest = stored.manifests()[2].clone();
    for key in &stored.keys {
        let original = stored.read(key).await;
        stored.remove(key);
        let report = stored.verify().await;
        // The archive alone can't know that its newest manifest existed; its segment shows.
        match *key == newest {
            true => assert_eq!((codes(&report), report.notes[0].code), (vec![], Code::SegmentUnsealed)),
            false => assert!(report.findings.iter().any(|f| f.file == *key), "{key}: {:?}", report.findings),
        }
        stored.write(key, original);
    }
}

#[tokio::test]
async fn a_segment_that_stays_unsealed_is_a_finding() {
    let stored = Stored::new().await;
    stored.remove(stored.manifests()[2]);
    assert!(stored.verify().await.is_clean(), "its manifest may come any moment");
    let file = std::fs::File::options().write(true).open(stored.path(stored.segments()[2])).unwrap();
    file.set_modified(SystemTime::now() - std::time::Duration::from_secs(7_200)).unwrap();
    assert_eq!(codes(&stored.verify().await), [Code::SegmentUnsealed]);
}

#[tokio::test]
async fn a_manifest_that_is_removed_with_its_segment_is_found_and_named() {
    let stored = Stored::new().await;
    for number in [0, 1] {
        let (manifest, segment) = (stored.manifests()[number], stored.segments()[number]);
        let (json, file) = (stored.read(manifest).await, stored.read(segment).await);
        stored.remove(manifest);
        stored.remove(segment);
        let report = stored.verify().await;
        assert_eq!((codes(&report), &report.findings[0].file), (vec![Code::ManifestMissing], manifest));
        stored.write(manifest, json);
        stored.write(segment, file);
    }
}

/// Nothing in the archive shows it: somebody must have noted the digest.
#[tokio::test]
async fn the_newest_segments_removed_with_their_manifests_are_missed_by_a_noted_digest() {
    let stored = Stored::new().await;
    let noted = newest(&stored.verify().await);
    let digest = noted.split_once('=').unwrap().1;
    stored.remove(stored.manifests()[2]);
    stored.remove(stored.segments()[2]);
    let report = stored.verify().await;
    assert!(report.is_clean());
    for noted in [noted.as_str(), digest] {
        assert_eq!(stored.codes_with(noted).await, [Code::ChainRewritten]);
    }
    // What was noted before holds still, also when it is not the newest any more.
    assert_eq!(stored.codes_with(&newest(&report)).await, []);
    for key in &stored.keys[..] {
        std::fs::remove_file(stored.path(key)).ok();
    }
    assert_eq!(stored.codes_with(&noted).await, [Code::ChainRewritten], "everything is gone");
}

#[tokio::test]
async fn swapped_files_are_found() {
    let stored = Stored::new().await;
    for kind in [stored.manifests(), stored.segments()] {
        for (a, b) in [(0, 1), (1, 2), (0, 2)] {
            let (first, second) = (stored.read(kind[a]).await, stored.read(kind[b]).await);
            stored.write(kind[a], second.clone());
            stored.write(kind[b], first.clone());
            let report = stored.verify().await;
            for key in [kind[a], kind[b]] {
                assert!(report.findings.iter().any(|f| f.file == *key), "{key}: {:?}", report.findings);
            }
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
        "source=shop/date=2026-11-21/seg-00000000000000000014.parquet.parquet",
        "source=shop/date=2026-11-21/seg-p1-00000000000000000014.parquet",
        "source=shop/date=2026-11-21/seg-00000000000000000001.parquet.bak",
        "source=shop/date=2026-11-21/other.parquet",
        "source=shop/seg-00000000000000000001.parquet",
        "source=shop/notes.txt",
        "source=other/date=2026-11-21/seg-00000000000000000009.parquet",
        "Source=shop/date=2026-11-21/seg-00000000000000000001.parquet",
        "_manifests/source=shop/00000000000000000014.json",
        "_manifests/source=shop/14.json",
        "_checks/0123",
        "stray",
    ] {
        stored.write(key, segment.clone());
        let report = stored.verify().await;
        assert!(report.findings.iter().any(|f| f.file == key), "{key}: {:?}", report.findings);
        stored.remove(key);
    }
    stored.write(&paths::check_key(&format!("{:032x}", 5)), "a write check");
    assert!(stored.verify().await.is_clean());
}

/// The next name is the one that a segment may have for a moment before it is sealed; not two of them, and not for long.
#[tokio::test]
async fn a_segment_put_under_the_next_name_is_noted_and_found_when_it_stays() {
    let stored = Stored::new().await;
    let key = "source=shop/date=2026-11-21/seg-00000000000000000014.parquet";
    let segment = stored.read(stored.segments()[0]).await;
    stored.write(key, &segment);
    let report = stored.verify().await;
    assert_eq!((codes(&report), &report.notes[0].file[..]), (vec![], key));
    let other = key.replace("11-21", "11-22");
    stored.write(&other, &segment);
    assert_eq!(codes(&stored.verify().await), [Code::SegmentUnsealed, Code::SegmentUnsealed]);
}
