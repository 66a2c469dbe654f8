//! What value rules find, wherever it stands, and what they leave.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use bson::{Bson, Decimal128, Document, JavaScriptCodeWithScope, Regex, bson, doc};
use plugin_sdk::prelude::*;
use plugin_sdk::testing::run;
use redact::Redact;

/// The numbers that the networks and banks publish for tests.
const CARDS: [&str; 9] = [
    "4111111111111111",
    "4222222222222",
    "5555555555554444",
    "2223003122003222",
    "378282246310005",
    "30569309025904",
    "6011111111111117",
    "3530111333300000",
    "6304000000000000",
];
const IBANS: [&str; 9] = [
    "DE89370400440532013000",
    "GB29NWBK60161331926819",
    "NO9386011117947",
    "FR1420041010050500013M02606",
    "MT84MALT011000012345MTLCAST001S",
    "NL91ABNA0417164300",
    "CH9300762011623852957",
    "LC55HEMM000100010012001200023015",
    "SC18SSCB11010000000000001497USD",
];

fn plugin(rules: &str) -> Redact {
    Redact::configure(&format!(r#"{{"rules":[{rules}]}}"#)).unwrap()
}

fn all(action: &str) -> Redact {
    plugin(
        &["card", "email", "iban"].map(|find| format!(r#"{{"find":"{find}","action":{action}}}"#)).join(","),
    )
}

fn mask() -> Redact {
    all(r#""mask""#)
}

fn through(plugin: &Redact, event: Document) -> Document {
    let bytes = event.to_vec().unwrap();
    let out = run(plugin, &bytes).unwrap().into_bytes(&bytes).unwrap();
    plugin_sdk::bson_walker::validate(&out, 100).unwrap();
    Document::from_reader(&out[..]).unwrap()
}

fn after(plugin: &Redact, after: Document) -> Document {
    through(plugin, doc! {"after": after}).get_document("after").unwrap().clone()
}

/// What becomes of one value.
fn one(plugin: &Redact, value: impl Into<Bson>) -> Option<Bson> {
    after(plugin, doc! {"x": value.into()}).remove("x")
}

fn text(plugin: &Redact, text: &str) -> String {
    one(plugin, text).unwrap().as_str().unwrap().to_owned()
}

#[test]
fn published_test_numbers_are_found_in_every_way_they_are_written() {
    for card in CARDS {
        assert_eq!(text(&mask(), card), "***", "{card}");
        let groups = |by: &str| {
            card.as_bytes().chunks(4).map(|c| std::str::from_utf8(c).unwrap()).collect::<Vec<_>>().join(by)
        };
        for (written, expected) in [
            (format!("pan={card};exp=12/29"), "pan=***;exp=12/29"),
            (format!("card {}.", groups(" ")), "card ***."),
            (format!("{}!", groups("-")), "***!"),
            (format!("no.{}, thanks", groups(".")), "no.***, thanks"),
            (format!("{{\"pan\":{card},\"n\":1}}"), "{\"pan\":***,\"n\":1}"),
            (format!("12 {} 12", groups(" ")), "12 ***"),
            (format!("ää{card}ää"), "ää***ää"),
        ] {
            let found = text(&mask(), &written);
            let tolerated = expected == "12 ***" && found == "12 *** 12";
            assert!(found == expected || tolerated, "{written}: {found}");
        }
    }
    for iban in IBANS {
        let groups =
            iban.as_bytes().chunks(4).map(|c| std::str::from_utf8(c).unwrap()).collect::<Vec<_>>().join(" ");
        for written in [iban.to_owned(), groups, iban.to_lowercase(), format!("IBAN{iban}")] {
            let expected = if written.starts_with("IBAN") { "IBAN***" } else { "***" };
            assert_eq!(text(&mask(), &written), expected, "{written}");
            assert_eq!(text(&mask(), &format!("to {written}, please")), format!("to {expected}, please"));
        }
    }
    for email in [
        "bob@x.com",
        "Bob.O'Hara+tag@mail.example.co.uk",
        "jörg@müller.de",
        "\"bob b\"@x.com",
        "a_b%40x.org",
        "用户@例子.中国",
    ] {
        assert_eq!(text(&mask(), email), "***", "{email}");
        assert_eq!(text(&mask(), &format!("<{email}>, or call")), "<***>, or call", "{email}");
    }
    assert_eq!(text(&mask(), "https://u:p@x.org/?to=a@b.cd&n=1"), "https://u:***/?to=***&n=1");
}

#[test]
fn what_only_looks_like_one_stays() {
    for harmless in [
        "4111111111111112",     // check digit
        "1700000000006",        // no network, such as milliseconds since 1970
        "41111111111111110000", // too many digits
        "411111111111",         // too few
        "2024-01-02 2024-01-03",
        "0.4111111111111111",
        "48.85837009999999",
        "200 300 400 500 600",
        "DE88370400440532013000", // check digits
        "ZZ89370400440532013000", // no country
        "DE8937040044053201300",  // too short
        "bob@localhost",
        "3@5.99",
        "@x.com",
        "100%",
        "at @ home.now",
        "65a1b2c3d4e5f60718293a4b",
    ] {
        assert_eq!(text(&mask(), harmless), harmless);
    }
    for number in [Bson::Int64(1_700_000_000_006), 4_111.into(), 1.5.into(), Bson::Null, true.into()] {
        assert_eq!(one(&mask(), number.clone()), Some(number));
    }
}

#[test]
fn a_card_number_stored_as_a_number_is_found_whatever_its_type() {
    let decimal: Decimal128 = "4111111111111111".parse().unwrap();
    let keep = plugin(r#"{"find":"card","action":"mask","keep_last":4}"#);
    for number in [Bson::Int64(4_111_111_111_111_111), 4_111_111_111_111_111.0.into(), decimal.into()] {
        assert_eq!(one(&keep, number.clone()), Some("***1111".into()));
        assert_eq!(one(&all(r#""remove""#), number), None);
    }
    assert_eq!(one(&keep, Bson::Int64(-4_111_111_111_111_111)), Some("-***1111".into()));
}

#[test]
fn every_kind_of_value_that_holds_text_is_searched() {
    let code = JavaScriptCodeWithScope { code: "f('a@b.cd')".into(), scope: doc! {} };
    let scope = JavaScriptCodeWithScope { code: "f()".into(), scope: doc! {"to": "a@b.cd"} };
    let regex = Regex { pattern: "a@b.cd".try_into().unwrap(), options: "i".try_into().unwrap() };
    for (value, expected) in [
        (Bson::Symbol("to a@b.cd".into()), Bson::from("to ***")),
        (Bson::JavaScriptCode("f('a@b.cd')".into()), "f('***')".into()),
        (code.into(), "***".into()),
        (scope.into(), JavaScriptCodeWithScope { code: "f()".into(), scope: doc! {"to": "***"} }.into()),
        (regex.into(), "***".into()),
    ] {
        assert_eq!(one(&mask(), value), Some(expected));
    }
    let below = plugin(r#"{"find":"email","path":"**.to","action":"mask"}"#);
    let scope = |to: &str| JavaScriptCodeWithScope { code: "f()".into(), scope: doc! {"to": to} };
    assert_eq!(one(&below, scope("a@b.cd")), Some(scope("***").into()));
    let bytes = Writer::build(|event| {
        let mut after = event.begin_doc(b"after");
        after.raw(2, b"latin1", b"\x09\0\0\0\xE9 a@b.cd\0");
        after.end();
    });
    let out = run(&mask(), &bytes).unwrap().into_bytes(&bytes).unwrap();
    assert_eq!(Document::from_reader(&out[..]).unwrap(), doc! {"after": {"latin1": "***"}});
}

#[test]
fn only_the_match_is_masked_or_replaced_and_remove_takes_the_field() {
    let note = "mail a@b.cd or pay with 4111 1111 1111 1111.";
    assert_eq!(text(&mask(), note), "mail *** or pay with ***.");
    let replace = plugin(
        r#"{"find":"email","action":"replace","value":"[mail]"},{"find":"card","action":"mask","keep_last":4}"#,
    );
    assert_eq!(text(&replace, note), "mail [mail] or pay with ***1111.");
    assert_eq!(
        after(&all(r#""remove""#), doc! {"note": note, "notes": [note, "x"], "n": 1}),
        doc! {"notes": [null, "x"], "n": 1}
    );
    // One rule that removes is enough.
    let both = plugin(r#"{"find":"email","action":"mask"},{"find":"card","action":"remove"}"#);
    assert_eq!(one(&both, note), None);
}

#[test]
fn regexes_find_what_they_say() {
    let rule = |pattern: &str| {
        let pattern = pattern.replace('\\', "\\\\");
        plugin(&format!(r#"{{"find":{{"regex":"{pattern}"}},"action":"mask"}}"#))
    };
    assert_eq!(
        text(&rule(r"\b\d{3}-\d{2}-\d{4}\b"), "ssn 123-45-6789, not 1123-45-6789"),
        "ssn ***, not 1123-45-6789"
    );
    assert_eq!(text(&rule(r"(?i)secret-[a-z]+"), "SECRET-abc secret-x"), "*** ***");
    assert_eq!(text(&rule(r"^X.*$"), "X\u{e9}"), "***");
    // A match never ends inside a character.
    assert_eq!(text(&rule(r"a."), "aéb"), "***b");
    assert_eq!(text(&rule(r".b"), "aéb"), "a***");
    assert_eq!(one(&rule(r"^\d{9}$"), Bson::Int32(123_456_789)), Some("***".into()));
    assert_eq!(one(&rule(r"^\d{9}$"), Bson::Int32(12_345_678)), Some(Bson::Int32(12_345_678)));
    assert_eq!(one(&rule(r"-\d$"), Bson::Int32(-7)), Some("***".into()));
    let long = plugin(r#"{"find":"card","action":"mask"},{"find":{"regex":"x{30}"},"action":"mask"}"#);
    assert_eq!(one(&long, Bson::Int64(4_111_111_111_111_111)), Some("***".into()));
}

#[test]
fn matches_that_overlap_are_hidden_whole() {
    let rules = |keep| {
        plugin(&format!(
            r#"{{"find":{{"regex":"mail [a-z]+"}},"action":"mask","keep_last":{keep}}},{{"find":"email","action":"mask","keep_last":3}}"#
        ))
    };
    assert_eq!(text(&rules(1), "mail abc@example.com now"), "*** now");
    let same = plugin(
        r#"{"find":"card","action":"mask","keep_last":4},{"find":{"regex":"[0-9]{16}"},"action":"replace","value":"-"}"#,
    );
    assert_eq!(text(&same, "4111111111111111"), "***1111");
}

#[test]
fn json_inside_strings_is_searched_through_its_escapes() {
    assert_eq!(text(&mask(), r#"{"mail":"bob@x.com","n":1}"#), r#"{"mail":"***","n":1}"#);
    for escaped in [
        r#"{"mail":"bob\u0040x.com"}"#,
        r#"{"pan":"\u0034111111111111111"}"#,
        r#""{\"m\":\"bob\\u0040x.com\"}""#,
    ] {
        assert_eq!(text(&mask(), escaped), "***", "{escaped}");
    }
    // Also where nothing but the escapes could give it away.
    let emails = plugin(r#"{"find":"email","action":"mask"}"#);
    assert_eq!(text(&emails, r"bob\u0040x.com"), "***");
    assert_eq!(text(&mask(), r#"{"n":"\u0041bc \n \\"}"#), r#"{"n":"\u0041bc \n \\"}"#);
}

#[test]
fn a_field_whose_name_is_a_match_goes_with_every_trace_of_the_name() {
    let plugin = mask();
    let event = doc! {
        "op": "update", "key": {"_id": 1},
        "before": {"_id": 1, "emails": {"bob@x.com": 1}, "cards": {"4111111111111111": {"n": 1}}},
        "after": {"_id": 1, "emails": {"bob@x.com": 2, "eve@x.com": 1}, "cards": {}},
        "delta": {
            "updatedFields": {"emails.bob@x.com": 2, "emails.eve@x.com": 1, "m": {"bob@x.com": 1}, "cards.4111111111111111.n": 1},
            "removedFields": ["cards.4111111111111111", "emails.joe@x.com", "n"],
            "truncatedArrays": [{"field": "emails.ann@x.com", "newSize": 1}],
        },
    };
    let expected = doc! {
        "op": "update", "key": {"_id": 1},
        "before": {"_id": 1, "emails": {}, "cards": {}}, "after": {"_id": 1, "emails": {}, "cards": {}},
        "delta": {"updatedFields": {"m": {}}, "removedFields": ["n"], "truncatedArrays": []},
    };
    assert_eq!(through(&plugin, event.clone()), expected, "before MongoDB 6.1");
    let mut told = event;
    let exact = doc! {
        "emails.bob@x.com": ["emails", "bob@x.com"], "emails.eve@x.com": ["emails", "eve@x.com"],
        "cards.4111111111111111.n": ["cards", "4111111111111111", "n"], "cards.4111111111111111": ["cards", "4111111111111111"],
        "emails.joe@x.com": ["emails", "joe@x.com"], "emails.ann@x.com": ["emails", "ann@x.com"],
    };
    told.get_document_mut("delta").unwrap().insert("disambiguatedPaths", exact);
    let out = through(&plugin, told);
    assert_eq!(out.get_document("delta").unwrap().get_document("disambiguatedPaths").unwrap(), &doc! {});
    assert!(!out.to_string().contains("@x") && !out.to_string().contains("4111"), "{out}");
    // A path rule on the same place does not bring the name back.
    let masked = self::plugin(r#"{"path":"emails.*","action":"mask"},{"find":"email","action":"mask"}"#);
    assert_eq!(after(&masked, doc! {"emails": {"bob@x.com": 1, "n": 1}}), doc! {"emails": {"n": "***"}});
}

#[test]
fn an_update_that_sets_a_match_removes_what_was_there() {
    let plugin = all(r#""remove""#);
    let event = doc! {"delta": {"updatedFields": {"note": "a@b.cd", "notes.1": "a@b.cd", "n": 1}, "removedFields": ["x"]}};
    assert_eq!(
        through(&plugin, event),
        doc! {"delta": {"updatedFields": {"notes.1": null, "n": 1}, "removedFields": ["x", "note"]}}
    );
}

#[test]
fn a_rule_may_be_limited_to_a_path() {
    let rules = plugin(
        r#"{"find":"email","path":"notes.**","action":"mask"},{"find":"card","path":"**.pan","action":"mask"}"#,
    );
    assert_eq!(
        after(
            &rules,
            doc! {"mail": "a@b.cd", "notes": ["a@b.cd", {"x": {"y": "a@b.cd"}}], "x": {"pan": {"n": ["4111111111111111"]}, "no": "4111111111111111"}}
        ),
        doc! {"mail": "a@b.cd", "notes": ["***", {"x": {"y": "***"}}], "x": {"pan": {"n": ["***"]}, "no": "4111111111111111"}}
    );
    let delta = doc! {"delta": {"updatedFields": {"notes.3": "a@b.cd", "notes.1.x": "a@b.cd", "mail": "a@b.cd", "x.pan": "4111111111111111", "notes.a@b.cd": 1}}};
    assert_eq!(
        through(&rules, delta),
        doc! {"delta": {"updatedFields": {"notes.3": "***", "notes.1.x": "***", "mail": "a@b.cd", "x.pan": "***"}}}
    );
}

#[test]
fn what_a_path_rule_leaves_of_a_value_is_no_part_of_a_match() {
    let rules = plugin(
        r#"{"path":"pan","action":"mask","keep_last":4},{"path":"notes","action":"mask","keep_last":8},
           {"find":"card","action":"mask","keep_last":4},{"find":"email","action":"remove"}"#,
    );
    let document = doc! {"pan": "4111111111111111", "notes": ["from a@example.org", "no. 4111 1111 1111 1111", "nothing of interest here"]};
    assert_eq!(after(&rules, document), doc! {"pan": "***1111", "notes": ["***", "***1111", "***est here"]});
    let replaced =
        plugin(r#"{"path":"note","action":"mask","keep_last":9},{"find":"email","action":"mask"}"#);
    assert_eq!(after(&replaced, doc! {"note": "write to a@b.cd now"}), doc! {"note": "*** now"});
}

#[test]
fn the_id_may_be_masked_by_value_but_not_taken_away() {
    let event = doc! {"key": {"_id": "bob@example.org"}, "after": {"_id": "bob@example.org"}};
    let keep = plugin(r#"{"find":"email","action":"mask","keep_last":7}"#);
    assert_eq!(
        through(&keep, event.clone()),
        doc! {"key": {"_id": "***ple.org"}, "after": {"_id": "***ple.org"}}
    );
    for action in [r#""remove""#, r#""replace","value":"x""#] {
        let error = run(&all(action), event.to_vec().unwrap()).unwrap_err();
        assert!(error.contains("`_id`") && !error.contains("bob"), "{error}");
    }
    let compound = doc! {"key": {"_id": {"mail": "a@b.cd", "n": 1}}};
    assert_eq!(through(&all(r#""remove""#), compound), doc! {"key": {"_id": {"n": 1}}});
}

#[test]
fn definitions_and_the_actor_are_searched_too() {
    let event = doc! {
        "actor": {"id": "a@b.cd", "from": "session"},
        "detail": {"operationDescription": {"validator": {"mail": {"$ne": "a@b.cd"}}}, "to": {"db": "d", "coll": "a@b.cd"}},
    };
    let expected = doc! {
        "actor": {"id": "***", "from": "session"},
        "detail": {"operationDescription": {"validator": {"mail": {"$ne": "***"}}}, "to": {"db": "d", "coll": "a@b.cd"}},
    };
    assert_eq!(through(&mask(), event), expected);
}

#[test]
fn unnamed_values_are_masked_and_their_places_stay() {
    let plugin = Redact::configure(
        r#"{"mode":"allow","unnamed":"mask","rules":[{"path":"_id","action":"keep"},{"path":"items.sku","action":"keep"},
            {"path":"note","action":"keep"},{"find":"email","action":"mask"},{"path":"gone","action":"remove"}]}"#,
    )
    .unwrap();
    let event = doc! {
        "op": "update", "key": {"_id": 1, "region": "eu"},
        "after": {"_id": 1, "customer": {"name": "ann", "tags": ["x", {"y": 1.5}]}, "items": [{"sku": 1, "n": null}, 3], "note": "a@b.cd said", "gone": 1, "empty": {}},
        "delta": {"updatedFields": {"customer.name": "ann", "items.0.sku": 2, "items.0.n": 2, "a@b.cd": 1, "tags": ["x"]}, "removedFields": ["customer.x"]},
        "detail": {"comment": "secret"},
    };
    let expected = doc! {
        "op": "update", "key": {"_id": 1, "region": "***"},
        "after": {"_id": 1, "customer": {"name": "***", "tags": ["***", {"y": "***"}]}, "items": [{"sku": 1, "n": "***"}, "***"], "note": "*** said", "empty": {}},
        "delta": {"updatedFields": {"customer.name": "***", "items.0.sku": 2, "items.0.n": "***", "tags": ["***"]}, "removedFields": ["customer.x"]},
        "detail": {"comment": "***"},
    };
    assert_eq!(through(&plugin, event), expected);
}

#[test]
fn rules_hold_in_the_namespaces_they_name() {
    let plugin = Redact::configure(
        r#"{"rules":[{"find":"email","action":"mask"}],"namespaces":[
            {"ns":"shop.payments","mode":"allow","unnamed":"mask","rules":[{"path":"_id","action":"keep"},{"path":"mail","action":"keep"}]},
            {"ns":["shop.*","bank.a.b"],"rules":[{"path":"secret","action":"remove"}]}]}"#,
    )
    .unwrap();
    let through = |ns: Document| {
        let event = doc! {"ns": ns, "after": {"_id": 1, "mail": "a@b.cd", "secret": 1, "n": 1}};
        self::through(&plugin, event).get_document("after").unwrap().clone()
    };
    let everywhere = doc! {"_id": 1, "mail": "***", "secret": 1, "n": 1};
    let shop = doc! {"_id": 1, "mail": "***", "n": 1};
    let payments = doc! {"_id": 1, "mail": "***", "n": "***"};
    for _ in 0..2 {
        assert_eq!(through(doc! {"db": "other", "coll": "payments"}), everywhere);
        assert_eq!(through(doc! {"db": "shop", "coll": "orders"}), shop);
        assert_eq!(through(doc! {"db": "shop", "coll": "payments"}), payments);
        assert_eq!(through(doc! {"db": "bank", "coll": "a.b"}), shop);
        assert_eq!(through(doc! {"db": "bank", "coll": "a"}), everywhere);
        // About a whole database: every rule that could hold in it does.
        assert_eq!(through(doc! {"db": "shop"}), payments);
        assert_eq!(through(bson!({"db": "bank"}).as_document().unwrap().clone()), shop);
        assert_eq!(through(doc! {}), payments);
    }
}
