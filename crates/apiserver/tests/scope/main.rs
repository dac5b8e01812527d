//! What was authorized is what is served: a role that names one object, and every way to ask for
//! it and for more. Reads, watches and deletions of collections, each by every form of path.

#[path = "../common/mod.rs"]
mod common;
mod creating;

use std::sync::Arc;

use apiserver::filters::tokens::Tokens;
use apiserver::http::Body;
use apiserver::{ApiServer, UserInfo, admission};
use common::{JSON, ask, request, server_with};
use futures::StreamExt;
use http::{Method, Response};
use http_body_util::BodyExt;
use registry::{Encoding, Plain, Row};
use serde_json::{Value, json};
use tower::ServiceExt;
use wire::jwt::Signer;

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

async fn secured() -> ApiServer {
    let (signer, _) = Signer::generate().expect("key");
    let tokens = Tokens::new(Arc::new(signer), "https://kubernetes.default.svc");
    let config =
        common::config_at("127.0.0.1", 6443).secured(tokens, &admission::Options::default());
    server_with(config).await
}

async fn as_jane(
    s: &ApiServer,
    method: Method,
    uri: &str,
    media: &str,
    body: Value,
) -> Response<Body> {
    let text = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    s.local_service(UserInfo::new("jane", &[]))
        .oneshot(request(method, uri, media, text))
        .await
        .expect("infallible")
}

async fn whole(r: Response<Body>) -> (u16, Value) {
    let code = r.status().as_u16();
    let bytes = r.into_body().collect().await.expect("body").to_bytes();
    (code, serde_json::from_slice(&bytes).unwrap_or_default())
}

async fn make(s: &ApiServer, uri: &str, body: Value) {
    let (code, made) = ask(s, Method::POST, uri, body).await;
    assert_eq!(code, 201, "{uri}: {made}");
}

/// Gives jane some verbs on one name of a resource, everywhere; and on all of another when `name`
/// is empty.
async fn grant(s: &ApiServer, role: &str, rule: Value) {
    let body = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": { "name": role }, "rules": [rule],
    });
    make(s, &format!("{RBAC}/clusterroles"), body).await;
    let body = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": { "name": role },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role },
        "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "jane" }],
    });
    make(s, &format!("{RBAC}/clusterrolebindings"), body).await;
}

/// A kind of the table: where it lives and a way to make one.
struct Target {
    root: &'static str,
    group: &'static str,
    resource: &'static str,
    namespaced: bool,
    body: fn(&str) -> Value,
}

fn targets() -> Vec<Target> {
    fn meta(name: &str) -> Value {
        json!({ "name": name, "labels": { "l": "x" } })
    }
    vec![
        Target {
            root: "/api/v1",
            group: "",
            resource: "secrets",
            namespaced: true,
            body: |n| json!({ "metadata": meta(n) }),
        },
        Target {
            root: "/api/v1",
            group: "",
            resource: "serviceaccounts",
            namespaced: true,
            body: |n| json!({ "metadata": meta(n) }),
        },
        Target {
            root: "/apis/coordination.k8s.io/v1",
            group: "coordination.k8s.io",
            resource: "leases",
            namespaced: true,
            body: |n| json!({ "metadata": meta(n) }),
        },
        Target {
            root: "/apis/scheduling.k8s.io/v1",
            group: "scheduling.k8s.io",
            resource: "priorityclasses",
            namespaced: false,
            body: |n| json!({ "metadata": meta(n), "value": 7 }),
        },
        Target {
            root: "/apis/sea.example.com/v1",
            group: "sea.example.com",
            resource: "charts",
            namespaced: true,
            body: |n| json!({ "metadata": meta(n), "data": { "a": "b" } }),
        },
        Target {
            root: "/apis/sea.example.com/v1",
            group: "sea.example.com",
            resource: "winds",
            namespaced: false,
            body: |n| json!({ "metadata": meta(n), "data": { "a": "b" } }),
        },
        Target {
            root: "/api/v1",
            group: "",
            resource: "namespaces",
            namespaced: false,
            body: |n| json!({ "metadata": meta(n) }),
        },
    ]
}

