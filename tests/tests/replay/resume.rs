//! A replay that is cut short goes on: collections become what the source was, and events come once.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use archiver_tests::application::{RESTLESS, STEADY, Writer, prepare};
use archiver_tests::record::text;
use archiver_tests::workload::seed;
use archiver_tests::{Fixture, Running, Server, tools, wait_until};
use bson::{DateTime, Document, doc};
use mongodb::Database;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::{COLD, FENCED, INVALID, LIMIT, digests, events, output, replay};

/// Everything that happens to documents and collections, most of it without images.
async fn restless(server: &Server, seed: u64) -> Fixture {
    let fixture = Fixture::new(server);
    let source = Fixture::source("all", &["*"]);
    fixture.configure(&format!("{COLD}{}\npartitions = 2\n", source.trim_end()));
    prepare(&fixture.db).await;
    let mut writer = Writer::new(server.client(), &fixture.db, seed);
    for _ in 0..2 {
        for _ in 0..200 {
            writer.step().await;
        }
        fixture.run_once().await;
    }
    // Whatever chance brings, there is a rename.
    fixture.collection("last").insert_one(doc! {"_id": "last"}).await.unwrap();
    let name = |collection: &str| format!("{}.{collection}", fixture.db.name());
    let rename = doc! {"renameCollection": name("last"), "to": name("green"), "dropTarget": true};
    server.client().database("admin").run_command(rename).await.unwrap();
    fixture.collection("green").insert_one(doc! {"_id": "behind"}).await.unwrap();
    fixture.run_once().await;
    println!("{:?}", writer.tally);
    fixture
}

async fn assert_same(fixture: &Fixture, again: &Database, what: &str) {
    let all: Vec<&str> = STEADY.into_iter().chain(RESTLESS).collect();
    let (mut source, found) = (digests(&fixture.db, &all).await, digests(again, &all).await);
    // Of a collection without documents there may be no record.
    source.retain(|name, digest| found.contains_key(name) || digest != "d41d8cd98f00b204e9800998ecf8427e");
    assert!(source.len() > 2);
    assert_eq!(found, source, "{what}");
}

fn arguments<'a>(output: &'a str, state: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut all = vec!["replay", "--source", "all", "--output", output, "--state", state, "--batch", "13"];
    all.extend(more);
    all
}

/// Ends itself at each of the places where something was made durable, again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_at_any_ordered_write_leaves_the_target_as_the_source_was() {
    let server = Server::shared().await;
    let seed = seed();
    let fixture = restless(&server, seed).await;
    let mut rng = StdRng::seed_from_u64(seed);
    let points = [("bases_saved", 6), ("saved", 12), ("applied", 12), ("renamed", 1), ("transaction", 3)];
    for (n, (point, most)) in points.into_iter().enumerate() {
        let again = server.client().database(&format!("again_{n}_{}", fixture.tag()));
        let into = output(fixture.uri(), again.name());
        let state = fixture.path(&format!("state-{n}")).display().to_string();
        let more: &[&str] = if point == "transaction" { &["--atomic"] } else { &[] };
        let arguments = arguments(&into, &state, more);
        let mut ends = 0;
        for round in 0..8 {
            let mut archiver = fixture.archiver.clone();
            let at = if round == 0 { 1 } else { rng.random_range(1..=most) };
            archiver.env("ARCHIVER_FAIL_POINTS", &format!("replay:{point}=exit@{at}"));
            let outcome = archiver.run(&arguments).await;
            if outcome.code == Some(0) {
                break;
            }
            assert_eq!(outcome.code, None, "{point} {at}: {}", outcome.stderr);
            ends += 1;
        }
        assert!(ends > 0, "{point} is not reached");
        fixture.archiver.run(&arguments).await.expect_code(0);
        assert_same(&fixture, &again, &format!("{ends} ends at {point}")).await;
        // Once more: there is nothing to be done.
        let outcome = fixture.archiver.run(&arguments).await.expect_code(0);
        outcome.expect_message(&["replayed 0 events"]);
    }
}

