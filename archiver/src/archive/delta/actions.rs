//! What stands in a commit of a Delta log: actions in JSON, one a line, as the Delta protocol has them (reader version 1,
//! writer version 2).

use std::collections::BTreeMap;

use arrow::datatypes::{DataType, Field};
use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::super::manifest::Manifest;
use super::super::paths::{self, Key};
use super::super::schema;
use crate::error::{Error, Result};
use crate::stream_id::StreamId;

/// The partition column, which is in the folder's name and not in the file.
const DATE: &str = "date";
/// Stands before a stream in the id of its application transactions.
const APPLICATION: &str = "archiver/";

/// What a commit says, as far as Archiver asks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Commit {
    /// The table's id, where the commit makes the table.
    pub table: Option<String>,
    /// The segments that it puts into the table.
    pub adds: Vec<Add>,
    /// The segments that it takes out, by their paths relative to the source's folder.
    pub removes: Vec<String>,
    /// How far streams are published: one after the last seq, by stream.
    published: BTreeMap<String, i64>,
}

/// A segment that a commit puts into the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Add {
    /// Its path relative to the source's folder.
    pub path: String,
    /// The file's size in bytes.
    pub size: u64,
    /// How many records it holds.
    pub rows: u64,
}

impl Add {
    /// What a commit says of this segment.
    pub fn of(manifest: &Manifest) -> Add {
        Add { path: path(manifest).to_owned(), size: manifest.size, rows: manifest.rows }
    }
}

impl Commit {
    /// Reads a commit, whoever wrote it. Fails as corrupt where it is none.
    pub fn parse(key: &str, json: &[u8]) -> Result<Commit> {
        Commit::of_lines(json)
            .ok_or_else(|| Error::corrupt(format!("a commit of a Delta log does not read as one: key={key}")))
    }

    fn of_lines(json: &[u8]) -> Option<Commit> {
        let mut commit = Commit::default();
        for line in std::str::from_utf8(json).ok()?.lines().filter(|line| !line.trim().is_empty()) {
            let actions: Map<String, Value> = serde_json::from_str(line).ok()?;
            for (name, action) in &actions {
                commit.take(name, action)?;
            }
        }
        Some(commit)
    }

    fn take(&mut self, name: &str, action: &Value) -> Option<()> {
        let text = |name: &str| action.get(name)?.as_str().map(str::to_owned);
        match name {
            "metaData" => self.table = Some(text("id")?),
            "add" => {
                let stats: Option<Value> = text("stats").and_then(|stats| serde_json::from_str(&stats).ok());
                let rows = stats.and_then(|stats| stats.get("numRecords")?.as_u64()).unwrap_or_default();
                self.adds.push(Add { path: text("path")?, size: action.get("size")?.as_u64()?, rows });
            }
            "remove" => self.removes.push(text("path")?),
            "txn" => {
                if let Some(stream) = text("appId")?.strip_prefix(APPLICATION) {
                    self.published.insert(stream.to_owned(), action.get("version")?.as_i64()?);
                }
            }
            _ => {}
        }
        Some(())
    }

    /// How far it says that the stream is published: one after the last seq. `None` where it is not the stream's commit.
    pub fn published(&self, stream: &StreamId) -> Option<i64> {
        self.published.get(&stream.to_string()).copied()
    }

    /// Whether it is the commit of any stream of this source.
    pub fn is_of(&self, source: &str) -> bool {
        let of = |stream: &String| StreamId::parse(stream).is_some_and(|stream| stream.source == source);
        self.published.keys().any(of)
    }
}

/// The commit that makes a table of no segments.
pub(super) fn table(id: &str, source: &str) -> Result<Bytes> {
    let operation = json!({"operation": "CREATE TABLE", "operationParameters": {}, "engineInfo": engine()});
    let metadata = json!({
        "id": id,
        "name": source,
        "format": {"provider": "parquet", "options": {}},
        "schemaString": table_schema()?.to_string(),
        "partitionColumns": [DATE],
        "configuration": {},
    });
    Ok(lines([
        json!({"commitInfo": operation}),
        json!({"protocol": {"minReaderVersion": 1, "minWriterVersion": 2}}),
        json!({"metaData": metadata}),
    ]))
}

