//! Who recovered and who read is in the source's history: noted before anything is given, and recorded once, whoever dies.

use std::collections::BTreeMap;
use std::time::Duration;

use archiver_tests::record::{integer, text};
use archiver_tests::{Fixture, Server, wait_until};
use bson::{Document, doc};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(90);
const UNAVAILABLE: i32 = 11;
const NOT_FOUND: i32 = 16;
const INVALID: i32 = 10;

/// A source with three documents, of which "b" is deleted.
async fn prepared(server: &Server, record_access: bool) -> Fixture {
    let fixture = Fixture::new(server);
    fixture.configure(&format!(
        "[audit]\ndatabase = \"{{audit}}\"\nrecord_access = {record_access}\n\n[capture]\nlease_time = \"2s\"\n\n{}",
        Fixture::source("orders", &["orders"])
    ));
    let orders = fixture.create_with_images("orders").await;
    for id in ["a", "b", "secret-id"] {
        orders.insert_one(doc! {"_id": id, "text": "secret-text"}).await.unwrap();
    }
    fixture.run_once().await;
    orders.delete_one(doc! {"_id": "b"}).await.unwrap();
    fixture.run_once().await;
    fixture
}

async fn records(fixture: &Fixture, op: &str) -> Vec<Document> {
    let mut records = fixture.records("orders").await;
    records.retain(|record| record.get_str("op").is_ok_and(|is| is == op));
    records
}

fn detail(record: &Document) -> &Document {
    record.get_document("detail").unwrap()
}

async fn waiting(fixture: &Fixture) -> u64 {
    fixture.audit.collection::<Document>("archiver.notices").count_documents(doc! {}).await.unwrap()
}

#[tokio::test]
async fn a_recovery_that_writes_leaves_who_what_and_why_in_the_history() {
    let server = Server::shared().await;
    let fixture = prepared(&server, false).await;
    let to = format!("{}.restored", fixture.db.name());
    let printed = ["recover", "--source", "orders", "--id", "b"];
    fixture.ok(&printed).await;
    fixture.ok(&[&printed[..], &["--to-namespace", &to]].concat()).await;
    assert_eq!(waiting(&fixture).await, 0, "what only shows leaves no record, unless that is wanted");

    let apply = ["--to-namespace", &to, "--apply", "--reason", "ticket 4711: deleted by mistake"];
    fixture.ok(&[&printed[..], &apply].concat()).await;
    let by_condition = ["recover", "--source", "orders", "--where", "text=secret-text", "--reason", "a look"];
    fixture.ok(&by_condition).await;
    let bad = [&printed[..], &["--reason", "two\nlines"]].concat();
    fixture.archiver.run(&bad).await.expect_code(INVALID);
    assert_eq!(waiting(&fixture).await, 4, "they wait until somebody writes the source");
    fixture.run_once().await;
    assert_eq!(waiting(&fixture).await, 0);

    let records = records(&fixture, "recovery").await;
    assert_eq!(records.len(), 4);
    let (began, ended) = (detail(&records[0]), detail(&records[1]));
    let by = began.get_str("by").unwrap();
    assert!(by.contains('@') && !by.starts_with('@'), "{by}");
    assert_eq!(text(began, "reason"), "ticket 4711: deleted by mistake");
    let what = began.get_document("what").unwrap();
    assert_eq!(
        (integer(what, "ids"), text(what, "to"), what.get_bool("apply").unwrap()),
        (1, to.as_str(), true)
    );
    let salt = fixture.checkpoint("orders").await.unwrap().get("salt").unwrap().clone();
    let salt: archiver::salt::Salt = bson::deserialize_from_bson(salt).unwrap();
    let value = bson::serialize_to_vec(&doc! {"_id": "b"}).unwrap();
    let digest = salt.id_digest(2, &value[9..value.len() - 1]);
    assert_eq!(what.get_array("keyDigests").unwrap()[0].as_str(), Some(digest.as_str()));
    assert_eq!(ended.get("ends"), began.get("notice"));
    assert_eq!(integer(ended, "counts.inserted"), 1);
    let what = detail(&records[2]).get_document("what").unwrap();
    assert_eq!(what.get_array("where").unwrap()[0].as_str(), Some("text ="));
    for record in &records {
        assert!(!record.to_string().contains("secret"), "contents in a record: {record}");
    }
    // They are records like all others.
    fixture.ok(&["verify"]).await;
    let ops = fixture.cold("orders", "op");
    assert_eq!(ops.iter().filter(|row| row["op"] == "recovery").count(), 4);
    assert_eq!(integer(&fixture.checkpoint("orders").await.unwrap(), "counters.own"), 5);
}