/// A run that goes on from a batch which was applied and not noted ends itself before it has come to the batch's end.
#[tokio::test]
async fn two_ends_within_one_batch_make_no_change_twice() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&(COLD.to_owned() + &Fixture::source("orders", &["orders"])));
    let orders = fixture.collection("orders");
    orders.insert_many((0..6).map(|n| doc! {"_id": n, "a": {}})).await.unwrap();
    fixture.run_once().await;
    let again = server.client().database(&format!("again_{}", fixture.tag()));
    let into = output(fixture.uri(), &format!("{}.orders", again.name()));
    let state = fixture.path("state").display().to_string();
    let arguments = ["replay", "--source", "orders", "--output", &into, "--state", &state];
    fixture.archiver.run(&arguments).await.expect_code(0);
    for n in 1..6 {
        orders.update_one(doc! {"_id": n}, doc! {"$set": {"n": n}}).await.unwrap();
    }
    // Made twice, the first would set a field of that name: there is nothing any more in which a `b` could be set.
    for change in [doc! {"$set": {"a.b": 1}}, doc! {"$unset": {"a": ""}}] {
        orders.update_one(doc! {"_id": 0}, change).await.unwrap();
    }
    fixture.run_once().await;
    for (batch, point) in [("100", "applied=exit"), ("2", "saved=exit@2"), ("3", "applied=exit")] {
        let mut archiver = fixture.archiver.clone();
        archiver.env("ARCHIVER_FAIL_POINTS", &format!("replay:{point}"));
        let outcome = archiver.run(&[&arguments[..], &["--batch", batch]].concat()).await;
        assert_eq!(outcome.code, None, "{point}: {}", outcome.stderr);
    }
    fixture.archiver.run(&arguments).await.expect_code(0);
    assert_eq!(digests(&again, &["orders"]).await, digests(&fixture.db, &["orders"]).await);
}

/// kill -9 at any moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_leave_the_target_as_the_source_was() {
    let server = Server::shared().await;
    let seed = seed();
    let fixture = restless(&server, seed).await;
    let mut rng = StdRng::seed_from_u64(seed);
    let again = server.client().database(&format!("again_{}", fixture.tag()));
    let into = output(fixture.uri(), again.name());
    let state = fixture.path("state").display().to_string();
    let arguments = arguments(&into, &state, &[]);
    for _ in 0..10 {
        let running = fixture.archiver.start(&arguments);
        tokio::time::sleep(Duration::from_millis(rng.random_range(50..600))).await;
        running.kill().await;
    }
    fixture.archiver.run(&arguments).await.expect_code(0);
    assert_same(&fixture, &again, "kills").await;
}

/// `archiver … >> file`, run again after each end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_of_events_has_each_once() {
    let server = Server::shared().await;
    let fixture = restless(&server, seed()).await;
    let (file, state) = (fixture.path("events.ndjson"), fixture.path("state").display().to_string());
    let arguments = arguments("ndjson", &state, &[]);
    let append = |point: &str| append(&fixture, &file, &arguments, point);
    for point in ["written=exit", "written=exit@4", "saved=exit", "saved=exit@7", "written=exit@2"] {
        let outcome = append(&format!("replay:{point}")).finish(LIMIT).await;
        assert_eq!(outcome.code, None, "{point}: {}", outcome.stderr);
    }
    append("").finish(LIMIT).await.expect_code(0);
    let found = events(&std::fs::read_to_string(&file).unwrap());
    let whole = replay(&fixture, &["--source", "all", "--output", "ndjson"]).await.expect_code(0);
    let whole = events(&whole.stdout);
    let names =
        |events: &[Document]| events.iter().map(|e| text(e, "_id._data").to_owned()).collect::<Vec<_>>();
    assert_eq!(names(&found), names(&whole));
    assert_eq!(names(&found).into_iter().collect::<BTreeSet<_>>().len(), found.len());
    assert!(found == whole);
    // What is new goes into another file, where the last run came to its end.
    std::fs::rename(&file, fixture.path("first.ndjson")).unwrap();
    fixture.collection("orders").insert_one(doc! {"_id": "new"}).await.unwrap();
    fixture.run_once().await;
    append("replay:written=exit").finish(LIMIT).await;
    let kept = std::fs::read(&file).unwrap();
    std::fs::rename(&file, fixture.path("second.ndjson")).unwrap();
    append("")
        .finish(LIMIT)
        .await
        .expect_code(INVALID)
        .expect_message(&["not the file that was written into", ">>"]);
    assert!(std::fs::read(&file).unwrap().is_empty() && !kept.is_empty());
    std::fs::rename(fixture.path("second.ndjson"), &file).unwrap();
    append("").finish(LIMIT).await.expect_code(0);
    assert!(std::fs::read(&file).unwrap() == kept, "the same event, once");
}

