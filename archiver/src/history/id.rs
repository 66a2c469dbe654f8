//! A document's id as a person gives it, and which stored ids it can mean.

use std::collections::BTreeSet;

use bson_walker::{Doc, Element, Writer, kind};

use crate::archive::extjson::{doc_id_text, value_from_text};
use crate::error::{Error, Result};

/// The values that an id argument can mean: plain text is a string, an ObjectId where it is 24 hex digits, and a
/// number, boolean or null where it reads as one; Extended JSON is what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentId {
    /// Each `{_id: <value>}`.
    candidates: Vec<Vec<u8>>,
    given: String,
}

impl DocumentId {
    /// Reads an id. Fails as invalid where it begins like Extended JSON and is none.
    pub fn parse(text: &str) -> Result<DocumentId> {
        let string = || Writer::build(|w| w.str("_id", text));
        let parsed = value_from_text("_id", text);
        let mut candidates = Vec::new();
        if text.starts_with(['{', '[', '"']) {
            candidates.push(parsed.map_err(|e| {
                Error::invalid("an id is neither plain text nor Extended JSON").because(e).hint(
                    r#"examples: A-1042, 655f1c2e9d3b4a0012345678, 42, {"$numberLong": "42"}, {"$uuid": "…"}"#,
                )
            })?);
        } else {
            candidates.push(string());
            candidates.extend(object_id(text));
            candidates.extend(parsed.ok());
        }
        Ok(DocumentId { candidates, given: text.to_owned() })
    }

    /// The id that a record's key has.
    pub fn of(id: &Element<'_>) -> DocumentId {
        DocumentId { candidates: vec![Writer::build(|w| w.append(id))], given: doc_id_text(*id) }
    }

    /// What was given.
    pub fn given(&self) -> &str {
        &self.given
    }

    /// The values it can mean.
    pub fn values(&self) -> impl Iterator<Item = Element<'_>> {
        self.candidates.iter().filter_map(|bytes| Doc::new(bytes).ok()?.get("_id"))
    }

    /// Whether a stored id is one of them. Numbers are compared by value, as MongoDB does.
    pub fn matches(&self, id: &Element<'_>) -> bool {
        self.values().any(|value| same(&value, id))
    }

    /// The type bytes and values with which they can be stored: a whole number as any type of number.
    pub(super) fn forms(&self) -> Vec<(u8, Vec<u8>)> {
        let mut forms = BTreeSet::new();
        for value in self.values() {
            forms.insert((value.kind(), value.value().to_vec()));
            let Some(number) = number(&value) else { continue };
            forms.insert((kind::DOUBLE, number.to_le_bytes().to_vec()));
            let whole = number as i64;
            if whole as f64 == number {
                forms.insert((kind::INT64, whole.to_le_bytes().to_vec()));
                forms.extend(i32::try_from(whole).map(|n| (kind::INT32, n.to_le_bytes().to_vec())));
            }
        }
        forms.into_iter().collect()
    }

    /// The texts that column `doc_id` can have for them.
    pub fn texts(&self) -> Vec<String> {
        let mut texts = BTreeSet::new();
        for value in self.values() {
            texts.insert(doc_id_text(value));
            if let Some(number) = number(&value) {
                let whole = number as i64;
                if whole as f64 == number {
                    texts
                        .insert(doc_id_text(first(&Writer::build(|w| w.i64("_id", whole))).unwrap_or(value)));
                }
                texts.insert(doc_id_text(first(&Writer::build(|w| w.f64("_id", number))).unwrap_or(value)));
            }
        }
        texts.into_iter().collect()
    }
}

fn first(bytes: &[u8]) -> Option<Element<'_>> {
    Doc::new(bytes).ok()?.elements().next()?.ok()
}

fn object_id(text: &str) -> Option<Vec<u8>> {
    let bytes = (text.len() == 24).then(|| bson::oid::ObjectId::parse_str(text).ok())??.bytes();
    Some(Writer::build(|w| w.raw(kind::OBJECT_ID, b"_id", &bytes)))
}

/// An integer or double, where a double holds it exactly.
pub(super) fn number(value: &Element<'_>) -> Option<f64> {
    let exact = |n: i64| Some(n as f64).filter(|f| *f as i64 == n && n.unsigned_abs() <= 1 << 53);
    value.as_f64().or_else(|| exact(value.as_i32().map(i64::from).or(value.as_i64())?))
}

/// Whether MongoDB takes two ids for the same one; of numbers, Decimal128 is the same only as Decimal128.
fn same(a: &Element<'_>, b: &Element<'_>) -> bool {
    let bytes = a.kind() == b.kind() && a.value() == b.value();
    bytes || matches!((number(a), number(b)), (Some(a), Some(b)) if a == b)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use bson::{doc, oid::ObjectId};

    use super::*;

    fn matches(given: &str, stored: bson::Document) -> bool {
        let bytes = bson::serialize_to_vec(&stored).unwrap();
        DocumentId::parse(given).unwrap().matches(&first(&bytes).unwrap())
    }

    #[test]
    fn plain_text_is_a_string_an_object_id_or_a_number() {
        let hex = "655f1c2e9d3b4a0012345678";
        assert!(matches("A-1", doc! {"_id": "A-1"}));
        assert!(!matches("A-1", doc! {"_id": "A-2"}));
        assert!(matches(hex, doc! {"_id": ObjectId::parse_str(hex).unwrap()}));
        assert!(matches(hex, doc! {"_id": hex}));
        for stored in [doc! {"_id": "5"}, doc! {"_id": 5}, doc! {"_id": 5_i64}, doc! {"_id": 5.0}] {
            assert!(matches("5", stored));
        }
    }

    #[test]
    fn extended_json_is_only_what_it_says() {
        assert!(matches("\"5\"", doc! {"_id": "5"}));
        assert!(!matches("\"5\"", doc! {"_id": 5}));
        assert!(matches(r#"{"$numberLong": "5"}"#, doc! {"_id": 5}));
        assert!(!matches(r#"{"$numberLong": "5"}"#, doc! {"_id": "5"}));
        assert!(matches(r#"{"a": 1, "b": 2}"#, doc! {"_id": {"a": 1, "b": 2}}));
        assert!(!matches(r#"{"a": 1, "b": 2}"#, doc! {"_id": {"b": 2, "a": 1}}));
        assert!(DocumentId::parse("{oops").is_err());
    }

    #[test]
    fn every_text_that_the_column_can_have_is_looked_up() {
        let texts = DocumentId::parse("5").unwrap().texts();
        assert_eq!(texts, ["5", "5.0"]);
        assert_eq!(DocumentId::parse("A").unwrap().texts(), ["A"]);
    }
}
