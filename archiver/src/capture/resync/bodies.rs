//! What is written about a gap: its opening, what the comparison found, its closing.

use bson::Timestamp;
use bson_walker::{Doc, Writer};

use crate::checkpoint::Resync;
use crate::error::Error;
use crate::history::Namespace;
use crate::history::gaps::Finding;
use crate::history::states::Identity;

/// The record that history is missing.
pub(in crate::capture) fn opening(resync: &Resync, reason: &str, error: Option<&Error>) -> Vec<u8> {
    Writer::build(|writer| {
        writer.str("op", "gap");
        if let Some((db, coll)) = &resync.namespace {
            namespace(writer, b"ns", db, coll);
        }
        time(writer, "clusterTime", resync.until);
        let mut detail = writer.begin_doc(b"detail");
        detail.str("reason", reason);
        if let Some(error) = error {
            detail.str("error", &error.explain());
        }
        time(&mut detail, "after", resync.after);
        time(&mut detail, "until", resync.until);
        detail.end();
    })
}

/// The record that the comparison behind a gap is complete.
/// `whole`: whether everything was known from before the gap.
pub(super) fn closing(resync: &Resync, read: Timestamp, undecided: &[Namespace], whole: bool) -> Vec<u8> {
    Writer::build(|writer| {
        writer.str("op", "gap");
        if let Some((db, coll)) = &resync.namespace {
            namespace(writer, b"ns", db, coll);
        }
        time(writer, "clusterTime", read);
        let mut detail = writer.begin_doc(b"detail");
        detail.i64("closes", resync.gap);
        if whole {
            detail.bool("whole", true);
        }
        if !undecided.is_empty() {
            let mut list = detail.begin_array(b"undecided");
            for (n, ns) in undecided.iter().enumerate() {
                namespace(&mut list, n.to_string().as_bytes(), &ns.db, &ns.coll);
            }
            list.end();
        }
        detail.end();
    })
}

/// The record that a document is gone. No plugin sees it: its key is the one that is recorded already.
pub(super) fn deleted(
    identity: &Identity,
    gap: i64,
    window: (Timestamp, Timestamp),
    read: Timestamp,
) -> Vec<u8> {
    Writer::build(|writer| {
        writer.str("op", "delete");
        namespace(writer, b"ns", &identity.namespace.db, &identity.namespace.coll);
        let mut key = writer.begin_doc(b"key");
        key.raw(identity.id.0, b"_id", &identity.id.1);
        key.end();
        time(writer, "clusterTime", read);
        let mut detail = writer.begin_doc(b"detail");
        found(&mut detail, Finding::Deleted, gap, window);
        detail.end();
    })
}

/// A document's event, as the plugins left it, with what was found.
pub(super) fn with_finding(
    event: Doc<'_>,
    finding: Finding,
    gap: i64,
    window: (Timestamp, Timestamp),
) -> Vec<u8> {
    Writer::build(|writer| {
        let mut present = Doc::EMPTY;
        for element in event.elements().map_while(Result::ok) {
            match element.as_doc().filter(|_| element.name() == b"detail") {
                Some(detail) => present = detail,
                None => writer.append(&element),
            }
        }
        let mut detail = writer.begin_doc(b"detail");
        for element in present.elements().map_while(Result::ok) {
            detail.append(&element);
        }
        found(&mut detail, finding, gap, window);
        detail.end();
    })
}

fn found(detail: &mut Writer<'_>, finding: Finding, gap: i64, (after, until): (Timestamp, Timestamp)) {
    detail.str("found", finding.as_str());
    detail.i64("gap", gap);
    time(detail, "after", after);
    time(detail, "until", until);
}

fn namespace(writer: &mut Writer<'_>, name: &[u8], db: &str, coll: &str) {
    let mut ns = writer.begin_doc(name);
    ns.str("db", db);
    ns.str("coll", coll);
    ns.end();
}

fn time(writer: &mut Writer<'_>, name: &str, time: Timestamp) {
    writer.timestamp(name, time.time, time.increment);
}
