//! What becomes of a collection's name. A collection that takes a watched name brings documents that no event tells of:
//! `$out`, `renameCollection` and migrations do so. Where the source watched it under its old name, its documents are
//! known to move; where not, history is missing.

use bson::Timestamp;
use bson_walker::{Doc, Writer};

use crate::config::Watch;
use crate::error::Result;
use crate::event::{Event, Position};

/// Operations that end, move or replace documents without an event of theirs.
pub(super) const LIFECYCLE: [&str; 3] = ["drop", "dropDatabase", "rename"];

/// Events that are appended together.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Part {
    pub(super) events: Vec<Event>,
    /// The watched namespace that an unknown collection took behind them, and where the stream stands then.
    pub(super) replaced: Option<(Name, Position)>,
}

/// Splits events behind those with which an unknown collection takes a watched name, so that a gap can be recorded right
/// there, and marks the renames of known ones.
///
/// `whole`: whether everything that is there is recorded, which the marks say then.
///
/// Without `keyless` the stream records no events of collections, which are the first partition's: they are taken out, and
/// the time of the last one of [`LIFECYCLE`] is returned.
pub(super) fn split(
    events: Vec<Event>,
    watch: &[Watch],
    keyless: bool,
    whole: bool,
) -> Result<(Vec<Part>, Option<Timestamp>)> {
    let watched = |(db, coll): &Name| watch.iter().any(|w| w.covers(db, coll));
    let mut parts = Vec::new();
    let mut part = Part::default();
    let mut last = None;
    for mut event in events {
        let of_collection = LIFECYCLE.contains(&operation(event.doc()?));
        if of_collection && let Some((from, to)) = renamed(&event)? {
            match watched(&from) {
                true => event.body = marked(event.doc()?, whole),
                false => part.replaced = watched(&to).then(|| (to, event.position.clone())),
            }
        }
        if of_collection {
            last = Some(event.position.cluster_time);
        }
        if keyless || !of_collection {
            part.events.push(event);
        }
        if part.replaced.is_some() {
            parts.push(std::mem::take(&mut part));
        }
    }
    parts.push(part);
    Ok((parts, last))
}

fn operation(event: Doc<'_>) -> &str {
    event.get("op").and_then(|e| e.as_str()).unwrap_or("")
}

pub(super) type Name = (String, String);

/// The old and the new name, where the event is a rename.
fn renamed(event: &Event) -> Result<Option<(Name, Name)>> {
    let doc = event.doc()?;
    if operation(doc) != "rename" {
        return Ok(None);
    }
    let text = |path: &[&str]| doc.get_path(path).and_then(|e| e.as_str()).map(str::to_owned);
    let name = |db, coll| Some((text(db)?, text(coll)?));
    let from = name(&["ns", "db"], &["ns", "coll"]);
    Ok(from.zip(name(&["detail", "to", "db"], &["detail", "to", "coll"])))
}

/// The event with `detail.fromWatched`, and with `detail.whole` where everything is recorded.
fn marked(event: Doc<'_>, whole: bool) -> Vec<u8> {
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
                    if whole {
                        out.bool("whole", true);
                    }
                    out.end();
                }
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use bson::{Document, doc};

    use super::*;

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
        let (parts, _) = split(events.clone(), &watch, true, true).unwrap();
        assert_eq!(parts.len(), 2);
        assert_eq!(parts[0].events, [insert(), rename("tmp", "a")]);
        let a = ("shop".to_owned(), "a".to_owned());
        assert_eq!(parts[0].replaced, Some((a.clone(), insert().position)));
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

        let (parts, last) = split(events, &watch, false, false).unwrap();
        let inserts = [vec![insert()], vec![insert()]];
        assert_eq!(parts.iter().map(|part| part.events.clone()).collect::<Vec<_>>(), inserts);
        assert_eq!(parts[0].replaced, Some((a, insert().position)));
        assert_eq!(last, Some(insert().position.cluster_time));
    }
}
