//! The deltas of a real MongoDB, applied to the document before, give the bytes that MongoDB has stored after.

use archiver::history::document::{Contents, Unapplied, apply};
use archiver_tests::Server;
use archiver_tests::workload::seed;
use bson::{Bson, Decimal128, Document, RawDocumentBuf, Timestamp, doc, oid::ObjectId};
use bson_walker::Doc;
use mongodb::Collection;
use mongodb::change_stream::ChangeStream;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

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
        let mut filter = doc! {"_id": id.clone()};
        filter.extend(update.filter.clone());
        let mut action = match &update.change {
            Change::Operators(operators) => self.collection.update_one(filter, operators.clone()),
            Change::Pipeline(stages) => self.collection.update_one(filter, stages.clone()),
        };
        if !update.array_filters.is_empty() {
            action = action.array_filters(update.array_filters.clone());
        }
        // Random updates are often refused; a refused one changes nothing and makes no event.
        let Ok(result) = action.await else { return before };
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

#[derive(Debug)]
struct Update {
    filter: Document,
    change: Change,
    array_filters: Vec<Document>,
}

#[derive(Debug)]
enum Change {
    Operators(Document),
    Pipeline(Vec<Document>),
}

impl Update {
    fn operators(change: Document) -> Update {
        Update { filter: doc! {}, change: Change::Operators(change), array_filters: Vec::new() }
    }

