//! From MongoDB's change event to an [`Event`]: every field finds its place, and what has none of its own is kept
//! in `detail` as it came. Values are copied, never decoded.

use bson::Timestamp;
use bson_walker::{Doc, Element, Writer, kind};

use crate::error::{Error, Result};
use crate::event::{Event, Position};
use crate::post_image::stored;

/// Fields of a change event that are stored under a name of their own, or (the token) nowhere.
const PLACED: [&str; 12] = [
    "_id",
    "operationType",
    "clusterTime",
    "wallTime",
    "ns",
    "documentKey",
    "fullDocumentBeforeChange",
    "fullDocument",
    "updateDescription",
    "lsid",
    "txnNumber",
    "splitEvent",
];

/// Binary data that is a UUID.
const UUID_SUBTYPE: u8 = 4;

/// Why images are missing, as far as it can be known when the event is read.
pub trait ImageSettings {
    /// "disabled" where the collection did not keep images when it was changed, "expired" where it did, else "unknown".
    fn why_missing(&self, change: Doc<'_>) -> &'static str;
}

/// Which images this change event should have and has not: that before, that after the change.
pub fn missing_images(change: Doc<'_>) -> (bool, bool) {
    let op = change.get("operationType").and_then(|e| e.as_str()).unwrap_or("");
    let before = matches!(op, "update" | "replace" | "delete")
        && document(change, "fullDocumentBeforeChange").is_none();
    (before, op == "update" && document(change, "fullDocument").is_none())
}

/// The event that this change event is, made in a session of `user`.
pub fn to_event(raw: &[u8], settings: &impl ImageSettings, user: Option<&str>) -> Result<Event> {
    let change =
        Doc::new(raw).map_err(|e| Error::unavailable("a change event is not valid BSON").because(e))?;
    let token = required(change, "_id")?.as_doc().ok_or_else(|| malformed("_id"))?;
    let (time, increment) =
        required(change, "clusterTime")?.as_timestamp().ok_or_else(|| malformed("clusterTime"))?;
    let mut body = Vec::with_capacity(raw.len());
    let mut writer = Writer::begin(&mut body);
    let op = required(change, "operationType")?;
    writer.append_as("op", &op);
    write_namespace(&mut writer, change);
    if let Some(key) = document(change, "documentKey") {
        writer.doc("key", key.as_bytes());
    }
    writer.timestamp("clusterTime", time, increment);
    if let Some(wall) = change.get("wallTime") {
        writer.append(&wall);
    }
    for (name, field) in
        [("before", "fullDocumentBeforeChange"), ("after", "fullDocument"), ("delta", "updateDescription")]
    {
        let Some(doc) = document(change, field) else { continue };
        let before = document(change, "fullDocumentBeforeChange");
        let stored = op.as_str().filter(|_| name == "after").and_then(|op| stored(op, doc, before));
        writer.doc(name, stored.as_deref().unwrap_or(doc.as_bytes()));
    }
    write_images(&mut writer, change, settings);
    write_transaction(&mut writer, change);
    if let Some(user) = user {
        let mut actor = writer.begin_doc(b"actor");
        actor.str("id", user);
        actor.str("from", "session");
        actor.end();
    }
    write_detail(&mut writer, change)?;
    writer.end();
    let position =
        Position { token: Some(token.as_bytes().to_vec()), cluster_time: Timestamp { time, increment } };
    Ok(Event { body, position })
}

fn malformed(field: &str) -> Error {
    Error::unavailable(format!("a change event lacks a valid {field}"))
}

fn required<'a>(change: Doc<'a>, field: &str) -> Result<Element<'a>> {
    change.get(field).ok_or_else(|| malformed(field))
}

fn document<'a>(change: Doc<'a>, field: &str) -> Option<Doc<'a>> {
    change.get(field).filter(|e| e.kind() == kind::DOCUMENT)?.as_doc()
}

fn write_namespace(writer: &mut Writer<'_>, change: Doc<'_>) {
    let Some(ns) = document(change, "ns") else { return };
    let mut out = writer.begin_doc(b"ns");
    for name in ["db", "coll"] {
        if let Some(element) = ns.get(name) {
            out.append(&element);
        }
    }
    out.end();
}

