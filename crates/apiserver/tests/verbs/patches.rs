//! Patches of each kind, apply among them, and the managers that are recorded by them.

use http::Method;
use serde_json::{Value, json};

use crate::common::{ask, post, raw, request, server};
use crate::{CMS, cm};

#[tokio::test]
async fn who_set_what_is_recorded_and_applied() {
    let s = server().await;
    let (_, made) = post(&s, CMS, cm("m")).await;
    assert_eq!(
        made["metadata"]["managedFields"][0]["manager"], "test",
        "{made}"
    );
    assert_eq!(made["metadata"]["managedFields"][0]["operation"], "Update");
    let apply = |uri: &str, text: &str| {
        request(
            Method::PATCH,
            uri,
            "application/apply-patch+yaml",
            text.to_owned(),
        )
    };
    let text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\ndata: {a: other}\n";
    let (code, conflict) = raw(&s, apply(&format!("{CMS}/m?fieldManager=me"), text)).await;
    assert_eq!(
        (code, &conflict["reason"]),
        (409, &json!("Conflict")),
        "{conflict}"
    );
    let (code, forced) = raw(
        &s,
        apply(&format!("{CMS}/m?fieldManager=me&force=true"), text),
    )
    .await;
    assert_eq!(
        (code, &forced["data"]["a"]),
        (200, &json!("other")),
        "{forced}"
    );
    let fresh = text.replace("{name: m}", "{name: n}");
    let (code, new) = raw(&s, apply(&format!("{CMS}/n?fieldManager=me"), &fresh)).await;
    assert_eq!(
        (code, &new["metadata"]["managedFields"][0]["operation"]),
        (201, &json!("Apply")),
        "{new}"
    );
    let (code, same) = raw(&s, apply(&format!("{CMS}/n?fieldManager=me"), &fresh)).await;
    assert_eq!(
        (code, &same["metadata"]["resourceVersion"]),
        (200, &new["metadata"]["resourceVersion"])
    );
    let (code, no) = raw(&s, apply(&format!("{CMS}/n"), &fresh)).await;
    assert_eq!((code, &no["reason"]), (422, &json!("Invalid")), "{no}");
    // What is meant for an object that has gone makes no other one, and changes none.
    for (name, why) in [("o", "uid mismatch"), ("n", "Precondition failed: UID")] {
        let late = text.replace("{name: m}", &format!("{{name: {name}, uid: gone}}"));
        let uri = format!("{CMS}/{name}?fieldManager=me&force=true");
        let (code, no) = raw(&s, apply(&uri, &late)).await;
        assert_eq!((code, &no["reason"]), (409, &json!("Conflict")), "{no}");
        let message = no["message"].as_str().unwrap_or_default();
        assert!(message.contains(why), "{message}");
    }
}

