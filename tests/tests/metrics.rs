//! What a monitoring system sees over the wire, against what the log holds and what was done.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use archiver_tests::record::of;
use archiver_tests::scrape::{address, get};
use archiver_tests::{Fixture, Running, Server, tools, wait_until};
use bson::{Document, doc};
use tokio::net::TcpListener;

const SOON: Duration = Duration::from_secs(60);
const UNAVAILABLE: i32 = 11;
const SECRET: &str = "canary-5105105105105100";

fn configuration() -> String {
    configured("\"bad\"")
}

/// With these plugins for `things`.
fn configured(plugins: &str) -> String {
    let file = tools::plugin("misbehave");
    let (path, sha256) = (file.display(), tools::sha256(&file));
    let source = |name: &str, plugins: &str, more: &str| {
        format!("[[source]]\nname = \"{name}\"\nwatch = [\"{{db}}.{name}\"]\nplugins = [{plugins}]\n{more}\n")
    };
    format!(
        "[metrics]\nlisten = \"127.0.0.1:0\"\n\n\
         [archive]\nurl = \"{{archive}}\"\nsegment_max_age = \"1s\"\n\n\
         [[plugin]]\nname = \"bad\"\npath = \"{path}\"\nsha256 = \"{sha256}\"\n\n{}{}",
        source("things", plugins, "partitions = 2\n"),
        source("others", "\"bad\"", "on_plugin_error = \"halt\"\n"),
    )
}

/// The values by name with labels, each of which must stand under its type.
async fn scrape(address: &str) -> BTreeMap<String, f64> {
    let (status, text) = get(address, "/metrics").await;
    assert_eq!(status, 200);
    let mut values = BTreeMap::new();
    let mut typed = String::new();
    for line in text.lines() {
        match line.strip_prefix("# TYPE ") {
            Some(rest) => rest.split(' ').next().unwrap().clone_into(&mut typed),
            None if line.starts_with("# HELP ") => {}
            None => {
                let (name, value) = line.rsplit_once(' ').unwrap();
                assert_eq!(name.split('{').next(), Some(typed.as_str()), "{line}");
                assert_eq!(values.insert(name.to_owned(), value.parse().unwrap()), None, "twice: {name}");
            }
        }
    }
    values
}

/// The sum of a metric over everything with these labels.
fn sum(values: &BTreeMap<String, f64>, name: &str, labels: &str) -> i64 {
    let of = |key: &str| key.split('{').next() == Some(name) && key.contains(labels);
    values.iter().filter(|(key, _)| of(key)).map(|(_, value)| *value as i64).sum()
}

