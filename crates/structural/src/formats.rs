//! The formats of texts that custom resources' schemas may ask for.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use regex::Regex;

/// Formats of texts, without dashes.
const TEXTS: [&str; 26] = [
    "bsonobjectid",
    "uri",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "cidr",
    "mac",
    "uuid",
    "uuid3",
    "uuid4",
    "uuid5",
    "isbn",
    "isbn10",
    "isbn13",
    "creditcard",
    "ssn",
    "hexcolor",
    "rgbcolor",
    "byte",
    "password",
    "date",
    "duration",
    "datetime",
    "k8sshortname",
    "k8slongname",
];

/// Whether a format has a meaning for values of a type; others are only words.
pub fn is_known(ty: &str, format: &str) -> bool {
    match ty {
        "" | "string" => TEXTS.contains(&&*format.replace('-', "")),
        "integer" => matches!(format, "int32" | "int64"),
        "number" => matches!(format, "float" | "double"),
        _ => false,
    }
}

fn regex(pattern: &str) -> Regex {
    // The patterns below are fixed, and a test compiles them.
    Regex::new(pattern).unwrap_or_else(|_| Regex::new("$^").unwrap_or_else(|_| unreachable!()))
}

macro_rules! pattern {
    ($text:expr, $pattern:expr) => {{
        static REGEX: LazyLock<Regex> = LazyLock::new(|| regex($pattern));
        REGEX.is_match($text)
    }};
}

/// Whether a text has a format; formats without a meaning are had by all.
pub fn has(format: &str, text: &str) -> bool {
    match &*format.replace('-', "") {
        "bsonobjectid" => text.len() == 24 && text.bytes().all(|b| b.is_ascii_hexdigit()),
        "uri" => cel::is_request_uri(text).is_ok(),
        "email" => is_email(text),
        "hostname" => {
            pattern!(
                text,
                r"^([a-zA-Z0-9\p{L}]((-?[a-zA-Z0-9\p{L}]){0,62})?)(\.([a-zA-Z0-9\p{L}](-?[a-zA-Z0-9\p{L}]){0,62}))*$"
            ) && text.len() <= 255
        }
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "cidr" => is_cidr(text),
        "mac" => pattern!(
            text,
            r"^([0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){5,7}|[0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){19}|[0-9A-Fa-f]{4}(\.[0-9A-Fa-f]{4}){2,3})$"
        ),
        "uuid" => cel::is_uuid(text),
        "uuid3" => pattern!(
            text,
            r"(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?3[0-9a-f]{3}-?[0-9a-f]{4}-?[0-9a-f]{12}$"
        ),
        "uuid4" => pattern!(
            text,
            r"(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?4[0-9a-f]{3}-?[89ab][0-9a-f]{3}-?[0-9a-f]{12}$"
        ),
        "uuid5" => pattern!(
            text,
            r"(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?5[0-9a-f]{3}-?[89ab][0-9a-f]{3}-?[0-9a-f]{12}$"
        ),
        "isbn" => is_isbn(text, 10) || is_isbn(text, 13),
        "isbn10" => is_isbn(text, 10),
        "isbn13" => is_isbn(text, 13),
        "creditcard" => is_credit_card(text),
        "ssn" => pattern!(text, r"^[0-9]{3}[- ]?[0-9]{2}[- ]?[0-9]{4}$"),
        "hexcolor" => pattern!(text, r"^#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})$"),
        "rgbcolor" => pattern!(
            text,
            r"^rgb\(\s*(0|[1-9]\d?|1\d\d?|2[0-4]\d|25[0-5])\s*,\s*(0|[1-9]\d?|1\d\d?|2[0-4]\d|25[0-5])\s*,\s*(0|[1-9]\d?|1\d\d?|2[0-4]\d|25[0-5])\s*\)$"
        ),
        "byte" => cel::is_base64(text),
        "date" => cel::is_date(text),
        "duration" => {
            api::duration::parse(&text.replace(' ', "")).is_ok() || is_long_duration(text)
        }
        "datetime" => cel::is_date_time(text),
        "k8sshortname" => api::names::is_dns1123_label(text).is_empty(),
        "k8slongname" => api::names::is_dns1123_subdomain(text).is_empty(),
        _ => true,
    }
}

