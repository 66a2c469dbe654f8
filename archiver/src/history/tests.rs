//! What history says of documents whose records lie in several segments.
#![allow(clippy::unwrap_used)]

use std::cell::RefCell;

use bson::{Document, doc};
use tempfile::TempDir;

use super::id::DocumentId;
use super::recover::{Answer, Recovered, by_id, deleted_since};
use super::states::{Reason, State};
use super::testing::{DAY, Shop};
use super::*;
use crate::error::Kind;

/// A history of the archive alone.
async fn history(shop: &Shop, ends: &[i64]) -> History {
    let (archive, folder) = shop.archive(ends).await;
    FOLDERS.with_borrow_mut(|folders| folders.push(folder));
    History::new(None, archive)
}

thread_local! {
    /// Removed when the test's thread ends.
    static FOLDERS: RefCell<Vec<TempDir>> = const { RefCell::new(Vec::new()) };
}

fn id(text: &str) -> DocumentId {
    DocumentId::parse(text).unwrap()
}

fn document(recovered: &Recovered) -> Document {
    bson::deserialize_from_slice(&recovered.document).unwrap()
}

async fn recovered(history: &History, text: &str, at: Option<i64>) -> Result<Document> {
    by_id(history, "shop", &id(text), at, None).await.map(|(found, _)| document(&found))
}

fn set(fields: Document) -> Document {
    doc! {"delta": {"updatedFields": fields, "removedFields": [], "truncatedArrays": []}}
}

#[tokio::test]
async fn a_deleted_document_is_rebuilt_from_baseline_and_deltas() {
    let mut shop = Shop::with_plugins(&[]);
    shop.change("insert", "a", doc! {"after": {"_id": "a", "total": 1_i64, "items": [1]}});
    shop.change("insert", "b", doc! {"after": {"_id": "b"}});
    shop.change("update", "a", set(doc! {"total": 2_i64, "items.2": 3}));
    shop.change("delete", "a", doc! {});
    let history = history(&shop, &[3, 4]).await;
    let expected = doc! {"_id": "a", "total": 2_i64, "items": [1, null, 3]};
    assert_eq!(recovered(&history, "a", None).await.unwrap(), expected);
    let at_insert = recovered(&history, "a", Some(i64::from(DAY) + 2)).await.unwrap();
    assert_eq!(at_insert, doc! {"_id": "a", "total": 1_i64, "items": [1]});
    for gone in [i64::from(DAY) + 1, i64::from(DAY) + 5] {
        assert_eq!(recovered(&history, "a", Some(gone)).await.unwrap_err().kind(), Kind::NotFound);
    }
    let alive = recovered(&history, "b", None).await.unwrap_err();
    assert_eq!(alive.kind(), Kind::Invalid);
    assert!(alive.hint_text().unwrap().contains("--at"));
}

#[tokio::test]
async fn images_win_over_deltas_and_tell_what_was_before_the_first_record() {
    let mut shop = Shop::with_plugins(&[]);
    let images = doc! {"before": {"_id": 1, "x": 1}, "after": {"_id": 1, "x": 2}};
    shop.change("update", 1, images);
    shop.change("update", 1, set(doc! {"x": 3}));
    shop.change("delete", 1, doc! {"before": {"_id": 1, "x": 3, "y": 4}});
    let history = history(&shop, &[]).await;
    assert_eq!(recovered(&history, "1", None).await.unwrap(), doc! {"_id": 1, "x": 3, "y": 4});
    assert_eq!(recovered(&history, "1", Some(i64::from(DAY) + 1)).await.unwrap(), doc! {"_id": 1, "x": 1});
    assert_eq!(recovered(&history, "1", Some(i64::from(DAY) + 3)).await.unwrap(), doc! {"_id": 1, "x": 3});
}

