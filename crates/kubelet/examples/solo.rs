//! One node without a control plane, for trying the kubelet by hand: a small API in memory,
//! the kubelet, and pods from JSON files.
//!
//! `solo <containerd socket> <folder> <cgroup parent> <pod.json>...` runs the pods, prints
//! each change of their statuses, and deletes a pod when its file is removed.
#![expect(clippy::disallowed_methods, reason = "a real server, in real time")]

use bytes::Bytes;
use futures::StreamExt;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::broadcast;

type Answer = Response<BoxBody<Bytes, Infallible>>;

struct Api {
    objects: Mutex<BTreeMap<String, Value>>,
    revision: Mutex<u64>,
    changes: broadcast::Sender<(u64, &'static str, String, Value)>,
}

impl Api {
    fn write(&self, path: &str, mut object: Value, kind: &'static str) -> Value {
        let mut revision = self.revision.lock();
        *revision += 1;
        object["metadata"]["resourceVersion"] = json!(revision.to_string());
        let mut objects = self.objects.lock();
        if kind == "DELETED" {
            objects.remove(path);
        } else {
            objects.insert(path.to_owned(), object.clone());
        }
        let _ = self
            .changes
            .send((*revision, kind, path.to_owned(), object.clone()));
        object
    }

    async fn handle(self: Arc<Self>, request: Request<Body>) -> Answer {
        let (head, body) = request.into_parts();
        let body = body
            .collect()
            .await
            .map(|b| b.to_bytes())
            .unwrap_or_default();
        let path = head.uri.path().trim_end_matches("/status").to_owned();
        let query: BTreeMap<String, String> = head
            .uri
            .query()
            .unwrap_or_default()
            .split('&')
            .filter_map(|p| p.split_once('='))
            .map(|(k, v)| (k.to_owned(), v.replace("%3D", "=").replace("%2C", ",")))
            .collect();
        let json_body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let existing = self.objects.lock().get(&path).cloned();
        match (head.method.clone(), existing) {
            (Method::GET, Some(object)) => answer(200, &object),
            (Method::GET, None) if query.contains_key("watch") => self.watch(&path, &query),
            (Method::GET, None) if is_collection(&path) => {
                let items: Vec<Value> = self
                    .objects
                    .lock()
                    .iter()
                    .filter(|(k, v)| under(k, &path) && fits(v, &query))
                    .map(|(_, v)| v.clone())
                    .collect();
                let revision = self.revision.lock().to_string();
                answer(
                    200,
                    &json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": revision}, "items": items}),
                )
            }
            (Method::POST, _) if path.ends_with("/token") => answer(
                201,
                &json!({"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "metadata": {}, "spec": {"audiences": []}, "status": {"token": "a.b.c", "expirationTimestamp": "2099-01-01T00:00:00Z"}}),
            ),
            (Method::POST, _) if path.ends_with("/subjectaccessreviews") => {
                let mut review = json_body;
                review["status"] = json!({"allowed": true});
                answer(201, &review)
            }
            (Method::POST, _) => {
                let name = json_body["metadata"]["name"]
                    .as_str()
                    .unwrap_or("x")
                    .to_owned();
                if path.ends_with("/events") {
                    println!(
                        "EVENT {} {}: {}",
                        json_body["involvedObject"]["name"],
                        json_body["reason"],
                        json_body["message"]
                    );
                }
                let key = format!("{path}/{name}");
                if self.objects.lock().contains_key(&key) {
                    return status(409, "AlreadyExists");
                }
                answer(201, &self.write(&key, json_body, "ADDED"))
            }
            (Method::PATCH, Some(mut object)) => {
                merge(&mut object, &json_body);
                if path.contains("/pods/") {
                    println!("STATUS {}", object["status"]);
                }
                answer(200, &self.write(&path, object, "MODIFIED"))
            }
            (Method::DELETE, Some(object)) => {
                println!("DELETE {path}");
                answer(200, &self.write(&path, object, "DELETED"))
            }
            _ => status(404, "NotFound"),
        }
    }

    fn watch(self: &Arc<Self>, path: &str, query: &BTreeMap<String, String>) -> Answer {
        let from: u64 = query
            .get("resourceVersion")
            .and_then(|v| v.parse().ok())
            .unwrap_or(0);
        let (path, query) = (path.to_owned(), query.clone());
        let stream = tokio_stream::wrappers::BroadcastStream::new(self.changes.subscribe());
        let stream = stream.filter_map(move |change| {
            let line = change
                .ok()
                .filter(|(r, _, key, o)| *r > from && under(key, &path) && fits(o, &query))
                .map(|(_, kind, _, o)| {
                    // The type first, as API servers do.
                    let text = format!("{{\"type\":\"{kind}\",\"object\":{o}}}\n");
                    Ok::<_, Infallible>(http_body::Frame::data(Bytes::from(text)))
                });
            std::future::ready(line)
        });
        Response::new(BodyExt::boxed(StreamBody::new(SyncStream(Mutex::new(
            Box::pin(stream),
        )))))
    }
}

/// A stream behind a lock, since a body must be `Sync`.
struct SyncStream<S>(Mutex<std::pin::Pin<Box<S>>>);

impl<S: futures::Stream> futures::Stream for SyncStream<S> {
    type Item = S::Item;
    fn poll_next(
        self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<S::Item>> {
        self.0.lock().as_mut().poll_next(cx)
    }
}

fn is_collection(path: &str) -> bool {
    [
        "pods",
        "services",
        "configmaps",
        "secrets",
        "nodes",
        "leases",
    ]
    .iter()
    .any(|c| path.ends_with(c))
}

/// `/api/v1/pods` holds `/api/v1/namespaces/n/pods/p`.
fn under(key: &str, collection: &str) -> bool {
    let resource = collection.rsplit('/').next().unwrap_or_default();
    let parts: Vec<&str> = key.split('/').collect();
    parts.len() >= 2
        && parts[parts.len() - 2] == resource
        && (key.starts_with(collection) || !collection.contains("/namespaces/"))
}

fn fits(object: &Value, query: &BTreeMap<String, String>) -> bool {
    match query.get("fieldSelector").and_then(|s| s.split_once('=')) {
        Some(("metadata.name", name)) => object["metadata"]["name"] == name,
        Some(("spec.nodeName", name)) => object["spec"]["nodeName"] == name,
        _ => true,
    }
}

fn answer(code: u16, object: &Value) -> Answer {
    let mut response = Response::new(BodyExt::boxed(Full::new(Bytes::from(object.to_string()))));
    *response.status_mut() = http::StatusCode::from_u16(code).unwrap_or_default();
    response
}

fn status(code: u16, reason: &str) -> Answer {
    answer(
        code,
        &json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": reason, "code": code}),
    )
}

fn merge(into: &mut Value, patch: &Value) {
    match patch {
        Value::Object(fields) => {
            if !into.is_object() {
                *into = json!({});
            }
            for (key, value) in fields {
                if value.is_null() {
                    if let Some(map) = into.as_object_mut() {
                        map.remove(key);
                    }
                } else {
                    merge(&mut into[key.as_str()], value);
                }
            }
        }
        Value::Array(items) => {
            *into = Value::Array(
                items
                    .iter()
                    .filter(|i| i.get("$patch").is_none())
                    .cloned()
                    .collect(),
            );
        }
        other => *into = other.clone(),
    }
}

/// A certificate for the kubelet's port, and one for whoever asks, in the folder.
fn certificates(
    folder: &std::path::Path,
) -> Result<wire::tls::ServerTls, Box<dyn std::error::Error>> {
    let now = clock::Clock::system().seconds();
    let ca = wire::pki::Ca::generate("solo", now)?;
    let server = ca.issue(
        &wire::pki::Subject::server("solo", &["localhost"], &["127.0.0.1".parse()?]),
        now,
        1,
    )?;
    let client = ca.issue(
        &wire::pki::Subject::client("admin", &["system:masters"]),
        now,
        1,
    )?;
    std::fs::create_dir_all(folder)?;
    std::fs::write(folder.join("client.crt"), &client.cert_pem)?;
    std::fs::write(folder.join("client.key"), &client.key_pem)?;
    Ok(wire::tls::server_config(&server, Some(&ca.pair.cert_pem))?.into())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let mut args = std::env::args().skip(1);
    let (Some(socket), Some(folder), Some(parent)) = (args.next(), args.next(), args.next()) else {
        return Err("solo <containerd socket> <folder> <cgroup parent> <pod.json>...".into());
    };
    let files: Vec<PathBuf> = args.map(PathBuf::from).collect();
    let api = Arc::new(Api {
        objects: Mutex::default(),
        revision: Mutex::new(0),
        changes: broadcast::channel(4096).0,
    });
    let server = api.clone();
    let client = kube::Client::new(
        tower::service_fn(move |request| {
            let server = server.clone();
            async move { Ok::<_, Infallible>(server.handle(request).await) }
        }),
        "default",
    );
    let sent = std::sync::Arc::default();
    for tar in files
        .iter()
        .filter(|f| f.extension().is_some_and(|e| e == "tar"))
    {
        let names =
            host::cri::images::import_oci_tar(&socket, std::fs::File::open(tar)?, None, &sent)
                .await?;
        println!("IMAGES {names:?}");
    }
    let mut config = kubelet::Config::new("solo", "10.88.0.1".parse()?);
    config.root_dir = PathBuf::from(&folder).join("kubelet");
    config.log_dir = PathBuf::from(&folder).join("logs");
    config.runtime_endpoint = socket;
    config.cgroup_parent = parent;
    config.listen = Some("127.0.0.1:10250".parse()?);
    config.tls = Some(certificates(std::path::Path::new(&folder))?);
    config.cluster_dns = vec!["10.96.0.10".parse()?];
    let shutdown = tokio_util::sync::CancellationToken::new();
    let (clock, random) = (clock::Clock::system(), clock::Random::system());
    let ground = kubelet::Ground::machine(&config, clock, random);
    let running = tokio::spawn(kubelet::run(ground, config, client, shutdown.clone()));
    let mut keys = Vec::new();
    for file in files
        .iter()
        .filter(|f| f.extension().is_some_and(|e| e == "json"))
    {
        let mut object: Value = serde_json::from_slice(&std::fs::read(file)?)?;
        let resource = format!(
            "{}s",
            object["kind"].as_str().unwrap_or("Pod").to_lowercase()
        );
        let (namespace, name) = (
            "default",
            object["metadata"]["name"]
                .as_str()
                .unwrap_or("p")
                .to_owned(),
        );
        object["metadata"]["namespace"] = json!(namespace);
        if resource == "pods" {
            object["metadata"]["uid"] = json!(format!("uid-{name}"));
            object["spec"]["nodeName"] = json!("solo");
        }
        let key = format!("/api/v1/namespaces/{namespace}/{resource}/{name}");
        api.write(&key, object, "ADDED");
        keys.push((file.clone(), key));
    }
    loop {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => break,
            () = tokio::time::sleep(std::time::Duration::from_millis(200)) => {}
        }
        keys.retain(|(file, key)| {
            if file.exists() {
                return true;
            }
            let object = api.objects.lock().get(key).cloned();
            if let Some(mut object) = object {
                let grace = object["spec"]["terminationGracePeriodSeconds"]
                    .as_i64()
                    .unwrap_or(30);
                object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
                object["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
                api.write(key, object, "MODIFIED");
            }
            false
        });
        if running.is_finished() {
            break;
        }
    }
    shutdown.cancel();
    running.await??;
    Ok(())
}
