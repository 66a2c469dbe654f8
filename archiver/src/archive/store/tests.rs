//! What the commit protocol promises, whatever the store does.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use url::Url;

use super::super::manifest::Context;
use super::super::segment::SegmentBuilder;
use super::super::segment::tests::{in_partition, manifest, record, sample};
use super::faulty::{Fault, Faulty};
use super::*;
use crate::Kind;
use crate::checkpoint::Counters;
use crate::stream_id::StreamId;

fn archive(faults: impl IntoIterator<Item = Fault>) -> (Faulty, Archive) {
    let store = Faulty::with(faults);
    let archive = Archive::new(Arc::new(store.clone()), "base", "faulty").unwrap();
    (store, archive)
}

fn objects_written(store: &Faulty) -> usize {
    store.requests().iter().filter(|r| r.starts_with("put")).count()
}

#[tokio::test]
async fn a_commit_is_done_whatever_answer_got_lost() {
    let (segment, _) = sample(1, 20);
    for faults in [
        vec![],
        vec![Fault::Rejected],
        vec![Fault::LostReply],
        vec![Fault::OwnWriteExists],
        vec![Fault::Conflict, Fault::Rejected, Fault::Conflict],
        vec![Fault::Rejected, Fault::LostReply],
    ] {
        let (store, archive) = archive(faults.clone());
        assert_eq!(archive.commit(&segment).await.unwrap(), Commit::Done, "{faults:?}");
        assert_eq!(archive.commit(&segment).await.unwrap(), Commit::Done, "again");
        assert_eq!(archive.read_segment(&segment.key).await.unwrap(), segment.file);
        assert!(
            store
                .requests()
                .iter()
                .all(|r| !r.starts_with("copy") && !r.starts_with("multipart") && r != "delete")
        );
    }
}

#[tokio::test]
async fn a_commit_gives_up_after_a_bounded_number_of_tries() {
    let (segment, _) = sample(1, 5);
    let (store, archive) = archive(vec![Fault::Rejected; 20]);
    let error = archive.commit(&segment).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert_eq!(objects_written(&store), TRIES as usize);
}

#[tokio::test]
async fn what_is_forbidden_is_not_tried_again() {
    let (segment, _) = sample(1, 5);
    let (store, archive) = archive([Fault::Forbidden]);
    let error = archive.commit(&segment).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    assert!(error.hint_text().unwrap().contains("credentials"));
    assert_eq!(objects_written(&store), 1);
}

#[tokio::test]
async fn a_segment_cut_elsewhere_is_adopted() {
    let (ours, records) = sample(1, 20);
    let mut builder = SegmentBuilder::new(&StreamId::whole("shop"));
    records[..7].iter().for_each(|r| builder.push(r).unwrap());
    let theirs = builder.finish().unwrap();
    let (_, archive) = archive([Fault::Overtaken(theirs.file.clone())]);
    assert_eq!(archive.commit(&ours).await.unwrap(), Commit::Adopted(Box::new(theirs.clone())));
    assert_eq!(archive.read_segment(&ours.key).await.unwrap(), theirs.file, "nothing is overwritten");
}

#[tokio::test]
async fn rubbish_under_the_key_is_corrupt() {
    let (segment, _) = sample(1, 20);
    for fault in [Fault::Garbled, Fault::Overtaken(Bytes::from_static(b"rubbish"))] {
        let (_, archive) = archive([fault]);
        assert_eq!(archive.commit(&segment).await.unwrap_err().kind(), Kind::Corrupt);
    }
}

/// Seals consecutive segments of three records each.
async fn fill(archive: &Archive, segments: i64) -> Vec<Sealed> {
    let mut sealed: Vec<Sealed> = Vec::new();
    for n in 0..segments {
        let (segment, _) = sample(1 + n * 3, 3);
        archive.commit(&segment).await.unwrap();
        let counters = Counters { read: n, appended: n, ..Counters::default() };
        let context = Context {
            log: "log",
            counters: Some(counters),
            policy_digest: "ab",
            server: "6.0.5",
            created: format!("2026-11-21T06:00:0{n}Z"),
            previous: sealed.last(),
        };
        sealed.push(archive.seal(&Manifest::new(&segment, context)).await.unwrap());
    }
    sealed
}

