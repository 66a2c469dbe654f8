//! The archive as others see it: what the glob shows at any moment, the manifest chain, the columns, the partitions.

use std::time::Duration;

use archiver_tests::workload::{Workload, seed};
use archiver_tests::{Fixture, Server, duckdb, tools, wait_until};
use serde_json::Value;

/// Small segments, cut often, and a hot tier that keeps nothing that is rolled.
const SMALL: &str =
    "[archive]\nurl = \"{archive}\"\nsegment_max_bytes = \"64KiB\"\nhot_retention = \"0s\"\n\n";

/// The names and types of design's segment schema, as DuckDB sees them, partition columns aside.
const COLUMNS: [(&str, &str); 23] = [
    ("seq", "BIGINT"),
    ("op", "VARCHAR"),
    ("db", "VARCHAR"),
    ("coll", "VARCHAR"),
    ("doc_id", "VARCHAR"),
    ("doc_key", "VARCHAR"),
    ("cluster_time", "TIMESTAMP WITH TIME ZONE"),
    ("cluster_inc", "INTEGER"),
    ("wall_time", "TIMESTAMP WITH TIME ZONE"),
    ("actor", "VARCHAR"),
    ("actor_from", "VARCHAR"),
    ("txn", "VARCHAR"),
    ("before", "JSON"),
    ("after", "JSON"),
    ("delta", "JSON"),
    ("before_exact", "BLOB"),
    ("after_exact", "BLOB"),
    ("delta_exact", "BLOB"),
    ("changed", "VARCHAR[]"),
    ("images", "JSON"),
    ("detail", "JSON"),
    ("policy", "BIGINT"),
    ("extra", "JSON"),
];

async fn filled(server: &Server, archive: &str, changes: u64) -> Fixture {
    let fixture = Fixture::new(server);
    fixture.configure(&(archive.to_owned() + &Fixture::source("orders", &["orders"])));
    fixture.create_with_images("orders").await;
    fixture.run_once().await;
    Workload::new(server.client(), fixture.collection("orders"), seed()).run(changes).await;
    fixture.run_once().await;
    fixture
}

fn manifests(fixture: &Fixture) -> Vec<(Value, String)> {
    let folder = fixture.archive().join("_manifests/source=orders");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    let read = |file: &std::path::PathBuf| serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    files.iter().map(|file| (read(file), tools::sha256(file))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_plain_glob_is_right_at_any_moment() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&(SMALL.to_owned() + &Fixture::source("orders", &["orders"])));
    let mut workload = Workload::new(server.client(), fixture.collection("orders"), seed());
    let running = fixture.start();
    let mut looks = 0;
    while looks < 10 {
        workload.run(100).await;
        if !fixture.archive_files().iter().any(|f| f.extension().is_some_and(|e| e == "parquet")) {
            continue;
        }
        let glob = fixture.glob("orders");
        let sql = format!(
            "SELECT count(*) AS n, count(DISTINCT seq) AS d, min(seq) AS first, max(seq) AS last FROM read_parquet('{glob}')"
        );
        // Both versions of DuckDB, in turn.
        let row = &if looks % 2 == 0 { duckdb::query(&sql) } else { duckdb::query_next(&sql) }[0];
        assert_eq!((&row["n"], &row["d"]), (&row["last"], &row["last"]), "a gap or a repeat: {row}");
        assert_eq!(row["first"], 1);
        looks += 1;
    }
    running.terminate().await.expect_code(0);
}

#[tokio::test]
async fn manifests_form_a_chain_that_covers_every_record() {
    let server = Server::shared().await;
    let fixture = filled(&server, SMALL, 500).await;
    let manifests = manifests(&fixture);
    assert!(manifests.len() > 2, "too few segments to be a chain");
    let (mut next, mut previous) = (1, Value::Null);
    for (manifest, sha256) in &manifests {
        assert_eq!(manifest["first_seq"], next);
        assert_eq!(manifest["previous"], previous);
        let segment = fixture.archive().join(manifest["segment"].as_str().unwrap());
        assert_eq!(manifest["sha256"], tools::sha256(&segment));
        assert_eq!(manifest["size"], std::fs::metadata(&segment).unwrap().len());
        let end = manifest["end_seq"].as_i64().unwrap();
        assert_eq!(manifest["rows"], end - next);
        let name = segment.file_name().unwrap().to_str().unwrap().to_owned();
        assert_eq!(name, format!("seg-{next:020}.parquet"));
        (next, previous) = (end, Value::from(sha256.as_str()));
    }
    assert_eq!(fixture.checkpoint("orders").await.unwrap().get_i64("nextSeq").unwrap(), next);
    assert_eq!(fixture.count("orders").await, 0, "rolled records leave the hot tier after hot_retention");
    let files = fixture.archive_files();
    assert_eq!(files.len(), manifests.len() * 2, "nothing but segments and manifests: {files:?}");
}

