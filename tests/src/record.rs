//! Looking into records: fields by dotted path, without a word about how they are stored.

use bson::{Bson, Document, Timestamp};

/// The value at a dotted path.
pub fn at<'a>(document: &'a Document, path: &str) -> Option<&'a Bson> {
    match path.split_once('.') {
        None => document.get(path),
        Some((name, rest)) => at(document.get_document(name).ok()?, rest),
    }
}

/// The value at a dotted path; panics where there is none.
#[track_caller]
pub fn must<'a>(document: &'a Document, path: &str) -> &'a Bson {
    at(document, path).unwrap_or_else(|| panic!("no {path} in {document}"))
}

/// The text at a dotted path; panics where there is none.
#[track_caller]
pub fn text<'a>(document: &'a Document, path: &str) -> &'a str {
    must(document, path).as_str().unwrap_or_else(|| panic!("{path} is no text in {document}"))
}

/// The integer at a dotted path, whatever its width; panics where there is none.
#[track_caller]
pub fn integer(document: &Document, path: &str) -> i64 {
    let value = must(document, path);
    let found = value.as_i64().or(value.as_i32().map(i64::from));
    found.unwrap_or_else(|| panic!("{path} is no integer in {document}"))
}

/// A record's cluster time.
#[track_caller]
pub fn time(record: &Document) -> Timestamp {
    must(record, "clusterTime").as_timestamp().unwrap_or_else(|| panic!("no cluster time in {record}"))
}

/// The records of these operations.
pub fn of<'a>(records: &'a [Document], ops: &[&str]) -> Vec<&'a Document> {
    records.iter().filter(|r| ops.contains(&text(r, "op"))).collect()
}

/// The record of this operation on the document with this `_id`; panics unless there is exactly one.
#[track_caller]
pub fn only<'a>(records: &'a [Document], op: &str, id: impl Into<Bson>) -> &'a Document {
    let id = id.into();
    let found: Vec<_> = of(records, &[op]).into_iter().filter(|r| at(r, "key._id") == Some(&id)).collect();
    assert_eq!(found.len(), 1, "{op} records of {id}: {found:?}");
    found[0]
}
