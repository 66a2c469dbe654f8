//! The baseline: read by several readers beside the stream, while documents change and after crashes, it has every document
//! once, and each as it was at its time.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::time::Duration;

use archiver_tests::mixed::{Mixed, ids, key, times};
use archiver_tests::process::Running;
use archiver_tests::record::{at, must, of, text, time};
use archiver_tests::replica_set::Settings;
use archiver_tests::truth::assert_dense;
use archiver_tests::workload::seed;
use archiver_tests::{Fixture, Server, oplog, wait_until};
use bson::{Bson, DateTime, Document, Timestamp, doc};
use mongodb::IndexModel;
use mongodb::options::{ClusteredIndex, Collation, CollationStrength, CreateCollectionOptions};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(120);

/// So small that a few thousand documents are cut into ranges, and take a while; and a lease that a dead writer soon loses.
fn small_batches(events: usize) -> String {
    format!("[capture]\nbatch_max_events = {events}\nlease_time = \"2s\"\n\n")
}

/// Changes documents until told to stop.
async fn while_it_changes<T>(mut application: Mixed, work: impl AsyncFnOnce() -> T) -> (Mixed, T) {
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let writer = tokio::spawn(async move {
        while stopped.try_recv().is_err() {
            application.step().await;
        }
        application
    });
    let result = work().await;
    stop.send(()).unwrap();
    (writer.await.unwrap(), result)
}

async fn read_so_far(fixture: &Fixture, namespace: &str, collection: &str) -> u64 {
    let log = fixture.audit.collection::<Document>(namespace);
    log.count_documents(doc! {"op": "snapshot", "ns.coll": collection}).await.unwrap()
}

async fn wait_for_documents(fixture: &Fixture, source: &str, collection: &str, documents: u64) {
    wait_until(format!("{documents} documents of {collection} in the baseline"), SOON, async || {
        (read_so_far(fixture, source, collection).await >= documents).then_some(())
    })
    .await;
}

async fn is_reading(fixture: &Fixture, source: &str) -> bool {
    fixture.checkpoint(source).await.is_some_and(|c| c.contains_key("snapshot"))
}

async fn wait_until_read(fixture: &Fixture, source: &str) {
    wait_until("the baseline to be complete", SOON, async || {
        let checkpoint = fixture.checkpoint(source).await?;
        (!checkpoint.contains_key("snapshot")).then_some(())
    })
    .await;
}

async fn stop(running: Running) {
    let outcome = running.terminate().await.expect_code(0);
    assert!(!outcome.stderr.contains("ERROR"), "{}", outcome.stderr);
}

async fn uuid_of(fixture: &Fixture, collection: &str) -> Bson {
    let reply =
        fixture.db.run_command(doc! {"listCollections": 1, "filter": {"name": collection}}).await.unwrap();
    let listed = reply.get_document("cursor").unwrap().get_array("firstBatch").unwrap();
    must(listed[0].as_document().unwrap(), "info.uuid").clone()
}

