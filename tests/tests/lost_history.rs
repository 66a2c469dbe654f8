//! When MongoDB no longer has the events after the checkpoint: the gap is recorded, and what happened in it is found by
//! comparison. The oracle is what the collection held before and after.

use std::collections::BTreeMap;
use std::time::Duration;

use archiver_tests::canary::{Canary, Haystack};
use archiver_tests::record::{at, integer, must, of, text, time};
use archiver_tests::replica_set::Settings;
use archiver_tests::truth::assert_dense;
use archiver_tests::workload::{Workload, seed};
use archiver_tests::{Fixture, Server, oplog, wait_until};
use bson::{Document, RawDocumentBuf, doc};
use futures_util::{StreamExt, TryStreamExt};

const LIMIT: Duration = Duration::from_secs(60);
const SMALL_BATCHES: &str = "[capture]\nbatch_max_events = 7\nlease_time = \"2s\"\n\n";

/// A server whose oplog is rolled over in a second.
async fn tiny_oplog() -> Server {
    Server::own(Settings { oplog_megabytes: 3, cache_megabytes: 256, ..Settings::default() }).await
}

/// Makes the stored position one that the oplog does not hold, as if it had rolled over, but quicker: that of an event which
/// the source's filter does not let through. What is changed from now on is lost.
async fn lose_position(fixture: &Fixture, source: &str) {
    let mut stream = fixture.db.watch().await.unwrap();
    fixture.collection("unwatched").insert_one(doc! {}).await.unwrap();
    let event = stream.next().await.unwrap().unwrap();
    let position = doc! {"token": bson::serialize_to_bson(&event.id).unwrap(), "clusterTime": event.cluster_time.unwrap()};
    let checkpoints = fixture.audit.collection::<Document>("archiver.checkpoints");
    let stored = checkpoints.update_one(doc! {"_id": source}, doc! {"$set": position}).await.unwrap();
    assert_eq!(stored.matched_count, 1);
}

/// What a collection holds, by `_id`.
async fn present(fixture: &Fixture, name: &str) -> BTreeMap<i32, RawDocumentBuf> {
    let found = fixture.collection(name).clone_with_type::<RawDocumentBuf>().find(doc! {}).await.unwrap();
    let documents: Vec<RawDocumentBuf> = found.try_collect().await.unwrap();
    documents.into_iter().map(|d| (d.get_i32("_id").unwrap(), d)).collect()
}

/// Documents by `_id`, as `recover` gives them back; of those that it can't, what it says.
async fn recovered(fixture: &Fixture, id: i32, at: Option<&str>) -> Result<Document, String> {
    let id = id.to_string();
    let mut arguments = vec!["recover", "--source", "orders", "--id", &id, "--format", "bson"];
    arguments.extend(at.iter().flat_map(|at| ["--at", at]));
    let outcome = fixture.archiver.run(&arguments).await;
    match outcome.code {
        Some(0) => Ok(bson::deserialize_from_slice(&outcome.bytes).unwrap()),
        _ => Err(outcome.stderr),
    }
}

/// Asserts that history knows all present documents byte for byte, in one call.
async fn assert_history_is_the_present(fixture: &Fixture, name: &str) {
    let present = present(fixture, name).await;
    let ids: Vec<String> = present.keys().map(|id| format!("--id={id}")).collect();
    let namespace = format!("{}.{name}", fixture.db.name());
    let mut arguments = vec!["recover", "--source", "orders", "--namespace", &namespace, "--format", "bson"];
    arguments.extend(["--at", "2100-01-01T00:00:00Z"]);
    arguments.extend(ids.iter().map(String::as_str));
    let bytes = fixture.archiver.run_for_bytes(&arguments).await;
    let expected: Vec<u8> = present.values().flat_map(|d| d.as_bytes().to_vec()).collect();
    assert!(bytes == expected, "history differs from the present");
}

/// `_id` → what a comparison found.
fn found(records: &[Document]) -> BTreeMap<i32, &str> {
    let found = records.iter().filter(|r| at(r, "detail.found").is_some());
    found.map(|r| (integer(r, "key._id") as i32, text(r, "detail.found"))).collect()
}

