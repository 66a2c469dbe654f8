//! What a plugin returned, checked in native code: nothing of it is believed.

use std::sync::Arc;

use bson_walker::{Doc, Element, kind, validate};

use super::contract::BatchResult;
use super::limits::{MAX_DEPTH, MAX_DOCUMENT};
use super::outcome::FailureCode;
pub(super) use crate::config::Grants;
use crate::event::{FIELDS, IDENTITY, MARK_BYTES};

/// What a plugin decided about one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Keep,
    Replace(Vec<u8>),
    Drop,
    Fail(Failed),
}

/// How a plugin failed on one event, and what it said that may be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failed {
    pub(super) code: FailureCode,
    pub(super) words: Option<Arc<str>>,
}

impl From<FailureCode> for Failed {
    fn from(code: FailureCode) -> Self {
        Failed { code, words: None }
    }
}

/// Reads a result as one verdict per event, or says what is wrong with the whole of it.
pub(super) fn verdicts(
    events: &[&[u8]],
    result: &BatchResult,
    grants: Grants,
) -> Result<Vec<Verdict>, FailureCode> {
    if result.verdicts.len() != events.len() {
        return Err(FailureCode::InvalidOutput);
    }
    let mut rest = result.docs.as_slice();
    let mut verdicts = Vec::with_capacity(events.len());
    for (event, verdict) in events.iter().zip(&result.verdicts) {
        verdicts.push(match verdict {
            0 => Verdict::Keep,
            1 if !grants.modify => return Err(FailureCode::ModifyNotGranted),
            1 => {
                let (doc, after) = Doc::split(rest).map_err(|_| FailureCode::InvalidOutput)?;
                rest = after;
                replacement(event, doc)?;
                Verdict::Replace(owned(doc))
            }
            2 if !grants.drop => return Err(FailureCode::DropNotGranted),
            2 => Verdict::Drop,
            _ => return Err(FailureCode::InvalidOutput),
        });
    }
    if rest.is_empty() { Ok(verdicts) } else { Err(FailureCode::InvalidOutput) }
}

/// A copy with room for the mark that it was changed.
fn owned(doc: Doc<'_>) -> Vec<u8> {
    let mut body = Vec::with_capacity(doc.as_bytes().len() + MARK_BYTES);
    body.extend_from_slice(doc.as_bytes());
    body
}

/// Checks that `doc` may take the place of `event`: valid down to its last byte, an event's fields in an event's
/// order, and the same event still.
fn replacement(event: &[u8], doc: Doc<'_>) -> Result<(), FailureCode> {
    validate(doc.as_bytes(), MAX_DEPTH).map_err(|_| FailureCode::InvalidOutput)?;
    let event = Doc::new(event).map_err(|_| FailureCode::InvalidOutput)?;
    // Before the shape, since a missing `op` is the graver finding.
    if identity(event) != identity(doc) {
        return Err(FailureCode::IdentityChanged);
    }
    let mut allowed = FIELDS.iter();
    for element in doc.elements() {
        let element = element.map_err(|_| FailureCode::InvalidOutput)?;
        // Searching on from the last one refuses duplicates and another order, too.
        let name =
            allowed.find(|name| name.as_bytes() == element.name()).ok_or(FailureCode::InvalidOutput)?;
        let len = element.value().len();
        let too_long =
            || len > MAX_DOCUMENT && event.get(name).is_none_or(|before| len > before.value().len());
        if !IDENTITY.contains(name) && (!well_formed(name, &element) || too_long()) {
            return Err(FailureCode::InvalidOutput);
        }
    }
    Ok(())
}

/// The fields that may not change, each where it comes first.
fn identity(doc: Doc<'_>) -> [Option<&[u8]>; IDENTITY.len()] {
    let mut found = [None; IDENTITY.len()];
    for element in doc.elements().map_while(Result::ok) {
        if let Some(i) = IDENTITY.iter().position(|name| name.as_bytes() == element.name()) {
            found[i].get_or_insert(element.whole());
        }
    }
    found
}

/// Whether a field that is not part of the identity has the shape that readers of records rely on.
fn well_formed(name: &str, element: &Element<'_>) -> bool {
    if element.kind() != kind::DOCUMENT {
        return false;
    }
    let Some(delta) = element.as_doc().filter(|_| name == "delta") else { return true };
    delta.elements().map_while(Result::ok).all(|part| match part.name() {
        b"updatedFields" | b"disambiguatedPaths" => part.kind() == kind::DOCUMENT,
        b"removedFields" | b"truncatedArrays" => part.kind() == kind::ARRAY,
        _ => true,
    })
}
