//! JSON patch (RFC 6902) and JSON merge patch (RFC 7396) with the server's limits and errors.

use json_patch::jsonptr::PointerBuf;
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
        let mut one = one.clone();
        // As upstream's library, which has no value for what it does not find, nor for null.
        if let Value::Object(fields) = &mut one
            && matches!(
                fields.get("op").and_then(Value::as_str),
                Some("add" | "replace" | "test")
            )
        {
            fields.entry("value").or_insert(Value::Null);
        }
        // An operation with an unknown name or without its path is found out when it is applied.
        let op: PatchOperation = serde_json::from_value(one)
            .map_err(|e| PatchError::Unfit(format!("unexpected operation: {e}")))?;
        operations.push(op);
    }
    let mut new = doc.clone();
    let mut meter = Meter::default();
    for (at, op) in operations.iter_mut().enumerate() {
        count_from_the_end(&new, op);
        meter.charge(&new, op)?;
        if let PatchOperation::Test(test) = &*op
            && is_absent(&new, test.path.as_str())
        {
            if test.value.is_null() {
                continue;
            }
            let path = &test.path;
            return Err(PatchError::Test(format!(
                "testing value {path} failed: test failed"
            )));
        }
        json_patch::patch_unsafe(&mut new, std::slice::from_ref(&*op)).map_err(|e| {
            match e.kind {
                PatchErrorKind::TestFailed => PatchError::Test(unfit(at, &e)),
                _ => PatchError::Unfit(unfit(at, &e)),
            }
        })?;
    }
    *doc = new;
    Ok(())
}

/// Whether an object lacks its field that a path names: to upstream that is null, and controllers
/// test so that nobody has made the field since they looked.
fn is_absent(doc: &Value, path: &str) -> bool {
    let parent = path.rsplit_once('/').and_then(|(p, _)| doc.pointer(p));
    parent.is_some_and(Value::is_object) && doc.pointer(path).is_none()
}

/// Replaces indices below zero in an operation's paths, which count from a list's end, as upstream's
/// library has them beyond the standard.
fn count_from_the_end(doc: &Value, op: &mut PatchOperation) {
    let resolve = |path: &mut PointerBuf, adds: bool| {
        if let Some(resolved) = from_the_start(doc, path, adds) {
            *path = resolved;
        }
    };
    match op {
        PatchOperation::Add(o) => resolve(&mut o.path, true),
        PatchOperation::Remove(o) => resolve(&mut o.path, false),
        PatchOperation::Replace(o) => resolve(&mut o.path, false),
        PatchOperation::Test(o) => resolve(&mut o.path, false),
        PatchOperation::Move(o) => {
            resolve(&mut o.from, false);
            resolve(&mut o.path, true);
        }
        PatchOperation::Copy(o) => {
            resolve(&mut o.from, false);
            resolve(&mut o.path, true);
        }
    }
}

fn from_the_start(doc: &Value, path: &PointerBuf, adds: bool) -> Option<PointerBuf> {
    let below_zero = |token: &str| token.len() > 1 && token.starts_with('-');
    if !path.tokens().any(|t| below_zero(&t.decoded())) {
        return None;
    }
    let (mut here, mut out) = (Some(doc), PointerBuf::new());
    let count = path.count();
    for (nth, token) in path.tokens().enumerate() {
        let mut word = token.decoded().into_owned();
        if let Some(Value::Array(items)) = here
            && below_zero(&word)
        {
            // Where something is added there is one place more.
            let places = items.len() + usize::from(adds && nth + 1 == count);
            let back: usize = word.get(1..)?.parse().ok()?;
            word = places.checked_sub(back)?.to_string();
        }
        here = match here {
            Some(Value::Array(items)) => word.parse::<usize>().ok().and_then(|n| items.get(n)),
            Some(Value::Object(fields)) => fields.get(&word),
            _ => None,
        };
        out.push_back(word);
    }
    Some(out)
}

/// Most that the copies of one patch may add, as upstream: the size of a body. An object or list
/// counts [`CONTAINER`], so that what many small ones take in memory is bounded as well.
const MAX_COPIED_BYTES: usize = 3 << 20;
const CONTAINER: usize = 64;
/// Most list items that move up or down when others are added or removed, in one patch: some
/// tenths of a second.
const MAX_SHIFTED: usize = 20_000_000;
/// As for bodies: what is deeper could not be read again.
const MAX_DEPTH: usize = 100;

/// What the operations of a patch have cost: charged before each is carried out.
#[derive(Default)]
struct Meter {
    copied: usize,
    shifted: usize,
}

