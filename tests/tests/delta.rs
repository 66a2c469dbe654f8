//! The Delta table of a source, as other programs read it: DuckDB's `delta_scan` and delta-rs see exactly what the glob shows,
//! whoever published it and whatever interrupted them.

use std::time::Duration;

use archiver_tests::cloud::{Bucket, Kind, load_extension};
use archiver_tests::workload::{Workload, seed};
use archiver_tests::{Fixture, Server, duckdb, tools, wait_until};
use futures_util::future::join_all;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(90);
const SOURCE: &str = "[[source]]\nname = \"orders\"\nwatch = [\"{db}.orders\"]\n\n";
const SMALL: &str = "segment_max_bytes = \"8KiB\"\nhot_retention = \"365d\"\n";
const DELTA: &str = "table_format = \"delta\"\n";

fn archive(options: &str) -> String {
    format!("[archive]\nurl = \"{{archive}}\"\n{options}\n\n")
}

/// A source with so many changes in its log, and nothing rolled.
async fn captured(server: &Server, changes: u64, source: &str) -> Fixture {
    let fixture = Fixture::new(server);
    fixture.configure(&(archive("") + source));
    let running = fixture.start();
    Workload::new(server.client(), fixture.collection("orders"), seed()).run(changes).await;
    wait_until("the changes are in the log", LIMIT, || async {
        (fixture.count("orders").await > changes / 2).then_some(())
    })
    .await;
    running.terminate().await.expect_code(0);
    assert!(fixture.archive_files().is_empty(), "nothing was old enough to be rolled");
    fixture
}

/// Where one source's table and segments are, and what lets DuckDB in.
struct Place {
    login: String,
    table: String,
    options: String,
}

impl Place {
    fn folder(fixture: &Fixture) -> Place {
        let table = format!("{}/source=orders", fixture.archive().display());
        Place { login: String::new(), table, options: "{}".to_owned() }
    }

    fn bucket(bucket: &Bucket) -> Place {
        let table = format!("{}/source=orders", bucket.url());
        Place { login: bucket.duckdb(), table, options: bucket.delta_options().to_string() }
    }

    fn query(&self, sql: &str) -> Vec<Value> {
        let glob = format!(
            "(SELECT * EXCLUDE (source) FROM read_parquet('{}/date=*/*.parquet', hive_partitioning = true))",
            self.table
        );
        let sql = sql.replace("{delta}", &format!("delta_scan('{}')", self.table)).replace("{glob}", &glob);
        duckdb::query(&format!("{}{}{sql}", self.login, load_extension("delta")))
    }

    /// Panics unless the table is what the glob shows: every record once, in every column.
    #[track_caller]
    fn assert_same(&self) -> i64 {
        let sql = "SELECT (SELECT count(*) FROM {delta}) AS delta, (SELECT count(*) FROM {glob}) AS glob, \
            (SELECT count(*) FROM (FROM {glob} EXCEPT ALL FROM {delta})) AS missing, \
            (SELECT count(DISTINCT (seq, extra)) FROM {delta}) AS seqs";
        let row = &self.query(sql)[0];
        assert_eq!((&row["delta"], &row["missing"]), (&row["glob"], &0.into()), "{row}");
        assert_eq!(row["seqs"], row["delta"], "{row}");
        row["delta"].as_i64().unwrap()
    }

    /// What delta-rs sees: rows, files, and how many files may hold records from this seq on.
    fn delta_rs(&self, seq: i64) -> (i64, i64, i64) {
        let program = "import json, sys\n\
            from deltalake import DeltaTable\n\
            import pyarrow.dataset as ds\n\
            table = DeltaTable(sys.argv[1], storage_options=json.loads(sys.argv[2]))\n\
            data = table.to_pyarrow_dataset()\n\
            found = list(data.get_fragments(filter=ds.field('seq') >= int(sys.argv[3])))\n\
            print(json.dumps([data.count_rows(), len(table.file_uris()), len(found)]))\n";
        let printed = tools::run_python(program, &[&self.table, &self.options, &seq.to_string()]);
        let numbers: Vec<i64> = serde_json::from_str(&printed).unwrap();
        (numbers[0], numbers[1], numbers[2])
    }
}

