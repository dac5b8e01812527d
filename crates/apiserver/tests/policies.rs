//! Policies of admission on a server: validating and mutating ones with bindings and parameters,
//! from their creation, which holds at once, to their end.

mod common;

use std::sync::Arc;

use apiserver::filters::tokens::Tokens;
use apiserver::{ApiServer, UserInfo, admission};
use common::{ask, get, post, request, send, server_with};
use http::Method;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;
use wire::jwt::Signer;

const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// A server with all plugins of a cluster.
async fn server() -> ApiServer {
    let (signer, _) = Signer::generate().expect("key");
    let tokens = Tokens::new(Arc::new(signer), "https://kubernetes.default.svc");
    let config =
        common::config_at("192.0.2.1", 6443).secured(tokens, &admission::Options::default());
    server_with(config).await
}

/// What policies of these tests match: ConfigMaps, but not those that the server keeps itself.
fn constraints(operations: &[&str]) -> Value {
    json!({
        "objectSelector": {"matchExpressions": [{"key": "t", "operator": "Exists"}]},
        "resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"],
            "operations": operations}],
    })
}

fn map(name: &str, data: Value) -> Value {
    json!({"metadata": {"name": name, "labels": {"t": "1"}}, "data": data})
}

async fn made(server: &ApiServer, uri: &str, object: Value) -> Value {
    let (code, made) = post(server, uri, object).await;
    assert_eq!(code, 201, "{made}");
    made
}

