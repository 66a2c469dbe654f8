//! Plugins change while archivers run: at a batch boundary, on all of them, and not at all where the new ones can't be loaded.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use archiver_tests::process::Running;
use archiver_tests::record::{at, integer, of};
use archiver_tests::truth::assert_dense;
use archiver_tests::{Fixture, Server, tools, wait_until};
use bson::{Document, doc};

const LIMIT: Duration = Duration::from_secs(60);
const INVALID: i32 = 10;
const PLUGIN: i32 = 14;
const NOT_FOUND: i32 = 16;

/// A source whose plugin replaces `mark` by this word.
fn marking(word: &str) -> String {
    let rule = format!("{{ path = \"mark\", action = \"replace\", value = \"{word}\" }}");
    let source = "[[source]]\nname = \"all\"\nwatch = [\"{db}.things\"]\nplugins = [\"mark\"]\n";
    Fixture::redact("mark", &rule) + source
}

async fn fixture(word: &str) -> Fixture {
    let fixture = Fixture::new(&Server::shared().await);
    fixture.configure(&marking(word));
    fixture.db.create_collection("things").await.unwrap();
    fixture
}

async fn is_captured(fixture: &Fixture, id: i32) {
    wait_until("the document is captured", LIMIT, || async {
        fixture.records("all").await.iter().any(|r| at(r, "key._id") == Some(&id.into())).then_some(())
    })
    .await;
}

async fn insert(fixture: &Fixture, id: i32) {
    fixture.collection("things").insert_one(doc! {"_id": id, "mark": "secret"}).await.unwrap();
}

async fn is_announced(fixture: &Fixture, instances: u64) {
    wait_until("the archivers have announced themselves", LIMIT, || async {
        let leases = fixture.audit.collection::<Document>("archiver.leases");
        let found = leases.count_documents(doc! {"_id": {"$regex": "^instance/"}}).await.unwrap();
        (found == instances).then_some(())
    })
    .await;
}

