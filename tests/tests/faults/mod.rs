//! Faults of every kind under a random application: afterwards the log tells exactly what the oplog tells.
//!
//! `ARCHIVER_FAULT_ROUNDS` runs them longer, `ARCHIVER_TEST_SEED` again; see CONTRIBUTING.md.

mod failover;
mod kill;
mod network;
mod object_store;
mod points;
mod refused;
mod several;

use std::sync::Arc;

use archiver_tests::application::STEADY;
use archiver_tests::record::{at, integer, text, time};
use archiver_tests::replica_set::Settings;
use archiver_tests::story::{Story, Watched, assert_counted, assert_told};
use archiver_tests::{Fixture, Server, duckdb};
use bson::{Document, Timestamp};
use tokio::task::JoinSet;

/// The source that watches one database, and the one that watches some of its collections.
const ALL: &str = "all";
const SOME: &str = "some";

/// How many rounds a scenario runs: its own number in the suite, `ARCHIVER_FAULT_ROUNDS` for longer runs.
fn rounds(in_the_suite: usize) -> usize {
    std::env::var("ARCHIVER_FAULT_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(in_the_suite)
}

/// A server whose oplog nobody else fills, on which a transaction of more than four operations takes several entries, and one
/// that its application has left open does not hold the others up for long.
fn settings() -> Settings {
    let parameters = vec![
        "maxNumberOfTransactionOperationsInSingleOplogEntry=4".to_owned(),
        "transactionLifetimeLimitSeconds=10".to_owned(),
        "enableTestCommands=1".to_owned(),
    ];
    Settings { oplog_megabytes: 990, parameters, ..Settings::default() }
}

/// The `[archive]` section of most scenarios: the log keeps everything.
const KEEPING: &str = "segment_max_bytes = \"256KiB\"\nhot_retention = \"365d\"";

/// Two sources under a short lease, with batches small enough that every fault hits several.
const SOURCES: &str = "[capture]\nlease_time = \"2s\"\nbatch_max_events = 50\n\n\
    [[source]]\nname = \"all\"\nwatch = [\"{db}.*\"]\n\n\
    [[source]]\nname = \"some\"\nwatch = [\"{db}.orders\", \"{db}.items\"]\n";

/// [`SOURCES`], with this `[archive]` section.
fn configure(fixture: &Fixture, archive: &str) {
    fixture.configure(&format!("[archive]\nurl = \"{{archive}}\"\n{archive}\n\n{SOURCES}"));
}

/// Catches up, under a lease that a busy machine does not lose.
async fn catch_up(fixture: &Fixture) {
    let file = fixture.path("archiver.toml");
    let config = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, config.replace("lease_time = \"2s\"", "lease_time = \"60s\"")).unwrap();
    fixture.run_once().await;
}

/// Catches up, and compares both sources, hot and cold, with what happened.
async fn assert_nothing_lost(story: &Story, fixture: &Fixture) {
    catch_up(fixture).await;
    let mut logged = Vec::new();
    for (source, watched) in [(ALL, Watched::Everything), (SOME, Watched::Collections(&STEADY[..2]))] {
        let records = fixture.records(source).await;
        println!("{source}: {} events, {} records", story.events.len(), records.len());
        assert_told(story, watched, &records);
        assert_counted(&fixture.checkpoint(source).await.unwrap(), &records);
        logged.extend(records.iter().map(|record| in_short(source, record)));
    }
    assert_eq!(rolled(fixture), logged, "the archive and the log");
    fixture.ok(&["verify"]).await;
}

/// [`assert_nothing_lost`] for several audit databases over one story.
async fn assert_lanes(story: Story, lanes: Vec<Fixture>) {
    let story = Arc::new(story);
    let mut checks = JoinSet::new();
    for fixture in lanes {
        let story = Arc::clone(&story);
        checks.spawn(async move { assert_nothing_lost(&story, &fixture).await });
    }
    checks.join_all().await;
}

/// How many documents each collection of the audit database holds.
async fn size(fixture: &Fixture) -> Vec<(String, u64)> {
    let mut names = fixture.audit.list_collection_names().await.unwrap();
    names.sort();
    let mut sizes = Vec::new();
    for name in names {
        let count = fixture.audit.collection::<Document>(&name).count_documents(bson::doc! {}).await.unwrap();
        sizes.push((name, count));
    }
    sizes
}

/// What archive and log must agree on: source, seq, operation, collection, and both parts of the cluster time.
type InShort = (String, i64, String, Option<String>, i64, i64);

/// The records of the archive's folder, as an auditor reads them.
fn rolled(fixture: &Fixture) -> Vec<InShort> {
    read_segments("", &fixture.archive().join("source=*/date=*/*.parquet").display().to_string())
}

