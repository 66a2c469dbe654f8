//! Where a document can be told and where not, and why: each answer with its words.
#![allow(clippy::unwrap_used)]

use bson::{Bson, Document, doc};
use tempfile::TempDir;

use super::id::DocumentId;
use super::recover::{Answer, Conditions, Recovered, as_of, by_id, by_many_ids, deleted_since};
use super::states::{Reason, State};
use super::testing::{DAY, Shop};
use super::*;

async fn history(shop: &Shop, ends: &[i64]) -> (History, TempDir) {
    let (archive, folder) = shop.archive(ends).await;
    (History::new(None, archive), folder)
}

fn id(text: &str) -> DocumentId {
    DocumentId::parse(text).unwrap()
}

/// The document as of a second, or what is said instead.
async fn told(history: &History, text: &str, at: i64) -> std::result::Result<Document, String> {
    let found = by_id(history, "shop", &id(text), Some(at), None).await;
    found.map(|(r, _)| bson::deserialize_from_slice(&r.document).unwrap()).map_err(|e| e.explain())
}

#[track_caller]
fn assert_said(answer: std::result::Result<Document, String>, words: &str) {
    let said = answer.unwrap_err();
    assert!(said.contains(words), "{said}");
}

fn set(fields: Document) -> Document {
    doc! {"delta": {"updatedFields": fields, "removedFields": [], "truncatedArrays": []}}
}

#[tokio::test]
async fn before_the_capture_began_nothing_is_known_whatever_the_first_record_tells() {
    for (op, parts, behind) in [
        ("insert", doc! {"after": {"_id": 1}}, None),
        ("update", doc! {"before": {"_id": 1}, "after": {"_id": 1, "x": 1}}, Some(doc! {"_id": 1})),
        ("delete", doc! {"before": {"_id": 1}}, Some(doc! {"_id": 1})),
    ] {
        let mut shop = Shop::with_plugins(&[]);
        shop.second += 10;
        shop.change(op, 1, parts);
        let (history, _folder) = history(&shop, &[]).await;
        for before in [0, i64::from(DAY) - 1, i64::from(DAY)] {
            assert_said(told(&history, "1", before).await, "nothing is kept of it from before");
        }
        let then = told(&history, "1", i64::from(DAY) + 1).await;
        match behind {
            Some(document) => assert_eq!(then.unwrap(), document),
            None => assert_said(then, "did not exist at that time"),
        }
    }
}

#[tokio::test]
async fn before_its_namespace_was_watched_nothing_is_known_of_a_document() {
    let mut shop = Shop::default();
    let watch = |shop: &mut Shop, list: &[&str]| {
        let detail = doc! {"plugins": [], "watch": list};
        shop.push(doc! {"op": "policy"}, doc! {"detail": detail});
        i64::from(shop.second) - 1
    };
    shop.second = DAY;
    watch(&mut shop, &["shop.orders"]);
    shop.second += 5;
    watch(&mut shop, &["shop.others"]);
    shop.second += 5;
    let again = watch(&mut shop, &["shop.*"]);
    shop.second += 5;
    watch(&mut shop, &["shop.orders"]);
    shop.second += 5;
    shop.change("insert", 1, doc! {"after": {"_id": 1}});
    let (history, _folder) = history(&shop, &[]).await;
    for before in [i64::from(DAY) + 2, again - 1, again] {
        assert_said(told(&history, "1", before).await, "nothing is kept of it from before");
    }
    assert_said(told(&history, "1", again + 1).await, "did not exist at that time");
}

