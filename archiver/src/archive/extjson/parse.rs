//! Parses Extended JSON text into raw BSON bytes, appended to one buffer.

mod types;

use std::fmt;

use bson_walker::kind;

use super::MAX_DEPTH;
use super::write::Index;

/// The NaN that the text `NaN` stands for; others go into the blob.
pub(super) const NAN: f64 = f64::from_bits(0x7FF8_0000_0000_0000);

/// What is wrong with the text, and where. Never quotes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Problem {
    /// What was expected and not found.
    expected: &'static str,
    /// The byte offset in the text.
    at: usize,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected {} at byte {}", self.expected, self.at)
    }
}

impl std::error::Error for Problem {}

/// Which BSON type the next integer that fits 32 bits has.
#[derive(Debug, Clone, Copy)]
pub(super) enum Widths<'b> {
    /// All are Int32.
    Narrow,
    /// All are Int64.
    Wide,
    /// As the bitmap says.
    Mixed {
        /// One bit each, lowest first.
        map: &'b [u8],
        /// The next one's number.
        next: usize,
    },
}

impl Widths<'_> {
    fn next_is_wide(&mut self) -> Option<bool> {
        match self {
            Widths::Narrow => Some(false),
            Widths::Wide => Some(true),
            Widths::Mixed { map, next } => {
                let byte = map.get(*next / 8)?;
                let bit = byte >> (*next % 8) & 1;
                *next += 1;
                Some(bit == 1)
            }
        }
    }

    fn all_used(&self) -> bool {
        match self {
            Widths::Mixed { map, next } => {
                let spare = map.len() * 8 - next;
                spare < 8 && map.last().is_none_or(|last| spare == 0 || last >> (8 - spare) == 0)
            }
            _ => true,
        }
    }
}

/// The BSON of a text that is one document.
pub(super) fn document(text: &str, widths: Widths<'_>) -> Result<Vec<u8>, Problem> {
    let mut parser = Parser::new(text, widths);
    parser.space();
    if parser.bytes.get(parser.at) != Some(&b'{') || parser.value(0)? != kind::DOCUMENT {
        return Err(Problem { expected: "a document", at: 0 });
    }
    parser.end()?;
    if !parser.widths.all_used() {
        return Err(Problem { expected: "as many integers as the exactness blob speaks of", at: text.len() });
    }
    Ok(parser.out)
}

/// The BSON of `{<name>: <value>}` for a text that is one value.
pub(super) fn value(name: &str, text: &str) -> Result<Vec<u8>, Problem> {
    let mut parser = Parser::new(text, Widths::Narrow);
    let start = parser.begin();
    parser.field(name.as_bytes(), 1)?;
    parser.end()?;
    parser.finish(start)?;
    Ok(parser.out)
}

struct Parser<'t> {
    text: &'t str,
    bytes: &'t [u8],
    at: usize,
    widths: Widths<'t>,
    out: Vec<u8>,
}

impl<'t> Parser<'t> {
    fn new(text: &'t str, widths: Widths<'t>) -> Self {
        Parser { text, bytes: text.as_bytes(), at: 0, widths, out: Vec::with_capacity(text.len()) }
    }

    fn fail<T>(&self, expected: &'static str) -> Result<T, Problem> {
        Err(Problem { expected, at: self.at })
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.bytes.get(self.at) {
            self.at += 1;
        }
    }

    fn end(&mut self) -> Result<(), Problem> {
        self.space();
        if self.at == self.bytes.len() { Ok(()) } else { self.fail("the end") }
    }

    /// Takes this byte if it is next, after white space.
    fn take(&mut self, byte: u8) -> bool {
        self.space();
        let is_next = self.bytes.get(self.at) == Some(&byte);
        self.at += usize::from(is_next);
        is_next
    }

    fn expect(&mut self, byte: u8, what: &'static str) -> Result<(), Problem> {
        if self.take(byte) { Ok(()) } else { self.fail(what) }
    }

    /// Begins a length-prefixed stretch of the output.
    fn begin(&mut self) -> usize {
        self.out.extend_from_slice(&[0; 4]);
        self.out.len() - 4
    }

    /// Ends a document begun there.
    fn finish(&mut self, start: usize) -> Result<(), Problem> {
        self.out.push(0);
        self.set_len(start, self.out.len() - start)
    }

    fn set_len(&mut self, start: usize, len: usize) -> Result<(), Problem> {
        let Ok(len) = i32::try_from(len) else { return self.fail("less than 2 GiB") };
        self.out[start..start + 4].copy_from_slice(&len.to_le_bytes());
        Ok(())
    }

    /// Appends one field with a known name.
    fn field(&mut self, name: &[u8], depth: usize) -> Result<(), Problem> {
        let kind_at = self.out.len();
        self.out.push(0);
        self.out.extend_from_slice(name);
        self.out.push(0);
        self.out[kind_at] = self.value(depth)?;
        Ok(())
    }

    /// Appends the next value's bytes and returns its type. `depth` is that of the document it is in.
    fn value(&mut self, depth: usize) -> Result<u8, Problem> {
        self.space();
        match self.bytes.get(self.at) {
            Some(b'{') => {
                self.at += 1;
                self.object(depth + 1)
            }
            Some(b'[') => {
                self.at += 1;
                self.array(depth + 1)
            }
            Some(b'"') => {
                self.bson_string()?;
                Ok(kind::STRING)
            }
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => self.literal(),
        }
    }