#[tokio::test]
async fn a_state_is_that_of_one_replay() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&(Fixture::source("all", &["orders"]) + &Fixture::source("other", &["items"])));
    fixture.run_once().await;
    let state = fixture.path("state").display().to_string();
    let of = |source: &'static str| ["replay", "--source", source, "--output", "ndjson", "--state"];
    let run = async |source| fixture.archiver.run(&[&of(source)[..], &[&state]].concat()).await;
    assert_eq!(events(&run("all").await.expect_code(0).stdout).len(), 1);
    assert_eq!(run("all").await.expect_code(0).stdout, "");
    run("other").await.expect_code(INVALID).expect_message(&["the state of another replay"]);
    std::fs::write(fixture.path("state"), "x").unwrap();
    run("all").await.expect_code(INVALID).expect_message(&["no state of a replay"]);
}

/// Two would each overwrite what the other one says, and apply changes to what the other one has changed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_is_gone_on_from_by_one_process_at_a_time() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    let audit = "[audit]\ndatabase = \"{audit}\"\nrecord_access = true\n\n";
    fixture.configure(&(audit.to_owned() + &Fixture::source("orders", &["orders"])));
    let orders = fixture.collection("orders");
    orders.insert_many((0..9).map(|n| doc! {"_id": n, "n": 0})).await.unwrap();
    fixture.run_once().await;
    let again = server.client().database(&format!("again_{}", fixture.tag()));
    let into = output(fixture.uri(), &format!("{}.orders", again.name()));
    let state = fixture.path("state").display().to_string();
    let arguments = ["replay", "--source", "orders", "--output", &into, "--state", &state];
    let following = fixture.archiver.start(&[&arguments[..], &["--follow"]].concat());
    let end = format!("\"next\": {}", fixture.count("orders").await + 1);
    wait_until("the state", LIMIT, async || {
        std::fs::read_to_string(&state).ok()?.contains(&end).then_some(())
    })
    .await;
    let source = async || digests(&fixture.db, &["orders"]).await;
    assert_eq!(digests(&again, &["orders"]).await, source().await);

    let notices = fixture.audit.collection::<Document>("archiver.notices");
    let written = async || (std::fs::read(&state).unwrap(), notices.count_documents(doc! {}).await.unwrap());
    let before = written().await;
    let holder = format!("process {} of ", following.pid());
    for other in [into.as_str(), "ndjson"] {
        let arguments = ["replay", "--source", "orders", "--output", other, "--state", &state];
        let refused = fixture.archiver.run(&arguments).await.expect_code(FENCED);
        assert_eq!(refused.stdout, "");
        refused.expect_message(&[
            "another replay goes on with this state",
            &state,
            &holder,
            "name another file",
        ]);
    }
    assert!(written().await == before);
    // With a state of its own it is another replay.
    let mut own = arguments;
    let (other, beside) = (output(fixture.uri(), &format!("{}.other", again.name())), state.clone() + "-2");
    (own[4], own[6]) = (&other, &beside);
    fixture.archiver.run(&own).await.expect_code(0);

    following.kill().await;
    orders.update_many(doc! {}, doc! {"$inc": {"n": 1}}).await.unwrap();
    fixture.run_once().await;
    // With those two that read, not the refused ones.
    fixture.archiver.run(&arguments).await.expect_code(0).expect_message(&["replayed 11 events"]);
    assert_eq!(digests(&again, &["orders"]).await, source().await);
}

/// What was captured late happened before what is there already: a drop would take with it what came after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_late_partition_may_still_come_before_waits_for_a_later_run() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    let source = Fixture::source("all", &["*"]);
    fixture.configure(&format!("{}\npartitions = 2\n", source.trim_end()));
    let orders = fixture.collection("orders");
    orders.insert_many((0..20).map(|n| doc! {"_id": n})).await.unwrap();
    fixture.run_once().await;
    let again = server.client().database(&format!("again_{}", fixture.tag()));
    let into = output(fixture.uri(), again.name());
    let state = fixture.path("state").display().to_string();
    // Somebody else has the lease of the partition in which drops are, who records nothing.
    let leases = fixture.audit.collection::<Document>("archiver.leases");
    let lease = async |holder: &str, millis: i64| {
        let now = DateTime::now();
        let expires = DateTime::from_millis(now.timestamp_millis() + millis);
        let change =
            doc! {"$set": {"holder": holder, "since": now, "expires": expires}, "$inc": {"epoch": 1_i64}};
        leases.update_one(doc! {"_id": "all/0"}, change).upsert(true).await.unwrap();
    };
    lease("nobody", 3_600_000).await;
    let before = digests(&fixture.db, &["orders"]).await;
    let capture = fixture.start();
    orders.drop().await.unwrap();
    orders.insert_many((0..40).map(|n| doc! {"_id": n, "n": 1})).await.unwrap();
    let log = fixture.audit.collection::<Document>("all");
    wait_until("the other partition", LIMIT, async || {
        log.find_one(doc! {"op": "insert", "_id.p": 1}).await.unwrap()
    })
    .await;
    capture.terminate().await.expect_code(0);
    let outcome = fixture.archiver.run(&arguments(&into, &state, &[])).await.expect_code(0);
    outcome.expect_message(&["is not captured as far as others", "stream=all/0"]);
    assert_eq!(digests(&again, &["orders"]).await, before);
    // Events are given as far as they are recorded.
    let all = replay(&fixture, &["--source", "all", "--output", "ndjson"]).await.expect_code(0);
    assert!(events(&all.stdout).len() as u64 == fixture.count("all").await);
    lease("nobody", -1).await;
    fixture.run_once().await;
    fixture.archiver.run(&arguments(&into, &state, &[])).await.expect_code(0);
    assert_eq!(digests(&again, &["orders"]).await, digests(&fixture.db, &["orders"]).await);
}

