//! Connections that are cut, slow, silent, or left hanging: to the watched deployment and to the audit deployment.

use std::time::{Duration, Instant};

use archiver_tests::application::{Application, prepare};
use archiver_tests::proxy::{Flow, Proxy};
use archiver_tests::story::Story;
use archiver_tests::workload::seed;
use archiver_tests::{Fixture, Running, Server, wait_until};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::{ALL, KEEPING, SOURCES, assert_nothing_lost, rounds, settings};

const LIMIT: Duration = Duration::from_secs(120);

/// One server behind two proxies: the application goes past them, the archiver watches through one and writes through the
/// other.
struct Network {
    server: Server,
    fixture: Fixture,
    /// `[mongodb]`, `[audit]`
    proxies: [Proxy; 2],
}

impl Network {
    async fn start() -> Network {
        let server = Server::own(settings()).await;
        let fixture = Fixture::new(&server);
        prepare(&fixture.db).await;
        let address = server.mongod().address();
        let proxies = [Proxy::start(&address).await, Proxy::start(&address).await];
        let [mongodb, audit] = [proxies[0].uri(), proxies[1].uri()];
        fixture.configure(&format!(
            "[mongodb]\nuri = \"{mongodb}\"\n\n[audit]\nuri = \"{audit}\"\ndatabase = \"{{audit}}\"\n\n\
             [archive]\nurl = \"{{archive}}\"\n{KEEPING}\n\n{SOURCES}"
        ));
        Network { server, fixture, proxies }
    }

    /// Waits for so many more records.
    async fn grows(&self, archiver: &Running, by: u64) {
        let end = self.fixture.count(ALL).await + by;
        let start = Instant::now();
        while self.fixture.count(ALL).await < end {
            assert!(start.elapsed() < LIMIT, "no more records\n{}", archiver.stderr());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn end(self, application: Application, archiver: Running) {
        application.stop().await;
        println!("{}", archiver.terminate().await.expect_code(0).stderr);
        let story = Story::read(self.server.client(), self.fixture.db.name()).await;
        assert_nothing_lost(&story, &self.fixture).await;
    }
}

fn slow(rng: &mut StdRng) -> Flow {
    match rng.random_range(0..3) {
        0 => Flow::Delayed(Duration::from_millis(rng.random_range(5..60))),
        1 => Flow::Throttled(rng.random_range(50_000..500_000)),
        _ => Flow::Stalled,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_are_cut_or_slow_lose_and_repeat_nothing() {
    let network = Network::start().await;
    let seed = seed();
    let mut rng = StdRng::seed_from_u64(seed);
    let application = Application::start(network.server.client(), network.fixture.db.name(), seed, 2).await;
    let archiver = network.fixture.start();
    network.grows(&archiver, 5).await;
    for _ in 0..rounds(8) {
        let proxy = &network.proxies[rng.random_range(0..2)];
        match rng.random_range(0..4) {
            0 => proxy.cut(),
            1 => proxy.lose_answer_to("commitTransaction"),
            _ => {
                let both = rng.random_bool(0.5);
                let flow = slow(&mut rng);
                proxy.set(if both { flow } else { Flow::Free }, flow);
                tokio::time::sleep(Duration::from_millis(rng.random_range(100..1_500))).await;
                proxy.set(Flow::Free, Flow::Free);
            }
        }
        network.grows(&archiver, 5).await;
    }
    network.end(application, archiver).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_answer_is_lost_is_not_made_twice() {
    let network = Network::start().await;
    let application = Application::start(network.server.client(), network.fixture.db.name(), seed(), 2).await;
    let archiver = network.fixture.start();
    network.grows(&archiver, 5).await;
    for _ in 0..rounds(4) {
        network.proxies[1].lose_answer_to("commitTransaction");
        wait_until("a commit", LIMIT, async || (!network.proxies[1].is_armed()).then_some(())).await;
        network.grows(&archiver, 5).await;
    }
    network.end(application, archiver).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_hang_for_ever_stop_nothing_for_long() {
    let network = Network::start().await;
    let application = Application::start(network.server.client(), network.fixture.db.name(), seed(), 2).await;
    let archiver = network.fixture.start();
    network.grows(&archiver, 5).await;
    for proxy in &network.proxies {
        proxy.abandon();
        // More than what was on its way.
        network.grows(&archiver, 300).await;
    }
    network.end(application, archiver).await;
}
