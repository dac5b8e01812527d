//! Tables of configurations and of claims.

use serde_json::{Map, Value, json};

use super::check::check;
use super::config::AuthenticationConfiguration;
use super::current;

const SERVICE_ACCOUNTS: &str = "https://kubernetes.default.svc";

fn configuration(jwt: &Value) -> AuthenticationConfiguration {
    let text = json!({
        "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration",
        "jwt": jwt,
    });
    AuthenticationConfiguration::read(text.to_string().as_bytes()).expect("readable")
}

fn errors(jwt: &Value) -> Vec<String> {
    match check(&configuration(jwt), &[SERVICE_ACCOUNTS.to_owned()]) {
        Ok(_) => Vec::new(),
        Err(all) => all.iter().map(ToString::to_string).collect(),
    }
}

/// A good authenticator with some of it replaced.
fn with(changes: &Value) -> Value {
    let mut one = json!({
        "issuer": {"url": "https://issuer.example", "audiences": ["aud"]},
        "claimMappings": {"username": {"claim": "sub", "prefix": ""}},
    });
    merge(&mut one, changes);
    one
}

/// As a merge patch.
fn merge(into: &mut Value, changes: &Value) {
    let (Value::Object(map), Value::Object(changes)) = (&mut *into, changes) else {
        *into = changes.clone();
        return;
    };
    for (field, change) in changes {
        if change.is_null() {
            map.remove(field);
        } else {
            merge(map.entry(field.clone()).or_insert(Value::Null), change);
        }
    }
}

