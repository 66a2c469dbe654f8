//! Tokens stand for values one by one, whatever the update: random documents and updates against a model that shares no code
//! with the plugin. `PSEUDONYMISE_SEED=n` replays one case.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[allow(dead_code)]
#[path = "../../redact/tests/model/mod.rs"]
mod model;

use std::collections::HashMap;

use bson::{Bson, Document, doc};
use model::{Part, Random, apply, covered};
use plugin_sdk::prelude::*;
use plugin_sdk::testing::run;
use pseudonymise::Pseudonymise;

const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

fn seeds() -> Vec<u64> {
    match std::env::var("PSEUDONYMISE_SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => (0..2_000).collect(),
    }
}

/// The model's documents hold strings only; here every type, and equal values at several places.
fn typed(value: Bson) -> Bson {
    match value {
        Bson::Document(doc) => Bson::Document(doc.into_iter().map(|(name, v)| (name, typed(v))).collect()),
        Bson::Array(items) => Bson::Array(items.into_iter().map(typed).collect()),
        Bson::String(text) => {
            let n: i32 = text.split(' ').nth(1).unwrap().parse().unwrap();
            match n % 7 {
                0 => Bson::Null,
                1 => Bson::Int32(n / 7),
                2 => Bson::Int64(i64::from(n / 7)),
                3 => Bson::Double(f64::from(n / 7) + 0.5),
                4 => Bson::Boolean(n % 2 == 0),
                _ => Bson::String(format!("text {}", n / 3)),
            }
        }
        other => other,
    }
}

fn typed_delta(delta: &Document) -> Document {
    let mut delta = delta.clone();
    let set = delta.get_document_mut("updatedFields").unwrap();
    *set = set.iter().map(|(path, value)| (path.clone(), typed(value.clone()))).collect();
    delta
}

fn document(value: Bson) -> Document {
    value.as_document().unwrap().clone()
}

