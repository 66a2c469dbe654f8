//! Between JSON text and BSON, for tests that write their events by hand. Not for production: it goes through a tree.

use bson_walker::{Doc, Element, Writer, kind};
use serde_json::{Map, Value as Json, json};

/// The BSON document of a JSON text with Extended JSON's commonest types.
pub(super) fn to_bson(text: &str) -> Result<Vec<u8>, String> {
    let json: Json = serde_json::from_str(text).map_err(|e| e.to_string())?;
    let Json::Object(fields) = &json else { return Err("not a document".into()) };
    let mut problem = Ok(());
    let bytes = Writer::build(|writer| problem = put_all(writer, fields));
    problem.map(|()| bytes)
}

fn put_all(writer: &mut Writer<'_>, fields: &Map<String, Json>) -> Result<(), String> {
    fields.iter().try_for_each(|(name, value)| put(writer, name, value))
}

fn put(writer: &mut Writer<'_>, name: &str, value: &Json) -> Result<(), String> {
    match value {
        Json::Null => writer.null(name),
        Json::Bool(value) => writer.bool(name, *value),
        Json::String(text) => writer.str(name, text),
        Json::Number(number) => match number.as_i64() {
            Some(whole) => match i32::try_from(whole) {
                Ok(narrow) => writer.i32(name, narrow),
                Err(_) => writer.i64(name, whole),
            },
            None => writer.f64(name, number.as_f64().ok_or("a number out of range")?),
        },
        Json::Array(items) => {
            let mut array = writer.begin_array(name.as_bytes());
            for (n, item) in items.iter().enumerate() {
                put(&mut array, &n.to_string(), item)?;
            }
            array.end();
        }
        Json::Object(fields) => match typed(fields) {
            Some((tag, value)) => put_typed(writer, name, tag, value)?,
            None => {
                let mut doc = writer.begin_doc(name.as_bytes());
                put_all(&mut doc, fields)?;
                doc.end();
            }
        },
    }
    Ok(())
}

/// `{"$oid": "…"}` and its like.
fn typed(fields: &Map<String, Json>) -> Option<(&str, &Json)> {
    let (tag, value) = fields.iter().next()?;
    (fields.len() == 1 && tag.starts_with('$')).then_some((tag, value))
}

fn put_typed(writer: &mut Writer<'_>, name: &str, tag: &str, value: &Json) -> Result<(), String> {
    let wrong = || format!("{tag} can't be {value}");
    let text = || value.as_str().ok_or_else(wrong);
    match tag {
        "$oid" => writer.raw(kind::OBJECT_ID, name.as_bytes(), &hex::<12>(text()?).ok_or_else(wrong)?),
        "$uuid" => {
            let digits = text()?.replace('-', "");
            writer.binary(name, 4, &hex::<16>(&digits).ok_or_else(wrong)?);
        }
        "$numberInt" => writer.i32(name, text()?.parse().map_err(|_| wrong())?),
        "$numberLong" => writer.i64(name, text()?.parse().map_err(|_| wrong())?),
        "$numberDouble" => writer.f64(name, text()?.parse().map_err(|_| wrong())?),
        "$date" => {
            let millis = value.get("$numberLong").unwrap_or(value);
            let millis = millis.as_i64().or_else(|| millis.as_str()?.parse().ok());
            writer.date_millis(name, millis.ok_or_else(|| format!("{} (write milliseconds)", wrong()))?);
        }
        "$timestamp" => {
            let part = |name| value.get(name)?.as_u64().and_then(|n| u32::try_from(n).ok());
            let (Some(t), Some(i)) = (part("t"), part("i")) else { return Err(wrong()) };
            writer.timestamp(name, t, i);
        }
        _ => return Err(format!("{tag} is not understood here; write the value with bson_walker::Writer")),
    }
    Ok(())
}

fn hex<const N: usize>(digits: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let is_hex = digits.len() == 2 * N && digits.bytes().all(|b| b.is_ascii_hexdigit());
    for (n, byte) in bytes.iter_mut().enumerate() {
        *byte = is_hex.then(|| u8::from_str_radix(&digits[2 * n..2 * n + 2], 16).ok()).flatten()?;
    }
    Some(bytes)
}

