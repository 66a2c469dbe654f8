//! Views of raw BSON: documents, their elements, and the check that every byte is accounted for.

use std::fmt;

/// The type bytes of BSON, by the names of <https://bsonspec.org/spec.html>.
#[allow(missing_docs)]
pub mod kind {
    pub const DOUBLE: u8 = 0x01;
    pub const STRING: u8 = 0x02;
    pub const DOCUMENT: u8 = 0x03;
    pub const ARRAY: u8 = 0x04;
    pub const BINARY: u8 = 0x05;
    pub const UNDEFINED: u8 = 0x06;
    pub const OBJECT_ID: u8 = 0x07;
    pub const BOOLEAN: u8 = 0x08;
    pub const DATE: u8 = 0x09;
    pub const NULL: u8 = 0x0A;
    pub const REGEX: u8 = 0x0B;
    pub const DB_POINTER: u8 = 0x0C;
    pub const CODE: u8 = 0x0D;
    pub const SYMBOL: u8 = 0x0E;
    pub const CODE_WITH_SCOPE: u8 = 0x0F;
    pub const INT32: u8 = 0x10;
    pub const TIMESTAMP: u8 = 0x11;
    pub const INT64: u8 = 0x12;
    pub const DECIMAL128: u8 = 0x13;
    pub const MIN_KEY: u8 = 0xFF;
    pub const MAX_KEY: u8 = 0x7F;
}

/// What is wrong with the bytes, and where. Never quotes the contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Error {
    /// What was expected and not found.
    pub what: &'static str,
    /// The offset in the bytes handed in, where known exactly; else of the enclosing document.
    pub at: usize,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid BSON: {} at byte {}", self.what, self.at)
    }
}

impl std::error::Error for Error {}

pub(crate) fn le_i32(bytes: &[u8]) -> Option<i32> {
    Some(i32::from_le_bytes(bytes.get(..4)?.try_into().ok()?))
}

pub(crate) fn le_i64(bytes: &[u8]) -> Option<i64> {
    Some(i64::from_le_bytes(bytes.get(..8)?.try_into().ok()?))
}

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;

/// Marks the zero bytes of a word. The lowest mark is right; marks above it may be false.
#[inline]
fn zeros(word: u64) -> u64 {
    word.wrapping_sub(ONES) & !word & HIGH
}

/// The place of the first zero byte.
pub(crate) fn find_zero(bytes: &[u8]) -> Option<usize> {
    scan_name(bytes).map(|(len, _)| len)
}

/// The place of the first zero byte and whether there is a dot before it, eight bytes at a time: names are most of
/// what a walk looks at.
#[inline]
fn scan_name(bytes: &[u8]) -> Option<(usize, bool)> {
    // Most names end here, without a loop: in the sandbox every turn of one is a look at the clock.
    match bytes.first_chunk().map(scan_word) {
        Some((Some(end), dotted)) => Some((end, dotted)),
        _ => scan_long_name(bytes),
    }
}

/// The first zero byte of eight, and whether there is a dot before it.
#[inline]
fn scan_word(chunk: &[u8; 8]) -> (Option<usize>, bool) {
    let word = u64::from_le_bytes(*chunk);
    let ends = zeros(word);
    let dots = zeros(word ^ (ONES * b'.' as u64));
    // The bits below the first mark of an end; all of them where there is none.
    let before = ends.wrapping_sub(1) & !ends;
    ((ends != 0).then(|| ends.trailing_zeros() as usize / 8), dots & before != 0)
}

#[inline(never)]
fn scan_long_name(bytes: &[u8]) -> Option<(usize, bool)> {
    let mut at = 0;
    let mut dotted = false;
    let (words, rest) = bytes.as_chunks();
    for word in words {
        let (end, dot) = scan_word(word);
        dotted |= dot;
        if let Some(end) = end {
            return Some((at + end, dotted));
        }
        at += 8;
    }
    for byte in rest {
        if *byte == 0 {
            return Some((at, dotted));
        }
        dotted |= *byte == b'.';
        at += 1;
    }
    None
}