#[tokio::test]
async fn each_partition_has_a_chain_of_its_own() {
    let (_, archive) = archive([]);
    let streams = StreamId::all("shop", 3);
    let mut sealed = Vec::new();
    for stream in &streams[..2] {
        let mut previous: Option<Sealed> = None;
        for first in [1, 4] {
            let mut builder = SegmentBuilder::new(stream);
            for record in sample(first, 3).1 {
                builder.push(&in_partition(stream.partition.unwrap(), &record)).unwrap();
            }
            let segment = builder.finish().unwrap();
            archive.commit(&segment).await.unwrap();
            let mut manifest = manifest(&segment);
            manifest.previous = previous.as_ref().map(|sealed| hex(&sealed.sha256));
            let link = archive.seal(&manifest).await.unwrap();
            assert_eq!(link.manifest.stream(), *stream);
            previous = Some(link.clone());
            sealed.push(link);
        }
    }
    assert_eq!(archive.streams("shop").await.unwrap(), streams[..2]);
    assert_eq!(archive.manifests(&streams[1]).await.unwrap(), sealed[2..]);
    assert_eq!(archive.manifests_of("shop").await.unwrap(), sealed);
    assert_eq!(archive.last_manifest(&streams[0]).await.unwrap().as_ref(), Some(&sealed[1]));
    let of_another = archive.last_manifest(&streams[2]).await.unwrap();
    assert_eq!(of_another.as_ref(), sealed.last(), "it tells whose archive it is");
    assert!(archive.manifests(&StreamId::whole("shop")).await.unwrap().is_empty());
    let one = String::from_utf8(manifest(&sample(1, 3).0).to_json().unwrap()).unwrap();
    assert!(!one.contains("partition"), "a source without partitions is stored as ever");
}

#[tokio::test]
async fn the_chain_of_manifests_reads_back_in_order() {
    let (store, archive) = archive([]);
    assert_eq!(archive.last_manifest(&StreamId::whole("shop")).await.unwrap(), None);
    assert!(archive.sources().await.unwrap().is_empty());
    let sealed = fill(&archive, 5).await;
    assert_eq!(archive.manifests(&StreamId::whole("shop")).await.unwrap(), sealed);
    store.requests();
    assert_eq!(archive.last_manifest(&StreamId::whole("shop")).await.unwrap().as_ref(), sealed.last());
    assert_eq!(store.requests().len(), 2, "one listing, one read");
    assert_eq!(archive.sources().await.unwrap(), ["shop"]);
    assert!(archive.manifests(&StreamId::whole("other")).await.unwrap().is_empty());
    let listed = archive.segments("shop").await.unwrap();
    assert_eq!(listed.iter().map(|l| l.first_seq).collect::<Vec<_>>(), [1, 4, 7, 10, 13]);
    for (listed, sealed) in listed.iter().zip(&sealed) {
        assert_eq!((&listed.key, listed.size), (&sealed.manifest.segment, sealed.manifest.size));
        archive.read_sealed(&sealed.manifest).await.unwrap();
    }
}

