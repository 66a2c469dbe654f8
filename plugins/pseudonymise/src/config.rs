//! The configuration: keys and rules as the operator writes them, checked one by one. No message shows a key.

use std::collections::BTreeMap;

use plugin_sdk::config::{Json, parse, parse_part};
use plugin_sdk::prelude::{Action, Hasher, Key};
use plugin_sdk::rules::{Default as Unnamed, Pattern, Rules};
use plugin_sdk::token::{Normalise, Tokens};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    // Both read one by one, so that an error can say which.
    keys: Vec<Json>,
    rules: Vec<Json>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyText {
    id: String,
    key: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    path: String,
    class: String,
    #[serde(default)]
    normalise: Vec<Step>,
    key: Option<String>,
}

#[derive(Deserialize, Clone, Copy, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Step {
    Trim,
    Lowercase,
    Digits,
}

impl From<Step> for Normalise {
    fn from(step: Step) -> Self {
        match step {
            Step::Trim => Normalise::Trim,
            Step::Lowercase => Normalise::Lowercase,
            Step::Digits => Normalise::Digits,
        }
    }
}

/// What all rules of one class share; otherwise equal values would not join.
struct Class {
    /// The rule that said so first.
    rule: usize,
    normalise: Vec<Step>,
    key: String,
    tokens: Tokens,
}

/// Reads and compiles the configuration.
pub(crate) fn rules(text: &str) -> Result<Rules, String> {
    let config: Config = parse(text)?;
    let keys = keys(config.keys)?;
    if config.rules.is_empty() {
        return Err("config: `rules` is empty; name at least one path, or leave the plugin out".into());
    }
    let mut classes = BTreeMap::new();
    let mut rules = Vec::with_capacity(config.rules.len());
    for (i, rule) in config.rules.into_iter().enumerate() {
        let place = format!("config: rules[{i}]");
        let rule: Rule = parse_part(&place, rule)?;
        let compiled = compile(i, &rule, &keys, &mut classes);
        rules.push(compiled.map_err(|what| format!("{place} (path `{}`): {what}", rule.path))?);
    }
    Rules::new(rules, Unnamed::Keep).map_err(|e| match e.rule {
        Some(i) => format!("config: rules[{i}]: {}", e.what),
        None => format!("config: rules: {}", e.what),
    })
}

fn keys(parts: Vec<Json>) -> Result<Vec<Key>, String> {
    let mut keys: Vec<Key> = Vec::with_capacity(parts.len());
    for (i, part) in parts.into_iter().enumerate() {
        let place = format!("config: keys[{i}]");
        let text: KeyText = parse_part(&place, part)?;
        let key = Key::parse(&text.id, &text.key).map_err(|what| format!("{place}: {what}"))?;
        if keys.iter().any(|other| other.id() == key.id()) {
            return Err(format!(
                "{place}: a second key with the id `{}`; tokens must tell them apart",
                key.id()
            ));
        }
        keys.push(key);
    }
    if keys.is_empty() {
        return Err(
            r#"config: `keys` is empty; write keys = [{ id = "1", key = "${file:/path/to/the/key}" }]"#
                .into(),
        );
    }
    Ok(keys)
}

fn compile(
    number: usize,
    rule: &Rule,
    keys: &[Key],
    classes: &mut BTreeMap<String, Class>,
) -> Result<(Pattern, Action<'static>), String> {
    let pattern = Pattern::parse(&rule.path)?;
    if rule.class.is_empty() || rule.class.len() > 64 {
        return Err("`class` must have 1 to 64 bytes; equal values of one class have equal tokens".into());
    }
    let key = match &rule.key {
        None => &keys[0],
        Some(id) => keys.iter().find(|key| key.id() == id).ok_or_else(|| {
            let ids: Vec<_> = keys.iter().map(|key| format!("`{}`", key.id())).collect();
            format!("`key` is not the id of one of the `keys`, which are {}", ids.join(", "))
        })?,
    };
    if !rule.normalise.is_empty() && reaches_id(&rule.path) {
        return Err(
            "`normalise` can't be used on `_id`: documents whose `_id`s differ only in spelling would \
                    become one; leave it out, in all rules of this class, or use another class"
                .into(),
        );
    }
    let class = classes.entry(rule.class.clone()).or_insert_with(|| {
        let steps: Vec<Normalise> = rule.normalise.iter().map(|step| (*step).into()).collect();
        Class {
            rule: number,
            normalise: rule.normalise.clone(),
            key: key.id().into(),
            tokens: Tokens::new(Hasher::new(key, &rule.class).normalise(steps)),
        }
    });
    let differs = |what| {
        let (class, rule) = (&rule.class, class.rule);
        format!(
            "class `{class}` has another {what} in rules[{rule}], so equal values would not join; make them alike, or use another class"
        )
    };
    if class.normalise != rule.normalise {
        return Err(differs("`normalise`"));
    }
    if class.key != key.id() {
        return Err(differs("`key`"));
    }
    Ok((pattern, Action::Hash(class.tokens.clone())))
}

/// Whether a path covers `_id`, or begins with it. (`**.email` may reach into an `_id` that has an `email`; that is left
/// to the operator.)
fn reaches_id(path: &str) -> bool {
    matches!(path.split('.').find(|name| *name != "**"), None | Some("*" | "_id"))
}
