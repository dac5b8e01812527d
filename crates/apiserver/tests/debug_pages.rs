//! Pages for looking into the server, over TLS: upstream's forms for those who may, 403 for all others.

mod common;
#[path = "common/over_tls.rs"]
mod over_tls;

use http::{Method, Request};
use http_body_util::BodyExt;
use kube::client::Body;
use over_tls::start;
use serde_json::Value;

/// Only one profile of a process is taken at a time, and these tests share one.
static PROFILES: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

const PAGES: [&str; 8] = [
    "/statusz",
    "/flagz",
    "/configz",
    "/debug/pprof/",
    "/debug/pprof/cmdline",
    "/debug/pprof/heap",
    "/debug/pprof/profile?seconds=1",
    "/debug/pprof/symbol",
];

#[tokio::test(flavor = "multi_thread")]
async fn each_page_is_for_those_who_may_see_it() {
    let _alone = PROFILES.lock().await;
    let running = start(|_| ()).await;
    let (somebody, watcher, admin) = (
        running.as_user("jo", &[]).await,
        running.as_user("mo", &["system:monitoring"]).await,
        running.admin().await,
    );
    for page in PAGES {
        let (code, _, text) = read(&somebody, page, "*/*").await;
        assert_eq!(code, 403, "{page}");
        let status: Value = serde_json::from_str(&text).expect("JSON");
        let path = page.split('?').next().unwrap_or_default();
        let message = format!("forbidden: User \"jo\" cannot get path \"{path}\"");
        assert_eq!(status["kind"], "Status", "{page}");
        assert_eq!(status["message"], message, "{page}");
        let (code, ..) = read(&admin, page, "*/*").await;
        assert_eq!(code, 200, "{page}");
        // As upstream's system:monitoring: what a component is, not what it does in detail.
        let (code, ..) = read(&watcher, page, "*/*").await;
        let is_open = matches!(page, "/statusz" | "/flagz");
        assert_eq!(code, if is_open { 200 } else { 403 }, "{page}");
    }
    // How much is logged is changed by another verb.
    for (client, want) in [(&somebody, 403), (&watcher, 403), (&admin, 501)] {
        let (code, ..) = send(client, Method::PUT, "/debug/flags/v", "*/*", "4").await;
        assert_eq!(code, want);
    }
    let (code, ..) = read(&admin, "/debug/pprof/goroutine", "*/*").await;
    assert_eq!(code, 404);
}

/// Type and text of an answer, asked for as kubectl asks for raw pages or in another way.
async fn read(client: &kube::Client, path: &str, accept: &str) -> (u16, String, String) {
    send(client, Method::GET, path, accept, "").await
}

async fn send(
    client: &kube::Client,
    method: Method,
    path: &str,
    accept: &str,
    body: &'static str,
) -> (u16, String, String) {
    let request = Request::builder().method(method).uri(path);
    let request = request.header("accept", accept);
    let request = request.body(Body::from(body.as_bytes().to_vec()));
    let request = request.expect("a request");
    let answer = client.send(request).await.expect("an answer");
    let code = answer.status().as_u16();
    let kind = answer.headers().get("content-type").cloned();
    let kind = kind.expect("a type").to_str().expect("text").to_owned();
    let body = answer.into_body().collect().await.expect("a body");
    let text = String::from_utf8_lossy(&body.to_bytes()).into_owned();
    (code, kind, text)
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_have_upstreams_forms() {
    let _alone = PROFILES.lock().await;
    let running = start(|_| ()).await;
    let admin = running.admin().await;
    let (code, kind, text) = read(&admin, "/statusz", "application/json, */*").await;
    assert_eq!((code, kind.as_str()), (200, "text/plain; charset=utf-8"));
    for part in [
        "\nkube-apiserver statusz\nWarning: ",
        "\nStarted: ",
        "\nUp: 0 hr ",
        "\nPaths: /configz /debug /flagz /healthz /livez /metrics /readyz /statusz /version\n",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    for (page, as_kind, field) in [
        ("/statusz", "Statusz", "paths"),
        ("/flagz", "Flagz", "flags"),
    ] {
        let accept = format!("application/json;v=v1beta1;g=config.k8s.io;as={as_kind}");
        let (code, kind, text) = read(&admin, page, &accept).await;
        assert_eq!((code, kind.as_str()), (200, "application/json"), "{text}");
        let object: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(object["apiVersion"], "config.k8s.io/v1beta1");
        assert_eq!(object["metadata"]["name"], "kube-apiserver");
        assert!(!object[field].is_null(), "{object}");
        let (code, ..) = read(&admin, page, "application/vnd.kubernetes.protobuf").await;
        assert_eq!(code, 406, "{page}");
    }
    let (code, kind, text) = read(&admin, "/debug/pprof/profile?seconds=1", "*/*").await;
    assert_eq!(kind, "application/octet-stream", "{code}: {text}");
    let (code, ..) = read(&admin, "/debug/pprof/profile?seconds=100000", "*/*").await;
    assert_eq!(code, 400);
}
