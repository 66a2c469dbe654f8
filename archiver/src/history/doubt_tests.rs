//! What is not said of documents, because what happened in between is not recorded: behind gaps, behind what has expired, behind a
//! rename, and behind changes without contents.
#![allow(clippy::unwrap_used)]

use bson::{Document, Timestamp, doc};
use tempfile::TempDir;

use super::expired_tests::expire;
use super::id::DocumentId;
use super::recover::{Answer, by_id, deleted_since};
use super::testing::Shop;
use super::*;

const ABSENT: &str = "did not exist at that time";
const MISSING: &str = "history is missing";

fn orders() -> Document {
    doc! {"db": "shop", "coll": "orders"}
}

/// Document 1 as of a second: it, or what is said instead.
async fn told(history: &History, at: i64) -> String {
    match by_id(history, "shop", &DocumentId::parse("1").unwrap(), Some(at), None).await {
        Ok((found, _)) => bson::deserialize_from_slice::<Document>(&found.document).unwrap().to_string(),
        Err(error) => error.explain(),
    }
}

async fn history(shop: &Shop, ends: &[i64]) -> (History, TempDir) {
    let (archive, folder) = shop.archive(ends).await;
    (History::new(None, archive), folder)
}

/// A gap of ten seconds in one namespace or all.
fn gap(shop: &mut Shop, namespace: Option<Document>) -> i64 {
    let after = Timestamp { time: shop.second, increment: 1 };
    shop.second += 10;
    let until = Timestamp { time: shop.second, increment: 1 };
    let mut head = doc! {"op": "gap"};
    head.extend(namespace.map(|namespace| ("ns".to_owned(), namespace.into())));
    shop.push(head, doc! {"detail": {"reason": "r", "after": after, "until": until}})
}

