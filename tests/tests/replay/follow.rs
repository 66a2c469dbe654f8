//! A replay that goes on with what happens: from segments into the log into the present, each record once.

use std::collections::{BTreeMap, BTreeSet};

use archiver_tests::application::{STEADY, Writer, prepare};
use archiver_tests::record::{at, integer, text};
use archiver_tests::workload::{Workload, seed};
use archiver_tests::{Fixture, Running, Server, tools, wait_until};
use bson::{DateTime, Document, doc};

use super::{LIMIT, digests, events, output, target};

/// Rolls all the time, and trims what is rolled.
const ROLLING: &str = "[archive]\nurl = \"{archive}\"\nhot_retention = \"0s\"\nsegment_max_bytes = \"32KiB\"\nsegment_max_age = \"1s\"\n\n";

fn follow(fixture: &Fixture, arguments: &[&str]) -> Running {
    let mut all = vec!["replay", "--follow"];
    all.extend(arguments);
    fixture.archiver.start(&all)
}

async fn mark(fixture: &Fixture, following: &Running, mark: &str) {
    fixture.collection("orders").insert_one(doc! {"_id": mark}).await.unwrap();
    wait_until(mark, LIMIT, async || following.stdout().contains(mark).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_record_comes_once_while_the_log_is_rolled_and_trimmed() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    let source = Fixture::source("orders", &["orders"]);
    fixture.configure(&format!("{ROLLING}{}\npartitions = 2\n", source.trim_end()));
    let mut workload = Workload::new(server.client(), fixture.collection("orders"), seed());
    workload.run(100).await;
    fixture.run_once().await;
    let capture = fixture.start();
    let following = follow(&fixture, &["--source", "orders", "--output", "ndjson"]);
    for round in 0..4 {
        workload.run(120).await;
        mark(&fixture, &following, &format!("mark-{round}")).await;
    }
    let outcome = following.interrupt().await.expect_code(0);
    capture.terminate().await.expect_code(0);
    let mut seqs: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for event in events(&outcome.stdout) {
        let (stream, seq) = text(&event, "_id._data").split_once(':').unwrap();
        seqs.entry(stream.to_owned()).or_default().push(seq.parse().unwrap());
    }
    assert_eq!(seqs.len(), 2);
    for (stream, seqs) in &seqs {
        assert_eq!(*seqs, (1..=seqs.len() as i64).collect::<Vec<_>>(), "{stream}");
    }
    let rolled = fixture.cold("orders", "seq").len();
    assert!(rolled > 100 && fixture.count("orders").await < 200, "{rolled} are rolled");
    // Workload, marks, and the policies.
    assert!(seqs.values().map(Vec::len).sum::<usize>() as u64 > workload.changes - 100);
}

/// A partition whose archiver starts late is waited for, once, and comes in its place when it has begun.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_that_begins_later_comes_too_each_record_once() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    let source = Fixture::source("orders", &["orders"]);
    fixture.configure(&format!("{}\npartitions = 2\n", source.trim_end()));
    let orders = fixture.collection("orders");
    orders.insert_many((0..20).map(|n| doc! {"_id": n})).await.unwrap();
    // Somebody else has the lease, who does not begin.
    let leases = fixture.audit.collection::<Document>("archiver.leases");
    let until = |millis: i64| DateTime::from_millis(DateTime::now().timestamp_millis() + millis);
    let lease = doc! {"_id": "orders/1", "holder": "nobody", "epoch": 1_i64, "since": until(0), "expires": until(3_600_000)};
    leases.insert_one(lease).await.unwrap();
    let capture = fixture.start();
    wait_until("the first partition", LIMIT, async || fixture.checkpoint("orders/0").await).await;
    let mut following = follow(&fixture, &["--source", "orders", "--output", "ndjson"]);
    orders.insert_many((20..40).map(|n| doc! {"_id": n})).await.unwrap();
    let changes = doc! {"_id.p": 0, "op": "insert"};
    let log = fixture.audit.collection::<Document>("orders");
    wait_until("changes", LIMIT, async || {
        (log.count_documents(changes.clone()).await.unwrap() > 4).then_some(())
    })
    .await;
    wait_until("the first partition's", LIMIT, async || {
        let recorded = log.count_documents(doc! {"_id.p": 0}).await.unwrap();
        (following.stdout().lines().count() as u64 == recorded).then_some(())
    })
    .await;
    assert!(following.is_alive() && !following.stdout().contains("orders/1:"));
    leases.update_one(doc! {"_id": "orders/1"}, doc! {"$set": {"expires": until(-1)}}).await.unwrap();
    // One by one, until the other partition is as far as the first.
    for n in 100.. {
        orders.insert_one(doc! {"_id": n}).await.unwrap();
        let id = format!(r#""documentKey":{{"_id":{{"$numberInt":"{n}"}}}}"#);
        let find = async || Some(following.stdout().lines().find(|line| line.contains(&id))?.to_owned());
        let line = wait_until(&id, LIMIT, find).await;
        if line.contains("orders/1:") && line.contains(r#""op":"insert""#) {
            break;
        }
    }
    for n in 200..240 {
        orders.insert_one(doc! {"_id": n}).await.unwrap();
    }
    mark(&fixture, &following, "the last").await;
    let outcome = following.interrupt().await.expect_code(0);
    let outcome = outcome.expect_message(&["captured late", "stream=orders/1"]);
    capture.terminate().await.expect_code(0);
    let all = events(&outcome.stdout);
    let mut seqs: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
    for event in &all {
        let (stream, seq) = text(event, "_id._data").split_once(':').unwrap();
        seqs.entry(stream).or_default().push(seq.parse().unwrap());
    }
    assert_eq!(seqs.keys().copied().collect::<Vec<_>>(), ["orders/0", "orders/1"]);
    for (stream, seqs) in seqs {
        assert_eq!(seqs, (1..=seqs.len() as i64).collect::<Vec<_>>(), "{stream}");
    }
    let ids = all.iter().filter_map(|event| at(event, "documentKey._id")?.as_i32());
    let ids: Vec<i32> = ids.collect();
    assert_eq!(
        ids.iter().copied().filter(|id| *id >= 200).collect::<Vec<_>>(),
        (200..240).collect::<Vec<_>>()
    );
    assert_eq!(ids.into_iter().filter(|id| *id < 40).collect::<BTreeSet<_>>().len(), 40);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collection_follows_its_source() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&(ROLLING.to_owned() + &Fixture::source("all", &["*"])));
    prepare(&fixture.db).await;
    let capture = fixture.start();
    let mut writer = Writer::new(server.client(), &fixture.db, seed());
    for _ in 0..60 {
        writer.step().await;
    }
    let (again, output) = target(&server, &fixture);
    let state = fixture.path("state").display().to_string();
    let arguments = ["--source", "all", "--output", &output, "--atomic", "--state", &state];
    for round in 0..3 {
        wait_until("the log", LIMIT, async || fixture.checkpoint("all").await).await;
        let following = follow(&fixture, &arguments);
        for _ in 0..60 {
            writer.step().await;
        }
        wait_until("the target to follow", LIMIT, async || {
            let found = digests(&again, &STEADY).await;
            (found == digests(&fixture.db, &STEADY).await).then_some(())
        })
        .await;
        let outcome = if round == 0 { following.interrupt().await } else { following.terminate().await };
        outcome.expect_code(0);
    }
    capture.terminate().await.expect_code(0);
}

