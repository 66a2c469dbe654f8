//! Capture: snapshot, then stream, nothing in between lost, one change one record, and never its own writes.

use std::time::Duration;

use archiver_tests::record::{at, integer, must, of, only, text};
use archiver_tests::replica_set::Settings;
use archiver_tests::truth::{assert_complete, assert_dense};
use archiver_tests::workload::{Workload, seed};
use archiver_tests::{Fixture, Server, oplog, wait_until};
use bson::{Bson, Document, doc};

const SOON: Duration = Duration::from_secs(30);

/// Waits until the source's log holds a record with this value in the `after` (or delta) field `mark`.
async fn wait_for_mark(fixture: &Fixture, source: &str, mark: i32) {
    let log = fixture.audit.collection::<Document>(source);
    wait_until(format!("mark {mark} in {source}"), SOON, async || {
        log.find_one(doc! {"delta.updatedFields.mark": mark}).await.unwrap()
    })
    .await;
}

/// A change that arrives after everything that was done before it.
async fn mark(fixture: &Fixture, collection: &str, mark: i32) {
    let update = doc! {"$set": {"mark": mark}};
    fixture.collection(collection).update_one(doc! {"_id": "mark"}, update).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_between_snapshot_and_stream_while_a_writer_runs() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&Fixture::source("orders", &["orders"]));
    let mut workload = Workload::new(server.client(), fixture.collection("orders"), seed());
    workload.run(300).await;
    let archiver = fixture.start();
    workload.run(1_000).await;
    archiver.terminate().await.expect_code(0);
    workload.run(100).await;
    fixture.run_once().await;

    let records = fixture.records("orders").await;
    assert_dense(&records);
    let changes = oplog::changes(server.client(), fixture.db.name()).await;
    assert_complete(&changes, &workload.states, &records);
    assert!(!of(&records, &["snapshot"]).is_empty());
    assert_eq!(text(&records[0], "op"), "policy");
}

#[tokio::test]
async fn a_snapshot_of_an_idle_collection_has_every_document_once() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&Fixture::source("customers", &["customers"]));
    let documents = (0..2_500).map(|n| doc! {"_id": n, "n": n});
    fixture.collection("customers").insert_many(documents).await.unwrap();
    fixture.run_once().await;
    let records = fixture.records("customers").await;
    let snapshot = of(&records, &["snapshot"]);
    let mut ids: Vec<_> = snapshot.iter().map(|r| integer(r, "after.n")).collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..2_500).collect::<Vec<_>>());
    fixture.run_once().await;
    assert_eq!(
        fixture.count("customers").await,
        records.len() as u64,
        "a second start reads no second baseline"
    );
}

#[tokio::test]
async fn snapshot_never_starts_with_the_changes() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    let source = "[[source]]\nname = \"orders\"\nwatch = [\"{db}.orders\"]\nsnapshot = \"never\"\n";
    fixture.configure(source);
    fixture.collection("orders").insert_one(doc! {"_id": 1}).await.unwrap();
    fixture.run_once().await;
    fixture.collection("orders").insert_one(doc! {"_id": 2}).await.unwrap();
    fixture.run_once().await;
    let records = fixture.records("orders").await;
    assert!(of(&records, &["snapshot"]).is_empty());
    assert_eq!(oplog::recorded(&records).last().unwrap().id, Bson::Int32(2));
}

#[tokio::test]
async fn one_change_makes_exactly_one_record_and_the_log_does_not_grow_by_itself() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&Fixture::source("orders", &["*"]));
    fixture.collection("orders").insert_one(doc! {"_id": "mark"}).await.unwrap();
    let archiver = fixture.start();
    mark(&fixture, "orders", 0).await;
    wait_until("the first record", SOON, async || (fixture.count("orders").await > 0).then_some(())).await;
    mark(&fixture, "orders", 1).await;
    wait_for_mark(&fixture, "orders", 1).await;
    let before = fixture.count("orders").await;
    for n in 2..12 {
        mark(&fixture, "orders", n).await;
        wait_for_mark(&fixture, "orders", n).await;
    }
    assert_eq!(fixture.count("orders").await, before + 10);
    archiver.terminate().await.expect_code(0);
    assert_dense(&fixture.records("orders").await);
}

#[tokio::test]
async fn two_sources_keep_to_their_own_namespaces() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    let sources =
        Fixture::source("payments", &["payments", "refunds"]) + &Fixture::source("orders", &["orders"]);
    fixture.configure(&sources);
    fixture.run_once().await;
    for collection in ["payments", "refunds", "orders", "sessions"] {
        for n in 0..10 {
            fixture.collection(collection).insert_one(doc! {"_id": n}).await.unwrap();
        }
    }
    fixture.run_once().await;
    let namespaces = |records: &[Document]| {
        let mut names: Vec<_> = oplog::recorded(records).into_iter().map(|c| c.namespace).collect();
        names.sort();
        names.dedup();
        names
    };
    let db = fixture.db.name();
    let payments = fixture.records("payments").await;
    assert_eq!(oplog::recorded(&payments).len(), 20);
    assert_eq!(namespaces(&payments), [format!("{db}.payments"), format!("{db}.refunds")]);
    let orders = fixture.records("orders").await;
    assert_eq!(oplog::recorded(&orders).len(), 10);
    assert_eq!(namespaces(&orders), [format!("{db}.orders")]);
}

