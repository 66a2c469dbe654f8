//! Compares one source's records with what happened.

use std::collections::{BTreeMap, BTreeSet};

use bson::{Bson, Document, Timestamp};

use super::{Contents, Delta, Event, Story};
use crate::record::{at, integer, must, text, time};
use crate::truth::assert_dense;

/// Records that are of no change event: of the baseline, and of the archiver's own doing.
const NO_EVENTS: [&str; 4] = ["snapshot", "policy", "gap", "recovery"];

/// What a source watches of the story's database.
#[derive(Debug, Clone, Copy)]
pub enum Watched<'a> {
    /// All of it.
    Everything,
    /// These collections.
    Collections(&'a [&'a str]),
}

impl Watched<'_> {
    pub(super) fn covers(self, event: &Event) -> bool {
        let Watched::Collections(names) = self else { return true };
        let is_watched = |name: &str| names.contains(&name);
        match (&event.collection, &event.contents) {
            (Some(from), Contents::Renamed(to)) => is_watched(from) || is_watched(to),
            (Some(name), _) => is_watched(name),
            (None, _) => true,
        }
    }

    fn covers_collection(self, name: &str) -> bool {
        match self {
            Watched::Everything => true,
            Watched::Collections(names) => names.contains(&name),
        }
    }
}

/// Panics unless a source's records, from its first seq on, tell the story: every event from the start of capture on exactly
/// once, in the oplog's order and with its contents, nothing else, and every document with a beginning.
#[track_caller]
pub fn assert_told(story: &Story, watched: Watched<'_>, records: &[Document]) {
    assert_dense(records);
    assert_eq!(text(&records[0], "op"), "policy", "what governs the first record");
    let is_event = |record: &&Document| !NO_EVENTS.contains(&text(record, "op")) && !is_found(record);
    let told: Vec<&Document> = records.iter().filter(is_event).collect();
    let happened: Vec<usize> =
        (0..story.events.len()).filter(|n| watched.covers(&story.events[*n])).collect();
    assert_each_has_its_other(story, &happened, &told);
    assert!(told.len() <= happened.len(), "{} events made {} records", happened.len(), told.len());
    let (missing, happened) = happened.split_at(happened.len() - told.len());
    for (event, record) in happened.iter().zip(&told) {
        assert_same(story, *event, record);
    }
    // The capture began no later than its first record was written.
    if let Some(last) = missing.last() {
        let event = &story.events[*last];
        assert!(event.time <= time(&records[0]), "an event of the time of capture has no record: {event:?}");
    }
    assert_in_order(records);
    assert_beginnings(story, watched, records);
}

/// Names the events without a record, and the records without an event, from the first record on.
#[track_caller]
fn assert_each_has_its_other(story: &Story, happened: &[usize], told: &[&Document]) {
    let Some(begin) = told.iter().map(|record| time(record)).min() else { return };
    let recorded: BTreeSet<Timestamp> = told.iter().map(|record| time(record)).collect();
    let events = happened.iter().map(|n| &story.events[*n]);
    let known: BTreeSet<Timestamp> = events.clone().map(|event| event.time).collect();
    let lost: Vec<&Event> =
        events.filter(|event| event.time > begin && !recorded.contains(&event.time)).collect();
    let invented: Vec<&&Document> = told.iter().filter(|record| !known.contains(&time(record))).collect();
    assert!(lost.is_empty(), "events without a record: {lost:#?}");
    assert!(invented.is_empty(), "records without an event: {invented:#?}");
}

/// Whether a record is of what a comparison behind a gap found.
fn is_found(record: &Document) -> bool {
    at(record, "detail.found").is_some()
}

#[track_caller]
fn assert_same(story: &Story, number: usize, record: &Document) {
    let event = &story.events[number];
    let name = |path| at(record, path).and_then(Bson::as_str);
    let told = (text(record, "op"), name("ns.db"), name("ns.coll"), at(record, "key._id"), time(record));
    let expected =
        (event.op, Some(story.database.as_str()), event.collection.as_deref(), event.id.as_ref(), event.time);
    assert_eq!(told, expected, "event {number} of {}", story.events.len());
    assert_eq!(at(record, "txn").is_some(), event.in_transaction, "in a transaction: {record}");
    match &event.contents {
        Contents::Whole(document) => assert_eq!(must(record, "after").as_document(), Some(document)),
        Contents::Parts(delta) => {
            let told = must(record, "delta").as_document().expect("a delta is a document");
            assert_eq!(&Delta::of_record(told), delta, "{record}");
        }
        Contents::Renamed(to) => assert_eq!(text(record, "detail.to.coll"), to),
        Contents::Nothing => {}
    }
    let (before, after) = story.states_around(number);
    for (image, state) in [("before", before), ("after", after)] {
        if let Some(image) = at(record, image) {
            assert_eq!(image.as_document(), state, "an image is the state at its time: {record}");
        }
    }
}

