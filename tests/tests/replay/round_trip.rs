//! What was replayed into collections is what the source was: at the end, in the middle, and while it is written.

use archiver_tests::application::{RESTLESS, STEADY, Writer, prepare};
use archiver_tests::mixed::{Mixed, ids};
use archiver_tests::record::{at, integer, of, only, text, time};
use archiver_tests::workload::{Workload, seed};
use archiver_tests::{Fixture, Server, oplog, wait_until};
use bson::{Bson, Document, RawDocumentBuf, Timestamp, doc};
use bson_walker::Doc;
use futures_util::{StreamExt, TryStreamExt};
use mongodb::Collection;

use super::{COLD, LIMIT, digests, output, replay, target};

/// Random changes of every shape, before and behind a baseline, replayed into an empty collection.
async fn comes_back(sections: &str, images: bool, partitions: u32) {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    let source = Fixture::source("orders", &["orders"]);
    fixture.configure(&format!("{sections}{}\npartitions = {partitions}\n", source.trim_end()));
    if images {
        fixture.create_with_images("orders").await;
    }
    let seed = seed();
    let mut workload = Workload::new(server.client(), fixture.collection("orders"), seed);
    workload.run(60).await;
    fixture.run_once().await;
    workload.run(250).await;
    fixture.run_once().await;
    let (again, _) = target(&server, &fixture);
    let output = output(fixture.uri(), &format!("{}.orders", again.name()));
    replay(&fixture, &["--source", "orders", "--output", &output]).await.expect_code(0);
    let source = digests(&fixture.db, &["orders"]).await;
    assert_eq!(source.len(), 1);
    assert_eq!(digests(&again, &["orders"]).await, source);
}

#[tokio::test]
async fn from_the_log_with_images() {
    comes_back("", true, 1).await;
}

#[tokio::test]
async fn from_the_log_by_deltas() {
    comes_back("", false, 1).await;
}

#[tokio::test]
async fn from_segments_by_deltas() {
    comes_back(COLD, false, 1).await;
}

#[tokio::test]
async fn from_three_partitions_by_deltas() {
    comes_back(COLD, false, 3).await;
}

/// Documents and `_id`s of every type that MongoDB has, and such as it takes from a pipeline only.
#[tokio::test]
async fn with_values_of_every_type() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&Fixture::source("orders", &["orders"]));
    let orders = fixture.create_with_images("orders").await;
    fixture.run_once().await;
    let mut mixed = Mixed::new(orders.clone(), ids(5), seed()).await;
    for _ in 0..200 {
        mixed.step().await;
    }
    let empty = Bson::Timestamp(Timestamp { time: 0, increment: 0 });
    let odd = doc! {"$replaceWith": {"$literal": {"_id": "odd", "t": &empty, "$x": 1, "a.b": {"$y": &empty, "c.d": 2}}}};
    orders.insert_one(doc! {"_id": "odd"}).await.unwrap();
    orders.update_one(doc! {"_id": "odd"}, vec![odd]).await.unwrap();
    let plain =
        doc! {"$replaceWith": {"$literal": {"_id": "nested", "a": {"$y": 1, "c.d": [{"$z": 2}]}, "e.f": 3}}};
    orders.insert_one(doc! {"_id": "nested"}).await.unwrap();
    orders.update_one(doc! {"_id": "nested"}, vec![plain]).await.unwrap();
    // One document for MongoDB, in its three lives.
    for id in [Bson::Int32(77_777), Bson::Int64(77_777), Bson::Double(77_777.0)] {
        orders.delete_one(doc! {"_id": 77_777}).await.unwrap();
        orders.insert_one(doc! {"_id": id, "n": 1}).await.unwrap();
    }
    fixture.run_once().await;
    let (again, output) = target(&server, &fixture);
    replay(&fixture, &["--source", "orders", "--output", &output]).await.expect_code(0);
    assert_eq!(digests(&again, &["orders"]).await, digests(&fixture.db, &["orders"]).await);
    let odd =
        again.collection::<RawDocumentBuf>("orders").find_one(doc! {"_id": "odd"}).await.unwrap().unwrap();
    assert_eq!(odd.get_timestamp("t").unwrap(), Timestamp { time: 0, increment: 0 });
}