/// A BSON document as JSON. Int32, double, string, boolean, null, document and array are JSON's own; other types are
/// written as in Extended JSON, rare ones as `{"$bson": "type … of … bytes"}`.
pub fn to_json(bytes: &[u8]) -> Json {
    match Doc::new(bytes) {
        Ok(doc) => document(doc),
        Err(e) => json!({"$bson": e.to_string()}),
    }
}

fn document(doc: Doc<'_>) -> Json {
    let named = |e: Element<'_>| (String::from_utf8_lossy(e.name()).into_owned(), value(&e));
    Json::Object(doc.elements().map_while(Result::ok).map(named).collect())
}

fn value(element: &Element<'_>) -> Json {
    let known = match element.kind() {
        kind::DOCUMENT => element.as_doc().map(document),
        kind::ARRAY => element
            .as_doc()
            .map(|doc| Json::Array(doc.elements().map_while(Result::ok).map(|e| value(&e)).collect())),
        kind::STRING => element.as_str().map(Json::from),
        kind::INT32 => element.as_i32().map(Json::from),
        kind::BOOLEAN => element.as_bool().map(Json::from),
        kind::NULL => Some(Json::Null),
        kind::DOUBLE => element.as_f64().map(double),
        kind::INT64 => element.as_i64().map(|v| json!({"$numberLong": v.to_string()})),
        kind::DATE => element.as_date_millis().map(|v| json!({"$date": {"$numberLong": v.to_string()}})),
        kind::TIMESTAMP => element.as_timestamp().map(|(t, i)| json!({"$timestamp": {"t": t, "i": i}})),
        kind::OBJECT_ID => element.as_object_id().map(|id| json!({"$oid": to_hex(&id)})),
        _ => None,
    };
    let (kind, len) = (element.kind(), element.value().len());
    known.unwrap_or_else(|| json!({"$bson": format!("type {kind:#04x} of {len} bytes")}))
}

/// Whole doubles would read back as integers.
fn double(value: f64) -> Json {
    match serde_json::Number::from_f64(value) {
        Some(number) if value.fract() != 0.0 => Json::Number(number),
        _ => json!({"$numberDouble": value.to_string()}),
    }
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use bson::{Bson, doc, oid::ObjectId};

    #[test]
    fn json_becomes_the_bson_that_the_bson_crate_writes_and_back() {
        let text = r#"{"a": 1, "b": 5000000000, "c": 1.5, "d": "x", "e": null, "f": true, "g": [1, {"h": []}],
            "id": {"$oid": "65a1b2c3d4e5f60718293a4b"}, "l": {"$numberLong": "7"}, "n": {"$numberDouble": "2"},
            "at": {"$date": {"$numberLong": "-5"}}, "t": {"$timestamp": {"t": 9, "i": 2}}, "$x": {"$gt": 1, "b": 2}}"#;
        let expected = doc! {
            "a": 1, "b": 5_000_000_000_i64, "c": 1.5, "d": "x", "e": Bson::Null, "f": true, "g": [1, {"h": []}],
            "id": ObjectId::parse_str("65a1b2c3d4e5f60718293a4b").unwrap(), "l": 7_i64, "n": 2.0,
            "at": bson::DateTime::from_millis(-5), "t": bson::Timestamp { time: 9, increment: 2 }, "$x": {"$gt": 1, "b": 2},
        };
        let bytes = to_bson(text).unwrap();
        assert_eq!(bytes, expected.to_vec().unwrap());
        assert_eq!(to_bson(&to_json(&bytes).to_string()).unwrap(), bytes);
    }

    #[test]
    fn what_is_not_understood_is_named() {
        assert!(to_bson(r#"{"a": {"$numberDecimal": "1"}}"#).unwrap_err().contains("$numberDecimal"));
        assert!(to_bson(r#"{"a": {"$oid": "65é"}}"#).unwrap_err().contains("$oid can't be"));
        assert!(to_bson(r#"{"a": {"$date": "today"}}"#).unwrap_err().contains("milliseconds"));
        assert!(to_bson("[1]").unwrap_err().contains("not a document"));
    }
}
