//! From the plugins' outcomes to records: seqs are given out, failures become quarantine records without contents,
//! and everything is counted.

use bson_walker::{Doc, Element, Writer, kind};

use crate::archive::extjson::doc_id_text;
use crate::checkpoint::Checkpoint;
use crate::config::OnPluginError;
use crate::error::{Error, Result};
use crate::event::Event;
use crate::plugin::{Failure, Outcome};
use crate::record::{Record, id_digest};

/// What a quarantine record takes from an event, set aside before the plugins take its body. Never stored as it is: the key
/// is in it.
#[derive(Debug)]
pub(super) struct Identity(Vec<u8>);

/// Bytes of an actor's name at most; a longer value is no name, and would make a record larger than its event.
const ACTOR_MAX: usize = 1024;

/// The fields of a quarantine record that come from the event as they are.
const KEPT: [&str; 3] = ["ns", "clusterTime", "wallTime"];

impl Identity {
    pub(super) fn of(event: &Event) -> Result<Self> {
        let doc = event.doc()?;
        Ok(Identity(Writer::build(|writer| {
            for element in
                ["op", "ns", "key", "clusterTime", "wallTime"].iter().filter_map(|name| doc.get(name))
            {
                writer.append(&element);
            }
        })))
    }

    fn doc(&self) -> Doc<'_> {
        Doc::new(&self.0).unwrap_or(Doc::EMPTY)
    }

    /// `id_is_kept`: whether other records give this document's `_id` as it is, so that its digest says which one it was.
    fn quarantine(&self, failure: &Failure, id_is_kept: bool) -> Vec<u8> {
        let doc = self.doc();
        Writer::build(|writer| {
            writer.str("op", "quarantine");
            for element in KEPT.iter().filter_map(|name| doc.get(name)) {
                writer.append(&element);
            }
            let mut detail = writer.begin_doc(b"detail");
            if let Some(op) = doc.get("op") {
                detail.append(&op);
            }
            if let Some(id) = doc.get_path(&["key", "_id"]).filter(|_| id_is_kept) {
                detail.str("keyDigest", &id_digest(id.kind(), id.value()));
            }
            detail.str("error", failure.code.as_str());
            detail.str("plugin", &failure.plugin);
            detail.str("sha256", &failure.sha256);
            detail.end();
        })
    }
}

/// Whether the plugins leave `_id`s as they are, as far as the kept events of this batch show. Without evidence: no. A
/// digest of an `_id` that no other record has would point to no document, and its loss would go unnoticed.
pub(super) fn ids_are_kept(outcomes: &[(Identity, Outcome)]) -> bool {
    if !outcomes.iter().any(|(_, outcome)| matches!(outcome, Outcome::Failed(_))) {
        return false; // Nobody asks.
    }
    let mut shown = false;
    for (identity, outcome) in outcomes {
        let Outcome::Keep(body) = outcome else { continue };
        let Some(before) = identity.doc().get_path(&["key", "_id"]) else { continue };
        let after = Doc::new(body).ok().and_then(|body| body.get_path(&["key", "_id"]));
        if after.is_none_or(|after| after != before) {
            return false;
        }
        shown = true;
    }
    shown
}

/// Turns outcomes into records with the seqs after `checkpoint`, and advances its `next_seq` and counters. `id_is_kept`: see
/// [`ids_are_kept`]. Fails where a plugin failed and the source is to halt; the checkpoint is then of no more use.
pub(super) fn assemble(
    outcomes: Vec<(Identity, Outcome)>,
    id_is_kept: bool,
    actor_field: Option<&str>,
    policy: OnPluginError,
    checkpoint: &mut Checkpoint,
) -> Result<Vec<Vec<u8>>> {
    let mut records = Vec::with_capacity(outcomes.len());
    for (identity, outcome) in outcomes {
        checkpoint.counters.read += 1;
        let body = match outcome {
            Outcome::Dropped { plugin } => {
                *checkpoint.counters.dropped.entry(plugin.to_string()).or_default() += 1;
                continue;
            }
            // Neither the event nor the plugin is to blame: nothing is quarantined for it.
            Outcome::Failed(failure) if failure.code.blames_host() => {
                return Err(Error::unavailable(format!("{failure} source={}", checkpoint.source)));
            }
            Outcome::Failed(failure) if policy == OnPluginError::Halt => {
                return Err(halted(&failure, checkpoint));
            }
            Outcome::Failed(failure) => {
                checkpoint.counters.quarantined += 1;
                identity.quarantine(&failure, id_is_kept)
            }
            Outcome::Keep(body) => body,
        };
        let doc = Doc::new(&body)
            .map_err(|e| Error::internal("an event's body is not one BSON document").because(e))?;
        // After the plugins, from what they left: an actor's name that is redacted in the document is redacted here too.
        let record = match actor_field.and_then(|field| actor(doc, field)) {
            Some((id, from)) => Record::encode(
                checkpoint.next_seq,
                Doc::new(&with_actor(doc, &id, from)).unwrap_or(doc),
                checkpoint.policy,
            ),
            None => Record::encode(checkpoint.next_seq, doc, checkpoint.policy),
        };
        records.push(record);
        checkpoint.next_seq += 1;
        checkpoint.counters.appended += 1;
    }
    Ok(records)
}

