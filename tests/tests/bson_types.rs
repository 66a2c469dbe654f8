//! Documents of every BSON type come back exactly, through the hot tier and through the cold one.

use archiver_tests::bytes::{self, every_type};
use archiver_tests::{Fixture, Server, duckdb};
use bson::{RawDocumentBuf, doc};

/// Splits concatenated BSON, which is self-delimiting.
fn split(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut documents = Vec::new();
    while bytes.len() > 4 {
        let (document, rest) = bytes.split_at(i32::from_le_bytes(bytes[..4].try_into().unwrap()) as usize);
        documents.push(document.to_vec());
        bytes = rest;
    }
    documents
}

/// The `after` part of a stored record, as bytes.
fn after(record: &RawDocumentBuf) -> Vec<u8> {
    record.get_document("after").expect("a record with a state after").as_bytes().to_vec()
}

async fn recovered(fixture: &Fixture, id: &str) -> Vec<Vec<u8>> {
    let outcome =
        fixture.archiver.run_for_bytes(&["recover", "--source", "all", "--id", id, "--format", "bson"]).await;
    split(&outcome)
}

/// Inserts, reads back what the server stored, and compares every tier with it.
async fn every_tier_is_exact(plugin: &str) {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    let archive = "[archive]\nurl = \"{archive}\"\nhot_retention = \"0s\"\n\n";
    let plugins = if plugin.is_empty() { "" } else { "plugins = [\"redact-pii\"]\n" };
    let source = Fixture::source("all", &["with", "without"]);
    fixture.configure(&format!("{archive}{plugin}{}\n{plugins}", source.trim_end()));
    fixture.create_with_images("with").await;
    fixture.collection("without").insert_one(doc! {"_id": 0}).await.unwrap();
    let snapshot = fixture.db.collection::<RawDocumentBuf>("without");
    snapshot.insert_one(every_type(bytes::id(1))).await.unwrap();

    let running = fixture.start();
    archiver_tests::wait_until("the baseline", std::time::Duration::from_secs(30), async || {
        (fixture.count("all").await >= 3).then_some(())
    })
    .await;
    let with = fixture.db.collection::<RawDocumentBuf>("with");
    with.insert_one(every_type(bytes::id(2))).await.unwrap();
    let hot = archiver_tests::wait_until("the insert", std::time::Duration::from_secs(30), async || {
        let records = fixture.raw_records("all").await;
        records.into_iter().find(|r| r.get_str("op").is_ok_and(|op| op == "insert"))
    })
    .await;
    running.terminate().await.expect_code(0);

    let stored = async |name: &str, id: i32| {
        let collection = fixture.db.collection::<RawDocumentBuf>(name);
        collection.find_one(doc! {"_id": id}).await.unwrap().unwrap().as_bytes().to_vec()
    };
    let first = stored("without", 1).await;
    let second = stored("with", 2).await;
    assert_eq!(after(&hot), second, "the hot tier");
    for (name, id) in [("without", 1), ("with", 2)] {
        fixture.collection(name).delete_one(doc! {"_id": id}).await.unwrap();
    }
    fixture.run_once().await;
    assert_eq!(fixture.count("all").await, 0, "everything is in the cold tier");
    assert_eq!(recovered(&fixture, "1").await, [first], "from the baseline");
    assert_eq!(recovered(&fixture, "2").await, [second], "from the pre-image");
    fixture.ok(&["verify"]).await;
}

#[tokio::test]
async fn every_type_survives_both_tiers_exactly() {
    every_tier_is_exact("").await;
}

#[tokio::test]
async fn every_type_survives_a_plugin_that_has_nothing_to_redact() {
    let rule = r#"{ path = "nowhere.at.all", action = "remove" }"#;
    every_tier_is_exact(&Fixture::redact("redact-pii", rule)).await;
}

#[tokio::test]
async fn ids_of_every_type_find_their_document_in_both_tiers() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&Fixture::source("all", &["things"]));
    let long = 5_i64.to_le_bytes().to_vec();
    let sub = bytes::document(&[(0x10, "b", vec![1, 0, 0, 0]), (0x12, "a", long.clone())]);
    let ids: Vec<(u8, Vec<u8>, &str)> = vec![
        (0x02, bytes::string("plain text"), "plain text"),
        (0x02, bytes::string("O'Brien \"x\" ü"), "O'Brien \"x\" ü"),
        (0x07, vec![0xab; 12], "abababababababababababab"),
        (0x10, 7_i32.to_le_bytes().to_vec(), "7"),
        (0x12, 9_007_199_254_740_993_i64.to_le_bytes().to_vec(), "{\"$numberLong\": \"9007199254740993\"}"),
        (0x01, 1.5_f64.to_le_bytes().to_vec(), "1.5"),
        (
            0x05,
            bytes::binary(4, &[0x11; 16]),
            "{\"$binary\": {\"base64\": \"EREREREREREREREREREREQ==\", \"subType\": \"04\"}}",
        ),
        (0x09, 0_i64.to_le_bytes().to_vec(), "{\"$date\": {\"$numberLong\": \"0\"}}"),
        (0x08, vec![1], "true"),
        (0x0a, vec![], "null"),
        (0x03, sub, "{\"b\": 1, \"a\": {\"$numberLong\": \"5\"}}"),
    ];
    let collection = fixture.db.collection::<RawDocumentBuf>("things");
    for (n, (kind, payload, _)) in (0_i32..).zip(&ids) {
        let document =
            bytes::document(&[(*kind, "_id", payload.clone()), (0x10, "n", n.to_le_bytes().to_vec())]);
        collection.insert_one(RawDocumentBuf::from_bytes(document).unwrap()).await.unwrap();
    }
    fixture.run_once().await;
    collection.delete_many(doc! {}).await.unwrap();
    fixture.run_once().await;
    for tier in ["hot and cold", "cold"] {
        for (n, (_, _, id)) in ids.iter().enumerate() {
            let command = ["recover", "--source", "all", "--id", id];
            let found = fixture.archiver.run(&command).await.expect_code(0);
            let document = &found.json_lines()[0];
            assert_eq!(document["n"]["$numberInt"], n.to_string(), "{id} in {tier}");
        }
        fixture.audit.collection::<RawDocumentBuf>("all").delete_many(doc! {}).await.unwrap();
    }
    assert_eq!(
        duckdb::query(&format!(
            "SELECT DISTINCT doc_id FROM '{}' WHERE doc_id IS NOT NULL",
            fixture.glob("all")
        ))
        .len(),
        ids.len()
    );
}