#[test]
fn what_is_wrong_is_said_with_its_path() {
    assert_eq!(errors(&json!([])), Vec::<String>::new());
    assert_eq!(errors(&json!([with(&json!({}))])), Vec::<String>::new());
    let both = "claim and expression can't both be set";
    let compiled = "compilation failed: ERROR";
    let table: &[(Value, &[&str])] = &[
        (
            json!({"issuer": {"url": ""}}),
            &["jwt[0].issuer.url: Required value"],
        ),
        (
            json!({"issuer": {"url": "http://u:p@x/?a=b#c"}}),
            &[
                "jwt[0].issuer.url: Invalid value: \"http://u:p@x/?a=b#c\": URL scheme must be https",
                "jwt[0].issuer.url: Invalid value: \"http://u:p@x/?a=b#c\": URL must not contain a username or password",
                "jwt[0].issuer.url: Invalid value: \"http://u:p@x/?a=b#c\": URL must not contain a query",
                "jwt[0].issuer.url: Invalid value: \"http://u:p@x/?a=b#c\": URL must not contain a fragment",
            ],
        ),
        (
            json!({"issuer": {"url": SERVICE_ACCOUNTS}}),
            &[
                "jwt[0].issuer.url: Invalid value: \"https://kubernetes.default.svc\": URL must not overlap with disallowed issuers: [https://kubernetes.default.svc]",
            ],
        ),
        (
            json!({"issuer": {"discoveryURL": "https://issuer.example/"}}),
            &[
                "jwt[0].issuer.discoveryURL: Invalid value: \"https://issuer.example/\": discoveryURL must be different from URL",
            ],
        ),
        (
            json!({"issuer": {"audiences": []}}),
            &[
                "jwt[0].issuer.audiences: Required value: at least one jwt[0].issuer.audiences is required",
            ],
        ),
        (
            json!({"issuer": {"audiences": ["a", "a", ""]}}),
            &[
                "jwt[0].issuer.audiences[1]: Duplicate value: \"a\"",
                "jwt[0].issuer.audiences[2]: Required value",
                "jwt[0].issuer.audienceMatchPolicy: Invalid value: \"\": audienceMatchPolicy must be MatchAny for multiple audiences",
            ],
        ),
        (
            json!({"issuer": {"audienceMatchPolicy": "MatchAll"}}),
            &[
                "jwt[0].issuer.audienceMatchPolicy: Invalid value: \"MatchAll\": audienceMatchPolicy must be empty or MatchAny for single audience",
            ],
        ),
        (
            json!({"issuer": {"certificateAuthority": "no"}}),
            &["jwt[0].issuer.certificateAuthority: Invalid value: \"<omitted>\":"],
        ),
        (
            json!({"claimValidationRules": [{"claim": "a", "expression": "true"}, {}, {"claim": "b", "message": "m"}, {"claim": "b"}]}),
            &[
                &format!("jwt[0].claimValidationRules[0]: Invalid value: \"a\": {both}"),
                "jwt[0].claimValidationRules[1]: Required value: claim or expression is required",
                "jwt[0].claimValidationRules[2].message: Invalid value: \"m\": may not be specified when claim is set",
                "jwt[0].claimValidationRules[3].claim: Duplicate value: \"b\"",
            ],
        ),
        (
            json!({"claimValidationRules": [{"expression": "claims.x"}, {"expression": "claims.x"}, {"expression": "nothing.x == 1", "requiredValue": "v"}]}),
            &[
                "jwt[0].claimValidationRules[0].expression: Invalid value: \"claims.x\": must evaluate to bool",
                "jwt[0].claimValidationRules[1].expression: Duplicate value: \"claims.x\"",
                "jwt[0].claimValidationRules[2].requiredValue: Invalid value: \"v\": may not be specified when expression is set",
                &format!(
                    "jwt[0].claimValidationRules[2].expression: Invalid value: \"nothing.x == 1\": {compiled}"
                ),
            ],
        ),
        (
            json!({"claimMappings": {"username": {"claim": "sub", "prefix": null, "expression": "claims.sub"}}}),
            &[&format!(
                "jwt[0].claimMappings.username: Invalid value: \"\": {both}"
            )],
        ),
        (
            json!({"claimMappings": {"username": {"prefix": null}, "groups": {"claim": "g"}}}),
            &[
                "jwt[0].claimMappings.username.prefix: Required value: prefix is required when claim is set. It can be set to an empty string to disable prefixing",
                "jwt[0].claimMappings.groups.prefix: Required value: prefix is required when claim is set. It can be set to an empty string to disable prefixing",
            ],
        ),
        (
            json!({"claimMappings": {"username": {"claim": null, "prefix": null}}}),
            &["jwt[0].claimMappings.username: Required value: claim or expression is required"],
        ),
        (
            json!({"claimMappings": {"username": {"claim": null, "prefix": null, "expression": "claims.email"}}}),
            &[
                "jwt[0].claimMappings.username.expression: Invalid value: \"claims.email\": claims.email_verified must be used in claimMappings.username.expression or claimMappings.extra[*].valueExpression or claimValidationRules[*].expression when claims.email is used in claimMappings.username.expression",
            ],
        ),
        (
            json!({
                "claimMappings": {"username": {"claim": null, "prefix": null, "expression": "claims.email"}},
                "claimValidationRules": [{"expression": "claims.?email_verified.orValue(true) == true"}],
            }),
            &[],
        ),
        (
            json!({"claimMappings": {"uid": {"claim": "a", "expression": "claims.a"}}}),
            &[&format!(
                "jwt[0].claimMappings.uid: Invalid value: \"\": {both}"
            )],
        ),
        (
            json!({"claimMappings": {"extra": [
                {"key": "", "valueExpression": "claims.a"},
                {"key": "foo", "valueExpression": "claims.a"},
                {"key": "x.io/A", "valueExpression": "claims.a"},
                {"key": "a.k8s.io/a", "valueExpression": "claims.a"},
                {"key": "x.io/a"},
                {"key": "x.io/a", "valueExpression": "claims.a"},
            ]}}),
            &[
                "jwt[0].claimMappings.extra[0].key: Required value",
                "jwt[0].claimMappings.extra[1].key: Invalid value: \"foo\": must be a domain-prefixed path (such as \"acme.io/foo\")",
                "jwt[0].claimMappings.extra[2].key: Invalid value: \"x.io/A\": must be lowercase",
                "jwt[0].claimMappings.extra[3].key: Invalid value: \"a.k8s.io/a\": k8s.io, kubernetes.io and their subdomains are reserved for Kubernetes use",
                "jwt[0].claimMappings.extra[4].valueExpression: Required value",
                "jwt[0].claimMappings.extra[5].key: Duplicate value: \"x.io/a\"",
            ],
        ),
        (
            json!({"userValidationRules": [{"expression": ""}, {"expression": "user.nothing == ''"}]}),
            &[
                "jwt[0].userValidationRules[0].expression: Required value",
                &format!(
                    "jwt[0].userValidationRules[1].expression: Invalid value: \"user.nothing == ''\": {compiled}"
                ),
            ],
        ),
    ];
    for (changes, want) in table {
        let got = errors(&json!([with(changes)]));
        let same = got.len() == want.len() && got.iter().zip(*want).all(|(g, w)| g.starts_with(w));
        assert!(same, "{changes}: {got:#?}");
    }
}

