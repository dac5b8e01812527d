//! Quantities as the API writes them: `100m`, `1.5Gi`, `2e3`
//! (documentation "Resource Management", "Quantity"). Exact decimal arithmetic; finer parts than
//! a billionth are rounded up, and what is too large is capped, as the API says.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// How a quantity was written, which is how it is printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// `Ki`, `Mi`, …
    BinarySi,
    /// `m`, `k`, `M`, …
    DecimalSi,
    /// `1e3`.
    DecimalExponent,
}

/// Billionths in one.
const NANO: i128 = 1_000_000_000;
/// Most that can be said: 2^63 - 1 units.
const MOST: i128 = (i64::MAX as i128) * NANO;

/// A parsed quantity.
#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

const BINARY: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
/// Suffix and power of ten.
const DECIMAL: [(&str, i32); 10] = [
    ("n", -9),
    ("u", -6),
    ("m", -3),
    ("", 0),
    ("k", 3),
    ("M", 6),
    ("G", 9),
    ("T", 12),
    ("P", 15),
    ("E", 18),
];

/// Why a text is not a quantity, in upstream's words.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ParseError(&'static str);

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}
impl std::error::Error for ParseError {}

const FORMAT: ParseError = ParseError(
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
);
const SUFFIX: ParseError = ParseError("unable to parse quantity's suffix");

impl FromStr for Quantity {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        if text.is_empty() {
            return Err(FORMAT);
        }
        let (negative, rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) || !is_shaped(suffix)
        {
            return Err(FORMAT);
        }
        let (scale, format) = scale_of(suffix)?;
        let nanos = scaled(whole, fraction, scale);
        Ok(Self {
            nanos: if negative { -nanos } else { nanos },
            format,
        })
    }
}

/// Whether a suffix is written as suffixes are, known or not.
fn is_shaped(suffix: &str) -> bool {
    let exponent = suffix.trim_start_matches(|c: char| "eEinumkKMGTP".contains(c));
    let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
    digits.bytes().all(|b| b.is_ascii_digit())
}

/// What a suffix multiplies by.
#[derive(Clone, Copy)]
enum Scale {
    Two(u32),
    Ten(i32),
}

fn scale_of(suffix: &str) -> Result<(Scale, Format), ParseError> {
    if let Some(i) = BINARY.iter().position(|s| *s == suffix) {
        return Ok((Scale::Two(10 * (i as u32 + 1)), Format::BinarySi));
    }
    if let Some((_, power)) = DECIMAL.iter().find(|(s, _)| *s == suffix) {
        return Ok((Scale::Ten(*power), Format::DecimalSi));
    }
    let exponent = suffix.strip_prefix(['e', 'E']).ok_or(SUFFIX)?;
    let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(SUFFIX);
    }
    let power: i32 = exponent
        .strip_prefix('+')
        .unwrap_or(exponent)
        .parse()
        .map_err(|_| SUFFIX)?;
    Ok((Scale::Ten(power), Format::DecimalExponent))
}

/// Digits of more than this many places can only be the cap or be rounded away.
const DIGITS: usize = 40;

/// `whole.fraction` times the scale in billionths, rounded up and capped.
fn scaled(whole: &str, fraction: &str, scale: Scale) -> i128 {
    match scale {
        Scale::Ten(power) => decimal(whole, fraction, power.saturating_add(9)),
        Scale::Two(bits) => {
            // The fraction first in billionths of a billionth, so that the product is exact enough.
            let units = decimal(whole, "", 0);
            let parts = decimal("", fraction, 18);
            let Some(whole) = units
                .checked_mul(NANO)
                .and_then(|n| n.checked_mul(1i128 << bits))
            else {
                return MOST;
            };
            let fraction = parts
                .checked_mul(1i128 << bits)
                .map_or(MOST, |n| div_up(n, NANO));
            whole.saturating_add(fraction).min(MOST)
        }
    }
}