fn ids_of(records: &[&Document]) -> Vec<String> {
    let mut ids: Vec<_> = records.iter().map(|r| must(r, "key._id").to_string()).collect();
    ids.sort();
    ids
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_ids_of_every_type_each_document_is_read_once_while_all_of_them_change() {
    for batch in [20, 1_000] {
        let server = Server::shared().await;
        let fixture = Fixture::new(&server);
        fixture.configure(&(small_batches(batch) + &Fixture::source("mixed", &["mixed"])));
        let application = Mixed::new(fixture.collection("mixed"), ids(2_500), seed()).await;
        let uuid = uuid_of(&fixture, "mixed").await;
        let (application, ()) = while_it_changes(application, async || {
            let running = fixture.start();
            wait_until_read(&fixture, "mixed").await;
            stop(running).await;
        })
        .await;
        fixture.run_once().await;
        let records = fixture.records("mixed").await;
        assert_dense(&records);
        let changes = oplog::changes(server.client(), fixture.db.name()).await;
        let read = application.assert_baseline(&changes, &fixture.raw_records("mixed").await);
        println!("{read} documents, {} records", records.len());
        assert!(of(&records, &["snapshot"]).iter().all(|r| *must(r, "detail.collectionUUID") == uuid));
        let plans = fixture.audit.collection::<Document>("archiver.snapshots");
        assert_eq!(plans.count_documents(doc! {}).await.unwrap(), 0, "the plan is forgotten");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_while_a_baseline_is_read_reads_no_document_again_and_forgets_none() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&(small_batches(10) + &Fixture::source("mixed", &["mixed"])));
    let seed = seed();
    let mut rng = StdRng::seed_from_u64(seed);
    let application = Mixed::new(fixture.collection("mixed"), ids(2_500), seed).await;
    let (application, cut_off) = while_it_changes(application, async || {
        let mut cut_off = 0;
        for _ in 0..4 {
            let before = fixture.count("mixed").await;
            let running = fixture.start();
            wait_until("it to go on", SOON, async || {
                (fixture.count("mixed").await > before + 20).then_some(())
            })
            .await;
            tokio::time::sleep(Duration::from_millis(rng.random_range(0..300))).await;
            running.kill().await;
            cut_off += usize::from(is_reading(&fixture, "mixed").await);
        }
        cut_off
    })
    .await;
    assert!(cut_off > 0, "the baseline was complete before the first kill");
    fixture.run_once().await;
    assert!(!is_reading(&fixture, "mixed").await, "--once ends with the baseline");
    assert_dense(&fixture.records("mixed").await);
    let changes = oplog::changes(server.client(), fixture.db.name()).await;
    application.assert_baseline(&changes, &fixture.raw_records("mixed").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn collections_that_are_dropped_renamed_or_replaced_while_they_are_read() {
    const EACH: i32 = 400;
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&(small_batches(2) + &Fixture::source("shop", &["*"])));
    let names = ["dropped", "renamed", "replaced"];
    for name in names {
        fixture.collection(name).insert_many((0..EACH).map(|n| doc! {"_id": n, "of": name})).await.unwrap();
    }
    let first = uuid_of(&fixture, "replaced").await;
    let running = fixture.start();
    let name = |name: &str| format!("{}.{name}", fixture.db.name());
    wait_for_documents(&fixture, "shop", "dropped", 10).await;
    fixture.collection("dropped").drop().await.unwrap();
    wait_for_documents(&fixture, "shop", "renamed", 10).await;
    let rename = doc! {"renameCollection": name("renamed"), "to": name("another name")};
    server.client().database("admin").run_command(rename).await.unwrap();
    wait_for_documents(&fixture, "shop", "replaced", 10).await;
    fixture.collection("replaced").drop().await.unwrap();
    for name in ["replaced", "new"] {
        fixture.collection(name).insert_many((0..EACH).map(|n| doc! {"_id": n, "anew": true})).await.unwrap();
    }
    wait_until_read(&fixture, "shop").await;
    stop(running).await;
    fixture.run_once().await;

    let records = fixture.records("shop").await;
    assert_dense(&records);
    let snapshot = of(&records, &["snapshot"]);
    let about = |name: &str| -> Vec<&Document> {
        snapshot.iter().copied().filter(|r| at(r, "after.of") == Some(&name.into())).collect()
    };
    let renamed = about("renamed");
    let all: Vec<Document> = (0..EACH).map(|n| doc! {"key": {"_id": n}}).collect();
    assert_eq!(ids_of(&renamed), ids_of(&all.iter().collect::<Vec<_>>()), "each once, under either name");
    let moved = of(&records, &["rename"])[0];
    for record in &renamed {
        let expected = if time(record) < time(moved) { "renamed" } else { "another name" };
        assert_eq!(text(record, "ns.coll"), expected, "{record} {moved}");
    }
    for name in ["dropped", "replaced"] {
        let ids = ids_of(&about(name));
        assert!(ids.len() < EACH as usize, "{name} was read before it was dropped");
        assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len());
    }
    assert!(about("replaced").iter().all(|r| *must(r, "detail.collectionUUID") == first));
    assert!(
        snapshot.iter().all(|r| at(r, "after.anew").is_none()),
        "what is new is in the stream from its birth"
    );
    assert_eq!(of(&records, &["insert"]).len(), 2 * EACH as usize);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_transaction_before_an_index_build_holds_a_baseline_up_and_ends_nothing() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&Fixture::source("shop", &["items"]));
    let items = fixture.collection("items");
    items.insert_many((0..10).map(|n| doc! {"_id": n})).await.unwrap();
    let mut session = server.client().start_session().await.unwrap();
    session.start_transaction().await.unwrap();
    items.insert_one(doc! {"_id": 10}).session(&mut session).await.unwrap();
    let building = tokio::spawn({
        let items = items.clone();
        async move { items.create_index(IndexModel::builder().keys(doc! {"a": 1}).build()).await }
    });
    let waits = doc! {"currentOp": true, "waitingForLock": true, "ns": items.namespace().to_string()};
    wait_until("the index build to wait for the transaction", SOON, async || {
        let waiting = server.client().database("admin").run_command(waits.clone()).await.unwrap();
        (!waiting.get_array("inprog").unwrap().is_empty()).then_some(())
    })
    .await;

    let running = fixture.archiver.start(&["run", "--once"]);
    wait_until("the baseline to wait", SOON, async || {
        running.stderr().contains("the baseline waits for a lock").then_some(())
    })
    .await;
    // Longer than the reader tries again where a collection changes under it.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(fixture.count("shop").await, 1, "nothing is read yet but the policy");
    session.commit_transaction().await.unwrap();
    building.await.unwrap().unwrap();
    let outcome = running.finish(SOON).await.expect_code(0);
    assert!(!outcome.stderr.contains("starting over"), "{}", outcome.stderr);
    let records = fixture.records("shop").await;
    assert_dense(&records);
    assert_eq!(of(&records, &["snapshot"]).len(), 11);
}

