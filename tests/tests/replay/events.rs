//! The shape of the events: that of MongoDB's own, so that whoever reads change streams reads these.

use std::collections::BTreeSet;
use std::time::Duration;

use archiver_tests::record::{at, integer, must, text};
use archiver_tests::{Fixture, Server, wait_until};
use bson::{Bson, Document, doc};
use futures_util::StreamExt;
use mongodb::change_stream::event::{ChangeStreamEvent, OperationType};

use super::{COLD, events, replay};

const LIMIT: Duration = Duration::from_secs(120);

/// A little of everything that happens to a collection.
async fn things_happen(server: &Server, fixture: &Fixture) {
    let orders = fixture.create_with_images("orders").await;
    orders.insert_one(doc! {"_id": 1, "n": 1, "long": 5_i64, "list": [1, 2, 3]}).await.unwrap();
    orders
        .update_one(doc! {"_id": 1}, doc! {"$set": {"n": 2}, "$unset": {"long": ""}, "$push": {"list": 4}})
        .await
        .unwrap();
    orders.replace_one(doc! {"_id": 1}, doc! {"n": 3}).await.unwrap();
    let mut session = server.client().start_session().await.unwrap();
    session.start_transaction().await.unwrap();
    orders.insert_one(doc! {"_id": 2}).session(&mut session).await.unwrap();
    orders.delete_one(doc! {"_id": 1}).session(&mut session).await.unwrap();
    session.commit_transaction().await.unwrap();
    let index = mongodb::IndexModel::builder().keys(doc! {"n": 1}).build();
    orders.create_index(index).await.unwrap();
    let namespace = |name: &str| format!("{}.{name}", fixture.db.name());
    let rename = doc! {"renameCollection": namespace("orders"), "to": namespace("old")};
    server.client().database("admin").run_command(rename).await.unwrap();
    fixture.collection("old").drop().await.unwrap();
}

/// The fields that only MongoDB can give: the token, and what the archive leaves out of a session.
fn comparable(mut event: Document) -> Document {
    for field in ["_id", "archiver"] {
        event.remove(field);
    }
    if let Ok(lsid) = event.get_document_mut("lsid") {
        lsid.remove("uid");
    }
    // What has no image has none here, and null there.
    let nulls = ["fullDocument", "fullDocumentBeforeChange"]
        .into_iter()
        .filter(|name| event.get(name) == Some(&Bson::Null));
    nulls.collect::<Vec<_>>().into_iter().for_each(|name| drop(event.remove(name)));
    let mut fields: Vec<_> = event.into_iter().collect();
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    fields.into_iter().collect()
}

#[tokio::test]
async fn events_are_those_that_a_change_stream_delivers() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&(COLD.to_owned() + &Fixture::source("all", &["*"])));
    fixture.run_once().await;
    let mut stream = fixture
        .db
        .watch()
        .full_document(mongodb::options::FullDocumentType::WhenAvailable)
        .full_document_before_change(mongodb::options::FullDocumentBeforeChangeType::WhenAvailable)
        .show_expanded_events(true)
        .await
        .unwrap()
        .with_type::<Document>();
    things_happen(&server, &fixture).await;
    let mut delivered = Vec::new();
    while delivered.last().is_none_or(|e: &Document| text(e, "operationType") != "drop") {
        delivered.push(stream.next().await.unwrap().unwrap());
    }
    fixture.run_once().await;
    let outcome = replay(&fixture, &["--source", "all", "--output", "ndjson"]).await.expect_code(0);
    let all = events(&outcome.stdout);
    let replayed: Vec<_> = all.iter().filter(|e| text(e, "operationType") != "policy").cloned().collect();
    assert_eq!(replayed.len(), delivered.len());
    for (replayed, delivered) in replayed.iter().zip(delivered) {
        assert_eq!(comparable(replayed.clone()), comparable(delivered));
    }

    let names: BTreeSet<&str> = all.iter().map(|e| text(e, "_id._data")).collect();
    assert_eq!(names.len(), all.len(), "each has a name of its own");
    assert_eq!(names.iter().next(), Some(&"all:1"));
    for event in &all {
        assert_eq!(text(event, "_id._data"), format!("all:{}", integer(event, "archiver.seq")));
        let read: ChangeStreamEvent<Document> =
            bson::deserialize_from_slice(&bson::serialize_to_vec(event).unwrap()).unwrap();
        if text(event, "operationType") == "update" {
            assert!(read.operation_type == OperationType::Update && read.update_description.is_some());
        }
    }
}

#[tokio::test]
async fn a_baseline_is_told_as_inserts_that_say_so() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&Fixture::source("orders", &["orders"]));
    let orders = fixture.collection("orders");
    orders.insert_many((0..3).map(|n| doc! {"_id": n, "n": 0})).await.unwrap();
    fixture.run_once().await;
    orders.update_one(doc! {"_id": 0}, doc! {"$set": {"n": 1}}).await.unwrap();
    fixture.run_once().await;
    let outcome = replay(&fixture, &["--source", "orders", "--output", "ndjson"]).await.expect_code(0);
    let all = events(&outcome.stdout);
    let shape: Vec<_> = all.iter().map(|e| (text(e, "operationType"), text(e, "archiver.op"))).collect();
    let read = ("insert", "snapshot");
    assert_eq!(shape, [("policy", "policy"), read, read, read, ("update", "update")]);
    assert_eq!(must(&all[1], "fullDocument"), &Bson::Document(doc! {"_id": 0, "n": 0}));
    assert_eq!(at(&all[4], "fullDocument"), None, "it kept no images");
    assert_eq!(text(&all[4], "archiver.images.after"), "disabled");
}

