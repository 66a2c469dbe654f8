//! `verify`: says yes to what was written, and finds every kind of tampering.

use std::path::PathBuf;
use std::time::Duration;

use archiver_tests::process::{Archiver, Outcome};
use archiver_tests::workload::{Workload, seed};
use archiver_tests::{Fixture, Server, wait_until};
use serde_json::Value;

const ARCHIVE: &str =
    "[archive]\nurl = \"{archive}\"\nsegment_max_bytes = \"64KiB\"\nhot_retention = \"0s\"\n";

async fn archived() -> Fixture {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&(format!("{ARCHIVE}\n") + &Fixture::source("orders", &["orders"])));
    fixture.create_with_images("orders").await;
    fixture.run_once().await;
    Workload::new(server.client(), fixture.collection("orders"), seed()).run(400).await;
    fixture.run_once().await;
    assert!(segments(&fixture).len() > 2);
    fixture.ok(&["verify"]).await;
    fixture
}

fn files(fixture: &Fixture, extension: &str) -> Vec<PathBuf> {
    fixture.archive_files().into_iter().filter(|f| f.extension().is_some_and(|e| e == extension)).collect()
}

fn segments(fixture: &Fixture) -> Vec<PathBuf> {
    files(fixture, "parquet")
}

/// `verify` with nothing but the archive: no configuration, no MongoDB.
async fn verify(fixture: &Fixture) -> Outcome {
    verify_with(fixture, &[]).await
}

async fn verify_with(fixture: &Fixture, arguments: &[&str]) -> Outcome {
    let archive = fixture.archive_url();
    let arguments = [&["verify", "--archive", &archive], arguments].concat();
    Archiver::new(None).run(&arguments).await
}

/// What is found, for programs.
async fn findings(fixture: &Fixture, arguments: &[&str]) -> Vec<(String, String)> {
    let outcome = verify_with(fixture, &[arguments, &["--format", "json"]].concat()).await.expect_code(3);
    let text = |finding: &Value, name: &str| finding[name].as_str().unwrap().to_owned();
    let report = outcome.json();
    let findings = report["findings"].as_array().unwrap();
    findings.iter().map(|f| (text(f, "code"), text(f, "file"))).collect()
}

/// The archive's objects by their keys.
fn key(fixture: &Fixture, file: &std::path::Path) -> String {
    file.strip_prefix(fixture.archive()).unwrap().to_str().unwrap().to_owned()
}

fn flip(file: &PathBuf, position: impl Fn(usize) -> usize) {
    let mut bytes = std::fs::read(file).unwrap();
    let position = position(bytes.len());
    bytes[position] ^= 0x01;
    std::fs::write(file, bytes).unwrap();
}

#[tokio::test]
async fn an_untouched_archive_passes_without_configuration_or_mongodb() {
    let fixture = archived().await;
    verify(&fixture).await.expect_code(0);
    let report = verify_with(&fixture, &["--format", "json"]).await.expect_code(0).json();
    let source = &report["sources"][0];
    assert_eq!(source["segments"].as_u64().unwrap() as usize, segments(&fixture).len());
    assert_eq!(source["records"].as_i64().unwrap(), source["end_seq"].as_i64().unwrap() - 1);
    assert_eq!((&report["level"], &report["findings"]), (&"full".into(), &Value::Array(Vec::new())));
}

#[tokio::test]
async fn levels_and_parts_say_what_they_looked_at_and_a_part_finds_what_is_in_it() {
    let fixture = archived().await;
    let all = segments(&fixture).len() as u64;
    let (mut read, mut sampled) = (0, 0);
    for part in ["1", "2", "3"] {
        let arguments = ["--sample", "1/3", "--part", part, "--level", "listing", "--format", "json"];
        let report = verify_with(&fixture, &arguments).await.expect_code(0).json();
        assert_eq!(report["part"], format!("{part}/3"));
        read += report["sources"][0]["files"].as_u64().unwrap();
        sampled += report["sources"][0]["segments"].as_u64().unwrap();
    }
    assert_eq!((read, sampled), (all, all), "the parts are everything, once");
    let said = verify_with(&fixture, &["--sample", "1/30"]).await.expect_code(0).stdout;
    assert!(said.contains("every file is the one that was sealed; the records of part "), "{said}");
    verify_with(&fixture, &["--sample", "1/3", "--part", "4"]).await.expect_code(10);
    verify_with(&fixture, &["--sample", "1/3", "--level", "full"]).await.expect_code(10);
    verify_with(&fixture, &["--sample", "3"]).await.expect_code(2);
    flip(&segments(&fixture)[1], |length| length / 2);
    verify_with(&fixture, &["--level", "listing"]).await.expect_code(0);
    let file = key(&fixture, &segments(&fixture)[1]);
    let expected = vec![("segment-digest".to_owned(), file)];
    assert_eq!(findings(&fixture, &["--level", "structure"]).await, expected);
    assert_eq!(findings(&fixture, &["--sample", "1/3"]).await, expected);
}

