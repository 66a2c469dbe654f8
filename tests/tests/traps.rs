//! What change streams do that has no other place among the tests: see docs/traps.md.

use archiver_tests::record::{at, integer, of};
use archiver_tests::replica_set::Settings;
use archiver_tests::truth::assert_dense;
use archiver_tests::{Fixture, Server};
use bson::{Bson, Document, doc};

const UNAVAILABLE: i32 = 11;

/// Tokens have another form under another feature compatibility version. Under one that is too old streams can't be opened as
/// they must be; what happens meanwhile is captured when the upgrade is finished.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_position_outlives_a_change_of_the_feature_compatibility_version() {
    let server = Server::own(Settings::default()).await;
    let fixture = Fixture::new(&server);
    fixture.configure(&Fixture::source("s", &["a"]));
    let insert = async |n: i32| fixture.collection("a").insert_one(doc! {"_id": n}).await.unwrap();
    let set = async |version: &str| {
        let set = doc! {"setFeatureCompatibilityVersion": version};
        server.client().database("admin").run_command(set).await.unwrap();
    };
    insert(0).await;
    fixture.run_once().await;
    insert(1).await;
    fixture.run_once().await;
    insert(2).await;
    set("5.0").await;
    insert(3).await;
    let refused = fixture.archiver.run(&["run", "--once"]).await.expect_code(UNAVAILABLE);
    refused.expect_message(&["feature compatibility version is too old version=5.0", "finish the upgrade"]);
    set("6.0").await;
    insert(4).await;
    fixture.run_once().await;
    let records = fixture.records("s").await;
    assert_dense(&records);
    assert!(of(&records, &["gap"]).is_empty());
    let seen = of(&records, &["snapshot", "insert"]);
    let seen: Vec<_> = seen.iter().map(|r| integer(r, "key._id")).collect();
    assert_eq!(seen, [0, 1, 2, 3, 4]);
}

/// To another database MongoDB renames by copying and dropping; nothing of the audit database is an event, on either way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collection_that_is_renamed_into_the_audit_database_and_back_feeds_no_loop() {
    let server = Server::own(Settings::default()).await;
    let fixture = Fixture::new(&server);
    fixture.configure("[[source]]\nname = \"s\"\nwatch = [\"*\"]\n");
    let documents = [doc! {"_id": 1, "n": 1}, doc! {"_id": 2, "n": 2}];
    fixture.collection("a").insert_many(&documents).await.unwrap();
    fixture.run_once().await;
    let rename = async |from: String, to: String| {
        let command = doc! {"renameCollection": from, "to": to};
        server.client().database("admin").run_command(command).await.unwrap();
    };
    let (db, audit) = (fixture.db.name(), fixture.audit.name());
    rename(format!("{db}.a"), format!("{audit}.taken")).await;
    fixture
        .audit
        .collection::<Document>("taken")
        .insert_one(doc! {"_id": "of the audit database"})
        .await
        .unwrap();
    fixture.run_once().await;
    let since = ["recover", "--source", "s", "--deleted-since", "2020-01-01T00:00:00Z"];
    assert_eq!(fixture.ok(&since).await.lines().count(), 2, "to the history they have ended");
    rename(format!("{audit}.taken"), format!("{db}.back")).await;
    fixture.run_once().await;
    let count = fixture.count("s").await;
    fixture.run_once().await;
    assert_eq!(fixture.count("s").await, count, "it has come to rest");
    let records = fixture.records("s").await;
    assert_dense(&records);
    assert!(records.iter().all(|r| at(r, "ns.db").is_none_or(|name| name == &Bson::from(db))));
    for (id, n) in [("1", 1), ("2", 2)] {
        let name = format!("{db}.back");
        let arguments =
            ["recover", "--source", "s", "--namespace", &name, "--id", id, "--at", "2100-01-01T00:00:00Z"];
        let back = fixture.archiver.run_for_bytes(&[&arguments[..], &["--format", "bson"]].concat()).await;
        let id: i32 = id.parse().unwrap();
        assert_eq!(bson::deserialize_from_slice::<Document>(&back).unwrap(), doc! {"_id": id, "n": n});
    }
}