#[tokio::test]
async fn a_change_before_the_baseline_is_not_applied_again() {
    let mut shop = Shop::with_plugins(&[]);
    shop.second = DAY + 50;
    shop.change("snapshot", 1, doc! {"after": {"_id": 1, "n": 5}});
    shop.second = DAY + 40;
    shop.change("update", 1, set(doc! {"n": 4}));
    shop.second = DAY + 50;
    shop.change("update", 1, set(doc! {"n": 5}));
    shop.second = DAY + 60;
    shop.change("update", 1, set(doc! {"m": 6}));
    shop.change("delete", 1, doc! {});
    let history = history(&shop, &[3]).await;
    let timeline = history.timeline("shop", &id("1"), None).await.unwrap();
    let seqs: Vec<_> =
        timeline.entries.iter().map(|e| Record::new(&e.record).unwrap().seq().unwrap()).collect();
    assert_eq!(seqs, [3, 4, 2, 5, 6]);
    assert_eq!(recovered(&history, "1", None).await.unwrap(), doc! {"_id": 1, "n": 5, "m": 6});
    // In seq order, as the pass over everything reads, it is the same.
    let mut all = history.records(&StreamId::whole("shop"), 1);
    let mut states = states::States::default();
    let mut last = None;
    while let Some(bytes) = all.next().await.unwrap() {
        let record = Record::new(&bytes).unwrap();
        last = states.advance(&record).unwrap();
        if let Some(identity) = states::Identity::of(&record)
            && record.seq().unwrap() <= 4
        {
            let State::Present(bytes) = states.now(&identity).state else { panic!("known") };
            assert_eq!(bson::deserialize_from_slice::<Document>(&bytes).unwrap(), doc! {"_id": 1, "n": 5});
        }
    }
    let State::Present(bytes) = last.unwrap().before.state else { panic!("known") };
    assert_eq!(bson::deserialize_from_slice::<Document>(&bytes).unwrap(), doc! {"_id": 1, "n": 5, "m": 6});
}

#[tokio::test]
async fn the_stream_of_all_records_begins_where_it_is_asked_to() {
    let mut shop = Shop::with_plugins(&[]);
    for n in 0..9 {
        shop.change("insert", n, doc! {"after": {"_id": n}});
    }
    let history = history(&shop, &[3, 6]).await;
    for first in 1..=11_i64 {
        let mut records = history.records(&StreamId::whole("shop"), first);
        let mut read = Vec::new();
        while let Some(record) = records.next().await.unwrap() {
            read.push(record);
        }
        assert_eq!(read, shop.records[first as usize - 1..]);
    }
}

#[tokio::test]
async fn the_change_after_a_gap_tells_what_was_there_before_it() {
    let mut shop = Shop::with_plugins(&[]);
    shop.change("insert", 1, doc! {"after": {"_id": 1}});
    shop.push(doc! {"op": "gap"}, doc! {});
    let gap = i64::from(shop.second);
    shop.second += 10;
    shop.change("update", 1, doc! {"before": {"_id": 1, "x": 1}, "after": {"_id": 1, "x": 2}});
    let history = history(&shop, &[]).await;
    assert_eq!(recovered(&history, "1", Some(gap + 5)).await.unwrap(), doc! {"_id": 1, "x": 1});
}

#[tokio::test]
async fn gaps_quarantine_and_renames_make_states_unknown_and_drops_end_documents() {
    for (op, detail, reason) in [
        ("gap", doc! {}, Some(Reason::Gap(3))),
        ("quarantine", doc! {"error": "trap"}, Some(Reason::Quarantined(3))),
        // Nobody can say whose digest it is who has no checkpoint.
        ("quarantine", doc! {"keyDigest": "another"}, Some(Reason::Quarantined(3))),
        ("quarantine", doc! {"released": [{"seq": 9_i64, "dropped": "p"}]}, None),
    ] {
        let mut shop = Shop::with_plugins(&[]);
        shop.change("insert", 1, doc! {"after": {"_id": 1}});
        shop.push(doc! {"op": op, "ns": {"db": "shop", "coll": "orders"}}, doc! {"detail": detail});
        shop.change("update", 1, set(doc! {"x": 1}));
        let timeline = history(&shop, &[]).await.timeline("shop", &id("1"), None).await.unwrap();
        let last = &timeline.entries.last().unwrap().after.state;
        match reason {
            Some(reason) => assert_eq!(*last, State::Unknown(reason)),
            None => assert!(matches!(last, State::Present(_)), "{last:?}"),
        }
    }
    let mut shop = Shop::with_plugins(&[]);
    shop.change("insert", 1, doc! {"after": {"_id": 1, "x": 9}});
    let orders = doc! {"db": "shop", "coll": "orders"};
    let to = doc! {"to": {"db": "shop", "coll": "old"}, "fromWatched": true};
    shop.push(doc! {"op": "rename", "ns": orders}, doc! {"detail": to});
    shop.push(doc! {"op": "drop", "ns": {"db": "shop", "coll": "old"}}, doc! {});
    let history = history(&shop, &[]).await;
    let old = Namespace::parse("shop.old").unwrap();
    let (found, _) = by_id(&history, "shop", &id("1"), None, Some(&old)).await.unwrap();
    assert_eq!(document(&found), doc! {"_id": 1, "x": 9});
    let several = recovered(&history, "1", None).await.unwrap_err();
    assert!(several.hint_text().unwrap().contains("shop.old, shop.orders"), "{several:?}");
}