/// The commit that puts these segments of a stream into the table, each with its statistics. Depends on nothing else: whoever
/// makes it, its bytes are the same.
pub(super) fn add(stream: &StreamId, segments: &[(Manifest, Value)]) -> Result<Bytes> {
    let (mut adds, mut newest) = (Vec::new(), None);
    for (manifest, stats) in segments {
        adds.push(json!({"add": {
            "path": path(manifest),
            "partitionValues": partition_values(manifest)?,
            "size": manifest.size,
            "modificationTime": created_millis(manifest),
            "dataChange": true,
            "stats": stats.to_string(),
        }}));
        newest = Some(manifest);
    }
    let newest = newest.ok_or_else(|| Error::internal("a commit of no segments was asked for"))?;
    let info = json!({
        "timestamp": created_millis(newest),
        "operation": "WRITE",
        "operationParameters": {"mode": "Append", "partitionBy": json!([DATE]).to_string()},
        "isBlindAppend": true,
        "engineInfo": engine(),
    });
    let first = [json!({"commitInfo": info}), transaction(stream, newest.end_seq, created_millis(newest))];
    Ok(lines(first.into_iter().chain(adds)))
}

/// The commit that takes these segments out of the table, where the stream is published up to `published`.
pub(super) fn remove(stream: &StreamId, published: i64, segments: &[&Manifest]) -> Result<Bytes> {
    let now = jiff::Timestamp::now().as_millisecond();
    let info = json!({
        "timestamp": now,
        "operation": "DELETE",
        "operationParameters": {},
        "isBlindAppend": false,
        "engineInfo": engine(),
    });
    let mut actions = vec![json!({"commitInfo": info}), transaction(stream, published, now)];
    for manifest in segments {
        actions.push(json!({"remove": {
            "path": path(manifest),
            "deletionTimestamp": now,
            "dataChange": true,
            "extendedFileMetadata": true,
            "partitionValues": partition_values(manifest)?,
            "size": manifest.size,
        }}));
    }
    Ok(lines(actions))
}

fn transaction(stream: &StreamId, published: i64, millis: i64) -> Value {
    json!({"txn": {"appId": format!("{APPLICATION}{stream}"), "version": published, "lastUpdated": millis}})
}

fn lines(actions: impl IntoIterator<Item = Value>) -> Bytes {
    actions.into_iter().map(|action| format!("{action}\n")).collect::<String>().into()
}

fn engine() -> String {
    format!("archiver/{}", env!("CARGO_PKG_VERSION"))
}

/// Where the table finds a segment. Its characters all stand for themselves in a URI.
fn path(manifest: &Manifest) -> &str {
    let key = manifest.segment.as_str();
    key.strip_prefix(&paths::segments_prefix(&manifest.source)).unwrap_or(key)
}

fn partition_values(manifest: &Manifest) -> Result<Value> {
    match paths::parse(&manifest.segment) {
        Some(Key::Segment { day, .. }) => Ok(json!({DATE: day.to_string()})),
        _ => Err(Error::internal("a manifest seals no segment")),
    }
}

fn created_millis(manifest: &Manifest) -> i64 {
    manifest.created.parse::<jiff::Timestamp>().map_or(0, jiff::Timestamp::as_millisecond)
}

/// The columns of a segment and its partition column, as Spark writes a schema.
fn table_schema() -> Result<Value> {
    let mut fields = Vec::new();
    for field in schema::columns().fields() {
        fields.push(table_field(field.name(), column_type(field)?, field.is_nullable()));
    }
    fields.push(table_field(DATE, json!("date"), true));
    Ok(json!({"type": "struct", "fields": fields}))
}

fn table_field(name: &str, kind: Value, nullable: bool) -> Value {
    json!({"name": name, "type": kind, "nullable": nullable, "metadata": {}})
}

fn column_type(field: &Field) -> Result<Value> {
    Ok(match field.data_type() {
        DataType::Int64 => json!("long"),
        DataType::Int32 => json!("integer"),
        DataType::Utf8 => json!("string"),
        DataType::Binary => json!("binary"),
        DataType::Timestamp(..) => json!("timestamp"),
        DataType::List(item) => json!({
            "type": "array",
            "elementType": column_type(item)?,
            "containsNull": item.is_nullable(),
        }),
        other => return Err(Error::internal(format!("Delta has no such type: {other}"))),
    })
}
