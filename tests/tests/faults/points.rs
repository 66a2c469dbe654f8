//! The end of the process at every ordered write: the places are named in the source as `fail_point!("…")`.

use std::time::Duration;

use archiver_tests::application::{Application, prepare};
use archiver_tests::fixture::files_in;
use archiver_tests::story::Story;
use archiver_tests::workload::seed;
use archiver_tests::{Fixture, Server, tools, wait_until};
use tokio::task::JoinSet;

use super::kill::{end_leases, holds_a_lease};
use super::{ALL, assert_lanes, assert_rolled_tells, catch_up, configure, rolled, settings};

/// Audit databases over which the points are spread, to be gone through at the same time.
const LANES: usize = 5;
/// Reached at a source's first start only: they come first on their lanes.
const FIRST: [&str; 2] = ["audit:marked", "checkpoint:created"];
/// Longer than it takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(90);
/// Small segments, so that there is always one to roll, and a table of them.
const ROLLING: &str = "segment_max_bytes = \"32KiB\"\nhot_retention = \"365d\"\ntable_format = \"delta\"";
const TRIMMING: &str = "segment_max_bytes = \"32KiB\"\nhot_retention = \"0s\"";

/// Reached only where records expire, and by commands that people run: `retention`, `recover`, `accountable` and `replay` have tests of these.
const ELSEWHERE: [&str; 5] = ["expire:", "hold:", "notice:", "restore:", "replay:"];

/// The names of all fail points, as the source has them, but for those of [`ELSEWHERE`].
fn names() -> Vec<String> {
    let mut files = files_in(&tools::repository().join("archiver/src"));
    files.retain(|file| file.extension().is_some_and(|e| e == "rs"));
    let text: String = files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect();
    let name = |rest: &str| rest.split('"').next().unwrap().to_owned();
    let mut names: Vec<String> = text.split("fail_point!(\"").skip(1).map(name).collect();
    assert!(names.len() > 15, "fail points are written in another way now: {names:?}");
    names.retain(|name| !ELSEWHERE.iter().any(|start| name.starts_with(start)));
    names.sort_by_key(|name| (!FIRST.contains(&name.as_str()), name.clone()));
    names
}

/// Runs an archiver that ends itself at this point.
pub(super) async fn end_at(fixture: &Fixture, name: &str) {
    let mut archiver = fixture.archiver.clone();
    archiver.env("ARCHIVER_FAIL_POINTS", &format!("{name}=exit"));
    let running = archiver.start(&["run"]);
    if name.starts_with("lease:") && name.contains("release") {
        wait_until("the lease", LIMIT, async || holds_a_lease(fixture, &running).await.then_some(())).await;
        tools::signal(running.pid(), "TERM");
    }
    let outcome = running.finish(LIMIT).await;
    let reached = outcome.stderr.contains(&format!("fail point name=\"{name}\""));
    assert!(outcome.code.is_none() && reached, "{name} is not reached: {outcome:?}");
    end_leases(fixture).await;
}

async fn end_at_each(fixture: Fixture, names: Vec<String>) -> Fixture {
    for name in &names {
        end_at(&fixture, name).await;
    }
    fixture
}

/// Runs an archiver with an error at each of these points, which it lives through.
async fn fail_at_each(fixture: Fixture, names: Vec<String>) -> Fixture {
    let errors: Vec<_> = names.iter().map(|name| format!("{name}=error")).collect();
    let mut archiver = fixture.archiver.clone();
    archiver.env("ARCHIVER_FAIL_POINTS", &errors.join(";"));
    let running = archiver.start(&["run"]);
    let reached = |name: &String| running.stderr().contains(&format!("fail point name=\"{name}\""));
    wait_until(format!("{names:?}"), LIMIT, async || names.iter().all(reached).then_some(())).await;
    running.terminate().await.expect_code(0);
    fixture
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_at_any_ordered_write_loses_and_repeats_nothing() {
    let server = Server::own(settings()).await;
    let first = Fixture::new(&server);
    prepare(&first.db).await;
    let application = Application::start(server.client(), first.db.name(), seed(), 2).await;
    let names: Vec<_> = names().into_iter().filter(|name| !name.starts_with("trim:")).collect();
    let mut lanes = JoinSet::new();
    for lane in 0..LANES {
        let fixture = first.second(&server);
        configure(&fixture, ROLLING);
        lanes.spawn(fail_at_each(fixture, names.iter().skip(lane).step_by(LANES).cloned().collect()));
    }
    let lanes = lanes.join_all().await;
    application.stop().await;
    assert_lanes(Story::read(server.client(), first.db.name()).await, lanes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_at_any_ordered_write_loses_and_repeats_nothing() {
    let server = Server::own(settings()).await;
    let first = Fixture::new(&server);
    prepare(&first.db).await;
    let application = Application::start(server.client(), first.db.name(), seed(), 2).await;
    let (trimming, names): (Vec<_>, Vec<_>) = names().into_iter().partition(|n| n.starts_with("trim:"));
    let mut lanes = JoinSet::new();
    for lane in 0..LANES {
        let fixture = first.second(&server);
        configure(&fixture, ROLLING);
        lanes.spawn(end_at_each(fixture, names.iter().skip(lane).step_by(LANES).cloned().collect()));
    }
    // Where the log is trimmed, only the archive has everything.
    let trimmed = first.second(&server);
    configure(&trimmed, TRIMMING);
    let trimmed = end_at_each(trimmed, trimming).await;
    let lanes = lanes.join_all().await;
    application.stop().await;
    let story = Story::read(server.client(), first.db.name()).await;
    catch_up(&trimmed).await;
    assert_eq!(trimmed.count(ALL).await, 0, "nothing was trimmed");
    assert_rolled_tells(&story, &rolled(&trimmed));
    assert_lanes(story, lanes).await;
}
