//! Decoding in upstream's words.

use schema::{builtin, decode};
use serde_json::{Value, json};

fn fails(kind: (&str, &str, &str), body: &str) -> String {
    let id = builtin().by_gvk(kind.0, kind.1, kind.2).expect("kind");
    decode::json(builtin(), id, body.as_bytes())
        .expect_err("must fail")
        .to_string()
}

fn decodes(kind: (&str, &str, &str), body: &str) -> (Value, Vec<String>) {
    let id = builtin().by_gvk(kind.0, kind.1, kind.2).expect("kind");
    let d = decode::json(builtin(), id, body.as_bytes()).unwrap_or_else(|e| panic!("{body}: {e}"));
    (
        d.value,
        d.problems.iter().map(ToString::to_string).collect(),
    )
}

const DEPLOYMENT: (&str, &str, &str) = ("apps", "v1", "Deployment");
const POD: (&str, &str, &str) = ("", "v1", "Pod");

#[test]
fn wrong_types() {
    for (kind, body, want) in [
        (
            DEPLOYMENT,
            r#"{"spec":{"replicas":"3"}}"#,
            "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            DEPLOYMENT,
            r#"{"spec":{"replicas":1.0}}"#,
            "json: cannot unmarshal number 1.0 into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            DEPLOYMENT,
            r#"{"spec":{"replicas":3000000000}}"#,
            "json: cannot unmarshal number 3000000000 into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            DEPLOYMENT,
            r#"{"spec":{"template":{"spec":{"containers":{"name":"a"}}}}}"#,
            "json: cannot unmarshal object into Go struct field PodSpec.spec.template.spec.containers of type []v1.Container",
        ),
        (
            POD,
            r#"{"spec":{"containers":[{"ports":[{"protocol":6}]}]}}"#,
            "json: cannot unmarshal number into Go struct field ContainerPort.spec.containers.ports.protocol of type v1.Protocol",
        ),
        (
            POD,
            r#"{"metadata":{"labels":{"a":1}}}"#,
            "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string",
        ),
        (
            POD,
            r#"{"spec":{"volumes":[{"configMap":1}]}}"#,
            "json: cannot unmarshal number into Go struct field Volume.spec.volumes.VolumeSource.configMap of type v1.ConfigMapVolumeSource",
        ),
        (
            POD,
            r#"{"spec":[]}"#,
            "json: cannot unmarshal array into Go struct field Pod.spec of type v1.PodSpec",
        ),
        (
            POD,
            "[]",
            "json: cannot unmarshal array into Go value of type v1.Pod",
        ),
        (
            POD,
            r#"{"metadata":{"creationTimestamp":"now"}}"#,
            r#"parsing time "now" as "2006-01-02T15:04:05Z07:00": cannot parse "now" as "2006""#,
        ),
        (
            POD,
            r#"{"metadata":{"creationTimestamp":5}}"#,
            "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.creationTimestamp of type string",
        ),
        (
            ("", "v1", "Secret"),
            r#"{"data":{"a":"!"}}"#,
            "illegal base64 data at input byte 0",
        ),
        (
            ("", "v1", "Secret"),
            r#"{"data":{"a":[1,300]}}"#,
            "json: cannot unmarshal number 300 into Go struct field Secret.data of type uint8",
        ),
        (
            ("apiextensions.k8s.io", "v1", "CustomResourceDefinition"),
            r#"{"spec":{"versions":[{"schema":{"openAPIV3Schema":{"additionalProperties":3}}}]}}"#,
            "boolean or JSON schema expected",
        ),
    ] {
        assert_eq!(fails(kind, body), want, "{body}");
    }
}