/// `whole.fraction` times ten to the `power`, rounded up to a whole number and capped.
fn decimal(whole: &str, fraction: &str, power: i32) -> i128 {
    let digits: Vec<u8> = whole
        .bytes()
        .chain(fraction.bytes())
        .map(|b| b - b'0')
        .collect();
    // Position of the decimal point in `digits` after scaling.
    let point = i64::try_from(whole.len())
        .unwrap_or(i64::MAX)
        .saturating_add(i64::from(power));
    let first = digits.iter().position(|d| *d != 0);
    let Some(first) = first else { return 0 };
    if point.saturating_sub(i64::try_from(first).unwrap_or(0)) > DIGITS as i64 {
        return MOST;
    }
    let mut value: i128 = 0;
    let mut inexact = false;
    for (i, digit) in digits.iter().enumerate() {
        if (i as i64) < point {
            value = value.saturating_mul(10).saturating_add(i128::from(*digit));
        } else if *digit != 0 {
            inexact = true;
        }
    }
    let missing = point
        .saturating_sub(digits.len() as i64)
        .clamp(0, DIGITS as i64);
    for _ in 0..missing {
        value = value.saturating_mul(10);
    }
    value.saturating_add(i128::from(inexact)).min(MOST)
}

fn div_up(n: i128, by: i128) -> i128 {
    n.div_euclid(by) + i128::from(n.rem_euclid(by) != 0)
}

impl Quantity {
    pub const ZERO: Self = Self {
        nanos: 0,
        format: Format::DecimalSi,
    };

    /// A whole number of units.
    pub fn from_units(units: i64) -> Self {
        Self {
            nanos: i128::from(units) * NANO,
            format: Format::DecimalSi,
        }
    }
    pub fn from_millis(millis: i64) -> Self {
        Self {
            nanos: i128::from(millis) * (NANO / 1000),
            format: Format::DecimalSi,
        }
    }
    /// Bytes, printed with binary suffixes.
    pub fn from_bytes(bytes: i64) -> Self {
        Self {
            nanos: i128::from(bytes) * NANO,
            format: Format::BinarySi,
        }
    }
    /// Units, rounded up.
    pub fn value(&self) -> i64 {
        clamp(div_up(self.nanos, NANO))
    }
    /// Thousandths, rounded up.
    pub fn milli_value(&self) -> i64 {
        clamp(div_up(self.nanos, NANO / 1000))
    }
    /// The next whole number of units, written as this is.
    #[must_use]
    pub fn rounded_up(self) -> Self {
        Self {
            nanos: div_up(self.nanos, NANO).saturating_mul(NANO),
            ..self
        }
    }
    pub fn is_zero(&self) -> bool {
        self.nanos == 0
    }
    pub fn is_negative(&self) -> bool {
        self.nanos < 0
    }
    pub fn format(&self) -> Format {
        self.format
    }
    /// Whether it is a whole number of units.
    pub fn is_whole(&self) -> bool {
        self.nanos % NANO == 0
    }
    /// The text that the API stores for what a client wrote: canonical, unless that would change
    /// nothing but the notation of something it could not parse.
    pub fn canonical(text: &str) -> Result<String, ParseError> {
        Ok(text.parse::<Self>()?.to_string())
    }
}

fn clamp(n: i128) -> i64 {
    i64::try_from(n).unwrap_or(if n < 0 { i64::MIN } else { i64::MAX })
}

impl std::ops::Add for Quantity {
    type Output = Self;
    /// The sum in the left side's format (the right side's, if the left is zero).
    fn add(self, other: Self) -> Self {
        let format = if self.nanos == 0 {
            other.format
        } else {
            self.format
        };
        let nanos = self.nanos.saturating_add(other.nanos).clamp(-MOST, MOST);
        Self { nanos, format }
    }
}
impl std::ops::Neg for Quantity {
    type Output = Self;
    fn neg(self) -> Self {
        Self {
            nanos: -self.nanos,
            ..self
        }
    }
}
impl std::ops::Sub for Quantity {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        self + -other
    }
}
impl std::iter::Sum for Quantity {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::ZERO, |a, b| a + b)
    }
}

