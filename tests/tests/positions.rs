//! Where a stream goes on from: never from a position that is not this deployment's, and from the right one where what is
//! watched has changed.

use std::time::Duration;

use archiver_tests::oplog::{self, Change};
use archiver_tests::record::{at, integer, must, of, text, time};
use archiver_tests::truth::assert_dense;
use archiver_tests::workload::seed;
use archiver_tests::{Fixture, Server, wait_until};
use bson::{Bson, Document, Timestamp, doc};
use futures_util::StreamExt;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);

async fn change_checkpoint(fixture: &Fixture, source: &str, update: Document) {
    let checkpoints = fixture.audit.collection::<Document>("archiver.checkpoints");
    checkpoints.update_one(doc! {"_id": source}, update).await.unwrap();
}

/// A source that has recorded one event and stands right behind it.
async fn behind_one_event(server: &Server) -> Fixture {
    let fixture = Fixture::new(server);
    fixture.configure(&Fixture::source("orders", &["orders"]));
    fixture.run_once().await;
    fixture.collection("orders").insert_one(doc! {"_id": 1}).await.unwrap();
    fixture.run_once().await;
    fixture
}

#[tokio::test]
async fn a_checkpoint_says_which_deployment_it_is_a_position_of() {
    let server = Server::shared().await;
    let fixture = behind_one_event(&server).await;
    let admin = server.client().database("admin");
    let config = admin.run_command(doc! {"replSetGetConfig": 1}).await.unwrap();
    let version = admin.run_command(doc! {"buildInfo": 1}).await.unwrap();
    let checkpoint = fixture.checkpoint("orders").await.unwrap();
    assert_eq!(text(&checkpoint, "server.version"), text(&version, "version"));
    assert!(text(&version, "version").starts_with(text(&checkpoint, "server.feature")));
    let id = must(&config, "config.settings.replicaSetId").as_object_id().unwrap();
    assert_eq!(text(&checkpoint, "server.deployment"), id.to_hex());
    let watched = vec![Bson::String(format!("{}.orders", fixture.db.name()))];
    assert_eq!(must(&checkpoint, "watch").as_array().unwrap(), &watched);
}

#[tokio::test]
async fn a_position_ahead_of_the_deployments_clock_halts_instead_of_waiting() {
    let server = Server::shared().await;
    let fixture = behind_one_event(&server).await;
    let before = fixture.count("orders").await;
    let now = must(&fixture.checkpoint("orders").await.unwrap(), "clusterTime").as_timestamp().unwrap();
    let ahead = Timestamp { time: now.time + 86_400, increment: 1 };
    change_checkpoint(&fixture, "orders", doc! {"$set": {"clusterTime": ahead}, "$unset": {"token": ""}})
        .await;
    let halted = fixture.archiver.run(&["run", "--once"]).await.expect_code(12);
    halted.expect_message(&["ahead of the deployment's clock", "restored from a backup"]);
    assert_eq!(fixture.count("orders").await, before, "a record was made of another history");
}

#[tokio::test]
async fn a_position_of_another_deployment_halts() {
    let server = Server::shared().await;
    let fixture = behind_one_event(&server).await;
    let before = fixture.count("orders").await;
    let other = doc! {"$set": {"server.deployment": "0123456789abcdef01234567"}};
    change_checkpoint(&fixture, "orders", other).await;
    let halted = fixture.archiver.run(&["run", "--once"]).await.expect_code(12);
    halted.expect_message(&["another deployment"]);
    assert_eq!(fixture.count("orders").await, before, "a record was made of another history");
}

#[tokio::test]
async fn a_token_of_an_event_that_the_oplog_does_not_hold_is_lost_history() {
    let server = Server::shared().await;
    let fixture = behind_one_event(&server).await;
    let before = fixture.count("orders").await;
    let mut stream = fixture.collection("orders").watch().await.unwrap();
    fixture.collection("orders").insert_one(doc! {"_id": 2}).await.unwrap();
    let event = stream.next().await.unwrap().unwrap();
    // The same moment, but of another collection: as after a restore that went another way.
    let token = bson::serialize_to_document(&event.id).unwrap();
    let token = text(&token, "_data");
    let uuid = token.find("5A1004").unwrap() + 6;
    let other = format!("{}{}{}", &token[..uuid], "0".repeat(32), &token[uuid + 32..]);
    let position = doc! {"clusterTime": event.cluster_time.unwrap(), "token": {"_data": other}};
    change_checkpoint(&fixture, "orders", doc! {"$set": position}).await;
    let source = Fixture::source("orders", &["orders"]);
    fixture.configure(&format!("{source}on_history_lost = \"halt\"\n"));
    let halted = fixture.archiver.run(&["run", "--once"]).await.expect_code(12);
    halted.expect_message(&["280", "was restored"]);
    assert_eq!(fixture.count("orders").await, before, "a record was made of another history");
    fixture.configure(&source);
    fixture.run_once().await;
    let gaps = fixture.records("orders").await.into_iter().filter(|r| text(r, "op") == "gap").count();
    assert_eq!(gaps, 2, "it opens and closes");
}

