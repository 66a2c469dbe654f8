//! An audit deployment that refuses, closes connections, is slow, or is full: what `failCommand` can do to the archiver alone.

use std::time::Duration;

use archiver_tests::application::{Application, prepare};
use archiver_tests::story::Story;
use archiver_tests::workload::seed;
use archiver_tests::{Fixture, Server, wait_until};
use bson::{Document, doc};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use super::{ALL, KEEPING, assert_nothing_lost, configure, rounds, settings};

const LIMIT: Duration = Duration::from_secs(90);
/// The archiver's commands: what it reads with, and what it writes with.
const COMMANDS: [&str; 8] = [
    "insert",
    "update",
    "commitTransaction",
    "findAndModify",
    "aggregate",
    "getMore",
    "find",
    "listCollections",
];

/// What goes wrong with the commands that a fault concerns.
fn random_fault(rng: &mut StdRng) -> Document {
    match rng.random_range(0..5) {
        // OutOfDiskSpace
        0 => doc! {"errorCode": 14031},
        1 => doc! {"errorCode": 112, "errorLabels": ["TransientTransactionError"]},
        2 => doc! {"closeConnection": true},
        3 => doc! {"blockConnection": true, "blockTimeMS": rng.random_range(50..900)},
        // Done, but perhaps not durable: what a lost reply to a commit looks like.
        _ => doc! {"writeConcernError": {"code": 64, "errmsg": "waiting for replication timed out"}},
    }
}

/// Makes some of the archiver's next commands fail.
async fn fail(server: &Server, rng: &mut StdRng) {
    let mut data = random_fault(rng);
    let count = rng.random_range(1..4);
    let commands: Vec<_> = COMMANDS.sample(rng, count).copied().collect();
    data.insert("failCommands", commands);
    data.insert("appName", "archiver");
    let mode = doc! {"times": rng.random_range(1..5)};
    println!("{data} {mode}");
    let command = doc! {"configureFailPoint": "failCommand", "mode": mode, "data": data};
    server.client().database("admin").run_command(command).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_and_half_done_commands_lose_and_repeat_nothing() {
    let server = Server::own(settings()).await;
    let fixture = Fixture::new(&server);
    prepare(&fixture.db).await;
    configure(&fixture, KEEPING);
    let seed = seed();
    let mut rng = StdRng::seed_from_u64(seed);
    let application = Application::start(server.client(), fixture.db.name(), seed, 2).await;
    let archiver = fixture.start();
    wait_until("a record", LIMIT, async || (fixture.count(ALL).await > 0).then_some(())).await;
    for _ in 0..rounds(8) {
        fail(&server, &mut rng).await;
        let before = fixture.count(ALL).await;
        wait_until("the next record", LIMIT, async || (fixture.count(ALL).await > before).then_some(()))
            .await;
    }
    let off = doc! {"configureFailPoint": "failCommand", "mode": "off"};
    server.client().database("admin").run_command(off).await.unwrap();
    application.stop().await;
    let outcome = archiver.terminate().await;
    println!("{}", outcome.stderr);
    outcome.expect_code(0);
    assert_nothing_lost(&Story::read(server.client(), fixture.db.name()).await, &fixture).await;
}
