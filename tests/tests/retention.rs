//! Records that expire: what goes, what stays and proves it, what every command says of it, legal holds, and stores that delete
//! nothing. Cluster times can't be made up on a real server, so here records are kept for a second.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use archiver::audit_log::{AuditLog, Expiring, NewHold};
use archiver::config::Config;
use archiver::stream_id::StreamId;
use archiver_tests::cloud::{Bucket, Kind};
use archiver_tests::fixture::files_in;
use archiver_tests::record::{at, integer};
use archiver_tests::workload::seed;
use archiver_tests::{Fixture, Server, tools, wait_until};
use bson::{Document, doc};
use futures_util::TryStreamExt;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(120);
const SOURCE: &str =
    "[capture]\nlease_time = \"2s\"\n\n[[source]]\nname = \"orders\"\nwatch = [\"{db}.orders\"]\n\n";
const FIRST: &str = "seg-00000000000000000001.parquet";
const UNAVAILABLE: i32 = 11;
const NOT_FOUND: i32 = 16;
const FINDINGS: i32 = 3;

/// A local archive with these keys.
fn configure(fixture: &Fixture, keys: &str) {
    fixture.configure(&format!("[archive]\nurl = \"{{archive}}\"\n{keys}\n\n{SOURCE}"));
}

/// Everything that is sealed is trimmed, and expires after a second.
const SHORT: &str = "hot_retention = \"0s\"\nretention = \"1s\"";
/// The same, and nothing expires.
const KEEPING: &str = "hot_retention = \"0s\"";

/// The names of the archive's files, relative to it.
fn names(fixture: &Fixture) -> Vec<String> {
    let root = fixture.archive();
    let name = |file: &std::path::PathBuf| file.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
    files_in(&root).iter().map(name).collect()
}

fn is_there(fixture: &Fixture, end: &str) -> bool {
    names(fixture).iter().any(|name| name.ends_with(end))
}

/// Runs passes until the first segment is gone.
async fn let_expire(fixture: &Fixture) {
    wait_until("the first segment expires", LIMIT, async || {
        fixture.run_once().await;
        (!is_there(fixture, FIRST)).then_some(())
    })
    .await;
}

/// What the source's records say in `detail.<name>`, hot and cold.
async fn told(fixture: &Fixture, name: &str) -> Vec<Value> {
    let hot = fixture.records("orders").await;
    let hot =
        hot.iter().filter_map(|r| at(r, &format!("detail.{name}"))).map(|d| serde_json::to_value(d).unwrap());
    let query = format!("json_extract(detail, '$.{name}') AS told");
    let cold = fixture.cold("orders", &query);
    let cold = cold.iter().filter_map(|row| serde_json::from_str(row["told"].as_str()?).ok());
    cold.chain(hot).collect()
}

