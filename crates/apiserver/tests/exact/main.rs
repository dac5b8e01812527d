//! The lesser points of exactness, each a line: methods, slashes, forms, tags, compression; on a
//! server over TLS. What upstream answers stands beside the line where it is not what one expects.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/over_tls.rs"]
mod over_tls;
mod replacing;

use std::io::Read;

use http::Method;
use over_tls::{Answer, Running, ask, plain, start};
use serde_json::{Value, json};

const PODS: &str = "/api/v1/namespaces/default/pods";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const TYPES: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const JSON: &str = "application/json";
const YAML: &str = "application/yaml";
const PROTO: &str = "application/vnd.kubernetes.protobuf";
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

async fn get(running: &Running, path: &str, headers: &[(&str, &str)]) -> Answer {
    plain(running, Method::GET, path, headers).await
}

#[tokio::test(flavor = "multi_thread")]
async fn slashes() {
    let running = start(|_| {}).await;
    for (path, code) in [
        ("/api/v1/namespaces/default/pods/", 200),
        ("/api/v1/namespaces/default/pods//", 200),
        ("/api/v1/pods/", 200),
        ("/api/v1/", 200),
        ("/apis/apps/v1/", 200),
        ("/apis/apps/", 200),
        ("/apis/", 200),
        ("/api/", 200),
        ("/version/", 200),
        // Nothing cleans a path: an empty word is none of the words that are routed.
        ("/api//v1/pods", 404),
        ("/api/v1//pods", 404),
        ("//api/v1/pods", 404),
        ("/apis//apps/v1", 404),
        ("/apis/apps//v1/deployments", 404),
        ("/api/v1/namespaces/default//pods", 404),
        // An empty word fits where a name stands: all namespaces, and an object without a name.
        ("/api/v1/namespaces//pods", 200),
        ("/api/v1/namespaces/default/pods//log", 400),
        // These are no resources, and have one name each.
        ("/healthz/", 404),
        ("/readyz/", 404),
        ("/livez//", 404),
        ("/metrics/", 404),
        ("/openapi/v2/", 404),
        ("/openapi/v3/", 404),
        ("/api/v1/nothing", 404),
        ("/nothing", 404),
    ] {
        let answer = get(&running, path, &[]).await;
        assert_eq!(answer.code, code, "{path}: {}", answer.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn methods() {
    let running = start(|_| {}).await;
    let generic = "the server does not allow this method on the requested resource";
    for (method, path, code) in [
        (Method::HEAD, PODS, 405),
        (Method::OPTIONS, PODS, 405),
        (Method::TRACE, PODS, 405),
        (Method::PUT, PODS, 405),
        (Method::PATCH, PODS, 405),
        (Method::POST, "/api/v1/namespaces/default/pods/x", 405),
        (Method::GET, "/api/v1/namespaces/default/bindings", 405),
        (
            Method::GET,
            "/apis/authorization.k8s.io/v1/subjectaccessreviews",
            405,
        ),
        (Method::DELETE, "/api/v1/namespaces", 405),
        (Method::HEAD, "/api/v1/namespaces/default", 405),
        (Method::OPTIONS, "/api/v1/namespaces/default", 405),
        (Method::HEAD, "/api/v1/namespaces/default/pods/x/log", 405),
        (
            Method::GET,
            "/api/v1/namespaces/default/pods/x/eviction",
            405,
        ),
        (Method::POST, "/api/v1/watch/pods", 405),
        (Method::HEAD, "/api/v1/watch/pods", 405),
        (Method::HEAD, "/apis", 405),
        (Method::POST, "/apis/apps/v1", 405),
        (Method::OPTIONS, "/version", 405),
        (Method::HEAD, "/healthz", 200),
        (Method::HEAD, "/openapi/v2", 200),
    ] {
        let answer = plain(&running, method.clone(), path, &[]).await;
        assert_eq!(answer.code, code, "{method} {path}: {}", answer.text());
        match method {
            Method::HEAD => assert!(answer.body.is_empty(), "{path}"),
            _ if code == 405 => {
                let said = answer.json();
                assert_eq!(said["reason"], "MethodNotAllowed", "{method} {path}");
                assert_eq!(said["message"], generic, "{method} {path}");
                assert_eq!(said["details"], json!({}), "{method} {path}");
            }
            _ => {}
        }
    }
}

/// A custom kind is read by what a request wants, not by its method, and says otherwise what it does
/// not know.
#[tokio::test(flavor = "multi_thread")]
async fn methods_of_custom_kinds() {
    let running = start(|_| {}).await;
    let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    let ships = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "ships.sea.example.com"},
        "spec": {"group": "sea.example.com", "scope": "Cluster",
            "names": {"plural": "ships", "kind": "Ship"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": schema}]},
    });
    let admin = running.admin().await;
    let (code, made) = ask(&admin, Method::POST, TYPES, &ships).await;
    assert_eq!(code, 200, "{made}");
    let path = "/apis/sea.example.com/v1/ships";
    let mut answer = get(&running, path, &[]).await;
    for _ in 0..3000 {
        if answer.code == 200 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        answer = get(&running, path, &[]).await;
    }
    assert_eq!(answer.code, 200, "{}", answer.text());
    let head = plain(&running, Method::HEAD, path, &[]).await;
    assert_eq!((head.code, head.body.len()), (200, 0));
    let options = plain(&running, Method::OPTIONS, path, &[]).await;
    assert_eq!(options.code, 405);
    let message = options.json()["message"].to_string();
    assert!(message.contains("ships.sea.example.com"), "{message}");
    let forms = [(PROTO, 406), (YAML, 200), (JSON, 200)];
    for (accept, code) in forms {
        let answer = get(&running, path, &[("accept", accept)]).await;
        assert_eq!(answer.code, code, "{accept}: {}", answer.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn forms() {
    let running = start(|_| {}).await;
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let with_table = format!("{table}, application/json");
    for (accept, code, kind) in [
        ("*/*", 200, JSON),
        ("application/*", 200, JSON),
        (YAML, 200, YAML),
        ("text/html, application/json;q=0.5", 200, JSON),
        (
            "application/vnd.kubernetes.protobuf, application/json",
            200,
            PROTO,
        ),
        ("application/json;q=0.1, application/yaml;q=0.9", 200, YAML),
        (&with_table, 200, JSON),
        (
            "application/json;as=Table;v=v2;g=meta.k8s.io, application/json",
            200,
            JSON,
        ),
        (
            "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
            200,
            JSON,
        ),
        // CBOR is alpha in v1.36 and off: neither spoken nor listed.
        ("application/cbor, application/json", 200, JSON),
        ("application/cbor", 406, JSON),
        ("application/cbor-seq", 406, JSON),
        ("text/html", 406, JSON),
    ] {
        let answer = get(&running, PODS, &[("accept", accept)]).await;
        let had = (answer.code, answer.header("content-type"));
        assert_eq!(had, (code, kind), "{accept}");
    }
    let cbor = [("content-type", "application/cbor")];
    let refused = plain(&running, Method::POST, MAPS, &cbor).await;
    assert_eq!(refused.code, 415, "{}", refused.text());
    // Pages about the server come in the same forms; what is not an object comes as JSON.
    for (path, accept, code, kind) in [
        ("/apis", YAML, 200, YAML),
        ("/apis", PROTO, 200, PROTO),
        ("/api", YAML, 200, YAML),
        ("/api/v1", PROTO, 200, PROTO),
        ("/apis/apps", YAML, 200, YAML),
        ("/apis/apps/v1", PROTO, 200, PROTO),
        ("/apis/apps/v1", "text/html", 406, JSON),
        ("/apis", "application/cbor", 406, JSON),
        ("/version", YAML, 200, JSON),
        ("/openapi/v2", "application/json", 200, JSON),
        ("/openapi/v2", YAML, 406, JSON),
    ] {
        let answer = get(&running, path, &[("accept", accept)]).await;
        let had = (answer.code, answer.header("content-type"));
        assert_eq!(had, (code, kind), "{path} {accept}");
    }
    let groups = get(&running, "/apis", &[("accept", PROTO)]).await;
    assert!(groups.body.starts_with(b"k8s\0"));
    let yaml = get(&running, "/apis/apps/v1", &[("accept", YAML)]).await;
    assert!(
        yaml.text().contains("groupVersion: apps/v1"),
        "{}",
        yaml.text()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_for_people() {
    let running = start(|_| {}).await;
    for (path, agent, lines) in [
        ("", "curl/8", true),
        ("", "Wget/1", true),
        ("", "Mozilla/5.0 (X11)", true),
        ("", "kubectl/1", false),
        ("?pretty=true", "kubectl/1", true),
        ("?pretty=1", "kubectl/1", true),
        ("?pretty=yes", "kubectl/1", false),
        ("?pretty=0", "curl/8", false),
        ("?pretty=false", "curl/8", false),
    ] {
        for page in [PODS, "/apis", "/apis/apps/v1"] {
            let path = format!("{page}{path}");
            let answer = get(&running, &path, &[("user-agent", agent)]).await;
            let has = answer.text().trim_end().contains('\n');
            assert_eq!(has, lines, "{agent} {path}");
        }
    }
    // These are written for people whoever asks.
    for page in ["/version", "/"] {
        let answer = get(&running, page, &[("user-agent", "kubectl/1")]).await;
        assert!(answer.text().contains("\n  "), "{page}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tags() {
    let running = start(|_| {}).await;
    for (path, accept) in [
        ("/apis", AGGREGATED),
        ("/api", AGGREGATED),
        ("/openapi/v2", JSON),
        ("/openapi/v3", JSON),
        ("/openapi/v3/api/v1", JSON),
        ("/openapi/v3/version", JSON),
    ] {
        let first = get(&running, path, &[("accept", accept)]).await;
        let tag = first.header("etag").to_owned();
        assert!(tag.starts_with('"') && tag.len() > 100, "{path}: {tag}");
        let known = [("accept", accept), ("if-none-match", &tag)];
        let again = get(&running, path, &known).await;
        assert_eq!((again.code, again.body.len()), (304, 0), "{path}");
        assert_eq!(again.header("etag"), tag, "{path}");
        let other = get(
            &running,
            path,
            &[("accept", accept), ("if-none-match", "\"x\"")],
        )
        .await;
        assert_eq!(other.code, 200, "{path}");
        let is_public = accept == AGGREGATED;
        assert_eq!(
            first.header("cache-control") == "public",
            is_public,
            "{path}"
        );
    }
    for path in ["/apis", "/api/v1", PODS, "/version"] {
        let answer = get(&running, path, &[]).await;
        assert_eq!(answer.header("etag"), "", "{path}");
        assert_eq!(
            answer.header("cache-control"),
            "no-cache, private",
            "{path}"
        );
    }
    // A document by its hash may be kept; by one of another day it is found where it is now.
    let index = get(&running, "/openapi/v3", &[]).await.json();
    let paths = index["paths"].as_object().expect("paths");
    assert!(paths.contains_key("apis") && paths.contains_key("apis/apps"));
    let place = paths["apis/apps/v1"]["serverRelativeURL"]
        .as_str()
        .expect("a place");
    let answer = get(&running, place, &[]).await;
    assert_eq!(answer.header("cache-control"), "public, immutable");
    assert!(answer.header("expires").ends_with(" GMT"));
    let moved = get(&running, "/openapi/v3/apis/apps/v1?hash=ABC", &[]).await;
    assert_eq!((moved.code, moved.header("location")), (301, place));
    // Each lone page's hash is that of its document, too.
    for (name, there) in paths {
        let place = there["serverRelativeURL"].as_str().expect("a place");
        let answer = get(&running, place, &[]).await;
        assert_eq!(answer.code, 200, "{name}: {}", answer.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn compression() {
    let running = start(|_| {}).await;
    let admin = running.admin().await;
    let text = "x".repeat(50 << 10);
    for name in ["a", "b", "c"] {
        let map = json!({"metadata": {"name": name}, "data": {"text": text}});
        let (code, made) = ask(&admin, Method::POST, MAPS, &map).await;
        assert_eq!(code, 200, "{made}");
    }
    let plainly = get(&running, MAPS, &[]).await;
    assert!(plainly.body.len() > 128 << 10);
    for (path, accept, zipped) in [
        (MAPS, "gzip", true),
        (MAPS, "deflate, gzip", true),
        (MAPS, "br", false),
        // Weights are not read, as upstream: what is not plainly `gzip` is not.
        (MAPS, "gzip;q=0", false),
        // 50 KiB are fewer than 128.
        ("/api/v1/namespaces/default/configmaps/a", "gzip", false),
    ] {
        let answer = get(&running, path, &[("accept-encoding", accept)]).await;
        let is_zipped = answer.header("content-encoding") == "gzip";
        assert_eq!(is_zipped, zipped, "{path} {accept}");
        if is_zipped {
            let mut whole = Vec::new();
            let mut reader = flate2::read::GzDecoder::new(&answer.body[..]);
            reader.read_to_end(&mut whole).expect("gzip");
            let whole: Value = serde_json::from_slice(&whole).expect("JSON");
            // Each list has the revision of its moment.
            assert_eq!(whole["items"], plainly.json()["items"]);
        }
    }
}

/// What is deleted at once is answered with the object by some kinds and with a status by most.
#[tokio::test(flavor = "multi_thread")]
async fn answers_of_deletions() {
    let running = start(|_| {}).await;
    let admin = running.admin().await;
    for (path, object, kind) in [
        (MAPS, json!({"metadata": {"name": "x"}}), "Status"),
        (
            "/api/v1/namespaces/default/services",
            json!({"metadata": {"name": "x"}, "spec": {"ports": [{"port": 80}]}}),
            "Service",
        ),
        (
            "/api/v1/namespaces/default/serviceaccounts",
            json!({"metadata": {"name": "x"}}),
            "ServiceAccount",
        ),
        (
            "/apis/storage.k8s.io/v1/storageclasses",
            json!({"metadata": {"name": "x"}, "provisioner": "p.example.com"}),
            "StorageClass",
        ),
        (
            "/apis/scheduling.k8s.io/v1/priorityclasses",
            json!({"metadata": {"name": "x"}, "value": 1}),
            "Status",
        ),
    ] {
        let (code, made) = ask(&admin, Method::POST, path, &object).await;
        assert_eq!(code, 200, "{made}");
        let deleted = plain(&running, Method::DELETE, &format!("{path}/x"), &[]).await;
        assert_eq!(
            (deleted.code, &deleted.json()["kind"]),
            (200, &json!(kind)),
            "{path}"
        );
    }
    // Whoever says in the old words that dependents go learns that this is not done yet.
    let held = json!({"metadata": {"name": "y", "finalizers": ["test/hold"]}});
    assert_eq!(ask(&admin, Method::POST, MAPS, &held).await.0, 200);
    let path = format!("{MAPS}/y?orphanDependents=false");
    let accepted = plain(&running, Method::DELETE, &path, &[]).await;
    assert_eq!(
        (accepted.code, &accepted.json()["kind"]),
        (202, &json!("ConfigMap"))
    );
    let again = plain(&running, Method::DELETE, &format!("{MAPS}/y"), &[]).await;
    assert_eq!(again.code, 200);
}

/// A patch whose result is not an object of the kind: each sort of patch says so in its own words.
#[tokio::test(flavor = "multi_thread")]
async fn patches_that_make_no_object() {
    let running = start(|_| {}).await;
    let admin = running.admin().await;
    let map = json!({"metadata": {"name": "x"}});
    assert_eq!(ask(&admin, Method::POST, MAPS, &map).await.0, 200);
    let unmarshal = "json: cannot unmarshal string into Go struct field ObjectMeta.metadata.labels of type map[string]string";
    for (kind, patch, shown, why) in [
        (
            "application/strategic-merge-patch+json",
            json!({"metadata": {"labels": "bad"}}),
            "map[metadata:map[labels:bad]]",
            "cannot restore map from string",
        ),
        (
            "application/merge-patch+json",
            json!({"metadata": {"labels": "bad"}}),
            r#"\"labels\":\"bad\""#,
            unmarshal,
        ),
        (
            "application/json-patch+json",
            json!([{"op": "add", "path": "/metadata/labels", "value": "bad"}]),
            r#"\"labels\":\"bad\""#,
            unmarshal,
        ),
    ] {
        let request = http::Request::patch(format!("{MAPS}/x"))
            .header("content-type", kind)
            .body(kube::client::Body::from(patch.to_string().into_bytes()));
        let answer = admin
            .send(request.expect("request"))
            .await
            .expect("an answer");
        use http_body_util::BodyExt;
        let (head, body) = answer.into_parts();
        let body = body.collect().await.expect("a body").to_bytes();
        let said: Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!(head.status, 422, "{kind}: {said}");
        let message = said["message"].as_str().expect("a message");
        assert!(message.contains("patch: Invalid value: "), "{message}");
        assert!(message.contains(shown), "{message}");
        assert!(message.ends_with(why), "{message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_and_owners_are_what_was_asked() {
    let running = start(|_| {}).await;
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    for (include, code) in [
        ("None", 200),
        ("Object", 200),
        ("Metadata", 200),
        ("", 200),
        ("x", 400),
    ] {
        let path = format!("{MAPS}?includeObject={include}");
        let answer = get(&running, &path, &[("accept", table)]).await;
        assert_eq!(answer.code, code, "{include}: {}", answer.text());
        if code == 400 {
            let want = "Unable to convert to Table as requested: includeObject: Invalid value: \"x\": must be 'Metadata', 'Object', 'None', or empty";
            assert_eq!(answer.json()["message"], want);
        }
        // Nobody else asks for rows.
        assert_eq!(get(&running, &path, &[]).await.code, 200);
    }
    let admin = running.admin().await;
    let owner = |uid: &str| json!({ "apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uid });
    let map = json!({ "metadata": { "name": "owned", "ownerReferences": [owner("1"), owner("1"), owner("2")] } });
    let (code, made) = ask(&admin, Method::POST, MAPS, &map).await;
    assert_eq!(code, 200, "{made}");
    assert_eq!(
        made["metadata"]["ownerReferences"],
        json!([owner("1"), owner("2")])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_leaves_says_so_and_serves() {
    let running = start(|_| {}).await;
    assert_eq!(get(&running, "/readyz", &[]).await.code, 200);
    running.server.leave().await.expect("it leaves");
    assert_eq!(get(&running, "/readyz", &[]).await.code, 500);
    let check = get(&running, "/readyz/shutdown", &[]).await;
    assert_eq!(
        (check.code, check.text().contains("shutting down")),
        (500, true)
    );
    for path in ["/livez", "/healthz", MAPS] {
        assert_eq!(get(&running, path, &[]).await.code, 200, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_says_how_long_it_waits() {
    let running = start(|_| {}).await;
    for (timeout, code) in [
        ("30s", 200),
        ("0", 200),
        ("999h", 200),
        ("30", 400),
        ("soon", 400),
    ] {
        let answer = get(&running, &format!("{MAPS}?timeout={timeout}"), &[]).await;
        assert_eq!(answer.code, code, "{timeout}: {}", answer.text());
        if code == 400 {
            let start = "invalid timeout specified in the request URL - time: ";
            let message = answer.json()["message"]
                .as_str()
                .unwrap_or_default()
                .to_owned();
            assert!(message.starts_with(start), "{message}");
        }
    }
    // A watch has a time of its own.
    let answer = get(
        &running,
        &format!("{MAPS}?watch=1&timeoutSeconds=1&timeout=soon"),
        &[],
    )
    .await;
    assert_eq!(answer.code, 200, "{}", answer.text());
}
