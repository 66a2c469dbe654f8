//! The value of a Decimal128, so that `5`, `5.0` and `5.00` have one token, and the same as the integer.

/// The text from which the token of these 16 bytes is made; `None` for infinities and NaN.
pub(super) fn text(bytes: &[u8]) -> Option<String> {
    let bits = u128::from_le_bytes(bytes.try_into().ok()?);
    let negative = bits >> 127 == 1;
    let (mut digits, mut exponent) = match (bits >> 122) as u32 & 31 {
        0b11110 | 0b11111 => return None,
        // This encoding's digits would be more than 34: by the standard such numbers are zero.
        0b11000.. => (0, 0),
        _ => (bits & ((1 << 113) - 1), ((bits >> 113) as i32 & 0x3fff) - 6176),
    };
    const MAX_DIGITS: u128 = 10_u128.pow(34) - 1;
    if digits > MAX_DIGITS {
        digits = 0;
    }
    if digits == 0 {
        return Some("number:0".into());
    }
    while digits.is_multiple_of(10) {
        digits /= 10;
        exponent += 1;
    }
    let whole = u32::try_from(exponent)
        .ok()
        .and_then(|exponent| 10_i128.checked_pow(exponent)?.checked_mul(digits as i128))
        .and_then(|whole| i64::try_from(if negative { -whole } else { whole }).ok());
    let sign = if negative { "-" } else { "" };
    Some(
        whole.map_or_else(|| format!("decimal:{sign}{digits}e{exponent}"), |whole| format!("number:{whole}")),
    )
}