    fn literal(&mut self) -> Result<u8, Problem> {
        let rest = &self.bytes[self.at..];
        let (len, kind, value) = if rest.starts_with(b"null") {
            (4, kind::NULL, &[][..])
        } else if rest.starts_with(b"true") {
            (4, kind::BOOLEAN, &[1][..])
        } else if rest.starts_with(b"false") {
            (5, kind::BOOLEAN, &[0][..])
        } else {
            return self.fail("a value");
        };
        self.at += len;
        self.out.extend_from_slice(value);
        Ok(kind)
    }

    fn number(&mut self) -> Result<u8, Problem> {
        let start = self.at;
        let is_part = |b: &u8| matches!(b, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
        self.at += self.bytes[start..].iter().take_while(|b| is_part(b)).count();
        let token = &self.text[start..self.at];
        if token.bytes().any(|b| matches!(b, b'.' | b'e' | b'E')) {
            let Some(value) = token.parse::<f64>().ok().filter(|v| v.is_finite()) else {
                return self.fail("a double");
            };
            self.out.extend_from_slice(&value.to_le_bytes());
            return Ok(kind::DOUBLE);
        }
        let Ok(value) = token.parse::<i64>() else { return self.fail("an integer of at most 64 bits") };
        if let Ok(narrow) = i32::try_from(value) {
            match self.widths.next_is_wide() {
                Some(true) => {}
                Some(false) => {
                    self.out.extend_from_slice(&narrow.to_le_bytes());
                    return Ok(kind::INT32);
                }
                None => return self.fail("no more integers than the exactness blob speaks of"),
            }
        }
        self.out.extend_from_slice(&value.to_le_bytes());
        Ok(kind::INT64)
    }

    fn array(&mut self, depth: usize) -> Result<u8, Problem> {
        if depth > MAX_DEPTH {
            return self.fail("fewer levels of nesting");
        }
        let start = self.begin();
        let mut index = Index::default();
        if !self.take(b']') {
            loop {
                self.field(index.next(), depth)?;
                if !self.take(b',') {
                    break;
                }
            }
            self.expect(b']', "a comma or the array's end")?;
        }
        self.finish(start)?;
        Ok(kind::ARRAY)
    }

    fn object(&mut self, depth: usize) -> Result<u8, Problem> {
        if depth > MAX_DEPTH {
            return self.fail("fewer levels of nesting");
        }
        self.space();
        if let Some(name) = self.type_name() {
            let kind = self.wrapper(name, depth)?;
            self.expect(b'}', "the end of an Extended JSON type")?;
            return Ok(kind);
        }
        let start = self.begin();
        if !self.take(b'}') {
            loop {
                let kind_at = self.out.len();
                self.out.push(0);
                self.name()?;
                self.expect(b':', "a colon")?;
                self.out[kind_at] = self.value(depth)?;
                if !self.take(b',') {
                    break;
                }
            }
            self.expect(b'}', "a comma or the document's end")?;
        }
        self.finish(start)?;
        Ok(kind::DOCUMENT)
    }

    /// Appends a field's name with its terminator.
    fn name(&mut self) -> Result<(), Problem> {
        self.expect(b'"', "a field name")?;
        let start = self.out.len();
        self.string_content()?;
        if self.out[start..].contains(&0) {
            return self.fail("a field name without zero bytes");
        }
        self.out.push(0);
        Ok(())
    }

    fn bson_string_value(&mut self) -> Result<(), Problem> {
        self.space();
        self.bson_string()
    }

    /// Appends the next string with its length and terminator.
    fn bson_string(&mut self) -> Result<(), Problem> {
        self.expect(b'"', "a string")?;
        let start = self.begin();
        self.string_content()?;
        self.out.push(0);
        self.set_len(start, self.out.len() - start - 4)
    }

    /// Appends what is left of a string, without its quotes.
    fn string_content(&mut self) -> Result<(), Problem> {
        loop {
            let rest = &self.bytes[self.at..];
            let plain = rest.iter().take_while(|b| !matches!(b, b'"' | b'\\' | 0..=0x1F)).count();
            self.out.extend_from_slice(&rest[..plain]);
            self.at += plain;
            match rest.get(plain) {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => self.escape()?,
                _ => return self.fail("the string's end"),
            }
        }
    }

    fn escape(&mut self) -> Result<(), Problem> {
        let plain = match self.bytes.get(self.at + 1) {
            Some(b'u') => return self.unicode_escape(),
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'b') => 0x08,
            Some(b'f') => 0x0C,
            Some(same @ (b'"' | b'\\' | b'/')) => *same,
            _ => return self.fail("an escape"),
        };
        self.out.push(plain);
        self.at += 2;
        Ok(())
    }

    fn unicode_escape(&mut self) -> Result<(), Problem> {
        let unit = |at: usize| -> Option<u32> {
            let digits = self.text.get(at..at + 6)?.strip_prefix("\\u")?;
            digits.bytes().all(|b| b.is_ascii_hexdigit()).then(|| u32::from_str_radix(digits, 16).ok())?
        };
        let (code, len) = match unit(self.at) {
            Some(high @ 0xD800..=0xDBFF) => match unit(self.at + 6) {
                Some(low @ 0xDC00..=0xDFFF) => (0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00), 12),
                _ => return self.fail("both halves of a surrogate pair"),
            },
            Some(code) => (code, 6),
            None => return self.fail("four hex digits"),
        };
        let Some(character) = char::from_u32(code) else {
            return self.fail("both halves of a surrogate pair");
        };
        self.out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
        self.at += len;
        Ok(())
    }
}
