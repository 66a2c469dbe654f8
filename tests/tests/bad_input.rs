//! Bad input: each case ends with its exit code and a message that says what is wrong and where, and changes nothing.

use archiver_tests::process::Outcome;
use archiver_tests::replica_set::Settings;
use archiver_tests::{Fixture, Server, tools};
use bson::doc;

const USAGE: i32 = 2;
const INVALID: i32 = 10;
const UNAVAILABLE: i32 = 11;
const PLUGIN: i32 = 14;
const NOT_FOUND: i32 = 16;

fn source() -> String {
    Fixture::source("payments", &["payments"])
}

/// `run --once` with this configuration, and a look at whether it left anything behind.
async fn refused(text: &str, code: i32, words: &[&str]) -> Outcome {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(text);
    let outcome = fixture.archiver.run(&["run", "--once"]).await.expect_code(code).expect_message(words);
    let left = fixture.audit.list_collection_names().await.unwrap();
    assert!(left.is_empty(), "a refused configuration creates nothing: {left:?}");
    assert!(fixture.archive_files().is_empty());
    outcome
}

#[tokio::test]
async fn an_unknown_key_is_named_with_its_line_and_what_was_meant() {
    let text = source() + "snapshott = \"never\"\n";
    refused(&text, INVALID, &["snapshott", "archiver.toml:", "snapshot"]).await;
}

#[tokio::test]
async fn all_problems_are_reported_at_once() {
    let text = "[[source]]\nname = \"Payments\"\nwatch = [\"nodot\"]\nplugins = [\"nobody\"]\nsnapshot = \"maybe\"\n";
    refused(text, INVALID, &["Payments", "nodot", "nobody", "maybe"]).await;
}

#[tokio::test]
async fn a_missing_environment_variable_is_named() {
    let text = "[mongodb]\nuri = \"${ARCHIVER_TEST_SURELY_UNSET}\"\n".to_owned() + &source();
    refused(&text, INVALID, &["ARCHIVER_TEST_SURELY_UNSET"]).await;
}

#[tokio::test]
async fn a_value_from_the_environment_is_never_quoted() {
    let server = Server::shared().await;
    let mut fixture = Fixture::new(&server);
    fixture.archiver.env("ARCHIVER_TEST_SECRET", "can\"ary\\1");
    // The plugin quotes a rule's path, and this rule is none it takes.
    let rules = "{ path = \"${ARCHIVER_TEST_SECRET}\", action = \"keep\" }";
    fixture.configure(&(Fixture::redact("p", rules) + source().trim_end() + "\nplugins = [\"p\"]\n"));
    let outcome = fixture.archiver.run(&["run", "--once"]).await.expect_code(PLUGIN);
    assert!(!outcome.expect_message(&["rules[0]", "[secret]"]).stderr.contains("ary"));

    let archive = "[archive]\nurl = \"s3://bucket/prefix\"\n[archive.options]\nregion = \"x\"\nallow_http = \"${ARCHIVER_TEST_SECRET}\"\n\n";
    fixture.configure(&(archive.to_owned() + &source()));
    let outcome = fixture.archiver.run(&["run", "--once"]).await.expect_code(INVALID);
    assert!(!outcome.expect_message(&["[secret]", "option=allow_http"]).stderr.contains("ary"));
}

#[tokio::test]
async fn a_file_that_is_not_toml_is_refused_with_its_line() {
    refused(&(source() + "watch = [\n"), INVALID, &["archiver.toml:"]).await;
}

#[tokio::test]
async fn a_missing_configuration_file_is_named() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.archiver.run(&["status"]).await.expect_code(INVALID).expect_message(&["archiver.toml"]);
}

#[tokio::test]
async fn a_source_inside_the_audit_database_is_refused() {
    let text = "[[source]]\nname = \"own\"\nwatch = [\"{audit}.payments\"]\n";
    refused(text, INVALID, &["audit"]).await;
    let text = "[[source]]\nname = \"own\"\nwatch = [\"{audit}.*\"]\n";
    refused(text, INVALID, &["audit"]).await;
}

#[tokio::test]
async fn two_sources_of_one_name_are_refused() {
    let text = source() + &Fixture::source("payments", &["refunds"]);
    refused(&text, INVALID, &["payments"]).await;
}

