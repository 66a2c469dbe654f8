//! Several archivers with one configuration: the streams are spread evenly, handed over and taken over, and whatever happens
//! to an archiver, every change is recorded exactly once and in order.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use archiver_tests::process::Archiver;
use archiver_tests::record::{integer, of, text};
use archiver_tests::tools::signal;
use archiver_tests::truth::{assert_complete, assert_dense};
use archiver_tests::workload::{Workload, seed};
use archiver_tests::{Fixture, Running, Server, oplog, tools, wait_until};
use bson::{Bson, DateTime, Document, doc};
use futures_util::TryStreamExt;
use tokio::sync::watch;
use tokio::task::JoinHandle;

const LIMIT: Duration = Duration::from_secs(90);
const QUICK: &str = "[capture]\nlease_time = \"2s\"\n\n";
const PLUGIN: i32 = 14;
/// So long that a test which waited for a lease to run out would be stopped before.
const ENDLESS: &str = "[capture]\nlease_time = \"5m\"\n\n";

/// Six sources, and an application that changes all of them until it is stopped.
struct World {
    server: Server,
    fixture: Fixture,
    writers: Vec<JoinHandle<Workload>>,
    stop: watch::Sender<bool>,
}

fn sources(names: &[&str]) -> String {
    names.iter().map(|name| Fixture::source(name, &[name])).collect()
}

const NAMES: [&str; 6] = ["ash", "birch", "cedar", "elm", "fir", "oak"];

impl World {
    async fn new(capture: &str) -> World {
        let server = Server::shared().await;
        let fixture = Fixture::new(&server);
        fixture.configure(&(capture.to_owned() + &sources(&NAMES)));
        let stop = watch::Sender::new(false);
        let seed = seed();
        let write = |(n, name): (usize, &&str)| {
            let mut workload = Workload::new(server.client(), fixture.collection(name), seed + n as u64);
            let stopped = stop.subscribe();
            tokio::spawn(async move {
                while !*stopped.borrow() {
                    workload.step().await;
                    // Six of them on the machine that everything else runs on.
                    tokio::time::sleep(Duration::from_millis(3)).await;
                }
                workload
            })
        };
        let writers = NAMES.iter().enumerate().map(write).collect();
        World { server, fixture, writers, stop }
    }

    /// Waits until these processes, and no others, hold all sources, as evenly as can be.
    async fn spread_over(&self, archivers: &[&Running]) {
        let pids: BTreeSet<u32> = archivers.iter().map(|a| a.pid()).collect();
        let least = NAMES.len() / pids.len();
        wait_until(format!("an even spread over {pids:?}"), LIMIT, || async {
            let mut counts: BTreeMap<u32, usize> = pids.iter().map(|pid| (*pid, 0)).collect();
            for pid in holders(&self.fixture).await.values() {
                *counts.get_mut(pid)? += 1;
            }
            let even = counts.values().all(|n| *n == least || *n == least + 1);
            (even && counts.values().sum::<usize>() == NAMES.len()).then_some(())
        })
        .await;
    }

    /// Waits until every source has a record of something that happens from now on.
    async fn goes_on(&self) {
        for name in NAMES {
            let before = self.fixture.count(name).await;
            wait_until(format!("{name} goes on"), LIMIT, || async {
                (self.fixture.count(name).await > before + 3).then_some(())
            })
            .await;
        }
    }

    /// Stops the application and the archivers, and compares what was recorded with what happened.
    async fn compare(self, archivers: Vec<Running>) {
        self.stop.send_replace(true);
        let mut workloads = Vec::new();
        for writer in self.writers {
            workloads.push(writer.await.unwrap());
        }
        for archiver in archivers {
            archiver.terminate().await.expect_code(0);
        }
        assert_eq!(instances(&self.fixture).await, Vec::<Document>::new(), "all have taken leave");
        self.fixture.run_once().await;
        for (name, workload) in NAMES.iter().zip(workloads) {
            let records = self.fixture.records(name).await;
            assert_dense(&records);
            let namespace = format!("{}.{name}", self.fixture.db.name());
            let changes = oplog::changes(self.server.client(), &namespace).await;
            assert_complete(&changes, &workload.states, &records);
            let last = integer(&self.fixture.checkpoint(name).await.unwrap(), "nextSeq") - 1;
            println!("{name}: {} changes, {last} records", workload.changes);
            assert_eq!(last, records.len() as i64);
        }
    }
}

