//! Reading the API's quantities as numbers, rounded up as upstream does for resources.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::BTreeMap;

/// Resources by name, as containers ask for them.
pub type Resources = BTreeMap<String, Quantity>;

/// A quantity in thousandths, rounded up. None if it is malformed or too large.
#[must_use]
pub fn millis(text: &str) -> Option<i128> {
    nanos(text).map(|n| div_up(n, 1_000_000))
}

/// A quantity in whole units, rounded up.
#[must_use]
pub fn units(text: &str) -> Option<i128> {
    nanos(text).map(|n| div_up(n, 1_000_000_000))
}

fn div_up(value: i128, by: i128) -> i128 {
    value.div_euclid(by) + i128::from(value.rem_euclid(by) != 0)
}

/// In billionths, the API's finest unit.
fn nanos(text: &str) -> Option<i128> {
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit() && !matches!(c, '.' | '+' | '-'))
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let negative = whole.starts_with('-');
    let digits = format!("{}{fraction}", whole.trim_start_matches(['+', '-']));
    let value: i128 = digits.parse().ok()?;
    let scaled = value
        .checked_mul(1_000_000_000)?
        .checked_mul(multiplier(suffix)?.0)?;
    let divisor = 10i128
        .checked_pow(u32::try_from(fraction.len()).ok()?)?
        .checked_mul(multiplier(suffix)?.1)?;
    let out = div_up(scaled, divisor);
    Some(if negative { -out } else { out })
}

/// Numerator and denominator of a suffix.
fn multiplier(suffix: &str) -> Option<(i128, i128)> {
    Some(match suffix {
        "" => (1, 1),
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1000),
        "k" => (1000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        exponent => {
            let power: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            let size = 10i128.checked_pow(power.unsigned_abs())?;
            if power < 0 { (1, size) } else { (size, 1) }
        }
    })
}

/// CPU of a set of resources in thousandths.
#[must_use]
pub fn cpu_millis(resources: Option<&Resources>) -> Option<i64> {
    resources?
        .get("cpu")
        .and_then(|q| millis(&q.0))
        .and_then(|v| i64::try_from(v).ok())
}

/// Bytes (or other whole units) of a named resource.
#[must_use]
pub fn amount(resources: Option<&Resources>, name: &str) -> Option<i64> {
    resources?
        .get(name)
        .and_then(|q| units(&q.0))
        .and_then(|v| i64::try_from(v).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_fractions_and_exponents() {
        for (text, milli, unit) in [
            ("100m", 100, 1),
            ("1.5", 1500, 2),
            ("64Mi", 67_108_864_000, 67_108_864),
            ("2e3", 2_000_000, 2000),
            ("1500u", 2, 1),
            ("-1", -1000, -1),
            ("0.5Gi", 536_870_912_000, 536_870_912),
        ] {
            assert_eq!(
                (millis(text), units(text)),
                (Some(milli), Some(unit)),
                "{text}"
            );
        }
        assert_eq!((units("x"), units("1Qi"), units("")), (None, None, None));
    }
}