/// The records that open and close gaps, which must come in pairs.
fn gaps(records: &[Document]) -> Vec<(&Document, &Document)> {
    let (closing, opening): (Vec<_>, Vec<_>) =
        of(records, &["gap"]).into_iter().partition(|r| at(r, "detail.closes").is_some());
    assert_eq!(opening.len(), closing.len(), "{opening:?} {closing:?}");
    for (open, close) in opening.iter().zip(&closing) {
        assert_eq!(integer(open, "_id"), integer(close, "detail.closes"));
    }
    opening.into_iter().zip(closing).collect()
}

fn assert_counters(checkpoint: &Document, records: &[Document], gaps: i64) {
    let counter = |name: &str| integer(checkpoint, &format!("counters.{name}"));
    assert_eq!(counter("appended") + counter("own"), records.len() as i64, "{checkpoint}");
    assert_eq!(counter("read"), counter("appended"), "{checkpoint}");
    assert_eq!(counter("gaps"), gaps, "{checkpoint}");
    assert!(!checkpoint.contains_key("resyncs"), "{checkpoint}");
}

async fn compared(fixture: &Fixture) {
    wait_until("the comparison", LIMIT, async || {
        let records = fixture.records("orders").await;
        of(&records, &["gap"]).iter().any(|r| at(r, "detail.closes").is_some()).then_some(())
    })
    .await;
}

/// The server's present as a time for `--at`, once a whole second has passed, so that what comes next is after it.
async fn moment(server: &Server) -> String {
    let seconds = async || {
        let reply = server.client().database("admin").run_command(doc! {"hello": 1}).await.unwrap();
        reply.get_datetime("localTime").unwrap().timestamp_millis() / 1000
    };
    let now = seconds().await;
    wait_until("the next second", LIMIT, async || (seconds().await > now).then_some(())).await;
    bson::DateTime::from_millis((now + 1) * 1000).try_to_rfc3339_string().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happened_in_a_gap_is_found_and_history_is_right_before_inside_and_after_it() {
    let server = tiny_oplog().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&Fixture::source("orders", &["orders"]));
    let orders = fixture.collection("orders");
    let document = |id: i32, n: i32| doc! {"_id": id, "n": n, "items": [{"sku": id}]};
    orders.insert_many((1..=4).map(|id| document(id, 0))).await.unwrap();
    fixture.run_once().await;
    orders.update_one(doc! {"_id": 2}, doc! {"$inc": {"n": 1}}).await.unwrap();
    fixture.run_once().await;
    let before = moment(&server).await;
    fixture.run_once().await; // What is known reaches beyond that moment.
    orders.update_one(doc! {"_id": 2}, doc! {"$inc": {"n": 10}}).await.unwrap();
    orders.delete_one(doc! {"_id": 3}).await.unwrap();
    orders.insert_one(document(5, 0)).await.unwrap();
    let inside = moment(&server).await;
    oplog::roll_over(server.client()).await;
    moment(&server).await;

    let archiver = fixture.start();
    compared(&fixture).await;
    for id in [1, 2, 5] {
        orders.update_one(doc! {"_id": id}, doc! {"$set": {"items.0.paid": true}}).await.unwrap();
    }
    orders.delete_one(doc! {"_id": 4}).await.unwrap();
    wait_until("the last change", LIMIT, async || {
        (of(&fixture.records("orders").await, &["delete"]).len() == 2).then_some(())
    })
    .await;
    let outcome = archiver.terminate().await.expect_code(0);
    assert!(
        outcome.stderr.contains("ERROR") && outcome.stderr.contains("history is lost"),
        "{}",
        outcome.stderr
    );

    assert_gap_is_told(&fixture).await;

    let cold = "[archive]\nurl = \"{archive}\"\nhot_retention = \"0s\"\n\n";
    for _ in ["hot", "cold"] {
        assert_history_is_the_present(&fixture, "orders").await;
        for (id, n) in [(1, 0), (2, 1), (3, 0), (4, 0)] {
            assert_eq!(recovered(&fixture, id, Some(&before)).await.unwrap(), document(id, n));
            let inside = recovered(&fixture, id, Some(&inside)).await.unwrap_err();
            assert!(inside.contains("inside a gap"), "{inside}");
        }
        assert!(recovered(&fixture, 5, Some(&before)).await.unwrap_err().contains("did not exist"));
        assert!(recovered(&fixture, 5, Some(&inside)).await.unwrap_err().contains("inside a gap"));
        assert_eq!(recovered(&fixture, 4, None).await.unwrap(), document(4, 0), "deleted after the gap");
        assert_gap_is_shown(&fixture).await;
        fixture.configure(&(cold.to_owned() + &Fixture::source("orders", &["orders"])));
        fixture.run_once().await;
    }
    assert_eq!(fixture.count("orders").await, 0, "everything is in the archive only");
    fixture.ok(&["verify"]).await;

    // Lost again: what is known is all in the archive, and nothing has changed but one document.
    lose_position(&fixture, "orders").await;
    orders.update_one(doc! {"_id": 1}, doc! {"$inc": {"n": 7}}).await.unwrap();
    fixture.configure(&Fixture::source("orders", &["orders"]));
    fixture.run_once().await;
    let records = fixture.records("orders").await;
    assert_eq!(found(&records), BTreeMap::from([(1, "changed")]));
    let status = fixture.ok(&["status", "--format", "json"]).await;
    assert!(status.contains("\"gaps\": 2"), "{status}");
    assert_history_is_the_present(&fixture, "orders").await;
}

