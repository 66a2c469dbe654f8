//! Events of more than 16 MiB, which MongoDB can't deliver: stepped over one by one, and nothing around them is touched.

use std::time::Duration;

use archiver_tests::oplog::{self, DOCUMENT_OPS};
use archiver_tests::record::{at, integer, must, of, only, text};
use archiver_tests::truth::assert_dense;
use archiver_tests::workload::seed;
use archiver_tests::{Fixture, Server, wait_until};
use bson::{Bson, Document, RawDocumentBuf, doc};
use mongodb::Collection;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const MIB: usize = 1024 * 1024;
const MOST: usize = 16 * MIB;
const LIMIT: Duration = Duration::from_secs(120);

/// A document with this `_id`, of exactly this many bytes.
fn sized(id: impl Into<Bson>, bytes: usize) -> Document {
    let mut document = doc! {"_id": id.into(), "data": ""};
    let room = bytes - bson::serialize_to_vec(&document).unwrap().len();
    document.insert("data", "x".repeat(room));
    document
}

async fn small(collection: &Collection<Document>, n: i32) {
    collection.insert_one(doc! {"_id": format!("small {n}")}).await.unwrap();
    collection.update_one(doc! {"_id": format!("small {n}")}, doc! {"$set": {"n": n}}).await.unwrap();
}

/// Small changes around several that are too large with their images, and one that is too large without, too.
async fn write(collection: &Collection<Document>) -> String {
    small(collection, 0).await;
    collection.insert_one(sized("nine", 9 * MIB)).await.unwrap();
    small(collection, 1).await;
    collection.update_one(doc! {"_id": "nine"}, doc! {"$set": {"n": 1}}).await.unwrap();
    collection.update_one(doc! {"_id": "nine"}, doc! {"$set": {"n": 2}}).await.unwrap();
    small(collection, 2).await;
    collection.replace_one(doc! {"_id": "nine"}, sized("nine", 15 * MIB)).await.unwrap();
    // The document alone fits a reply, but not together with its key and the token, which hold a long `_id` three times more.
    let long = "k".repeat(10_000);
    collection.insert_one(sized(long.as_str(), MOST)).await.unwrap();
    small(collection, 3).await;
    collection.delete_one(doc! {"_id": "nine"}).await.unwrap();
    // Exactly the largest document there is, under a short key: that one can be had.
    collection.insert_one(sized("most", MOST)).await.unwrap();
    small(collection, 4).await;
    long
}

/// What the records tell of the changes of documents, a gap of one event counting as what it stands for.
fn told(records: &[Document]) -> Vec<oplog::Change> {
    let mut records = records.to_vec();
    for record in &mut records {
        if text(record, "op") == "gap" {
            let op = text(record, "detail.op").to_owned();
            record.insert("op", op);
        }
    }
    oplog::recorded(&records)
}

fn assert_story(records: &[Document], changes: &[oplog::Change], long: &str) {
    assert_dense(records);
    assert_eq!(told(records), changes, "an event is missing, repeated or out of order");
    for update in of(records, &["update"]).into_iter().filter(|r| must(r, "key._id") == &Bson::from("nine")) {
        assert_eq!(must(update, "images"), &Bson::from(doc! {"before": "too-large", "after": "too-large"}));
        assert!(at(update, "delta.updatedFields.n").is_some() && at(update, "before").is_none());
    }
    let replace = only(records, "replace", "nine");
    assert_eq!(must(replace, "images"), &Bson::from(doc! {"before": "too-large"}));
    let after = bson::serialize_to_vec(must(replace, "after").as_document().unwrap()).unwrap();
    assert_eq!(after.len(), 15 * MIB);
    let gap = only(records, "gap", long);
    assert_eq!((text(gap, "detail.reason"), text(gap, "detail.op")), ("event too large", "insert"));
    assert_eq!(at(gap, "detail.collectionUUID"), at(replace, "detail.collectionUUID"));
    assert!(at(gap, "wallTime").is_some() && at(gap, "after").is_none());
    // All others have what they should.
    let others = of(records, &DOCUMENT_OPS).into_iter().filter(|r| text(r, "key._id").starts_with("small"));
    assert!(others.clone().count() == 10 && others.clone().all(|r| at(r, "images").is_none()));
    only(records, "insert", "most");
    assert_eq!(at(only(records, "delete", "nine"), "images"), None, "its image fits");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_too_large_are_stepped_over_whenever_the_archiver_is_killed() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    let mut rng = StdRng::seed_from_u64(seed());
    let lease = "[capture]\nlease_time = \"3s\"\n\n";
    fixture.configure(&(lease.to_owned() + &Fixture::source("s", &["large"])));
    let collection = fixture.create_with_images("large").await;
    fixture.run_once().await;
    let long = write(&collection).await;
    for _ in 0..4 {
        let archiver = fixture.start();
        tokio::time::sleep(Duration::from_millis(rng.random_range(100..1_500))).await;
        archiver.kill().await;
    }
    wait_until("the dead writer's lease to end", LIMIT, async || {
        (fixture.archiver.run(&["run", "--once"]).await.code == Some(0)).then_some(())
    })
    .await;
    let changes = oplog::changes(server.client(), fixture.db.name()).await;
    // The archive has every record whole; the log keeps the parts of large ones elsewhere.
    let history =
        async |id: &str| fixture.archiver.run(&["history", "--source", "s", "--id", id]).await.expect_code(0);
    let mut records = fixture.records("s").await;
    for record in &mut records {
        if let Some(Bson::Document(overflow)) = record.remove("overflow") {
            for part in overflow.keys() {
                record.insert(part.clone(), chunks(&fixture, integer(record, "_id"), part).await);
            }
        }
    }
    assert_story(&records, &changes, &long);
    let counters = must(&fixture.checkpoint("s").await.unwrap(), "counters").clone();
    let counters = counters.as_document().unwrap();
    assert_eq!(integer(counters, "gaps"), 1);
    assert_eq!(integer(counters, "read"), integer(counters, "appended"));
    // What became of the document is unknown from its gap on, and of no other.
    assert!(history(&long).await.stdout.contains("gap"));
    let at = ["recover", "--source", "s", "--at", "2100-01-01T00:00:00Z", "--id"];
    let recover = async |id: &str| fixture.archiver.run(&[&at[..], &[id]].concat()).await;
    recover(&long).await.expect_code(16).expect_message(&["history is missing"]);
    recover("small 4").await.expect_code(0);
    recover("small 0").await.expect_code(0);
}