#[tokio::test]
async fn what_a_first_record_behind_a_gap_tells_is_not_told_of_the_time_before_it() {
    let closed = |gap: i64, undecided: &[Document]| doc! {"closes": gap, "undecided": undecided};
    let expired = doc! {"expired": {"firstSeq": 1_i64, "endSeq": 2_i64}};
    for (op, parts, before) in [
        ("insert", doc! {"after": {"_id": 1}}, ABSENT),
        ("update", doc! {"before": {"_id": 1, "x": 1}, "after": {"_id": 1}}, r#"{ "_id": 1, "x": 1 }"#),
        ("delete", doc! {"before": {"_id": 1, "x": 1}}, r#"{ "_id": 1, "x": 1 }"#),
    ] {
        for (end, expected) in [
            ("open", MISSING),
            ("closed", before),
            ("undecided", MISSING),
            ("undecided elsewhere", before),
            ("expired before it was closed", MISSING),
            ("expired since", before),
            ("of another collection", before),
        ] {
            let mut shop = Shop::with_plugins(&[]);
            shop.second += 5;
            let then = i64::from(shop.second) - 1;
            if end == "expired before it was closed" {
                shop.push(doc! {"op": "policy"}, doc! {"detail": expired.clone()});
            }
            let others = doc! {"db": "shop", "coll": "others"};
            let gap = gap(&mut shop, (end == "of another collection").then(|| others.clone()));
            match end {
                "open" | "of another collection" => {}
                "undecided" => drop(shop.push(doc! {"op": "gap"}, doc! {"detail": closed(gap, &[orders()])})),
                "undecided elsewhere" => {
                    shop.push(doc! {"op": "gap"}, doc! {"detail": closed(gap, &[others])});
                }
                _ => drop(shop.push(doc! {"op": "gap"}, doc! {"detail": closed(gap, &[])})),
            }
            if end == "expired since" {
                shop.push(doc! {"op": "policy"}, doc! {"detail": expired.clone()});
            }
            shop.second += 5;
            shop.change(op, 1, parts.clone());
            let (history, _folder) = history(&shop, &[]).await;
            let said = told(&history, then).await;
            assert!(said.contains(expected), "{op}, {end}: {said}");
            let behind = told(&history, i64::from(shop.second) - 1).await;
            assert!(behind.contains(before), "{op}, {end}, behind the gap: {behind}");
        }
    }
}

#[tokio::test]
async fn what_a_comparison_found_come_in_a_gap_was_not_there_before_it() {
    let mut shop = Shop::with_plugins(&[]);
    shop.second += 5;
    let then = i64::from(shop.second) - 1;
    let after = Timestamp { time: shop.second, increment: 1 };
    let gap = gap(&mut shop, None);
    let until = Timestamp { time: shop.second - 1, increment: 1 };
    let found = doc! {"found": "inserted", "gap": gap, "after": after, "until": until};
    shop.change("snapshot", 1, doc! {"after": {"_id": 1}, "detail": found});
    let (history, _folder) = history(&shop, &[]).await;
    assert!(told(&history, then).await.contains(ABSENT), "though the comparison is not complete yet");
}

/// A change of document 1 was withheld, others followed in the same segment, which has expired; then the change was released.
async fn released_behind_what_has_expired(
    op: &str,
    parts: Document,
    is_changed: bool,
) -> (History, TempDir, i64) {
    let mut shop = Shop::with_plugins(&[]);
    let withheld = shop.second;
    let quarantine = shop.push(
        doc! {"op": "quarantine", "ns": orders()},
        doc! {"detail": {"op": op, "plugin": "p", "error": "trap"}},
    );
    shop.change("replace", 1, doc! {"after": {"_id": 1, "x": 2}});
    let until = shop.second;
    let end = shop.next_seq();
    shop.second = withheld;
    let mut late = parts;
    late.insert("detail", doc! {"late": quarantine});
    let late = shop.change(op, 1, late);
    shop.second = until + 10;
    let released = doc! {"detail": {"released": [{"seq": quarantine, "late": late}]}};
    shop.push(doc! {"op": "quarantine", "ns": orders()}, released);
    if is_changed {
        shop.change("update", 1, doc! {"delta": {"updatedFields": {"y": 1}, "removedFields": []}});
    }
    let (archive, folder) = shop.archive(&[end]).await;
    expire(&archive, &folder, 1).await;
    (History::new(None, archive), folder, i64::from(until) + 5)
}

#[tokio::test]
async fn a_late_change_tells_nothing_of_the_time_behind_what_has_expired() {
    for (op, parts) in [("insert", doc! {"after": {"_id": 1, "x": 1}}), ("delete", doc! {})] {
        let (history, _folder, then) = released_behind_what_has_expired(op, parts, true).await;
        for at in [then, then + 100] {
            let said = told(&history, at).await;
            assert!(said.contains("removed by retention"), "{op} at {at}: {said}");
        }
    }
}

/// Everything that was deleted, and of what is lost why.
async fn deleted(history: &History) -> Vec<std::result::Result<Document, String>> {
    let mut found = Vec::new();
    let take = async |answer: Answer| {
        let given = answer.map(|recovered| bson::deserialize_from_slice(&recovered.document).unwrap());
        found.push(given.map_err(|lost| lost.why));
        Ok(())
    };
    deleted_since(history, "shop", 0, None, take).await.unwrap();
    found
}

#[tokio::test]
async fn a_late_deletion_behind_which_something_has_expired_need_not_be_the_end() {
    let parts = doc! {"before": {"_id": 1, "x": 1}};
    let (history, _folder, _) = released_behind_what_has_expired("delete", parts.clone(), false).await;
    let found = deleted(&history).await;
    assert!(matches!(&found[..], [Err(why)] if why.contains("removed by retention")), "{found:?}");
    let (history, _folder, _) = released_behind_what_has_expired("delete", parts, true).await;
    assert_eq!(deleted(&history).await, [], "it was changed afterwards, so it is there");
}

#[tokio::test]
async fn a_document_whose_return_is_missing_is_not_deleted() {
    let lost = |op: &str| doc! {"detail": {"reason": "event too large", "op": op}};
    // With its image and without, alone and, where a collection ended, among others.
    for (images, ended) in [(true, false), (false, false), (true, true), (false, true)] {
        for (gaps, expected) in [
            (&[][..], Some(Ok(doc! {"_id": 1}))),
            (&["insert"], None),
            (&["insert", "update"], None),
            (&["insert", "delete"], Some(Err("history is missing before seq=".to_owned()))),
        ] {
            let mut shop = Shop::with_plugins(&[]);
            shop.change("insert", 1, doc! {"after": {"_id": 1}});
            if ended {
                shop.push(doc! {"op": "drop", "ns": {"db": "shop", "coll": "others"}}, doc! {});
            }
            let image = if images {
                doc! {"before": {"_id": 1}}
            } else {
                doc! {}
            };
            shop.change("delete", 1, image);
            for op in gaps {
                shop.change("gap", 1, lost(op));
            }
            let (history, _folder) = history(&shop, &[]).await;
            let found = deleted(&history).await;
            let is_it = match (&found[..], &expected) {
                ([], None) => true,
                ([Ok(found)], Some(Ok(expected))) => found == expected,
                ([Err(why)], Some(Err(words))) => why.contains(words.as_str()),
                _ => false,
            };
            assert!(is_it, "images {images}, ended {ended}, {gaps:?}: {found:?}");
        }
    }
}

#[tokio::test]
async fn a_document_that_was_absent_came_with_the_collection_that_took_the_name() {
    let to = doc! {"to": orders(), "fromWatched": true};
    for (op, parts, behind) in [
        ("snapshot", doc! {"after": {"_id": 1, "x": 2}}, r#"{ "_id": 1, "x": 2 }"#),
        ("update", doc! {"before": {"_id": 1, "x": 2}, "after": {"_id": 1}}, r#"{ "_id": 1, "x": 2 }"#),
        ("delete", doc! {}, "nothing is kept of it from before"),
        ("insert", doc! {"after": {"_id": 1}}, ABSENT),
    ] {
        let mut shop = Shop::with_plugins(&[]);
        shop.change("insert", 1, doc! {"after": {"_id": 1, "x": 1}});
        shop.change("delete", 1, doc! {});
        let absent = i64::from(shop.second);
        shop.second += 5;
        let others = doc! {"db": "shop", "coll": "others"};
        shop.push(doc! {"op": "rename", "ns": others}, doc! {"detail": to.clone()});
        let then = i64::from(shop.second);
        // One of another collection with that id, in between.
        shop.push(
            doc! {"op": "insert", "ns": {"db": "shop", "coll": "more"}, "key": {"_id": 1}},
            doc! {"after": {"_id": 1}},
        );
        shop.second += 5;
        shop.change(op, 1, parts);
        let (history, _folder) = history(&shop, &[]).await;
        let orders = Namespace::parse("shop.orders").unwrap();
        let id = DocumentId::parse("1").unwrap();
        let told = async |at: i64| match by_id(&history, "shop", &id, Some(at), Some(&orders)).await {
            Ok((found, _)) => bson::deserialize_from_slice::<Document>(&found.document).unwrap().to_string(),
            Err(error) => error.explain(),
        };
        for at in [absent, then - 1] {
            assert!(told(at).await.contains(ABSENT), "{op} before the rename: {}", told(at).await);
        }
        assert!(told(then).await.contains(behind), "{op}: {}", told(then).await);
        let entries = history.timeline("shop", &id, None).await.unwrap().entries;
        let seqs: Vec<i64> = entries.iter().map(|e| Record::new(&e.record).unwrap().seq().unwrap()).collect();
        assert!(seqs.is_sorted(), "{op}: {seqs:?}");
    }
}