impl Meter {
    fn charge(&mut self, doc: &Value, op: &PatchOperation) -> Result<(), PatchError> {
        match op {
            PatchOperation::Test(_) => Ok(()),
            PatchOperation::Add(o) => {
                self.shift(doc, o.path.as_str())?;
                fits(o.path.as_str(), depth(&o.value))
            }
            PatchOperation::Replace(o) => fits(o.path.as_str(), depth(&o.value)),
            PatchOperation::Remove(o) => self.shift(doc, o.path.as_str()),
            PatchOperation::Move(o) => {
                self.shift(doc, o.from.as_str())?;
                self.shift(doc, o.path.as_str())?;
                let moved = doc.pointer(o.from.as_str()).map_or(0, depth);
                fits(o.path.as_str(), moved)
            }
            PatchOperation::Copy(o) => {
                self.shift(doc, o.path.as_str())?;
                let Some(source) = doc.pointer(o.from.as_str()) else {
                    return Ok(());
                };
                let deep = self.copy(source)?;
                fits(o.path.as_str(), deep)
            }
        }
    }

    /// An item that comes into a list or leaves it moves those behind it.
    fn shift(&mut self, doc: &Value, path: &str) -> Result<(), PatchError> {
        let list = path
            .rsplit_once('/')
            .and_then(|(parent, _)| doc.pointer(parent)?.as_array());
        self.shifted += list.map_or(0, Vec::len);
        if self.shifted > MAX_SHIFTED {
            return Err(PatchError::TooLarge(
                "the patch takes too much work: it adds to and removes from long lists too often"
                    .to_owned(),
            ));
        }
        Ok(())
    }

    /// Counts a value that is copied, and gives its depth; stops as soon as it is too much.
    fn copy(&mut self, v: &Value) -> Result<usize, PatchError> {
        self.copied += match v {
            Value::String(s) => s.len() + 2,
            Value::Array(_) => CONTAINER,
            Value::Object(o) => CONTAINER + o.keys().map(|k| k.len() + 3).sum::<usize>(),
            _ => 8,
        };
        if self.copied > MAX_COPIED_BYTES {
            return Err(PatchError::TooLarge(format!(
                "Unable to complete the copy, the accumulated size increase of copy is {}, exceeding the limit {MAX_COPIED_BYTES}",
                self.copied
            )));
        }
        let mut deepest = 0;
        match v {
            Value::Array(items) => {
                for v in items {
                    deepest = deepest.max(1 + self.copy(v)?);
                }
            }
            Value::Object(fields) => {
                for v in fields.values() {
                    deepest = deepest.max(1 + self.copy(v)?);
                }
            }
            _ => {}
        }
        Ok(deepest)
    }
}

