//! `/configz`: the configurations of the components of this process, by upstream's names.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use parking_lot::RwLock;
use serde_json::Value;

use crate::page::page;

static ALL: RwLock<BTreeMap<&'static str, Value>> = RwLock::new(BTreeMap::new());

/// Shows a configuration; one of the same name before is replaced.
pub fn show(name: &'static str, config: Value) {
    ALL.write().insert(name, config);
}

pub fn answer() -> Response<Bytes> {
    let all = serde_json::to_string(&*ALL.read()).unwrap_or_default();
    page(StatusCode::OK, "application/json", all)
}

/// A time as configurations write it, such as `1m30s`.
pub fn duration(time: Duration) -> String {
    let (whole, millis) = (time.as_secs(), time.subsec_millis());
    let (hours, minutes, seconds) = (whole / 3600, whole / 60 % 60, whole % 60);
    let seconds = match millis {
        0 => format!("{seconds}s"),
        _ if whole == 0 => format!("{millis}ms"),
        _ => format!(
            "{}s",
            time.as_millis() as f64 / 1000.0 - (whole - seconds) as f64
        ),
    };
    match (hours, minutes) {
        (0, 0) => seconds,
        (0, _) => format!("{minutes}m{seconds}"),
        _ => format!("{hours}h{minutes}m{seconds}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_go_writes_them() {
        for (millis, want) in [
            (0, "0s"),
            (500, "500ms"),
            (1500, "1.5s"),
            (10_000, "10s"),
            (90_000, "1m30s"),
            (300_000, "5m0s"),
            (3_600_000, "1h0m0s"),
        ] {
            assert_eq!(duration(Duration::from_millis(millis)), want);
        }
    }

    #[test]
    fn configurations_are_shown_by_name() {
        show("b", serde_json::json!({ "kind": "B" }));
        show("a", Value::Null);
        show("a", serde_json::json!({ "kind": "A" }));
        assert_eq!(answer().body(), r#"{"a":{"kind":"A"},"b":{"kind":"B"}}"#);
    }
}
