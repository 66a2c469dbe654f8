//! Stopping and starting again, gently and not: afterwards every event is there exactly once.

use std::time::Duration;

use archiver_tests::record::{integer, must};
use archiver_tests::truth::{assert_complete, assert_dense};
use archiver_tests::workload::{Workload, seed};
use archiver_tests::{Fixture, Server, oplog, wait_until};
use bson::{Document, doc};
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