/// Each record is by exactly the plugin that its policy names: the n-th policy's word is the n-th of these.
fn assert_by_policy(records: &[Document], words: &[&str]) {
    assert_dense(records);
    let policies: Vec<i64> = of(records, &["policy"]).iter().map(|p| integer(p, "_id")).collect();
    assert_eq!(policies.len(), words.len(), "{policies:?}");
    for record in of(records, &["insert"]) {
        let nth = policies.iter().position(|seq| *seq == integer(record, "policy")).unwrap();
        let newest = policies.iter().filter(|seq| **seq < integer(record, "_id")).max().unwrap();
        assert_eq!(integer(record, "policy"), *newest, "{record}");
        assert_eq!(at(record, "after.mark"), Some(&words[nth].into()), "{record}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_load_the_plugins_change_at_a_batch_boundary_and_nothing_is_lost_or_repeated() {
    let fixture = fixture("one").await;
    let mut running = fixture.start();
    is_announced(&fixture, 1).await;
    // What is there while the baseline is read may come as a document and not as a change.
    wait_until("the baseline is complete", LIMIT, || async {
        fixture.checkpoint("all").await.filter(|checkpoint| !checkpoint.contains_key("snapshot"))
    })
    .await;
    let (things, stop) = (fixture.collection("things"), Arc::new(AtomicBool::new(false)));
    let stopped = Arc::clone(&stop);
    let writer = tokio::spawn(async move {
        let mut written = 0;
        while !stopped.load(Ordering::Relaxed) {
            let documents = (written..written + 20).map(|n| doc! {"_id": n, "mark": "secret"});
            things.insert_many(documents).await.unwrap();
            written += 20;
        }
        written
    });
    is_captured(&fixture, 100).await;
    fixture.configure(&marking("two"));
    let answer = fixture.archiver.run(&["reload", "--format", "json"]).await.expect_code(0).json();
    assert_eq!(answer[0]["changed"], serde_json::json!(["all"]), "{answer}");
    // Once more by signal, and once with nothing to change.
    fixture.configure(&marking("three"));
    tools::signal(running.pid(), "HUP");
    wait_until("the signal has worked", LIMIT, || async {
        (of(&fixture.records("all").await, &["policy"]).len() == 3).then_some(())
    })
    .await;
    let answer = fixture.archiver.run(&["reload", "--format", "json"]).await.expect_code(0).json();
    assert_eq!(answer[0]["changed"], serde_json::json!([]), "{answer}");
    stop.store(true, Ordering::Relaxed);
    let written = writer.await.unwrap();
    insert(&fixture, -1).await;
    is_captured(&fixture, -1).await;
    assert!(running.is_alive());
    running.terminate().await.expect_code(0);
    let records = fixture.records("all").await;
    assert_by_policy(&records, &["one", "two", "three"]);
    let ids: Vec<i64> = of(&records, &["insert"]).iter().map(|r| integer(r, "key._id")).collect();
    assert_eq!(ids.len(), ids.iter().collect::<BTreeSet<_>>().len(), "repeated");
    assert_eq!(ids.len() as i64, i64::from(written) + 1, "lost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_leaves_everything_as_it_was_and_what_takes_a_restart_is_named() {
    let fixture = fixture("one").await;
    fixture.archiver.run(&["reload"]).await.expect_code(NOT_FOUND);
    let running = fixture.start();
    insert(&fixture, 1).await;
    is_captured(&fixture, 1).await;
    fixture.configure(&marking("two").replacen(&tools::sha256(&tools::plugin("redact")), &"0".repeat(64), 1));
    let refused = fixture.archiver.run(&["reload"]).await.expect_code(PLUGIN);
    refused.expect_message(&["is not the file that the configuration names"]);
    let good = std::fs::read_to_string(fixture.path("archiver.toml")).unwrap();
    // The command reads a configuration of its own; the archiver's is broken.
    let other = fixture.with_configuration("other", &marking("two"));
    fixture.write_config("nonsense = 1\n");
    other.run(&["reload"]).await.expect_code(INVALID).expect_message(&["nonsense"]);
    fixture.write_config(&good);
    insert(&fixture, 2).await;
    is_captured(&fixture, 2).await;

    fixture.configure(&(marking("two") + "on_history_lost = \"halt\"\n\n[capture]\nbatch_max_events = 7\n"));
    let outcome = fixture.archiver.run(&["reload", "--format", "json"]).await.expect_code(0);
    let named = ["[capture] batch_max_events", "[[source]] all: on_history_lost"];
    assert_eq!(outcome.json()[0]["restart"], serde_json::json!(named));
    insert(&fixture, 3).await;
    is_captured(&fixture, 3).await;
    let ended = running.terminate().await.expect_code(0);
    assert_eq!(ended.stderr.matches("everything stays as it was").count(), 2, "{}", ended.stderr);
    assert_by_policy(&fixture.records("all").await, &["one", "two"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_archivers_answer_and_whoever_takes_over_goes_on_with_the_new_plugins() {
    let fixture = fixture("one").await;
    let both: [Running; 2] = [fixture.start(), fixture.start()];
    is_announced(&fixture, 2).await;
    insert(&fixture, 1).await;
    is_captured(&fixture, 1).await;
    fixture.configure(&marking("two"));
    let answers = fixture.archiver.run(&["reload", "--format", "json"]).await.expect_code(0).json();
    assert_eq!(answers.as_array().unwrap().len(), 2, "{answers}");
    insert(&fixture, 2).await;
    is_captured(&fixture, 2).await;
    let holder =
        fixture.audit.collection::<Document>("archiver.leases").find_one(doc! {"_id": "all"}).await.unwrap();
    let holder = holder.unwrap().get_str("holder").unwrap().to_owned();
    let (held, spare): (Vec<_>, Vec<_>) =
        both.into_iter().partition(|running| holder.contains(&format!(":{}:", running.pid())));
    for running in held {
        running.terminate().await.expect_code(0);
    }
    insert(&fixture, 3).await;
    is_captured(&fixture, 3).await;
    for running in spare {
        running.terminate().await.expect_code(0);
    }
    // The one that takes over has the same plugins: there is nothing to say.
    assert_by_policy(&fixture.records("all").await, &["one", "two"]);
}

/// Sources through `bad`, which fails on what says so: one with these settings, and two that stay in order.
fn failing(plugins: &str, settings: &str) -> String {
    let file = tools::plugin("misbehave");
    let (path, sha256) = (file.display(), tools::sha256(&file));
    let bad = format!("[[plugin]]\nname = \"bad\"\npath = \"{path}\"\nsha256 = \"{sha256}\"\n\n");
    let all = format!(
        "[[source]]\nname = \"all\"\nwatch = [\"{{db}}.things\"]\nplugins = [{plugins}]\n{settings}\n\n"
    );
    bad + &all + &Fixture::source("counted", &["counted"]) + &Fixture::source("quiet", &["quiet"])
}

async fn is_in_state(fixture: &Fixture, source: &str, state: &str) {
    wait_until(format!("{source} is {state}"), LIMIT, || async {
        let arguments = ["status", "--source", source, "--format", "json"];
        let status = fixture.archiver.run(&arguments).await.expect_code(0).json();
        (status[0]["state"] == state).then_some(())
    })
    .await;
}

/// Reloads, and gives the sources that were changed, and the streams that were tried again.
async fn reload(fixture: &Fixture) -> serde_json::Value {
    let answer = fixture.archiver.run(&["reload", "--format", "json"]).await.expect_code(0).json();
    serde_json::json!([answer[0]["changed"], answer[0]["revived"]])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_halted_is_tried_again_and_goes_on_where_it_is_mended() {
    let fixture = Fixture::new(&Server::shared().await);
    let halting = "on_plugin_error = \"halt\"";
    fixture.configure(&failing("\"bad\"", halting));
    for name in ["things", "counted", "quiet"] {
        fixture.db.create_collection(name).await.unwrap();
    }
    fixture.run_once().await;
    let checkpoints = fixture.audit.collection::<Document>("archiver.checkpoints");
    let miscount = |by: i64| {
        checkpoints.update_one(doc! {"_id": "counted"}, doc! {"$inc": {"counters.read": by}}).into_future()
    };
    miscount(1).await.unwrap();
    let mut running = fixture.start();
    let things = fixture.collection("things");
    things.insert_one(doc! {"_id": 1}).await.unwrap();
    things.insert_one(doc! {"_id": 2, "do": "panic"}).await.unwrap();
    things.insert_one(doc! {"_id": 3}).await.unwrap();
    for source in ["all", "counted"] {
        is_in_state(&fixture, source, "halted").await;
    }
    // Nothing is mended: both are tried, and halt again.
    assert_eq!(reload(&fixture).await, serde_json::json!([[], ["all", "counted"]]));
    wait_until("both have halted again", LIMIT, || async {
        (running.stderr().matches("has stopped and needs a human").count() >= 4).then_some(())
    })
    .await;
    is_in_state(&fixture, "all", "halted").await;
    // The plugin is mended, the damage is not.
    fixture.configure(&failing("", halting));
    assert_eq!(reload(&fixture).await, serde_json::json!([["all"], ["all", "counted"]]));
    is_captured(&fixture, 3).await;
    is_in_state(&fixture, "all", "running").await;
    is_in_state(&fixture, "counted", "halted").await;
    // A damage that is gone, too, with nothing changed in the file.
    miscount(-1).await.unwrap();
    assert_eq!(reload(&fixture).await, serde_json::json!([[], ["counted"]]));
    is_in_state(&fixture, "counted", "running").await;
    assert!(running.is_alive());
    running.terminate().await.expect_code(0);
    let records = fixture.records("all").await;
    assert_dense(&records);
    let seen: Vec<(i64, i64)> =
        of(&records, &["insert"]).iter().map(|r| (integer(r, "key._id"), integer(r, "policy"))).collect();
    let policies: Vec<i64> = of(&records, &["policy"]).iter().map(|p| integer(p, "_id")).collect();
    assert_eq!(policies.len(), 2);
    let by_mended = policies[1];
    assert_eq!(seen[1..], [(2, by_mended), (3, by_mended)], "{seen:?}");
    assert_eq!((seen[0].0, seen.len()), (1, 3), "{seen:?}");
    fixture.run_once().await;
    fixture.ok(&["verify"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happens_when_plugins_fail_changes_with_a_reload() {
    let fixture = Fixture::new(&Server::shared().await);
    let reload_with = async |settings: &str| {
        fixture.configure(&failing("\"bad\"", settings));
        reload(&fixture).await
    };
    fixture.configure(&failing("\"bad\"", "quarantine_limit = 1"));
    let running = fixture.start();
    is_announced(&fixture, 1).await;
    let bad = async |id: i32| {
        fixture.collection("things").insert_one(doc! {"_id": id, "do": "panic"}).await.unwrap();
    };
    let quarantined = async |count: usize| {
        wait_until("they are quarantined", LIMIT, || async {
            (of(&fixture.records("all").await, &["quarantine"]).len() == count).then_some(())
        })
        .await;
    };
    wait_until("the baseline is complete", LIMIT, || async {
        fixture.checkpoint("all").await.filter(|checkpoint| !checkpoint.contains_key("snapshot"))
    })
    .await;
    bad(1).await;
    quarantined(1).await;
    bad(2).await;
    is_in_state(&fixture, "all", "halted").await;
    assert_eq!(reload_with("quarantine_limit = 2").await, serde_json::json!([["all"], ["all"]]));
    quarantined(2).await;
    // While it runs, without being read anew: there is no other policy.
    is_in_state(&fixture, "all", "running").await;
    assert_eq!(reload_with("quarantine_limit = 9").await, serde_json::json!([["all"], []]));
    bad(3).await;
    quarantined(3).await;
    assert_eq!(reload_with("on_plugin_error = \"halt\"").await, serde_json::json!([["all"], []]));
    bad(4).await;
    is_in_state(&fixture, "all", "halted").await;
    assert_eq!(reload_with("on_plugin_error = \"quarantine\"").await, serde_json::json!([["all"], ["all"]]));
    quarantined(4).await;
    assert_eq!(of(&fixture.records("all").await, &["policy"]).len(), 1);
    // Another plugin begins anew: it has failed on nothing yet.
    let other =
        failing("\"bad\"", "quarantine_limit = 1").replacen("\n\n", "\nconfig = { other = 1 }\n\n", 1);
    fixture.configure(&other);
    assert_eq!(reload(&fixture).await, serde_json::json!([["all"], []]));
    bad(5).await;
    quarantined(5).await;
    running.terminate().await.expect_code(0);
    let records = fixture.records("all").await;
    assert_dense(&records);
    assert_eq!(of(&records, &["policy"]).len(), 2);
}
