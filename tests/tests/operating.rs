//! What the operator looks at: `check` before the first start, `status` after it.

use std::time::Duration;

use archiver_tests::{Fixture, Server, wait_until};
use bson::doc;
use bson::spec::BinarySubtype;
use serde_json::Value;

fn findings(stdout: &str) -> Vec<Value> {
    serde_json::from_str(stdout).unwrap()
}

fn levels<'a>(findings: &'a [Value], about: &str) -> Vec<&'a str> {
    findings.iter().filter(|f| f["about"] == about).map(|f| f["level"].as_str().unwrap()).collect()
}

async fn status(fixture: &Fixture) -> Value {
    let all: Value = serde_json::from_str(&fixture.ok(&["status", "--format", "json"]).await).unwrap();
    all[0].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_passes_where_everything_is_there_and_says_what_is_not_covered() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    let rules = "{ path = \"card\", action = \"remove\" }";
    let source = Fixture::source("shop", &["with", "without", "later"]).trim_end().to_owned();
    fixture.configure(&(Fixture::redact("redact", rules) + &source + "\nplugins = [\"redact\"]\n"));
    fixture.create_with_images("with").await;
    fixture.db.create_collection("without").await.unwrap();
    let outcome = fixture.archiver.run(&["check", "--format", "json"]).await.expect_code(0);
    let found = findings(&outcome.stdout);
    let about = |name: &str| levels(&found, &format!("{}.{name}", fixture.db.name()));
    assert_eq!(levels(&found, "plugin redact"), ["ok"]);
    assert_eq!(levels(&found, "archive"), ["ok", "info"]);
    assert_eq!(levels(&found, "source shop"), ["ok"]);
    assert_eq!(about("with"), ["ok"], "{found:#?}");
    assert_eq!(about("without"), ["warn"], "{found:#?}");
    assert!(!levels(&found, "not covered").is_empty());
    assert!(!fixture.archive_files().iter().any(|f| f.extension().is_some_and(|e| e == "parquet")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_fails_where_a_view_is_to_be_watched() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&Fixture::source("shop", &["seen"]));
    fixture.db.create_collection("orders").await.unwrap();
    fixture.db.run_command(doc! {"create": "seen", "viewOn": "orders", "pipeline": []}).await.unwrap();
    let outcome = fixture.archiver.run(&["check", "--format", "json"]).await.expect_code(3);
    let found = findings(&outcome.stdout);
    assert_eq!(levels(&found, &format!("{}.seen", fixture.db.name())), ["fail"], "{found:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_goes_on_behind_a_plugin_that_does_not_load_and_fails() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    let plugin = "[[plugin]]\nname = \"p\"\npath = \"gone.wasm\"\nsha256 = \"{0}\"\n\n"
        .replace("{0}", &"0".repeat(64));
    fixture.configure(&(plugin + Fixture::source("shop", &["a"]).trim_end() + "\nplugins = [\"p\"]\n"));
    let outcome = fixture.archiver.run(&["check", "--format", "json"]).await.expect_code(3);
    let found = findings(&outcome.stdout);
    assert_eq!(levels(&found, "plugin p"), ["fail"]);
    assert!(levels(&found, "mongodb").contains(&"ok"), "{found:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_follows_a_source_from_before_its_start_to_after_its_stop() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&Fixture::source("orders", &["orders"]));
    assert_eq!(status(&fixture).await["state"], "neverStarted");
    let running = fixture.start();
    fixture.collection("orders").insert_one(doc! {"_id": 1}).await.unwrap();
    let limit = Duration::from_secs(60);
    let seen = wait_until("the insert is captured", limit, || async {
        let now = status(&fixture).await;
        (now["counters"]["appended"].as_i64() > Some(0)).then_some(now)
    })
    .await;
    assert_eq!(seen["state"], "running");
    assert!(seen["holder"].is_string() && seen["epoch"] == 1, "{seen:#}");
    assert_eq!(seen["rolledSeq"], 0);
    running.terminate().await.expect_code(0);
    fixture.ok(&["roll"]).await;
    let seen = status(&fixture).await;
    assert_eq!(seen["state"], "stopped");
    assert_eq!(seen["seq"], fixture.count("orders").await);
    assert_eq!(seen["rolledSeq"], seen["seq"]);
    assert_eq!(seen["counters"]["read"], seen["counters"]["appended"]);
    assert_eq!(seen["problems"], serde_json::json!([]));
}

/// Moves the server's logical clock ahead by an hour, as a long pause would: whoever tells it a later time is believed.
async fn an_hour_passes(server: &Server) {
    let admin = server.client().database("admin");
    let now = admin.run_command(doc! {"ping": 1}).await.unwrap().get_timestamp("operationTime").unwrap();
    let later = bson::Timestamp { time: now.time + 3_600, increment: 1 };
    let unsigned =
        doc! {"hash": bson::Binary { subtype: BinarySubtype::Generic, bytes: vec![0; 20] }, "keyId": 0_i64};
    let later = bson::deserialize_from_document(doc! {"clusterTime": later, "signature": unsigned}).unwrap();
    let mut session = server.client().start_session().await.unwrap();
    session.advance_cluster_time(&later);
    admin.run_command(doc! {"ping": 1}).session(&mut session).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_the_oplog_is_about_to_overtake_says_so_loudly() {
    let server = Server::own(archiver_tests::replica_set::Settings::default()).await;
    let fixture = Fixture::new(&server);
    fixture.configure(&Fixture::source("orders", &["orders"]));
    let outcome = fixture.run_once().await;
    assert!(!outcome.stderr.contains("oplog"), "a young oplog is no reason to worry: {}", outcome.stderr);
    an_hour_passes(&server).await;
    fixture.collection("orders").insert_one(doc! {"_id": 1}).await.unwrap();
    let seen = status(&fixture).await;
    assert!(seen["oplogHeadroomPercent"].as_i64().unwrap() <= 1, "{seen:#}");
    assert!(seen["oplogHeadroomSeconds"].as_i64().unwrap() < 60, "{seen:#}");
    let outcome = fixture.run_once().await;
    let said = |line: &&str| {
        line.contains("ERROR") && line.contains("headroom_seconds") && line.contains("oplog_seconds=3")
    };
    assert!(outcome.stderr.lines().any(|line| said(&line)), "{}", outcome.stderr);
    let seen = status(&fixture).await;
    assert_eq!(seen["oplogHeadroomPercent"], 100, "it has caught up: {seen:#}");
}
