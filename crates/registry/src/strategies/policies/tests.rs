//! What is wrong with policies and bindings, and what becomes of those that are right.

use serde_json::{Value, json};

use super::*;

fn context<'a>(subresource: &'a str) -> Context<'a> {
    Context {
        user: "jane",
        subresource,
        ..Context::of_nobody()
    }
}

fn rule() -> Value {
    json!({"operations": ["CREATE"], "apiGroups": ["apps"], "apiVersions": ["v1"],
        "resources": ["deployments"]})
}

fn validating() -> Value {
    json!({"metadata": {"name": "p.example.com"}, "spec": {
        "matchConstraints": {"resourceRules": [rule()]},
        "validations": [{"expression": "object.spec.replicas < 5"}],
    }})
}

fn mutating() -> Value {
    json!({"metadata": {"name": "p.example.com"}, "spec": {
        "matchConstraints": {"resourceRules": [rule()]},
        "reinvocationPolicy": "Never",
        "mutations": [{"patchType": "ApplyConfiguration",
            "applyConfiguration": {"expression": "Object{spec: Object.spec{replicas: 2}}"}}],
    }})
}

/// Field and message of each error, after defaults.
fn wrong(strategy: &dyn Strategy, mut object: Value) -> Vec<String> {
    strategy.default(&mut object);
    let errors = strategy.validate(&object, &context(""));
    let shown = errors.iter();
    shown
        .map(|e| format!("{}: {}", e.field.as_str(), e.message()))
        .collect()
}

/// Errors of a good object with one member changed.
fn changed(strategy: &dyn Strategy, mut object: Value, pointer: &str, to: Value) -> Vec<String> {
    let (parent, last) = pointer.rsplit_once('/').expect("a pointer");
    object.pointer_mut(parent).expect("it is there")[last] = to;
    wrong(strategy, object)
}

const VALIDATING: AdmissionPolicy = AdmissionPolicy { mutating: false };
const MUTATING: AdmissionPolicy = AdmissionPolicy { mutating: true };

#[test]
fn good_policies_get_defaults() {
    let mut object = validating();
    VALIDATING.default(&mut object);
    assert_eq!(object["spec"]["failurePolicy"], "Fail");
    let constraints = &object["spec"]["matchConstraints"];
    assert_eq!(constraints["matchPolicy"], "Equivalent");
    assert_eq!(constraints["resourceRules"][0]["scope"], "*");
    assert_eq!(constraints["namespaceSelector"], json!({}));
    assert!(wrong(&VALIDATING, validating()).is_empty());
    assert!(wrong(&MUTATING, mutating()).is_empty());
    let reserved = json!({"metadata": {"name": "a.static.k8s.io"}});
    assert_eq!(VALIDATING.warnings(&reserved, None).len(), 1);
}

#[test]
fn expressions_are_compiled() {
    let one = |field: &str, source: &str| {
        changed(
            &VALIDATING,
            validating(),
            &format!("/spec/validations/0/{field}"),
            json!(source),
        )
    };
    let shown = one("expression", "object.spec.");
    assert_eq!(shown.len(), 1);
    assert!(
        shown[0].starts_with("spec.validations[0].expression: Invalid value: \"object.spec.\": compilation failed: ERROR: <input>:1:13: Syntax error: "),
        "{shown:?}"
    );
    assert_eq!(
        one("expression", "object.spec"),
        [
            "spec.validations[0].expression: Invalid value: \"object.spec\": must evaluate to bool but got dyn"
        ]
    );
    assert!(
        one("messageExpression", "authorizer.path('/')")[0]
            .contains("undeclared reference to 'authorizer'")
    );
    assert!(one("expression", "params.x == 1")[0].contains("undeclared reference to 'params'"));
    assert!(
        one("expression", "variables.x == 1")[0].contains("undeclared reference to 'variables'")
    );
    assert_eq!(
        one("expression", " "),
        ["spec.validations[0].expression: Required value: expression is not specified"]
    );
    assert_eq!(
        one("message", "a\nb")[0],
        "spec.validations[0].message: Invalid value: \"a\\nb\": must not contain line breaks"
    );
    assert_eq!(
        one("reason", "Other")[0],
        "spec.validations[0].reason: Unsupported value: \"Other\": supported values: \"Forbidden\", \"Invalid\", \"RequestEntityTooLarge\""
    );
}

