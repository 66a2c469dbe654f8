//! A source split into partitions: together they have every event once, each document in one of them and in its order, and
//! all commands work on them as on one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use archiver_tests::oplog::{self, Change};
use archiver_tests::record::{at, integer, must, of, text};
use archiver_tests::truth::{self, assert_complete, assert_dense};
use archiver_tests::workload::{Workload, seed};
use archiver_tests::{Fixture, Server, duckdb, wait_until};
use bson::{Bson, Document, doc};
use futures_util::TryStreamExt;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(60);
const PARTITIONS: i64 = 3;

/// A source of the whole watched database in three partitions.
fn configure(fixture: &Fixture, sections: &str) {
    let source = Fixture::source("orders", &["*"]).trim_end().to_owned();
    fixture.configure(&format!(
        "{sections}\n[capture]\nlease_time = \"2s\"\nbatch_max_events = 60\n\n{source}\npartitions = 3\n"
    ));
}

/// The records of each partition, numbered like those of a source without partitions.
async fn by_partition(fixture: &Fixture) -> BTreeMap<i32, Vec<Document>> {
    let mut found: BTreeMap<i32, Vec<Document>> = BTreeMap::new();
    for mut record in fixture.records("orders").await {
        let id = record.get_document("_id").expect("an _id of two parts").clone();
        assert_eq!(id.keys().collect::<Vec<_>>(), ["p", "s"], "{record}");
        let seq = id.get_i64("s").expect("an Int64");
        record.insert("_id", seq);
        found.entry(id.get_i32("p").expect("an Int32")).or_default().push(record);
    }
    found
}

/// The partition of each of these `_id`s: the server's own hash, and the remainder by arithmetic of our own.
async fn partitions_of(fixture: &Fixture, ids: impl IntoIterator<Item = Bson>) -> Vec<i32> {
    let documents: Vec<Document> = ids.into_iter().map(|id| doc! {"id": id}).collect();
    let hash = doc! {"$project": {"hash": {"$toHashedIndexKey": "$id"}}};
    let hashed = fixture.db.aggregate([doc! {"$documents": documents}, hash]).await.unwrap();
    let hashed: Vec<Document> = hashed.try_collect().await.unwrap();
    hashed.iter().map(|d| (integer(d, "hash") % PARTITIONS).unsigned_abs() as i32).collect()
}

fn about<'a>(records: &'a [Document], collection: &str) -> Vec<&'a Document> {
    records.iter().filter(|r| at(r, "ns.coll").and_then(Bson::as_str) == Some(collection)).collect()
}

/// Whatever else happens in a database: collections come and go, documents of one `_id` live more than once.
async fn collections_come_and_go(fixture: &Fixture, round: i32) {
    let things = fixture.collection("things");
    for n in 0..10 {
        let id = format!("thing-{n}");
        things.insert_one(doc! {"_id": &id, "round": round}).await.unwrap();
        things.update_one(doc! {"_id": &id}, doc! {"$set": {"paid": true}}).await.unwrap();
        things.delete_one(doc! {"_id": &id}).await.unwrap();
        things.insert_one(doc! {"_id": &id, "round": round, "again": true}).await.unwrap();
    }
    let namespace = |name: &str| format!("{}.{name}", fixture.db.name());
    let rename = doc! {"renameCollection": namespace("things"), "to": namespace(&format!("old_{round}"))};
    fixture.db.client().database("admin").run_command(rename).await.unwrap();
    fixture.db.collection::<Document>(&format!("old_{round}")).drop().await.unwrap();
}