impl PartialEq for Quantity {
    /// By value: `1000m` equals `1`.
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}
impl Eq for Quantity {}
impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}
impl Default for Quantity {
    fn default() -> Self {
        Self::ZERO
    }
}

impl fmt::Display for Quantity {
    /// The canonical form: the largest suffix that leaves no fraction.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let binary = self.format == Format::BinarySi
            && self.nanos % NANO == 0
            && self.nanos.unsigned_abs() >= 1024 * NANO.unsigned_abs();
        if binary {
            let mut units = self.nanos / NANO;
            let mut suffix = "";
            for next in BINARY {
                if units % 1024 != 0 {
                    break;
                }
                units /= 1024;
                suffix = next;
            }
            return write!(f, "{units}{suffix}");
        }
        let (mut number, mut power) = (self.nanos, -9);
        while power < 18 && number % 1000 == 0 {
            number /= 1000;
            power += 3;
        }
        if self.format == Format::DecimalExponent {
            return if power == 0 {
                write!(f, "{number}")
            } else {
                write!(f, "{number}e{power}")
            };
        }
        let suffix = DECIMAL
            .iter()
            .find(|(_, p)| *p == power)
            .map_or("", |(s, _)| s);
        write!(f, "{number}{suffix}")
    }
}

impl Serialize for Quantity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Quantity {
    /// From a string, or a number as clients may write it.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::String(s) => s,
            serde_json::Value::Number(n) => n.to_string(),
            other => {
                return Err(serde::de::Error::custom(format!(
                    "{other} is not a quantity"
                )));
            }
        };
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn texts_become_canonical() {
        for (text, canonical) in [
            ("0", "0"),
            ("0Ki", "0"),
            ("1000m", "1"),
            ("1500m", "1500m"),
            ("0.5", "500m"),
            ("1.5Gi", "1536Mi"),
            ("1024Mi", "1Gi"),
            ("1000", "1k"),
            ("1e3", "1e3"),
            ("12e6", "12e6"),
            ("1E3", "1e3"),
            ("100m", "100m"),
            ("-1", "-1"),
            ("+2", "2"),
            (".5", "500m"),
            ("5.", "5"),
            ("1n", "1n"),
            ("0.1n", "1n"),
            ("1023", "1023"),
            ("500Ki", "500Ki"),
            ("0.5Ki", "512"),
            ("123456789012345678901234567890", "9223372036854775807"),
            ("1e100", "9223372036854775807"),
        ] {
            let q: Quantity = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(q.to_string(), canonical, "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "", "x", "1x", "1.2.3", "--1", "1e", "1 Gi", "Gi", ".", "1e+", "1Kii",
        ] {
            assert!(text.parse::<Quantity>().is_err(), "{text}");
        }
    }

    #[test]
    fn values_are_rounded_up() {
        let q = |t: &str| t.parse::<Quantity>().expect("quantity");
        assert_eq!(q("1500m").value(), 2);
        assert_eq!(q("1.5Gi").value(), 3 << 29);
        assert_eq!(q("1u").milli_value(), 1);
        assert_eq!((q("1Gi") + q("1Gi")).to_string(), "2Gi");
        assert_eq!((q("1") - q("250m")).to_string(), "750m");
        assert!(q("1Gi") > q("1G"));
        assert_eq!(q("1000m"), q("1"));
        assert_eq!(
            serde_json::from_str::<Quantity>("2").expect("number"),
            q("2")
        );
    }

    proptest! {
        #[test]
        fn printing_keeps_the_value(text in "[+-]?[0-9]{1,12}(\\.[0-9]{1,6})?(n|u|m|k|M|G|Ki|Mi|Gi|e[0-9])?") {
            let q: Quantity = text.parse().expect("quantity");
            let again: Quantity = q.to_string().parse().expect("canonical");
            prop_assert_eq!(q, again);
            prop_assert_eq!(q.to_string(), again.to_string());
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,40}") {
            let _ = text.parse::<Quantity>();
        }
    }
}
