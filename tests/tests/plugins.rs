//! Plugins that misbehave: an event is withheld without its contents or the source stops, and the rest goes on.

use std::time::Duration;

use archiver_tests::canary::{Canary, Haystack};
use archiver_tests::record::{integer, of, only, text};
use archiver_tests::truth::assert_dense;
use archiver_tests::{Fixture, Server, tools, wait_until};
use bson::doc;

const SECRET: &str = "canary-5105105105105100";
const PLUGIN: i32 = 14;

fn configuration(on_error: &str) -> String {
    let file = tools::plugin("misbehave");
    let (path, sha256) = (file.display(), tools::sha256(&file));
    format!(
        "[[plugin]]\nname = \"bad\"\npath = \"{path}\"\nsha256 = \"{sha256}\"\n\n\
         [[source]]\nname = \"all\"\nwatch = [\"{{db}}.things\"]\nplugins = [\"bad\"]\non_plugin_error = \"{on_error}\"\n"
    )
}

/// Twenty events of which one makes the plugin do this; gives the fixture and everything that was printed.
async fn one_bad_event(deed: &str, on_error: &str) -> (Fixture, String, Option<i32>) {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&configuration(on_error));
    fixture.db.create_collection("things").await.unwrap();
    fixture.run_once().await;
    for n in 0..20 {
        let mut document = doc! {"_id": n, "n": n};
        if n == 10 {
            document.extend(doc! {"do": deed, "secret": SECRET});
        }
        fixture.collection("things").insert_one(document).await.unwrap();
    }
    let outcome = fixture.archiver.run(&["run", "--once", "--log-level", "trace"]).await;
    (fixture, outcome.stdout + &outcome.stderr, outcome.code)
}

async fn is_quarantined(deed: &str) {
    let (fixture, output, code) = one_bad_event(deed, "quarantine").await;
    assert_eq!(code, Some(0), "{output}");
    let records = fixture.records("all").await;
    assert_dense(&records);
    assert_eq!(of(&records, &["insert"]).len(), 19, "the others are kept");
    let quarantined = of(&records, &["quarantine"]);
    assert_eq!(quarantined.len(), 1);
    assert!(
        !quarantined[0].contains_key("after") && !quarantined[0].contains_key("before"),
        "{}",
        quarantined[0]
    );
    assert_eq!(text(quarantined[0], "ns.coll"), "things");
    let checkpoint = fixture.checkpoint("all").await.unwrap();
    assert_eq!(integer(&checkpoint, "counters.quarantined"), 1);
    assert_eq!(integer(&checkpoint, "counters.read"), 20);
    assert_eq!(integer(&checkpoint, "counters.appended"), 20);
    let found =
        Haystack::of(&fixture.audit, &fixture.archive(), &output).await.search(&[Canary::text(SECRET)]);
    assert!(found.is_empty(), "{found:#?}");
}

#[tokio::test]
async fn a_panic_withholds_the_one_event_without_its_contents() {
    is_quarantined("panic").await;
}

#[tokio::test]
async fn a_refusal_withholds_the_one_event_without_its_contents() {
    is_quarantined("refuse").await;
}

#[tokio::test]
async fn an_endless_loop_is_interrupted() {
    is_quarantined("loop").await;
}

#[tokio::test]
async fn a_memory_bomb_is_stopped() {
    is_quarantined("memory").await;
}

#[tokio::test]
async fn output_that_is_not_bson_is_not_believed() {
    is_quarantined("garbage").await;
}

#[tokio::test]
async fn a_changed_operation_is_not_believed() {
    is_quarantined("identity").await;
}

#[tokio::test]
async fn a_dropped_event_is_counted_or_refused_but_never_silent() {
    let (fixture, output, code) = one_bad_event("drop", "quarantine").await;
    assert_eq!(code, Some(0), "{output}");
    let records = fixture.records("all").await;
    assert_eq!(of(&records, &["insert"]).len(), 19);
    let checkpoint = fixture.checkpoint("all").await.unwrap();
    let counters = checkpoint.get_document("counters").unwrap();
    let dropped = counters.get_document("dropped").unwrap().get_i64("bad").unwrap_or(0);
    assert_eq!(dropped + integer(counters, "quarantined"), 1, "{counters}");
    assert_eq!(integer(counters, "read"), integer(counters, "appended") + dropped);
}

