//! Every document after every record of it is what the server says it was: random programs of writes, and what history makes of
//! their records, byte for byte.

mod compare;

use std::time::Duration;

use archiver::archive::store::Archive;
use archiver::audit_log::AuditLog;
use archiver::config::Config;
use archiver::history::History;
use archiver_tests::program::Program;
use archiver_tests::workload::seed;
use archiver_tests::{Fixture, Server, tools, wait_until};
use bson::{Document, doc};
use compare::{Redaction, Tally};
use futures_util::future::join_all;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Programs that run at the same time, on one database.
const AT_ONCE: usize = 4;

/// A source's name, the configuration of its plugin, and how many partitions it has.
const HOT: [(&str, &str, u32); 3] = [("all", "", 1), ("masked", MASK, 1), ("allowed", ALLOW, 1)];
const COLD: [(&str, &str, u32); 5] =
    [("all", "", 1), ("parts", "", 3), ("removed", REMOVE, 1), ("replaced", REPLACE, 2), ("kept", KEEP, 1)];
const MASK: &str =
    r#"{ rules = [{ path = "a.b", action = "mask", keep_last = 2 }, { path = "**.d", action = "mask" }] }"#;
const ALLOW: &str = r#"{ mode = "allow", unnamed = "mask", rules = [{ path = "_id", action = "keep" }, { path = "a", action = "keep" }, { path = "**.c", action = "keep" }] }"#;
const KEEP: &str = r#"{ mode = "allow", rules = [{ path = "_id", action = "keep" }, { path = "a", action = "keep" }, { path = "**.c", action = "keep" }] }"#;
const REMOVE: &str =
    r#"{ rules = [{ path = "a", action = "remove" }, { path = "b.c", action = "remove" }] }"#;
const REPLACE: &str = r#"{ rules = [{ path = "a", action = "replace", value = "[a]" }, { path = "c.*", action = "replace", value = 7 }] }"#;

fn sources(sources: &[(&str, &str, u32)], archive: &str) -> String {
    let mut text = format!("[archive]\nurl = \"{{archive}}\"\nsegment_max_age = \"1h\"\n{archive}\n\n");
    for (name, rules, partitions) in sources {
        if !rules.is_empty() {
            let file = tools::plugin("redact");
            let (path, sha256) = (file.display(), tools::sha256(&file));
            text += &format!(
                "[[plugin]]\nname = \"{name}\"\npath = \"{path}\"\nsha256 = \"{sha256}\"\nconfig = {rules}\n\n"
            );
        }
        let plugins = if rules.is_empty() { String::new() } else { format!("plugins = [\"{name}\"]\n") };
        text += &format!(
            "[[source]]\nname = \"{name}\"\nwatch = [\"{{db}}.*\"]\npartitions = {partitions}\n{plugins}\n"
        );
    }
    text
}

/// How many rounds of programs, and of how many steps: `$ARCHIVER_TEST_PROGRAMS` says about how many programs, which are longer then.
fn rounds() -> (u64, usize) {
    let programs = std::env::var("ARCHIVER_TEST_PROGRAMS").ok().and_then(|n| n.parse::<u64>().ok());
    programs.map_or((1, 60), |programs| (programs.div_ceil(AT_ONCE as u64), 200))
}

/// What the commands read, through the library.
async fn history(fixture: &Fixture) -> History {
    let text = std::fs::read_to_string(fixture.path("archiver.toml")).unwrap();
    let file = fixture.path("history.toml");
    std::fs::write(&file, text.replace("${ARCHIVER_TEST_URI}", fixture.uri())).unwrap();
    let config = Config::load(&file).unwrap();
    History::new(Some(AuditLog::connect(&config).await.unwrap()), Archive::open(&config.archive).unwrap())
}

async fn run_all(programs: &mut [Program], steps: usize) {
    join_all(programs.iter_mut().map(|program| program.run(steps))).await;
}

/// Waits until all sources have everything that happened so far.
async fn caught_up(fixture: &Fixture, sources: &[(&str, &str, u32)]) {
    let mark = rand::random::<i32>();
    fixture.collection("marks").insert_one(doc! {"_id": mark}).await.unwrap();
    for (name, ..) in sources {
        let log = fixture.audit.collection::<Document>(name);
        let of = doc! {"key._id": mark};
        wait_until("the mark", Duration::from_secs(60), async || log.find_one(of.clone()).await.unwrap())
            .await;
    }
}

/// One round: programs whose first steps are before the baseline, some while it is read, the others behind it.
async fn round(server: &Server, seed: u64, steps: usize) -> Tally {
    let hot = Fixture::new(server);
    let cold = hot.second(server);
    hot.configure(&sources(&HOT, "hot_retention = \"7d\""));
    cold.configure(&sources(&COLD, "hot_retention = \"0s\""));
    let mut rng = StdRng::seed_from_u64(seed);
    let mut programs = Vec::new();
    for number in 0..AT_ONCE {
        programs.push(Program::new(server.client(), &hot.db, rng.random(), number).await);
    }
    run_all(&mut programs, steps / 4).await;
    let running = hot.start();
    let (_, _) = tokio::join!(run_all(&mut programs, steps / 4), cold.run_once());
    run_all(&mut programs, steps / 4).await;
    cold.run_once().await;
    run_all(&mut programs, steps / 4).await;
    cold.run_once().await;
    caught_up(&hot, &HOT).await;
    running.terminate().await.expect_code(0);
    assert_eq!(cold.count("all").await, 0, "everything is in the cold tier");
    let mut tally = Tally::default();
    for (fixture, sources) in [(&hot, &HOT[..]), (&cold, &COLD[..])] {
        let history = history(fixture).await;
        for (source, rules, _) in sources {
            let redaction = Redaction::new(rules);
            for program in &programs {
                tally += compare::all(&history, source, program, &redaction).await;
            }
        }
    }
    for program in &programs {
        program.assert_present().await;
        tally.at_a_second += compare::by_command(&cold, "parts", program).await;
    }
    tally
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_document_after_every_record_is_what_the_server_says_it_was() {
    let server = Server::shared().await;
    let (first, (rounds, steps)) = (seed(), rounds());
    let mut tally = Tally::default();
    for number in 0..rounds {
        let seed = first.wrapping_add(number);
        println!("round ARCHIVER_TEST_SEED={seed}");
        tally += round(&server, seed, steps).await;
        println!("{tally:?}");
    }
    tally.assert_telling();
}
