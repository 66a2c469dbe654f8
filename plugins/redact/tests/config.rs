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
        (r#"{"action":"mask"}"#, "needs a `path`, a `find`, or both"),
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
        (r#"{"find":"phone","action":"mask"}"#, "must be \"card\", \"email\", \"iban\" or { regex"),
        (r#"{"find":{"regexp":"x"},"action":"mask"}"#, "must be \"card\""),
        (r#"{"find":{"regex":"(a"},"action":"mask"}"#, "unclosed group"),
        (r#"{"find":{"regex":"\\p{Greek}"},"action":"mask"}"#, "can't be used: "),
        (r#"{"find":{"regex":"x{1000}{1000}"},"action":"mask"}"#, "exceeded limit"),
        (r#"{"find":{"regex":"x*"},"action":"mask"}"#, "matches the empty text"),
        (r#"{"find":{"regex":"[a-z]+"},"action":"mask"}"#, "matches the name `_id`"),
        (r#"{"find":"card","action":"keep"}"#, "only for paths"),
        (r#"{"find":"card","action":"replace"}"#, "a `value` that is a string"),
        (r#"{"find":"card","action":"replace","value":7}"#, "a `value` that is a string"),
        (r#"{"path":"a","find":"card","action":"remove","keep_last":7}"#, "only for action `mask`"),
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
    assert!(error("").contains("`rules` is empty"));
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
fn an_error_names_the_namespaces_whose_rules_are_wrong() {
    let ok = r#"[{"path":"ok","action":"remove"}]"#;
    for (group, expected) in [
        (format!(r#"{{"rules":{ok}}}"#), "namespaces[1]: missing field `ns`"),
        (r#"{"ns":"a.b"}"#.into(), "missing field `rules`"),
        (format!(r#"{{"ns":7,"rules":{ok}}}"#), "or a list of such"),
        (format!(r#"{{"ns":[],"rules":{ok}}}"#), "names no namespace"),
        (format!(r#"{{"ns":"shop","rules":{ok}}}"#), "`shop` is no namespace"),
        (format!(r#"{{"ns":"*.users","rules":{ok}}}"#), "`*.users` is no namespace"),
        (format!(r#"{{"ns":"shop.u*","rules":{ok}}}"#), "all collections of a database: `shop.*`"),
        (format!(r#"{{"ns":"a.b","unnamed":"mask","rules":{ok}}}"#), "only for `mode = \"allow\"`"),
        (format!(r#"{{"ns":"a.b","mode":"allow","rules":{ok}}}"#), "nothing keeps `_id`"),
        (format!(r#"{{"ns":"a.b","mode":"allow","unnamed":"mask","rules":{ok}}}"#), "nothing keeps `_id`"),
        (
            r#"{"ns":"a.b","rules":[{"path":"_id","action":"keep"}]}"#.into(),
            "namespaces[1].rules[0] (path `_id`)",
        ),
        (
            r#"{"ns":"a.b","rules":[{"path":"_id","action":"remove"}]}"#.into(),
            "namespaces[1].rules[0]: removes `_id`",
        ),
    ] {
        let error = error(&format!(r#"{{"namespaces":[{{"ns":"x.*","rules":{ok}}},{group}]}}"#));
        assert!(error.contains("namespaces[1]") && error.contains(expected), "{group}: {error}");
    }
    let loosened = r#"{"mode":"allow","rules":[{"path":"_id","action":"keep"}],"namespaces":[{"ns":"a.b","mode":"deny","rules":[]}]}"#;
    assert!(error(loosened).contains("can't take back"));
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
    let rule = &schema["$defs"]["rules"]["items"]["properties"];
    assert!(
        ["path", "find", "action", "keep_last", "value"].iter().all(|key| rule.get(key).is_some()),
        "{rule}"
    );
    let keys = &schema["properties"];
    let group = &keys["namespaces"]["items"]["properties"];
    assert!(
        ["mode", "unnamed", "rules"].iter().all(|key| keys.get(key).is_some() && group.get(key).is_some())
    );
}
