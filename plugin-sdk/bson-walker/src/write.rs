//! Writes BSON by appending to one buffer; lengths are filled in when a document ends.

use crate::read::{Element, kind};

/// Appends one document to a buffer. Nested documents borrow the writer, so they can't be left open by mistake;
/// a writer dropped without [`Writer::end`] leaves an invalid document behind.
#[derive(Debug)]
#[must_use = "end() completes the document"]
pub struct Writer<'v> {
    buf: &'v mut Vec<u8>,
    start: usize,
}

impl<'v> Writer<'v> {
    /// Begins a document at the end of `buf`.
    pub fn begin(buf: &'v mut Vec<u8>) -> Self {
        let start = buf.len();
        buf.extend_from_slice(&[0; 4]);
        Writer { buf, start }
    }

    /// Goes on with the one document that `buf` holds.
    pub fn reopen(buf: &'v mut Vec<u8>) -> Self {
        buf.pop();
        Writer { buf, start: 0 }
    }

    /// Builds one document in a buffer of its own.
    pub fn build(fill: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
        let mut buf = Vec::new();
        let mut writer = Writer::begin(&mut buf);
        fill(&mut writer);
        writer.end();
        buf
    }

    /// Completes the document.
    pub fn end(self) {
        self.buf.push(0);
        let len = (self.buf.len() - self.start) as i32;
        self.buf[self.start..self.start + 4].copy_from_slice(&len.to_le_bytes());
    }

    /// How many bytes the document has so far.
    pub fn len(&self) -> usize {
        self.buf.len() - self.start
    }

    /// Whether no field has been written.
    pub fn is_empty(&self) -> bool {
        self.len() == 4
    }

    /// Copies a field as it is.
    pub fn append(&mut self, element: &Element<'_>) {
        self.buf.extend_from_slice(element.whole());
    }

    /// Copies a field under another name.
    pub fn append_as(&mut self, name: &str, element: &Element<'_>) {
        self.raw(element.kind(), name.as_bytes(), element.value());
    }

    /// Writes a field from its parts. The name must not contain a zero byte: what follows it would be lost, so it is cut there.
    pub fn raw(&mut self, kind: u8, name: &[u8], value: &[u8]) {
        self.head(kind, name);
        self.buf.extend_from_slice(value);
    }

    fn head(&mut self, kind: u8, name: &[u8]) {
        self.buf.push(kind);
        let end = name.iter().position(|b| *b == 0).unwrap_or(name.len());
        self.buf.extend_from_slice(&name[..end]);
        self.buf.push(0);
    }

    /// Writes a string.
    pub fn str(&mut self, name: &str, value: &str) {
        self.head(kind::STRING, name.as_bytes());
        self.buf.extend_from_slice(&(value.len() as i32 + 1).to_le_bytes());
        self.buf.extend_from_slice(value.as_bytes());
        self.buf.push(0);
    }

    /// Writes an Int32.
    pub fn i32(&mut self, name: &str, value: i32) {
        self.raw(kind::INT32, name.as_bytes(), &value.to_le_bytes());
    }

    /// Writes an Int64.
    pub fn i64(&mut self, name: &str, value: i64) {
        self.raw(kind::INT64, name.as_bytes(), &value.to_le_bytes());
    }

    /// Writes a double.
    pub fn f64(&mut self, name: &str, value: f64) {
        self.raw(kind::DOUBLE, name.as_bytes(), &value.to_le_bytes());
    }

    /// Writes a boolean.
    pub fn bool(&mut self, name: &str, value: bool) {
        self.raw(kind::BOOLEAN, name.as_bytes(), &[u8::from(value)]);
    }

    /// Writes a null.
    pub fn null(&mut self, name: &str) {
        self.raw(kind::NULL, name.as_bytes(), &[]);
    }

    /// Writes a date, in milliseconds since 1970.
    pub fn date_millis(&mut self, name: &str, value: i64) {
        self.raw(kind::DATE, name.as_bytes(), &value.to_le_bytes());
    }

    /// Writes a timestamp.
    pub fn timestamp(&mut self, name: &str, seconds: u32, ordinal: u32) {
        let bits = (u64::from(seconds) << 32) | u64::from(ordinal);
        self.raw(kind::TIMESTAMP, name.as_bytes(), &bits.to_le_bytes());
    }

    /// Writes binary data.
    pub fn binary(&mut self, name: &str, subtype: u8, bytes: &[u8]) {
        self.head(kind::BINARY, name.as_bytes());
        self.buf.extend_from_slice(&(bytes.len() as i32).to_le_bytes());
        self.buf.push(subtype);
        self.buf.extend_from_slice(bytes);
    }

    /// Writes a document from its bytes, which must be a valid one.
    pub fn doc(&mut self, name: &str, bytes: &[u8]) {
        self.raw(kind::DOCUMENT, name.as_bytes(), bytes);
    }

    /// Begins a nested document.
    pub fn begin_doc(&mut self, name: &[u8]) -> Writer<'_> {
        self.head(kind::DOCUMENT, name);
        Writer::begin(self.buf)
    }

    /// Begins a nested array; its fields are to be named "0", "1", …
    pub fn begin_array(&mut self, name: &[u8]) -> Writer<'_> {
        self.head(kind::ARRAY, name);
        Writer::begin(self.buf)
    }
}
