//! What a configuration may say, and what an operator is told about one that can't work.
#![allow(clippy::unwrap_used)]

use filter::Filter;
use plugin_sdk::prelude::*;

fn error(config: &str) -> String {
    Filter::configure(config).map(|_| ()).unwrap_err()
}

#[test]
fn an_error_names_the_rule_what_is_wrong_and_what_to_do() {
    for (rule, expected) in [
        ("{}", "expected one of `keep`, `drop`, and nothing beside it"),
        (r#"{"drop":{"ns":"a.b"},"keep":{"ns":"a.c"}}"#, "and nothing beside it"),
        (r#""drop""#, "drop: needs a table of its own"),
        (r#"{"dorp":{"ns":"a.b"}}"#, "did you mean `drop`?"),
        (r#"{"drop":{}}"#, "names nothing; it needs at least one of"),
        (
            r#"{"drop":{"namespace":"a.b"}}"#,
            "drop: unknown field `namespace`, expected one of `ns`, `op`, `actor`, `only_changed`",
        ),
        (
            r#"{"drop":{"ns":7}}"#,
            "drop.ns: invalid type: a whole number, expected a string or an array of strings",
        ),
        (r#"{"drop":{"ns":[7]}}"#, "drop.ns[0]: invalid type: a whole number, expected a string"),
        (r#"{"drop":{"ns":"shop"}}"#, "`shop` is no namespace; it must be \"db.collection\""),
        (r#"{"drop":{"ns":".a"}}"#, "`.a` is no namespace"),
        (r#"{"drop":{"ns":"shop.temp*"}}"#, "`*` stands for a whole name"),
        (r#"{"drop":{"ns":[]}}"#, "`ns` is empty"),
        (r#"{"drop":{"actor":""}}"#, "`actor` is empty"),
        (r#"{"drop":{"op":"Update"}}"#, "`Update` is no operation; did you mean `update`?"),
        (
            r#"{"drop":{"op":["insert","upsert"]}}"#,
            "`upsert` is no operation; the operations are insert, update,",
        ),
        (r#"{"drop":{"only_changed":["a..b"]}}"#, "only_changed: the path `a..b` has an empty name"),
        (r#"{"drop":{"only_changed":[]}}"#, "`only_changed` is empty"),
        (r#"{"drop":{"only_changed":"a","op":["update","replace"]}}"#, "leave `op` out"),
    ] {
        let error = error(&format!(r#"{{"rules":[{{"drop":{{"ns":"a.b"}}}},{rule}]}}"#));
        assert!(error.contains("rules[1]") && error.contains(expected), "{rule}: {error}");
    }
}

#[test]
fn the_whole_must_make_sense() {
    assert!(error("{}").contains("missing field `rules`"));
    assert!(error(r#"{"rules":[]}"#).contains("`rules` is empty"));
    assert!(error(r#"{"rules":[{"keep":{"ns":"a.b"}}]}"#).contains("nothing is dropped"));
    assert!(
        error(r#"{"default":"drop","rules":[{"drop":{"ns":"a.b"}}]}"#)
            .contains("drops every document's events")
    );
    assert!(
        error(r#"{"default":"dorp","rules":[{"drop":{"ns":"a.b"}}]}"#)
            .contains("config: default: unknown word")
    );
}

#[test]
fn good_configurations_are_taken() {
    for config in [
        r#"{"rules":[{"drop":{"op":["update"],"only_changed":["lastSeen","stats.*"]}},{"drop":{"ns":"shop.sessions"}}]}"#,
        r#"{"default":"drop","rules":[{"keep":{"ns":["shop.*","*.orders","*"],"op":"delete","actor":"a@b"}}]}"#,
        r#"{"rules":[{"drop":{"op":["createIndexes","dropIndexes"]}}]}"#,
    ] {
        assert!(Filter::configure(config).is_ok(), "{config}");
    }
}

#[test]
fn the_schema_is_json_and_names_every_key() {
    let schema: config::Json = config::parse(Filter::CONFIG_SCHEMA).unwrap();
    let conditions = &schema["$defs"]["conditions"]["properties"];
    assert!(["ns", "op", "actor", "only_changed"].iter().all(|key| conditions.get(key).is_some()));
    assert!(schema["properties"].get("default").is_some());
}
