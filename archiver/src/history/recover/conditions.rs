//! Simple conditions on documents, as a person gives them, with the meaning that MongoDB's queries have.

use std::cmp::Ordering;

use bson::Decimal128;
use bson_walker::{Doc, Element, Writer, kind};

use super::number::Number;
use crate::error::{Error, Result};
use crate::history::id::DocumentId;

/// Conditions that a document must meet, all of them.
#[derive(Debug, Clone, Default)]
pub struct Conditions(Vec<Condition>);

/// One condition: `status=open`, `lines.price>=10`.
#[derive(Debug, Clone)]
struct Condition {
    path: String,
    operator: Operator,
    /// What the text can mean.
    value: DocumentId,
    /// What it means to decimals, where it is a plain number: not the double that is next to it.
    decimal: Option<DocumentId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// Longer ones first: `>=` begins like `>`.
const OPERATORS: [(&str, Operator); 6] = [
    ("!=", Operator::NotEqual),
    ("<=", Operator::LessOrEqual),
    (">=", Operator::GreaterOrEqual),
    ("=", Operator::Equal),
    ("<", Operator::Less),
    (">", Operator::Greater),
];

impl Conditions {
    /// Reads `field=value` and the like; the value is plain text or Extended JSON, as an id is.
    pub fn parse(texts: &[String]) -> Result<Conditions> {
        texts.iter().map(|text| Condition::parse(text)).collect::<Result<_>>().map(Conditions)
    }

    /// Whether there is none, so that every document meets them.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a document meets them all.
    pub fn match_doc(&self, doc: Doc<'_>) -> bool {
        self.0.iter().all(|condition| condition.match_doc(doc))
    }

    /// Each one's field and operator, without the value, which may be what a document holds.
    pub fn without_values(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|condition| {
            let sign = OPERATORS.iter().find(|(_, operator)| *operator == condition.operator);
            format!("{} {}", condition.path, sign.map_or("", |(sign, _)| sign))
        })
    }
}

impl Condition {
    fn parse(text: &str) -> Result<Condition> {
        let found =
            OPERATORS.iter().filter_map(|(sign, operator)| Some((text.find(sign)?, *sign, *operator)));
        // The first in the text; of two that begin there, the longer one.
        let first = found.min_by_key(|(at, sign, _)| (*at, usize::MAX - sign.len()));
        let Some((at, sign, operator)) = first.filter(|(at, ..)| *at > 0) else {
            return Err(Error::invalid("--where is no condition")
                .hint("for example --where status=open, --where 'lines.price>=10' or --where 'customer!={\"$oid\": \"…\"}'"));
        };
        let value = DocumentId::parse(&text[at + sign.len()..]).map_err(|e| {
            Error::invalid("the value in --where is neither plain text nor Extended JSON").because(e)
        })?;
        let decimal = text[at + sign.len()..].parse::<Decimal128>().ok().filter(|_| is_plain_number(&value));
        let decimal = decimal.map(|decimal| {
            let bytes = Writer::build(|w| w.raw(kind::DECIMAL128, b"_id", &decimal.bytes()));
            Doc::new(&bytes).ok()?.get("_id").map(|value| DocumentId::of(&value))
        });
        Ok(Condition { path: text[..at].to_owned(), operator, value, decimal: decimal.flatten() })
    }

    fn match_doc(&self, doc: Doc<'_>) -> bool {
        let parts: Vec<&str> = self.path.split('.').collect();
        let any = |test: &dyn Fn(Option<&Element<'_>>, &Element<'_>) -> bool| {
            any_at(doc, &parts, &|found| {
                let is_decimal = found.is_some_and(|found| found.kind() == kind::DECIMAL128);
                let value = self.decimal.as_ref().filter(|_| is_decimal).unwrap_or(&self.value);
                value.values().any(|value| test(found, &value))
            })
        };
        let equal = || {
            any(&|found, value| match found {
                Some(found) => equals(found, value),
                // As in MongoDB: what is not there is null.
                None => value.kind() == kind::NULL,
            })
        };
        let compares = |wanted: &[Ordering]| {
            any(&|found, value| {
                found.and_then(|found| compare(found, value)).is_some_and(|order| wanted.contains(&order))
            })
        };
        match self.operator {
            Operator::Equal => equal(),
            Operator::NotEqual => !equal(),
            Operator::Less => compares(&[Ordering::Less]),
            Operator::LessOrEqual => compares(&[Ordering::Less, Ordering::Equal]),
            Operator::Greater => compares(&[Ordering::Greater]),
            Operator::GreaterOrEqual => compares(&[Ordering::Greater, Ordering::Equal]),
        }
    }
}

