//! What building, reading and searching a segment promise together.
#![allow(clippy::unwrap_used)]

use bson::Timestamp;
use bson_walker::{Doc, Element, Writer, kind};
use object_store::memory::InMemory;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use proptest::prelude::*;

use super::super::extjson::random::Random;
use super::super::extjson::{doc_id_text, value_from_text};
use super::super::manifest::{Context, Manifest};
use super::super::schema::{DOC_ID, Footer, ROW_GROUP_ROWS, position};
use super::super::store::Archive;
use super::*;

/// 2026-11-21T00:00:00Z
pub(in super::super) const DAY: u32 = 1_795_219_200;

fn whole(seq: i64) -> RecordId {
    RecordId { partition: None, seq }
}

/// A record as capture makes it.
pub(in super::super) fn record(seq: i64, op: &str, id: &str, after: Option<&[u8]>) -> Vec<u8> {
    let key = value_from_text("_id", id).unwrap();
    let body = Writer::build(|w| {
        w.str("op", op);
        namespace(w);
        w.doc("key", &key);
        w.timestamp("clusterTime", DAY + (seq % 86_000) as u32, seq as u32);
        w.date_millis("wallTime", i64::from(DAY) * 1_000 + seq);
        if let Some(after) = after {
            w.doc("after", after);
        }
    });
    Record::encode(whole(seq), Doc::new(&body).unwrap(), 1)
}

fn namespace(w: &mut Writer<'_>) {
    let mut ns = w.begin_doc(b"ns");
    ns.str("db", "shop");
    ns.str("coll", "orders");
    ns.end();
}

/// A segment of `rows` inserts over a few documents, and its records.
pub(in super::super) fn sample(first_seq: i64, rows: i64) -> (Segment, Vec<Vec<u8>>) {
    let records: Vec<Vec<u8>> = (first_seq..first_seq + rows)
        .map(|seq| {
            let after = Writer::build(|w| {
                w.i64("_id", seq % 97);
                w.str("status", ["new", "paid", "sent"][(seq % 3) as usize]);
                w.i32("total", seq as i32);
            });
            let op = if seq % 10 == 9 { "delete" } else { "insert" };
            record(seq, op, &format!("\"customer-{}\"", seq % 97), (op == "insert").then_some(&after))
        })
        .collect();
    (build(&records), records)
}

pub(super) fn build(records: &[Vec<u8>]) -> Segment {
    let mut builder = SegmentBuilder::new(&StreamId::whole("shop"));
    for record in records {
        builder.push(record).unwrap();
    }
    builder.finish().unwrap()
}

pub(in super::super) fn manifest(segment: &Segment) -> Manifest {
    let created = "2026-11-21T06:00:00Z".to_owned();
    Manifest::new(
        segment,
        Context { log: "log", counters: None, policy_digest: "", server: "6.0.5", created, previous: None },
    )
}

/// The file that these records make, without the proof that it gives them back.
pub(super) fn encode_as(records: &[Vec<u8>], keep: Keep) -> Bytes {
    let mut spool = Spool::new(spool::BUILDING);
    records.iter().for_each(|record| spool.push(record).unwrap());
    let order: Vec<u32> = (0..records.len() as u32).collect();
    let first_seq = Record::new(&records[0]).unwrap().seq().unwrap();
    let end_seq = first_seq + records.len() as i64;
    let footer = Footer { stream: &StreamId::whole("shop"), first_seq, end_seq, merkle_root: String::new() };
    encode::encode(&spool, &order, &footer, keep).unwrap().into()
}

fn read_all(segment: &Segment) -> Vec<Vec<u8>> {
    read(segment.file.clone()).unwrap().iter().collect::<Result<_>>().unwrap()
}

