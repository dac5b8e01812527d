//! Mutating policies: what they apply and patch, what does not fit, and when they are asked again.

use http::Method;

use super::common::ask;
use super::*;

/// Makes a mutating policy with a binding of the same name.
async fn mutating(server: &ApiServer, name: &str, spec: Value, binding: Value) {
    let mut spec = spec;
    spec["matchConstraints"] = constraints(&["CREATE", "UPDATE"]);
    if spec.get("reinvocationPolicy").is_none() {
        spec["reinvocationPolicy"] = json!("Never");
    }
    let mut bound = json!({"policyName": name});
    for (key, value) in binding.as_object().expect("object") {
        bound[key] = value.clone();
    }
    let of = |spec: Value| json!({"metadata": {"name": name}, "spec": spec});
    let uri = |what: &str| format!("{GROUP}/mutatingadmission{what}");
    made(server, &uri("policies"), of(spec)).await;
    made(server, &uri("policybindings"), of(bound)).await;
}

fn apply(expression: &str) -> Value {
    json!({"mutations": [{"patchType": "ApplyConfiguration",
        "applyConfiguration": {"expression": expression}}]})
}

fn patch(expression: &str) -> Value {
    json!({"mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": expression}}]})
}

#[tokio::test(flavor = "multi_thread")]
async fn mutations_apply_and_patch() {
    let server = server().await;
    mutating(&server, "apply", apply(
        "Object{metadata: Object.metadata{labels: {'by': request.userInfo.username}}, data: {'made': string(object.data.size())}}"), json!({})).await;
    mutating(&server, "patch", patch(
        "[JSONPatch{op: 'test', path: '/data/k', value: 'v'}, JSONPatch{op: 'add', path: '/metadata/annotations', value: {'a/b': 'c'}}, JSONPatch{op: 'add', path: '/metadata/annotations/' + jsonpatch.escapeKey('d/e'), value: 'f'}]"), json!({})).await;
    let one = made(&server, MAPS, map("one", json!({"k": "v"}))).await;
    assert_eq!(one["data"], json!({"k": "v", "made": "1"}));
    assert_eq!(one["metadata"]["labels"], json!({"t": "1", "by": "tester"}));
    assert_eq!(
        one["metadata"]["annotations"],
        json!({"a/b": "c", "d/e": "f"})
    );
    // A test that fails leaves the object as it is.
    let two = made(&server, MAPS, map("two", json!({"k": "other"}))).await;
    assert_eq!(two["metadata"].get("annotations"), None);
    assert_eq!(two["data"]["made"], "1");
    // What policies set has no manager.
    let managers = one["metadata"]["managedFields"]
        .as_array()
        .expect("managers");
    assert_eq!(managers.len(), 1);
    assert!(!managers[0].to_string().contains("f:made"));
}