/// A part of a record that was too large for one document.
async fn chunks(fixture: &Fixture, seq: i64, part: &str) -> Document {
    use futures_util::TryStreamExt;
    let overflow = fixture.audit.collection::<Document>("archiver.overflow");
    let of_part = doc! {"_id.seq": seq, "_id.part": part};
    let found = overflow.find(of_part).sort(doc! {"_id.n": 1}).await.unwrap();
    let chunks: Vec<Document> = found.try_collect().await.unwrap();
    let bytes: Vec<u8> = chunks.iter().flat_map(|c| c.get_binary_generic("data").unwrap().clone()).collect();
    bson::deserialize_from_slice(&bytes).unwrap()
}

/// With images, which MongoDB can't deliver together with it, and without.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_as_large_as_there_is_is_recovered_byte_for_byte() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(
        &("[archive]\nurl = \"{archive}\"\nhot_retention = \"0s\"\n\n".to_owned()
            + &Fixture::source("large", &["plain", "imaged"])),
    );
    fixture.create_with_images("imaged").await;
    fixture.run_once().await;
    let mut expected = Vec::new();
    for name in ["plain", "imaged"] {
        let collection = fixture.collection(name);
        // The update fills it up to the last byte.
        let n = doc! {"n": 1};
        let room = bson::serialize_to_vec(&n).unwrap().len() - 5;
        collection.insert_one(sized(name, MOST - room)).await.unwrap();
        collection.update_one(doc! {}, doc! {"$set": n}).await.unwrap();
        let stored = collection.clone_with_type::<RawDocumentBuf>().find_one(doc! {}).await.unwrap().unwrap();
        assert_eq!(stored.as_bytes().len(), MOST);
        expected.push(stored);
        collection.delete_one(doc! {}).await.unwrap();
    }
    fixture.run_once().await;
    assert_eq!(fixture.count("large").await, 0, "all of it is in the archive");

    for stored in &expected {
        let id = stored.get_str("_id").unwrap();
        let by_id = ["recover", "--source", "large", "--id", id];
        let bytes = fixture.archiver.run_for_bytes(&[&by_id[..], &["--format", "bson"]].concat()).await;
        assert!(bytes == stored.as_bytes(), "{id} as BSON");
        let line: serde_json::Value = serde_json::from_str(&fixture.ok(&by_id).await).unwrap();
        assert!(line["data"] == stored.get_str("data").unwrap(), "{id} as Extended JSON");
        assert_eq!((&line["_id"], &line["n"]["$numberInt"]), (&id.into(), &"1".into()));
    }
    let to = format!("{}.restored", fixture.db.name());
    let since = ["--deleted-since", "2020-01-01T00:00:00Z", "--to-namespace", &to, "--apply"];
    fixture.ok(&[&["recover", "--source", "large"], &since[..]].concat()).await;
    let restored = fixture.collection("restored").clone_with_type::<RawDocumentBuf>();
    for stored in &expected {
        let id = doc! {"_id": stored.get_str("_id").unwrap()};
        assert!(restored.find_one(id).await.unwrap().as_ref() == Some(stored), "written back");
    }
}
