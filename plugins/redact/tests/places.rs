//! Every place of an event in which a value can stand, one test each.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use bson::{Bson, Document, JavaScriptCodeWithScope, bson, doc, oid::ObjectId};
use plugin_sdk::bson_walker::{Writer, kind, validate};
use plugin_sdk::prelude::*;
use plugin_sdk::testing::{Outcome, run};
use redact::Redact;

fn plugin(rules: &str) -> Redact {
    Redact::configure(&format!(r#"{{"rules":[{rules}]}}"#)).unwrap()
}

fn remove(path: &str) -> Redact {
    plugin(&format!(r#"{{"path":"{path}","action":"remove"}}"#))
}

fn mask(path: &str, keep_last: usize) -> Redact {
    plugin(&format!(r#"{{"path":"{path}","action":"mask","keep_last":{keep_last}}}"#))
}

fn through(plugin: &Redact, event: Document) -> Document {
    let bytes = event.to_vec().unwrap();
    let out = run(plugin, &bytes).unwrap().into_bytes(&bytes).unwrap();
    validate(&out, 100).unwrap();
    Document::from_reader(&out[..]).unwrap()
}

fn delta(plugin: &Redact, delta: Document) -> Document {
    through(plugin, doc! {"op": "update", "delta": delta}).get_document("delta").unwrap().clone()
}

fn after(plugin: &Redact, after: Document) -> Document {
    through(plugin, doc! {"op": "insert", "after": after}).get_document("after").unwrap().clone()
}

#[test]
fn an_event_without_covered_values_is_kept_without_a_copy() {
    let event = doc! {"op": "insert", "key": {"_id": 1}, "after": {"_id": 1, "name": "x"}, "detail": {"to": {"db": "a"}}};
    assert_eq!(run(&remove("card.pan"), event.to_vec().unwrap()), Ok(Outcome::Kept));
}

#[test]
fn the_designs_own_rules_do_what_they_say() {
    let plugin = plugin(
        r#"{"path":"card.pan","action":"remove"},{"path":"**.ssn","action":"mask","keep_last":4},
           {"path":"customer.email","action":"replace","value":"[redacted]"}"#,
    );
    let document = doc! {"card": {"pan": "4111", "exp": "12/29"}, "customer": {"email": "a@b", "ssn": "123-45-6789"}, "ssn": 123456789};
    let expected = doc! {"card": {"exp": "12/29"}, "customer": {"email": "[redacted]", "ssn": "***6789"}, "ssn": "***6789"};
    assert_eq!(after(&plugin, document), expected);
}

#[test]
fn keys_and_both_images_are_redacted_alike() {
    let id = doc! {"email": "ann@example.org", "n": 1};
    let event = doc! {"op": "replace", "key": {"_id": id.clone()}, "before": {"_id": id.clone(), "x": 1}, "after": {"_id": id}};
    let out = through(&mask("_id.email", 4), event);
    for place in ["key", "before", "after"] {
        assert_eq!(
            out.get_document(place).unwrap().get_document("_id").unwrap(),
            &doc! {"email": "***.org", "n": 1}
        );
    }
}

#[test]
fn object_ids_and_numbers_stay_told_apart_by_their_last_characters() {
    let id = ObjectId::parse_str("65a1b2c3d4e5f60718293a4b").unwrap();
    assert_eq!(through(&mask("_id", 6), doc! {"key": {"_id": id}}), doc! {"key": {"_id": "***293a4b"}});
    assert_eq!(through(&mask("_id", 2), doc! {"key": {"_id": 123_456_i64}}), doc! {"key": {"_id": "***56"}});
}

#[test]
fn dotted_indexed_and_whole_updates_are_all_caught() {
    let plugin = remove("items.card.pan");
    let fields = doc! {
        "items.3.card.pan": "4111", "items.4.card": {"pan": "4111", "exp": 1}, "items.5": {"card": {"pan": "4111"}},
        "items.6": [[{"card": {"pan": "4111"}}]], "other.card.pan": 7,
    };
    let out = delta(&plugin, doc! {"updatedFields": fields, "removedFields": ["items.7.card.pan"]});
    let expected = doc! {"items.4.card": {"exp": 1}, "items.5": {"card": {}}, "items.6": [[{"card": {}}]], "other.card.pan": 7};
    assert_eq!(out, doc! {"updatedFields": expected, "removedFields": ["items.7.card.pan"]});
    let whole = delta(&plugin, doc! {"updatedFields": {"items": [{"card": {"pan": "4111"}}, "x"]}});
    assert_eq!(whole, doc! {"updatedFields": {"items": [{"card": {}}, "x"]}});
}

#[test]
fn two_elements_of_one_array_set_in_one_update_are_both_caught() {
    let out = delta(
        &mask("addresses.ssn", 0),
        doc! {"updatedFields": {"addresses.0": {"ssn": "1"}, "addresses.1": {"ssn": "2"}}},
    );
    assert_eq!(out, doc! {"updatedFields": {"addresses.0": {"ssn": "***"}, "addresses.1": {"ssn": "***"}}});
}

#[test]
fn names_below_a_covered_parent_do_not_show() {
    let event = doc! {
        "updatedFields": {"emails.0.x": 1, "emails.bob@x.verified": true, "emails.ann@x": {"verified": false}, "n": 1},
        "removedFields": ["emails.eve@x", "emails", "m"],
        "truncatedArrays": [{"field": "emails.joe@x.log", "newSize": 2}, {"field": "log", "newSize": 1}],
        "disambiguatedPaths": {"emails.0.x": ["emails", "0", "x"], "emails.1": ["emails", "1"]},
    };
    let removed = delta(&remove("emails"), event.clone());
    let rest = doc! {"updatedFields": {"n": 1}, "removedFields": ["emails", "m"], "truncatedArrays": [{"field": "log", "newSize": 1}], "disambiguatedPaths": {}};
    assert_eq!(removed, rest);
    let masked = delta(&mask("emails", 0), event);
    assert_eq!(masked.get_document("updatedFields").unwrap(), &doc! {"emails": "***", "n": 1});
    assert_eq!(masked.get_document("disambiguatedPaths").unwrap(), &doc! {"emails": ["emails"]});
    assert!(!masked.to_string().contains("@x"));
    assert_eq!(after(&mask("emails", 4), doc! {"emails": {"bob@example.org": 1}}), doc! {"emails": "***"});
}

#[test]
fn a_replaced_parent_is_set_once_however_many_fields_below_it_changed() {
    let event = doc! {"delta": {"updatedFields": {"a.x": 1, "a.y": 2, "b": 3, "a.z": 4},
    "disambiguatedPaths": {"a.x": ["a", "x"], "a.y": ["a", "y"]}}};
    let Ok(Outcome::Replaced(out)) = run(&mask("a", 0), event.to_vec().unwrap()) else {
        panic!("not replaced")
    };
    let delta = Doc::new(&out).unwrap().get("delta").unwrap().as_doc().unwrap();
    let names = |part: &str| -> Vec<Vec<u8>> {
        let part = delta.get(part).unwrap().as_doc().unwrap();
        part.elements().map(|e| e.unwrap().name().to_vec()).collect()
    };
    // Read raw: a document type would merge fields of the same name.
    assert_eq!(names("updatedFields"), [b"a".to_vec(), b"b".to_vec()]);
    assert_eq!(names("disambiguatedPaths"), [b"a".to_vec()]);
}

#[test]
fn arrays_keep_their_length() {
    let document = doc! {"tags": ["alpha-tag", "beta-tag"], "items": [{"sku": 1}, "sku", 2]};
    assert_eq!(
        after(&remove("tags.0"), document.clone()).get_array("tags").unwrap(),
        &vec![Bson::Null, "beta-tag".into()]
    );
    assert_eq!(
        after(&mask("tags", 3), document.clone()).get_array("tags").unwrap(),
        &vec!["***tag".into(), Bson::from("***tag")]
    );
    assert_eq!(
        after(&remove("items.sku"), document).get_array("items").unwrap(),
        &vec![bson!({}), "sku".into(), 2.into()]
    );
    assert_eq!(
        delta(&remove("tags.*"), doc! {"updatedFields": {"tags.5": "x"}}),
        doc! {"updatedFields": {"tags.5": null}}
    );
}

#[test]
fn names_with_dots_are_paths_too() {
    assert_eq!(
        after(&remove("card.pan"), doc! {"card.pan": "4111", "card": {"x.pan": 1}}),
        doc! {"card": {"x.pan": 1}}
    );
    assert_eq!(
        through(&mask("card.pan", 0), doc! {"key": {"_id": 1, "card.pan": "4"}}),
        doc! {"key": {"_id": 1, "card.pan": "***"}}
    );
    assert_eq!(after(&remove("*.ssn"), doc! {"a.b": {"ssn": 1, "c": 2}}), doc! {"a.b": {"c": 2}});
}

#[test]
fn names_are_compared_exactly() {
    let document = doc! {"SSN": "1", "ssn ": "2", "ßsn": "3"};
    assert_eq!(after(&remove("ssn"), document.clone()), document);
}

#[test]
fn every_kind_of_value_is_masked_whole() {
    let document = bson_of_every_kind();
    let event = Writer::build(|w| w.doc("after", &document));
    let masked = Redact::configure(r#"{"rules":[{"path":"x.*","action":"mask","keep_last":1}]}"#).unwrap();
    let Ok(Outcome::Replaced(out)) = run(&masked, &event) else { panic!("not replaced") };
    let out = Document::from_reader(&out[..]).unwrap();
    for (name, value) in out.get_document("after").unwrap().get_document("x").unwrap() {
        let expected = match name.as_str() {
            "int" => "***6",
            "double" => "***0",
            "oid" => "***b",
            _ => "***",
        };
        assert_eq!(value.as_str(), Some(expected), "{name}");
    }
}

fn bson_of_every_kind() -> Vec<u8> {
    let fields = Writer::build(|w| {
        w.i32("int", 123_456);
        w.f64("double", 1_000.0);
        w.f64("fraction", 1.25);
        w.f64("nan", f64::NAN);
        w.raw(kind::OBJECT_ID, b"oid", b"0123456789a\x0b");
        w.date_millis("date", 1_700_000_000_000);
        w.timestamp("timestamp", 1, 2);
        w.bool("bool", true);
        w.null("null");
        w.binary("binary", 0, b"secret");
        w.str("short", "4");
        w.raw(kind::STRING, b"latin1", &[4, 0, 0, 0, b'x', 0xE9, b'y', 0]);
        w.raw(kind::SYMBOL, b"symbol", &[4, 0, 0, 0, b'x', b'y', b'z', 0]);
        w.raw(kind::CODE, b"code", &[4, 0, 0, 0, b'x', b'y', b'z', 0]);
        w.raw(kind::REGEX, b"regex", b"secret\0i\0");
        w.raw(kind::DECIMAL128, b"decimal", &[7; 16]);
        w.raw(kind::UNDEFINED, b"undefined", &[]);
        w.raw(kind::MIN_KEY, b"min", &[]);
        w.raw(kind::DB_POINTER, b"pointer", &[2, 0, 0, 0, b'x', 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
        w.doc("doc", &Writer::build(|w| w.str("secret", "secret")));
    });
    Writer::build(|w| w.doc("x", &fields))
}

#[test]
fn at_least_half_of_a_masked_value_stays_hidden() {
    for (text, keep_last, expected) in [
        ("12345678", 4, "***"),
        ("123456789", 4, "***6789"),
        ("", 4, "***"),
        ("ab", 1, "***"),
        ("äöüß€", 2, "***ß€"),
        ("abc", 0, "***"),
        ("abc", usize::MAX, "***"),
    ] {
        assert_eq!(
            after(&mask("x", keep_last), doc! {"x": text}),
            doc! {"x": expected},
            "{text} {keep_last}"
        );
    }
}

#[test]
fn the_scope_of_code_is_a_document_too() {
    let code = JavaScriptCodeWithScope { code: "f()".into(), scope: doc! {"ssn": "123", "n": 1} };
    let out = after(&remove("**.ssn"), doc! {"f": code, "z": 1});
    let Some(Bson::JavaScriptCodeWithScope(code)) = out.get("f") else { panic!("{out}") };
    assert_eq!((&code.scope, out.get("z")), (&doc! {"n": 1}, Some(&Bson::Int32(1))));
}

#[test]
fn names_are_compared_to_their_last_letter() {
    for name in (1..=20).map(|len| &"abcdefghijklmnopqrst"[..len]) {
        let others = (0..name.len()).map(|at| [&name[..at], "_", &name[at + 1..]].concat());
        let others: Document = others.chain([format!("{name}x")]).map(|other| (other, 1.into())).collect();
        let mut all = others.clone();
        all.insert(name, 1);
        assert_eq!(after(&remove(name), all), others);
    }
}

#[test]
fn repeated_names_are_all_redacted() {
    let after = Writer::build(|w| (0..3).for_each(|_| w.str("pan", "4111")));
    let event = Writer::build(|w| w.doc("after", &after));
    assert_eq!(
        run(&remove("pan"), &event),
        Ok(Outcome::Replaced(Writer::build(|w| w.doc("after", &[5, 0, 0, 0, 0]))))
    );
}

#[test]
fn literals_in_definitions_are_redacted() {
    let detail = doc! {"to": {"db": "shop", "coll": "ssn"}, "operationDescription": {
        "validator": {"$jsonSchema": {"properties": {"card": {"properties": {"pan": {"enum": ["4111"]}}}}}},
        "indexes": [{"key": {"card.pan": 1}, "name": "pan_1", "partialFilterExpression": {"card.pan": {"$gt": "4111"}}}],
        "filter": {"$and": [{"card": {"$elemMatch": {"pan": "4111"}}}]},
    }};
    let out = through(&remove("card.pan"), doc! {"op": "modify", "detail": detail});
    assert!(!out.to_string().contains("4111"), "{out}");
    assert!(out.to_string().contains("pan_1"), "{out}");
    assert_eq!(
        out.get_document("detail").unwrap().get_document("to").unwrap(),
        &doc! {"db": "shop", "coll": "ssn"}
    );
}

#[test]
fn an_expression_that_refers_to_a_covered_field_hides_its_whole_definition() {
    for reference in ["$card.pan", "$card", "$$ROOT.card.pan", "$$this.pan"] {
        let pipeline = bson!([{"$match": {"$expr": {"$eq": [reference, "4111"]}}}]);
        let out = through(
            &remove("card.pan"),
            doc! {"detail": {"operationDescription": {"pipeline": pipeline}, "n": 1}},
        );
        assert_eq!(out, doc! {"detail": {"operationDescription": "***", "n": 1}}, "{reference}");
    }
    let harmless = doc! {"detail": {"operationDescription": {"pipeline": [{"$project": {"x": "$name"}}]}}};
    assert_eq!(
        through(
            &plugin(r#"{"path":"**.ssn","action":"remove"},{"path":"card.pan","action":"remove"}"#),
            harmless.clone()
        ),
        harmless
    );
}

#[test]
fn raw_diffs_are_hidden() {
    let out = through(
        &remove("x"),
        doc! {"detail": {"rawUpdateDescription": {"diff": {"scard": {"u": {"pan": 1}}}}}},
    );
    assert_eq!(out, doc! {"detail": {"rawUpdateDescription": "***"}});
}

#[test]
fn an_actor_taken_from_a_redacted_field_is_hidden_too() {
    let event = |id: Bson, actor: &str| doc! {"after": {"by": id, "n": 1}, "actor": {"id": actor, "from": "document"}};
    let hidden = Bson::from(doc! {"id": "***", "from": "document"});
    assert_eq!(through(&remove("by"), event("ann".into(), "ann")).get("actor"), Some(&hidden));
    assert_eq!(
        through(&remove("by"), event(bson!({"user": {"name": "ann"}}), "ann")).get("actor"),
        Some(&hidden)
    );
    assert_eq!(through(&remove("by"), event(7_421_i64.into(), "7421")).get("actor"), Some(&hidden));
    assert_eq!(through(&remove("by"), event(7_421.0.into(), "7421")).get("actor"), Some(&hidden));
    let id = ObjectId::parse_str("65a1b2c3d4e5f60718293a4b").unwrap();
    assert_eq!(
        through(&remove("by"), event(id.into(), "65a1b2c3d4e5f60718293a4b")).get("actor"),
        Some(&hidden)
    );
    let kept = event("x".into(), "ann").get("actor").cloned();
    assert_eq!(through(&remove("n"), event("ann".into(), "ann")).get("actor").cloned(), kept);
}

#[test]
fn the_outermost_rule_decides_and_then_the_first() {
    let rules = plugin(
        r#"{"path":"**.ssn","action":"mask","keep_last":1},{"path":"customer","action":"remove"},{"path":"ssn","action":"remove"}"#,
    );
    assert_eq!(
        after(&rules, doc! {"customer": {"ssn": "12345"}, "ssn": "12345", "n": 1}),
        doc! {"ssn": "***5", "n": 1}
    );
}

#[test]
fn only_named_fields_are_kept_in_allow_mode() {
    let plugin = Redact::configure(
        r#"{"mode":"allow","rules":[{"path":"_id","action":"keep"},{"path":"customer","action":"keep"},{"path":"items.sku","action":"keep"},
            {"path":"customer.email","action":"mask"}]}"#,
    )
    .unwrap();
    let event = doc! {
        "op": "update", "ns": {"db": "d", "coll": "c"}, "key": {"_id": 1, "region": "eu"},
        "after": {"_id": 1, "region": "eu", "customer": {"name": "ann", "email": "a@b"}, "items": [{"sku": 1, "price": 2}, 3], "note": {"x": 1}},
        "delta": {"updatedFields": {"customer.name": "ann", "customer.email": "a@b", "items.0.price": 2, "note.x": 1, "items": 5}, "removedFields": []},
        "detail": {"to": {"db": "d"}, "comment": "secret"},
    };
    let expected = doc! {
        "op": "update", "ns": {"db": "d", "coll": "c"}, "key": {"_id": 1},
        "after": {"_id": 1, "customer": {"name": "ann", "email": "***"}, "items": [{"sku": 1}, null]},
        "delta": {"updatedFields": {"customer.name": "ann", "customer.email": "***"}, "removedFields": ["items"]},
        "detail": {"to": {"db": "d"}, "comment": "***"},
    };
    assert_eq!(through(&plugin, event), expected);
}

#[test]
fn what_is_not_understood_is_refused() {
    for event in [
        doc! {"after": "text"},
        doc! {"key": [1]},
        doc! {"delta": 1},
        doc! {"delta": {"updatedFields": 1}},
        doc! {"delta": {"removedFields": [1]}},
        doc! {"delta": {"truncatedArrays": [1]}},
        doc! {"delta": {"updatedFields": {"a.b": 1}, "disambiguatedPaths": {"a.b": ["x", "b"]}}},
        doc! {"delta": {"updatedFields": {"a.b": 1}, "disambiguatedPaths": {"a.b": "a"}}},
    ] {
        assert!(run(&remove("a"), event.to_vec().unwrap()).is_err(), "{event}");
    }
}

#[test]
fn nesting_beyond_mongodbs_is_refused_and_not_a_crash() {
    let mut bytes = vec![5, 0, 0, 0, 0];
    for _ in 0..5_000 {
        bytes = Writer::build(|w| w.doc("d", &bytes));
    }
    let event = Writer::build(|w| w.doc("after", &bytes));
    assert!(run(&remove("**.x"), &event).is_err_and(|e| e.contains("200 levels")));
}

#[test]
fn more_rules_than_a_word_has_bits_work_too() {
    let rules: Vec<String> =
        (0..300).map(|i| format!(r#"{{"path":"a.f{i}.x","action":"remove"}}"#)).collect();
    let document: Document = (0..310).map(|i| (format!("f{i}"), bson!({"x": i, "y": 1}))).collect();
    let expected: Document = (0..310)
        .map(|i| (format!("f{i}"), if i < 300 { bson!({"y": 1}) } else { bson!({"x": i, "y": 1}) }))
        .collect();
    assert_eq!(after(&plugin(&rules.join(",")), doc! {"a": document}), doc! {"a": expected});
}
