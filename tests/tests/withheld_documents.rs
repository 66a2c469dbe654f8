//! Documents that a plugin failed on while a baseline read them are read again as they are now, once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use archiver_tests::canary::{Canary, Haystack};
use archiver_tests::record::{at, integer, of, text, time};
use archiver_tests::truth::assert_dense;
use archiver_tests::{Fixture, Server, tools, wait_until};
use bson::{Document, doc};
use serde_json::Value;

const SECRET: &str = "canary-5555555555554444";
const LIMIT: Duration = Duration::from_secs(60);
const HISTORY_LOST: i32 = 12;

/// The source `all` through one of `bad` and `redact`, which takes `secret` out.
fn configuration(plugin: &str, partitions: u32) -> String {
    let redact = Fixture::redact("redact", r#"{ path = "secret", action = "remove" }"#);
    let file = tools::plugin("misbehave");
    let (path, sha256) = (file.display(), tools::sha256(&file));
    format!(
        "[capture]\nlease_time = \"2s\"\n\n{redact}[[plugin]]\nname = \"bad\"\npath = \"{path}\"\nsha256 = \"{sha256}\"\n\n\
         [[source]]\nname = \"all\"\nwatch = [\"{{db}}.things\"]\nplugins = [\"{plugin}\"]\npartitions = {partitions}\n"
    )
}

/// Documents 0 to 40, of which the baseline has withheld these.
async fn withheld(partitions: u32, ids: &[i32]) -> Fixture {
    let fixture = Fixture::new(&Server::shared().await);
    fixture.configure(&configuration("bad", partitions));
    let documents = (0..40).map(|n| match ids.contains(&n) {
        true => doc! {"_id": n, "n": 0, "do": "panic", "secret": SECRET},
        false => doc! {"_id": n, "n": 0},
    });
    fixture.collection("things").insert_many(documents).await.unwrap();
    fixture.run_once().await;
    let listed = fixture.ok(&["quarantine", "list", "--format", "json"]).await;
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let chances: Vec<_> = listed.as_array().unwrap().iter().map(|event| event["retry"].clone()).collect();
    assert_eq!(chances, vec!["asItIsNow"; ids.len()], "{listed:#}");
    fixture
}

fn snapshots_of(records: &[Document], id: i32) -> usize {
    of(records, &["snapshot"]).iter().filter(|r| integer(r, "key._id") == i64::from(id)).count()
}

/// Among the records of a document, none with a later time than a snapshot's has a lower seq: the stream waits for what is read.
fn assert_nothing_later_is_before_a_snapshot(records: &[Document], id: i32) {
    let mut latest = None;
    for record in records.iter().filter(|r| at(r, "key._id") == Some(&id.into())) {
        if text(record, "op") == "snapshot" {
            assert!(latest <= Some(time(record)), "{id}: {record}");
        }
        latest = latest.max(Some(time(record)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn withheld_documents_are_read_again_as_they_are_now_while_they_change() {
    let fixture = withheld(2, &[3, 7, 11]).await;
    let things = fixture.collection("things");
    things.update_one(doc! {"_id": 3}, doc! {"$set": {"early": true}}).await.unwrap();
    things.delete_one(doc! {"_id": 7}).await.unwrap();
    fixture.run_once().await;
    fixture.configure(&configuration("redact", 2));
    let running = fixture.start();
    wait_until("both partitions are held, so that the running archiver does it", LIMIT, || async {
        let leases = fixture.audit.collection::<Document>("archiver.leases");
        let held = doc! {"_id": {"$regex": "^all/"}, "holder": {"$ne": null}};
        (leases.count_documents(held).await.unwrap() == 2).then_some(())
    })
    .await;
    let (stop, changing) = (Arc::new(AtomicBool::new(false)), things.clone());
    let stopped = Arc::clone(&stop);
    let writer = tokio::spawn(async move {
        // Slowly enough for the stream to keep up: then it would tell of a later change before a document is appended.
        let mut pace = tokio::time::interval(Duration::from_millis(10));
        while !stopped.load(Ordering::Relaxed) {
            pace.tick().await;
            let of_few = doc! {"_id": {"$in": [3, 5, 11]}};
            changing.update_many(of_few, doc! {"$inc": {"n": 1}}).await.unwrap();
        }
    });
    let outcome =
        fixture.archiver.run(&["quarantine", "retry", "--format", "json"]).await.expect_code(HISTORY_LOST);
    stop.store(true, Ordering::Relaxed);
    writer.await.unwrap();
    let sum = |count: &dyn Fn(&Value) -> Option<i64>| -> i64 {
        outcome.json().as_array().unwrap().iter().filter_map(count).sum()
    };
    assert_eq!(sum(&|tried| tried["snapshots"].as_i64()), 2, "{}", outcome.stdout);
    assert_eq!(sum(&|tried| tried["missing"]["count"].as_i64()), 1, "the deleted one");
    things.insert_many((100..120).map(|n| doc! {"_id": n})).await.unwrap();
    wait_until("both partitions go on", LIMIT, || async {
        let records = fixture.records("all").await;
        (of(&records, &["insert"]).len() == 20).then_some(())
    })
    .await;
    let log = running.terminate().await.expect_code(0).stderr;
    fixture.run_once().await;
    let records = fixture.records("all").await;
    for (id, count) in [(3, 1), (7, 0), (11, 1), (5, 1)] {
        assert_eq!(snapshots_of(&records, id), count, "{id}");
        assert_nothing_later_is_before_a_snapshot(&records, id);
    }
    let left = fixture.audit.collection::<Document>("archiver.quarantine");
    assert_eq!(left.count_documents(doc! {}).await.unwrap(), 1, "the deleted one stays listed");
    for tier in ["hot", "cold"] {
        for id in [3, 11, 5] {
            let stored = things.find_one(doc! {"_id": id}).await.unwrap().unwrap();
            let json = format!("{{\"$numberInt\": \"{id}\"}}");
            let arguments = ["recover", "--source", "all", "--id", &json, "--at", "2100-01-01T00:00:00Z"];
            let found: Value = serde_json::from_str(&fixture.ok(&arguments).await).unwrap();
            assert_eq!(found["n"]["$numberInt"], integer(&stored, "n").to_string(), "{tier} {id}: {found}");
            assert_eq!(found["early"].as_bool(), at(&stored, "early").and_then(|e| e.as_bool()), "{found}");
            assert!(found["secret"].is_null(), "{found}");
        }
        fixture.ok(&["verify"]).await;
        fixture.configure(
            &(configuration("redact", 2) + "\n[archive]\nurl = \"{archive}\"\nhot_retention = \"0s\"\n"),
        );
        fixture.run_once().await;
    }
    let haystack = Haystack::of(&fixture.audit, &fixture.archive(), &(log + &outcome.stderr)).await;
    assert_eq!(haystack.search(&[Canary::text(SECRET)]), Vec::<String>::new());
}

#[tokio::test]
async fn withheld_documents_are_read_again_once_wherever_a_retry_is_killed() {
    let fixture = withheld(1, &[3, 7]).await;
    fixture.configure(&configuration("redact", 1));
    // The first append is that of the policy record; what was not committed is done by the next.
    for point in ["append:begun@2", "append:records_inserted@1", "append:committed@1"] {
        let (name, nth) = point.split_once('@').unwrap();
        let mut killed = fixture.archiver.clone();
        killed.env("ARCHIVER_FAIL_POINTS", &format!("{name}=exit@{nth}"));
        assert_eq!(killed.run(&["quarantine", "retry"]).await.code, None, "{point}");
    }
    assert!(fixture.ok(&["quarantine", "retry"]).await.contains("nothing is withheld"));
    let records = fixture.records("all").await;
    assert_dense(&records);
    assert_eq!([3, 7, 5].map(|id| snapshots_of(&records, id)), [1, 1, 1]);
    let counters = fixture.checkpoint("all").await.unwrap().get_document("counters").unwrap().clone();
    assert_eq!((integer(&counters, "quarantined"), integer(&counters, "released")), (2, 2));
    assert_eq!(integer(&counters, "read"), integer(&counters, "appended"));
    fixture.run_once().await;
    fixture.ok(&["verify"]).await;
}

#[tokio::test]
async fn a_deleted_document_whose_return_was_withheld_is_not_given_back() {
    let fixture = withheld(1, &[]).await;
    let things = fixture.collection("things");
    let images = doc! {"collMod": "things", "changeStreamPreAndPostImages": {"enabled": true}};
    fixture.db.run_command(images).await.unwrap();
    things.delete_many(doc! {"_id": {"$lt": 4}}).await.unwrap();
    fixture.run_once().await;
    // 0 stays deleted; 1 comes back unseen; 2 comes back and is changed; 3 comes back, and goes again. All in one transaction, so that they are
    // read together with an event that shows that ids are left as they are.
    let mut session = fixture.db.client().start_session().await.unwrap();
    session.start_transaction().await.unwrap();
    let back = [1, 2, 3].map(|id| doc! {"_id": id, "do": "panic"});
    things.insert_many(back).session(&mut session).await.unwrap();
    things.insert_one(doc! {"_id": 50}).session(&mut session).await.unwrap();
    let set = doc! {"$set": {"n": 1}};
    things.update_one(doc! {"_id": 2}, set).session(&mut session).await.unwrap();
    things.delete_one(doc! {"_id": 3}).session(&mut session).await.unwrap();
    session.commit_transaction().await.unwrap();
    fixture.run_once().await;
    let found = fixture
        .archiver
        .run(&["recover", "--source", "all", "--deleted-since", "2020-01-01T00:00:00Z"])
        .await;
    let ids: Vec<String> = found
        .stdout
        .lines()
        .map(|line| {
            let document: Value = serde_json::from_str(line).unwrap();
            document["_id"]["$numberInt"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(ids, ["0", "3"], "{}", found.stderr);
    assert!(found.stderr.contains("2 recovered, 0 not"), "{}", found.stderr);
    assert!(!found.stderr.contains("nobody can say of which"), "{}", found.stderr);
    // With its collection they ended, too, as whatever they were.
    things.drop().await.unwrap();
    fixture.run_once().await;
    let found = fixture
        .archiver
        .run(&["recover", "--source", "all", "--deleted-since", "2020-01-01T00:00:00Z"])
        .await;
    for id in [1, 2] {
        let words =
            format!("not recovered: \"{id}\" of {}.things: a change was quarantined", fixture.db.name());
        assert!(found.stderr.contains(&words), "{words}: {}", found.stderr);
    }
    assert!(found.stderr.contains("39 recovered, 2 not"), "{}", found.stderr);
}

#[tokio::test]
async fn a_return_that_was_withheld_and_may_be_any_documents_is_noted() {
    let fixture = withheld(1, &[]).await;
    let things = fixture.collection("things");
    things.delete_many(doc! {"_id": {"$lt": 2}}).await.unwrap();
    fixture.run_once().await;
    things.insert_one(doc! {"_id": 1, "do": "panic"}).await.unwrap();
    fixture.run_once().await;
    for (since, recovered, noted) in [("2020", 2, true), ("2099", 0, false)] {
        let since = format!("{since}-01-01T00:00:00Z");
        let found = fixture.archiver.run(&["recover", "--source", "all", "--deleted-since", &since]).await;
        assert_eq!(found.stdout.lines().count(), recovered, "{}", found.stderr);
        let note = "note: 1 changes were withheld, and nobody can say of which documents";
        assert_eq!(found.stderr.contains(note), noted, "{}", found.stderr);
    }
    let all = ["recover", "--source", "all", "--all", "--at", "2100-01-01T00:00:00Z"];
    let found = fixture.archiver.run(&all).await;
    assert!(found.stderr.contains("note: 1 inserts were withheld before that time"), "{}", found.stderr);
}