#[tokio::test]
async fn what_verify_prints_to_be_noted_shows_later_that_the_end_was_taken_away() {
    let fixture = archived().await;
    let said = verify(&fixture).await.expect_code(0).stdout;
    let line = said.lines().find(|line| line.trim().starts_with("--newest ")).unwrap();
    let noted: Vec<&str> = line.split_whitespace().collect();
    verify_with(&fixture, &noted).await.expect_code(0);
    for kind in ["parquet", "json"] {
        std::fs::remove_file(files(&fixture, kind).last().unwrap()).unwrap();
    }
    verify(&fixture).await.expect_code(0);
    let found = findings(&fixture, &noted).await;
    assert_eq!(found, [("chain-rewritten".to_owned(), "orders".to_owned())]);
    // The audit database noted it, too.
    let outcome = fixture.archiver.run(&["verify"]).await.expect_code(3);
    assert!(outcome.stdout.contains("[chain-shortened]"), "{}", outcome.stdout);
    verify_with(&fixture, &["--newest", "orders=12"]).await.expect_code(10);
    verify_with(&fixture, &["--source", "orders", "--newest", &noted[1].replace("orders", "x")])
        .await
        .expect_code(10);
}

#[tokio::test]
async fn a_chain_that_was_written_anew_is_not_the_one_that_the_audit_database_noted() {
    let fixture = archived().await;
    let newest = files(&fixture, "json").pop().unwrap();
    let text = std::fs::read_to_string(&newest).unwrap();
    let (body, _) = text.split_once(",\n  \"digest\"").unwrap();
    let body = body.replacen("\"created\": \"2", "\"created\": \"3", 1);
    std::fs::write(fixture.path("body"), &body).unwrap();
    let digest = archiver_tests::tools::sha256(&fixture.path("body"));
    std::fs::write(&newest, format!("{body},\n  \"digest\": \"{digest}\"\n}}\n")).unwrap();
    verify(&fixture).await.expect_code(0);
    let outcome = fixture.archiver.run(&["verify"]).await.expect_code(3);
    assert!(outcome.stdout.contains("[chain-rewritten]"), "{}", outcome.stdout);
}

async fn status(fixture: &Fixture) -> Value {
    let all: Value = serde_json::from_str(&fixture.ok(&["status", "--format", "json"]).await).unwrap();
    all[0].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_archiver_verifies_in_the_background_and_says_loudly_what_it_finds() {
    let fixture = archived().await;
    let archive = format!("{ARCHIVE}verify_every = \"30s\"\n\n");
    fixture.configure(&(archive + &Fixture::source("orders", &["orders"])));
    let limit = Duration::from_secs(120);
    let found = async |number: i64| {
        wait_until("the findings are noted", limit, async || {
            let now = status(&fixture).await;
            (now["verifiedAt"].is_string() && now["verifyFindings"] == number).then_some(now)
        })
        .await
    };
    let archiver = fixture.start();
    assert_eq!(found(0).await["problems"], serde_json::json!([]));
    let damaged = segments(&fixture)[1].clone();
    let original = std::fs::read(&damaged).unwrap();
    flip(&damaged, |length| length / 2);
    let name = key(&fixture, &damaged);
    let problems = found(1).await["problems"].to_string();
    assert!(problems.contains(&name) && problems.contains("[segment-digest]"), "{problems}");
    let said = |log: &str| log.lines().any(|l| l.contains("ERROR") && l.contains(&name));
    assert!(said(&archiver.stderr()), "{}", archiver.stderr());
    // Another one knows at once, goes on with it, and takes it back when the file is as it was.
    archiver.terminate().await.expect_code(0);
    assert_eq!(status(&fixture).await["verifyFindings"], 1);
    let archiver = fixture.start();
    std::fs::write(&damaged, original).unwrap();
    found(0).await;
    // What is missing is seen without reading anything.
    std::fs::rename(&damaged, fixture.path("taken")).unwrap();
    assert!(found(1).await["problems"].to_string().contains("[segment-missing]"));
    archiver.terminate().await.expect_code(0);
}

#[tokio::test]
async fn a_flipped_bit_anywhere_in_a_segment_is_found() {
    let fixture = archived().await;
    let segment = &segments(&fixture)[1];
    let original = std::fs::read(segment).unwrap();
    for place in [0.0, 0.3, 0.6, 0.95, 1.0] {
        flip(segment, |length| ((length - 1) as f64 * place) as usize);
        let outcome = verify(&fixture).await.expect_code(3);
        let name = segment.file_name().unwrap().to_str().unwrap();
        assert!((outcome.stdout + &outcome.stderr).contains(name), "the segment is named");
        std::fs::write(segment, &original).unwrap();
    }
    verify(&fixture).await.expect_code(0);
}

#[tokio::test]
async fn a_changed_manifest_is_found() {
    let fixture = archived().await;
    let manifest = &files(&fixture, "json")[1];
    let text = std::fs::read_to_string(manifest).unwrap();
    std::fs::write(manifest, text.replacen("\"rows\":", "\"rows\" :", 1)).unwrap();
    verify(&fixture).await.expect_code(3);
}

#[tokio::test]
async fn a_missing_segment_a_missing_manifest_and_a_foreign_segment_are_found() {
    let fixture = archived().await;
    for kind in ["parquet", "json"] {
        let file = &files(&fixture, kind)[1];
        let original = std::fs::read(file).unwrap();
        std::fs::remove_file(file).unwrap();
        verify(&fixture).await.expect_code(3);
        std::fs::write(file, original).unwrap();
        verify(&fixture).await.expect_code(0);
    }
    let all = segments(&fixture);
    let extra = all[0].with_file_name("seg-00000000000000999999.parquet");
    std::fs::copy(&all[0], &extra).unwrap();
    verify(&fixture).await.expect_code(3);
    std::fs::remove_file(extra).unwrap();
    std::fs::copy(&all[0], &all[1]).unwrap();
    verify(&fixture).await.expect_code(3);
}
