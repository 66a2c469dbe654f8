//! Random documents, and updates of every kind that MongoDB has for them.

use bson::{Bson, Decimal128, Document, Timestamp, doc, oid::ObjectId};
use mongodb::Collection;
use mongodb::results::UpdateResult;
use rand::RngExt;
use rand::rngs::StdRng;

/// One update of one document.
#[derive(Debug, Clone)]
pub struct Update {
    /// What the document must match besides its `_id`.
    pub filter: Document,
    /// What is done to it.
    pub change: Change,
    /// Which elements `$[e]` stands for.
    pub array_filters: Vec<Document>,
}

/// What an update does.
#[derive(Debug, Clone)]
pub enum Change {
    /// By operators.
    Operators(Document),
    /// By an aggregation pipeline.
    Pipeline(Vec<Document>),
}

impl Update {
    /// By operators, whatever the document.
    pub fn operators(change: Document) -> Update {
        Update { filter: doc! {}, change: Change::Operators(change), array_filters: Vec::new() }
    }

    /// By a pipeline, whatever the document.
    pub fn pipeline(stages: Vec<Document>) -> Update {
        Update { filter: doc! {}, change: Change::Pipeline(stages), array_filters: Vec::new() }
    }

    /// Applies it to the document with this `_id`. Random updates are often refused; a refused one changes nothing.
    pub async fn apply(
        &self,
        collection: &Collection<Document>,
        id: &Bson,
    ) -> mongodb::error::Result<UpdateResult> {
        let mut filter = doc! {"_id": id.clone()};
        filter.extend(self.filter.clone());
        let mut action = match &self.change {
            Change::Operators(operators) => collection.update_one(filter, operators.clone()),
            Change::Pipeline(stages) => collection.update_one(filter, stages.clone()),
        };
        if !self.array_filters.is_empty() {
            action = action.array_filters(self.array_filters.clone());
        }
        action.await
    }
}

/// What the names in random documents may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    /// Letters; and no update makes MongoDB fill an array up with nulls.
    Plain,
    /// Numbers too, which in a path look like indexes.
    Numbers,
    /// And such as hold dots.
    Dotted,
}

impl Names {
    /// As the operators take them: without dots.
    fn undotted(self) -> Names {
        if self == Names::Dotted { Names::Numbers } else { self }
    }
}

/// The last one is never tried on an array: an update that reaches one element as "1" and as "01" makes MongoDB 6.0.5
/// abort (an invariant of `document_diff_serialization.h`).
const NAMES: [&str; 10] = ["a", "b", "c", "d", "e", "ü", "0", "1", "2", "01"];
/// How many of them are no numbers.
const LETTERS: usize = 6;
const DOTTED: [&str; 5] = ["a.b", "b.0", "a.b.c", "0.1", "c."];

fn value(rng: &mut StdRng, depth: usize, names: Names) -> Bson {
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
        13..17 => Bson::Array((0..rng.random_range(0..7)).map(|_| value(rng, depth - 1, names)).collect()),
        _ => Bson::Document(document(rng, depth - 1, names)),
    }
}

/// A document without `_id`, nested this deep; with names that hold dots, or without.
pub fn document(rng: &mut StdRng, depth: usize, names: Names) -> Document {
    let mut document = Document::new();
    for _ in 0..rng.random_range(0..6) {
        let name = match names {
            Names::Dotted if rng.random_range(0..4) == 0 => DOTTED[rng.random_range(0..DOTTED.len())],
            Names::Plain => NAMES[rng.random_range(0..LETTERS)],
            _ => NAMES[rng.random_range(0..NAMES.len())],
        };
        document.insert(name, value(rng, depth, names));
    }
    document
}

/// A path that often leads somewhere: down existing names, then perhaps one step beside.
fn path_in(rng: &mut StdRng, document: &Document, names: Names) -> String {
    let mut steps: Vec<String> = Vec::new();
    let mut here = Bson::Document(document.clone());
    loop {
        let in_array = matches!(here, Bson::Array(_));
        let below: Vec<(String, Bson)> = match here {
            Bson::Document(d) => {
                d.into_iter().filter(|(n, _)| n != "_id" && n != "padding" && !n.contains('.')).collect()
            }
            Bson::Array(items) => items.into_iter().enumerate().map(|(i, v)| (i.to_string(), v)).collect(),
            _ => Vec::new(),
        };
        if below.is_empty() || rng.random_range(0..6) == 0 {
            steps.push(match rng.random_range(0..3) {
                0 if in_array && names == Names::Plain => rng.random_range(0..=below.len()).to_string(),
                0 if names != Names::Plain => rng.random_range(0..9).to_string(),
                _ if names == Names::Plain => NAMES[rng.random_range(0..LETTERS)].to_owned(),
                _ => NAMES[rng.random_range(0..NAMES.len() - 1)].to_owned(),
            });
            break;
        }
        let (name, value) = below[rng.random_range(0..below.len())].clone();
        steps.push(name);
        here = value;
        if rng.random_range(0..3) == 0 {
            break;
        }
    }
    steps.join(".")
}