/// Asserts that the gap and what was found behind it are recorded with their bounds.
async fn assert_gap_is_told(fixture: &Fixture) {
    let records = fixture.records("orders").await;
    assert_dense(&records);
    assert_eq!(found(&records), BTreeMap::from([(2, "changed"), (3, "deleted"), (5, "inserted")]));
    assert_counters(&fixture.checkpoint("orders").await.unwrap(), &records, 1);
    let gaps = gaps(&records);
    let (opening, closing) = gaps[0];
    assert_eq!(must(closing, "detail.whole"), &true.into(), "everything was known from before");
    let until = must(opening, "detail.until");
    assert_eq!((time(opening), until), (until.as_timestamp().unwrap(), must(opening, "clusterTime")));
    for record in records.iter().filter(|r| at(r, "detail.found").is_some()) {
        assert_eq!(integer(record, "detail.gap"), integer(opening, "_id"));
        assert_eq!(must(record, "detail.after"), must(opening, "detail.after"));
        assert!(time(record) >= time(opening) && time(record) <= time(closing), "{record}");
    }
}

/// Asserts that people see the gap, and what to do about it.
async fn assert_gap_is_shown(fixture: &Fixture) {
    let unseen = recovered(fixture, 3, None).await.unwrap_err();
    assert!(unseen.contains("--at"), "{unseen}");
    let shown = fixture.ok(&["history", "--source", "orders", "--id", "2"]).await;
    assert!(shown.contains("history is missing between"), "{shown}");
    assert!(shown.contains("found changed, unseen between") && shown.contains("n: 1 → 11"), "{shown}");
    let shown = fixture.ok(&["history", "--source", "orders", "--id", "1"]).await;
    assert!(shown.contains("nothing else has changed"), "{shown}");
}