fn write_images(writer: &mut Writer<'_>, change: Doc<'_>, settings: &impl ImageSettings) {
    let (before, after) = missing_images(change);
    if !before && !after {
        return;
    }
    // Where the stream was asked to leave an image out, the reason stands in its place; see `portion`.
    let why = |field| {
        let told = change.get(field).and_then(|e| e.as_str());
        told.unwrap_or_else(|| settings.why_missing(change))
    };
    let mut images = writer.begin_doc(b"images");
    if before {
        images.str("before", why("fullDocumentBeforeChange"));
    }
    if after {
        images.str("after", why("fullDocument"));
    }
    images.end();
}

/// `{lsid: <the session's UUID>, number}`; the session's user digest is left out: it is an unsalted hash of a name.
fn write_transaction(writer: &mut Writer<'_>, change: Doc<'_>) {
    let (Some(id), Some(number)) = (change.get_path(&["lsid", "id"]), change.get("txnNumber")) else {
        return;
    };
    let mut txn = writer.begin_doc(b"txn");
    txn.append_as("lsid", &id);
    txn.append_as("number", &number);
    txn.end();
}

fn write_detail(writer: &mut Writer<'_>, change: Doc<'_>) -> Result<()> {
    let mut rest = Vec::new();
    for element in change.elements() {
        let element =
            element.map_err(|e| Error::unavailable("a change event is not valid BSON").because(e))?;
        if !PLACED.iter().any(|name| name.as_bytes() == element.name()) {
            rest.push(element);
        }
    }
    if rest.is_empty() {
        return Ok(());
    }
    let mut detail = writer.begin_doc(b"detail");
    for element in &rest {
        detail.append(element);
    }
    detail.end();
    Ok(())
}

/// Where and when a document was read.
#[derive(Debug, Clone, Copy)]
pub struct ReadFrom<'a> {
    /// The database.
    pub db: &'a str,
    /// The collection.
    pub coll: &'a str,
    /// The collection's identity.
    pub uuid: Option<[u8; 16]>,
    /// The cluster time at which the document is true.
    pub time: Timestamp,
    /// Where it can't be read as of a time: it is true at some moment from `time` until this one.
    pub until: Option<Timestamp>,
}

/// The event of a document that a snapshot read. The position is the stream's, which a snapshot does not move.
pub fn snapshot_event(from: &ReadFrom<'_>, document: &[u8], position: &Position) -> Result<Event> {
    let doc =
        Doc::new(document).map_err(|e| Error::unavailable("a document is not valid BSON").because(e))?;
    let mut body = Vec::with_capacity(document.len() + 128);
    let mut writer = Writer::begin(&mut body);
    writer.str("op", "snapshot");
    let mut ns = writer.begin_doc(b"ns");
    ns.str("db", from.db);
    ns.str("coll", from.coll);
    ns.end();
    if let Some(id) = doc.get("_id") {
        let mut key = writer.begin_doc(b"key");
        key.append(&id);
        key.end();
    }
    writer.timestamp("clusterTime", from.time.time, from.time.increment);
    writer.doc("after", doc.as_bytes());
    if from.uuid.is_some() || from.until.is_some() {
        let mut detail = writer.begin_doc(b"detail");
        if let Some(uuid) = &from.uuid {
            detail.binary("collectionUUID", UUID_SUBTYPE, uuid);
        }
        if let Some(until) = from.until {
            detail.timestamp("until", until.time, until.increment);
        }
        detail.end();
    }
    writer.end();
    Ok(Event { body, position: position.clone() })
}

#[cfg(test)]
mod tests {
    use bson::{Document, doc};

    use super::*;

    struct Disabled;
    impl ImageSettings for Disabled {
        fn why_missing(&self, _: Doc<'_>) -> &'static str {
            "disabled"
        }
    }

    fn convert(change: &Document) -> Document {
        let event = to_event(&bson::serialize_to_vec(change).unwrap(), &Disabled, None).unwrap();
        bson::deserialize_from_slice(&event.body).unwrap()
    }

    fn time() -> Timestamp {
        Timestamp { time: 9, increment: 2 }
    }

