//! `kill -9` of the archiver at random moments.

use std::time::Duration;

use archiver_tests::application::{Application, STEADY, prepare};
use archiver_tests::story::Story;
use archiver_tests::workload::seed;
use archiver_tests::{Fixture, Running, Server, wait_until};
use bson::{Document, doc};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;

use super::{ALL, KEEPING, assert_lanes, configure, rounds, settings};

/// Archivers that are killed at the same time, each with an audit database of its own over the same application: a round
/// takes as long as a lease needs to run out, so that one after the other would take minutes.
const LANES: u64 = 10;
/// Longer than any start on a busy machine.
const START: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_at_any_moment_loses_and_repeats_nothing() {
    let server = Server::own(settings()).await;
    let first = Fixture::new(&server);
    prepare(&first.db).await;
    let seed = seed();
    let application = Application::start(server.client(), first.db.name(), seed, 2).await;
    let mut lanes = JoinSet::new();
    for lane in 0..LANES {
        let fixture = first.second(&server);
        configure(&fixture, KEEPING);
        let mut rng = StdRng::seed_from_u64(seed.rotate_left(8) ^ lane);
        let rounds = rounds(50).div_ceil(LANES as usize);
        // On every other lane the lease of a killed holder is ended by hand: its successor comes while the server may still be
        // at work on its last transaction.
        let impatient = lane % 2 == 0;
        lanes.spawn(async move {
            for _ in 0..rounds {
                kill_once(&fixture, &mut rng, impatient).await;
            }
            fixture
        });
    }
    let lanes = lanes.join_all().await;
    application.stop().await;
    assert_lanes(Story::read(server.client(), first.db.name()).await, lanes).await;
}

/// Documents that are there before: so many that no archiver lives to read them all.
const DOCUMENTS: i32 = 1_500;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_in_the_middle_of_a_baseline_reads_every_document_once() {
    let server = Server::own(settings()).await;
    let first = Fixture::new(&server);
    prepare(&first.db).await;
    for name in STEADY {
        let documents = (0..DOCUMENTS).map(|n| doc! {"_id": 1_000 + n, "flags": 99, "n": n});
        first.collection(name).insert_many(documents).await.unwrap();
    }
    let seed = seed();
    let application = Application::start(server.client(), first.db.name(), seed, 2).await;
    let mut lanes = JoinSet::new();
    for lane in 0..3 {
        let fixture = first.second(&server);
        configure(&fixture, KEEPING);
        let mut rng = StdRng::seed_from_u64(seed.rotate_left(8) ^ lane);
        lanes.spawn(async move {
            for round in 0..rounds(4) {
                kill_once(&fixture, &mut rng, true).await;
                let read = fixture.checkpoint(ALL).await.is_some_and(|c| !c.contains_key("snapshot"));
                println!(
                    "lane {lane}, kill {round}: {}",
                    if read { "behind the baseline" } else { "within it" }
                );
            }
            fixture
        });
    }
    let lanes = lanes.join_all().await;
    application.stop().await;
    assert_lanes(Story::read(server.client(), first.db.name()).await, lanes).await;
}

/// Starts an archiver and kills it: most often at work, sometimes while it starts.
async fn kill_once(fixture: &Fixture, rng: &mut StdRng, impatient: bool) {
    let archiver = fixture.start();
    let at_work = rng.random_bool(0.9);
    let moment = Duration::from_millis(rng.random_range(0..700));
    if at_work {
        wait_until("the lease", START, async || holds_a_lease(fixture, &archiver).await.then_some(())).await;
    }
    tokio::time::sleep(moment).await;
    archiver.kill().await;
    if impatient {
        end_leases(fixture).await;
    }
}

/// Ends the leases of an archiver that is dead, as time would.
pub(super) async fn end_leases(fixture: &Fixture) {
    let leases = fixture.audit.collection::<Document>("archiver.leases");
    leases.update_many(doc! {}, doc! {"$currentDate": {"expires": true}}).await.unwrap();
}

/// Whether this very process holds the lease of the source that watches everything.
pub(super) async fn holds_a_lease(fixture: &Fixture, archiver: &Running) -> bool {
    let leases = fixture.audit.collection::<Document>("archiver.leases");
    let holder = doc! {"$regex": format!(":{}:", archiver.pid())};
    leases.find_one(doc! {"_id": ALL, "holder": holder}).await.unwrap().is_some()
}
