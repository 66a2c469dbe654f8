//! What bytes a text has, eight at a time: most texts have too few digits and no `@`, and need no closer look.

/// What is worth knowing before a search.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Profile {
    pub(super) digits: u32,
    /// Whether there is an `@` or a `%`.
    pub(super) at: bool,
    pub(super) backslash: bool,
}

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;

/// Not zero if a byte of the word is this one.
fn has(word: u64, byte: u8) -> u64 {
    let word = word ^ (ONES * u64::from(byte));
    word.wrapping_sub(ONES) & !word & HIGH
}

/// The high bits of the bytes that are digits.
fn digits(word: u64) -> u64 {
    // A digit and nothing else becomes 0 to 9.
    let word = word ^ (ONES * u64::from(b'0'));
    let ten_or_more = ((word & !HIGH) + ONES * 0x76) | word;
    !ten_or_more & HIGH
}

impl Profile {
    pub(super) fn of(text: &[u8]) -> Profile {
        let mut profile = Profile::default();
        let (mut at, mut backslash) = (0, 0);
        let mut look = |word: u64| {
            profile.digits += digits(word).count_ones();
            at |= has(word, b'@') | has(word, b'%');
            backslash |= has(word, b'\\');
        };
        let (words, rest) = text.as_chunks();
        words.iter().for_each(|word| look(u64::from_le_bytes(*word)));
        // What is left, with zeros in the place of what was seen, or of nothing.
        look(match text.last_chunk() {
            Some(word) => u64::from_le_bytes(*word).checked_shr(64 - 8 * rest.len() as u32).unwrap_or(0),
            None => rest.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)),
        });
        profile.at = at != 0;
        profile.backslash = backslash != 0;
        profile
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Profile;

    proptest! {
        #[test]
        fn eight_at_a_time_counts_what_one_at_a_time_counts(text in proptest::collection::vec(any::<u8>(), 0..60)) {
            let digits = text.iter().filter(|b| b.is_ascii_digit()).count() as u32;
            let (at, backslash) = (text.iter().any(|b| b"@%".contains(b)), text.contains(&b'\\'));
            prop_assert_eq!(Profile::of(&text), Profile { digits, at, backslash });
        }
    }
}
