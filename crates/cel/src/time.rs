//! Timestamps and durations as the language writes and takes apart.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

pub(crate) const SECOND: i64 = 1_000_000_000;

/// Seconds of the first and last timestamp that the language has: years 1 to 9999.
const FIRST: i64 = -62_135_596_800;
const LAST: i64 = 253_402_300_799;

/// An RFC 3339 time.
pub(crate) fn parse_timestamp(text: &str) -> Option<Timestamp> {
    let bytes = text.as_bytes();
    let shaped = bytes.len() >= 20
        && bytes[4] == b'-'
        && matches!(bytes[10], b'T' | b't')
        && bytes[13] == b':'
        && bytes[16] == b':';
    shaped.then_some(())?;
    in_range(text.parse().ok()?)
}

/// `2006-01-02`, as the beginning of that day.
pub(crate) fn parse_date(text: &str) -> Option<Timestamp> {
    (text.len() == 10).then_some(())?;
    let date: Date = text.parse().ok()?;
    let zoned = date.to_zoned(TimeZone::UTC).ok()?;
    in_range(zoned.timestamp())
}

pub(crate) fn in_range(time: Timestamp) -> Option<Timestamp> {
    (FIRST..=LAST).contains(&time.as_second()).then_some(time)
}

pub(crate) fn from_seconds(seconds: i64) -> Option<Timestamp> {
    in_range(Timestamp::from_second(seconds).ok()?)
}

/// A timestamp moved by nanoseconds.
pub(crate) fn shifted(time: Timestamp, nanos: i128) -> Option<Timestamp> {
    let nanos = time.as_nanosecond().checked_add(nanos)?;
    in_range(Timestamp::from_nanosecond(nanos).ok()?)
}

/// A duration in seconds, as its text is: `3600s`, `1.5s`.
pub(crate) fn format_duration(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let (whole, part) = (
        nanos.unsigned_abs() / SECOND as u64,
        nanos.unsigned_abs() % SECOND as u64,
    );
    if part == 0 {
        return format!("{sign}{whole}s");
    }
    let part = format!("{part:09}");
    format!("{sign}{whole}.{}s", part.trim_end_matches('0'))
}

/// The time in a zone: a name of the zone database, or an offset (`+01:00`, `02:30`).
pub(crate) fn in_zone(time: Timestamp, zone: Option<&str>) -> Result<Zoned, String> {
    let Some(name) = zone else {
        return Ok(time.to_zoned(TimeZone::UTC));
    };
    let zone = match name.find(':') {
        None if name == "UTC" || name.is_empty() => TimeZone::UTC,
        None => TimeZone::get(name).map_err(|_| format!("unknown time zone {name}"))?,
        Some(colon) => {
            let wrong = || format!("unknown time zone {name}");
            let hours: i32 = name[..colon].parse().map_err(|_| wrong())?;
            let minutes: i32 = name[colon + 1..].parse().map_err(|_| wrong())?;
            let sign = if name.starts_with('-') { -1 } else { 1 };
            let seconds = hours
                .checked_mul(3600)
                .and_then(|h| h.checked_add(sign * minutes.checked_mul(60)?))
                .ok_or_else(wrong)?;
            let offset = jiff::tz::Offset::from_seconds(seconds).map_err(|_| wrong())?;
            TimeZone::fixed(offset)
        }
    };
    Ok(time.to_zoned(zone))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_in_seconds() {
        assert_eq!(format_duration(-1_500_000_000), "-1.5s");
        assert_eq!(format_duration(3_600_000_000_000), "3600s");
    }

    #[test]
    fn timestamps() {
        assert!(parse_timestamp("2024-01-01T00:00:00Z").is_some());
        assert!(parse_timestamp("2024-01-01").is_none());
        assert!(parse_timestamp("0000-01-01T00:00:00Z").is_none());
        assert!(parse_date("2024-02-30").is_none());
        let noon = parse_timestamp("2024-01-01T12:00:00Z").expect("a time");
        assert_eq!(in_zone(noon, Some("-01:30")).map(|z| z.minute()), Ok(30));
        assert_eq!(
            in_zone(noon, Some("America/New_York")).map(|z| z.hour()),
            Ok(7)
        );
        assert!(in_zone(noon, Some("Nowhere/Else")).is_err());
    }
}
