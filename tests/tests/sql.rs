//! What `archiver sql` prints runs in DuckDB as pasted, and its macros answer what really happened.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use archiver_tests::cloud::{AZURE_KEY, Bucket, Kind};
use archiver_tests::oplog::{self, Change};
use archiver_tests::record::{at, integer, of, time};
use archiver_tests::workload::{Workload, seed};
use archiver_tests::{Fixture, Server, duckdb, wait_until};
use bson::{Bson, Document, RawDocumentBuf, doc};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);
const SMALL: &str = "segment_max_bytes = \"64KiB\"";

/// What happened to one collection, read while it happened and from the oplog, and how to ask the archive.
struct Asked {
    statements: String,
    ask: fn(&str) -> Vec<Value>,
    changes: Vec<Change>,
    states: BTreeMap<i32, Vec<Option<RawDocumentBuf>>>,
}

/// A document's changes, with what it was after each.
type Versions<'a> = Vec<(&'a Change, Option<Value>)>;

impl Asked {
    fn query(&self, sql: &str) -> Vec<Value> {
        (self.ask)(&format!("{};\n{sql}", self.statements))
    }

    fn versions(&self) -> BTreeMap<i32, Versions<'_>> {
        let mut versions: BTreeMap<i32, Versions<'_>> = BTreeMap::new();
        for change in &self.changes {
            let id = change.id.as_i32().expect("an id of the workload");
            let of_document = versions.entry(id).or_default();
            let state = self.states[&id][of_document.len()].as_ref();
            of_document.push((change, state.map(relaxed)));
        }
        versions
    }

    fn assert_true(&self) {
        self.changes_of();
        self.doc_at();
        for path in ["status", "customer.address.city", "items.0.sku", "n"] {
            self.field_changes(path);
        }
        self.deleted_between();
    }

    fn changes_of(&self) {
        let versions = self.versions();
        let (id, longest) = versions.iter().max_by_key(|(_, versions)| versions.len()).unwrap();
        let rows = self.query(&format!(
            "SELECT op, epoch(cluster_time)::BIGINT AS t, cluster_inc AS i FROM changes_of('orders', '{id}')"
        ));
        let expected: Vec<_> = longest
            .iter()
            .map(|(c, _)| json!({"op": c.op, "t": c.time.time, "i": c.time.increment}))
            .collect();
        assert_eq!(rows, expected);
    }

    /// Documents at the beginnings of seconds: before their first change, between changes, and after the last.
    fn doc_at(&self) {
        let (mut questions, mut expected) = (Vec::new(), Vec::new());
        for (id, versions) in self.versions().iter().step_by(3).take(15) {
            let time = |n: usize| versions[n].0.time.time;
            let last = versions.len() - 1;
            for time in [time(0), time(last / 2) + 1, time(last), time(last) + 1] {
                let n = questions.len();
                questions.push(format!(
                    "SELECT {n} AS n, state, document FROM doc_at('orders', '{id}', to_timestamp({time}))"
                ));
                let happened = versions.iter().take_while(|(change, _)| change.time.time < time);
                expected.push(match happened.last() {
                    None => ("not yet", Value::Null),
                    Some((_, None)) => ("deleted", Value::Null),
                    Some((_, Some(document))) => ("present", document.clone()),
                });
            }
        }
        let rows = self.query(&format!("FROM ({}) ORDER BY n", questions.join(" UNION ALL ")));
        let found = rows.iter().map(|row| (row["state"].as_str().unwrap(), parsed(&row["document"])));
        assert_eq!(found.collect::<Vec<_>>(), expected);
        for state in ["not yet", "deleted", "present"] {
            assert!(expected.iter().any(|(found, _)| *found == state), "nothing was asked that is {state}");
        }
    }

    fn field_changes(&self, path: &str) {
        let field = |document: &Option<Value>| {
            let pointer = format!("/{}", path.replace('.', "/"));
            document.as_ref().and_then(|document| document.pointer(&pointer)).cloned().unwrap_or_default()
        };
        let mut expected = Vec::new();
        for (id, versions) in self.versions() {
            let mut before = None;
            for (change, after) in versions {
                let (old, new) = (field(&before), field(&after));
                if old != new {
                    expected.push((change.time, json!([id.to_string(), change.op, old, new, true])));
                }
                before = after;
            }
        }
        // Changes of one transaction have one time.
        expected.sort_by_key(|(time, change)| (*time, change[0].as_str().unwrap().to_owned()));
        let rows = self.query(&format!(
            "SELECT c.doc_id, c.op, old_value, new_value, exact FROM field_changes('orders', '{path}') AS c \
             JOIN orders USING (seq) ORDER BY orders.cluster_time, orders.cluster_inc, orders.doc_id"
        ));
        let found = rows.iter().map(|row| {
            json!([
                row["doc_id"],
                row["op"],
                parsed(&row["old_value"]),
                parsed(&row["new_value"]),
                row["exact"]
            ])
        });
        let expected: Vec<Value> = expected.into_iter().map(|(_, change)| change).collect();
        assert!(expected.len() > 20, "{path} hardly changes");
        assert_eq!(found.collect::<Vec<_>>(), expected, "{path}");
    }

    fn deleted_between(&self) {
        let times: Vec<u32> = self.changes.iter().filter(|c| c.op == "delete").map(|c| c.time.time).collect();
        let (first, last) = (times[0], times[times.len() - 1]);
        let middle = times[times.len() / 2];
        for (from, to) in [(first, last + 1), (first, middle), (middle, last), (last + 1, last + 100)] {
            let rows = self.query(&format!(
                "SELECT doc_id, document FROM deleted_between('orders', to_timestamp({from}), to_timestamp({to}))"
            ));
            let mut expected = Vec::new();
            for (id, versions) in self.versions() {
                for pair in versions.windows(2).filter(|pair| pair[1].1.is_none()) {
                    let time = pair[1].0.time;
                    if (from..to).contains(&time.time) {
                        expected.push((time, json!([id.to_string(), pair[0].1])));
                    }
                }
            }
            expected.sort_by_key(|(time, _)| *time);
            let expected: Vec<_> = expected.into_iter().map(|(_, deleted)| deleted).collect();
            let found = rows.iter().map(|row| json!([row["doc_id"], parsed(&row["document"])]));
            assert_eq!(found.collect::<Vec<_>>(), expected, "{from} to {to}");
        }
    }
}

