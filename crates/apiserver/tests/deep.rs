//! Trees that clients make as deep as they may, and deeper: expressions in every place that takes
//! them, schemas, objects, patches. Over TLS, since it is the server's threads whose stacks count:
//! whatever is refused, the server lives and says why.

mod common;
#[path = "common/over_tls.rs"]
mod over_tls;

use apiserver::filters::authorization::config::AuthorizationConfiguration;
use http::{Method, Request};
use over_tls::{Running, ask, start};
use serde_json::{Value, json};

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const ADMISSION: &str = "/apis/admissionregistration.k8s.io/v1";
const RULES: &str = "expression recursion limit exceeded: 250";
const HANGING: &str = "max recursion depth exceeded";

fn around(open: &str, middle: &str, close: &str, n: usize) -> String {
    format!("{}{middle}{}", open.repeat(n), close.repeat(n))
}

/// Expressions that give a bool: how deep, and what is said of one level more.
fn shapes(more: usize) -> Vec<(String, &'static str)> {
    let n = |most: usize| most + more;
    let lists = around("[", "", "]", n(249));
    vec![
        (around("(", "true", ")", n(249)), RULES),
        (around("!(", "true", ")", n(249)), RULES),
        (format!("{}true", "true ? true : ".repeat(n(249))), RULES),
        (format!("{lists} == {lists}"), RULES),
        (
            format!("{}.size() == 1", around("{'a': ", "1", "}", n(249))),
            RULES,
        ),
        (format!("'a'{} == 'a'", ".trim()".repeat(n(249))), HANGING),
        (around("[1].exists(x, ", "true", ")", n(249)), RULES),
        (format!("true{}", " == true".repeat(n(250))), HANGING),
    ]
}

fn definition(name: &str, schema: &Value, columns: &Value) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{name}s.deep.example.com")},
        "spec": {
            "group": "deep.example.com", "scope": "Namespaced",
            "names": {"plural": format!("{name}s"), "kind": name, "singular": name, "listKind": format!("{name}List")},
            "versions": [{
                "name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema},
                "additionalPrinterColumns": columns,
            }],
        },
    })
}

fn ruled(rule: &Value) -> Value {
    let schema = json!({"type": "object", "x-kubernetes-validations": [rule]});
    definition("ruled", &schema, &json!([]))
}

/// All kinds with expressions, each made around one; and where it is made.
fn places(text: &str) -> Vec<(String, Value)> {
    let rules = json!({"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"],
        "resources": ["configmaps"], "operations": ["CREATE"]}]});
    let named = |spec: Value| json!({"metadata": {"name": "deep.example.com"}, "spec": spec});
    let conditions = json!([{"name": "deep", "expression": text}]);
    let hook = |kind: &str| {
        let hook = json!({
            "name": "deep.example.com", "admissionReviewVersions": ["v1"], "sideEffects": "None",
            "clientConfig": {"url": "https://127.0.0.1:1/"}, "matchConditions": conditions,
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"], "operations": ["CREATE"]}],
        });
        (
            format!("{ADMISSION}/{kind}"),
            json!({"metadata": {"name": "deep"}, "webhooks": [hook]}),
        )
    };
    let validating = |spec: Value| {
        let mut all = json!({"matchConstraints": rules, "validations": [{"expression": "true"}]});
        for (key, value) in spec.as_object().into_iter().flatten() {
            all[key] = value.clone();
        }
        (
            format!("{ADMISSION}/validatingadmissionpolicies"),
            named(all),
        )
    };
    let mutating = |spec: Value| {
        let mut all = json!({"matchConstraints": rules, "reinvocationPolicy": "Never", "mutations": [
            {"patchType": "JSONPatch", "jsonPatch": {"expression": "[]"}}]});
        for (key, value) in spec.as_object().into_iter().flatten() {
            all[key] = value.clone();
        }
        (format!("{ADMISSION}/mutatingadmissionpolicies"), named(all))
    };
    let chosen = format!("({text}) ? 'a' : 'b'");
    let changed = |value: &str| format!("[JSONPatch{{op: 'add', path: '/data', value: {value}}}]");
    vec![
        (CRDS.into(), ruled(&json!({"rule": text}))),
        (
            CRDS.into(),
            ruled(&json!({"rule": "true", "messageExpression": chosen})),
        ),
        hook("validatingwebhookconfigurations"),
        hook("mutatingwebhookconfigurations"),
        validating(json!({"validations": [{"expression": text}]})),
        validating(json!({"validations": [{"expression": "true", "messageExpression": chosen}]})),
        validating(json!({"matchConditions": conditions})),
        validating(json!({"variables": [{"name": "v", "expression": text}]})),
        validating(json!({"auditAnnotations": [{"key": "k", "valueExpression": chosen}]})),
        mutating(json!({"matchConditions": conditions})),
        mutating(json!({"variables": [{"name": "v", "expression": text}]})),
        mutating(json!({"mutations": [{"patchType": "JSONPatch",
            "jsonPatch": {"expression": changed(&chosen)}}]})),
        mutating(
            json!({"mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration":
            {"expression": format!("({text}) ? Object{{}} : Object{{}}")}}]}),
        ),
    ]
}

