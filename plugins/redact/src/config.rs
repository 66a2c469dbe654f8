//! The configuration: rules as the operator writes them, checked one by one.

use plugin_sdk::config::{Json, parse, parse_part};
use plugin_sdk::prelude::{Action, Value};
use plugin_sdk::rules::{Default as Unnamed, Pattern, Rules};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    #[serde(default)]
    mode: Mode,
    // Read one by one, so that an error can say which.
    rules: Vec<Json>,
}

#[derive(Deserialize, Default, Clone, Copy, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Mode {
    /// Everything stays but what rules redact.
    #[default]
    Deny,
    /// Nothing stays but what rules keep.
    Allow,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    path: String,
    action: Kind,
    keep_last: Option<usize>,
    #[serde(default, deserialize_with = "present")]
    value: Option<Json>,
}

#[derive(Deserialize, Clone, Copy, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Remove,
    Mask,
    Replace,
    Keep,
}

/// Tells `value = null` from no value.
fn present<'de, D: serde::Deserializer<'de>>(value: D) -> Result<Option<Json>, D::Error> {
    Json::deserialize(value).map(Some)
}

/// Reads and compiles the configuration.
pub(crate) fn rules(text: &str) -> Result<Rules, String> {
    let config: Config = parse(text)?;
    if config.rules.is_empty() {
        return Err("config: `rules` is empty; name at least one path, or leave the plugin out".into());
    }
    let unnamed = if config.mode == Mode::Allow { Unnamed::Remove } else { Unnamed::Keep };
    let mut rules = Vec::with_capacity(config.rules.len());
    for (i, rule) in config.rules.into_iter().enumerate() {
        let place = format!("config: rules[{i}]");
        let rule: Rule = parse_part(&place, rule)?;
        let compiled =
            compile(&rule, config.mode).map_err(|what| format!("{place} (path `{}`): {what}", rule.path))?;
        rules.push(compiled);
    }
    Rules::new(rules, unnamed).map_err(|e| match e.rule {
        Some(i) => format!("config: rules[{i}]: {}", e.what),
        None => format!("config: rules: {}", e.what),
    })
}

fn compile(rule: &Rule, mode: Mode) -> Result<(Pattern, Action<'static>), String> {
    let pattern = Pattern::parse(&rule.path)?;
    if rule.keep_last.is_some() && rule.action != Kind::Mask {
        return Err("`keep_last` is only for action `mask`".into());
    }
    if rule.value.is_some() && rule.action != Kind::Replace {
        return Err("`value` is only for action `replace`".into());
    }
    let action = match rule.action {
        Kind::Remove => Action::Remove,
        Kind::Mask => Action::Mask { keep_last: rule.keep_last.unwrap_or(0) },
        Kind::Replace => Action::Replace(value(rule.value.as_ref())?),
        Kind::Keep if mode == Mode::Deny => return Err("action `keep` is only for `mode = \"allow\"`".into()),
        Kind::Keep => Action::Keep,
    };
    Ok((pattern, action))
}

fn value(json: Option<&Json>) -> Result<Value<'static>, String> {
    const ALLOWED: &str = "`value` must be a string, number, boolean or null";
    Ok(match json.ok_or("action `replace` needs a `value`")? {
        Json::String(text) => Value::from(text.clone()),
        Json::Bool(v) => Value::Boolean(*v),
        Json::Null => Value::Null,
        Json::Number(n) => match (n.as_i64(), n.as_f64()) {
            (Some(v), _) => i32::try_from(v).map_or(Value::Int64(v), Value::Int32),
            (None, Some(v)) => Value::Double(v),
            (None, None) => return Err(ALLOWED.into()),
        },
        Json::Array(_) | Json::Object(_) => return Err(ALLOWED.into()),
    })
}