#[tokio::test]
async fn a_standalone_mongod_is_refused_with_what_to_do() {
    let server = Server::own(Settings { replica_set: false, ..Settings::default() }).await;
    let fixture = Fixture::new(&server);
    fixture.configure(&source());
    let outcome = fixture.archiver.run(&["run", "--once"]).await;
    assert!(matches!(outcome.code, Some(INVALID | UNAVAILABLE)), "{outcome:?}");
    outcome.expect_message(&["replica set", "hint:"]);
}

#[tokio::test]
async fn wrong_credentials_are_refused_without_showing_them() {
    let server = Server::own(Settings { auth: true, ..Settings::default() }).await;
    let fixture = Fixture::new(&server);
    let address = server.mongod().address();
    let uri = format!("mongodb://root:wr0ng-passw0rd@{address}/?replicaSet=rs0");
    fixture.configure(&(format!("[mongodb]\nuri = \"{uri}\"\n\n") + &source()));
    let outcome = fixture.archiver.run(&["run", "--once", "--log-level", "trace"]).await;
    assert!(matches!(outcome.code, Some(INVALID | UNAVAILABLE)), "{outcome:?}");
    assert!(!outcome.stderr.contains("wr0ng-passw0rd"), "the password is shown:\n{}", outcome.stderr);
    outcome.expect_message(&["uthentication"]);

    fixture.configure(&source());
    fixture.run_once().await;
}

#[tokio::test]
async fn an_unreachable_server_is_named() {
    let uri = "mongodb://127.0.0.1:1/?replicaSet=rs0&serverSelectionTimeoutMS=1000";
    refused(&(format!("[mongodb]\nuri = \"{uri}\"\n\n") + &source()), UNAVAILABLE, &["127.0.0.1:1"]).await;
}

fn plugin_section(path: &str, sha256: &str) -> String {
    let plugin = format!("[[plugin]]\nname = \"p\"\npath = \"{path}\"\nsha256 = \"{sha256}\"\n\n");
    plugin + &source() + "plugins = [\"p\"]\n"
}

#[tokio::test]
async fn a_missing_plugin_file_is_named() {
    let text = plugin_section("nowhere.wasm", &"0".repeat(64));
    refused(&text, PLUGIN, &["nowhere.wasm"]).await;
}

#[tokio::test]
async fn a_plugin_of_another_hash_is_refused_with_both() {
    let file = tools::plugin("redact");
    let zeros = "0".repeat(64);
    let text = plugin_section(file.to_str().unwrap(), &zeros);
    refused(&text, PLUGIN, &[&zeros, &tools::sha256(&file)]).await;
}

#[tokio::test]
async fn a_plugin_without_a_pin_is_refused() {
    let file = tools::plugin("redact");
    let text = plugin_section(file.to_str().unwrap(), "x").replace("sha256 = \"x\"\n", "");
    refused(&text, INVALID, &["sha256"]).await;
}

/// Writes a plugin file and gives the configuration that names it.
fn with_plugin(fixture: &Fixture, content: &[u8]) -> String {
    let file = fixture.path("plugin.wasm");
    std::fs::write(&file, content).unwrap();
    plugin_section("plugin.wasm", &tools::sha256(&file))
}

#[tokio::test]
async fn a_plugin_that_is_not_wasm_is_refused() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&with_plugin(&fixture, b"#!/bin/sh\necho hello\n"));
    fixture.archiver.run(&["run", "--once"]).await.expect_code(PLUGIN).expect_message(&["plugin.wasm"]);
}

#[tokio::test]
async fn a_plugin_that_imports_wasi_is_refused_with_the_import() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&with_plugin(&fixture, &wasi_module()));
    let outcome = fixture.archiver.run(&["run", "--once"]).await.expect_code(PLUGIN);
    outcome.expect_message(&["wasi_snapshot_preview1"]);
    assert!(fixture.audit.list_collection_names().await.unwrap().is_empty());
}