/// A record with random contents; with `odd`, of a shape that no capture writes.
pub(crate) fn random_record(random: &mut Random, seq: i64, odd: bool) -> Vec<u8> {
    let mut fields: Vec<Vec<u8>> = Vec::new();
    let mut add = |fill: &dyn Fn(&mut Writer<'_>)| {
        let bytes = Writer::build(|w| fill(w));
        fields.push(bytes[4..bytes.len() - 1].to_vec());
    };
    let mut documents = (0..6).map(|_| random.document()).collect::<Vec<_>>();
    let choices: Vec<usize> = (0..16).map(|_| random.below(6)).collect();
    add(&|w| w.str("op", ["insert", "update", "delete", "policy"][choices[0] % 4]));
    if choices[1] > 0 {
        add(&|w| {
            let mut ns = w.begin_doc(b"ns");
            ns.str("db", "shop");
            if choices[1] > 1 {
                ns.str("coll", "größe");
            }
            ns.end();
        });
    }
    if choices[2] > 0 {
        let key =
            if choices[2] == 1 { documents.pop().unwrap() } else { Writer::build(|w| w.i64("_id", seq % 5)) };
        add(&|w| w.doc("key", &key));
    }
    add(&|w| w.timestamp("clusterTime", DAY + (seq % 80_000) as u32, u32::MAX - seq as u32));
    if choices[3] > 0 {
        add(&|w| w.date_millis("wallTime", -(seq << (choices[3] * 3))));
    }
    for (n, name) in ["before", "after", "delta", "images"].into_iter().enumerate() {
        if choices[4 + n] > 2 {
            let part = documents.pop().unwrap();
            add(&|w| w.doc(name, &part));
        }
    }
    if choices[8] == 0 {
        add(&|w| {
            let mut txn = w.begin_doc(b"txn");
            txn.binary("lsid", 4, &[seq as u8; 16]);
            txn.i64("number", seq * 1_000_000_007);
            txn.end();
        });
    }
    if choices[9] == 0 {
        add(&|w| {
            let mut actor = w.begin_doc(b"actor");
            actor.str("id", "ann\u{0}\"");
            actor.str("from", "document");
            if choices[11].is_multiple_of(2) {
                actor.str("reason", "a \"refund\"\u{0}");
            }
            actor.end();
        });
    }
    if choices[10] == 0 {
        let part = documents.pop().unwrap();
        add(&|w| w.doc("detail", &part));
    }
    if odd && choices[11] == 0 {
        let part = documents.pop().unwrap_or_else(|| vec![5, 0, 0, 0, 0]);
        add(&|w| w.doc(["unknown", "op", "ns", "txn", "before", "actor"][choices[12]], &part));
    }
    if odd && choices[13] == 0 {
        let n = fields.len();
        fields.swap(choices[14] % n, choices[15] % n);
    }
    let body = Writer::build(|w| {
        for field in &fields {
            let whole = [&(field.len() as i32 + 5).to_le_bytes()[..], field, &[0]].concat();
            let doc = Doc::new(&whole).unwrap();
            doc.elements().for_each(|e: Result<Element<'_>, _>| w.append(&e.unwrap()));
        }
    });
    Record::encode(whole(seq), Doc::new(&body).unwrap(), 1)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn a_segment_gives_every_record_back_exactly(seed: u64, odd: bool, rows in 1_i64..200) {
        let mut random = Random::new(seed, odd);
        let records: Vec<Vec<u8>> = (0..rows).map(|n| random_record(&mut random, 1_000 + n, odd)).collect();
        let segment = build(&records);
        prop_assert_eq!(&read_all(&segment), &records);
        // Without the way out that keeps every record whole.
        let columns = read(encode_as(&records, Keep::Columns)).unwrap();
        prop_assert_eq!(&columns.iter().collect::<Result<Vec<_>>>().unwrap()[..], &records[..]);
        let again = Segment::from_file(&segment.key, segment.file.clone()).unwrap();
        prop_assert_eq!(&again, &segment);
        prop_assert_eq!(&build(&records).file, &segment.file, "equal records give equal bytes");
    }

    #[test]
    fn damaged_files_are_errors_not_panics(at: prop::sample::Index, with: u8, cut: prop::sample::Index) {
        let (segment, _) = sample(1, 300);
        let mut damaged = segment.file.to_vec();
        // Half of the damage goes where the footer is.
        let len = damaged.len();
        let at = if with % 2 == 0 { at.index(len) } else { len - 1 - at.index(len.min(4_000)) };
        damaged[at] ^= with | 1;
        let _ = Segment::from_file(&segment.key, damaged.clone().into());
        let _ = read(damaged.into());
        let _ = read(segment.file.slice(..cut.index(len)));
    }

    #[test]
    fn searching_a_damaged_file_is_an_error_not_a_panic(at: prop::sample::Index, with: u8) {
        let (segment, _) = sample(1, 300);
        let mut damaged = segment.file.to_vec();
        let at = at.index(damaged.len());
        damaged[at] ^= with | 1;
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let archive = Archive::new(std::sync::Arc::new(InMemory::new()), "", "memory").unwrap();
            let manifest = manifest(&segment);
            archive.commit(&Segment { file: damaged.into(), ..segment }).await.unwrap();
            let _ = archive.find_document(&manifest, "customer-7").await;
            let from = Timestamp { time: 0, increment: 0 };
            let _ = archive.find_ops(&manifest, &["delete"], from).await;
        });
    }
}

