//! What others say to the API server besides requests' bodies: answers of webhooks and of extension
//! servers, headers that name users and forms, and words of objects that are programs of a kind
//! (columns' paths, schedules).

use apiserver::admission::webhooks::review;
use apiserver::aggregation::answers;
use apiserver::discovery::{Edition, Form, in_protobuf};
use apiserver::filters::front_proxy::Headers;
use apiserver::filters::impersonate::ImpersonatedUser;
use apiserver::filters::static_tokens::StaticTokens;
use apiserver::filters::{authorization, oidc, token_webhook};
use apiserver::http::negotiate::Accept;
use apiserver::http::request::Query;
use apiserver::loopback::conversion;
use apiserver::verbs::convert;
use fuzz::throw;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};

fn texts(all: &[&str]) -> Vec<Vec<u8>> {
    all.iter().map(|t| t.as_bytes().to_vec()).collect()
}

fn ship() -> Value {
    json!({
        "apiVersion": "sea.example.com/v1", "kind": "Ship",
        "metadata": {"name": "argo", "namespace": "default", "uid": "1-2",
            "labels": {"sea": "aegean"}, "annotations": {"x.io/a": "b"}},
        "spec": {"oars": [{"name": "a", "length": 3}, {"name": "b.c", "length": -4}], "sail": "white"},
        "status": {"conditions": [{"type": "Ready", "status": "True", "n": 1.5}]},
    })
}

#[test]
fn paths_of_columns() {
    let examples = texts(&[
        ".status.conditions[?(@.type==\"Ready\")].status",
        "$.spec.oars[*]['name','length']",
        "..name",
        ".spec.oars[-1:].length",
        ".metadata.annotations.x\\.io/a",
        ".spec.oars[?(@.length>=-4)][0::2]",
    ]);
    let object = ship();
    throw("paths of columns", &examples, |bytes| {
        let text = String::from_utf8_lossy(bytes);
        if let Some(path) = registry::jsonpath::JsonPath::parse(&text) {
            let _ = path.first(&object);
        }
    });
}

#[test]
fn schedules() {
    let examples = texts(&[
        "*/15 0-6,22 1,15 JAN-MAR MON",
        "TZ=Europe/Berlin 30 2 29 2 *",
        "@every 1h30m10s",
        "@weekly",
        "CRON_TZ=UTC 0 0 ? * 7",
    ]);
    let zone = api::cron_schedule::zone("America/New_York").expect("a zone");
    let now = jiff::Timestamp::from_second(1_790_000_000).expect("a time");
    throw("schedules", &examples, |bytes| {
        let text = String::from_utf8_lossy(bytes);
        if let Ok(schedule) = api::cron_schedule::Schedule::parse(&text)
            && let Some(next) = schedule.next(now, &zone)
        {
            assert!(next > now, "{text:?} goes back to {next}");
        }
    });
}

#[test]
fn forms_that_are_accepted() {
    let examples = texts(&[
        "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;q=0.9, */*",
        "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
        "application/com.github.proto-openapi.spec.v2@v1.0+protobuf;q=0.5,application/yaml;q=nan",
        "*",
    ]);
    throw("accept", &examples, |bytes| {
        let Ok(value) = HeaderValue::from_bytes(bytes) else {
            return;
        };
        let mut headers = HeaderMap::new();
        headers.insert("accept", value.clone());
        headers.insert("accept-encoding", value);
        for tables in [false, true] {
            let _ = Accept::negotiate(&headers, &Query::default(), tables);
        }
        let text = String::from_utf8_lossy(bytes);
        for edition in [Edition::V2, Edition::V3] {
            let _ = Form::chosen(&text, edition);
        }
    });
}

#[test]
fn answers_of_admission_webhooks() {
    let review = |response: Value| {
        json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": response})
            .to_string()
    };
    // [{"op":"add","path":"/metadata/labels/a","value":"b"}]
    let patch = "W3sib3AiOiJhZGQiLCJwYXRoIjoiL21ldGFkYXRhL2xhYmVscy9hIiwidmFsdWUiOiJiIn1d";
    let examples = texts(&[
        &review(
            json!({"uid": "u", "allowed": true, "patchType": "JSONPatch", "patch": patch,
            "warnings": ["a", "b"], "auditAnnotations": {"a": "b"}}),
        ),
        &review(
            json!({"uid": "u", "allowed": true, "patchType": "JSONPatch",
            "patch": [91, 93]}),
        ),
        &review(
            json!({"uid": "u", "allowed": false, "status": {"code": 422, "reason": "Invalid",
            "message": "m", "details": {"causes": [{"field": "a"}], "retryAfterSeconds": 3}}}),
        ),
    ]);
    throw("answers of admission webhooks", &examples, |bytes| {
        for version in [review::Version::V1, review::Version::V1Beta1] {
            for mutating in [false, true] {
                let Ok(verdict) = review::read(version, "u", mutating, bytes) else {
                    continue;
                };
                assert!(mutating || verdict.patch.is_empty());
                if let Ok(patch) = serde_json::from_slice::<Value>(&verdict.patch) {
                    let _ = patch::json_patch(&mut ship(), &patch);
                }
                let refusal = review::denial("w", verdict.status);
                assert!((400..=599).contains(&refusal.code), "{}", refusal.code);
            }
        }
    });
}

