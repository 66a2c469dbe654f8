//! The oracle: what changed, read from the oplog by a path that shares nothing with the code under test.

use std::time::Duration;

use bson::{Bson, Document, RawDocument, RawDocumentBuf, Timestamp, doc};
use futures_util::TryStreamExt;
use mongodb::Client;

use crate::record::{must, of, text, time};
use crate::wait::wait_until;

/// The operations on documents, as records name them.
pub const DOCUMENT_OPS: [&str; 4] = ["insert", "update", "replace", "delete"];

/// One change of one document.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// When, in cluster time.
    pub time: Timestamp,
    /// `insert`, `update`, `replace` or `delete`.
    pub op: String,
    /// `db.collection`.
    pub namespace: String,
    /// The document's `_id`.
    pub id: Bson,
}

/// Every change of a document in the namespaces that start with `prefix`, in the oplog's order.
pub async fn changes(client: &Client, prefix: &str) -> Vec<Change> {
    changes_after(client, prefix, Timestamp { time: 0, increment: 0 }).await
}

/// The same, of those behind a time.
pub async fn changes_after(client: &Client, prefix: &str, after: Timestamp) -> Vec<Change> {
    // Documents hold values that no library reads, so the entries are left as they are.
    let oplog = client.database("local").collection::<RawDocumentBuf>("oplog.rs");
    // Only what is asked for: other tests write too.
    let namespace = doc! {"$regex": format!("^{prefix}")};
    let filter = doc! {"ts": {"$gt": after}, "$or": [
        {"op": {"$in": ["i", "u", "d"]}, "ns": &namespace},
        {"op": "c", "o.applyOps.ns": &namespace},
    ]};
    let mut entries = oplog.find(filter).sort(doc! {"$natural": 1}).await.expect("the oplog can be read");
    let mut changes = Vec::new();
    while let Some(entry) = entries.try_next().await.expect("the oplog can be read") {
        let time = entry.get_timestamp("ts").expect("an oplog entry has a time");
        match entry.get_document("o").and_then(|object| object.get_array("applyOps")) {
            Ok(operations) => {
                let operations = operations.into_iter().map(|o| o.expect("an operation is valid"));
                changes.extend(operations.filter_map(|o| change(time, o.as_document()?, prefix)));
            }
            Err(_) => changes.extend(change(time, &entry, prefix)),
        }
    }
    changes
}

/// The changes that these records tell of, in their order.
pub fn recorded(records: &[Document]) -> Vec<Change> {
    of(records, &DOCUMENT_OPS).into_iter().map(from_record).collect()
}

fn from_record(record: &Document) -> Change {
    Change {
        time: time(record),
        op: text(record, "op").to_owned(),
        namespace: format!("{}.{}", text(record, "ns.db"), text(record, "ns.coll")),
        id: must(record, "key._id").clone(),
    }
}

fn change(time: Timestamp, entry: &RawDocument, prefix: &str) -> Option<Change> {
    let namespace = entry.get_str("ns").ok()?;
    if !namespace.starts_with(prefix) || namespace.ends_with(".$cmd") {
        return None;
    }
    let object = entry.get_document("o").ok()?;
    let (op, of) = match entry.get_str("op").ok()? {
        "i" => ("insert", object),
        "d" => ("delete", object),
        "u" => {
            let is_update = object.get("$v").is_ok_and(|version| version.is_some());
            (if is_update { "update" } else { "replace" }, entry.get_document("o2").ok()?)
        }
        _ => return None,
    };
    let id = of.get("_id").ok()??.try_into().expect("an _id is a value");
    Some(Change { time, op: op.to_owned(), namespace: namespace.to_owned(), id })
}

/// Writes into a database that nobody watches until the server's oplog, made tiny for it, no longer holds what it holds now.
pub async fn roll_over(client: &Client) {
    let oplog = client.database("local").collection::<Document>("oplog.rs");
    let last =
        oplog.find_one(doc! {}).sort(doc! {"$natural": -1}).await.expect("readable").expect("an entry");
    let last = last.get_timestamp("ts").expect("an oplog entry has a time");
    let filler = client.database("filler").collection::<Document>("filler");
    wait_until("the oplog rolls over", Duration::from_secs(60), async || {
        let padding = (0..10).map(|_| doc! {"padding": "x".repeat(50_000)});
        filler.insert_many(padding).await.expect("insertable");
        let first = oplog.find_one(doc! {}).sort(doc! {"$natural": 1}).await.expect("readable")?;
        (first.get_timestamp("ts").expect("an oplog entry has a time") > last).then_some(())
    })
    .await;
}
