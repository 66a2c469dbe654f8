//! Deleted documents come back exactly as they were, from whatever is left to rebuild them from.

use std::time::Duration;

use archiver_tests::record::{integer, must, only};
use archiver_tests::workload::{Workload, seed};
use archiver_tests::{Fixture, Server, wait_until};
use bson::{Document, RawDocumentBuf, doc};
use serde_json::Value;

/// Where a record lies when it is needed.
#[derive(Debug, Clone, Copy)]
enum Tier {
    Hot,
    Both,
    Cold,
}

impl Tier {
    fn archive(self) -> String {
        let retention = if matches!(self, Tier::Cold) { "0s" } else { "7d" };
        format!(
            "[archive]\nurl = \"{{archive}}\"\nhot_retention = \"{retention}\"\nsegment_max_age = \"1h\"\n\n"
        )
    }

    /// Captures up to the present, and rolls where this tier needs it.
    async fn capture(self, fixture: &Fixture, collection: &str) {
        if !matches!(self, Tier::Hot) {
            fixture.run_once().await;
            return;
        }
        let running = fixture.start();
        let mark = rand::random::<i32>();
        let collection = fixture.collection(collection);
        let update = doc! {"$set": {"mark": mark}};
        collection.update_one(doc! {"_id": "mark"}, update).upsert(true).await.unwrap();
        let log = fixture.audit.collection::<Document>("orders");
        let either = doc! {"$or": [{"delta.updatedFields.mark": mark}, {"after.mark": mark}]};
        wait_until("the mark", Duration::from_secs(60), async || log.find_one(either.clone()).await.unwrap())
            .await;
        running.terminate().await.expect_code(0);
    }
}

async fn recovered(fixture: &Fixture, id: &str) -> Vec<u8> {
    fixture.archiver.run_for_bytes(&["recover", "--source", "orders", "--id", id, "--format", "bson"]).await
}

/// Random changes of every shape, then every document is deleted: each one must come back as it was just before.
async fn deleted_documents_come_back(images: bool, tier: Tier) {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&(tier.archive() + &Fixture::source("orders", &["orders"])));
    if images {
        fixture.create_with_images("orders").await;
    }
    let mut workload = Workload::new(server.client(), fixture.collection("orders"), seed());
    workload.run(60).await;
    tier.capture(&fixture, "orders").await;
    workload.run(250).await;
    fixture.collection("orders").delete_many(doc! {"_id": {"$type": "int"}}).await.unwrap();
    tier.capture(&fixture, "orders").await;

    let cold = fixture.archive_files().len();
    assert_eq!(cold == 0, matches!(tier, Tier::Hot), "{cold} files");
    let mut wanted: Vec<_> = workload.states.iter().collect();
    wanted.sort_by_key(|(_, states)| std::cmp::Reverse(states.len()));
    let baseline_has =
        |states: &[Option<RawDocumentBuf>]| states.len() > 1 && states.last().is_some_and(Option::is_some);
    let mut compared = 0;
    for (id, states) in wanted.into_iter().filter(|(_, s)| baseline_has(s)).take(12) {
        let last = states.iter().rev().flatten().next().unwrap();
        assert_eq!(recovered(&fixture, &id.to_string()).await, last.as_bytes(), "document {id}");
        compared += 1;
    }
    assert!(compared > 5);
}

#[tokio::test]
async fn with_a_pre_image_before_anything_is_rolled() {
    deleted_documents_come_back(true, Tier::Hot).await;
}

#[tokio::test]
async fn with_a_pre_image_while_both_tiers_have_it() {
    deleted_documents_come_back(true, Tier::Both).await;
}

#[tokio::test]
async fn with_a_pre_image_after_the_hot_tier_was_trimmed() {
    deleted_documents_come_back(true, Tier::Cold).await;
}

#[tokio::test]
async fn from_baseline_and_deltas_before_anything_is_rolled() {
    deleted_documents_come_back(false, Tier::Hot).await;
}

#[tokio::test]
async fn from_baseline_and_deltas_while_both_tiers_have_them() {
    deleted_documents_come_back(false, Tier::Both).await;
}