/// A source with a document that is deleted, one that goes on changing, and one that nobody touches again; sealed and trimmed.
async fn old_history(fixture: &Fixture) {
    let orders = fixture.collection("orders");
    orders
        .insert_many([
            doc! {"_id": "gone", "n": 1},
            doc! {"_id": "busy", "n": 1},
            doc! {"_id": "still", "n": 1},
        ])
        .await
        .unwrap();
    orders.delete_one(doc! {"_id": "gone"}).await.unwrap();
    fixture.run_once().await;
    assert!(is_there(fixture, FIRST) && fixture.count("orders").await == 0, "{:?}", names(fixture));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_expired_is_gone_and_a_tombstone_a_record_and_every_command_say_so() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    configure(&fixture, KEEPING);
    old_history(&fixture).await;
    configure(&fixture, SHORT);
    let_expire(&fixture).await;
    configure(&fixture, KEEPING);
    let orders = fixture.collection("orders");
    orders.update_one(doc! {"_id": "busy"}, doc! {"$set": {"n": 2}}).await.unwrap();
    orders.delete_one(doc! {"_id": "busy"}).await.unwrap();
    fixture.run_once().await;

    // The chain stays, and what stands in for the segment holds nothing of the documents.
    let manifest = fixture.archive().join("_manifests/source=orders/00000000000000000001.json");
    let tombstone = fixture.archive().join("_manifests/source=orders/00000000000000000001.tombstone.json");
    let manifest: Value = serde_json::from_slice(&std::fs::read(manifest).unwrap()).unwrap();
    let said: Value = serde_json::from_slice(&std::fs::read(&tombstone).unwrap()).unwrap();
    for field in ["segment", "sha256", "rows", "first_seq", "end_seq", "last_cluster_time"] {
        assert_eq!(said[field], manifest[field], "{field}");
    }
    assert_eq!((&said["policy"], &said["deleted_by"]), (&"retention = \"1s\"".into(), &"archiver".into()));
    let first = told(&fixture, "expired").await[0].clone();
    assert_eq!((&first["firstSeq"], &first["deletedBy"]), (&1.into(), &"archiver".into()));
    assert_eq!(first["tombstones"][0], tools::sha256(&tombstone));

    let verified = fixture.archiver.run(&["verify", "--format", "json"]).await.expect_code(0).json();
    let source = &verified["sources"][0];
    assert!(
        source["expired"].as_u64().unwrap() >= 1 && source["expired_end"].as_i64().unwrap() > 1,
        "{source}"
    );
    assert!(verified["notes"].to_string().contains("removed by retention"), "{verified}");
    let status = fixture.archiver.run(&["status", "--format", "json"]).await.expect_code(0).json();
    assert_eq!(status[0]["expiredSeq"], source["expired_end"].as_i64().unwrap() - 1);

    // Those who read the rest are told what is missing, and nothing untrue.
    let history = async |id: &str| fixture.archiver.run(&["history", "--source", "orders", "--id", id]).await;
    let busy = history("busy").await.expect_code(0);
    assert!(busy.stdout.contains("update") && !busy.stdout.contains("insert"), "{}", busy.stdout);
    busy.expect_message(&["removed by retention"]);
    history("gone").await.expect_code(NOT_FOUND).expect_message(&["removed by retention"]);
    history("still").await.expect_code(NOT_FOUND).expect_message(&["removed by retention"]);
    let removed = manifest["last_cluster_time"]["t"].as_i64().unwrap() * 1_000;
    let removed = bson::DateTime::from_millis(removed).try_to_rfc3339_string().unwrap();
    let recover = ["recover", "--source", "orders", "--id", "busy", "--at", &removed];
    fixture.archiver.run(&recover).await.expect_code(NOT_FOUND).expect_message(&["removed by retention"]);
    let deleted = ["recover", "--source", "orders", "--deleted-since", "2020-01-01T00:00:00Z"];
    let deleted = fixture.archiver.run(&deleted).await.expect_message(&["removed by retention"]);
    assert!(!deleted.stdout.contains("gone"), "{}", deleted.stdout);
    let sql = fixture.ok(&["sql"]).await;
    assert!(sql.contains("-- orders: history up to") && sql.contains("removed by retention"), "{sql}");
    let seqs = fixture.cold("orders", "seq");
    assert_eq!(seqs[0]["seq"], source["expired_end"], "the glob has what is left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_at_any_step_of_an_expiry_is_gone_on_from() {
    let server = Server::shared().await;
    for point in ["expire:claimed", "expire:buried", "expire:deleted", "expire:given_back"] {
        let fixture = Fixture::new(&server);
        configure(&fixture, KEEPING);
        old_history(&fixture).await;
        configure(&fixture, SHORT);
        let mut dying = fixture.archiver.clone();
        dying.env("ARCHIVER_FAIL_POINTS", &format!("{point}=exit"));
        wait_until(point, LIMIT, async || {
            let outcome = dying.run(&["run", "--once"]).await;
            outcome.stderr.contains(&format!("fail point name=\"{point}\"")).then_some(())
        })
        .await;
        let buried = is_there(&fixture, "00000000000000000001.tombstone.json");
        assert!(buried || is_there(&fixture, FIRST), "{point}: deleted without a tombstone");
        assert_eq!(
            is_there(&fixture, FIRST),
            point == "expire:claimed" || point == "expire:buried",
            "{point}"
        );
        fixture.ok(&["verify"]).await;
        let_expire(&fixture).await;
        configure(&fixture, KEEPING);
        fixture.run_once().await;
        let told = told(&fixture, "expired").await;
        assert_eq!(told[0]["firstSeq"], 1, "{point}");
        let ends: Vec<_> = told.iter().map(|t| t["endSeq"].clone()).collect();
        let starts: Vec<_> = told[1..].iter().map(|t| t["firstSeq"].clone()).collect();
        assert_eq!(ends[..ends.len() - 1], starts[..], "{point}: each removal is told once");
        fixture.ok(&["verify"]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_a_legal_hold_nothing_expires_until_it_is_released() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    configure(&fixture, KEEPING);
    old_history(&fixture).await;
    let add = ["hold", "add", "--source", "orders", "--reason", "a $case", "--by", "counsel"];
    fixture.ok(&add).await;
    configure(&fixture, SHORT);
    wait_until("a pass that would have deleted", LIMIT, async || {
        let outcome = fixture.run_once().await;
        outcome.stderr.contains("a legal hold keeps what would have expired").then_some(())
    })
    .await;
    assert!(is_there(&fixture, FIRST) && !is_there(&fixture, ".tombstone.json"), "{:?}", names(&fixture));
    assert!(is_there(&fixture, "_holds/00000000000000000001.json"));
    let status = fixture.archiver.run(&["status"]).await.expect_code(0);
    assert!(status.stdout.contains("legal holds in force: 1"), "{}", status.stdout);
    let list = fixture.archiver.run(&["hold", "list", "--format", "json"]).await.expect_code(0).json();
    assert_eq!(
        (&list[0]["id"], &list[0]["reason"], &list[0]["by"]),
        (&1.into(), &"a $case".into(), &"counsel".into())
    );
    let held = told(&fixture, "hold").await;
    assert_eq!(
        (held.len(), &held[0]["reason"], &held[0]["source"]),
        (1, &"a $case".into(), &"orders".into())
    );

    fixture.ok(&["hold", "release", "1", "--reason", "settled", "--by", "counsel"]).await;
    fixture
        .archiver
        .run(&["hold", "release", "1", "--reason", "again", "--by", "x"])
        .await
        .expect_code(NOT_FOUND);
    let_expire(&fixture).await;
    configure(&fixture, KEEPING);
    fixture.run_once().await;
    assert_eq!(told(&fixture, "holdReleased").await[0]["reason"], "settled");
    fixture.ok(&["verify"]).await;
    // Of another source, or another time, it keeps nothing: without it both have expired.
    let none = fixture.ok(&["hold", "list"]).await;
    assert!(!none.contains("counsel"), "{none}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_an_added_hold_no_deletion_follows_that_had_begun() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    configure(&fixture, KEEPING);
    old_history(&fixture).await;
    configure(&fixture, &format!("{SHORT}\nsegment_max_age = \"1s\""));
    let mut slow = fixture.archiver.clone();
    slow.env("ARCHIVER_FAIL_POINTS", "expire:buried=sleep(4000)");
    let running = slow.start(&["run"]);
    wait_until("a tombstone", LIMIT, async || is_there(&fixture, ".tombstone.json").then_some(())).await;
    assert!(is_there(&fixture, FIRST), "the deletion is still to come");
    fixture.ok(&["hold", "add", "--all", "--reason", "a case", "--by", "counsel"]).await;
    let there: Vec<_> = names(&fixture).into_iter().filter(|name| name.ends_with(".parquet")).collect();
    assert!(!is_there(&fixture, FIRST), "the hold did not wait for the deletion");
    // Passes go on, and what is there stays.
    wait_until("a pass under the hold", LIMIT, async || {
        running.stderr().contains("a legal hold keeps what would have expired").then_some(())
    })
    .await;
    running.terminate().await.expect_code(0);
    assert!(there.iter().all(|name| is_there(&fixture, name)), "{there:?} {:?}", names(&fixture));
    configure(&fixture, KEEPING);
    fixture.ok(&["verify"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_keeps_what_has_a_tombstone_and_is_not_deleted_yet() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    configure(&fixture, KEEPING);
    old_history(&fixture).await;
    configure(&fixture, SHORT);
    let mut dying = fixture.archiver.clone();
    dying.env("ARCHIVER_FAIL_POINTS", "expire:buried=exit");
    wait_until("a tombstone", LIMIT, async || {
        dying.run(&["run", "--once"]).await;
        is_there(&fixture, ".tombstone.json").then_some(())
    })
    .await;
    // Waits until the claim of the process that died is over.
    fixture.ok(&["hold", "add", "--all", "--reason", "a case", "--by", "counsel"]).await;
    for _ in 0..2 {
        fixture.run_once().await.expect_message(&["a legal hold keeps what would have expired"]);
    }
    assert!(is_there(&fixture, FIRST));
    let verified = fixture.ok(&["verify"]).await;
    assert!(verified.contains("is not deleted yet"), "{verified}");
    fixture.ok(&["hold", "release", "1", "--reason", "settled", "--by", "counsel"]).await;
    let_expire(&fixture).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_expires_that_mongodb_still_holds() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    configure(&fixture, "hot_retention = \"7d\"");
    fixture.collection("orders").insert_one(doc! {"_id": 1}).await.unwrap();
    fixture.run_once().await;
    configure(&fixture, SHORT);
    let mut untrimmed = fixture.archiver.clone();
    // At each attempt.
    untrimmed.env("ARCHIVER_FAIL_POINTS", &["trim:begun=error"; 20].join(";"));
    wait_until("it is old enough", LIMIT, async || {
        untrimmed.run(&["run", "--once"]).await.expect_code(UNAVAILABLE);
        let status = fixture.archiver.run(&["status", "--format", "json"]).await.json();
        (status[0]["overdue"].as_u64()? > 0).then_some(())
    })
    .await;
    for _ in 0..2 {
        untrimmed.run(&["run", "--once"]).await.expect_code(UNAVAILABLE);
    }
    assert!(is_there(&fixture, FIRST) && !is_there(&fixture, ".tombstone.json"), "{:?}", names(&fixture));
    let_expire(&fixture).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_segment_without_a_tombstone_is_still_a_finding() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    configure(&fixture, KEEPING);
    old_history(&fixture).await;
    configure(&fixture, SHORT);
    let_expire(&fixture).await;
    configure(&fixture, KEEPING);
    fixture.ok(&["verify"]).await;
    for file in
        files_in(&fixture.archive()).iter().filter(|file| file.to_str().unwrap().contains("tombstone"))
    {
        std::fs::remove_file(file).unwrap();
    }
    let verified = fixture.archiver.run(&["verify"]).await.expect_code(FINDINGS);
    assert!(verified.stdout.contains(FIRST), "{}", verified.stdout);
}

/// A source in a bucket with a segment that is old enough, and what `check` says of the bucket. It is a Delta table, too.
async fn old_bucket(fixture: &Fixture, bucket: &Bucket, keys: &str) -> String {
    let config = |keys: &str| {
        let keys = format!("{keys}\ntable_format = \"delta\"");
        fixture.configure(&(bucket.section(&keys) + SOURCE));
    };
    config(KEEPING);
    fixture.collection("orders").insert_one(doc! {"_id": 1}).await.unwrap();
    fixture.run_once().await;
    config(keys);
    let checked = fixture.archiver.run(&["check"]).await.expect_code(0).stdout;
    // Dies behind the tombstone; the next run does the rest.
    let mut dying = fixture.archiver.clone();
    dying.env("ARCHIVER_FAIL_POINTS", "expire:buried=exit");
    wait_until("the first segment has expired", LIMIT, async || {
        dying.run(&["run", "--once"]).await;
        bucket.keys().iter().any(|key| key.ends_with("00000000000000000001.tombstone.json")).then_some(())
    })
    .await;
    fixture.ok(&["verify"]).await;
    fixture.run_once().await;
    config(KEEPING);
    fixture.run_once().await;
    checked
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_s3_and_azure_without_locks_what_has_expired_is_deleted() {
    let server = Server::shared().await;
    for (kind, words) in
        [(Kind::S3, "versioning off, Object Lock off"), (Kind::Azure, "immutability policy off")]
    {
        let fixture = Fixture::new(&server);
        let bucket = Bucket::new(kind).await;
        let checked = old_bucket(&fixture, &bucket, SHORT).await;
        assert!(checked.contains(words) && checked.contains("older than 1s"), "{checked}");
        assert!(!bucket.keys().iter().any(|key| key.ends_with(FIRST)), "{:?}", bucket.keys());
        fixture.ok(&["verify"]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_store_keeps_versions_or_locks_nothing_is_deleted_and_a_tombstone_leaves_it_to_the_store() {
    let server = Server::shared().await;
    for bucket in [Bucket::versioned().await, Bucket::locked(30).await] {
        let fixture = Fixture::new(&server);
        let checked = old_bucket(&fixture, &bucket, SHORT).await;
        assert!(checked.contains("left to the store's lifecycle rules"), "{checked}");
        let versions: BTreeMap<_, _> = bucket.versions().into_iter().collect();
        assert!(versions.keys().any(|key| key.ends_with(FIRST)), "{versions:?}");
        let ours = versions.iter().filter(|(key, _)| !key.starts_with("_checks/"));
        assert!(ours.clone().all(|(_, n)| *n == 1), "{versions:?}");
        let verified = fixture.ok(&["verify"]).await;
        assert!(verified.contains("left to the store's own rules"), "{verified}");
        let leaves = |key: &String| {
            let commit = String::from_utf8_lossy(&bucket.read(key)).into_owned();
            commit.lines().filter(|line| line.contains("\"remove\"") && line.contains(FIRST)).count()
        };
        let log = versions.keys().filter(|key| key.contains("_delta_log/"));
        assert_eq!(log.map(leaves).sum::<usize>(), 1, "it leaves the table once: {versions:?}");
        let history = fixture.archiver.run(&["history", "--source", "orders", "--id", "1"]).await;
        history.expect_code(NOT_FOUND);
    }
}

#[tokio::test]
async fn check_warns_where_the_store_protects_less_than_is_asked_for() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.collection("orders").insert_one(doc! {"_id": 1}).await.unwrap();
    let check = async |bucket: &Bucket, keys: &str| {
        fixture.configure(&(bucket.section(keys) + SOURCE));
        let found = fixture.archiver.run(&["check", "--format", "json"]).await.expect_code(0).json();
        let of_store = found.as_array().unwrap().iter().filter(|f| f["about"] == "archive");
        let line = |f: &Value| format!("{} {}\n", f["level"].as_str().unwrap(), f["what"].as_str().unwrap());
        of_store.map(line).collect::<String>()
    };
    let (plain, versioned, locked) =
        (Bucket::new(Kind::S3).await, Bucket::versioned().await, Bucket::locked(30).await);
    let asked = "object_lock = true\nretention = \"7y\"";
    let found = check(&plain, asked).await;
    assert!(found.contains("versioning is off") && found.contains("has no Object Lock"), "{found}");
    let found = check(&versioned, asked).await;
    assert!(!found.contains("versioning is off") && found.contains("has no Object Lock"), "{found}");
    let found = check(&locked, asked).await;
    assert!(
        found.contains("warn the bucket's default retention, 30d, is shorter than `retention`, 7y"),
        "{found}"
    );
    let found = check(&locked, "object_lock = true\nretention = \"30d\"").await;
    assert!(found.contains("default retention 30d in compliance mode") && !found.contains("warn"), "{found}");
    let found = check(&Bucket::new(Kind::Azure).await, asked).await;
    assert!(
        found.contains("warn object_lock = true, and the container has no immutability policy"),
        "{found}"
    );
    let found = check(&plain, "").await;
    assert!(found.contains("info the store has versioning off") && !found.contains("warn"), "{found}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_partition_of_a_source_expires_by_itself() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    let partitioned = |keys: &str| {
        let source = format!("{}partitions = 2\n", SOURCE.trim_end().to_owned() + "\n");
        fixture.configure(&format!("[archive]\nurl = \"{{archive}}\"\n{keys}\n\n{source}"));
    };
    partitioned(KEEPING);
    let orders = fixture.collection("orders");
    orders.insert_many((0..20).map(|n| doc! {"_id": n})).await.unwrap();
    fixture.run_once().await;
    partitioned(SHORT);
    let gone = |p: u32| !is_there(&fixture, &format!("seg-p{p}-00000000000000000001.parquet"));
    wait_until("both begin later", LIMIT, async || {
        fixture.run_once().await;
        (gone(0) && gone(1)).then_some(())
    })
    .await;
    partitioned(KEEPING);
    fixture.ok(&["hold", "add", "--source", "orders", "--reason", "r", "--by", "b"]).await;
    fixture.run_once().await;
    let verified = fixture.archiver.run(&["verify", "--format", "json"]).await.expect_code(0).json();
    for partition in [0, 1] {
        assert!(verified["sources"][partition]["expired"].as_u64().unwrap() > 0, "{verified}");
    }
    // One of them tells of the hold.
    assert_eq!(told(&fixture, "hold").await.len(), 1);
    let missing =
        fixture.archiver.run(&["history", "--source", "orders", "--id", "{\"$numberInt\": \"3\"}"]).await;
    missing.expect_code(NOT_FOUND).expect_message(&["removed by retention"]);
    let followed = fixture.archiver.start(&["history", "--source", "orders", "--id", "3", "--follow"]);
    wait_until("a note", LIMIT, async || followed.stderr().contains("removed by retention").then_some(()))
        .await;
    followed.terminate().await.expect_code(0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_and_a_hold_never_miss_each_other() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    configure(&fixture, KEEPING);
    let text = std::fs::read_to_string(fixture.path("archiver.toml")).unwrap();
    fixture.write_config(&text.replace("${ARCHIVER_TEST_URI}", fixture.uri()));
    let log = AuditLog::connect(&Config::load(&fixture.path("archiver.toml")).unwrap()).await.unwrap();
    let seed = seed();
    let deleting = AtomicBool::new(false);
    let stream = StreamId::whole("orders");
    for round in 0..40 {
        let pause = Duration::from_micros((seed >> (round % 32)) % 4_000);
        let deletes = async {
            loop {
                let expiring = Expiring { stream: &stream, first_seq: 1, first: 1_000, last: 2_000 };
                let Ok(claim) = log.claim(expiring).await.unwrap() else { return };
                deleting.store(true, Ordering::SeqCst);
                tokio::time::sleep(pause).await;
                deleting.store(false, Ordering::SeqCst);
                claim.give_back().await.unwrap();
            }
        };
        let holds = async {
            tokio::time::sleep(pause * 3).await;
            let new =
                NewHold { source: None, from: None, to: None, reason: "r".to_owned(), by: "b".to_owned() };
            let hold = log.add_hold(new).await.unwrap();
            assert!(
                !deleting.load(Ordering::SeqCst),
                "round {round}: a deletion is under way behind the hold"
            );
            hold.id
        };
        let ((), hold) = tokio::join!(deletes, holds);
        log.release_hold(hold, "r", "b").await.unwrap();
    }
    let held = log.holds().await.unwrap();
    assert_eq!((held.list.len(), held.last, held.in_force_of("orders")), (40, 80, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_is_trimmed_in_small_steps_while_capture_goes_on() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    configure(&fixture, "hot_retention = \"7d\"");
    let orders = fixture.collection("orders");
    let documents = |from: i32, to: i32| (from..to).map(|n| doc! {"_id": n}).collect::<Vec<Document>>();
    orders.insert_many(documents(0, 4_500)).await.unwrap();
    fixture.run_once().await;
    // More than one MongoDB document takes.
    let large = "x".repeat(16 * 1024 * 1024 - 100);
    orders.insert_one(doc! {"_id": "large", "text": large}).await.unwrap();
    fixture.run_once().await;
    let chunks = fixture.audit.collection::<Document>("archiver.overflow");
    assert!(chunks.count_documents(doc! {}).await.unwrap() > 0);

    fixture.audit.create_collection("system.profile").capped(true).size(64 << 20).await.unwrap();
    fixture.audit.run_command(doc! {"profile": 2}).await.unwrap();
    configure(&fixture, "hot_retention = \"0s\"");
    let mut archiver = fixture.archiver.clone();
    archiver.env("ARCHIVER_FAIL_POINTS", "trim:step=sleep(600000)@2");
    let running = archiver.start(&["run"]);
    wait_until("two steps", LIMIT, async || running.stderr().contains("trim:step").then_some(())).await;
    // In the middle of it, changes are captured.
    orders.insert_many(documents(10_000, 10_100)).await.unwrap();
    wait_until("the changes are captured", LIMIT, async || {
        let last = fixture.audit.collection::<Document>("orders").find_one(doc! {"key._id": 10_099}).await;
        last.unwrap().map(drop)
    })
    .await;
    assert!(fixture.count("orders").await > 2_000, "the trim has not ended meanwhile");
    running.kill().await;
    let profile = fixture.audit.collection::<Document>("system.profile");
    wait_until("everything is trimmed", LIMIT, async || {
        fixture.run_once().await;
        (fixture.count("orders").await == 0).then_some(())
    })
    .await;
    fixture.audit.run_command(doc! {"profile": 0}).await.unwrap();
    let removes =
        profile.find(doc! {"op": "remove", "ns": format!("{}.orders", fixture.audit.name())}).await.unwrap();
    let removes: Vec<Document> = removes.try_collect().await.unwrap();
    let steps: Vec<i64> = removes.iter().map(|remove| integer(remove, "ndeleted")).collect();
    assert!(steps.len() >= 5 && steps.iter().all(|n| *n <= 1_000), "{steps:?}");
    assert_eq!(chunks.count_documents(doc! {}).await.unwrap(), 0);
}