#[tokio::test]
async fn a_broken_chain_is_corrupt() {
    let replace = |mut sealed: Sealed, change: fn(&mut Manifest)| {
        change(&mut sealed.manifest);
        (
            paths::manifest_key(&StreamId::whole("shop"), sealed.manifest.first_seq),
            Some(sealed.manifest.to_json().unwrap()),
        )
    };
    let key = |n: i64| paths::manifest_key(&StreamId::whole("shop"), 1 + n * 3);
    for case in 0..6 {
        let (store, archive) = archive([]);
        let sealed = fill(&archive, 4).await;
        let (key, bytes) = match case {
            0 => (key(1), None),
            1 => (key(0), None),
            2 => replace(sealed[1].clone(), |m| m.server.push('x')),
            3 => replace(sealed[3].clone(), |m| m.previous = None),
            4 => (key(2), Some(sealed[1].manifest.to_json().unwrap())),
            _ => (key(2), Some(b"{}".to_vec())),
        };
        let path = archive.path(&key).unwrap();
        match bytes {
            Some(bytes) => drop(store.inner.put(&path, bytes.into()).await.unwrap()),
            None => store.inner.delete(&path).await.unwrap(),
        }
        assert_eq!(
            archive.manifests(&StreamId::whole("shop")).await.unwrap_err().kind(),
            Kind::Corrupt,
            "case {case}"
        );
        assert!(!archive.read_manifests(&StreamId::whole("shop")).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn sealing_again_gives_what_is_stored() {
    let (segment, _) = sample(1, 3);
    for fault in [Fault::Rejected, Fault::LostReply, Fault::OwnWriteExists, Fault::Conflict] {
        let (_, archive) = archive([fault]);
        let first = archive.seal(&manifest(&segment)).await.unwrap();
        assert_eq!(archive.seal(&manifest(&segment)).await.unwrap(), first);
        let later = Manifest { created: "2026-11-21T07:00:00Z".to_owned(), ..manifest(&segment) };
        assert_eq!(archive.seal(&later).await.unwrap(), first, "who wrote it when does not matter");
        let other = Manifest { previous: Some("0".repeat(64)), ..manifest(&segment) };
        assert_eq!(archive.seal(&other).await.unwrap_err().kind(), Kind::Corrupt);
    }
}

#[tokio::test]
async fn a_changed_or_missing_segment_is_corrupt() {
    let (store, archive) = archive([]);
    let sealed = fill(&archive, 1).await;
    let manifest = &sealed[0].manifest;
    let path = archive.path(&manifest.segment).unwrap();
    let mut file = archive.read_segment(&manifest.segment).await.unwrap().to_vec();
    file[100] ^= 1;
    store.inner.put(&path, file.into()).await.unwrap();
    assert_eq!(archive.read_sealed(manifest).await.unwrap_err().kind(), Kind::Corrupt);
    store.inner.delete(&path).await.unwrap();
    assert_eq!(archive.read_sealed(manifest).await.unwrap_err().kind(), Kind::Corrupt);
    assert_eq!(archive.find_document(manifest, "customer-1").await.unwrap_err().kind(), Kind::Corrupt);
    assert_eq!(archive.read_segment(&manifest.segment).await.unwrap_err().kind(), Kind::NotFound);
}

#[tokio::test]
async fn an_absent_document_costs_one_request() {
    let (store, archive) = archive([]);
    let mut builder = SegmentBuilder::new(&StreamId::whole("shop"));
    for seq in 1..=20_000_i64 {
        // Nothing that compresses, so that the rows are not in the tail by chance.
        let text = format!(
            "{:x}{:x}",
            seq.wrapping_mul(0x9E37_79B9_7F4A_7C15_u64 as i64),
            seq.wrapping_mul(0xC2B2_AE3D_27D4_EB4F_u64 as i64)
        );
        let after = bson_walker::Writer::build(|w| w.str("text", &text));
        builder.push(&record(seq, "insert", &format!("\"customer-{}\"", seq % 97), Some(&after))).unwrap();
    }
    let segment = builder.finish().unwrap();
    archive.commit(&segment).await.unwrap();
    let manifest = manifest(&segment);
    store.requests();
    // Within the range of ids, so that only the bloom filter can say no.
    assert!(archive.find_document(&manifest, "customer-50x").await.unwrap().is_empty());
    assert_eq!(store.requests().len(), 1);
    assert!(!archive.find_document(&manifest, "customer-50").await.unwrap().is_empty());
    assert!(store.requests().len() <= 4);
}

/// The other way round, what is sealed between the two would look like segments that nothing seals.
#[tokio::test]
async fn all_is_listed_before_the_manifests_once_more() {
    let (store, archive) = archive([]);
    fill(&archive, 3).await;
    store.requests();
    let all = archive.objects(None).await.unwrap();
    assert_eq!(all.len(), 6, "each once");
    assert_eq!(store.requests(), ["list base", "list base/_manifests"]);
    assert_eq!(archive.objects(Some("shop")).await.unwrap(), all);
    assert_eq!(store.requests(), ["list base/source=shop", "list base/_manifests/source=shop"]);
    assert_eq!(archive.objects(Some("sho")).await.unwrap(), []);
}

#[tokio::test]
async fn the_write_check_leaves_nothing_and_sees_a_store_that_overwrites() {
    let (store, archive) = archive([]);
    archive.check_writable().await.unwrap();
    assert!(archive.list("").await.unwrap().is_empty());
    assert!(store.requests().iter().all(|r| !r.ends_with(".parquet")));
    store.faults.lock().unwrap().extend([Fault::Overwrites, Fault::Overwrites]);
    assert_eq!(archive.check_writable().await.unwrap_err().kind(), Kind::Invalid);
    store.faults.lock().unwrap().push_back(Fault::Forbidden);
    assert_eq!(archive.check_writable().await.unwrap_err().kind(), Kind::Invalid);
}

#[tokio::test]
async fn a_folder_is_an_archive() {
    let folder = tempfile::tempdir().unwrap();
    let url = Url::from_directory_path(folder.path()).unwrap().join("deep/archive").unwrap();
    assert_eq!(Archive::open_url(url.as_str(), &[]).unwrap_err().kind(), Kind::NotFound);
    let archive = open::open(url.as_str(), &[], true).unwrap();
    assert!(archive.sources().await.unwrap().is_empty());
    assert!(archive.manifests(&StreamId::whole("shop")).await.unwrap().is_empty());
    archive.check_writable().await.unwrap();
    let sealed = fill(&archive, 3).await;
    let again = Archive::open_url(url.as_str(), &[]).unwrap();
    assert_eq!(again.manifests(&StreamId::whole("shop")).await.unwrap(), sealed);
    assert_eq!(again.sources().await.unwrap(), ["shop"]);
    let key = &sealed[0].manifest.segment;
    assert!(folder.path().join("deep/archive").join(key).is_file(), "{key}");
    assert_eq!(again.find_document(&sealed[0].manifest, "customer-2").await.unwrap().len(), 1);
    let one = record(1, "insert", "1", None);
    assert_ne!(again.find_document(&sealed[0].manifest, "customer-2").await.unwrap(), [one]);
}

#[tokio::test]
async fn a_file_with_a_name_that_no_object_can_have_is_corrupt_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let archive = Archive::open_url(Url::from_file_path(folder.path()).unwrap().as_str(), &[]).unwrap();
    std::fs::write(folder.path().join("bad\nname.parquet"), "").unwrap();
    let error = archive.objects(None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt);
    assert!(error.explain().contains("name.parquet"), "{}", error.explain());
}

#[test]
fn wrong_locations_say_what_is_wrong() {
    let option = |name: &str| vec![(name.to_owned(), Secret::new("x"))];
    for (url, options, part) in [
        ("/var/lib/archive", vec![], "URL"),
        ("ftp://host/x", vec![], "ftp"),
        ("memory:///", vec![], "memory"),
        ("https://example.org/x", vec![], "https"),
        ("s3://key:secret@bucket/x", vec![], "credentials"),
        ("s3://bucket/x?y=z", vec![], "query"),
        ("s3://bucket/x", option("acess_key_id"), "acess_key_id"),
        ("az://container/x", option("region"), "region"),
        ("file:///tmp", option("region"), "region"),
    ] {
        let error = open::open(url, &options, false).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid, "{url}");
        assert!(error.to_string().contains(part), "{url}: {error}");
        assert!(error.hint_text().is_some(), "{url}");
    }
    let options =
        [("region", "eu-west-1"), ("access_key_id", "a"), ("secret_access_key", "b"), ("allow_http", "true")];
    let options: Vec<_> =
        options.iter().map(|(name, value)| ((*name).to_owned(), Secret::new(*value))).collect();
    open::open("s3://bucket/some/prefix", &options, false).unwrap();
}
