//! How a value of a file is read, and on what its field is set.

use crate::config::Config;
use serde_json::Value;
use std::time::Duration;

/// Whether a feature gate says what is done anyway; an error where there is no such gate, or it cannot
/// be set so.
pub type IsWhatWeDo = fn(&str, bool) -> Result<bool, String>;

/// What a field is set on.
pub(super) struct At<'a> {
    pub config: &'a mut Config,
    pub warnings: &'a mut Vec<String>,
    pub gates: IsWhatWeDo,
}

pub(super) fn member<'a>(v: &'a Value, name: &str) -> &'a Value {
    v.get(name).unwrap_or(&Value::Null)
}

pub(super) fn text(v: &Value) -> Result<&str, String> {
    v.as_str().ok_or_else(|| format!("{v} is not a text"))
}

pub(super) fn texts(v: &Value) -> Result<Vec<String>, String> {
    let all = v.as_array().ok_or("it is not a list")?;
    all.iter().map(|v| text(v).map(str::to_owned)).collect()
}

pub(super) fn flag(v: &Value) -> Result<bool, String> {
    v.as_bool().ok_or_else(|| format!("{v} is not a boolean"))
}

pub(super) fn absolute(v: &Value) -> Result<&str, String> {
    let path = text(v)?;
    let well = path.starts_with('/');
    well.then_some(path)
        .ok_or_else(|| format!("{path:?} is not an absolute path"))
}

/// A whole number that is not below the least.
pub(super) fn number<T: TryFrom<i64>>(v: &Value, least: i64) -> Result<T, String> {
    let found = v.as_i64().filter(|n| *n >= least);
    let found = found.and_then(|n| T::try_from(n).ok());
    found.ok_or_else(|| format!("{v} is not a whole number from {least} on"))
}

pub(super) fn percent(v: &Value) -> Result<u64, String> {
    number(v, 0).and_then(|n| {
        let well = n <= 100;
        well.then_some(n).ok_or_else(|| format!("{n} is above 100"))
    })
}

/// A duration as upstream writes it, such as `1m30s`.
pub(super) fn duration(v: &Value) -> Result<Duration, String> {
    let text = text(v)?;
    let wrong = || format!("{text:?} is not a duration such as 1m30s");
    let parsed: jiff::SignedDuration = text.parse().map_err(|_| wrong())?;
    parsed.try_into().map_err(|_| wrong())
}

pub(super) fn at_least_a_second(v: &Value) -> Result<Duration, String> {
    let found = duration(v)?;
    let well = found >= Duration::from_secs(1);
    well.then_some(found).ok_or_else(|| "below 1s".into())
}

pub(super) fn amount(v: &Value) -> Result<u64, String> {
    let text = text(v)?;
    let quantity: api::Quantity = text.parse().map_err(|e| format!("{text:?}: {e}"))?;
    u64::try_from(quantity.value()).map_err(|_| format!("{text:?} is not an amount"))
}