/// Of levels that never begin a record the Parquet reader skips for ever.
#[tokio::test]
async fn a_damaged_list_does_not_hold_up_a_search() {
    let (segment, _) = sample(1, 300);
    let manifest = manifest(&segment);
    let metadata = ArrowReaderMetadata::load(&segment.file, ArrowReaderOptions::new()).unwrap();
    let lists = metadata.metadata().row_group(0).columns();
    let (start, length) = lists.iter().find(|c| c.column_descr().max_rep_level() > 0).unwrap().byte_range();
    for at in start..start + length {
        let mut damaged = segment.file.to_vec();
        damaged[at as usize] ^= 1;
        let archive = Archive::new(std::sync::Arc::new(InMemory::new()), "", "memory").unwrap();
        archive.commit(&Segment { file: damaged.into(), ..segment.clone() }).await.unwrap();
        let found = archive.find_document(&manifest, "customer-7").await.unwrap();
        assert!(!found.is_empty());
    }
}

#[test]
fn every_record_can_be_kept_whole() {
    let (segment, records) = sample(1, 50);
    assert_eq!(read_all(&Segment { file: encode_as(&records, Keep::Whole), ..segment }), records);
}

/// The record as one of a partition.
pub(in super::super) fn in_partition(partition: u32, record: &[u8]) -> Vec<u8> {
    let record = Record::new(record).unwrap();
    Writer::build(|w| {
        RecordId { partition: Some(partition), seq: record.seq().unwrap() }.write(w);
        record.doc().elements().skip(1).for_each(|e| w.append(&e.unwrap()));
    })
}

#[test]
fn records_of_a_partition_come_back_exactly_and_those_of_another_are_refused() {
    let partition = |p| StreamId { source: "shop".to_owned(), partition: Some(p) };
    let mut random = Random::new(7, true);
    let whole: Vec<Vec<u8>> = (1..300).map(|n| random_record(&mut random, n, n % 2 == 0)).collect();
    let records: Vec<Vec<u8>> = whole.iter().map(|record| in_partition(3, record)).collect();
    let mut builder = SegmentBuilder::new(&partition(3));
    for wrong in [&whole[0], &in_partition(2, &whole[0])] {
        assert_eq!(builder.push(wrong).unwrap_err().kind(), crate::Kind::Internal);
    }
    records.iter().for_each(|record| builder.push(record).unwrap());
    let segment = builder.finish().unwrap();
    assert_eq!(segment.key, "source=shop/date=2026-11-21/seg-p3-00000000000000000001.parquet");
    assert_eq!(read_all(&segment), records);
    assert_eq!(Segment::from_file(&segment.key, segment.file.clone()).unwrap(), segment);
    let other = segment.key.replace("seg-p3-", "seg-p2-");
    assert_eq!(Segment::from_file(&other, segment.file).unwrap_err().kind(), crate::Kind::Corrupt);
    // A file whose records are another partition's than its footer says.
    let mut spool = Spool::new(spool::BUILDING);
    spool.push(&records[0]).unwrap();
    let footer = Footer { stream: &partition(2), first_seq: 1, end_seq: 2, merkle_root: String::new() };
    let file = encode::encode(&spool, &[0], &footer, Keep::Columns).unwrap();
    assert_eq!(read::summarize(file.into()).unwrap_err().kind(), crate::Kind::Corrupt);
}