/// Who holds each source now, by process id.
async fn holders(fixture: &Fixture) -> BTreeMap<String, u32> {
    let leases =
        leases(fixture, doc! {"_id": {"$not": {"$regex": "/"}}, "holder": {"$type": "string"}}).await;
    let held = leases.iter().filter(|l| *l.get_datetime("expires").unwrap() > DateTime::now());
    held.map(|l| (text(l, "_id").to_owned(), text(l, "holder").split(':').nth(1).unwrap().parse().unwrap()))
        .collect()
}

/// The archivers that have announced themselves.
async fn instances(fixture: &Fixture) -> Vec<Document> {
    leases(fixture, doc! {"_id": {"$regex": "^instance/"}}).await
}

async fn leases(fixture: &Fixture, filter: Document) -> Vec<Document> {
    let found = fixture.audit.collection::<Document>("archiver.leases").find(filter).await.unwrap();
    found.try_collect().await.unwrap()
}

async fn lease(fixture: &Fixture, source: &str) -> Option<Document> {
    leases(fixture, doc! {"_id": source}).await.pop()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_are_spread_evenly_over_those_who_come_and_go() {
    let world = World::new(QUICK).await;
    let first = world.fixture.start();
    world.spread_over(&[&first]).await;
    let second = world.fixture.start();
    world.spread_over(&[&first, &second]).await;
    let third = world.fixture.start();
    world.spread_over(&[&first, &second, &third]).await;
    world.goes_on().await;
    first.terminate().await.expect_code(0);
    world.spread_over(&[&second, &third]).await;
    world.goes_on().await;
    world.compare(vec![second, third]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_archiver_held_is_taken_over_and_a_fourth_gets_its_share() {
    let world = World::new(QUICK).await;
    let (first, second, third) = (world.fixture.start(), world.fixture.start(), world.fixture.start());
    world.spread_over(&[&first, &second, &third]).await;
    world.goes_on().await;
    first.kill().await;
    world.spread_over(&[&second, &third]).await;
    let fourth = world.fixture.start();
    second.kill().await;
    world.spread_over(&[&third, &fourth]).await;
    wait_until("only the living are announced", LIMIT, || async {
        (instances(&world.fixture).await.len() == 2).then_some(())
    })
    .await;
    world.goes_on().await;
    world.compare(vec![third, fourth]).await;
}

/// Stops a process in the middle of an append: while a transaction in which it writes is open on the server.
async fn pause_in_an_append(world: &World, archiver: &Running) {
    let sessions = async || {
        let mine = leases(&world.fixture, doc! {"holder": {"$regex": format!(":{}:", archiver.pid())}}).await;
        let id = |lease: &Document| lease.get_document("session").ok()?.get("id").cloned();
        mine.iter().filter_map(id).collect::<Vec<Bson>>()
    };
    let open = async |sessions: &[Bson]| {
        let stages = [
            doc! {"$currentOp": {"allUsers": true, "idleSessions": true}},
            doc! {"$match": {"lsid.id": {"$in": sessions}, "transaction": {"$exists": true}}},
        ];
        let admin = world.server.client().database("admin");
        let found: Vec<Document> = admin.aggregate(stages).await.unwrap().try_collect().await.unwrap();
        !found.is_empty()
    };
    wait_until("an append to be stopped in", LIMIT, || async {
        let sessions = sessions().await;
        signal(archiver.pid(), "STOP");
        // What it had sent may still end: what is open a moment later stays open.
        if open(&sessions).await {
            tokio::time::sleep(Duration::from_millis(50)).await;
            if open(&sessions).await {
                return Some(());
            }
        }
        signal(archiver.pid(), "CONT");
        None
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_that_is_paused_in_an_append_and_revived_later_does_no_harm() {
    let world = World::new(QUICK).await;
    let (first, second) = (world.fixture.start(), world.fixture.start());
    world.spread_over(&[&first, &second]).await;
    world.goes_on().await;
    pause_in_an_append(&world, &first).await;
    world.spread_over(&[&second]).await;
    world.goes_on().await;
    signal(first.pid(), "CONT");
    wait_until("it notices", LIMIT, || async {
        let said = first.stderr();
        [
            "could not be renewed in time",
            "another process has taken the lease",
            "another writer has taken this source over",
        ]
        .iter()
        .any(|words| said.contains(words))
        .then_some(())
    })
    .await;
    wait_until("it warns", LIMIT, async || first.stderr().contains("raise lease_time").then_some(())).await;
    world.spread_over(&[&first, &second]).await;
    world.goes_on().await;
    world.compare(vec![first, second]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hand_over_does_not_wait_for_a_lease_to_run_out() {
    let world = World::new(ENDLESS).await;
    let first = world.fixture.start();
    world.spread_over(&[&first]).await;
    let second = world.fixture.start();
    // For an even spread …
    world.spread_over(&[&first, &second]).await;
    // … and at a stop.
    first.terminate().await.expect_code(0);
    world.spread_over(&[&second]).await;
    world.goes_on().await;
    world.compare(vec![second]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_archiver_with_another_configuration_runs_what_it_knows() {
    let world = World::new(QUICK).await;
    let fixture = &world.fixture;
    let more = QUICK.to_owned() + &sources(&NAMES) + &sources(&["yew"]);
    let fewer = QUICK.to_owned() + &sources(&["ash", "birch"]);
    let first = fixture.with_configuration("more", &more).start(&["run"]);
    let second = fixture.with_configuration("fewer", &fewer).start(&["run"]);
    // Five of the seven only the first knows; the other two are the second's.
    let names = |of: u32, holders: &BTreeMap<String, u32>| {
        holders.iter().filter(|(_, pid)| **pid == of).map(|(name, _)| name.clone()).collect::<Vec<_>>()
    };
    wait_until("each has what it can run", LIMIT, || async {
        let holders = holders(fixture).await;
        let right = names(first.pid(), &holders) == ["cedar", "elm", "fir", "oak", "yew"]
            && names(second.pid(), &holders) == ["ash", "birch"];
        right.then_some(())
    })
    .await;
    world.goes_on().await;
    // What only the first knows rests with it, and comes back with it.
    first.kill().await;
    let third = fixture.start();
    wait_until("all but one are held again", LIMIT, || async {
        let holders = holders(fixture).await;
        (holders.len() == 6
            && !holders.contains_key("yew")
            && names(second.pid(), &holders) == ["ash", "birch"])
        .then_some(())
    })
    .await;
    world.compare(vec![second, third]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_and_an_announcement_of_a_dead_archiver_are_outlived() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&(QUICK.to_owned() + &sources(&["ash"])));
    let expires = DateTime::from_millis(DateTime::now().timestamp_millis() + 2_000);
    let dead = "gone:1:00000000";
    let leases = fixture.audit.collection::<Document>("archiver.leases");
    let lease_of_it = doc! {"_id": "ash", "holder": dead, "epoch": 7_i64, "expires": expires};
    let itself = doc! {
        "_id": format!("instance/{dead}"), "holder": dead, "expires": expires, "leaseMillis": 2_000_i64, "streams": ["ash"],
    };
    leases.insert_many([lease_of_it, itself]).await.unwrap();
    let archiver = fixture.start();
    wait_until("it takes over", LIMIT, || async {
        (holders(&fixture).await.get("ash") == Some(&archiver.pid())).then_some(())
    })
    .await;
    assert!(DateTime::now() > expires, "not before the lease has run out");
    wait_until("the dead one is removed", LIMIT, || async {
        (instances(&fixture).await.len() == 1).then_some(())
    })
    .await;
    wait_until("it runs", LIMIT, || async {
        of(&fixture.records("ash").await, &["policy"]).first().map(|_| ())
    })
    .await;
    fixture.collection("ash").insert_one(doc! {"_id": 1}).await.unwrap();
    wait_until("it captures", LIMIT, || async {
        (of(&fixture.records("ash").await, &["insert"]).len() == 1).then_some(())
    })
    .await;
    assert_eq!(integer(&fixture.checkpoint("ash").await.unwrap(), "epoch"), 8);
    archiver.terminate().await.expect_code(0);
}

fn misbehaving(capture: &str, extra: &str) -> String {
    let file = tools::plugin("misbehave");
    let (path, sha256) = (file.display(), tools::sha256(&file));
    format!(
        "{capture}[[plugin]]\nname = \"bad\"\npath = \"{path}\"\nsha256 = \"{sha256}\"\n\n{}plugins = [\"bad\"]\n{extra}\n",
        Fixture::source("ash", &["ash"]).trim_end().to_owned() + "\n",
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_halts_is_tried_once_by_each_archiver_and_status_says_why() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&(misbehaving(QUICK, "on_plugin_error = \"halt\"\n") + &sources(&["birch"])));
    let archivers = [fixture.start(), fixture.start()];
    fixture.collection("ash").insert_one(doc! {"_id": 1, "do": "panic"}).await.unwrap();
    for archiver in &archivers {
        wait_until("each has tried", LIMIT, || async {
            archiver.stderr().contains("needs a human").then_some(())
        })
        .await;
    }
    let tries = async || integer(&lease(&fixture, "ash").await.unwrap(), "epoch");
    let tried = tries().await;
    assert!((2..=3).contains(&tried), "once by each, and once more where it changed hands before: {tried}");
    // The other source goes on, and by the time that it has changed hands nobody has touched the one that halted.
    let holder = holders(&fixture).await["birch"];
    let [first, second] = archivers;
    let (first, second) = if first.pid() == holder { (first, second) } else { (second, first) };
    first.terminate().await.expect_code(PLUGIN);
    wait_until("the other source is taken over", LIMIT, || async {
        (holders(&fixture).await.get("birch") == Some(&second.pid())).then_some(())
    })
    .await;
    assert_eq!(tries().await, tried);
    let status = wait_until("the other source runs there", LIMIT, || async {
        let status = fixture.archiver.run(&["status", "--format", "json"]).await.expect_code(0).json();
        let other = &status[1];
        assert_eq!(other["source"], "birch", "{status:#}");
        (other["state"] == "running").then_some(status)
    })
    .await;
    assert_eq!((&status[0]["source"], &status[0]["state"]), (&"ash".into(), &"halted".into()), "{status:#}");
    assert_eq!(status[0]["lastError"]["kind"], "plugin");
    let table = fixture.ok(&["status"]).await;
    assert!(table.contains("halted"), "{table}");
    // A new one tries again: that is how a human says that it is mended.
    let _third = fixture.start();
    wait_until("it is tried again", LIMIT, || async { (tries().await == tried + 1).then_some(()) }).await;
    second.terminate().await.expect_code(PLUGIN);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_plugin_does_not_hold_a_hand_over_up() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&misbehaving(ENDLESS, ""));
    let first = fixture.archiver.start(&["run", "--log-level", "debug"]);
    wait_until("it runs", LIMIT, || async { fixture.checkpoint("ash").await.map(|_| ()) }).await;
    let looping = |n: i32| doc! {"_id": n, "do": "loop"};
    fixture.collection("ash").insert_many((0..3).map(looping)).await.unwrap();
    wait_until("the plugin is at work", LIMIT, || async {
        first.stderr().contains("to the plugins").then_some(())
    })
    .await;
    let second = fixture.start();
    let outcome = first.terminate().await.expect_code(0);
    assert!(outcome.stderr.contains("stopping took too long"), "{}", outcome.stderr);
    wait_until("the other one goes on", LIMIT, || async {
        (of(&fixture.records("ash").await, &["quarantine"]).len() == 3).then_some(())
    })
    .await;
    assert_eq!(holders(&fixture).await["ash"], second.pid());
    second.terminate().await.expect_code(0);
    assert_dense(&fixture.records("ash").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_archiver_whose_audit_database_hangs_stops_believing_that_it_holds_its_leases() {
    let server = Server::own(archiver_tests::replica_set::Settings::default()).await;
    let fixture = Fixture::new(&server);
    fixture.configure(&(QUICK.to_owned() + &sources(&["ash"])));
    let archiver = fixture.start();
    wait_until("it runs", LIMIT, || async {
        of(&fixture.records("ash").await, &["policy"]).first().map(|_| ())
    })
    .await;
    signal(server.mongod().pid(), "STOP");
    wait_until("it gives up by itself", LIMIT, || async {
        archiver.stderr().contains("could not be renewed in time").then_some(())
    })
    .await;
    signal(server.mongod().pid(), "CONT");
    fixture.collection("ash").insert_one(doc! {"_id": 1}).await.unwrap();
    wait_until("it goes on", LIMIT, || async {
        (of(&fixture.records("ash").await, &["insert"]).len() == 1).then_some(())
    })
    .await;
    archiver.terminate().await.expect_code(0);
    assert_dense(&fixture.records("ash").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_once_is_neither_disturbed_by_others_nor_does_it_disturb_them() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(
        &(QUICK.to_owned() + "batch_max_events = 1\n\n" + &sources(&["ash", "birch"]))
            .replace("\n\nbatch", "\nbatch"),
    );
    let backlog = (0..400).map(|n| doc! {"_id": n});
    fixture.collection("ash").insert_many(backlog).await.unwrap();
    let once = fixture.archiver.start(&["run", "--once"]);
    let runs = async || fixture.count("ash").await > 0;
    wait_until("it is at work", LIMIT, || async { runs().await.then_some(()) }).await;
    let service = fixture.start();
    let outcome = once.finish(LIMIT).await.expect_code(0);
    assert!(!outcome.stderr.contains("even share"), "{}", outcome.stderr);
    wait_until("the service has both", LIMIT, || async {
        (holders(&fixture).await.values().filter(|pid| **pid == service.pid()).count() == 2).then_some(())
    })
    .await;
    // And the other way round: it waits for as long as a dead one's lease could hold, and gives up.
    let outcome = fixture.archiver.run(&["run", "--once"]).await.expect_code(13);
    assert!(outcome.stderr.contains("another archiver writes this source"), "{}", outcome.stderr);
    assert_eq!(holders(&fixture).await.len(), 2);
    service.terminate().await.expect_code(0);
    assert_dense(&fixture.records("ash").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_says_who_lives_and_who_holds_what() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&(QUICK.to_owned() + &sources(&["ash", "birch"])));
    let archivers = [fixture.start(), fixture.start()];
    let instances = async |archiver: &Archiver| {
        archiver.run(&["status", "--instances", "--format", "json"]).await.expect_code(0).json()
    };
    let seen = wait_until("each holds one", LIMIT, || async {
        let seen = instances(&fixture.archiver).await;
        let each = seen.as_array().unwrap();
        (each.len() == 2 && each.iter().all(|i| i["holds"].as_array().unwrap().len() == 1)).then_some(seen)
    })
    .await;
    let pids: BTreeSet<u64> = seen.as_array().unwrap().iter().map(|i| i["pid"].as_u64().unwrap()).collect();
    assert_eq!(pids, archivers.iter().map(|a| u64::from(a.pid())).collect());
    for instance in seen.as_array().unwrap() {
        assert!(
            instance["host"].is_string() && instance["since"].is_string() && instance["version"].is_string()
        );
        assert_eq!(instance["streams"], serde_json::json!(["ash", "birch"]));
        let sources = fixture.archiver.run(&["status", "--format", "json"]).await.expect_code(0).json();
        let held = sources.as_array().unwrap().iter().find(|s| s["source"] == instance["holds"][0]).unwrap();
        assert_eq!(held["holder"], instance["holder"]);
        assert!(held["leaseAgeSeconds"].as_i64().is_some_and(|age| age >= 0), "{held:#}");
    }
    let table = fixture.ok(&["status"]).await;
    assert!(pids.iter().all(|pid| table.contains(&pid.to_string())) && table.contains("instance"), "{table}");
    for archiver in archivers {
        archiver.terminate().await.expect_code(0);
    }
    assert_eq!(instances(&fixture.archiver).await, serde_json::json!([]));
}
