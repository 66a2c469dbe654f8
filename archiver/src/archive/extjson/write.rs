//! Writes Extended JSON text from raw BSON into one string, without allocation per field.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bson_walker::{Doc, Element, kind};

use super::super::day;
use super::{Exact, MAX_DEPTH, decimal, is_type_name};

/// Which of the two forms of Extended JSON v2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Numbers as JSON numbers, dates as ISO-8601.
    Relaxed,
    /// Every number with its type.
    Canonical,
}

/// Appends a document's text and returns its exactness blob.
pub(super) fn document(doc: Doc<'_>, out: &mut String, form: Form) -> Option<Vec<u8>> {
    let mut text = Text { out, form, widths: Widths::default(), inexact: false };
    text.document(doc, 1);
    if text.inexact {
        let mut blob = Vec::with_capacity(1 + doc.as_bytes().len());
        blob.push(Exact::BSON);
        blob.extend_from_slice(doc.as_bytes());
        return Some(blob);
    }
    text.widths.into_blob()
}

/// Appends the relaxed text of one element's value, for reading only.
pub(super) fn value(element: &Element<'_>, out: &mut String) {
    Text { out, form: Form::Relaxed, widths: Widths::default(), inexact: false }.value(element, 1);
}

/// Which of the integers that fit 32 bits are Int64s. Costs nothing while they are all alike.
#[derive(Debug, Default)]
struct Widths {
    seen: usize,
    wide: usize,
    /// The blob, tag included, once both kinds have been seen.
    blob: Vec<u8>,
}

impl Widths {
    fn note(&mut self, wide: bool) {
        if self.blob.is_empty() && self.seen > 0 && wide != (self.wide > 0) {
            self.blob.push(Exact::MIXED);
            for n in 0..self.seen {
                self.push_bit(n, !wide);
            }
        }
        if !self.blob.is_empty() {
            self.push_bit(self.seen, wide);
        }
        self.seen += 1;
        self.wide += usize::from(wide);
    }

    fn push_bit(&mut self, n: usize, bit: bool) {
        if n.is_multiple_of(8) {
            self.blob.push(0);
        }
        if let Some(last) = self.blob.last_mut() {
            *last |= u8::from(bit) << (n % 8);
        }
    }

    fn into_blob(self) -> Option<Vec<u8>> {
        match (self.blob.is_empty(), self.wide) {
            (true, 0) => None,
            (true, _) => Some(vec![Exact::ALL_LONG]),
            (false, _) => Some(self.blob),
        }
    }
}

struct Text<'o> {
    out: &'o mut String,
    form: Form,
    widths: Widths,
    /// Whether the text so far can't give the exact bytes back.
    inexact: bool,
}

