//! The archive loop and the commit protocol: crashes between the steps, several who roll at once, an archive of another log.

use std::time::Duration;

use archiver_tests::workload::{Workload, seed};
use archiver_tests::{Fixture, Server, tools, wait_until};
use bson::{Document, doc};
use futures_util::future::join_all;

const LIMIT: Duration = Duration::from_secs(60);
const SOURCE: &str = "[[source]]\nname = \"orders\"\nwatch = [\"{db}.orders\"]\n\n";

fn archive(options: &str) -> String {
    format!("[archive]\nurl = \"{{archive}}\"\n{options}\n\n")
}

/// A source with so many changes in its log, and nothing rolled.
async fn captured(server: &Server, changes: u64) -> Fixture {
    let fixture = Fixture::new(server);
    fixture.configure(&(archive("") + SOURCE));
    let running = fixture.start();
    // Before the first change: a baseline of what is left of them would be of fewer records.
    wait_until("the stream has a beginning", LIMIT, || fixture.checkpoint("orders")).await;
    Workload::new(server.client(), fixture.collection("orders"), seed()).run(changes).await;
    wait_until("the changes are in the log", LIMIT, || async {
        (fixture.count("orders").await > changes / 2).then_some(())
    })
    .await;
    running.terminate().await.expect_code(0);
    assert!(fixture.archive_files().is_empty(), "nothing was old enough to be rolled");
    fixture
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_segment_whose_manifest_was_not_written_any_more_is_sealed_by_the_next_pass() {
    let server = Server::shared().await;
    let fixture = captured(&server, 50).await;
    fixture.ok(&["roll"]).await;
    let before = fixture.archive_files();
    let manifest = before.iter().find(|f| f.extension().is_some_and(|e| e == "json")).unwrap();
    std::fs::remove_file(manifest).unwrap();
    fixture.ok(&["roll"]).await;
    assert_eq!(fixture.archive_files(), before);
    // One that was written, and is another now, is not what the audit database noted.
    let outcome = fixture.archiver.run(&["verify"]).await.expect_code(3);
    assert!(outcome.stdout.contains("[chain-rewritten]"), "{}", outcome.stdout);
    let leases = fixture.audit.collection::<Document>("archiver.leases");
    leases.update_one(doc! {"_id": "orders"}, doc! {"$unset": {"sealed": ""}}).await.unwrap();
    fixture.ok(&["verify"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_who_roll_at_once_and_cut_differently_make_one_chain() {
    let server = Server::shared().await;
    let fixture = captured(&server, 300).await;
    let sizes = ["1KiB", "3KiB", "7KiB", "50KiB"];
    let rolling = sizes.map(|size| {
        let other =
            fixture.with_configuration(size, &(archive(&format!("segment_max_bytes = \"{size}\"")) + SOURCE));
        async move { other.run(&["roll"]).await }
    });
    for outcome in join_all(rolling).await {
        outcome.expect_code(0);
    }
    fixture.ok(&["verify"]).await;
    let rows = fixture.cold("orders", "seq");
    let seqs: Vec<i64> = rows.iter().map(|row| row["seq"].as_i64().unwrap()).collect();
    let records = fixture.raw_records("orders").await.len() as i64;
    assert_eq!(seqs, (1..=records).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_overtaken_by_one_who_rolls_and_trims_goes_on_behind_it() {
    let server = Server::shared().await;
    for point in ["segment:built", "segment:committed"] {
        let fixture = captured(&server, 100).await;
        let slow = archive("segment_max_bytes = \"3KiB\"") + SOURCE;
        let mut slow = fixture.with_configuration("slow", &slow);
        slow.env("ARCHIVER_FAIL_POINTS", &format!("{point}=sleep(1000)"));
        let rolling = slow.start(&["roll"]);
        wait_until("the fail point", LIMIT, async || rolling.stderr().contains("fail point").then_some(()))
            .await;
        tools::signal(rolling.pid(), "STOP");
        fixture.configure(&(archive("hot_retention = \"0s\"\nsegment_max_bytes = \"5KiB\"") + SOURCE));
        fixture.run_once().await;
        assert_eq!(fixture.count("orders").await, 0, "everything is trimmed");
        tools::signal(rolling.pid(), "CONT");
        let outcome = rolling.finish(LIMIT).await.expect_code(0);
        assert!(outcome.stderr.contains("another writer has"), "{}", outcome.stderr);
        fixture.ok(&["verify"]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counters_in_the_chain_never_fall_whoever_goes_on_with_it() {
    let server = Server::shared().await;
    let fixture = captured(&server, 100).await;
    let small = archive("segment_max_bytes = \"3KiB\"") + SOURCE;
    let mut slow = fixture.with_configuration("slow", &small);
    slow.env("ARCHIVER_FAIL_POINTS", "segment:built=sleep(1000)");
    let rolling = slow.start(&["roll"]);
    wait_until("the fail point", LIMIT, async || rolling.stderr().contains("fail point").then_some(())).await;
    tools::signal(rolling.pid(), "STOP");
    let (before, running) = (fixture.count("orders").await, fixture.start());
    let more = (0..50).map(|n| doc! {"_id": 1_000_000 + n});
    fixture.collection("orders").insert_many(more).await.unwrap();
    wait_until("more records", LIMIT, async || (fixture.count("orders").await >= before + 50).then_some(()))
        .await;
    running.terminate().await.expect_code(0);
    // Another one seals the first segment, knowing more, and goes no further.
    let mut other = fixture.with_configuration("other", &small);
    other.env("ARCHIVER_FAIL_POINTS", "segment:sealed=exit");
    other.run(&["roll"]).await;
    tools::signal(rolling.pid(), "CONT");
    rolling.finish(LIMIT).await.expect_code(0);
    fixture.ok(&["verify"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_archive_of_another_audit_log_is_not_gone_on_with() {
    let server = Server::shared().await;
    let fixture = captured(&server, 20).await;
    fixture.ok(&["roll"]).await;
    let files = fixture.archive_files();
    // The audit database is lost and made anew: its seqs begin at 1 again.
    fixture.audit.drop().await.unwrap();
    fixture.collection("orders").drop().await.unwrap();
    Workload::new(server.client(), fixture.collection("orders"), seed()).run(50).await;
    let outcome = fixture.archiver.run(&["run", "--once"]).await.expect_code(15);
    assert!(outcome.stderr.contains("not of this audit log"), "{}", outcome.stderr);
    assert_eq!(fixture.archive_files(), files);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_segment_of_other_records_under_the_next_name_is_not_sealed() {
    let server = Server::shared().await;
    let (fixture, other) = (captured(&server, 20).await, captured(&server, 20).await);
    other.ok(&["roll"]).await;
    let segment =
        other.archive_files().into_iter().find(|f| f.extension().is_some_and(|e| e == "parquet")).unwrap();
    let planted = fixture.archive().join(segment.strip_prefix(other.archive()).unwrap());
    std::fs::create_dir_all(planted.parent().unwrap()).unwrap();
    std::fs::copy(&segment, &planted).unwrap();
    let outcome = fixture.archiver.run(&["roll"]).await.expect_code(15);
    assert!(outcome.stderr.contains("not of this audit log"), "{}", outcome.stderr);
    assert_eq!(fixture.archive_files(), [planted], "nothing is sealed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_is_not_trimmed_behind_a_segment_that_is_gone() {
    let server = Server::shared().await;
    let fixture = captured(&server, 30).await;
    fixture.ok(&["roll"]).await;
    let records = fixture.count("orders").await;
    let segment =
        fixture.archive_files().into_iter().find(|f| f.extension().is_some_and(|e| e == "parquet")).unwrap();
    std::fs::remove_file(segment).unwrap();
    fixture.configure(&(archive("hot_retention = \"0s\"") + SOURCE));
    let outcome = fixture.archiver.run(&["run", "--once"]).await.expect_code(15);
    assert!(outcome.stderr.contains("a sealed segment is missing"), "{}", outcome.stderr);
    // What was not captured before may have been appended since.
    assert!(fixture.count("orders").await >= records);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_audit_log_captures_and_trims_nothing() {
    let server = Server::shared().await;
    let fixture = captured(&server, 30).await;
    fixture.ok(&["roll"]).await;
    // What an old backup would leave: the marker is the same, the checkpoint is behind the archive.
    let checkpoints = fixture.audit.collection::<Document>("archiver.checkpoints");
    checkpoints.update_one(doc! {}, doc! {"$set": {"nextSeq": 5_i64}}).await.unwrap();
    fixture.audit.collection::<Document>("orders").delete_many(doc! {"_id": {"$gte": 5_i64}}).await.unwrap();
    let outcome = fixture.archiver.run(&["run", "--once"]).await.expect_code(15);
    assert!(outcome.stderr.contains("the archive is ahead of the checkpoint"), "{}", outcome.stderr);
    assert_eq!(fixture.count("orders").await, 4, "nothing is captured under a seq that was given out before");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_differs_from_what_was_sealed_of_it_is_neither_rolled_nor_trimmed() {
    let server = Server::shared().await;
    let fixture = captured(&server, 30).await;
    fixture.ok(&["roll"]).await;
    let log = fixture.audit.collection::<Document>("orders");
    log.update_one(doc! {"_id": 7_i64}, doc! {"$set": {"op": "replace"}}).await.unwrap();
    let (records, files) = (fixture.count("orders").await, fixture.archive_files());
    fixture.configure(&(archive("hot_retention = \"0s\"") + SOURCE));
    let outcome = fixture.archiver.run(&["run", "--once"]).await.expect_code(15);
    assert!(outcome.stderr.contains("not of this audit log"), "{}", outcome.stderr);
    assert_eq!(fixture.archive_files(), files);
    assert!(fixture.count("orders").await >= records, "something was trimmed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newest_segment_that_is_removed_with_its_manifest_is_missed_by_verify() {
    let server = Server::shared().await;
    let fixture = captured(&server, 30).await;
    fixture.ok(&["roll"]).await;
    fixture.ok(&["verify"]).await;
    for file in fixture.archive_files() {
        std::fs::remove_file(file).unwrap();
    }
    let outcome = fixture.archiver.run(&["verify"]).await.expect_code(3);
    assert!(outcome.stdout.contains("the newest manifests were removed"), "{}", outcome.stdout);
}