#[test]
fn variables_are_known_to_what_follows() {
    let with = |variables: Value, expression: &str| {
        let mut object = validating();
        object["spec"]["variables"] = variables;
        object["spec"]["validations"][0]["expression"] = json!(expression);
        wrong(&VALIDATING, object)
    };
    let two = json!([{"name": "a", "expression": "object.spec.replicas > 1"},
        {"name": "b", "expression": "variables.a ? 'x' : 'y'"}]);
    assert!(with(two.clone(), "variables.b == 'x' && variables.a").is_empty());
    assert!(with(two, "variables.b > 1")[0].contains("applied to '(string, int)'"));
    let later = json!([{"name": "b", "expression": "variables.a"},
        {"name": "a", "expression": "1"}]);
    assert!(with(later, "true")[0].starts_with("spec.variables[0].expression: Invalid value"));
    for name in ["1a", "a-b", "in", "namespace"] {
        let shown = with(json!([{"name": name, "expression": "1"}]), "true");
        assert_eq!(
            shown,
            [format!(
                "spec.variables[0].name: Invalid value: {name:?}: must be a valid CEL identifier"
            )]
        );
    }
    assert!(with(json!([{"name": "__a", "expression": "1"}]), "true").is_empty());
}

#[test]
fn match_conditions_and_annotations() {
    let set =
        |field: &str, to: Value| changed(&VALIDATING, validating(), &format!("/spec/{field}"), to);
    let shown = set(
        "matchConditions",
        json!([
            {"name": "a", "expression": "request.name == 'x'"},
            {"name": "a", "expression": "request.nothing"},
            {"name": "", "expression": ""},
            {"name": "b", "expression": "variables.a"},
        ]),
    );
    assert_eq!(shown.len(), 5, "{shown:?}");
    assert!(
        shown[0]
            .starts_with("spec.matchConditions[1].expression: Invalid value: \"request.nothing\"")
    );
    assert_eq!(
        shown[1],
        "spec.matchConditions[1].name: Duplicate value: \"a\""
    );
    assert_eq!(
        shown[2],
        "spec.matchConditions[2].expression: Required value"
    );
    let many: Vec<Value> = (0..65)
        .map(|n| json!({"name": format!("n{n}"), "expression": "true"}))
        .collect();
    assert_eq!(
        set("matchConditions", json!(many)),
        ["spec.matchConditions: Too many: 65: must have at most 64 items"]
    );
    let shown = set(
        "auditAnnotations",
        json!([
            {"key": "a", "valueExpression": "1"},
            {"key": "a", "valueExpression": "null"},
            {"key": "b c", "valueExpression": " "},
        ]),
    );
    assert_eq!(
        shown[0],
        "spec.auditAnnotations[0].valueExpression: Invalid value: \"1\": must evaluate to one of [string null_type] but got int"
    );
    assert_eq!(
        shown[1],
        "spec.auditAnnotations[1].key: Duplicate value: \"a\""
    );
    assert!(
        shown[2].starts_with("spec.auditAnnotations[2].key: Invalid value: \"p.example.com/b c\"")
    );
    assert_eq!(
        shown[3],
        "spec.auditAnnotations[2].valueExpression: Required value: valueExpression is not specified"
    );
}