/// The changes of one collection among these.
fn changes_of<'a>(changes: &'a [Change], collection: &str) -> Vec<&'a Change> {
    let ending = format!(".{collection}");
    changes.iter().filter(|c| c.namespace.ends_with(&ending)).collect()
}

/// Transactions over both collections and single changes, with new ids.
async fn write(
    server: &Server,
    fixture: &Fixture,
    next_id: &mut i32,
    transactions: usize,
    operations: usize,
) {
    for _ in 0..transactions {
        let mut session = server.client().start_session().await.unwrap();
        session.start_transaction().await.unwrap();
        for n in 0..operations {
            let collection = fixture.collection(["a", "b", "c"][n % 3]);
            collection.insert_one(doc! {"_id": *next_id}).session(&mut session).await.unwrap();
            *next_id += 1;
        }
        session.commit_transaction().await.unwrap();
        for name in ["b", "a", "c"] {
            fixture.collection(name).insert_one(doc! {"_id": *next_id}).await.unwrap();
            *next_id += 1;
        }
    }
}

/// The first policy record whose list of what is watched is this one.
fn policy<'a>(records: &'a [Document], watch: &[String]) -> &'a Document {
    let list = Bson::Array(watch.iter().map(|w| Bson::String(w.clone())).collect());
    let found = of(records, &["policy"]).into_iter().find(|r| at(r, "detail.watch") == Some(&list));
    found.unwrap_or_else(|| panic!("no policy record for {watch:?}"))
}

/// Kills an archiver in the middle of a large transaction: its checkpoint then stands between two events of one time.
async fn kill_in_a_transaction(server: &Server, fixture: &Fixture, next_id: &mut i32) {
    let archiver = fixture.start();
    write(server, fixture, next_id, 1, 3).await;
    let mark = *next_id - 2;
    let log = fixture.audit.collection::<Document>("s");
    wait_until("the source follows", LIMIT, async || log.find_one(doc! {"key._id": mark}).await.unwrap())
        .await;
    let before = fixture.count("s").await;
    write(server, fixture, next_id, 1, 300).await;
    wait_until("the transaction", LIMIT, async || (fixture.count("s").await > before + 5).then_some(()))
        .await;
    archiver.kill().await;
    let token = fixture.checkpoint("s").await.unwrap();
    let recorded = fixture.count("s").await - before;
    assert!(recorded < 100, "killed too late: {recorded} {}", must(&token, "clusterTime"));
}

