//! What the writer and the parser promise together.
#![allow(clippy::unwrap_used)]

use bson_walker::{Doc, Writer, kind};
use proptest::prelude::*;

use super::random::Random;
use super::*;

fn relaxed(bytes: &[u8]) -> (String, Option<Vec<u8>>) {
    let mut text = String::new();
    let exact = to_relaxed(Doc::new(bytes).unwrap(), &mut text);
    (text, exact)
}

fn canonical(bytes: &[u8]) -> (String, Option<Vec<u8>>) {
    let mut text = String::new();
    let exact = to_canonical(Doc::new(bytes).unwrap(), &mut text);
    (text, exact)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn every_document_comes_back_byte_for_byte(seed: u64) {
        let bytes = Random::new(seed, true).document();
        for (text, exact) in [relaxed(&bytes), canonical(&bytes)] {
            prop_assert_eq!(&from_text(&text, exact.as_deref()).unwrap(), &bytes, "{} {:?}", text, exact);
            let json: Result<serde_json::Value, _> = serde_json::from_str(&text);
            prop_assert!(json.is_ok(), "{}", text);
        }
    }

    #[test]
    fn ordinary_documents_are_never_kept_twice(seed: u64) {
        let bytes = Random::new(seed, false).document();
        let (text, exact) = relaxed(&bytes);
        prop_assert!(exact.as_ref().is_none_or(|blob| blob[0] != Exact::BSON), "{}", text);
        prop_assert_eq!(canonical(&bytes).1, None);
        prop_assert_eq!(from_text(&text, exact.as_deref()).unwrap(), bytes);
    }

    #[test]
    fn canonical_text_means_the_same_to_the_bson_crate(seed: u64) {
        let bytes = Random::new(seed, false).document();
        let (text, _) = canonical(&bytes);
        let expected = bson::Document::from_reader(bytes.as_slice()).unwrap();
        let read: bson::Document = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(read, expected, "{}", text);
    }

    #[test]
    fn damaged_text_and_blobs_are_errors_not_panics(seed: u64, cut: prop::sample::Index, byte: u8) {
        let bytes = Random::new(seed, true).document();
        let (text, exact) = relaxed(&bytes);
        let mut damaged = text.clone().into_bytes();
        let at = cut.index(damaged.len());
        damaged[at] = byte;
        let damaged = String::from_utf8_lossy(&damaged);
        let _ = from_text(&damaged, exact.as_deref());
        let _ = from_text(damaged.get(..at).unwrap_or_default(), None);
        let _ = from_text(&text, Some(&[byte]));
        let _ = from_text(&text, Some(&[Exact::MIXED, byte]));
        let _ = value_from_text("_id", &damaged);
    }

    #[test]
    fn damaged_bson_is_kept_too(seed: u64, at: prop::sample::Index, byte: u8) {
        let mut bytes = Random::new(seed, true).document();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(doc) = Doc::new(&bytes) {
            for write in [to_relaxed, to_canonical] {
                let mut text = String::new();
                let exact = write(doc, &mut text);
                prop_assert_eq!(&from_text(&text, exact.as_deref()).unwrap(), &bytes);
                prop_assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok(), "{}", text);
            }
        }
    }
}

#[test]
fn relaxed_text_has_the_documented_form() {
    let bytes = Writer::build(|w| {
        w.raw(kind::OBJECT_ID, b"_id", &[0xAB; 12]);
        w.i32("i", -7);
        w.i64("far", 5_000_000_000);
        w.f64("one", 1.0);
        w.f64("huge", 1e300);
        w.date_millis("day", 1_795_239_000_000);
        w.date_millis("then", 1_795_239_000_007);
        w.date_millis("early", -1);
        w.timestamp("ts", 7, 9);
        w.binary("bin", 4, &[1; 16]);
        w.str("text", "a\"\\\n\u{1}ü");
        w.raw(kind::REGEX, b"re", b"^a\0im\0");
        let mut list = w.begin_array(b"list");
        list.null("0");
        list.bool("1", true);
        list.end();
    });
    let (text, exact) = relaxed(&bytes);
    assert_eq!(
        text,
        concat!(
            r#"{"_id":{"$oid":"abababababababababababab"},"i":-7,"far":5000000000,"one":1.0,"huge":1e300,"#,
            r#""day":{"$date":"2026-11-21T05:30:00Z"},"then":{"$date":"2026-11-21T05:30:00.007Z"},"#,
            r#""early":{"$date":{"$numberLong":"-1"}},"ts":{"$timestamp":{"t":7,"i":9}},"#,
            r#""bin":{"$binary":{"base64":"AQEBAQEBAQEBAQEBAQEBAQ==","subType":"04"}},"text":"a\"\\\n\u0001ü","#,
            r#""re":{"$regularExpression":{"pattern":"^a","options":"im"}},"list":[null,true]}"#,
        )
    );
    assert_eq!(exact, None);
}

