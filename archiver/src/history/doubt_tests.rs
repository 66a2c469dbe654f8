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
    let closed = |gap: i64, undecided: &[Document], whole: bool| doc! {"closes": gap, "undecided": undecided, "whole": whole};
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
            ("closed without knowing all", MISSING),
            ("of another collection", before),
        ] {
            let mut shop = Shop::with_plugins(&[]);
            shop.second += 5;
            let then = i64::from(shop.second) - 1;
            let others = doc! {"db": "shop", "coll": "others"};
            let gap = gap(&mut shop, (end == "of another collection").then(|| others.clone()));
            let mut close = |undecided: &[Document], whole: bool| {
                shop.push(doc! {"op": "gap"}, doc! {"detail": closed(gap, undecided, whole)});
            };
            match end {
                "open" | "of another collection" => {}
                "undecided" => close(&[orders()], true),
                "undecided elsewhere" => close(&[others], true),
                "closed without knowing all" => close(&[], false),
                _ => close(&[], true),
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
        ("delete", doc! {}, "another collection was renamed to this one"),
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

fn of(coll: &str, op: &str) -> Document {
    doc! {"op": op, "ns": {"db": "shop", "coll": coll}}
}

fn one_of(coll: &str, op: &str) -> Document {
    doc! {"op": op, "ns": {"db": "shop", "coll": coll}, "key": {"_id": 1}}
}

/// Document 1 of a collection as of a second.
async fn told_of(history: &History, coll: &str, at: i64) -> String {
    let namespace = Namespace::parse(&format!("shop.{coll}")).unwrap();
    match by_id(history, "shop", &DocumentId::parse("1").unwrap(), Some(at), Some(&namespace)).await {
        Ok((found, _)) => bson::deserialize_from_slice::<Document>(&found.document).unwrap().to_string(),
        Err(error) => error.explain(),
    }
}

const BEFORE: &str = "nothing is kept of it from before";

#[tokio::test]
async fn a_rename_tells_nothing_of_what_had_the_name_before_unless_that_began_empty_or_is_known_whole() {
    let gap = |shop: &mut Shop| {
        gap(shop, None);
    };
    let nothing = |_: &mut Shop| {};
    let emptied = |shop: &mut Shop| {
        shop.push(of("orders", "drop"), doc! {});
    };
    let created = |shop: &mut Shop| {
        shop.push(of("orders", "create"), doc! {});
    };
    let withheld = |shop: &mut Shop| {
        let detail = doc! {"op": "drop", "plugin": "p", "error": "trap"};
        shop.push(of("orders", "quarantine"), doc! {"detail": detail});
    };
    let renamed = |shop: &mut Shop| {
        shop.push(of("fresh", "create"), doc! {});
        shop.push(of("fresh", "rename"), doc! {"detail": {"to": orders(), "fromWatched": true}});
    };
    let unknown = |shop: &mut Shop| {
        shop.push(of("fresh", "rename"), doc! {"detail": {"to": orders(), "fromWatched": true}});
    };
    type Happens<'a> = &'a dyn Fn(&mut Shop);
    let cases: [(&str, Happens<'_>, bool, &str); 9] = [
        ("nothing", &nothing, false, BEFORE),
        ("all is known", &nothing, true, ABSENT),
        ("a gap", &gap, true, BEFORE),
        ("it was dropped", &emptied, false, ABSENT),
        ("it was created", &created, false, ABSENT),
        ("its end was withheld", &withheld, true, BEFORE),
        ("it was renamed, and began empty", &renamed, false, ABSENT),
        ("it was renamed, and was there before", &unknown, false, BEFORE),
        ("it was renamed, and all is known", &unknown, true, ABSENT),
    ];
    for (what, happens, whole, expected) in cases {
        let mut shop = Shop::with_plugins(&[]);
        happens(&mut shop);
        shop.second += 5;
        let then = i64::from(shop.second);
        shop.second += 5;
        shop.push(one_of("others", "insert"), doc! {"after": {"_id": 1}});
        let mut detail = doc! {"to": orders(), "fromWatched": true};
        detail.extend(whole.then(|| ("whole".to_owned(), true.into())));
        shop.push(of("others", "rename"), doc! {"detail": detail});
        let (history, _folder) = history(&shop, &[]).await;
        let said = told_of(&history, "orders", then).await;
        assert!(said.contains(expected), "{what}: {said}");
        assert_eq!(told_of(&history, "orders", i64::from(shop.second)).await, r#"{ "_id": 1 }"#, "{what}");
    }
}

#[tokio::test]
async fn of_collections_that_began_only_those_are_looked_at_that_a_rename_has_to_do_with() {
    let mut shop = Shop::with_plugins(&[]);
    for n in 0..100 {
        shop.push(of(&format!("other_{n}"), "create"), doc! {});
    }
    for coll in ["orders", "fresh", "kept"] {
        shop.push(of(coll, "create"), doc! {});
    }
    shop.push(of("fresh", "rename"), doc! {"detail": {"to": orders(), "fromWatched": true}});
    let (history, _folder) = history(&shop, &[]).await;
    let wide = history.wide("shop").await.unwrap();
    let of: Vec<String> =
        wide.iter().filter_map(|bytes| Record::new(bytes).unwrap().coll().map(str::to_owned)).collect();
    assert_eq!(of, ["orders", "fresh", "fresh"]);
}

#[tokio::test]
async fn before_its_collection_was_created_a_document_did_not_exist() {
    let mut shop = Shop::with_plugins(&[]);
    shop.second += 5;
    let then = i64::from(shop.second) - 1;
    shop.push(of("orders", "create"), doc! {});
    shop.change("insert", 1, doc! {"after": {"_id": 1}});
    let (history, _folder) = history(&shop, &[]).await;
    let said = told(&history, then).await;
    assert!(said.contains(ABSENT), "{said}");
}

#[tokio::test]
async fn what_has_expired_may_have_been_in_a_collection_that_is_renamed() {
    let renamed = "another collection was renamed";
    for (emptied, is_recreated, expected) in
        [(false, false, renamed), (true, false, renamed), (false, true, ABSENT)]
    {
        let mut shop = Shop::with_plugins(&[]);
        if emptied {
            shop.push(of("others", "drop"), doc! {});
        }
        shop.push(one_of("others", "insert"), doc! {"after": {"_id": 1, "x": 2}});
        shop.second += 5;
        let end = shop.next_seq();
        if is_recreated {
            shop.push(of("others", "drop"), doc! {});
            shop.push(of("others", "create"), doc! {});
        }
        shop.change("insert", 1, doc! {"after": {"_id": 1, "x": 1}});
        shop.second += 5;
        let detail = doc! {"to": orders(), "fromWatched": true, "whole": true};
        shop.push(of("others", "rename"), doc! {"detail": detail});
        let then = i64::from(shop.second);
        let (archive, folder) = shop.archive(&[end]).await;
        expire(&archive, &folder, 1).await;
        let said = told_of(&History::new(None, archive), "orders", then).await;
        assert!(said.contains(expected), "{emptied} {is_recreated}: {said}");
    }
}

#[tokio::test]
async fn what_was_renamed_out_of_what_is_watched_is_not_known_any_more() {
    let mut shop = Shop::default();
    shop.second = super::testing::DAY;
    let detail = doc! {"plugins": [], "watch": ["shop.orders"]};
    shop.push(doc! {"op": "policy"}, doc! {"detail": detail});
    shop.change("insert", 1, doc! {"after": {"_id": 1}});
    let there = i64::from(shop.second);
    shop.push(
        of("orders", "rename"),
        doc! {"detail": {"to": {"db": "shop", "coll": "old"}, "fromWatched": true}},
    );
    let then = i64::from(shop.second);
    let (history, _folder) = history(&shop, &[]).await;
    assert_eq!(told_of(&history, "orders", there).await, r#"{ "_id": 1 }"#);
    assert!(told_of(&history, "orders", then).await.contains(ABSENT));
    let said = told_of(&history, "old", then).await;
    assert!(said.contains("no longer watched"), "{said}");
}

#[tokio::test]
async fn a_withheld_rename_makes_both_names_unknown_and_all_where_it_does_not_say_whereto() {
    for to in [Some(orders()), Some(doc! {"db": "shop", "coll": "more"}), None] {
        let mut shop = Shop::with_plugins(&[]);
        shop.change("insert", 1, doc! {"after": {"_id": 1}});
        let mut detail = doc! {"op": "rename", "plugin": "p", "error": "trap"};
        detail.extend(to.clone().map(|to| ("to".to_owned(), to.into())));
        shop.push(of("others", "quarantine"), doc! {"detail": detail});
        let then = i64::from(shop.second);
        let (history, _folder) = history(&shop, &[]).await;
        let said = told_of(&history, "orders", then).await;
        let expected =
            if to.is_some_and(|to| to != orders()) { r#"{ "_id": 1 }"# } else { "was quarantined" };
        assert!(said.contains(expected), "{said}");
    }
}

#[tokio::test]
async fn before_a_withheld_end_of_its_collection_nothing_is_told_by_the_next_insert() {
    let mut shop = Shop::with_plugins(&[]);
    shop.second += 5;
    let then = i64::from(shop.second);
    shop.second += 5;
    let detail = doc! {"op": "drop", "plugin": "p", "error": "trap"};
    shop.push(of("orders", "quarantine"), doc! {"detail": detail});
    shop.change("insert", 1, doc! {"after": {"_id": 1}});
    let (history, _folder) = history(&shop, &[]).await;
    let said = told(&history, then).await;
    assert!(said.contains(BEFORE), "{said}");
}

#[tokio::test]
async fn what_came_back_with_a_renamed_collection_is_not_deleted() {
    for images in [true, false] {
        for (op, expected) in [("snapshot", None), ("gap", None), ("none", Some("renamed"))] {
            let mut shop = Shop::with_plugins(&[]);
            shop.change("insert", 1, doc! {"after": {"_id": 1}});
            shop.change(
                "delete",
                1,
                if images {
                    doc! {"before": {"_id": 1}}
                } else {
                    doc! {}
                },
            );
            if op == "snapshot" {
                shop.push(one_of("others", op), doc! {"after": {"_id": 1}});
            } else if op == "gap" {
                shop.push(one_of("others", op), doc! {"detail": {"reason": "r", "op": "insert"}});
            }
            shop.push(of("others", "rename"), doc! {"detail": {"to": orders(), "fromWatched": true}});
            let (history, _folder) = history(&shop, &[]).await;
            let found = deleted(&history).await;
            let is_it = match (&found[..], expected) {
                ([], None) => true,
                ([Err(why)], Some(words)) => why.contains(words),
                _ => false,
            };
            assert!(is_it, "images {images}, {op}: {found:?}");
        }
    }
}

#[tokio::test]
async fn what_came_back_unseen_and_ended_with_its_collection_is_named() {
    for was_known in [true, false] {
        let mut shop = Shop::with_plugins(&[]);
        if was_known {
            shop.change("insert", 1, doc! {"after": {"_id": 1}});
            shop.change("delete", 1, doc! {"before": {"_id": 1}});
        }
        shop.change("gap", 1, doc! {"detail": {"reason": "event too large", "op": "insert"}});
        shop.push(of("orders", "drop"), doc! {});
        let (history, _folder) = history(&shop, &[]).await;
        let found = deleted(&history).await;
        let is_named = matches!(&found[..], [Err(why)] if why.contains("history is missing"));
        assert!(is_named, "{was_known}: {found:?}");
    }
}

#[tokio::test]
async fn a_late_deletion_behind_which_something_has_expired_gives_its_image_by_id() {
    let parts = doc! {"before": {"_id": 1, "x": 1}};
    let (history, _folder, _) = released_behind_what_has_expired("delete", parts, false).await;
    let (found, _) = by_id(&history, "shop", &DocumentId::parse("1").unwrap(), None, None).await.unwrap();
    assert_eq!(bson::deserialize_from_slice::<Document>(&found.document).unwrap(), doc! {"_id": 1, "x": 1});
}

#[tokio::test]
async fn what_may_be_there_again_or_missing_among_the_deleted_is_counted() {
    let withheld = |op: &'static str| {
        move |shop: &mut Shop| {
            let detail = doc! {"op": op, "plugin": "p", "error": "trap"};
            shop.push(of("orders", "quarantine"), doc! {"detail": detail});
        }
    };
    let open = |shop: &mut Shop| {
        gap(shop, None);
    };
    let closed = |undecided: Vec<Document>| {
        move |shop: &mut Shop| {
            let gap = gap(shop, None);
            shop.push(doc! {"op": "gap"}, doc! {"detail": {"closes": gap, "undecided": undecided.clone()}});
        }
    };
    let unwatched = |shop: &mut Shop| {
        shop.push(doc! {"op": "policy"}, doc! {"detail": {"plugins": [], "watch": ["shop.others"]}});
    };
    type Happens = Box<dyn Fn(&mut Shop)>;
    let cases: Vec<(&str, Happens, (usize, usize, usize))> = vec![
        ("nothing", Box::new(|_: &mut Shop| {}), (0, 0, 0)),
        ("an insert", Box::new(withheld("insert")), (1, 0, 0)),
        ("a deletion", Box::new(withheld("delete")), (0, 1, 0)),
        ("a drop", Box::new(withheld("drop")), (0, 1, 0)),
        ("a gap", Box::new(open), (0, 0, 1)),
        ("a closed gap", Box::new(closed(vec![])), (0, 0, 0)),
        ("one that is undecided", Box::new(closed(vec![orders()])), (0, 0, 1)),
        ("it is not watched any more", Box::new(unwatched), (0, 0, 1)),
    ];
    for (what, happens, expected) in cases {
        for is_before in [false, true] {
            let mut shop = Shop::with_plugins(&[]);
            shop.change("insert", 1, doc! {"after": {"_id": 1}});
            if is_before {
                happens(&mut shop);
                shop.second += 2;
            }
            let since = i64::from(shop.second);
            shop.change("delete", 1, doc! {"before": {"_id": 1}});
            if !is_before {
                happens(&mut shop);
            }
            let (history, _folder) = history(&shop, &[]).await;
            let summary = deleted_since(&history, "shop", since, None, async |_| Ok(())).await.unwrap();
            let found = (summary.unseen.unnamed, summary.withheld, summary.unseen.namespaces.len());
            let unwatched = what.contains("watched");
            let expected = if is_before && !unwatched { (0, 0, 0) } else { expected };
            assert_eq!((summary.recovered, found), (1, expected), "{what} before the deletion: {is_before}");
        }
    }
}
