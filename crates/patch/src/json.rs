//! JSON patch (RFC 6902) and JSON merge patch (RFC 7396) with the server's limits and errors.

use json_patch::{PatchErrorKind, PatchOperation};
use serde_json::Value;

use crate::PatchError;

/// Most operations in one JSON patch: each may copy a subtree, so that work grows with them.
pub const MAX_OPERATIONS: usize = 10_000;

/// Applies a JSON patch; on an error the document is as before.
pub fn json_patch(doc: &mut Value, patch: &Value) -> Result<(), PatchError> {
    let Some(list) = patch.as_array() else {
        return Err(PatchError::Malformed(format!(
            "error decoding patch: json: cannot unmarshal {} into Go value of type []handlers.jsonPatchOp",
            go_kind(patch)
        )));
    };
    if list.len() > MAX_OPERATIONS {
        return Err(PatchError::TooLarge(format!(
            "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
            list.len()
        )));
    }
    let mut operations = Vec::with_capacity(list.len());
    for one in list {
        let Value::Object(_) = one else {
            return Err(PatchError::Malformed(format!(
                "error decoding patch: json: cannot unmarshal {} into Go value of type handlers.jsonPatchOp",
                go_kind(one)
            )));
        };
        // An operation with an unknown name or without its path is found out when it is applied.
        let op: PatchOperation = serde_json::from_value(one.clone())
            .map_err(|e| PatchError::Unfit(format!("unexpected operation: {e}")))?;
        operations.push(op);
    }
    json_patch::patch(doc, &operations).map_err(|e| PatchError::Unfit(unfit(&e)))
}

fn unfit(e: &json_patch::PatchError) -> String {
    match e.kind {
        PatchErrorKind::TestFailed => format!("testing value {} failed: test failed", e.path),
        PatchErrorKind::InvalidFromPointer => {
            format!(
                "operation {} does not apply: doc is missing from path: missing value",
                e.operation
            )
        }
        _ => format!(
            "operation {} does not apply: doc is missing path: {}: missing value",
            e.operation, e.path
        ),
    }
}

/// Applies a merge patch; it must be an object.
pub fn merge_patch(doc: &mut Value, patch: &Value) -> Result<(), PatchError> {
    if !patch.is_object() {
        return Err(PatchError::Malformed(format!(
            "error decoding patch: json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
            go_kind(patch)
        )));
    }
    json_patch::merge(doc, patch);
    Ok(())
}

/// How decode errors name the kind of a JSON value.
pub(crate) fn go_kind(v: &Value) -> &'static str {
    match v {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn json_patches_apply_or_change_nothing() {
        let mut doc = json!({"a": [1, 2], "b": "x"});
        json_patch(
            &mut doc,
            &json!([{"op": "add", "path": "/a/-", "value": 3}, {"op": "remove", "path": "/b"}]),
        )
        .unwrap();
        assert_eq!(doc, json!({"a": [1, 2, 3]}));
        let before = doc.clone();
        let failing = json!([
            {"op": "remove", "path": "/a/0"},
            {"op": "test", "path": "/a/0", "value": 9}
        ]);
        let e = json_patch(&mut doc, &failing).unwrap_err();
        assert_eq!(e.to_string(), "testing value /a/0 failed: test failed");
        assert_eq!(e.status().code, 422);
        assert_eq!(doc, before);
        let e = json_patch(&mut doc, &json!({"a": 1})).unwrap_err();
        assert_eq!(e.status().code, 400);
        let many: Vec<Value> = vec![json!({"op": "test", "path": "", "value": 1}); 10_001];
        let e = json_patch(&mut doc, &Value::Array(many)).unwrap_err();
        assert_eq!(
            e.to_string(),
            "The allowed maximum operations in a JSON patch is 10000, got 10001"
        );
    }

    #[test]
    fn merge_patches_drop_nulls() {
        let mut doc = json!({"a": {"b": 1, "c": 2}, "l": [1, 2]});
        merge_patch(&mut doc, &json!({"a": {"b": null, "d": 4}, "l": [3]})).unwrap();
        assert_eq!(doc, json!({"a": {"c": 2, "d": 4}, "l": [3]}));
        assert!(merge_patch(&mut doc, &json!([1])).is_err());
    }
}