#[tokio::test(flavor = "multi_thread")]
async fn mutations_that_do_not_fit_refuse() {
    let server = server().await;
    let cases = [
        (apply("Object{data: {'a': 1}}"), "expected string, got &{1}"),
        (apply("Object{other: 1}"), "field not declared in schema"),
        (
            apply("Object{metadata: Object.spec{}}"),
            "type mismatch: unexpected type name",
        ),
        (
            patch("[JSONPatch{op: 'remove', path: '/nothing'}]"),
            "JSON Patch: ",
        ),
        (
            patch("[JSONPatch{op: 'replace', path: '/kind', value: 'Secret'}]"),
            "a policy may not change the kind of an object",
        ),
        (
            patch("[JSONPatch{op: 'add', path: '/nothing', value: 1}]"),
            "strict decoding error: unknown field \"nothing\"",
        ),
        (
            apply("Object{data: {'x': object.data.missing}}"),
            "no such key: data",
        ),
    ];
    for (n, (spec, want)) in cases.into_iter().enumerate() {
        let name = format!("wrong-{n}");
        mutating(&server, &name, spec, json!({})).await;
        let (code, answer) = post(&server, MAPS, map("x", json!({}))).await;
        let text = answer["message"].as_str().unwrap_or_default();
        assert_eq!(
            (code, &answer["reason"]),
            (403, &json!("Invalid")),
            "{answer}"
        );
        let head = format!("policy '{name}' with binding '{name}' denied request: ");
        assert!(
            text.starts_with(&head) && text.contains(want),
            "{n}: {text}"
        );
        for kind in ["policies", "policybindings"] {
            let uri = format!("{GROUP}/mutatingadmission{kind}/{name}");
            assert_eq!(ask(&server, Method::DELETE, &uri, Value::Null).await.0, 200);
        }
    }
    let mut ignored = apply("Object{other: 1}");
    ignored["failurePolicy"] = json!("Ignore");
    mutating(&server, "ignored", ignored, json!({})).await;
    made(&server, MAPS, map("x", json!({}))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn atomic_lists_are_patched_and_not_applied_and_keyed_ones_are_merged() {
    let server = server().await;
    let pods = "/api/v1/namespaces/default/pods?dryRun=All";
    let spec = |mutation: Value| {
        let mut spec = mutation;
        spec["reinvocationPolicy"] = json!("Never");
        spec
    };
    let policy = async |name: &str, mutation: Value| {
        let mut object = json!({"metadata": {"name": name}, "spec": spec(mutation)});
        object["spec"]["matchConstraints"] = json!({"resourceRules": [{"apiGroups": [""],
            "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"], "resourceNames": [name]}]});
        made(
            &server,
            &format!("{GROUP}/mutatingadmissionpolicies"),
            object,
        )
        .await;
        let binding = json!({"metadata": {"name": name}, "spec": {"policyName": name}});
        made(
            &server,
            &format!("{GROUP}/mutatingadmissionpolicybindings"),
            binding,
        )
        .await;
        let account = json!({"metadata": {"name": "default"}});
        post(
            &server,
            "/api/v1/namespaces/default/serviceaccounts",
            account,
        )
        .await;
        let pod = json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "a", "image": "i"}]}});
        post(&server, pods, pod).await
    };
    let (code, answer) = policy("args", apply(
        "Object{spec: Object.spec{containers: [Object.spec.containers{name: 'a', args: ['x']}]}}")).await;
    assert_eq!(code, 403);
    let text = answer["message"].as_str().expect("text");
    assert!(
        text.contains("may not mutate atomic arrays, maps or structs: .spec.containers[0].args"),
        "{text}"
    );
    let (code, pod) = policy("sidecar", apply(
        "Object{spec: Object.spec{containers: [Object.spec.containers{name: 'b', image: 'j'}, Object.spec.containers{name: 'a', env: [Object.spec.containers.env{name: 'E', value: 'v'}]}]}}")).await;
    assert_eq!(code, 201, "{pod}");
    let containers = pod["spec"]["containers"].as_array().expect("containers");
    assert_eq!(containers.len(), 2);
    let a = containers
        .iter()
        .find(|c| c["name"] == "a")
        .expect("it stays");
    assert_eq!(
        (&a["image"], &a["env"][0]["value"]),
        (&json!("i"), &json!("v"))
    );
    let b = containers
        .iter()
        .find(|c| c["name"] == "b")
        .expect("it came");
    assert_eq!(
        b["terminationMessagePath"], "/dev/termination-log",
        "defaulted"
    );
    let (code, pod) = policy(
        "patched",
        patch("[JSONPatch{op: 'add', path: '/spec/containers/0/args', value: ['x']}]"),
    )
    .await;
    assert_eq!(
        (code, &pod["spec"]["containers"][0]["args"]),
        (201, &json!(["x"]))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_are_asked_again_where_they_want_it() {
    let server = server().await;
    let count = |policy: &str, key: &str| {
        let mut spec = apply(&format!(
            "Object{{data: {{'{key}': has(object.data) && '{key}' in object.data ? object.data['{key}'] + 'x' : 'x'}}}}"
        ));
        spec["reinvocationPolicy"] = json!(policy);
        spec
    };
    mutating(&server, "again", count("IfNeeded", "again"), json!({})).await;
    mutating(&server, "once", count("Never", "once"), json!({})).await;
    let object = made(&server, MAPS, map("x", json!({"a": ""}))).await;
    assert_eq!(object["data"], json!({"a": "", "again": "xx", "once": "x"}));
    // Judged is what came of it all.
    validating(
        &server,
        "judge",
        json!({"validations": [
        {"expression": "object.data.again == 'xx'"}]}),
        json!({}),
    )
    .await;
    made(&server, MAPS, map("y", json!({"a": ""}))).await;
}
