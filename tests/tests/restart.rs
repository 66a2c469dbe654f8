//! Stopping and starting again, gently and not: afterwards every event is there exactly once.

use std::time::Duration;

use archiver_tests::record::{integer, must};
use archiver_tests::truth::{assert_complete, assert_dense};
use archiver_tests::workload::{Workload, seed};
use archiver_tests::{Fixture, Server, oplog, wait_until};
use bson::oid::ObjectId;
use bson::spec::BinarySubtype;
use bson::{Binary, Bson, Document, doc};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// The counters in the checkpoint account for everything: what was read, and every record of the log.
fn assert_counters_add_up(checkpoint: &Document, records: usize) {
    let counters = must(checkpoint, "counters").as_document().unwrap();
    let number = |name| integer(counters, name);
    let dropped: i64 =
        counters.get_document("dropped").unwrap().values().filter_map(bson::Bson::as_i64).sum();
    assert_eq!(number("read"), number("appended") + dropped, "{counters}");
    assert_eq!(number("appended") + number("own"), records as i64, "{counters}");
    assert_eq!(integer(checkpoint, "nextSeq"), records as i64 + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_ends_cleanly_and_the_next_start_goes_on() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&Fixture::source("orders", &["orders"]));
    let mut workload = Workload::new(server.client(), fixture.collection("orders"), seed());
    for _ in 0..4 {
        let archiver = fixture.start();
        workload.run(150).await;
        archiver.terminate().await.expect_code(0);
        workload.run(30).await;
    }
    fixture.run_once().await;
    let records = fixture.records("orders").await;
    assert_dense(&records);
    let changes = oplog::changes(server.client(), fixture.db.name()).await;
    assert_complete(&changes, &workload.states, &records);
    assert_counters_add_up(&fixture.checkpoint("orders").await.unwrap(), records.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_at_random_moments_loses_and_repeats_nothing() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    // Small segments, so that kills hit rolling and trimming too.
    let archive =
        "[archive]\nurl = \"{archive}\"\nsegment_max_bytes = \"64KiB\"\nhot_retention = \"365d\"\n\n";
    fixture.configure(&(archive.to_owned() + &Fixture::source("orders", &["orders"])));
    let seed = seed();
    let mut rng = StdRng::seed_from_u64(seed);
    let mut workload = Workload::new(server.client(), fixture.collection("orders"), seed);
    workload.run(200).await;
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let writer = tokio::spawn(async move {
        while stopped.try_recv().is_err() {
            workload.step().await;
        }
        workload
    });
    for _ in 0..12 {
        let archiver = fixture.start();
        tokio::time::sleep(Duration::from_millis(rng.random_range(50..1_500))).await;
        archiver.kill().await;
    }
    stop.send(()).unwrap();
    let workload = writer.await.unwrap();
    wait_until("the dead writer's lease to end", Duration::from_secs(90), async || {
        (fixture.archiver.run(&["run", "--once"]).await.code == Some(0)).then_some(())
    })
    .await;

    let records = fixture.records("orders").await;
    println!("{} changes, {} records", workload.changes, records.len());
    assert_dense(&records);
    let changes = oplog::changes(server.client(), fixture.db.name()).await;
    assert_complete(&changes, &workload.states, &records);
    assert_counters_add_up(&fixture.checkpoint("orders").await.unwrap(), records.len());
    let cold = fixture.cold("orders", "seq");
    let seqs: Vec<_> = cold.iter().map(|r| r["seq"].as_i64().unwrap()).collect();
    assert_eq!(
        seqs,
        (1..=records.len() as i64).collect::<Vec<_>>(),
        "the archive has every record exactly once"
    );
    fixture.ok(&["verify"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_archiver_of_the_same_source_never_writes_beside_the_first() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&Fixture::source("orders", &["orders"]));
    let mut workload = Workload::new(server.client(), fixture.collection("orders"), seed());
    let first = fixture.start();
    let second = fixture.start();
    workload.run(400).await;
    let outcomes = [first.terminate().await, second.terminate().await];
    for outcome in &outcomes {
        assert!(matches!(outcome.code, Some(0 | 13)), "{outcome:?}");
    }
    fixture.run_once().await;
    let records = fixture.records("orders").await;
    assert_dense(&records);
    let changes = oplog::changes(server.client(), fixture.db.name()).await;
    assert_complete(&changes, &workload.states, &records);
}

#[tokio::test]
async fn an_idle_source_keeps_its_position_fresh() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&Fixture::source("quiet", &["quiet"]));
    fixture.run_once().await;
    let position = async || fixture.checkpoint("quiet").await.unwrap().get_timestamp("clusterTime").unwrap();
    let before = position().await;
    fixture.db.collection::<Document>("busy").insert_one(doc! {"_id": 1}).await.unwrap();
    let now = oplog::changes(server.client(), fixture.db.name()).await.last().unwrap().time;
    fixture.run_once().await;
    assert!(
        position().await >= now,
        "the position stays at {before:?} although nothing was missed until {now:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_on_which_nothing_happens_stores_how_far_it_has_looked() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&Fixture::source("quiet", &["quiet"]));
    let running = fixture.start();
    let limit = Duration::from_secs(60);
    wait_until("the source has started", limit, || async { fixture.checkpoint("quiet").await.map(|_| ()) })
        .await;
    fixture.db.collection::<Document>("busy").insert_one(doc! {"_id": 1}).await.unwrap();
    let now = oplog::changes(server.client(), fixture.db.name()).await.last().unwrap().time;
    wait_until("the position passes what others did", limit, || async {
        let checkpoint = fixture.checkpoint("quiet").await?;
        (checkpoint.get_timestamp("clusterTime").unwrap() >= now).then_some(())
    })
    .await;
    running.terminate().await.expect_code(0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_baseline_that_is_killed_goes_on_where_it_was_with_ids_of_every_type() {
    const EACH: i32 = 200;
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    let slow = "[capture]\nbatch_max_events = 7\n\n";
    fixture.configure(&(slow.to_owned() + &Fixture::source("mixed", &["mixed"])));
    let ids = (0..EACH).flat_map(|n| -> [Bson; 6] {
        let name = format!("{n:04}");
        [
            n.into(),
            (f64::from(n) + 0.5).into(),
            name.clone().into(),
            ObjectId::new().into(),
            doc! {"a": n}.into(),
            Binary { subtype: BinarySubtype::Generic, bytes: name.into_bytes() }.into(),
        ]
    });
    let documents: Vec<Document> = ids.map(|id| doc! {"_id": id}).collect();
    fixture.collection("mixed").insert_many(&documents).await.unwrap();
    let running = fixture.start();
    wait_until("a part of the baseline", Duration::from_secs(60), || async {
        (fixture.count("mixed").await > 100).then_some(())
    })
    .await;
    running.kill().await;
    let after_kill = fixture.checkpoint("mixed").await.unwrap();
    assert!(after_kill.contains_key("snapshot"), "the baseline was complete before the kill: {after_kill}");
    fixture.run_once().await;
    let records = fixture.records("mixed").await;
    assert_dense(&records);
    let key = |r: &Document| r.get_document("key").unwrap().get("_id").unwrap().to_string();
    let mut kept: Vec<String> =
        records.iter().filter(|r| r.get_str("op").is_ok_and(|op| op == "snapshot")).map(key).collect();
    let mut expected: Vec<String> = documents.iter().map(|d| d.get("_id").unwrap().to_string()).collect();
    kept.sort();
    expected.sort();
    assert_eq!(kept, expected);
}
