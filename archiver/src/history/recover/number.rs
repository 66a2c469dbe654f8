//! Numbers of every BSON type, compared by their exact values.

use std::cmp::Ordering;

use bson::Decimal128;
use bson_walker::{Element, kind};

/// 2^63
const BEYOND: f64 = 9_223_372_036_854_775_808.0;

/// A BSON value that is a number.
#[derive(Debug, Clone, Copy)]
pub(super) enum Number {
    Whole(i64),
    Double(f64),
    Decimal(Decimal128),
}

impl Number {
    pub(super) fn of(value: &Element<'_>) -> Option<Number> {
        let whole = value.as_i32().map(i64::from).or(value.as_i64()).map(Number::Whole);
        whole.or_else(|| value.as_f64().map(Number::Double)).or_else(|| {
            let bytes = (value.kind() == kind::DECIMAL128).then(|| value.value().try_into().ok())??;
            Some(Number::Decimal(Decimal128::from_bytes(bytes)))
        })
    }

    /// How two numbers compare; not a number is equal to itself, and neither less nor greater than any.
    pub(super) fn compare(self, other: Number) -> Option<Ordering> {
        match (self, other) {
            (Number::Whole(a), Number::Whole(b)) => Some(a.cmp(&b)),
            (Number::Whole(a), Number::Double(b)) => whole_and_double(a, b),
            (Number::Double(a), Number::Whole(b)) => whole_and_double(b, a).map(Ordering::reverse),
            (Number::Double(a), Number::Double(b)) if a.is_nan() || b.is_nan() => {
                (a.is_nan() && b.is_nan()).then_some(Ordering::Equal)
            }
            (Number::Double(a), Number::Double(b)) => a.partial_cmp(&b),
            (a, b) => match (a.exact(), b.exact()) {
                (None, None) => Some(Ordering::Equal),
                (a, b) => Some(a?.cmp(&b?)),
            },
        }
    }

    /// `None`: not a number.
    fn exact(self) -> Option<Exact> {
        Exact::parse(&match self {
            Number::Whole(n) => n.to_string(),
            // As many digits as the smallest one has behind the point: none is rounded.
            Number::Double(n) if n.is_finite() => format!("{n:.1074}"),
            Number::Double(n) => n.to_string(),
            Number::Decimal(n) => n.to_string(),
        })
    }
}

fn whole_and_double(a: i64, b: f64) -> Option<Ordering> {
    if b.is_nan() {
        return None;
    }
    if b >= BEYOND {
        return Some(Ordering::Less);
    }
    if b < -BEYOND {
        return Some(Ordering::Greater);
    }
    let fraction = 0.0_f64.partial_cmp(&b.fract())?;
    Some(a.cmp(&(b.trunc() as i64)).then(fraction))
}

/// Digits and where their point is: 0.DIGITS times ten to the power of the magnitude.
#[derive(Debug, PartialEq, Eq)]
struct Exact {
    is_negative: bool,
    /// That of infinity is the highest; zero has none and no digits.
    magnitude: i64,
    digits: Vec<u8>,
}

impl Exact {
    fn parse(text: &str) -> Option<Exact> {
        let (is_negative, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
        if text.starts_with("Inf") || text == "inf" {
            return Some(Exact { is_negative, magnitude: i64::MAX, digits: Vec::new() });
        }
        let (mantissa, exponent) = text.split_once('E').unwrap_or((text, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let exponent: i64 = exponent.parse().ok()?;
        let all: Vec<u8> = whole.bytes().chain(fraction.bytes()).collect();
        if !all.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let leading = all.iter().take_while(|digit| **digit == b'0').count();
        let trailing = all.iter().rev().take_while(|digit| **digit == b'0').count();
        let digits = all.get(leading..all.len() - trailing).unwrap_or_default().to_vec();
        if digits.is_empty() {
            return Some(Exact { is_negative: false, magnitude: i64::MIN, digits });
        }
        let magnitude = whole.len() as i64 - leading as i64 + exponent;
        Some(Exact { is_negative, magnitude, digits })
    }
}

impl Ord for Exact {
    fn cmp(&self, other: &Exact) -> Ordering {
        let size = |a: &Exact, b: &Exact| a.magnitude.cmp(&b.magnitude).then_with(|| a.digits.cmp(&b.digits));
        match (self.is_negative, other.is_negative) {
            (false, false) => size(self, other),
            (true, true) => size(other, self),
            (true, false) => Ordering::Less,
            (false, true) => Ordering::Greater,
        }
    }
}

impl PartialOrd for Exact {
    fn partial_cmp(&self, other: &Exact) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn decimal(text: &str) -> Number {
        Number::Decimal(text.parse().unwrap())
    }

    #[test]
    fn numbers_in_order_are_in_order_whatever_their_types() {
        let beyond = (1_i64 << 53) + 1;
        let sorted: &[&[Number]] = &[
            &[Number::Double(f64::NEG_INFINITY), decimal("-Infinity")],
            &[decimal("-1E+6000")],
            &[Number::Double(f64::MIN)],
            &[Number::Whole(i64::MIN), Number::Double(-BEYOND), decimal("-9223372036854775808")],
            &[Number::Double(-1.5), decimal("-1.50")],
            &[Number::Whole(-1), decimal("-1")],
            &[decimal("-1E-6000")],
            &[Number::Whole(0), Number::Double(-0.0), decimal("0E+3"), decimal("-0.00")],
            &[decimal("1E-6000")],
            &[Number::Double(5e-324)],
            &[decimal("0.1")],
            &[Number::Double(0.1)],
            &[Number::Whole(12), Number::Double(12.0), decimal("1.2E+1"), decimal("12.000")],
            &[decimal("12.000000000000000000000000000001")],
            &[Number::Whole(1 << 53), Number::Double(2_f64.powi(53)), decimal("9007199254740992")],
            &[Number::Whole(beyond), decimal("9007199254740993")],
            &[Number::Whole(i64::MAX), decimal("9223372036854775807")],
            &[Number::Double(BEYOND), decimal("9223372036854775808")],
            &[Number::Double(f64::INFINITY), decimal("Infinity")],
        ];
        for (x, one) in sorted.iter().enumerate() {
            for (y, other) in sorted.iter().enumerate() {
                for (a, b) in one.iter().flat_map(|a| other.iter().map(move |b| (*a, *b))) {
                    assert_eq!(a.compare(b), Some(x.cmp(&y)), "{a:?} and {b:?}");
                }
            }
        }
    }

    #[test]
    fn what_is_no_number_is_equal_to_itself_alone() {
        for nan in [Number::Double(f64::NAN), decimal("NaN")] {
            for other in [Number::Whole(0), Number::Double(1.5), decimal("Infinity")] {
                assert_eq!((nan.compare(other), other.compare(nan)), (None, None), "{nan:?} and {other:?}");
            }
            assert_eq!(nan.compare(Number::Double(-f64::NAN)), Some(Ordering::Equal));
            assert_eq!(nan.compare(decimal("NaN")), Some(Ordering::Equal));
        }
    }
}
