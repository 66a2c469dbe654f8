//! What one record did to its document: by its images where it has any, else by its delta.

use bytes::Bytes;

use super::document::{Contents, apply};
use super::gaps::{Finding, Found};
use super::policies::Origin;
use super::states::{Known, Reason, State};
use crate::error::Result;
use crate::post_image;
use crate::record::Record;

/// The document before and after a record.
pub(super) struct Effect {
    pub(super) before: Known,
    /// Whether `before` holds even where what was recorded is in doubt.
    pub(super) tells_before: bool,
    pub(super) after: Known,
    /// Whether `after` does.
    pub(super) is_certain: bool,
}

/// What a record did, given what its document was before.
pub(super) fn effect(record: &Record<'_>, known: &Known, contents: Contents) -> Result<Effect> {
    let seq = record.seq()?;
    let found = Found::of(record);
    let (before, tells_before) = match record.op() {
        "insert" => (Known::absent(), true),
        // Reading a document says nothing of what it was before: of one that was compared, what was known is shown.
        "snapshot" => (known.clone(), found.is_some()),
        _ => match record.part("before") {
            Some(doc) => (Known::image(Bytes::copy_from_slice(doc.as_bytes()), Origin::of(record)), true),
            None => {
                let moment = |f: Found| f.finding == Finding::Deleted && f.at_one_moment();
                (known.clone(), found.is_some_and(moment))
            }
        },
    };
    let (after, is_certain) = match record.op() {
        "delete" => (Known::absent(), true),
        // A change of this document is missing.
        "gap" => (Known::unknown(Reason::Gap(seq)), true),
        "update" => match after_image(record) {
            Some(image) => (image, true),
            None => (updated(record, seq, &before, contents), tells_before),
        },
        "insert" | "replace" | "snapshot" => {
            (after_image(record).unwrap_or_else(|| Known::unknown(Reason::NoImage(seq))), true)
        }
        // Operations this version does not know may change the document or not.
        _ => after_image(record).map_or_else(|| (known.clone(), false), |image| (image, true)),
    };
    Ok(Effect { before, tells_before, after, is_certain })
}

/// The document after a change.
fn after_image(record: &Record<'_>) -> Option<Known> {
    let after = post_image::after(record)?;
    Some(Known::image(after.into_owned().into(), Origin::of(record)))
}

fn updated(record: &Record<'_>, seq: i64, before: &Known, contents: Contents) -> Known {
    let (bytes, delta) = match (&before.state, record.part("delta")) {
        (State::Present(bytes), Some(delta)) => (bytes, delta),
        (State::Present(_), None) => return Known::unknown(Reason::NoImage(seq)),
        (State::Absent, _) => return Known::unknown(Reason::BeforeBaseline),
        (State::Unknown(reason), _) => return Known::unknown(*reason),
    };
    match apply(bytes, delta, contents) {
        Ok(after) => {
            let mut origins = before.origins.clone();
            origins.insert(Origin::of(record));
            Known { state: State::Present(after.into()), origins }
        }
        Err(why) => Known::unknown(Reason::Delta(seq, why)),
    }
}
