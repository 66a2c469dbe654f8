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

    fixture.configure(&(marking("two") + "on_plugin_error = \"halt\"\n\n[capture]\nbatch_max_events = 7\n"));
    let outcome = fixture.archiver.run(&["reload", "--format", "json"]).await.expect_code(0);
    let named = ["[capture] batch_max_events", "[[source]] all: on_plugin_error"];
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
