//! What extends the API where people have it: behind a Service, in a pod. A webhook of conversion and two of
//! admission, and an extension server that keeps notes. The program is this one; the pod passes what comes on to
//! it, byte by byte, so that the way is the whole one and the certificate is the Service's.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use serde_json::{Value, json};
use tests::Context;
use tests::command::eventually;
use tests::context::{pod, service};
use tokio_util::sync::CancellationToken;
use wire::pki::{Ca, Subject};
use wire::serve::RequestBody;

/// The name of Service and pod, and the pod's port.
const NAME: &str = "outside";
const PORT: u16 = 8443;
/// The group whose objects are kept by the cluster, and judged and converted here.
const PAPERS: &str = "papers.example.com";
/// The group whose objects are kept here.
const NOTES: &str = "notes.example.com";

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Answers until this is dropped.
struct Outside {
    port: u16,
    /// Of the CA that signed its certificate, as configurations have it.
    bundle: String,
    stop: CancellationToken,
}

impl Outside {
    /// On this machine, at an address that pods reach.
    async fn start(cx: &Context<'_>) -> Result<Self> {
        let now = jiff::Timestamp::now().as_second();
        let ca = Ca::generate("extension", now)?;
        let host = format!("{NAME}.{}.svc", cx.ns);
        let pair = ca.issue(&Subject::server(NAME, &[host.as_str()], &[]), now, 1)?;
        let tls = wire::tls::server_config(&pair, None)?;
        let address = (cx.cluster.slot.bridge_ip(), 0_u16);
        let listener = tokio::net::TcpListener::bind(address).await?;
        let port = listener.local_addr()?.port();
        let (kept, stop) = (Arc::<Kept>::default(), CancellationToken::new());
        let handle = move |request: Request<RequestBody>| answer(request, kept.clone());
        tokio::spawn(wire::serve::serve(listener, tls, handle, stop.clone()));
        Ok(Self {
            port,
            bundle: STANDARD.encode(&ca.pair.cert_pem),
            stop,
        })
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Notes by their names, and whether one has been removed.
#[derive(Default)]
struct Kept {
    notes: Mutex<BTreeMap<String, Value>>,
    removed: CancellationToken,
}

async fn answer(request: Request<RequestBody>, kept: Arc<Kept>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let Ok(body) = body.collect().await else {
        return said(400, &json!("half a body"));
    };
    let sent: Value = serde_json::from_slice(&body.to_bytes()).unwrap_or_default();
    match head.uri.path() {
        "/convert" => said(200, &converted(&sent)),
        path @ ("/mutate" | "/validate") => said(200, &reviewed(path, &sent)),
        path => match path.strip_prefix(&format!("/apis/{NOTES}/v1")) {
            Some("") => said(200, &resources()),
            Some(rest) => noted(&kept, &head, rest, sent),
            None => said(404, &Value::Null),
        },
    }
}

fn said(code: u16, value: &Value) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(value.to_string())).boxed_unsync());
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or_default();
    let json = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert("content-type", json);
    response
}

/// The versions call one field by two names.
fn converted(review: &Value) -> Value {
    let request = &review["request"];
    let version = request["desiredAPIVersion"].as_str().unwrap_or_default();
    let (from, to) = match version.ends_with("/v1") {
        true => ("name", "title"),
        false => ("title", "name"),
    };
    let one = |object: &Value| {
        let mut object = object.clone();
        if let Some(spec) = object["spec"].as_object_mut()
            && let Some(field) = spec.remove(from)
        {
            spec.insert(to.to_owned(), field);
        }
        object["apiVersion"] = version.into();
        object
    };
    let objects = request["objects"].as_array().into_iter().flatten();
    let objects: Vec<Value> = objects.map(one).collect();
    json!({ "apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview", "response": {
        "uid": request["uid"], "result": { "status": "Success" }, "convertedObjects": objects } })
}

/// Papers get a label; one title is not allowed.
fn reviewed(path: &str, review: &Value) -> Value {
    let request = &review["request"];
    let mut response = json!({ "uid": request["uid"], "allowed": true });
    if path == "/mutate" {
        let patch =
            json!([{ "op": "add", "path": "/metadata/labels", "value": { "seen": "yes" } }]);
        response["patchType"] = "JSONPatch".into();
        response["patch"] = STANDARD.encode(patch.to_string()).into();
    } else if request["object"]["spec"]["title"] == "secret" {
        response["allowed"] = false.into();
        response["status"] = json!({ "message": "not that one" });
    }
    json!({ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response })
}

fn resources() -> Value {
    json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": format!("{NOTES}/v1"),
        "resources": [{ "name": "notes", "singularName": "note", "namespaced": false, "kind": "Note",
            "verbs": ["create", "delete", "get", "list", "patch", "watch"] }] })
}

