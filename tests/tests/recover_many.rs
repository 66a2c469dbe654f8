//! Recoveries of many documents: each selection gives exactly what the server itself had, and says what it can't give.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use archiver_tests::workload::{Workload, seed};
use archiver_tests::{Fixture, Server, duckdb, tools, wait_until};
use bson::{Bson, Document, RawDocumentBuf, doc};
use futures_util::TryStreamExt;
use mongodb::Collection;

const LIMIT: Duration = Duration::from_secs(60);
const NOT_FOUND: i32 = 16;
const INVALID: i32 = 10;
const USAGE: i32 = 2;
/// Conditions as the command takes them, and as MongoDB does.
fn conditions() -> Vec<(Vec<&'static str>, Document)> {
    let less: Bson = 500_000_i64.into();
    vec![
        (vec!["status=new"], doc! {"status": "new"}),
        (vec!["status!=new"], doc! {"status": {"$ne": "new"}}),
        (vec!["tags=a"], doc! {"tags": "a"}),
        (vec!["items.count=1"], doc! {"items.count": 1}),
        (vec!["items.0.count=2.0"], doc! {"items.0.count": 2}),
        (vec!["customer.address=null"], doc! {"customer.address": Bson::Null}),
        (vec!["customer.address.zip<500000"], doc! {"customer.address.zip": {"$lt": less}}),
        (vec!["total>=50000.5", "n>1"], doc! {"total": {"$gte": 50_000.5}, "n": {"$gt": 1}}),
        (vec!["paid=true"], doc! {"paid": true}),
        (vec!["items=[]"], doc! {"items": []}),
    ]
}

/// Documents by `_id`.
type Found = BTreeMap<i32, Vec<u8>>;

fn by_id(documents: impl IntoIterator<Item = RawDocumentBuf>) -> Found {
    let mut found = Found::new();
    for document in documents {
        let id = document.get_i32("_id").unwrap();
        assert_eq!(found.insert(id, document.into_bytes()), None, "{id} twice");
    }
    found
}

/// Concatenated BSON, read by the driver.
fn bson_of(bytes: &[u8]) -> Vec<RawDocumentBuf> {
    let (mut rest, mut documents) = (bytes, Vec::new());
    while !rest.is_empty() {
        let len = i32::from_le_bytes(rest[..4].try_into().unwrap()) as usize;
        documents.push(RawDocumentBuf::from_bytes(rest[..len].to_vec()).unwrap());
        rest = &rest[len..];
    }
    documents
}

async fn query(collection: &Collection<Document>, filter: Document) -> Found {
    let raw = collection.clone_with_type::<RawDocumentBuf>();
    let found: Vec<RawDocumentBuf> = raw.find(filter).await.unwrap().try_collect().await.unwrap();
    by_id(found)
}

fn now() -> i64 {
    bson::DateTime::now().timestamp_millis() / 1000
}

/// The next whole second: everything until now happened in an earlier one, and nothing happens in it.
async fn moment() -> String {
    let then = now() + 1;
    wait_until("the next second", LIMIT, async || (now() > then).then_some(())).await;
    bson::DateTime::from_millis(then * 1000).try_to_rfc3339_string().unwrap()
}

async fn recovered(fixture: &Fixture, arguments: &[&str]) -> Found {
    let source = ["recover", "--source", "orders", "--format", "bson"];
    let bytes = fixture.archiver.run_for_bytes(&[&source[..], arguments].concat()).await;
    by_id(bson_of(&bytes))
}

/// Moments of a random history, with what the server had at each: everything, and what met each of the conditions.
struct Moments {
    fixture: Fixture,
    moments: Vec<(String, Found, Vec<Found>)>,
}

async fn moments(images: bool, hot_retention: &str) -> Moments {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&format!(
        "[archive]\nurl = \"{{archive}}\"\nhot_retention = \"{hot_retention}\"\n\n{}",
        Fixture::source("orders", &["orders"])
    ));
    if images {
        fixture.create_with_images("orders").await;
    }
    let orders = fixture.collection("orders");
    let mut workload = Workload::new(server.client(), orders.clone(), seed());
    workload.run(60).await;
    fixture.run_once().await;
    let mut moments = Vec::new();
    for round in 0..4 {
        workload.run(150).await;
        let mut met = Vec::new();
        for (_, filter) in conditions() {
            met.push(query(&orders, filter).await);
        }
        let all = query(&orders, doc! {}).await;
        moments.push((moment().await, all, met));
        if round == 1 {
            fixture.run_once().await;
        }
    }
    fixture.run_once().await;
    Moments { fixture, moments }
}

