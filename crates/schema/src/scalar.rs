//! Scalars as a Go client's decode and encode leave them: times, durations, bytes, quantities.
//! Errors are the texts that Go's packages give, since clients see them.

use jiff::Timestamp;
use jiff::tz::{Offset, TimeZone};

const RFC3339: &str = "2006-01-02T15:04:05Z07:00";
const MICRO: &str = "2006-01-02T15:04:05.000000Z07:00";

/// Parses RFC 3339 as Go's `time.Parse(time.RFC3339, …)`.
///
/// # Errors
/// The text that Go's `time.ParseError` prints.
pub(crate) fn parse_time(text: &str) -> Result<Timestamp, String> {
    parse_rfc3339(text).map_err(|at| go_time_error(text, RFC3339, at))
}

/// Parses a time with exactly six fractional digits, as `metav1.MicroTime` does.
///
/// # Errors
/// As [`parse_time`].
pub(crate) fn parse_micro(text: &str) -> Result<Timestamp, String> {
    let fail = |at| go_time_error(text, MICRO, at);
    let time = parse_rfc3339(text).map_err(fail)?;
    let digits = text
        .get(20..26)
        .is_some_and(|d| d.bytes().all(|b| b.is_ascii_digit()));
    let after = text.as_bytes().get(26).is_some_and(u8::is_ascii_digit);
    if text.as_bytes().get(19) == Some(&b'.') && digits && !after {
        Ok(time)
    } else {
        Err(fail(19))
    }
}

/// The time, or the byte at which the text stops being one.
fn parse_rfc3339(text: &str) -> Result<Timestamp, usize> {
    let b = text.as_bytes();
    const SHAPE: &[u8] = b"0000-00-00T00:00:00";
    for (i, want) in SHAPE.iter().enumerate() {
        let ok = match (want, b.get(i)) {
            (b'0', Some(c)) => c.is_ascii_digit(),
            (want, Some(c)) => want == c,
            (_, None) => false,
        };
        if !ok {
            return Err(i);
        }
    }
    let mut at = SHAPE.len();
    if b.get(at) == Some(&b'.') {
        at += 1;
        while b.get(at).is_some_and(u8::is_ascii_digit) {
            at += 1;
        }
    }
    let zone = b.get(at..).unwrap_or_default();
    let zone_ok = matches!(zone, [b'Z'])
        || matches!(zone, [b'+' | b'-', h1, h2, b':', m1, m2]
            if [h1, h2, m1, m2].iter().all(|c| c.is_ascii_digit()));
    if !zone_ok {
        return Err(at);
    }
    text.parse::<Timestamp>().map_err(|_| at)
}

/// Go names the part of the layout at which it stopped.
fn go_time_error(text: &str, layout: &str, at: usize) -> String {
    let starts = [
        (0, "2006"),
        (4, "-"),
        (5, "01"),
        (7, "-"),
        (8, "02"),
        (10, "T"),
        (11, "15"),
    ];
    let more = [(13, ":"), (14, "04"), (16, ":"), (17, "05"), (19, "Z07:00")];
    let (start, mut word) = starts
        .iter()
        .chain(&more)
        .rev()
        .find(|(s, _)| *s <= at)
        .copied()
        .unwrap_or((0, "2006"));
    let start = if at >= 19 { at } else { start };
    if at == 19 && layout == MICRO {
        word = ".000000";
    }
    let rest = text.get(start..).unwrap_or_default();
    format!("parsing time {text:?} as {layout:?}: cannot parse {rest:?} as {word:?}")
}

/// `2006-01-02T15:04:05Z`.
pub(crate) fn format_time(t: Timestamp) -> String {
    utc(t, "%Y-%m-%dT%H:%M:%SZ")
}

/// `2006-01-02T15:04:05.000000Z`.
pub(crate) fn format_micro(t: Timestamp) -> String {
    utc(t, "%Y-%m-%dT%H:%M:%S.%6fZ")
}

fn utc(t: Timestamp, layout: &str) -> String {
    Offset::UTC
        .to_datetime(t)
        .to_zoned(TimeZone::UTC)
        .map_or_else(|_| t.to_string(), |z| z.strftime(layout).to_string())
}

