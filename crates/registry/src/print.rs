//! How values are shown in the cells of a `Table`: names, ages and durations.

use serde_json::Value;

use crate::pointer::at;

/// What upstream prints for a time that is not set.
pub const UNKNOWN: &str = "<unknown>";

/// The object's name.
pub fn name(obj: &Value, _now: i64) -> Value {
    at(obj, "/metadata/name")
        .cloned()
        .unwrap_or_else(|| "".into())
}

/// The object's age.
pub fn age(obj: &Value, now: i64) -> Value {
    since(at(obj, "/metadata/creationTimestamp"), now).into()
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

/// The string at a pointer; empty when there is none. Numbers and booleans as JSON.
pub fn text(obj: &Value, pointer: &str) -> String {
    match at(obj, pointer) {
        Some(Value::String(s)) => s.clone(),
        None | Some(Value::Null) => String::new(),
        Some(other) => other.to_string(),
    }
}

/// The string at a pointer, or this when it is absent or empty.
pub fn text_or(obj: &Value, pointer: &str, none: &str) -> String {
    let found = text(obj, pointer);
    if found.is_empty() {
        none.to_owned()
    } else {
        found
    }
}

/// The whole number at a pointer; 0 when there is none.
pub fn int(obj: &Value, pointer: &str) -> i64 {
    at(obj, pointer).and_then(Value::as_i64).unwrap_or(0)
}

/// The boolean at a pointer; false when there is none.
pub fn flag(obj: &Value, pointer: &str) -> bool {
    at(obj, pointer).and_then(Value::as_bool).unwrap_or(false)
}

/// The list at a pointer; empty when there is none.
pub fn list<'a>(obj: &'a Value, pointer: &str) -> &'a [Value] {
    at(obj, pointer)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// How many entries the map at a pointer has.
pub fn entries(obj: &Value, pointer: &str) -> usize {
    at(obj, pointer)
        .and_then(Value::as_object)
        .map_or(0, serde_json::Map::len)
}

/// The strings of a list, joined.
pub fn joined(items: &[Value], pointer: &str, separator: &str) -> String {
    let parts: Vec<String> = items.iter().map(|v| text(v, pointer)).collect();
    parts.join(separator)
}

/// A map of strings as `a=1,b=2`, or `<none>`.
pub fn labels(map: Option<&Value>) -> String {
    let mut parts: Vec<String> = match map.and_then(Value::as_object) {
        Some(m) => m
            .iter()
            .map(|(k, v)| format!("{k}={}", text(v, "")))
            .collect(),
        None => Vec::new(),
    };
    parts.sort();
    if parts.is_empty() {
        "<none>".to_owned()
    } else {
        parts.join(",")
    }
}

/// A label selector in the form in which it is typed: `app=web,tier in (a,b),!old`; empty for
/// one that selects everything or is absent.
pub fn selector(selector: Option<&Value>) -> String {
    let Some(selector) = selector else {
        return String::new();
    };
    let mut parts: Vec<(String, String)> = Vec::new();
    if let Some(labels) = selector.get("matchLabels").and_then(Value::as_object) {
        parts.extend(
            labels
                .iter()
                .map(|(k, v)| (k.clone(), format!("{k}={}", text(v, "")))),
        );
    }
    for e in list(selector, "/matchExpressions") {
        let key = text(e, "/key");
        let mut values: Vec<String> = list(e, "/values").iter().map(|v| text(v, "")).collect();
        values.sort();
        let values = values.join(",");
        let shown = match text(e, "/operator").as_str() {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.clone(),
            "DoesNotExist" => format!("!{key}"),
            _ => "<error>".to_owned(),
        };
        parts.push((key, shown));
    }
    parts.sort_by(|a, b| a.0.cmp(&b.0));
    let shown: Vec<String> = parts.into_iter().map(|(_, s)| s).collect();
    shown.join(",")
}

/// The first three of many, and how many more there are.
pub fn first_three(all: &[String]) -> String {
    match all.len() {
        0 => "<unset>".to_owned(),
        n @ 4.. => {
            let few: Vec<&str> = all.iter().take(3).map(String::as_str).collect();
            format!("{} + {} more...", few.join(","), n - 3)
        }
        _ => all.join(","),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn durations() {
        for (seconds, shown) in [
            (-5, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (303, "5m3s"),
            (600, "10m"),
            (10_799, "179m"),
            (10_800, "3h"),
            (11_100, "3h5m"),
            (172_799, "47h"),
            (172_800, "2d"),
            (176_400, "2d1h"),
            (86_400 * 8, "8d"),
            (86_400 * 729, "729d"),
            (86_400 * 730, "2y"),
            (86_400 * 800, "2y70d"),
            (86_400 * 365 * 9, "9y"),
        ] {
            assert_eq!(human_duration(seconds), shown, "{seconds}");
        }
    }

    #[test]
    fn selectors() {
        let s = json!({"matchLabels": {"b": "2", "a": "1"}, "matchExpressions": [
            {"key": "c", "operator": "In", "values": ["y", "x"]},
            {"key": "d", "operator": "DoesNotExist"}]});
        assert_eq!(selector(Some(&s)), "a=1,b=2,c in (x,y),!d");
        assert_eq!(labels(Some(&json!({}))), "<none>");
    }
}