async fn a_collection_is_what_the_server_had(images: bool, hot_retention: &str) {
    let Moments { fixture, moments } = moments(images, hot_retention).await;
    for (at, all, met) in &moments {
        assert_eq!(&recovered(&fixture, &["--all", "--at", at]).await, all, "at {at}");
        for ((texts, filter), expected) in conditions().iter().zip(met) {
            let mut arguments = vec!["--at", at.as_str()];
            texts.iter().for_each(|text| arguments.extend(["--where", *text]));
            assert_eq!(&recovered(&fixture, &arguments).await, expected, "{filter} at {at}");
        }
    }
    // At some moment there may be little: chance has it.
    assert!(moments.iter().any(|(_, all, _)| all.len() > 20));
    assert!(moments.iter().any(|(.., met)| met.iter().any(|met| !met.is_empty())));
}

#[tokio::test]
async fn a_collection_as_of_a_time_is_what_the_server_had_with_images() {
    a_collection_is_what_the_server_had(true, "7d").await;
}

#[tokio::test]
async fn a_collection_as_of_a_time_is_what_the_server_had_without_images_and_out_of_the_archive() {
    a_collection_is_what_the_server_had(false, "0s").await;
}

#[tokio::test]
async fn ids_from_a_file_give_what_the_server_had_and_name_what_it_had_not() {
    let Moments { fixture, moments } = moments(false, "7d").await;
    let (at, all, _) = &moments[2];
    let file = fixture.path("ids");
    // More than are looked up one by one, and fewer.
    for take in [1_000, 7] {
        let wanted: Found = all.iter().take(take).map(|(id, bytes)| (*id, bytes.clone())).collect();
        let lines: Vec<String> = wanted.keys().map(i32::to_string).collect();
        std::fs::write(&file, lines.join("\n") + "\r\n\n").unwrap();
        let arguments = ["--ids-from", file.to_str().unwrap(), "--at", at];
        assert_eq!(recovered(&fixture, &arguments).await, wanted);
        std::fs::write(&file, lines.join("\n") + "\nnever\n{\"$numberLong\": \"999999\"}\n").unwrap();
        let command = ["recover", "--source", "orders"];
        let outcome = fixture.archiver.run(&[&command[..], &arguments].concat()).await.expect_code(NOT_FOUND);
        assert_eq!(outcome.json_lines().len(), wanted.len());
        assert!(
            outcome.stderr.contains("\"never\"") && outcome.stderr.contains("999999"),
            "{}",
            outcome.stderr
        );
    }
    let mut from_stdin = Command::new(tools::archiver())
        .arg("--config")
        .arg(fixture.path("archiver.toml"))
        .args(["recover", "--source", "orders", "--ids-from", "-", "--at", at])
        .env("ARCHIVER_TEST_URI", fixture.uri())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let two: Vec<String> = all.keys().take(2).map(|id| format!("{id}\n")).collect();
    from_stdin.stdin.take().unwrap().write_all(two.concat().as_bytes()).unwrap();
    let output = from_stdin.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stdout.iter().filter(|b| **b == b'\n').count()), (Some(0), 2));
    std::fs::write(&file, "{oops\n").unwrap();
    let bad = ["recover", "--source", "orders", "--ids-from", file.to_str().unwrap()];
    fixture.archiver.run(&bad).await.expect_code(INVALID).expect_message(&["line 1"]);
    fixture.archiver.run(&["recover", "--source", "orders", "--all"]).await.expect_code(USAGE);
    fixture.archiver.run(&["recover", "--source", "orders"]).await.expect_code(USAGE);
}

#[tokio::test]
async fn without_a_time_a_condition_selects_among_the_deleted_as_they_were_last() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&Fixture::source("orders", &["orders"]));
    let orders = fixture.collection("orders");
    let documents = (0..100).map(|n| doc! {"_id": n, "status": if n % 2 == 0 { "open" } else { "closed" }});
    orders.insert_many(documents).await.unwrap();
    fixture.run_once().await;
    orders.update_many(doc! {"_id": {"$lt": 10}}, doc! {"$set": {"status": "open"}}).await.unwrap();
    let expected = query(&orders, doc! {"_id": {"$lt": 50, "$ne": 3}, "status": "open"}).await;
    orders.delete_many(doc! {"_id": {"$lt": 50}}).await.unwrap();
    orders.insert_one(doc! {"_id": 3, "status": "open"}).await.unwrap();
    fixture.run_once().await;
    assert_eq!(recovered(&fixture, &["--where", "status=open"]).await, expected);
    let since = ["--deleted-since", "2020-01-01T00:00:00Z", "--where", "status=open"];
    assert_eq!(recovered(&fixture, &since).await, expected);
    let later = ["--deleted-since", "2099-01-01T00:00:00Z", "--where", "status=open"];
    assert_eq!(recovered(&fixture, &later).await, Found::new());
}

