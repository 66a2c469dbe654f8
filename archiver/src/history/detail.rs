//! What records say in their `detail`.

use super::Namespace;
use crate::record::Record;

/// What a quarantine record, or the gap record of one event, says in a field.
pub fn quarantined<'a>(record: &Record<'a>, field: &str) -> Option<&'a str> {
    record.part("detail")?.get(field)?.as_str()
}

/// The new namespace of a rename.
pub fn target(record: &Record<'_>) -> Option<Namespace> {
    let to = record.part("detail")?.get("to")?.as_doc()?;
    let text = |name| to.get(name).and_then(|e| e.as_str()).map(str::to_owned);
    Some(Namespace { db: text("db")?, coll: text("coll")? })
}

/// Whether the documents of a renamed collection are known: the source watched it under its old name too.
pub fn is_from_watched(record: &Record<'_>) -> bool {
    let detail = record.part("detail");
    detail.and_then(|detail| detail.get("fromWatched")).and_then(|e| e.as_bool()).unwrap_or(false)
}

/// Whether everything that was there was recorded when it was written: what it says of a rename whose documents are known.
pub fn is_whole(record: &Record<'_>) -> bool {
    record.part("detail").and_then(|detail| detail.get("whole")).and_then(|e| e.as_bool()).unwrap_or(false)
}