/// A request for notes: `rest` is its path within the group.
fn noted(kept: &Kept, head: &Parts, rest: &str, sent: Value) -> Response<Body> {
    let Some(name) = rest.strip_prefix("/notes") else {
        return said(404, &Value::Null);
    };
    let name = name.trim_start_matches('/');
    let mut notes = kept.notes.lock().unwrap_or_else(PoisonError::into_inner);
    let watches = head.uri.query().is_some_and(|q| q.contains("watch=1"));
    match (head.method.as_str(), name) {
        ("GET", "") if watches => {
            let added = notes
                .values()
                .map(|note| format!("{}\n", json!({ "type": "ADDED", "object": note })));
            let mut events = Full::new(Bytes::from(added.collect::<String>()));
            let first = async move { events.frame().await };
            // There is nothing behind the events; until then the answer goes on.
            let removed = kept.removed.clone().cancelled_owned();
            let end = async move {
                removed.await;
                None
            };
            let frames = stream::once(first).chain(stream::once(end));
            let frames = frames.filter_map(std::future::ready);
            Response::new(StreamBody::new(frames).boxed_unsync())
        }
        ("GET", "") => {
            let items: Vec<&Value> = notes.values().collect();
            said(
                200,
                &json!({ "kind": "NoteList", "apiVersion": format!("{NOTES}/v1"), "items": items }),
            )
        }
        ("POST", "") => {
            let mut note = sent;
            let by = head.headers.get("x-remote-user");
            note["by"] = by.and_then(|v| v.to_str().ok()).into();
            let name = note["metadata"]["name"].as_str().unwrap_or_default();
            notes.insert(name.to_owned(), note.clone());
            said(201, &note)
        }
        ("DELETE", name) => match notes.remove(name) {
            Some(note) => {
                kept.removed.cancel();
                said(200, &note)
            }
            None => said(404, &Value::Null),
        },
        (method, name) => match notes.get_mut(name) {
            Some(note) => {
                if method == "PATCH" {
                    note["text"] = sent["text"].clone();
                }
                said(200, note)
            }
            None => said(404, &Value::Null),
        },
    }
}

/// The pod that passes on what comes, and the Service before it.
fn place(cx: &Context, outside: &Outside) -> Result<()> {
    let to = cx.cluster.slot.bridge_ip();
    let line = format!("exec nc -ll -p {PORT} -e nc {to} {}", outside.port);
    cx.apply_json(&pod(NAME, &line))?;
    let mut door = service(NAME, NAME, "ClusterIP");
    door["spec"]["ports"] = json!([{ "port": 443, "targetPort": PORT }]);
    cx.apply_json(&door)?;
    cx.wait_ready(NAME)?;
    cx.wait_endpoints(NAME, 1)?;
    let listens = format!("cat /proc/net/tcp* | grep ':{PORT:04X} .* 0A '");
    eventually("the pod listens", || cx.sh(NAME, &listens)).map(drop)
}

/// The kind whose versions are converted, its webhooks, and the extension server's APIService.
fn register(cx: &Context, outside: &Outside) -> Result<()> {
    let at = |path: &str| {
        json!({ "caBundle": outside.bundle,
            "service": { "namespace": cx.ns, "name": NAME, "path": path } })
    };
    let any = json!({ "type": "object", "properties": {
        "spec": { "type": "object", "x-kubernetes-preserve-unknown-fields": true } } });
    let version = |name: &str| {
        json!({ "name": name, "served": true, "storage": name == "v1",
            "schema": { "openAPIV3Schema": any } })
    };
    let hook = |path: &str| {
        json!([{ "name": format!("{path}.{PAPERS}"), "sideEffects": "None",
            "admissionReviewVersions": ["v1"], "clientConfig": at(&format!("/{path}")),
            "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": cx.ns } },
            "rules": [{ "apiGroups": [PAPERS], "apiVersions": ["v1"], "resources": ["papers"],
                "operations": ["CREATE"] }] }])
    };
    let admission = "admissionregistration.k8s.io/v1";
    for object in [
        json!({ "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": { "name": format!("papers.{PAPERS}") },
            "spec": { "group": PAPERS, "scope": "Namespaced",
                "names": { "kind": "Paper", "plural": "papers", "singular": "paper",
                    "listKind": "PaperList" },
                "versions": [version("v1"), version("v1alpha1")],
                "conversion": { "strategy": "Webhook", "webhook": {
                    "conversionReviewVersions": ["v1"], "clientConfig": at("/convert") } } } }),
        json!({ "apiVersion": admission, "kind": "MutatingWebhookConfiguration",
            "metadata": { "name": PAPERS }, "webhooks": hook("mutate") }),
        json!({ "apiVersion": admission, "kind": "ValidatingWebhookConfiguration",
            "metadata": { "name": PAPERS }, "webhooks": hook("validate") }),
        json!({ "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
            "metadata": { "name": format!("v1.{NOTES}") },
            "spec": { "group": NOTES, "version": "v1", "groupPriorityMinimum": 1_000,
                "versionPriority": 10, "caBundle": outside.bundle,
                "service": { "namespace": cx.ns, "name": NAME } } }),
    ] {
        cx.apply_json(&object)?;
    }
    cx.wait(
        &format!("customresourcedefinition/papers.{PAPERS}"),
        "condition=Established",
    )
}

