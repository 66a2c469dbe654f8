//! Who did it: what the application said of the transaction, what it wrote into the document, or whose session it was.

use bson_walker::{Doc, Element, Writer, kind};

use crate::archive::extjson::doc_id_text;
use crate::checkpoint::ActorContext;
use crate::config::SourceConfig;

/// Under this name events of an `actor_context` collection that is not watched itself are counted as dropped.
pub(super) const CONTEXT_DROPPED: &str = "actor_context";

/// Bytes of an actor's name at most; a longer value is no name, and would make a record larger than its event.
const NAME_MAX: usize = 1024;
/// Bytes of a reason at most; a longer one is cut.
const REASON_MAX: usize = 1024;

/// Who did it, and where that is known from.
#[derive(Debug, PartialEq)]
struct Actor<'a> {
    id: String,
    from: &'static str,
    reason: Option<&'a str>,
}

/// Whether this event says who acts in its transaction: an insert into the source's `actor_context` collection.
pub(super) fn is_context(event: Doc<'_>, source: &SourceConfig) -> bool {
    let Some((db, coll)) = &source.actor_context else { return false };
    let name = |part| event.get_path(&["ns", part]).and_then(|e| e.as_str());
    event.get("op").and_then(|e| e.as_str()) == Some("insert")
        && name("db") == Some(db)
        && name("coll") == Some(coll)
}

/// Whether the events of the `actor_context` collection are records too.
pub(super) fn context_is_watched(source: &SourceConfig) -> bool {
    let watched = |(db, coll): &(String, String)| source.watch.iter().any(|w| w.covers(db, coll));
    source.actor_context.as_ref().is_some_and(watched)
}

/// What an event of the `actor_context` collection says of the transaction `txn`, taken from what the plugins left of it;
/// `None` where it names nobody.
pub(super) fn context(event: Doc<'_>, txn: &[u8]) -> Option<ActorContext> {
    let after = event.get("after")?.as_doc()?;
    let actor = after.get("actor").filter(is_name).map(doc_id_text)?;
    let reason = after.get("reason").and_then(|e| e.as_str()).map(|text| cut(text, REASON_MAX).to_owned());
    Some(ActorContext { txn: txn.to_vec(), actor, reason })
}

/// The event with who did it, as far as that is known better than the event says itself; `None`: leave it as it is.
///
/// In this order: what the application said of the transaction; the field where this change set it; the session's user, who
/// stands in the event already; and the field where this change left it alone.
pub(super) fn attribute(
    event: Doc<'_>,
    field: Option<&str>,
    context: Option<&ActorContext>,
) -> Option<Vec<u8>> {
    let said = context.map(|c| Actor { id: c.actor.clone(), from: "context", reason: c.reason.as_deref() });
    let actor = said.or_else(|| {
        let (id, from) = in_field(event, field?)?;
        let known = from == "unchanged" && event.get("actor").is_some();
        (!known).then_some(Actor { id, from, reason: None })
    })?;
    Some(with_actor(event, &actor))
}

/// Who did it, as the application says, and where that was found: in the document `after` the change, in what the
/// change set (`delta`), or for deletes in the document `before` it. An update that did not set the field leaves the name of
/// whoever set it last, be it the same person or one who forgot: that is `unchanged`.
fn in_field(event: Doc<'_>, field: &str) -> Option<(String, &'static str)> {
    let path: Vec<&str> = field.split('.').collect();
    let part = |name: &str| event.get(name)?.as_doc();
    let named = |value: Option<Element<'_>>| value.filter(is_name).map(doc_id_text);
    let in_image = |name: &str| named(part(name)?.get_path(&path));
    let Some(set) = part("delta").and_then(|delta| delta.get("updatedFields")?.as_doc()) else {
        return in_image("after")
            .map(|id| (id, "after"))
            .or_else(|| in_image("before").map(|id| (id, "before")));
    };
    // Set by itself, or with a document around it.
    let in_set = (1..=path.len()).find_map(|n| {
        let (parent, rest) = path.split_at(n);
        let value = set.get(&parent.join("."))?;
        if rest.is_empty() { Some(value) } else { value.as_doc()?.get_path(rest) }
    });
    named(in_set).map(|id| (id, "delta")).or_else(|| in_image("after").map(|id| (id, "unchanged")))
}

/// Whether a value can name somebody: neither a document nor a text that no name has.
fn is_name(value: &Element<'_>) -> bool {
    let simple = [
        kind::STRING,
        kind::OBJECT_ID,
        kind::BINARY,
        kind::INT32,
        kind::INT64,
        kind::DOUBLE,
        kind::DECIMAL128,
    ];
    simple.contains(&value.kind()) && value.value().len() <= NAME_MAX
}

/// The longest beginning of a text that has at most `max` bytes.
fn cut(text: &str, max: usize) -> &str {
    let end = (0..=max.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or(0)]
}