/// History took some seconds; ten times as fast it takes some tenths more than nothing.
#[tokio::test]
async fn the_pace_is_that_of_history_or_some_times_faster() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&Fixture::source("orders", &["orders"]));
    fixture.run_once().await;
    let orders = fixture.collection("orders");
    let start = std::time::Instant::now();
    orders.insert_one(doc! {"_id": 0}).await.unwrap();
    wait_until("three seconds", LIMIT, async || (start.elapsed().as_secs() >= 3).then_some(())).await;
    orders.insert_one(doc! {"_id": 1}).await.unwrap();
    fixture.run_once().await;
    let time = async |speed: &str| {
        let begun = std::time::Instant::now();
        let outcome =
            super::replay(&fixture, &["--source", "orders", "--output", "ndjson", "--speed", speed]).await;
        let inserted: Vec<Document> = events(&outcome.expect_code(0).stdout);
        assert_eq!(inserted.iter().filter(|e| e.contains_key("fullDocument")).count(), 2);
        begun.elapsed().as_secs_f64()
    };
    let [max, ten, one] = [time("max").await, time("10x").await, time("1x").await];
    assert!(one > 3.0, "{one}");
    assert!(ten > 0.3 && ten < one && max < one - 1.5, "{max} {ten} {one}");
}

/// Into a collection, too: what is due is there before what is not.
#[tokio::test]
async fn a_collection_keeps_the_pace() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&Fixture::source("orders", &["orders"]));
    fixture.run_once().await;
    let (orders, start) = (fixture.collection("orders"), std::time::Instant::now());
    orders.insert_one(doc! {"_id": 0}).await.unwrap();
    wait_until("another second", LIMIT, async || (start.elapsed().as_secs() >= 2).then_some(())).await;
    orders.insert_one(doc! {"_id": 1}).await.unwrap();
    fixture.run_once().await;
    let again = server.client().database(&format!("again_{}", fixture.tag()));
    let into = output(fixture.uri(), &format!("{}.orders", again.name()));
    let running =
        fixture.archiver.start(&["replay", "--source", "orders", "--output", &into, "--speed", "0.01x"]);
    let there = again.collection::<Document>("orders");
    wait_until("the first", LIMIT, async || there.find_one(doc! {}).await.unwrap()).await;
    assert_eq!(there.count_documents(doc! {}).await.unwrap(), 1, "the second is due minutes later");
    running.kill().await;
}