fn depth(v: &Value) -> usize {
    match v {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

fn fits(path: &str, below: usize) -> Result<(), PatchError> {
    if path.matches('/').count() + below > MAX_DEPTH {
        return Err(PatchError::Unfit("exceeded max depth".to_owned()));
    }
    Ok(())
}

fn unfit(at: usize, e: &json_patch::PatchError) -> String {
    match e.kind {
        PatchErrorKind::TestFailed => format!("testing value {} failed: test failed", e.path),
        PatchErrorKind::InvalidFromPointer => {
            format!("operation {at} does not apply: doc is missing from path: missing value")
        }
        _ => format!(
            "operation {at} does not apply: doc is missing path: {}: missing value",
            e.path
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
    fn what_is_absent_is_null_to_a_test() {
        let test = |path: &str, value: Value| json!([{"op": "test", "path": path, "value": value}]);
        let doc = json!({"metadata": {"name": "x", "none": null}, "list": []});
        let run = |patch: &Value| json_patch(&mut doc.clone(), patch);
        // As kube-rs adds the first finalizer.
        let mut made = doc.clone();
        let patch = json!([
            {"op": "test", "path": "/metadata/finalizers", "value": null},
            {"op": "add", "path": "/metadata/finalizers", "value": ["a"]},
        ]);
        json_patch(&mut made, &patch).expect("applies");
        assert_eq!(made["metadata"]["finalizers"], json!(["a"]));
        assert!(json_patch(&mut made, &patch).is_err());
        assert!(run(&test("/metadata/none", Value::Null)).is_ok());
        assert!(run(&json!([{"op": "test", "path": "/metadata/a"}])).is_ok());
        let failed = run(&test("/metadata/a", json!(1))).unwrap_err();
        assert!(matches!(failed, PatchError::Test(_)));
        assert_eq!(
            failed.to_string(),
            "testing value /metadata/a failed: test failed"
        );
        // Neither a path through nothing, nor an item that is not there.
        assert!(run(&test("/spec/a", Value::Null)).is_err());
        assert!(run(&test("/list/0", Value::Null)).is_err());
        assert!(run(&test("/metadata/name/a", Value::Null)).is_err());
    }

    #[test]
    fn indices_below_zero_count_from_the_end() {
        let run = |patch: Value| {
            let mut doc = json!({"l": [{"a": 1}, {"a": 2}], "-1": {"x": 0}});
            json_patch(&mut doc, &patch).map(|()| doc)
        };
        let doc = run(json!([
            {"op": "test", "path": "/l/-1/a", "value": 2},
            {"op": "remove", "path": "/l/-2"},
            {"op": "add", "path": "/l/-1", "value": 3},
            {"op": "replace", "path": "/-1/x", "value": 1},
        ]));
        assert_eq!(
            doc.expect("applies"),
            json!({"l": [{"a": 2}, 3], "-1": {"x": 1}})
        );
        assert!(run(json!([{"op": "remove", "path": "/l/-3"}])).is_err());
    }

    fn repeated(op: Value, n: usize) -> Value {
        Value::Array(vec![op; n])
    }

    #[test]
    fn copies_do_not_multiply() {
        // Each doubles what is there.
        let twice = |i: u32| json!({"op": "copy", "from": "/a", "path": format!("/a/x{i}")});
        let patch = Value::Array((0..40).map(twice).collect());
        let e = json_patch(&mut json!({"a": {"v": "x"}}), &patch).unwrap_err();
        assert_eq!(e.status().code, 413);
        // Some hundred KiB, a thousand times.
        let mut doc = json!({"a": "x".repeat(400_000), "l": []});
        let patch = repeated(json!({"op": "copy", "from": "/a", "path": "/l/-"}), 1_000);
        assert!(matches!(
            json_patch(&mut doc, &patch),
            Err(PatchError::TooLarge(_))
        ));
        assert_eq!(doc["l"], json!([]));
        // An honest copy.
        let patch = repeated(json!({"op": "copy", "from": "/a", "path": "/b"}), 1);
        assert!(json_patch(&mut doc, &patch).is_ok());
    }

    #[test]
    fn long_lists_are_not_moved_again_and_again() {
        let mut doc = json!({"l": vec![0; 100_000]});
        let front = json!({"op": "add", "path": "/l/0", "value": 1});
        assert!(json_patch(&mut doc, &repeated(front.clone(), 100)).is_ok());
        assert!(json_patch(&mut doc, &repeated(front, 10_000)).is_err());
        let gone = json!({"op": "remove", "path": "/l/0"});
        assert!(json_patch(&mut doc, &repeated(gone, 10_000)).is_err());
        assert!(
            json_patch(
                &mut json!({"l": vec![0; 2_000]}),
                &repeated(json!({"op": "remove", "path": "/l/0"}), 2_000)
            )
            .is_ok()
        );
    }

    #[test]
    fn no_patch_makes_a_document_deeper_than_a_body_may_be() {
        let nested = |n: usize| (0..n).fold(json!({}), |v, _| json!({ "a": v }));
        let path = "/a".repeat(50);
        // What is put together from parts, by moving one into the other.
        let patch = json!([
            {"op": "add", "path": "/w", "value": nested(60)},
            {"op": "move", "from": "/w", "path": format!("{path}/z")},
        ]);
        assert!(json_patch(&mut nested(60), &patch).is_err());
        let patch = json!([{"op": "copy", "from": "/a", "path": format!("{path}/z")}]);
        assert!(json_patch(&mut nested(60), &patch).is_err());
        let patch = json!([{"op": "add", "path": format!("{path}/z"), "value": nested(60)}]);
        assert!(json_patch(&mut nested(60), &patch).is_err());
        let patch = json!([{"op": "add", "path": format!("{path}/z"), "value": nested(10)}]);
        assert!(json_patch(&mut nested(60), &patch).is_ok());
    }

    #[test]
    fn twice_the_operations_cost_twice() {
        let cost = |n: usize| {
            let mut meter = Meter::default();
            let doc = json!({"a": {"b": "c"}, "l": vec![0; 100]});
            for op in [
                json!({"op": "copy", "from": "/a", "path": "/b"}),
                json!({"op": "add", "path": "/l/0", "value": 1}),
            ] {
                let op: PatchOperation = serde_json::from_value(op).unwrap();
                for _ in 0..n {
                    meter.charge(&doc, &op).unwrap();
                }
            }
            (meter.copied, meter.shifted)
        };
        let (one, two) = (cost(1_000), cost(2_000));
        assert_eq!((two.0, two.1), (2 * one.0, 2 * one.1));
    }

    #[test]
    fn merge_patches_drop_nulls() {
        let mut doc = json!({"a": {"b": 1, "c": 2}, "l": [1, 2]});
        merge_patch(&mut doc, &json!({"a": {"b": null, "d": 4}, "l": [3]})).unwrap();
        assert_eq!(doc, json!({"a": {"c": 2, "d": 4}, "l": [3]}));
        assert!(merge_patch(&mut doc, &json!([1])).is_err());
    }
}
