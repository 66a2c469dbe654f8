//! E-mail addresses: what stands around an `@` (or its `%40` in a URL).

use std::ops::Range;

/// `a@b.cd`.
pub(super) const MIN_LEN: usize = 6;

/// No local part is longer than 64; a bound, so that no text takes more than its length.
const MAX_LOCAL: usize = 256;

/// Finds them in a text. The domain needs a dot.
pub(super) fn find(text: &[u8], found: &mut impl FnMut(Range<usize>)) {
    let (mut at, mut free_from) = (0, 0);
    while let Some(sign) = text[at..].iter().position(|b| matches!(b, b'@' | b'%')).map(|n| at + n) {
        let after = match &text[sign..] {
            [b'@', ..] => sign + 1,
            [b'%', b'4', b'0', ..] => sign + 3,
            _ => {
                at = sign + 1;
                continue;
            }
        };
        let from = sign.saturating_sub(MAX_LOCAL).max(free_from);
        let start = from + local(&text[from..sign]);
        at = after;
        if let Some(end) = domain(text, after).filter(|_| start < sign) {
            found(start..end);
            (at, free_from) = (end, end);
        }
    }
}

/// Where the local part at the end of a text begins.
fn local(text: &[u8]) -> usize {
    if let Some((b'"', quoted)) = text.split_last() {
        return quoted.iter().rposition(|b| *b == b'"').unwrap_or(text.len());
    }
    let part = |b: &u8| b.is_ascii_alphanumeric() || !b.is_ascii() || b".!#$%&'*+-^_`~".contains(b);
    let start = text.iter().rposition(|b| !part(b)).map_or(0, |n| n + 1);
    // Quotation marks around an address are not of it.
    start + text[start..].iter().take_while(|b| matches!(b, b'\'' | b'`')).count()
}

/// Where the domain ends, if it is one: labels joined by dots, the last of two letters or more.
fn domain(text: &[u8], start: usize) -> Option<usize> {
    let letter = |b: &u8| b.is_ascii_alphabetic() || !b.is_ascii();
    let mut end = None;
    let mut at = start;
    loop {
        let part = |b: &&u8| letter(b) || b.is_ascii_digit() || matches!(**b, b'-' | b'_');
        let label = &text[at..at + text[at..].iter().take_while(part).count()];
        if label.is_empty() {
            return end;
        }
        at += label.len();
        if label.len() > 1 && letter(&label[0]) && at - label.len() > start {
            end = Some(at);
        }
        if text.get(at) != Some(&b'.') {
            return end;
        }
        at += 1;
    }
}
