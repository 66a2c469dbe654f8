//! The harness itself: a server comes up, DuckDB answers, and the oracle sees every change exactly once.

use archiver_tests::workload::{Workload, seed};
use archiver_tests::{Fixture, Server, duckdb, oplog};

#[tokio::test]
async fn the_oracle_sees_every_change_of_the_workload_exactly_once() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    let mut workload = Workload::new(server.client(), fixture.collection("orders"), seed());
    workload.run(200).await;
    let changes = oplog::changes(server.client(), fixture.db.name()).await;
    assert_eq!(changes.len() as u64, workload.changes);
    assert!(changes.windows(2).all(|w| w[0].time <= w[1].time));
}

#[test]
fn duckdb_answers_in_json() {
    let rows = duckdb::query("SELECT 42 AS answer, 'x' AS text, TIMESTAMPTZ '2026-01-02 03:04:05Z' AS time");
    assert_eq!(rows[0]["answer"], 42);
    assert_eq!(rows[0]["time"], "2026-01-02T03:04:05+00:00");
    assert!(duckdb::try_query("SELECT nonsense").is_err());
}