impl Text<'_> {
    fn document(&mut self, doc: Doc<'_>, depth: usize) {
        if depth > MAX_DEPTH {
            return self.unreadable();
        }
        self.out.push('{');
        let mut first = true;
        for element in doc.elements() {
            let Ok(element) = element else {
                self.inexact = true;
                break;
            };
            if !std::mem::take(&mut first) {
                self.out.push(',');
            }
            self.inexact |= is_type_name(element.name());
            self.string(element.name());
            self.out.push(':');
            self.value(&element, depth);
        }
        self.out.push('}');
    }

    fn array(&mut self, doc: Doc<'_>, depth: usize) {
        if depth > MAX_DEPTH {
            return self.unreadable();
        }
        self.out.push('[');
        let mut index = Index::default();
        for (n, element) in doc.elements().enumerate() {
            let Ok(element) = element else {
                self.inexact = true;
                break;
            };
            if n > 0 {
                self.out.push(',');
            }
            self.inexact |= element.name() != index.next();
            self.value(&element, depth);
        }
        self.out.push(']');
    }

    /// Stands in for what can't be shown; the blob has it.
    fn unreadable(&mut self) {
        self.inexact = true;
        self.out.push_str("null");
    }

    fn value(&mut self, element: &Element<'_>, depth: usize) {
        match element.kind() {
            kind::DOUBLE => self.double(element.as_f64().unwrap_or_default()),
            kind::STRING => self.string(element.string_bytes().unwrap_or_default()),
            kind::DOCUMENT => self.document(element.as_doc().unwrap_or(Doc::EMPTY), depth + 1),
            kind::ARRAY => self.array(element.as_doc().unwrap_or(Doc::EMPTY), depth + 1),
            kind::BINARY => self.binary(element),
            kind::UNDEFINED => self.out.push_str("{\"$undefined\":true}"),
            kind::OBJECT_ID => self.object_id(element.value()),
            kind::BOOLEAN => self.out.push_str(if element.value() == [1] { "true" } else { "false" }),
            kind::DATE => self.date(element.as_date_millis().unwrap_or_default()),
            kind::NULL => self.out.push_str("null"),
            kind::REGEX => self.regex(element.value()),
            kind::DB_POINTER => self.db_pointer(element.value()),
            kind::CODE => self.wrapped_string("{\"$code\":", element),
            kind::SYMBOL => self.wrapped_string("{\"$symbol\":", element),
            kind::CODE_WITH_SCOPE => self.code_with_scope(element.value(), depth),
            kind::INT32 => self.int32(element.as_i32().unwrap_or_default()),
            kind::TIMESTAMP => self.timestamp(element.as_timestamp().unwrap_or_default()),
            kind::INT64 => self.int64(element.as_i64().unwrap_or_default()),
            kind::DECIMAL128 => self.decimal(element.value()),
            kind::MIN_KEY => self.out.push_str("{\"$minKey\":1}"),
            kind::MAX_KEY => self.out.push_str("{\"$maxKey\":1}"),
            _ => self.unreadable(),
        }
    }

    fn int32(&mut self, value: i32) {
        match self.form {
            Form::Relaxed => {
                self.widths.note(false);
                push_int(value.into(), self.out);
            }
            Form::Canonical => self.wrapped_int("{\"$numberInt\":\"", value.into()),
        }
    }

    fn int64(&mut self, value: i64) {
        match self.form {
            Form::Relaxed => {
                if i32::try_from(value).is_ok() {
                    self.widths.note(true);
                }
                push_int(value, self.out);
            }
            Form::Canonical => self.wrapped_int("{\"$numberLong\":\"", value),
        }
    }

    fn wrapped_int(&mut self, open: &str, value: i64) {
        self.out.push_str(open);
        push_int(value, self.out);
        self.out.push_str("\"}");
    }

    /// The shortest text that reads as the same double, always with a point or an exponent: never an integer's.
    fn double(&mut self, value: f64) {
        let bare = self.form == Form::Relaxed && value.is_finite();
        if !bare {
            self.out.push_str("{\"$numberDouble\":\"");
        }
        if value.is_finite() {
            let _ = write!(self.out, "{value:?}");
        } else if value.is_nan() {
            self.inexact |= value.to_bits() != super::parse::NAN.to_bits();
            self.out.push_str("NaN");
        } else {
            self.out.push_str(if value > 0.0 { "Infinity" } else { "-Infinity" });
        }
        if !bare {
            self.out.push_str("\"}");
        }
    }

    fn decimal(&mut self, value: &[u8]) {
        let Ok(bytes) = value.try_into() else { return self.unreadable() };
        self.out.push_str("{\"$numberDecimal\":\"");
        self.inexact |= !decimal::push_text(bytes, self.out);
        self.out.push_str("\"}");
    }

    fn date(&mut self, millis: i64) {
        self.out.push_str("{\"$date\":");
        let start = self.out.len();
        self.out.push('"');
        if self.form == Form::Relaxed && day::push_iso(millis, self.out) {
            self.out.push_str("\"}");
        } else {
            self.out.truncate(start);
            self.wrapped_int("{\"$numberLong\":\"", millis);
            self.out.push('}');
        }
    }

    fn timestamp(&mut self, (seconds, ordinal): (u32, u32)) {
        self.out.push_str("{\"$timestamp\":{\"t\":");
        push_int(seconds.into(), self.out);
        self.out.push_str(",\"i\":");
        push_int(ordinal.into(), self.out);
        self.out.push_str("}}");
    }

    fn object_id(&mut self, bytes: &[u8]) {
        self.out.push_str("{\"$oid\":\"");
        push_hex(bytes, self.out);
        self.out.push_str("\"}");
    }

    fn binary(&mut self, element: &Element<'_>) {
        let Some((subtype, mut bytes)) = element.as_binary() else { return self.unreadable() };
        // The old subtype 2 repeats the length inside the data; Extended JSON leaves that out and parsers add it.
        if subtype == 2 {
            match bytes.split_first_chunk::<4>() {
                Some((len, data)) if i32::from_le_bytes(*len) as usize == data.len() => bytes = data,
                _ => self.inexact = true,
            }
        }
        self.out.push_str("{\"$binary\":{\"base64\":\"");
        STANDARD.encode_string(bytes, self.out);
        self.out.push_str("\",\"subType\":\"");
        push_hex(&[subtype], self.out);
        self.out.push_str("\"}}");
    }

    fn regex(&mut self, value: &[u8]) {
        let mut parts = value.split(|b| *b == 0);
        let (pattern, options) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        // BSON wants the options in alphabetical order, and other parsers put them so.
        self.inexact |= !options.is_sorted();
        self.out.push_str("{\"$regularExpression\":{\"pattern\":");
        self.string(pattern);
        self.out.push_str(",\"options\":");
        self.string(options);
        self.out.push_str("}}");
    }

    fn db_pointer(&mut self, value: &[u8]) {
        let Some((namespace, id)) = value.split_last_chunk::<12>() else { return self.unreadable() };
        self.out.push_str("{\"$dbPointer\":{\"$ref\":");
        self.string(namespace.get(4..namespace.len().saturating_sub(1)).unwrap_or_default());
        self.out.push_str(",\"$id\":");
        self.object_id(id);
        self.out.push_str("}}");
    }

    fn wrapped_string(&mut self, open: &str, element: &Element<'_>) {
        self.out.push_str(open);
        self.string(element.string_bytes().unwrap_or_default());
        self.out.push('}');
    }

    fn code_with_scope(&mut self, value: &[u8], depth: usize) {
        let parts = value.get(4..).and_then(|inner| {
            let len = usize::try_from(i32::from_le_bytes(*inner.first_chunk()?)).ok()?;
            let code = inner.get(4..(4 + len).checked_sub(1)?)?;
            Some((code, Doc::new(inner.get(4 + len..)?).ok()?))
        });
        let Some((code, scope)) = parts else { return self.unreadable() };
        // A frame longer than what is in it would be lost.
        let total = value.first_chunk().map_or(0, |len| i32::from_le_bytes(*len) as usize);
        self.inexact |= total != 4 + 4 + code.len() + 1 + scope.as_bytes().len();
        self.out.push_str("{\"$code\":");
        self.string(code);
        self.out.push_str(",\"$scope\":");
        self.document(scope, depth + 1);
        self.out.push('}');
    }

    fn string(&mut self, bytes: &[u8]) {
        self.out.push('"');
        match std::str::from_utf8(bytes) {
            Ok(text) => push_escaped(text, self.out),
            Err(_) => {
                self.inexact = true;
                push_escaped(&String::from_utf8_lossy(bytes), self.out);
            }
        }
        self.out.push('"');
    }
}

