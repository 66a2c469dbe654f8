//! Several archivers of the same sources, of which some are paused, killed, stopped and started again.

use std::time::Duration;

use archiver_tests::application::{Application, prepare};
use archiver_tests::story::Story;
use archiver_tests::workload::seed;
use archiver_tests::{Fixture, Running, Server, tools, wait_until};
use bson::{Document, doc};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::kill::holds_a_lease;
use super::{ALL, KEEPING, assert_nothing_lost, configure, rounds, settings};

const LIMIT: Duration = Duration::from_secs(90);

/// Which of these processes holds the lease.
async fn holder(fixture: &Fixture, archivers: &[Running]) -> usize {
    wait_until("a holder", LIMIT, async || {
        for (n, archiver) in archivers.iter().enumerate() {
            if holds_a_lease(fixture, archiver).await {
                return Some(n);
            }
        }
        None
    })
    .await
}

async fn epoch(fixture: &Fixture) -> i64 {
    let leases = fixture.audit.collection::<Document>("archiver.leases");
    let lease = leases.find_one(doc! {"_id": ALL}).await.unwrap();
    lease.and_then(|lease| lease.get_i64("epoch").ok()).unwrap_or(0)
}

/// Waits until another writer than that of this epoch has appended something.
async fn taken_over(fixture: &Fixture, before: i64) {
    wait_until("another writer", LIMIT, async || (epoch(fixture).await > before).then_some(())).await;
    let records = fixture.count(ALL).await;
    wait_until("its records", LIMIT, async || (fixture.count(ALL).await > records).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_holder_that_comes_back_writes_nothing_more() {
    let server = Server::own(settings()).await;
    let fixture = Fixture::new(&server);
    prepare(&fixture.db).await;
    configure(&fixture, KEEPING);
    let application = Application::start(server.client(), fixture.db.name(), seed(), 2).await;
    let archivers = [fixture.start(), fixture.start()];
    for _ in 0..rounds(3) {
        let paused = holder(&fixture, &archivers).await;
        let before = epoch(&fixture).await;
        tools::signal(archivers[paused].pid(), "STOP");
        taken_over(&fixture, before).await;
        tools::signal(archivers[paused].pid(), "CONT");
    }
    application.stop().await;
    for archiver in archivers {
        let outcome = archiver.terminate().await;
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
    }
    assert_nothing_lost(&Story::read(server.client(), fixture.db.name()).await, &fixture).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_archivers_that_come_and_go_write_one_log() {
    let server = Server::own(settings()).await;
    let fixture = Fixture::new(&server);
    prepare(&fixture.db).await;
    configure(&fixture, KEEPING);
    let seed = seed();
    let mut rng = StdRng::seed_from_u64(seed);
    let application = Application::start(server.client(), fixture.db.name(), seed, 2).await;
    let mut archivers = vec![fixture.start(), fixture.start(), fixture.start()];
    for _ in 0..rounds(5) {
        let one =
            if rng.random_bool(0.7) { holder(&fixture, &archivers).await } else { rng.random_range(0..3) };
        match rng.random_range(0..3) {
            0 => drop(archivers.swap_remove(one).kill().await),
            1 => assert_eq!(archivers.swap_remove(one).terminate().await.code, Some(0)),
            _ => {
                tools::signal(archivers[one].pid(), "STOP");
                tokio::time::sleep(Duration::from_millis(rng.random_range(0..3_000))).await;
                tools::signal(archivers[one].pid(), "CONT");
            }
        }
        let records = fixture.count(ALL).await;
        while archivers.len() < 3 {
            archivers.push(fixture.start());
        }
        wait_until("more records", LIMIT, async || (fixture.count(ALL).await > records).then_some(())).await;
    }
    application.stop().await;
    for archiver in archivers {
        assert_eq!(archiver.terminate().await.code, Some(0));
    }
    assert_nothing_lost(&Story::read(server.client(), fixture.db.name()).await, &fixture).await;
}