#[test]
fn a_summary_counts_what_is_in_it() {
    let (segment, records) = sample(5, 20);
    assert_eq!(segment.key, "source=shop/date=2026-11-21/seg-00000000000000000005.parquet");
    let summary = &segment.summary;
    assert_eq!((summary.first_seq, summary.end_seq, summary.rows), (5, 25, 20));
    assert_eq!(summary.bson_bytes, records.iter().map(|r| r.len() as u64).sum::<u64>());
    assert_eq!(
        summary.ops.iter().map(|(op, n)| (op.as_str(), *n)).collect::<Vec<_>>(),
        [("delete", 2), ("insert", 18)]
    );
    assert_eq!((summary.first_cluster_time.i, summary.last_cluster_time.i), (5, 24));
    let leaves = records.iter().map(|r| Record::new(r).unwrap().leaf());
    assert_eq!(summary.merkle_root, leaves.collect::<Tree>().root());
}

#[test]
fn a_builder_refuses_what_does_not_continue_it() {
    let mut builder = SegmentBuilder::new(&StreamId::whole("shop"));
    assert_eq!(builder.day(), None);
    builder.push(&record(7, "insert", "1", None)).unwrap();
    for wrong in [7, 9, 6] {
        let error = builder.push(&record(wrong, "insert", "1", None)).unwrap_err();
        assert_eq!(error.kind(), crate::Kind::Internal);
    }
    let body = Writer::build(|w| {
        w.str("op", "insert");
        w.timestamp("clusterTime", DAY + 86_400, 1);
    });
    let tomorrow = Record::encode(whole(8), Doc::new(&body).unwrap(), 1);
    assert_eq!(builder.push(&tomorrow).unwrap_err().kind(), crate::Kind::Internal);
    builder.push(&record(8, "insert", "1", None)).unwrap();
    assert_eq!((builder.rows(), builder.day().unwrap().to_string()), (2, "2026-11-21".to_owned()));
    assert_eq!(read_all(&builder.finish().unwrap()).len(), 2);
    assert!(SegmentBuilder::new(&StreamId::whole("shop")).finish().is_err());
}

#[test]
fn a_file_under_another_key_is_corrupt() {
    let (segment, _) = sample(5, 3);
    for key in [
        "source=other/date=2026-11-21/seg-00000000000000000005.parquet",
        "source=shop/date=2026-11-22/seg-00000000000000000005.parquet",
        "source=shop/date=2026-11-21/seg-00000000000000000006.parquet",
        "source=shop/date=2026-11-21/seg-p1-00000000000000000005.parquet",
    ] {
        let error = Segment::from_file(key, segment.file.clone()).unwrap_err();
        assert_eq!(error.kind(), crate::Kind::Corrupt, "{key}");
    }
}

#[test]
fn row_groups_are_small_sorted_and_end_early_for_fat_documents() {
    let (segment, _) = sample(1, 40_000);
    let metadata = ArrowReaderMetadata::load(&segment.file, ArrowReaderOptions::new()).unwrap();
    let metadata = metadata.metadata();
    let rows: Vec<i64> = metadata.row_groups().iter().map(|g| g.num_rows()).collect();
    assert_eq!(rows, [ROW_GROUP_ROWS as i64, ROW_GROUP_ROWS as i64, 40_000 - 2 * ROW_GROUP_ROWS as i64]);
    let mut last: Vec<u8> = Vec::new();
    for group in metadata.row_groups() {
        let column = group.column(position(DOC_ID).unwrap());
        let statistics = column.statistics().unwrap();
        assert!(statistics.min_bytes_opt().unwrap() >= last.as_slice());
        last = statistics.max_bytes_opt().unwrap().to_vec();
        let data_end =
            metadata.row_groups().iter().map(|g| g.column(22).byte_range()).map(|(at, len)| at + len).max();
        assert!(
            column.bloom_filter_offset().unwrap() as u64 >= data_end.unwrap(),
            "bloom filters are in the tail"
        );
        assert_eq!(group.sorting_columns().unwrap().len(), 2);
    }
    let fat = Writer::build(|w| w.str("text", &"x".repeat(5 << 20)));
    let records: Vec<Vec<u8>> = (1..=10).map(|seq| record(seq, "insert", "1", Some(&fat))).collect();
    let segment = build(&records);
    let metadata = ArrowReaderMetadata::load(&segment.file, ArrowReaderOptions::new()).unwrap();
    assert_eq!(metadata.metadata().num_row_groups(), 2);
    assert_eq!(read_all(&segment), records);
}