#[test]
fn answers_of_conversion_webhooks() {
    let mut new = ship();
    new["apiVersion"] = "sea.example.com/v2".into();
    new["metadata"]["labels"]["more"] = "yes".into();
    let review = json!({"kind": "ConversionReview", "apiVersion": "apiextensions.k8s.io/v1",
        "response": {"uid": "u", "result": {"status": "Success"}, "convertedObjects": [new]}});
    let failed = json!({"kind": "ConversionReview", "apiVersion": "apiextensions.k8s.io/v1",
        "response": {"uid": "u", "result": {"status": "Failed", "message": "no wind"}}});
    let examples = texts(&[&review.to_string(), &failed.to_string(), "[]"]);
    let old = ship();
    throw("answers of conversion webhooks", &examples, |bytes| {
        let Ok(answer) = serde_json::from_slice::<Value>(bytes) else {
            return;
        };
        for version in ["v1", "v1beta1"] {
            let converted = conversion::converted(answer.clone(), version, "u");
            for mut object in converted.unwrap_or_default() {
                if convert::accept(&mut object, &old, "sea.example.com/v2").is_ok() {
                    assert_eq!(object["apiVersion"], "sea.example.com/v2");
                    for field in ["name", "namespace", "uid"] {
                        assert_eq!(object["metadata"][field], old["metadata"][field]);
                    }
                }
            }
        }
    });
}

#[test]
fn answers_about_who_asks() {
    let review = json!({"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1",
        "status": {"authenticated": true, "audiences": ["a", "c"], "error": null,
            "user": {"username": "jane", "uid": "7", "groups": ["g"], "extra": {"x.io/a": ["b"]}}}});
    let audiences = ["a".to_owned(), "b".to_owned()];
    let examples = texts(&[&review.to_string()]);
    throw("answers of token webhooks", &examples, |bytes| {
        let Ok(answer) = serde_json::from_slice::<Value>(bytes) else {
            return;
        };
        if let Ok(Some(known)) = token_webhook::read(answer, &audiences, &audiences) {
            assert!(!known.user.name.is_empty());
            assert!(!known.audiences.is_empty());
            assert!(known.audiences.iter().all(|a| audiences.contains(a)));
        }
    });
    let review = json!({"kind": "SubjectAccessReview", "apiVersion": "authorization.k8s.io/v1",
        "status": {"allowed": true, "denied": false, "reason": "because", "evaluationError": null}});
    let examples = texts(&[&review.to_string()]);
    throw("answers of access webhooks", &examples, |bytes| {
        if let Ok(answer) = serde_json::from_slice::<Value>(bytes) {
            let _ = authorization::webhook::read(answer);
        }
    });
}