/// In the log, no change of a document stands before what was read of it earlier. One that the stream delivers late may stand
/// behind what was read later.
#[track_caller]
fn assert_in_order(records: &[Document]) {
    let mut changed: BTreeMap<(String, String), Timestamp> = BTreeMap::new();
    for record in records {
        let Some(id) = at(record, "key._id") else { continue };
        let (key, now) = ((text(record, "ns.coll").to_owned(), id.to_string()), time(record));
        let last = changed.get(&key);
        assert!(last.is_none_or(|last| *last <= now), "records of one document out of order: {record}");
        if text(record, "op") != "snapshot" {
            changed.insert(key, now);
        }
    }
}

/// What the records have told of one document so far.
#[derive(Debug, Clone, Copy)]
struct Known {
    /// Whether they say what it was at some moment, so that its changes can be applied.
    begun: bool,
    in_baseline: bool,
}

type Documents = BTreeMap<(String, String), Known>;

/// Every document's history begins with what it was, and has its baseline once. As readers do, in the order of time: what was
/// read of a document comes behind the changes of that time, and a late rename before what was read under the new name.
#[track_caller]
fn assert_beginnings(story: &Story, watched: Watched<'_>, records: &[Document]) {
    let mut documents = Documents::new();
    let mut history: Vec<&Document> = records.iter().collect();
    history.sort_by_key(|record| (time(record), text(record, "op") == "snapshot"));
    for record in history {
        let Some(collection) = at(record, "ns.coll").and_then(Bson::as_str) else { continue };
        let Some(id) = at(record, "key._id") else {
            follow_names(&mut documents, watched, collection, record);
            continue;
        };
        let unknown = Known { begun: false, in_baseline: false };
        let known = documents.entry((collection.to_owned(), id.to_string())).or_insert(unknown);
        match text(record, "op") {
            "snapshot" => {
                let state = story.state_at(collection, id, time(record));
                assert_eq!(must(record, "after").as_document(), state, "the baseline at its time: {record}");
                assert!(!known.in_baseline || is_found(record), "twice in the baseline: {record}");
                (known.begun, known.in_baseline) = (true, true);
            }
            "insert" | "replace" => known.begun = true,
            "delete" => known.begun = false,
            _ => {}
        }
    }
    for (collection, id, _) in story.present().filter(|(name, ..)| watched.covers_collection(name)) {
        let begun = documents.get(&(collection.to_owned(), id.to_owned())).is_some_and(|known| known.begun);
        assert!(
            begun,
            "the history of {collection} {id} has no beginning: {:#?}",
            told_of(records, collection, id)
        );
    }
}

/// What the records tell of one document, and of the names that its collection had.
fn told_of<'a>(records: &'a [Document], collection: &str, id: &str) -> Vec<&'a Document> {
    let concerns = |record: &&Document| {
        let names = [at(record, "ns.coll"), at(record, "detail.to.coll")];
        let of_collection = names.iter().flatten().any(|name| name.as_str() == Some(collection));
        match at(record, "key._id") {
            Some(key) => key.to_string() == id,
            None => of_collection || text(record, "op") == "gap",
        }
    };
    records.iter().filter(concerns).collect()
}

fn follow_names(documents: &mut Documents, watched: Watched<'_>, from: &str, record: &Document) {
    if !matches!(text(record, "op"), "rename" | "drop") {
        return;
    }
    let to = at(record, "detail.to.coll").and_then(Bson::as_str);
    if to.is_some() && !watched.covers_collection(from) {
        // Nothing is known of what came under this name: it is compared with what was there, and only the differences are told.
        let replaced = documents.iter_mut().filter(|((name, _), _)| Some(name.as_str()) == to);
        replaced.for_each(|(_, known)| known.in_baseline = false);
        return;
    }
    let moved: Vec<_> = documents
        .iter()
        .filter(|((name, _), _)| name == from)
        .map(|((_, id), known)| (id.clone(), *known))
        .collect();
    documents.retain(|(name, _), _| name != from && Some(name.as_str()) != to);
    if let Some(to) = to {
        // Under its new name the baseline may read it again.
        let again = |known| Known { in_baseline: false, ..known };
        documents.extend(moved.into_iter().map(|(id, known)| ((to.to_owned(), id), again(known))));
    }
}

/// Panics unless the checkpoint accounts for every record, and for everything that was read.
#[track_caller]
pub fn assert_counted(checkpoint: &Document, records: &[Document]) {
    let counters = must(checkpoint, "counters").as_document().expect("counters are a document");
    let number = |name| integer(counters, name);
    let dropped: i64 =
        counters.get_document("dropped").expect("a document").values().filter_map(Bson::as_i64).sum();
    let is_own = |r: &&Document| {
        matches!(text(r, "op"), "policy" | "gap" | "recovery") || (text(r, "op") == "delete" && is_found(r))
    };
    let own = records.iter().filter(is_own).count() as i64;
    let total = records.len() as i64;
    assert_eq!(number("read"), number("appended") + dropped, "{counters}");
    assert_eq!((number("appended"), number("own")), (total - own, own), "{counters}");
    assert_eq!(number("quarantined"), 0, "{counters}");
    assert_eq!(integer(checkpoint, "nextSeq"), total + 1, "{checkpoint}");
}
