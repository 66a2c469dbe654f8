//! What deltas of every shape do, as MongoDB 6.0.5 was seen to send them; `tests/` compares with a real one.
#![allow(clippy::unwrap_used)]

use bson::{Document, doc};
use proptest::prelude::*;

use super::*;

fn applied_to(before: &Document, delta: &Document, contents: Contents) -> Result<Document, Unapplied> {
    let before = bson::serialize_to_vec(before).unwrap();
    let delta = bson::serialize_to_vec(delta).unwrap();
    let after = apply(&before, Doc::new(&delta).unwrap(), contents)?;
    Ok(bson::deserialize_from_slice(&after).unwrap())
}

#[track_caller]
fn check(before: Document, delta: Document, after: Document) {
    // Document's equality ignores no order: it compares entry by entry.
    let built = applied_to(&before, &delta, Contents::Full).unwrap();
    assert_eq!(built.to_string(), after.to_string());
}

fn set(fields: Document) -> Document {
    doc! {"updatedFields": fields, "removedFields": [], "truncatedArrays": []}
}

#[test]
fn fields_keep_their_place_and_new_ones_come_last_in_the_deltas_order() {
    check(
        doc! {"_id": 1, "a": 1, "z": {"q": 1}},
        set(doc! {"a": 2, "c": {"d": 3}, "b": 4, "z.y": 5, "z.b": 6}),
        doc! {"_id": 1, "a": 2, "z": {"q": 1, "y": 5, "b": 6}, "c": {"d": 3}, "b": 4},
    );
}

#[test]
fn arrays_are_cut_before_they_are_set_and_padded_with_nulls() {
    let delta = doc! {
        "updatedFields": {"a.0.n": 1, "b.4": 9},
        "removedFields": ["c.x", "missing.field"],
        "truncatedArrays": [{"field": "a", "newSize": 1}, {"field": "a.0.b", "newSize": 2}, {"field": "b", "newSize": 1}],
    };
    check(
        doc! {"a": [{"b": [1, 2, 3]}, {"b": []}], "b": [1, 2, 3], "c": {"x": 1, "y": 2}},
        delta,
        doc! {"a": [{"b": [1, 2], "n": 1}], "b": [1, null, null, null, 9], "c": {"y": 2}},
    );
}

#[test]
fn elements_beyond_the_end_stand_where_their_indexes_say_in_whatever_order_they_come() {
    check(
        doc! {"a": [1], "b": {"c": []}},
        set(doc! {"a.5": 5, "a.2": {"x": 1}, "b.c.1": 1}),
        doc! {"a": [1, null, {"x": 1}, null, null, 5], "b": {"c": [null, 1]}},
    );
    let no_index = set(doc! {"a.01": 7});
    assert_eq!(applied_to(&doc! {"a": [1, 2]}, &no_index, Contents::Full), Err(Unapplied::Ambiguous));
}

#[test]
fn numbers_are_names_in_documents_and_indexes_in_arrays() {
    check(
        doc! {"a": {"0": 1}, "b": [1], "c": {"00": 1}},
        set(doc! {"a.0": 2, "a.1": 3, "b.0": 4, "c.00": 5}),
        doc! {"a": {"0": 2, "1": 3}, "b": [4], "c": {"00": 5}},
    );
}

#[test]
fn an_existing_field_after_a_new_one_was_moved_to_the_end() {
    check(doc! {"x": 1, "y": 2}, set(doc! {"n": 1, "x": 6}), doc! {"y": 2, "n": 1, "x": 6});
    // MongoDB lists a moved `_id` and stores it first all the same.
    check(doc! {"_id": 4, "x": 1, "p": 2}, set(doc! {"_id": 4, "x": 6}), doc! {"_id": 4, "p": 2, "x": 6});
}

#[test]
fn a_name_with_a_dot_is_taken_where_nothing_else_is_possible() {
    check(doc! {"a.b": 1, "c": 1}, set(doc! {"a.b": 2}), doc! {"a.b": 2, "c": 1});
    check(doc! {"x": {"a.b": 1}}, set(doc! {"x.a.b": 2}), doc! {"x": {"a.b": 2}});
    check(doc! {"c": 1}, set(doc! {"a.b": 2}), doc! {"c": 1, "a.b": 2});
    let delta = doc! {"removedFields": ["x.n.b"], "truncatedArrays": [{"field": "x.c.d", "newSize": 0}]};
    check(doc! {"x": {"n.b": 1, "c.d": [1]}}, delta, doc! {"x": {"c.d": []}});
}

#[test]
fn two_readings_are_ambiguous_and_never_guessed() {
    for (before, delta) in [
        (doc! {"a.b": 1, "a": {"b": 1}}, set(doc! {"a.b": 7})),
        (doc! {"a.b": 1, "a": {}}, set(doc! {"a.b": 7})),
        (doc! {"a.0": 1, "a": []}, set(doc! {"a.0": 7})),
        (doc! {"x": {"b": 1}}, set(doc! {"x.n.b": 7})),
        (doc! {"a.b": {"c": 1}}, set(doc! {"a.b.c": 7})),
        (doc! {"a.b": {}}, set(doc! {"a.b.c": 7})),
        (doc! {"a.b": 1, "a": {"b": 1}}, doc! {"removedFields": ["a.b"]}),
        (doc! {"a.b": [1], "a": {"b": [1]}}, doc! {"truncatedArrays": [{"field": "a.b", "newSize": 0}]}),
    ] {
        assert_eq!(
            applied_to(&before, &delta, Contents::Full),
            Err(Unapplied::Ambiguous),
            "{before} {delta}"
        );
    }
}