/// By seq, by time, and by namespace.
#[tokio::test]
async fn a_range_is_half_open_and_each_event_of_it_comes_once() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&(COLD.to_owned() + &Fixture::source("orders", &["orders", "items"])));
    fixture.db.create_collection("orders").await.unwrap();
    fixture.run_once().await;
    for n in 0..40 {
        fixture.collection("orders").insert_one(doc! {"_id": n}).await.unwrap();
        fixture.collection("items").insert_one(doc! {"_id": n}).await.unwrap();
    }
    fixture.run_once().await;
    let seqs = async |arguments: &[&str]| -> Vec<i64> {
        let mut all = vec!["--source", "orders", "--output", "ndjson"];
        all.extend(arguments);
        let outcome = replay(&fixture, &all).await.expect_code(0);
        events(&outcome.stdout).iter().map(|e| integer(e, "archiver.seq")).collect()
    };
    let all = seqs(&[]).await;
    assert_eq!(all, (1..=all.len() as i64).collect::<Vec<_>>());
    assert_eq!(seqs(&["--from", "10", "--to", "20"]).await, (10..20).collect::<Vec<_>>());
    let halves = [seqs(&["--to", "33"]).await, seqs(&["--from", "33"]).await].concat();
    assert_eq!(halves, all);
    let wall = all_times(&fixture).await;
    let middle = wall[wall.len() / 2].clone();
    let halves = [seqs(&["--to", &middle]).await, seqs(&["--from", &middle]).await].concat();
    assert_eq!(halves, all, "cut at {middle}");
    let namespace = format!("{}.items", fixture.db.name());
    let items = seqs(&["--namespace", &namespace]).await;
    assert!(items.len() > 40 && items.len() < all.len(), "{items:?}");
    assert!(seqs(&["--from", "2100-01-01T00:00:00Z"]).await.is_empty());
}

/// Records are rolled and trimmed between the two places in which their beginning is looked for.
#[tokio::test]
async fn a_range_from_a_time_misses_nothing_that_is_rolled_while_its_beginning_is_looked_for() {
    let server = Server::shared().await;
    for pause in [2_000, 10_000, 60_000] {
        let fixture = Fixture::new(&server);
        let source = Fixture::source("orders", &["orders"]);
        fixture.configure(&format!("record_access = true\n\n{COLD}{source}"));
        fixture.db.create_collection("orders").await.unwrap();
        let capturing = fixture.start();
        wait_until("capture begins", LIMIT, async || fixture.checkpoint("orders").await).await;
        fixture.collection("orders").insert_many((0..20).map(|n| doc! {"_id": n})).await.unwrap();
        wait_until("all is captured", LIMIT, async || (fixture.count("orders").await >= 21).then_some(()))
            .await;
        capturing.terminate().await.expect_code(0);
        let from = all_times(&fixture).await[1].clone();
        let mut archiver = fixture.archiver.clone();
        archiver.env("ARCHIVER_FAIL_POINTS", &format!("replay:sealed=sleep({pause})@1"));
        let mut running =
            archiver.start(&["replay", "--source", "orders", "--output", "ndjson", "--from", &from]);
        // It notes its reading just before.
        let notices = fixture.audit.collection::<Document>("archiver.notices");
        wait_until("the replay has begun", LIMIT, async || {
            (notices.count_documents(doc! {}).await.unwrap() == 2).then_some(())
        })
        .await;
        fixture.run_once().await;
        assert_eq!(fixture.count("orders").await, 0, "all are rolled and trimmed");
        let was_in_time = running.is_alive();
        let outcome = running.finish(LIMIT).await.expect_code(0);
        let events = events(&outcome.stdout);
        let ids: BTreeSet<_> = events.iter().filter_map(|e| at(e, "documentKey._id")?.as_i32()).collect();
        assert_eq!(ids, (0..20).collect(), "{}", outcome.stderr);
        if was_in_time {
            return;
        }
    }
    panic!("rolling takes longer than a minute");
}

async fn all_times(fixture: &Fixture) -> Vec<String> {
    let outcome = replay(fixture, &["--source", "orders", "--output", "ndjson"]).await.expect_code(0);
    let time = |e: &Document| match must(e, "clusterTime") {
        Bson::Timestamp(time) => {
            bson::DateTime::from_millis(i64::from(time.time) * 1000).try_to_rfc3339_string().unwrap()
        }
        other => panic!("{other}"),
    };
    events(&outcome.stdout).iter().map(time).collect()
}

/// Two sources and three partitions: in the order in which it happened.
#[tokio::test]
async fn several_sources_come_in_one_order() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    let (a, b) = (Fixture::source("a", &["orders"]), Fixture::source("b", &["items"]));
    fixture.configure(&format!("{COLD}{}\npartitions = 3\n\n{b}", a.trim_end()));
    fixture.run_once().await;
    for n in 0..30 {
        let name = ["orders", "items"][n % 2];
        fixture.collection(name).insert_one(doc! {"_id": n as i32}).await.unwrap();
    }
    fixture.run_once().await;
    let arguments = ["--source", "b", "--source", "a", "--output", "ndjson"];
    let outcome = replay(&fixture, &arguments).await.expect_code(0);
    let inserts: Vec<Document> =
        events(&outcome.stdout).into_iter().filter(|e| text(e, "operationType") == "insert").collect();
    let ids: Vec<i64> = inserts.iter().map(|e| integer(e, "documentKey._id")).collect();
    assert_eq!(ids, (0..30).collect::<Vec<_>>());
    let names: BTreeSet<&str> =
        inserts.iter().map(|e| text(e, "_id._data").split(':').next().unwrap()).collect();
    assert!(names.contains("b") && names.contains("a/0"), "{names:?}");
}
