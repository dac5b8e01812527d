//! Go durations (`1h30m`, `1.5s`, `-2ms`) as `metav1.Duration`, CEL and formats of schemas take
//! them, with the limits, the rounding and the error texts of Go's `time.ParseDuration`.

/// Nanoseconds and their largest number of either sign.
const MOST: u64 = 1 << 63;

/// Reads a duration to nanoseconds.
///
/// # Errors
/// Go's text.
pub fn parse(text: &str) -> Result<i64, String> {
    let invalid = || format!("time: invalid duration {text:?}");
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let is_number = |c: char| c.is_ascii_digit() || c == '.';
        let after = rest.trim_start_matches(|c: char| c.is_ascii_digit());
        let whole = &rest[..rest.len() - after.len()];
        let tail = match after.strip_prefix('.') {
            Some(fraction) => fraction.trim_start_matches(|c: char| c.is_ascii_digit()),
            None => after,
        };
        let fraction = after[..after.len() - tail.len()].trim_start_matches('.');
        if whole.is_empty() && fraction.is_empty() {
            return Err(invalid());
        }
        let next = tail.find(is_number).unwrap_or(tail.len());
        let (name, tail) = tail.split_at(next);
        if name.is_empty() {
            return Err(format!("time: missing unit in duration {text:?}"));
        }
        let unit = unit(name)
            .ok_or_else(|| format!("time: unknown unit {name:?} in duration {text:?}"))?;
        total = part(whole, fraction, unit)
            .and_then(|part| total.checked_add(part))
            .filter(|total| *total <= MOST)
            .ok_or_else(invalid)?;
        rest = tail;
    }
    match (negative, i64::try_from(total)) {
        (false, Ok(nanos)) => Ok(nanos),
        (true, Ok(nanos)) => Ok(-nanos),
        (true, Err(_)) => Ok(i64::MIN),
        (false, Err(_)) => Err(invalid()),
    }
}

/// Nanoseconds of a unit.
fn unit(name: &str) -> Option<u64> {
    Some(match name {
        "ns" => 1,
        // The micro sign, and the Greek letter.
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    })
}

/// `whole.fraction` of a unit in nanoseconds, cut off below one; none when it is too large.
fn part(whole: &str, fraction: &str, unit: u64) -> Option<u64> {
    let whole: u64 = match whole {
        "" => 0,
        digits => digits.parse().ok()?,
    };
    let whole = whole.checked_mul(unit).filter(|n| *n <= MOST)?;
    // Go reads as many digits as fit and multiplies by floating point, so that is what counts.
    let (mut digits, mut scale) = (0u64, 1f64);
    for digit in fraction.bytes() {
        let longer = digits
            .checked_mul(10)
            .and_then(|n| n.checked_add(u64::from(digit - b'0')));
        let Some(longer) = longer.filter(|n| *n <= MOST) else {
            break;
        };
        digits = longer;
        scale *= 10.0;
    }
    let below = (digits as f64 * (unit as f64 / scale)) as u64;
    whole.checked_add(below)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_by_go() {
        for (text, nanos) in [
            ("0", 0),
            ("-0", 0),
            ("1h", 3_600_000_000_000),
            ("90s", 90_000_000_000),
            ("+5s", 5_000_000_000),
            ("-1.5s", -1_500_000_000),
            (".5s", 500_000_000),
            ("1.s", 1_000_000_000),
            ("1h2m3s4ms", 3_723_004_000_000),
            ("1500us", 1_500_000),
            ("2\u{b5}s3\u{3bc}s", 5_000),
            // Below a nanosecond it is cut off, and not digit by digit.
            ("0.000000000009h", 32),
            ("0.3333333333333333333h", 1_200_000_000_000),
            ("0.100000000000000000000h", 360_000_000_000),
            ("9223372036854775807ns", i64::MAX),
            ("-9223372036854775808ns", i64::MIN),
        ] {
            assert_eq!(parse(text), Ok(nanos), "{text}");
        }
    }

    #[test]
    fn what_go_refuses_is_refused_in_its_words() {
        let invalid = |text: &str| format!("time: invalid duration {text:?}");
        let sum = "30000000000000000000000000h".repeat(3);
        let far = "9223372036854775808ns";
        for text in [
            "",
            "-",
            "+",
            "s",
            ".s",
            "-.s",
            "x5s",
            "9999999999h",
            far,
            &sum,
        ] {
            assert_eq!(parse(text), Err(invalid(text)), "{text}");
        }
        for text in ["5", "1.2.3s"] {
            let missing = format!("time: missing unit in duration {text:?}");
            assert_eq!(parse(text), Err(missing));
        }
        let unknown = "time: unknown unit \"x\" in duration \"1x\"".to_owned();
        assert_eq!(parse("1x"), Err(unknown));
    }
}