fn commits(fixture: &Fixture) -> usize {
    std::fs::read_dir(fixture.archive().join("source=orders/_delta_log")).map_or(0, |folder| folder.count())
}

fn segments(fixture: &Fixture) -> usize {
    fixture.archive_files().iter().filter(|f| f.extension().is_some_and(|e| e == "parquet")).count()
}

/// Rolls at two times, and compares what each reader sees; a filter on `seq` opens the files that can have it.
async fn whole_life(fixture: &Fixture, server: &Server, place: &Place) {
    let mut workload = Workload::new(server.client(), fixture.collection("orders"), seed());
    fixture.run_once().await;
    for _ in 0..2 {
        workload.run(150).await;
        fixture.run_once().await;
        let records = place.assert_same();
        let (rows, files, newest) = place.delta_rs(records);
        assert_eq!((rows, newest), (records, 1), "delta-rs");
        assert!(files > 2, "too few segments to skip any");
        let explained =
            place.query(&format!("EXPLAIN ANALYZE SELECT count(*) FROM {{delta}} WHERE seq >= {records}"));
        let explained = explained[0]["explain_value"].as_str().unwrap();
        assert!(explained.contains(&format!("Scanning Files: 1/{files}")), "{explained}");
    }
    fixture.ok(&["verify"]).await;
}

#[tokio::test]
async fn duckdb_and_delta_rs_see_what_the_glob_shows_and_skip_files() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&(archive(&(SMALL.to_owned() + DELTA)) + SOURCE));
    whole_life(&fixture, &server, &Place::folder(&fixture)).await;
}

#[tokio::test]
async fn duckdb_and_delta_rs_see_what_the_glob_shows_on_s3() {
    let server = Server::shared().await;
    let (fixture, bucket) = (Fixture::new(&server), Bucket::new(Kind::S3).await);
    fixture.configure(&(bucket.section(&(SMALL.to_owned() + DELTA)) + SOURCE));
    whole_life(&fixture, &server, &Place::bucket(&bucket)).await;
}

#[tokio::test]
async fn duckdb_and_delta_rs_see_what_the_glob_shows_on_azure() {
    let server = Server::shared().await;
    let (fixture, bucket) = (Fixture::new(&server), Bucket::new(Kind::Azure).await);
    fixture.configure(&(bucket.section(&(SMALL.to_owned() + DELTA)) + SOURCE));
    whole_life(&fixture, &server, &Place::bucket(&bucket)).await;
}

