//! What happens to collections and databases: the right records in the right order, and documents that end without an
//! event of their own come back.

use std::time::Duration;

use archiver_tests::record::{at, must, of, text, time};
use archiver_tests::replica_set::Settings;
use archiver_tests::truth::assert_dense;
use archiver_tests::{Fixture, Server, wait_until};
use bson::{Bson, DateTime, Document, RawDocumentBuf, Timestamp, doc};
use futures_util::TryStreamExt;
use mongodb::IndexModel;
use mongodb::options::IndexOptions;

const SOON: Duration = Duration::from_secs(60);
const EVER: &str = "2020-01-01T00:00:00Z";

/// What the oplog says happened in a database, but to MongoDB's own collections.
async fn in_oplog(server: &Server, db: &str) -> Vec<(Timestamp, String, String)> {
    let oplog = server.client().database("local").collection::<Document>("oplog.rs");
    let filter = doc! {"ns": {"$regex": format!("^{db}\\.")}};
    let entries: Vec<Document> =
        oplog.find(filter).sort(doc! {"$natural": 1}).await.unwrap().try_collect().await.unwrap();
    let told = |entry: &Document| {
        let (at, object) = (entry.get_timestamp("ts").unwrap(), entry.get_document("o").unwrap());
        let after_db = |ns: &str| ns.strip_prefix(&format!("{db}.")).unwrap().to_owned();
        let (op, coll) = match entry.get_str("op").unwrap() {
            "i" => ("insert", after_db(entry.get_str("ns").unwrap())),
            "u" => ("update", after_db(entry.get_str("ns").unwrap())),
            "d" => ("delete", after_db(entry.get_str("ns").unwrap())),
            "c" => {
                let (command, value) = object.iter().next().unwrap();
                let op = match command.as_str() {
                    "create" | "drop" | "createIndexes" | "dropIndexes" | "dropDatabase" => command,
                    "commitIndexBuild" => "createIndexes",
                    "collMod" => "modify",
                    "renameCollection" => "rename",
                    _ => return None,
                };
                let coll = value.as_str().unwrap_or_default();
                (op, if op == "rename" { after_db(coll) } else { coll.to_owned() })
            }
            _ => return None,
        };
        (!coll.starts_with("system.")).then(|| (at, op.to_owned(), coll))
    };
    entries.iter().filter_map(told).collect()
}

async fn rename(server: &Server, fixture: &Fixture, from: &str, to: &str, over: bool) {
    let name = |coll: &str| format!("{}.{coll}", fixture.db.name());
    let command = doc! {"renameCollection": name(from), "to": name(to), "dropTarget": over};
    server.client().database("admin").run_command(command).await.unwrap();
}

#[tokio::test]
async fn everything_that_happens_to_collections_is_a_record_in_the_oplogs_order() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&Fixture::source("shop", &["*"]));
    fixture.run_once().await;
    let (db, insert) = (&fixture.db, async |coll: &str, id: &str| {
        fixture.collection(coll).insert_one(doc! {"_id": id}).await.unwrap();
    });
    insert("a", "1").await;
    let as_it_is = doc! {"$set": {"_id": "1"}};
    db.collection::<Document>("a").update_one(doc! {"_id": "1"}, as_it_is).await.unwrap();
    db.collection::<Document>("a")
        .create_index(IndexModel::builder().keys(doc! {"n": 1}).build())
        .await
        .unwrap();
    db.collection::<Document>("a").drop_index("n_1").await.unwrap();
    db.run_command(doc! {"collMod": "a", "validationLevel": "moderate"}).await.unwrap();
    db.create_collection("small").capped(true).size(4_096).max(2).await.unwrap();
    for id in ["1", "2", "3"] {
        insert("small", id).await;
    }
    db.create_collection("view").view_on("a").pipeline([]).await.unwrap();
    db.run_command(doc! {"create": "measured", "timeseries": {"timeField": "t"}}).await.unwrap();
    db.collection("measured").insert_one(doc! {"t": DateTime::now()}).await.unwrap();
    rename(&server, &fixture, "a", "b", false).await;
    insert("c", "2").await;
    rename(&server, &fixture, "b", "c", true).await;
    insert("c", "3").await;
    db.collection::<Document>("c").drop().await.unwrap();
    insert("c", "1").await;
    fixture.run_once().await;
    insert("c", "4").await;
    db.drop().await.unwrap();
    // The end of the database ends its stream: the next one goes on behind it, now and after a restart.
    insert("c", "5").await;
    fixture.run_once().await;
    insert("c", "6").await;
    fixture.run_once().await;

    let records = fixture.records("shop").await;
    assert_dense(&records);
    let own = |r: &&Document| {
        let coll = at(r, "ns.coll").and_then(Bson::as_str).unwrap_or_default();
        !["policy", "gap", "invalidate", "snapshot"].contains(&text(r, "op"))
            && !["view", "measured"].contains(&coll)
    };
    let told = |r: &Document| {
        let coll = at(r, "ns.coll").and_then(Bson::as_str).unwrap_or_default();
        (time(r), text(r, "op").to_owned(), coll.to_owned())
    };
    let found: Vec<_> = records.iter().filter(own).map(told).collect();
    assert_eq!(found, in_oplog(&server, db.name()).await);
    for rename in of(&records, &["rename"]) {
        assert_eq!(must(rename, "detail.whole"), &true.into(), "everything was recorded: {rename}");
    }
    assert!(of(&records, &["update"]).is_empty(), "an update that changes nothing is no event");
    let evicted = of(&records, &["delete"]);
    assert_eq!(evicted.len(), 1, "an eviction from a capped collection is an ordinary delete");
    assert_eq!(must(evicted[0], "key._id"), &Bson::from("1"));
    let created = |coll: &str| {
        let of_coll = |r: &&Document| at(r, "ns.coll") == Some(&coll.into());
        of(&records, &["create"]).into_iter().filter(of_coll).count()
    };
    assert_eq!((created("view"), created("measured")), (1, 1));
    let in_series = |r: &Document| text(r, "ns.coll") == "measured";
    assert!(!of(&records, &["insert"]).into_iter().any(in_series), "time series have no change stream");
}

