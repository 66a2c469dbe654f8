//! Tokens of every type, against what Python's standard library makes of the documented formula.
#![allow(clippy::unwrap_used)]

use std::collections::HashSet;

use bson::spec::BinarySubtype;
use bson::{Binary, Bson, DateTime, Decimal128, doc, oid::ObjectId};
use plugin_sdk::bson_walker::Doc;
use plugin_sdk::token::{Hasher, Key, Normalise, Tokenize};

const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

fn hasher(class: &str) -> Hasher {
    Hasher::new(&Key::parse("2026", KEY).unwrap(), class)
}

fn token(hasher: &Hasher, value: impl Into<Bson>) -> String {
    let bytes = doc! {"v": value.into()}.to_vec().unwrap();
    hasher.token(&Doc::new(&bytes).unwrap().get("v").unwrap())
}

fn decimal(text: &str) -> Bson {
    Bson::Decimal128(text.parse::<Decimal128>().unwrap())
}

#[test]
fn tokens_are_what_the_documented_formula_gives() {
    let (email, phone, id) = (hasher("email"), hasher("phone"), hasher("id"));
    let binary = Binary { subtype: BinarySubtype::Uuid, bytes: b"ab".to_vec() };
    for (hasher, value, expected) in [
        (&email, Bson::from("ann@example.org"), "ad5mcpqeegsoo2phcf3uvkcfim"),
        (&phone, Bson::from("ann@example.org"), "ixg4jv7svh3of4b7fnutc4r334"),
        (&email, Bson::from(""), "easqnujbkde5j7i2ozfzaqn5ci"),
        (&id, Bson::Int32(5), "elcgo4nwmhekwvi6qfryoxhvmu"),
        (&id, Bson::Int64(i64::MIN), "mly4agfwtxzp6opbjsspdoicni"),
        (&id, Bson::Double(0.5), "pioitceotndmfrxypo3vogvdtm"),
        (&id, decimal("-1.50"), "tq4ayms5wz36ud5cfdyzpszyly"),
        (&id, ObjectId::parse_str("0123456789abcdef01234567").unwrap().into(), "6hmsm436s23he5pplnmot22ix4"),
        (&id, DateTime::from_millis(1_700_000_000_123).into(), "hi3d4cfjvuak7fxkcsuhjixhay"),
        (&id, Bson::Boolean(true), "gvtatjz3sxwgh5ldufh2bwjyuu"),
        (&id, Bson::Binary(binary), "dsbcofh3mmoph6pn55ryh4lzwu"),
    ] {
        assert_eq!(token(hasher, value.clone()), format!("p1:2026:{expected}"), "{value:?}");
    }
}

#[test]
fn numbers_that_mongodb_takes_for_equal_have_one_token() {
    let id = hasher("id");
    for (number, others) in [
        (
            "5",
            vec![
                Bson::Int32(5),
                Bson::Int64(5),
                Bson::Double(5.0),
                decimal("5"),
                decimal("5.00"),
                decimal("0.5E1"),
            ],
        ),
        ("0", vec![Bson::Int32(0), Bson::Double(-0.0), decimal("0"), decimal("-0.00"), decimal("0E+6000")]),
        ("-70", vec![Bson::Int32(-70), Bson::Double(-70.0), decimal("-7E1")]),
        ("max", vec![Bson::Int64(i64::MAX), decimal("9223372036854775807")]),
        (
            "min",
            vec![
                Bson::Int64(i64::MIN),
                Bson::Double(-9_223_372_036_854_775_808.0),
                decimal("-9223372036854775808"),
            ],
        ),
        ("1.5", vec![decimal("1.5"), decimal("1.500"), decimal("15E-1")]),
    ] {
        let tokens: HashSet<_> = others.into_iter().map(|value| token(&id, value)).collect();
        assert_eq!(tokens.len(), 1, "{number}");
    }
}

#[test]
fn other_values_have_other_tokens() {
    let id = hasher("id");
    let values = [
        Bson::from("5"),
        Bson::Int32(5),
        Bson::Int32(-5),
        Bson::Double(5.5),
        decimal("5.5"),
        Bson::Double(9_223_372_036_854_775_808.0),
        decimal("9223372036854775808"),
        decimal("1E+30"),
        decimal("1E+40"),
        decimal("NaN"),
        decimal("Infinity"),
        decimal("-Infinity"),
        Bson::Double(f64::NAN),
        Bson::Double(f64::INFINITY),
        DateTime::from_millis(5).into(),
        Bson::Timestamp(bson::Timestamp { time: 0, increment: 5 }),
        Bson::Boolean(true),
        Bson::Boolean(false),
        Bson::from("true"),
        Bson::from("number:5"),
        Bson::from("0123456789abcdef01234567"),
        ObjectId::parse_str("0123456789abcdef01234567").unwrap().into(),
        Bson::JavaScriptCode("5".into()),
        Bson::Binary(Binary { subtype: BinarySubtype::Generic, bytes: b"5".to_vec() }),
        Bson::Binary(Binary { subtype: BinarySubtype::Uuid, bytes: b"5".to_vec() }),
        Bson::RegularExpression(bson::Regex {
            pattern: "5".try_into().unwrap(),
            options: "".try_into().unwrap(),
        }),
    ];
    let tokens: HashSet<_> = values.iter().map(|value| token(&id, value.clone())).collect();
    assert_eq!(tokens.len(), values.len());
    assert_eq!(token(&id, Bson::Symbol("a".into())), token(&id, "a"), "symbols are strings to MongoDB");
}

#[test]
fn spellings_join_where_they_are_normalised_alike() {
    let plain = hasher("email");
    let email = hasher("email").normalise([Normalise::Trim, Normalise::Lowercase]);
    assert_eq!(token(&email, " Ann@Example.ORG\n"), token(&plain, "ann@example.org"));
    assert_ne!(token(&plain, "Ann@example.org"), token(&plain, "ann@example.org"));
    assert_eq!(token(&email, "ÄNN"), token(&email, "änn"));
    let card = hasher("card").normalise([Normalise::Digits]);
    assert_eq!(token(&card, "4111 1111-1111 1111"), token(&card, "4111111111111111"));
    assert_ne!(token(&card, "5"), token(&card, 5), "a number is no string");
}

#[test]
fn another_key_gives_other_tokens_and_shows_nothing_of_itself() {
    let other = Key::parse("2025", "Hx4dHBsaGRgXFhUUExIREA8ODQwLCgkIBwYFBAMCAQA=").unwrap();
    let shown = format!("{other:?} {:?}", Hasher::new(&other, "email"));
    assert!(
        shown.contains("2025") && !shown.to_lowercase().contains("hx4d") && !shown.contains("31"),
        "{shown}"
    );
    let (new, old) = (token(&hasher("email"), "a"), token(&Hasher::new(&other, "email"), "a"));
    assert_ne!(new.rsplit(':').next(), old.rsplit(':').next());
    let base64 = Key::parse("2026", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8").unwrap();
    assert_eq!(token(&Hasher::new(&base64, "email"), "a"), new, "the same key in base64");
}