#[tokio::test]
async fn everything_deleted_since_a_time_comes_back_but_what_was_inserted_again() {
    // Few are looked up one by one, many gathered in one pass: the same comes out.
    for documents in [3_i32, 90] {
        let mut shop = Shop::with_plugins(&["redact"]);
        for n in 0..documents {
            shop.change("insert", n, doc! {"after": {"_id": n, "x": 0}});
        }
        shop.change("delete", 0, doc! {"before": {"_id": 0, "x": 0}});
        let since = shop.second;
        for n in 1..documents {
            shop.change("update", n, set(doc! {"x": n}));
            let image = if n % 3 == 0 {
                doc! {"before": {"_id": n, "x": n}}
            } else {
                doc! {}
            };
            shop.change("delete", n, image);
        }
        shop.change("insert", 1, doc! {"after": {"_id": 1, "x": 100}});
        shop.change("delete", "unknown", doc! {});
        let (middle, end) = (shop.next_seq() / 2, shop.next_seq() - 3);
        let history = history(&shop, &[middle, end]).await;
        let (mut given, mut lost) = (Vec::new(), Vec::new());
        let take = async |answer: Answer| -> Result<()> {
            match answer {
                Ok(r) => {
                    assert_eq!(r.origins.len(), 1);
                    given.push(document(&r));
                }
                Err(other) => lost.push(other.id),
            }
            Ok(())
        };
        let summary = deleted_since(&history, "shop", i64::from(since), None, take).await.unwrap();
        given.sort_by_key(|d| d.get_i32("_id").unwrap());
        let expected: Vec<_> = (2..documents).map(|n| doc! {"_id": n, "x": n}).collect();
        assert_eq!(given, expected);
        assert_eq!((summary.recovered, summary.lost), (documents as u64 - 2, 1));
        assert_eq!(lost, ["unknown"]);
        assert_eq!(
            summary.policies.plugins(RecordId { partition: None, seq: 1 }).unwrap(),
            ["redact 1 (sha256 ab)"]
        );
    }
}

#[tokio::test]
async fn what_ended_with_its_collection_comes_back_unless_it_is_there_again() {
    for documents in [5_i32, 90] {
        let mut shop = Shop::with_plugins(&[]);
        let of = |coll: &str, op: &str| doc! {"op": op, "ns": {"db": "shop", "coll": coll}};
        let about = |coll: &str, op: &str, n: i32| {
            doc! {"op": op, "ns": {"db": "shop", "coll": coll}, "key": {"_id": n}}
        };
        let moved =
            |watched: bool| doc! {"detail": {"to": {"db": "shop", "coll": "b"}, "fromWatched": watched}};
        // Dropped long ago, before what is asked for.
        shop.push(about("b", "insert", -1), doc! {"after": {"_id": -1}});
        shop.push(of("b", "drop"), doc! {});
        for n in 0..documents {
            shop.push(about("a", "insert", n), doc! {"after": {"_id": n, "x": 0}});
            shop.push(about("b", "insert", 1_000 + n), doc! {"after": {"_id": 1_000 + n}});
            shop.push(about("other", "insert", n), doc! {"after": {"_id": n}});
        }
        shop.push(about("b", "insert", 0), doc! {"after": {"_id": 0, "replaced": true}});
        let since = shop.second;
        // 1 is deleted by itself; the others go on as `b`, whose own documents end, but for 0, which is there again.
        shop.push(about("a", "delete", 1), doc! {"before": {"_id": 1, "x": 0}});
        shop.push(of("a", "rename"), moved(true));
        shop.push(about("b", "update", 2), set(doc! {"x": 2}));
        let over = shop.next_seq();
        shop.push(of("b", "drop"), doc! {});
        shop.push(about("b", "insert", 3), doc! {"after": {"_id": 3, "again": true}});
        let history = history(&shop, &[over / 2, over]).await;
        let mut given = Vec::new();
        let take = async |answer: Answer| -> Result<()> {
            let r = answer.unwrap();
            given.push((r.namespace.coll.clone(), document(&r), r.seq));
            Ok(())
        };
        let summary = deleted_since(&history, "shop", i64::from(since), None, take).await.unwrap();
        given.sort_by_key(|(coll, d, _)| (coll.clone(), d.get_i32("_id").unwrap()));
        let mut expected = vec![("a".to_owned(), doc! {"_id": 1, "x": 0}, over - 3)];
        for n in [0].into_iter().chain(2..documents).filter(|n| *n != 3) {
            expected.push(("b".to_owned(), doc! {"_id": n, "x": if n == 2 { 2 } else { 0 }}, over));
        }
        expected.extend((0..documents).map(|n| ("b".to_owned(), doc! {"_id": 1_000 + n}, over - 2)));
        assert_eq!(given, expected);
        assert_eq!((summary.recovered, summary.lost), (expected.len() as u64, 0));
        assert_eq!(summary.renamed[0].1.coll, "b");
    }
}

