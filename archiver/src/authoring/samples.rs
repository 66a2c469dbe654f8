//! Sample events from a file of JSON lines: events in the layout that plugins get, or MongoDB's change events.

use std::path::Path;

use bson_walker::{Doc, Writer};

use crate::archive::extjson::value_from_text;
use crate::capture::change_event::{ImageSettings, to_event};
use crate::error::{Error, Result};
use crate::event::FIELDS;

/// A few events of a small shop.
pub const DEFAULT: &str = include_str!("../../../examples/plugin/events.jsonl");

/// A file of sample events at most; they are all held in memory.
const MAX_BYTES: u64 = 256 << 20;

/// An event and where it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// The line, from 1.
    pub line: usize,
    /// One valid BSON document in the layout that plugins get.
    pub body: Vec<u8>,
}

/// Reads a file of JSON lines. Kind Invalid, with the line, where one is no event.
pub fn read(path: &Path) -> Result<Vec<Sample>> {
    let failed = |e| Error::invalid(format!("the events can't be read: {}", path.display())).because(e);
    let size = std::fs::metadata(path).map_err(failed)?.len();
    if size > MAX_BYTES {
        return Err(Error::invalid(format!("more than {MAX_BYTES} bytes of events: {}", path.display())));
    }
    let text = std::fs::read_to_string(path).map_err(failed)?;
    parse(&text, &path.display().to_string())
}

/// The same for a text; `name` stands in messages. Empty lines and those that begin with `//` are passed over.
pub fn parse(text: &str, name: &str) -> Result<Vec<Sample>> {
    let lines = text.lines().map(str::trim).enumerate();
    let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with("//"));
    let samples: Vec<Sample> = lines
        .map(|(n, line)| {
            let body = event(line).map_err(|e| {
                let error = Error::invalid(format!("{name}:{}: {}", n + 1, e.explain()));
                e.hint_text().map(str::to_owned).into_iter().fold(error, Error::hint)
            })?;
            Ok(Sample { line: n + 1, body })
        })
        .collect::<Result<_>>()?;
    match samples.is_empty() {
        true => Err(Error::invalid(format!("there is no event in {name}"))),
        false => Ok(samples),
    }
}

fn event(text: &str) -> Result<Vec<u8>> {
    let whole = value_from_text("event", text).map_err(|e| {
        e.hint("one event a line, as Extended JSON: {\"op\": \"insert\", \"ns\": {\"db\": \"shop\", \"coll\": \"orders\"}, …}; \
                in mongosh, print(EJSON.stringify(event)) writes such a line")
    })?;
    let whole = Doc::new(&whole).map_err(|e| Error::internal("what was parsed is no BSON").because(e))?;
    let doc =
        whole.get("event").and_then(|e| (e.kind() == bson_walker::kind::DOCUMENT).then(|| e.as_doc())?);
    let doc = doc.ok_or_else(|| Error::invalid("this is not a document"))?;
    if doc.get("operationType").is_some() {
        return change_event(doc);
    }
    in_order(doc)
}

/// Nobody knows the settings of the collection that a sample came from.
struct Unknown;

impl ImageSettings for Unknown {
    fn why_missing(&self, _: Doc<'_>) -> &'static str {
        "unknown"
    }
}

fn change_event(doc: Doc<'_>) -> Result<Vec<u8>> {
    let event = to_event(doc.as_bytes(), &Unknown, None);
    // Whoever wrote it is to blame, not a server.
    event.map(|event| event.body).map_err(|e| Error::invalid(e.explain()))
}

/// The event with its fields in the order that the host keeps.
fn in_order(doc: Doc<'_>) -> Result<Vec<u8>> {
    for element in doc.elements().map_while(std::result::Result::ok) {
        let name = String::from_utf8_lossy(element.name());
        if !FIELDS.contains(&&*name) {
            return Err(Error::invalid(format!("an event has no field {name}")).hint(format!(
                "its fields are {}; a change event of MongoDB's has an operationType",
                FIELDS.join(", ")
            )));
        }
    }
    if doc.get("op").and_then(|op| op.as_str()).is_none() {
        return Err(Error::invalid("the event has no op").hint("for example \"op\": \"insert\""));
    }
    Ok(Writer::build(|writer| FIELDS.iter().filter_map(|name| doc.get(name)).for_each(|e| writer.append(&e))))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use bson::{Document, doc};

    use super::*;
    use crate::error::Kind;

    fn decoded(sample: &Sample) -> Document {
        bson::deserialize_from_slice(&sample.body).unwrap()
    }

    #[test]
    fn the_default_samples_are_events_with_every_part_that_has_values() {
        let samples = parse(DEFAULT, "default").unwrap();
        let all: Vec<Document> = samples.iter().map(decoded).collect();
        for part in ["key", "before", "after", "delta"] {
            assert!(all.iter().any(|event| event.contains_key(part)), "{part}");
        }
        assert!(all.iter().all(|event| event.contains_key("clusterTime") && event.contains_key("wallTime")));
    }

    #[test]
    fn fields_are_put_in_order_and_lines_are_counted() {
        let text = "\n// a comment\n {\"after\": {\"_id\": 1, \"n\": {\"$numberLong\": \"2\"}}, \"op\": \"insert\"} \n";
        let samples = parse(text, "x").unwrap();
        assert_eq!((samples.len(), samples[0].line), (1, 3));
        let event = decoded(&samples[0]);
        assert_eq!(event.keys().collect::<Vec<_>>(), ["op", "after"]);
        assert_eq!(event, doc! {"op": "insert", "after": {"_id": 1, "n": 2_i64}});
    }

    #[test]
    fn a_change_event_of_mongodb_s_becomes_the_event_that_plugins_get() {
        let text = r#"{"_id": {"_data": "82"}, "operationType": "update", "clusterTime": {"$timestamp": {"t": 9, "i": 2}},
            "ns": {"db": "shop", "coll": "orders"}, "documentKey": {"_id": 1}, "updateDescription": {"updatedFields": {"a": 1}}}"#;
        let event = decoded(&parse(&text.replace('\n', " "), "x").unwrap()[0]);
        assert_eq!(event.get_str("op").unwrap(), "update");
        assert_eq!(event.get_document("key").unwrap(), &doc! {"_id": 1});
        assert_eq!(event.get_document("delta").unwrap(), &doc! {"updatedFields": {"a": 1}});
        assert!(!event.contains_key("_id"), "the token is no part of an event");
    }

    #[test]
    fn what_is_no_event_is_refused_with_its_line_and_what_to_write() {
        for (text, words) in [
            ("{\"op\": \"insert\"}\n{\"op\": }", "x:2: this is not Extended JSON"),
            ("{\"op\": \"insert\", \"document\": {}}", "x:1: an event has no field document"),
            ("{\"ns\": {}}", "x:1: the event has no op"),
            ("[1]", "x:1: this is not a document"),
            ("{\"operationType\": \"insert\"}", "x:1: a change event lacks a valid _id"),
            (" \n", "there is no event in x"),
        ] {
            let error = parse(text, "x").unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid);
            assert!(error.to_string().starts_with(words), "{text}: {error}");
        }
    }
}
