//! A set of three nodes whose primary steps down or is killed.

use std::time::{Duration, Instant};

use archiver_tests::Fixture;
use archiver_tests::application::{Application, prepare};
use archiver_tests::story::Story;
use archiver_tests::three_nodes::ThreeNodes;
use archiver_tests::workload::seed;
use bson::{Document, doc};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::{ALL, KEEPING, SOURCES, assert_nothing_lost, rounds, settings};

const LIMIT: Duration = Duration::from_secs(120);

/// How many records there are, as soon as somebody can say.
async fn count(fixture: &Fixture) -> u64 {
    let log = fixture.audit.collection::<Document>(ALL);
    let start = Instant::now();
    loop {
        match log.count_documents(doc! {}).await {
            Ok(count) => return count,
            Err(e) => assert!(start.elapsed() < LIMIT, "{e}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_steps_down_or_dies_takes_no_record_with_it() {
    let mut nodes = ThreeNodes::start(settings()).await;
    let fixture = Fixture::new(&nodes.server);
    prepare(&fixture.db).await;
    // Majority writes to three servers on one machine take their time.
    let sources = SOURCES.replace("2s", "6s");
    fixture.configure(&format!("[archive]\nurl = \"{{archive}}\"\n{KEEPING}\n\n{sources}"));
    let seed = seed();
    let mut rng = StdRng::seed_from_u64(seed);
    let application = Application::start(nodes.server.client(), fixture.db.name(), seed, 2).await;
    let archiver = fixture.start();
    for _ in 0..rounds(4) {
        let before = count(&fixture).await;
        let start = Instant::now();
        while count(&fixture).await <= before + 20 {
            assert!(start.elapsed() < LIMIT, "no more records\n{}", archiver.stderr());
        }
        match rng.random_bool(0.5) {
            true => nodes.step_down().await,
            false => nodes.kill_primary().await,
        }
    }
    application.stop().await;
    println!("{}", archiver.terminate().await.expect_code(0).stderr);
    assert_nothing_lost(&Story::read(nodes.server.client(), fixture.db.name()).await, &fixture).await;
}
