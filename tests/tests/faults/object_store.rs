//! Object stores in bad weather, over the wire: refused, lost, cut and hanging requests, outages, expired credentials, ends in the
//! middle, and several who roll at once.

use std::time::{Duration, Instant};

use archiver_tests::application::{Application, prepare};
use archiver_tests::cloud::{Bucket, Kind};
use archiver_tests::http_proxy::{EXPIRED, Fate, HttpProxy, Only, Weather, storm};
use archiver_tests::story::Story;
use archiver_tests::workload::seed;
use archiver_tests::{Fixture, Running, Server, wait_until};

use super::points::end_at;
use super::{ALL, SOME, SOURCES, assert_rolled_tells, catch_up, read_segments, rounds, settings};

const LIMIT: Duration = Duration::from_secs(120);
/// The application's longest pause: what it writes while a store fails, somebody has to roll in the end, 32 KiB at a time.
const PAUSE: Duration = Duration::from_millis(30);
/// Small segments, rolled at once, and trimmed at once: only the archive has everything.
const ROLLING: &str = "segment_max_bytes = \"32KiB\"\nsegment_max_age = \"1s\"\nhot_retention = \"0s\"";
/// An hour for somebody who waits minutes is a second for one who waits milliseconds.
const IMPATIENT: &str = "timeout = \"2s\"\nconnect_timeout = \"1s\"\nretries = 2\nretry_timeout = \"2s\"\n";
/// What an archiver says that finds a segment of somebody else where it wanted to put its own.
const OVERTAKEN: &str = "another writer has committed this segment";
/// What an archiver takes at its peak that captures this application with segments of this size; a leak would pass it soon.
const MEMORY: u64 = 128 << 20;

fn configure(fixture: &Fixture, bucket: &Bucket) {
    fixture.configure(&format!("{}{IMPATIENT}\n{SOURCES}", bucket.section(ROLLING)));
}

/// The next seq of the source that watches everything: how far it has captured.
async fn captured(fixture: &Fixture) -> i64 {
    fixture.checkpoint(ALL).await.map_or(1, |checkpoint| checkpoint.get_i64("nextSeq").unwrap())
}

