//! An event on its way through the plugins: a change event, or a document read by a snapshot, in the layout of a
//! record but without `_id` and `policy`. Does not know where events come from or go to.

use bson::Timestamp;
use bson_walker::Doc;

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
