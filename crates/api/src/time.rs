//! Times as the API writes them: RFC 3339 in UTC, with whole seconds (`Time`) or microseconds
//! (`MicroTime`). Pure: the clock is the caller's.

use jiff::Timestamp;

/// `2006-01-02T15:04:05Z` of seconds since the epoch.
pub fn format_seconds(seconds: i64) -> String {
    Timestamp::from_second(seconds)
        .map(|t| t.to_string())
        .unwrap_or_default()
}

/// `2006-01-02T15:04:05.000000Z` of microseconds since the epoch.
pub fn format_micros(micros: i64) -> String {
    let Ok(time) = Timestamp::from_microsecond(micros) else {
        return String::new();
    };
    format!("{time:.6}")
}

/// Seconds since the epoch of an RFC 3339 time; parts of a second are cut off.
pub fn parse_seconds(text: &str) -> Option<i64> {
    Some(parse_micros(text)?.div_euclid(1_000_000))
}

/// Microseconds since the epoch of an RFC 3339 time.
pub fn parse_micros(text: &str) -> Option<i64> {
    text.parse::<Timestamp>().ok().map(|t| t.as_microsecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_and_read() {
        assert_eq!(format_seconds(1_700_000_000), "2023-11-14T22:13:20Z");
        assert_eq!(
            format_micros(1_700_000_000_000_001),
            "2023-11-14T22:13:20.000001Z"
        );
        assert_eq!(
            format_micros(1_700_000_000_000_000),
            "2023-11-14T22:13:20.000000Z"
        );
        assert_eq!(
            parse_seconds("2023-11-14T23:13:20.9+01:00"),
            Some(1_700_000_000)
        );
        assert_eq!(parse_seconds("yesterday"), None);
    }
}