#[tokio::test]
async fn a_whole_database_includes_collections_that_come_later_and_what_happens_to_them() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&Fixture::source("shop", &["*"]));
    fixture.collection("early").insert_one(doc! {"_id": 1}).await.unwrap();
    fixture.run_once().await;
    let late = fixture.create_with_images("late").await;
    late.insert_one(doc! {"_id": 2, "email": "x"}).await.unwrap();
    late.create_index(mongodb::IndexModel::builder().keys(doc! {"email": 1}).build()).await.unwrap();
    let to = format!("{}.later", fixture.db.name());
    let from = format!("{}.late", fixture.db.name());
    server.client().database("admin").run_command(doc! {"renameCollection": from, "to": to}).await.unwrap();
    fixture.collection("later").drop().await.unwrap();
    fixture.collection("early").insert_one(doc! {"_id": 3}).await.unwrap();
    fixture.run_once().await;
    let records = fixture.records("shop").await;
    for op in ["create", "insert", "createIndexes", "rename", "drop"] {
        assert!(!of(&records, &[op]).is_empty(), "no record of {op}");
    }
    assert_eq!(
        oplog::recorded(&records).last().unwrap().id,
        Bson::Int32(3),
        "the stream goes on after a drop"
    );
    assert_dense(&records);
}

#[tokio::test]
async fn two_archivers_that_watch_everything_do_not_feed_each_other() {
    let server = Server::own(Settings::default()).await;
    let first = Fixture::new(&server);
    let second = first.second(&server);
    let everything = "[[source]]\nname = \"all\"\nwatch = [\"*\"]\n";
    first.configure(everything);
    second.configure(everything);
    first.collection("orders").insert_one(doc! {"_id": "mark"}).await.unwrap();
    // Both audit databases exist, so both archivers know them from the start.
    first.run_once().await;
    second.run_once().await;
    let running = [first.start(), second.start()];
    mark(&first, "orders", 1).await;
    wait_for_mark(&first, "all", 1).await;
    wait_for_mark(&second, "all", 1).await;
    let before = [first.count("all").await, second.count("all").await];
    for n in 2..12 {
        mark(&first, "orders", n).await;
        wait_for_mark(&first, "all", n).await;
        wait_for_mark(&second, "all", n).await;
    }
    assert_eq!([first.count("all").await, second.count("all").await], before.map(|n| n + 10));
    for process in running {
        process.terminate().await.expect_code(0);
    }
    for fixture in [&first, &second] {
        let records = fixture.records("all").await;
        let watched =
            |r: &Document| at(r, "ns.db").and_then(Bson::as_str).is_some_and(|db| db.starts_with("audit"));
        assert!(!records.iter().any(watched), "an audit database was watched");
    }
}

#[tokio::test]
async fn a_transaction_keeps_its_order_and_its_name() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&Fixture::source("orders", &["orders"]));
    fixture.db.create_collection("orders").await.unwrap();
    fixture.run_once().await;
    let mut session = server.client().start_session().await.unwrap();
    session.start_transaction().await.unwrap();
    for n in 0..5 {
        fixture.collection("orders").insert_one(doc! {"_id": n}).session(&mut session).await.unwrap();
    }
    session.commit_transaction().await.unwrap();
    fixture.run_once().await;
    let records = fixture.records("orders").await;
    let inserts = of(&records, &["insert"]);
    let ids: Vec<_> = inserts.iter().map(|r| must(r, "key._id").clone()).collect();
    assert_eq!(ids, (0..5).map(Bson::Int32).collect::<Vec<_>>());
    let first = must(inserts[0], "txn");
    must(inserts[0], "txn.lsid");
    must(inserts[0], "txn.number");
    assert!(inserts.iter().all(|r| must(r, "txn") == first));
}

#[tokio::test]
async fn images_and_the_actor_are_kept_and_a_missing_image_says_why() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    let actor = "actor_field = \"meta.by\"\n";
    fixture.configure(&(Fixture::source("shop", &["with", "without"]).trim_end().to_owned() + "\n" + actor));
    fixture.create_with_images("with").await;
    fixture.db.create_collection("without").await.unwrap();
    fixture.run_once().await;
    for name in ["with", "without"] {
        let collection = fixture.collection(name);
        collection.insert_one(doc! {"_id": name, "meta": {"by": "ada"}, "n": 1}).await.unwrap();
        collection.update_one(doc! {"_id": name}, doc! {"$set": {"n": 2, "meta.by": "bob"}}).await.unwrap();
        collection.delete_one(doc! {"_id": name}).await.unwrap();
    }
    fixture.run_once().await;
    let records = fixture.records("shop").await;
    let with = only(&records, "update", "with");
    assert_eq!(integer(with, "before.n"), 1);
    assert_eq!(integer(with, "after.n"), 2);
    assert_eq!(integer(with, "delta.updatedFields.n"), 2);
    assert_eq!(must(with, "actor").as_document().unwrap(), &doc! {"id": "bob", "from": "delta"});
    assert_eq!(integer(only(&records, "delete", "with"), "before.n"), 2);
    let without = only(&records, "update", "without");
    assert_eq!(at(without, "after"), None, "updateLookup must never be stored");
    assert_eq!(text(without, "images.before"), "disabled");
    assert_eq!(text(only(&records, "insert", "without"), "actor.id"), "ada");
}
