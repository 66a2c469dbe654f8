//! Redaction by value commutes with updates as that by path does, in every mode and with rules of every kind together,
//! and lets nothing through. `REDACT_SEED=n` replays one case, `REDACT_CASES=n` tries more.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[allow(dead_code)]
mod model;

use bson::{Bson, Document, doc};
use model::{FINDABLE, Random, apply, redacted, sorted};
use plugin_sdk::prelude::*;
use redact::Redact;

fn seeds() -> Vec<u64> {
    let number = |name: &str| std::env::var(name).ok().map(|n| n.parse::<u64>().unwrap());
    match number("REDACT_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("REDACT_CASES").unwrap_or(600)).collect(),
    }
}

struct Case {
    plugin: Redact,
    event: Document,
    /// What rules without a path look for.
    everywhere: Vec<&'static str>,
    text: String,
}

/// Rules by path and by value, some of them for the event's namespace only, some for another that the event is not of.
fn case(seed: u64) -> Option<Case> {
    let mut random = Random::findable(seed);
    let mode = ["deny", "deny", "remove", "mask"][random.below(4)];
    let allow = mode == "remove" || mode == "mask";
    let path_rules = random.rules(allow).into_iter().map(|(path, action)| match action {
        "replace" => format!(r#"{{"path":"{path}","action":"replace","value":"[gone]"}}"#),
        "mask" => format!(r#"{{"path":"{path}","action":"mask","keep_last":3}}"#),
        action => format!(r#"{{"path":"{path}","action":"{action}"}}"#),
    });
    // Rules by path are left out now and then: they would hide what those by value do.
    let mut rules: Vec<_> = if allow || random.below(2) == 0 { path_rules.collect() } else { vec![] };
    let (value_rules, everywhere) = random.value_rules();
    rules.extend(value_rules);
    let of = if allow { format!(r#""mode":"allow","unnamed":"{mode}","#) } else { String::new() };
    let config = match random.below(3) {
        0 => format!(r#"{{{of}"rules":[{}]}}"#, rules.join(",")),
        n => {
            let common = if allow { vec![] } else { rules.split_off(rules.len() / n) };
            let (ours, common) = (rules.join(","), common.join(","));
            format!(
                r#"{{"rules":[{common}],"namespaces":[{{"ns":"d.*",{of}"rules":[{ours}]}},
                    {{"ns":"e.f","mode":"allow","rules":[{{"path":"_id","action":"keep"}}]}}]}}"#
            )
        }
    };
    let plugin = Redact::configure(&config).ok()?;
    let before = random.document(3);
    let (after, update) = random.update(&before);
    let event = doc! {
        "op": "update", "ns": {"db": "d", "coll": "c"}, "key": {"_id": 1},
        "before": before, "after": after, "delta": update.delta(),
    };
    let text = format!("seed={seed}\nconfig={config}\nevent={event}");
    Some(Case { plugin, event, everywhere, text })
}

#[test]
fn a_delta_redacted_by_value_turns_the_redacted_document_before_into_the_one_after() {
    let mut checked = 0;
    for seed in seeds() {
        let Some(case) = case(seed) else { continue };
        let out = redacted(&case.plugin, &case.event);
        let part = |name: &str| out.get_document(name).unwrap();
        let applied = apply(part("before"), part("delta"))
            .unwrap_or_else(|e| panic!("{}\nredacted={out}\n{e}", case.text));
        let after = Bson::from(part("after").clone());
        assert_eq!(sorted(&applied.into()), sorted(&after), "{}\nredacted={out}", case.text);
        checked += 1;
    }
    assert!(checked * 3 > seeds().len() * 2, "only {checked} cases had usable rules");
}

/// What is left of a text that was to be found: all of it, or enough to guess the rest.
fn leaks(out: &str, everywhere: &[&str]) -> Vec<&'static str> {
    let found = FINDABLE.iter().filter(|(_, find)| everywhere.contains(find));
    found.map(|(text, _)| &text[..text.len() - 2]).filter(|text| out.contains(text)).collect()
}

#[test]
fn nothing_that_a_rule_looks_for_everywhere_is_left_anywhere() {
    for seed in seeds() {
        let Some(mut case) = case(seed) else { continue };
        for told in [true, false] {
            if !told {
                case.event.get_document_mut("delta").unwrap().remove("disambiguatedPaths");
            }
            let out = redacted(&case.plugin, &case.event);
            let left = leaks(&out.to_string(), &case.everywhere);
            assert!(left.is_empty(), "told={told} {left:?} in {out}\n{}", case.text);
        }
    }
}

#[test]
fn the_search_for_leaks_finds_them_without_the_plugin() {
    let all: Vec<&str> = FINDABLE.iter().map(|(_, find)| *find).collect();
    let cases: Vec<_> = seeds().into_iter().filter_map(case).collect();
    let leaking = cases.iter().filter(|case| !leaks(&case.event.to_string(), &all).is_empty()).count();
    assert!(leaking * 2 > cases.len() || cases.len() == 1, "{leaking} of {}", cases.len());
}
