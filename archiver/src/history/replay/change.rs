//! From a record to a document in the shape of MongoDB's change events.

use bson_walker::{Doc, Element, Writer};

use crate::error::{Error, Result};
use crate::event::REDACTED;
use crate::history::gaps::{Finding, Found};
use crate::post_image;
use crate::record::Record;
use crate::stream_id::StreamId;

/// What is in a change's `detail` that MongoDB has not sent.
const OWN_DETAILS: [&str; 8] = ["late", "found", "gap", "after", "until", "fromWatched", "whole", REDACTED];

/// Operations that are the archiver's own: no change events, whose `detail` goes to `archiver.detail` as a whole.
const OWN: [&str; 5] = ["gap", "policy", "quarantine", "recovery", "access"];

/// What names a record among all of an archive: `payments:17`, in partition 3 `payments/3:17`. Stands where a change event has its
/// resume token.
pub(super) fn record_name(stream: &StreamId, seq: i64) -> String {
    format!("{stream}:{seq}")
}

/// The change event that a record tells of, with what the archiver knows beyond it in a field `archiver`. `is_in_baseline`: the document
/// was read later than this happened.
pub(super) fn change_event(stream: &StreamId, bytes: &[u8], is_in_baseline: bool) -> Result<Vec<u8>> {
    let record = Record::new(bytes)?;
    let seq = record.seq()?;
    let doc = record.doc();
    let is_own = OWN.contains(&record.op());
    Ok(Writer::build(|out| {
        head(out, &record_name(stream, seq), operation_type(&record));
        copy(out, doc, "clusterTime", "clusterTime");
        copy(out, doc, "wallTime", "wallTime");
        if let Some(txn) = record.part("txn") {
            if let Some(id) = txn.get("lsid") {
                let mut lsid = out.begin_doc(b"lsid");
                lsid.append_as("id", &id);
                lsid.end();
            }
            copy(out, txn, "number", "txnNumber");
        }
        if let Some(after) = post_image::after(&record) {
            out.doc("fullDocument", &after);
        }
        copy(out, doc, "ns", "ns");
        let detail = record.part("detail").unwrap_or(Doc::EMPTY);
        if !is_own {
            fields(detail).filter(|e| !is_own_detail(e)).for_each(|e| out.append(&e));
        }
        copy(out, doc, "key", "documentKey");
        copy(out, doc, "delta", "updateDescription");
        copy(out, doc, "before", "fullDocumentBeforeChange");
        let mut own = archiver(out, stream, seq, record.op());
        if is_in_baseline {
            own.bool("inBaseline", true);
        }
        for name in ["actor", "images", "policy"] {
            copy(&mut own, doc, name, name);
        }
        if is_own {
            copy(&mut own, doc, "detail", "detail");
        } else {
            fields(detail).filter(is_own_detail).for_each(|e| own.append(&e));
        }
        own.end();
    }))
}

/// A gap where records have been removed by retention.
pub(super) fn expired_event(stream: &StreamId, expired: &std::ops::Range<i64>) -> Vec<u8> {
    Writer::build(|out| {
        head(out, &record_name(stream, expired.start), "gap");
        let mut own = archiver(out, stream, expired.start, "gap");
        let mut detail = own.begin_doc(b"detail");
        detail.str("reason", "removed by retention");
        detail.i64("endSeq", expired.end);
        detail.end();
        own.end();
    })
}

fn head(out: &mut Writer<'_>, name: &str, operation: &str) {
    let mut id = out.begin_doc(b"_id");
    id.str("_data", name);
    id.end();
    out.str("operationType", operation);
}

fn archiver<'w>(out: &'w mut Writer<'_>, stream: &StreamId, seq: i64, op: &str) -> Writer<'w> {
    let mut own = out.begin_doc(b"archiver");
    own.str("source", &stream.source);
    if let Some(partition) = stream.partition {
        own.i32("partition", partition as i32);
    }
    own.i64("seq", seq);
    own.str("op", op);
    own
}

/// As what a consumer of change events understands it.
fn operation_type<'a>(record: &Record<'a>) -> &'a str {
    match (record.op(), Found::of(record).map(|found| found.finding)) {
        ("snapshot", None | Some(Finding::Inserted)) => "insert",
        // Something else may have been there before.
        ("snapshot", Some(_)) => "replace",
        (op, _) => op,
    }
}

fn copy(out: &mut Writer<'_>, from: Doc<'_>, name: &str, to: &str) {
    if let Some(element) = from.get(name) {
        out.append_as(to, &element);
    }
}

fn fields(doc: Doc<'_>) -> impl Iterator<Item = Element<'_>> {
    doc.elements().map_while(std::result::Result::ok)
}

fn is_own_detail(element: &Element<'_>) -> bool {
    OWN_DETAILS.iter().any(|name| name.as_bytes() == element.name())
}

/// A document in canonical Extended JSON, as a line. Whether it says all there is: not so of names such as `$oid` as plain fields.
pub(super) fn line(document: &[u8], out: &mut String) -> Result<bool> {
    let doc = Doc::new(document).map_err(|e| Error::internal("an event can't be written").because(e))?;
    let is_exact = crate::archive::extjson::to_canonical(doc, out).is_none();
    out.push('\n');
    Ok(is_exact)
}