/// The alert rules name what there is, and the manual all of it.
fn assert_documented(values: &BTreeMap<String, f64>) {
    let page = |name: &str| std::fs::read_to_string(tools::repository().join(name)).unwrap();
    let (alerts, manual) = (page("deploy/alerts.yaml"), page("docs/operating.md"));
    let found: BTreeSet<&str> = values.keys().filter_map(|key| key.split('{').next()).collect();
    let words = alerts.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    for name in words.filter(|word| word.starts_with("archiver_")) {
        assert!(found.contains(name), "an alert rule on {name}, which is not there");
    }
    for name in found {
        assert!(manual.contains(&format!("`{name}")), "{name} is not in the manual");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scrape_tells_what_the_log_holds_and_a_source_that_halts_shows() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&configuration());
    let things = fixture.collection("things");
    things.insert_many((0..7).map(|n| doc! {"_id": n})).await.unwrap();
    let archiver = fixture.start();
    let address = address(&archiver).await;
    for (n, deed) in [(10, "drop"), (11, "drop"), (12, "panic"), (13, "keep"), (14, "keep"), (15, "drop")] {
        things.insert_one(doc! {"_id": n, "do": deed, "secret": SECRET}).await.unwrap();
    }
    let things = "source=\"things\"";
    let values = wait_until("everything is read and rolled", SOON, async || {
        let now = scrape(&address).await;
        let done = sum(&now, "archiver_events_read_total", things) == 13
            && sum(&now, "archiver_seq", things) == sum(&now, "archiver_rolled_seq", things)
            && sum(&now, "archiver_lease_held", "") == 3;
        done.then_some(now)
    })
    .await;
    let count = |name: &str| sum(&values, name, things);
    let records = fixture.count("things").await as i64;
    assert_eq!(count("archiver_seq"), records);
    assert_eq!(count("archiver_events_dropped_total"), 3);
    assert_eq!(values.keys().filter(|k| k.contains("plugin=\"bad\"")).count(), 2, "of both partitions");
    assert_eq!((count("archiver_events_released_total"), count("archiver_events_withheld")), (0, 1));
    assert_eq!(count("archiver_records_appended_total"), 10);
    assert_eq!(count("archiver_own_records_total"), records - 10);
    for none in
        ["gaps_total", "restarts_total", "archive_failures_total", "source_halted", "source_exit_code"]
    {
        let name = format!("archiver_{none}");
        assert!(values.keys().any(|key| key.starts_with(&name)), "{name}");
        assert_eq!(sum(&values, &name, ""), 0, "{name}");
    }
    for partition in ["0", "1"] {
        let of = |name: &str| values[&format!("archiver_{name}{{{things},partition=\"{partition}\"}}")];
        assert_eq!(of("epoch"), 1.0);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
        assert!((now - of("rolled_timestamp_seconds")).abs() < 60.0);
        assert!(of("lag_seconds") < 60.0 && of("oplog_headroom_seconds") <= of("oplog_window_seconds"));
    }
    assert_documented(&values);
    assert!(!values.keys().any(|key| key.contains("baseline")), "it is complete: {values:#?}");
    assert_eq!(get(&address, "/healthz").await, (200, "ok\n".to_owned()));

    fixture.collection("others").insert_one(doc! {"do": "panic", "secret": SECRET}).await.unwrap();
    let values = wait_until("the other source halts", SOON, async || {
        let now = scrape(&address).await;
        (sum(&now, "archiver_source_halted", "source=\"others\"") == 1).then_some(now)
    })
    .await;
    assert_eq!(values["archiver_source_exit_code{source=\"others\"}"], 14.0);
    assert_eq!(sum(&values, "archiver_source_halted", things), 0);
    let halted = (503, "halted: others (plugin, exit code 14)\n".to_owned());
    assert_eq!(get(&address, "/healthz").await, halted);
    assert_eq!(get(&address, "/livez").await.0, 200);
    wait_until("its lease is given back", SOON, async || {
        let held = scrape(&address).await["archiver_lease_held{source=\"others\"}"];
        (held == 0.0).then_some(())
    })
    .await;
    let (_, text) = get(&address, "/metrics").await;
    assert!(!text.contains(SECRET) && !text.contains(fixture.db.name()), "{text}");
    let outcome = archiver.terminate().await;
    assert_eq!(of(&fixture.records("others").await, &["insert"]), Vec::<&Document>::new());
    assert!(!outcome.stderr.contains(SECRET));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_withheld_and_released_is_told() {
    let fixture = Fixture::new(&Server::shared().await);
    fixture.configure(&configuration());
    let archiver = fixture.start();
    let address = address(&archiver).await;
    let told = async || {
        let values = scrape(&address).await;
        ["records_quarantined_total", "events_released_total", "events_withheld"]
            .map(|name| sum(&values, &format!("archiver_{name}"), "source=\"things\""))
    };
    wait_until("the baseline, of nothing, is behind", SOON, async || {
        let values = scrape(&address).await;
        (sum(&values, "archiver_seq", "source=\"things\"") == 2).then_some(())
    })
    .await;
    for n in 0..4 {
        fixture
            .collection("things")
            .insert_one(doc! {"_id": n, "do": "panic", "secret": SECRET})
            .await
            .unwrap();
    }
    wait_until("all are withheld", SOON, async || (told().await == [4, 0, 4]).then_some(())).await;
    fixture.configure(&configured(""));
    fixture.ok(&["reload"]).await;
    fixture.ok(&["quarantine", "retry"]).await;
    assert_eq!(told().await, [4, 4, 0], "stored before the command has its answer");
    archiver.terminate().await.expect_code(0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_archiver_captures_is_told_by_that_one_alone() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&configuration());
    let first = fixture.start();
    let held = async |archiver: &Running| {
        let values = scrape(&address(archiver).await).await;
        let told = values.keys().filter(|key| key.starts_with("archiver_seq{")).count() as i64;
        (sum(&values, "archiver_lease_held", ""), told)
    };
    wait_until("the first holds everything", SOON, async || (held(&first).await == (3, 3)).then_some(()))
        .await;
    let second = fixture.start();
    wait_until("they share", SOON, async || {
        let both = [held(&first).await, held(&second).await];
        (both == [(2, 2), (1, 1)] || both == [(1, 1), (2, 2)]).then_some(())
    })
    .await;
    first.terminate().await.expect_code(0);
    wait_until("the second holds everything", SOON, async || (held(&second).await == (3, 3)).then_some(()))
        .await;
    second.terminate().await.expect_code(0);
}

#[tokio::test]
async fn an_address_that_is_taken_ends_the_start_and_is_named() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    fixture.configure(&configuration().replace("127.0.0.1:0", &address));
    let outcome = fixture.archiver.run(&["run"]).await.expect_code(UNAVAILABLE);
    outcome.expect_message(&[&address, "another process listens there", "[metrics] listen"]);
    assert!(fixture.checkpoint("others").await.is_none(), "nothing was begun");
    // A run that ends by itself is nobody's to scrape.
    fixture.run_once().await;
}
