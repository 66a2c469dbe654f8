//! What becomes of a collection's name. A collection that takes a watched name brings documents that no event tells of:
//! `$out`, `renameCollection` and migrations do so. Where the source watched it under its old name, its documents are
//! known to move; where not, history is missing.

use bson_walker::{Doc, Writer};

use super::namespaces::is_watched;
use crate::config::Watch;
use crate::error::Result;
use crate::event::Event;

/// Events that are appended together.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Part {
    pub(super) events: Vec<Event>,
    /// The watched namespace that an unknown collection took with the last of them.
    pub(super) replaced: Option<(String, String)>,
}

/// Splits events behind those with which an unknown collection takes a watched name, so that a gap can be recorded right
/// there, and marks the renames of known ones.
pub(super) fn split(events: Vec<Event>, watch: &[Watch]) -> Result<Vec<Part>> {
    let mut parts = vec![Part::default()];
    for mut event in events {
        let renamed = renamed(&event)?;
        let mut replaced = None;
        if let Some((from, to)) = renamed {
            match is_watched(watch, &from.0, &from.1) {
                true => event.body = marked(event.doc()?),
                false if is_watched(watch, &to.0, &to.1) => replaced = Some(to),
                false => {}
            }
        }
        if let Some(part) = parts.last_mut() {
            part.events.push(event);
            part.replaced = replaced;
        }
        if parts.last().is_some_and(|part| part.replaced.is_some()) {
            parts.push(Part::default());
        }
    }
    Ok(parts)
}

type Name = (String, String);

/// The old and the new name, where the event is a rename.
fn renamed(event: &Event) -> Result<Option<(Name, Name)>> {
    let doc = event.doc()?;
    if doc.get("op").and_then(|e| e.as_str()) != Some("rename") {
        return Ok(None);
    }
    let text = |path: &[&str]| doc.get_path(path).and_then(|e| e.as_str()).map(str::to_owned);
    let name = |db, coll| Some((text(db)?, text(coll)?));
    let from = name(&["ns", "db"], &["ns", "coll"]);
    Ok(from.zip(name(&["detail", "to", "db"], &["detail", "to", "coll"])))
}

/// The event with `detail.fromWatched`.
fn marked(event: Doc<'_>) -> Vec<u8> {
    Writer::build(|writer| {
        for element in event.elements().map_while(std::result::Result::ok) {
            match element.as_doc().filter(|_| element.name() == b"detail") {
                None => writer.append(&element),
                Some(detail) => {
                    let mut out = writer.begin_doc(b"detail");
                    for element in detail.elements().map_while(std::result::Result::ok) {
                        out.append(&element);
                    }
                    out.bool("fromWatched", true);
                    out.end();
                }
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use bson::{Document, Timestamp, doc};

    use super::*;
    use crate::event::Position;

    fn event(body: Document) -> Event {
        let position = Position { token: None, cluster_time: Timestamp { time: 1, increment: 1 } };
        Event { body: bson::serialize_to_vec(&body).unwrap(), position }
    }

    fn rename(from: &str, to: &str) -> Event {
        let ns = doc! {"db": "shop", "coll": from};
        event(doc! {"op": "rename", "ns": ns, "detail": {"to": {"db": "shop", "coll": to}, "x": 1}})
    }

    #[test]
    fn a_batch_ends_where_an_unknown_collection_takes_a_watched_name_and_known_ones_are_marked() {
        let watch =
            [Watch::Collection("shop".into(), "a".into()), Watch::Collection("shop".into(), "b".into())];
        let insert = || event(doc! {"op": "insert", "ns": {"db": "shop", "coll": "a"}});
        let events = vec![
            insert(),
            rename("tmp", "a"),
            insert(),
            rename("a", "b"),
            rename("a", "away"),
            rename("x", "y"),
        ];
        let parts = split(events, &watch).unwrap();
        assert_eq!(parts.len(), 2);
        assert_eq!(
            parts[0],
            Part { events: vec![insert(), rename("tmp", "a")], replaced: Some(("shop".into(), "a".into())) }
        );
        assert_eq!(parts[1].replaced, None);
        let mark = |event: &Event| {
            event.doc().unwrap().get_path(&["detail", "fromWatched"]).and_then(|e| e.as_bool())
        };
        assert_eq!(
            parts[1].events.iter().map(mark).collect::<Vec<_>>(),
            [None, Some(true), Some(true), None]
        );
        let kept = parts[1].events[1].doc().unwrap().get_path(&["detail", "x"]).and_then(|e| e.as_i32());
        assert_eq!(kept, Some(1));
    }
}
