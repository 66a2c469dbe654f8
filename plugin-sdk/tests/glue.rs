//! What happens between a batch and a plugin, and what a closure that rewrites is asked.
#![allow(clippy::unwrap_used)]

use bson::{Document, doc};
use plugin_sdk::batch::process;
use plugin_sdk::prelude::*;
use plugin_sdk::testing::{Outcome, run};

/// Does to an event what its `op` says.
struct Obedient;

impl Plugin for Obedient {
    const NAME: &'static str = "obedient";
    const MAY_DROP: bool = true;
    fn configure(_: &str) -> Result<Self, String> {
        Ok(Obedient)
    }
    fn process(&self, event: Event<'_>, out: &mut Output<'_>) -> Result<Verdict, String> {
        match event.op() {
            "write" => Ok(out.write(|w| w.i32("n", 1))),
            "write-twice" => {
                out.write(|w| w.i32("n", 1));
                Ok(out.put(event.doc().as_bytes()))
            }
            "write-and-keep" => {
                out.write(|w| w.i32("n", 1));
                Ok(Verdict::Keep)
            }
            "nothing" => Ok(Verdict::Replace),
            "half" => Ok(out.put(&[9, 0, 0])),
            "drop" => Ok(Verdict::Drop),
            "fail" => Err("told to".into()),
            _ => Ok(Verdict::Keep),
        }
    }
}

/// Not allowed to change or drop anything, and tries both.
struct Meek;

impl Plugin for Meek {
    const NAME: &'static str = "meek";
    const MAY_MODIFY: bool = false;
    fn configure(_: &str) -> Result<Self, String> {
        Ok(Meek)
    }
    fn process(&self, event: Event<'_>, out: &mut Output<'_>) -> Result<Verdict, String> {
        if event.op() == "drop" { Ok(Verdict::Drop) } else { Ok(out.put(event.doc().as_bytes())) }
    }
}

fn op(op: &str) -> Vec<u8> {
    doc! {"op": op}.to_vec().unwrap()
}

fn batch(ops: &[&str]) -> Vec<u8> {
    ops.iter().flat_map(|o| op(o)).collect()
}

#[test]
fn verdicts_and_replacements_come_in_the_events_order() {
    let out = process(&Obedient, &batch(&["x", "write", "drop", "write-and-keep", "write-twice"])).unwrap();
    assert_eq!(out.verdicts, [0, 1, 2, 0, 1]);
    assert_eq!(out.docs, [doc! {"n": 1}.to_vec().unwrap(), op("write-twice")].concat());
    assert_eq!(process(&Obedient, &[]).unwrap(), Default::default());
}

#[test]
fn a_failure_names_its_event() {
    let e = process(&Obedient, &batch(&["x", "x", "fail", "x"])).unwrap_err();
    assert_eq!((e.index, e.message.as_str()), (2, "told to"));
    let e = process(&Obedient, &[op("x"), vec![9, 0, 0, 0]].concat()).unwrap_err();
    assert_eq!(e.index, 1);
}

#[test]
fn a_replacement_is_exactly_one_document() {
    assert!(run(&Obedient, op("nothing")).is_err());
    assert!(run(&Obedient, op("half")).is_err());
}

#[test]
fn a_plugin_does_only_what_it_declares() {
    assert!(run(&Meek, op("drop")).is_err_and(|e| e.contains("MAY_DROP")));
    assert!(run(&Meek, op("x")).is_err_and(|e| e.contains("MAY_MODIFY")));
}

#[test]
fn the_view_finds_what_stands_in_an_event() {
    let bytes =
        doc! {"op": "update", "ns": {"db": "d", "coll": "c"}, "key": {"_id": 1}, "after": {"a": {"b": "x"}}}
            .to_vec()
            .unwrap();
    let event = Event::new(Doc::new(&bytes).unwrap());
    assert_eq!(
        (event.op(), event.db(), event.coll(), event.str("after.a.b")),
        ("update", Some("d"), Some("c"), Some("x"))
    );
    assert!(event.before().is_none() && event.delta().is_none());
    assert_eq!(event.key().unwrap().get("_id").unwrap().as_i32(), Some(1));
    assert_eq!(event.after().unwrap().get_path(&["a", "b"]).unwrap().as_str(), Some("x"));
}

/// Hides what its closure finds by path and value.
struct Finder;

impl Plugin for Finder {
    const NAME: &'static str = "finder";
    fn configure(_: &str) -> Result<Self, String> {
        Ok(Finder)
    }
    fn process(&self, event: Event<'_>, out: &mut Output<'_>) -> Result<Verdict, String> {
        event.rewrite(out, |path, value| {
            let text = value.and_then(|v| v.as_str()).unwrap_or("");
            match path.as_str() {
                "items.sku" => Action::replace(format!("sku of {} characters", text.len())),
                "card.pan" => Action::Remove,
                "whole" => Action::Mask { keep_last: 0 },
                _ if text.contains('@') => Action::Mask { keep_last: 0 },
                _ if path.names().count() > 1 && path.leaf() == "deep" => Action::Remove,
                _ => Action::Keep,
            }
        })
    }
}

#[test]
fn a_closure_sees_one_path_for_every_place() {
    let event = doc! {
        "key": {"_id": 1, "mail": "a@b"},
        "after": {"items": [{"sku": "abc"}, [{"sku": "x"}]], "card": {"pan": 1, "deep": 1}, "card.pan": 2, "deep": 1, "mails": ["a@b", "c"]},
        "delta": {
            "updatedFields": {"items.0.sku": "abc", "items.1": {"sku": "abc"}, "card.pan": 1, "whole.part": 1, "whole.other": 2, "mails.1": "a@b"},
            "removedFields": ["whole.third", "card.pan"],
        },
    };
    let Ok(Outcome::Replaced(bytes)) = run(&Finder, event.to_vec().unwrap()) else { panic!("not replaced") };
    let expected = doc! {
        "key": {"_id": 1, "mail": "***"},
        "after": {"items": [{"sku": "sku of 3 characters"}, [{"sku": "sku of 1 characters"}]], "card": {}, "deep": 1, "mails": ["***", "c"]},
        "delta": {
            "updatedFields": {"items.0.sku": "sku of 3 characters", "items.1": {"sku": "sku of 3 characters"}, "whole": "***", "mails.1": "***"},
            "removedFields": ["card.pan"],
        },
    };
    assert_eq!(Document::from_reader(&bytes[..]).unwrap(), expected);
}

#[test]
fn a_typed_config_refuses_what_it_does_not_know() {
    #[derive(serde::Deserialize, Debug)]
    #[serde(deny_unknown_fields)]
    struct Config {
        #[serde(default)]
        size: u32,
    }
    assert_eq!(config::parse::<Config>("").unwrap().size, 0);
    assert_eq!(config::parse::<Config>(r#"{"size": 3}"#).unwrap().size, 3);
    assert_eq!(
        config::parse::<Config>(r#"{"sise": 3}"#).unwrap_err(),
        "config: unknown field `sise`, expected `size`; did you mean `size`?"
    );
}
