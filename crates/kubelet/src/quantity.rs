//! The quantities of typed objects as numbers, rounded up as upstream does for resources.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::BTreeMap;

/// Resources by name, as containers ask for them.
pub type Resources = BTreeMap<String, Quantity>;

/// A quantity in thousandths, rounded up. None if it is malformed.
#[must_use]
pub fn millis(text: &str) -> Option<i64> {
    read(text).map(|q| q.milli_value())
}

/// A quantity in whole units, rounded up. None if it is malformed.
#[must_use]
pub fn units(text: &str) -> Option<i64> {
    read(text).map(|q| q.value())
}

fn read(text: &str) -> Option<api::Quantity> {
    text.parse().ok()
}

/// CPU of a set of resources in thousandths.
#[must_use]
pub fn cpu_millis(resources: Option<&Resources>) -> Option<i64> {
    resources?.get("cpu").and_then(|q| millis(&q.0))
}

/// Bytes (or other whole units) of a named resource.
#[must_use]
pub fn amount(resources: Option<&Resources>, name: &str) -> Option<i64> {
    resources?.get(name).and_then(|q| units(&q.0))
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