/// One BSON document (or array): its length prefix and terminator are known to be right, its elements are not
/// yet looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Doc<'a>(&'a [u8]);

impl<'a> Doc<'a> {
    /// The empty document.
    pub const EMPTY: Doc<'static> = Doc(&[5, 0, 0, 0, 0]);

    /// A document that is exactly these bytes.
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Result<Self, Error> {
        let (doc, rest) = Doc::split(bytes)?;
        if rest.is_empty() {
            Ok(doc)
        } else {
            Err(Error { what: "no bytes after the document", at: doc.0.len() })
        }
    }

    /// The first document of concatenated ones, and the bytes after it.
    #[inline]
    pub fn split(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), Error> {
        let len = le_i32(bytes).ok_or(Error { what: "a document length", at: 0 })?;
        let len = usize::try_from(len)
            .ok()
            .filter(|n| *n >= 5)
            .ok_or(Error { what: "a length of 5 or more", at: 0 })?;
        if len > bytes.len() {
            return Err(Error { what: "as many bytes as the length says", at: 0 });
        }
        let (doc, rest) = bytes.split_at(len);
        if doc[len - 1] != 0 {
            return Err(Error { what: "a zero byte at the document's end", at: len - 1 });
        }
        Ok((Doc(doc), rest))
    }

    /// The bytes, length prefix and terminator included.
    #[inline]
    pub fn as_bytes(&self) -> &'a [u8] {
        self.0
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.0.len() == 5
    }

    /// The elements in order. After an error the iteration ends.
    #[inline]
    pub fn elements(&self) -> Elements<'a> {
        Elements { end: self.0.len() - 1, rest: &self.0[4..self.0.len() - 1] }
    }

    /// The first element of that name; `None` where there is none or the bytes before it are invalid.
    pub fn get(&self, name: &str) -> Option<Element<'a>> {
        self.elements().map_while(Result::ok).find(|e| e.name() == name.as_bytes())
    }

    /// The element at a path of names, through documents only.
    pub fn get_path(&self, path: &[&str]) -> Option<Element<'a>> {
        let (last, parents) = path.split_last()?;
        let mut doc = *self;
        for name in parents {
            doc = doc.get(name)?.as_doc()?;
        }
        doc.get(last)
    }
}

/// Iterates over a document's elements; yields one error and ends where the bytes are invalid.
#[derive(Debug, Clone)]
pub struct Elements<'a> {
    /// Where the document's terminator is.
    end: usize,
    /// What is left before it.
    rest: &'a [u8],
}

impl Elements<'_> {
    /// Where the next element begins, counted from the document's first byte; after an error or the last element: the document's terminator.
    #[inline]
    pub fn offset(&self) -> usize {
        self.end - self.rest.len()
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = Result<Element<'a>, Error>;

    // Always: a call would hand the element over in memory, which takes longer than finding it.
    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        let at = self.offset();
        let from = std::mem::take(&mut self.rest);
        let (kind, body) = from.split_first()?;
        let Some((name_len, dotted)) = scan_name(body) else {
            return Some(Err(Error { what: "a field name that ends", at: at + 1 }));
        };
        let (name, after) = (&body[..name_len], &body[name_len + 1..]);
        let Some(len) = value_len(*kind, after) else {
            return Some(Err(Error { what: "a known type and all of its value", at }));
        };
        let (value, rest) = after.split_at(len);
        self.rest = rest;
        let whole = &from[..from.len() - rest.len()];
        Some(Ok(Element { kind: *kind, dotted, name, value, whole }))
    }
}

/// Stands in [`LENGTHS`] for kinds whose values differ in length, and for what is no kind.
const VARIES: u8 = u8::MAX;

