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
    let snapshot_times = of(records, &["snapshot"]).into_iter().map(time);
    let (snapshot_begin, snapshot_end) = (snapshot_times.clone().min(), snapshot_times.max());
    if let (Some(begin), Some(last_missing)) = (snapshot_begin, changes[..missing].last()) {
        assert!(last_missing.time <= begin, "the stream began after the snapshot: {last_missing:?} is lost");
    }
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

#[cfg(test)]
mod tests {
    use bson::{Timestamp, doc};

    use super::*;

    /// Two documents, three changes, and the records that tell of them.
    fn story() -> (Vec<Change>, States, Vec<Document>) {
        let raw = |d: Document| Some(RawDocumentBuf::try_from(&d).expect("BSON"));
        let change = |time, op: &str, id| Change {
            time: Timestamp { time, increment: 1 },
            op: op.to_owned(),
            namespace: "shop.orders".to_owned(),
            id: Bson::Int32(id),
        };
        let changes = vec![change(5, "insert", 1), change(6, "update", 1), change(7, "insert", 2)];
        let one = vec![raw(doc! {"_id": 1, "n": 0}), raw(doc! {"_id": 1, "n": 1})];
        let states = States::from([(1, one), (2, vec![raw(doc! {"_id": 2, "n": 0})])]);
        let record = |seq: i64, op: &str, time, id: i32, after: Document| {
            let ns = doc! {"db": "shop", "coll": "orders"};
            let time = Timestamp { time, increment: 1 };
            doc! {"_id": seq, "op": op, "ns": ns, "key": {"_id": id}, "clusterTime": time, "after": after}
        };
        let records = vec![
            record(1, "snapshot", 5, 1, doc! {"_id": 1, "n": 0}),
            record(2, "update", 6, 1, doc! {"_id": 1, "n": 1}),
            record(3, "insert", 7, 2, doc! {"_id": 2, "n": 0}),
        ];
        (changes, states, records)
    }

    fn complains(spoil: impl FnOnce(&mut Vec<Document>)) -> bool {
        let (changes, states, mut records) = story();
        spoil(&mut records);
        let check = move || {
            assert_dense(&records);
            assert_complete(&changes, &states, &records);
        };
        std::panic::catch_unwind(check).is_err()
    }

    #[test]
    fn the_truth_is_accepted_and_every_untruth_is_noticed() {
        assert!(!complains(|_| {}), "the story is true");
        assert!(complains(|r| drop(r.remove(1))), "a lost record");
        assert!(complains(|r| r.push(r[2].clone())), "a repeated record");
        assert!(complains(|r| r.swap(1, 2)), "another order");
        assert!(complains(|r| drop(r.remove(0))), "no baseline");
        assert!(complains(|r| drop(r[1].insert("after", doc! {"_id": 1, "n": 0}))), "a wrong image");
        assert!(
            complains(|r| drop(r[0].insert("clusterTime", Timestamp { time: 6, increment: 1 }))),
            "a wrong time"
        );
    }

    #[test]
    fn a_lost_record_that_leaves_no_gap_in_seq_is_noticed_too() {
        let renumber = |r: &mut Vec<Document>| {
            r.remove(1);
            r[1].insert("_id", 2_i64);
        };
        assert!(complains(renumber));
    }
}
