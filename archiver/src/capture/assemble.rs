//! From the plugins' outcomes to records: seqs are given out, failures become quarantine records without contents,
//! and everything is counted.

use bson::{DateTime, Document, Timestamp};
use bson_walker::{Doc, Writer};

use super::actor::{self, CONTEXT_DROPPED};
use super::withheld;
use crate::audit_log::{Append, Withheld, WithheldId};
use crate::checkpoint::{ActorContext, Checkpoint};
use crate::config::{OnPluginError, SourceConfig, Tolerance};
use crate::error::{Error, Result};
use crate::event::Event;
use crate::plugin::{Failure, Outcome};
use crate::record::Record;
use crate::salt::Salt;

/// What an event is, set aside before the plugins take its body. Never stored as it is: the key is in it, and in the token.
#[derive(Debug)]
pub(super) struct Identity {
    /// The fields of its body that say so.
    body: Vec<u8>,
    /// Its resume token; `None` where it is not one of the change stream's.
    token: Option<Vec<u8>>,
}

/// The operation of documents that are read beside the stream.
pub(super) const SNAPSHOT: &str = "snapshot";
/// The fields of a quarantine record that come from the event as they are.
const KEPT: [&str; 3] = ["ns", "clusterTime", "wallTime"];

impl Identity {
    pub(super) fn of(event: &Event) -> Result<Self> {
        let doc = event.doc()?;
        let fields = ["op", "ns", "key", "clusterTime", "wallTime", "txn"];
        let body = Writer::build(|writer| {
            for element in fields.iter().filter_map(|name| doc.get(name)) {
                writer.append(&element);
            }
        });
        let identity = Identity { body, token: None };
        // The position of a document that was read beside the stream is that of some event.
        let token = event.position.token.clone().filter(|_| identity.op() != SNAPSHOT);
        Ok(Identity { token, ..identity })
    }