/// What earlier versions recorded after an update by a pipeline: MongoDB tells of a field that was moved twice.
#[tokio::test]
async fn records_of_what_mongodb_told_give_what_it_has_stored() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&Fixture::source("orders", &["orders"]));
    let orders = fixture.create_with_images("orders").await;
    let images = mongodb::options::FullDocumentType::WhenAvailable;
    let mut stream = orders.watch().full_document(images).await.unwrap().with_type::<RawDocumentBuf>();
    fixture.run_once().await;
    let long = "x".repeat(200);
    orders.insert_one(doc! {"_id": 1, "a": 1, "b": 2, "long": &long}).await.unwrap();
    let moved = vec![doc! {"$replaceWith": {"_id": 1, "b": "$b", "long": "$long", "a": 5}}];
    orders.update_one(doc! {"_id": 1}, moved).await.unwrap();
    // Nothing is rolled of it: what is in the log is what is read.
    let capture = fixture.start();
    wait_until("the update", LIMIT, async || (fixture.count("orders").await == 3).then_some(())).await;
    capture.terminate().await.expect_code(0);
    stream.next().await.unwrap().unwrap();
    let event = stream.next().await.unwrap().unwrap();
    let told = event.get_document("fullDocument").unwrap();
    assert_eq!(told.iter().filter(|field| field.as_ref().unwrap().0 == "a").count(), 2, "{told:?}");
    let records = fixture.raw_records("orders").await;
    let record = records.iter().find(|record| record.get_str("op").unwrap() == "update").unwrap();
    let early = bson_walker::Writer::build(|writer| {
        for element in Doc::new(record.as_bytes()).unwrap().elements().map(Result::unwrap) {
            match element.name() {
                b"after" => writer.doc("after", told.as_bytes()),
                _ => writer.append(&element),
            }
        }
    });
    let early = RawDocumentBuf::from_bytes(early).unwrap();
    assert!(early != *record, "this version records what is stored");
    let log = fixture.audit.collection::<RawDocumentBuf>("orders");
    let seq = doc! {"_id": record.get_i64("_id").unwrap()};
    log.delete_one(seq.clone()).await.unwrap();
    log.insert_one(early).await.unwrap();
    let kept = log.find_one(seq).await.unwrap().unwrap();
    assert_eq!(kept.get_document("after").unwrap(), told);
    assert_eq!(fixture.cold("orders", "seq").len(), 1);

    let printed = replay(&fixture, &["--source", "orders", "--output", "ndjson"]).await.expect_code(0).stdout;
    let update = printed.lines().find(|line| line.contains(r#""operationType":"update""#)).unwrap();
    let whole = r#""fullDocument":{"_id":{"$numberInt":"1"},"b":{"$numberInt":"2"},"long":"#;
    assert!(update.contains(whole), "{update}");
    let (again, output) = target(&server, &fixture);
    replay(&fixture, &["--source", "orders", "--output", &output]).await.expect_code(0);
    assert_eq!(digests(&again, &["orders"]).await, digests(&fixture.db, &["orders"]).await);
}

/// Collections that are dropped, renamed into each other and made again, transactions, partitions.
async fn database_comes_back(atomic: bool) {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    let source = Fixture::source("all", &["*"]);
    fixture.configure(&format!(
        "{COLD}[capture]\nbatch_max_events = 20\n\n{}\npartitions = 3\n",
        source.trim_end()
    ));
    prepare(&fixture.db).await;
    let mut writer = Writer::new(server.client(), &fixture.db, seed());
    for round in 0..4 {
        for _ in 0..150 {
            writer.step().await;
        }
        if round < 3 {
            fixture.run_once().await;
        }
    }
    fixture.run_once().await;
    println!("{:?}", writer.tally);
    let (again, output) = target(&server, &fixture);
    let mut arguments = vec!["--source", "all", "--output", &output];
    arguments.extend(atomic.then_some("--atomic"));
    replay(&fixture, &arguments).await.expect_code(0);
    let all: Vec<&str> = STEADY.into_iter().chain(RESTLESS).collect();
    let mut source = digests(&fixture.db, &all).await;
    let mut found = digests(&again, &all).await;
    let mut empty = Vec::new();
    for name in all {
        if fixture.collection(name).find_one(doc! {}).await.unwrap().is_none() {
            empty.push(name);
        }
    }
    // A collection without documents leaves no trace where it was made before anything was captured.
    empty.iter().for_each(|name| drop((source.remove(*name), found.remove(*name))));
    assert!(!source.is_empty());
    assert_eq!(found, source);
}

#[tokio::test]
async fn a_database_with_its_drops_renames_and_transactions() {
    database_comes_back(false).await;
}

#[tokio::test]
async fn a_database_with_transactions_that_stay_together() {
    database_comes_back(true).await;
}

/// The truth is what the test read back after each of its changes.
#[tokio::test]
async fn at_any_moment_in_the_middle() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&(COLD.to_owned() + &Fixture::source("orders", &["orders"])));
    fixture.db.create_collection("orders").await.unwrap();
    fixture.run_once().await;
    let mut workload = Workload::new(server.client(), fixture.collection("orders"), seed());
    workload.run(200).await;
    fixture.run_once().await;
    let changes = oplog::changes(server.client(), fixture.db.name()).await;
    let text = fixture
        .archiver
        .run(&["replay", "--source", "orders", "--output", "ndjson"])
        .await
        .expect_code(0)
        .stdout;
    let events = super::events(&text);
    let events: Vec<_> = events.iter().filter(|e| e.contains_key("documentKey")).collect();
    assert_eq!(events.len(), changes.len());
    for (round, count) in [1, 60, 111, 199].into_iter().enumerate() {
        let seq = events[count].get_document("archiver").unwrap().get_i64("seq").unwrap().to_string();
        let (again, _) = target(&server, &fixture);
        let name = format!("at_{round}");
        let output = output(fixture.uri(), &format!("{}.{name}", again.name()));
        replay(&fixture, &["--source", "orders", "--to", &seq, "--output", &output]).await.expect_code(0);
        let mut expected: Vec<RawDocumentBuf> = Vec::new();
        for (id, states) in &workload.states {
            let so_far = changes[..count].iter().filter(|c| c.id == Bson::Int32(*id)).count();
            expected.extend(so_far.checked_sub(1).and_then(|n| states[n].clone()));
        }
        let found =
            again.collection::<RawDocumentBuf>(&name).find(doc! {}).sort(doc! {"_id": 1}).await.unwrap();
        let found: Vec<RawDocumentBuf> = found.try_collect().await.unwrap();
        assert!(found == expected, "after {count} changes");
    }
}