/// An address without a name before it.
fn is_email(text: &str) -> bool {
    let Some((local, domain)) = text.rsplit_once('@') else {
        return false;
    };
    let word = |part: &str, more: &str| {
        !part.is_empty()
            && part.split('.').all(|p| !p.is_empty())
            && part
                .chars()
                .all(|c| c.is_alphanumeric() || c == '.' || more.contains(c))
    };
    word(local, "!#$%&'*+-/=?^_`{|}~") && word(domain, "-!#$%&'*+/=?^_`{|}~")
}

fn is_cidr(text: &str) -> bool {
    api::names::is_valid_cidr(text).is_empty()
}

fn is_isbn(text: &str, digits: usize) -> bool {
    let plain: String = text.chars().filter(|c| !matches!(c, ' ' | '-')).collect();
    if plain.len() != digits {
        return false;
    }
    let mut sum = 0;
    for (i, b) in plain.bytes().enumerate() {
        let value = match b {
            b'0'..=b'9' => usize::from(b - b'0'),
            b'X' if digits == 10 && i == 9 => 10,
            _ => return false,
        };
        sum += match digits {
            10 => (i + 1) * value,
            _ if i % 2 == 0 => value,
            _ => 3 * value,
        };
    }
    if digits == 10 {
        sum.is_multiple_of(11)
    } else {
        sum.is_multiple_of(10)
    }
}

fn is_credit_card(text: &str) -> bool {
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(10)).collect();
    if !(12..=19).contains(&digits.len()) {
        return false;
    }
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(i, d)| match i % 2 {
            0 => *d,
            _ if *d > 4 => 2 * d - 9,
            _ => 2 * d,
        })
        .sum();
    sum.is_multiple_of(10)
}

/// `2 days`, `10 ms`.
fn is_long_duration(text: &str) -> bool {
    pattern!(
        text,
        r"^(?i)-?[0-9]+(\.[0-9]+)?\s*(ns|nano|nanos|nanosecond|nanoseconds|us|µs|micro|micros|microsecond|microseconds|ms|milli|millis|millisecond|milliseconds|s|sec|secs|second|seconds|m|min|mins|minute|minutes|h|hr|hour|hours|d|day|days|w|wk|week|weeks)$"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats() {
        for (format, good, bad) in [
            ("uri", "https://a/b", "a b"),
            ("email", "a@b.c", "a.b"),
            ("hostname", "a-b.example", "a..b"),
            ("ipv4", "1.2.3.4", "1.2.3"),
            ("ipv6", "::1", "1.2.3.4"),
            ("cidr", "10.0.0.0/8", "10.0.0.0"),
            ("mac", "01:02:03:04:05:06", "01:02"),
            ("uuid", "123e4567-e89b-12d3-a456-426614174000", "123e4567"),
            (
                "uuid4",
                "123e4567-e89b-42d3-a456-426614174000",
                "123e4567-e89b-12d3-a456-426614174000",
            ),
            ("isbn", "0321751043", "0321751044"),
            ("isbn13", "978-0321751041", "978-0321751042"),
            ("creditcard", "4111-1111-1111-1111", "4111-1111-1111-1112"),
            ("ssn", "123-45-6789", "12-45-6789"),
            ("hexcolor", "#FFFFFF", "#FFFFF"),
            ("rgbcolor", "rgb(255,0,1)", "rgb(256,0,1)"),
            ("byte", "QUI=", "a"),
            ("date", "2024-02-29", "2023-02-29"),
            ("duration", "22 ns", "x"),
            ("date-time", "2024-01-01T00:00:00Z", "2024-01-01"),
            ("k8s-short-name", "a-b", "a.b"),
            ("k8s-long-name", "a.b", "A"),
            ("bsonobjectid", "507f1f77bcf86cd799439011", "x"),
        ] {
            assert!(is_known("string", format), "{format}");
            assert!(has(format, good), "{format} {good}");
            assert!(!has(format, bad), "{format} {bad}");
        }
        assert!(has("other", "x") && !is_known("string", "other"));
        assert!(is_known("integer", "int32") && !is_known("object", "uri"));
    }
}
