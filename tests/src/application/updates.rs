//! Updates with every operator that MongoDB has for them.

use bson::{Document, doc};
use mongodb::options::UpdateModifications;
use rand::rngs::StdRng;
use rand::{Rng, RngExt};

/// One way to update a document.
#[derive(Debug)]
pub(super) struct Update {
    pub(super) name: &'static str,
    pub(super) change: UpdateModifications,
    /// What the document must have, beside its `_id`.
    pub(super) wanted: Document,
    pub(super) array_filters: Option<Vec<Document>>,
}

/// How many kinds of updates there are.
const KINDS: u32 = 27;

/// A random update.
pub(super) fn random(rng: &mut StdRng) -> Update {
    let value = rng.random_range(0..1_000_000_i64);
    let sku = rng.random_range(0..5_i64);
    let small = rng.random_range(-3..10_i32);
    let kind = rng.random_range(0..KINDS);
    match kind {
        0..14 => simple(kind, value, small),
        14..22 => of_array(kind, value, sku, small),
        _ => pipeline(kind, value, sku),
    }
}

fn plain(name: &'static str, change: Document) -> Update {
    Update { name, change: change.into(), wanted: Document::new(), array_filters: None }
}

fn simple(kind: u32, value: i64, small: i32) -> Update {
    match kind {
        0 => plain("$set", doc! {"$set": {"status": format!("s{value}"), "customer.address.zip": value}}),
        1 => plain("$set of a part", doc! {"$set": {"customer": {"name": "N", "address": {"city": "Oslo"}}}}),
        2 => plain("$unset", doc! {"$unset": {"customer.address": "", "status": ""}}),
        3 => plain("$inc", doc! {"$inc": {"n": small, "count.of.visits": 1_i64}}),
        4 => plain("$mul", doc! {"$mul": {"total": 1.5}}),
        5 => plain("$min", doc! {"$min": {"n": small}}),
        6 => plain("$max", doc! {"$max": {"total": value as f64}}),
        7 => plain("$rename", doc! {"$rename": {"status": "state", "customer.name": "customer.title"}}),
        8 => plain("$currentDate", doc! {"$currentDate": {"updated": true, "stamp": {"$type": "timestamp"}}}),
        9 => plain("$bit", doc! {"$bit": {"flags": {"xor": small}}}),
        10 => plain("no change", doc! {"$set": {"kind": "order"}}),
        11 => plain("$set by index", doc! {"$set": {"items.0.count": small, "tags.2": value}}),
        12 => plain("$set of an array", doc! {"$set": {"tags": [1_i32, value], "items": []}}),
        _ => plain("$set of much", doc! {"$set": {"text": "x".repeat(4_000 + small as usize % 7)}}),
    }
}

fn of_array(kind: u32, value: i64, sku: i64, small: i32) -> Update {
    let item = doc! {"sku": sku, "count": small};
    match kind {
        14 => {
            let push = doc! {"$each": [item], "$position": 0_i32, "$slice": 6_i32};
            plain("$push", doc! {"$push": {"items": push}})
        }
        15 => {
            let push = doc! {"$each": [value, small], "$sort": -1_i32, "$slice": 8_i32};
            plain("$push and $sort", doc! {"$push": {"tags": push}})
        }
        16 => plain("$addToSet", doc! {"$addToSet": {"tags": {"$each": [small, small + 1]}}}),
        17 => plain("$pop", doc! {"$pop": {"items": if small > 3 { 1_i32 } else { -1_i32 }}}),
        18 => plain("$pull", doc! {"$pull": {"items": {"sku": sku}}}),
        19 => plain("$pullAll", doc! {"$pullAll": {"tags": [small, value]}}),
        20 => Update {
            wanted: doc! {"items.sku": sku},
            ..plain("positional", doc! {"$inc": {"items.$.count": 1_i32}, "$set": {"items.$.seen": value}})
        },
        _ => Update {
            array_filters: Some(vec![doc! {"item.sku": {"$gte": sku}}]),
            ..plain(
                "arrayFilters",
                doc! {"$mul": {"items.$[item].count": 2_i32}, "$set": {"tags.$[]": small}},
            )
        },
    }
}

fn pipeline(kind: u32, value: i64, sku: i64) -> Update {
    let (name, stages) = match kind {
        22 => ("pipeline $set", vec![doc! {"$set": {"n": {"$add": ["$n", 1_i32]}, "customer.seen": value}}]),
        23 => ("pipeline $slice", vec![doc! {"$set": {"items": {"$slice": ["$items", 1_i32]}}}]),
        24 => ("pipeline $unset", vec![doc! {"$unset": ["status", "customer.name"]}]),
        25 => {
            let other = doc! {"$ne": ["$$this.sku", sku]};
            let kept = doc! {"$filter": {"input": {"$ifNull": ["$items", []]}, "cond": other}};
            (
                "pipeline $filter",
                vec![doc! {"$set": {"items": kept}}, doc! {"$set": {"left": {"$size": "$items"}}}],
            )
        }
        _ => {
            let merged = doc! {"$mergeObjects": ["$$ROOT", {"replaced": value}]};
            ("pipeline $replaceWith", vec![doc! {"$replaceWith": merged}])
        }
    };
    Update { name, change: stages.into(), wanted: Document::new(), array_filters: None }
}

/// A new document's fields, without its `_id`.
pub(super) fn fields(rng: &mut impl Rng) -> Document {
    let value = rng.random_range(0..1_000_000_i64);
    let item = |sku: i64| doc! {"sku": sku, "count": value as i32 % 10};
    let items: Vec<Document> = (0..value % 5).map(item).collect();
    doc! {
        "kind": "order",
        "n": 0_i32,
        "status": "new",
        "total": value as f64 / 7.0,
        "flags": value as i32 % 16,
        "customer": {"name": format!("Customer {value}"), "address": {"city": "Oslo", "zip": value}},
        "items": items,
        "tags": ["a", value, 7_i32],
        "at": bson::DateTime::from_millis(1_790_000_000_000 + value),
    }
}