#[tokio::test]
async fn what_history_cant_tell_is_named_with_its_reason() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&(Fixture::source("orders", &["orders"]) + "snapshot = \"never\"\n"));
    let orders = fixture.collection("orders");
    orders.insert_many([doc! {"_id": 1, "n": 0}, doc! {"_id": 2, "n": 0}]).await.unwrap();
    fixture.run_once().await;
    orders.update_many(doc! {}, doc! {"$inc": {"n": 1}}).await.unwrap();
    orders.insert_one(doc! {"_id": 3, "n": 1}).await.unwrap();
    let at = moment().await;
    orders.update_many(doc! {}, doc! {"$inc": {"n": 1}}).await.unwrap();
    fixture.run_once().await;
    let command = ["recover", "--source", "orders", "--at", &at];
    for selection in [&["--all"][..], &["--where", "n=1"]] {
        let outcome = fixture.archiver.run(&[&command[..], selection].concat()).await.expect_code(NOT_FOUND);
        assert_eq!(outcome.json_lines().len(), 1, "{}", outcome.stdout);
        let named = format!(
            "not recovered: \"1\" of {}.orders: nothing is kept of it from before",
            fixture.db.name()
        );
        assert!(
            outcome.stderr.contains(&named) && outcome.stderr.contains("1 recovered, 2 not"),
            "{}",
            outcome.stderr
        );
    }
}

/// NDJSON as another program reads it, and BSON as the driver does, hold the same documents: every type, and one as large as there is.
#[tokio::test]
async fn both_formats_are_read_by_others_and_a_document_of_16_mb_comes_back() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&Fixture::source("orders", &["orders"]));
    let orders = fixture.create_with_images("orders").await;
    let large = "x".repeat(16 * 1024 * 1024 - 60);
    orders.insert_one(doc! {"_id": 1, "text": &large}).await.unwrap();
    let many = doc! {"_id": 2, "long": 7_i64, "double": 1.0, "date": bson::DateTime::from_millis(-1), "list": [1, 2_i64, "b"],
    "decimal": "1.50".parse::<bson::Decimal128>().unwrap(), "null": Bson::Null, "bytes": bson::Binary {
        subtype: bson::spec::BinarySubtype::Generic, bytes: vec![0, 1, 255] }, "time": bson::Timestamp { time: 7, increment: 2 }};
    orders.insert_one(&many).await.unwrap();
    fixture.run_once().await;
    let all = query(&orders, doc! {}).await;
    orders.delete_many(doc! {}).await.unwrap();
    fixture.run_once().await;
    let since = ["--deleted-since", "2020-01-01T00:00:00Z"];
    assert!(recovered(&fixture, &since).await == all);
    let at = moment().await;
    assert!(recovered(&fixture, &["--all", "--at", &at]).await.is_empty());
    let lines = fixture.ok(&[&["recover", "--source", "orders"][..], &since].concat()).await;
    let file = fixture.path("recovered.json");
    std::fs::write(&file, &lines).unwrap();
    // The driver's own parser, and DuckDB's.
    let mut read = Vec::new();
    for line in lines.lines() {
        let document: Document = serde_json::from_str(line).unwrap();
        read.push(RawDocumentBuf::try_from(&document).unwrap());
    }
    assert!(by_id(read) == all);
    let rows = duckdb::query(&format!(
        "SELECT _id->>'$.\"$numberInt\"' AS id, long->>'$.\"$numberLong\"' AS long, length(text) AS text FROM \
         read_json('{}', format='newline_delimited', columns={{_id: 'JSON', long: 'JSON', text: 'VARCHAR'}}, maximum_object_size=20000000) ORDER BY id",
        file.display()
    ));
    assert_eq!((rows[0]["text"].as_u64(), rows[1]["long"].as_str()), (Some(large.len() as u64), Some("7")));
}

#[tokio::test]
async fn twelve_thousand_deleted_documents_come_back_and_are_written_back() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&Fixture::source("orders", &["orders"]));
    let orders = fixture.collection("orders");
    for part in 0..3 {
        let documents = (0..4_000).map(|n| doc! {"_id": part * 4_000 + n, "n": n, "part": part});
        orders.insert_many(documents).await.unwrap();
    }
    fixture.run_once().await;
    orders.update_many(doc! {"part": 1}, doc! {"$set": {"seen": true}}).await.unwrap();
    let all = query(&orders, doc! {}).await;
    let at = moment().await;
    orders.delete_many(doc! {}).await.unwrap();
    fixture.run_once().await;
    assert!(recovered(&fixture, &["--deleted-since", "2020-01-01T00:00:00Z"]).await == all);
    assert!(recovered(&fixture, &["--all", "--at", &at]).await == all);
    let target = format!("{}.orders", fixture.db.name());
    let command = ["recover", "--source", "orders", "--all", "--at", &at, "--to-namespace", &target];
    let plan = fixture.archiver.run(&command).await.expect_code(0);
    assert!(plan.stderr.contains("plan: 12000 will be inserted, 0 identical"), "{}", plan.stderr);
    assert_eq!(orders.count_documents(doc! {}).await.unwrap(), 0, "nothing is written without --apply");
    let done = fixture.archiver.run(&[&command[..], &["--apply"]].concat()).await.expect_code(0);
    assert!(done.stderr.contains("done: 12000 inserted, 0 identical"), "{}", done.stderr);
    assert!(query(&orders, doc! {}).await == all);
}
