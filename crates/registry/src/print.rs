//! How values are shown in the cells of a `Table`: names, ages and durations.

use serde_json::Value;

/// What upstream prints for a time that is not set.
pub const UNKNOWN: &str = "<unknown>";

/// The object's name.
pub fn name(obj: &Value, _now: i64) -> Value {
    obj.pointer("/metadata/name")
        .cloned()
        .unwrap_or_else(|| "".into())
}

/// The object's age.
pub fn age(obj: &Value, now: i64) -> Value {
    since(obj.pointer("/metadata/creationTimestamp"), now).into()
}

/// The time since a timestamp (RFC 3339), as upstream shows it; [`UNKNOWN`] when there is none.
pub fn since(time: Option<&Value>, now: i64) -> String {
    match time.and_then(seconds) {
        Some(t) => human_duration(now - t),
        None => UNKNOWN.to_owned(),
    }
}

/// Seconds since the epoch of an RFC 3339 string.
pub fn seconds(time: &Value) -> Option<i64> {
    time.as_str()?
        .parse::<jiff::Timestamp>()
        .ok()
        .map(jiff::Timestamp::as_second)
}

/// A duration in at most three characters of precision: `90s`, `5m3s`, `3h`, `2d4h`, `400d`,
/// `3y20d`. Follows `duration.HumanDuration`.
pub fn human_duration(seconds: i64) -> String {
    // Clocks may differ by a second or so between machines.
    match seconds {
        ..-1 => return "<invalid>".to_owned(),
        -1 => return "0s".to_owned(),
        0..120 => return format!("{seconds}s"),
        _ => {}
    }
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let (days, years) = (hours / 24, hours / 24 / 365);
    match () {
        () if minutes < 10 => two(minutes, "m", seconds % 60, "s"),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 => two(hours, "h", minutes % 60, "m"),
        () if hours < 48 => format!("{hours}h"),
        () if hours < 192 => two(days, "d", hours % 24, "h"),
        () if hours < 24 * 365 * 2 => format!("{days}d"),
        () if hours < 24 * 365 * 8 => two(years, "y", days % 365, "d"),
        () => format!("{years}y"),
    }
}

fn two(large: i64, large_unit: &str, small: i64, small_unit: &str) -> String {
    if small == 0 {
        format!("{large}{large_unit}")
    } else {
        format!("{large}{large_unit}{small}{small_unit}")
    }
}