#[tokio::test]
async fn a_change_is_never_applied_to_the_document_of_another_collection_of_that_name() {
    let mut shop = Shop::with_plugins(&[]);
    let uuid = |n: u8| doc! {"collectionUUID": bson::Binary { subtype: bson::spec::BinarySubtype::Uuid, bytes: vec![n; 16] }};
    let within = |mut fields: Document, n: u8| {
        fields.insert("detail", uuid(n));
        fields
    };
    shop.change("insert", 1, within(doc! {"after": {"_id": 1, "x": 1}}, 1));
    shop.change("update", 1, within(set(doc! {"x": 2}), 1));
    let other = shop.change("update", 1, within(set(doc! {"x": 3}), 2));
    shop.change("insert", 2, within(doc! {"after": {"_id": 2, "x": 1}}, 1));
    // Read again, the collection is not said; whatever it is, the change is one of it.
    shop.change("snapshot", 2, doc! {"after": {"_id": 2, "x": 5}});
    shop.change("update", 2, within(set(doc! {"y": 1}), 2));
    let history = history(&shop, &[]).await;
    let timeline = history.timeline("shop", &id("1"), None).await.unwrap();
    let before = |n: usize| timeline.entries[n].before.state.clone();
    assert!(matches!(before(1), State::Present(_)));
    assert_eq!(before(2), State::Unknown(Reason::OtherCollection(other)));
    let later = recovered(&history, "2", Some(i64::from(shop.second))).await.unwrap();
    assert_eq!(later, doc! {"_id": 2, "x": 5, "y": 1});
}

#[tokio::test]
async fn documents_of_a_collection_that_is_renamed_away_are_not_deleted() {
    let mut shop = Shop::with_plugins(&[]);
    let from = doc! {"op": "rename", "ns": {"db": "shop", "coll": "orders"}};
    shop.change("insert", 1, doc! {"after": {"_id": 1}});
    shop.push(from, doc! {"detail": {"to": {"db": "elsewhere", "coll": "b"}, "fromWatched": true}});
    let take = async |answer: Answer| -> Result<()> { panic!("{answer:?}") };
    let summary = deleted_since(&history(&shop, &[]).await, "shop", 0, None, take).await.unwrap();
    assert_eq!((summary.recovered, summary.lost, summary.renamed.len()), (0, 0, 1));
}

