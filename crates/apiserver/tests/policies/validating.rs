//! Validating policies: what they refuse and warn of, by which parameters, and who may write them.

use apiserver::UserInfo;
use http::Method;
use http_body_util::BodyExt;
use tower::ServiceExt;

use super::common::{ask, get, request, send};
use super::*;

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
    // The parameter's change counts as soon as the cache has it: after a read of now it does.
    let more = json!({"data": {"most": "9"}});
    let two = format!("{MAPS}/two");
    assert_eq!(ask(&server, Method::PATCH, &two, more).await.0, 200);
    assert_eq!(get(&server, &two).await.1["data"]["most"], "9");
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
