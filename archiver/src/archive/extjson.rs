//! Extended JSON text of raw BSON and back, byte for byte.

use bson_walker::{Doc, Element};

use crate::error::{Error, Result};

/// Appends a document's relaxed Extended JSON v2. Returns what it takes, besides the text, to get the exact bytes back
/// with [`from_text`]: `None` almost always.
pub fn to_relaxed(doc: Doc<'_>, out: &mut String) -> Option<Vec<u8>> {
    let _ = (doc, out);
    None
}

/// Appends a document's canonical Extended JSON v2, in which every number carries its type. Returns what it takes,
/// besides the text, to get the exact bytes back with [`from_text`].
pub fn to_canonical(doc: Doc<'_>, out: &mut String) -> Option<Vec<u8>> {
    let _ = (doc, out);
    None
}

/// The BSON bytes of a document's Extended JSON, relaxed or canonical, with the exactness blob that came with it.
/// Fails as corrupt.
pub fn from_text(text: &str, exact: Option<&[u8]>) -> Result<Vec<u8>> {
    let _ = (text, exact);
    Err(Error::internal("not written yet"))
}

/// The BSON bytes of `{<name>: <value>}` for a value that a person wrote as Extended JSON. Fails as invalid.
pub fn value_from_text(name: &str, text: &str) -> Result<Vec<u8>> {
    let _ = (name, text);
    Err(Error::internal("not written yet"))
}

/// What column `doc_id` holds for this `_id`: hex for an ObjectId, a string as it is, else relaxed Extended JSON.
/// Different values can share a text (`5` and `"5"`): whoever looks one up compares the keys too.
pub fn doc_id_text(id: Element<'_>) -> String {
    let _ = id;
    String::new()
}
