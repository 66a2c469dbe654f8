//! What the audit log promises to whoever writes: all or nothing, one writer, and records of any size.

use std::time::Duration;

use archiver::audit_log::AuditLog;
use archiver::checkpoint::{Checkpoint, Counters, RecentFailures};
use archiver::config::Config;
use archiver::event::Position;
use archiver::record::Record;
use archiver::stream_id::StreamId;
use archiver::{Kind, Result};
use archiver_tests::{Fixture, Server};
use bson::{RawDocumentBuf, Timestamp, rawdoc};
use mongodb::bson::doc;

const LIMIT: Duration = Duration::from_secs(60);

async fn log(fixture: &Fixture) -> AuditLog {
    fixture.configure(&Fixture::source("orders", &["orders"]).replace("{db}", "shop"));
    let text = std::fs::read_to_string(fixture.path("archiver.toml")).unwrap();
    fixture.write_config(&text.replace("${ARCHIVER_TEST_URI}", fixture.uri()));
    let log = AuditLog::connect(&Config::load(&fixture.path("archiver.toml")).unwrap()).await.unwrap();
    log.prepare("orders").await.unwrap();
    log
}

fn first(epoch: i64) -> Checkpoint {
    Checkpoint {
        failures: RecentFailures::default(),
        retried: None,
        stream: StreamId::whole("orders"),
        partitions: 1,
        epoch,
        next_seq: 1,
        position: Position { token: None, cluster_time: Timestamp { time: 1, increment: 1 } },
        snapshot: None,
        policy: 0,
        policy_digest: String::new(),
        options: String::new(),
        watch: Vec::new(),
        resyncs: Vec::new(),
        server: None,
        context: None,
        salt: None,
        expired_end: 1,
        holds_recorded: 0,
        counters: Counters::default(),
    }
}

/// Appends records with these seqs as the writer of `checkpoint`.
async fn append(log: &AuditLog, checkpoint: &Checkpoint, seqs: &[i64]) -> Result<Checkpoint> {
    let record = |seq: &i64| rawdoc! {"_id": *seq, "op": "insert", "policy": 0_i64}.into_bytes();
    let next = Checkpoint { next_seq: checkpoint.next_seq + seqs.len() as i64, ..checkpoint.clone() };
    let mut session = log.session().await?;
    log.append(&mut session, seqs.iter().map(record).collect::<Vec<_>>(), checkpoint.next_seq, &next).await?;
    Ok(next)
}

#[tokio::test]
async fn a_fenced_writer_appends_nothing() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    let log = log(&fixture).await;
    log.create_checkpoint(&first(1)).await.unwrap();
    let old = append(&log, &first(1), &[1, 2]).await.unwrap();
    let new = log.fence(&StreamId::whole("orders"), 2).await.unwrap().unwrap();
    assert_eq!((new.epoch, new.next_seq), (2, 3));
    assert_eq!(append(&log, &old, &[3]).await.unwrap_err().kind(), Kind::Fenced);
    assert_eq!(fixture.count("orders").await, 2);
    append(&log, &new, &[3]).await.unwrap();
    assert_eq!(fixture.count("orders").await, 3);
    // And an epoch never goes back.
    assert_eq!(log.fence(&StreamId::whole("orders"), 1).await.unwrap_err().kind(), Kind::Fenced);
}

#[tokio::test]
async fn a_batch_that_fails_leaves_neither_records_nor_a_checkpoint() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    let log = log(&fixture).await;
    log.create_checkpoint(&first(1)).await.unwrap();
    let second = append(&log, &first(1), &[1, 2]).await.unwrap();
    assert_eq!(append(&log, &second, &[3, 2]).await.unwrap_err().kind(), Kind::Internal, "not the next one");
    // Seq 4 is there already: the whole batch fails, its first record and the checkpoint with it.
    fixture.audit.collection("orders").insert_one(doc! {"_id": 4_i64}).await.unwrap();
    assert_eq!(append(&log, &second, &[3, 4]).await.unwrap_err().kind(), Kind::Corrupt);
    assert_eq!(fixture.count("orders").await, 3);
    assert_eq!(log.checkpoint(&StreamId::whole("orders")).await.unwrap().unwrap().next_seq, 3);
}

#[tokio::test]
async fn a_checkpoint_advances_only_from_where_it_stands() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    let log = log(&fixture).await;
    log.create_checkpoint(&first(1)).await.unwrap();
    append(&log, &first(1), &[1, 2]).await.unwrap();
    assert_eq!(append(&log, &first(1), &[1, 2]).await.unwrap_err().kind(), Kind::Fenced);
    assert_eq!(log.create_checkpoint(&first(1)).await.unwrap_err().kind(), Kind::Fenced);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_as_large_as_mongodb_takes_survives_both_tiers_exactly() {
    const LARGEST: usize = 16 * 1024 * 1024;
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    let empty = rawdoc! {"_id": "big", "text": ""}.as_bytes().len();
    let big = rawdoc! {"_id": "big", "text": "x".repeat(LARGEST - empty)};
    assert_eq!(big.as_bytes().len(), LARGEST);
    fixture.db.collection::<RawDocumentBuf>("orders").insert_one(&big).await.unwrap();
    fixture.configure(
        &("[archive]\nurl = \"{archive}\"\nhot_retention = \"0s\"\n\n".to_owned()
            + &Fixture::source("orders", &["orders"])),
    );
    let running = fixture.start();
    archiver_tests::wait_until("the baseline is in the log", LIMIT, || async {
        (fixture.count("orders").await >= 2).then_some(())
    })
    .await;
    running.terminate().await.expect_code(0);
    let chunks = fixture.audit.collection::<RawDocumentBuf>("archiver.overflow");
    assert!(chunks.count_documents(doc! {}).await.unwrap() > 0, "it did not overflow");
    let at =
        ["recover", "--source", "orders", "--id", "big", "--at", "2100-01-01T00:00:00Z", "--format", "bson"];
    let hot = fixture.archiver.run(&at).await.expect_code(0);
    assert!(hot.bytes == big.as_bytes(), "the hot tier gives other bytes");
    fixture.run_once().await;
    assert_eq!((fixture.count("orders").await, chunks.count_documents(doc! {}).await.unwrap()), (0, 0));
    let cold = fixture.archiver.run(&at).await.expect_code(0);
    assert!(cold.bytes == big.as_bytes(), "the cold tier gives other bytes");
    assert!(Record::new(&cold.bytes).is_ok());
}