/// The records of the segments that a glob finds, behind statements that let DuckDB read them.
fn read_segments(prepare: &str, glob: &str) -> Vec<InShort> {
    let columns = "source, seq, op, coll, epoch(cluster_time)::BIGINT AS time, cluster_inc";
    let rows = duckdb::query(&format!(
        "{prepare}SELECT {columns} FROM read_parquet('{glob}', hive_partitioning = true) ORDER BY source, seq"
    ));
    let in_short = |row: &serde_json::Value| {
        let number = |name: &str| row[name].as_i64().unwrap();
        let text = |name: &str| row[name].as_str().map(str::to_owned);
        let (source, op) = (text("source").unwrap(), text("op").unwrap());
        (source, number("seq"), op, text("coll"), number("time"), number("cluster_inc"))
    };
    rows.iter().map(in_short).collect()
}

/// An archive's records tell of every event from the start of the capture on, once and in order.
fn assert_rolled_tells(story: &Story, rolled: &[InShort]) {
    for (source, watched) in [(ALL, Watched::Everything), (SOME, Watched::Collections(&STEADY[..2]))] {
        let of_source: Vec<_> = rolled.iter().filter(|row| row.0 == source).collect();
        assert!(of_source.iter().zip(1..).all(|(row, seq)| row.1 == seq), "seqs have a gap or a repeat");
        let told: Vec<_> =
            of_source.into_iter().filter(|r| !matches!(r.2.as_str(), "snapshot" | "policy")).collect();
        let happened: Vec<_> = story.watched(watched).collect();
        let begin = happened.len().checked_sub(told.len()).expect("no more records than events");
        for (event, row) in happened[begin..].iter().zip(told) {
            let Timestamp { time, increment } = event.time;
            let expected = (event.op, event.collection.as_deref(), i64::from(time), i64::from(increment));
            assert_eq!((row.2.as_str(), row.3.as_deref(), row.4, row.5), expected, "in {source}");
        }
        println!("{source}: {} of {} events", happened.len() - begin, happened.len());
    }
}

fn in_short(source: &str, record: &Document) -> InShort {
    let collection = at(record, "ns.coll").and_then(|name| name.as_str()).map(str::to_owned);
    let Timestamp { time, increment } = time(record);
    let (seq, op) = (integer(record, "_id"), text(record, "op").to_owned());
    (source.to_owned(), seq, op, collection, time.into(), increment.into())
}

/// The oracle and the application themselves, without a fault.
mod without_faults {
    use std::time::Duration;

    use archiver_tests::application::{Application, Writer, prepare};
    use archiver_tests::wait_until;
    use archiver_tests::workload::seed;

    use super::*;

    /// What the server may answer to writers that do not ask what is there, nor who else writes: also a duplicate key.
    const EXPECTED: [&str; 11] = [
        "write error 11000",
        "BackgroundOperationInProgressForNamespace",
        "IllegalOperation",
        "IndexBuildAborted",
        "IndexNotFound",
        "LockTimeout",
        "NamespaceExists",
        "NamespaceNotFound",
        "NoSuchTransaction",
        "SnapshotUnavailable",
        "WriteConflict",
    ];

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn every_kind_of_write_is_told_as_it_happened() {
        let server = Server::own(settings()).await;
        let fixture = Fixture::new(&server);
        configure(&fixture, KEEPING);
        let seed = seed();
        prepare(&fixture.db).await;
        let mut writer = Writer::new(server.client(), &fixture.db, seed);
        for _ in 0..400 {
            writer.step().await;
        }
        let archiver = fixture.start();
        let application = Application::start(server.client(), fixture.db.name(), seed, 3).await;
        wait_until("many records", Duration::from_secs(60), async || {
            (fixture.count(ALL).await > 1_500).then_some(())
        })
        .await;
        let tally = application.stop().await;
        // An operation that is always refused would be none.
        let unexpected: Vec<_> = tally.refused.keys().filter(|e| !EXPECTED.contains(&e.as_str())).collect();
        assert!(unexpected.is_empty(), "{unexpected:?}");
        assert!(tally.done.len() > 40, "{:?}", tally.done);
        archiver.terminate().await.expect_code(0);
        let story = Story::read(server.client(), fixture.db.name()).await;
        assert_nothing_lost(&story, &fixture).await;
        // A second look finds nothing more to write down: no archiver feeds itself.
        let before = size(&fixture).await;
        fixture.run_once().await;
        assert_eq!(size(&fixture).await, before, "the audit database grows by itself");
    }
}
