//! An event on its way through the plugins: a change event, or a document read by a snapshot, in the layout of a
//! record but without `_id` and `policy`. Does not know where events come from or go to.

use bson::Timestamp;
use bson_walker::{Doc, Element, Writer};

use crate::error::{Error, Result};

/// The fields of an event, in the order in which they are stored; absent ones are left out.
pub const FIELDS: [&str; 12] = [
    "op",
    "ns",
    "key",
    "clusterTime",
    "wallTime",
    "before",
    "after",
    "delta",
    "images",
    "txn",
    "actor",
    "detail",
];

/// The fields that no plugin may change, add or remove.
pub const IDENTITY: [&str; 4] = ["op", "ns", "clusterTime", "wallTime"];

/// A place in the change stream: everything up to and including it has been read.
#[derive(Debug, Clone, PartialEq)]
pub struct Position {
    /// The resume token, as raw BSON. Holds document keys in clear: it goes into checkpoints and nowhere else.
    /// `None` before the first one is known; the stream then starts at `cluster_time`, inclusive.
    pub token: Option<Vec<u8>>,
    /// The cluster time of the place.
    pub cluster_time: Timestamp,
}

/// One event: its BSON body (fields as in [`FIELDS`]) and the position right after it.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// One valid BSON document.
    pub body: Vec<u8>,
    /// Where the stream stands once this event is dealt with.
    pub position: Position,
}

impl Event {
    /// The body's view.
    pub fn doc(&self) -> Result<Doc<'_>> {
        Doc::new(&self.body)
            .map_err(|e| Error::internal("an event's body is not one BSON document").because(e))
    }
}

/// The field of `detail` that says that plugins have changed an event.
pub const REDACTED: &str = "redacted";

/// The field that holds it.
const DETAIL: &str = "detail";

/// How many bytes the mark takes where there is nothing in `detail` yet.
pub const MARK_BYTES: usize = 24;

/// Marks an event that plugins have changed, whatever they say of it.
pub fn mark_redacted(mut body: Vec<u8>) -> Vec<u8> {
    let Ok(doc) = Doc::new(&body) else { return body };
    let mut detail = Vec::new();
    // Most have none, and are not copied.
    if let Some(found) = doc.get(DETAIL) {
        let others = |element: &Element<'_>| element.name() != DETAIL.as_bytes();
        let without = Writer::build(|event| copy(doc, others, event));
        detail.extend(found.as_doc().iter().flat_map(|doc| doc.as_bytes()));
        body = without;
    }
    let others = |element: &Element<'_>| element.name() != REDACTED.as_bytes();
    let mut event = Writer::reopen(&mut body);
    let mut marked = event.begin_doc(DETAIL.as_bytes());
    copy(Doc::new(&detail).unwrap_or(Doc::EMPTY), others, &mut marked);
    marked.bool(REDACTED, true);
    marked.end();
    event.end();
    body
}

fn copy(from: Doc<'_>, which: impl Fn(&Element<'_>) -> bool, to: &mut Writer<'_>) {
    from.elements().map_while(Result::ok).filter(which).for_each(|element| to.append(&element));
}

#[cfg(test)]
mod tests {
    use bson::{Document, doc};

    use super::*;

    #[test]
    fn the_mark_is_true_whatever_stands_in_its_place_and_all_else_stays() {
        let marked = |event: Document| -> Document {
            let event = bson::serialize_to_vec(&event).unwrap();
            bson::deserialize_from_slice(&mark_redacted(event)).unwrap()
        };
        let event = doc! {"op": "insert", "after": {"_id": 1, "redacted": false}};
        let mut expected = event.clone();
        expected.insert("detail", doc! {"redacted": true});
        assert_eq!(marked(event.clone()), expected);
        let length = |event: &Document| bson::serialize_to_vec(event).unwrap().len();
        assert_eq!(length(&event) + MARK_BYTES, length(&expected));
        for odd in [doc! {"redacted": false}.into(), bson::Bson::from(7)] {
            let mut event = event.clone();
            event.insert("detail", odd);
            assert_eq!(marked(event), expected);
        }
        let mut event = event;
        event.insert("detail", doc! {"late": 5_i64, "redacted": "no", "x": {}});
        expected.insert("detail", doc! {"late": 5_i64, "x": {}, "redacted": true});
        assert_eq!(marked(event), expected);
    }
}