/// Asserts that what was found is what differs, as far as the stream did not tell of it first.
fn assert_found(
    records: &[Document],
    before: &BTreeMap<i32, RawDocumentBuf>,
    after: &BTreeMap<i32, RawDocumentBuf>,
    workload: &Workload,
) {
    let found = found(records);
    let opening = gaps(records)[0].0;
    let touched = |id: i32| {
        let about = |r: &&Document| at(r, "key._id") == Some(&id.into()) && at(r, "detail.found").is_none();
        records.iter().filter(about).any(|r| integer(r, "_id") > integer(opening, "_id"))
    };
    for id in 0..=*workload.states.keys().max().unwrap() {
        let expected = match (before.get(&id), after.get(&id)) {
            (None, None) => None,
            (None, Some(_)) => Some("inserted"),
            (Some(_), None) => Some("deleted"),
            (Some(a), Some(b)) => (a != b).then_some("changed"),
        };
        match (found.get(&id).copied(), expected) {
            (found, expected) if found == expected => {}
            // An event told first what the document is, or that it is gone; or its changes don't fit what was known of it.
            (None, Some(_)) if touched(id) => {}
            (Some("unknown"), Some("changed")) if touched(id) => {}
            (found, expected) => panic!("document {id}: found {found:?}, expected {expected:?}"),
        }
    }
    for record in of(records, &["snapshot"]).into_iter().filter(|r| at(r, "detail.found").is_some()) {
        let id = integer(record, "key._id") as i32;
        let read = bson::serialize_to_vec(must(record, "after").as_document().unwrap()).unwrap();
        assert!(
            workload.states[&id].iter().flatten().any(|state| state.as_bytes() == read),
            "the document was never like this: {record}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_changes_in_a_gap_and_while_it_is_compared_are_all_accounted_for() {
    let server = tiny_oplog().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&(SMALL_BATCHES.to_owned() + &Fixture::source("orders", &["orders"])));
    let mut workload = Workload::new(server.client(), fixture.collection("orders"), seed());
    workload.run(250).await;
    fixture.run_once().await;
    workload.run(60).await;
    fixture.run_once().await;
    let before = present(&fixture, "orders").await;
    workload.run(120).await;
    oplog::roll_over(server.client()).await;
    let after = present(&fixture, "orders").await;

    let archiver = fixture.start();
    let opened = async || fixture.records("orders").await.iter().any(|r| text(r, "op") == "gap");
    wait_until("the gap", LIMIT, async || opened().await.then_some(())).await;
    while gaps_open(&fixture).await {
        workload.step().await;
    }
    workload.run(40).await;
    archiver.terminate().await.expect_code(0);
    fixture.run_once().await;
    let records = fixture.records("orders").await;
    assert_dense(&records);
    assert_counters(&fixture.checkpoint("orders").await.unwrap(), &records, 1);
    assert_found(&records, &before, &after, &workload);
    assert_history_is_the_present(&fixture, "orders").await;
    fixture.ok(&["verify"]).await;
}

async fn gaps_open(fixture: &Fixture) -> bool {
    fixture.checkpoint("orders").await.unwrap().contains_key("resyncs")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_comparison_that_is_killed_is_done_again_and_records_nothing_twice() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    // Batches of one document, and no more memory than for a few of them: many slices.
    let small = "[capture]\nbatch_max_events = 3\nbatch_max_bytes = \"1KiB\"\nlease_time = \"2s\"\n\n";
    fixture.configure(&(small.to_owned() + &Fixture::source("orders", &["orders"])));
    let orders = fixture.collection("orders");
    let documents =
        |ids: std::ops::Range<i32>| ids.map(|id| doc! {"_id": id, "pad": "x".repeat(100), "n": 0});
    orders.insert_many(documents(0..120)).await.unwrap();
    fixture.run_once().await;
    lose_position(&fixture, "orders").await;
    orders.update_many(doc! {"_id": {"$lt": 50}}, doc! {"$inc": {"n": 1}}).await.unwrap();
    orders.delete_many(doc! {"_id": {"$gte": 50, "$lt": 70}}).await.unwrap();
    orders.insert_many(documents(120..140)).await.unwrap();
    let archiver = fixture.start();
    wait_until("a part of the comparison", LIMIT, async || {
        (found(&fixture.records("orders").await).len() >= 30).then_some(())
    })
    .await;
    archiver.kill().await;
    assert!(gaps_open(&fixture).await, "the comparison was complete before the kill");
    let status = fixture.ok(&["status"]).await;
    assert!(status.contains("to be compared behind a gap: everything"), "{status}");
    fixture.run_once().await;
    let records = fixture.records("orders").await;
    assert_dense(&records);
    assert_counters(&fixture.checkpoint("orders").await.unwrap(), &records, 1);
    let each = records.iter().filter(|r| at(r, "detail.found").is_some()).count();
    let expected: BTreeMap<i32, &str> = (0..50)
        .map(|id| (id, "changed"))
        .chain((50..70).map(|id| (id, "deleted")))
        .chain((120..140).map(|id| (id, "inserted")))
        .collect();
    assert_eq!((found(&records), each), (expected, 90));
    assert_eq!(gaps(&records).len(), 1);
    assert_history_is_the_present(&fixture, "orders").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_is_to_halt_stops_with_12_and_appends_nothing() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&(Fixture::source("orders", &["orders"]) + "on_history_lost = \"halt\"\n"));
    fixture.collection("orders").insert_one(doc! {"_id": 1}).await.unwrap();
    fixture.run_once().await;
    lose_position(&fixture, "orders").await;
    fixture.collection("orders").insert_one(doc! {"_id": 2}).await.unwrap();
    let checkpoint = async || {
        let mut checkpoint = fixture.checkpoint("orders").await.unwrap();
        checkpoint.remove("epoch");
        checkpoint
    };
    let (records, before) = (fixture.records("orders").await, checkpoint().await);
    for arguments in [&["run", "--once"][..], &["run"]] {
        fixture.archiver.run(arguments).await.expect_code(12).expect_message(&["code=280"]);
        assert_eq!((fixture.records("orders").await, checkpoint().await), (records.clone(), before.clone()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_are_compared_as_the_plugins_leave_them_and_nothing_secret_is_recorded() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    let rules =
        "{ path = \"card.pan\", action = \"remove\" }, { path = \"_id\", action = \"mask\", keep_last = 4 }";
    let source = |rules: &str| {
        Fixture::redact("redact", rules)
            + &Fixture::source("orders", &["orders"])
            + "plugins = [\"redact\"]\n"
    };
    fixture.configure(&source(rules));
    let orders = fixture.collection("orders");
    let id = |n: i32| format!("customer-secret-{n:04}");
    let document = |n: i32, pan: &str| doc! {"_id": id(n), "card": {"pan": pan, "kind": "v"}, "n": n};
    orders.insert_many((1..=4).map(|n| document(n, "4111-1111-1111-0001"))).await.unwrap();
    fixture.run_once().await;
    lose_position(&fixture, "orders").await;
    // One changes where nobody may see it, one where it may be seen; one ends, one is new.
    orders.update_one(doc! {"_id": id(1)}, doc! {"$set": {"card.pan": "4111-1111-1111-0002"}}).await.unwrap();
    orders.update_one(doc! {"_id": id(2)}, doc! {"$set": {"n": 20}}).await.unwrap();
    orders.delete_one(doc! {"_id": id(3)}).await.unwrap();
    orders.insert_one(document(5, "4111-1111-1111-0003")).await.unwrap();
    let outcome = fixture.run_once().await;
    let found = |records: &[Document]| -> Vec<(String, String)> {
        let found = records.iter().filter(|r| at(r, "detail.found").is_some());
        found.map(|r| (text(r, "key._id").replace('*', ""), text(r, "detail.found").to_owned())).collect()
    };
    let records = fixture.records("orders").await;
    let expected = [("0002", "changed"), ("0005", "inserted"), ("0003", "deleted")];
    assert_eq!(found(&records), expected.map(|(id, found)| (id.to_owned(), found.to_owned())));
    assert_counters(&fixture.checkpoint("orders").await.unwrap(), &records, 1);
    // The checkpoint's baseline is complete, and its token was taken away: nothing may hold a key in clear but a new token.
    let checkpoints = fixture.audit.collection::<Document>("archiver.checkpoints");
    checkpoints.update_many(doc! {}, doc! {"$unset": {"token": ""}}).await.unwrap();
    let canaries = ["4111-1111-1111-0001", "4111-1111-1111-0002", "4111-1111-1111-0003", "customer-secret"];
    let haystack = Haystack::of(&fixture.audit, &fixture.archive(), &outcome.stderr).await;
    assert_eq!(haystack.search(&canaries.map(Canary::text)), Vec::<String>::new());

    // Under other rules documents look different without having changed: that can't be told from a change.
    lose_position(&fixture, "orders").await;
    orders.update_one(doc! {"_id": id(1)}, doc! {"$set": {"n": 10}}).await.unwrap();
    fixture.configure(&source(
        "{ path = \"card\", action = \"remove\" }, { path = \"_id\", action = \"mask\", keep_last = 4 }",
    ));
    fixture.run_once().await;
    let records: Vec<_> = fixture.records("orders").await.split_off(records.len());
    assert_eq!(
        found(&records),
        ["0001", "0002", "0004", "0005"].map(|id| (id.to_owned(), "unknown".to_owned()))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_lost_while_the_baseline_is_read_leaves_both_complete() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&(SMALL_BATCHES.to_owned() + &Fixture::source("orders", &["orders"])));
    let orders = fixture.collection("orders");
    orders.insert_many((0..300).map(|id| doc! {"_id": id, "n": 0})).await.unwrap();
    let mut dying = fixture.archiver.clone();
    dying.env("ARCHIVER_FAIL_POINTS", "append:committed=exit@8");
    dying.run(&["run", "--once"]).await;
    assert!(
        fixture.checkpoint("orders").await.unwrap().contains_key("snapshot"),
        "in the middle of the baseline"
    );
    lose_position(&fixture, "orders").await;
    orders.update_many(doc! {"_id": {"$in": [3, 290]}}, doc! {"$inc": {"n": 1}}).await.unwrap();
    orders.delete_many(doc! {"_id": {"$in": [4, 291]}}).await.unwrap();
    orders.insert_many([doc! {"_id": -5, "n": 0}, doc! {"_id": 500, "n": 0}]).await.unwrap();
    fixture.run_once().await;
    let records = fixture.records("orders").await;
    assert_dense(&records);
    assert_counters(&fixture.checkpoint("orders").await.unwrap(), &records, 1);
    let closing = |record: &&Document| at(record, "detail.closes").is_some();
    let closing = of(&records, &["gap"]).into_iter().find(closing).unwrap();
    assert_eq!(at(closing, "detail.whole"), None, "not everything was known: {closing}");
    // What the baseline had not come to before is in it as it is now.
    assert_eq!(found(&records), BTreeMap::from([(-5, "inserted"), (3, "changed"), (4, "deleted")]));
    assert_history_is_the_present(&fixture, "orders").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_partition_finds_what_happened_to_its_own_documents() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(
        &(Fixture::source("orders", &["orders", "moved"]).trim_end().to_owned() + "\npartitions = 3\n"),
    );
    let orders = fixture.collection("orders");
    orders.insert_many((0..60).map(|id| doc! {"_id": id, "n": 0})).await.unwrap();
    fixture.run_once().await;
    // An unknown collection comes, which the first partition alone records, and a known one moves.
    let other = fixture.collection("other");
    other.insert_many((10..70).map(|id| doc! {"_id": id, "n": i32::from(id == 20)})).await.unwrap();
    other.aggregate([doc! {"$out": "orders"}]).await.unwrap().try_collect::<Vec<_>>().await.unwrap();
    let name = |c: &str| format!("{}.{c}", fixture.db.name());
    let rename = doc! {"renameCollection": name("orders"), "to": name("moved")};
    server.client().database("admin").run_command(rename).await.unwrap();
    fixture.run_once().await;
    let records = fixture.records("orders").await;
    let replaced = |id: i32| match id {
        0..10 => Some((id, "deleted")),
        60..70 => Some((id, "inserted")),
        20 => Some((id, "changed")),
        _ => None,
    };
    assert_eq!(found(&records), (0..70).filter_map(replaced).collect());
    assert_eq!(
        of(&records, &["gap"]).len(),
        6,
        "each partition says that history is missing, and that it is dealt with"
    );

    for partition in 0..3 {
        lose_position(&fixture, &format!("orders/{partition}")).await;
    }
    let moved = fixture.collection("moved");
    moved.update_many(doc! {"_id": {"$lt": 20}}, doc! {"$inc": {"n": 1}}).await.unwrap();
    moved.delete_many(doc! {"_id": {"$gte": 60}}).await.unwrap();
    fixture.run_once().await;
    let all = fixture.records("orders").await;
    let new: Vec<Document> = all.into_iter().filter(|r| !records.contains(r)).collect();
    let lost = (10..20).map(|id| (id, "changed")).chain((60..70).map(|id| (id, "deleted")));
    assert_eq!(found(&new), lost.collect());
    assert_history_is_the_present(&fixture, "moved").await;
    fixture.ok(&["verify"]).await;
}
