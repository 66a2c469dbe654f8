//! What history says of documents whose records lie in several segments.
#![allow(clippy::unwrap_used)]

use std::cell::RefCell;

use bson::{Document, doc};
use tempfile::TempDir;

use super::id::DocumentId;
use super::recover::{Recovered, by_id, deleted_since};
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
    assert_eq!(seqs, [3, 2, 4, 5, 6]);
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
        ("quarantine", doc! {"keyDigest": "another"}, None),
    ] {
        let mut shop = Shop::with_plugins(&[]);
        shop.change("insert", 1, doc! {"after": {"_id": 1}});
        shop.push(doc! {"op": op, "ns": {"db": "shop", "coll": "orders"}}, doc! {"detail": detail});
        shop.change("update", 1, set(doc! {"x": 1}));
        let timeline = history(&shop, &[]).await.timeline("shop", &id("1"), None).await.unwrap();
        let last = &timeline.entries.last().unwrap().after.state;
        match reason {
            Some(reason) => assert_eq!(*last, State::Unknown(reason)),
            None => assert!(matches!(last, State::Present(_))),
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
        let mut given = Vec::new();
        let give = async |r: Recovered| -> Result<()> {
            assert_eq!(r.policies.len(), 1);
            given.push(document(&r));
            Ok(())
        };
        let summary = deleted_since(&history, "shop", i64::from(since), None, give).await.unwrap();
        given.sort_by_key(|d| d.get_i32("_id").unwrap());
        let expected: Vec<_> = (2..documents).map(|n| doc! {"_id": n, "x": n}).collect();
        assert_eq!(given, expected);
        assert_eq!(summary.recovered, documents as u64 - 2);
        assert_eq!(summary.lost.len(), 1);
        assert_eq!(summary.lost[0].id, "unknown");
        assert_eq!(
            summary.policies.plugins(RecordId { partition: None, seq: 1 }).unwrap(),
            ["redact 1 (sha256 ab)"]
        );
    }
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
