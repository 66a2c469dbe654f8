//! What a configuration may say, and what an operator is told about one that can't work.
#![allow(clippy::unwrap_used)]

use plugin_sdk::prelude::*;
use redact::Redact;

fn error(config: &str) -> String {
    Redact::configure(config).map(|_| ()).unwrap_err()
}

fn rule_error(rule: &str) -> String {
    error(&format!(r#"{{"rules":[{{"path":"ok","action":"remove"}},{rule}]}}"#))
}

#[test]
fn an_error_names_the_rule_what_is_wrong_and_what_is_allowed() {
    for (rule, expected) in [
        (r#"{"path":"a","action":"delete"}"#, "expected one of `remove`, `mask`, `replace`, `keep`"),
        (r#"{"path":"a","action":"mask","keeplast":4}"#, "unknown field `keeplast`"),
        (r#"{"action":"mask"}"#, "missing field `path`"),
        (r#"{"path":"a"}"#, "missing field `action`"),
        (r#"{"path":"","action":"mask"}"#, "the path is empty"),
        (r#"{"path":"a..b","action":"mask"}"#, "empty name"),
        (r#"{"path":"a.b*","action":"mask"}"#, "`*` stands for a whole name"),
        (r#"{"path":"items[].sku","action":"mask"}"#, "arrays need none"),
        (r#"{"path":"a","action":"replace"}"#, "needs a `value`"),
        (r#"{"path":"a","action":"replace","value":[1]}"#, "must be a string, number, boolean or null"),
        (r#"{"path":"a","action":"remove","value":"x"}"#, "only for action `replace`"),
        (r#"{"path":"a","action":"remove","keep_last":1}"#, "only for action `mask`"),
        (r#"{"path":"a","action":"mask","keep_last":-1}"#, "invalid value"),
        (r#"{"path":"a","action":"keep"}"#, "only for `mode = \"allow\"`"),
        (r#"{"path":"_id","action":"remove"}"#, "use mask with keep_last, or pseudonymise it"),
        (r#"{"path":"*","action":"remove"}"#, "removes `_id`"),
        (r#"{"path":"**","action":"remove"}"#, "removes `_id`"),
        (r#"{"path":"**._id","action":"replace","value":1}"#, "the same `_id`"),
    ] {
        let error = rule_error(rule);
        assert!(error.contains("rules[1]") && error.contains(expected), "{rule}: {error}");
    }
}

#[test]
fn the_whole_must_make_sense() {
    assert!(error("").contains("missing field `rules`"));
    assert!(error(r#"{"rules":[]}"#).contains("empty"));
    assert!(
        error(r#"{"rules":[{"path":"a","action":"mask"}],"mod":"allow"}"#).contains("unknown field `mod`")
    );
    assert!(
        error(r#"{"rules":[{"path":"a","action":"keep"}],"mode":"allow"}"#).contains("`_id` and action keep")
    );
    assert!(error("rules").contains("not JSON"));
    let many: Vec<String> = (0..600).map(|i| format!(r#"{{"path":"a.b{i}","action":"remove"}}"#)).collect();
    assert!(error(&format!(r#"{{"rules":[{}]}}"#, many.join(","))).contains("at most 1024"));
}

#[test]
fn the_id_may_be_masked_or_kept() {
    for config in [
        r#"{"rules":[{"path":"_id","action":"mask","keep_last":4}]}"#,
        r#"{"rules":[{"path":"_id.email","action":"remove"}]}"#,
        r#"{"rules":[{"path":"a","action":"replace","value":null}]}"#,
        r#"{"mode":"allow","rules":[{"path":"_id","action":"keep"}]}"#,
        r#"{"mode":"allow","rules":[{"path":"**","action":"keep"},{"path":"**.ssn","action":"remove"}]}"#,
    ] {
        assert!(Redact::configure(config).is_ok(), "{config}");
    }
}

#[test]
fn the_schema_is_json_and_names_every_key() {
    let schema: plugin_sdk::config::Json = config::parse(Redact::CONFIG_SCHEMA).unwrap();
    let rule = &schema["properties"]["rules"]["items"]["properties"];
    assert!(["path", "action", "keep_last", "value"].iter().all(|key| rule.get(key).is_some()));
}
