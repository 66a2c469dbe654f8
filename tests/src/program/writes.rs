//! What a program writes: random commands on documents that are there, that were there, and that never were.

use bson::spec::BinarySubtype;
use bson::{Binary, Bson, DateTime, Document, Timestamp, doc, oid::ObjectId};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, RngExt};

use super::{Key, Kind, Program, id_key, id_of};
use crate::bytes::{self, every_type};
use crate::updates::{self, Change, Update};

/// How many documents a program's collections have at most.
const IDS: usize = 9;

/// Random `_id`s of every type.
pub fn ids(rng: &mut StdRng) -> Vec<Bson> {
    let binary = |subtype, bytes: &[u8]| Bson::Binary(Binary { subtype, bytes: bytes.to_vec() });
    let mut all = vec![
        Bson::Int32(7),
        Bson::Int32(0),
        Bson::Int64(-3),
        Bson::Double(2.5),
        Bson::Double(f64::NAN),
        Bson::Int64((1 << 53) + 1),
        "a".into(),
        "7".into(),
        "".into(),
        "Grüße \"x\"".into(),
        "l".repeat(5_000).into(),
        ObjectId::from_bytes([9; 12]).into(),
        binary(BinarySubtype::Uuid, &[7; 16]),
        binary(BinarySubtype::Generic, b"x"),
        DateTime::from_millis(-5).into(),
        doc! {"a": 1, "b": {"c": "x"}}.into(),
        doc! {}.into(),
        Timestamp { time: 3, increment: 7 }.into(),
        Bson::Decimal128("2.50".parse().expect("a number")),
        Bson::MinKey,
        Bson::MaxKey,
        Bson::Null,
        true.into(),
    ];
    all.shuffle(rng);
    all.truncate(IDS);
    all
}

impl Program {
    fn any_kind(&mut self) -> Kind {
        [Kind::Plain, Kind::Plain, Kind::Numbers, Kind::Numbers, Kind::Moved, Kind::Dotted, Kind::Images]
            [self.rng.random_range(0..7)]
    }

    /// One of the `_id`s, a whole number as any type of number.
    fn any_id(&mut self) -> Bson {
        let id = self.ids[self.rng.random_range(0..self.ids.len())].clone();
        self.any_form(id)
    }

    fn any_form(&mut self, id: Bson) -> Bson {
        let n = match id {
            Bson::Int32(n) => i64::from(n),
            Bson::Int64(n) if n < 1 << 31 => n,
            _ => return id,
        };
        match self.rng.random_range(0..6) {
            0 => Bson::Int64(n),
            1 => Bson::Double(n as f64),
            _ => Bson::Int32(n as i32),
        }
    }

    /// The `_id` of a document that is there; of any, where none is.
    fn live_id(&mut self, kind: Kind) -> Bson {
        let live: Vec<Key> = self.present.keys().filter(|key| key.0 == kind).cloned().collect();
        if live.is_empty() {
            return self.any_id();
        }
        id_of(&self.present[&live[self.rng.random_range(0..live.len())]])
    }

    fn document(&mut self, kind: Kind) -> Document {
        let rng = &mut self.rng;
        let mut document = updates::document(rng, 3, kind.names());
        if rng.random_range(0..4) > 0 {
            // With a large part that stays, MongoDB reports pipeline updates as deltas and not as replacements.
            document.insert("padding", "p".repeat(1_000));
        }
        if rng.random_range(0..3) == 0 {
            let every = Document::try_from(every_type(bytes::id(0))).expect("BSON");
            let every: Vec<(String, Bson)> = every.into_iter().filter(|(name, _)| name != "_id").collect();
            for _ in 0..3 {
                let (name, value) = every[rng.random_range(0..every.len())].clone();
                // Only in words of letters do paths lead through them everywhere.
                let name = if kind == Kind::Plain { "e".to_owned() } else { name.replace('.', " ") };
                document.insert(name, value);
            }
        }
        if kind != Kind::Plain && rng.random_range(0..6) == 0 {
            document.insert("", doc! {"": [{"": 1}, []], "$x": 1});
        }
        if rng.random_range(0..25) == 0 {
            document.insert("d", "long ".repeat(60_000));
        }
        if rng.random_range(0..8) == 0 {
            let depth = rng.random_range(5..60);
            let deep = (0..depth).fold(Bson::Int32(1), |inner, n| match n % 3 {
                0 => Bson::Array(vec![Bson::Null, inner]),
                _ => Bson::Document(doc! {"a": inner, "b": n}),
            });
            document.insert("c", deep);
        }
        document
    }

    fn with_id(&mut self, kind: Kind, id: Bson) -> Document {
        let mut document = doc! {"_id": id};
        document.extend(self.document(kind));
        document
    }

    /// What is known to be there under this `_id`, for updates that fit it.
    fn there(&self, kind: Kind, id: &Bson) -> Document {
        let found = self.present.get(&(kind, id_key(id)));
        found.and_then(|raw| Document::try_from(raw.clone()).ok()).unwrap_or_default()
    }