/// Kinds that come while the server runs, one in namespaces and one in none.
async fn install(s: &ApiServer) {
    let kinds = s.kinds();
    let like = kinds.resource("", "configmaps").expect("built in").clone();
    let made = |kind: &str, resource: &str, namespaced| {
        let mut row = (*like).clone();
        row.group = "sea.example.com".into();
        row.storage_group = row.group.clone();
        row.kind = kind.into();
        row.list_kind = format!("{kind}List").into();
        row.resource = resource.into();
        row.singular = kind.to_lowercase().into();
        row.short_names.clear();
        row.namespaced = namespaced;
        row.encoding = Encoding::Json;
        row.storage_prefix = format!("/registry/sea.example.com/{resource}").into();
        row.strategy = Arc::new(Plain);
        Arc::new(row)
    };
    let rows = [made("Chart", "charts", true), made("Wind", "winds", false)];
    s.change_rows(move |all: &mut Vec<Arc<Row>>| all.extend(rows))
        .await
        .expect("rows change");
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Want {
    /// This code, and nothing of any object.
    Code(u16),
    /// The object itself.
    Object,
    /// A list of `mine` alone.
    List,
    /// A stream that never reports another object.
    Watch,
    /// A list or a stream of nothing.
    Empty,
}
use Want::{Code, Empty, List, Object, Watch};

/// Path below the collection (`{c}`) or the deprecated one (`{w}`), query, and what comes of it.
/// The role names `mine`, with every verb.
const READS: &[(&str, &str, Want)] = &[
    ("{c}/mine", "", Object),
    ("{c}/mine", "watch=1", Object),
    (
        "{c}/mine",
        "watch=true&fieldSelector=metadata.name%3Dother",
        Object,
    ),
    ("{c}/other", "", Code(403)),
    ("{c}/other", "watch=1", Code(403)),
    ("{c}/other", "fieldSelector=metadata.name%3Dmine", Code(403)),
    (
        "{c}/other",
        "watch=1&fieldSelector=metadata.name%3Dmine",
        Code(403),
    ),
    ("{c}", "", Code(403)),
    ("{c}", "watch=1", Code(403)),
    ("{c}", "labelSelector=l%3Dx", Code(403)),
    ("{c}", "fieldSelector=metadata.name%3Dmine", List),
    ("{c}", "fieldSelector=metadata.name%3D%3Dmine", List),
    (
        "{c}",
        "fieldSelector=metadata.name%3Dmine&labelSelector=l%3Dx",
        List,
    ),
    (
        "{c}",
        "fieldSelector=metadata.name%3Dmine&labelSelector=l%3Dy",
        Empty,
    ),
    ("{c}", "fieldSelector=metadata.name%3Dmine&limit=1", List),
    (
        "{c}",
        "fieldSelector=metadata.name%3Dmine&resourceVersion=0",
        List,
    ),
    ("{c}", "fieldSelector=metadata.name%3Dmine&watch=1", Watch),
    (
        "{c}",
        "fieldSelector=metadata.name%3D%3Dmine&watch=true",
        Watch,
    ),
    (
        "{c}",
        "fieldSelector=metadata.name%3Dmine,metadata.name%3Dother",
        Empty,
    ),
    (
        "{c}",
        "fieldSelector=metadata.name%3Dmine,metadata.name%3Dother&watch=1",
        Empty,
    ),
    (
        "{c}",
        "fieldSelector=metadata.name%3Dmine,metadata.namespace!%3Dnone",
        List,
    ),
    ("{c}", "fieldSelector=metadata.name!%3Dmine", Code(403)),
    (
        "{c}",
        "fieldSelector=metadata.name!%3Dother&watch=1",
        Code(403),
    ),
    ("{c}", "fieldSelector=metadata.name%3Dother", Code(403)),
    (
        "{c}",
        "fieldSelector=&fieldSelector=metadata.name%3Dmine",
        Code(403),
    ),
    (
        "{c}",
        "fieldSelector=metadata.namespace!%3Da%5C,metadata.name%3Dmine",
        Code(403),
    ),
    (
        "{c}",
        "fieldSelector=metadata.name!%3Da%5C,metadata.name%3Dmine&watch=1",
        Code(403),
    ),
    ("{c}", "fieldSelector=metadata.name%3D", Code(403)),
    ("{w}", "", Code(403)),
    ("{w}", "watch=0", Code(403)),
    // As upstream: a watch by the old path is named by its path alone.
    ("{w}", "fieldSelector=metadata.name%3Dmine", Code(403)),
    ("{w}/mine", "", Watch),
    ("{w}/mine", "watch=0", Watch),
    ("{w}/mine", "fieldSelector=metadata.name%3Dmine", Watch),
    ("{w}/mine", "labelSelector=l%3Dx", Watch),
    ("{w}/mine", "fieldSelector=metadata.name%3Dother", Code(400)),
    (
        "{w}/mine",
        "fieldSelector=metadata.namespace!%3Dq",
        Code(400),
    ),
    ("{w}/other", "", Code(403)),
    ("{w}/other", "fieldSelector=metadata.name%3Dmine", Code(403)),
    ("{w}/mine/status", "", Code(403)),
];

fn paths(t: &Target) -> (String, String) {
    let Target { root, resource, .. } = t;
    if t.namespaced {
        (
            format!("{root}/namespaces/a/{resource}"),
            format!("{root}/watch/namespaces/a/{resource}"),
        )
    } else {
        (
            format!("{root}/{resource}"),
            format!("{root}/watch/{resource}"),
        )
    }
}

fn names(list: &Value) -> Vec<&str> {
    let items = list["items"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    items
        .iter()
        .filter_map(|i| i["metadata"]["name"].as_str())
        .collect()
}

/// What a watch reports until it has reported the last change of `mine` (or, where that is not to
/// be seen, until it ends).
async fn reported(r: Response<Body>, until: &str) -> Vec<(String, String)> {
    let mut stream = r.into_body().into_stream();
    let (mut text, mut all) = (String::new(), Vec::new());
    while let Some(chunk) = stream.next().await {
        text.push_str(&String::from_utf8_lossy(&chunk.expect("chunk")));
        while let Some(at) = text.find('\n') {
            let line: Value = serde_json::from_str(&text[..at]).expect("frame");
            text.drain(..=at);
            let word = |p: &str| {
                line.pointer(p)
                    .and_then(Value::as_str)
                    .unwrap_or_default()
                    .to_owned()
            };
            all.push((word("/type"), word("/object/metadata/name")));
            if word("/object/metadata/labels/turn") == until {
                return all;
            }
        }
    }
    all
}

async fn check_read(s: &ApiServer, t: &Target, path: &str, query: &str, want: Want, turn: &str) {
    let (collection, _) = paths(t);
    let watches = matches!(want, Watch) || want == Empty && query.contains("watch=1");
    // An empty stream has no last event: it ends by its own time.
    let seconds = if want == Empty { 1 } else { 60 };
    let uri = format!("{path}?{query}&timeoutSeconds={seconds}");
    let r = as_jane(s, Method::GET, &uri, JSON, Value::Null).await;
    let code = r.status().as_u16();
    if let Code(c) = want {
        let (_, body) = whole(r).await;
        assert_eq!(
            (code, body["kind"].as_str()),
            (c, Some("Status")),
            "{uri}: {body}"
        );
        return;
    }
    assert_eq!(code, 200, "{uri}");
    if !watches {
        let (_, body) = whole(r).await;
        match want {
            Object => assert_eq!(body["metadata"]["name"], "mine", "{uri}: {body}"),
            List => assert_eq!(names(&body), ["mine"], "{uri}"),
            _ => assert!(
                body["items"].as_array().is_some_and(Vec::is_empty),
                "{uri}: {body}"
            ),
        }
        return;
    }
    for name in ["other", "mine"] {
        let change = json!({ "metadata": { "labels": { "turn": turn } } });
        let (code, body) = ask(s, Method::PATCH, &format!("{collection}/{name}"), change).await;
        assert_eq!(code, 200, "{body}");
    }
    let seen = reported(r, turn).await;
    assert!(
        seen.iter().all(|(_, name)| name == "mine"),
        "{uri}: {seen:?}"
    );
    assert_eq!(seen.is_empty(), want == Empty, "{uri}: {seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_names_one_object_shows_that_one_alone() {
    let s = secured().await;
    install(&s).await;
    make(
        &s,
        "/api/v1/namespaces",
        json!({ "metadata": { "name": "a" } }),
    )
    .await;
    let mut turn = 0;
    for t in targets() {
        let (collection, legacy) = paths(&t);
        for name in ["mine", "other"] {
            make(&s, &collection, (t.body)(name)).await;
        }
        let verbs = [
            "get",
            "list",
            "watch",
            "delete",
            "deletecollection",
            "update",
            "patch",
        ];
        let rule = json!({ "apiGroups": [t.group], "resources": [t.resource], "resourceNames": ["mine"], "verbs": verbs });
        grant(&s, t.resource, rule).await;
        for (path, query, want) in READS {
            turn += 1;
            let path = path.replace("{c}", &collection).replace("{w}", &legacy);
            check_read(&s, &t, &path, query, *want, &turn.to_string()).await;
        }
        let mut ways = vec![
            (Method::DELETE, collection.clone(), 403),
            (
                Method::DELETE,
                format!("{collection}?fieldSelector=metadata.name%3Dmine"),
                403,
            ),
            (Method::DELETE, format!("{collection}/other"), 403),
            (Method::DELETE, format!("{legacy}/mine"), 405),
            (Method::DELETE, format!("{legacy}/other"), 403),
            (Method::POST, format!("{legacy}/mine"), 405),
            (Method::PUT, format!("{legacy}/mine"), 405),
            (Method::PATCH, format!("{collection}/other"), 403),
            (Method::PUT, format!("{collection}/other"), 403),
            (Method::POST, collection.clone(), 403),
        ];
        if t.namespaced {
            // A single object of a namespaced kind is in a namespace.
            ways.push((
                Method::GET,
                format!("{}/watch/{}/mine", t.root, t.resource),
                404,
            ));
            ways.push((Method::GET, format!("{}/{}/mine", t.root, t.resource), 404));
            ways.push((
                Method::GET,
                format!("{}/{}?watch=1", t.root, t.resource),
                403,
            ));
        }
        for (method, uri, want) in ways {
            let r = as_jane(&s, method.clone(), &uri, JSON, (t.body)("mine")).await;
            assert_eq!(r.status().as_u16(), want, "{method} {uri}");
        }
        let (_, all) = ask(&s, Method::GET, &collection, Value::Null).await;
        let left = names(&all);
        assert!(
            left.contains(&"mine") && left.contains(&"other"),
            "{left:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_selector_may_name_the_object_in_all_namespaces() {
    let s = secured().await;
    for ns in ["a", "b"] {
        make(
            &s,
            "/api/v1/namespaces",
            json!({ "metadata": { "name": ns } }),
        )
        .await;
        for name in ["mine", "other"] {
            let uri = format!("/api/v1/namespaces/{ns}/secrets");
            make(&s, &uri, json!({ "metadata": { "name": name } })).await;
        }
    }
    let rule = json!({ "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["mine"], "verbs": ["list"] });
    grant(&s, "one", rule).await;
    let uri = "/api/v1/secrets?fieldSelector=metadata.name%3Dmine";
    let (code, list) = whole(as_jane(&s, Method::GET, uri, JSON, Value::Null).await).await;
    assert_eq!((code, names(&list)), (200, vec!["mine", "mine"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_path_is_not_every_object() {
    let s = secured().await;
    grant(
        &s,
        "paths",
        json!({ "nonResourceURLs": ["*"], "verbs": ["*"] }),
    )
    .await;
    let get = |uri: &'static str| as_jane(&s, Method::GET, uri, JSON, Value::Null);
    assert_eq!(get("/metrics").await.status().as_u16(), 200);
    for (uri, code) in [
        ("/tiphys/snapshot", 403),
        ("/tiphys/snapshot/", 403),
        // Another path, and nothing is there.
        ("//tiphys//snapshot", 404),
    ] {
        assert_eq!(get(uri).await.status().as_u16(), code, "{uri}");
    }
    let rule = json!({ "apiGroups": ["*"], "resources": ["*"], "verbs": ["get", "list", "watch"] });
    grant(&s, "reader", rule).await;
    assert_eq!(get("/tiphys/snapshot").await.status().as_u16(), 403);
    grant(
        &s,
        "all",
        json!({ "apiGroups": ["*"], "resources": ["*"], "verbs": ["*"] }),
    )
    .await;
    assert_eq!(get("/tiphys/snapshot").await.status().as_u16(), 200);
}