#[tokio::test]
async fn from_baseline_and_deltas_after_the_hot_tier_was_trimmed() {
    deleted_documents_come_back(false, Tier::Cold).await;
}

async fn with_deleted_customers(server: &Server) -> Fixture {
    let fixture = Fixture::new(server);
    fixture.configure(&Fixture::source("customers", &["customers"]));
    let customers = fixture.create_with_images("customers").await;
    for n in 0..5 {
        customers.insert_one(doc! {"_id": format!("c{n}"), "n": n, "long": 7_i64}).await.unwrap();
    }
    fixture.run_once().await;
    for id in ["c1", "c2", "c3"] {
        customers.delete_one(doc! {"_id": id}).await.unwrap();
    }
    customers.insert_one(doc! {"_id": "c3", "again": true}).await.unwrap();
    fixture.run_once().await;
    fixture
}

#[tokio::test]
async fn deleted_since_finds_every_document_that_is_still_gone() {
    let server = Server::shared().await;
    let fixture = with_deleted_customers(&server).await;
    let since = "2020-01-01T00:00:00Z";
    let outcome = fixture.archiver.run(&["recover", "--source", "customers", "--deleted-since", since]).await;
    let mut found = outcome.expect_code(0).json_lines();
    found.sort_by_key(Value::to_string);
    let ids: Vec<_> = found.iter().map(|d| d["_id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["c1", "c2"]);
    assert_eq!(found[0]["long"]["$numberLong"], "7", "canonical Extended JSON keeps types");
    let outcome = fixture
        .archiver
        .run(&["recover", "--source", "customers", "--deleted-since", "2099-01-01T00:00:00Z"])
        .await;
    assert!(outcome.json_lines().is_empty());
}

/// As in `archiver recover … | head -c1`.
#[tokio::test]
async fn a_reader_that_goes_away_ends_every_listing_quietly() {
    let server = Server::shared().await;
    let fixture = with_deleted_customers(&server).await;
    let since = ["recover", "--source", "customers", "--deleted-since", "2020-01-01T00:00:00Z"];
    for arguments in [
        &["recover", "--source", "customers", "--id", "c1"][..],
        &["recover", "--source", "customers", "--id", "c1", "--format", "bson"],
        &since,
        &["history", "--source", "customers", "--id", "c1"],
        &["history", "--source", "customers", "--id", "c1", "--format", "json"],
        &["status"],
        &["verify"],
        &["sql"],
    ] {
        let output = fixture.archiver.run_unread(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {said}");
        assert!(!said.contains("error") && !said.contains("panicked"), "{arguments:?}: {said}");
    }
}

#[tokio::test]
async fn apply_writes_back_and_never_over_a_live_document() {
    let server = Server::shared().await;
    let fixture = with_deleted_customers(&server).await;
    let target = format!("{}.customers", fixture.db.name());
    let apply = ["recover", "--source", "customers", "--id", "c1", "--to-namespace", &target];
    fixture.archiver.run(&apply).await.expect_code(0);
    let customers = fixture.collection("customers");
    assert_eq!(
        customers.find_one(doc! {"_id": "c1"}).await.unwrap(),
        None,
        "nothing is written without --apply"
    );
    fixture.archiver.run(&[&apply[..], &["--apply"]].concat()).await.expect_code(0);
    let back = customers.find_one(doc! {"_id": "c1"}).await.unwrap().unwrap();
    assert_eq!(back, doc! {"_id": "c1", "n": 1, "long": 7_i64});

    let live = doc! {"_id": "c2", "alive": true};
    let restored = fixture.collection("restored");
    restored.insert_one(&live).await.unwrap();
    let target = format!("{}.restored", fixture.db.name());
    let apply = ["recover", "--source", "customers", "--id", "c2", "--to-namespace", &target, "--apply"];
    let outcome = fixture.archiver.run(&apply).await;
    assert_ne!(outcome.code, Some(0), "{outcome:?}");
    assert_eq!(restored.find_one(doc! {"_id": "c2"}).await.unwrap().unwrap(), live);
    fixture.archiver.run(&[&apply[..], &["--overwrite"]].concat()).await.expect_code(0);
    let back = restored.find_one(doc! {"_id": "c2"}).await.unwrap().unwrap();
    assert_eq!(back, doc! {"_id": "c2", "n": 2, "long": 7_i64});
}

#[tokio::test]
async fn a_unique_index_that_is_in_the_way_is_not_taken_for_a_live_document() {
    let server = Server::shared().await;
    let fixture = with_deleted_customers(&server).await;
    let restored = fixture.collection("restored");
    let unique = mongodb::options::IndexOptions::builder().unique(true).build();
    let index = mongodb::IndexModel::builder().keys(doc! {"long": 1}).options(unique).build();
    restored.create_index(index).await.unwrap();
    restored.insert_one(doc! {"_id": "another", "long": 7_i64}).await.unwrap();
    let target = format!("{}.restored", fixture.db.name());
    let apply = ["recover", "--source", "customers", "--id", "c1", "--to-namespace", &target, "--apply"];
    let outcome = fixture.archiver.run(&apply).await.expect_code(10);
    assert!(outcome.stderr.contains("a unique index of"), "{}", outcome.stderr);
    assert!(!outcome.stderr.contains("--overwrite"), "{}", outcome.stderr);
}

#[tokio::test]
async fn at_a_time_gives_the_document_as_it_was_then() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&Fixture::source("orders", &["orders"]));
    let orders = fixture.collection("orders");
    orders.insert_one(doc! {"_id": "o", "n": 0}).await.unwrap();
    fixture.run_once().await;
    let mut seconds = Vec::new();
    for n in 1..4 {
        // Cluster time has whole seconds: the next change must fall into another one.
        let last = seconds.last().copied();
        wait_until("the next second", Duration::from_secs(5), async || (Some(now()) != last).then_some(()))
            .await;
        orders.update_one(doc! {"_id": "o"}, doc! {"$set": {"n": n}}).await.unwrap();
        seconds.push(now());
        wait_until("the next second", Duration::from_secs(5), async || {
            (now() > seconds[seconds.len() - 1]).then_some(())
        })
        .await;
    }
    orders.delete_one(doc! {"_id": "o"}).await.unwrap();
    fixture.run_once().await;
    for (n, second) in (1..4).zip(seconds) {
        let at = rfc3339(second * 1_000 + 900);
        let outcome =
            fixture.archiver.run(&["recover", "--source", "orders", "--id", "o", "--at", &at]).await;
        assert_eq!(outcome.expect_code(0).json_lines()[0]["n"]["$numberInt"], n.to_string(), "at {at}");
    }
}

fn now() -> i64 {
    bson::DateTime::now().timestamp_millis() / 1000
}

fn rfc3339(millis: i64) -> String {
    bson::DateTime::from_millis(millis).try_to_rfc3339_string().unwrap()
}

#[tokio::test]
async fn history_shows_every_record_of_one_document_oldest_first() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&Fixture::source("orders", &["orders"]));
    let orders = fixture.create_with_images("orders").await;
    orders.insert_one(doc! {"_id": "o", "n": 0}).await.unwrap();
    orders.insert_one(doc! {"_id": "other", "n": 0}).await.unwrap();
    fixture.run_once().await;
    orders.update_one(doc! {"_id": "o"}, doc! {"$set": {"n": 1}}).await.unwrap();
    fixture.run_once().await;
    orders.delete_one(doc! {"_id": "o"}).await.unwrap();
    fixture.run_once().await;
    let outcome =
        fixture.archiver.run(&["history", "--source", "orders", "--id", "o", "--format", "json"]).await;
    let entries = outcome.expect_code(0).json_lines();
    let ops: Vec<_> = entries.iter().map(|e| e["op"].as_str().unwrap()).collect();
    assert_eq!(ops, ["snapshot", "update", "delete"]);
    let table = fixture.ok(&["history", "--source", "orders", "--id", "o"]).await;
    assert!(table.contains("delete") && !table.contains("other"), "{table}");
    let records = fixture.records("orders").await;
    assert_eq!(integer(only(&records, "delete", "o"), "before.n"), 1);
    must(only(&records, "update", "o"), "delta.updatedFields.n");
}
