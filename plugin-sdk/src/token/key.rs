//! A secret key with a name, as operators write it.

use std::fmt;

use zeroize::Zeroizing;

const MIN_BYTES: usize = 32;
const FORM: &str = "at least 32 random bytes in hex or base64, as `openssl rand -hex 32` makes them";

/// A secret key with the id that tokens carry. Wiped when it is dropped, and shown by nothing.
pub struct Key {
    id: String,
    bytes: Zeroizing<Vec<u8>>,
}

impl Key {
    /// Reads a key: hex if it can be that, else base64 of either alphabet. The message says what is wrong with it, and nothing
    /// of it.
    pub fn parse(id: &str, text: &str) -> Result<Key, String> {
        let valid = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
        if !(1..=32).contains(&id.len()) || !id.bytes().all(valid) {
            return Err(
                "the id must be 1 to 32 letters, digits, `.`, `_` or `-`: every token carries it".into()
            );
        }
        let text = text.trim();
        let bytes = Zeroizing::new(
            hex(text)
                .or_else(|| base64(text))
                .ok_or_else(|| format!("the key is neither hex nor base64; it must be {FORM}"))?,
        );
        if bytes.len() < MIN_BYTES {
            return Err(format!("the key has only {} bytes; it must be {FORM}", bytes.len()));
        }
        let mut seen = [false; 256];
        bytes.iter().for_each(|byte| seen[usize::from(*byte)] = true);
        // So few different ones among 32 random bytes are seen once in 10¹⁵ keys.
        if seen.iter().filter(|seen| **seen).count() < 16 {
            return Err(format!("the key repeats itself and is not random; it must be {FORM}"));
        }
        Ok(Key { id: id.into(), bytes })
    }

    /// The id that tokens carry.
    pub fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("id", &self.id).finish_non_exhaustive()
    }
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digit = |b: u8| char::from(b).to_digit(16);
    let pair = |pair: &[u8]| Some((digit(pair[0])? << 4 | digit(*pair.get(1)?)?) as u8);
    text.as_bytes().chunks(2).map(pair).collect()
}

/// Of the common or the URL-safe alphabet, padded or not.
fn base64(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_end_matches('=');
    let mut bytes = Vec::with_capacity(text.len());
    for chunk in text.as_bytes().chunks(4) {
        if chunk.len() == 1 {
            return None;
        }
        let mut bits = 0_u32;
        for byte in chunk {
            let value = match byte {
                b'A'..=b'Z' => byte - b'A',
                b'a'..=b'z' => byte - b'a' + 26,
                b'0'..=b'9' => byte - b'0' + 52,
                b'+' | b'-' => 62,
                b'/' | b'_' => 63,
                _ => return None,
            };
            bits = bits << 6 | u32::from(value);
        }
        bits <<= 6 * (4 - chunk.len());
        bytes.extend_from_slice(&bits.to_be_bytes()[1..chunk.len()]);
    }
    Some(bytes)
}
