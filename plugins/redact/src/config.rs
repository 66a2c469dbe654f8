//! The configuration: rules as the operator writes them, checked one by one.

use plugin_sdk::config::{Json, parse, parse_part};
use plugin_sdk::prelude::{Action, Value};
use plugin_sdk::rules::Pattern;
use serde::Deserialize;

use crate::find::{Edit, Regexes};
use crate::namespace::Namespace;

/// The configuration, checked but not compiled.
#[derive(Debug)]
pub(crate) struct Config {
    /// For every namespace.
    pub(crate) common: Group,
    /// For some, beside the common one.
    pub(crate) groups: Vec<(Vec<Namespace>, Group)>,
}

/// Rules that hold together.
#[derive(Debug, Default)]
pub(crate) struct Group {
    /// Whether only what rules keep stays, and if so what becomes of the rest.
    pub(crate) allow: Option<Unnamed>,
    pub(crate) rules: Vec<Rule>,
}

/// What becomes of what no rule names. The later is the stricter.
#[derive(Deserialize, Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Unnamed {
    Mask,
    Remove,
}

impl Group {
    /// Whether each regex could be used alone. Not for every batch: compiling is dear, and together is enough.
    pub(crate) fn check_regexes(&self, place: &str) -> Result<(), String> {
        for (i, rule) in self.rules.iter().enumerate() {
            if let Rule::Find(_, What::Regex(pattern), _) = rule {
                Regexes::new(vec![pattern.clone()])
                    .map_err(|what| format!("{place}[{i}]: the regex `{pattern}` can't be used: {what}"))?;
            }
        }
        Ok(())
    }
}

/// One rule.
#[derive(Debug)]
pub(crate) enum Rule {
    Path(Pattern, Action<'static>),
    /// What is found at the path, or anywhere.
    Find(Option<Pattern>, What, Edit),
}

/// What a value rule looks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum What {
    Card,
    Email,
    Iban,
    Regex(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConfig {
    mode: Option<Mode>,
    unnamed: Option<Unnamed>,
    // Read one by one, so that an error can say which.
    #[serde(default)]
    rules: Vec<Json>,
    #[serde(default)]
    namespaces: Vec<Json>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawGroup {
    ns: OneOrMore,
    mode: Option<Mode>,
    unnamed: Option<Unnamed>,
    rules: Vec<Json>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "`ns` must be \"db.collection\", \"db.*\" or a list of such")]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

#[derive(Deserialize, Clone, Copy, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Mode {
    /// Everything stays but what rules redact.
    Deny,
    /// Nothing stays but what rules keep.
    Allow,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRule {
    path: Option<String>,
    find: Option<Json>,
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

impl Config {
    /// Reads the configuration. An error names the place and says what is allowed.
    pub(crate) fn read(text: &str) -> Result<Config, String> {
        let raw: RawConfig = parse(text)?;
        if raw.rules.is_empty() && raw.namespaces.is_empty() {
            return Err("config: `rules` is empty; name at least one path, or leave the plugin out".into());
        }
        let common = group("config", raw.mode, raw.unnamed, raw.rules, false)?;
        let mut groups = Vec::with_capacity(raw.namespaces.len());
        for (i, json) in raw.namespaces.into_iter().enumerate() {
            let place = format!("config: namespaces[{i}]");
            let raw: RawGroup = parse_part(&place, json)?;
            if raw.mode == Some(Mode::Deny) && common.allow.is_some() {
                return Err(format!(
                    "{place}: `mode = \"deny\"` can't take back `mode = \"allow\"`; add a rule with path `**` and action keep"
                ));
            }
            let names = match raw.ns {
                OneOrMore::One(name) => vec![name],
                OneOrMore::More(names) => names,
            };
            let names: Result<Vec<_>, _> = names.iter().map(|name| Namespace::parse(name)).collect();
            let names = names.map_err(|what| format!("{place}: {what}"))?;
            if names.is_empty() {
                return Err(format!("{place}: `ns` names no namespace"));
            }
            groups.push((names, group(&place, raw.mode, raw.unnamed, raw.rules, common.allow.is_some())?));
        }
        Ok(Config { common, groups })
    }
}

fn group(
    place: &str,
    mode: Option<Mode>,
    unnamed: Option<Unnamed>,
    rules: Vec<Json>,
    may_keep: bool,
) -> Result<Group, String> {
    let allow = (mode == Some(Mode::Allow)).then(|| unnamed.unwrap_or(Unnamed::Remove));
    if unnamed.is_some() && allow.is_none() {
        return Err(format!("{place}: `unnamed` is only for `mode = \"allow\"`"));
    }
    let may_keep = may_keep || allow.is_some();
    let place = if place == "config" { "config: ".into() } else { format!("{place}.") };
    let rules = rules.into_iter().enumerate().map(|(i, json)| {
        let place = format!("{place}rules[{i}]");
        let raw: RawRule = parse_part(&place, json)?;
        rule(&raw, may_keep).map_err(|what| match &raw.path {
            Some(path) => format!("{place} (path `{path}`): {what}"),
            None => format!("{place}: {what}"),
        })
    });
    Ok(Group { allow, rules: rules.collect::<Result<_, _>>()? })
}

fn rule(raw: &RawRule, may_keep: bool) -> Result<Rule, String> {
    if raw.keep_last.is_some() && raw.action != Kind::Mask {
        return Err("`keep_last` is only for action `mask`".into());
    }
    if raw.value.is_some() && raw.action != Kind::Replace {
        return Err("`value` is only for action `replace`".into());
    }
    let path = raw.path.as_deref().map(Pattern::parse).transpose()?;
    let keep_last = raw.keep_last.unwrap_or(0);
    let Some(find) = &raw.find else {
        let path = path.ok_or("a rule needs a `path`, a `find`, or both")?;
        let action = match raw.action {
            Kind::Remove => Action::Remove,
            Kind::Mask => Action::Mask { keep_last },
            Kind::Replace => Action::Replace(value(raw.value.as_ref())?),
            Kind::Keep if may_keep => Action::Keep,
            Kind::Keep => return Err("action `keep` is only for `mode = \"allow\"`".into()),
        };
        return Ok(Rule::Path(path, action));
    };
    let edit = match (raw.action, &raw.value) {
        (Kind::Remove, _) => Edit::Remove,
        (Kind::Mask, _) => Edit::Mask { keep_last },
        (Kind::Replace, Some(Json::String(text))) => Edit::Replace(text.clone()),
        (Kind::Replace, _) => {
            return Err("with `find`, action `replace` needs a `value` that is a string".into());
        }
        (Kind::Keep, _) => return Err("action `keep` is only for paths, not for `find`".into()),
    };
    Ok(Rule::Find(path, what(find)?, edit))
}

fn what(find: &Json) -> Result<What, String> {
    const ALLOWED: &str = "`find` must be \"card\", \"email\", \"iban\" or { regex = \"…\" }";
    match find {
        Json::String(kind) => match kind.as_str() {
            "card" => Ok(What::Card),
            "email" => Ok(What::Email),
            "iban" => Ok(What::Iban),
            _ => Err(ALLOWED.into()),
        },
        Json::Object(keys) => match keys.iter().next() {
            Some((key, Json::String(pattern))) if key == "regex" && keys.len() == 1 => {
                Ok(What::Regex(pattern.clone()))
            }
            _ => Err(ALLOWED.into()),
        },
        _ => Err(ALLOWED.into()),
    }
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
