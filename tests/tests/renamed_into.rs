//! A collection takes a watched name: what was there before can be recovered, and what is there now is known.

use std::time::Duration;

use archiver_tests::record::{at, integer, must, of, text};
use archiver_tests::truth::assert_dense;
use archiver_tests::{Fixture, Server, wait_until};
use bson::{Document, doc};
use futures_util::TryStreamExt;

const LIMIT: Duration = Duration::from_secs(60);

fn document(id: i32, n: i32) -> Document {
    doc! {"_id": id, "n": n}
}

/// `_id` and what a comparison found.
fn found(records: &[Document]) -> Vec<(i64, &str)> {
    let found = records.iter().filter(|r| at(r, "detail.found").is_some());
    let mut found: Vec<_> = found.map(|r| (integer(r, "key._id"), text(r, "detail.found"))).collect();
    found.sort_unstable();
    found
}

async fn recovered(fixture: &Fixture, arguments: &[&str]) -> Document {
    let all = [&["recover", "--source", "orders", "--format", "bson"], arguments].concat();
    bson::deserialize_from_slice(&fixture.archiver.run_for_bytes(&all).await).unwrap()
}

/// What `recover --deleted-since` gives back, by `_id`, while the audit log has it and when only the archive does.
async fn deleted(fixture: &Fixture, watch: &str) -> [Vec<Document>; 2] {
    let deleted = async || {
        let since = ["recover", "--source", "orders", "--deleted-since", "2020-01-01T00:00:00Z"];
        let bytes = fixture.archiver.run_for_bytes(&[&since[..], &["--format", "bson"]].concat()).await;
        let mut rest = &bytes[..];
        let mut documents: Vec<Document> = Vec::new();
        while !rest.is_empty() {
            documents.push(Document::from_reader(&mut rest).unwrap());
        }
        documents.sort_by_key(|document| integer(document, "_id"));
        documents
    };
    let hot = deleted().await;
    let archive = "[archive]\nurl = \"{archive}\"\nhot_retention = \"0s\"\n\n".to_owned();
    fixture.configure(&(archive + &Fixture::source("orders", &[watch])));
    fixture.run_once().await;
    assert_eq!(fixture.count("orders").await, 0, "everything is trimmed");
    [hot, deleted().await]
}

/// Replaces the watched collection while the archiver runs, by `$out` or by a rename, and looks at what is known of the
/// documents before and after.
async fn a_collection_is_replaced(by_out: bool) {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&Fixture::source("orders", &["orders"]));
    let orders = fixture.collection("orders");
    orders.insert_many([document(1, 0), document(2, 0), document(3, 0)]).await.unwrap();
    fixture.run_once().await;
    let archiver = fixture.start();
    orders.update_one(doc! {"_id": 2}, doc! {"$inc": {"n": 1}}).await.unwrap();
    let other = fixture.collection("other");
    other.insert_many([document(1, 0), document(2, 7), document(4, 7)]).await.unwrap();
    if by_out {
        other.aggregate([doc! {"$out": "orders"}]).await.unwrap().try_collect::<Vec<_>>().await.unwrap();
    } else {
        let name = |c: &str| format!("{}.{c}", fixture.db.name());
        let rename = doc! {"renameCollection": name("other"), "to": name("orders"), "dropTarget": true};
        server.client().database("admin").run_command(rename).await.unwrap();
    }
    orders.update_one(doc! {"_id": 4}, doc! {"$inc": {"n": 1}}).await.unwrap();
    wait_until("the comparison", LIMIT, async || {
        let records = fixture.records("orders").await;
        of(&records, &["gap"]).iter().any(|r| at(r, "detail.closes").is_some()).then_some(())
    })
    .await;
    orders.update_one(doc! {"_id": 1}, doc! {"$inc": {"n": 1}}).await.unwrap();
    archiver.terminate().await.expect_code(0);
    fixture.run_once().await;

    let records = fixture.records("orders").await;
    assert_dense(&records);
    assert_eq!(found(&records), [(2, "changed"), (3, "deleted"), (4, "inserted")]);
    let rename = of(&records, &["rename"])[0];
    assert_eq!(at(rename, "detail.fromWatched"), None);
    let opening = of(&records, &["gap"])[0];
    assert_eq!(integer(opening, "_id"), integer(rename, "_id") + 1, "in one transaction, right behind it");
    assert_eq!(text(opening, "detail.reason"), "renamed-into");
    for name in ["clusterTime", "detail.after", "detail.until"] {
        assert_eq!(must(opening, name), must(rename, "clusterTime"));
    }
    assert_eq!(text(opening, "ns.coll"), "orders");
    assert_eq!(integer(&fixture.checkpoint("orders").await.unwrap(), "counters.gaps"), 1);

    // As they were when the other collection came.
    assert_eq!(recovered(&fixture, &["--id", "3"]).await, document(3, 0));
    // As they are.
    let later = ["--at", "2100-01-01T00:00:00Z"];
    for (id, n) in [("1", 1), ("2", 7), ("4", 8)] {
        let now = recovered(&fixture, &[&["--id", id][..], &later[..]].concat()).await;
        assert_eq!(now, document(id.parse().unwrap(), n));
    }
    let shown = fixture.ok(&["history", "--source", "orders", "--id", "2"]).await;
    assert!(shown.contains("rename") && shown.contains("n: 1 → 7"), "{shown}");
    fixture.ok(&["verify"]).await;
    for tier in deleted(&fixture, "orders").await {
        assert_eq!(tier, [document(3, 0)], "the only one that is not there any more");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn out_over_a_watched_collection_is_compared_with_what_was_there() {
    a_collection_is_replaced(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rename_over_a_watched_collection_is_compared_with_what_was_there() {
    a_collection_is_replaced(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_of_a_watched_collection_are_known_to_move_and_what_they_replace_has_ended() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&Fixture::source("orders", &["*"]));
    let (old, new) = (fixture.collection("orders"), fixture.collection("next"));
    old.insert_many([document(1, 0), document(2, 0)]).await.unwrap();
    new.insert_many([document(2, 5), document(3, 5)]).await.unwrap();
    fixture.run_once().await;
    let name = |c: &str| format!("{}.{c}", fixture.db.name());
    let rename = doc! {"renameCollection": name("next"), "to": name("orders"), "dropTarget": true};
    server.client().database("admin").run_command(rename).await.unwrap();
    old.update_one(doc! {"_id": 3}, doc! {"$inc": {"n": 1}}).await.unwrap();
    // All of it within the watched database: the temporary collection is watched too.
    let copy = [doc! {"$match": {"_id": {"$ne": 2}}}, doc! {"$out": "orders"}];
    old.aggregate(copy).await.unwrap().try_collect::<Vec<_>>().await.unwrap();
    fixture.run_once().await;
    let records = fixture.records("orders").await;
    assert_dense(&records);
    assert!(of(&records, &["gap"]).is_empty(), "nothing is missing");
    for rename in of(&records, &["rename"]) {
        assert_eq!(at(rename, "detail.fromWatched"), Some(&true.into()));
    }
    let orders = name("orders");
    for (id, n) in [("1", 0), ("2", 5)] {
        let ended = recovered(&fixture, &["--namespace", &orders, "--id", id]).await;
        assert_eq!(ended, document(id.parse().unwrap(), n));
    }
    let now = ["--namespace", &orders, "--id", "3", "--at", "2100-01-01T00:00:00Z"];
    assert_eq!(recovered(&fixture, &now).await, document(3, 6));
    for tier in deleted(&fixture, "*").await {
        assert_eq!(tier, [document(1, 0), document(2, 5)]);
    }
}
