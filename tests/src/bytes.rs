//! BSON written byte by byte, straight from its specification: documents that no library would write are possible.

use bson::RawDocumentBuf;

/// One BSON element: its type byte, its name, its payload.
pub type Element<'a> = (u8, &'a str, Vec<u8>);

/// A document with these elements.
pub fn document(elements: &[Element<'_>]) -> Vec<u8> {
    let mut body = Vec::new();
    for (kind, name, payload) in elements {
        body.push(*kind);
        body.extend_from_slice(name.as_bytes());
        body.push(0);
        body.extend_from_slice(payload);
    }
    let mut out = (body.len() as i32 + 5).to_le_bytes().to_vec();
    out.extend(body);
    out.push(0);
    out
}

/// The payload of a string (0x02), code (0x0d) or symbol (0x0e).
pub fn string(text: &str) -> Vec<u8> {
    let mut out = (text.len() as i32 + 1).to_le_bytes().to_vec();
    out.extend_from_slice(text.as_bytes());
    out.push(0);
    out
}

/// The payload of binary data (0x05).
pub fn binary(subtype: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = (bytes.len() as i32).to_le_bytes().to_vec();
    out.push(subtype);
    out.extend_from_slice(bytes);
    out
}

/// An `_id` of type int.
pub fn id(id: i32) -> Element<'static> {
    (0x10, "_id", id.to_le_bytes().to_vec())
}

/// A document of every BSON type, with the values that converters stumble over.
pub fn every_type(id: Element<'_>) -> RawDocumentBuf {
    let mut elements = vec![id];
    elements.extend(numbers());
    elements.extend(texts());
    elements.extend(nested());
    RawDocumentBuf::from_bytes(document(&elements)).expect("this is how BSON is written")
}

fn numbers() -> Vec<Element<'static>> {
    let double = |name, value: f64| (0x01, name, value.to_le_bytes().to_vec());
    let long = |name, value: i64| (0x12, name, value.to_le_bytes().to_vec());
    let int = |name, value: i32| (0x10, name, value.to_le_bytes().to_vec());
    let date = |name, millis: i64| (0x09, name, millis.to_le_bytes().to_vec());
    let decimal = |name, bits: u128| (0x13, name, bits.to_le_bytes().to_vec());
    vec![
        double("double", 0.1),
        double("whole", 5.0),
        double("minus zero", -0.0),
        double("nan", f64::NAN),
        double("odd nan", f64::from_bits(0xfff8_0000_0000_1234)),
        double("infinite", f64::NEG_INFINITY),
        double("smallest", f64::from_bits(1)),
        double("huge", 1.797e308),
        double("past 2^53", 9_007_199_254_740_994.0),
        int("int", 5),
        int("lowest int", i32::MIN),
        long("small long", 5),
        long("lowest long", i64::MIN),
        long("long past 2^53", 9_007_199_254_740_993),
        date("date", 1_700_000_000_123),
        date("before 1970", -1),
        date("before year 1", -62_135_596_800_001),
        date("after year 9999", 253_402_300_800_000),
        date("last date", i64::MAX),
        (0x11, "timestamp", [3_u32.to_le_bytes(), u32::MAX.to_le_bytes()].concat()),
        decimal("decimal 1.10", 0x303c_0000_0000_0000_0000_0000_0000_006e),
        decimal("decimal 0E-6176", 0),
        decimal("decimal NaN", 0x7c00 << 112),
        decimal("decimal NaN with a payload", (0x7c00 << 112) | 0x77),
        decimal("decimal -Infinity", 0xf800 << 112),
    ]
}

fn texts() -> Vec<Element<'static>> {
    vec![
        (0x02, "string", string("Grüße \u{1F980} \"quoted\" \\ \u{0} \u{7f} \u{2028} \r\n\t")),
        (0x02, "empty string", string("")),
        (0x05, "binary", binary(0, b"\x00\xff\x10")),
        (0x05, "uuid", binary(4, &[7; 16])),
        (0x05, "old uuid", binary(3, &[8; 16])),
        (0x05, "old binary", binary(2, b"\x02\x00\x00\x00ab")),
        (0x05, "own binary", binary(0x91, b"mine")),
        (0x05, "empty binary", binary(0, b"")),
        (0x06, "undefined", vec![]),
        (0x07, "object id", vec![9; 12]),
        (0x08, "true", vec![1]),
        (0x08, "false", vec![0]),
        (0x0a, "null", vec![]),
        (0x0b, "regex", b"^a\"/b\\d\0imx\0".to_vec()),
        (0x0b, "regex with odd options", b"a\0xi\0".to_vec()),
        (0x0c, "pointer", [string("db.coll"), vec![3; 12]].concat()),
        (0x0d, "code", string("function () { return '}' }")),
        (0x0e, "symbol", string("sym")),
        (
            0x0f,
            "code with scope",
            code_with_scope("f()", &document(&[(0x12, "x", vec![1, 0, 0, 0, 0, 0, 0, 0])])),
        ),
        (0xff, "min key", vec![]),
        (0x7f, "max key", vec![]),
    ]
}

fn nested() -> Vec<Element<'static>> {
    let int = |n: i32| n.to_le_bytes().to_vec();
    let mut deep = document(&[(0x12, "leaf", 1_i64.to_le_bytes().to_vec())]);
    for _ in 0..60 {
        deep = document(&[(0x03, "d", deep)]);
    }
    let date = document(&[(0x12, "$numberLong", 7_i64.to_le_bytes().to_vec())]);
    vec![
        (0x03, "document", document(&[(0x10, "b", int(1)), (0x10, "a", int(2)), (0x10, "", int(3))])),
        (0x03, "empty document", document(&[])),
        (
            0x04,
            "array",
            document(&[(0x10, "0", int(1)), (0x12, "1", vec![2; 8]), (0x04, "2", document(&[]))]),
        ),
        (0x04, "empty array", document(&[])),
        (0x03, "deep", deep),
        (0x03, "looks like a long", document(&[(0x02, "$numberLong", string("5"))])),
        (0x03, "looks like a date", document(&[(0x03, "$date", date)])),
        (0x03, "reference", document(&[(0x02, "$ref", string("c")), (0x10, "$id", int(7))])),
        (0x10, "dotted.name", int(1)),
        (0x10, "$dollar", int(2)),
        (0x10, "12", int(3)),
        (0x10, "ключ", int(4)),
        (0x10, "", int(5)),
    ]
}

fn code_with_scope(code: &str, scope: &[u8]) -> Vec<u8> {
    let body = [string(code), scope.to_vec()].concat();
    [(body.len() as i32 + 4).to_le_bytes().to_vec(), body].concat()
}
