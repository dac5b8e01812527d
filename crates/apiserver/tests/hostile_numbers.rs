//! Numbers at the edges of their types, in built-in kinds and in custom ones: each is kept exactly,
//! kept as the double that upstream has for it, or refused with upstream's status, and never becomes
//! another value on the way.

mod common;

use std::time::Duration;

use apiserver::ApiServer;
use common::{JSON, ask, get, post, raw, request, server};
use http::Method;
use serde_json::{Value, json};

const YAML: &str = "application/yaml";
const PODS: &str = "/api/v1/namespaces/default/pods";
const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const THINGS: &str = "/apis/example.com/v1/namespaces/default/things";

fn definition() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "things.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": {"plural": "things", "kind": "Thing"},
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                    "whole": {"type": "integer"},
                    "long": {"type": "integer", "format": "int64"},
                    "part": {"type": "number"},
                    "either": {"x-kubernetes-int-or-string": true},
                    "any": {"x-kubernetes-preserve-unknown-fields": true},
                }}},
            }],
        },
    })
}

async fn install(s: &ApiServer) {
    let (code, made) = post(s, CRDS, definition()).await;
    assert_eq!(code, 201, "{made}");
    for _ in 0..3000 {
        if get(s, THINGS).await.0 == 200 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the kind is not served");
}

async fn send(s: &ApiServer, uri: &str, media: &str, body: String) -> (u16, Value) {
    raw(s, request(Method::POST, uri, media, body)).await
}

/// The text of a number as upstream reads it: whole with 63 bits, or a double.
fn same(got: &Value, text: &str) -> bool {
    match text.parse::<i64>() {
        Ok(whole) => got.as_i64() == Some(whole),
        Err(_) => got.as_f64() == text.parse().ok(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_of_custom_kinds_keep_their_values_or_are_refused() {
    let s = server().await;
    install(&s).await;
    for (field, number, code) in [
        ("whole", "9223372036854775807", 201),
        ("whole", "-9223372036854775808", 201),
        ("long", "9223372036854775807", 201),
        // Beyond that a number is a double, which is whole only as far as it counts in ones.
        ("whole", "9223372036854775808", 422),
        ("whole", "18446744073709551615", 422),
        ("whole", "18446744073709551616", 422),
        ("whole", "-9223372036854775809", 422),
        ("whole", "1e15", 201),
        ("whole", "1e16", 422),
        ("whole", "1.5", 422),
        ("either", "9223372036854775808", 422),
        ("part", "9223372036854775807", 201),
        ("part", "9223372036854775808", 201),
        ("part", "1.7976931348623157e308", 201),
        ("part", "-1.7976931348623157e308", 201),
        ("part", "5e-324", 201),
        ("any", "9223372036854775807", 201),
        ("any", "0.1", 201),
        // What no double holds is not a number.
        ("whole", "1e400", 400),
        ("part", "1e400", 400),
        ("part", "-1e400", 400),
        ("any", "1e400", 400),
        ("any", "[{\"a\":-1e400}]", 400),
        ("any", "NaN", 400),
        ("any", "01", 400),
        ("any", "-", 400),
    ] {
        let body = format!(
            "{{\"apiVersion\":\"example.com/v1\",\"kind\":\"Thing\",\"metadata\":{{\"name\":\"t\"}},\"{field}\":{number}}}"
        );
        let (got, said) = send(&s, THINGS, JSON, body).await;
        assert_eq!(got, code, "{field}: {number}: {said}");
        let thing = format!("{THINGS}/t");
        let (there, stored) = get(&s, &thing).await;
        if code != 201 {
            assert_eq!(there, 404, "{field}: {number}: {stored}");
            continue;
        }
        assert!(same(&said[field], number), "{field}: {number}: {said}");
        assert!(same(&stored[field], number), "{field}: {number}: {stored}");
        assert_eq!(ask(&s, Method::DELETE, &thing, Value::Null).await.0, 200);
    }
    // So long that its digits alone would fill an answer.
    let digits = "9".repeat(100_000);
    let body = format!(
        "{{\"apiVersion\":\"example.com/v1\",\"kind\":\"Thing\",\"metadata\":{{\"name\":\"t\"}},\"any\":{digits}}}"
    );
    let (code, said) = send(&s, THINGS, JSON, body).await;
    assert_eq!(code, 400);
    assert!(said.to_string().len() < 10_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_of_built_in_kinds_have_their_bits() {
    let s = server().await;
    for (number, code) in [
        ("9223372036854775807", 201),
        ("0", 201),
        ("9223372036854775808", 400),
        ("-9223372036854775809", 400),
        ("18446744073709551615", 400),
        ("1e400", 400),
        ("1.5", 400),
        ("\"1\"", 400),
    ] {
        for media in [JSON, YAML] {
            let body = format!(
                "{{\"metadata\":{{\"name\":\"p\"}},\"spec\":{{\"terminationGracePeriodSeconds\":{number},\"containers\":[{{\"name\":\"c\",\"image\":\"i\"}}]}}}}"
            );
            let (got, said) = send(&s, PODS, media, body).await;
            assert_eq!(got, code, "{media}: {number}: {said}");
            let pod = format!("{PODS}/p");
            if code != 201 {
                assert_eq!(get(&s, &pod).await.0, 404, "{media}: {number}");
                continue;
            }
            let kept = &said["spec"]["terminationGracePeriodSeconds"];
            assert!(same(kept, number), "{media}: {number}: {said}");
            let at_once = format!("{pod}?gracePeriodSeconds=0");
            assert_eq!(ask(&s, Method::DELETE, &at_once, Value::Null).await.0, 200);
        }
    }
    // Doubles: the bounds of a schema.
    for (bound, code) in [
        ("1.7976931348623157e308", 201),
        ("-1.7976931348623157e308", 201),
        ("1e400", 400),
        ("-1e400", 400),
        ("Infinity", 400),
    ] {
        let mut crd = definition();
        let part = "/spec/versions/0/schema/openAPIV3Schema/properties/part";
        crd.pointer_mut(part).expect("a property")["maximum"] = "BOUND".into();
        let body = crd.to_string().replace("\"BOUND\"", bound);
        let (got, said) = send(&s, CRDS, JSON, body).await;
        assert_eq!(got, code, "{bound}: {said}");
        let crd = format!("{CRDS}/things.example.com");
        if code == 201 {
            let kept = &said["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["part"]
                ["maximum"];
            assert!(same(kept, bound), "{bound}: {kept}");
            assert_eq!(ask(&s, Method::DELETE, &crd, Value::Null).await.0, 200);
            for _ in 0..3000 {
                if get(&s, &crd).await.0 == 404 {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        assert_eq!(get(&s, &crd).await.0, 404, "{bound}");
    }
}
