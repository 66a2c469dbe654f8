//! The walker and the `bson` crate read the same values from the same bytes, and no bytes make the walker panic.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use bson::raw::RawBsonRef;
use bson::{
    Binary, Bson, DateTime, Decimal128, Document, JavaScriptCodeWithScope, Regex, Timestamp, oid::ObjectId,
    spec::BinarySubtype,
};
use bson_walker::{Doc, Element, Writer, kind, validate};
use proptest::prelude::*;

fn scalar() -> impl Strategy<Value = Bson> {
    prop_oneof![
        any::<f64>().prop_map(Bson::Double),
        ".{0,20}".prop_map(Bson::String),
        (any::<u8>(), proptest::collection::vec(any::<u8>(), 0..20)).prop_map(|(subtype, bytes)| {
            // Subtype 2 has a length of its own inside; the bson crate hides it.
            let subtype = BinarySubtype::from(if subtype == 2 { 0 } else { subtype });
            Bson::Binary(Binary { subtype, bytes })
        }),
        Just(Bson::Undefined),
        any::<[u8; 12]>().prop_map(|b| Bson::ObjectId(ObjectId::from_bytes(b))),
        any::<bool>().prop_map(Bson::Boolean),
        any::<i64>().prop_map(|ms| Bson::DateTime(DateTime::from_millis(ms))),
        Just(Bson::Null),
        ("[a-z.*]{0,8}", "[imsx]{0,2}").prop_filter_map("no zero bytes", |(pattern, options)| {
            Some(Bson::RegularExpression(Regex {
                pattern: pattern.try_into().ok()?,
                options: options.try_into().ok()?,
            }))
        }),
        ".{0,20}".prop_map(Bson::JavaScriptCode),
        ".{0,20}".prop_map(Bson::Symbol),
        any::<i32>().prop_map(Bson::Int32),
        (any::<u32>(), any::<u32>())
            .prop_map(|(time, increment)| Bson::Timestamp(Timestamp { time, increment })),
        any::<i64>().prop_map(Bson::Int64),
        any::<[u8; 16]>().prop_map(|b| Bson::Decimal128(Decimal128::from_bytes(b))),
        Just(Bson::MinKey),
        Just(Bson::MaxKey),
    ]
}

fn document() -> impl Strategy<Value = Document> {
    let name = "[^\0]{0,12}|[a-d.]{0,20}";
    let value = scalar().prop_recursive(4, 48, 6, move |inner| {
        let fields = proptest::collection::vec((name, inner.clone()), 0..6);
        prop_oneof![
            fields.clone().prop_map(|f| Bson::Document(f.into_iter().collect())),
            proptest::collection::vec(inner, 0..6).prop_map(Bson::Array),
            (".{0,9}", fields).prop_map(|(code, f)| {
                Bson::JavaScriptCodeWithScope(JavaScriptCodeWithScope {
                    code,
                    scope: f.into_iter().collect(),
                })
            }),
        ]
    });
    proptest::collection::vec((name, value), 0..10).prop_map(|f| f.into_iter().collect())
}

fn assert_same(ours: &Element<'_>, theirs: RawBsonRef<'_>) {
    match theirs {
        RawBsonRef::Double(v) => assert_eq!(ours.as_f64().map(f64::to_bits), Some(v.to_bits())),
        RawBsonRef::String(v) => assert_eq!(ours.as_str(), Some(v)),
        RawBsonRef::JavaScriptCode(v) | RawBsonRef::Symbol(v) => {
            assert_eq!(ours.string_bytes(), Some(v.as_bytes()))
        }
        RawBsonRef::Document(v) => assert_docs(ours.as_doc().unwrap(), v.as_bytes()),
        RawBsonRef::Array(v) => {
            assert_eq!(ours.kind(), kind::ARRAY);
            assert_docs(ours.as_doc().unwrap(), v.as_bytes());
        }
        RawBsonRef::Binary(v) => assert_eq!(ours.as_binary(), Some((v.subtype.into(), v.bytes))),
        RawBsonRef::ObjectId(v) => assert_eq!(ours.as_object_id(), Some(v.bytes())),
        RawBsonRef::Boolean(v) => assert_eq!(ours.as_bool(), Some(v)),
        RawBsonRef::DateTime(v) => assert_eq!(ours.as_date_millis(), Some(v.timestamp_millis())),
        RawBsonRef::Int32(v) => assert_eq!(ours.as_i32(), Some(v)),
        RawBsonRef::Int64(v) => assert_eq!(ours.as_i64(), Some(v)),
        RawBsonRef::Timestamp(v) => assert_eq!(ours.as_timestamp(), Some((v.time, v.increment))),
        RawBsonRef::Decimal128(v) => assert_eq!(ours.value(), v.bytes()),
        RawBsonRef::JavaScriptCodeWithScope(v) => assert_docs(ours.as_scope().unwrap().1, v.scope.as_bytes()),
        RawBsonRef::RegularExpression(v) => {
            assert_eq!(
                ours.value(),
                [v.pattern.as_str(), "\0", v.options.as_str(), "\0"].concat().as_bytes()
            );
        }
        other => assert_eq!((ours.kind(), ours.value().len()), (other.element_type() as u8, 0)),
    }
    assert_eq!(ours.kind(), theirs.element_type() as u8);
}

