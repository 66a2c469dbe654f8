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
/// Stands before a stream in the ids of its application transactions.
const PUBLISHED: &str = "archiver/";
const EXPIRED: &str = "archiver-expired/";

/// How far a stream is in a table. Every commit of the stream says both, so the newest one says all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// One after the last seq that is in the table, or was.
    pub published: i64,
    /// No segment that begins before this seq is in the table any more.
    pub expired: i64,
}

impl Position {
    /// Nothing has been published.
    pub const BEGIN: Position = Position { published: 1, expired: 1 };
}

/// What a commit says, as far as Archiver asks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Commit {
    /// The table's id, where the commit makes the table.
    pub table: Option<String>,
    /// The segments that it puts into the table.
    pub adds: Vec<Add>,
    /// The segments that it takes out, by their paths relative to the source's folder.
    pub removes: Vec<String>,
    /// How far streams are, by the ids of application transactions.
    transactions: BTreeMap<String, i64>,
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
                self.transactions.insert(text("appId")?, action.get("version")?.as_i64()?);
            }
            _ => {}
        }
        Some(())
    }

    /// How far the stream is; `None` where it is not the stream's commit.
    pub fn position(&self, stream: &StreamId) -> Option<Position> {
        let says = |application: &str| self.transactions.get(&format!("{application}{stream}")).copied();
        let expired = says(EXPIRED).unwrap_or(Position::BEGIN.expired);
        Some(Position { published: says(PUBLISHED)?, expired })
    }

    /// Whether it is the commit of any stream of this source.
    pub fn is_of(&self, source: &str) -> bool {
        let streams = self.transactions.keys().filter_map(|id| StreamId::parse(id.strip_prefix(PUBLISHED)?));
        streams.into_iter().any(|stream| stream.source == source)
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

/// The commit that puts these segments of a stream into the table, each with its statistics. Whoever makes it, its bytes are the
/// same.
pub(super) fn add(stream: &StreamId, position: Position, segments: &[(Manifest, Value)]) -> Result<Bytes> {
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
    let mut commit = vec![json!({"commitInfo": info})];
    commit.extend(transactions(stream, position, created_millis(newest)));
    commit.extend(adds);
    Ok(lines(commit))
}

/// The commit that takes these segments of a stream out of the table.
pub(super) fn remove(stream: &StreamId, position: Position, segments: &[&Manifest]) -> Result<Bytes> {
    let now = jiff::Timestamp::now().as_millisecond();
    let info = json!({
        "timestamp": now,
        "operation": "DELETE",
        "operationParameters": {},
        "isBlindAppend": false,
        "engineInfo": engine(),
    });
    let mut actions = vec![json!({"commitInfo": info})];
    actions.extend(transactions(stream, position, now));
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

fn transactions(stream: &StreamId, position: Position, millis: i64) -> Vec<Value> {
    let one = |application: &str, version: i64| json!({"txn": {"appId": format!("{application}{stream}"), "version": version, "lastUpdated": millis}});
    let mut transactions = vec![one(PUBLISHED, position.published)];
    if position.expired > Position::BEGIN.expired {
        transactions.push(one(EXPIRED, position.expired));
    }
    transactions
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