/// Nothing happens at that time that would say so.
#[tokio::test]
async fn what_is_followed_up_to_a_time_ends_there() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&Fixture::source("orders", &["orders"]));
    let capture = fixture.start();
    wait_until("the log", LIMIT, async || fixture.checkpoint("orders").await).await;
    fixture.collection("orders").insert_one(doc! {"_id": 0}).await.unwrap();
    let end =
        DateTime::from_millis(DateTime::now().timestamp_millis() + 3_000).try_to_rfc3339_string().unwrap();
    let arguments = ["replay", "--source", "orders", "--output", "ndjson", "--follow", "--to", &end];
    let outcome = fixture.archiver.start(&arguments).finish(LIMIT).await.expect_code(0);
    assert!(events(&outcome.stdout).iter().any(|e| e.contains_key("fullDocument")), "{}", outcome.stdout);
    capture.terminate().await.expect_code(0);
}

/// Nothing is recorded behind it that would say so, but that its transaction is over.
#[tokio::test]
async fn what_is_followed_up_to_a_seq_ends_there() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&Fixture::source("orders", &["orders"]));
    let capture = fixture.start();
    wait_until("the log", LIMIT, async || fixture.checkpoint("orders").await).await;
    let orders = fixture.collection("orders");
    for in_transaction in [false, true] {
        let recorded = fixture.count("orders").await;
        let end = (recorded + 2).to_string();
        let arguments = ["replay", "--source", "orders", "--output", "ndjson", "--follow", "--to", &end];
        let following = fixture.archiver.start(&arguments);
        let mut session = server.client().start_session().await.unwrap();
        if in_transaction {
            session.start_transaction().await.unwrap();
            orders.insert_one(doc! {"_id": 1}).session(&mut session).await.unwrap();
            session.commit_transaction().await.unwrap();
        } else {
            orders.insert_one(doc! {"_id": 0}).await.unwrap();
        }
        let outcome = following.finish(LIMIT).await.expect_code(0);
        assert_eq!(events(&outcome.stdout).len() as u64, recorded + 1);
    }
    capture.terminate().await.expect_code(0);
}