/// Each collection that was watched from a later time on has a baseline, once.
fn assert_baselines(records: &[Document]) {
    let baselines: Vec<_> = of(records, &["snapshot"]);
    assert!(baselines.iter().all(|r| text(r, "ns.coll") != "a"), "a was watched all the time");
    assert!(baselines.iter().any(|r| at(r, "key._id") == Some(&Bson::from("there before"))));
    assert!(baselines.iter().any(|r| text(r, "ns.coll") == "c"));
    let of_b = baselines.iter().filter(|r| text(r, "ns.coll") == "b");
    let mut ids: Vec<_> = of_b.map(|r| must(r, "key._id").to_string()).collect();
    ids.sort();
    ids.dedup_by(|a, b| a == b && panic!("{a} is in the baseline twice"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_watched_may_change_and_every_event_is_there_once() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    let mut rng = StdRng::seed_from_u64(seed());
    let name = |coll: &str| format!("{}.{coll}", fixture.db.name());
    let configure = |watch: &[&str]| {
        fixture.configure(
            &("[capture]\nbatch_max_events = 1\nlease_time = \"3s\"\n\n".to_owned()
                + &Fixture::source("s", watch)),
        );
    };
    let mut next_id = 0;
    for coll in ["a", "b", "c"] {
        fixture.db.create_collection(coll).await.unwrap();
    }
    fixture.collection("b").insert_one(doc! {"_id": "there before"}).await.unwrap();
    configure(&["a"]);
    fixture.run_once().await;
    for watch in [&["a", "b"][..], &["*"], &["b"]] {
        // Written and recorded under the old list, written while nobody reads, and under the new list.
        kill_in_a_transaction(&server, &fixture, &mut next_id).await;
        configure(watch);
        write(&server, &fixture, &mut next_id, 2, rng.random_range(1..9)).await;
        let archiver = fixture.start();
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..1_500))).await;
        archiver.kill().await;
        write(&server, &fixture, &mut next_id, 2, rng.random_range(1..9)).await;
        wait_until("the new list", LIMIT, async || {
            (fixture.archiver.run(&["run", "--once"]).await.code == Some(0)).then_some(())
        })
        .await;
    }
    write(&server, &fixture, &mut next_id, 1, 5).await;
    fixture.run_once().await;

    let records = fixture.records("s").await;
    assert_dense(&records);
    let changes = oplog::changes(server.client(), &format!("{}.", fixture.db.name())).await;
    let recorded = oplog::recorded(&records);
    let since = |watch: &[String]| time(policy(&records, watch));
    let both = since(&[name("a"), name("b")]);
    let everything = since(&[name("*")]);
    let last = since(&[name("b")]);
    assert!(both < everything && everything < last);
    for (coll, from, to) in
        [("a", None, Some(last)), ("b", Some(both), None), ("c", Some(everything), Some(last))]
    {
        let (of_it, kept) = (changes_of(&changes, coll), changes_of(&recorded, coll));
        let first = of_it.iter().position(|c| Some(*c) == kept.first().copied()).unwrap();
        assert_eq!(&of_it[first..first + kept.len()], &kept[..], "{coll}: a repeat, a gap or another order");
        // Nothing is missing but what happened before it was watched, and after.
        let missing = of_it[..first].iter().map(|c| c.time).max();
        assert!(missing <= from, "{coll}: {missing:?} is missing, watched since {from:?}");
        let behind = of_it[first + kept.len()..].iter().map(|c| c.time).min();
        assert!(
            behind.is_none_or(|behind| to.is_some_and(|to| behind >= to)),
            "{coll}: {behind:?} is missing"
        );
    }
    assert_baselines(&records);
    let counters = fixture.checkpoint("s").await.unwrap();
    let own = integer(&counters, "counters.own");
    assert_eq!(integer(&counters, "counters.appended") + own, records.len() as i64);
}

#[tokio::test]
async fn history_does_not_claim_that_documents_no_longer_watched_stand_still() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&Fixture::source("s", &["a", "b"]));
    fixture.collection("a").insert_one(doc! {"_id": 1}).await.unwrap();
    fixture.collection("b").insert_one(doc! {"_id": 2}).await.unwrap();
    fixture.run_once().await;
    let rewatched = async |level: &str| {
        let found = fixture.archiver.run(&["check", "--format", "json"]).await.expect_code(0).json();
        let of_watch =
            |f: &&Value| f["level"] == level && f["what"].as_str().unwrap().contains("`watch` has");
        found.as_array().unwrap().iter().filter(of_watch).map(|f| f["what"].to_string()).collect::<String>()
    };
    assert_eq!(rewatched("warn").await + &rewatched("info").await, "", "as it was");
    fixture.configure(&Fixture::source("s", &["b", "c"]));
    let name = |coll: &str| format!("{}.{coll}", fixture.db.name());
    assert!(rewatched("warn").await.contains(&name("a")), "check says what is left out");
    let more = rewatched("info").await;
    assert!(more.contains(&name("c")) && more.contains("baseline") && !more.contains(&name("b")), "{more}");
    fixture.configure(&Fixture::source("s", &["b"]));
    fixture.run_once().await;
    let recover = async |id: &str| {
        fixture.archiver.run(&["recover", "--source", "s", "--id", id, "--at", "2100-01-01T00:00:00Z"]).await
    };
    recover("{\"$numberInt\": \"1\"}").await.expect_code(16).expect_message(&["no longer watched"]);
    recover("{\"$numberInt\": \"2\"}").await.expect_code(0);
}
