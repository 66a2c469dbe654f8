//! What change streams do that has no other place among the tests: see docs/traps.md.

use archiver_tests::record::{at, of, text};
use archiver_tests::replica_set::Settings;
use archiver_tests::truth::assert_dense;
use archiver_tests::{Fixture, Server};
use bson::{Bson, Document, doc};

/// Tokens have another form under another feature compatibility version; positions stored under one must hold under the next.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_position_outlives_a_change_of_the_feature_compatibility_version() {
    let server = Server::own(Settings::default()).await;
    let fixture = Fixture::new(&server);
    fixture.configure(&Fixture::source("s", &["a"]));
    let mut inserted = 0;
    for version in ["6.0", "5.0", "6.0"] {
        let admin = server.client().database("admin");
        admin.run_command(doc! {"setFeatureCompatibilityVersion": version}).await.unwrap();
        // One that is recorded, and one that happens while nobody reads.
        for _ in 0..2 {
            fixture.collection("a").insert_one(doc! {"_id": inserted}).await.unwrap();
            inserted += 1;
            if inserted % 2 == 1 {
                fixture.run_once().await;
            }
        }
    }
    let outcome = fixture.run_once().await;
    assert!(outcome.stderr.contains("the deployment has changed") || !outcome.stderr.contains("ERROR"));
    let records = fixture.records("s").await;
    assert_dense(&records);
    assert!(of(&records, &["gap"]).is_empty());
    let seen: Vec<_> =
        of(&records, &["snapshot", "insert"]).iter().map(|r| at(r, "key._id").cloned()).collect();
    assert_eq!(seen, (0..inserted).map(|n| Some(Bson::from(n))).collect::<Vec<_>>());
    let server = fixture.checkpoint("s").await.unwrap();
    assert_eq!(text(&server, "server.feature"), "6.0");
}

/// To another database MongoDB renames by copying and dropping; nothing of the audit database is an event, on either way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collection_that_is_renamed_into_the_audit_database_and_back_feeds_no_loop() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&Fixture::source("s", &["*"]));
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