#[tokio::test]
async fn a_path_with_several_readings_is_ambiguous_until_an_image_or_the_server_tells() {
    let both = doc! {"_id": 1, "a.b": 1, "a": {"b": 1}};
    let mut shop = Shop::with_plugins(&[]);
    shop.change("insert", 1, doc! {"after": both.clone()});
    let seq = shop.change("update", 1, set(doc! {"a.b": 7}));
    let doubtful = i64::from(shop.second);
    shop.change("update", 1, set(doc! {"c": 1}));
    let still = i64::from(shop.second);
    shop.change("update", 1, doc! {"before": {"_id": 1, "x": 1}, "after": {"_id": 1, "x": 2}});
    let known = i64::from(shop.second);

    let mut disambiguated = set(doc! {"a.b": 7});
    let paths = doc! {"a.b": ["a", "b"]};
    disambiguated.get_document_mut("delta").unwrap().insert("disambiguatedPaths", paths);
    shop.change("insert", 2, doc! {"after": {"_id": 2, "a.b": 1, "a": {"b": 1}}});
    shop.change("update", 2, disambiguated);
    let end = i64::from(shop.second);
    let (history, _folder) = history(&shop, &[]).await;
    for at in [doubtful, still - 1] {
        let words = format!("a changed path is ambiguous: it has several readings seq={seq}");
        assert_said(told(&history, "1", at).await, &words);
    }
    // The next image tells what it was just before.
    assert_eq!(told(&history, "1", still).await.unwrap(), doc! {"_id": 1, "x": 1});
    assert_eq!(told(&history, "1", known).await.unwrap(), doc! {"_id": 1, "x": 2});
    assert_eq!(told(&history, "2", end).await.unwrap(), doc! {"_id": 2, "a.b": 1, "a": {"b": 7}});
}

#[tokio::test]
async fn an_id_that_becomes_an_equal_number_of_another_type_is_that_of_one_document() {
    for one in [Bson::Int32(1), Bson::Int64(1), Bson::Double(1.0)] {
        let mut shop = Shop::with_plugins(&[]);
        shop.change("insert", 1, doc! {"after": {"_id": 1}});
        shop.change("replace", 1, doc! {"after": {"_id": one.clone(), "n": 1}});
        shop.change("update", one.clone(), set(doc! {"n": 2}));
        let then = i64::from(shop.second);
        let seq = shop.change("delete", one.clone(), doc! {});
        shop.change("insert", 1.0, doc! {"after": {"_id": 1.0}});
        let end = i64::from(shop.second);
        shop.change("delete", 1.0, doc! {});
        let (history, _folder) = history(&shop, &[4]).await;
        let changed = doc! {"_id": one.clone(), "n": 2};
        assert_eq!(told(&history, "1", then).await.unwrap(), changed);
        assert_eq!(told(&history, "1", end).await.unwrap(), doc! {"_id": 1.0});
        let timeline = history.timeline("shop", &id("1"), None).await.unwrap();
        let deletion =
            timeline.entries.iter().find(|e| Record::new(&e.record).unwrap().seq().unwrap() == seq);
        assert_eq!(deletion.unwrap().after.state, State::Absent);
        let mut given = Vec::new();
        let take = async |answer: recover::Answer| -> Result<()> {
            given.push(bson::deserialize_from_slice::<Document>(&answer.unwrap().document).unwrap());
            Ok(())
        };
        deleted_since(&history, "shop", 0, None, take).await.unwrap();
        assert_eq!(given, [doc! {"_id": 1.0}]);
        let mut given = Vec::new();
        let take = async |answer: recover::Answer| -> Result<()> {
            given.push(bson::deserialize_from_slice::<Document>(&answer.unwrap().document).unwrap());
            Ok(())
        };
        let all = Conditions::default();
        as_of(&history, "shop", then, None, &all, take).await.unwrap();
        assert_eq!(given, [changed], "among all documents, too");
    }
}

