//! Decimal128 (IEEE 754-2008, binary integer decimal) to text and back, without rounding.

/// 10^34 - 1
const MAX_COEFFICIENT: u128 = 9_999_999_999_999_999_999_999_999_999_999_999;
const MAX_DIGITS: usize = 34;
const EXPONENT_BIAS: i64 = 6176;
const MAX_EXPONENT: i64 = 6111;

const SIGN: u128 = 1 << 127;
const INFINITY: u128 = 0b11110 << 122;
const NAN: u128 = 0b11111 << 122;
const COEFFICIENT_BITS: u32 = 113;

/// Appends the text of a decimal's sixteen BSON bytes. Returns whether [`parse`] gives exactly these bytes back: not for
/// NaNs with a payload or sign, infinities with one, or encodings that are not canonical.
pub(super) fn push_text(bytes: &[u8; 16], out: &mut String) -> bool {
    let bits = u128::from_le_bytes(*bytes);
    let magnitude = bits & !SIGN;
    if magnitude & NAN == NAN {
        out.push_str("NaN");
        return bits == NAN;
    }
    if bits & SIGN != 0 {
        out.push('-');
    }
    if magnitude & NAN == INFINITY {
        out.push_str("Infinity");
        return magnitude == INFINITY;
    }
    // With the top two bits of the combination set, the coefficient exceeds its range: it counts as zero.
    let large = magnitude >> 125 == 0b11;
    let exponent_at = if large { COEFFICIENT_BITS - 2 } else { COEFFICIENT_BITS };
    let exponent = (magnitude >> exponent_at & 0x3FFF) as i64 - EXPONENT_BIAS;
    let coefficient = magnitude & ((1 << COEFFICIENT_BITS) - 1);
    let canonical = !large && coefficient <= MAX_COEFFICIENT;
    push_finite(if canonical { coefficient } else { 0 }, exponent, out);
    canonical
}

fn push_finite(coefficient: u128, exponent: i64, out: &mut String) {
    let digits = coefficient.to_string();
    let adjusted = exponent + digits.len() as i64 - 1;
    if exponent > 0 || adjusted < -6 {
        let (first, rest) = digits.split_at(1);
        out.push_str(first);
        if !rest.is_empty() {
            out.push('.');
            out.push_str(rest);
        }
        out.push('E');
        out.push_str(if adjusted < 0 { "-" } else { "+" });
        out.push_str(&adjusted.unsigned_abs().to_string());
        return;
    }
    let fraction = exponent.unsigned_abs() as usize;
    if fraction == 0 {
        out.push_str(&digits);
    } else if fraction < digits.len() {
        let (whole, rest) = digits.split_at(digits.len() - fraction);
        out.push_str(whole);
        out.push('.');
        out.push_str(rest);
    } else {
        out.push_str("0.");
        out.extend(std::iter::repeat_n('0', fraction - digits.len()));
        out.push_str(&digits);
    }
}

/// The sixteen BSON bytes of a decimal's text; `None` where it is not a number, or not one that fits without rounding.
pub(super) fn parse(text: &str) -> Option<[u8; 16]> {
    let (sign, rest) = match text.as_bytes().first()? {
        b'-' => (SIGN, &text[1..]),
        b'+' => (0, &text[1..]),
        _ => (0, text),
    };
    if rest.eq_ignore_ascii_case("nan") {
        return Some(NAN.to_le_bytes());
    }
    if rest.eq_ignore_ascii_case("infinity") || rest.eq_ignore_ascii_case("inf") {
        return Some((sign | INFINITY).to_le_bytes());
    }
    let (mantissa, exponent) = match rest.find(['e', 'E']) {
        Some(at) => (&rest[..at], rest[at + 1..].parse::<i32>().ok()?),
        None => (rest, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let mut digits = [whole, fraction].concat();
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let mut exponent = i64::from(exponent) - fraction.len() as i64;
    digits.drain(..digits.len() - digits.trim_start_matches('0').len());
    // What does not fit is only padding as long as it is zeros.
    while digits.len() > MAX_DIGITS || (exponent < -EXPONENT_BIAS && !digits.is_empty()) {
        if digits.pop()? != '0' {
            return None;
        }
        exponent += 1;
    }
    if digits.is_empty() {
        exponent = exponent.clamp(-EXPONENT_BIAS, MAX_EXPONENT);
    }
    while exponent > MAX_EXPONENT {
        digits.push('0');
        exponent -= 1;
        if digits.len() > MAX_DIGITS {
            return None;
        }
    }
    let coefficient: u128 = if digits.is_empty() { 0 } else { digits.parse().ok()? };
    let biased = u128::try_from(exponent + EXPONENT_BIAS).ok()?;
    Some((sign | biased << COEFFICIENT_BITS | coefficient).to_le_bytes())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(bytes: [u8; 16]) -> (String, bool) {
        let mut out = String::new();
        let exact = push_text(&bytes, &mut out);
        (out, exact)
    }

    #[test]
    fn the_specifications_examples_hold() {
        for (given, expected) in [
            ("0", "0"),
            ("-0", "-0"),
            ("1", "1"),
            ("-1.00", "-1.00"),
            ("0.001234", "0.001234"),
            ("0.00000012", "1.2E-7"),
            ("12E3", "1.2E+4"),
            ("1E3", "1E+3"),
            ("0E+3", "0E+3"),
            ("0E-8", "0E-8"),
            ("9.999999999999999999999999999999999E+6144", "9.999999999999999999999999999999999E+6144"),
            ("1E-6176", "1E-6176"),
            ("1E6112", "1.0E+6112"),
            ("0E9999", "0E+6111"),
            ("10E-6177", "1E-6176"),
            ("1.0000000000000000000000000000000000", "1.000000000000000000000000000000000"),
            ("NaN", "NaN"),
            ("inf", "Infinity"),
            ("-Infinity", "-Infinity"),
        ] {
            let bytes = parse(given).unwrap();
            assert_eq!(text(bytes), (expected.to_owned(), true), "{given}");
        }
    }

    #[test]
    fn what_is_no_decimal_or_does_not_fit_is_refused() {
        for given in [
            "",
            "-",
            ".",
            "E1",
            "1E",
            "1.2.3",
            "0x1",
            "1E7000",
            "1E-7000",
            "12345678901234567890123456789012345",
            " 1",
        ] {
            assert_eq!(parse(given), None, "{given}");
        }
    }

    proptest! {
        #[test]
        fn every_bit_pattern_reads_back_or_says_that_it_does_not(bytes: [u8; 16]) {
            let (text, exact) = text(bytes);
            prop_assert_eq!(parse(&text) == Some(bytes), exact, "{}", text);
        }

        #[test]
        fn every_finite_value_is_exact_and_agrees_with_the_bson_crate(
            coefficient in 0..=MAX_COEFFICIENT,
            shift in 0_u32..120,
            exponent in 0_u128..=12287,
            negative: bool,
        ) {
            let sign = if negative { SIGN } else { 0 };
            let bytes = (sign | exponent << COEFFICIENT_BITS | coefficient >> shift).to_le_bytes();
            let (text, exact) = text(bytes);
            prop_assert!(exact);
            prop_assert_eq!(&text, &bson::Decimal128::from_bytes(bytes).to_string());
            prop_assert_eq!(parse(&text), Some(bytes));
        }
    }
}
