//! Webhooks of admission within the load generator: what they cost is the server's asking of them,
//! the work of their own is as small as it gets.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};
use wire::pki::{Ca, Subject};
use wire::serve::RequestBody;

const REGISTRATION: &str = "/apis/admissionregistration.k8s.io/v1";

/// Webhooks that answer until this is dropped.
pub struct Hooks {
    url: String,
    bundle: String,
    _stop: DropGuard,
}

impl Hooks {
    pub async fn start() -> Result<Self> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let now = i64::try_from(now)?;
        let ca = Ca::generate("bench", now)?;
        let local = "127.0.0.1".parse()?;
        let pair = ca.issue(&Subject::server("hooks", &[], &[local]), now, 1)?;
        let tls = wire::tls::server_config(&pair, None)?;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("https://{}", listener.local_addr()?);
        let stop = CancellationToken::new();
        tokio::spawn(wire::serve::serve(listener, tls, answer, stop.clone()));
        Ok(Self {
            url,
            bundle: STANDARD.encode(&ca.pair.cert_pem),
            _stop: stop.drop_guard(),
        })
    }

    /// One that changes new ConfigMaps of a namespace, and two that look at them: paths with objects.
    pub fn configurations(&self, namespace: &str) -> Vec<(String, Value)> {
        let hook = |name: &str, path: &str| {
            json!({ "name": format!("{name}.bench.example.com"), "sideEffects": "None",
                "admissionReviewVersions": ["v1"], "timeoutSeconds": 10,
                "clientConfig": { "url": format!("{}/{path}", self.url), "caBundle": self.bundle },
                "namespaceSelector": {
                    "matchLabels": { "kubernetes.io/metadata.name": namespace } },
                "rules": [{ "apiGroups": [""], "apiVersions": ["v1"],
                    "operations": ["CREATE"], "resources": ["configmaps"] }] })
        };
        let named =
            |hooks: Vec<Value>| json!({ "metadata": { "name": "bench" }, "webhooks": hooks });
        vec![
            (
                format!("{REGISTRATION}/mutatingwebhookconfigurations"),
                named(vec![hook("first", "change")]),
            ),
            (
                format!("{REGISTRATION}/validatingwebhookconfigurations"),
                named(vec![hook("second", "allow"), hook("third", "allow")]),
            ),
        ]
    }
}

async fn answer(request: Request<RequestBody>) -> Response<Full<Bytes>> {
    let changes = request.uri().path() == "/change";
    let body = request.into_body().collect().await;
    let body = body.map(|b| b.to_bytes()).unwrap_or_default();
    let review: Value = serde_json::from_slice(&body).unwrap_or_default();
    let mut response = json!({ "uid": review["request"]["uid"], "allowed": true });
    if changes {
        let patch = r#"[{"op":"add","path":"/metadata/labels/hooked","value":"yes"}]"#;
        response["patchType"] = "JSONPatch".into();
        response["patch"] = STANDARD.encode(patch).into();
    }
    let said = json!({ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "response": response });
    Response::new(Full::from(said.to_string()))
}