/// A collection of its own kind, with strings that differ in more than case, in an order that is not that of their bytes.
async fn create(fixture: &Fixture, name: &str, options: CreateCollectionOptions, documents: i32) {
    fixture.db.create_collection(name).with_options(options).await.unwrap();
    let id = |n: i32| match n % 4 {
        0 => format!("Name {n:05}").into(),
        1 => format!("name {n:05}").into(),
        2 => doc! {"of": format!("Äpfel {n:05}")}.into(),
        _ => Bson::Int32(n),
    };
    fixture.collection(name).insert_many((0..documents).map(|n| doc! {"_id": id(n), "n": n})).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn collections_with_a_collation_clustered_and_capped_ones_are_read_and_gone_on_with() {
    const EACH: i32 = 700;
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    let names = ["capped", "clustered", "clustered and collated", "collated"];
    fixture.configure(&(small_batches(5) + &Fixture::source("kinds", &names)));
    let collation =
        || Collation::builder().locale("en".to_owned()).strength(CollationStrength::Secondary).build();
    let plain = CreateCollectionOptions::default;
    let with = |set: &dyn Fn(&mut CreateCollectionOptions)| {
        let mut options = plain();
        set(&mut options);
        options
    };
    let kinds = [
        with(&|o| (o.capped, o.size) = (Some(true), Some(10_000_000))),
        with(&|o| o.clustered_index = Some(ClusteredIndex::default())),
        with(&|o| (o.clustered_index, o.collation) = (Some(ClusteredIndex::default()), Some(collation()))),
        with(&|o| o.collation = Some(collation())),
    ];
    for (name, options) in names.into_iter().zip(kinds) {
        create(&fixture, name, options, EACH).await;
    }
    let running = fixture.start();
    wait_for_documents(&fixture, "kinds", "capped", 30).await;
    running.kill().await;
    assert!(is_reading(&fixture, "kinds").await);
    fixture.run_once().await;
    let records = fixture.records("kinds").await;
    for name in names {
        let read: Vec<_> =
            of(&records, &["snapshot"]).into_iter().filter(|r| text(r, "ns.coll") == name).collect();
        assert_eq!(ids_of(&read).iter().collect::<BTreeSet<_>>().len(), EACH as usize, "{name}");
        assert_eq!(read.len(), EACH as usize, "{name}");
        // Only a capped collection can't be read as of a time, and its records say so.
        let bounded = read.iter().filter(|r| at(r, "detail.until").is_some()).count();
        assert_eq!(bounded, if name == "capped" { EACH as usize } else { 0 }, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_baseline_that_outlasts_the_oplog_loses_nothing_because_the_stream_goes_on() {
    let server = Server::own(Settings { oplog_megabytes: 1, ..Settings::default() }).await;
    let fixture = Fixture::new(&server);
    fixture.configure(&(small_batches(1) + &Fixture::source("orders", &["orders"])));
    let orders = fixture.collection("orders");
    let filler = "x".repeat(1_000);
    orders.insert_many((0..3_000).map(|n| doc! {"_id": n, "filler": &filler})).await.unwrap();
    let running = fixture.start();
    wait_for_documents(&fixture, "orders", "orders", 1).await;
    let first = must(&fixture.checkpoint("orders").await.unwrap(), "clusterTime").as_timestamp().unwrap();
    let local = server.client().database("local").collection::<Document>("oplog.rs");
    let made = AtomicI32::new(0);
    let (position, oldest) =
        wait_until("the oplog to lose the beginning of the baseline", SOON, async || {
            let changes = made.fetch_add(1, Ordering::Relaxed) + 1;
            orders
                .update_one(doc! {"_id": 2_999}, doc! {"$set": {"n": changes, "filler": &filler}})
                .await
                .unwrap();
            // What the oplog has no room for goes with a checkpoint of the storage, which this takes.
            server.client().database("admin").run_command(doc! {"fsync": 1}).await.unwrap();
            let oldest = local.find_one(doc! {}).await.unwrap().unwrap().get_timestamp("ts").unwrap();
            let checkpoint = fixture.checkpoint("orders").await.unwrap();
            let position = must(&checkpoint, "clusterTime").as_timestamp().unwrap();
            assert!(
                checkpoint.contains_key("snapshot"),
                "the baseline was complete before {oldest:?} was after {first:?}"
            );
            (oldest > first).then_some((position, oldest))
        })
        .await;
    assert!(position >= oldest, "the stream stands still: {position:?} {oldest:?}");
    running.kill().await;
    fixture.run_once().await;
    let records = fixture.records("orders").await;
    assert_dense(&records);
    let read = of(&records, &["snapshot"]);
    assert_eq!(ids_of(&read).into_iter().collect::<BTreeSet<_>>().len(), 3_000);
    assert_eq!(read.len(), 3_000);
    let updates: Vec<_> =
        of(&records, &["update"]).into_iter().map(|r| must(r, "delta.updatedFields.n").clone()).collect();
    assert_eq!(updates, (1..=made.into_inner()).map(Bson::Int32).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_says_how_far_a_baseline_is_and_how_long_it_takes() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&(small_batches(2) + &Fixture::source("shop", &["*"])));
    fixture.collection("a").insert_one(doc! {"_id": 1}).await.unwrap();
    fixture.collection("b").insert_many((0..1_000).map(|n| doc! {"_id": n})).await.unwrap();
    let running = fixture.start();
    wait_for_documents(&fixture, "shop", "b", 20).await;
    let json: Value = serde_json::from_str(&fixture.ok(&["status", "--format", "json"]).await).unwrap();
    let table = fixture.ok(&["status"]).await;
    running.kill().await;
    let snapshot = &json[0]["snapshot"];
    assert_eq!((&snapshot["collections"], &snapshot["estimated"]), (&2.into(), &1_001.into()), "{json:#}");
    let documents = snapshot["documents"].as_i64().unwrap();
    assert!((20..1_001).contains(&documents), "{snapshot}");
    assert_eq!(snapshot["percent"].as_i64().unwrap(), documents * 100 / 1_001, "{snapshot}");
    assert!(snapshot["documentsPerSecond"].as_i64().unwrap() > 0, "{snapshot}");
    assert!(snapshot["secondsLeft"].is_i64() && snapshot["started"].is_string(), "{snapshot}");
    assert!(table.contains("of about 1001 documents (") && table.contains(" left\n"), "{table}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_collections_leave_a_small_checkpoint() {
    const COLLECTIONS: i32 = 300;
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&Fixture::source("many", &["*"]));
    for n in 0..COLLECTIONS {
        fixture.collection(&format!("c{n:03}")).insert_one(doc! {"_id": n}).await.unwrap();
    }
    let running = fixture.start();
    let largest = AtomicUsize::new(0);
    wait_until("the baseline to be complete", SOON, async || {
        let checkpoint = fixture.checkpoint("many").await?;
        largest.fetch_max(bson::serialize_to_vec(&checkpoint).unwrap().len(), Ordering::Relaxed);
        (!checkpoint.contains_key("snapshot")).then_some(())
    })
    .await;
    stop(running).await;
    let largest = largest.into_inner();
    assert!((1..4_096).contains(&largest), "{largest} bytes");
    let records = fixture.records("many").await;
    let mut read: Vec<_> =
        of(&records, &["snapshot"]).into_iter().map(|r| must(r, "key._id").clone()).collect();
    read.sort_by_key(Bson::as_i32);
    assert_eq!(read, (0..COLLECTIONS).map(Bson::Int32).collect::<Vec<_>>());
}

/// The documents of the baseline with the most changes, and when they were read.
fn busiest(changes: &[oplog::Change], records: &[Document]) -> Vec<(String, Timestamp)> {
    let count = |id: &Bson| changes.iter().filter(|c| c.id == *id).count();
    let mut read: Vec<_> = of(records, &["snapshot"]).into_iter().collect();
    read.sort_by_key(|r| std::cmp::Reverse(count(must(r, "key._id"))));
    read.iter().map(|r| (text(r, "key._id").to_owned(), time(r))).collect()
}

/// What a command printed as concatenated BSON.
fn documents(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    while let Some(length) = bytes.first_chunk::<4>() {
        let (document, rest) = bytes.split_at(i32::from_le_bytes(*length) as usize);
        found.push(document.to_vec());
        bytes = rest;
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_that_change_while_the_baseline_is_read_are_recovered_exactly_at_any_time() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&(small_batches(2) + &Fixture::source("mixed", &["mixed"])));
    let texts = (0..200).map(|n| Bson::from(format!("t{n:03}"))).collect();
    let application = Mixed::new(fixture.collection("mixed"), texts, seed()).await;
    let (application, ()) = while_it_changes(application, async || {
        let running = fixture.start();
        wait_until_read(&fixture, "mixed").await;
        stop(running).await;
    })
    .await;
    fixture.run_once().await;
    let changes = oplog::changes(server.client(), fixture.db.name()).await;
    let records = fixture.raw_records("mixed").await;
    application.assert_baseline(&changes, &records);
    let times = times(&changes);
    let decoded = fixture.records("mixed").await;
    let busiest = busiest(&changes, &decoded);
    let seconds: BTreeSet<u32> = decoded.iter().map(|r| time(r).time).collect();
    for (id, read) in busiest.iter().take(8) {
        for second in seconds.range(read.time..).chain([&(seconds.last().unwrap() + 1)]).map(|s| s + 1) {
            // Everything before that second.
            let end = Timestamp { time: second - 1, increment: u32::MAX };
            let truth = application.at(&times, &key(&id.as_str().into()), end);
            let at = DateTime::from_millis(i64::from(second) * 1_000).try_to_rfc3339_string().unwrap();
            let recover = ["recover", "--source", "mixed", "--id", id, "--format", "bson", "--at", &at];
            let outcome = fixture.archiver.run(&recover).await;
            match truth {
                Some(truth) => assert_eq!(outcome.bytes, truth.as_bytes(), "{id} at {at}: {outcome:?}"),
                None => assert_eq!(outcome.code, Some(16), "{id} at {at}: {outcome:?}"),
            }
        }
    }
    let since =
        ["recover", "--source", "mixed", "--deleted-since", "2020-01-01T00:00:00Z", "--format", "bson"];
    let mut found = documents(&fixture.archiver.run(&since).await.bytes);
    // Without images, what was deleted before it was read is known to be gone, and no more.
    let is_known = |id: &[u8]| {
        decoded.iter().any(|r| at(r, "key._id").is_some_and(|i| key(i) == id) && at(r, "after").is_some())
    };
    let gone = application.states.iter().filter(|(id, states)| states.last() == Some(&None) && is_known(id));
    let mut expected: Vec<_> =
        gone.map(|(_, states)| states.iter().rev().flatten().next().unwrap().as_bytes().to_vec()).collect();
    found.sort();
    expected.sort();
    assert_eq!(found.len(), expected.len());
    assert!(found == expected, "a deleted document is not what it was");
}