#[test]
fn answers_of_extension_servers() {
    let of = api::GroupVersion::new("x.io", "v1");
    let discovery = json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2",
        "items": [{"metadata": {"name": "x.io"}, "versions": [{"version": "v1", "freshness": "Current",
            "resources": [{"resource": "flunders", "scope": "Namespaced", "verbs": ["get"],
                "subresources": [{"subresource": "status", "verbs": ["get"]}]}]}]}]});
    let list = json!({"kind": "APIResourceList", "groupVersion": "x.io/v1", "resources": [
        {"name": "flunders/status", "namespaced": true, "kind": "Flunder", "verbs": ["get"]},
        {"name": "flunders", "singularName": "flunder", "kind": "Flunder", "shortNames": ["fl"],
            "verbs": ["get", "list"]}]});
    let examples = texts(&[&discovery.to_string(), &list.to_string(), "[]"]);
    throw("discovery of extension servers", &examples, |bytes| {
        let Ok(answer) = serde_json::from_slice::<Value>(bytes) else {
            return;
        };
        if let Ok(entry) = answers::checked(answers::entry(&answer, &of)) {
            assert!(entry.is_array(), "{entry}");
        }
        let resources = answer["resources"].as_array().cloned().unwrap_or_default();
        let shown = answers::from_list("x.io", "v1", &resources);
        let count = shown.as_array().map_or(0, Vec::len);
        assert!(count <= resources.len());
        // What can be shown can be shown again.
        if let Ok(checked) = answers::checked(shown) {
            assert_eq!(answers::checked(checked.clone()), Ok(checked));
        }
    });
    let openapi = json!({"swagger": "2.0", "info": {"title": "x", "version": "1"},
        "paths": {
            "/apis/x.io/v1/flunders": {"get": {"operationId": "list", "responses": {"200":
                {"description": "OK", "schema": {"$ref": "#/definitions/x.Flunder"}}}},
                "parameters": [{"$ref": "#/parameters/p"}, {"in": "query", "name": "q", "type": "string"}]},
            "/apis/y.io/v1/others": {"get": {}}},
        "definitions": {"x.Flunder": {"type": "object", "required": ["a"], "properties": {
            "a": {"type": "array", "items": {"$ref": "#/definitions/x.Flunder"}},
            "b": {"type": ["string", "null"], "default": "x", "enum": ["x"], "maxLength": 3, "minimum": 0.5},
            "c": {"additionalProperties": true}},
            "x-kubernetes-group-version-kind": [{"group": "x.io", "kind": "Flunder", "version": "v1"}]}},
        "parameters": {"p": {"in": "body", "name": "p", "schema": {}}},
        "securityDefinitions": {"t": {"type": "oauth2", "flow": "implicit", "scopes": {"a": "b"}}}});
    let examples = texts(&[&openapi.to_string(), "[]"]);
    throw("openapi of extension servers", &examples, |bytes| {
        let Ok(mut document) = serde_json::from_slice::<Value>(bytes) else {
            return;
        };
        for edition in [Edition::V2, Edition::V3] {
            let _ = in_protobuf(edition, &document);
        }
        let own = answers::own_part(&mut document, &of);
        let paths = own["paths"].as_object().expect("paths");
        assert!(paths.keys().all(|path| path.starts_with("/apis/x.io/v1")));
        let _ = in_protobuf(Edition::V2, &own);
    });
}

/// A line of bytes for each header, as a client may send it; what cannot be a header is left out.
fn headers(bytes: &[u8]) -> HeaderMap {
    let mut all = HeaderMap::new();
    for line in bytes.split(|b| *b == b'\n') {
        let mut halves = line.splitn(2, |b| *b == b':');
        let (Some(name), Some(value)) = (halves.next(), halves.next()) else {
            continue;
        };
        if let Ok(name) = HeaderName::from_bytes(name)
            && let Ok(value) = HeaderValue::from_bytes(value)
        {
            all.append(name, value);
        }
    }
    all
}

#[test]
fn headers_that_name_users() {
    let examples = texts(&[
        "impersonate-user:system:serviceaccount:a:b\nimpersonate-group:g\nimpersonate-group:h",
        "impersonate-user:jane\nimpersonate-uid:7\nimpersonate-extra-acme.io%2fteam:blue",
        "x-remote-user:jane\nx-remote-uid:7\nx-remote-group:a\nx-remote-extra-a%zz%41:b\naccept:x",
    ]);
    let name = HeaderName::from_static;
    let proxy = Headers {
        users: vec![name("x-remote-user")],
        uids: vec![name("x-remote-uid")],
        groups: vec![name("x-remote-group")],
        extra_prefixes: vec!["x-remote-extra-".into()],
    };
    throw("headers that name users", &examples, |bytes| {
        let mut all = headers(bytes);
        let _ = ImpersonatedUser::read(&all);
        if let Some(user) = proxy.user(&all) {
            assert!(!user.name.is_empty());
        }
        // What came with a request does not name somebody a second time.
        proxy.strip(&mut all);
        assert_eq!(proxy.user(&all), None);
    });
}

#[test]
fn pages_of_identity_providers() {
    let page = json!({"issuer": "https://i.example", "jwks_uri": "https://i.example/keys?a=b",
        "response_types_supported": ["id_token"], "claims_supported": ["sub"]});
    let examples = texts(&[&page.to_string()]);
    throw("pages of identity providers", &examples, |bytes| {
        if let Ok(place) = oidc::keys::place_of_keys(bytes, "https://i.example") {
            assert!(!place.is_empty());
            let _ = place.parse::<http::Uri>();
        }
    });
}

#[test]
fn files_of_tokens() {
    let examples = texts(&[
        "abc,jane,7,\"a,b\"\n# no comment\nd e f,\"j \"\"k\",8\n",
        "t,u,1\r\n\r\nt,v,2,x",
    ]);
    throw("files of tokens", &examples, |bytes| {
        let _ = StaticTokens::read(&String::from_utf8_lossy(bytes));
    });
}
