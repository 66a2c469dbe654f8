//! Puts the fragments of a split event together again (`$changeStreamSplitLargeEvent`). Only the last fragment's token is a
//! place to go on from: until then nothing is given out, and what never becomes complete is read again.

use bson_walker::{Doc, Writer};

use super::token;
use crate::error::{Error, Result};

/// Bytes of an event in fragments at most, with the events that came in between: two images, the delta and room.
const MOST: usize = 64 * 1024 * 1024;

/// The event being put together, if one is.
#[derive(Debug, Default)]
pub(super) struct Fragments {
    of: i64,
    parts: Vec<Vec<u8>>,
    /// Events of other shards, which can come in between (SERVER-116400).
    between: Vec<Vec<u8>>,
    bytes: usize,
}

impl Fragments {
    /// Whether an event is incomplete.
    pub(super) fn is_open(&self) -> bool {
        !self.parts.is_empty()
    }

    /// Takes the next thing that the stream delivered and returns the events that are complete now, in the order of their
    /// tokens. Fails as unavailable, to be read again, where fragments are missing or too large together.
    pub(super) fn add(&mut self, change: Vec<u8>) -> Result<Vec<Vec<u8>>> {
        let Some((fragment, of)) = split_of(&change)? else {
            if !self.is_open() {
                return Ok(vec![change]);
            }
            self.count(&change)?;
            self.between.push(change);
            return Ok(Vec::new());
        };
        let expected = self.parts.len() as i64 + 1;
        if fragment != expected || (self.is_open() && of != self.of) {
            return Err(Error::unavailable(format!(
                "the fragments of a large event came out of order fragment={fragment} of={of} expected={expected}"
            )));
        }
        self.count(&change)?;
        self.of = of;
        self.parts.push(change);
        if fragment < of {
            return Ok(Vec::new());
        }
        let Fragments { parts, between, .. } = std::mem::take(self);
        let mut complete = between;
        complete.push(join(&parts)?);
        let mut placed = Vec::with_capacity(complete.len());
        for change in complete {
            placed.push((place(&change)?, change));
        }
        placed.sort();
        Ok(placed.into_iter().map(|(_, change)| change).collect())
    }

    fn count(&mut self, change: &[u8]) -> Result<()> {
        self.bytes += change.len();
        if self.bytes > MOST {
            return Err(Error::unavailable(format!(
                "the fragments of an event are larger than {MOST} bytes together"
            )));
        }
        Ok(())
    }
}

/// Which fragment of how many this is; `None` for a whole event.
fn split_of(change: &[u8]) -> Result<Option<(i64, i64)>> {
    let Some(split) = view(change)?.get("splitEvent") else { return Ok(None) };
    let number = |name| {
        let element = split.as_doc()?.get(name)?;
        element.as_i64().or_else(|| element.as_i32().map(i64::from))
    };
    match (number("fragment"), number("of")) {
        (Some(fragment), Some(of)) if 1 <= fragment && fragment <= of => Ok(Some((fragment, of))),
        _ => Err(Error::unavailable("a fragment of a change event does not say which it is")),
    }
}

/// One event of the top-level fields of all, under the last one's token.
fn join(parts: &[Vec<u8>]) -> Result<Vec<u8>> {
    let views = parts.iter().map(|part| view(part)).collect::<Result<Vec<_>>>()?;
    let token = views.last().and_then(|last| last.get("_id"));
    let token = token.ok_or_else(|| Error::unavailable("a fragment of a change event lacks its token"))?;
    Ok(Writer::build(|writer| {
        writer.append(&token);
        for element in views.iter().flat_map(Doc::elements).map_while(std::result::Result::ok) {
            if !matches!(element.name(), b"_id" | b"splitEvent") {
                writer.append(&element);
            }
        }
    }))
}

/// The place of an event in the stream, as the server sorts.
fn place(change: &[u8]) -> Result<String> {
    let token = view(change)?.get("_id").and_then(|e| e.as_doc());
    let data = token.and_then(|token| token::data(token.as_bytes()).map(str::to_owned));
    data.ok_or_else(|| Error::unavailable("a change event lacks a valid _id"))
}

