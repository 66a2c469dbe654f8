//! What publishing in a Delta table promises, whatever the store does and whoever else publishes.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::Value;

use super::super::manifest::Context;
use super::super::segment::tests::{in_partition, record, sample};
use super::super::segment::{Segment, SegmentBuilder};
use super::super::store::Sealed;
use super::super::store::faulty::{Fault, Faulty};
use super::*;
use crate::Kind;

fn archive(faults: impl IntoIterator<Item = Fault>) -> (Faulty, Archive) {
    let store = Faulty::with(faults);
    let archive = Archive::new(Arc::new(store.clone()), "base", "faulty").unwrap();
    (store, archive)
}

fn whole() -> StreamId {
    StreamId::whole("shop")
}

fn partition(number: u32) -> StreamId {
    StreamId { source: "shop".to_owned(), partition: Some(number) }
}

/// Commits and seals this many segments of a stream, of five records each.
async fn seal(archive: &Archive, stream: &StreamId, segments: i64) -> Vec<Manifest> {
    let (mut previous, mut manifests): (Option<Sealed>, _) = (None, Vec::new());
    for first in (0..segments).map(|n| n * 5 + 1) {
        let mut builder = SegmentBuilder::new(stream);
        for seq in first..first + 5 {
            let record = record(seq, "insert", &format!("\"id-{seq}\""), None);
            let record = stream.partition.map_or(record.clone(), |number| in_partition(number, &record));
            builder.push(&record).unwrap();
        }
        let segment = builder.finish().unwrap();
        archive.commit(&segment).await.unwrap();
        let context = Context {
            log: "log",
            counters: None,
            policy_digest: "",
            server: "6.0.5",
            created: "2026-11-21T06:00:00Z".to_owned(),
            previous: previous.as_ref(),
        };
        let sealed = archive.seal(&Manifest::new(&segment, context)).await.unwrap();
        manifests.push(sealed.manifest.clone());
        previous = Some(sealed);
    }
    manifests
}

async fn publish(archive: &Archive, stream: &StreamId, manifests: &[Manifest]) -> Result<()> {
    Delta::open(archive, stream, "log").await?.publish(manifests).await
}

async fn commits(archive: &Archive) -> Vec<Commit> {
    let mut commits = Vec::new();
    for version in versions(archive, "shop").await.unwrap() {
        assert_eq!(version, commits.len() as i64, "the log is dense");
        commits.push(read(archive, "shop", version).await.unwrap());
    }
    commits
}

/// The segments in the table, as its log has it; panics where one is added twice.
async fn table(archive: &Archive) -> BTreeSet<String> {
    let mut table = BTreeSet::new();
    for commit in commits(archive).await {
        for add in commit.adds {
            assert!(table.insert(add.path.clone()), "added twice: {}", add.path);
        }
        for path in commit.removes {
            table.remove(&path);
        }
    }
    table
}

fn paths_of<'a>(manifests: impl IntoIterator<Item = &'a Manifest>) -> BTreeSet<String> {
    manifests.into_iter().map(|manifest| Add::of(manifest).path).collect()
}

#[tokio::test]
async fn each_segment_is_published_once_whatever_answer_gets_lost() {
    for faults in [
        vec![],
        vec![Fault::Rejected],
        vec![Fault::LostReply, Fault::LostReply],
        vec![Fault::OwnWriteExists, Fault::Conflict, Fault::OwnWriteExists],
        vec![Fault::Rejected; 4],
        vec![Fault::LostReply, Fault::Rejected, Fault::Rejected, Fault::Rejected, Fault::Rejected],
    ] {
        let (store, archive) = archive([]);
        let manifests = seal(&archive, &whole(), 3).await;
        store.faults.lock().unwrap().extend(faults.clone());
        while publish(&archive, &whole(), &manifests[..1]).await.is_err() {}
        // One that goes on from where it was, and one that begins anew.
        let mut delta = Delta::open(&archive, &whole(), "log").await.unwrap();
        delta.publish(&manifests[..2]).await.unwrap();
        delta.publish(&manifests).await.unwrap();
        publish(&archive, &whole(), &manifests).await.unwrap();
        assert_eq!(table(&archive).await, paths_of(&manifests), "{faults:?}");
        assert_eq!(commits(&archive).await.len(), 4, "{faults:?}");
    }
}