/// Whether a value is what a plain number can mean, and is a number.
fn is_plain_number(value: &DocumentId) -> bool {
    value.values().any(|value| value.kind() == kind::STRING)
        && value.values().any(|value| Number::of(&value).is_some())
}

/// Whether any value at a path passes, or nothing where it leads nowhere: arrays on the way are gone through, and a number also names
/// an element; at the end an array passes as a whole or with one of its elements.
fn any_at(doc: Doc<'_>, path: &[&str], test: &dyn Fn(Option<&Element<'_>>) -> bool) -> bool {
    let Some((first, rest)) = path.split_first() else { return false };
    let Some(found) = doc.get(first) else { return test(None) };
    match (found.kind(), found.as_doc()) {
        (kind::ARRAY, Some(array)) if !rest.is_empty() => any_within(array, rest, test),
        (_, Some(inner)) if !rest.is_empty() => any_at(inner, rest, test),
        _ if !rest.is_empty() => test(None),
        _ => any_of(&found, test),
    }
}

/// The same of the rest of a path behind an array.
fn any_within(array: Doc<'_>, path: &[&str], test: &dyn Fn(Option<&Element<'_>>) -> bool) -> bool {
    let Some((first, rest)) = path.split_first() else { return false };
    array.elements().map_while(Result::ok).any(|element| {
        let of_document = || element.as_doc().filter(|_| element.kind() == kind::DOCUMENT);
        let is_named = element.name() == first.as_bytes();
        of_document().is_some_and(|doc| any_at(doc, path, test))
            || is_named
                && match element.as_doc() {
                    _ if rest.is_empty() => test(Some(&element)),
                    Some(inner) if element.kind() == kind::ARRAY => any_within(inner, rest, test),
                    Some(inner) => any_at(inner, rest, test),
                    None => false,
                }
    })
}

/// Whether a value passes, an array also with one of its elements.
fn any_of(value: &Element<'_>, test: &dyn Fn(Option<&Element<'_>>) -> bool) -> bool {
    value.kind() == kind::ARRAY && elements(value).any(|element| test(Some(&element))) || test(Some(value))
}

fn elements<'a>(of: &Element<'a>) -> impl Iterator<Item = Element<'a>> {
    of.as_doc().unwrap_or(Doc::EMPTY).elements().map_while(|element| element.ok())
}

/// Whether two values are the same: numbers by value, also inside documents and arrays.
fn equals(a: &Element<'_>, b: &Element<'_>) -> bool {
    if a.kind() == b.kind() && a.value() == b.value() {
        return true;
    }
    if let (Some(a), Some(b)) = (Number::of(a), Number::of(b)) {
        return a.compare(b) == Some(Ordering::Equal);
    }
    if a.kind() != b.kind() || !matches!(a.kind(), kind::DOCUMENT | kind::ARRAY) {
        return false;
    }
    let (mut left, mut right) = (elements(a), elements(b));
    loop {
        match (left.next(), right.next()) {
            (None, None) => return true,
            (Some(a), Some(b)) if a.name() == b.name() && equals(&a, &b) => {}
            _ => return false,
        }
    }
}

/// How two values of one kind compare; `None` for those of different kinds, and for kinds that are not compared here.
fn compare(a: &Element<'_>, b: &Element<'_>) -> Option<Ordering> {
    if let (Some(a), Some(b)) = (Number::of(a), Number::of(b)) {
        return a.compare(b);
    }
    if a.kind() != b.kind() {
        return None;
    }
    match a.kind() {
        kind::STRING => Some(a.string_bytes()?.cmp(b.string_bytes()?)),
        kind::DATE => Some(date(a)?.cmp(&date(b)?)),
        kind::TIMESTAMP => Some(a.as_timestamp()?.cmp(&b.as_timestamp()?)),
        kind::OBJECT_ID | kind::BOOLEAN => Some(a.value().cmp(b.value())),
        _ => None,
    }
}