#[tokio::test]
async fn columns_have_the_documented_names_and_types_and_json_can_be_asked() {
    let server = Server::shared().await;
    let fixture = filled(&server, SMALL, 200).await;
    let glob = fixture.glob("orders");
    let described =
        duckdb::query(&format!("DESCRIBE SELECT * FROM read_parquet('{glob}', hive_partitioning = false)"));
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let found: Vec<_> =
        described.iter().map(|r| (text(&r["column_name"]), text(&r["column_type"]))).collect();
    let expected: Vec<_> = COLUMNS.iter().collect();
    assert_eq!(found.len(), expected.len(), "{found:?}");
    for ((name, kind), (expected, expected_kind)) in found.iter().zip(expected) {
        assert_eq!(name, expected);
        assert!(kind == expected_kind || (*expected_kind == "JSON" && kind == "VARCHAR"), "{name} is {kind}");
    }
    let sql = format!(
        "SELECT count(*) AS n FROM read_parquet('{glob}') \
         WHERE op = 'insert' AND (after->>'$.customer.address.city') = 'Oslo' AND list_contains(['orders'], coll)"
    );
    assert!(duckdb::query(&sql)[0]["n"].as_i64().unwrap() > 10);
    let sql = format!(
        "SELECT count(*) AS n FROM read_parquet('{glob}') WHERE op = 'update' AND list_contains(changed, 'n')"
    );
    assert!(duckdb::query(&sql)[0]["n"].as_i64().unwrap() > 10);
}

#[tokio::test]
async fn a_segment_lies_in_the_day_of_its_records() {
    let server = Server::shared().await;
    let fixture = filled(&server, SMALL, 100).await;
    let sql = format!(
        "SET TimeZone = 'UTC'; SELECT count(*) AS wrong FROM read_parquet('{}') WHERE strftime(cluster_time, '%Y-%m-%d') <> date::VARCHAR",
        fixture.glob("orders")
    );
    assert_eq!(duckdb::query(&sql)[0]["wrong"], 0);
}

#[tokio::test]
async fn records_within_hot_retention_stay_in_both_tiers() {
    let server = Server::shared().await;
    let keep = "[archive]\nurl = \"{archive}\"\nhot_retention = \"7d\"\n\n";
    let fixture = filled(&server, keep, 100).await;
    let cold = fixture.cold("orders", "seq").len() as u64;
    assert_eq!(fixture.count("orders").await, cold);
    let history =
        fixture.archiver.run(&["history", "--source", "orders", "--id", "0", "--format", "json"]).await;
    let records = history.expect_code(0).json_lines();
    let seqs: Vec<_> = records.iter().map(|r| r["_id"].as_i64().unwrap()).collect();
    assert!(
        !seqs.is_empty() && seqs.windows(2).all(|w| w[0] < w[1]),
        "a record in both tiers is shown once: {seqs:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_segment_is_cut_when_it_is_old_enough() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    let archive = "[archive]\nurl = \"{archive}\"\nsegment_max_age = \"1s\"\n\n";
    fixture.configure(&(archive.to_owned() + &Fixture::source("orders", &["orders"])));
    let running = fixture.start();
    Workload::new(server.client(), fixture.collection("orders"), seed()).run(20).await;
    wait_until("a segment", Duration::from_secs(60), async || {
        fixture.archive_files().iter().any(|f| f.extension().is_some_and(|e| e == "parquet")).then_some(())
    })
    .await;
    running.terminate().await.expect_code(0);
}