/// A document of the workload as relaxed Extended JSON.
fn relaxed(document: &RawDocumentBuf) -> Value {
    let document: Document = bson::deserialize_from_slice(document.as_bytes()).expect("BSON");
    // Numbers as they are read, which is not to the last bit.
    parsed(&json_of(&Bson::Document(document)).to_string().into())
}

fn json_of(value: &Bson) -> Value {
    match value {
        Bson::Document(document) => {
            document.iter().map(|(name, value)| (name.clone(), json_of(value))).collect()
        }
        Bson::Array(items) => items.iter().map(json_of).collect(),
        Bson::String(text) => json!(text),
        Bson::Int32(number) => json!(number),
        Bson::Int64(number) => json!(number),
        Bson::Double(number) => json!(number),
        Bson::Boolean(value) => json!(value),
        Bson::Null => Value::Null,
        Bson::DateTime(time) => json!({"$date": iso(*time)}),
        other => panic!("the workload writes no {other:?}"),
    }
}

/// With three digits behind the second, or none, as docs/format.md has it.
fn iso(time: bson::DateTime) -> String {
    let text = time.try_to_rfc3339_string().expect("a time of today");
    match text.trim_end_matches('Z').split_once('.') {
        Some((seconds, fraction)) => format!("{seconds}.{fraction:0<3}Z"),
        None => text,
    }
}

/// A JSON column's value.
fn parsed(column: &Value) -> Value {
    column.as_str().map(|text| serde_json::from_str(text).expect("JSON")).unwrap_or_default()
}

/// Runs a workload with images, rolls it, and asks.
async fn asked(fixture: &Fixture, server: &Server) -> Asked {
    fixture.create_with_images("orders").await;
    fixture.run_once().await;
    let mut workload = Workload::new(server.client(), fixture.collection("orders"), seed());
    workload.run(350).await;
    fixture.run_once().await;
    let changes = oplog::changes(server.client(), &format!("{}.orders", fixture.db.name())).await;
    let statements = fixture.ok(&["sql"]).await;
    Asked { statements, ask: duckdb::query, changes, states: workload.states }
}

#[tokio::test]
async fn the_macros_tell_what_happened_in_both_versions_of_duckdb() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&format!(
        "[archive]\nurl = \"{{archive}}\"\n{SMALL}\n\n{}",
        Fixture::source("orders", &["orders"])
    ));
    let mut asked = asked(&fixture, &server).await;
    asked.assert_true();
    asked.ask = duckdb::query_next;
    asked.assert_true();
}