/// `1h0m0s`, as Go's `Duration.String`.
pub(crate) fn format_duration(nanos: i64) -> String {
    if nanos == 0 {
        return "0s".to_owned();
    }
    let sign = if nanos < 0 { "-" } else { "" };
    let n = nanos.unsigned_abs();
    if n < 1_000_000_000 {
        let (unit, name) = match n {
            0..1_000 => (1, "ns"),
            1_000..1_000_000 => (1_000, "µs"),
            _ => (1_000_000, "ms"),
        };
        return format!("{sign}{}{name}", fraction(n, unit));
    }
    let (hours, minutes) = (n / 3_600_000_000_000, n / 60_000_000_000 % 60);
    let seconds = fraction(n % 60_000_000_000, 1_000_000_000);
    match (hours, minutes) {
        (0, 0) => format!("{sign}{seconds}s"),
        (0, m) => format!("{sign}{m}m{seconds}s"),
        (h, m) => format!("{sign}{h}h{m}m{seconds}s"),
    }
}

fn fraction(n: u64, unit: u64) -> String {
    let (whole, mut rest, mut unit) = (n / unit, n % unit, unit);
    let mut out = whole.to_string();
    if rest > 0 {
        out.push('.');
    }
    while rest > 0 {
        unit /= 10;
        out.push(char::from(b'0' + u8::try_from(rest / unit).unwrap_or(0)));
        rest %= unit;
    }
    out
}

/// The canonical text of a quantity, as upstream writes it back.
///
/// # Errors
/// Upstream's text.
pub(crate) fn quantity(text: &str) -> Result<String, String> {
    api::Quantity::canonical(text.trim()).map_err(|e| e.to_string())
}

/// Decodes base64 with the standard alphabet, padded; line breaks are skipped, as Go does.
///
/// # Errors
/// Go's text.
pub(crate) fn parse_bytes(text: &str) -> Result<Vec<u8>, String> {
    use base64::Engine as _;
    let engine = base64::engine::general_purpose::STANDARD;
    let decode = |s: &str| {
        engine.decode(s).map_err(|e| {
            let at = match e {
                base64::DecodeError::InvalidByte(at, _)
                | base64::DecodeError::InvalidLastSymbol { offset: at, .. } => at,
                _ => s.len(),
            };
            format!("illegal base64 data at input byte {at}")
        })
    };
    if text.contains(['\r', '\n']) {
        decode(&text.replace(['\r', '\n'], ""))
    } else {
        decode(text)
    }
}

/// Base64 with the standard alphabet and padding.
pub(crate) fn format_bytes(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        let t = |s: &str| parse_time(s).map(format_time);
        assert_eq!(
            t("2020-02-03T04:05:06Z").as_deref(),
            Ok("2020-02-03T04:05:06Z")
        );
        assert_eq!(
            t("2020-02-03T04:05:06.9+01:00").as_deref(),
            Ok("2020-02-03T03:05:06Z")
        );
        assert_eq!(
            t("soon"),
            Err(r#"parsing time "soon" as "2006-01-02T15:04:05Z07:00": cannot parse "soon" as "2006""#.into())
        );
        assert!(t("2020-02-30T04:05:06Z").is_err());
        let m = |s: &str| parse_micro(s).map(format_micro);
        assert_eq!(
            m("2020-02-03T04:05:06.000007Z").as_deref(),
            Ok("2020-02-03T04:05:06.000007Z")
        );
        assert!(m("2020-02-03T04:05:06Z").is_err());
    }

    #[test]
    fn quantities() {
        for (text, want) in [
            ("1000m", "1"),
            ("0.5", "500m"),
            ("1024Mi", "1Gi"),
            (" 1e3 ", "1e3"),
        ] {
            assert_eq!(quantity(text).as_deref(), Ok(want));
        }
        let refused = quantity("lots").expect_err("no quantity");
        assert!(
            refused.starts_with("quantities must match the regular expression"),
            "{refused}"
        );
    }

    #[test]
    fn durations() {
        for (text, want) in [
            ("1h", "1h0m0s"),
            ("90s", "1m30s"),
            ("1.5s", "1.5s"),
            ("0", "0s"),
            ("-2ms", "-2ms"),
            ("1500us", "1.5ms"),
        ] {
            assert_eq!(
                api::duration::parse(text).map(format_duration).as_deref(),
                Ok(want)
            );
        }
    }
}