/// The documents of a collection as MongoDB stores them.
async fn stored(fixture: &Fixture, collection: &str) -> Vec<Vec<u8>> {
    let collection = fixture.db.collection::<RawDocumentBuf>(collection);
    let all = collection.find(doc! {}).sort(doc! {"_id": 1}).await.unwrap();
    let all: Vec<RawDocumentBuf> = all.try_collect().await.unwrap();
    all.into_iter().map(|d| d.as_bytes().to_vec()).collect()
}

/// Concatenated BSON, cut apart, sorted by `_id`.
fn documents(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let length = u32::from_le_bytes(bytes[..4].try_into().unwrap()) as usize;
        found.push(bytes[..length].to_vec());
        bytes = &bytes[length..];
    }
    found.sort_by_key(|d| bson::deserialize_from_slice::<Document>(d).unwrap().get_i32("_id").unwrap());
    found
}

async fn deleted(fixture: &Fixture) -> Vec<Vec<u8>> {
    let all = ["recover", "--source", "shop", "--deleted-since", EVER, "--format", "bson"];
    documents(&fixture.archiver.run_for_bytes(&all).await)
}

/// Documents of a baseline, of inserts and of updates, in a collection that ends with `end`.
async fn ended_documents_come_back(count: i32, end: impl AsyncFn(&Fixture)) {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&Fixture::source("shop", &["orders"]));
    let orders = fixture.collection("orders");
    let order = |n: i32| doc! {"_id": n, "total": i64::from(n), "lines": [{"sku": "x", "price": 1.5}]};
    orders.insert_many((0..count / 2).map(order)).await.unwrap();
    fixture.run_once().await;
    orders.insert_many((count / 2..count).map(order)).await.unwrap();
    let change = doc! {"$set": {"lines.0.price": 2.5, "paid": true}, "$unset": {"total": ""}};
    orders.update_many(doc! {"_id": {"$mod": [2, 0]}}, change).await.unwrap();
    let before = stored(&fixture, "orders").await;
    end(&fixture).await;
    orders.insert_one(doc! {"_id": 1, "another": true}).await.unwrap();
    fixture.run_once().await;

    let gone: Vec<_> = before.iter().enumerate().filter(|(n, _)| *n != 1).map(|(_, d)| d.clone()).collect();
    assert_eq!(deleted(&fixture).await, gone);
    for id in [0, 1, count - 1] {
        let one = ["recover", "--source", "shop", "--id", &id.to_string(), "--format", "bson"];
        assert_eq!(fixture.archiver.run_for_bytes(&one).await, before[id as usize], "document {id}");
    }
}

#[tokio::test]
async fn the_documents_of_a_dropped_collection_come_back() {
    ended_documents_come_back(5, async |f| f.collection("orders").drop().await.unwrap()).await;
}

#[tokio::test]
async fn the_many_documents_of_a_dropped_collection_come_back() {
    ended_documents_come_back(200, async |f| f.collection("orders").drop().await.unwrap()).await;
}

#[tokio::test]
async fn the_documents_of_a_dropped_database_come_back() {
    ended_documents_come_back(60, async |f| f.db.drop().await.unwrap()).await;
}

#[tokio::test]
async fn a_collection_that_is_renamed_away_is_said_to_live_on() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&Fixture::source("shop", &["orders"]));
    fixture.collection("orders").insert_one(doc! {"_id": 1}).await.unwrap();
    fixture.run_once().await;
    rename(&server, &fixture, "orders", "elsewhere", false).await;
    fixture.collection("elsewhere").update_one(doc! {"_id": 1}, doc! {"$set": {"n": 1}}).await.unwrap();
    fixture.collection("orders").insert_one(doc! {"_id": 2}).await.unwrap();
    fixture.run_once().await;
    let records = fixture.records("shop").await;
    assert!(of(&records, &["update"]).is_empty());
    assert_eq!(of(&records, &["insert"]).len(), 1);
    let outcome = fixture.archiver.run(&["recover", "--source", "shop", "--deleted-since", EVER]).await;
    let outcome =
        outcome.expect_code(0).expect_message(&["was renamed to", "elsewhere", "0 recovered, 0 not"]);
    assert_eq!(outcome.stdout, "");
}

#[tokio::test]
async fn a_document_that_outlives_its_time_is_an_ordinary_delete() {
    let parameters = vec!["ttlMonitorSleepSecs=1".to_owned()];
    let server = Server::own(Settings { parameters, ..Settings::default() }).await;
    let fixture = Fixture::new(&server);
    fixture.configure(&Fixture::source("shop", &["orders"]));
    let orders = fixture.create_with_images("orders").await;
    fixture.run_once().await;
    let soon = IndexOptions::builder().expire_after(Duration::from_secs(0)).build();
    orders.create_index(IndexModel::builder().keys(doc! {"until": 1}).options(soon).build()).await.unwrap();
    orders.insert_one(doc! {"_id": 1, "until": DateTime::now()}).await.unwrap();
    wait_until("its time to be over", SOON, async || {
        (orders.count_documents(doc! {}).await.unwrap() == 0).then_some(())
    })
    .await;
    fixture.run_once().await;
    let records = fixture.records("shop").await;
    let deletes = of(&records, &["delete"]);
    assert_eq!(deletes.len(), 1);
    assert_eq!(must(deletes[0], "before._id"), &Bson::Int32(1));
}
