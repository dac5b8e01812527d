//! Strategic merge patch over the built-in types: one table of cases, and the errors.

use patch::{PatchError, strategic};
use schema::TypeId;
use serde_json::{Value, json};

fn ty(name: &str) -> TypeId {
    schema::builtin().by_name(name).expect("a built-in type")
}

fn pod(original: Value, patch: &Value) -> Result<Value, PatchError> {
    let mut doc = original;
    strategic(
        schema::builtin(),
        ty("io.k8s.api.core.v1.Pod"),
        &mut doc,
        patch,
    )?;
    Ok(doc)
}

#[test]
fn patches_give_what_they_should() {
    let two = json!({"spec": {"containers": [{"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}]}, {"name": "b", "image": "1"}]}});
    let cases = [
        (
            "an item is merged by its key",
            two.clone(),
            json!({"spec": {"containers": [{"name": "a", "image": "2"}]}}),
            json!({"spec": {"containers": [{"name": "a", "image": "2", "env": [{"name": "X", "value": "1"}]}, {"name": "b", "image": "1"}]}}),
        ),
        (
            "an item that the server does not know goes first",
            two.clone(),
            json!({"spec": {"containers": [{"name": "c", "image": "1"}]}}),
            json!({"spec": {"containers": [{"name": "c", "image": "1"}, {"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}]}, {"name": "b", "image": "1"}]}}),
        ),
        (
            "an item is deleted",
            two.clone(),
            json!({"spec": {"containers": [{"name": "a", "$patch": "delete"}]}}),
            json!({"spec": {"containers": [{"name": "b", "image": "1"}]}}),
        ),
        (
            "a list is replaced",
            two.clone(),
            json!({"spec": {"containers": [{"name": "z"}, {"$patch": "replace"}]}}),
            json!({"spec": {"containers": [{"name": "z"}]}}),
        ),
        (
            "a list is replaced by what there is of it, though a key is there twice",
            two.clone(),
            json!({"spec": {"containers": [{"$patch": "replace"}, {"name": "z", "image": "1"}, {"name": "z", "image": "2"}]}}),
            json!({"spec": {"containers": [{"name": "z", "image": "1"}, {"name": "z", "image": "2"}]}}),
        ),
        (
            "a map is replaced",
            json!({"metadata": {"labels": {"a": "1", "b": "2"}}}),
            json!({"metadata": {"labels": {"$patch": "replace", "c": "3"}}}),
            json!({"metadata": {"labels": {"c": "3"}}}),
        ),
        (
            "null deletes a key",
            json!({"metadata": {"labels": {"a": "1", "b": "2"}}}),
            json!({"metadata": {"labels": {"a": null}}}),
            json!({"metadata": {"labels": {"b": "2"}}}),
        ),
        (
            "null in something new is dropped",
            json!({}),
            json!({"metadata": {"labels": {"a": null, "b": "2"}}}),
            json!({"metadata": {"labels": {"b": "2"}}}),
        ),
        (
            "primitive lists are merged as sets",
            json!({"metadata": {"finalizers": ["x.io/a", "x.io/b"]}}),
            json!({"metadata": {"finalizers": ["x.io/c", "x.io/b"]}}),
            json!({"metadata": {"finalizers": ["x.io/c", "x.io/a", "x.io/b"]}}),
        ),
        (
            "and items deleted from them",
            json!({"metadata": {"finalizers": ["x.io/a", "x.io/b"]}}),
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["x.io/a"]}}),
            json!({"metadata": {"finalizers": ["x.io/b"]}}),
        ),
        (
            "atomic lists are replaced",
            json!({"spec": {"containers": [{"name": "a", "args": ["1", "2"]}]}}),
            json!({"spec": {"containers": [{"name": "a", "args": ["3"]}]}}),
            json!({"spec": {"containers": [{"name": "a", "args": ["3"]}]}}),
        ),
        (
            "items are put in the given order",
            two,
            json!({"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}], "containers": [{"name": "a", "image": "3"}]}}),
            json!({"spec": {"containers": [{"name": "b", "image": "1"}, {"name": "a", "image": "3", "env": [{"name": "X", "value": "1"}]}]}}),
        ),
        (
            "retained keys drop the other volume source",
            json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}}),
            json!({"spec": {"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}]}}),
            json!({"spec": {"volumes": [{"name": "v", "hostPath": {"path": "/x"}}]}}),
        ),
    ];
    for (what, original, patch, want) in cases {
        assert_eq!(pod(original, &patch), Ok(want), "{what}");
    }
}

#[test]
fn bad_patches_are_refused() {
    let doc = json!({"spec": {"containers": [{"name": "a"}]}, "metadata": {"finalizers": ["x"]}});
    let cases = [
        (json!([1]), 400, "error decoding patch"),
        (
            json!({"spec": {"containers": [{"image": "x"}]}}),
            500,
            "does not contain declared merge key: name",
        ),
        (
            json!({"spec": {"$patch": "what"}}),
            500,
            "unknown patch type: what in map",
        ),
        (
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": "x"}}),
            400,
            "invalid patch format of primitive list",
        ),
        (
            json!({"spec": {"$retainKeys": "x"}}),
            400,
            "invalid patch format of retainKeys",
        ),
        (
            json!({"spec": {"$setElementOrder/containers": "x"}}),
            400,
            "invalid patch format of setElementOrder list",
        ),
        (
            json!({"spec": {"$retainKeys": ["nodeName"], "hostname": "x"}}),
            422,
            "patch content doesn't match retainKeys list",
        ),
    ];
    for (patch, code, text) in cases {
        let e = pod(doc.clone(), &patch).expect_err(text);
        assert!(e.to_string().contains(text), "{e}");
        assert_eq!(e.status().code, code, "{e}");
    }
}