#[tokio::test]
async fn a_backlog_is_one_commit() {
    let (_, archive) = archive([]);
    let manifests = seal(&archive, &whole(), 7).await;
    publish(&archive, &whole(), &manifests).await.unwrap();
    let commits = commits(&archive).await;
    assert_eq!(commits.len(), 2);
    assert_eq!(commits[1].adds, manifests.iter().map(Add::of).collect::<Vec<_>>());
    assert_eq!(commits[1].position(&whole()), Some(Position { published: 36, expired: 1 }));
    assert!(commits[0].table.is_some() && commits[1].is_of("shop") && !commits[1].is_of("sho"));
}

#[tokio::test]
async fn many_who_publish_many_streams_at_once_publish_each_segment_once() {
    let (_, archive) = archive([]);
    let streams = [partition(0), partition(1), partition(12)];
    let mut all = Vec::new();
    for stream in &streams {
        all.push((stream.clone(), seal(&archive, stream, 6).await));
    }
    let mut publishing = tokio::task::JoinSet::new();
    for (number, (stream, manifests)) in all.iter().cycle().take(9).cloned().enumerate() {
        let archive = archive.clone();
        publishing.spawn(async move {
            let mut delta = Delta::open(&archive, &stream, "log").await.unwrap();
            // Some bit by bit, some all at once.
            for end in (1..=manifests.len()).filter(|end| number % 2 == 0 || *end == manifests.len()) {
                delta.publish(&manifests[..end]).await.unwrap();
                tokio::task::yield_now().await;
            }
        });
    }
    publishing.join_all().await;
    assert_eq!(table(&archive).await, paths_of(all.iter().flat_map(|(_, manifests)| manifests)));
    assert_eq!(commits(&archive).await.iter().filter(|commit| commit.table.is_some()).count(), 1);
}

#[tokio::test]
async fn a_version_that_somebody_else_took_is_passed() {
    let (_, archive) = archive([]);
    let manifests = seal(&archive, &whole(), 2).await;
    let mut delta = Delta::open(&archive, &whole(), "log").await.unwrap();
    // Another program's commit, and another process's of the same stream.
    let key = paths::delta_commit_key("shop", 1);
    let theirs = Bytes::from_static(b"{\"commitInfo\":{\"operation\":\"VACUUM START\"}}\n");
    archive.create(&key, theirs).await.unwrap();
    publish(&archive, &whole(), &manifests[..1]).await.unwrap();
    delta.publish(&manifests).await.unwrap();
    assert_eq!(table(&archive).await, paths_of(&manifests));
    assert_eq!(commits(&archive).await.len(), 4);
}

#[tokio::test]
async fn removed_segments_leave_the_table_and_do_not_come_back() {
    let (_, archive) = archive([]);
    let manifests = seal(&archive, &whole(), 4).await;
    publish(&archive, &whole(), &manifests[..3]).await.unwrap();
    let mut delta = Delta::open(&archive, &whole(), "log").await.unwrap();
    delta.remove(&manifests[..2]).await.unwrap();
    assert_eq!(table(&archive).await, paths_of(&manifests[2..3]));
    delta.publish(&manifests).await.unwrap();
    publish(&archive, &whole(), &manifests).await.unwrap();
    assert_eq!(table(&archive).await, paths_of(&manifests[2..]));
    // Again after a crash, and one that was never published.
    let before = commits(&archive).await.len();
    let mut delta = Delta::open(&archive, &whole(), "log").await.unwrap();
    assert!(!delta.may_list(6) && delta.may_list(11));
    delta.remove(&manifests[..2]).await.unwrap();
    let later = Manifest { first_seq: 21, end_seq: 26, ..manifests[3].clone() };
    delta.remove(&[later]).await.unwrap();
    assert_eq!((table(&archive).await, commits(&archive).await.len()), (paths_of(&manifests[2..]), before));
}

/// Whoever removes may know less than whoever publishes meanwhile, and the other way round: what they say must not go back.
#[tokio::test]
async fn segments_are_published_and_removed_at_once() {
    let (_, archive) = archive([]);
    let manifests = seal(&archive, &whole(), 5).await;
    publish(&archive, &whole(), &manifests[..2]).await.unwrap();
    let mut removing = Delta::open(&archive, &whole(), "log").await.unwrap();
    let mut publishing = Delta::open(&archive, &whole(), "log").await.unwrap();
    publish(&archive, &whole(), &manifests[..3]).await.unwrap();
    removing.remove(&manifests[..1]).await.unwrap();
    publishing.publish(&manifests[..4]).await.unwrap();
    removing.remove(&manifests[..2]).await.unwrap();
    publish(&archive, &whole(), &manifests).await.unwrap();
    assert_eq!(table(&archive).await, paths_of(&manifests[2..]));
    let newest = commits(&archive).await.pop().unwrap();
    assert_eq!(newest.position(&whole()), Some(Position { published: 26, expired: 11 }));
}