/// Waits until so much more is captured.
async fn captures(fixture: &Fixture, archiver: &Running, more: i64) {
    let (before, start) = (captured(fixture).await, Instant::now());
    while captured(fixture).await < before + more {
        assert!(start.elapsed() < LIMIT, "no more records\n{}", archiver.stderr());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until the log is empty because everything is rolled and trimmed, by the archiver that runs: for as long as it gets on.
async fn everything_is_rolled(fixture: &Fixture, archiver: &Running) {
    let (mut least, mut since) = (u64::MAX, Instant::now());
    while least > 0 {
        let left = fixture.count(ALL).await + fixture.count(SOME).await;
        if left < least {
            (least, since) = (left, Instant::now());
        }
        assert!(since.elapsed() < LIMIT, "the archive does not catch up: {left} left\n{}", archiver.stderr());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The most memory that a process has had, in bytes.
fn peak_memory(process: &Running) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// `status` says how far the archive is behind, and why, while the store can't be asked.
async fn assert_told(fixture: &Fixture) {
    let status =
        fixture.archiver.run(&["status", "--source", ALL, "--format", "json"]).await.expect_code(0).json();
    let status = &status[0];
    let (seq, rolled) = (status["seq"].as_i64().unwrap(), status["rolledSeq"].as_i64().unwrap());
    assert!(rolled > 0 && rolled < seq, "{status}");
    assert!(status["unrolledSeconds"].as_i64().unwrap() >= 0, "{status}");
    assert!(status["problems"].to_string().contains("the archive can't list"), "{status}");
}

/// Catches up past the weather, and compares the archive with what happened.
async fn assert_archived(server: &Server, fixture: &Fixture, bucket: &Bucket) {
    configure(fixture, bucket);
    catch_up(fixture).await;
    fixture.ok(&["verify"]).await;
    assert_eq!(fixture.count(ALL).await, 0, "not everything is rolled and trimmed");
    let rolled = read_segments(&bucket.duckdb(), &bucket.glob("*"));
    assert_rolled_tells(&Story::read(server.client(), fixture.db.name()).await, &rolled);
}

/// In a bucket under Object Lock: nothing was ever written over, or deleted.
fn assert_never_overwritten(bucket: &Bucket) {
    let versions = bucket.versions();
    assert!(versions.len() > 10 && versions.iter().all(|(_, n)| *n == 1), "{versions:?}");
}

async fn a_bad_day(bucket: &Bucket) {
    let server = Server::own(settings()).await;
    let fixture = Fixture::new(&server);
    prepare(&fixture.db).await;
    let seed = seed();
    let proxy = HttpProxy::start(bucket.address(), seed).await;
    configure(&fixture, &bucket.through(&proxy.url()));
    let application = Application::start_with_pause(server.client(), fixture.db.name(), seed, 1, PAUSE).await;
    let archiver = fixture.start();
    proxy.set(storm());
    let fates: Vec<Fate> = match storm() {
        Weather::Foul(fates) => fates.into_iter().map(|(_, fate, _)| fate).collect(),
        other => panic!("{other:?}"),
    };
    for round in 1..=rounds(2) as u64 {
        wait_until("requests in bad weather", LIMIT, async || (proxy.requests() > round * 150).then_some(()))
            .await;
    }
    let seldom =
        |fate: &&Fate| !matches!(fate, Fate::Hang | Fate::HangBehind) && !proxy.met().contains_key(fate);
    wait_until("every fate", LIMIT, async || fates.iter().find(seldom).is_none().then_some(())).await;
    for worse in [Weather::Down, Weather::Always(EXPIRED, Only::All), Weather::Always(Fate::Hang, Only::All)]
    {
        proxy.set(worse);
        captures(&fixture, &archiver, 150).await;
        let keys = bucket.keys().len();
        captures(&fixture, &archiver, 50).await;
        assert_eq!(bucket.keys().len(), keys, "something was stored by a store that is away");
        assert_told(&fixture).await;
        proxy.set(storm());
        wait_until("the next segment", LIMIT, async || (bucket.keys().len() > keys).then_some(())).await;
    }
    application.stop().await;
    proxy.set(Weather::Fair);
    everything_is_rolled(&fixture, &archiver).await;
    println!("{:?}", proxy.met());
    let memory = peak_memory(&archiver);
    println!("{} MiB at the peak", memory >> 20);
    println!("{}", archiver.terminate().await.expect_code(0).stderr);
    assert!(memory < MEMORY, "{memory} bytes at the peak");
    assert_archived(&server, &fixture, bucket).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_an_s3_store_does_nothing_is_lost_doubled_or_overwritten() {
    let bucket = Bucket::locked(30).await;
    a_bad_day(&bucket).await;
    assert_never_overwritten(&bucket);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_an_azure_store_does_nothing_is_lost_or_doubled() {
    a_bad_day(&Bucket::new(Kind::Azure).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_who_roll_one_source_through_bad_stores_make_one_chain() {
    let bucket = Bucket::locked(30).await;
    let server = Server::own(settings()).await;
    let fixture = Fixture::new(&server);
    prepare(&fixture.db).await;
    let seed = seed();
    let application = Application::start_with_pause(server.client(), fixture.db.name(), seed, 1, PAUSE).await;
    let mut proxies = Vec::new();
    for n in 0..3 {
        proxies.push(HttpProxy::start(bucket.address(), seed.wrapping_add(n)).await);
    }
    configure(&fixture, &bucket.through(&proxies[0].url()));
    let archiver = fixture.start();
    captures(&fixture, &archiver, 50).await;
    proxies.iter().for_each(|proxy| proxy.set(storm()));
    let roll = async |n: usize, size: &str| {
        let archive = bucket.through(&proxies[n].url()).section(&ROLLING.replace("32KiB", size));
        let other = fixture.with_configuration(size, &format!("{archive}{IMPATIENT}\n{SOURCES}"));
        let (mut done, start) = (0, Instant::now());
        while done < rounds(4) || !archiver.stderr().contains(OVERTAKEN) {
            let outcome = other.run(&["roll"]).await;
            // Unavailable is what such a store is; corrupt would be a chain that forks.
            assert!(matches!(outcome.code, Some(0 | 11)), "{outcome:?}");
            done += 1;
            assert!(start.elapsed() < 2 * LIMIT, "nobody meets anybody\n{}", archiver.stderr());
        }
    };
    tokio::join!(roll(1, "13KiB"), roll(2, "23KiB"));
    application.stop().await;
    proxies[0].set(Weather::Fair);
    everything_is_rolled(&fixture, &archiver).await;
    println!("{}", archiver.terminate().await.expect_code(0).stderr);
    assert_archived(&server, &fixture, &bucket).await;
    assert_never_overwritten(&bucket);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_at_any_step_of_rolling_into_s3_is_gone_on_from() {
    let bucket = Bucket::locked(30).await;
    let server = Server::own(settings()).await;
    let fixture = Fixture::new(&server);
    prepare(&fixture.db).await;
    configure(&fixture, &bucket);
    let application = Application::start(server.client(), fixture.db.name(), seed(), 2).await;
    let points = ["segment:built", "object:put", "segment:committed", "segment:sealed", "trim:begun"];
    for name in points.iter().chain(&["object:put"]) {
        end_at(&fixture, name).await;
    }
    application.stop().await;
    assert_archived(&server, &fixture, &bucket).await;
    assert_never_overwritten(&bucket);
}
