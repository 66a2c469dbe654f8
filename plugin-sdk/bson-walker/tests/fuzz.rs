//! Damaged documents: bits flipped, bytes cut, parts moved, and above all lengths that lie. The walker must end, must not
//! panic, and where it and the `bson` crate both accept a document, they read the same. (Neither accepts all that the other
//! does: the crate wants UTF-8, the walker wants every string to end before its document does.)
//!
//! `WALKER_SEED=n` replays one case, `WALKER_CASES=n` tries more.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use bson::RawDocument;
use bson::raw::RawBsonRef;
use bson_walker::{Doc, Element, Writer, kind, validate};

/// A document with every kind of value, deprecated ones and damaged texts included.
fn every_kind() -> Vec<u8> {
    let scope = Writer::build(|w| w.i32("n", 1));
    let mut code = vec![0, 0, 0, 0, 4, 0, 0, 0, b'f', b'(', b')', 0];
    code.extend_from_slice(&scope);
    code[0] = code.len() as u8;
    Writer::build(|w| {
        w.f64("double", 1.5);
        w.str("string", "text");
        w.raw(kind::STRING, b"latin1", &[3, 0, 0, 0, 0xE9, 0xFF, 0]);
        w.doc("doc", &scope);
        let mut array = w.begin_array(b"array");
        array.str("0", "x");
        array.doc("1", &scope);
        array.end();
        w.binary("binary", 0, b"bytes");
        // The old subtype has a second length inside.
        w.binary("old.binary", 2, &[2, 0, 0, 0, 7, 7]);
        w.raw(kind::UNDEFINED, b"undefined", &[]);
        w.raw(kind::OBJECT_ID, b"oid", &[7; 12]);
        w.bool("bool", true);
        w.date_millis("date", -1);
        w.null("null");
        w.raw(kind::REGEX, b"regex", b"a.*\0ix\0");
        w.raw(
            kind::DB_POINTER,
            b"pointer",
            b"\x04\0\0\0a.b\0\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0A\x0B\x0C",
        );
        w.raw(kind::CODE, b"code", b"\x04\0\0\0f()\0");
        w.raw(kind::SYMBOL, b"symbol", b"\x02\0\0\0s\0");
        w.raw(kind::CODE_WITH_SCOPE, b"scoped", &code);
        w.i32("i32", i32::MIN);
        w.timestamp("timestamp", 1, 2);
        w.i64("i64", i64::MIN);
        w.raw(kind::DECIMAL128, b"decimal", &[3; 16]);
        w.raw(kind::MIN_KEY, b"", &[]);
        w.raw(kind::MAX_KEY, b"max", &[]);
    })
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % n.max(1) as u64) as usize
    }

    fn damage(&mut self, bytes: &mut Vec<u8>) {
        let at = self.below(bytes.len());
        match self.below(6) {
            0 => bytes[at] ^= 1 << self.below(8),
            1 => bytes[at] = self.below(256) as u8,
            2 => bytes.truncate(at.max(1)),
            3 | 4 => {
                // Lengths are small numbers, so their bytes are followed by zeros: lie where one may stand.
                let lengths: Vec<_> =
                    (0..bytes.len().saturating_sub(3)).filter(|i| bytes[i + 1..i + 4] == [0; 3]).collect();
                let Some(at) = lengths.get(self.below(lengths.len())) else { return };
                let near = i32::from(bytes[*at]) + self.below(9) as i32 - 4;
                let lies = [near, near, 0, 1, 4, 5, -1, i32::MAX, i32::MIN, bytes.len() as i32];
                bytes[*at..at + 4].copy_from_slice(&lies[self.below(lies.len())].to_le_bytes());
            }
            _ => {
                let part = bytes[at..bytes.len().min(at + self.below(20))].to_vec();
                let to = self.below(bytes.len());
                bytes.splice(to..to, part);
            }
        }
        // Now and then the outermost length fits again: else most damage would end the walk at once.
        if self.below(2) == 0 && bytes.len() >= 5 {
            let len = bytes.len() as i32;
            bytes[..4].copy_from_slice(&len.to_le_bytes());
            bytes[len as usize - 1] = 0;
        }
    }
}

/// Walks everything; gives the number of elements, each of which takes two bytes at least.
fn walk(doc: Doc<'_>, depth: usize) -> usize {
    let mut seen = 0;
    for element in doc.elements().map_while(Result::ok) {
        seen += 1;
        assert!(element.whole().len() == 2 + element.name().len() + element.value().len());
        read(&element);
        let nested = element.as_doc().or(element.as_scope().map(|(_, scope)| scope));
        if let Some(nested) = nested.filter(|_| depth < 100) {
            seen += walk(nested, depth + 1);
        }
    }
    seen
}

