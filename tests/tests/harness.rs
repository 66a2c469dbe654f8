//! The harness itself: a server comes up, DuckDB answers, and the oracle sees every change exactly once.

use std::time::Duration;

use archiver_tests::application::finished;
use archiver_tests::replica_set::Settings;
use archiver_tests::three_nodes::ThreeNodes;
use archiver_tests::workload::{Workload, seed};
use archiver_tests::{Fixture, Server, duckdb, oplog};
use bson::doc;
use mongodb::IndexModel;

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_build_whose_primary_has_stepped_down_is_waited_for() {
    let parameters = vec!["enableTestCommands=1".to_owned()];
    let nodes = ThreeNodes::start(Settings { parameters, ..Settings::default() }).await;
    let fixture = Fixture::new(&nodes.server);
    let items = fixture.collection("items");
    items.insert_many((0..10).map(|n| doc! {"_id": n})).await.unwrap();
    nodes.set_fail_point("hangIndexBuildAfterSignalPrimaryForCommitReadiness", "alwaysOn").await;
    let build = items.create_index(IndexModel::builder().keys(doc! {"a": 1}).build());
    tokio::time::timeout(Duration::from_secs(1), build).await.unwrap_err();
    tokio::time::timeout(Duration::from_secs(1), finished(&fixture.db)).await.unwrap_err();
    nodes.step_down().await;
    nodes.primary().await;
    tokio::time::timeout(Duration::from_secs(3), finished(&fixture.db)).await.unwrap_err();
    nodes.set_fail_point("hangIndexBuildAfterSignalPrimaryForCommitReadiness", "off").await;
    finished(&fixture.db).await;
    assert_eq!(items.list_index_names().await.unwrap(), ["_id_", "a_1"]);
}
