//! Comparing what was recorded with what is known to have happened.

use std::collections::BTreeMap;

use bson::{Bson, Document, RawDocumentBuf};

use crate::oplog::{self, Change};
use crate::record::{at, integer, of, text, time};

/// What every document was after each of its changes.
pub type States = BTreeMap<i32, Vec<Option<RawDocumentBuf>>>;

/// Panics unless the records' seqs are 1, 2, 3, …
#[track_caller]
pub fn assert_dense(records: &[Document]) {
    for (record, expected) in records.iter().zip(1_i64..) {
        assert_eq!(integer(record, "_id"), expected, "seqs have a gap or a repeat");
    }
}

/// Panics unless the records tell the whole story of one collection: the changes they hold are the oplog's last ones,
/// exactly once and in order; every document has its insert or one snapshot, unless it was gone before the snapshot
/// came by; and every snapshot record and after-image is the document as it was at that very cluster time.
#[track_caller]
pub fn assert_complete(changes: &[Change], states: &States, records: &[Document]) {
    let recorded = oplog::recorded(records);
    assert!(recorded.len() <= changes.len(), "{} changes made {} records", changes.len(), recorded.len());
    let missing = changes.len() - recorded.len();
    for (n, (expected, found)) in changes[missing..].iter().zip(&recorded).enumerate() {
        assert_eq!(expected, found, "change {n} after the first {missing}");
    }
    let snapshot_end = of(records, &["snapshot"]).into_iter().map(time).max();
    for (id, times) in &versions(changes) {
        let is_about = |r: &&Document| at(r, "key._id") == Some(&Bson::Int32(*id));
        let about: Vec<_> = records.iter().filter(is_about).collect();
        let count = |op| about.iter().filter(|r| text(r, "op") == op).count();
        let gone_before = about.iter().any(|r| text(r, "op") == "delete" && Some(time(r)) <= snapshot_end)
            || about.is_empty() && states[id].last() == Some(&None);
        let beginnings = count("insert") + count("snapshot");
        assert!(beginnings > 0 || gone_before, "the history of {id} has no beginning: {about:?}");
        assert!(count("snapshot") <= 1, "{id} is in the baseline more than once");
        for record in about {
            check_image(record, times, &states[id]);
        }
    }
}

/// When each document changed, in order.
fn versions(changes: &[Change]) -> BTreeMap<i32, Vec<bson::Timestamp>> {
    let mut versions: BTreeMap<i32, Vec<_>> = BTreeMap::new();
    for change in changes {
        let Bson::Int32(id) = change.id else {
            panic!("an id that the workload did not make: {:?}", change.id)
        };
        versions.entry(id).or_default().push(change.time);
    }
    versions
}

#[track_caller]
fn check_image(record: &Document, times: &[bson::Timestamp], states: &[Option<RawDocumentBuf>]) {
    let Some(after) = at(record, "after") else { return };
    let now = time(record);
    let changes_so_far = times.iter().filter(|time| **time <= now).count();
    let state = changes_so_far.checked_sub(1).and_then(|n| states[n].as_ref());
    let state = state.unwrap_or_else(|| panic!("the document did not exist then: {record}"));
    let state: Document = bson::deserialize_from_slice(state.as_bytes()).expect("BSON");
    assert_eq!(after.as_document(), Some(&state), "in {record}");
}