fn view(change: &[u8]) -> Result<Doc<'_>> {
    Doc::new(change).map_err(|e| Error::unavailable("a change event is not valid BSON").because(e))
}

#[cfg(test)]
mod tests {
    use bson::{Document, doc};

    use super::*;

    fn raw(change: Document) -> Vec<u8> {
        bson::serialize_to_vec(&change).unwrap()
    }

    fn whole(data: &str) -> Vec<u8> {
        raw(doc! {"_id": {"_data": data}, "operationType": "insert"})
    }

    fn fragment(n: i32, of: i32, fields: Document) -> Vec<u8> {
        let mut change = doc! {"_id": {"_data": format!("82B{n}")}, "splitEvent": {"fragment": n, "of": of}};
        change.extend(fields);
        raw(change)
    }

    fn decoded(changes: Vec<Vec<u8>>) -> Vec<Document> {
        changes.iter().map(|c| bson::deserialize_from_slice(c).unwrap()).collect()
    }

    #[test]
    fn fragments_become_one_event_under_the_last_token() {
        let mut fragments = Fragments::default();
        assert!(fragments.add(fragment(1, 3, doc! {"operationType": "update", "a": 1})).unwrap().is_empty());
        assert!(fragments.is_open());
        assert!(fragments.add(fragment(2, 3, doc! {"fullDocument": {"x": 1}})).unwrap().is_empty());
        let complete = decoded(fragments.add(fragment(3, 3, doc! {"updateDescription": {}})).unwrap());
        let expected = doc! {"_id": {"_data": "82B3"}, "operationType": "update", "a": 1, "fullDocument": {"x": 1}, "updateDescription": {}};
        assert_eq!(complete, [expected]);
        assert!(!fragments.is_open());
    }

    #[test]
    fn whole_events_pass() {
        let mut fragments = Fragments::default();
        assert_eq!(fragments.add(whole("82A")).unwrap(), [whole("82A")]);
        assert_eq!(fragments.add(fragment(1, 1, doc! {"a": 1})).unwrap().len(), 1);
    }

    #[test]
    fn events_of_other_shards_in_between_take_their_places_by_token() {
        let mut fragments = Fragments::default();
        fragments.add(fragment(1, 2, doc! {"a": 1})).unwrap();
        assert!(fragments.add(whole("82C")).unwrap().is_empty());
        assert!(fragments.add(whole("82A")).unwrap().is_empty());
        let complete = decoded(fragments.add(fragment(2, 2, doc! {"b": 2})).unwrap());
        let places: Vec<_> =
            complete.iter().map(|c| c.get_document("_id").unwrap().get_str("_data").unwrap()).collect();
        assert_eq!(places, ["82A", "82B2", "82C"]);
    }

    #[test]
    fn fragments_out_of_order_or_of_two_events_are_an_error() {
        let after = |first: &[(i32, i32)], next: (i32, i32)| {
            let mut fragments = Fragments::default();
            for (n, of) in first {
                fragments.add(fragment(*n, *of, doc! {})).unwrap();
            }
            fragments.add(fragment(next.0, next.1, doc! {})).map(|_| ()).map_err(|e| e.kind())
        };
        assert_eq!(after(&[(1, 3)], (3, 3)), Err(crate::Kind::Unavailable), "one is missing");
        assert_eq!(after(&[(1, 3)], (1, 3)), Err(crate::Kind::Unavailable), "one is repeated");
        assert_eq!(after(&[(1, 3)], (2, 4)), Err(crate::Kind::Unavailable), "one is of another event");
        assert_eq!(after(&[], (2, 2)), Err(crate::Kind::Unavailable), "the first is missing");
        assert_eq!(after(&[], (0, 2)), Err(crate::Kind::Unavailable));
        assert_eq!(after(&[(1, 2)], (2, 2)), Ok(()));
    }

    #[test]
    fn an_event_in_fragments_has_a_bound() {
        let mut fragments = Fragments::default();
        let large = "x".repeat(15 * 1024 * 1024);
        for n in 1..=4 {
            fragments.add(fragment(n, 9, doc! {"a": &large})).unwrap();
        }
        assert!(fragments.add(fragment(5, 9, doc! {"a": &large})).is_err());
    }
}