#[test]
fn issuers_are_there_once() {
    let discovered = with(&json!({"issuer": {"discoveryURL": "https://d.example/x"}}));
    let other = with(
        &json!({"issuer": {"url": "https://other.example", "discoveryURL": "https://d.example/x"}}),
    );
    assert_eq!(
        errors(&json!([discovered.clone(), with(&json!({})), other])),
        [
            "jwt[1].issuer.url: Duplicate value: \"https://issuer.example\"",
            "jwt[2].issuer.discoveryURL: Duplicate value: \"https://d.example/x\"",
        ]
    );
    let many = vec![discovered; 65];
    assert_eq!(
        errors(&json!(many)),
        ["jwt: Too many: 65: must have at most 64 items"]
    );
}

#[test]
fn anonymous_has_conditions_only_when_enabled() {
    let text = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\nanonymous: {enabled: false, conditions: [{path: /healthz}]}\n";
    let read = AuthenticationConfiguration::read(text.as_bytes()).expect("readable");
    let errors = check(&read, &[]).err().expect("refused");
    assert_eq!(
        errors[0].to_string(),
        "anonymous.conditions: Invalid value: [{\"path\":\"/healthz\"}]: enabled should be set to true when conditions are defined"
    );
    let unknown = text.replace("enabled: false", "enabled: false, extra: 1");
    assert!(AuthenticationConfiguration::read(unknown.as_bytes()).is_err());
}

