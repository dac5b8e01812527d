//! JSON pointers without the copies that unescaping each of their steps takes: selectable fields
//! and columns are read from every object that is written or listed.

use serde_json::Value;

/// What a JSON pointer points to.
pub fn at<'v>(value: &'v Value, pointer: &str) -> Option<&'v Value> {
    let mut steps = pointer.split('/');
    if pointer.contains('~') || steps.next() != Some("") {
        return value.pointer(pointer);
    }
    steps.try_fold(value, |value, step| match value {
        Value::Object(members) => members.get(step),
        // Only digits, as the standard has it.
        Value::Array(items) if step.bytes().all(|b| b.is_ascii_digit()) => {
            let padded = step.len() > 1 && step.starts_with('0');
            items.get(step.parse::<usize>().ok().filter(|_| !padded)?)
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pointers_point_where_the_standard_says() {
        let value = json!({ "a": { "b/c": [1, { "d": 2 }], "": 3, "~": 4 }, "0": [5] });
        for pointer in [
            "",
            "/",
            "/a",
            "/a/",
            "/a/b~1c/1/d",
            "/a/~0",
            "/0/0",
            "/0/00",
            "/0/+0",
            "/0/1",
            "/0/-",
            "/x/y",
            "a",
            "/a/b/c",
            "/0/",
            "/0/18446744073709551616",
        ] {
            assert_eq!(at(&value, pointer), value.pointer(pointer), "{pointer}");
        }
    }
}