#[tokio::test]
async fn reads_leave_records_where_that_is_wanted_and_come_to_nothing_where_they_cant() {
    let server = Server::shared().await;
    let fixture = prepared(&server, true).await;
    let history = ["history", "--source", "orders", "--id", "a"];
    let recover = ["recover", "--source", "orders", "--id", "b"];
    fixture.ok(&history).await;
    fixture.ok(&recover).await;
    let unknown = ["history", "--source", "other", "--id", "a"];
    fixture.archiver.run(&unknown).await.expect_code(NOT_FOUND);
    let missing = ["history", "--source", "orders", "--id", "never"];
    fixture.archiver.run(&missing).await.expect_code(NOT_FOUND);
    assert_eq!(waiting(&fixture).await, 3, "also who looked for what is not there");

    let mut failing = fixture.archiver.clone();
    failing.env("ARCHIVER_FAIL_POINTS", "notice:given=error");
    let since = ["recover", "--source", "orders", "--deleted-since", "2020-01-01T00:00:00Z"];
    for command in [&history[..], &recover, &since] {
        let outcome =
            failing.run(command).await.expect_code(UNAVAILABLE).expect_message(&["nothing is given"]);
        assert_eq!(outcome.stdout, "", "data before the note");
    }
    fixture.run_once().await;
    let records = records(&fixture, "access").await;
    let commands: Vec<_> = records.iter().map(|r| detail(r).get_str("command").unwrap()).collect();
    // The failed ones were given notice of all the same.
    assert_eq!(commands, ["history", "recover", "history", "history", "recover", "recover"]);
    assert!(records.iter().all(|record| detail(record).get_datetime("at").is_ok()));
}

/// Two archivers, of which one dies at every step on the way of a notice into the log, while people recover.
#[tokio::test]
async fn each_notice_becomes_one_record_whoever_dies() {
    let server = Server::shared().await;
    let fixture = prepared(&server, true).await;
    let mut notices = 0;
    let steps = ["append:begun", "append:checkpoint_replaced", "append:records_inserted", "append:committed"];
    for step in steps {
        let to = format!("{}.restored_{}", fixture.db.name(), step.replace(':', "_"));
        let apply = ["recover", "--source", "orders", "--id", "b", "--to-namespace", &to, "--apply"];
        fixture.ok(&apply).await;
        // One of the access, two of the recovery.
        notices += 3;
        let mut dying = fixture.archiver.clone();
        dying.env("ARCHIVER_FAIL_POINTS", &format!("{step}=exit"));
        let first = dying.start(&["run"]);
        let outcome = first.finish(LIMIT).await;
        assert_eq!(outcome.code, None, "{step} is not reached: {}", outcome.stderr);
        let (one, other) = (fixture.start(), fixture.start());
        fixture.ok(&["history", "--source", "orders", "--id", "a"]).await;
        notices += 1;
        wait_until("the notices are recorded", LIMIT, async || (waiting(&fixture).await == 0).then_some(()))
            .await;
        one.terminate().await.expect_code(0);
        other.terminate().await.expect_code(0);
    }
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for op in ["recovery", "access"] {
        for record in records(&fixture, op).await {
            *seen.entry(detail(&record).get_object_id("notice").unwrap().to_hex()).or_default() += 1;
        }
    }
    assert_eq!((seen.len(), seen.values().max()), (notices, Some(&1)));
    archiver_tests::truth::assert_dense(&fixture.records("orders").await);
}

#[tokio::test]
async fn of_a_partitioned_source_the_first_partition_records_it_alone() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    let keys = "[audit]\ndatabase = \"{audit}\"\nrecord_access = true\n\n";
    fixture.configure(&(keys.to_owned() + &Fixture::source("orders", &["orders"]) + "partitions = 3\n"));
    let orders = fixture.collection("orders");
    orders.insert_many((0..30).map(|n| doc! {"_id": n})).await.unwrap();
    fixture.run_once().await;
    let running = [fixture.start(), fixture.start()];
    for id in 0..4 {
        fixture.ok(&["history", "--source", "orders", "--id", &id.to_string()]).await;
        wait_until("it is recorded", LIMIT, async || (waiting(&fixture).await == 0).then_some(())).await;
    }
    for one in running {
        one.terminate().await.expect_code(0);
    }
    let records = records(&fixture, "access").await;
    assert_eq!(records.len(), 4);
    assert!(records.iter().all(|record| integer(record, "_id.p") == 0));
    fixture.run_once().await;
    fixture.ok(&["verify"]).await;
}

/// Whoever may give notice can put anything into the queue: it stops nobody, and is seen.
#[tokio::test]
async fn whatever_lies_in_the_queue_becomes_a_record() {
    let server = Server::shared().await;
    let fixture = prepared(&server, false).await;
    let queue = fixture.audit.collection::<Document>("archiver.notices");
    let odd = [
        doc! {"_id": {"source": "orders", "notice": 1}},
        doc! {"_id": {"source": "orders", "notice": "x"}, "op": "drop", "detail": {"notice": 7, "text": "x".repeat(1 << 20)}},
        doc! {"_id": {"source": "orders", "notice": 2}, "op": 5, "detail": {"at": "never", "notice": 7}},
        doc! {"_id": {"source": "others", "notice": 2}, "op": "access"},
    ];
    queue.insert_many(odd).await.unwrap();
    let status = fixture.ok(&["status"]).await;
    let expected = "orders: notices of reads and recoveries: 3; they become records when it runs again";
    assert!(status.contains(expected), "{status}");
    fixture.run_once().await;
    assert_eq!(waiting(&fixture).await, 1, "that of another source");
    let records = records(&fixture, "access").await;
    assert_eq!(records.len(), 3);
    assert!(records.iter().all(|r| bson::serialize_to_vec(r).unwrap().len() < 1_000));
    fixture.ok(&["verify"]).await;
    let json: Value = serde_json::from_str(&fixture.ok(&["status", "--format", "json"]).await).unwrap();
    assert_eq!(json[0]["problems"].as_array().map(Vec::len), Some(0), "{json}");
    assert_eq!(json[0]["notices"], 0, "{json}");
}