#[tokio::test]
async fn all_kinds_of_patches_are_applied() {
    let s = server().await;
    post(&s, CMS, cm("p")).await;
    let at = format!("{CMS}/p");
    let send = |kind: &str, body: &str| request(Method::PATCH, &at, kind, body.to_owned());
    let json_patch = "application/json-patch+json";
    let (code, v) = raw(
        &s,
        send(json_patch, r#"[{"op":"add","path":"/data/x","value":"y"}]"#),
    )
    .await;
    assert_eq!((code, &v["data"]["x"]), (200, &json!("y")), "{v}");
    let (code, v) = raw(
        &s,
        send(
            json_patch,
            r#"[{"op":"test","path":"/data/x","value":"z"}]"#,
        ),
    )
    .await;
    assert_eq!((code, &v["reason"]), (422, &json!("Invalid")), "{v}");
    let strategic = "application/strategic-merge-patch+json";
    let (code, v) = raw(&s, send(strategic, r#"{"data":{"x":null}}"#)).await;
    assert_eq!((code, v["data"].get("x")), (200, None), "{v}");
    let (code, v) = raw(&s, send(strategic, "{")).await;
    assert_eq!((code, &v["reason"]), (400, &json!("BadRequest")), "{v}");
    let (code, v) = raw(&s, send(strategic, r#"{"metadata":{"name":"q"}}"#)).await;
    assert_eq!(code, 422, "{v}");
    let (code, v) = raw(
        &s,
        send(strategic, r#"{"metadata":{"resourceVersion":"1"}}"#),
    )
    .await;
    assert_eq!((code, &v["reason"]), (409, &json!("Conflict")), "{v}");
}

#[tokio::test]
async fn managers_are_kept_as_they_are_read_by_patches_and_forgotten_when_asked() {
    let s = server().await;
    // Names in the order of the writes: entries are sorted by time, then by name.
    let uri = |manager: &str| format!("{CMS}/m?fieldManager={manager}");
    let managers = |object: &Value| -> Vec<String> {
        let list = object["metadata"]["managedFields"].as_array();
        list.into_iter()
            .flatten()
            .map(|e| e["manager"].as_str().unwrap_or_default().to_owned())
            .collect()
    };
    let patch = |manager: &str, kind: &str, body: Value| {
        let kind = format!("application/{kind}");
        raw(
            &s,
            request(Method::PATCH, &uri(manager), &kind, body.to_string()),
        )
    };
    let merge = "merge-patch+json";
    let (code, made) = post(&s, &format!("{CMS}?fieldManager=a1"), cm("m")).await;
    assert_eq!(code, 201, "{made}");
    let (_, two) = patch("b2", merge, json!({ "data": { "x": "1" } })).await;
    assert_eq!(managers(&two), ["a1", "b2"]);
    let first = "/metadata/managedFields/0";
    assert_eq!(two.pointer(first), made.pointer(first));
    // The same fields again: only the time of the one entry may differ.
    let (_, again) = patch("b2", merge, json!({ "data": { "x": "2" } })).await;
    assert_eq!(again.pointer(first), made.pointer(first));
    assert_eq!(
        again["metadata"]["managedFields"][1]["fieldsV1"],
        json!({ "f:data": { "f:x": {} } })
    );
    // A field that another takes leaves its manager.
    let (_, taken) = patch("c3", merge, json!({ "data": { "x": "3" } })).await;
    assert_eq!(managers(&taken), ["a1", "c3"]);

    // JSON patches see the managers, whatever their path begins with.
    let json = "json-patch+json";
    let test = |path: &str, value: &Value| json!([{ "op": "test", "path": path, "value": value }]);
    for path in [
        "",
        "/metadata",
        "/metadata/managedFields",
        "/metadata/managedFields/0/manager",
    ] {
        let want = taken.pointer(path).expect("there");
        let (code, same) = patch("d4", json, test(path, want)).await;
        assert_eq!((code, &same), (200, &taken), "{path}");
    }
    let copy =
        json!([{ "op": "copy", "from": "/metadata/managedFields/0/manager", "path": "/data/who" }]);
    let (code, copied) = patch("d4", json, copy).await;
    assert_eq!((code, &copied["data"]["who"]), (200, &json!("a1")));
    let (_, removed) = patch("d4", json, json!([{ "op": "remove", "path": first }])).await;
    assert_eq!(managers(&removed), ["c3", "d4"]);

    // What is sent back unchanged changes nothing; an empty entry forgets all.
    let (code, same) = ask(&s, Method::PUT, &uri("e5"), removed.clone()).await;
    assert_eq!((code, &same), (200, &removed));
    let (_, bare) = patch(
        "f6",
        merge,
        json!({ "metadata": { "managedFields": [{}] } }),
    )
    .await;
    assert_eq!(managers(&bare), Vec::<String>::new(), "{bare}");
    let (_, still) = patch("f6", merge, json!({ "data": { "y": "1" } })).await;
    assert_eq!(managers(&still), Vec::<String>::new());
    let text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\ndata: {z: z}\n";
    let apply = request(
        Method::PATCH,
        &uri("g7"),
        "application/apply-patch+yaml",
        text,
    );
    let (_, applied) = raw(&s, apply).await;
    assert_eq!(managers(&applied), ["g7", "before-first-apply"]);
}

#[tokio::test]
async fn a_managers_name_is_checked_by_every_write() {
    let s = server().await;
    post(&s, CMS, cm("m")).await;
    let long = "x".repeat(129);
    for (name, why) in [
        (&*long, "may not be more than 128 bytes"),
        ("a%07b", "invalid character U+0007 (at position 1)"),
    ] {
        for (method, path, body) in [
            (Method::POST, CMS.to_owned(), cm("n")),
            (Method::PUT, format!("{CMS}/m"), cm("m")),
            (
                Method::PATCH,
                format!("{CMS}/m"),
                json!({ "data": { "a": "c" } }),
            ),
        ] {
            let uri = format!("{path}?fieldManager={name}");
            let (code, no) = ask(&s, method.clone(), &uri, body).await;
            let message = no["message"].as_str().unwrap_or_default();
            assert_eq!(code, 422, "{method}: {no}");
            assert!(message.contains(why), "{method}: {message}");
        }
    }
}

/// A patch that takes the version away asks for a replacement of whatever there is, which some kinds
/// refuse: by whichever patch, and on the status as on the object.
#[tokio::test]
async fn a_patch_may_take_the_version_away_where_none_is_needed() {
    const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
    const BUDGETS: &str = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
    let s = server().await;
    let deployment = json!({
        "metadata": { "name": "one" },
        "spec": { "selector": { "matchLabels": { "a": "b" } }, "template": {
            "metadata": { "labels": { "a": "b" } },
            "spec": { "containers": [{ "name": "c", "image": "i" }] },
        } },
    });
    let named = json!({ "metadata": { "name": "one" }, "spec": {} });
    let budget = json!({ "metadata": { "name": "one" }, "spec": { "minAvailable": 1 } });
    for (collection, made) in [
        (CMS, cm("one")),
        (DEPLOYMENTS, deployment),
        (LEASES, named),
        (BUDGETS, budget),
    ] {
        let (code, made) = post(&s, collection, made).await;
        assert_eq!(code, 201, "{made}");
    }
    let with = |version: Value| json!({ "metadata": { "resourceVersion": version } });
    let gone = json!([{ "op": "remove", "path": "/metadata/resourceVersion" }]);
    let empty = json!([{ "op": "replace", "path": "/metadata/resourceVersion", "value": "" }]);
    let patches = [
        ("application/json-patch+json", gone),
        ("application/json-patch+json", empty),
        ("application/merge-patch+json", with(Value::Null)),
        ("application/merge-patch+json", with("".into())),
        ("application/merge-patch+json", with("0".into())),
        ("application/strategic-merge-patch+json", with(Value::Null)),
        ("application/strategic-merge-patch+json", with("".into())),
    ];
    for (path, wanted) in [
        (format!("{CMS}/one"), 200),
        (format!("{DEPLOYMENTS}/one"), 200),
        (format!("{DEPLOYMENTS}/one/status"), 200),
        (format!("{DEPLOYMENTS}/one/scale"), 200),
        (format!("{LEASES}/one"), 422),
        (format!("{BUDGETS}/one"), 422),
        (format!("{BUDGETS}/one/status"), 422),
    ] {
        for (ty, patch) in &patches {
            let (code, said) = raw(&s, request(Method::PATCH, &path, ty, patch.to_string())).await;
            assert_eq!(code, wanted, "{path} {ty} {patch}: {said}");
            if code == 422 {
                let message = said["message"].as_str().unwrap_or_default();
                let why =
                    "metadata.resourceVersion: Invalid value: 0: must be specified for an update";
                assert!(message.ends_with(why), "{message}");
            }
        }
        // One that leaves it alone is of the version that was read.
        let (code, said) = ask(&s, Method::PATCH, &path, json!({})).await;
        assert_eq!(code, 200, "{path}: {said}");
    }
}