struct Case {
    rules: Vec<(String, &'static str)>,
    event: Document,
    redacted: Document,
    text: String,
}

fn case(seed: u64) -> Option<Case> {
    let mut random = Random::new(seed);
    let rules = random.rules(false);
    let json: Vec<_> =
        rules.iter().map(|(path, _)| format!(r#"{{"path":"{path}","class":"one"}}"#)).collect();
    let config = format!(r#"{{"keys":[{{"id":"k1","key":"{KEY}"}}],"rules":[{}]}}"#, json.join(","));
    let plugin = Pseudonymise::configure(&config).unwrap();
    let before = random.document(3);
    let (after, update) = random.update(&before);
    let event = doc! {
        "op": "update", "ns": {"db": "d", "coll": "c"}, "key": {"_id": 1},
        "before": typed(before.into()), "after": typed(after.into()), "delta": typed_delta(&update.delta()),
    };
    let bytes = event.to_vec().unwrap();
    let out = run(&plugin, &bytes).unwrap().into_bytes(&bytes).unwrap();
    plugin_sdk::bson_walker::validate(&out, 200).unwrap();
    let redacted = Document::from_reader(&out[..]).unwrap();
    let text = format!("seed={seed}\nconfig={config}\nevent={event}\nredacted={redacted}");
    Some(Case { rules, event, redacted, text })
}

#[test]
fn tokens_in_a_delta_turn_the_tokens_before_into_the_tokens_after() {
    let mut changed = 0;
    for seed in seeds() {
        let Some(case) = case(seed) else { continue };
        let part = |name: &str| case.redacted.get_document(name).unwrap();
        let applied = apply(part("before"), part("delta")).unwrap_or_else(|e| panic!("{}\n{e}", case.text));
        assert_eq!(&applied, part("after"), "{}", case.text);
        changed += usize::from(case.redacted != case.event);
    }
    assert!(changed * 2 > seeds().len(), "only {changed} events had anything to pseudonymise");
}

/// Walks an original and what became of it; gives every pair of leaves that may differ.
fn pairs(original: &Bson, now: &Bson, path: &mut Vec<Part>, case: &Case, found: &mut Vec<(Bson, String)>) {
    match (original, now) {
        (Bson::Document(a), Bson::Document(b)) => {
            assert!(a.keys().eq(b.keys()), "other names: {}", case.text);
            for ((name, a), b) in a.iter().zip(b.values()) {
                path.push(Part::Name(name.clone()));
                pairs(a, b, path, case, found);
                path.pop();
            }
        }
        (Bson::Array(a), Bson::Array(b)) => {
            assert_eq!(a.len(), b.len(), "{}", case.text);
            for (i, (a, b)) in a.iter().zip(b).enumerate() {
                path.push(Part::Index(i));
                pairs(a, b, path, case, found);
                path.pop();
            }
        }
        (Bson::Null, now) => assert_eq!(now, &Bson::Null, "{}", case.text),
        (original, Bson::String(token)) if covered(&case.rules, path) => {
            assert!(token.starts_with("p1:k1:"), "{path:?} {original}: {}", case.text);
            found.push((original.clone(), token.clone()));
        }
        _ => {
            assert!(!covered(&case.rules, path), "{path:?} has no token: {}", case.text);
            assert_eq!(original, now, "{path:?}: {}", case.text);
        }
    }
}

#[test]
fn every_covered_value_has_its_own_token_everywhere_and_every_other_stays() {
    // What MongoDB takes for equal is one value.
    let value = |value: &Bson| match value {
        Bson::Int32(n) => format!("Int64({n})"),
        Bson::Int64(n) => format!("Int64({n})"),
        other => format!("{other:?}"),
    };
    let (mut tokens, mut values) = (HashMap::new(), HashMap::new());
    for seed in seeds() {
        let Some(case) = case(seed) else { continue };
        let mut found = Vec::new();
        for side in ["before", "after"] {
            let (original, now) = (case.event.get(side).unwrap(), case.redacted.get(side).unwrap());
            pairs(original, now, &mut Vec::new(), &case, &mut found);
        }
        for (original, token) in found {
            let value = value(&original);
            assert_eq!(tokens.entry(value.clone()).or_insert(token.clone()), &token, "{}", case.text);
            assert_eq!(values.entry(token).or_insert(value.clone()), &value, "{}", case.text);
        }
    }
    assert!(values.len() > 20, "{} different values", values.len());
}

#[test]
fn the_key_of_a_document_has_the_token_of_its_id_in_every_event() {
    let config = format!(
        r#"{{"keys":[{{"id":"k1","key":"{KEY}"}}],"rules":[{{"path":"_id","class":"person"}},{{"path":"owner","class":"person"}}]}}"#
    );
    let plugin = Pseudonymise::configure(&config).unwrap();
    let mut seen = HashMap::new();
    let ids: [Bson; 6] = [
        "ann@example.org".into(),
        "Ann@example.org".into(),
        Bson::Int32(5),
        Bson::Double(5.5),
        bson::oid::ObjectId::from_bytes([7; 12]).into(),
        Bson::Document(doc! {"a": 1, "b": "x"}),
    ];
    for id in ids {
        let event = doc! {
            "op": "update", "ns": {"db": "d", "coll": "c"}, "key": {"_id": &id},
            "before": {"_id": &id}, "after": {"_id": &id, "owner": &id}, "delta": {"updatedFields": {"owner": &id}},
        };
        let bytes = event.to_vec().unwrap();
        let out = run(&plugin, &bytes).unwrap().into_bytes(&bytes).unwrap();
        let out = document(Document::from_reader(&out[..]).unwrap().into());
        let token = out.get_document("key").unwrap().get("_id").unwrap().clone();
        for path in [["before", "_id"], ["after", "_id"], ["after", "owner"]] {
            assert_eq!(out.get_document(path[0]).unwrap().get(path[1]), Some(&token));
        }
        let delta = out.get_document("delta").unwrap().get_document("updatedFields").unwrap();
        assert_eq!(delta.get("owner"), Some(&token));
        assert!(seen.insert(token.to_string(), id).is_none(), "two documents became one");
    }
}