async fn alive(running: &Running) {
    let admin = running.admin().await;
    let (code, _) = ask(&admin, Method::GET, "/version", &Value::Null).await;
    assert_eq!(code, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn expressions_are_refused_where_they_are_too_deep() {
    let running = start(|_| {}).await;
    let admin = running.admin().await;
    for (text, words) in shapes(1) {
        for (at, object) in places(&text) {
            let (code, said) = ask(&admin, Method::POST, &at, &object).await;
            let message = said["message"].as_str().unwrap_or_default();
            let short = message.get(..300).unwrap_or(message);
            assert_eq!(code, 422, "{at}: {short}");
            // What is written around an expression may meet the other limit.
            let told = message.contains(words) || message.contains(RULES);
            assert!(told, "{at}: {short}");
        }
        let configuration = json!({
            "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthorizationConfiguration",
            "authorizers": [{"type": "Webhook", "name": "w", "webhook": {
                "timeout": "3s", "subjectAccessReviewVersion": "v1", "failurePolicy": "Deny",
                "matchConditionSubjectAccessReviewVersion": "v1",
                "connectionInfo": {"type": "InClusterConfig"},
                "matchConditions": [{"expression": text}]}}],
        });
        let read = AuthorizationConfiguration::read(configuration.to_string().as_bytes());
        let said = read.err().unwrap_or_default();
        assert!(said.contains(words), "{}", said.get(..300).unwrap_or(&said));
    }
    alive(&running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn expressions_as_deep_as_they_may_be_run() {
    let running = start(|_| {}).await;
    let admin = running.admin().await;
    let maps = "/api/v1/namespaces/default/configmaps?dryRun=All";
    for (text, _) in shapes(0) {
        let at = format!("{ADMISSION}/validatingadmissionpolicies");
        let policy = json!({"metadata": {"name": "deep.example.com"}, "spec": {
            "validations": [{"expression": text, "message": "told"}],
            "variables": [{"name": "v", "expression": text}],
            "matchConditions": [{"name": "c", "expression": text}],
            "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"],
                "resources": ["configmaps"], "operations": ["CREATE"]}]},
        }});
        let (code, said) = ask(&admin, Method::POST, &at, &policy).await;
        assert_eq!(code, 200, "{}", said["message"]);
        let binding = json!({"metadata": {"name": "deep"},
            "spec": {"policyName": "deep.example.com", "validationActions": ["Deny"]}});
        let bindings = format!("{ADMISSION}/validatingadmissionpolicybindings");
        assert_eq!(ask(&admin, Method::POST, &bindings, &binding).await.0, 200);
        let map = json!({"metadata": {"generateName": "m"}});
        let (code, said) = ask(&admin, Method::POST, maps, &map).await;
        let message = said["message"].as_str().unwrap_or_default();
        // Where it is false, the condition leaves the policy out.
        assert_eq!(code, 200, "{}", message.get(..300).unwrap_or(message));
        for gone in [format!("{at}/deep.example.com"), format!("{bindings}/deep")] {
            assert_eq!(
                ask(&admin, Method::DELETE, &gone, &Value::Null).await.0,
                200
            );
        }
        let (code, said) = ask(&admin, Method::POST, CRDS, &ruled(&json!({"rule": text}))).await;
        assert!(code == 200 || code == 422, "{said}");
        let at = format!("{CRDS}/ruleds.deep.example.com");
        ask(&admin, Method::DELETE, &at, &Value::Null).await;
        // It goes when its objects are known to be gone.
        while ask(&admin, Method::GET, &at, &Value::Null).await.0 != 404 {
            tokio::task::yield_now().await;
        }
    }
    alive(&running).await;
}

