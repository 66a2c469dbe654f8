//! The differences that the oplog stores for an update (`$v: 2`): applied to a document, and told as a change event tells
//! them.
//!
//! An object's difference has `d` (removed), `u` (set in place), `i` (new, at the end) and `s<name>` (the difference of a
//! part); an array's is marked `a: true` and has `l` (cut to this length), `u<index>` and `s<index>`.

use std::collections::{BTreeMap, BTreeSet};

use bson::{Bson, Document};

/// An update as a change event describes it, without an order.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Delta {
    /// By dotted path.
    pub updated: BTreeMap<String, Bson>,
    /// Dotted paths.
    pub removed: BTreeSet<String>,
    /// New lengths by dotted path.
    pub truncated: BTreeMap<String, i64>,
}

impl Delta {
    pub(super) fn of(difference: &Document) -> Delta {
        let mut delta = Delta::default();
        delta.describe("", difference);
        delta
    }

    /// What a record's `delta` says.
    pub(super) fn of_record(delta: &Document) -> Delta {
        let updated = delta.get_document("updatedFields").expect("a delta has updatedFields");
        let removed = delta.get_array("removedFields").expect("a delta has removedFields");
        let truncated = delta.get_array("truncatedArrays").expect("a delta has truncatedArrays");
        let length = |cut: &Bson| {
            let cut = cut.as_document().expect("a cut is a document");
            let size = cut.get("newSize").and_then(integer).expect("a cut has a size");
            (cut.get_str("field").expect("a cut has a field").to_owned(), size)
        };
        Delta {
            updated: updated.iter().map(|(path, value)| (path.clone(), value.clone())).collect(),
            removed: removed.iter().map(|path| path.as_str().expect("a path").to_owned()).collect(),
            truncated: truncated.iter().map(length).collect(),
        }
    }

    fn describe(&mut self, path: &str, difference: &Document) {
        let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        let array = is_array(difference);
        for (key, value) in difference {
            match (array, key.as_str(), value) {
                (true, "a", _) => {}
                (true, "l", length) => {
                    self.truncated.insert(path.to_owned(), integer(length).expect("a length"));
                }
                (false, "d", Bson::Document(names)) => self.removed.extend(names.keys().map(|n| below(n))),
                (false, "u" | "i", Bson::Document(values)) => {
                    self.updated.extend(values.iter().map(|(name, value)| (below(name), value.clone())));
                }
                (true, key, value) if key.starts_with('u') => {
                    self.updated.insert(below(&key[1..]), value.clone());
                }
                (_, key, Bson::Document(part)) if key.starts_with('s') => {
                    self.describe(&below(&key[1..]), part)
                }
                (_, key, _) => panic!("the oracle does not know the difference {key}: {difference}"),
            }
        }
    }
}

/// The document after the difference.
pub(super) fn apply(document: &Document, difference: &Document) -> Document {
    let mut after = document.clone();
    for (key, value) in difference {
        match (key.as_str(), value) {
            ("d", Bson::Document(names)) => names.keys().for_each(|name| drop(after.remove(name))),
            ("u", Bson::Document(values)) => after.extend(values.clone()),
            ("i", Bson::Document(values)) => {
                for (name, value) in values {
                    after.remove(name);
                    after.insert(name, value.clone());
                }
            }
            (key, Bson::Document(part)) if key.starts_with('s') => {
                let old = after.get(&key[1..]).expect("only what exists is changed").clone();
                after.insert(&key[1..], apply_to_part(old, part));
            }
            _ => panic!("the oracle does not know the difference {key}: {difference}"),
        }
    }
    after
}

fn apply_to_part(old: Bson, difference: &Document) -> Bson {
    match old {
        Bson::Document(document) => Bson::Document(apply(&document, difference)),
        Bson::Array(mut array) => {
            assert!(is_array(difference), "an array has an array's difference: {difference}");
            if let Some(length) = difference.get("l").and_then(integer) {
                array.truncate(length as usize);
            }
            for (key, value) in difference.iter().filter(|(key, _)| !matches!(key.as_str(), "a" | "l")) {
                let index: usize = key[1..].parse().expect("an index");
                if array.len() <= index {
                    array.resize(index + 1, Bson::Null);
                }
                array[index] = match (key.starts_with('u'), value) {
                    (true, value) => value.clone(),
                    (false, Bson::Document(part)) => apply_to_part(array[index].clone(), part),
                    _ => panic!("the oracle does not know the difference {key}: {difference}"),
                };
            }
            Bson::Array(array)
        }
        other => panic!("only objects and arrays have differences, not {other}"),
    }
}

fn is_array(difference: &Document) -> bool {
    difference.get_bool("a").unwrap_or(false)
}

fn integer(value: &Bson) -> Option<i64> {
    value.as_i64().or(value.as_i32().map(i64::from))
}