fn papers_are_judged_and_converted(cx: &Context) -> Result<()> {
    let of = |version: &str| format!("/apis/{PAPERS}/{version}/namespaces/{}/papers", cx.ns);
    let paper = |name: &str, title: &str| {
        json!({ "apiVersion": format!("{PAPERS}/v1"), "kind": "Paper",
            "metadata": { "name": name }, "spec": { "title": title } })
    };
    let dry = format!("{}?dryRun=All", of("v1"));
    eventually("a paper is refused", || {
        let (_, said) = cx.api(Method::POST, &dry, &paper("second", "secret"))?;
        let why = said["message"].as_str().unwrap_or_default();
        ensure!(why.contains("denied the request: not that one"), "{said}");
        Ok(())
    })?;
    let (code, made) = cx.api(Method::POST, &of("v1"), &paper("first", "A"))?;
    ensure!(code == 201, "{made}");
    ensure!(made["metadata"]["labels"]["seen"] == "yes", "{made}");
    let first = format!("{}/first", of("v1alpha1"));
    let (code, old) = cx.api(Method::GET, &first, &Value::Null)?;
    ensure!(
        code == 200 && old["spec"] == json!({ "name": "A" }),
        "{old}"
    );
    let patch = json!({ "spec": { "name": "B" } });
    let (code, old) = cx.api(Method::PATCH, &first, &patch)?;
    ensure!(code == 200 && old["spec"] == patch["spec"], "{old}");
    let (_, new) = cx.api(Method::GET, &of("v1"), &Value::Null)?;
    ensure!(new["items"][0]["spec"] == json!({ "title": "B" }), "{new}");
    Ok(())
}

fn notes_are_kept_elsewhere(cx: &Context) -> Result<()> {
    let all = format!("/apis/{NOTES}/v1/notes");
    let one = format!("{all}/first");
    let note = json!({ "apiVersion": format!("{NOTES}/v1"), "kind": "Note",
        "metadata": { "name": "first" }, "text": "one" });
    let made = eventually("the extension server is asked", || {
        let (code, said) = cx.api(Method::POST, &all, &note)?;
        ensure!(code == 201, "{code}: {said}");
        Ok(said)
    })?;
    let by = made["by"].as_str().context("nobody is said to ask")?;
    ensure!(!by.is_empty(), "{made}");
    let (code, said) = cx.api(Method::PATCH, &one, &json!({ "text": "two" }))?;
    ensure!(code == 200, "{said}");
    let (code, said) = cx.api(Method::GET, &one, &Value::Null)?;
    ensure!(code == 200 && said["text"] == "two", "{said}");
    let (code, list) = cx.api(Method::GET, &all, &Value::Null)?;
    let names: Vec<&Value> = list["items"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|n| &n["metadata"]["name"])
        .collect();
    ensure!(code == 200 && names == ["first"], "{list}");
    // The first event comes while the answer goes on.
    let mut watch = cx.start(&format!("get --raw {all}?watch=1"))?;
    watch.line(|l| l.contains("ADDED") && l.contains("first"))?;
    ensure!(watch.is_running(), "the watch has ended: {}", watch.text());
    let (code, said) = cx.api(Method::DELETE, &one, &Value::Null)?;
    ensure!(code == 200, "{said}");
    ensure!(watch.end()? == 0, "{}", watch.text());
    let (code, said) = cx.api(Method::GET, &one, &Value::Null)?;
    ensure!(code == 404, "{said}");
    Ok(())
}

pub fn a_service_leads_to_webhooks_and_an_extension_server(cx: &Context) -> Result<()> {
    let outside = cx.cluster.block_on(Outside::start(cx))?;
    let outcome = place(cx, &outside)
        .and_then(|()| register(cx, &outside))
        .and_then(|()| papers_are_judged_and_converted(cx))
        .and_then(|()| notes_are_kept_elsewhere(cx));
    // Whatever came of it, no other check meets what nobody answers for any more.
    let left = [
        format!("apiservice v1.{NOTES}"),
        format!("customresourcedefinition papers.{PAPERS}"),
        format!("mutatingwebhookconfiguration,validatingwebhookconfiguration {PAPERS}"),
    ];
    let removed = left.iter().try_for_each(|what| {
        cx.kubectl(&format!("delete --ignore-not-found {what}"))
            .map(drop)
    });
    outcome.and(removed)
}