#[test]
fn the_blob_says_which_integers_are_long() {
    let ints = |wide: &[bool]| {
        Writer::build(|w| {
            for wide in wide {
                if *wide { w.i64("n", 5) } else { w.i32("n", 5) }
            }
            w.i64("never counted", i64::MAX);
        })
    };
    assert_eq!(relaxed(&ints(&[false; 9])).1, None);
    assert_eq!(relaxed(&ints(&[true; 9])).1, Some(b"l".to_vec()));
    let mixed = [true, false, false, true, false, false, false, false, false, true];
    assert_eq!(relaxed(&ints(&mixed)).1, Some(vec![b'm', 0b0000_1001, 0b0000_0010]));
    for n in 1..40 {
        let wide: Vec<bool> = (0..n).map(|i| i == n - 1 || i % 3 == 1).collect();
        let (text, exact) = relaxed(&ints(&wide));
        assert_eq!(from_text(&text, exact.as_deref()).unwrap(), ints(&wide));
    }
}

#[test]
fn a_blob_that_does_not_fit_its_text_is_corrupt() {
    for (text, blob) in [
        (r#"{"a":1}"#, &b""[..]),
        (r#"{"a":1}"#, b"x"),
        (r#"{"a":1}"#, b"l\0"),
        (r#"{"a":1}"#, b"m"),
        (r#"{"a":1}"#, b"m\x01\0"),
        (r#"{"a":1}"#, b"m\x02"),
        (r#"{"a":"b"}"#, b"m\0"),
        (r#"{"a":1}"#, b"b\x05\0\0\0"),
        (r#"{"a":1} x"#, b"l"),
        (r#"[1]"#, b"l"),
        (r#"{"$oid":"abababababababababababab"}"#, b"l"),
    ] {
        let error = from_text(text, Some(blob)).unwrap_err();
        assert_eq!(error.kind(), crate::Kind::Corrupt, "{text} {blob:?}");
    }
}

#[test]
fn deep_nesting_is_kept_and_never_overflows_the_stack() {
    let nested = |levels: usize, array: bool| {
        let mut bytes = Writer::build(|w| w.i64("0", 1));
        for _ in 1..levels {
            let kind = if array { kind::ARRAY } else { kind::DOCUMENT };
            bytes = Writer::build(|w| w.raw(kind, b"0", &bytes));
        }
        bytes
    };
    for array in [false, true] {
        for levels in [180, MAX_DEPTH, MAX_DEPTH + 1, 10_000] {
            let bytes = nested(levels, array);
            let (text, exact) = relaxed(&bytes);
            assert_eq!(exact.as_ref().unwrap()[0] == Exact::BSON, levels > MAX_DEPTH);
            assert_eq!(from_text(&text, exact.as_deref()).unwrap(), bytes);
        }
    }
    for open in ["{\"a\":", "[", "{\"$code\":\"\",\"$scope\":", "{\"$dbPointer\":"] {
        assert!(from_text(&format!("{{\"a\":{}", open.repeat(100_000)), None).is_err());
    }
}

#[test]
fn what_people_write_is_understood() {
    let int64 = Writer::build(|w| w.i64("_id", 5));
    assert_eq!(value_from_text("_id", r#" { "$numberLong" : "5" } "#).unwrap(), int64);
    assert_eq!(value_from_text("_id", "5").unwrap(), Writer::build(|w| w.i32("_id", 5)));
    let uuid = Writer::build(|w| w.binary("_id", 4, &[0x11; 16]));
    assert_eq!(value_from_text("_id", r#"{"$uuid":"11111111-1111-1111-1111-111111111111"}"#).unwrap(), uuid);
    let flipped = r#"{"$binary":{"subType":"04","base64":"EREREREREREREREREREREQ=="}}"#;
    assert_eq!(value_from_text("_id", flipped).unwrap(), uuid);
    let date = Writer::build(|w| w.date_millis("_id", 1_000));
    assert_eq!(value_from_text("_id", r#"{"$date":"1970-01-01T02:00:01+02:00"}"#).unwrap(), date);
    let text = Writer::build(|w| w.str("_id", "𝄞\u{8}/"));
    assert_eq!(value_from_text("_id", r#""\ud834\udd1e\b\/""#).unwrap(), text);
    for wrong in [
        "",
        "{",
        "tru",
        "5 5",
        "\"a",
        r#""\ud834""#,
        "99999999999999999999",
        r#"{"$oid":"5"}"#,
        r#"{"$oid":"é1é1é1é1é1é1é1é1"}"#,
    ] {
        assert_eq!(value_from_text("_id", wrong).unwrap_err().kind(), crate::Kind::Invalid, "{wrong}");
    }
}

#[test]
fn doc_ids_follow_their_rule() {
    for (text, expected) in [
        (r#"{"$oid":"0123456789abcdef01234567"}"#, "0123456789abcdef01234567"),
        (r#""plain \"text\"""#, "plain \"text\""),
        ("5", "5"),
        (r#"{"$numberLong":"5"}"#, "5"),
        (r#"{"a":1,"b":{"$numberDouble":"1"}}"#, r#"{"a":1,"b":1.0}"#),
        ("null", "null"),
    ] {
        let bytes = value_from_text("_id", text).unwrap();
        assert_eq!(doc_id_text(Doc::new(&bytes).unwrap().get("_id").unwrap()), expected);
    }
}
