//! The plugin author's loop, through the program: a new crate is built, inspected, tested and measured.

use std::fs;
use std::path::Path;
use std::time::Duration;

use archiver_tests::process::{Archiver, Outcome};
use archiver_tests::{Fixture, Server, tools, wait_until};
use bson::doc;

const INVALID: i32 = 10;
const PLUGIN: i32 = 14;

/// The program as an author runs it, but that cargo gets nothing new, shares what this workspace's plugins were built with, and does
/// not take the time to optimise.
fn author() -> Archiver {
    let mut archiver = Archiver::new(None);
    let target = tools::archiver().parent().unwrap().parent().unwrap().display().to_string();
    for (name, value) in [
        ("CARGO_TARGET_DIR", target.as_str()),
        ("CARGO_NET_OFFLINE", "true"),
        ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0"),
        // As in the workspace's profile: what runs while plugins are built, and takes longest to build itself, is then the same.
        ("CARGO_PROFILE_RELEASE_LTO", "thin"),
        ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "4"),
        ("CARGO_PROFILE_RELEASE_STRIP", "debuginfo"),
        ("CARGO_PROFILE_RELEASE_PANIC", "unwind"),
    ] {
        archiver.env(name, value);
    }
    archiver
}

async fn run(arguments: &[&str]) -> Outcome {
    author().run(&[&["plugin"], arguments].concat()).await
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test]
async fn a_new_plugin_is_built_inspected_tested_and_measured() {
    let folder = tempfile::tempdir().unwrap();
    let plugin = folder.path().join("loop-tried");
    run(&["new", "loop-tried", "--path", text(&plugin)]).await.expect_code(0);
    let built = run(&["build", text(&plugin), "--format", "json"]).await.expect_code(0).json();
    let file = built["path"].as_str().unwrap().to_owned();
    assert_eq!(built["sha256"], tools::sha256(Path::new(&file)));

    let found = run(&["inspect", &file, "--format", "json"]).await.expect_code(0).json();
    assert_eq!((&found["name"], &found["may_drop"]), (&"loop-tried".into(), &true.into()));
    assert_eq!(found["contract"], "archiver:plugin@1.0.0");

    let tested = run(&["test", text(&plugin), "--format", "json"]).await.expect_code(0).json_lines();
    let verdicts: Vec<_> = tested.iter().map(|line| line["verdict"].as_str().unwrap()).collect();
    assert_eq!(verdicts, ["replaced", "replaced", "dropped", "kept", "replaced", "replaced"]);
    assert_eq!(tested[0]["changes"][0]["path"], "after.contacts[0].email");
    assert_eq!(tested[0]["changes"][0]["after"], "\"***\"");

    let outcome = run(&["bench", text(&plugin), "--rounds", "2", "--format", "json"]).await.expect_code(0);
    let measured = outcome.json();
    for run in ["sandbox", "native", "empty"] {
        assert!(measured[run]["min"].as_f64().is_some_and(|ns| ns > 0.0), "{run}: {measured}");
    }
}

#[tokio::test]
async fn what_a_plugin_fails_on_is_shown_with_its_own_words() {
    let folder = tempfile::tempdir().unwrap();
    let events = folder.path().join("events.jsonl");
    let event = |deed: &str| {
        format!(
            "{{\"op\": \"insert\", \"ns\": {{\"db\": \"d\", \"coll\": \"c\"}}, \"after\": {{\"do\": \"{deed}\", \"secret\": \"s\"}}}}\n"
        )
    };
    fs::write(&events, ["nothing", "panic", "refuse", "identity", "garbage"].map(event).concat()).unwrap();
    let misbehave = tools::plugin("misbehave");
    let arguments = ["plugin", "test", text(&misbehave), "--events", text(&events)];
    let outcome = author().run(&arguments).await;
    assert_eq!(outcome.code, Some(PLUGIN), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("failed on 4 of 5 events"), "{}", outcome.stderr);
    for words in [
        "log error: plugin panicked at",
        "refused: it returned an error: ",
        "it changed `op`",
        "5 events: 1 kept, 4 failed",
    ] {
        assert!(outcome.stdout.contains(words), "{words} is missing:\n{}", outcome.stdout);
    }
    assert!(!outcome.stdout.contains('\x1b'), "colours in a file");
}

#[tokio::test]
async fn a_plugin_that_needs_a_configuration_is_told_from_one_that_is_not_there() {
    let redact = tools::plugin("redact");
    run(&["bench", text(&redact)])
        .await
        .expect_code(PLUGIN)
        .expect_message(&["tried without a configuration", "--plugin-config FILE"]);
    let missing = redact.with_file_name("missing.wasm");
    let outcome = run(&["bench", text(&missing)]).await;
    assert!(outcome.stderr.contains("missing.wasm"), "{}", outcome.stderr);
    assert!(!outcome.stderr.contains("configuration"), "{}", outcome.stderr);
}

#[tokio::test]
async fn what_the_host_would_refuse_is_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("wasi.wasm");
    // (module (import "wasi_snapshot_preview1" "fd_write" (func)))
    let mut module =
        b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x02\x23\x01\x16wasi_snapshot_preview1\x08fd_write\0\0".to_vec();
    fs::write(&file, &module).unwrap();
    run(&["inspect", text(&file)])
        .await
        .expect_code(PLUGIN)
        .expect_message(&["wasi_snapshot_preview1", "WASI target"]);
    module.truncate(4);
    fs::write(&file, module).unwrap();
    run(&["inspect", text(&file)]).await.expect_code(PLUGIN).expect_message(&["not a WebAssembly file"]);
    let missing = folder.path().join("missing");
    run(&["build", text(&missing)])
        .await
        .expect_code(INVALID)
        .expect_message(&["Cargo.toml", "archiver plugin new"]);
    run(&["new", "Bad Name"]).await.expect_code(INVALID).expect_message(&["lower-case"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_stream_can_be_tried_and_nothing_is_written() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&Fixture::source("all", &["customers"]));
    fixture.db.create_collection("customers").await.unwrap();
    let config = fixture.path("rules.toml");
    fs::write(&config, "rules = [{ path = \"ssn\", action = \"remove\" }]\n").unwrap();
    let redact = tools::plugin("redact");
    let arguments =
        ["plugin", "test", text(&redact), "--plugin-config", text(&config), "--source", "all", "--tail", "2"];
    let running = fixture.archiver.start(&arguments);
    let limit = Duration::from_secs(60);
    wait_until("it waits", limit, || async { running.stderr().contains("waiting for events").then_some(()) })
        .await;
    fixture.collection("customers").insert_one(doc! {"_id": 1, "ssn": "123-45-6789"}).await.unwrap();
    fixture.collection("customers").insert_one(doc! {"_id": 2}).await.unwrap();
    let outcome = running.finish(limit).await.expect_code(0);
    assert!(outcome.stdout.contains("- after.ssn: \"123-45-6789\""), "{}", outcome.stdout);
    assert!(outcome.stdout.contains("2 events: 1 kept, 1 replaced"), "{}", outcome.stdout);
    assert!(fixture.audit.list_collection_names().await.unwrap().is_empty());
    assert!(fixture.archive_files().is_empty());
}