fn halted(failure: &Failure, checkpoint: &Checkpoint) -> Error {
    Error::plugin(format!(
        "{failure}; the source has stopped before it source={} next_seq={}",
        checkpoint.source, checkpoint.next_seq
    ))
    .hint("mend the plugin and start again: nothing is lost while the oplog holds the event; or set on_plugin_error = \"quarantine\"")
}

/// Who did it, as the application says, and where that was found: in the document `after` the change, in what the
/// change set (`delta`), or for deletes in the document `before` it. An update that did not set the field leaves the name of
/// whoever set it last, be it the same person or one who forgot: that is `unchanged`.
fn actor(event: Doc<'_>, field: &str) -> Option<(String, &'static str)> {
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
    let simple = [kind::STRING, kind::OBJECT_ID, kind::BINARY, kind::INT32, kind::INT64, kind::DECIMAL128];
    simple.contains(&value.kind()) && value.value().len() <= ACTOR_MAX
}

fn with_actor(event: Doc<'_>, id: &str, from: &str) -> Vec<u8> {
    Writer::build(|writer| {
        let mut detail = None;
        for element in event.elements().map_while(std::result::Result::ok) {
            match element.name() {
                b"actor" => {}
                b"detail" => detail = Some(element),
                _ => writer.append(&element),
            }
        }
        let mut actor = writer.begin_doc(b"actor");
        actor.str("id", id);
        actor.str("from", from);
        actor.end();
        if let Some(detail) = detail {
            writer.append(&detail);
        }
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bson::{Document, Timestamp, doc};

    use super::*;
    use crate::checkpoint::Counters;
    use crate::event::Position;
    use crate::plugin::FailureCode;

    fn time() -> Timestamp {
        Timestamp { time: 7, increment: 1 }
    }

    fn checkpoint() -> Checkpoint {
        Checkpoint {
            source: "s".into(),
            epoch: 1,
            next_seq: 5,
            position: Position { token: None, cluster_time: time() },
            snapshot: None,
            policy: 2,
            policy_digest: String::new(),
            options: String::new(),
            resyncs: Vec::new(),
            server: None,
            context: None,
            counters: Counters::default(),
        }
    }

    fn event(body: Document) -> Event {
        let position = Position { token: None, cluster_time: time() };
        Event { body: bson::serialize_to_vec(&body).unwrap(), position }
    }

    fn decoded(record: &[u8]) -> Document {
        bson::deserialize_from_slice(record).unwrap()
    }

    fn run(
        outcomes: Vec<(Identity, Outcome)>,
        policy: OnPluginError,
        c: &mut Checkpoint,
    ) -> Result<Vec<Vec<u8>>> {
        let id_is_kept = ids_are_kept(&outcomes);
        assemble(outcomes, id_is_kept, Some("by"), policy, c)
    }

    fn failure() -> Outcome {
        Outcome::Failed(Failure { plugin: Arc::from("p"), sha256: Arc::from("ab"), code: FailureCode::Trap })
    }

    #[test]
    fn seqs_are_dense_and_counters_add_up_with_drops_and_failures_among_them() {
        let e = event(
            doc! {"op": "insert", "ns": {"db": "d", "coll": "c"}, "key": {"_id": 1}, "clusterTime": time(), "after": {"_id": 1, "by": "eve"}},
        );
        let id = || Identity::of(&e).unwrap();
        let outcomes = vec![
            (id(), Outcome::Keep(e.body.clone())),
            (id(), Outcome::Dropped { plugin: Arc::from("p") }),
            (id(), failure()),
            (id(), Outcome::Keep(e.body.clone())),
        ];
        let mut c = checkpoint();
        let records = run(outcomes, OnPluginError::Quarantine, &mut c).unwrap();
        let seqs: Vec<i64> = records.iter().map(|r| Record::new(r).unwrap().seq().unwrap()).collect();
        assert_eq!(seqs, [5, 6, 7]);
        assert_eq!((c.next_seq, c.counters.read, c.counters.appended, c.counters.quarantined), (8, 4, 3, 1));
        assert!(c.counters.add_up());
    }

    #[test]
    fn a_quarantine_record_has_no_contents_of_the_event() {
        let e = event(
            doc! {"op": "insert", "ns": {"db": "d", "coll": "c"}, "key": {"_id": "SECRET"}, "clusterTime": time(), "after": {"_id": "SECRET"}},
        );
        let outcomes = vec![(Identity::of(&e).unwrap(), failure())];
        let records = run(outcomes, OnPluginError::Quarantine, &mut checkpoint()).unwrap();
        assert!(!records[0].windows(6).any(|w| w == b"SECRET"));
        let record = decoded(&records[0]);
        assert_eq!(record.get_str("op").unwrap(), "quarantine");
        assert_eq!(record.get_document("detail").unwrap().get_str("op").unwrap(), "insert");
        assert_eq!(record.get_timestamp("clusterTime").unwrap(), time());
    }

    #[test]
    fn a_digest_of_the_id_is_kept_only_where_other_records_show_ids_as_they_are() {
        let e = event(
            doc! {"op": "insert", "ns": {"db": "d", "coll": "c"}, "key": {"_id": 7}, "clusterTime": time()},
        );
        let masked = event(
            doc! {"op": "insert", "ns": {"db": "d", "coll": "c"}, "key": {"_id": "***"}, "clusterTime": time()},
        );
        let digest = |others: Vec<Outcome>| {
            let outcomes =
                others.into_iter().chain([failure()]).map(|o| (Identity::of(&e).unwrap(), o)).collect();
            let records = run(outcomes, OnPluginError::Quarantine, &mut checkpoint()).unwrap();
            let detail = decoded(records.last().unwrap()).get_document("detail").unwrap().clone();
            detail.get_str("keyDigest").map(str::to_owned).ok()
        };
        assert_eq!(
            digest(vec![Outcome::Keep(e.body.clone())]),
            Some(id_digest(kind::INT32, &7_i32.to_le_bytes()))
        );
        assert_eq!(digest(vec![]), None);
        assert_eq!(digest(vec![Outcome::Keep(masked.body.clone())]), None);
    }

    #[test]
    fn an_actor_is_a_short_plain_value() {
        let found = |value: bson::Bson| {
            let body = bson::serialize_to_vec(&doc! {"after": {"by": value}}).unwrap();
            actor(Doc::new(&body).unwrap(), "by").map(|(id, _)| id)
        };
        assert_eq!(found("eve".into()), Some("eve".to_owned()));
        assert_eq!(found(7.into()), Some("7".to_owned()));
        assert_eq!(found(doc! {"name": "eve"}.into()), None);
        assert_eq!(found("x".repeat(2000).into()), None);
        assert_eq!(found(bson::Bson::Null), None);
    }

    #[test]
    fn halt_fails_and_yields_no_records() {
        let e = event(doc! {"op": "insert", "clusterTime": time()});
        let outcomes = vec![(Identity::of(&e).unwrap(), failure())];
        let error = run(outcomes, OnPluginError::Halt, &mut checkpoint()).unwrap_err();
        assert_eq!(error.kind(), crate::Kind::Plugin);
    }

    #[test]
    fn an_actor_is_found_in_a_document_that_is_set_whole() {
        let body =
            bson::serialize_to_vec(&doc! {"delta": {"updatedFields": {"audit": {"by": "eve"}}}}).unwrap();
        assert_eq!(actor(Doc::new(&body).unwrap(), "audit.by"), Some(("eve".to_owned(), "delta")));
        let body = bson::serialize_to_vec(&doc! {"delta": {"updatedFields": {"audit.by": "bob"}}}).unwrap();
        assert_eq!(actor(Doc::new(&body).unwrap(), "audit.by"), Some(("bob".to_owned(), "delta")));
    }

    #[test]
    fn a_host_without_memory_for_a_sandbox_quarantines_nothing() {
        let e = event(doc! {"op": "insert", "clusterTime": time()});
        let failure = Failure { plugin: Arc::from("p"), sha256: Arc::from("ab"), code: FailureCode::Sandbox };
        let outcomes = vec![(Identity::of(&e).unwrap(), Outcome::Failed(failure))];
        let error = run(outcomes, OnPluginError::Quarantine, &mut checkpoint()).unwrap_err();
        assert_eq!(error.kind(), crate::Kind::Unavailable);
    }

    #[test]
    fn the_actor_is_what_the_plugins_left_of_it() {
        let actor = |body: Document| {
            let e = event(body);
            let outcomes = vec![(Identity::of(&e).unwrap(), Outcome::Keep(e.body.clone()))];
            let record = decoded(&run(outcomes, OnPluginError::Halt, &mut checkpoint()).unwrap()[0]);
            record.get_document("actor").ok().cloned()
        };
        assert_eq!(
            actor(doc! {"after": {"by": "eve"}, "detail": {"x": 1}}),
            Some(doc! {"id": "eve", "from": "after"})
        );
        assert_eq!(
            actor(doc! {"delta": {"updatedFields": {"by": "bob"}}}),
            Some(doc! {"id": "bob", "from": "delta"})
        );
        assert_eq!(actor(doc! {"before": {"by": "bob"}}), Some(doc! {"id": "bob", "from": "before"}));
        assert_eq!(actor(doc! {"before": {"by": "bob"}, "delta": {"updatedFields": {"a": 1}}}), None);
        let forgotten = doc! {"after": {"by": "bob", "a": 1}, "delta": {"updatedFields": {"a": 1}}};
        assert_eq!(actor(forgotten), Some(doc! {"id": "bob", "from": "unchanged"}));
        let with_image = doc! {"after": {"by": "eve"}, "delta": {"updatedFields": {"by": "eve"}}};
        assert_eq!(actor(with_image), Some(doc! {"id": "eve", "from": "delta"}));
        assert_eq!(actor(doc! {"after": {"x": 1}}), None);
    }
}