/// Which bytes can't stand in a JSON string as they are.
const ESCAPED: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 0x20 {
        table[byte] = true;
        byte += 1;
    }
    table[b'"' as usize] = true;
    table[b'\\' as usize] = true;
    table
};

fn push_escaped(text: &str, out: &mut String) {
    let mut rest = text;
    while let Some(at) = rest.bytes().position(|b| ESCAPED[usize::from(b)]) {
        let (plain, from) = rest.split_at(at);
        out.push_str(plain);
        match from.as_bytes()[0] {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            control => {
                out.push_str("\\u00");
                push_hex(&[control], out);
            }
        }
        rest = &from[1..];
    }
    out.push_str(rest);
}

/// Appends lower-case hex.
pub(in super::super) fn push_hex(bytes: &[u8], out: &mut String) {
    const DIGITS: [char; 16] =
        ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
    for byte in bytes {
        out.push(DIGITS[usize::from(byte >> 4)]);
        out.push(DIGITS[usize::from(byte & 15)]);
    }
}

fn push_int(value: i64, out: &mut String) {
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    let mut rest = value.unsigned_abs();
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if value < 0 {
        at -= 1;
        digits[at] = b'-';
    }
    out.push_str(std::str::from_utf8(&digits[at..]).unwrap_or_default());
}

/// The names that an array's elements must have: "0", "1", …
#[derive(Debug, Default)]
pub(super) struct Index {
    next: usize,
    text: String,
}

impl Index {
    /// The next name's bytes.
    pub(super) fn next(&mut self) -> &[u8] {
        self.text.clear();
        push_int(self.next as i64, &mut self.text);
        self.next += 1;
        self.text.as_bytes()
    }
}