/// What had expired before there was a table is not taken out of it.
#[tokio::test]
async fn a_table_that_begins_behind_what_has_expired_knows_so() {
    let (_, archive) = archive([]);
    let manifests = seal(&archive, &whole(), 4).await;
    let mut delta = Delta::open(&archive, &whole(), "log").await.unwrap();
    delta.publish(&manifests[2..]).await.unwrap();
    assert!(!delta.may_list(1) && !delta.may_list(6) && delta.may_list(11));
    delta.remove(&manifests[..3]).await.unwrap();
    assert_eq!(table(&archive).await, paths_of(&manifests[3..]));
    assert_eq!(commits(&archive).await.pop().unwrap().removes, [Add::of(&manifests[2]).path]);
}

#[tokio::test]
async fn another_programs_table_and_a_log_with_a_hole_are_left_alone() {
    let (_, archive) = archive([]);
    let manifests = seal(&archive, &whole(), 1).await;
    let foreign = Bytes::from_static(b"{\"metaData\":{\"id\":\"theirs\"}}\n");
    archive.create(&paths::delta_commit_key("shop", 0), foreign).await.unwrap();
    let error = publish(&archive, &whole(), &manifests).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    assert!(error.hint_text().unwrap().contains("made anew"));
    assert_eq!(commits(&archive).await.len(), 1);

    let (_, archive) = self::archive([]);
    let manifests = seal(&archive, &whole(), 1).await;
    archive.create(&paths::delta_commit_key("shop", 1), Bytes::from_static(b"{}\n")).await.unwrap();
    assert_eq!(publish(&archive, &whole(), &manifests).await.unwrap_err().kind(), Kind::Corrupt);

    let (_, archive) = self::archive([]);
    let manifests = seal(&archive, &whole(), 1).await;
    publish(&archive, &whole(), &manifests).await.unwrap();
    archive.create(&paths::delta_commit_key("shop", 2), Bytes::from_static(b"not JSON")).await.unwrap();
    assert_eq!(publish(&archive, &whole(), &manifests).await.unwrap_err().kind(), Kind::Corrupt);
}

#[tokio::test]
async fn a_sealed_segment_that_is_missing_is_not_published() {
    let (store, archive) = archive([]);
    let manifests = seal(&archive, &whole(), 2).await;
    let path = object_store::path::Path::from(format!("base/{}", manifests[1].segment));
    object_store::ObjectStoreExt::delete(&*store.inner, &path).await.unwrap();
    let error = publish(&archive, &whole(), &manifests).await.unwrap_err();
    assert_eq!((error.kind(), table(&archive).await.len()), (Kind::Corrupt, 0));
}

