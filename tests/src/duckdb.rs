//! DuckDB, the way an auditor uses it: SQL in, JSON rows out.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::cloud::{AZURE_ACCOUNT, AZURE_ENDPOINT};
use crate::tools;

const PROGRAM: &str = r#"
import base64, datetime, decimal, json, sys
import duckdb

def plain(value):
    if isinstance(value, (bytes, bytearray)):
        return base64.b64encode(bytes(value)).decode()
    return value.isoformat() if hasattr(value, "isoformat") else str(value)

connection = duckdb.connect()
connection.execute("SET TimeZone = 'UTC'; SET enable_progress_bar = false")
result = connection.execute(sys.stdin.read())
columns = [c[0] for c in result.description] if result.description else []
rows = [dict(zip(columns, row)) for row in result.fetchall()] if columns else []
json.dump(rows, sys.stdout, default=plain)
"#;

/// Runs statements and gives the last one's rows, each a JSON object; binary values as base64, times as ISO 8601.
#[track_caller]
pub fn query(sql: &str) -> Vec<Value> {
    try_query(sql).unwrap_or_else(|message| panic!("DuckDB refuses:\n{sql}\n{message}"))
}

/// As [`query`], with the next version of DuckDB, which has no extensions here.
#[track_caller]
pub fn query_next(sql: &str) -> Vec<Value> {
    let rows = run(sql, Command::new(tools::python()).env("PYTHONPATH", tools::next_duckdb()));
    rows.unwrap_or_else(|message| panic!("the next DuckDB refuses:\n{sql}\n{message}"))
}

/// As [`query`], with DuckDB's message where it refuses.
pub fn try_query(sql: &str) -> Result<Vec<Value>, String> {
    run(sql, &mut Command::new(tools::python()))
}

fn run(sql: &str, python: &mut Command) -> Result<Vec<Value>, String> {
    if let Ok(endpoint) = std::env::var(AZURE_ENDPOINT) {
        // The Delta extension takes no address for Azurite from the secret.
        let address = endpoint.trim_end_matches(AZURE_ACCOUNT).trim_end_matches('/');
        python.env("AZURITE_BLOB_STORAGE_URL", address);
    }
    let mut child = python
        .args(["-c", PROGRAM])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("python starts");
    child.stdin.take().expect("stdin is piped").write_all(sql.as_bytes()).expect("python reads its input");
    let output = child.wait_with_output().expect("python ends");
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    Ok(serde_json::from_slice(&output.stdout).expect("the program above prints JSON"))
}
