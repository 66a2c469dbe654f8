//! Card numbers: 13 to 19 digits that begin as a payment network's do and end in the right check digit (ISO/IEC 7812).

use std::ops::Range;

pub(super) const MIN_DIGITS: u32 = 13;
const MAX_DIGITS: usize = 19;

/// Finds them in a text, digits alone or in groups parted by single spaces, dashes or dots.
pub(super) fn find(text: &[u8], found: &mut impl FnMut(Range<usize>)) {
    let mut at = 0;
    while let Some(start) = text[at..].iter().position(u8::is_ascii_digit).map(|n| at + n) {
        let group = digits(text, start);
        at = match longest(text, start) {
            Some(end) if !is_fraction(text, start) => {
                found(start..end);
                end
            }
            _ => start + group,
        };
    }
}

/// Whether these decimal digits are one.
pub(super) fn is_card(digits: &[u8]) -> bool {
    (MIN_DIGITS as usize..=MAX_DIGITS).contains(&digits.len()) && is_network(digits) && luhn(digits)
}

/// Where the longest one that begins with the group at `start` ends. It ends with a group.
fn longest(text: &[u8], start: usize) -> Option<usize> {
    let mut number = [0; MAX_DIGITS];
    let mut len = 0;
    let mut parted_by = None;
    let mut best = None;
    let mut at = start;
    loop {
        let group = digits(text, at);
        if len + group > MAX_DIGITS || parted_by == Some(b'.') && group > 6 {
            return best;
        }
        number[len..len + group].copy_from_slice(&text[at..at + group]);
        len += group;
        at += group;
        if is_card(&number[..len]) {
            best = Some(at);
        }
        // No card's first group has fewer than four digits. Dots part short groups only: a long one is a fraction.
        let fits = len >= 4 && (text.get(at) != Some(&b'.') || group <= 6);
        match text.get(at..at + 2) {
            Some([separator @ (b' ' | b'-' | b'.'), b'0'..=b'9'])
                if fits && parted_by.is_none_or(|s| s == *separator) =>
            {
                parted_by = Some(*separator);
                at += 1;
            }
            _ => return best,
        }
    }
}

/// How many digits stand there.
fn digits(text: &[u8], at: usize) -> usize {
    text[at..].iter().take_while(|b| b.is_ascii_digit()).count()
}

/// `0.4111111111111111` is a number.
fn is_fraction(text: &[u8], start: usize) -> bool {
    matches!(text[..start], [b'0', b'.'] | [.., b'\0'..=b'/' | b':'..=b'\xFF', b'0', b'.'])
}

/// Whether international payment networks issue numbers that begin so.
fn is_network(digits: &[u8]) -> bool {
    matches!(
        digits,
        [b'3'..=b'6', ..] | [b'2', b'2'..=b'7', ..] | [b'8', b'1' | b'2', ..] | [b'9', b'7', b'9', b'2', ..]
    )
}

fn luhn(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(i, b)| match (u32::from(b - b'0'), i % 2) {
            (digit, 0) => digit,
            (digit, _) if digit > 4 => 2 * digit - 9,
            (digit, _) => 2 * digit,
        })
        .sum();
    sum.is_multiple_of(10)
}
