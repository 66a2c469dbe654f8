//! Tokens that stand for values: equal values of a class have equal tokens under one key, and nobody without the key
//! can tell which value a token stands for, nor try values out.
//!
//! A token is `p1:<key id>:<26 characters>`, the characters being the first 16 bytes of
//! `HMAC-SHA256(HMAC-SHA256(key, "archiver:p1:" + class), text)` in lower-case base32. The text is what joins:
//!
//! | value | text |
//! |---|---|
//! | string, symbol | `string:` and its bytes, normalised |
//! | Int32, Int64, and whole doubles and Decimal128s of 64 bits | `number:` and its decimal digits: what MongoDB takes for equal has one token |
//! | other doubles | `double:` and the eight bytes |
//! | other Decimal128s | `decimal:`, digits without zeros at the end, `e` and the exponent; infinities and NaN as other types |
//! | ObjectId | `objectId:` and its hex digits |
//! | date | `date:` and milliseconds since 1970 |
//! | boolean | `boolean:true`, `boolean:false` |
//! | other types | `bson:`, two hex digits of the type, `:` and the value's bytes as BSON has them |
//!
//! So values of different types never have one token. Null, undefined, MinKey and MaxKey say nothing and get none:
//! they stay, since otherwise every unknown would join every other.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use bson_walker::{Element, kind};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

mod decimal;
mod key;

pub use key::Key;

/// How many bytes of the digest a token shows: two of a thousand million values have the same one with a probability
/// of 10⁻²¹.
const SHOWN: usize = 16;

/// Makes tokens. A trait, so that a plugin that makes none carries no cryptography.
pub trait Tokenize: Send + Sync {
    /// The token of a value that is neither a document nor an array.
    fn token(&self, value: &Element<'_>) -> String;
}

/// What makes tokens, shared by the rules that use it.
#[derive(Clone)]
pub struct Tokens(Arc<dyn Tokenize>);

impl Tokens {
    /// Shares it.
    pub fn new(tokens: impl Tokenize + 'static) -> Self {
        Tokens(Arc::new(tokens))
    }

    pub(crate) fn token(&self, value: &Element<'_>) -> String {
        self.0.token(value)
    }
}

/// The same maker, not one that makes the same.
impl PartialEq for Tokens {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tokens")
    }
}

/// What is done to strings before they become tokens, so that different spellings of one value join.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Normalise {
    /// White space at both ends is left out.
    Trim,
    /// Letters become lower-case, as Unicode has it.
    Lowercase,
    /// All but the digits 0 to 9 is left out.
    Digits,
}

impl Normalise {
    fn apply<'t>(self, text: &'t str) -> Cow<'t, str> {
        match self {
            Normalise::Trim => text.trim().into(),
            Normalise::Lowercase if text.bytes().all(|b| b.is_ascii() && !b.is_ascii_uppercase()) => {
                text.into()
            }
            Normalise::Lowercase => text.to_lowercase().into(),
            Normalise::Digits => text.chars().filter(char::is_ascii_digit).collect::<String>().into(),
        }
    }
}

/// Makes the tokens of one class under one key.
pub struct Hasher {
    /// Keyed for the class.
    mac: Hmac<Sha256>,
    prefix: String,
    normalise: Vec<Normalise>,
}

impl Hasher {
    /// For values of this class: those of other classes have other tokens.
    pub fn new(key: &Key, class: &str) -> Self {
        let class_key = Zeroizing::new(<[u8; 32]>::from(
            keyed(key.bytes()).chain_update("archiver:p1:").chain_update(class).finalize().into_bytes(),
        ));
        Hasher { mac: keyed(&class_key[..]), prefix: format!("p1:{}:", key.id()), normalise: Vec::new() }
    }

    /// Normalises strings first, in this order. Only what is normalised alike joins.
    pub fn normalise(self, steps: impl Into<Vec<Normalise>>) -> Self {
        Hasher { normalise: steps.into(), ..self }
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hasher").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl Tokenize for Hasher {
    fn token(&self, value: &Element<'_>) -> String {
        let mut mac = self.mac.clone();
        text_of(value, &self.normalise, &mut |part| mac.update(part));
        let digest = mac.finalize().into_bytes();
        let mut token = String::with_capacity(self.prefix.len() + 26);
        token.push_str(&self.prefix);
        base32(&digest[..SHOWN], &mut token);
        token
    }
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    // A key longer than a block is hashed first, a shorter one is padded: no length is refused.
    match Hmac::new_from_slice(key) {
        Ok(mac) => mac,
        Err(_) => unreachable!("HMAC takes a key of any length"),
    }
}

/// Hands out the text of a value, as the module's table has it, in parts.
fn text_of(value: &Element<'_>, normalise: &[Normalise], part: &mut impl FnMut(&[u8])) {
    let whole = value.as_i64().or(value.as_i32().map(i64::from)).or_else(|| value.as_f64().and_then(whole));
    if let Some(number) = whole {
        return part(format!("number:{number}").as_bytes());
    }
    match value.kind() {
        kind::STRING | kind::SYMBOL => {
            let bytes = value.string_bytes().unwrap_or_default();
            part(b"string:");
            match std::str::from_utf8(bytes) {
                Ok(text) if !normalise.is_empty() => {
                    let normal = normalise
                        .iter()
                        .fold(Cow::Borrowed(text), |text, step| Cow::Owned(step.apply(&text).into_owned()));
                    part(normal.as_bytes());
                }
                _ => part(bytes),
            }
        }
        kind::DECIMAL128 => match decimal::text(value.value()) {
            Some(text) => part(text.as_bytes()),
            None => other(value, part),
        },
        kind::DOUBLE => {
            part(b"double:");
            part(value.value());
        }
        kind::OBJECT_ID => {
            part(b"objectId:");
            value.value().iter().for_each(|byte| part(&[digit(byte >> 4), digit(byte & 15)]));
        }
        kind::DATE => part(format!("date:{}", value.as_date_millis().unwrap_or_default()).as_bytes()),
        kind::BOOLEAN => part(format!("boolean:{}", value.as_bool().unwrap_or_default()).as_bytes()),
        _ => other(value, part),
    }
}

fn digit(nibble: u8) -> u8 {
    if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 }
}

fn other(value: &Element<'_>, part: &mut impl FnMut(&[u8])) {
    part(format!("bson:{:02x}:", value.kind()).as_bytes());
    part(value.value());
}

/// A double that is a whole number of 64 bits; -0.0 is 0.
fn whole(value: f64) -> Option<i64> {
    const END: f64 = 9_223_372_036_854_775_808.0;
    (value.fract() == 0.0 && (-END..END).contains(&value)).then_some(value as i64)
}

/// RFC 4648, lower-case, without padding.
fn base32(bytes: &[u8], out: &mut String) {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    for chunk in bytes.chunks(5) {
        let mut block = [0; 8];
        block[3..3 + chunk.len()].copy_from_slice(chunk);
        let bits = u64::from_be_bytes(block);
        for i in 0..(chunk.len() * 8).div_ceil(5) {
            out.push(char::from(ALPHABET[(bits >> (35 - 5 * i)) as usize & 31]));
        }
    }
}