#[tokio::test]
async fn halt_stops_before_the_event_and_nothing_is_lost() {
    let (fixture, output, code) = one_bad_event("panic", "halt").await;
    assert_eq!(code, Some(PLUGIN), "{output}");
    assert!(!output.contains(SECRET));
    let records = fixture.records("all").await;
    assert!(of(&records, &["quarantine"]).is_empty());
    assert!(
        !records.iter().any(|r| r.to_string().contains(SECRET)),
        "the event must not get through in clear"
    );
    assert!(of(&records, &["insert"]).len() <= 10, "nothing after the event is kept before the event itself");

    // The operator decides to withhold it: everything is there, in order, exactly once.
    fixture.configure(&configuration("quarantine"));
    fixture.run_once().await;
    let records = fixture.records("all").await;
    assert_dense(&records);
    for n in (0..20).filter(|n| *n != 10) {
        only(&records, "insert", n);
    }
    assert_eq!(of(&records, &["quarantine"]).len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_halts_stops_no_other_and_the_program_when_it_is_the_last() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    let other = "[[source]]\nname = \"other\"\nwatch = [\"{db}.quiet\"]\nplugins = [\"bad\"]\non_plugin_error = \"halt\"\n";
    fixture.configure(&(configuration("halt") + other));
    let running = fixture.start();
    let limit = Duration::from_secs(60);
    wait_until("both sources run", limit, || async {
        let both = fixture.checkpoint("all").await.and(fixture.checkpoint("other").await);
        both.map(|_| ())
    })
    .await;
    let bad = || doc! {"do": "panic", "secret": SECRET};
    fixture.collection("things").insert_one(bad()).await.unwrap();
    wait_until("the first source halts", limit, || async {
        running.stderr().contains("needs a human").then_some(())
    })
    .await;
    fixture.collection("quiet").insert_one(doc! {"n": 1}).await.unwrap();
    wait_until("the other goes on", limit, || async {
        (of(&fixture.records("other").await, &["insert"]).len() == 1).then_some(())
    })
    .await;
    fixture.collection("quiet").insert_one(bad()).await.unwrap();
    let outcome = running.finish(limit).await.expect_code(PLUGIN);
    assert!(!outcome.stderr.contains(SECRET));
}

/// The source's configuration with one more line.
fn with(line: &str) -> String {
    format!("{}{line}\n", configuration("quarantine"))
}

#[tokio::test]
async fn exactly_the_bad_events_of_a_big_batch_are_withheld_and_capture_goes_on() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&configuration("quarantine"));
    fixture.db.create_collection("things").await.unwrap();
    fixture.run_once().await;
    let deed = |n: i32| match n {
        0 => Some("refuse"),
        250 | 251 => Some("panic"),
        499 => Some("identity"),
        777 => Some("memory"),
        999 => Some("garbage"),
        _ => None,
    };
    let document = |n: i32| match deed(n) {
        Some(deed) => doc! {"_id": n, "do": deed, "secret": SECRET},
        None => doc! {"_id": n},
    };
    fixture.collection("things").insert_many((0..1000).map(document)).await.unwrap();
    let outcome = fixture.archiver.run(&["run", "--once", "--log-level", "trace"]).await.expect_code(0);
    let records = fixture.records("all").await;
    assert_dense(&records);
    for n in 0..1000 {
        match deed(n) {
            None => drop(only(&records, "insert", n)),
            Some(_) => {
                assert!(!records.iter().any(|r| text(r, "op") == "insert" && of_id(r, n)), "{n}")
            }
        }
    }
    assert_eq!(of(&records, &["quarantine"]).len(), 6);
    // Its author finds the place; nobody finds the secret.
    let line = "plugin panicked at tests/misbehave/src/lib.rs:";
    assert!(
        outcome.stderr.contains(line) && outcome.stderr.contains(": panic about …"),
        "{}",
        outcome.stderr
    );
    assert!(outcome.stderr.contains("I refuse …") && !outcome.stderr.contains(SECRET));
    fixture.collection("things").insert_one(doc! {"_id": 1000}).await.unwrap();
    fixture.run_once().await;
    only(&fixture.records("all").await, "insert", 1000);
    let checkpoint = fixture.checkpoint("all").await.unwrap();
    assert_eq!(integer(&checkpoint, "counters.plugins.bad.failed"), 6);
    assert_eq!(integer(&checkpoint, "counters.plugins.bad.kept"), 995);
    assert!(integer(&checkpoint, "counters.plugins.bad.micros") > 0);
    let status = fixture.archiver.run(&["status"]).await.expect_code(0).stdout;
    assert!(status.contains("plugin bad: 995 kept, 0 replaced, 0 dropped, 6 failed"), "{status}");
}

/// Whether the record is about the document of this `_id`.
fn of_id(record: &bson::Document, id: i32) -> bool {
    record.get_document("key").is_ok_and(|key| key.get_i32("_id").is_ok_and(|found| found == id))
}

#[tokio::test]
async fn a_source_halts_before_more_events_are_withheld_than_its_limit() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&with("quarantine_limit = 2"));
    fixture.db.create_collection("things").await.unwrap();
    fixture.run_once().await;
    let bad = || doc! {"do": "refuse", "secret": SECRET};
    fixture.collection("things").insert_many([bad(), bad()]).await.unwrap();
    fixture.run_once().await;
    assert_eq!(of(&fixture.records("all").await, &["quarantine"]).len(), 2);
    fixture.collection("things").insert_many([doc! {"_id": 3}, bad()]).await.unwrap();
    let outcome = fixture.archiver.run(&["run", "--once"]).await.expect_code(PLUGIN);
    assert!(outcome.stderr.contains("more than 2 of 10000 successive events"), "{}", outcome.stderr);
    assert!(of(&fixture.records("all").await, &["insert"]).is_empty());
    // The operator accepts it: nothing is lost.
    fixture.configure(&with("quarantine_limit = 3"));
    fixture.run_once().await;
    let records = fixture.records("all").await;
    assert_dense(&records);
    assert_eq!((of(&records, &["quarantine"]).len(), of(&records, &["insert"]).len()), (3, 1));
}

#[tokio::test]
async fn a_plugin_that_fails_its_test_or_wants_more_than_it_may_is_refused_before_anything_is_captured() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    let in_plugin = |line: &str| {
        configuration("quarantine").replace("\n\n[[source]]", &format!("\n{line}\n\n[[source]]"))
    };
    let test = |event: &str, expect: &str| {
        in_plugin(&format!("[[plugin.test]]\nevent = '{event}'\nexpect = '{expect}'"))
    };
    let dropped = r#"{"op": "insert", "after": {"do": "drop"}}"#;
    for (text, says) in [
        (in_plugin("allow = [\"modify\"]"), "declares that it may drop events"),
        (test(dropped, "keep"), "gives a dropped event"),
    ] {
        fixture.configure(&text);
        let outcome = fixture.archiver.run(&["run", "--once"]).await.expect_code(PLUGIN);
        assert!(outcome.stderr.contains(says), "{}", outcome.stderr);
        assert!(fixture.checkpoint("all").await.is_none());
    }
    fixture.configure(&test(dropped, "drop"));
    fixture.run_once().await;
}