/// Each document of `things` has the changes that the oplog has of it, in their order.
fn assert_things(changes: &[Change], records: &BTreeMap<i32, Vec<Document>>) {
    let per_document = |changes: Vec<Change>| {
        let mut found: BTreeMap<String, Vec<Change>> = BTreeMap::new();
        for change in changes.into_iter().filter(|c| c.namespace.ends_with(".things")) {
            found.entry(change.id.to_string()).or_default().push(change);
        }
        found
    };
    let recorded = records.values().flat_map(|records| oplog::recorded(records)).collect();
    let recorded = per_document(recorded);
    assert_eq!(recorded.len(), 10);
    assert_eq!(recorded, per_document(changes.to_vec()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_event_is_in_exactly_one_partition_through_kills_and_restarts() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    configure(
        &fixture,
        "[archive]\nurl = \"{archive}\"\nsegment_max_bytes = \"64KiB\"\nhot_retention = \"365d\"\n\n",
    );
    let seed = seed();
    let mut rng = StdRng::seed_from_u64(seed);
    let mut workload = Workload::new(server.client(), fixture.collection("orders"), seed);
    workload.run(200).await;
    fixture.run_once().await;
    for round in 0..4 {
        let archiver = fixture.start();
        workload.run(rng.random_range(20..200)).await;
        collections_come_and_go(&fixture, round).await;
        workload.run(rng.random_range(0..100)).await;
        archiver.kill().await;
    }
    wait_until("the dead writer's leases to end", SOON, async || {
        (fixture.archiver.run(&["run", "--once"]).await.code == Some(0)).then_some(())
    })
    .await;

    let records = by_partition(&fixture).await;
    assert_eq!(records.keys().copied().collect::<Vec<_>>(), [0, 1, 2]);
    let changes = oplog::changes(server.client(), fixture.db.name()).await;
    assert_things(&changes, &records);
    let ids: Vec<i32> = workload.states.keys().copied().collect();
    let partitions = partitions_of(&fixture, ids.iter().map(|id| Bson::Int32(*id))).await;
    let partition: BTreeMap<i32, i32> = ids.into_iter().zip(partitions).collect();
    for (p, records) in &records {
        assert_dense(records);
        let own = |id: &Bson| id.as_i32().is_some_and(|id| partition[&id] == *p);
        let of_orders: Vec<Document> = about(records, "orders").into_iter().cloned().collect();
        assert!(!of(&of_orders, &["snapshot"]).is_empty() && !of(&of_orders, &["delete"]).is_empty());
        let changes: Vec<_> = changes.iter().filter(|c| own(&c.id)).cloned().collect();
        let states: truth::States = workload
            .states
            .iter()
            .filter(|(id, _)| partition[id] == *p)
            .map(|(k, v)| (*k, v.clone()))
            .collect();
        let without_ddl: Vec<Document> =
            of_orders.into_iter().filter(|r| at(r, "key._id").is_some()).collect();
        assert_complete(&changes, &states, &without_ddl);
    }
    let ddl = |p: i32| of(&records[&p], &["create", "rename", "drop"]).len();
    assert_eq!((ddl(0), ddl(1), ddl(2)), (12, 0, 0), "four rounds, and who has them");
    for stream in ["orders/0", "orders/1", "orders/2"] {
        let checkpoint = fixture.checkpoint(stream).await.expect("a checkpoint");
        assert_eq!(integer(&checkpoint, "partitions"), PARTITIONS);
    }
    fixture.ok(&["verify"]).await;
}

#[tokio::test]
async fn the_baseline_has_every_document_once_and_in_its_partition() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    configure(&fixture, "");
    let mut ids: Vec<Bson> = (0..400).map(|n| Bson::Int32(n * 7)).collect();
    ids.extend((0..400).map(|n| Bson::String(format!("customer {n}"))));
    ids.extend((0..100).map(|n| Bson::Document(doc! {"shop": n, "number": n * 3})));
    ids.extend((0..100).map(|_| Bson::ObjectId(bson::oid::ObjectId::new())));
    ids.extend([Bson::Null, Bson::Boolean(true), Bson::Double(0.5), Bson::Int64(i64::MIN), Bson::MinKey]);
    let documents = ids.iter().map(|id| doc! {"_id": id.clone()});
    fixture.collection("customers").insert_many(documents).await.unwrap();
    fixture.run_once().await;
    let partitions = partitions_of(&fixture, ids.iter().cloned()).await;
    let mut wanted: Vec<(i32, String)> =
        partitions.into_iter().zip(&ids).map(|(p, id)| (p, id.to_string())).collect();
    let records = by_partition(&fixture).await;
    let mut found: Vec<(i32, String)> = Vec::new();
    for (p, records) in &records {
        assert_dense(records);
        found.extend(of(records, &["snapshot"]).iter().map(|r| (*p, must(r, "key._id").to_string())));
    }
    wanted.sort();
    found.sort();
    assert_eq!(found, wanted);
}

#[tokio::test]
async fn numbers_that_mongodb_takes_for_one_id_are_in_one_partition_and_in_order() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    configure(&fixture, "");
    fixture.run_once().await;
    let collection = fixture.collection("numbers");
    for n in 0..12_i32 {
        let decimal: bson::Decimal128 = n.to_string().parse().unwrap();
        for id in [Bson::Int32(n), Bson::Int64(n.into()), Bson::Double(n.into()), Bson::Decimal128(decimal)] {
            collection.insert_one(doc! {"_id": id, "n": n}).await.unwrap();
            // By an equal number of another type: the event has the one that is stored.
            collection.delete_one(doc! {"_id": f64::from(n)}).await.unwrap();
        }
    }
    fixture.run_once().await;
    let mut seen: BTreeMap<i64, (i32, Vec<String>)> = BTreeMap::new();
    for (p, records) in by_partition(&fixture).await {
        for record in of(&records, &["insert", "delete"]) {
            let id = must(record, "key._id");
            let n = id.to_string().trim_matches('"').parse::<f64>().expect("a number") as i64;
            let (partition, ops) = seen.entry(n).or_insert((p, Vec::new()));
            assert_eq!(*partition, p, "{record}");
            ops.push(format!("{} {:?}", text(record, "op"), id.element_type()));
        }
    }
    let order =
        ["Int32", "Int64", "Double", "Decimal128"].map(|t| [format!("insert {t}"), format!("delete {t}")]);
    assert!(seen.values().all(|(_, ops)| *ops == order.concat()), "{seen:?}");
    assert_eq!(seen.len(), 12);
    assert!(seen.values().map(|(p, _)| p).collect::<BTreeSet<_>>().len() > 1);
}

