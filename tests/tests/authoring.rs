//! The plugin author's loop, through the program: a new crate is built, inspected, tested and measured.

use std::fs;
use std::path::Path;
use std::time::Duration;

use archiver_tests::process::{Archiver, Outcome};
use archiver_tests::{Fixture, Server, tools, wait_until};
use bson::doc;

const INVALID: i32 = 10;
const PLUGIN: i32 = 14;

/// The program as an author runs it, but that cargo takes what this workspace was built from, and keeps what it builds.
fn author() -> Archiver {
    let mut archiver = Archiver::new(None);
    archiver.env(
        "CARGO_TARGET_DIR",
        &tools::archiver().parent().unwrap().join("../author").display().to_string(),
    );
    archiver.env("CARGO_NET_OFFLINE", "true");
    // What takes cargo longest, and changes nothing that is looked at here.
    for (setting, value) in [("OPT_LEVEL", "1"), ("LTO", "off"), ("CODEGEN_UNITS", "16")] {
        archiver.env(&format!("CARGO_PROFILE_RELEASE_{setting}"), value);
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
async fn a_new_plugin_is_built_alike_in_every_folder_and_tested_and_measured() {
    let folder = tempfile::tempdir().unwrap();
    let mut hashes = Vec::new();
    let mut file = String::new();
    for parent in ["a", "another/and/deeper"] {
        let plugin = folder.path().join(parent).join("loop-tried");
        run(&["new", "loop-tried", "--path", text(&plugin)]).await.expect_code(0);
        let built = run(&["build", text(&plugin), "--format", "json"]).await.expect_code(0);
        assert!(built.stderr.contains("Compiling loop-tried"), "nothing was built:\n{}", built.stderr);
        let built = built.json();
        file = built["path"].as_str().unwrap().to_owned();
        assert_eq!(built["sha256"], tools::sha256(Path::new(&file)));
        hashes.push(built["sha256"].clone());
    }
    assert_eq!(hashes[0], hashes[1], "the folder is in the file");

    let found = run(&["inspect", &file, "--format", "json"]).await.expect_code(0).json();
    assert_eq!((&found["name"], &found["may_drop"]), (&"loop-tried".into(), &true.into()));
    assert_eq!(found["contract"], "archiver:plugin@1.0.0");

    let plugin = folder.path().join("a/loop-tried");
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