#[test]
fn rules_and_parameters() {
    let set = |pointer: &str, to: Value| changed(&VALIDATING, validating(), pointer, to);
    let rule = "/spec/matchConstraints/resourceRules/0";
    let at = "spec.matchConstraints.resourceRules[0]";
    for (field, to, want) in [
        ("operations", json!([]), vec!["operations: Required value"]),
        (
            "operations",
            json!(["*", "CREATE"]),
            vec![
                "operations: Invalid value: [\"*\",\"CREATE\"]: if '*' is present, must not specify other operations",
            ],
        ),
        (
            "operations",
            json!(["READ"]),
            vec![
                "operations[0]: Unsupported value: \"READ\": supported values: \"*\", \"CONNECT\", \"CREATE\", \"DELETE\", \"UPDATE\"",
            ],
        ),
        (
            "apiVersions",
            json!([""]),
            vec!["apiVersions[0]: Required value"],
        ),
        (
            "apiGroups",
            json!(["*", "a"]),
            vec![
                "apiGroups: Invalid value: [\"*\",\"a\"]: if '*' is present, must not specify other API groups",
            ],
        ),
        (
            "resources",
            json!(["*", "pods"]),
            vec![
                "resources: Invalid value: [\"*\",\"pods\"]: if '*' is present, must not specify other resources without subresources",
            ],
        ),
        (
            "resources",
            json!(["pods/*", "pods/log"]),
            vec![
                "resources[1]: Invalid value: \"pods/log\": if 'pods/*' is present, must not specify pods/log",
            ],
        ),
        (
            "resourceNames",
            json!(["a", "a"]),
            vec!["resourceNames[1]: Duplicate value: \"a\""],
        ),
        (
            "scope",
            json!("Some"),
            vec![
                "scope: Unsupported value: \"Some\": supported values: \"*\", \"Cluster\", \"Namespaced\"",
            ],
        ),
    ] {
        let want: Vec<String> = want.iter().map(|w| format!("{at}.{w}")).collect();
        assert_eq!(set(&format!("{rule}/{field}"), to), want, "{field}");
    }
    let kind = |version: &str, kind: &str| {
        set(
            "/spec/paramKind",
            json!({"apiVersion": version, "kind": kind}),
        )
    };
    assert!(kind("v1", "ConfigMap").is_empty());
    assert_eq!(
        kind("", ""),
        [
            "spec.paramKind.apiVersion: Required value",
            "spec.paramKind.kind: Required value"
        ]
    );
    assert_eq!(
        kind("a/b/c", "K")[0],
        "spec.paramKind.apiVersion: Invalid value: \"a/b/c\": unexpected GroupVersion string: a/b/c"
    );
    assert_eq!(
        kind("a/", "K")[0],
        "spec.paramKind.apiVersion: Invalid value: \"a/\": version must be specified"
    );
    assert!(kind("v1", "a_b")[0].contains("may have mixed case"));
    let none = changed(
        &VALIDATING,
        validating(),
        "/spec/matchConstraints",
        Value::Null,
    );
    assert_eq!(none, ["spec.matchConstraints: Required value"]);
    let none = set("/spec/validations", json!([]));
    assert_eq!(none.len(), 2);
}

