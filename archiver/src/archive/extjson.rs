//! Extended JSON text of raw BSON and back, byte for byte.
//!
//! The text is what people query; where it alone does not determine the BSON, an exactness blob of a few bytes does. Its
//! three forms are in [`Exact`]; docs/format.md specifies them for other implementations. Does not go through a document tree:
//! the writer walks the bytes, the parser appends to them.

mod decimal;
mod parse;
#[cfg(test)]
pub(crate) mod random;
#[cfg(test)]
mod tests;
mod write;

use bson_walker::{Doc, Element, kind};

pub(super) use write::push_hex;

use crate::error::{Error, Result};

/// How deep documents can be nested in text. MongoDB's own limit is lower; what is deeper is kept as BSON in the blob.
pub const MAX_DEPTH: usize = 256;

/// The names by which an Extended JSON parser takes a document for something else. A literal document that has one of them
/// as a field name is kept as BSON in the blob.
const TYPE_NAMES: [&str; 18] = [
    "$oid",
    "$numberInt",
    "$numberLong",
    "$numberDouble",
    "$numberDecimal",
    "$date",
    "$binary",
    "$uuid",
    "$code",
    "$scope",
    "$timestamp",
    "$regularExpression",
    "$regex",
    "$dbPointer",
    "$symbol",
    "$undefined",
    "$minKey",
    "$maxKey",
];

/// The tag bytes that begin an exactness blob.
struct Exact;

impl Exact {
    /// Alone: every integer that fits 32 bits is an Int64.
    const ALL_LONG: u8 = b'l';
    /// Then a bitmap of the integers that fit 32 bits, in document order, lowest bit first: 1 = Int64.
    const MIXED: u8 = b'm';
    /// Then the document's BSON: the text is for reading only.
    const BSON: u8 = b'b';
}

/// Whether an Extended JSON parser could take a document with this field name for something else.
fn is_type_name(name: &[u8]) -> bool {
    name.first() == Some(&b'$') && TYPE_NAMES.iter().any(|n| n.as_bytes() == name)
}

/// Appends a document's relaxed Extended JSON v2. Returns what it takes, besides the text, to get the exact bytes back
/// with [`from_text`]: `None` almost always.
pub fn to_relaxed(doc: Doc<'_>, out: &mut String) -> Option<Vec<u8>> {
    write::document(doc, out, write::Form::Relaxed)
}

/// Appends a document's canonical Extended JSON v2, in which every number carries its type. Returns what it takes,
/// besides the text, to get the exact bytes back with [`from_text`].
pub fn to_canonical(doc: Doc<'_>, out: &mut String) -> Option<Vec<u8>> {
    write::document(doc, out, write::Form::Canonical)
}

/// The BSON bytes of a document's Extended JSON, relaxed or canonical, with the exactness blob that came with it.
/// Fails as corrupt.
pub fn from_text(text: &str, exact: Option<&[u8]>) -> Result<Vec<u8>> {
    let (tag, rest) = match exact {
        None => (None, &[][..]),
        Some([tag, rest @ ..]) => (Some(*tag), rest),
        Some([]) => return Err(Error::corrupt("an exactness blob is empty")),
    };
    let widths = match (tag, rest) {
        (None, _) => parse::Widths::Narrow,
        (Some(Exact::ALL_LONG), []) => parse::Widths::Wide,
        (Some(Exact::MIXED), map) => parse::Widths::Mixed { map, next: 0 },
        (Some(Exact::BSON), bson) => {
            let doc = Doc::new(bson);
            let doc =
                doc.map_err(|e| Error::corrupt("an exactness blob is not one BSON document").because(e))?;
            return Ok(doc.as_bytes().to_vec());
        }
        _ => return Err(Error::corrupt("an exactness blob is of an unknown kind")),
    };
    parse::document(text, widths)
        .map_err(|e| Error::corrupt("stored Extended JSON does not parse").because(e))
}

/// The BSON bytes of `{<name>: <value>}` for a value that a person wrote as Extended JSON. Fails as invalid.
pub fn value_from_text(name: &str, text: &str) -> Result<Vec<u8>> {
    parse::value(name, text).map_err(|e| Error::invalid("this is not Extended JSON").because(e))
}

/// A value's relaxed Extended JSON, for reading only.
pub fn value_text(element: &Element<'_>) -> String {
    let mut text = String::new();
    write::value(element, &mut text);
    text
}

/// What column `doc_id` holds for this `_id`: hex for an ObjectId, a string as it is, else relaxed Extended JSON.
/// Different values can share a text (`5` and `"5"`): whoever looks one up compares the keys too.
pub fn doc_id_text(id: Element<'_>) -> String {
    match id.kind() {
        kind::OBJECT_ID => {
            let mut text = String::with_capacity(24);
            write::push_hex(id.value(), &mut text);
            text
        }
        kind::STRING => String::from_utf8_lossy(id.string_bytes().unwrap_or_default()).into_owned(),
        _ => value_text(&id),
    }
}
