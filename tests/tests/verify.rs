//! `verify`: says yes to what was written, and finds every kind of tampering.

use std::path::PathBuf;

use archiver_tests::process::{Archiver, Outcome};
use archiver_tests::workload::{Workload, seed};
use archiver_tests::{Fixture, Server};

async fn archived() -> Fixture {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    let archive = "[archive]\nurl = \"{archive}\"\nsegment_max_bytes = \"64KiB\"\nhot_retention = \"0s\"\n\n";
    fixture.configure(&(archive.to_owned() + &Fixture::source("orders", &["orders"])));
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
    Archiver::new(None).run(&["verify", "--archive", &fixture.archive_url()]).await
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
    let outcome =
        Archiver::new(None).run(&["verify", "--archive", &fixture.archive_url(), "--format", "json"]).await;
    outcome.expect_code(0).json();
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