#[tokio::test]
async fn every_partition_goes_on_behind_a_database_that_was_dropped() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    configure(&fixture, "");
    let archiver = fixture.start();
    let collection = fixture.collection("orders");
    for round in 0..3 {
        let documents = (0..30).map(|n| doc! {"_id": n, "round": round});
        collection.insert_many(documents).await.unwrap();
        wait_until("all inserts of a round", SOON, async || {
            let inserts = doc! {"op": {"$in": ["insert", "snapshot"]}, "after.round": round};
            let log = fixture.audit.collection::<Document>("orders");
            (log.count_documents(inserts).await.unwrap() == 30).then_some(())
        })
        .await;
        fixture.db.drop().await.unwrap();
    }
    wait_until("the last invalidate", SOON, async || {
        let log = fixture.audit.collection::<Document>("orders");
        (log.count_documents(doc! {"op": "invalidate"}).await.unwrap() == 3).then_some(())
    })
    .await;
    archiver.terminate().await.expect_code(0);
    fixture.run_once().await;
    let records = by_partition(&fixture).await;
    let wide = |p: i32| of(&records[&p], &["drop", "dropDatabase", "invalidate"]).len();
    assert_eq!((wide(0), wide(1), wide(2)), (9, 0, 0));
    assert!(records.values().all(|r| of(r, &["insert", "snapshot"]).len() > 3));
}