    fn pipeline(stages: Vec<Document>) -> Update {
        Update { filter: doc! {}, change: Change::Pipeline(stages), array_filters: Vec::new() }
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

/// The last one is never tried on an array: an update that reaches one element as "1" and as "01" makes MongoDB 6.0.5
/// abort (an invariant of `document_diff_serialization.h`).
const NAMES: [&str; 10] = ["a", "b", "c", "d", "e", "0", "1", "2", "ü", "01"];
const DOTTED: [&str; 5] = ["a.b", "b.0", "a.b.c", "0.1", "c."];

fn value(rng: &mut StdRng, depth: usize, dotted: bool) -> Bson {
    match rng.random_range(0..if depth == 0 { 13 } else { 24 }) {
        0 => Bson::Int32(rng.random_range(-3..4)),
        1 => Bson::Int64(rng.random_range(-3..4)),
        2 => Bson::Double(f64::from(rng.random_range(-3..4)) / 2.0),
        3 => Bson::String("x".repeat(rng.random_range(0..9))),
        4 => Bson::Null,
        5 => Bson::Boolean(rng.random()),
        6 => Bson::DateTime(bson::DateTime::from_millis(rng.random())),
        7 => Bson::ObjectId(ObjectId::from_bytes(rng.random())),
        8 => Bson::Decimal128(Decimal128::from_bytes([7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x3e, 0x30])),
        9 => Bson::Timestamp(Timestamp { time: rng.random_range(1..9), increment: rng.random_range(1..9) }),
        10 => Bson::MinKey,
        11 => {
            Bson::Binary(bson::Binary { subtype: bson::spec::BinarySubtype::Generic, bytes: vec![1, 2, 3] })
        }
        12 => Bson::JavaScriptCode("f()".to_owned()),
        13..17 => Bson::Array((0..rng.random_range(0..7)).map(|_| value(rng, depth - 1, dotted)).collect()),
        _ => Bson::Document(document(rng, depth - 1, dotted)),
    }
}

fn document(rng: &mut StdRng, depth: usize, dotted: bool) -> Document {
    let mut document = Document::new();
    for _ in 0..rng.random_range(0..6) {
        let name = match dotted && rng.random_range(0..4) == 0 {
            true => DOTTED[rng.random_range(0..DOTTED.len())],
            false => NAMES[rng.random_range(0..NAMES.len())],
        };
        document.insert(name, value(rng, depth, dotted));
    }
    document
}

/// A path that often leads somewhere: down existing names, then perhaps one step beside.
fn path(rng: &mut StdRng, document: &Document) -> String {
    let mut steps: Vec<String> = Vec::new();
    let mut here = Bson::Document(document.clone());
    loop {
        let names: Vec<(String, Bson)> = match here {
            Bson::Document(d) => {
                d.into_iter().filter(|(n, _)| n != "_id" && n != "padding" && !n.contains('.')).collect()
            }
            Bson::Array(items) => items.into_iter().enumerate().map(|(i, v)| (i.to_string(), v)).collect(),
            _ => Vec::new(),
        };
        if names.is_empty() || rng.random_range(0..6) == 0 {
            steps.push(match rng.random_range(0..3) {
                0 => rng.random_range(0..9).to_string(),
                _ => NAMES[rng.random_range(0..NAMES.len() - 1)].to_owned(),
            });
            break;
        }
        let (name, value) = names[rng.random_range(0..names.len())].clone();
        steps.push(name);
        here = value;
        if rng.random_range(0..3) == 0 {
            break;
        }
    }
    steps.join(".")
}

/// The path of some array in the document.
fn array_path(rng: &mut StdRng, document: &Document) -> String {
    fn collect(prefix: &str, value: &Bson, found: &mut Vec<String>) {
        let below = |name: &str| if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") };
        match value {
            Bson::Document(d) => {
                d.iter().filter(|(n, _)| !n.contains('.')).for_each(|(n, v)| collect(&below(n), v, found))
            }
            Bson::Array(items) => {
                found.push(prefix.to_owned());
                items.iter().enumerate().for_each(|(i, v)| collect(&below(&i.to_string()), v, found));
            }
            _ => {}
        }
    }
    let mut found = Vec::new();
    collect("", &Bson::Document(document.clone()), &mut found);
    if found.is_empty() { path(rng, document) } else { found.swap_remove(rng.random_range(0..found.len())) }
}

fn push(rng: &mut StdRng) -> Document {
    let each: Vec<Bson> = (0..rng.random_range(0..4)).map(|_| value(rng, 1, false)).collect();
    let mut push = doc! {"$each": each};
    if rng.random() {
        push.insert("$position", rng.random_range(-2..5));
    }
    if rng.random() {
        push.insert("$slice", rng.random_range(-4..5));
    }
    if rng.random_range(0..4) == 0 {
        push.insert("$sort", 1);
    }
    push
}

fn operators(rng: &mut StdRng, document: &Document) -> Document {
    let mut update = Document::new();
    for _ in 0..rng.random_range(1..4) {
        let at = path(rng, document);
        let array = array_path(rng, document);
        let (operator, path, value) = match rng.random_range(0..20) {
            0..6 => ("$set", at, value(rng, 2, false)),
            6..8 => ("$unset", at, Bson::Int32(1)),
            8 => ("$inc", at, Bson::Int32(1)),
            9 => ("$mul", at, Bson::Double(2.0)),
            10 => ("$min", at, value(rng, 0, false)),
            11 => ("$max", at, value(rng, 0, false)),
            12..14 => ("$push", array, Bson::Document(push(rng))),
            14 => ("$pull", array, Bson::Document(doc! {"$type": "number"})),
            15 => ("$pop", array, Bson::Int32(if rng.random() { 1 } else { -1 })),
            16 => ("$addToSet", array, value(rng, 1, false)),
            17 => ("$rename", at, Bson::String(self::path(rng, document))),
            18 => ("$bit", at, Bson::Document(doc! {"or": 4})),
            _ => ("$currentDate", at, Bson::Boolean(true)),
        };
        if update.get_document(operator).is_err() {
            update.insert(operator, doc! {});
        }
        update.get_document_mut(operator).unwrap().insert(path, value);
    }
    update
}

fn in_arrays(rng: &mut StdRng, document: &Document) -> Update {
    let array = array_path(rng, document);
    let new = value(rng, 1, false);
    match rng.random_range(0..4) {
        0 => Update::operators(doc! {"$set": {format!("{array}.$[]"): new}}),
        1 => Update {
            array_filters: vec![doc! {"e": {"$type": "number"}}],
            ..Update::operators(doc! {"$set": {format!("{array}.$[e]"): new}})
        },
        2 => Update::operators(doc! {"$set": {format!("{array}.$[].k"): new}}),
        _ => Update {
            filter: doc! {&array: {"$type": "number"}},
            ..Update::operators(doc! {"$set": {format!("{array}.$"): new}})
        },
    }
}

/// A pipeline that leaves every field it keeps in its place.
fn pipeline(rng: &mut StdRng, document: &Document, dotted: bool) -> Vec<Document> {
    let names: Vec<String> =
        document.keys().filter(|n| *n != "_id" && *n != "padding" && !n.contains('.')).cloned().collect();
    let name = match names.len() {
        0 => "a".to_owned(),
        n => names[rng.random_range(0..n)].clone(),
    };
    let field = format!("${name}");
    let literal = doc! {"$literal": value(rng, 2, dotted)};
    let size = rng.random_range(0..6);
    match rng.random_range(0..if dotted { 9 } else { 7 }) {
        0 => vec![doc! {"$set": {name: literal}}],
        1 => vec![doc! {"$unset": [name, "nothing"]}],
        2 => vec![doc! {"$set": {name: {"$slice": [&field, size + 1]}}}],
        3 => vec![doc! {"$set": {name: {"$concatArrays": [{"$slice": [&field, size + 1]}, [1, literal]]}}}],
        4 => vec![doc! {"$replaceWith": {"$mergeObjects": ["$$ROOT", {name: literal, "new": 1}]}}],
        5 => {
            let cut = doc! {"$cond": [{"$isArray": "$$this"}, {"$slice": ["$$this", 2]}, "$$this"]};
            vec![doc! {"$set": {name: {"$map": {"input": &field, "in": cut}}}}]
        }
        6 => vec![doc! {"$set": {format!("{name}.new"): size, format!("{name}.d"): literal}}],
        7 => {
            let field = DOTTED[rng.random_range(0..DOTTED.len())];
            // Making it where a nested field could be meant is told by nothing before 6.1: the known limit.
            let parent = field.split('.').next().and_then(|parent| document.get(parent));
            let hidden = matches!(parent, Some(Bson::Document(_) | Bson::Array(_)));
            let set = doc! {"$setField": {"field": field, "input": "$$ROOT", "value": size}};
            vec![if hidden {
                doc! {"$set": {"new": 2}}
            } else {
                doc! {"$replaceWith": set}
            }]
        }
        _ => match document.keys().find(|k| k.contains('.')) {
            Some(dotted) => {
                let set = doc! {"$setField": {"field": dotted, "input": "$$ROOT", "value": size}};
                vec![doc! {"$replaceWith": set}]
            }
            None => vec![doc! {"$set": {"new": 1}}],
        },
    }
}

fn update(rng: &mut StdRng, document: &Document, dotted: bool) -> Update {
    match rng.random_range(0..10) {
        0 if dotted => {
            let path = DOTTED[rng.random_range(0..4)];
            Update::operators(doc! {"$set": {path: value(rng, 1, dotted)}})
        }
        0..6 => Update::operators(operators(rng, document)),
        6 => in_arrays(rng, document),
        _ => Update::pipeline(pipeline(rng, document, dotted)),
    }
}

async fn run(server: &Server, seed: u64, dotted: bool) -> Trial {
    let mut trial = Trial::new(server, seed).await;
    for number in 0..DOCUMENTS {
        let mut first = doc! {"_id": number as i64};
        first.extend(document(&mut trial.rng, 3, dotted));
        // With a large part that stays, MongoDB reports pipeline updates as deltas and not as replacements.
        first.insert("padding", "p".repeat(1_000));
        let mut state = trial.insert(&first).await;
        for _ in 0..UPDATES {
            let change = update(&mut trial.rng, &decoded(&state), dotted);
            state = trial.update(state, &change).await;
        }
    }
    trial
}

#[tokio::test]
async fn random_updates_give_the_stored_bytes() {
    let server = Server::shared().await;
    let trial = run(&server, seed(), false).await;
    println!("exact {} replaced {}", trial.exact, trial.replaced);
    assert_eq!(trial.ambiguous, 0);
    assert!(trial.exact > DOCUMENTS * UPDATES / 4, "only {} deltas", trial.exact);
}

#[tokio::test]
async fn names_with_dots_are_exact_or_ambiguous_and_never_wrong() {
    let server = Server::shared().await;
    let trial = run(&server, seed(), true).await;
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