async fn in_a_bucket(kind: Kind, placeholders: &[(&str, &str)]) {
    let server = Server::shared().await;
    let (fixture, bucket) = (Fixture::new(&server), Bucket::new(kind).await);
    fixture.configure(&(bucket.section(SMALL) + &Fixture::source("orders", &["orders"])));
    let mut asked = asked(&fixture, &server).await;
    // DuckDB gets the extension from the network; here it is loaded from a file. The rest is as printed.
    for (placeholder, value) in placeholders {
        assert!(asked.statements.contains(placeholder), "{}", asked.statements);
        asked.statements = asked.statements.replace(placeholder, value);
    }
    let extension = if kind == Kind::S3 { "httpfs" } else { "azure" };
    asked.statements = archiver_tests::cloud::load_extension(extension) + &asked.statements;
    asked.assert_true();
}

#[tokio::test]
async fn the_macros_tell_what_happened_on_s3() {
    in_a_bucket(Kind::S3, &[("<access key id>", "test"), ("<secret access key>", "secret-of-the-test")])
        .await;
}

#[tokio::test]
async fn the_macros_tell_what_happened_on_azure() {
    in_a_bucket(Kind::Azure, &[("<account key>", AZURE_KEY)]).await;
}

#[tokio::test]
async fn the_printed_statements_run_as_they_are_also_with_sources_that_are_empty() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    let sources = Fixture::source("orders", &["orders"]) + &Fixture::source("all_changes", &["other"]);
    fixture.configure(&sources);
    fixture.run_once().await;
    Workload::new(server.client(), fixture.collection("orders"), seed()).run(100).await;
    fixture.run_once().await;
    fixture.configure(&(sources + &Fixture::source("not-yet", &["more"])));
    let statements = fixture.ok(&["sql"]).await;
    for query in [duckdb::query, duckdb::query_next] {
        let views = query(&format!("{statements}\n;SELECT view_name FROM duckdb_views() WHERE NOT internal"));
        let names: Vec<_> = views.iter().map(|view| view["view_name"].as_str().unwrap()).collect();
        assert_eq!(names.len(), 4, "{names:?}");
        let counts: Vec<_> = ["orders", "source_all_changes", "not-yet"]
            .map(|name| format!("(SELECT count(*) FROM \"{name}\")"))
            .to_vec();
        let row = &query(&format!("{statements}\n;SELECT [{}] AS counts", counts.join(", ")))[0]["counts"];
        assert!(row[0].as_i64().unwrap() > 50 && row[1] == 1 && row[2] == 0, "{row}");
    }
}

/// One more day, so that there is something to leave out.
#[tokio::test]
async fn a_date_in_a_filter_is_a_question_of_few_files() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&Fixture::source("orders", &["orders"]));
    fixture.run_once().await;
    Workload::new(server.client(), fixture.collection("orders"), seed()).run(100).await;
    fixture.run_once().await;
    let segments: Vec<_> = fixture
        .archive_files()
        .into_iter()
        .filter(|f| f.extension().is_some_and(|e| e == "parquet"))
        .collect();
    let other_day = fixture.archive().join("source=orders/date=2020-02-29");
    std::fs::create_dir_all(&other_day).unwrap();
    std::fs::copy(segments.last().unwrap(), other_day.join("seg-00000000000000099999.parquet")).unwrap();
    let statements = fixture.ok(&["sql"]).await;
    let files = segments.len() + 1;
    for query in [duckdb::query, duckdb::query_next] {
        for (sql, opened) in [
            ("SELECT sum(seq) FROM orders WHERE date = '2020-02-29'", 1),
            ("SELECT sum(seq) FROM all_changes WHERE source = 'orders' AND date < '2021-01-01'", 1),
            ("SELECT sum(seq) FROM all_changes WHERE date >= '2021-01-01'", files - 1),
            ("SELECT sum(seq) FROM deleted_between('orders', '2021-01-01', '2100-01-01')", files - 1),
            ("SELECT sum(seq) FROM all_changes WHERE source = 'others'", 0),
        ] {
            let explained = &query(&format!("{statements}\n;EXPLAIN ANALYZE {sql}"))[0]["explain_value"];
            let explained = explained.as_str().unwrap();
            let expected = format!("Scanning Files: {opened}/{files}");
            let nothing = opened == 0 && !explained.contains("Scanning Files");
            assert!(nothing || explained.contains(&expected), "{sql}: {expected}\n{explained}");
        }
    }
}

