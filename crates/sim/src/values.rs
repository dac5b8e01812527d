//! What the invariants read of stored objects.

use serde_json::Value;

pub(crate) fn text<'a>(v: &'a Value, pointer: &str) -> &'a str {
    v.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

pub(crate) fn number(v: &Value, pointer: &str) -> i64 {
    v.pointer(pointer).and_then(Value::as_i64).unwrap_or(0)
}

/// Thousandths of a processor.
pub(crate) fn millis(quantity: &str) -> i64 {
    let parsed = match quantity.strip_suffix('m') {
        Some(m) => m.parse(),
        None => quantity.parse::<i64>().map(|n| n * 1_000),
    };
    // What this does not understand would pass for nothing: it must not.
    parsed.unwrap_or(i64::MAX / 1_000_000)
}

pub(crate) fn requested(pod: &Value) -> i64 {
    let containers = pod.pointer("/spec/containers").and_then(Value::as_array);
    let each = containers.into_iter().flatten();
    each.map(|c| millis(text(c, "/resources/requests/cpu").if_empty("0")))
        .sum()
}

trait IfEmpty {
    fn if_empty<'a>(&'a self, other: &'a str) -> &'a str;
}
impl IfEmpty for str {
    fn if_empty<'a>(&'a self, other: &'a str) -> &'a str {
        if self.is_empty() { other } else { self }
    }
}

pub(crate) fn is_finished(pod: &Value) -> bool {
    matches!(text(pod, "/status/phase"), "Succeeded" | "Failed")
}

pub(crate) fn is_active(pod: &Value) -> bool {
    !is_finished(pod) && text(pod, "/metadata/deletionTimestamp").is_empty()
}

/// The UID of the controller.
pub(crate) fn owner(object: &Value) -> &str {
    text(object, "/metadata/ownerReferences/0/uid")
}