#[tokio::test]
async fn another_number_of_partitions_is_refused_before_anything_is_written() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    let with = |n: i64| {
        format!("{}partitions = {n}\n", Fixture::source("orders", &["*"]).trim_end().to_owned() + "\n")
    };
    fixture.collection("orders").insert_one(doc! {"_id": 1}).await.unwrap();
    let everything = async || {
        let mut found = Vec::new();
        for name in ["archiver.checkpoints", "archiver.leases", "orders", "archiver.marker"] {
            let documents =
                fixture.audit.collection::<Document>(name).find(doc! {}).sort(doc! {"_id": 1}).await;
            found.push(documents.unwrap().try_collect::<Vec<Document>>().await.unwrap());
        }
        found
    };
    for (first, others) in [(1, [3, 2]), (3, [1, 2]), (2, [3, 64])] {
        fixture.audit.drop().await.unwrap();
        std::fs::remove_dir_all(fixture.archive()).ok();
        fixture.configure(&with(first));
        fixture.run_once().await;
        let before = everything().await;
        for other in others {
            fixture.configure(&with(other));
            let refused = fixture.archiver.run(&["run", "--once"]).await.expect_code(10);
            let (old, new) = (format!("began_with={first}"), format!("configured={other}"));
            refused.expect_message(&[&old, &new, &format!("set partitions = {first} again"), "a new name"]);
            assert_eq!(everything().await, before, "{first} → {other}");
            let checked = fixture.archiver.run(&["check", "--format", "json"]).await.expect_code(3);
            assert!(checked.stdout.contains(&old) && checked.stdout.contains(&new), "{}", checked.stdout);
            let opened = format!("its {other} change streams, one for each partition, can be opened");
            assert_eq!(checked.stdout.contains(&opened), other > 1, "{}", checked.stdout);
            assert_eq!(everything().await, before, "check changes nothing");
        }
        fixture.configure(&with(first));
        fixture.collection("orders").update_one(doc! {"_id": 1}, doc! {"$inc": {"n": 1}}).await.unwrap();
        fixture.run_once().await;
    }
}

/// Numbers of a listing in JSON by source and partition.
fn by_stream<'a>(listing: &'a Value, field: &str) -> Vec<(i64, &'a Value)> {
    let rows = listing.as_array().expect("a list");
    rows.iter().map(|row| (row["partition"].as_i64().expect("a partition"), &row[field])).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_tiers_of_all_partitions_are_one_history() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    configure(&fixture, "[archive]\nurl = \"{archive}\"\nhot_retention = \"365d\"\n\n");
    let mut workload = Workload::new(server.client(), fixture.collection("orders"), seed());
    for _ in 0..3 {
        workload.run(100).await;
        fixture.run_once().await;
    }
    let records = fixture.records("orders").await;
    let glob = format!("{}/source=*/date=*/*.parquet", fixture.archive().display());
    let rows = duckdb::query(&format!(
        "SELECT count(*) AS n, count(DISTINCT (extra->>'$.partition', seq)) AS different FROM read_parquet('{glob}')"
    ));
    assert_eq!(rows[0]["n"].as_u64(), Some(records.len() as u64));
    assert_eq!(rows[0]["different"], rows[0]["n"]);
    let view = fixture.ok(&["sql"]).await
        + "\nSELECT partition AS p, max(seq) AS last, count(*) AS n FROM orders GROUP BY p ORDER BY p;";
    let rows = duckdb::query(&view);
    assert_eq!(rows.len(), 3);
    let verified: Value = serde_json::from_str(&fixture.ok(&["verify", "--format", "json"]).await).unwrap();
    let status: Value = serde_json::from_str(&fixture.ok(&["status", "--format", "json"]).await).unwrap();
    let sealed = by_stream(&verified["sources"], "end_seq");
    let rolled = by_stream(&status, "rolledSeq");
    for (p, row) in (0_i64..).zip(&rows) {
        let last = row["last"].as_i64().unwrap();
        assert_eq!((row["p"].as_i64(), row["n"].as_i64()), (Some(p), Some(last)));
        assert_eq!((sealed[p as usize].0, sealed[p as usize].1.as_i64()), (p, Some(last + 1)));
        assert_eq!((rolled[p as usize].0, rolled[p as usize].1.as_i64()), (p, Some(last)));
    }
    let table = fixture.ok(&["status"]).await;
    assert!(["orders/0", "orders/1", "orders/2"].iter().all(|s| table.contains(s)), "{table}");

    let damaged =
        fixture.archive_files().into_iter().rfind(|f| f.to_string_lossy().contains("/seg-p1-")).unwrap();
    let mut bytes = std::fs::read(&damaged).unwrap();
    let half = bytes.len() / 2;
    bytes[half] ^= 1;
    std::fs::write(&damaged, bytes).unwrap();
    let name = damaged.file_name().unwrap().to_str().unwrap();
    let found = fixture.archiver.run(&["verify"]).await.expect_code(3);
    assert!(found.stdout.contains(name), "{}", found.stdout);
    let only = format!("file://{}", fixture.archive().display());
    fixture.archiver.run(&["verify", "--archive", &only, "--source", "orders"]).await.expect_code(3);
}

