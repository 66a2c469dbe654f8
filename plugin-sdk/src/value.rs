//! What can be done to a value, and how masking works.

use std::borrow::Cow;
use std::fmt::Write as _;

use bson_walker::{Element, kind};

use crate::token::{Tokenize, Tokens};

/// What a masked value shows in place of what it hides; the same for every length.
pub const MASK: &str = "***";

/// What to do with a value.
#[derive(Debug, Clone, PartialEq)]
pub enum Action<'v> {
    /// Leave it; what is below is still asked about.
    Keep,
    /// Take the field out. An array's element becomes null instead, so that the indexes after it keep their meaning.
    Remove,
    /// Put another value in its place.
    Replace(Value<'v>),
    /// Hide it all but its last characters: see [`mask`].
    Mask {
        /// How many characters stay, unless that would be half of them or more.
        keep_last: usize,
    },
    /// Put a token in the place of every value, one by one: documents and arrays stay as shells, with their names. What says
    /// nothing (null, undefined, MinKey, MaxKey) stays: see [`crate::token`].
    Hash(Tokens),
}

impl<'v> Action<'v> {
    /// Puts another value in its place.
    pub fn replace(value: impl Into<Value<'v>>) -> Self {
        Action::Replace(value.into())
    }

    /// Puts tokens in the place of values.
    pub fn hash(tokens: impl Tokenize + 'static) -> Self {
        Action::Hash(Tokens::new(tokens))
    }

    /// The same action, borrowed.
    pub fn borrow(&self) -> Action<'_> {
        match self {
            Action::Keep => Action::Keep,
            Action::Remove => Action::Remove,
            Action::Replace(value) => Action::Replace(value.borrow()),
            Action::Mask { keep_last } => Action::Mask { keep_last: *keep_last },
            Action::Hash(tokens) => Action::Hash(tokens.clone()),
        }
    }

    /// Whether it leaves this value alone.
    pub(crate) fn spares(&self, value: &Element<'_>) -> bool {
        match self {
            Action::Keep => true,
            Action::Hash(_) => {
                matches!(value.kind(), kind::NULL | kind::UNDEFINED | kind::MIN_KEY | kind::MAX_KEY)
            }
            _ => false,
        }
    }

    /// Whether it acts on what this container holds, not on the whole of it.
    pub(crate) fn is_for_each(&self, container: u8) -> bool {
        match self {
            Action::Mask { .. } => container == kind::ARRAY,
            Action::Hash(_) => matches!(container, kind::ARRAY | kind::DOCUMENT),
            _ => false,
        }
    }
}

/// A value that takes another's place.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'v> {
    /// A string.
    String(Cow<'v, str>),
    /// An Int32.
    Int32(i32),
    /// An Int64.
    Int64(i64),
    /// A double.
    Double(f64),
    /// A boolean.
    Boolean(bool),
    /// Null.
    Null,
}

impl Value<'_> {
    fn borrow(&self) -> Value<'_> {
        match self {
            Value::String(text) => Value::String(Cow::Borrowed(text)),
            Value::Int32(v) => Value::Int32(*v),
            Value::Int64(v) => Value::Int64(*v),
            Value::Double(v) => Value::Double(*v),
            Value::Boolean(v) => Value::Boolean(*v),
            Value::Null => Value::Null,
        }
    }

    pub(crate) fn kind(&self) -> u8 {
        match self {
            Value::String(_) => kind::STRING,
            Value::Int32(_) => kind::INT32,
            Value::Int64(_) => kind::INT64,
            Value::Double(_) => kind::DOUBLE,
            Value::Boolean(_) => kind::BOOLEAN,
            Value::Null => kind::NULL,
        }
    }

    /// Appends it behind a field's kind and name.
    pub(crate) fn append(&self, out: &mut Vec<u8>) {
        match self {
            Value::String(text) => append_text(&[text], out),
            Value::Int32(v) => out.extend_from_slice(&v.to_le_bytes()),
            Value::Int64(v) => out.extend_from_slice(&v.to_le_bytes()),
            Value::Double(v) => out.extend_from_slice(&v.to_le_bytes()),
            Value::Boolean(v) => out.push(u8::from(*v)),
            Value::Null => {}
        }
    }
}

impl<'v> From<&'v str> for Value<'v> {
    fn from(text: &'v str) -> Self {
        Value::String(Cow::Borrowed(text))
    }
}

impl From<String> for Value<'_> {
    fn from(text: String) -> Self {
        Value::String(Cow::Owned(text))
    }
}

/// Appends a field's kind and name; the name comes from a document or is a constant, so it has no zero byte.
pub(crate) fn append_head(kind: u8, name: &[u8], out: &mut Vec<u8>) {
    out.push(kind);
    out.extend_from_slice(name);
    out.push(0);
}

/// Appends a string's value.
pub(crate) fn append_text(parts: &[&str], out: &mut Vec<u8>) {
    let len: usize = parts.iter().map(|p| p.len()).sum();
    out.extend_from_slice(&(len as i32 + 1).to_le_bytes());
    parts.iter().for_each(|p| out.extend_from_slice(p.as_bytes()));
    out.push(0);
}

/// Appends what `element`, which is no array, becomes as a masked string.
///
/// Shown are [`MASK`] and the last `keep_last` characters of the value's text, the latter only if the text has more than
/// twice as many characters: at least half of every value stays hidden. Text is: a string itself; a
/// whole number's decimal digits (also of a double without fraction); an ObjectId's hex. Everything else, documents, invalid
/// UTF-8 and null included, becomes [`MASK`] alone.
pub(crate) fn append_masked(element: &Element<'_>, keep_last: usize, out: &mut Vec<u8>) {
    if keep_last == 0 {
        return append_text(&[MASK], out);
    }
    let mut digits = String::new();
    let text = match element.as_str() {
        Some(text) => text,
        None => {
            write_text(element, &mut digits);
            &digits
        }
    };
    append_text(&[MASK, tail(text, keep_last)], out);
}

/// The masked form of a text.
pub fn mask(text: &str, keep_last: usize) -> String {
    [MASK, tail(text, keep_last)].concat()
}

/// What a masked text shows behind [`MASK`].
pub fn tail(text: &str, keep_last: usize) -> &str {
    if text.is_ascii() {
        let hidden = text.len().saturating_sub(keep_last);
        return if hidden > keep_last { &text[hidden..] } else { "" };
    }
    let Some((at, _)) = keep_last.checked_sub(1).and_then(|n| text.char_indices().nth_back(n)) else {
        return "";
    };
    let hidden = text[..at].chars().take(keep_last + 1).count();
    if hidden > keep_last { &text[at..] } else { "" }
}

/// The text of a number or ObjectId; nothing for other kinds.
fn write_text(element: &Element<'_>, text: &mut String) {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let whole = |v: f64| (v.fract() == 0.0 && v.abs() < EXACT).then_some(v as i64);
    let number =
        element.as_i64().or(element.as_i32().map(i64::from)).or_else(|| element.as_f64().and_then(whole));
    if let Some(number) = number {
        let _ = write!(text, "{number}");
    } else if let Some(id) = element.as_object_id() {
        id.iter().for_each(|b| {
            let _ = write!(text, "{b:02x}");
        });
    }
}
