//! The webhooks of the kind `Site`, as its operator's authors would serve them: conversion,
//! defaults and rules, over TLS, with kube's types.

use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result, anyhow};
use base64::Engine as _;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, Patch, PatchOperation};
use kube::core::Status;
use kube::core::admission::{AdmissionRequest, AdmissionResponse, AdmissionReview};
use kube::core::conversion::{ConversionRequest, ConversionResponse, ConversionReview};
use kube::core::{DynamicObject, ResourceExt as _};
use serde_json::Value;
use tests::operator::kinds::convert;
use tokio_util::sync::CancellationToken;
use wire::pki::{Ca, Subject};
use wire::serve::RequestBody;

/// The label that new sites get.
pub const LABEL: &str = "programs.example.com/seen";

/// Webhooks that answer until this is dropped.
pub struct Hooks {
    pub url: String,
    /// Of the CA that signed their certificate, as configurations have it.
    pub bundle: String,
    /// The path of each call.
    asked: Arc<Mutex<Vec<String>>>,
    stop: CancellationToken,
}

impl Hooks {
    pub async fn start() -> Result<Self> {
        let now = jiff::Timestamp::now().as_second();
        let ca = Ca::generate("programs", now)?;
        let local = "127.0.0.1".parse()?;
        let pair = ca.issue(&Subject::server("hooks", &["localhost"], &[local]), now, 1)?;
        let tls = wire::tls::server_config(&pair, None)?;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("https://127.0.0.1:{}", listener.local_addr()?.port());
        let (asked, stop) = (Arc::new(Mutex::new(Vec::new())), CancellationToken::new());
        let seen = asked.clone();
        let handle = move |request: Request<RequestBody>| {
            let seen = seen.clone();
            async move {
                let path = request.uri().path().to_owned();
                if let Ok(mut seen) = seen.lock() {
                    seen.push(path.clone());
                }
                answer(&path, request).await
            }
        };
        tokio::spawn(wire::serve::serve(listener, tls, handle, stop.clone()));
        Ok(Self {
            url,
            bundle: base64::engine::general_purpose::STANDARD.encode(&ca.pair.cert_pem),
            asked,
            stop,
        })
    }

    /// How often a path was asked for.
    pub fn calls(&self, path: &str) -> usize {
        let all = self.asked.lock();
        all.map_or(0, |all| all.iter().filter(|p| *p == path).count())
    }
}

impl Drop for Hooks {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn answer(path: &str, request: Request<RequestBody>) -> Response<Full<Bytes>> {
    let body = async {
        let body = request.into_body().collect().await;
        let body = body.map_err(|e| anyhow!("{e}"))?.to_bytes();
        match path {
            "/convert" => Ok(serde_json::to_vec(&converted(serde_json::from_slice(
                &body,
            )?))?),
            "/mutate" => reviewed(&body, with_label),
            "/validate" => reviewed(&body, judged),
            other => Err(anyhow!("nothing is at {other}")),
        }
    };
    let (code, body) = match body.await {
        Ok(body) => (StatusCode::OK, body),
        Err(e) => (StatusCode::BAD_REQUEST, format!("{e:#}").into_bytes()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = code;
    response
}

fn converted(review: ConversionReview) -> ConversionReview {
    let request = match ConversionRequest::from_review(review) {
        Ok(request) => request,
        Err(e) => {
            let status = Status::failure(&e.to_string(), "InvalidRequest");
            return ConversionResponse::invalid(status).into_review();
        }
    };
    let version = request.desired_api_version.clone();
    let objects: Result<Vec<Value>> = request
        .objects
        .iter()
        .map(|object| convert(object, &version))
        .collect();
    let response = ConversionResponse::for_request(request);
    match objects {
        Ok(objects) => response.success(objects),
        Err(e) => response.failure(Status::failure(&e.to_string(), "Unconvertible")),
    }
    .into_review()
}

type DynamicRequest = AdmissionRequest<DynamicObject>;

fn reviewed(
    body: &[u8],
    judge: fn(&DynamicRequest, AdmissionResponse) -> Result<AdmissionResponse>,
) -> Result<Vec<u8>> {
    let review: AdmissionReview<DynamicObject> = serde_json::from_slice(body)?;
    let request: DynamicRequest = review.try_into()?;
    let response = judge(&request, AdmissionResponse::from(&request))?;
    Ok(serde_json::to_vec(&response.into_review())?)
}

/// Who made a site stands on it.
fn with_label(request: &DynamicRequest, response: AdmissionResponse) -> Result<AdmissionResponse> {
    let object = request.object.as_ref().context("no object")?;
    if object.labels().contains_key(LABEL) {
        return Ok(response);
    }
    let add = |path: &[&str], value: Value| {
        PatchOperation::Add(AddOperation {
            path: PointerBuf::from_tokens(path.iter().copied()),
            value,
        })
    };
    let mut patch = Vec::new();
    if object.metadata.labels.is_none() {
        patch.push(add(&["metadata", "labels"], serde_json::json!({})));
    }
    patch.push(add(&["metadata", "labels", LABEL], "yes".into()));
    Ok(response.with_patch(Patch(patch))?)
}

/// Some titles are not allowed, and many servers are warned of.
fn judged(request: &DynamicRequest, mut response: AdmissionResponse) -> Result<AdmissionResponse> {
    let object = request.object.as_ref().context("no object")?;
    if object.data["spec"]["title"] == "casino" {
        return Ok(response.deny("no casino here"));
    }
    if object.data["spec"]["replicas"].as_i64() > Some(5) {
        response.warnings = Some(vec!["that is many servers".into()]);
    }
    Ok(response)
}