fn with_actor(event: Doc<'_>, actor: &Actor<'_>) -> Vec<u8> {
    Writer::build(|writer| {
        let mut detail = None;
        for element in event.elements().map_while(Result::ok) {
            match element.name() {
                b"actor" => {}
                b"detail" => detail = Some(element),
                _ => writer.append(&element),
            }
        }
        let mut inner = writer.begin_doc(b"actor");
        inner.str("id", &actor.id);
        inner.str("from", actor.from);
        if let Some(reason) = actor.reason {
            inner.str("reason", reason);
        }
        inner.end();
        if let Some(detail) = detail {
            writer.append(&detail);
        }
    })
}

#[cfg(test)]
mod tests {
    use bson::{Document, doc};

    use super::*;

    fn bytes(document: &Document) -> Vec<u8> {
        bson::serialize_to_vec(document).unwrap()
    }

    fn attributed(event: &Document, context: Option<&ActorContext>) -> Option<Document> {
        let bytes = bytes(event);
        let event = attribute(Doc::new(&bytes).unwrap(), Some("by"), context)?;
        bson::deserialize_from_slice::<Document>(&event).unwrap().get_document("actor").ok().cloned()
    }

    fn ann() -> ActorContext {
        ActorContext { txn: vec![1], actor: "ann".into(), reason: Some("a refund".into()) }
    }

    #[test]
    fn the_better_known_actor_wins() {
        let session = doc! {"id": "app@admin", "from": "session"};
        let set = doc! {"delta": {"updatedFields": {"by": "bob"}}, "actor": &session};
        let left = doc! {"after": {"by": "bob"}, "delta": {"updatedFields": {"a": 1}}, "actor": &session};
        let alone = doc! {"after": {"by": "bob"}, "delta": {"updatedFields": {"a": 1}}};
        let said = doc! {"id": "ann", "from": "context", "reason": "a refund"};
        for event in [&set, &left, &alone] {
            assert_eq!(attributed(event, Some(&ann())), Some(said.clone()));
        }
        assert_eq!(attributed(&set, None), Some(doc! {"id": "bob", "from": "delta"}));
        assert_eq!(attributed(&left, None), None, "the session's user stays");
        assert_eq!(attributed(&alone, None), Some(doc! {"id": "bob", "from": "unchanged"}));
    }

    #[test]
    fn a_field_is_looked_for_where_this_change_shows_it() {
        let found = |event: Document| attributed(&event, None);
        assert_eq!(
            found(doc! {"after": {"by": "eve"}, "detail": {"x": 1}}),
            Some(doc! {"id": "eve", "from": "after"})
        );
        assert_eq!(found(doc! {"before": {"by": "bob"}}), Some(doc! {"id": "bob", "from": "before"}));
        assert_eq!(found(doc! {"before": {"by": "bob"}, "delta": {"updatedFields": {"a": 1}}}), None);
        let with_image = doc! {"after": {"by": "eve"}, "delta": {"updatedFields": {"by": "eve"}}};
        assert_eq!(found(with_image), Some(doc! {"id": "eve", "from": "delta"}));
        assert_eq!(found(doc! {"after": {"x": 1}}), None);
    }

    #[test]
    fn a_field_is_found_in_a_document_that_is_set_whole() {
        let found = |event: Document| in_field(Doc::new(&bytes(&event)).unwrap(), "audit.by");
        let eve = doc! {"delta": {"updatedFields": {"audit": {"by": "eve"}}}};
        assert_eq!(found(eve), Some(("eve".to_owned(), "delta")));
        let bob = doc! {"delta": {"updatedFields": {"audit.by": "bob"}}};
        assert_eq!(found(bob), Some(("bob".to_owned(), "delta")));
    }

    #[test]
    fn an_actor_is_a_short_plain_value() {
        let found = |value: bson::Bson| {
            in_field(Doc::new(&bytes(&doc! {"after": {"by": value}})).unwrap(), "by").map(|(id, _)| id)
        };
        assert_eq!(found("eve".into()), Some("eve".to_owned()));
        assert_eq!(found(7.into()), Some("7".to_owned()));
        assert_eq!(found(doc! {"name": "eve"}.into()), None);
        assert_eq!(found("x".repeat(2000).into()), None);
        assert_eq!(found(bson::Bson::Null), None);
    }

    #[test]
    fn a_context_without_a_name_is_none_and_a_long_reason_is_cut() {
        let said = |after: Document| context(Doc::new(&bytes(&doc! {"after": after})).unwrap(), &[1]);
        assert_eq!(said(doc! {"actor": "ann", "reason": "a refund"}), Some(ann()));
        assert_eq!(said(doc! {"actor": 7}).map(|c| (c.actor, c.reason)), Some(("7".into(), None)));
        assert_eq!(said(doc! {"reason": "a refund"}), None);
        let long = said(doc! {"actor": "ann", "reason": "é".repeat(2_000)}).unwrap().reason.unwrap();
        assert_eq!(long, "é".repeat(512));
    }
}
