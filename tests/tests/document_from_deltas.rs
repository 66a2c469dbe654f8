//! The deltas of a real MongoDB, applied to the document before, give the bytes that MongoDB has stored after.

use archiver::history::document::{Contents, Unapplied, apply};
use archiver_tests::Server;
use archiver_tests::updates::{Names, Update, document, update};
use archiver_tests::workload::seed;
use bson::{Bson, Document, RawDocumentBuf, doc};
use bson_walker::Doc;
use mongodb::Collection;
use mongodb::change_stream::ChangeStream;
use rand::SeedableRng;
use rand::rngs::StdRng;

const DOCUMENTS: usize = 150;
const UPDATES: usize = 12;

/// One collection, its change stream, and what the deltas did so far.
struct Trial {
    rng: StdRng,
    collection: Collection<Document>,
    stream: ChangeStream<RawDocumentBuf>,
    exact: usize,
    ambiguous: usize,
    replaced: usize,
}

impl Trial {
    async fn new(server: &Server, seed: u64) -> Trial {
        let name = format!("deltas_{:08x}", rand::random::<u32>());
        let collection = server.client().database(&name).collection("documents");
        collection.insert_one(doc! {"_id": "first"}).await.unwrap();
        let stream = collection.watch().show_expanded_events(true).await.unwrap();
        let rng = StdRng::seed_from_u64(seed);
        Trial { rng, collection, stream: stream.with_type(), exact: 0, ambiguous: 0, replaced: 0 }
    }

    async fn stored(&self, id: &Bson) -> RawDocumentBuf {
        let raw = self.collection.clone_with_type::<RawDocumentBuf>();
        raw.find_one(doc! {"_id": id.clone()}).await.unwrap().unwrap()
    }

    async fn next_event(&mut self) -> RawDocumentBuf {
        loop {
            if let Some(event) = self.stream.next_if_any().await.unwrap() {
                return event;
            }
        }
    }

    /// Inserts a document; its event is read.
    async fn insert(&mut self, document: &Document) -> RawDocumentBuf {
        self.collection.insert_one(document).await.unwrap();
        self.next_event().await;
        self.stored(&document.get("_id").unwrap().clone()).await
    }

    /// Makes one update, and compares what its event says with what is stored.
    async fn update(&mut self, before: RawDocumentBuf, update: &Update) -> RawDocumentBuf {
        let id: Bson = before.get("_id").unwrap().unwrap().try_into().unwrap();
        // Random updates are often refused; a refused one changes nothing and makes no event.
        let Ok(result) = update.apply(&self.collection, &id).await else { return before };
        if result.modified_count == 0 {
            return before;
        }
        let after = self.stored(&id).await;
        let event = self.next_event().await;
        match event.get_str("operationType").unwrap() {
            "replace" => {
                let full = event.get_document("fullDocument").unwrap();
                assert_eq!(full.as_bytes(), after.as_bytes(), "a replacement is not what is stored");
                self.replaced += 1;
            }
            "update" => self.compare(&before, &event, &after, update),
            other => panic!("an update made a {other}"),
        }
        after
    }

    fn compare(
        &mut self,
        before: &RawDocumentBuf,
        event: &RawDocumentBuf,
        after: &RawDocumentBuf,
        update: &Update,
    ) {
        let description = event.get_document("updateDescription").unwrap();
        let delta = Doc::new(description.as_bytes()).unwrap();
        match apply(before.as_bytes(), delta, Contents::Full) {
            Ok(built) if built == after.as_bytes() => self.exact += 1,
            Ok(built) => {
                let built = decoded(&RawDocumentBuf::from_bytes(built).unwrap());
                panic!(
                    "not what is stored\n{update:?}\n{description:?}\nbuilt  {built}\nstored {}",
                    decoded(after)
                )
            }
            Err(Unapplied::Ambiguous) if has_dotted_name(before) || has_dotted_name(after) => {
                self.ambiguous += 1
            }
            Err(error) => panic!("{error}\n{update:?}\n{description:?}\nstored {}", decoded(after)),
        }
    }
}

fn decoded(document: &RawDocumentBuf) -> Document {
    document.as_ref().try_into().unwrap()
}

fn has_dotted_name(document: &RawDocumentBuf) -> bool {
    fn in_value(value: &Bson) -> bool {
        match value {
            Bson::Document(d) => d.iter().any(|(name, value)| name.contains('.') || in_value(value)),
            Bson::Array(items) => items.iter().any(in_value),
            _ => false,
        }
    }
    in_value(&Bson::Document(decoded(document)))
}

async fn run(server: &Server, seed: u64, names: Names) -> Trial {
    let mut trial = Trial::new(server, seed).await;
    for number in 0..DOCUMENTS {
        let mut first = doc! {"_id": number as i64};
        first.extend(document(&mut trial.rng, 3, names));
        // With a large part that stays, MongoDB reports pipeline updates as deltas and not as replacements.
        first.insert("padding", "p".repeat(1_000));
        let mut state = trial.insert(&first).await;
        for _ in 0..UPDATES {
            let change = update(&mut trial.rng, &decoded(&state), names);
            state = trial.update(state, &change).await;
        }
    }
    trial
}

#[tokio::test]
async fn random_updates_give_the_stored_bytes() {
    let server = Server::shared().await;
    let trial = run(&server, seed(), Names::Numbers).await;
    println!("exact {} replaced {}", trial.exact, trial.replaced);
    assert_eq!(trial.ambiguous, 0);
    assert!(trial.exact > DOCUMENTS * UPDATES / 4, "only {} deltas", trial.exact);
}

#[tokio::test]
async fn names_with_dots_are_exact_or_ambiguous_and_never_wrong() {
    let server = Server::shared().await;
    let trial = run(&server, seed(), Names::Dotted).await;
    println!("exact {} ambiguous {} replaced {}", trial.exact, trial.ambiguous, trial.replaced);
    assert!(trial.exact > DOCUMENTS * UPDATES / 8, "only {} deltas", trial.exact);
    assert!(trial.ambiguous > 0);
}

#[tokio::test]
async fn a_moved_field_is_told_from_one_set_in_place_where_the_delta_shows_it() {
    let server = Server::shared().await;
    let mut trial = Trial::new(&server, 0).await;
    let padding = "p".repeat(1_000);
    let first = doc! {"_id": 1, "x": 1, "y": 2, "z": 3, "padding": &padding};
    let before = trial.insert(&first).await;
    // `_id` comes first in `updatedFields`, which says that what follows was moved.
    let moved = doc! {"padding": &padding, "_id": "$_id", "z": 4, "y": 5, "x": 6};
    let after = trial.update(before, &Update::pipeline(vec![doc! {"$replaceWith": moved}])).await;
    let names: Vec<_> = decoded(&after).keys().cloned().collect();
    assert_eq!(names, ["_id", "padding", "z", "y", "x"]);
    assert_eq!(trial.exact, 1);
}
