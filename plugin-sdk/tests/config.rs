//! Errors in a plugin's configuration say where and what is allowed, and quote no value.
#![allow(clippy::unwrap_used)]

use plugin_sdk::config::{parse, parse_part};
use serde::Deserialize;

#[derive(Deserialize, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
struct Config {
    rules: Vec<Rule>,
    limit: Option<u32>,
    #[serde(default)]
    inner: Inner,
}

#[derive(Deserialize, Debug, PartialEq, Default)]
#[serde(deny_unknown_fields)]
struct Inner {
    #[serde(default)]
    ratio: f64,
    #[serde(default)]
    names: Vec<String>,
}

#[derive(Deserialize, Debug, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Rule {
    Nothing,
    Keep(Inner),
    Drop { ns: String },
}

#[test]
fn everything_is_read_that_json_can_say() {
    let text =
        r#"{"rules":["nothing",{"keep":{"names":["a"]}},{"drop":{"ns":"x"}}],"limit":3,"inner":{"ratio":2}}"#;
    let config: Config = parse(text).unwrap();
    assert_eq!(config.limit, Some(3));
    assert_eq!(config.inner, Inner { ratio: 2.0, names: Vec::new() });
    let keep = Rule::Keep(Inner { ratio: 0.0, names: vec!["a".into()] });
    assert_eq!(config.rules, [Rule::Nothing, keep, Rule::Drop { ns: "x".into() }]);
    assert_eq!(parse::<Config>(r#"{"rules":[],"limit":null}"#).unwrap().limit, None);
    assert_eq!(parse::<Inner>("").unwrap(), Inner::default());
}

#[test]
fn an_error_says_where_it_is_and_what_was_perhaps_meant_and_quotes_nothing() {
    for (text, expected) in [
        (
            r#"{"rule":[]}"#,
            "config: unknown field `rule`, expected one of `rules`, `limit`, `inner`; did you mean `rules`?",
        ),
        (r#"{"limit":3}"#, "config: missing field `rules`"),
        (r#"{"rules":"hunter2"}"#, "config: rules: invalid type: a string, expected a sequence"),
        (r#"{"rules":[],"limit":"hunter2"}"#, "config: limit: invalid type: a string, expected u32"),
        (r#"{"rules":[],"limit":-77777}"#, "config: limit: invalid value, expected u32"),
        (
            r#"{"rules":["hunter2"]}"#,
            "config: rules[0]: unknown word, expected one of `nothing`, `keep`, `drop`",
        ),
        (
            r#"{"rules":["nothing",{"dropp":{}}]}"#,
            "config: rules[1]: unknown word, expected one of `nothing`, `keep`, `drop`; did you mean `drop`?",
        ),
        (
            r#"{"rules":[{"drop":{"ns":77777}}]}"#,
            "config: rules[0].drop.ns: invalid type: a whole number, expected a string",
        ),
        (r#"{"rules":[{"drop":{}}]}"#, "config: rules[0].drop: missing field `ns`"),
        (r#"{"rules":["drop"]}"#, "config: rules[0].drop: needs a table of its own"),
        (
            r#"{"rules":[{"keep":{},"drop":{}}]}"#,
            "config: rules[0]: expected one of `nothing`, `keep`, `drop`, and nothing beside it",
        ),
        (r#"{"rules":[{"nothing":1}]}"#, "config: rules[0]: `nothing` takes no value"),
        (
            r#"{"rules":[{"keep":{"names":["a",["hunter2"]]}}]}"#,
            "config: rules[0].keep.names[1]: invalid type: an array, expected a string",
        ),
        (
            r#"{"rules":[],"inner":{"rato":1}}"#,
            "config: inner: unknown field `rato`, expected one of `ratio`, `names`; did you mean `ratio`?",
        ),
    ] {
        let error = parse::<Config>(text).unwrap_err();
        assert_eq!(error, expected, "{text}");
        assert!(!error.contains("hunter2") && !error.contains("77777"));
    }
    assert!(parse::<Config>("hunter2").unwrap_err().starts_with("the config is not JSON"));
    let error = parse_part::<Inner>("config: rules[3]", "hunter2".into()).unwrap_err();
    assert_eq!(error, "config: rules[3]: invalid type: a string, expected struct Inner");
}
