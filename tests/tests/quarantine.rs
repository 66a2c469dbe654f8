//! Withheld events are listed, tried again, and released once: each is in history where it belongs.

use std::collections::BTreeSet;
use std::time::Duration;

use archiver_tests::canary::{Canary, Haystack};
use archiver_tests::record::{at, integer, must, of, only, text, time};
use archiver_tests::truth::assert_dense;
use archiver_tests::{Fixture, Server, tools, wait_until};
use bson::{Document, Timestamp, doc};
use futures_util::TryStreamExt;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);
const SECRET: &str = "canary-4012888888881881";
const HISTORY_LOST: i32 = 12;
const PLUGIN: i32 = 14;
const NOT_FOUND: i32 = 16;

fn misbehave() -> String {
    let file = tools::plugin("misbehave");
    let (path, sha256) = (file.display(), tools::sha256(&file));
    format!("[[plugin]]\nname = \"bad\"\npath = \"{path}\"\nsha256 = \"{sha256}\"\n\n")
}

/// A source of that name through `plugins`, which are `redact` (takes `secret` out), `drop` (makes `bad` drop) and `bad`.
fn configuration(plugins: &str, partitions: u32) -> String {
    let redact = Fixture::redact("redact", r#"{ path = "secret", action = "remove" }"#);
    let drop = Fixture::redact("drop", r#"{ path = "do", action = "replace", value = "drop" }"#);
    format!(
        "[capture]\nlease_time = \"2s\"\n\n{redact}{drop}{}[[source]]\nname = \"all\"\nwatch = [\"{{db}}.things\"]\nplugins = [{plugins}]\npartitions = {partitions}\nquarantine_limit = 10000\n",
        misbehave()
    )
}

/// Documents 0 to `count`, of which those that are divisible by `every` are withheld; then each is changed once more.
async fn withheld(partitions: u32, count: i32, every: i32) -> Fixture {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&configuration("\"bad\"", partitions));
    fixture.db.create_collection("things").await.unwrap();
    fixture.run_once().await;
    let things = fixture.collection("things");
    for n in 0..count {
        let mut document = doc! {"_id": n, "n": 0};
        if n % every == 0 {
            document.extend(doc! {"do": "panic", "secret": SECRET, "padding": "x".repeat(1_024)});
        }
        things.insert_one(document).await.unwrap();
    }
    for n in 0..count {
        things.update_one(doc! {"_id": n}, doc! {"$set": {"n": 1}}).await.unwrap();
    }
    fixture.run_once().await;
    fixture
}

/// With each withheld event released in a transaction of its own: they are larger than a batch.
fn one_by_one(plugins: &str) -> String {
    let lease = "lease_time = \"2s\"\n";
    configuration(plugins, 1).replacen(lease, &(lease.to_owned() + "batch_max_bytes = \"1KiB\"\n"), 1)
}

async fn open(fixture: &Fixture) -> Vec<Document> {
    let found = fixture.audit.collection::<Document>("archiver.quarantine").find(doc! {}).await.unwrap();
    found.try_collect().await.unwrap()
}

async fn listed(fixture: &Fixture) -> Vec<Value> {
    let listed = fixture.ok(&["quarantine", "list", "--format", "json"]).await;
    serde_json::from_str::<Value>(&listed).unwrap().as_array().unwrap().clone()
}

/// Checks that the withheld inserts of these documents were released, each once, with the time of its quarantine record.
fn assert_released(records: &[Document], ids: impl Iterator<Item = i32>) {
    let quarantined = of(records, &["quarantine"]);
    let mut released = 0;
    for id in ids {
        let late = only(records, "insert", id);
        let seq = integer(late, "detail.late");
        let quarantine: Vec<_> = quarantined
            .iter()
            .filter(|q| {
                at(q, "detail.released").is_none()
                    && seq_of(q) == seq
                    && partition_of(q) == partition_of(late)
            })
            .collect();
        assert_eq!(quarantine.len(), 1, "{late}");
        assert_eq!(time(late), time(quarantine[0]));
        assert_eq!(must(late, "wallTime"), must(quarantine[0], "wallTime"));
        assert!(seq_of(late) > seq);
        released += 1;
    }
    assert_eq!(released, records.iter().filter(|r| at(r, "detail.late").is_some()).count());
}

fn seq_of(record: &Document) -> i64 {
    at(record, "_id.s").or(record.get("_id")).and_then(|seq| seq.as_i64()).unwrap()
}

fn partition_of(record: &Document) -> Option<i64> {
    at(record, "_id.p").map(|_| integer(record, "_id.p"))
}

#[tokio::test]
async fn a_withheld_event_is_released_once_and_stands_in_history_where_it_belongs() {
    let fixture = withheld(1, 6, 3).await;
    let found = listed(&fixture).await;
    let seen: Vec<_> =
        found.iter().map(|e| (e["op"].as_str(), e["error"].as_str(), e["retry"].as_str())).collect();
    assert_eq!(seen, [(Some("insert"), Some("trap"), Some("possible")); 2], "{found:#?}");
    let before = fixture
        .archiver
        .run(&[
            "recover",
            "--source",
            "all",
            "--id",
            "{\"$numberInt\": \"3\"}",
            "--at",
            "2100-01-01T00:00:00Z",
        ])
        .await;
    before.expect_code(NOT_FOUND);

    // Still the same plugin: it fails again, and nothing changes.
    let again =
        fixture.archiver.run(&["quarantine", "retry", "--log-level", "trace"]).await.expect_code(PLUGIN);
    assert!(again.stdout.contains("2 failed again (bad: trap)"), "{}", again.stdout);
    let output = again.stdout + &again.stderr;
    let haystack = Haystack::of(&fixture.audit, &fixture.archive(), &output).await;
    assert!(haystack.search(&[Canary::text(SECRET)]).is_empty());
    assert_eq!(open(&fixture).await.len(), 2);

    fixture.configure(&configuration("\"redact\"", 1));
    let seq = found[0]["seq"].to_string();
    let one = fixture.ok(&["quarantine", "retry", "--source", "all", "--seq", &seq]).await;
    assert!(one.contains("1 of 1 appended late"), "{one}");
    let twice = fixture.archiver.run(&["quarantine", "retry", "--source", "all", "--seq", &seq]).await;
    twice.expect_code(NOT_FOUND);
    fixture.ok(&["quarantine", "retry"]).await;
    assert!(fixture.ok(&["quarantine", "retry"]).await.contains("nothing is withheld"));
    assert_eq!(open(&fixture).await, []);

    let records = fixture.records("all").await;
    assert_dense(&records);
    assert_released(&records, [0, 3].into_iter());
    // By the plugins in force now.
    let policies = of(&records, &["policy"]);
    assert_eq!(integer(only(&records, "insert", 3), "policy"), seq_of(policies.last().unwrap()));
    let counters = fixture.checkpoint("all").await.unwrap().get_document("counters").unwrap().clone();
    assert_eq!(integer(&counters, "released"), 2);
    assert_eq!(integer(&counters, "read"), integer(&counters, "appended"));
    let total = integer(&counters, "appended") + integer(&counters, "own");
    assert_eq!(total, records.len() as i64);

    let at_end =
        ["recover", "--source", "all", "--id", "{\"$numberInt\": \"3\"}", "--at", "2100-01-01T00:00:00Z"];
    for _ in ["hot", "cold"] {
        let document: Value = serde_json::from_str(&fixture.ok(&at_end).await).unwrap();
        assert_eq!(document["n"]["$numberInt"], "1", "{document}");
        assert!(document["do"] == "panic" && document["secret"].is_null(), "{document}");
        let history = fixture
            .ok(&["history", "--source", "all", "--id", "{\"$numberInt\": \"3\"}", "--format", "json"])
            .await;
        let ops: Vec<_> =
            history.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()["op"].clone()).collect();
        assert_eq!(ops, ["insert", "update"], "{history}");
        fixture.run_once().await;
        fixture.ok(&["verify"]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_archiver_does_it_and_two_who_ask_at_once_get_each_event_once() {
    let fixture = withheld(2, 24, 2).await;
    fixture.configure(&configuration("\"redact\"", 2));
    let running = fixture.start();
    wait_until("both partitions are held", LIMIT, || async {
        let leases = fixture.audit.collection::<Document>("archiver.leases");
        let held =
            leases.count_documents(doc! {"_id": {"$regex": "^all/"}, "holder": {"$ne": null}}).await.unwrap();
        (held == 2).then_some(())
    })
    .await;
    let retry = ["quarantine", "retry", "--source", "all", "--format", "json"];
    let (one, other) = tokio::join!(fixture.archiver.run(&retry), fixture.archiver.run(&retry));
    let late = |outcome: &archiver_tests::process::Outcome| -> i64 {
        outcome.json().as_array().unwrap().iter().map(|s| s["late"].as_i64().unwrap()).sum()
    };
    let both = late(&one.expect_code(0)) + late(&other.expect_code(0));
    assert_eq!(both, 12);
    assert_eq!(open(&fixture).await, []);
    fixture.collection("things").insert_one(doc! {"_id": 99}).await.unwrap();
    wait_until("capture goes on", LIMIT, || async {
        let records = fixture.records("all").await;
        records.iter().any(|r| at(r, "key._id") == Some(&99.into())).then_some(())
    })
    .await;
    assert!(running.terminate().await.expect_code(0).stderr.contains("trying withheld events again"));
    assert_released(&fixture.records("all").await, (0..24).step_by(2));
    fixture.run_once().await;
    fixture.ok(&["verify"]).await;
}

#[tokio::test]
async fn a_retry_that_is_killed_at_any_ordered_write_releases_each_event_once() {
    let fixture = withheld(1, 4, 2).await;
    fixture.configure(&configuration("\"redact\"", 1));
    // The first append is that of the policy record.
    for point in
        ["append:begun@2", "append:checkpoint_replaced@1", "append:records_inserted@1", "append:committed@1"]
    {
        let (name, nth) = point.split_once('@').unwrap();
        let mut killed = fixture.archiver.clone();
        killed.env("ARCHIVER_FAIL_POINTS", &format!("{name}=exit@{nth}"));
        assert_eq!(killed.run(&["quarantine", "retry"]).await.code, None, "{point}");
    }
    fixture.ok(&["quarantine", "retry"]).await;
    assert_eq!(open(&fixture).await, []);
    let records = fixture.records("all").await;
    assert_dense(&records);
    assert_released(&records, [0, 2].into_iter());
}

#[tokio::test]
async fn a_retry_that_is_interrupted_goes_on_and_reports_all_that_it_released() {
    for (point, by_seq) in [
        // The first append is that of the policy record, and what is committed is not known to be.
        ("append:committed=error@3", false),
        ("append:checkpoint_replaced=error@3", true),
        ("append:committed=error@2;append:begun=error@4", true),
    ] {
        let fixture = withheld(1, 10, 2).await;
        fixture.configure(&one_by_one("\"redact\""));
        let mut archiver = fixture.archiver.clone();
        archiver.env("ARCHIVER_FAIL_POINTS", point);
        let seqs: Vec<String> = listed(&fixture).await.iter().map(|event| event["seq"].to_string()).collect();
        let mut command = vec!["quarantine", "retry", "--source", "all", "--format", "json"];
        for seq in seqs.iter().filter(|_| by_seq) {
            command.extend(["--seq", seq]);
        }
        let outcome = archiver.run(&command).await.expect_code(0);
        assert!(outcome.stderr.contains("was interrupted, and goes on"), "{point}: {}", outcome.stderr);
        let tried = &outcome.json()[0];
        assert_eq!((&tried["of"], &tried["late"]), (&5.into(), &5.into()), "{point}: {tried}");
        assert_eq!(tried["unknown"]["count"], 0, "{point}: {tried}");
        assert_eq!(open(&fixture).await, []);
        let records = fixture.records("all").await;
        assert_dense(&records);
        assert_released(&records, (0..10).step_by(2));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_whose_archiver_is_killed_is_taken_over_and_reports_all_that_was_released() {
    const COUNT: i32 = 150;
    let fixture = withheld(1, COUNT, 1).await;
    fixture.configure(&one_by_one("\"drop\", \"bad\""));
    let running = fixture.start();
    wait_until("it captures", LIMIT, || async { running.stderr().contains("capture started").then_some(()) })
        .await;
    let asking = fixture.archiver.start(&["quarantine", "retry", "--format", "json"]);
    let so_far = wait_until("some are released", LIMIT, || async {
        let leases = fixture.audit.collection::<Document>("archiver.leases");
        let answered = leases.find_one(doc! {"answer.so_far.dropped.bad": {"$gt": 0}}).await.unwrap()?;
        Some(integer(&answered, "answer.so_far.dropped.bad"))
    })
    .await;
    running.kill().await;
    let left = open(&fixture).await.len();
    assert!(so_far > 0 && left > 0, "nothing was interrupted: {left} left");
    let tried = &asking.finish(LIMIT).await.expect_code(0).json()[0];
    assert_eq!((&tried["of"], &tried["dropped"]["bad"]), (&COUNT.into(), &COUNT.into()), "{tried}");
    assert_eq!(open(&fixture).await, []);
}

#[tokio::test]
async fn events_of_one_moment_are_told_apart() {
    let fixture = withheld(1, 0, 1).await;
    let mut session = fixture.db.client().start_session().await.unwrap();
    session.start_transaction().await.unwrap();
    for n in 0..6 {
        let deed = if n % 3 == 1 { "panic" } else { "keep" };
        let document = doc! {"_id": n, "do": deed, "secret": SECRET};
        fixture.collection("things").insert_one(document).session(&mut session).await.unwrap();
    }
    let things = fixture.collection("things");
    things.update_one(doc! {"_id": 1}, doc! {"$set": {"n": 1}}).session(&mut session).await.unwrap();
    session.commit_transaction().await.unwrap();
    fixture.run_once().await;
    let times: BTreeSet<_> =
        open(&fixture).await.iter().map(|w| w.get_timestamp("clusterTime").unwrap()).collect();
    assert_eq!(times.len(), 1, "one transaction, one time");
    fixture.configure(&configuration("\"redact\"", 1));
    fixture.ok(&["quarantine", "retry"]).await;
    assert_eq!(open(&fixture).await, []);
    let records = fixture.records("all").await;
    assert_dense(&records);
    assert_released(&records, [1, 4].into_iter());
    assert_eq!(of(&records, &["insert"]).len(), 6);
    let history = ["history", "--source", "all", "--id", "1", "--format", "json"];
    let history = fixture.archiver.run(&history).await.expect_code(0).json_lines();
    let ops: Vec<_> = history.iter().map(|record| record["op"].as_str().unwrap()).collect();
    assert_eq!(ops, ["insert", "update"], "by what they were, not by when they were appended");
}

#[tokio::test]
async fn history_begins_with_the_withheld_insert_of_a_document() {
    let fixture = Fixture::new(&Server::shared().await);
    fixture.configure(&configuration("\"bad\"", 1));
    fixture.db.create_collection("things").await.unwrap();
    fixture.run_once().await;
    let things = fixture.collection("things");
    // What the plugins let through shows that they leave ids as they are.
    for document in [
        doc! {"_id": 1},
        doc! {"_id": 2, "do": "panic", "secret": SECRET},
        doc! {"_id": 3, "do": "panic", "secret": SECRET},
    ] {
        things.insert_one(document).await.unwrap();
    }
    things.update_one(doc! {"_id": 2}, doc! {"$set": {"n": 1}}).await.unwrap();
    fixture.run_once().await;
    let history = async |id: i32| {
        let id = id.to_string();
        fixture.archiver.run(&["history", "--source", "all", "--id", &id]).await
    };
    let said = "its insert is withheld, plugin bad failed on it (trap); unknown from here on";
    let operations = |table: &str| -> Vec<String> {
        table.lines().skip(1).filter_map(|line| Some(line.split_whitespace().nth(2)?.to_owned())).collect()
    };
    for (id, expected) in [(2, &["quarantine", "update"][..]), (3, &["quarantine"])] {
        let table = history(id).await.expect_code(0).stdout;
        assert_eq!(operations(&table), expected, "{table}");
        assert!(table.lines().nth(1).unwrap().contains(said) && !table.contains("perhaps"), "{table}");
        assert!(!table.contains(SECRET) && !table.contains("nothing is kept"), "{table}");
    }
    assert_eq!(operations(&history(1).await.expect_code(0).stdout), ["insert"]);
    history(4).await.expect_code(NOT_FOUND);
    let recover = ["recover", "--source", "all", "--id", "2", "--at", "2100-01-01T00:00:00Z"];
    fixture.archiver.run(&recover).await.expect_code(NOT_FOUND).expect_message(&["a change was quarantined"]);
    fixture.configure(&configuration("\"redact\"", 1));
    fixture.ok(&["quarantine", "retry"]).await;
    assert_eq!(operations(&history(3).await.expect_code(0).stdout), ["insert"]);
}

#[tokio::test]
async fn an_event_that_a_plugin_drops_now_is_closed_and_one_that_is_out_of_reach_stays_listed() {
    let fixture = withheld(1, 6, 2).await;
    let quarantine = fixture.audit.collection::<Document>("archiver.quarantine");
    let ids: Vec<_> = open(&fixture).await.iter().map(|w| w.get_document("_id").unwrap().clone()).collect();
    let long_ago = Timestamp { time: 1_000, increment: 1 };
    quarantine.update_one(doc! {"_id": &ids[0]}, doc! {"$set": {"clusterTime": long_ago}}).await.unwrap();
    quarantine.update_one(doc! {"_id": &ids[1]}, doc! {"$unset": {"event": 1}}).await.unwrap();
    let mut chances: Vec<_> = listed(&fixture).await.iter().map(|e| e["retry"].to_string()).collect();
    chances.sort();
    assert_eq!(chances, ["\"lost\"", "\"possible\"", "\"readBeside\""]);

    fixture.configure(&configuration("\"drop\", \"bad\"", 1));
    let outcome =
        fixture.archiver.run(&["quarantine", "retry", "--format", "json"]).await.expect_code(HISTORY_LOST);
    let tried = &outcome.json()[0];
    assert_eq!(tried["dropped"], serde_json::json!({"bad": 1}), "{tried}");
    // An oplog that still has its first entry was never truncated, and the server reads it from any time on.
    let gone = tried["lost"]["count"].as_i64().unwrap() + tried["missing"]["count"].as_i64().unwrap();
    assert_eq!((gone, &tried["readBeside"]["count"]), (1, &1.into()), "{tried}");
    assert_eq!(open(&fixture).await.len(), 2, "they stay listed");
    let counters = fixture.checkpoint("all").await.unwrap().get_document("counters").unwrap().clone();
    assert_eq!((integer(&counters, "dropped.bad"), integer(&counters, "released")), (1, 1));
    assert_eq!(integer(&counters, "read"), integer(&counters, "appended") + 1);
    let records = fixture.records("all").await;
    let note =
        of(&records, &["quarantine"]).into_iter().find(|r| at(r, "detail.released").is_some()).unwrap();
    assert_eq!(
        text(
            note.get_document("detail").unwrap().get_array("released").unwrap()[0].as_document().unwrap(),
            "dropped"
        ),
        "bad"
    );
    let status = fixture.archiver.run(&["status", "--format", "json"]).await.expect_code(0).json();
    assert_eq!((&status[0]["quarantined"], &status[0]["withheld"]), (&3.into(), &2.into()), "{status:#}");
}
