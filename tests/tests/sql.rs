//! What `archiver sql` prints runs in DuckDB as pasted.

use archiver_tests::workload::{Workload, seed};
use archiver_tests::{Fixture, Server, duckdb};

#[tokio::test]
async fn the_printed_statements_run_as_they_are() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&(Fixture::source("orders", &["orders"]) + &Fixture::source("empty", &["empty"])));
    fixture.run_once().await;
    Workload::new(server.client(), fixture.collection("orders"), seed()).run(100).await;
    fixture.run_once().await;
    let statements = fixture.ok(&["sql"]).await;
    let views =
        duckdb::query(&format!("{statements}\n;SELECT view_name FROM duckdb_views() WHERE NOT internal"));
    assert!(!views.is_empty(), "no view is created");
    for view in views {
        let name = view["view_name"].as_str().unwrap();
        duckdb::query(&format!("{statements}\n;SELECT * FROM \"{name}\" LIMIT 10"));
    }
}
