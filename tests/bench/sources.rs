//! What each further source costs: the same backlog through 1, 2, 4 and 8 sources, each with a change stream, a lease and an
//! audit collection of its own.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use archiver_tests::record::integer;
use archiver_tests::replica_set;
use archiver_tests::{Fixture, Server};
use serde_json::json;

use crate::process::cpu_seconds;
use crate::{capture, oplog_megabytes};

/// Collections that the backlog is spread over: the most sources that are measured.
const COLLECTIONS: usize = 8;

pub(crate) async fn run(events: usize) -> Result<()> {
    let settings = replica_set::Settings {
        oplog_megabytes: oplog_megabytes(events, 4),
        cache_megabytes: 2_048,
        ..Default::default()
    };
    let server = Server::own(settings).await;
    let first = Fixture::new(&server);
    for n in 0..COLLECTIONS {
        first.db.create_collection(collection(n)).await?;
    }
    let mut fixtures = Vec::new();
    for sources in [1, 2, 4, 8] {
        let fixture = first.second(&server);
        fixture.configure(&configuration(sources));
        fixture.run_once().await;
        fixtures.push((sources, fixture));
    }
    for n in 0..COLLECTIONS {
        capture::fill(&first, &collection(n), events / COLLECTIONS).await?;
    }
    println!("{events} events over {COLLECTIONS} collections\n");
    println!(
        "{:>7}  {:>9}  {:>5}  {:>12}  {:>10}",
        "sources", "events/s", "ratio", "archiver CPU", "mongod CPU"
    );
    let mut results = Vec::new();
    let mut alone = None;
    for (sources, fixture) in &fixtures {
        let before = cpu_seconds(server.mongod().pid())?;
        let (rate, archiver_cpu) = drain(fixture, *sources, events / COLLECTIONS * COLLECTIONS).await?;
        let server_cpu = cpu_seconds(server.mongod().pid())? - before;
        let ratio = rate / *alone.get_or_insert(rate);
        println!("{sources:>7}  {rate:>9.0}  {ratio:>5.2}  {archiver_cpu:>10.1} s  {server_cpu:>8.1} s");
        results.push(json!({"sources": sources, "events_per_second": rate, "ratio": ratio,
            "archiver_cpu_seconds": archiver_cpu, "server_cpu_seconds": server_cpu}));
        fixture.audit.drop().await?;
    }
    println!("\n{}", json!({"bench": "sources", "events": events, "results": results}));
    Ok(())
}

fn collection(n: usize) -> String {
    format!("events{n}")
}

fn configuration(sources: usize) -> String {
    let each = COLLECTIONS / sources;
    let source = |n: usize| {
        let names: Vec<_> = (n * each..(n + 1) * each).map(collection).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        Fixture::source(&format!("s{n}"), &names).replace("\n\n", "\nsnapshot = \"never\"\n\n")
    };
    (0..sources).map(source).collect()
}

/// Events per second from the first batch to the last, and the CPU seconds that the whole of it took.
async fn drain(fixture: &Fixture, sources: usize, events: usize) -> Result<(f64, f64)> {
    let mut archiver = fixture.start();
    let launched = Instant::now();
    let mut begun = None;
    loop {
        let mut read = 0;
        for n in 0..sources {
            let checkpoint = fixture.checkpoint(&format!("s{n}")).await.context("a checkpoint")?;
            read += integer(&checkpoint, "counters.read");
        }
        if read > 0 && begun.is_none() {
            begun = Some((read, Instant::now()));
        }
        if let Some((first, at)) = begun.filter(|_| read as usize >= events) {
            let rate = (read - first) as f64 / at.elapsed().as_secs_f64();
            let cpu = cpu_seconds(archiver.pid())?;
            archiver.terminate().await.expect_code(0);
            return Ok((rate, cpu));
        }
        ensure!(archiver.is_alive(), "archiver ended\n{}", archiver.stderr());
        ensure!(launched.elapsed() < capture::patience(events), "archiver is stuck\n{}", archiver.stderr());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