/// What a stream delivers from before the documents were read is in them already, and ends none of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_that_were_read_ahead_of_what_happened_to_their_collections() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    let source = Fixture::source("all", &["*"]);
    // In small steps, so that the stream and the reading go on side by side.
    fixture.configure(&format!("[capture]\nbatch_max_events = 3\n\n{}\npartitions = 2\n", source.trim_end()));
    for name in ["orders", "items"] {
        let many = (100..250).map(|id| doc! {"_id": id, "early": true});
        fixture.collection(name).insert_many(many).await.unwrap();
    }
    let mut archiver = fixture.archiver.clone();
    archiver.env("ARCHIVER_FAIL_POINTS", "checkpoint:created=sleep(2000); checkpoint:created=sleep(2000)@2");
    let capture = archiver.start(&["run", "--once"]);
    wait_until("the streams' beginning", LIMIT, async || {
        let partitions = doc! {"_id": {"$in": ["all/0", "all/1"]}};
        let checkpoints = fixture.audit.collection::<Document>("archiver.checkpoints");
        (checkpoints.count_documents(partitions).await.unwrap() == 2).then_some(())
    })
    .await;
    let (orders, items) = (fixture.collection("orders"), fixture.collection("items"));
    for id in 1..20 {
        orders.insert_one(doc! {"_id": id, "list": []}).await.unwrap();
        orders.update_one(doc! {"_id": id}, doc! {"$push": {"list": 1}}).await.unwrap();
        orders.update_one(doc! {"_id": 100 + id}, doc! {"$set": {"changed": id}}).await.unwrap();
        orders.delete_one(doc! {"_id": 200 + id}).await.unwrap();
        items.insert_one(doc! {"_id": id}).await.unwrap();
    }
    items.drop().await.unwrap();
    let namespace = |name: &str| format!("{}.{name}", fixture.db.name());
    let rename = doc! {"renameCollection": namespace("orders"), "to": namespace("old")};
    server.client().database("admin").run_command(rename).await.unwrap();
    for id in 10..30 {
        orders.insert_one(doc! {"_id": id, "again": true}).await.unwrap();
        items.insert_one(doc! {"_id": id, "again": true}).await.unwrap();
    }
    capture.finish(LIMIT).await.expect_code(0);
    items.insert_one(doc! {"_id": "behind"}).await.unwrap();
    fixture.run_once().await;
    let printed = replay(&fixture, &["--source", "all", "--output", "ndjson"]).await.expect_code(0).stdout;
    let known = super::events(&printed).iter().filter(|e| at(e, "archiver.inBaseline").is_some()).count();
    // How the two meet is chance; it is right either way.
    println!("{known} events are in the baseline already");
    let (again, output) = target(&server, &fixture);
    replay(&fixture, &["--source", "all", "--output", &output]).await.expect_code(0);
    let all = ["orders", "items", "old"];
    assert_eq!(digests(&again, &all).await, digests(&fixture.db, &all).await);
}