#[test]
fn disambiguated_paths_are_followed() {
    let before = doc! {"a.b": 1, "a": {"b": 1, "0": [1]}, "c": [{"0": 1}]};
    let paths = |path: &str, steps: bson::Array| doc! {"disambiguatedPaths": {path: steps}};
    for (path, steps, after) in [
        ("a.b", bson::bson!(["a.b"]), doc! {"a.b": 9, "a": {"b": 1, "0": [1]}, "c": [{"0": 1}]}),
        ("a.b", bson::bson!(["a", "b"]), doc! {"a.b": 1, "a": {"b": 9, "0": [1]}, "c": [{"0": 1}]}),
        ("a.0.0", bson::bson!(["a", "0", 0]), doc! {"a.b": 1, "a": {"b": 1, "0": [9]}, "c": [{"0": 1}]}),
        ("c.0.0", bson::bson!(["c", 0, "0"]), doc! {"a.b": 1, "a": {"b": 1, "0": [1]}, "c": [{"0": 9}]}),
    ] {
        let mut delta = set(doc! {path: 9});
        delta.extend(paths(path, steps.as_array().unwrap().clone()));
        check(before.clone(), delta, after);
    }
    let mut unlisted = set(doc! {"a.b": 9, "n.m": 1, "a.0.1": 2});
    unlisted.insert("disambiguatedPaths", doc! {});
    let after = doc! {"a.b": 1, "a": {"b": 9, "0": [1, 2]}, "c": [{"0": 1}], "n": {"m": 1}};
    check(before, unlisted, after);
}

#[test]
fn redacted_parents_are_made_or_left_as_they_are() {
    let before = doc! {"customer": "[redacted]", "card": {}};
    let delta =
        set(doc! {"customer.email": "[redacted]", "card.last4": "1", "address.city": "x", "list.0": 1});
    let after =
        doc! {"customer": "[redacted]", "card": {"last4": "1"}, "address": {"city": "x"}, "list": {"0": 1}};
    assert_eq!(applied_to(&before, &delta, Contents::Redacted).unwrap().to_string(), after.to_string());
}

#[test]
fn a_field_that_a_plugin_replaces_stays_where_it_is_when_something_inside_of_it_changes() {
    let before = doc! {"_id": 1, "a": "[a]", "x": 1, "e": {"d": "***", "z": 1}};
    // In clear: `a.4`, `x` moved, `e.d.q`.
    let delta = set(doc! {"n": 1, "a": "[a]", "x": 2, "e.ü": 1, "e.d": "***"});
    let after = doc! {"_id": 1, "a": "[a]", "e": {"d": "***", "z": 1, "ü": 1}, "n": 1, "x": 2};
    assert_eq!(applied_to(&before, &delta, Contents::Redacted).unwrap().to_string(), after.to_string());
}

#[test]
fn a_delta_of_another_document_is_refused() {
    let mismatched = set(doc! {"a.b": 1});
    let mut listed = mismatched.clone();
    listed.insert("disambiguatedPaths", doc! {});
    assert!(matches!(applied_to(&doc! {"a": 1}, &listed, Contents::Full), Err(Unapplied::Mismatch(_))));
    assert!(matches!(applied_to(&doc! {"a": [1]}, &listed, Contents::Full), Err(Unapplied::Mismatch(_))));
    let far = set(doc! {"a.9999999": 1});
    assert!(matches!(applied_to(&doc! {"a": [1]}, &far, Contents::Full), Err(Unapplied::Malformed(_))));
    let deep = set(doc! {"a.".repeat(100_000): 1});
    assert!(matches!(applied_to(&doc! {"a": [1]}, &deep, Contents::Full), Err(Unapplied::Malformed(_))));
}

proptest! {
    #[test]
    fn garbage_never_panics(
        before in proptest::collection::vec(any::<u8>(), 0..60),
        delta in proptest::collection::vec(any::<u8>(), 0..60),
        flip in any::<(usize, u8)>(),
    ) {
        let frame = |body: Vec<u8>| [&(body.len() as i32 + 5).to_le_bytes()[..], &body, &[0]].concat();
        let (before, delta) = (frame(before), frame(delta));
        let _ = apply(&before, Doc::new(&delta).unwrap(), Contents::Full);
        let good = bson::serialize_to_vec(&doc! {"a": {"b": [1, {"c": 2}]}, "d": "text"}).unwrap();
        let change = doc! {
            "updatedFields": {"a.b.1.c": 1, "e": 2, "a.b.7": 1}, "removedFields": ["d"],
            "truncatedArrays": [{"field": "a.b", "newSize": 1}],
        };
        let mut change = bson::serialize_to_vec(&change).unwrap();
        let at = 4 + flip.0 % (change.len() - 5);
        change[at] ^= flip.1;
        for contents in [Contents::Full, Contents::Redacted] {
            let _ = apply(&good, Doc::new(&change).unwrap(), contents);
            let _ = apply(&before, Doc::new(&change).unwrap(), contents);
        }
    }
}
