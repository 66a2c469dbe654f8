//! How much of a change event is asked for. MongoDB can't deliver one of more than 16 MiB (error 10334): such an event is
//! asked for again without its images, and where that is still too large, as a `gap` record of this one event.

use bson::{Document, doc};

/// Why an image is missing that would have made its event too large: what stands in `images` in its place.
const TOO_LARGE: &str = "too-large";

/// How much of each event the stream delivers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Portion {
    /// Everything.
    Whole,
    /// No images before and after a change. The document of an insert or replace is no image: it is the change.
    WithoutImages,
    /// What says that there was an event, and of which document.
    Identity,
}

impl Portion {
    /// The stages behind those that select events. They leave the token as it is: the stream goes on from it with others.
    pub(super) fn stages(self) -> Vec<Document> {
        match self {
            Portion::Whole => Vec::new(),
            Portion::WithoutImages => vec![without_images()],
            Portion::Identity => vec![identity()],
        }
    }
}

/// Puts the reason in the place of every image that there is. What is missing anyway stays null.
fn without_images() -> Document {
    let is_image = |field: &str| doc! {"$eq": [{"$type": format!("${field}")}, "object"]};
    let instead =
        |condition: Document, field: &str| doc! {"$cond": [condition, TOO_LARGE, format!("${field}")]};
    let of_update = doc! {"$and": [{"$eq": ["$operationType", "update"]}, is_image("fullDocument")]};
    doc! {"$set": {
        "fullDocumentBeforeChange": instead(is_image("fullDocumentBeforeChange"), "fullDocumentBeforeChange"),
        "fullDocument": instead(of_update, "fullDocument"),
    }}
}

/// Makes a gap of the event: fields that have no place of their own end up in the record's `detail`.
fn identity() -> Document {
    let mut kept = Document::new();
    for field in ["clusterTime", "wallTime", "ns", "documentKey", "lsid", "txnNumber", "collectionUUID"] {
        kept.insert(field, 1);
    }
    kept.insert("operationType", doc! {"$literal": "gap"});
    kept.insert("reason", doc! {"$literal": "event too large"});
    kept.insert("op", "$operationType");
    doc! {"$project": kept}
}
