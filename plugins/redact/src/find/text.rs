//! What of a value is searched: its text, also that of a number, and of JSON what its escapes stand for.

use plugin_sdk::bson_walker::{Element, kind};

/// A value's text.
pub(super) enum Text<'e> {
    /// A string, code or symbol.
    Bytes(&'e [u8]),
    /// A whole number's decimal digits.
    Number(String),
    /// The value as it is stored: there may be a text in it, but it is more than a text.
    Opaque(&'e [u8]),
}

impl<'e> Text<'e> {
    /// The text to search; `None` where there is none, and for numbers less than `least`, whatever their sign.
    #[inline]
    pub(super) fn of(value: &Element<'e>, least: u64) -> Option<Self> {
        let bytes = value.value();
        let whole = |n: i64| (n.unsigned_abs() >= least).then(|| Text::Number(n.to_string()));
        match value.kind() {
            kind::STRING | kind::CODE | kind::SYMBOL => value.string_bytes().map(Text::Bytes),
            kind::INT64 => whole(value.as_i64()?),
            kind::INT32 => whole(value.as_i32()?.into()),
            kind::DOUBLE => {
                let number = value.as_f64()?;
                (number.fract() == 0.0 && number.abs() >= least as f64 && number.abs() < 1e19)
                    .then(|| Text::Number((number as i128).to_string()))
            }
            kind::DECIMAL128 => whole_decimal(bytes).map(Text::Number),
            kind::REGEX | kind::DB_POINTER => Some(Text::Opaque(bytes)),
            // Length, length of the code, code, zero, scope: the scope's fields are asked about one by one.
            kind::CODE_WITH_SCOPE => {
                let (scope, _) = value.as_scope()?;
                bytes.get(8..scope).map(Text::Opaque)
            }
            _ => None,
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Text::Bytes(bytes) | Text::Opaque(bytes) => bytes,
            Text::Number(text) => text.as_bytes(),
        }
    }

    /// The text, where a part of it can be changed.
    pub(super) fn as_str(&self) -> Option<&str> {
        match self {
            Text::Bytes(bytes) => std::str::from_utf8(bytes).ok(),
            Text::Number(text) => Some(text),
            Text::Opaque(_) => None,
        }
    }
}

/// The digits of a Decimal128 whose exponent is 0, as a number written without a point has.
fn whole_decimal(bytes: &[u8]) -> Option<String> {
    let bits = u128::from_le_bytes(bytes.try_into().ok()?);
    let exponent = (bits >> 113) & 0x3FFF;
    let coefficient = bits & ((1 << 113) - 1);
    // Both high bits of the exponent: infinity, NaN, or a form that stands for zero.
    (exponent == 6_176).then(|| coefficient.to_string())
}

/// The text with `\u0040` and the like read, where there are such of ASCII characters.
pub(super) fn without_escapes(text: &[u8]) -> Option<Vec<u8>> {
    let mut plain: Option<Vec<u8>> = None;
    let (mut copied, mut at) = (0, 0);
    while let Some(start) = text[at..].iter().position(|b| *b == b'\\').map(|n| at + n) {
        // JSON within JSON has them in rows.
        at = start + text[start..].iter().take_while(|b| **b == b'\\').count();
        if let Some([b'u', b'0', b'0', high @ b'0'..=b'7', low]) = text.get(at..at + 5)
            && let Some(low) = char::from(*low).to_digit(16)
        {
            let plain = plain.get_or_insert_default();
            plain.extend_from_slice(&text[copied..start]);
            plain.push((high - b'0') << 4 | low as u8);
            at += 5;
            copied = at;
        }
    }
    let mut plain = plain?;
    plain.extend_from_slice(&text[copied..]);
    Some(plain)
}

/// Names in which nothing was found: the same ones come again and again.
#[derive(Debug)]
pub(super) struct Names(Box<[(u64, Box<[u8]>); 256]>);

impl Default for Names {
    fn default() -> Self {
        Names(Box::new(std::array::from_fn(|_| (0, Box::default()))))
    }
}

impl Names {
    /// Whether a name is clean for these marks, as `search` says where that is not known yet.
    #[inline]
    pub(super) fn is_clean(&mut self, marks: u64, name: &[u8], search: impl FnOnce() -> bool) -> bool {
        let (first, last) = (name.first().copied().unwrap_or(0), name.last().copied().unwrap_or(0));
        let slot = (usize::from(first) ^ usize::from(last) << 3 ^ name.len() << 5) % self.0.len();
        let (known, clean) = &self.0[slot];
        if marks & !known == 0 && **clean == *name {
            return true;
        }
        let is_clean = search();
        if is_clean {
            self.0[slot] = (marks, name.into());
        }
        is_clean
    }
}