    #[test]
    fn an_update_without_images_keeps_its_delta_and_says_why() {
        let change = doc! {
            "_id": {"_data": "82"}, "operationType": "update", "clusterTime": time(), "wallTime": bson::DateTime::from_millis(5),
            "fullDocument": null, "ns": {"db": "shop", "coll": "orders"}, "documentKey": {"_id": 1},
            "updateDescription": {"updatedFields": {"a": 1}, "removedFields": [], "truncatedArrays": []},
            "fullDocumentBeforeChange": null,
        };
        let expected = doc! {
            "op": "update", "ns": {"db": "shop", "coll": "orders"}, "key": {"_id": 1}, "clusterTime": time(),
            "wallTime": bson::DateTime::from_millis(5),
            "delta": {"updatedFields": {"a": 1}, "removedFields": [], "truncatedArrays": []},
            "images": {"before": "disabled", "after": "disabled"},
        };
        assert_eq!(convert(&change), expected);
    }

    #[test]
    fn images_are_kept_as_they_are_stored_and_not_as_they_are_told() {
        let field = |name: &[u8], n: i32| (name.to_vec(), n.to_le_bytes());
        let told = |fields: Vec<(Vec<u8>, [u8; 4])>| {
            Writer::build(|w| fields.iter().for_each(|(name, n)| w.raw(kind::INT32, name, n)))
        };
        let moved = told(vec![field(b"_id", 1), field(b"a", 1), field(b"b", 2), field(b"a", 3)]);
        let id_behind = told(vec![field(b"a", 3), field(b"_id", 1)]);
        for (op, image, stored) in
            [("update", &moved, vec!["_id", "b", "a"]), ("replace", &id_behind, vec!["_id", "a"])]
        {
            let raw = Writer::build(|w| {
                w.doc("_id", Doc::EMPTY.as_bytes());
                w.str("operationType", op);
                w.timestamp("clusterTime", 9, 2);
                w.doc("fullDocument", image);
                w.doc(
                    "fullDocumentBeforeChange",
                    &told(vec![field(b"_id", 1), field(b"a", 1), field(b"b", 2)]),
                );
            });
            let event = to_event(&raw, &Disabled, None).unwrap();
            let body: Document = bson::deserialize_from_slice(&event.body).unwrap();
            let after = body.get_document("after").unwrap();
            assert_eq!(after.keys().collect::<Vec<_>>(), stored, "{op}");
            assert_eq!(after.get_i32("a").unwrap(), 3);
        }
    }

    #[test]
    fn an_image_that_was_left_out_says_why_and_one_that_never_was_says_that() {
        let change = doc! {
            "_id": {"_data": "82"}, "operationType": "update", "clusterTime": time(),
            "fullDocument": "too-large", "fullDocumentBeforeChange": null, "documentKey": {"_id": 1},
        };
        let images = doc! {"before": "disabled", "after": "too-large"};
        assert_eq!(convert(&change).get_document("images").unwrap(), &images);
    }

    #[test]
    fn what_has_no_place_of_its_own_is_kept_in_detail() {
        let change = doc! {
            "_id": {"_data": "82"}, "operationType": "rename", "clusterTime": time(), "ns": {"db": "shop", "coll": "a"},
            "to": {"db": "shop", "coll": "b"}, "operationDescription": {"x": 1}, "something": "new",
        };
        let expected =
            doc! {"to": {"db": "shop", "coll": "b"}, "operationDescription": {"x": 1}, "something": "new"};
        assert_eq!(convert(&change).get_document("detail").unwrap(), &expected);
    }

    #[test]
    fn a_transaction_keeps_session_and_number_but_not_the_user_digest() {
        let change = doc! {
            "_id": {"_data": "82"}, "operationType": "insert", "clusterTime": time(), "ns": {"db": "shop", "coll": "a"},
            "documentKey": {"_id": 1}, "fullDocument": {"_id": 1}, "lsid": {"id": "u", "uid": "secret"}, "txnNumber": 3_i64,
        };
        assert_eq!(convert(&change).get_document("txn").unwrap(), &doc! {"lsid": "u", "number": 3_i64});
    }

    #[test]
    fn the_token_goes_into_the_position_and_nowhere_else() {
        let change = doc! {"_id": {"_data": "82ab"}, "operationType": "drop", "clusterTime": time(), "ns": {"db": "d", "coll": "c"}};
        let event = to_event(&bson::serialize_to_vec(&change).unwrap(), &Disabled, None).unwrap();
        assert_eq!(event.position.token, Some(bson::serialize_to_vec(&doc! {"_data": "82ab"}).unwrap()));
        assert!(!event.body.windows(4).any(|w| w == b"82ab"));
    }
}