#[test]
fn changed_names_the_top_level_fields_an_update_touched() {
    let delta = Writer::build(|w| {
        let mut updated = w.begin_doc(b"updatedFields");
        updated.i32("b.c.d", 1);
        updated.i32("b.x", 1);
        updated.i32("home.town", 1);
        updated.end();
        let mut removed = w.begin_array(b"removedFields");
        removed.str("0", "a");
        removed.end();
        let mut truncated = w.begin_array(b"truncatedArrays");
        let mut one = truncated.begin_doc(b"0");
        one.str("field", "list.3");
        one.i32("newSize", 2);
        one.end();
        truncated.end();
        let mut paths = w.begin_doc(b"disambiguatedPaths");
        let mut path = paths.begin_array(b"home.town");
        path.str("0", "home.town");
        path.end();
        paths.end();
    });
    let body = Writer::build(|w| {
        w.str("op", "update");
        w.timestamp("clusterTime", DAY, 1);
        w.doc("delta", &delta);
    });
    let update = Record::encode(whole(1), Doc::new(&body).unwrap(), 1);
    let row = super::super::row::Row::of(Record::new(&update).unwrap()).unwrap();
    assert!(!row.odd);
    assert_eq!(row.changed().unwrap(), ["a", "b", "home.town", "list"]);
    let insert = record(2, "insert", "1", None);
    assert_eq!(super::super::row::Row::of(Record::new(&insert).unwrap()).unwrap().changed(), None);
}

#[tokio::test]
async fn one_document_is_found_by_its_id() {
    let (mut records, rows) = (sample(1, 20_000).1, 20_000);
    let id = Writer::build(|w| w.raw(kind::OBJECT_ID, b"_id", &[7; 12]));
    let by_object_id = doc_id_text(Doc::new(&id).unwrap().get("_id").unwrap());
    records.push(record(rows + 1, "insert", &format!("{{\"$oid\":\"{by_object_id}\"}}"), None));
    let segment = build(&records);
    let store = std::sync::Arc::new(InMemory::new());
    let archive = Archive::new(store, "some/prefix", "memory").unwrap();
    archive.commit(&segment).await.unwrap();
    let manifest = manifest(&segment);
    for id in ["customer-0", "customer-50", "customer-96", by_object_id.as_str()] {
        let expected: Vec<&Vec<u8>> = records.iter().filter(|r| text_id(r) == id).collect();
        let found = archive.find_document(&manifest, id).await.unwrap();
        assert!(!expected.is_empty());
        assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{id}");
    }
    for absent in ["", "customer-", "customer-97", "customer-500", "zzz"] {
        assert_eq!(archive.find_document(&manifest, absent).await.unwrap().len(), 0);
    }
    // The very time of a delete: it counts.
    let from = Timestamp { time: DAY + 109, increment: 109 };
    let found = archive.find_ops(&manifest, &["delete", "drop"], from).await.unwrap();
    let expected: Vec<&Vec<u8>> = records
        .iter()
        .filter(|r| {
            let record = Record::new(r).unwrap();
            let time = record.cluster_time().unwrap();
            record.op() == "delete" && (time.time, time.increment) >= (from.time, from.increment)
        })
        .collect();
    assert_eq!(found.iter().collect::<Vec<_>>(), expected);
    assert!(archive.find_ops(&manifest, &["rename"], from).await.unwrap().is_empty());
}

fn text_id(record: &[u8]) -> String {
    doc_id_text(Record::new(record).unwrap().id().unwrap())
}