/// MongoDB takes 7, NumberLong(7) and 7.0 for one `_id`, and each text for another one.
#[tokio::test]
async fn numbers_that_are_one_id_are_one_document_and_texts_are_others() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&Fixture::source("orders", &["orders"]));
    let orders = fixture.create_with_images("orders").await;
    fixture.run_once().await;
    orders.insert_many([doc! {"_id": "7", "n": "text"}, doc! {"_id": "7.0", "n": "other"}]).await.unwrap();
    for (id, n) in [(Bson::Int32(7), 1), (Bson::Int64(7), 2), (Bson::Double(7.0), 3)] {
        // A time is the beginning of a second.
        let begun = Instant::now();
        orders.insert_one(doc! {"_id": id, "n": n}).await.unwrap();
        wait_until("another second", LIMIT, async || (begun.elapsed().as_millis() > 1_100).then_some(()))
            .await;
        orders.delete_one(doc! {"_id": 7}).await.unwrap();
    }
    fixture.run_once().await;
    let statements = fixture.ok(&["sql"]).await;
    let records = fixture.records("orders").await;
    let of_number = |op: &str| -> Vec<u32> {
        let found = of(&records, &[op]).into_iter().filter(|r| at(r, "key._id").unwrap().as_str().is_none());
        found.map(|record| time(record).time).collect()
    };
    let (inserted, deleted) = (of_number("insert"), of_number("delete"));
    assert_eq!((inserted.len(), deleted.len()), (3, 3));
    for (given, text) in [("7", "text"), ("7.0", "other")] {
        for query in [duckdb::query, duckdb::query_next] {
            let rows = query(&format!("{statements}\n;SELECT op FROM changes_of('orders', '{given}')"));
            let of_texts = rows.len() - 6;
            assert_eq!(of_texts, 1, "{rows:?}");
            let doc_at = |second: u32| {
                let asked = format!(
                    "SELECT state, document->>'$.n' AS n, doc_key FROM doc_at('orders', '{given}', to_timestamp({second}))"
                );
                query(&format!("{statements}\n;{asked}"))
            };
            for (n, second) in (1..).zip(&inserted) {
                let mut rows = doc_at(second + 1);
                rows.sort_by_key(|row| row["n"].as_str().unwrap().to_owned());
                assert_eq!(rows.len(), 2, "{rows:?}");
                assert_eq!((&rows[0]["state"], &rows[0]["n"]), (&json!("present"), &json!(n.to_string())));
                assert_eq!(
                    (&rows[1]["n"], &rows[1]["doc_key"]),
                    (&json!(text), &json!(format!(r#"{{"_id":"{given}"}}"#)))
                );
            }
            let states = doc_at(deleted[2] + 1);
            let mut states: Vec<&str> = states.iter().map(|row| row["state"].as_str().unwrap()).collect();
            states.sort_unstable();
            assert_eq!(states, ["deleted", "present"]);
        }
    }
    // As `recover` tells it.
    for (n, second) in (1..).zip(&inserted) {
        for id in [r#"{"$numberLong": "7"}"#, r#"{"$numberDouble": "7.0"}"#] {
            assert_eq!(recovered(&fixture, id, second + 1).await, [json!(n)]);
        }
        assert_eq!(recovered(&fixture, "\"7\"", second + 1).await, [json!("text")]);
    }
}

/// The field `n` of what `recover` gives.
async fn recovered(fixture: &Fixture, id: &str, second: u32) -> Vec<Value> {
    let time = bson::DateTime::from_millis(i64::from(second) * 1_000).try_to_rfc3339_string().unwrap();
    let outcome = fixture.archiver.run(&["recover", "--source", "orders", "--id", id, "--at", &time]).await;
    let documents = outcome.expect_code(0).json_lines();
    let number = |value: &Value| {
        value["$numberInt"].as_str().map_or_else(|| value.clone(), |n| json!(n.parse::<i64>().unwrap()))
    };
    documents.iter().map(|document| number(&document["n"])).collect()
}

/// What the changes of a document are in the log of a source that has rolled nothing of them, for a test to change.
async fn changed(fixture: &Fixture, count: u64) -> Vec<Document> {
    let orders = fixture.collection("orders");
    let capture = fixture.start();
    wait_until("what is there", LIMIT, async || (fixture.count("orders").await == 2).then_some(())).await;
    for n in 1..=count as i32 {
        orders.update_one(doc! {"_id": "a"}, doc! {"$set": {"n": n}}).await.unwrap();
    }
    wait_until("the changes", LIMIT, async || (fixture.count("orders").await == 2 + count).then_some(()))
        .await;
    capture.terminate().await.expect_code(0);
    let records = fixture.records("orders").await;
    of(&records, &["snapshot", "update"]).into_iter().cloned().collect()
}

#[tokio::test]
async fn a_baseline_comes_behind_the_changes_of_its_time() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&Fixture::source("orders", &["orders"]));
    fixture.collection("orders").insert_one(doc! {"_id": "a", "n": 0}).await.unwrap();
    let records = changed(&fixture, 2).await;
    // As if the document had been read at the time of the second change, which the stream delivered afterwards.
    let log = fixture.audit.collection::<Document>("orders");
    let read = doc! {"$set": {"clusterTime": time(&records[2]), "after.n": 2}};
    log.update_one(doc! {"_id": integer(&records[0], "_id")}, read).await.unwrap();
    fixture.run_once().await;
    let second = time(&records[2]).time + 1;
    assert_eq!(recovered(&fixture, "a", second).await, [json!(2)]);
    let statements = fixture.ok(&["sql"]).await;
    for query in [duckdb::query, duckdb::query_next] {
        let rows = query(&format!("{statements}\n;SELECT op FROM changes_of('orders', 'a')"));
        assert_eq!(rows, ["update", "update", "snapshot"].map(|op| json!({"op": op})));
        let asked = format!(
            "SELECT state, document->>'$.n' AS n, why FROM doc_at('orders', 'a', to_timestamp({second}))"
        );
        let rows = query(&format!("{statements}\n;{asked}"));
        assert_eq!(rows, [json!({"state": "present", "n": "2", "why": "snapshot"})]);
    }
}