#[tokio::test]
async fn unknown_sources_and_documents_are_not_found() {
    let mut shop = Shop::with_plugins(&[]);
    shop.change("insert", 1, doc! {"after": {"_id": 1}});
    let history = history(&shop, &[]).await;
    let error = history.timeline("shops", &id("1"), None).await.unwrap_err();
    assert_eq!((error.kind(), error.hint_text()), (Kind::NotFound, Some("the sources are: shop")));
    let error = history.timeline("shop", &id("2"), None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    let elsewhere = Namespace::parse("shop.payments").unwrap();
    let error = history.timeline("shop", &id("1"), Some(&elsewhere)).await.unwrap_err();
    assert!(error.hint_text().unwrap().contains("shop.orders"));
}

#[tokio::test]
async fn changes_say_from_what_to_what() {
    let mut shop = Shop::with_plugins(&[]);
    shop.change("insert", 1, doc! {"after": {"_id": 1, "a": {"b": "x"}, "l": [1, 2, 3], "gone": true}});
    let delta = doc! {
        "updatedFields": {"a.b": "y", "new": 5}, "removedFields": ["gone"],
        "truncatedArrays": [{"field": "l", "newSize": 1}],
    };
    shop.change("update", 1, doc! {"delta": delta});
    shop.change("replace", 1, doc! {"after": {"_id": 1, "a": 1}});
    let timeline = history(&shop, &[]).await.timeline("shop", &id("1"), None).await.unwrap();
    let shown = |entry: &timeline::Entry| {
        let text = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
        let changes = entry.changes().unwrap().into_iter();
        changes.map(|c| format!("{} {} {}", c.path, text(c.from), text(c.to))).collect::<Vec<_>>()
    };
    let expected = ["a.b x y", "new - 5", "gone true -", "l 3 items 1 items"];
    assert_eq!(shown(&timeline.entries[1]), expected);
    assert_eq!(shown(&timeline.entries[2]), [r#"a {"b":"y"} 1"#, "l [1] -", "new 5 -"]);
}

#[tokio::test]
async fn a_change_that_was_too_large_makes_its_document_unknown_and_no_other() {
    let mut shop = Shop::with_plugins(&[]);
    for id in ["a", "b"] {
        shop.change("insert", id, doc! {"after": {"_id": id}});
    }
    let gap = shop.change("gap", "a", doc! {"detail": {"reason": "event too large", "op": "update"}});
    let then = i64::from(shop.second);
    shop.change("replace", "a", doc! {"after": {"_id": "a", "n": 2}});
    let history = history(&shop, &[3]).await;
    let timeline = history.timeline("shop", &id("a"), None).await.unwrap();
    assert_eq!(timeline.entries[1].after.state, State::Unknown(Reason::Gap(gap)));
    assert_eq!(recovered(&history, "a", Some(then)).await.unwrap_err().kind(), Kind::NotFound);
    assert_eq!(recovered(&history, "a", Some(then + 1)).await.unwrap(), doc! {"_id": "a", "n": 2});
    assert_eq!(recovered(&history, "b", Some(then)).await.unwrap(), doc! {"_id": "b"});
    assert_eq!(history.timeline("shop", &id("b"), None).await.unwrap().entries.len(), 1);
}

#[tokio::test]
async fn a_document_does_not_stand_still_while_it_is_not_watched() {
    let mut shop = Shop::with_plugins(&[]);
    let watch = |shop: &mut Shop, list: &[&str]| {
        shop.push(doc! {"op": "policy"}, doc! {"detail": {"plugins": [], "watch": list}})
    };
    watch(&mut shop, &["shop.*"]);
    shop.change("insert", "a", doc! {"after": {"_id": "a"}});
    let watched = i64::from(shop.second);
    let left_out = watch(&mut shop, &["shop.others"]);
    let meanwhile = i64::from(shop.second) + 5;
    shop.second += 10;
    watch(&mut shop, &["shop.orders"]);
    shop.change("update", "a", doc! {"before": {"_id": "a", "n": 1}, "after": {"_id": "a", "n": 2}});
    let again = i64::from(shop.second);
    let history = history(&shop, &[]).await;
    assert_eq!(recovered(&history, "a", Some(watched)).await.unwrap(), doc! {"_id": "a"});
    let error = recovered(&history, "a", Some(meanwhile)).await.unwrap_err();
    assert!(
        error.explain().contains(&format!("no longer watched since seq={left_out}")),
        "{}",
        error.explain()
    );
    assert_eq!(recovered(&history, "a", Some(again)).await.unwrap(), doc! {"_id": "a", "n": 2});
}

#[tokio::test]
async fn what_a_baseline_read_of_a_namespace_before_it_was_left_out_is_no_present_either() {
    let mut shop = Shop::with_plugins(&[]);
    // Read later than the position at which the new list is in force.
    let policy = shop.second;
    shop.second += 3;
    shop.change("snapshot", "a", doc! {"after": {"_id": "a"}});
    let later = i64::from(shop.second) + 1;
    shop.second = policy;
    shop.push(doc! {"op": "policy"}, doc! {"detail": {"plugins": [], "watch": ["shop.others"]}});
    let history = history(&shop, &[]).await;
    let error = recovered(&history, "a", Some(later)).await.unwrap_err();
    assert!(error.explain().contains("no longer watched"), "{}", error.explain());
}

#[test]
fn what_is_lost_in_one_partition_leaves_the_documents_of_others_known() {
    let record = |partition, seq, op: &str, id: Option<i32>, detail: Document| {
        let mut body = doc! {"op": op, "ns": {"db": "shop", "coll": "orders"}};
        body.extend(id.map(|id| doc! {"key": {"_id": id}}).unwrap_or_default());
        body.insert("clusterTime", bson::Timestamp { time: DAY + seq as u32, increment: 1 });
        body.extend(id.map(|id| doc! {"after": {"_id": id}}).unwrap_or_default());
        body.insert("detail", detail);
        let body = bson::serialize_to_vec(&body).unwrap();
        Record::encode(RecordId { partition: Some(partition), seq }, bson_walker::Doc::new(&body).unwrap(), 1)
    };
    let known_after = |lost: Vec<u8>| {
        let mut states = states::States::default();
        let mut identities = Vec::new();
        for partition in 0..3 {
            let baseline = record(partition, 2, "snapshot", Some(partition as i32), doc! {});
            states.advance(&Record::new(&baseline).unwrap()).unwrap();
            identities.push(states::Identity::of(&Record::new(&baseline).unwrap()).unwrap());
        }
        states.advance(&Record::new(&lost).unwrap()).unwrap();
        identities.iter().map(|i| matches!(states.now(i).state, State::Present(_))).collect::<Vec<_>>()
    };
    let at = bson::Timestamp { time: DAY, increment: 1 };
    assert_eq!(known_after(record(1, 3, "gap", None, doc! {"after": at, "until": at})), [true, false, true]);
    let update = doc! {"op": "update", "error": "trap"};
    assert_eq!(known_after(record(2, 3, "quarantine", None, update)), [true, true, false]);
    let drop = doc! {"op": "drop", "error": "trap"};
    assert_eq!(known_after(record(0, 3, "quarantine", None, drop)), [false, false, false]);
}

/// Two days of a shop in which the insert and the deletion of document 1, and a change of document 2, were withheld on the first
/// day and tried again on the second: late, late and dropped. Gives the cuts between the days too.
fn shop_with_late_records() -> (Shop, Vec<i64>) {
    let mut shop = Shop::with_plugins(&[]);
    let orders = doc! {"ns": {"db": "shop", "coll": "orders"}};
    let withheld = |shop: &mut Shop, op: &str| {
        let mut head = doc! {"op": "quarantine"};
        head.extend(orders.clone());
        (shop.second, shop.push(head, doc! {"detail": {"op": op, "error": "trap"}}))
    };
    let insert = withheld(&mut shop, "insert");
    shop.change("update", 1, set(doc! {"x": 2}));
    shop.change("insert", 2, doc! {"after": {"_id": 2}});
    let dropped = withheld(&mut shop, "update");
    let delete = withheld(&mut shop, "delete");
    let mut ends = Vec::new();
    let tomorrow = DAY + 86_400;
    for (second, seq, op, image) in [
        (insert.0, insert.1, "insert", doc! {"after": {"_id": 1, "x": 1, "y": 1}}),
        (delete.0, delete.1, "delete", doc! {}),
    ] {
        shop.second = tomorrow;
        ends.push(shop.next_seq());
        shop.change("insert", 100 + seq, doc! {"after": {"_id": 100 + seq}});
        ends.push(shop.next_seq());
        shop.second = second;
        let mut rest = image;
        rest.insert("detail", doc! {"late": seq});
        shop.change(op, 1, rest);
    }
    ends.push(shop.next_seq());
    shop.second = tomorrow + 1;
    let late = shop.next_seq() - 1;
    let released = doc! {"released": [
        {"seq": insert.1, "late": late - 2}, {"seq": dropped.1, "dropped": "p"}, {"seq": delete.1, "late": late},
    ]};
    shop.push(doc! {"op": "quarantine"}, doc! {"detail": released});
    (shop, ends)
}

#[tokio::test]
async fn late_records_stand_where_their_events_stood_in_both_orders() {
    let (shop, ends) = shop_with_late_records();
    let history = history(&shop, &ends).await;
    let report = verify::verify(&history.archive, None, &verify::Request::default()).await.unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    assert_eq!(report.sources[0].segments, 6, "one for each stretch of one day");
    let timeline = history.timeline("shop", &id("1"), None).await.unwrap();
    let ops: Vec<_> =
        timeline.entries.iter().map(|e| Record::new(&e.record).unwrap().op().to_owned()).collect();
    assert_eq!(ops, ["insert", "update", "delete"]);
    let before_deletion = doc! {"_id": 1, "x": 2, "y": 1};
    assert_eq!(recovered(&history, "1", None).await.unwrap(), before_deletion);
    // What a plugin drops now is no doubt about another document.
    let end = Some(i64::from(DAY) + 200_000);
    assert_eq!(recovered(&history, "2", end).await.unwrap(), doc! {"_id": 2});

    let mut placed = history.placed_records(&StreamId::whole("shop")).await.unwrap();
    let mut states = states::States::default();
    let mut seen = Vec::new();
    while let Some(bytes) = placed.next_before(i64::MAX).await.unwrap() {
        let record = Record::new(&bytes).unwrap();
        seen.push(record.op().to_owned());
        let change = states.advance(&record).unwrap();
        if record.op() == "delete" {
            assert!(matches!(change.unwrap().before.state, State::Present(bytes)
                if bson::deserialize_from_slice::<Document>(&bytes).unwrap() == before_deletion));
        }
    }
    assert_eq!(seen, ["policy", "insert", "update", "insert", "delete", "insert", "insert", "quarantine"]);
}

#[test]
fn a_digest_points_to_its_document_with_and_without_a_salt_and_to_all_without_the_checkpoint() {
    let salt = crate::salt::Salt::random();
    let (kind, value) = (bson_walker::kind::INT32, 1_i32.to_le_bytes());
    let known_after = |digest: String, salts: Salts| -> Vec<bool> {
        let mut shop = Shop::with_plugins(&[]);
        for id in [1, 2] {
            shop.change("insert", id, doc! {"after": {"_id": id}});
        }
        let detail = doc! {"detail": {"op": "update", "keyDigest": digest}};
        shop.push(doc! {"op": "quarantine", "ns": {"db": "shop", "coll": "orders"}}, detail);
        let mut states = states::States::new(Policies::default(), salts);
        let mut identities = Vec::new();
        for bytes in &shop.records {
            let record = Record::new(bytes).unwrap();
            identities.extend(states::Identity::of(&record));
            states.advance(&record).unwrap();
        }
        identities.iter().map(|i| matches!(states.now(i).state, State::Present(_))).collect()
    };
    let salts = || Salts::from([(None, salt.clone())]);
    assert_eq!(known_after(salt.id_digest(kind, &value), salts()), [false, true]);
    assert_eq!(known_after(crate::record::unsalted_id_digest(kind, &value), salts()), [false, true]);
    assert_eq!(known_after(salt.id_digest(kind, &value), Salts::new()), [false, false]);
}

#[tokio::test]
async fn a_withheld_document_is_known_from_when_it_was_read_again_and_not_before() {
    let mut shop = Shop::with_plugins(&[]);
    let orders = doc! {"ns": {"db": "shop", "coll": "orders"}};
    let withheld = |shop: &mut Shop| {
        let mut head = doc! {"op": "quarantine"};
        head.extend(orders.clone());
        shop.push(head, doc! {"detail": {"op": "snapshot", "error": "trap"}})
    };
    shop.change("snapshot", 1, doc! {"after": {"_id": 1, "x": 1}});
    let seq = withheld(&mut shop);
    shop.change("update", 1, set(doc! {"y": 2}));
    let unknown = i64::from(shop.second);
    let snapshot = shop.change("snapshot", 1, doc! {"after": {"_id": 1, "x": 9, "y": 2}});
    shop.push(doc! {"op": "quarantine"}, doc! {"detail": {"released": [{"seq": seq, "snapshot": snapshot}]}});
    shop.change("update", 1, set(doc! {"y": 3}));
    let history = history(&shop, &[]).await;
    let lost = recovered(&history, "1", Some(unknown)).await.unwrap_err();
    assert!(lost.to_string().contains(&format!("a change was quarantined seq={seq}")), "{lost}");
    let end = Some(i64::from(DAY) + 100);
    assert_eq!(recovered(&history, "1", end).await.unwrap(), doc! {"_id": 1, "x": 9, "y": 3});
    let mut placed = history.placed_records(&StreamId::whole("shop")).await.unwrap();
    let mut seqs = Vec::new();
    while let Some(bytes) = placed.next_before(i64::MAX).await.unwrap() {
        seqs.push(Record::new(&bytes).unwrap().seq().unwrap());
    }
    assert_eq!(seqs, (1..shop.next_seq()).collect::<Vec<_>>(), "all stand where they were written");
}