/// The lengths of values, by kind.
const LENGTHS: [u8; 256] = {
    let mut lengths = [VARIES; 256];
    let mut i = 0;
    let fixed = [
        (kind::DOUBLE, 8),
        (kind::DATE, 8),
        (kind::TIMESTAMP, 8),
        (kind::INT64, 8),
        (kind::UNDEFINED, 0),
        (kind::NULL, 0),
        (kind::MIN_KEY, 0),
        (kind::MAX_KEY, 0),
        (kind::OBJECT_ID, 12),
        (kind::INT32, 4),
        (kind::DECIMAL128, 16),
    ];
    while i < fixed.len() {
        lengths[fixed[i].0 as usize] = fixed[i].1;
        i += 1;
    }
    lengths
};

/// The length of a value of this kind at the start of `rest`, or `None` where it does not fit. Checks frames,
/// not what is inside documents.
#[inline]
fn value_len(kind: u8, rest: &[u8]) -> Option<usize> {
    let len = match (LENGTHS[usize::from(kind)], kind) {
        (VARIES, kind::STRING) => string_len(rest)?,
        (VARIES, kind::DOCUMENT | kind::ARRAY) => {
            let len = usize::try_from(le_i32(rest)?).ok().filter(|n| *n >= 5)?;
            (*rest.get(len - 1)? == 0).then_some(len)?
        }
        (VARIES, _) => rare_len(kind, rest)?,
        (len, _) => usize::from(len),
    };
    (len <= rest.len()).then_some(len)
}

#[inline]
fn string_len(rest: &[u8]) -> Option<usize> {
    let len = usize::try_from(le_i32(rest)?).ok().filter(|n| *n >= 1)?;
    (*rest.get(4 + len - 1)? == 0).then_some(4 + len)
}

#[inline(never)]
fn rare_len(kind: u8, rest: &[u8]) -> Option<usize> {
    Some(match kind {
        kind::CODE | kind::SYMBOL => string_len(rest)?,
        kind::BINARY => 5 + usize::try_from(le_i32(rest)?).ok()?,
        kind::BOOLEAN => (*rest.first()? <= 1).then_some(1)?,
        kind::REGEX => {
            let pattern = find_zero(rest)? + 1;
            pattern + find_zero(&rest[pattern..])? + 1
        }
        kind::DB_POINTER => string_len(rest)? + 12,
        kind::CODE_WITH_SCOPE => {
            let len = usize::try_from(le_i32(rest)?).ok().filter(|n| *n >= 14)?;
            let inner = rest.get(4..len)?;
            let code = string_len(inner)?;
            let scope = Doc::new(inner.get(code..)?).ok()?;
            4 + code + scope.as_bytes().len()
        }
        _ => return None,
    })
}

/// One field: a view of its type byte, name and value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Element<'a> {
    kind: u8,
    dotted: bool,
    name: &'a [u8],
    value: &'a [u8],
    whole: &'a [u8],
}

impl<'a> Element<'a> {
    /// The type byte, one of [`kind`].
    #[inline]
    pub fn kind(&self) -> u8 {
        self.kind
    }