#[tokio::test]
async fn what_concerns_one_partition_is_read_and_trimmed_through_the_index_of_ids() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    configure(&fixture, "[archive]\nurl = \"{archive}\"\nhot_retention = \"0s\"\n\n");
    fixture.run_once().await;
    fixture.audit.run_command(doc! {"profile": 2}).await.unwrap();
    let documents = (0..300).map(|n| doc! {"_id": n});
    fixture.collection("orders").insert_many(documents).await.unwrap();
    fixture.run_once().await;
    for command in ["verify", "status", "roll"] {
        fixture.ok(&[command]).await;
    }
    fixture.audit.run_command(doc! {"profile": 0}).await.unwrap();
    let of_orders = doc! {"ns": format!("{}.orders", fixture.audit.name()), "planSummary": {"$exists": true}};
    let profile = fixture.audit.collection::<Document>("system.profile").find(of_orders).await.unwrap();
    let profile: Vec<Document> = profile.try_collect().await.unwrap();
    let plans: BTreeSet<&str> = profile.iter().map(|entry| text(entry, "planSummary")).collect();
    assert_eq!(plans, BTreeSet::from(["IXSCAN { _id: 1 }"]));
    let removed: i64 =
        profile.iter().filter_map(|e| at(e, "ndeleted")).filter_map(Bson::as_i32).map(i64::from).sum();
    assert!(removed >= 300, "{removed} records were trimmed");
    for entry in profile.iter().filter(|entry| text(entry, "op") == "query") {
        let (looked_at, given) = (integer(entry, "docsExamined"), integer(entry, "nreturned"));
        assert!(looked_at <= given + 1, "{entry}");
    }
}

/// Concatenated BSON documents by their `_id`s.
fn by_id(mut bytes: &[u8]) -> BTreeMap<i32, Vec<u8>> {
    let mut found = BTreeMap::new();
    while !bytes.is_empty() {
        let length = i32::from_le_bytes(bytes[..4].try_into().unwrap()) as usize;
        let document: Document = bson::deserialize_from_slice(&bytes[..length]).unwrap();
        found.insert(document.get_i32("_id").unwrap(), bytes[..length].to_vec());
        bytes = &bytes[length..];
    }
    found
}