/// A core module that does nothing and imports `fd_write`, assembled by hand.
fn wasi_module() -> Vec<u8> {
    let section = |id: u8, body: &[u8]| [&[id, body.len() as u8], body].concat();
    let name = |text: &str| [&[text.len() as u8], text.as_bytes()].concat();
    // (func (param i32 i32 i32 i32) (result i32))
    let types = section(1, &[1, 0x60, 4, 0x7f, 0x7f, 0x7f, 0x7f, 1, 0x7f]);
    let import = [&[1][..], &name("wasi_snapshot_preview1"), &name("fd_write"), &[0, 0]].concat();
    let memory = section(5, &[1, 0, 1]);
    let exports = section(7, &[&[1][..], &name("memory"), &[2, 0]].concat());
    [b"\0asm\x01\0\0\0".to_vec(), types, section(2, &import), memory, exports].concat()
}

#[tokio::test]
async fn an_archive_that_cannot_be_written_is_named_before_anything_is_captured() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    let file = fixture.path("a-file");
    std::fs::write(&file, b"not a folder").unwrap();
    let archive = format!("[archive]\nurl = \"file://{}/archive\"\n\n", file.display());
    fixture.configure(&(archive + &source()));
    let outcome = fixture.archiver.run(&["run", "--once"]).await;
    assert!(matches!(outcome.code, Some(INVALID | UNAVAILABLE)), "{outcome:?}");
    outcome.expect_message(&["a-file/archive"]);
    let outcome = fixture.archiver.run(&["check"]).await;
    assert_eq!(outcome.code, Some(3), "{outcome:?}");
    assert!(outcome.stdout.contains("a-file/archive"), "{}", outcome.stdout);
    assert_eq!(std::fs::read(file).unwrap(), b"not a folder");
}

async fn captured() -> Fixture {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&source());
    fixture.collection("payments").insert_one(doc! {"_id": "p"}).await.unwrap();
    fixture.run_once().await;
    fixture
}

#[tokio::test]
async fn an_unknown_source_is_named_and_the_known_ones_listed() {
    let fixture = captured().await;
    for command in [
        &["history", "--source", "paymints", "--id", "p"][..],
        &["recover", "--source", "paymints", "--id", "p"],
        &["status", "--source", "paymints"],
        &["verify", "--source", "paymints"],
        &["roll", "--source", "paymints"],
    ] {
        let outcome = fixture.archiver.run(command).await.expect_code(NOT_FOUND);
        outcome.expect_message(&["paymints", "payments"]);
    }
}

#[tokio::test]
async fn an_unknown_document_is_named() {
    let fixture = captured().await;
    for command in ["history", "recover"] {
        let outcome = fixture.archiver.run(&[command, "--source", "payments", "--id", "nobody"]).await;
        outcome.expect_code(NOT_FOUND).expect_message(&["nobody"]);
    }
}

#[tokio::test]
async fn a_document_that_was_never_deleted_is_said_to_be_alive() {
    let fixture = captured().await;
    let outcome = fixture.archiver.run(&["recover", "--source", "payments", "--id", "p"]).await;
    outcome.expect_code(INVALID).expect_message(&["is not deleted", "--at"]);
}

#[tokio::test]
async fn a_time_that_does_not_parse_is_refused_with_an_example() {
    let fixture = captured().await;
    for command in [
        &["history", "--source", "payments", "--id", "p", "--from", "yesterday"][..],
        &["history", "--source", "payments", "--id", "p", "--to", "2026-13-01T00:00:00Z"],
        &["recover", "--source", "payments", "--id", "p", "--at", "2026-11-21"],
        &["recover", "--source", "payments", "--deleted-since", "12:00"],
    ] {
        let outcome = fixture.archiver.run(command).await.expect_code(INVALID);
        outcome.expect_message(&["RFC 3339", command[command.len() - 1]]);
    }
}

#[tokio::test]
async fn an_unknown_command_is_a_usage_error() {
    let fixture = captured().await;
    fixture.archiver.run(&["frobnicate"]).await.expect_code(USAGE);
    fixture.archiver.run(&["history", "--source", "payments"]).await.expect_code(USAGE);
}

#[tokio::test]
async fn an_id_that_is_broken_json_is_refused_and_not_searched_for() {
    let fixture = captured().await;
    let outcome =
        fixture.archiver.run(&["history", "--source", "payments", "--id", "{\"$oid\": \"xyz\"}"]).await;
    assert!(matches!(outcome.code, Some(INVALID | NOT_FOUND)), "{outcome:?}");
}
