//! Policies run on requests, and checked against kinds.

use cel::{Authorizer, Check, Decision as Answer};
use serde_json::{Value as Json, json};

use crate::*;

/// Allows what has this verb.
struct Only(&'static str);
impl Authorizer for Only {
    fn authorize(&self, check: &Check) -> Answer {
        Answer {
            allowed: check.verb == self.0,
            ..Answer::default()
        }
    }
}

fn request() -> Json {
    json!({
        "kind": {"group": "apps", "version": "v1", "kind": "Deployment"},
        "resource": {"group": "apps", "version": "v1", "resource": "deployments"},
        "requestKind": {"group": "apps", "version": "v1", "kind": "Deployment"},
        "name": "web", "namespace": "shop", "operation": "CREATE",
        "userInfo": {"username": "jane", "groups": ["a", "b"]},
        "dryRun": false, "options": {"kind": "CreateOptions"}
    })
}

/// Runs a policy on a Deployment with three replicas.
fn run(spec: &Json, params: Option<&Json>) -> Evaluated {
    let object = json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": {"replicas": 3}});
    let namespace = json!({"metadata": {"name": "shop", "labels": {"env": "prod"}}});
    Validating::compile(spec).run(&ExpressionInputs {
        object: Some(&object),
        old_object: None,
        params,
        request: &request(),
        namespace: Some(&namespace),
        authorizer: Some(&Only("create")),
        resource: &Check {
            resource: "deployments".into(),
            ..Check::default()
        },
    })
}

/// The messages of what is denied.
fn denied(spec: Json) -> Vec<String> {
    let ran = run(&spec, None);
    let denied = ran.decisions.into_iter().filter(|d| d.denied);
    denied.map(|d| d.message).collect()
}

fn one(expression: &str) -> Vec<String> {
    denied(json!({"validations": [{"expression": expression}]}))
}

#[test]
fn expressions_see_the_request_and_what_is_around_it() {
    for good in [
        "object.spec.replicas == 3 && oldObject == null",
        "object.metadata.namespace == request.namespace",
        "request.operation == 'CREATE' && request.name == 'web' && !request.dryRun",
        "request.userInfo.username == 'jane' && 'b' in request.userInfo.groups",
        "request.kind.kind == 'Deployment' && request.resource.resource == 'deployments'",
        "!has(request.subResource) && !has(request.userInfo.uid)",
        "request.options.kind == 'CreateOptions'",
        "namespaceObject.metadata.labels['env'] == 'prod'",
        "!has(namespaceObject.spec)",
        "authorizer.group('').resource('pods').check('create').allowed()",
        "authorizer.requestResource.check('create').allowed()",
        "!authorizer.requestResource.check('delete').allowed()",
    ] {
        assert_eq!(one(good), Vec::<String>::new(), "{good}");
    }
    assert_eq!(
        one("object.spec.replicas < 3"),
        ["failed expression: object.spec.replicas < 3"]
    );
    let wrong = one("object.spec.missing == 1");
    assert_eq!(
        wrong,
        ["expression 'object.spec.missing == 1' resulted in error: no such key: missing"]
    );
    let wrong = one("request.nothing == 1");
    assert!(
        wrong[0].starts_with(
            "compilation error: compilation failed: ERROR: <input>:1:8: undefined field 'nothing'"
        ),
        "{wrong:?}"
    );
    let wrong = one("object.spec.replicas");
    assert_eq!(
        wrong,
        ["compilation error: must evaluate to bool but got dyn"]
    );
}

#[test]
fn messages_come_from_expressions_then_texts_then_the_validation() {
    let validation = |more: Json| {
        let mut validation = json!({"expression": " false "});
        for (key, value) in more.as_object().expect("object") {
            validation[key] = value.clone();
        }
        denied(json!({"validations": [validation]}))
    };
    assert_eq!(validation(json!({})), ["failed expression: false"]);
    assert_eq!(validation(json!({"message": " no \n"})), ["no"]);
    let computed = json!({"message": "no", "messageExpression": "'not ' + object.metadata.name"});
    assert_eq!(validation(computed), ["not web"]);
    for source in ["'a\\nb'", "'   '", "object.missing", "'x'.substring(9)"] {
        let fallback = json!({"message": "no", "messageExpression": source});
        assert_eq!(validation(fallback), ["no"], "{source}");
    }
    // A message may not ask the authorizer: upstream does not declare it there.
    let asks = json!({"messageExpression": "authorizer.path('/a').check('get').reason()"});
    assert_eq!(validation(asks), ["failed expression: false"]);
    let long =
        json!({"message": "no", "messageExpression": "lists.range(3000).map(x, 'ab').join()"});
    assert_eq!(validation(long), ["no"]);
}

#[test]
fn reasons_and_failure_policies() {
    let spec = json!({"failurePolicy": "Ignore", "validations": [
        {"expression": "false", "reason": "Forbidden"},
        {"expression": "object.missing == 1"},
        {"expression": "true"},
    ]});
    let ran = run(&spec, None).decisions;
    let shown: Vec<_> = ran
        .iter()
        .map(|d| (d.outcome, d.denied, &*d.reason))
        .collect();
    assert_eq!(
        shown,
        [
            (Outcome::Denied, true, "Forbidden"),
            (Outcome::Error, false, ""),
            (Outcome::Admitted, false, ""),
        ]
    );
    assert_eq!(
        run(&json!({"validations": [{"expression": "false"}]}), None).decisions[0].reason,
        "Invalid"
    );
}

#[test]
fn variables_are_composed_and_run_once() {
    let spec = |validation: &str| {
        json!({
            "variables": [
                {"name": "replicas", "expression": "object.spec.replicas"},
                {"name": "odd", "expression": "variables.replicas % 2 == 1"},
                {"name": "broken", "expression": "nothing"},
            ],
            "validations": [{"expression": validation}],
        })
    };
    assert_eq!(
        denied(spec("variables.odd && variables.replicas > 2")),
        Vec::<String>::new()
    );
    assert_eq!(
        denied(spec("true || variables.broken")),
        Vec::<String>::new()
    );
    let wrong = denied(spec("variables.broken"));
    assert!(
        wrong[0].contains("must evaluate to bool but got dyn"),
        "{wrong:?}"
    );
    let wrong = denied(spec("variables.broken == 1"));
    assert!(
        wrong[0].contains("composited variable \"broken\" fails to compile: "),
        "{wrong:?}"
    );
}

#[test]
fn match_conditions_come_first() {
    let spec = |conditions: &[&str], policy: &str| {
        let conditions = conditions
            .iter()
            .map(|c| json!({"name": "a", "expression": c}));
        json!({"failurePolicy": policy, "matchConditions": conditions.collect::<Vec<_>>(),
            "validations": [{"expression": "false", "message": "judged"}]})
    };
    let judged = ["judged".to_owned()];
    assert_eq!(
        denied(spec(&["true", "request.name == 'web'"], "Fail")),
        judged
    );
    assert!(denied(spec(&["true", "false"], "Fail")).is_empty());
    // What is false counts more than what cannot be evaluated.
    assert!(denied(spec(&["object.missing", "false"], "Fail")).is_empty());
    let wrong = denied(spec(&["object.missing == 1", "true"], "Fail"));
    assert!(
        wrong[0].ends_with("resulted in error: no such key: missing"),
        "{wrong:?}"
    );
    let wrong = denied(spec(&["object.a == 1", "object.b == 1"], "Fail"));
    assert!(
        wrong[0].starts_with("[expression 'object.a == 1' ") && wrong[0].ends_with("key: b]"),
        "{wrong:?}"
    );
    assert!(denied(spec(&["object.missing == 1"], "Ignore")).is_empty());
}

#[test]
fn parameters_are_read_and_may_be_missing() {
    let spec = json!({"paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "validations": [{"expression": "params == null || object.spec.replicas <= int(params.data.max)"}]});
    let given = json!({"data": {"max": "2"}});
    assert!(run(&spec, Some(&given)).decisions[0].denied);
    assert!(!run(&spec, None).decisions[0].denied);
    // Without a kind of parameters there is no such variable.
    assert!(one("params == null")[0].contains("undeclared reference to 'params'"));
}

#[test]
fn audit_annotations() {
    let spec = |policy: &str, source: &str| {
        json!({"failurePolicy": policy,
        "auditAnnotations": [{"key": "seen", "valueExpression": source}]})
    };
    let annotation = |policy, source| run(&spec(policy, source), None).annotations.remove(0);
    let value = |text: &str| Annotation::Publish {
        key: "seen".into(),
        value: text.into(),
    };
    assert_eq!(
        annotation("Fail", "' ' + object.metadata.name"),
        value("web")
    );
    assert_eq!(annotation("Fail", "''"), Annotation::Nothing);
    assert_eq!(annotation("Fail", "null"), Annotation::Nothing);
    assert_eq!(
        annotation("Ignore", "string(object.missing)"),
        Annotation::Nothing
    );
    assert!(matches!(
        annotation("Fail", "string(object.missing)"),
        Annotation::Error(_)
    ));
    assert!(matches!(annotation("Fail", "1"), Annotation::Error(what)
        if what == "compilation error: must evaluate to one of [string null_type] but got int"));
}

#[test]
fn what_costs_too_much_fails_once_for_all() {
    let costly = "lists.range(300).all(x, lists.range(300).all(y, x + y >= 0))";
    let spec = json!({"validations": vec![json!({"expression": costly}); 30]});
    let ran = run(&spec, None).decisions;
    assert_eq!(ran.len(), 1);
    assert_eq!((ran[0].outcome, ran[0].denied), (Outcome::Error, true));
    assert!(
        ran[0]
            .message
            .starts_with("validation failed due to running out of cost budget")
    );
    let beyond = format!("lists.range(9).all(z, {costly})");
    let wrong = one(&beyond);
    assert!(
        wrong[0].ends_with("operation cancelled: actual cost limit exceeded"),
        "{wrong:?}"
    );
}

#[test]
fn variables_may_not_nest_without_end() {
    let deep = |from: &str| (0..100).fold(from.to_owned(), |text, _| format!("[{text}][0]"));
    let mut compiler = Compiler::new(false, true);
    assert_eq!(compiler.variable("v0", &deep("1")), None);
    let wrong: Vec<_> = (1..9)
        .filter_map(|n| {
            compiler.variable(&format!("v{n}"), &deep(&format!("variables.v{}", n - 1)))
        })
        .collect();
    assert!(
        wrong[0].starts_with("expression recursion limit exceeded"),
        "{wrong:?}"
    );
}

#[test]
fn mutations_give_patches() {
    let patch = |mutation: Json| {
        let spec = json!({"variables": [{"name": "n", "expression": "object.spec.replicas + 1"}],
            "mutations": [mutation]});
        let policy = Mutating::compile(&spec);
        let object = json!({"spec": {"replicas": 3}});
        let check = Check::default();
        let request = request();
        let given = ExpressionInputs {
            object: Some(&object),
            old_object: None,
            params: None,
            request: &request,
            namespace: None,
            authorizer: None,
            resource: &check,
        };
        assert_eq!(policy.matches(&given), Matched::Yes);
        policy.patch(&policy.mutations[0], &given)
    };
    let apply = |source: &str| {
        patch(json!({"patchType": "ApplyConfiguration",
        "applyConfiguration": {"expression": source}}))
    };
    let operations = |source: &str| {
        patch(json!({"patchType": "JSONPatch",
        "jsonPatch": {"expression": source}}))
    };
    assert_eq!(
        apply("Object{spec: Object.spec{replicas: variables.n}}"),
        Ok(Patch::Apply(json!({"spec": {"replicas": 4}})))
    );
    assert_eq!(
        apply("{'spec': 1}"),
        Err("must evaluate to Object but got map(string, int)".into())
    );
    let wrong = apply("Object{spec: Object.metadata{}}").expect_err("misplaced");
    assert!(
        wrong.starts_with("type mismatch: unexpected type name \"Object.metadata\""),
        "{wrong}"
    );
    assert_eq!(
        operations("[JSONPatch{op: 'add', path: '/x', value: Object.spec{a: [1]}}]"),
        Ok(Patch::Json(
            json!([{"op": "add", "path": "/x", "value": {"a": [1]}}])
        ))
    );
    assert_eq!(
        operations("true ? [] : [JSONPatch{op: 'remove', path: '/x'}]"),
        Ok(Patch::Json(json!([])))
    );
    let wrong = operations("[1]").expect_err("no operations");
    assert_eq!(wrong, "must evaluate to list(JSONPatch) but got list(int)");
}

fn document() -> Json {
    let gvk = json!([{"group": "apps", "version": "v1", "kind": "Deployment"}]);
    json!({"components": {"schemas": {
        "D": {"type": "object", "x-kubernetes-group-version-kind": gvk, "properties": {
            "metadata": {"allOf": [{"$ref": "#/components/schemas/Meta"}], "default": {}},
            "spec": {"allOf": [{"$ref": "#/components/schemas/Spec"}]},
        }},
        "Meta": {"type": "object", "properties": {
            "name": {"type": "string"},
            "namespace": {"type": "string"},
            "creationTimestamp": {"type": "string", "format": "date-time"},
            "labels": {"type": "object", "additionalProperties": {"type": "string", "default": ""}},
        }},
        "Spec": {"type": "object", "properties": {
            "replicas": {"type": "integer", "format": "int32"},
            "limits": {"type": "object", "additionalProperties": {"$ref": "#/components/schemas/Quantity"}},
            "port": {"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]},
            "items": {"type": "array", "items": {"$ref": "#/components/schemas/Spec"}},
        }},
        "Quantity": {"oneOf": [{"type": "string"}, {"type": "number"}]},
    }}})
}

#[test]
fn types_of_kinds_come_from_what_is_published() {
    let decl = declare(&document(), "apps", "v1", "Deployment").expect("described");
    let kind = MatchedKind {
        group: "apps".into(),
        version: "v1".into(),
        kind: "Deployment".into(),
    };
    let warnings = |source: &str| {
        let spec = json!({"validations": [{"expression": source}]});
        let all = check(&spec, &[(kind.clone(), decl.clone())], None);
        all.into_iter()
            .map(|w| (w.field, w.warning))
            .collect::<Vec<_>>()
    };
    for good in [
        "object.spec.replicas > 1 && object.metadata.namespace == 'a'",
        "object.metadata.labels['a'] == 'b' && oldObject.kind == 'Deployment'",
        "object.spec.limits['cpu'] == '1' && object.spec.port == 1",
        "object.metadata.creationTimestamp > timestamp('2020-01-01T00:00:00Z')",
        "object.spec.items.all(i, true) && params == null || true",
        "authorizer.requestResource.check('get').allowed()",
    ] {
        let known = good.contains("params");
        assert_eq!(
            warnings(good).is_empty(),
            !known,
            "{good}: {:?}",
            warnings(good)
        );
    }
    let wrong = warnings("object.spec.replicas > '1'");
    assert_eq!(wrong[0].0, "spec.validations[0].expression");
    assert_eq!(
        wrong[0].1,
        "apps/v1, Kind=Deployment: ERROR: <input>:1:22: found no matching overload for '_>_' applied to '(int, string)'\n | object.spec.replicas > '1'\n | .....................^\n"
    );
    assert!(
        warnings("object.spec.maxRetries < 10")[0]
            .1
            .contains("undefined field 'maxRetries'")
    );
}

#[test]
fn variables_and_messages_are_checked_as_well() {
    let decl = declare(&document(), "apps", "v1", "Deployment").expect("described");
    let kind = MatchedKind {
        group: String::new(),
        version: "v1".into(),
        kind: "Deployment".into(),
    };
    let spec = json!({"paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
    "variables": [{"name": "n", "expression": "object.spec.replicas"}],
    "validations": [
        {"expression": "variables.n > 1 && params.anything"},
        {"expression": "variables.n > 'a'", "messageExpression": "'got ' + variables.n"},
    ]});
    let all = check(&spec, &[(kind, decl.clone())], None);
    let fields: Vec<_> = all.iter().map(|w| &*w.field).collect();
    assert_eq!(
        fields,
        [
            "spec.validations[1].expression",
            "spec.validations[1].messageExpression"
        ]
    );
    assert!(all[0].warning.starts_with("/v1, Kind=Deployment: ERROR"));
    let typed = check(&spec, &[], Some(&decl));
    assert!(typed.is_empty());
}

#[test]
fn kinds_to_check_are_those_that_rules_name() {
    let rule = |groups: &[&str], versions: &[&str], resources: &[&str]| json!({"apiGroups": groups, "apiVersions": versions, "resources": resources});
    let wanted = |rules: &[Json]| {
        let spec = json!({"matchConstraints": {"resourceRules": rules}});
        let found = wanted(&spec, |group, version, resource| {
            (resource != "unknown").then(|| MatchedKind {
                group: group.into(),
                version: version.into(),
                kind: resource.into(),
            })
        });
        found.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let apps = rule(
        &["apps"],
        &["v1"],
        &["deployments", "unknown", "pods/status", "*"],
    );
    let core = rule(&[""], &["v1"], &["pods"]);
    assert_eq!(
        wanted(&[apps, core]),
        ["/v1, Kind=pods", "apps/v1, Kind=deployments"]
    );
    assert!(
        wanted(&[
            rule(&["*"], &["v1"], &["pods"]),
            rule(&[""], &["*"], &["pods"])
        ])
        .is_empty()
    );
    let many: Vec<String> = (10..40).map(|n| format!("r{n}")).collect();
    let many: Vec<&str> = many.iter().map(|s| &**s).collect();
    assert_eq!(wanted(&[rule(&["a"], &["v1"], &many)]).len(), 10);
}