fn claims(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// The user that claims become, as JSON.
fn user(changes: &Value, held: Value) -> Result<Value, String> {
    let mappers = check(&configuration(&json!([with(changes)])), &[]).map_err(|e| {
        let all: Vec<String> = e.iter().map(ToString::to_string).collect();
        all.join("\n")
    })?;
    let user = mappers[0].user(&claims(held))?;
    serde_json::to_value(user).map_err(|e| e.to_string())
}

#[test]
fn claims_become_users() {
    let by_claims = json!({"claimMappings": {
        "username": {"claim": "sub", "prefix": "oidc:"},
        "groups": {"claim": "roles", "prefix": "g:"},
        "uid": {"claim": "oid"},
    }});
    assert_eq!(
        user(
            &by_claims,
            json!({"sub": "jane", "roles": ["a", "b"], "oid": "7", "jti": "t"})
        ),
        Ok(json!({
            "username": "oidc:jane", "groups": ["g:a", "g:b"], "uid": "7",
            "extra": {"authentication.kubernetes.io/credential-id": ["JTI=t"]},
        }))
    );
    assert_eq!(
        user(
            &by_claims,
            json!({"sub": "jane", "roles": "one", "oid": "7"})
        ),
        Ok(json!({"username": "oidc:jane", "groups": ["g:one"], "uid": "7"}))
    );
    let by_expressions = json!({"claimMappings": {
        "username": {"claim": null, "prefix": null, "expression": "claims.sub + '@' + claims.tenant.name"},
        "groups": {"expression": "claims.?roles.orValue('').split(',')"},
        "uid": {"expression": "string(claims.number)"},
        "extra": [
            {"key": "x.io/admin", "valueExpression": "(has(claims.is_admin) && claims.is_admin) ? 'true' : ''"},
            {"key": "x.io/dotted", "valueExpression": "claims.corp__dot__io__slash__unit.in__dash__ner"},
        ],
    }});
    let held = json!({
        "sub": "jane", "tenant": {"name": "acme"}, "roles": "a,,b", "number": 12,
        "is_admin": true, "corp.io/unit": {"in-ner": ["u", ""]},
    });
    assert_eq!(
        user(&by_expressions, held),
        Ok(json!({
            "username": "jane@acme", "groups": ["a", "b"], "uid": "12",
            "extra": {"x.io/admin": ["true"], "x.io/dotted": ["u"]},
        }))
    );
}

#[test]
fn claims_that_do_not_fit_are_refused() {
    let username = |expression: &str| json!({"claimMappings": {"username": {"claim": null, "prefix": null, "expression": expression}}});
    let email = json!({"claimMappings": {"username": {"claim": "email"}}});
    let rules = json!({
        "claimValidationRules": [{"claim": "hd", "requiredValue": "acme"}, {"expression": "claims.level > 2", "message": "too low"}],
        "userValidationRules": [{"expression": "!user.username.startsWith('system:')", "message": "reserved"}],
    });
    let table = [
        (
            json!({}),
            json!({}),
            "parse username claims \"sub\": claim not present",
        ),
        (
            json!({}),
            json!({"sub": 5}),
            "parse username claims \"sub\": json: cannot unmarshal number into Go value of type string",
        ),
        (
            email.clone(),
            json!({"email": "a@b", "email_verified": false}),
            "email not verified",
        ),
        (
            email,
            json!({"email": "a@b", "email_verified": "yes"}),
            "parse 'email_verified' claim: json: cannot unmarshal string into Go value of type bool",
        ),
        (
            username("claims.sub"),
            json!({"sub": ""}),
            "empty username via CEL expression is not allowed",
        ),
        (
            username("claims.sub"),
            json!({"sub": 1}),
            "error evaluating username claim expression: username claim expression must return a string",
        ),
        (
            username("claims.missing"),
            json!({}),
            "error evaluating username claim expression: expression 'claims.missing' resulted in error: no such key: missing",
        ),
        (
            json!({"claimMappings": {"groups": {"claim": "g", "prefix": ""}}}),
            json!({"sub": "x", "g": [1]}),
            "parse groups claim \"g\": json: cannot unmarshal number into Go value of type string",
        ),
        (
            rules.clone(),
            json!({"sub": "x"}),
            "required claim hd not present in ID token",
        ),
        (
            rules.clone(),
            json!({"sub": "x", "hd": "other"}),
            "required claim hd value does not match. Got = other, want = acme",
        ),
        (
            rules.clone(),
            json!({"sub": "x", "hd": "acme", "level": 2}),
            "error evaluating claim validation expression: validation expression 'claims.level > 2' failed: too low",
        ),
        (
            rules.clone(),
            json!({"sub": "system:admin", "hd": "acme", "level": 3}),
            "error evaluating user info validation rule: validation expression '!user.username.startsWith('system:')' failed: reserved",
        ),
    ];
    for (changes, held, want) in table {
        assert_eq!(user(&changes, held.clone()), Err(want.to_owned()), "{held}");
    }
    let good = json!({"sub": "x", "hd": "acme", "level": 3});
    assert!(user(&rules, good).is_ok());
}

#[test]
fn tokens_hold_for_their_audience_and_time() {
    let at = |value: Value| current(&claims(value), &["aud".into(), "two".into()], 1000);
    assert_eq!(at(json!({"aud": "aud", "exp": 1000})), Ok(1000));
    assert_eq!(
        at(json!({"aud": ["x", "two"], "exp": 1000.5, "nbf": 1060})),
        Ok(1000)
    );
    for bad in [
        json!({"aud": "other", "exp": 2000}),
        json!({"exp": 2000}),
        json!({"aud": "aud", "exp": 999}),
        json!({"aud": "aud"}),
        json!({"aud": "aud", "exp": 2000, "nbf": 1061}),
    ] {
        assert!(at(bad.clone()).is_err(), "{bad}");
    }
}