    fn update(&mut self, kind: Kind, id: &Bson) -> Update {
        let there = self.there(kind, id);
        if kind == Kind::Images && self.rng.random_range(0..5) == 0 {
            return moving(&mut self.rng, &there);
        }
        // It may meet another document than it is made for, where "01" and "1" reach one element: see `updates`. And where a pipeline
        // makes a name with a dot like a path, which nothing tells from the nested field before MongoDB 6.1.
        loop {
            let update = updates::update(&mut self.rng, &there, kind.names());
            let Change::Operators(operators) = &update.change else {
                let makes_dots = format!("{update:?}").contains("$setField");
                if makes_dots && kind == Kind::Dotted && !self.is_fit {
                    continue;
                }
                return update;
            };
            let mut paths = operators.values().filter_map(Bson::as_document).flat_map(Document::keys);
            if !paths.any(|path| path.split('.').any(|name| name == "01")) {
                return update;
            }
        }
    }

    /// One statement of an `update` command.
    fn statement(&mut self, kind: Kind) -> Document {
        let id = self.live_id(kind);
        match self.rng.random_range(0..10) {
            0 | 1 => {
                let (upsert, new_id) = (self.rng.random::<bool>(), self.any_form(id.clone()));
                // An `_id` may be left out, and be an equal number of another type.
                let new = match self.rng.random_range(0..3) {
                    0 => self.document(kind),
                    _ => self.with_id(kind, new_id),
                };
                doc! {"q": {"_id": id}, "u": new, "upsert": upsert}
            }
            2 => {
                let id = self.any_id();
                let Update { change, .. } = Update::operators(doc! {
                    "$setOnInsert": {"new": self.document(kind)}, "$inc": {"n": 1}, "$push": {"list": 1_i64},
                });
                doc! {"q": {"_id": id}, "u": as_bson(change), "upsert": true}
            }
            3 => {
                self.is_fit = false;
                let Update { change, array_filters, .. } = self.update(kind, &id);
                let mut statement = doc! {"q": {}, "u": as_bson(change), "multi": true};
                if !array_filters.is_empty() {
                    statement.insert("arrayFilters", array_filters);
                }
                statement
            }
            _ => {
                let Update { filter, change, array_filters } = self.update(kind, &id);
                let mut query = doc! {"_id": id};
                query.extend(filter);
                let mut statement = doc! {"q": query, "u": as_bson(change)};
                if !array_filters.is_empty() {
                    statement.insert("arrayFilters", array_filters);
                }
                statement
            }
        }
    }

    /// A random write on one collection.
    pub(super) fn command(&mut self) -> (Kind, Document) {
        let kind = self.any_kind();
        let collection = self.collection(kind);
        let empty = !self.present.keys().any(|key| key.0 == kind);
        let command = match self.rng.random_range(if empty { 0..2 } else { 0..20 }) {
            0 => {
                let id = self.any_id();
                doc! {"insert": collection, "documents": [self.with_id(kind, id)]}
            }
            1 => {
                let ids: Vec<Bson> = (0..3).map(|_| self.any_id()).collect();
                let documents: Vec<Document> = ids.into_iter().map(|id| self.with_id(kind, id)).collect();
                doc! {"insert": collection, "documents": documents, "ordered": false}
            }
            2 | 3 => doc! {"delete": collection, "deletes": [{"q": {"_id": self.live_id(kind)}, "limit": 1}]},
            4 if self.rng.random_range(0..3) == 0 => {
                let ids: Vec<Bson> = (0..3).map(|_| self.live_id(kind)).collect();
                doc! {"delete": collection, "deletes": [{"q": {"_id": {"$in": ids}}, "limit": 0}]}
            }
            5 => self.find_and_modify(kind),
            // In a transaction its session reads between two writes.
            6 | 7 if self.is_fit => {
                self.is_fit = false;
                let updates: Vec<Document> = (0..4).map(|_| self.statement(kind)).collect();
                doc! {"update": collection, "updates": updates, "ordered": self.rng.random::<bool>()}
            }
            _ => doc! {"update": collection, "updates": [self.statement(kind)]},
        };
        (kind, command)
    }

    fn find_and_modify(&mut self, kind: Kind) -> Document {
        let statement = self.statement(kind);
        let mut command = doc! {"findAndModify": self.collection(kind)};
        command.insert("query", statement.get("q").expect("a statement has a query").clone());
        if self.rng.random_range(0..4) == 0 {
            command.insert("remove", true);
            return command;
        }
        command.insert("update", statement.get("u").expect("a statement has an update").clone());
        for name in ["upsert", "arrayFilters"] {
            command.extend(statement.get(name).map(|value| (name.to_owned(), value.clone())));
        }
        command
    }
}

fn as_bson(change: Change) -> Bson {
    match change {
        Change::Operators(operators) => Bson::Document(operators),
        Change::Pipeline(stages) => Bson::Array(stages.into_iter().map(Bson::Document).collect()),
    }
}

/// A pipeline that moves fields: only an image tells where they are then.
fn moving(rng: &mut impl Rng, document: &Document) -> Update {
    let mut names: Vec<&String> =
        document.keys().filter(|n| *n != "_id" && !n.contains(['.', '$'])).collect();
    names.retain(|name| !name.is_empty());
    names.shuffle(rng);
    let moved: Document =
        names.iter().take(4).map(|n| ((*n).clone(), Bson::String(format!("${n}")))).collect();
    match names.first() {
        Some(first) if rng.random() => Update::pipeline(vec![
            doc! {"$set": {"kept": format!("${first}")}},
            doc! {"$unset": first.as_str()},
            doc! {"$set": {first.as_str(): "$kept"}},
        ]),
        _ => Update::pipeline(vec![doc! {"$replaceWith": {"$mergeObjects": [moved, "$$ROOT", {"z": 1}]}}]),
    }
}