fn read(e: &Element<'_>) {
    let _ = (
        e.kind(),
        e.name_str(),
        e.name_has_dot(),
        e.string_bytes(),
        e.as_str(),
        e.as_i32(),
        e.as_i64(),
        e.as_f64(),
    );
    let _ = (e.as_bool(), e.as_date_millis(), e.as_timestamp(), e.as_object_id(), e.as_binary());
}

/// Whether both accept all of it. Panics where they read different things.
fn agrees(ours: Doc<'_>, theirs: &RawDocument) -> bool {
    let mut elements = ours.elements();
    for pair in theirs {
        let Ok((name, value)) = pair else { return false };
        let element = elements.next().expect("the walker ends before the bson crate does");
        let Ok(element) = element else { return false };
        assert_eq!((element.name(), element.kind()), (name.as_str().as_bytes(), value.element_type() as u8));
        let sound = match value {
            RawBsonRef::Document(d) => agrees(element.as_doc().unwrap(), d),
            RawBsonRef::Array(a) => {
                agrees(element.as_doc().unwrap(), RawDocument::from_bytes(a.as_bytes()).unwrap())
            }
            RawBsonRef::JavaScriptCodeWithScope(c) => agrees(element.as_scope().expect("a scope").1, c.scope),
            RawBsonRef::String(s) => element.as_str() == Some(s),
            RawBsonRef::JavaScriptCode(s) | RawBsonRef::Symbol(s) => {
                element.string_bytes() == Some(s.as_bytes())
            }
            RawBsonRef::Int32(n) => element.as_i32() == Some(n),
            RawBsonRef::Int64(n) => element.as_i64() == Some(n),
            RawBsonRef::Double(n) => element.as_f64().map(f64::to_bits) == Some(n.to_bits()),
            RawBsonRef::ObjectId(id) => element.as_object_id() == Some(id.bytes()),
            RawBsonRef::Boolean(b) => element.as_bool() == Some(b),
            RawBsonRef::DateTime(d) => element.as_date_millis() == Some(d.timestamp_millis()),
            _ => true,
        };
        assert!(
            sound
                || matches!(
                    value,
                    RawBsonRef::Document(_) | RawBsonRef::Array(_) | RawBsonRef::JavaScriptCodeWithScope(_)
                )
        );
        if !sound {
            return false;
        }
    }
    assert!(elements.next().is_none(), "the walker goes on after the bson crate has ended");
    true
}

fn seeds() -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().map(|n| n.parse::<u64>().unwrap());
    match number("WALKER_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("WALKER_CASES").unwrap_or(20_000),
    }
}

#[test]
fn damaged_documents_end_and_are_read_as_the_bson_crate_reads_them() {
    let original = every_kind();
    let (mut accepted, mut refused) = (0, 0);
    for seed in seeds() {
        let mut random = Random(seed);
        let mut bytes = original.clone();
        for _ in 0..1 + random.below(4) {
            random.damage(&mut bytes);
        }
        let checked = std::panic::catch_unwind(|| {
            let valid = validate(&bytes, 100);
            let Ok(doc) = Doc::new(&bytes) else { return assert!(valid.is_err()) };
            assert!(walk(doc, 0) * 2 <= bytes.len() * 100, "more elements than bytes");
            if let Err(e) = valid {
                assert!(e.at <= bytes.len());
            }
            let theirs = RawDocument::from_bytes(&bytes).expect("the bson crate refuses the frame");
            if agrees(doc, theirs) {
                assert_eq!(valid, Ok(()), "every element was read");
            }
        });
        assert!(checked.is_ok(), "WALKER_SEED={seed} {bytes:02x?}");
        match validate(&bytes, 100) {
            Ok(()) => accepted += 1,
            Err(_) => refused += 1,
        }
    }
    assert!(
        seeds().count() == 1 || (accepted > 100 && refused > 100),
        "{accepted} accepted, {refused} refused"
    );
}

#[test]
fn every_kind_is_walked_in_full() {
    let bytes = every_kind();
    assert_eq!(validate(&bytes, 3), Ok(()));
    let kinds: std::collections::BTreeSet<u8> =
        Doc::new(&bytes).unwrap().elements().map(|e| e.unwrap().kind()).collect();
    assert_eq!(kinds.len(), 21, "BSON has 21 kinds");
    assert_eq!(walk(Doc::new(&bytes).unwrap(), 0), 28);
}