/// Makes a validating policy with a binding of the same name.
async fn validating(server: &ApiServer, name: &str, spec: Value, binding: Value) {
    let mut spec = spec;
    if spec.get("matchConstraints").is_none() {
        spec["matchConstraints"] = constraints(&["CREATE", "UPDATE"]);
    }
    let mut bound = json!({"policyName": name, "validationActions": ["Deny"]});
    for (key, value) in binding.as_object().expect("object") {
        bound[key] = value.clone();
    }
    let of = |spec: Value| json!({"metadata": {"name": name}, "spec": spec});
    let uri = |what: &str| format!("{GROUP}/validatingadmission{what}");
    made(server, &uri("policies"), of(spec)).await;
    made(server, &uri("policybindings"), of(bound)).await;
}

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
async fn a_policy_refuses_from_its_creation_to_its_end() {
    let server = server().await;
    let spec = json!({
        "variables": [{"name": "size", "expression": "has(object.data) ? object.data.size() : 0"}],
        "validations": [
            {"expression": "variables.size < 3", "messageExpression": "'has ' + string(variables.size) + ' entries'"},
            {"expression": "object.metadata.name != 'never'", "reason": "Forbidden", "message": "not that name"},
        ],
    });
    let policies = format!("{GROUP}/validatingadmissionpolicies");
    let bindings = format!("{GROUP}/validatingadmissionpolicybindings");
    let large = || map("large", json!({"a": "", "b": "", "c": ""}));
    let policy = json!({"metadata": {"name": "few.example.com"}, "spec": {
        "matchConstraints": constraints(&["CREATE", "UPDATE"]),
        "variables": spec["variables"], "validations": spec["validations"]}});
    let policy = made(&server, &policies, policy).await;
    assert_eq!(policy["spec"]["failurePolicy"], "Fail");
    // A policy without a binding does nothing.
    let dry = format!("{MAPS}?dryRun=All");
    assert_eq!(post(&server, &dry, large()).await.0, 201);
    let binding = json!({"metadata": {"name": "few"}, "spec": {
        "policyName": "few.example.com", "validationActions": ["Deny"]}});
    made(&server, &bindings, binding).await;

    let (code, refusal) = post(&server, MAPS, large()).await;
    assert_eq!((code, &refusal["reason"]), (422, &json!("Invalid")));
    let message = "ValidatingAdmissionPolicy 'few.example.com' with binding 'few' denied request: has 3 entries";
    assert_eq!(
        refusal["message"],
        format!("configmaps \"large\" is forbidden: {message}")
    );
    assert_eq!(refusal["details"]["causes"], json!([{"message": message}]));
    let (code, refusal) = post(&server, MAPS, map("never", json!({}))).await;
    assert_eq!((code, &refusal["reason"]), (403, &json!("Forbidden")));
    made(&server, MAPS, map("small", json!({"a": ""}))).await;
    // What the selector leaves out is not looked at.
    let mut other = large();
    other["metadata"] = json!({"name": "other"});
    made(&server, MAPS, other).await;
    // Updates are judged by the whole object, and deletions are not wanted.
    let grown = json!({"data": {"b": "", "c": ""}});
    let small = format!("{MAPS}/small");
    assert_eq!(
        ask(&server, Method::PATCH, &small, grown.clone()).await.0,
        422
    );
    assert_eq!(
        ask(&server, Method::DELETE, &small, Value::Null).await.0,
        200
    );

    let changed = json!({"spec": {"validations": [{"expression": "variables.size < 4"}]}});
    let (code, _) = ask(
        &server,
        Method::PATCH,
        &format!("{policies}/few.example.com"),
        changed,
    )
    .await;
    assert_eq!(code, 200);
    assert_eq!(post(&server, &dry, large()).await.0, 201);
    let larger = map("larger", json!({"a": "", "b": "", "c": "", "d": ""}));
    let (_, refusal) = post(&server, &dry, larger.clone()).await;
    let shown = refusal["message"].as_str().expect("text");
    assert!(
        shown.ends_with("failed expression: variables.size < 4"),
        "{shown}"
    );
    let (code, _) = ask(
        &server,
        Method::DELETE,
        &format!("{bindings}/few"),
        Value::Null,
    )
    .await;
    assert_eq!(code, 200);
    assert_eq!(post(&server, &dry, larger).await.0, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn actions_warn_and_deny() {
    let server = server().await;
    let spec = || json!({"validations": [{"expression": "object.metadata.name != 'loud'", "message": "too loud"}]});
    validating(
        &server,
        "warn",
        spec(),
        json!({"validationActions": ["Warn", "Audit"]}),
    )
    .await;
    let loud = map("loud", json!({})).to_string();
    let answer = send(&server, request(Method::POST, MAPS, common::JSON, loud)).await;
    assert_eq!(answer.status(), 201);
    let warning = answer.headers().get("warning").expect("a warning");
    assert_eq!(
        warning.to_str().expect("text"),
        "299 - \"Validation failed for ValidatingAdmissionPolicy 'warn' with binding 'warn': too loud\""
    );
    answer.into_body().collect().await.expect("body");
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_by_name_selector_and_of_custom_kinds() {
    let server = server().await;
    for (name, most, tier) in [("one", "1", "a"), ("two", "2", "b"), ("three", "3", "b")] {
        let object =
            json!({"metadata": {"name": name, "labels": {"tier": tier}}, "data": {"most": most}});
        made(&server, MAPS, object).await;
    }
    let spec = || {
        json!({
            "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
            "validations": [{"expression": "object.data.size() <= int(params.data.most)",
                "messageExpression": "'more than ' + params.data.most"}],
        })
    };
    let by = |param: Value| {
        json!({"paramRef": param,
        "matchResources": {"objectSelector": {"matchLabels": {"by": param["by"]}}}})
    };
    let named = |name: &str| json!({"by": "name", "name": name, "parameterNotFoundAction": "Deny"});
    let without = |mut param: Value| {
        let binding = by(param.clone());
        param.as_object_mut().expect("object").remove("by");
        let mut binding = binding;
        binding["paramRef"] = param;
        binding
    };
    validating(&server, "by-name", spec(), without(named("two"))).await;
    validating(&server, "by-label", spec(), without(json!({"by": "label",
        "selector": {"matchLabels": {"tier": "b"}}, "namespace": "default", "parameterNotFoundAction": "Deny"}))).await;
    validating(
        &server,
        "missing",
        spec(),
        without(json!({"by": "missing", "name": "nobody",
        "parameterNotFoundAction": "Deny"})),
    )
    .await;
    validating(
        &server,
        "allowed",
        spec(),
        without(json!({"by": "allowed", "name": "nobody",
        "parameterNotFoundAction": "Allow"})),
    )
    .await;
    let uri = format!("{MAPS}?dryRun=All");
    let say = async |by: &str, count: usize| {
        let data: Value = (0..count)
            .map(|n| (n.to_string(), json!("")))
            .collect::<serde_json::Map<_, _>>()
            .into();
        let mut object = map("x", data);
        object["metadata"]["labels"]["by"] = json!(by);
        let (code, answer) = post(&server, &uri, object).await;
        let text = answer["message"].as_str().unwrap_or_default();
        let said = text
            .rsplit("denied request: ")
            .next()
            .unwrap_or_default()
            .to_owned();
        (code, said)
    };
    let fine = (201, String::new());
    assert_eq!(say("name", 2).await, fine);
    assert_eq!(say("name", 3).await, (422, "more than 2".into()));
    // Every selected parameter is used.
    assert_eq!(say("label", 2).await, fine);
    assert_eq!(say("label", 3).await, (422, "more than 2".into()));
    let no = "failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction";
    assert_eq!(say("missing", 0).await, (422, no.into()));
    assert_eq!(say("allowed", 9).await, fine);
    // The parameter's change counts at once.
    let more = json!({"data": {"most": "9"}});
    assert_eq!(
        ask(&server, Method::PATCH, &format!("{MAPS}/two"), more)
            .await
            .0,
        200
    );
    assert_eq!(say("name", 3).await, fine);

    // A kind that nobody serves refuses by the failure policy.
    let unknown = |policy: &str| {
        json!({"failurePolicy": policy,
        "paramKind": {"apiVersion": "sea.example.com/v1", "kind": "Limit"},
        "validations": [{"expression": "object.data.size() <= params.most"}]})
    };
    let custom =
        || without(json!({"by": "custom", "name": "l", "parameterNotFoundAction": "Deny"}));
    validating(&server, "custom", unknown("Fail"), custom()).await;
    validating(&server, "custom-ignored", unknown("Ignore"), custom()).await;
    let no = "failed to configure policy: failed to find resource referenced by paramKind: 'sea.example.com/v1, Kind=Limit'";
    assert_eq!(say("custom", 0).await, (422, no.into()));
    let crd = json!({"metadata": {"name": "limits.sea.example.com"}, "spec": {
        "group": "sea.example.com", "scope": "Namespaced", "names": {"plural": "limits", "kind": "Limit"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
            "type": "object", "properties": {"most": {"type": "integer"}}}}}]}});
    made(
        &server,
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
        crd,
    )
    .await;
    let limits = "/apis/sea.example.com/v1/namespaces/default/limits";
    for _ in 0..3000 {
        if get(&server, limits).await.0 == 200 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let limit = json!({"apiVersion": "sea.example.com/v1", "kind": "Limit", "metadata": {"name": "l"}, "most": 1});
    made(&server, limits, limit).await;
    assert_eq!(say("custom", 1).await, fine);
    let text = say("custom", 2).await.1;
    assert_eq!(text, "failed expression: object.data.size() <= params.most");
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_authorizers_and_requests_are_seen() {
    let server = server().await;
    let labels = json!({"metadata": {"labels": {"env": "prod"}}});
    assert_eq!(
        ask(&server, Method::PATCH, "/api/v1/namespaces/default", labels)
            .await
            .0,
        200
    );
    let say = async |name: &str, expression: &str| {
        validating(
            &server,
            name,
            json!({"validations": [{"expression": expression}]}),
            json!({}),
        )
        .await;
        let (code, answer) = post(
            &server,
            &format!("{MAPS}?dryRun=All&fieldManager=me"),
            map("x", json!({})),
        )
        .await;
        for kind in ["policies", "policybindings"] {
            let uri = format!("{GROUP}/validatingadmission{kind}/{name}");
            ask(&server, Method::DELETE, &uri, Value::Null).await;
        }
        (code, answer)
    };
    for good in [
        "namespaceObject.metadata.labels['env'] == 'prod'",
        "request.namespace == 'default' && request.name == 'x' && request.dryRun",
        "request.options.kind == 'CreateOptions' && request.options.fieldManager == 'me'",
        "request.userInfo.username == 'tester' && 'system:masters' in request.userInfo.groups",
        "request.kind.kind == 'ConfigMap' && request.requestResource.resource == 'configmaps'",
        "authorizer.requestResource.check('delete').allowed()",
        "authorizer.path('/healthz').check('get').allowed()",
        "!authorizer.serviceAccount('default', 'default').group('').resource('secrets').namespace('default').check('get').allowed()",
        "authorizer.serviceAccount('kube-system', 'namespace-controller').group('').resource('pods').check('delete').allowed()",
        "oldObject == null && object.kind == 'ConfigMap' && object.apiVersion == 'v1'",
    ] {
        let (code, answer) = say("good", good).await;
        assert_eq!(code, 201, "{good}: {answer}");
    }
    let (code, answer) = say("wrong", "object.data.missing == ''").await;
    assert_eq!(code, 422);
    let text = answer["message"].as_str().expect("text");
    assert!(text.contains("resulted in error: no such key: "), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_may_judge_deletions_and_its_own_kind_never() {
    let server = server().await;
    let spec = json!({
        "matchConstraints": {"resourceRules": [{"apiGroups": ["*"], "apiVersions": ["*"],
            "resources": ["*"], "operations": ["DELETE"]}]},
        "matchConditions": [{"name": "kept", "expression": "has(oldObject.metadata.labels) && 'keep' in oldObject.metadata.labels"}],
        "validations": [{"expression": "object != null", "message": "is kept"}],
    });
    validating(&server, "keep", spec, json!({})).await;
    let kept = json!({"metadata": {"name": "kept", "labels": {"keep": ""}}});
    made(&server, MAPS, kept).await;
    made(&server, MAPS, json!({"metadata": {"name": "not"}})).await;
    let (code, refusal) = ask(
        &server,
        Method::DELETE,
        &format!("{MAPS}/kept"),
        Value::Null,
    )
    .await;
    assert_eq!(code, 422, "{refusal}");
    assert_eq!(
        ask(&server, Method::DELETE, &format!("{MAPS}/not"), Value::Null)
            .await
            .0,
        200
    );
    let labels = json!({"metadata": {"labels": {"keep": ""}}});
    let uri = format!("{GROUP}/validatingadmissionpolicybindings/keep");
    assert_eq!(ask(&server, Method::PATCH, &uri, labels).await.0, 200);
    assert_eq!(ask(&server, Method::DELETE, &uri, Value::Null).await.0, 200);
    assert_eq!(
        ask(
            &server,
            Method::DELETE,
            &format!("{MAPS}/kept"),
            Value::Null
        )
        .await
        .0,
        200
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn equivalent_versions_are_judged_in_the_version_of_the_rule() {
    let server = server().await;
    let scalers = |version: &str| {
        format!(
            "/apis/autoscaling/{version}/namespaces/default/horizontalpodautoscalers?dryRun=All"
        )
    };
    let spec = |version: &str, policy: &str, expression: &str| {
        json!({
        "matchConstraints": {"matchPolicy": policy, "resourceRules": [{"apiGroups": ["autoscaling"],
            "apiVersions": [version], "resources": ["horizontalpodautoscalers"], "operations": ["CREATE"]}]},
        "validations": [{"expression": expression}]})
    };
    validating(&server, "old", spec("v1", "Equivalent",
        "object.apiVersion == 'autoscaling/v1' && object.spec.targetCPUUtilizationPercentage < 80 && request.requestKind.version != request.kind.version"), json!({})).await;
    validating(&server, "exact", spec("v1", "Exact", "false"), json!({})).await;
    let object = |share: i64| {
        json!({"metadata": {"name": "x"}, "spec": {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "x"}, "maxReplicas": 3,
        "metrics": [{"type": "Resource", "resource": {"name": "cpu",
            "target": {"type": "Utilization", "averageUtilization": share}}}]}})
    };
    let (code, answer) = post(&server, &scalers("v2"), object(50)).await;
    assert_eq!(code, 201, "{answer}");
    assert_eq!(post(&server, &scalers("v2"), object(90)).await.0, 422);
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

#[tokio::test(flavor = "multi_thread")]
async fn expressions_are_checked_when_they_are_written() {
    let server = server().await;
    let policies = format!("{GROUP}/validatingadmissionpolicies");
    let policy = |expression: &str| {
        json!({"metadata": {"name": "p"}, "spec": {
        "matchConstraints": constraints(&["CREATE"]), "validations": [{"expression": expression}]}})
    };
    let (code, answer) = post(&server, &policies, policy("object.")).await;
    assert_eq!(code, 422);
    let cause = &answer["details"]["causes"][0];
    assert_eq!(cause["field"], "spec.validations[0].expression");
    let text = cause["message"].as_str().expect("text");
    assert!(
        text.starts_with(
            "Invalid value: \"object.\": compilation failed: ERROR: <input>:1:8: Syntax error"
        ),
        "{text}"
    );
    let good = made(&server, &policies, policy("true")).await;
    assert_eq!(good["metadata"]["generation"], 1);
    let bad = json!({"spec": {"validations": [{"expression": "1"}]}});
    let (code, _) = ask(&server, Method::PATCH, &format!("{policies}/p"), bad).await;
    assert_eq!(code, 422);
    let status = json!({"status": {"observedGeneration": 1, "typeChecking": {}}});
    let (code, _) = ask(
        &server,
        Method::PATCH,
        &format!("{policies}/p/status"),
        status,
    )
    .await;
    assert_eq!(code, 200);
    let (_, stored) = get(&server, &format!("{policies}/p")).await;
    assert_eq!(
        (
            &stored["status"]["observedGeneration"],
            &stored["metadata"]["generation"]
        ),
        (&json!(1), &json!(1))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_may_be_named_by_those_who_may_read_them() {
    let server = server().await;
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let rules = json!([{"apiGroups": ["admissionregistration.k8s.io"], "resources": ["*"], "verbs": ["*"]}]);
    made(
        &server,
        &format!("{rbac}/clusterroles"),
        json!({"metadata": {"name": "policies"}, "rules": rules}),
    )
    .await;
    let binding = json!({"metadata": {"name": "jane"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io",
        "kind": "ClusterRole", "name": "policies"}, "subjects": [{"kind": "User", "name": "jane", "apiGroup": "rbac.authorization.k8s.io"}]});
    made(&server, &format!("{rbac}/clusterrolebindings"), binding).await;
    let as_jane = async |uri: &str, object: Value| {
        let r = request(Method::POST, uri, common::JSON, object.to_string());
        let answer = server
            .local_service(UserInfo::new("jane", &[]))
            .oneshot(r)
            .await
            .expect("infallible");
        let code = answer.status().as_u16();
        let bytes = answer.into_body().collect().await.expect("body").to_bytes();
        (code, serde_json::from_slice::<Value>(&bytes).expect("JSON"))
    };
    let policy = |name: &str| {
        json!({"metadata": {"name": name}, "spec": {
        "paramKind": {"apiVersion": "v1", "kind": "Secret"}, "matchConstraints": constraints(&["CREATE"]),
        "validations": [{"expression": "true"}]}})
    };
    let policies = format!("{GROUP}/validatingadmissionpolicies");
    let (code, answer) = as_jane(&policies, policy("p")).await;
    assert_eq!(code, 422, "{answer}");
    let cause = &answer["details"]["causes"][0];
    assert_eq!(cause["field"], "spec.paramKind");
    assert!(cause["message"].as_str().expect("text").contains("must have \"get\" permission on all objects of the referenced paramKind (kind=Secret, apiVersion=v1)"), "{cause}");
    made(&server, &policies, policy("p")).await;
    let bindings = format!("{GROUP}/validatingadmissionpolicybindings");
    let bind = |name: &str| {
        json!({"metadata": {"name": name}, "spec": {"policyName": "p", "validationActions": ["Deny"],
        "paramRef": {"name": "s", "namespace": "default", "parameterNotFoundAction": "Deny"}}})
    };
    let (code, answer) = as_jane(&bindings, bind("b")).await;
    assert_eq!(code, 422, "{answer}");
    assert_eq!(answer["details"]["causes"][0]["field"], "spec.paramRef");
}