/// Inserts documents in one transaction.
async fn insert_together(server: &Server, collection: &Collection<Document>, ids: &[i32]) {
    let mut session = server.client().start_session().await.unwrap();
    session.start_transaction().await.unwrap();
    for id in ids {
        collection.insert_one(doc! {"_id": id}).session(&mut session).await.unwrap();
    }
    session.commit_transaction().await.unwrap();
}

/// A range ends anywhere: with a transaction, amid one, or where a record of the archiver itself lies in between.
#[tokio::test]
async fn transactions_that_end_in_a_range_are_made_and_one_that_it_cuts_is_left_out() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&Fixture::source("orders", &["orders"]));
    let orders = fixture.collection("orders");
    fixture.db.create_collection("orders").await.unwrap();
    fixture.run_once().await;
    insert_together(&server, &orders, &[1, 2, 3]).await;
    let begun = std::time::Instant::now();
    wait_until("another second", LIMIT, async || (begun.elapsed().as_millis() > 1_100).then_some(())).await;
    orders.insert_one(doc! {"_id": 4}).await.unwrap();
    // Nothing is rolled of it, so that records can be changed.
    let capture = fixture.start();
    wait_until("the changes", LIMIT, async || (fixture.count("orders").await == 5).then_some(())).await;
    capture.terminate().await.expect_code(0);
    let records = fixture.records("orders").await;
    let seq = |id: i32| integer(only(&records, "insert", id), "_id");
    let second = i64::from(time(only(&records, "insert", 1)).time);
    let rfc3339 = |second: i64| bson::DateTime::from_millis(second * 1_000).try_to_rfc3339_string().unwrap();
    let (again, _) = target(&server, &fixture);
    let replayed = async |name: &str, to: &[&str]| {
        let output = output(fixture.uri(), &format!("{}.{name}", again.name()));
        let arguments = [&["--source", "orders", "--atomic", "--output", &output][..], to].concat();
        let outcome = replay(&fixture, &arguments).await.expect_code(0);
        let found: Vec<Document> = again
            .collection(name)
            .find(doc! {})
            .sort(doc! {"_id": 1})
            .await
            .unwrap()
            .try_collect()
            .await
            .unwrap();
        let ids: Vec<i32> = found.iter().map(|document| document.get_i32("_id").unwrap()).collect();
        let left_out = outcome.stderr.split_once("left out changes=").map(|(_, rest)| rest[..1].to_owned());
        (ids, left_out)
    };
    let made = |ids: std::ops::RangeInclusive<i32>| (ids.collect::<Vec<_>>(), None);
    let cut = |changes: &str| (Vec::new(), Some(changes.to_owned()));
    for (n, (to, expected)) in [
        ((seq(4) + 1).to_string(), made(1..=4)),
        (seq(4).to_string(), made(1..=3)),
        (seq(3).to_string(), cut("2")),
        (seq(2).to_string(), cut("1")),
        (seq(1).to_string(), (Vec::new(), None)),
        (rfc3339(second + 1), made(1..=3)),
        (rfc3339(second), (Vec::new(), None)),
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(replayed(&format!("to_{n}"), &["--to", &to]).await, expected, "--to {to}");
    }
    let log = fixture.audit.collection::<Document>("orders");
    let access = doc! {"$set": {"op": "access"}, "$unset": {"ns": 1, "key": 1, "after": 1, "txn": 1}};
    log.update_one(doc! {"_id": seq(2)}, access).await.unwrap();
    assert_eq!(replayed("amid", &["--to", &seq(2).to_string()]).await, cut("1"));
    assert_eq!(replayed("behind", &["--to", &seq(4).to_string()]).await, (vec![1, 3], None));
    // The last thing that is known to have happened.
    insert_together(&server, &orders, &[5, 6]).await;
    fixture.run_once().await;
    assert_eq!(replayed("all", &[]).await, (vec![1, 3, 4, 5, 6], None));
}