/// Documents that end with their collection, come again, move with it to another name and are deleted: what they last were
/// must come back, although drop and rename are in another partition than most of them.
async fn deleted_documents_come_back(retention: &str) {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    configure(&fixture, &format!("[archive]\nurl = \"{{archive}}\"\nhot_retention = \"{retention}\"\n\n"));
    let collection = fixture.collection("orders");
    fixture.run_once().await;
    const MANY: i32 = 60;
    for life in 0..2 {
        for n in 0..MANY {
            collection
                .insert_one(doc! {"_id": n, "life": life, "text": "x".repeat(n as usize)})
                .await
                .unwrap();
            collection
                .update_one(doc! {"_id": n}, doc! {"$set": {"paid": n * 2}, "$unset": {"text": ""}})
                .await
                .unwrap();
        }
        fixture.run_once().await;
        if life == 0 {
            collection.drop().await.unwrap();
        }
    }
    let namespace = |name: &str| format!("{}.{name}", fixture.db.name());
    let rename = doc! {"renameCollection": namespace("orders"), "to": namespace("moved")};
    server.client().database("admin").run_command(rename).await.unwrap();
    let collection = fixture.collection("moved");
    collection.update_many(doc! {}, doc! {"$push": {"seen": 1_i64}}).await.unwrap();
    let expected = |n: i32| doc! {"_id": n, "life": 1, "paid": n * 2, "seen": [1_i64]};
    collection.delete_many(doc! {}).await.unwrap();
    fixture.run_once().await;
    let left = fixture.count("orders").await;
    assert_eq!(left == 0, retention == "0s", "{left} records are hot");

    let all =
        ["recover", "--source", "orders", "--deleted-since", "2020-01-01T00:00:00Z", "--format", "bson"];
    let found = by_id(&fixture.archiver.run_for_bytes(&all).await);
    assert_eq!(found.len(), MANY as usize);
    for (n, document) in &found {
        assert_eq!(*document, bson::serialize_to_vec(&expected(*n)).unwrap(), "{n}");
    }
    for n in [0, 1, 2, 3, 17] {
        let id = n.to_string();
        let one = [
            "recover",
            "--source",
            "orders",
            "--id",
            &id,
            "--namespace",
            &namespace("moved"),
            "--format",
            "bson",
        ];
        assert_eq!(fixture.archiver.run_for_bytes(&one).await, found[&n]);
        let history =
            fixture.archiver.run(&["history", "--source", "orders", "--id", &id, "--format", "json"]).await;
        let ops: Vec<String> =
            history.json_lines().iter().map(|line| line["op"].as_str().unwrap().to_owned()).collect();
        let expected =
            ["insert", "update", "drop", "insert", "update", "rename", "rename", "update", "delete"];
        assert_eq!(ops, expected, "{n}: a rename ends it under one name and begins it under the other");
    }
}

#[tokio::test]
async fn deleted_documents_come_back_while_they_are_hot() {
    deleted_documents_come_back("365d").await;
}

#[tokio::test]
async fn deleted_documents_come_back_from_the_archive() {
    deleted_documents_come_back("0s").await;
}

#[tokio::test]
async fn a_running_service_rolls_and_trims_every_partition() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    configure(
        &fixture,
        "[archive]\nurl = \"{archive}\"\nsegment_max_age = \"1s\"\nhot_retention = \"0s\"\n\n",
    );
    let archiver = fixture.start();
    let documents = (0..100).map(|n| doc! {"_id": n});
    fixture.collection("orders").insert_many(documents).await.unwrap();
    wait_until("everything to be rolled and trimmed", SOON, async || {
        let status: Value = serde_json::from_str(&fixture.ok(&["status", "--format", "json"]).await).unwrap();
        let rows = status.as_array().unwrap();
        let read: i64 = rows.iter().map(|row| row["counters"]["appended"].as_i64().unwrap_or(0)).sum();
        let rolled = rows.iter().all(|row| row["seq"] == row["rolledSeq"]);
        (read >= 100 && rolled && fixture.count("orders").await == 0).then_some(())
    })
    .await;
    archiver.terminate().await.expect_code(0);
    fixture.ok(&["verify"]).await;
    assert_eq!(fixture.ok(&["roll"]).await.lines().count(), 1, "nothing is left but the header");
    let rows = duckdb::query(&format!(
        "SELECT count(*) AS n FROM read_parquet('{}') WHERE op IN ('insert', 'snapshot')",
        fixture.glob("orders")
    ));
    assert_eq!(rows[0]["n"], 100);
}