fn nested(n: usize, inner: i64) -> Value {
    (0..n).fold(inner.into(), |value, _| json!({"a": value}))
}

/// A schema that is as deep as a body may be, in one of the ways that schemas nest.
fn schemas() -> Vec<Value> {
    let open = [
        ("{\"type\":\"object\",\"properties\":{\"a\":", "}}", 43),
        ("{\"type\":\"array\",\"items\":", "}", 85),
        ("{\"type\":\"object\",\"additionalProperties\":", "}", 85),
        ("{\"not\":", "}", 85),
        ("{\"allOf\":[", "]}", 43),
    ];
    let whole = |(open, close, n): (&str, &str, usize)| {
        let inner: Value =
            serde_json::from_str(&around(open, "{\"type\":\"string\"}", close, n)).expect("JSON");
        json!({"type": "object", "properties": {"spec": inner}})
    };
    open.into_iter().map(whole).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn schemas_and_columns_are_as_deep_as_a_body_may_be() {
    let running = start(|_| {}).await;
    let admin = running.admin().await;
    for (n, schema) in schemas().iter().enumerate() {
        let crd = definition(&format!("schema{n}"), schema, &json!([]));
        let (code, said) = ask(&admin, Method::POST, CRDS, &crd).await;
        assert!(code == 200 || code == 422, "{code} {said}");
        alive(&running).await;
    }
    for path in ["/openapi/v2", "/openapi/v3/apis/deep.example.com/v1"] {
        let asked = Request::get(path).body(Vec::new()).expect("request");
        let _ = admin.request_text(asked).await;
    }
    let path = format!(".spec{}.a{}", "[?(@.a".repeat(600), ")]".repeat(600));
    let columns = json!([{"name": "Deep", "type": "string", "jsonPath": path}]);
    let crd = definition("column", &json!({"type": "object"}), &columns);
    assert_eq!(ask(&admin, Method::POST, CRDS, &crd).await.0, 200);
    let columns = "/apis/deep.example.com/v1/namespaces/default/columns";
    while ask(&admin, Method::GET, columns, &Value::Null).await.0 != 200 {
        tokio::task::yield_now().await;
    }
    let object =
        json!({"apiVersion": "deep.example.com/v1", "kind": "column", "metadata": {"name": "a"}});
    assert_eq!(ask(&admin, Method::POST, columns, &object).await.0, 200);
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let asked = Request::get(columns)
        .header("accept", table)
        .body(Vec::new())
        .expect("request");
    let _ = admin.request_text(asked).await;
    alive(&running).await;
}

async fn with(client: &kube::Client, method: Method, at: &str, media: &str, body: String) -> u16 {
    let request = Request::builder()
        .method(method)
        .uri(at)
        .header("content-type", media);
    match client
        .request::<Value>(request.body(body.into_bytes()).expect("request"))
        .await
    {
        Ok(_) => 200,
        Err(kube::Error::Api(status)) => status.code,
        Err(e) => panic!("{at}: {e}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_and_patches_are_as_deep_as_a_body_may_be() {
    let running = start(|_| {}).await;
    let admin = running.admin().await;
    let spec = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let schema = json!({"type": "object", "properties": {"spec": spec}});
    let crd = definition("thing", &schema, &json!([]));
    assert_eq!(ask(&admin, Method::POST, CRDS, &crd).await.0, 200);
    let things = "/apis/deep.example.com/v1/namespaces/default/things";
    while ask(&admin, Method::GET, things, &Value::Null).await.0 != 200 {
        tokio::task::yield_now().await;
    }
    let deepest = |name: &str, n: usize| {
        json!({"apiVersion": "deep.example.com/v1", "kind": "thing",
        "metadata": {"name": name}, "spec": nested(n, 1)})
    };
    assert_eq!(
        ask(&admin, Method::POST, things, &deepest("a", 97)).await.0,
        200
    );
    assert_eq!(
        ask(&admin, Method::POST, things, &deepest("b", 2_000))
            .await
            .0,
        400
    );
    let at = format!("{things}/a?fieldManager=deep&force=true");
    let apply = deepest("a", 97).to_string();
    assert_eq!(
        with(
            &admin,
            Method::PATCH,
            &at,
            "application/apply-patch+yaml",
            apply
        )
        .await,
        200
    );
    let at = format!("{things}/a");
    let merge = json!({"spec": nested(97, 2)}).to_string();
    assert_eq!(
        with(
            &admin,
            Method::PATCH,
            &at,
            "application/merge-patch+json",
            merge
        )
        .await,
        200
    );
    let pointer = format!("/spec{}", "/a".repeat(90));
    let patch =
        |value: Value| json!([{"op": "replace", "path": pointer, "value": value}]).to_string();
    let media = "application/json-patch+json";
    assert_eq!(
        with(&admin, Method::PATCH, &at, media, patch(json!(3))).await,
        200
    );
    let beyond = with(&admin, Method::PATCH, &at, media, patch(nested(50, 3))).await;
    assert!((400..500).contains(&beyond), "{beyond}");
    let beyond = with(&admin, Method::PATCH, &at, media, patch(nested(1_500, 3))).await;
    assert!((400..500).contains(&beyond), "{beyond}");
    alive(&running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_policy_makes_is_no_deeper_than_what_a_client_may_send() {
    let running = start(|_| {}).await;
    let admin = running.admin().await;
    let spec = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let schema = json!({"type": "object", "properties": {"spec": spec}});
    let crd = definition("made", &schema, &json!([]));
    assert_eq!(ask(&admin, Method::POST, CRDS, &crd).await.0, 200);
    let mades = "/apis/deep.example.com/v1/namespaces/default/mades";
    while ask(&admin, Method::GET, mades, &Value::Null).await.0 != 200 {
        tokio::task::yield_now().await;
    }
    let deep = around("{'a': ", "1", "}", 240);
    let text = format!("[JSONPatch{{op: 'add', path: '/spec', value: {deep}}}]");
    let rules = json!({"resourceRules": [{"apiGroups": ["deep.example.com"], "apiVersions": ["v1"],
        "resources": ["mades"], "operations": ["CREATE"]}]});
    let policy = json!({"metadata": {"name": "deep"}, "spec": {"matchConstraints": rules,
        "reinvocationPolicy": "Never", "failurePolicy": "Fail",
        "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": text}}]}});
    let at = format!("{ADMISSION}/mutatingadmissionpolicies");
    let (code, said) = ask(&admin, Method::POST, &at, &policy).await;
    assert_eq!(code, 200, "{said}");
    let binding = json!({"metadata": {"name": "deep"}, "spec": {"policyName": "deep"}});
    let at = format!("{ADMISSION}/mutatingadmissionpolicybindings");
    assert_eq!(ask(&admin, Method::POST, &at, &binding).await.0, 200);
    let object =
        json!({"apiVersion": "deep.example.com/v1", "kind": "made", "metadata": {"name": "a"}});
    let (code, said) = ask(&admin, Method::POST, mades, &object).await;
    assert!((400..=500).contains(&code), "{code} {said}");
    assert_eq!(
        ask(&admin, Method::GET, &format!("{mades}/a"), &Value::Null)
            .await
            .0,
        404
    );
    alive(&running).await;
}