fn lines(commit: &[u8]) -> Vec<Value> {
    std::str::from_utf8(commit).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What other programs read. Its statistics are compared with them in the end-to-end tests.
#[tokio::test]
async fn a_commit_says_what_the_protocol_wants() {
    let (_, archive) = archive([]);
    let manifests = seal(&archive, &partition(3), 1).await;
    publish(&archive, &partition(3), &manifests).await.unwrap();
    let table = lines(&archive.get(&paths::delta_commit_key("shop", 0)).await.unwrap().unwrap());
    assert_eq!(table[1]["protocol"], serde_json::json!({"minReaderVersion": 1, "minWriterVersion": 2}));
    let metadata = &table[2]["metaData"];
    assert_eq!(metadata["partitionColumns"], serde_json::json!(["date"]));
    assert_eq!(metadata["id"].as_str().unwrap().len(), 36);
    let schema: Value = serde_json::from_str(metadata["schemaString"].as_str().unwrap()).unwrap();
    let fields: Vec<String> = schema["fields"].as_array().unwrap().iter().map(shown).collect();
    let expected = "seq long!, op string!, db string, coll string, doc_id string, doc_key string, cluster_time timestamp!, \
        cluster_inc integer!, wall_time timestamp, actor string, actor_from string, txn string, before string, after string, \
        delta string, before_exact binary, after_exact binary, delta_exact binary, changed array of string, images string, \
        detail string, policy long, extra string, date date";
    assert_eq!(fields.join(", "), expected);

    let commit = lines(&archive.get(&paths::delta_commit_key("shop", 1)).await.unwrap().unwrap());
    assert_eq!(commit[0]["commitInfo"]["engineInfo"], format!("archiver/{}", env!("CARGO_PKG_VERSION")));
    assert_eq!(
        commit[1]["txn"],
        serde_json::json!({"appId": "archiver/shop/3", "version": 6, "lastUpdated": 1_795_240_800_000_i64})
    );
    let add = &commit[2]["add"];
    assert_eq!(add["path"], "date=2026-11-21/seg-p3-00000000000000000001.parquet");
    assert_eq!(add["partitionValues"], serde_json::json!({"date": "2026-11-21"}));
    assert_eq!((&add["size"], &add["dataChange"]), (&manifests[0].size.into(), &true.into()));
    let stats: Value = serde_json::from_str(add["stats"].as_str().unwrap()).unwrap();
    assert_eq!((&stats["numRecords"], &stats["nullCount"]["doc_id"]), (&5.into(), &0.into()));
    assert_eq!((&stats["minValues"]["seq"], &stats["maxValues"]["seq"]), (&1.into(), &5.into()));
    assert_eq!(stats["maxValues"]["doc_id"], "id-5");
    assert_eq!(stats["minValues"]["cluster_time"], "2026-11-21T00:00:01.000Z");
    assert!(stats["minValues"].get("actor").is_none() && !add["stats"].as_str().unwrap().contains("txn"));
}

fn shown(field: &Value) -> String {
    let kind = match field["type"].as_str() {
        Some(name) => name.to_owned(),
        None => format!(
            "{} of {}",
            field["type"]["type"].as_str().unwrap(),
            field["type"]["elementType"].as_str().unwrap()
        ),
    };
    let required = if field["nullable"] == true { "" } else { "!" };
    format!("{} {kind}{required}", field["name"].as_str().unwrap())
}

fn segment_of(ids: &[String]) -> Segment {
    let mut builder = SegmentBuilder::new(&whole());
    for (seq, id) in (1..).zip(ids) {
        let id = Value::from(id.as_str()).to_string();
        builder.push(&record(seq, "insert", &id, None)).unwrap();
    }
    builder.finish().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Strings of any length and kind, many with a long common beginning, among them characters that can't be raised.
    #[test]
    fn no_string_of_a_segment_is_outside_of_its_bounds(
        ids in prop::collection::vec("(x{60}|é{31}|\u{10ffff}{20})?.{0,40}\u{10ffff}{0,40}", 1..20),
    ) {
        let segment = segment_of(&ids);
        let footer = parquet::file::metadata::ParquetMetaDataReader::new().parse_and_finish(&segment.file).unwrap();
        let stats = statistics::of(&footer);
        prop_assert_eq!(stats["numRecords"].as_u64(), Some(ids.len() as u64));
        let bound = |which: &str| stats[which].get("doc_id").map(|bound| bound.as_str().unwrap().to_owned());
        if let (Some(min), Some(max)) = (bound("minValues"), bound("maxValues")) {
            prop_assert!(ids.iter().all(|id| *min <= **id && **id <= *max), "{:?} {:?}", min, max);
            prop_assert!(max.len() <= 256);
        } else {
            prop_assert!(ids.iter().any(|id| id.len() > 64), "left out without need");
        }
    }
}

#[test]
fn bounds_cover_all_row_groups() {
    let (segment, _) = sample(1, 40_000);
    let footer =
        parquet::file::metadata::ParquetMetaDataReader::new().parse_and_finish(&segment.file).unwrap();
    assert!(footer.row_groups().len() > 1);
    let stats = statistics::of(&footer);
    assert_eq!((&stats["minValues"]["seq"], &stats["maxValues"]["seq"]), (&1.into(), &40_000.into()));
    assert_eq!(
        (&stats["minValues"]["doc_id"], &stats["maxValues"]["doc_id"]),
        (&"customer-0".into(), &"customer-96".into())
    );
    assert_eq!((&stats["minValues"]["op"], &stats["maxValues"]["op"]), (&"delete".into(), &"insert".into()));
}