#[tokio::test]
async fn a_change_that_was_released_late_comes_where_it_was_withheld() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&Fixture::source("orders", &["orders"]));
    let orders = fixture.create_with_images("orders").await;
    orders.insert_one(doc! {"_id": "a", "n": 0}).await.unwrap();
    let records = changed(&fixture, 4).await;
    // As if the first of two changes in one transaction had been withheld, and released behind both.
    let log = fixture.audit.collection::<Document>("orders");
    let put = async |at: usize, mut record: Document, fields: Document| {
        let seq = records[at].get("_id").unwrap().clone();
        record.extend(fields);
        record.insert("_id", &seq);
        log.replace_one(doc! {"_id": seq}, record).await.unwrap();
    };
    let [withheld, late] = [1, 3].map(|n: usize| integer(&records[n], "_id"));
    let now = records[1].get("clusterTime").unwrap();
    let quarantine = |record: &Document| {
        let kept = record
            .clone()
            .into_iter()
            .filter(|(name, _)| ["_id", "ns", "clusterTime", "wallTime", "policy"].contains(&&**name));
        let mut quarantine = doc! {"_id": 0, "op": "quarantine"};
        quarantine.extend(kept);
        quarantine
    };
    put(1, quarantine(&records[1]), doc! {"detail": {"op": "update", "plugin": "p", "error": "trap"}}).await;
    put(2, records[2].clone(), doc! {"clusterTime": now}).await;
    let mut detail = records[1].get_document("detail").cloned().unwrap_or_default();
    detail.insert("late", withheld);
    put(3, records[1].clone(), doc! {"detail": detail}).await;
    put(4, quarantine(&records[4]), doc! {"detail": {"released": [{"seq": withheld, "late": late}]}}).await;
    fixture.run_once().await;
    let second = time(&records[1]).time + 1;
    assert_eq!(recovered(&fixture, "a", second).await, [json!(2)]);
    let statements = fixture.ok(&["sql"]).await;
    for query in [duckdb::query, duckdb::query_next] {
        let rows = query(&format!("{statements}\n;SELECT after->>'$.n' AS n FROM changes_of('orders', 'a')"));
        assert_eq!(rows, ["0", "1", "2"].map(|n| json!({"n": n})));
        let asked =
            format!("SELECT state, document->>'$.n' AS n FROM doc_at('orders', 'a', to_timestamp({second}))");
        assert_eq!(query(&format!("{statements}\n;{asked}")), [json!({"state": "present", "n": "2"})]);
    }
}
