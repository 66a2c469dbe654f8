//! What a configuration may say, and what an operator is told about one that can't work; never with a key in it.
#![allow(clippy::unwrap_used)]

use plugin_sdk::prelude::*;
use pseudonymise::Pseudonymise;

const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const OTHER: &str = "Hx4dHBsaGRgXFhUUExIREA8ODQwLCgkIBwYFBAMCAQA=";

fn error(config: &str) -> String {
    let error = Pseudonymise::configure(config).map(|_| ()).unwrap_err();
    for secret in [KEY, OTHER, "0001020304", "Hx4dHBsa", "hunter2"] {
        assert!(!error.contains(secret), "{error}");
    }
    error
}

fn with(rules: &str) -> String {
    format!(r#"{{"keys":[{{"id":"new","key":"{KEY}"}},{{"id":"old","key":"{OTHER}"}}],"rules":[{rules}]}}"#)
}

fn with_keys(keys: &str) -> String {
    format!(r#"{{"keys":[{keys}],"rules":[{{"path":"a","class":"c"}}]}}"#)
}

#[test]
fn an_error_names_the_rule_what_is_wrong_and_what_to_do() {
    for (rule, expected) in [
        (r#"{"path":"a"}"#, "missing field `class`"),
        (r#"{"class":"a"}"#, "missing field `path`"),
        (
            r#"{"path":"a","klass":"a"}"#,
            "unknown field `klass`, expected one of `path`, `class`, `normalise`, `key`; did you mean `class`?",
        ),
        (r#"{"path":"a","class":""}"#, "1 to 64 bytes"),
        (r#"{"path":"a..b","class":"a"}"#, "empty name"),
        (
            r#"{"path":"a","class":"a","normalise":"trim"}"#,
            "normalise: invalid type: a string, expected a sequence",
        ),
        (
            r#"{"path":"a","class":"a","normalise":["trim","lowercas"]}"#,
            "normalise[1]: unknown word, expected one of `trim`, `lowercase`, `digits`; did you mean `lowercase`?",
        ),
        (r#"{"path":"a","class":"a","key":"hunter2"}"#, "the `keys`, which are `new`, `old`"),
        (
            r#"{"path":"a","class":"email","normalise":["lowercase"],"key":"old"}"#,
            "another `key` in rules[0]",
        ),
        (r#"{"path":"a","class":"email"}"#, "another `normalise` in rules[0]"),
        (r#"{"path":"_id","class":"a","normalise":["trim"]}"#, "can't be used on `_id`"),
        (r#"{"path":"_id.mail","class":"a","normalise":["trim"]}"#, "can't be used on `_id`"),
        (r#"{"path":"**._id","class":"a","normalise":["trim"]}"#, "can't be used on `_id`"),
        (r#"{"path":"**","class":"a","normalise":["trim"]}"#, "can't be used on `_id`"),
        ("7", "invalid type: a whole number"),
    ] {
        let first = r#"{"path":"email","class":"email","normalise":["lowercase"]}"#;
        let error = error(&with(&format!("{first},{rule}")));
        assert!(error.contains("rules[1]") && error.contains(expected), "{rule}: {error}");
    }
}

#[test]
fn a_bad_key_is_named_and_never_shown() {
    let short = &KEY[..62];
    for (key, expected) in [
        (r#"{"id":"a"}"#.to_owned(), "missing field `key`"),
        (r#"{"id":"a","key":["hunter2"]}"#.to_owned(), "key: invalid type: an array, expected a string"),
        (r#"{"id":"a","key":"hunter2 is no key"}"#.to_owned(), "neither hex nor base64"),
        (r#"{"id":"a","key":""}"#.to_owned(), "has only 0 bytes"),
        (
            format!(r#"{{"id":"a","key":"{short}"}}"#),
            "has only 31 bytes; it must be at least 32 random bytes",
        ),
        (format!(r#"{{"id":"a","key":"{}"}}"#, "00".repeat(40)), "is not random"),
        (format!(r#"{{"id":"a:b","key":"{KEY}"}}"#), "the id must be 1 to 32"),
        (format!(r#"{{"id":"","key":"{KEY}"}}"#), "the id must be 1 to 32"),
        (format!(r#"{{"id":"ok","key":"{OTHER}"}}"#), "a second key with the id `ok`"),
    ] {
        let error = error(&with_keys(&format!(r#"{{"id":"ok","key":"{KEY}"}},{key}"#)));
        assert!(error.contains("keys[1]") && error.contains(expected), "{key}: {error}");
    }
    assert!(error(&with_keys("")).contains("`keys` is empty; write keys = ["));
}

#[test]
fn the_whole_must_make_sense() {
    assert!(error("{}").contains("missing field `keys`"));
    assert!(error(&with("")).contains("`rules` is empty"));
    assert!(error(&with("").replace("rules", "rule")).contains("did you mean `rules`?"));
}

#[test]
fn good_configurations_are_taken() {
    for rules in [
        r#"{"path":"_id","class":"customer"},{"path":"customerId","class":"customer"}"#,
        r#"{"path":"**.email","class":"email","normalise":["trim","lowercase"]}"#,
        r#"{"path":"a","class":"x"},{"path":"b","class":"y","key":"old"},{"path":"c","class":"y","key":"old"}"#,
    ] {
        let plugin = Pseudonymise::configure(&with(rules));
        let shown = format!("{:?}", plugin.unwrap());
        assert!(!shown.contains(KEY) && !shown.contains("p1:"), "{shown}");
    }
    for key in
        [KEY.to_uppercase(), OTHER.to_owned(), OTHER.trim_end_matches('=').to_owned(), format!(" {KEY}\n")]
    {
        let key = key.replace('\n', "\\n");
        assert!(Pseudonymise::configure(&with_keys(&format!(r#"{{"id":"a","key":"{key}"}}"#))).is_ok());
    }
}

#[test]
fn the_schema_is_json_and_names_every_key() {
    let schema: config::Json = config::parse(Pseudonymise::CONFIG_SCHEMA).unwrap();
    let rule = &schema["properties"]["rules"]["items"]["properties"];
    assert!(["path", "class", "normalise", "key"].iter().all(|key| rule.get(key).is_some()));
    assert!(schema["properties"]["keys"]["items"]["properties"].get("id").is_some());
}