/// The path of some array in the document.
fn array_path(rng: &mut StdRng, document: &Document, names: Names) -> String {
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
    if found.is_empty() {
        path_in(rng, document, names)
    } else {
        found.swap_remove(rng.random_range(0..found.len()))
    }
}

fn push(rng: &mut StdRng, names: Names) -> Document {
    let each: Vec<Bson> = (0..rng.random_range(0..4)).map(|_| value(rng, 1, names)).collect();
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

fn operators(rng: &mut StdRng, document: &Document, names: Names) -> Document {
    let names = names.undotted();
    let mut update = Document::new();
    for _ in 0..rng.random_range(1..4) {
        let at = path_in(rng, document, names);
        let array = array_path(rng, document, names);
        let (operator, path, value) = match rng.random_range(0..23) {
            0..6 => ("$set", at, value(rng, 2, names)),
            6..8 => ("$unset", at, Bson::Int32(1)),
            8 => ("$inc", at, Bson::Int32(1)),
            9 => ("$mul", at, Bson::Double(2.0)),
            10 => ("$min", at, value(rng, 0, names)),
            11 => ("$max", at, value(rng, 0, names)),
            12..14 => ("$push", array, Bson::Document(push(rng, names))),
            14 => ("$pull", array, Bson::Document(doc! {"$type": "number"})),
            15 => ("$pop", array, Bson::Int32(if rng.random() { 1 } else { -1 })),
            16 => ("$addToSet", array, value(rng, 1, names)),
            17 => ("$rename", at, Bson::String(path_in(rng, document, names))),
            18 => ("$bit", at, Bson::Document(doc! {["or", "and", "xor"][rng.random_range(0..3)]: 5})),
            20 => {
                let gone: Vec<Bson> = (0..3).map(|_| value(rng, 0, names)).collect();
                ("$pullAll", array, Bson::Array(gone))
            }
            21 => {
                let each: Vec<Bson> = (0..3).map(|_| value(rng, 1, names)).collect();
                ("$addToSet", array, Bson::Document(doc! {"$each": each}))
            }
            22 => ("$push", array, value(rng, 1, names)),
            _ => ("$currentDate", at, Bson::Boolean(true)),
        };
        if update.get_document(operator).is_err() {
            update.insert(operator, doc! {});
        }
        update.get_document_mut(operator).unwrap().insert(path, value);
    }
    update
}

fn in_arrays(rng: &mut StdRng, document: &Document, names: Names) -> Update {
    let array = array_path(rng, document, names);
    let new = value(rng, 1, names);
    match rng.random_range(0..7) {
        0 => Update::operators(doc! {"$set": {format!("{array}.$[]"): new}}),
        1 => Update {
            array_filters: vec![doc! {"e": {"$type": "number"}}],
            ..Update::operators(doc! {"$set": {format!("{array}.$[e]"): new}})
        },
        2 => Update::operators(doc! {"$set": {format!("{array}.$[].k"): new}}),
        3 => Update {
            array_filters: vec![doc! {"e": {"$type": "object"}}],
            ..Update::operators(
                doc! {"$set": {format!("{array}.$[e].a"): new}, "$unset": {format!("{array}.$[e].b"): 1}},
            )
        },
        4 => Update {
            array_filters: vec![doc! {"e": {"$type": "array"}}],
            ..Update::operators(doc! {"$push": {format!("{array}.$[e]"): new}})
        },
        5 => Update {
            filter: doc! {&array: {"$type": "object"}},
            ..Update::operators(doc! {"$set": {format!("{array}.$.c"): new}})
        },
        _ => Update {
            filter: doc! {&array: {"$type": "number"}},
            ..Update::operators(doc! {"$set": {format!("{array}.$"): new}})
        },
    }
}

/// A pipeline that leaves every field it keeps in its place.
fn pipeline(rng: &mut StdRng, document: &Document, names: Names) -> Vec<Document> {
    let fields: Vec<String> =
        document.keys().filter(|n| *n != "_id" && *n != "padding" && !n.contains('.')).cloned().collect();
    let name = match fields.len() {
        0 => "a".to_owned(),
        n => fields[rng.random_range(0..n)].clone(),
    };
    let field = format!("${name}");
    let literal = doc! {"$literal": value(rng, 2, names)};
    let size = rng.random_range(0..6);
    match rng.random_range(0..if names == Names::Dotted { 9 } else { 7 }) {
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

/// An update that has a good chance of changing this document.
pub fn update(rng: &mut StdRng, document: &Document, names: Names) -> Update {
    match rng.random_range(0..10) {
        0 if names == Names::Dotted => {
            let path = DOTTED[rng.random_range(0..4)];
            Update::operators(doc! {"$set": {path: value(rng, 1, names)}})
        }
        0..6 => Update::operators(operators(rng, document, names)),
        6 => in_arrays(rng, document, names.undotted()),
        _ => Update::pipeline(pipeline(rng, document, names)),
    }
}