/// An audit database that was made anew, or restored from before, counts other records by the same numbers.
#[tokio::test]
async fn a_state_is_that_of_one_history() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&Fixture::source("orders", &["orders"]));
    let orders = fixture.collection("orders");
    orders.insert_many((0..9).map(|n| doc! {"_id": n})).await.unwrap();
    fixture.run_once().await;
    let state = fixture.path("state").display().to_string();
    let arguments = ["--source", "orders", "--output", "ndjson", "--state", &state];
    replay(&fixture, &arguments).await.expect_code(0);
    let checkpoints = fixture.audit.collection::<Document>("archiver.checkpoints");
    let earlier = doc! {"$set": {"nextSeq": 5_i64}};
    assert_eq!(checkpoints.update_one(doc! {"_id": "orders"}, earlier).await.unwrap().modified_count, 1);
    let refused = replay(&fixture, &arguments).await.expect_code(INVALID);
    refused.expect_message(&["ahead of what is recorded", "stream=orders", "restored", "--state"]);

    fixture.audit.drop().await.unwrap();
    std::fs::remove_dir_all(fixture.archive()).unwrap();
    fixture.run_once().await;
    let kept = std::fs::read(&state).unwrap();
    let refused = replay(&fixture, &arguments).await.expect_code(INVALID);
    refused.expect_message(&["the state of a replay of another history", &state, "empty target"]);
    assert!(std::fs::read(&state).unwrap() == kept);
    std::fs::remove_file(&state).unwrap();
    let all = replay(&fixture, &arguments).await.expect_code(0);
    assert_eq!(events(&all.stdout).len() as u64, fixture.count("orders").await);
}

/// After its end a file of events is that of whoever else writes into it.
#[tokio::test]
async fn what_others_wrote_behind_the_end_of_a_replay_stays() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&Fixture::source("orders", &["orders"]));
    fixture.run_once().await;
    let (file, state) = (fixture.path("events.ndjson"), fixture.path("state").display().to_string());
    let arguments = ["replay", "--source", "orders", "--output", "ndjson", "--state", &state];
    append(&fixture, &file, &arguments, "").finish(LIMIT).await.expect_code(0);
    let mut expected = std::fs::read_to_string(&file).unwrap() + "{\"another\": 1}\n";
    std::fs::write(&file, &expected).unwrap();
    fixture.collection("orders").insert_one(doc! {"_id": "new"}).await.unwrap();
    fixture.run_once().await;
    append(&fixture, &file, &arguments, "replay:written=exit").finish(LIMIT).await;
    append(&fixture, &file, &arguments, "").finish(LIMIT).await.expect_code(0);
    let whole = replay(&fixture, &arguments[1..5]).await.expect_code(0).stdout;
    expected += &whole.split_inclusive('\n').skip(1).collect::<String>();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), expected);
}

/// `archiver … >> file`, which ends itself at a fail point.
fn append(fixture: &Fixture, file: &Path, arguments: &[&str], point: &str) -> Running {
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$0\" --config \"$@\" >> \"$OUT\""]).arg(tools::archiver());
    command.arg(fixture.path("archiver.toml")).args(arguments).env("OUT", file);
    command.env("ARCHIVER_TEST_URI", fixture.uri()).env("ARCHIVER_FAIL_POINTS", point);
    Running::start(&mut command)
}