/// What the stream tells after the documents were read, at a time up to which they were: they are so already.
#[tokio::test]
async fn changes_that_a_baseline_has_in_it_are_told_as_such_and_not_made_again() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&Fixture::source("orders", &["orders"]));
    let orders = fixture.collection("orders");
    orders.insert_one(doc! {"_id": 1, "n": 0}).await.unwrap();
    let capture = fixture.start();
    let captured = async |count: u64| {
        wait_until("the records", LIMIT, async || (fixture.count("orders").await == count).then_some(()))
            .await;
    };
    captured(2).await;
    for n in 1..4 {
        orders.update_one(doc! {"_id": 1}, doc! {"$set": {"n": n}}).await.unwrap();
    }
    captured(5).await;
    capture.terminate().await.expect_code(0);
    // As if it had been read behind the second change, before the stream came to the first one.
    let log = fixture.audit.collection::<Document>("orders");
    let records = fixture.records("orders").await;
    let (read, changes) = (of(&records, &["snapshot"]), of(&records, &["update"]));
    let later = doc! {"$set": {"clusterTime": time(changes[1]), "after.n": 2}};
    log.update_one(doc! {"_id": integer(read[0], "_id")}, later).await.unwrap();

    let printed = replay(&fixture, &["--source", "orders", "--output", "ndjson"]).await.expect_code(0).stdout;
    let told = super::events(&printed);
    let told: Vec<_> = told.iter().map(|e| (text(e, "archiver.op"), at(e, "archiver.inBaseline"))).collect();
    let known = Some(&Bson::Boolean(true));
    let expected =
        [("policy", None), ("snapshot", None), ("update", known), ("update", known), ("update", None)];
    assert_eq!(told, expected);
    let (again, _) = target(&server, &fixture);
    for (change, n) in changes.iter().zip([2, 2, 3]) {
        let name = format!("to_{}", integer(change, "_id"));
        let output = output(fixture.uri(), &format!("{}.{name}", again.name()));
        let to = (integer(change, "_id") + 1).to_string();
        replay(&fixture, &["--source", "orders", "--to", &to, "--output", &output]).await.expect_code(0);
        let found = again.collection::<Document>(&name).find_one(doc! {}).await.unwrap();
        assert_eq!(found, Some(doc! {"_id": 1, "n": n}), "up to {to}");
    }
}