/// Whoever reads the target while transactions are replayed sees what readers of the source could see.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_never_sees_half_of_a_transaction() {
    const ACCOUNTS: i32 = 8;
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    let source = Fixture::source("bank", &["accounts"]);
    fixture.configure(&format!("[capture]\nbatch_max_events = 7\n\n{}\npartitions = 2\n", source.trim_end()));
    let accounts = fixture.collection("accounts");
    accounts.insert_many((0..ACCOUNTS).map(|n| doc! {"_id": n, "amount": 100})).await.unwrap();
    fixture.run_once().await;
    for n in 0..150 {
        let mut session = server.client().start_session().await.unwrap();
        session.start_transaction().await.unwrap();
        for (id, amount) in [(n % ACCOUNTS, -10), ((n + 3) % ACCOUNTS, 4), ((n + 5) % ACCOUNTS, 6)] {
            let change = doc! {"$inc": {"amount": amount}};
            accounts.update_one(doc! {"_id": id}, change).session(&mut session).await.unwrap();
        }
        session.commit_transaction().await.unwrap();
    }
    fixture.run_once().await;
    let (again, _) = target(&server, &fixture);
    let output = output(fixture.uri(), &format!("{}.accounts", again.name()));
    let mut replaying = fixture
        .archiver
        .start(&["replay", "--source", "bank", "--output", &output, "--atomic", "--batch", "5"]);
    let mut seen = std::collections::BTreeSet::new();
    while replaying.is_alive() {
        let read = doc! {"find": "accounts", "readConcern": {"level": "snapshot"}};
        // Without a collection there is no snapshot of it.
        let Ok(found) = again.run_command(read).await else { continue };
        let batch = found.get_document("cursor").unwrap().get_array("firstBatch").unwrap().clone();
        let amounts: Vec<i64> = batch.iter().map(|d| integer(d.as_document().unwrap(), "amount")).collect();
        if amounts.len() == ACCOUNTS as usize {
            assert_eq!(amounts.iter().sum::<i64>(), i64::from(ACCOUNTS) * 100, "{amounts:?}");
            seen.insert(amounts);
        }
    }
    replaying.finish(LIMIT).await.expect_code(0);
    assert!(seen.len() > 5, "only {} states were seen", seen.len());
    assert_eq!(digests(&again, &["accounts"]).await, digests(&fixture.db, &["accounts"]).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_history_of_a_document_goes_on_as_it_is_recorded() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&(ROLLING.to_owned() + &Fixture::source("orders", &["orders"])));
    let orders = fixture.collection("orders");
    let capture = fixture.start();
    wait_until("the log", LIMIT, async || fixture.checkpoint("orders").await).await;
    let arguments = ["history", "--source", "orders", "--id", "a", "--follow"];
    let tables = fixture.archiver.start(&arguments);
    let lines = fixture.archiver.start(&[&arguments[..], &["--format", "json"]].concat());
    orders.insert_one(doc! {"_id": "a", "n": 0}).await.unwrap();
    for n in 1..4 {
        orders.insert_one(doc! {"_id": format!("other-{n}")}).await.unwrap();
        orders.update_one(doc! {"_id": "a"}, doc! {"$set": {"n": n}}).await.unwrap();
        let change = format!("n: {} → {n}", n - 1);
        wait_until(&change, LIMIT, async || tables.stdout().contains(&change).then_some(())).await;
    }
    orders.drop().await.unwrap();
    wait_until("the drop", LIMIT, async || tables.stdout().contains("the document ended").then_some(()))
        .await;
    wait_until("the drop", LIMIT, async || lines.stdout().contains("\"op\":\"drop\"").then_some(())).await;
    let table = tables.interrupt().await.expect_code(0).stdout;
    let operations: Vec<&str> = table.lines().map(|line| line.split_whitespace().nth(2).unwrap()).collect();
    assert_eq!(operations, ["OPERATION", "insert", "update", "update", "update", "drop"], "{table}");
    assert!(!table.contains('\x1b'), "colours are for terminals");
    assert_eq!(lines.terminate().await.expect_code(0).json_lines().len(), 5);
    capture.terminate().await.expect_code(0);

    let listed = ["history", "--source", "orders", "--id", "a"];
    for (no_color, painted) in [("", true), ("1", false)] {
        let program = "import os, pty, sys; os.environ['NO_COLOR'] = sys.argv[1]; os.environ['TERM'] = 'xterm'; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[2:])))";
        let config = fixture.path("archiver.toml").display().to_string();
        let binary = tools::archiver().display().to_string();
        let uri = format!("ARCHIVER_TEST_URI={}", fixture.uri());
        let all = [&[no_color, "env", &uri, &binary, "--config", &config][..], &listed].concat();
        let shown = tools::run_python(program, &all);
        assert!(shown.contains("insert"), "{shown}");
        assert_eq!(shown.contains("\x1b[32m"), painted, "{shown:?}");
    }
}
