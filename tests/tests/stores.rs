//! The archive on object stores, over the wire: S3 and Azure Blob, looked at with the providers' own clients and with DuckDB.

use archiver_tests::cloud::{Bucket, Kind};
use archiver_tests::workload::{Workload, seed};
use archiver_tests::{Fixture, Server, duckdb};
use bson::doc;

async fn whole_life(kind: Kind) {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    let bucket = Bucket::new(kind).await;
    let archive = bucket.section("segment_max_bytes = \"64KiB\"\nhot_retention = \"0s\"");
    fixture.configure(&(archive + &Fixture::source("orders", &["orders"])));
    fixture.ok(&["check"]).await;
    fixture.run_once().await;
    Workload::new(server.client(), fixture.collection("orders"), seed()).run(400).await;
    fixture.run_once().await;
    // Everything is in the store alone now, sealed, and reads back through each door.
    assert_eq!(fixture.count("orders").await, 0);
    let next = fixture.checkpoint("orders").await.unwrap().get_i64("nextSeq").unwrap();
    let keys = bucket.keys();
    let (manifests, segments): (Vec<_>, Vec<_>) = keys.iter().partition(|key| key.starts_with("_manifests/"));
    assert!(segments.len() > 1 && manifests.len() == segments.len(), "{keys:?}");
    let counted = duckdb::query(&format!(
        "{}SELECT count(*) AS n, count(DISTINCT seq) AS seqs, max(seq) AS last FROM read_parquet('{}')",
        bucket.duckdb(),
        bucket.glob("orders")
    ));
    assert_eq!((&counted[0]["n"], &counted[0]["seqs"]), (&(next - 1).into(), &(next - 1).into()));
    assert_eq!(counted[0]["last"], next - 1);
    fixture.ok(&["verify"]).await;
    let orders = fixture.collection("orders");
    let left = orders.find_one(doc! {}).await.unwrap().expect("the workload leaves documents");
    let id = left.get("_id").unwrap().to_string();
    orders.delete_one(doc! {"_id": left.get("_id").unwrap()}).await.unwrap();
    fixture.run_once().await;
    let recovered = ["recover", "--source", "orders", "--id", &id, "--format", "bson"];
    assert_eq!(fixture.archiver.run_for_bytes(&recovered).await, left.to_vec().unwrap());
}

#[tokio::test]
async fn an_archive_on_s3_is_rolled_queried_verified_and_recovered_from() {
    whole_life(Kind::S3).await;
}

#[tokio::test]
async fn an_archive_on_azure_is_rolled_queried_verified_and_recovered_from() {
    whole_life(Kind::Azure).await;
}

#[tokio::test]
async fn under_object_lock_every_key_has_one_version_and_nothing_is_deleted() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    let bucket = Bucket::locked(30).await;
    let archive = bucket.section("segment_max_bytes = \"64KiB\"\nhot_retention = \"0s\"");
    fixture.configure(&(archive + &Fixture::source("orders", &["orders"])));
    let mut workload = Workload::new(server.client(), fixture.collection("orders"), seed());
    for _ in 0..2 {
        workload.run(200).await;
        fixture.run_once().await;
    }
    fixture.ok(&["verify"]).await;
    let versions = bucket.versions();
    assert!(versions.len() > 4 && versions.iter().all(|(_, n)| *n == 1), "{versions:?}");
}