#[tokio::test]
async fn an_id_that_becomes_an_equal_one_that_is_not_followed_says_so() {
    let mut shop = Shop::with_plugins(&[]);
    shop.change("insert", doc! {"a": 1}, doc! {"after": {"_id": {"a": 1}}});
    let before = i64::from(shop.second);
    let seq = shop.change("replace", doc! {"a": 1}, doc! {"after": {"_id": {"a": 1.0}, "n": 1}});
    shop.change("update", doc! {"a": 1.0}, set(doc! {"n": 2}));
    let end = i64::from(shop.second);
    let (history, _folder) = history(&shop, &[]).await;
    let first = r#"{"a": 1}"#;
    assert_eq!(told(&history, first, before).await.unwrap(), doc! {"_id": {"a": 1}});
    let words = format!("its _id was replaced by an equal one of another type seq={seq}");
    assert_said(told(&history, first, end).await, &words);
    assert_said(told(&history, r#"{"a": 1.0}"#, end).await, "nothing is kept of it from before");
    // Whoever reads all records knows it under both.
    let mut states = states::States::new(Policies::default(), Salts::new());
    let mut last = None;
    for bytes in &shop.records {
        last = states.advance(&Record::new(bytes).unwrap()).unwrap();
    }
    let State::Present(bytes) = last.unwrap().after.state else { panic!("known") };
    assert_eq!(bson::deserialize_from_slice::<Document>(&bytes).unwrap(), doc! {"_id": {"a": 1.0}, "n": 2});
}

#[tokio::test]
async fn images_that_were_recorded_as_they_came_are_read_as_they_were_stored() {
    let twice = |fields: &[(&str, i32)]| -> Bson {
        let bytes = bson_walker::Writer::build(|w| fields.iter().for_each(|(name, n)| w.i32(name, *n)));
        bson::RawBson::Document(bson::RawDocumentBuf::from_bytes(bytes).unwrap()).try_into().unwrap()
    };
    let mut shop = Shop::with_plugins(&[]);
    shop.change("insert", 1, doc! {"after": {"_id": 1, "a": 1}});
    shop.change("replace", 1, doc! {"after": twice(&[("a", 2), ("_id", 1), ("b", 3)])});
    let (history, _folder) = history(&shop, &[]).await;
    let end = i64::from(shop.second);
    let found = told(&history, "1", end).await.unwrap();
    assert_eq!(found.keys().collect::<Vec<_>>(), ["_id", "a", "b"]);
}

#[tokio::test]
async fn a_withheld_change_is_of_its_document_whatever_the_type_of_its_number() {
    let salt = crate::salt::Salt::random();
    let mut shop = Shop::with_plugins(&[]);
    shop.change("insert", 1, doc! {"after": {"_id": 1}});
    shop.change("insert", 2, doc! {"after": {"_id": 2}});
    let digest = salt.id_digest(bson_walker::kind::INT64, &1_i64.to_le_bytes());
    let detail = doc! {"detail": {"op": "update", "keyDigest": digest}};
    let seq = shop.push(doc! {"op": "quarantine", "ns": {"db": "shop", "coll": "orders"}}, detail);
    let mut states = states::States::new(Policies::default(), Salts::from([(None, salt)]));
    let mut identities = Vec::new();
    for bytes in &shop.records {
        let record = Record::new(bytes).unwrap();
        identities.extend(states::Identity::of(&record));
        states.advance(&record).unwrap();
    }
    assert_eq!(states.now(&identities[0]).state, State::Unknown(Reason::Quarantined(seq)));
    assert!(matches!(states.now(&identities[1]).state, State::Present(_)));
}

#[tokio::test]
async fn what_a_baseline_read_at_the_time_of_a_change_is_known_behind_it() {
    let mut shop = Shop::with_plugins(&[]);
    let read = shop.second + 9;
    shop.second = read;
    shop.change("snapshot", 1, doc! {"after": {"_id": 1, "a": 5}});
    // Two changes in a transaction of that time, the second of which takes away what the first has changed.
    for delta in [doc! {"a.b": 1}, doc! {"a": 5}] {
        shop.second = read;
        shop.change("update", 1, set(delta));
    }
    let then = i64::from(shop.second);
    shop.second += 5;
    shop.change("update", 1, set(doc! {"c": 1}));
    let (history, _folder) = history(&shop, &[]).await;
    assert_eq!(told(&history, "1", then).await.unwrap(), doc! {"_id": 1, "a": 5});
    assert_eq!(told(&history, "1", then + 9).await.unwrap(), doc! {"_id": 1, "a": 5, "c": 1});
    let timeline = history.timeline("shop", &id("1"), None).await.unwrap();
    let op = |entry: &timeline::Entry| Record::new(&entry.record).unwrap().op().to_owned();
    assert_eq!(
        timeline.entries.iter().map(op).collect::<Vec<_>>(),
        ["update", "update", "snapshot", "update"]
    );
    // As they were written, it is the same.
    let mut states = states::States::default();
    let mut last = None;
    for bytes in &shop.records {
        last = states.advance(&Record::new(bytes).unwrap()).unwrap();
    }
    let State::Present(bytes) = last.unwrap().after.state else { panic!("known") };
    assert_eq!(bson::deserialize_from_slice::<Document>(&bytes).unwrap(), doc! {"_id": 1, "a": 5, "c": 1});
}

#[tokio::test]
async fn a_rename_ends_documents_under_the_old_name_and_a_drop_those_of_its_collection_alone() {
    let mut shop = Shop::with_plugins(&[]);
    let of = |coll: &str, op: &str| doc! {"op": op, "ns": {"db": "shop", "coll": coll}};
    shop.change("insert", 1, doc! {"after": {"_id": 1}});
    shop.push(of("others", "drop"), doc! {});
    let there = i64::from(shop.second);
    let to = doc! {"to": {"db": "shop", "coll": "moved"}, "fromWatched": true};
    shop.push(of("orders", "rename"), doc! {"detail": to});
    let moved = i64::from(shop.second);
    shop.push(of("moved", "drop"), doc! {});
    let dropped = i64::from(shop.second);
    let (history, _folder) = history(&shop, &[]).await;
    let is_there = async |coll: &str, at: i64| {
        let namespace = Namespace::parse(&format!("shop.{coll}")).unwrap();
        by_id(&history, "shop", &id("1"), Some(at), Some(&namespace)).await.is_ok()
    };
    assert!(is_there("orders", there).await && !is_there("orders", moved).await);
    assert!(!is_there("moved", there).await && is_there("moved", moved).await);
    assert!(!is_there("moved", dropped).await && !is_there("orders", dropped).await);
}

#[tokio::test]
async fn a_change_inside_of_what_a_plugin_took_out_is_told_with_what_it_left() {
    let mut shop = Shop::with_plugins(&["redact"]);
    shop.change("insert", 1, doc! {"after": {"_id": 1, "customer": "[redacted]"}});
    shop.change("update", 1, set(doc! {"address.city": "Oslo", "customer.name": "[redacted]"}));
    let end = i64::from(shop.second);
    let (history, _folder) = history(&shop, &[]).await;
    let left = doc! {"_id": 1, "customer": "[redacted]", "address": {"city": "Oslo"}};
    assert_eq!(told(&history, "1", end).await.unwrap(), left);
    let (found, policies) = by_id(&history, "shop", &id("1"), Some(end), None).await.unwrap();
    let through: Vec<_> = found.origins.iter().filter_map(|origin| policies.plugins(origin.policy)).collect();
    assert_eq!(through, [["redact 1 (sha256 ab)".to_owned()]], "and through which plugin");
}

/// A baseline can read a collection under its old name at the very time at which it is renamed.
#[tokio::test]
async fn what_a_baseline_read_at_the_time_of_a_rename_goes_on_under_the_new_name() {
    let mut shop = Shop::with_plugins(&[]);
    let to = doc! {"to": {"db": "shop", "coll": "moved"}, "fromWatched": true};
    shop.change("snapshot", 1, doc! {"after": {"_id": 1}});
    shop.second -= 1;
    shop.push(doc! {"op": "rename", "ns": {"db": "shop", "coll": "orders"}}, doc! {"detail": to});
    let end = i64::from(shop.second);
    let (history, _folder) = history(&shop, &[]).await;
    let there = async |coll: &str| {
        let namespace = Namespace::parse(&format!("shop.{coll}")).unwrap();
        by_id(&history, "shop", &id("1"), Some(end), Some(&namespace)).await.is_ok()
    };
    assert!(there("moved").await && !there("orders").await);
}

/// A chain of one plugin that marks what it changes.
fn chain(may_drop: bool) -> Document {
    let plugin =
        doc! {"name": "p", "version": "1", "sha256": "ab", "config_sha256": "c", "may_drop": may_drop};
    doc! {"plugins": [plugin], "marks_redacted": true}
}

/// A gap of ten seconds, and its record, whose seq it gives.
fn gap(shop: &mut Shop) -> i64 {
    let after = Timestamp { time: shop.second, increment: 1 };
    shop.second += 10;
    let until = Timestamp { time: shop.second, increment: 1 };
    shop.push(doc! {"op": "gap"}, doc! {"detail": {"reason": "r", "after": after, "until": until}})
}

async fn deleted(history: &History) -> Vec<(Document, bool)> {
    let mut found = Vec::new();
    let take = async |answer: Answer| {
        let recovered = answer.unwrap();
        found.push((bson::deserialize_from_slice(&recovered.document).unwrap(), recovered.is_redacted));
        Ok(())
    };
    deleted_since(history, "shop", i64::from(DAY), None, take).await.unwrap();
    found
}

#[tokio::test]
async fn what_a_plugin_may_have_dropped_changes_of_is_not_mongodbs_own() {
    for may_drop in [false, true] {
        let mut shop = Shop::with_plugins(&[]);
        shop.change("insert", 1, doc! {"after": {"_id": 1}});
        shop.policy(chain(may_drop));
        shop.policy(doc! {"plugins": [], "marks_redacted": true});
        shop.change("delete", 1, doc! {});
        let (history, _folder) = history(&shop, &[]).await;
        assert_eq!(deleted(&history).await, [(doc! {"_id": 1}, may_drop)]);
        let (found, policies) = by_id(&history, "shop", &id("1"), None, None).await.unwrap();
        assert_eq!((found.is_redacted, policies.may_be_redacted(&found.origins)), (may_drop, may_drop));
    }
}

#[tokio::test]
async fn what_no_plugin_has_touched_is_put_together_as_without_plugins() {
    for policy in [doc! {"plugins": []}, chain(false)] {
        let mut shop = Shop::with_plugins(&[]);
        shop.policy(policy);
        shop.change("insert", 1, doc! {"after": {"_id": 1, "b": 2}});
        // There is no `a` that a plugin could have taken out: the field's name has a dot.
        shop.change("update", 1, set(doc! {"a.b": 1}));
        shop.change("delete", 1, doc! {});
        let (history, _folder) = history(&shop, &[]).await;
        assert_eq!(deleted(&history).await, [(doc! {"_id": 1, "b": 2, "a.b": 1}, false)]);
    }
}

#[tokio::test]
async fn a_document_deleted_before_a_gap_comes_back_once_the_gap_is_closed() {
    let mut shop = Shop::with_plugins(&[]);
    shop.change("insert", 1, doc! {"after": {"_id": 1}});
    shop.change("delete", 1, doc! {});
    let gap = gap(&mut shop);
    shop.push(doc! {"op": "gap"}, doc! {"detail": {"closes": gap}});
    let (history, _folder) = history(&shop, &[]).await;
    let (found, _) = by_id(&history, "shop", &id("1"), None, None).await.unwrap();
    assert_eq!(bson::deserialize_from_slice::<Document>(&found.document).unwrap(), doc! {"_id": 1});
}

#[tokio::test]
async fn a_gap_behind_a_withheld_change_is_a_gap_all_the_same() {
    let mut shop = Shop::with_plugins(&[]);
    shop.change("insert", 1, doc! {"after": {"_id": 1, "v": 1}});
    let ns = doc! {"db": "shop", "coll": "orders"};
    let withheld = doc! {"detail": {"op": "update", "plugin": "p", "error": "trap"}};
    shop.push(doc! {"op": "quarantine", "ns": ns}, withheld);
    let between = i64::from(shop.second) + 3;
    shop.second += 5;
    gap(&mut shop);
    let inside = i64::from(shop.second) - 5;
    shop.second += 5;
    shop.change("update", 1, doc! {"before": {"_id": 1, "v": 9}, "after": {"_id": 1, "v": 10}});
    let (history, _folder) = history(&shop, &[]).await;
    assert_said(told(&history, "1", between).await, "a change was quarantined");
    assert_said(told(&history, "1", inside).await, "the time is inside a gap");
}

#[tokio::test]
async fn what_is_first_recorded_behind_a_gap_may_have_been_there_inside_of_it() {
    let mut shop = Shop::with_plugins(&[]);
    let before = i64::from(shop.second) + 1;
    shop.second += 5;
    gap(&mut shop);
    let end = i64::from(shop.second) - 1;
    shop.second += 5;
    shop.change("insert", 1, doc! {"after": {"_id": 1}});
    let (history, _folder) = history(&shop, &[]).await;
    assert_said(told(&history, "1", end - 5).await, "the time is inside a gap");
    assert!(told(&history, "1", before).await.is_err());
    assert_said(told(&history, "1", end + 3).await, "did not exist at that time");
}

#[tokio::test]
async fn what_was_moved_out_of_a_collection_that_was_dropped_is_deleted_by_its_own_event() {
    let mut shop = Shop::with_plugins(&[]);
    let to = doc! {"to": {"db": "shop", "coll": "moved"}, "fromWatched": true};
    let orders = doc! {"db": "shop", "coll": "orders"};
    shop.change("insert", 1, doc! {"after": {"_id": 1}});
    shop.push(doc! {"op": "rename", "ns": orders.clone()}, doc! {"detail": to});
    let since = i64::from(shop.second);
    shop.push(doc! {"op": "drop", "ns": orders}, doc! {});
    let moved = doc! {"op": "delete", "ns": {"db": "shop", "coll": "moved"}, "key": {"_id": 1}};
    shop.push(moved, doc! {});
    let (history, _folder) = history(&shop, &[]).await;
    let mut found = Vec::new();
    let take = async |answer: Answer| {
        found.push(answer.map(|recovered| recovered.namespace.coll).map_err(|lost| lost.why));
        Ok(())
    };
    deleted_since(&history, "shop", since, None, take).await.unwrap();
    assert_eq!(found, [Ok("moved".to_owned())]);
}

#[tokio::test]
async fn what_is_not_known_when_its_collection_is_renamed_is_not_known_under_the_new_name() {
    let mut shop = Shop::with_plugins(&[]);
    let to = doc! {"to": {"db": "shop", "coll": "moved"}, "fromWatched": true};
    let orders = doc! {"db": "shop", "coll": "orders"};
    shop.change("insert", 1, doc! {"after": {"_id": 1}});
    let withheld = doc! {"detail": {"op": "update", "plugin": "p", "error": "trap"}};
    shop.push(doc! {"op": "quarantine", "ns": orders.clone()}, withheld);
    shop.push(doc! {"op": "rename", "ns": orders}, doc! {"detail": to});
    let end = i64::from(shop.second);
    let (history, _folder) = history(&shop, &[]).await;
    let moved = Namespace::parse("shop.moved").unwrap();
    let found = by_id(&history, "shop", &id("1"), Some(end), Some(&moved)).await;
    assert_said(found.map(|_| doc! {}).map_err(|e| e.explain()), "a change was quarantined");
}

#[tokio::test]
async fn a_late_change_of_a_transaction_counts_where_it_was_made() {
    for (withheld, last) in [("insert", "delete"), ("delete", "insert")] {
        let mut shop = Shop::with_plugins(&[]);
        if withheld == "delete" {
            shop.change("snapshot", 1, doc! {"after": {"_id": 1, "v": 0}});
        }
        let time = shop.second;
        let parts = |op: &str| match op {
            "insert" => doc! {"after": {"_id": 1, "v": 1}},
            _ => doc! {"before": {"_id": 1, "v": 1}},
        };
        let ns = doc! {"db": "shop", "coll": "orders"};
        let detail = doc! {"detail": {"op": withheld, "plugin": "p", "error": "trap"}};
        let quarantine = shop.push(doc! {"op": "quarantine", "ns": ns.clone()}, detail);
        shop.second = time;
        shop.change(last, 1, parts(last));
        shop.second = time;
        let mut late = parts(withheld);
        late.insert("detail", doc! {"late": quarantine});
        let late = shop.change(withheld, 1, late);
        let released = doc! {"detail": {"released": [{"seq": quarantine, "late": late}]}};
        shop.push(doc! {"op": "quarantine", "ns": ns}, released);
        let (history, _folder) = history(&shop, &[]).await;
        let found: Vec<Document> =
            deleted(&history).await.into_iter().map(|(document, _)| document).collect();
        let expected = if last == "delete" { vec![doc! {"_id": 1, "v": 1}] } else { vec![] };
        assert_eq!(found, expected, "{withheld} late, then {last}");
    }
}

#[tokio::test]
async fn among_many_ids_each_gives_its_own_document_alone() {
    let hex = "655f1c2e9d3b4a0012345678";
    let mut shop = Shop::with_plugins(&[]);
    shop.change("insert", hex, doc! {"after": {"_id": hex}});
    let end = i64::from(shop.second);
    let (history, _folder) = history(&shop, &[]).await;
    let others = (0..40).map(|n| id(&format!("{{\"$numberInt\": \"{n}\"}}")));
    let exact = id(&format!("{{\"$oid\": \"{hex}\"}}"));
    let ids: Vec<DocumentId> = [id(hex), exact.clone()].into_iter().chain(others).collect();
    let mut found = 0;
    let take = async |answer: Result<Recovered>| {
        found += usize::from(answer.is_ok());
        Ok(())
    };
    by_many_ids(&history, "shop", &ids, Some(end), None, take).await.unwrap();
    assert_eq!(found, 1, "the ObjectId is that of no document");
    assert!(by_id(&history, "shop", &exact, Some(end), None).await.is_err());
}

/// Or under its new name already.
#[tokio::test]
async fn what_a_baseline_read_under_the_new_name_at_the_time_of_a_rename_is_behind_it() {
    let to = doc! {"to": {"db": "shop", "coll": "orders"}, "fromWatched": true};
    let others = doc! {"db": "shop", "coll": "others"};
    for was_known in [false, true] {
        let mut shop = Shop::with_plugins(&[]);
        if was_known {
            shop.push(doc! {"op": "update", "ns": others.clone(), "key": {"_id": 1}}, set(doc! {"x": 2}));
        }
        shop.change("snapshot", 1, doc! {"after": {"_id": 1, "x": 2}});
        shop.second -= 1;
        shop.push(doc! {"op": "rename", "ns": others.clone()}, doc! {"detail": to.clone()});
        let (history, _folder) = history(&shop, &[]).await;
        let orders = Namespace::parse("shop.orders").unwrap();
        let timeline = history.timeline("shop", &id("1"), Some(&orders)).await.unwrap();
        let ops = timeline.entries.iter().map(|entry| Record::new(&entry.record).unwrap().op().to_owned());
        let ops: Vec<String> = ops.collect();
        assert_eq!(ops.last().map(String::as_str), Some("snapshot"), "{ops:?}");
        let (found, _) =
            by_id(&history, "shop", &id("1"), Some(i64::from(shop.second)), Some(&orders)).await.unwrap();
        let found: Document = bson::deserialize_from_slice(&found.document).unwrap();
        assert_eq!(found, doc! {"_id": 1, "x": 2});
    }
}

#[tokio::test]
async fn a_document_that_no_baseline_had_read_came_with_the_collection_that_took_the_name() {
    let to = doc! {"to": {"db": "shop", "coll": "orders"}, "fromWatched": true};
    for (op, parts, behind) in [
        ("snapshot", doc! {"after": {"_id": 1, "x": 2}}, Some(doc! {"_id": 1, "x": 2})),
        ("update", doc! {"before": {"_id": 1, "x": 2}, "after": {"_id": 1}}, Some(doc! {"_id": 1, "x": 2})),
        ("delete", doc! {}, None),
    ] {
        let mut shop = Shop::with_plugins(&[]);
        shop.change("insert", 1, doc! {"after": {"_id": 1, "x": 1}});
        shop.push(doc! {"op": "rename", "ns": {"db": "shop", "coll": "others"}}, doc! {"detail": to.clone()});
        let then = i64::from(shop.second);
        shop.second += 5;
        shop.change(op, 1, parts);
        let (history, _folder) = history(&shop, &[]).await;
        match behind {
            Some(document) => assert_eq!(told(&history, "1", then).await.unwrap(), document),
            None => {
                assert_said(told(&history, "1", then).await, "another collection was renamed to this one")
            }
        }
    }
}

#[tokio::test]
async fn what_was_there_before_a_collection_ended_unread_is_not_told_by_its_successors_first_insert() {
    for ends in [doc! {"db": "shop", "coll": "orders"}, doc! {"db": "shop"}] {
        let mut shop = Shop::with_plugins(&[]);
        shop.second += 5;
        let op = if ends.len() == 1 { "dropDatabase" } else { "drop" };
        shop.push(doc! {"op": op, "ns": ends}, doc! {});
        let ended = i64::from(shop.second) - 1;
        shop.push(doc! {"op": "drop", "ns": {"db": "shop", "coll": "others"}}, doc! {});
        shop.second += 5;
        shop.change("insert", 1, doc! {"after": {"_id": 1}});
        let (history, _folder) = history(&shop, &[]).await;
        assert_said(told(&history, "1", ended - 1).await, "nothing is kept of it from before");
        assert_said(told(&history, "1", ended + 1).await, "did not exist at that time");
    }
}