#[test]
fn syntax() {
    for (body, want) in [
        ("", "unexpected end of JSON input"),
        ("{", "unexpected end of JSON input"),
        (
            "{]",
            "invalid character ']' looking for beginning of object key string",
        ),
        ("x", "invalid character 'x' looking for beginning of value"),
        (r#"{"a" 1}"#, "invalid character '1' after object key"),
        (
            r#"{"a":1 "b"}"#,
            "invalid character '\"' after object key:value pair",
        ),
        ("[1 2]", "invalid character '2' after array element"),
        (
            "[1,]",
            "invalid character ']' looking for beginning of value",
        ),
        ("{} x", "invalid character 'x' after top-level value"),
        ("01", "invalid character '1' after top-level value"),
        ("-x", "invalid character 'x' in numeric literal"),
        (
            "1.x",
            "invalid character 'x' after decimal point in numeric literal",
        ),
        (
            "1ex",
            "invalid character 'x' in exponent of numeric literal",
        ),
        (
            "nulx",
            "invalid character 'x' in literal null (expecting 'l')",
        ),
        ("\"a\nb\"", r"invalid character '\n' in string literal"),
        (r#""\q""#, "invalid character 'q' in string escape code"),
        (
            r#""\u12x4""#,
            r"invalid character 'x' in \u hexadecimal character escape",
        ),
    ] {
        assert_eq!(fails(POD, body), want, "{body}");
    }
    assert_eq!(fails(POD, &"[".repeat(100_000)), "exceeded max depth");
}

#[test]
fn unknown_and_duplicate_fields() {
    let body = r#"{"kind":"Pod","spec":{"foo":1,"containers":[{"name":"a","name":"b","bar":{}}],
        "nodeName":"x","nodeName":"y"},"metadata":{"labels":{"k":"1","k":"2"}},"Spec":{}}"#;
    let (value, problems) = decodes(POD, body);
    assert_eq!(
        problems,
        [
            r#"unknown field "spec.foo""#,
            r#"duplicate field "spec.containers[0].name""#,
            r#"unknown field "spec.containers[0].bar""#,
            r#"duplicate field "spec.nodeName""#,
            r#"duplicate field "metadata.labels.k""#,
            r#"unknown field "Spec""#,
        ]
    );
    assert_eq!(
        value,
        json!({
            "kind": "Pod",
            "metadata": {"labels": {"k": "2"}},
            "spec": {"nodeName": "y", "containers": [{"name": "b", "resources": {}}]},
            "status": {},
        })
    );
}

#[test]
fn empty_values_as_go_writes_them() {
    let (value, _) = decodes(
        DEPLOYMENT,
        r#"{"metadata":{"name":"a","creationTimestamp":null,"annotations":{}},
            "spec":{"replicas":0,"paused":false,"selector":{},"template":{"spec":{"containers":[],
            "nodeName":"","hostNetwork":false,"terminationGracePeriodSeconds":0,"volumes":[]}}}}"#,
    );
    assert_eq!(
        value,
        json!({
            "metadata": {"name": "a"},
            "spec": {
                "replicas": 0, "selector": {}, "strategy": {},
                "template": {
                    "metadata": {},
                    "spec": {"containers": [], "terminationGracePeriodSeconds": 0},
                },
            },
            "status": {},
        })
    );
}

#[test]
fn scalars_are_normal_afterwards() {
    let (value, _) = decodes(
        ("", "v1", "Secret"),
        r#"{"metadata":{"deletionTimestamp":"2026-01-02T03:04:05.9+02:00"},"data":{"a":"aGk=\n","b":null,"c":[104,105]}}"#,
    );
    assert_eq!(
        value["metadata"]["deletionTimestamp"],
        "2026-01-02T01:04:05Z"
    );
    assert_eq!(value["data"], json!({"a": "aGk=", "b": null, "c": "aGk="}));
    let (value, _) = decodes(POD, r#"{"metadata":{"name":"\u00e9\ud83d\ude00\ud800"}}"#);
    assert_eq!(value["metadata"]["name"], "é😀\u{fffd}");
}

#[test]
fn schemas_of_custom_resources() {
    let body = json!({"spec": {"versions": [{"name": "v1", "served": true, "storage": true, "schema": {
        "openAPIV3Schema": {
            "type": "object", "x-kubernetes-preserve-unknown-fields": true, "$ref": "r",
            "properties": {"a": {"items": {"type": "string", "nullable": true}, "default": {"x": [1.5]}}},
            "additionalProperties": false,
            "dependencies": {"d": ["e"]},
        },
    }}]}});
    let (value, problems) = decodes(
        ("apiextensions.k8s.io", "v1", "CustomResourceDefinition"),
        &body.to_string(),
    );
    assert_eq!(problems, Vec::<String>::new());
    assert_eq!(
        value["spec"]["versions"][0]["schema"],
        body["spec"]["versions"][0]["schema"]
    );
}