fn assert_docs(ours: Doc<'_>, theirs: &[u8]) {
    assert_eq!(ours.as_bytes(), theirs);
    let raw = bson::RawDocument::from_bytes(theirs).unwrap();
    let mut elements = ours.elements();
    for pair in raw {
        let (name, value) = pair.unwrap();
        let element = elements.next().unwrap().unwrap();
        assert_eq!(element.name(), name.as_str().as_bytes());
        assert_eq!(element.name_has_dot(), name.as_str().contains('.'));
        assert_same(&element, value);
    }
    assert!(elements.next().is_none());
}

/// Visits everything the walker offers on these bytes.
fn exhaust(bytes: &[u8], depth: usize) -> usize {
    let Ok((doc, _)) = Doc::split(bytes) else { return 0 };
    let mut seen = 0;
    for element in doc.elements().map_while(Result::ok) {
        seen += 1;
        let _ = (
            element.name_str(),
            element.as_str(),
            element.as_i32(),
            element.as_i64(),
            element.as_f64(),
            element.as_bool(),
        );
        let _ =
            (element.as_date_millis(), element.as_timestamp(), element.as_object_id(), element.as_binary());
        if let Some(nested) = element.as_doc().or(element.as_scope().map(|(_, d)| d)).filter(|_| depth < 100)
        {
            seen += exhaust(nested.as_bytes(), depth + 1);
        }
    }
    seen
}

proptest! {
    #[test]
    fn the_walker_reads_what_the_bson_crate_wrote(doc in document()) {
        let bytes = doc.to_vec().unwrap();
        prop_assert_eq!(validate(&bytes, 100), Ok(()));
        assert_docs(Doc::new(&bytes).unwrap(), &bytes);
    }

    #[test]
    fn copying_field_by_field_gives_the_same_bytes(doc in document()) {
        let bytes = doc.to_vec().unwrap();
        let copy = Writer::build(|w| Doc::new(&bytes).unwrap().elements().for_each(|e| w.append(&e.unwrap())));
        prop_assert_eq!(&copy, &bytes);
        let by_parts = Writer::build(|w| {
            Doc::new(&bytes).unwrap().elements().for_each(|e| { let e = e.unwrap(); w.raw(e.kind(), e.name(), e.value()) });
        });
        prop_assert_eq!(by_parts, bytes);
    }

    #[test]
    fn offsets_cut_the_document_into_its_elements(doc in document()) {
        let bytes = doc.to_vec().unwrap();
        let mut elements = Doc::new(&bytes).unwrap().elements();
        let mut from = elements.offset();
        while let Some(element) = elements.next() {
            prop_assert_eq!(element.unwrap().whole(), &bytes[from..elements.offset()]);
            from = elements.offset();
        }
        prop_assert_eq!(from, bytes.len() - 1);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = (validate(&bytes, 50), exhaust(&bytes, 0));
    }

    #[test]
    fn mutated_documents_never_panic_and_errors_point_inside(
        doc in document(), changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = doc.to_vec().unwrap();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        for part in [&bytes[..], &bytes[..cut.index(bytes.len())]] {
            exhaust(part, 0);
            if let Err(e) = validate(part, 50) {
                prop_assert!(e.at <= part.len());
            } else {
                // Whatever passes is framed soundly: a copy of it is the same document.
                let copy = Writer::build(|w| Doc::new(part).unwrap().elements().for_each(|e| w.append(&e.unwrap())));
                prop_assert_eq!(&copy, part);
            }
        }
    }
}

#[test]
fn every_deprecated_kind_is_stepped_over() {
    let pointer = [5, 0, 0, 0, b'a', b'.', b'b', b'c', 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
    let bytes = Writer::build(|w| {
        w.raw(kind::DB_POINTER, b"p", &pointer);
        w.raw(kind::UNDEFINED, b"u", &[]);
        w.raw(kind::SYMBOL, b"s", &[2, 0, 0, 0, b'x', 0]);
        w.i32("last", 7);
    });
    assert_eq!(validate(&bytes, 1), Ok(()));
    assert_eq!(Doc::new(&bytes).unwrap().get("last").unwrap().as_i32(), Some(7));
}

#[test]
fn an_error_says_where_in_the_outermost_bytes_it_is() {
    let inner = Writer::build(|w| w.raw(0x55, b"bad", &[]));
    let bytes = Writer::build(|w| {
        w.str("pad", "xyz");
        w.doc("inner", &inner);
    });
    let at = bytes.iter().position(|b| *b == 0x55).unwrap();
    assert_eq!(validate(&bytes, 9).unwrap_err().at, at);
}

#[test]
fn nesting_is_bounded() {
    let mut bytes = Writer::build(|_| ());
    for _ in 0..50 {
        bytes = Writer::build(|w| w.doc("d", &bytes));
    }
    assert_eq!(validate(&bytes, 51), Ok(()));
    assert!(validate(&bytes, 50).is_err());
}

#[test]
fn validating_deep_documents_takes_time_in_proportion_to_their_bytes() {
    let mut bytes = Writer::build(|_| ());
    for _ in 0..200 {
        bytes = Writer::build(|w| {
            w.doc("d", &bytes);
            (0..500).for_each(|i| w.i32("n", i));
        });
    }
    let started = std::time::Instant::now();
    assert_eq!(validate(&bytes, 300), Ok(()));
    assert!(started.elapsed().as_secs() < 2, "800 KB took {:?}", started.elapsed());
}