fn date(of: &Element<'_>) -> Option<i64> {
    Some(i64::from_le_bytes(of.value().try_into().ok()?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use bson::{Bson, DateTime, doc};

    use super::*;

    fn matches(conditions: &[&str], document: bson::Document) -> bool {
        let texts: Vec<String> = conditions.iter().map(ToString::to_string).collect();
        let bytes = bson::serialize_to_vec(&document).unwrap();
        Conditions::parse(&texts).unwrap().match_doc(Doc::new(&bytes).unwrap())
    }

    #[test]
    fn equality_means_what_mongodb_means() {
        let document = doc! {
            "status": "open", "n": 5_i64, "big": 9_007_199_254_740_993_i64, "none": Bson::Null, "flag": true,
            "price": Bson::Decimal128("12.1".parse().unwrap()), "empty": [],
            "customer": {"name": "Ann=1", "tags": ["a", "b"]},
            "lines": [{"sku": "x", "price": 9.5}, {"sku": "y", "price": 12}],
        };
        for met in [
            "status=open",
            "n=5",
            "n=5.0",
            "none=null",
            "missing=null",
            "flag=true",
            "customer.name=Ann=1",
            "customer.tags=b",
            r#"customer.tags=["a","b"]"#,
            "customer.tags.1=b",
            "lines.sku=y",
            "lines.1.sku=y",
            "lines.price=12.0",
            r#"lines={"sku":"y","price":{"$numberLong":"12"}}"#,
            "status!=closed",
            "missing!=1",
            r#"big={"$numberLong":"9007199254740993"}"#,
            "price=12.10",
            "price!=12.2",
            "price=1.21e1",
            r#"price={"$numberDecimal":"12.1"}"#,
            "lines.missing=null",
        ] {
            assert!(matches(&[met], document.clone()), "{met}");
        }
        for not_met in [
            "status=Open",
            "status=null",
            "n=6",
            r#"n="5""#,
            "lines.0.sku=y",
            "lines.sku=z",
            "status!=open",
            "customer.tags!=a",
            "customer=null",
            "missing=1",
            r#"lines={"price":12,"sku":"y"}"#,
            r#"big={"$numberLong":"9007199254740992"}"#,
            // It is not the double that is next to it.
            r#"price={"$numberDouble":"12.1"}"#,
            "price=\"12.1\"",
            "empty.x=null",
        ] {
            assert!(!matches(&[not_met], document.clone()), "{not_met}");
        }
        assert!(matches(&["status=open", "n=5"], document.clone()));
        assert!(!matches(&["status=open", "n=6"], document), "all of them, not any");
    }

    #[test]
    fn order_is_within_one_kind_of_value() {
        let date = DateTime::from_millis(-5);
        let document = doc! {"n": 10, "s": "m", "d": date, "list": [1, 20], "price": Bson::Decimal128("12.1".parse().unwrap())};
        for met in [
            "price>=12.1",
            "price<=12.1",
            "price>12",
            "price<12.2",
            "n>9",
            "n>=10.0",
            "n<1e3",
            "s>a",
            "s<=m",
            "list>15",
            r#"d<{"$date":"1970-01-01T00:00:00Z"}"#,
        ] {
            assert!(matches(&[met], document.clone()), "{met}");
        }
        for not_met in [
            "n>10",
            "price>12.1",
            "price<12.1",
            "n<a",
            r#"s>{"$numberInt":"5"}"#,
            "list>20",
            "missing<5",
            r#"d>{"$date":"1970-01-01T00:00:00Z"}"#,
        ] {
            assert!(!matches(&[not_met], document.clone()), "{not_met}");
        }
    }

    #[test]
    fn what_is_no_condition_is_refused_without_its_value() {
        for bad in ["status", "=open", "", "a={oops"] {
            let error = Conditions::parse(&[bad.to_owned()]).unwrap_err();
            assert!(!error.explain().contains("oops"), "{error}");
        }
        let conditions = Conditions::parse(&["a.b>=secret".to_owned()]).unwrap();
        assert_eq!(conditions.without_values().collect::<Vec<_>>(), ["a.b >="]);
    }
}
