//! Quantities and ages as people read them.

use api::quantity::Quantity;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Written;

/// Thousandths of a core: `250m`, `2.25`, `16`.
pub fn cores(millis: i64) -> String {
    match millis {
        ..1_000 => format!("{millis}m"),
        1_000..10_000 => {
            let text = format!("{}.{:02}", millis / 1_000, millis % 1_000 / 10);
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
        _ => format!("{}", (millis + 500) / 1_000),
    }
}

/// Bytes with one digit after the point below 100 of a unit: `1.5 GiB`, `212 MiB`.
pub fn bytes(bytes: i64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut tenths = bytes.saturating_mul(10);
    let mut unit = 0;
    while tenths >= 10_240 && unit < UNITS.len() - 1 {
        tenths /= 1_024;
        unit += 1;
    }
    let name = UNITS.get(unit).copied().unwrap_or_default();
    if tenths >= 1_000 || tenths % 10 == 0 {
        format!("{} {name}", tenths / 10)
    } else {
        format!("{}.{} {name}", tenths / 10, tenths % 10)
    }
}

/// Of `part`, in hundredths of `whole`; none of nothing.
pub fn percent(part: i64, whole: i64) -> Option<i64> {
    (whole > 0).then(|| (i128::from(part) * 100 / i128::from(whole)) as i64)
}

/// The time since, as kubectl shows ages.
pub fn age(since: Timestamp, now: Timestamp) -> String {
    registry::print::human_duration(now.as_second() - since.as_second())
}

/// Thousandths of what a quantity says; what is not a quantity says nothing.
pub fn millis(quantity: Option<&Written>) -> Option<i64> {
    Some(quantity?.0.parse::<Quantity>().ok()?.milli_value())
}

/// Whole units of what a quantity says.
pub fn units(quantity: Option<&Written>) -> Option<i64> {
    Some(quantity?.0.parse::<Quantity>().ok()?.value())
}

/// `1 pod`, `2 pods`.
pub fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_short() {
        let shown = [0, 7, 999, 1_000, 1_500, 2_256, 9_999, 15_700].map(cores);
        assert_eq!(
            shown,
            ["0m", "7m", "999m", "1", "1.5", "2.25", "9.99", "16"]
        );
        let shown = [0, 1_023, 1_024, 1_600, 200 << 20, 3 << 29].map(bytes);
        assert_eq!(
            shown,
            ["0 B", "1023 B", "1 KiB", "1.5 KiB", "200 MiB", "1.5 GiB"]
        );
        assert_eq!((percent(1, 4), percent(1, 0)), (Some(25), None));
        assert_eq!([1, 2].map(|n| count(n, "pod")), ["1 pod", "2 pods"]);
    }

    #[test]
    fn what_is_no_quantity_says_nothing() {
        assert_eq!(millis(Some(&Written("250m".into()))), Some(250));
        assert_eq!(units(Some(&Written("64Mi".into()))), Some(64 << 20));
        assert_eq!(units(Some(&Written("much".into()))), None);
        assert_eq!(units(None), None);
    }
}