/// Bounds are only bounds: no filter that the glob answers may be answered otherwise by the table.
#[tokio::test]
async fn no_filter_loses_rows() {
    let server = Server::shared().await;
    let fixture = captured(&server, 250, SOURCE).await;
    fixture.configure(&(archive(&(SMALL.to_owned() + DELTA)) + SOURCE));
    fixture.ok(&["roll"]).await;
    let place = Place::folder(&fixture);
    let values = place.query(
        "SELECT seq, op, doc_id, cluster_inc, policy, cluster_time::VARCHAR AS time, wall_time::VARCHAR AS wall, date::VARCHAR AS day \
         FROM {glob} USING SAMPLE reservoir(8 ROWS) REPEATABLE (7)",
    );
    let mut checks = Vec::new();
    for row in &values {
        let text = |name: &str| format!("'{}'", row[name].as_str().unwrap());
        let time = |name: &str| format!("TIMESTAMPTZ {}", text(name));
        let conditions = [
            format!("seq = {0} OR seq > {0} + 40", row["seq"]),
            format!("op = {} AND cluster_inc <= {}", text("op"), row["cluster_inc"]),
            format!("cluster_time = {}", time("time")),
            format!("cluster_time > {}", time("time")),
            match row["wall"].as_str() {
                Some(_) => format!("wall_time <= {}", time("wall")),
                None => "wall_time IS NULL".to_owned(),
            },
            match row["doc_id"].as_str() {
                Some(_) => format!("doc_id = {}", text("doc_id")),
                None => "doc_id IS NULL".to_owned(),
            },
            format!("policy = {} AND date = {}", row["policy"], text("day")),
        ];
        for condition in conditions {
            checks.push(format!(
                "SELECT (SELECT count(*) FROM {{glob}} WHERE {condition}) AS glob, (SELECT count(*) FROM {{delta}} WHERE {condition}) AS delta"
            ));
        }
    }
    let rows = place.query(&checks.join(" UNION ALL "));
    assert!(rows.iter().any(|row| row["glob"] != 0));
    assert!(rows.iter().all(|row| row["glob"] == row["delta"]), "{rows:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_write_is_the_last_before_a_crash_the_next_pass_goes_on() {
    let server = Server::shared().await;
    let fixture = captured(&server, 100, SOURCE).await;
    fixture.configure(&(archive(&(SMALL.to_owned() + DELTA)) + SOURCE));
    let mut dying = fixture.archiver.clone();
    let mut crashes = 0;
    // Each object is once the last one: the first that a run creates, or the one behind it.
    for points in ["object:put=exit", "object:put=exit@2", "object:put=exit"].into_iter().cycle() {
        dying.env("ARCHIVER_FAIL_POINTS", points);
        let outcome = dying.run(&["roll"]).await;
        if outcome.code == Some(0) {
            break;
        }
        assert_eq!(outcome.code, None, "{outcome:?}");
        crashes += 1;
    }
    fixture.ok(&["roll"]).await;
    assert!(crashes >= 4, "{crashes}");
    Place::folder(&fixture).assert_same();
    let before = commits(&fixture);
    fixture.ok(&["roll"]).await;
    assert_eq!(commits(&fixture), before, "nothing is published twice");
    fixture.ok(&["verify"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_who_roll_at_once_publish_each_segment_once() {
    let server = Server::shared().await;
    let fixture = captured(&server, 300, SOURCE).await;
    let sizes = ["1KiB", "3KiB", "7KiB", "50KiB"];
    let rolling = sizes.map(|size| {
        let options = format!("segment_max_bytes = \"{size}\"\n{DELTA}");
        let other = fixture.with_configuration(size, &(archive(&options) + SOURCE));
        async move { other.run(&["roll"]).await }
    });
    for outcome in join_all(rolling).await {
        outcome.expect_code(0);
    }
    Place::folder(&fixture).assert_same();
    fixture.ok(&["verify"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_archive_that_is_there_already_is_published_in_one_commit_and_off_means_off() {
    let server = Server::shared().await;
    let fixture = captured(&server, 150, SOURCE).await;
    fixture.configure(&(archive(SMALL) + SOURCE));
    fixture.ok(&["roll"]).await;
    assert!(segments(&fixture) > 2);
    assert_eq!(commits(&fixture), 0, "off by default");
    fixture.configure(&(archive(&(SMALL.to_owned() + DELTA)) + SOURCE));
    fixture.ok(&["roll"]).await;
    assert_eq!(commits(&fixture), 2, "the table, and everything in it");
    Place::folder(&fixture).assert_same();
    fixture.configure(&(archive(SMALL) + SOURCE));
    fixture.run_once().await;
    assert_eq!(commits(&fixture), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_partitions_of_a_running_source_are_one_table() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    let source = SOURCE.trim_end().to_owned() + "\npartitions = 3\n\n";
    let options = "segment_max_age = \"1s\"\nhot_retention = \"0s\"\n".to_owned() + DELTA;
    fixture.configure(&(archive(&options) + &source));
    fixture.run_once().await;
    let running = fixture.start();
    let mut workload = Workload::new(server.client(), fixture.collection("orders"), seed());
    while commits(&fixture) < 8 {
        workload.run(30).await;
        if segments(&fixture) > 0 && commits(&fixture) > 1 {
            let place = Place::folder(&fixture);
            let sql = "SELECT count(*) AS n, count(DISTINCT (seq, extra)) AS seqs FROM {delta}";
            let row = &place.query(sql)[0];
            assert_eq!(row["n"], row["seqs"]);
        }
    }
    running.terminate().await.expect_code(0);
    fixture.run_once().await;
    let place = Place::folder(&fixture);
    place.assert_same();
    let sql = "SELECT count(DISTINCT extra->>'$.partition') AS n, count(*) FILTER (WHERE op = 'insert') AS inserts FROM {delta}";
    let row = &place.query(sql)[0];
    assert_eq!((&row["n"], &row["inserts"]), (&3.into(), &workload.states.len().into()));
    fixture.ok(&["verify"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_can_not_be_gone_on_with_holds_nothing_up_and_is_made_anew() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    let options = "segment_max_age = \"1s\"\nhot_retention = \"0s\"\n".to_owned() + DELTA;
    fixture.configure(&(archive(&options) + SOURCE));
    let log = fixture.archive().join("source=orders/_delta_log");
    std::fs::create_dir_all(&log).unwrap();
    std::fs::write(log.join(format!("{:020}.json", 0)), "{\"metaData\":{\"id\":\"theirs\"}}\n").unwrap();
    let running = fixture.start();
    let mut workload = Workload::new(server.client(), fixture.collection("orders"), seed());
    workload.run(100).await;
    wait_until("segments, a trimmed log and a complaint", LIMIT, async || {
        let told = running.stderr().contains("the table of this source needs a human; rolling goes on");
        (told && segments(&fixture) > 0 && fixture.count("orders").await < 50).then_some(())
    })
    .await;
    assert_eq!(commits(&fixture), 1);
    std::fs::remove_dir_all(&log).unwrap();
    wait_until("a table", LIMIT, async || (commits(&fixture) > 1).then_some(())).await;
    running.terminate().await.expect_code(0);
    fixture.run_once().await;
    Place::folder(&fixture).assert_same();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_expires_leaves_the_table_before_it_is_gone() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    let options = "segment_max_age = \"1s\"\nhot_retention = \"0s\"\nretention = \"3s\"\n".to_owned() + DELTA;
    fixture.configure(&(archive(&options) + SOURCE));
    let running = fixture.start();
    let mut workload = Workload::new(server.client(), fixture.collection("orders"), seed());
    let tombstones = || {
        let is_one = |file: &std::path::PathBuf| file.to_string_lossy().ends_with(".tombstone.json");
        fixture.archive_files().into_iter().filter(is_one).count()
    };
    let start = std::time::Instant::now();
    while tombstones() < 2 || segments(&fixture) == 0 {
        workload.run(10).await;
        assert!(start.elapsed() < LIMIT, "nothing expires");
    }
    running.terminate().await.expect_code(0);
    let place = Place::folder(&fixture);
    // It may have been stopped before it published the last; what it has published is there to be read.
    let sql = "SELECT count(*) AS n FROM (FROM {delta} EXCEPT ALL FROM {glob})";
    assert_eq!(place.query(sql)[0]["n"], 0);
    // The next run mends what a stop between any two steps has left. Made anew, a table begins behind what has expired.
    for _ in 0..2 {
        workload.run(10).await;
        fixture.run_once().await;
        place.assert_same();
        assert_eq!(place.delta_rs(0).1 as usize, segments(&fixture));
        fixture.ok(&["verify"]).await;
        std::fs::remove_dir_all(fixture.archive().join("source=orders/_delta_log")).unwrap();
    }
}
