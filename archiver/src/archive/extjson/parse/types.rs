//! The Extended JSON types: documents like `{"$oid": "…"}` that stand for one value.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bson_walker::kind;

use super::super::super::day;
use super::super::{decimal, is_type_name};
use super::{NAN, Parser, Problem};

/// A scalar inside a type wrapper.
enum Scalar {
    Text(String),
    Integer(i64),
}

impl<'t> Parser<'t> {
    /// Takes the first name of a document and its colon, where that name makes it an Extended JSON type.
    pub(super) fn type_name(&mut self) -> Option<&'t str> {
        let text: &'t str = self.text;
        let rest = text.get(self.at..)?.strip_prefix('"')?;
        let name = rest.starts_with('$').then(|| rest.split_once('"'))??.0;
        // `$scope` and `$regex` do not begin a type of version 2.
        if matches!(name, "$scope" | "$regex") || !is_type_name(name.as_bytes()) {
            return None;
        }
        let before = self.at;
        self.at += name.len() + 2;
        if self.take(b':') {
            return Some(name);
        }
        self.at = before;
        None
    }

    /// Appends the value of an Extended JSON type and returns its BSON type; leaves the closing brace.
    pub(super) fn wrapper(&mut self, name: &str, depth: usize) -> Result<u8, Problem> {
        let kind = match name {
            "$oid" => self.object_id().map(|id| (kind::OBJECT_ID, id.to_vec())),
            "$numberInt" => self.parsed::<i32>().map(|n| (kind::INT32, n.to_le_bytes().to_vec())),
            "$numberLong" => self.parsed::<i64>().map(|n| (kind::INT64, n.to_le_bytes().to_vec())),
            "$numberDouble" => self.double().map(|n| (kind::DOUBLE, n.to_le_bytes().to_vec())),
            "$numberDecimal" => self.decimal().map(|n| (kind::DECIMAL128, n.to_vec())),
            "$date" => self.date().map(|n| (kind::DATE, n.to_le_bytes().to_vec())),
            "$uuid" => self.uuid().map(|bytes| (kind::BINARY, binary(4, &bytes))),
            "$binary" => self.binary().map(|value| (kind::BINARY, value)),
            "$timestamp" => self.timestamp().map(|bits| (kind::TIMESTAMP, bits.to_le_bytes().to_vec())),
            "$regularExpression" => self.regex().map(|value| (kind::REGEX, value)),
            "$symbol" => return self.bson_string_value().map(|()| kind::SYMBOL),
            "$code" => return self.code(depth),
            "$dbPointer" => return self.db_pointer(),
            "$undefined" => return self.marker("true").map(|()| kind::UNDEFINED),
            "$minKey" => return self.marker("1").map(|()| kind::MIN_KEY),
            "$maxKey" => return self.marker("1").map(|()| kind::MAX_KEY),
            _ => return self.fail("a known Extended JSON type"),
        };
        let (kind, value) = kind?;
        self.out.extend_from_slice(&value);
        Ok(kind)
    }

    fn marker(&mut self, value: &str) -> Result<(), Problem> {
        self.space();
        if !self.text[self.at..].starts_with(value) {
            return self.fail("the value that this Extended JSON type always has");
        }
        self.at += value.len();
        Ok(())
    }

    /// Reads a string outside the output.
    fn string(&mut self) -> Result<String, Problem> {
        self.expect(b'"', "a string")?;
        let start = self.out.len();
        self.string_content()?;
        let bytes = self.out.split_off(start);
        String::from_utf8(bytes).or_else(|_| self.fail("UTF-8"))
    }

    fn parsed<T: std::str::FromStr>(&mut self) -> Result<T, Problem> {
        self.string()?.parse().or_else(|_| self.fail("an integer in range"))
    }

    fn double(&mut self) -> Result<f64, Problem> {
        match self.string()?.as_str() {
            "NaN" => Ok(NAN),
            "Infinity" => Ok(f64::INFINITY),
            "-Infinity" => Ok(f64::NEG_INFINITY),
            text if text.bytes().any(|b| b.is_ascii_digit()) => {
                text.parse().or_else(|_| self.fail("a double"))
            }
            _ => self.fail("a double"),
        }
    }

    fn decimal(&mut self) -> Result<[u8; 16], Problem> {
        let text = self.string()?;
        decimal::parse(&text).map_or_else(|| self.fail("a decimal that fits without rounding"), Ok)
    }

    fn object_id(&mut self) -> Result<[u8; 12], Problem> {
        let text = self.string()?;
        from_hex(&text).and_then(|b| b.try_into().ok()).map_or_else(|| self.fail("24 hex digits"), Ok)
    }

    fn uuid(&mut self) -> Result<[u8; 16], Problem> {
        let text = self.string()?.replace('-', "");
        from_hex(&text).and_then(|b| b.try_into().ok()).map_or_else(|| self.fail("a UUID"), Ok)
    }

    fn date(&mut self) -> Result<i64, Problem> {
        self.space();
        match self.bytes.get(self.at) {
            Some(b'"') => {
                let text = self.string()?;
                day::parse_iso(&text).map_or_else(|| self.fail("an ISO-8601 time with its offset"), Ok)
            }
            Some(b'{') => match self.fields(["$numberLong"])? {
                [Scalar::Text(text)] => text.parse().or_else(|_| self.fail("an integer in range")),
                _ => self.fail("a string"),
            },
            _ => self.integer(),
        }
    }

    fn timestamp(&mut self) -> Result<u64, Problem> {
        let [Scalar::Integer(t), Scalar::Integer(i)] = self.fields(["t", "i"])? else {
            return self.fail("two integers");
        };
        match (u32::try_from(t), u32::try_from(i)) {
            (Ok(t), Ok(i)) => Ok(u64::from(t) << 32 | u64::from(i)),
            _ => self.fail("unsigned integers of 32 bits"),
        }
    }

    fn binary(&mut self) -> Result<Vec<u8>, Problem> {
        let [Scalar::Text(base64), Scalar::Text(subtype)] = self.fields(["base64", "subType"])? else {
            return self.fail("two strings");
        };
        let subtype = u8::from_str_radix(&subtype, 16).or_else(|_| self.fail("a subtype in hex"))?;
        let data = STANDARD.decode(base64).or_else(|_| self.fail("base64"))?;
        if subtype == 2 {
            let inner = (data.len() as i32).to_le_bytes();
            return Ok(binary(2, &[&inner, data.as_slice()].concat()));
        }
        Ok(binary(subtype, &data))
    }

    fn regex(&mut self) -> Result<Vec<u8>, Problem> {
        let [Scalar::Text(pattern), Scalar::Text(options)] = self.fields(["pattern", "options"])? else {
            return self.fail("two strings");
        };
        if pattern.contains('\0') || options.contains('\0') {
            return self.fail("a regular expression without zero bytes");
        }
        Ok([pattern.as_bytes(), &[0], options.as_bytes(), &[0]].concat())
    }

    fn db_pointer(&mut self) -> Result<u8, Problem> {
        self.expect(b'{', "a document")?;
        self.exact_name("$ref")?;
        self.bson_string_value()?;
        self.expect(b',', "$id")?;
        self.exact_name("$id")?;
        self.expect(b'{', "an ObjectId")?;
        self.exact_name("$oid")?;
        let id = self.object_id()?;
        self.out.extend_from_slice(&id);
        self.expect(b'}', "the ObjectId's end")?;
        self.expect(b'}', "the pointer's end")?;
        Ok(kind::DB_POINTER)
    }

    fn code(&mut self, depth: usize) -> Result<u8, Problem> {
        let start = self.begin();
        self.bson_string_value()?;
        if !self.take(b',') {
            self.out.drain(start..start + 4);
            return Ok(kind::CODE);
        }
        self.exact_name("$scope")?;
        self.expect(b'{', "a scope document")?;
        if self.object(depth + 1)? != kind::DOCUMENT {
            return self.fail("a scope document");
        }
        self.set_len(start, self.out.len() - start)?;
        Ok(kind::CODE_WITH_SCOPE)
    }

    fn exact_name(&mut self, name: &str) -> Result<(), Problem> {
        if self.string()? != name {
            return self.fail("the fields of this Extended JSON type");
        }
        self.expect(b':', "a colon")
    }

    /// Reads a document of exactly these fields, in any order, with strings or integers as values.
    fn fields<const N: usize>(&mut self, names: [&str; N]) -> Result<[Scalar; N], Problem> {
        self.expect(b'{', "a document")?;
        let mut found: [Option<Scalar>; N] = [const { None }; N];
        for n in 0..N {
            if n > 0 {
                self.expect(b',', "another field")?;
            }
            let name = self.string()?;
            self.expect(b':', "a colon")?;
            self.space();
            let scalar = match self.bytes.get(self.at) {
                Some(b'"') => Scalar::Text(self.string()?),
                _ => Scalar::Integer(self.integer()?),
            };
            match names.iter().position(|known| *known == name) {
                Some(at) if found[at].is_none() => found[at] = Some(scalar),
                _ => return self.fail("the fields of this Extended JSON type"),
            }
        }
        self.expect(b'}', "the document's end")?;
        let complete = found.into_iter().collect::<Option<Vec<_>>>().and_then(|all| all.try_into().ok());
        complete.map_or_else(|| self.fail("the fields of this Extended JSON type"), Ok)
    }

    fn integer(&mut self) -> Result<i64, Problem> {
        self.space();
        let start = self.at;
        self.at += self.bytes[start..].iter().take_while(|b| matches!(b, b'0'..=b'9' | b'-')).count();
        self.text[start..self.at].parse().or_else(|_| self.fail("an integer"))
    }
}

fn binary(subtype: u8, data: &[u8]) -> Vec<u8> {
    let mut value = (data.len() as i32).to_le_bytes().to_vec();
    value.push(subtype);
    value.extend_from_slice(data);
    value
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok()).collect()
}