    /// The name's bytes; MongoDB does not promise that they are UTF-8.
    #[inline]
    pub fn name(&self) -> &'a [u8] {
        self.name
    }

    /// The name as text, or `None` where it is not UTF-8.
    pub fn name_str(&self) -> Option<&'a str> {
        std::str::from_utf8(self.name()).ok()
    }

    /// Whether the name contains a dot; found while reading, so it costs nothing.
    #[inline]
    pub fn name_has_dot(&self) -> bool {
        self.dotted
    }

    /// The value's bytes as BSON stores them.
    #[inline]
    pub fn value(&self) -> &'a [u8] {
        self.value
    }

    /// Type byte, name and value: what copying the field takes.
    #[inline]
    pub fn whole(&self) -> &'a [u8] {
        self.whole
    }

    /// A sub-document's or array's view; `None` for other kinds.
    #[inline]
    pub fn as_doc(&self) -> Option<Doc<'a>> {
        matches!(self.kind(), kind::DOCUMENT | kind::ARRAY).then_some(Doc(self.value()))
    }

    /// A string's bytes without length and terminator, also of code and symbols; not checked to be UTF-8.
    #[inline]
    pub fn string_bytes(&self) -> Option<&'a [u8]> {
        matches!(self.kind(), kind::STRING | kind::CODE | kind::SYMBOL)
            .then(|| &self.value()[4..self.value().len() - 1])
    }

    /// A string's text; `None` for other kinds or where it is not UTF-8.
    pub fn as_str(&self) -> Option<&'a str> {
        (self.kind() == kind::STRING).then_some(())?;
        std::str::from_utf8(self.string_bytes()?).ok()
    }

    /// An Int32's value.
    pub fn as_i32(&self) -> Option<i32> {
        (self.kind() == kind::INT32).then(|| le_i32(self.value()))?
    }

    /// An Int64's value.
    pub fn as_i64(&self) -> Option<i64> {
        (self.kind() == kind::INT64).then(|| le_i64(self.value()))?
    }

    /// A double's value.
    pub fn as_f64(&self) -> Option<f64> {
        (self.kind() == kind::DOUBLE).then(|| le_i64(self.value()).map(|bits| f64::from_bits(bits as u64)))?
    }

    /// A boolean's value.
    pub fn as_bool(&self) -> Option<bool> {
        (self.kind() == kind::BOOLEAN).then(|| self.value()[0] == 1)
    }

    /// A date's milliseconds since 1970.
    pub fn as_date_millis(&self) -> Option<i64> {
        (self.kind() == kind::DATE).then(|| le_i64(self.value()))?
    }

    /// A timestamp's seconds and ordinal.
    pub fn as_timestamp(&self) -> Option<(u32, u32)> {
        let bits = (self.kind() == kind::TIMESTAMP).then(|| le_i64(self.value()))?? as u64;
        Some(((bits >> 32) as u32, bits as u32))
    }

    /// An ObjectId's twelve bytes.
    pub fn as_object_id(&self) -> Option<[u8; 12]> {
        (self.kind() == kind::OBJECT_ID).then(|| self.value().try_into().ok())?
    }

    /// The scope of code with scope, and where it begins in [`Element::value`]; `None` for other kinds.
    pub fn as_scope(&self) -> Option<(usize, Doc<'a>)> {
        if self.kind() != kind::CODE_WITH_SCOPE {
            return None;
        }
        let code = usize::try_from(le_i32(self.value().get(4..)?)?).ok()?;
        let at = 8 + code;
        Some((at, Doc::new(self.value().get(at..)?).ok()?))
    }

    /// A binary's subtype and bytes.
    pub fn as_binary(&self) -> Option<(u8, &'a [u8])> {
        (self.kind() == kind::BINARY).then(|| (self.value()[4], &self.value()[5..]))
    }
}

/// Checks that `bytes` are exactly one document in which every nested frame, down to `max_depth` levels
/// (the document itself is level 1), is valid. Strings need not be UTF-8: MongoDB stores such, and they are kept as they are.
/// Takes time in proportion to the bytes.
pub fn validate(bytes: &[u8], max_depth: usize) -> Result<(), Error> {
    validate_at(bytes, 0, max_depth)
}

fn validate_at(bytes: &[u8], base: usize, levels: usize) -> Result<(), Error> {
    let here = |e: Error| Error { at: base + e.at, ..e };
    if levels == 0 {
        return Err(Error { what: "fewer levels of nesting", at: base });
    }
    let doc = Doc::new(bytes).map_err(here)?;
    let mut elements = doc.elements();
    while let Some(element) = elements.next() {
        let element = element.map_err(here)?;
        let value_at = base + elements.offset() - element.value().len();
        match element.kind() {
            kind::DOCUMENT | kind::ARRAY => validate_at(element.value(), value_at, levels - 1)?,
            kind::CODE_WITH_SCOPE => {
                let (at, scope) =
                    element.as_scope().ok_or(Error { what: "a scope after the code", at: value_at })?;
                validate_at(scope.as_bytes(), value_at + at, levels - 1)?;
            }
            _ => {}
        }
    }
    Ok(())
}