#[test]
fn mutations() {
    let set = |to: Value| changed(&MUTATING, mutating(), "/spec/mutations", json!([to]));
    assert!(set(json!({"patchType": "JSONPatch", "jsonPatch": {"expression": "[JSONPatch{op: 'remove', path: '/a'}]"}})).is_empty());
    assert_eq!(
        set(json!({"patchType": "JSONPatch", "jsonPatch": {"expression": " [1] "}})),
        [
            "spec.mutations[0].jsonPatch.expression: Invalid value: \"[1]\": must evaluate to list(JSONPatch) but got list(int)"
        ]
    );
    assert_eq!(
        set(json!({"patchType": "JSONPatch", "applyConfiguration": {"expression": "Object{}"}})),
        [
            "spec.mutations[0].jsonPatch: Required value: must be specified when patchType is JSONPatch",
            "spec.mutations[0].applyConfiguration: Invalid value: \"{applyConfiguration}\": must not be specified when patchType is JSONPatch",
        ]
    );
    assert_eq!(
        set(json!({})),
        ["spec.mutations[0].patchType: Required value"]
    );
    assert_eq!(
        set(json!({"patchType": "Merge"})),
        [
            "spec.mutations[0].patchType: Unsupported value: \"Merge\": supported values: \"ApplyConfiguration\", \"JSONPatch\""
        ]
    );
    let delete = changed(
        &MUTATING,
        mutating(),
        "/spec/matchConstraints/resourceRules/0/operations",
        json!(["DELETE"]),
    );
    assert_eq!(
        delete,
        [
            "spec.matchConstraints.resourceRules.operations: Unsupported value: \"DELETE\": supported values: \"*\", \"CONNECT\", \"CREATE\", \"UPDATE\""
        ]
    );
    let again = changed(
        &MUTATING,
        mutating(),
        "/spec/reinvocationPolicy",
        Value::Null,
    );
    assert_eq!(again, ["spec.reinvocationPolicy: Required value"]);
}

#[test]
fn bindings() {
    const BINDING: AdmissionBinding = AdmissionBinding { mutating: false };
    let good = || json!({"spec": {"policyName": "p.example.com", "validationActions": ["Deny"]}});
    assert!(wrong(&BINDING, good()).is_empty());
    let set = |field: &str, to: Value| changed(&BINDING, good(), &format!("/spec/{field}"), to);
    assert_eq!(
        set("policyName", json!("")),
        ["spec.policyName: Required value"]
    );
    assert_eq!(
        set("validationActions", json!([])),
        ["spec.validationActions: Required value: at least one validation action is required"]
    );
    assert_eq!(
        set("validationActions", json!(["Deny", "Deny"])),
        ["spec.validationActions[1]: Duplicate value: \"Deny\""]
    );
    assert!(
        set("validationActions", json!(["Deny", "Warn"]))[0]
            .contains("must not contain both Deny and Warn")
    );
    assert_eq!(
        set("validationActions", json!(["Log"])),
        [
            "spec.validationActions[0]: Unsupported value: \"Log\": supported values: \"Audit\", \"Deny\", \"Warn\""
        ]
    );
    let both = json!({"name": "a", "selector": {}, "parameterNotFoundAction": "Deny"});
    assert_eq!(set("paramRef", both).len(), 2);
    assert_eq!(
        set("paramRef", json!({})),
        [
            "spec.paramRef: Required value: one of name or selector must be specified",
            "spec.paramRef.parameterNotFoundAction: Required value"
        ]
    );
    assert!(
        set(
            "paramRef",
            json!({"selector": {}, "parameterNotFoundAction": "Allow"})
        )
        .is_empty()
    );
    assert!(set("matchResources", json!({})).is_empty());
    let mutating = AdmissionBinding { mutating: true };
    assert!(wrong(&mutating, json!({"spec": {"policyName": "p"}})).is_empty());
}

#[test]
fn updates_leave_match_conditions_that_did_not_change() {
    let mut old = validating();
    VALIDATING.default(&mut old);
    old["spec"]["matchConditions"] = json!([{"name": "a", "expression": "no longer good"}]);
    let mut new = old.clone();
    new["spec"]["validations"][0]["message"] = json!("m");
    assert!(
        VALIDATING
            .validate_update(&new, &old, &context(""))
            .is_empty()
    );
    new["spec"]["matchConditions"][0]["name"] = json!("b");
    assert_eq!(
        VALIDATING.validate_update(&new, &old, &context("")).len(),
        1
    );
    let status = json!({"status": {"typeChecking": {"expressionWarnings": [{"fieldRef": "spec", "warning": ""}]}}});
    assert_eq!(
        VALIDATING
            .validate_update(&status, &old, &context("status"))
            .len(),
        1
    );
}
