//! Faults of every kind under a random application: afterwards the log tells exactly what the oplog tells.
//!
//! `ARCHIVER_FAULT_ROUNDS` runs them longer, `ARCHIVER_TEST_SEED` again; see CONTRIBUTING.md.

mod kill;

use archiver_tests::application::STEADY;
use archiver_tests::record::{at, integer, text, time};
use archiver_tests::replica_set::Settings;
use archiver_tests::story::{Story, Watched, assert_counted, assert_told};
use archiver_tests::{Fixture, Server, duckdb};
use bson::{Document, Timestamp};

/// The source that watches one database, and the one that watches some of its collections.
const ALL: &str = "all";
const SOME: &str = "some";

/// How many rounds a scenario runs: its own number in the suite, `ARCHIVER_FAULT_ROUNDS` for longer runs.
fn rounds(in_the_suite: usize) -> usize {
    std::env::var("ARCHIVER_FAULT_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(in_the_suite)
}

/// A server whose oplog nobody else fills, on which a transaction of more than four operations takes several entries.
fn settings() -> Settings {
    let parameters = vec![
        "maxNumberOfTransactionOperationsInSingleOplogEntry=4".to_owned(),
        "enableTestCommands=1".to_owned(),
    ];
    Settings { oplog_megabytes: 990, parameters, ..Settings::default() }
}

/// Two sources under a short lease, with batches and segments small enough that every fault hits several.
fn configure(fixture: &Fixture) {
    let some: Vec<_> = STEADY[..2].iter().map(|name| format!("\"{{db}}.{name}\"")).collect();
    fixture.configure(&format!(
        "[archive]\nurl = \"{{archive}}\"\nsegment_max_bytes = \"256KiB\"\nhot_retention = \"365d\"\n\n\
         [capture]\nlease_time = \"2s\"\nbatch_max_events = 50\n\n\
         [[source]]\nname = \"{ALL}\"\nwatch = [\"{{db}}.*\"]\n\n\
         [[source]]\nname = \"{SOME}\"\nwatch = [{}]\n",
        some.join(", ")
    ));
}

/// Catches up, and compares both sources, hot and cold, with what happened.
async fn assert_nothing_lost(story: &Story, fixture: &Fixture) {
    fixture.run_once().await;
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

/// The archive's records, as an auditor reads them.
fn rolled(fixture: &Fixture) -> Vec<InShort> {
    let columns = "source, seq, op, coll, epoch(cluster_time)::BIGINT AS time, cluster_inc";
    let segments = fixture.archive().join("source=*/date=*/*.parquet");
    let rows = duckdb::query(&format!(
        "SELECT {columns} FROM read_parquet('{}', hive_partitioning = true) ORDER BY source, seq",
        segments.display()
    ));
    let in_short = |row: &serde_json::Value| {
        let number = |name: &str| row[name].as_i64().unwrap();
        let text = |name: &str| row[name].as_str().map(str::to_owned);
        let (source, op) = (text("source").unwrap(), text("op").unwrap());
        (source, number("seq"), op, text("coll"), number("time"), number("cluster_inc"))
    };
    rows.iter().map(in_short).collect()
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
        configure(&fixture);
        let seed = seed();
        prepare(&fixture.db).await;
        let mut writer = Writer::new(server.client(), &fixture.db, seed);
        for _ in 0..400 {
            writer.step().await;
        }
        let archiver = fixture.start();
        let application = Application::start(server.client(), fixture.db.name(), seed, 3).await;
        wait_until("many records", Duration::from_secs(60), async || {
            (fixture.count(ALL).await > 3_000).then_some(())
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