    pub(super) fn doc(&self) -> Doc<'_> {
        Doc::new(&self.body).unwrap_or(Doc::EMPTY)
    }

    pub(super) fn op(&self) -> &str {
        self.doc().get("op").and_then(|e| e.as_str()).unwrap_or("")
    }

    /// The transaction that it belongs to.
    pub(super) fn txn(&self) -> Option<&[u8]> {
        Some(self.doc().get("txn")?.as_doc()?.as_bytes())
    }

    /// Forgets who acts in a transaction that has ended before this event. Documents read beside the stream are no part of
    /// its order, and end nothing.
    fn leave(&self, context: &mut Option<ActorContext>) {
        let in_stream = self.op() != SNAPSHOT;
        context.take_if(|context| in_stream && self.txn() != Some(&context.txn));
    }

    /// Which of the change stream's events it is, as open quarantine tells them apart.
    pub(super) fn event_digest(&self, salt: &Salt) -> Option<String> {
        self.token.as_ref().map(|token| salt.token_digest(token))
    }

    /// What open quarantine keeps of it, under the seq of its record.
    fn withheld(&self, failure: &Failure, key_digest: Option<String>, checkpoint: &Checkpoint) -> Withheld {
        let doc = self.doc();
        let text = |path: &[&str]| doc.get_path(path).and_then(|e| e.as_str());
        let mut ns = Document::new();
        for part in ["db", "coll"] {
            if let Some(name) = text(&["ns", part]) {
                ns.insert(part, name);
            }
        }
        let time = doc.get("clusterTime").and_then(|e| e.as_timestamp());
        let (time, increment) = time.unwrap_or_default();
        Withheld {
            id: WithheldId { source: checkpoint.stream.to_string(), seq: checkpoint.next_seq },
            cluster_time: Timestamp { time, increment },
            op: self.op().to_owned(),
            ns,
            key_digest,
            event: checkpoint.salt.as_ref().and_then(|salt| self.event_digest(salt)),
            error: failure.code.as_str().to_owned(),
            plugin: failure.plugin.to_string(),
            sha256: failure.sha256.to_string(),
            at: DateTime::now(),
        }
    }

    /// Says which document it was.
    fn key_digest(&self, salt: &Salt) -> Option<String> {
        self.doc().get_path(&["key", "_id"]).map(|id| salt.id_digest(id.kind(), id.value()))
    }

    fn quarantine(&self, failure: &Failure, key_digest: Option<&str>) -> Vec<u8> {
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
            if let Some(digest) = key_digest {
                detail.str("keyDigest", digest);
            }
            // Where a collection went is a name, as `ns` is.
            if let Some(to) = doc.get_path(&["detail", "to"]).filter(|_| self.op() == "rename") {
                detail.append(&to);
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

/// Turns outcomes into records with the seqs after `checkpoint`, and advances its `next_seq` and counters. `id_is_kept`: whether
/// other records give documents' `_id`s as they are, so that a digest says which one it was; see
/// [`ids_are_kept`]. Fails where a plugin failed and the source is to halt, or where they failed on too many events; the checkpoint is then of no more use.
pub(super) fn assemble(
    outcomes: Vec<(Identity, Outcome)>,
    id_is_kept: bool,
    source: &SourceConfig,
    tolerance: Tolerance,
    checkpoint: &mut Checkpoint,
) -> Result<Append> {
    let mut append = Append { records: Vec::with_capacity(outcomes.len()), ..Append::default() };
    let context_is_watched = actor::context_is_watched(source);
    for (identity, outcome) in outcomes {
        checkpoint.counters.read += 1;
        identity.leave(&mut checkpoint.context);
        let is_context = actor::is_context(identity.doc(), source);
        let body = match outcome {
            Outcome::Dropped { plugin } => {
                *checkpoint.counters.dropped.entry(plugin.to_string()).or_default() += 1;
                continue;
            }
            // Neither the event nor the plugin is to blame: nothing is quarantined for it.
            Outcome::Failed(failure) if failure.code.blames_host() => {
                return Err(Error::unavailable(format!("{failure} source={}", checkpoint.stream)));
            }
            Outcome::Failed(failure) if tolerance.on_plugin_error == OnPluginError::Halt => {
                return Err(halted(&failure, checkpoint));
            }
            Outcome::Failed(failure) => {
                checkpoint.counters.quarantined += 1;
                let recent = checkpoint.failures.note(checkpoint.counters.read);
                if recent > i64::from(tolerance.quarantine_limit) {
                    return Err(withheld::too_many(&failure, tolerance, checkpoint));
                }
                let salt = checkpoint.salt.as_ref().filter(|_| id_is_kept);
                let key_digest = salt.and_then(|salt| identity.key_digest(salt));
                let body = identity.quarantine(&failure, key_digest.as_deref());
                append.withheld.push(identity.withheld(&failure, key_digest, checkpoint));
                body
            }
            Outcome::Keep(body) => body,
        };
        let doc = Doc::new(&body)
            .map_err(|e| Error::internal("an event's body is not one BSON document").because(e))?;
        // Who did it is taken from what the plugins left: a name that is redacted in the document is redacted here too.
        if is_context && let Some(txn) = identity.txn() {
            checkpoint.context = actor::context(doc, txn);
        }
        if is_context && !context_is_watched {
            *checkpoint.counters.dropped.entry(CONTEXT_DROPPED.to_owned()).or_default() += 1;
            continue;
        }
        let context = checkpoint.context.as_ref().filter(|context| identity.txn() == Some(&context.txn));
        let attributed = actor::attribute(doc, source.actor_field.as_deref(), context);
        let doc = attributed.as_deref().and_then(|event| Doc::new(event).ok()).unwrap_or(doc);
        if doc.get("op").and_then(|op| op.as_str()) == Some("gap") {
            checkpoint.counters.gaps += 1;
        }
        let record = Record::encode(checkpoint.next_id(), doc, checkpoint.policy);
        append.records.push(record);
        checkpoint.next_seq += 1;
        checkpoint.counters.appended += 1;
    }
    Ok(append)
}

fn halted(failure: &Failure, checkpoint: &Checkpoint) -> Error {
    Error::plugin(format!(
        "{failure}; the source has stopped before it source={} next_seq={}",
        checkpoint.stream, checkpoint.next_seq
    ))
    .hint("mend the plugin and `archiver reload`, or start again: nothing is lost while the oplog holds the event; or set on_plugin_error = \"quarantine\"")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bson::{Document, Timestamp, doc};
    use bson_walker::kind;

    use super::*;
    use crate::checkpoint::{Counters, RecentFailures};
    use crate::config::{OnHistoryLost, Snapshot, Watch};
    use crate::event::Position;
    use crate::plugin::FailureCode;
    use crate::stream_id::StreamId;

    fn time() -> Timestamp {
        Timestamp { time: 7, increment: 1 }
    }

    fn checkpoint() -> Checkpoint {
        Checkpoint {
            stream: StreamId::whole("s"),
            partitions: 1,
            epoch: 1,
            next_seq: 5,
            position: Position { token: None, cluster_time: time() },
            snapshot: None,
            policy: 2,
            policy_digest: String::new(),
            options: String::new(),
            watch: Vec::new(),
            resyncs: Vec::new(),
            server: None,
            context: None,
            salt: Some(Salt::random()),
            failures: RecentFailures::default(),
            retried: None,
            expired_end: 1,
            holds_recorded: 0,
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

    fn tolerance(on_plugin_error: OnPluginError) -> Tolerance {
        Tolerance { on_plugin_error, quarantine_limit: 3 }
    }

    fn source() -> SourceConfig {
        SourceConfig {
            name: "s".into(),
            watch: vec![Watch::Collection("d".into(), "c".into())],
            plugins: Vec::new(),
            snapshot: Snapshot::Initial,
            tolerance: tolerance(OnPluginError::Quarantine),
            actor_field: Some("by".into()),
            actor_context: Some(("d".into(), "who".into())),
            on_history_lost: OnHistoryLost::Halt,
            enable_images: false,
            partitions: 1,
        }
    }

    fn run(
        outcomes: Vec<(Identity, Outcome)>,
        policy: OnPluginError,
        c: &mut Checkpoint,
    ) -> Result<Vec<Vec<u8>>> {
        let id_is_kept = ids_are_kept(&outcomes);
        Ok(assemble(outcomes, id_is_kept, &source(), tolerance(policy), c)?.records)
    }

    fn failure() -> Outcome {
        Outcome::Failed(Failure {
            plugin: Arc::from("p"),
            sha256: Arc::from("ab"),
            code: FailureCode::Trap,
            words: None,
        })
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
        let mut c = checkpoint();
        let salt = c.salt.clone().unwrap();
        let mut digest = |others: Vec<Outcome>| {
            let outcomes =
                others.into_iter().chain([failure()]).map(|o| (Identity::of(&e).unwrap(), o)).collect();
            let records = run(outcomes, OnPluginError::Quarantine, &mut c).unwrap();
            let detail = decoded(records.last().unwrap()).get_document("detail").unwrap().clone();
            detail.get_str("keyDigest").map(str::to_owned).ok()
        };
        assert_eq!(
            digest(vec![Outcome::Keep(e.body.clone())]),
            Some(salt.id_digest(kind::INT32, &7_i32.to_le_bytes()))
        );
        assert_eq!(digest(vec![]), None);
        assert_eq!(digest(vec![Outcome::Keep(masked.body.clone())]), None);
    }

    #[test]
    fn a_withheld_event_is_told_from_others_by_its_token_and_holds_neither_it_nor_the_key() {
        let token = |text: &str| Position { token: Some(text.as_bytes().to_vec()), cluster_time: time() };
        let body = doc! {"op": "insert", "ns": {"db": "d", "coll": "c"}, "key": {"_id": "SECRET"}, "clusterTime": time()};
        let read = doc! {"op": "snapshot", "ns": {"db": "d", "coll": "c"}, "key": {"_id": "SECRET"}, "clusterTime": time()};
        let events = [("SECRET1", &body), ("SECRET2", &body), ("SECRET1", &read)]
            .map(|(text, body)| Event { position: token(text), ..event(body.clone()) });
        let outcomes: Vec<_> = events.iter().map(|e| (Identity::of(e).unwrap(), failure())).collect();
        let mut c = checkpoint();
        let salt = c.salt.clone().unwrap();
        let quarantine = tolerance(OnPluginError::Quarantine);
        let withheld = assemble(outcomes, true, &source(), quarantine, &mut c).unwrap().withheld;
        let seen: Vec<_> = withheld.iter().map(|w| (w.id.seq, w.op.as_str(), w.event.clone())).collect();
        let digest = |text: &str| Some(salt.token_digest(text.as_bytes()));
        assert_eq!(
            seen,
            [(5, "insert", digest("SECRET1")), (6, "insert", digest("SECRET2")), (7, "snapshot", None)]
        );
        assert_eq!(withheld[0].key_digest, withheld[1].key_digest);
        for withheld in &withheld {
            let stored = bson::serialize_to_document(withheld).unwrap();
            assert!(!stored.to_string().contains("SECRET") && stored.get_document("_id").is_ok(), "{stored}");
            assert_eq!(bson::deserialize_from_document::<Withheld>(stored).unwrap(), *withheld);
        }
    }

    #[test]
    fn halt_fails_and_yields_no_records() {
        let e = event(doc! {"op": "insert", "clusterTime": time()});
        let outcomes = vec![(Identity::of(&e).unwrap(), failure())];
        let error = run(outcomes, OnPluginError::Halt, &mut checkpoint()).unwrap_err();
        assert_eq!(error.kind(), crate::Kind::Plugin);
    }

    #[test]
    fn a_plugin_that_fails_on_too_many_events_halts_its_source() {
        let e = event(doc! {"op": "insert", "clusterTime": time()});
        let failures = |n: usize| (0..n).map(|_| (Identity::of(&e).unwrap(), failure())).collect();
        let mut c = checkpoint();
        assert_eq!(run(failures(3), OnPluginError::Quarantine, &mut c).unwrap().len(), 3);
        // One batch after the other, and what the checkpoint says survives a restart.
        let error = run(failures(1), OnPluginError::Quarantine, &mut c.clone()).unwrap_err();
        assert_eq!(error.kind(), crate::Kind::Plugin);
        assert!(error.to_string().contains("more than 3 of 10000"), "{error}");
        c.counters.read += 10_000;
        assert_eq!(run(failures(1), OnPluginError::Quarantine, &mut c).unwrap().len(), 1);
    }

    #[test]
    fn a_host_without_memory_for_a_sandbox_quarantines_nothing() {
        let e = event(doc! {"op": "insert", "clusterTime": time()});
        let failure = Failure {
            plugin: Arc::from("p"),
            sha256: Arc::from("ab"),
            code: FailureCode::Sandbox,
            words: None,
        };
        let outcomes = vec![(Identity::of(&e).unwrap(), Outcome::Failed(failure))];
        let error = run(outcomes, OnPluginError::Quarantine, &mut checkpoint()).unwrap_err();
        assert_eq!(error.kind(), crate::Kind::Unavailable);
    }

    #[test]
    fn who_acts_is_known_for_the_rest_of_the_transaction_and_its_context_is_no_record() {
        let txn = |number: i64| doc! {"lsid": "u", "number": number};
        let change = |coll: &str, id: i32, number: i64| {
            event(doc! {
                "op": "insert", "ns": {"db": "d", "coll": coll}, "key": {"_id": id}, "clusterTime": time(),
                "after": {"_id": id, "actor": "ann", "reason": "a refund"}, "txn": txn(number),
            })
        };
        let keep = |e: Event| (Identity::of(&e).unwrap(), Outcome::Keep(e.body));
        let read_beside = event(doc! {"op": "snapshot", "ns": {"db": "d", "coll": "c"}, "after": {"_id": 9}});
        let mut c = checkpoint();
        let first = vec![change("c", 1, 1), change("who", 2, 1), change("c", 3, 1), read_beside];
        let mut records = run(first.into_iter().map(keep).collect(), OnPluginError::Halt, &mut c).unwrap();
        assert_eq!(c.context.as_ref().map(|context| context.actor.as_str()), Some("ann"));
        let second = vec![change("c", 4, 1), change("c", 5, 2)];
        records.extend(run(second.into_iter().map(keep).collect(), OnPluginError::Halt, &mut c).unwrap());
        let said = doc! {"id": "ann", "from": "context", "reason": "a refund"};
        let actors: Vec<_> = records.iter().map(|r| decoded(r).get_document("actor").ok().cloned()).collect();
        assert_eq!(actors, [None, Some(said.clone()), None, Some(said), None]);
        assert_eq!((c.context.clone(), c.counters.dropped[CONTEXT_DROPPED], c.counters.read), (None, 1, 6));
        assert!(c.counters.add_up());
    }
}
