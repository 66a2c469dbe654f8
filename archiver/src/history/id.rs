//! A document's id as a person gives it, and which stored ids it can mean.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};

use bson_walker::{Doc, Element, Writer, kind};

use crate::archive::extjson::{doc_id_text, value_from_text};
use crate::error::{Error, Result};
use crate::record::unsalted_id_digest;
use crate::salt::Salt;

/// 2^63, the first double that no Int64 equals.
const BEYOND_INT64: f64 = 9_223_372_036_854_775_808.0;

/// A stored `_id`: its type byte and value. Equal are those that MongoDB takes for one, of which a document has now this, now that:
/// a whole number as any type, but for Decimal128; and NaN whatever its payload.
#[derive(Debug, Clone)]
pub struct Id(pub u8, pub Vec<u8>);

impl Id {
    /// As it is in a record.
    pub fn of(element: &Element<'_>) -> Id {
        Id(element.kind(), element.value().to_vec())
    }

    /// The form by which it is compared.
    fn compared(&self) -> (u8, Cow<'_, [u8]>) {
        let double =
            || Some(f64::from_le_bytes(self.1[..].try_into().ok()?)).filter(|_| self.0 == kind::DOUBLE);
        match (self.whole(), double()) {
            (Some(n), _) => (kind::INT64, n.to_le_bytes().to_vec().into()),
            (None, Some(n)) if n.is_nan() => (kind::DOUBLE, f64::NAN.to_le_bytes().to_vec().into()),
            _ => (self.0, (&self.1[..]).into()),
        }
    }

    /// The whole number that it is.
    fn whole(&self) -> Option<i64> {
        match self.0 {
            kind::INT32 => Some(i32::from_le_bytes(self.1[..].try_into().ok()?).into()),
            kind::INT64 => Some(i64::from_le_bytes(self.1[..].try_into().ok()?)),
            kind::DOUBLE => {
                let n = f64::from_le_bytes(self.1[..].try_into().ok()?);
                (n.trunc() == n && (-BEYOND_INT64..BEYOND_INT64).contains(&n)).then_some(n as i64)
            }
            _ => None,
        }
    }

    /// Whether a quarantine record's digest can be that of this `_id`. Earlier versions made it without a salt.
    pub(super) fn may_have(&self, digest: &str, salt: Option<&Salt>) -> bool {
        let Some(salt) = salt else { return true };
        let of = |Id(kind, value)| {
            digest == salt.id_digest(kind, &value) || digest == unsalted_id_digest(kind, &value)
        };
        self.forms().into_iter().any(of)
    }

    /// All forms in which it can be stored.
    pub(super) fn forms(&self) -> Vec<Id> {
        let Some(n) = self.whole() else { return vec![self.clone()] };
        let mut forms = vec![Id(kind::INT64, n.to_le_bytes().to_vec())];
        forms.extend(i32::try_from(n).map(|n| Id(kind::INT32, n.to_le_bytes().to_vec())));
        let double = n as f64;
        if double < BEYOND_INT64 && double as i64 == n {
            forms.push(Id(kind::DOUBLE, double.to_le_bytes().to_vec()));
        }
        if n == 0 {
            forms.push(Id(kind::DOUBLE, (-0.0_f64).to_le_bytes().to_vec()));
        }
        forms
    }

    /// Bytes that are equal where ids are.
    pub(super) fn key(&self) -> Vec<u8> {
        let (kind, value) = self.compared();
        [&[kind], &*value].concat()
    }

    /// `{_id: <it>}`.
    pub(super) fn document(&self) -> Vec<u8> {
        Writer::build(|w| w.raw(self.0, b"_id", &self.1))
    }
}

impl PartialEq for Id {
    fn eq(&self, other: &Id) -> bool {
        self.compared() == other.compared()
    }
}

impl Eq for Id {}

impl Ord for Id {
    fn cmp(&self, other: &Id) -> Ordering {
        self.compared().cmp(&other.compared())
    }
}

impl PartialOrd for Id {
    fn partial_cmp(&self, other: &Id) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Hash for Id {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.compared().hash(state);
    }
}

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
        let id = Id::of(id);
        self.ids().any(|own| own == id)
    }

    /// The ids that it can mean.
    pub(super) fn ids(&self) -> impl Iterator<Item = Id> {
        self.values().map(|value| Id::of(&value))
    }

    /// The texts that column `doc_id` can have for them.
    pub fn texts(&self) -> Vec<String> {
        let forms = self.ids().flat_map(|id| id.forms());
        let texts: BTreeSet<String> =
            forms.filter_map(|form| Some(doc_id_text(first(&form.document())?))).collect();
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
    fn numbers_that_mongodb_takes_for_one_id_are_one() {
        let id = |stored: bson::Document| Id::of(&first(&bson::serialize_to_vec(&stored).unwrap()).unwrap());
        let hash = |id: &Id| {
            let mut hasher = std::hash::DefaultHasher::new();
            id.hash(&mut hasher);
            hasher.finish()
        };
        let one = |a: bson::Document, b: bson::Document| {
            let (a, b) = (id(a), id(b));
            assert_eq!(a == b, hash(&a) == hash(&b));
            a == b
        };
        assert!(one(doc! {"_id": 5}, doc! {"_id": 5_i64}) && one(doc! {"_id": 5.0}, doc! {"_id": 5_i64}));
        assert!(
            one(doc! {"_id": 0}, doc! {"_id": -0.0})
                && one(doc! {"_id": 1_i64 << 60}, doc! {"_id": 2_f64.powi(60)})
        );
        assert!(one(doc! {"_id": f64::NAN}, doc! {"_id": -f64::NAN}));
        assert!(one(doc! {"_id": i64::MIN}, doc! {"_id": -2_f64.powi(63)}));
        for (a, b) in [
            (doc! {"_id": 5}, doc! {"_id": 5.5}),
            (doc! {"_id": 5}, doc! {"_id": "5"}),
            (doc! {"_id": (1_i64 << 53) + 1}, doc! {"_id": 2_f64.powi(53)}),
            (doc! {"_id": i64::MAX}, doc! {"_id": 2_f64.powi(63)}),
            (doc! {"_id": {"a": 1}}, doc! {"_id": {"a": 1.0}}),
        ] {
            assert!(!one(a, b));
        }
    }

    #[test]
    fn every_text_that_the_column_can_have_is_looked_up() {
        let texts = DocumentId::parse("5").unwrap().texts();
        assert_eq!(texts, ["5", "5.0"]);
        assert_eq!(DocumentId::parse("0").unwrap().texts(), ["-0.0", "0", "0.0"]);
        assert_eq!(DocumentId::parse("A").unwrap().texts(), ["A"]);
    }
}
