//! International bank account numbers (ISO 13616): a country, two check digits, and as many characters as the country
//! has, in groups or without.

use std::ops::Range;

/// The shortest one, Norway's.
pub(super) const MIN_LEN: usize = 15;

/// Countries and the lengths of their numbers, from the IBAN registry.
const LENGTHS: &[u8] = b"AD24AE23AL28AT20AZ28BA20BE16BG22BH22BI27BR29BY28CH21CR22CY28CZ24DE22DJ27DK18DO28EE20EG29ES24FI18FK18\
FO18FR27GB22GE22GI23GL18GR27GT28HN28HR21HU28IE22IL23IQ23IS26IT27JO30KW30KZ20LB28LC32LI21LT20LU20LV21LY25MC27MD24ME22MK19MN20\
MR27MT31MU30NI28NL18NO15OM23PK24PL28PS29PT25QA29RO24RS22RU33SA24SC31SD18SE24SI19SK24SM27SO23ST25SV28TL23TN24TR26UA29VA22VG24\
XK20YE30";

/// Finds them in a text, in upper or lower case, single spaces or dashes between any of their characters.
pub(super) fn find(text: &[u8], found: &mut impl FnMut(Range<usize>)) {
    let mut at = 2;
    while let Some(digits) =
        text.get(at..).and_then(|t| t.iter().position(u8::is_ascii_digit)).map(|n| at + n)
    {
        let number = match text[digits - 2..] {
            [a, b, _, b'0'..=b'9', ..] if a.is_ascii_alphabetic() && b.is_ascii_alphabetic() => {
                end(text, digits - 2)
            }
            _ => None,
        };
        at = match number {
            Some(end) => {
                found(digits - 2..end);
                end.max(2)
            }
            // Before the next digit of a row stands no letter.
            None => digits + text[digits..].iter().take_while(|b| b.is_ascii_digit()).count(),
        };
    }
}

/// Where the one that begins at `start` ends, if its check digits are right.
fn end(text: &[u8], start: usize) -> Option<usize> {
    let mut number = [0; 34];
    let country = [text[start].to_ascii_uppercase(), text[start + 1].to_ascii_uppercase()];
    let len = LENGTHS.chunks_exact(4).find(|entry| entry[..2] == country)?;
    let len = usize::from(len[2] - b'0') * 10 + usize::from(len[3] - b'0');
    let mut at = start;
    for place in number.get_mut(..len)? {
        if at > start && matches!(text.get(at), Some(b' ' | b'-')) {
            at += 1;
        }
        *place = *text.get(at).filter(|b| b.is_ascii_alphanumeric())?;
        at += 1;
    }
    // The country and the check digits count as if they stood at the end.
    let (head, account) = number[..len].split_at(4);
    let rest = account.iter().chain(head).fold(0, |rest, b| match b {
        b'0'..=b'9' => (rest * 10 + u32::from(b - b'0')) % 97,
        _ => (rest * 100 + u32::from(b.to_ascii_uppercase() - b'A') + 10) % 97,
    });
    (rest == 1).then_some(at)
}
