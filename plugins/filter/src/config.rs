//! The configuration: rules as the operator writes them, checked one by one.

use std::fmt;

use plugin_sdk::config::{Json, parse, parse_part};
use plugin_sdk::rules::Pattern;
use serde::Deserialize;
use serde::de::{Deserializer, SeqAccess, Visitor};

use crate::rule::{DOCUMENT_OPS, Namespace, Rule, Rules};

/// What happens to collections and databases, by MongoDB's names.
const OTHER_OPS: [&str; 11] = [
    "create",
    "createIndexes",
    "drop",
    "dropDatabase",
    "dropIndexes",
    "invalidate",
    "modify",
    "refineCollectionShardKey",
    "rename",
    "reshardCollection",
    "shardCollection",
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    // Read one by one, so that an error can say which.
    rules: Vec<Json>,
    #[serde(default)]
    default: Fallback,
}

#[derive(Deserialize, Default, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Fallback {
    #[default]
    Keep,
    Drop,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Written {
    Keep(Conditions),
    Drop(Conditions),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Conditions {
    ns: Option<Words>,
    op: Option<Words>,
    actor: Option<Words>,
    only_changed: Option<Words>,
}

/// One string, or several.
struct Words(Vec<String>);

impl<'de> Deserialize<'de> for Words {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Vec<String>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an array of strings")
            }
            fn visit_str<E>(self, word: &str) -> Result<Vec<String>, E> {
                Ok(vec![word.to_owned()])
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut words: A) -> Result<Vec<String>, A::Error> {
                let mut read = Vec::new();
                while let Some(word) = words.next_element()? {
                    read.push(word);
                }
                Ok(read)
            }
        }
        from.deserialize_any(Reader).map(Words)
    }
}

/// Reads and checks the configuration.
pub(crate) fn rules(text: &str) -> Result<Rules, String> {
    let config: Config = parse(text)?;
    if config.rules.is_empty() {
        return Err("config: `rules` is empty; write at least one, or leave the plugin out".into());
    }
    let mut rules = Vec::with_capacity(config.rules.len());
    for (i, rule) in config.rules.into_iter().enumerate() {
        let place = format!("config: rules[{i}]");
        let (keep, conditions) = match parse_part(&place, rule)? {
            Written::Keep(conditions) => (true, conditions),
            Written::Drop(conditions) => (false, conditions),
        };
        rules.push(rule_of(keep, conditions).map_err(|what| format!("{place}: {what}"))?);
    }
    let default_keep = config.default == Fallback::Keep;
    if !default_keep && !rules.iter().any(|rule| rule.keep) {
        return Err(r#"config: default = "drop" with no rule that keeps drops every document's events; add a `keep` rule"#.into());
    }
    if default_keep && rules.iter().all(|rule| rule.keep) {
        return Err(r#"config: nothing is dropped: no rule drops, and the default is to keep; add a `drop` rule or default = "drop""#.into());
    }
    Ok(Rules { rules, default_keep })
}

fn rule_of(keep: bool, conditions: Conditions) -> Result<Rule, String> {
    let Conditions { ns, op, actor, only_changed } = conditions;
    if ns.is_none() && op.is_none() && actor.is_none() && only_changed.is_none() {
        return Err("names nothing; it needs at least one of `ns`, `op`, `actor`, `only_changed` (what no rule covers is for `default`)".into());
    }
    let ns = words("ns", ns)?.iter().map(|ns| Namespace::parse(ns)).collect::<Result<_, _>>();
    let only_changed: Vec<Pattern> = words("only_changed", only_changed)?
        .iter()
        .map(|path| Pattern::parse(path))
        .collect::<Result<_, _>>()
        .map_err(|e| format!("only_changed: {e}"))?;
    let op = words("op", op)?;
    op.iter().try_for_each(|op| known(op))?;
    if !only_changed.is_empty() && op.iter().any(|op| op != "update") {
        return Err(
            "`only_changed` is for updates, of which alone MongoDB says what they changed; leave `op` out"
                .into(),
        );
    }
    let op = match (op.is_empty(), only_changed.is_empty()) {
        (false, _) => op,
        (true, false) => vec!["update".into()],
        (true, true) => DOCUMENT_OPS.map(String::from).into(),
    };
    Ok(Rule {
        keep,
        ns: ns.map_err(|e| format!("ns: {e}"))?,
        op,
        actor: words("actor", actor)?,
        only_changed,
    })
}

/// None where the condition is not there.
fn words(key: &str, words: Option<Words>) -> Result<Vec<String>, String> {
    match words {
        None => Ok(Vec::new()),
        Some(Words(words)) if words.is_empty() || words.iter().any(String::is_empty) => {
            Err(format!("`{key}` is empty or has an empty string in it, which no event fits; leave it out"))
        }
        Some(Words(words)) => Ok(words),
    }
}

fn known(op: &str) -> Result<(), String> {
    let all = || DOCUMENT_OPS.into_iter().chain(OTHER_OPS);
    if all().any(|known| known == op) {
        return Ok(());
    }
    let advice = match all().find(|known| known.eq_ignore_ascii_case(op)) {
        Some(known) => format!("did you mean `{known}`?"),
        None => format!("the operations are {}", all().collect::<Vec<_>>().join(", ")),
    };
    Err(format!("op: `{op}` is no operation; {advice}"))
}
