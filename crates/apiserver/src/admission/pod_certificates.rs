//! Requests for certificates of pods: what keys and certificates hold, who may answer, and that a
//! node asks for its own pods alone.

use api::{FieldError, FieldPath, GroupKind, Status};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::future::BoxFuture;
use registry::Row;
use serde_json::Value;
use wire::pod_keys::ProofProblem;

use super::certificates::may;
use super::{AdmissionAttributes, Admit, Need, Operation, Review, list, text};
use crate::state::State;

/// The labels of what a node's request names.
pub(super) const POD: &str = "pod that the certificate is for";
pub(super) const NODE: &str = "node that the pod is on";
pub(super) const ACCOUNT: &str = "service account of the pod";

const MIRROR: &str = "/metadata/annotations/kubernetes.io~1config.mirror";
/// By how much the clock of a signer may be off, in seconds.
const SKEW: i64 = 300;
/// A certificate is exchanged no sooner after its beginning, and no later before its end, in seconds.
const MARGIN: i64 = 600;
const HOUR: i64 = 3600;

pub struct PodCertificateRequests;

impl Admit for PodCertificateRequests {
    fn name(&self) -> &'static str {
        "PodCertificateRequests"
    }
    fn handles(&self, operation: Operation, row: &Row, subresource: &str) -> bool {
        &*row.group == "certificates.k8s.io"
            && &*row.resource == "podcertificaterequests"
            && match subresource {
                "" => operation == Operation::Create,
                "status" => operation == Operation::Update,
                _ => false,
            }
    }
    fn validate<'a>(
        &'a self,
        state: &'a State,
        review: &'a mut Review<'_>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            let wrong = if review.subresource.is_empty() {
                asked(review.object.as_deref())
            } else {
                answered(state, review).await
            };
            let Err(wrong) = wrong else { return Ok(()) };
            let kind = GroupKind::new(&review.row.group, &review.row.kind);
            Err(Status::invalid(&kind, review.name, &[wrong]))
        })
    }
}

/// A field of the specification that holds bytes.
fn bytes(object: &Value, field: &str) -> Vec<u8> {
    // What is not base64 is not a request, a key, or a proof either.
    let text = text(object, &format!("/spec/{field}"));
    STANDARD.decode(text).unwrap_or_default()
}

const REQUEST: &str = "stubPKCS10Request";
const KEY: &str = "pkixPublicKey";
const PROOF: &str = "proofOfPossession";

fn unusable(field: &str, why: &str) -> FieldError {
    FieldError::invalid_str(&FieldPath::new("spec").child(field), "<value omitted>", why)
}

/// Whether somebody has the key that is asked for: by a request, or by a key and a proof, as it was
/// done before.
fn asked(object: Option<&Value>) -> Result<(), FieldError> {
    let Some(object) = object else { return Ok(()) };
    let request = bytes(object, REQUEST);
    if !request.is_empty() {
        let checked = wire::pod_keys::check_request(&request);
        return checked.map_err(|why| unusable(REQUEST, why));
    }
    let uid = text(object, "/spec/podUID").as_bytes();
    let (key, proof) = (bytes(object, KEY), bytes(object, PROOF));
    wire::pod_keys::check_proof(&key, uid, &proof).map_err(|problem| match problem {
        ProofProblem::Key(why) => unusable(KEY, why),
        // Its bytes are nobody's business: upstream leaves them out, too.
        ProofProblem::Proof(why) => FieldError {
            value: None,
            ..unusable(PROOF, why)
        },
    })
}

/// The key that was asked for.
fn key(object: &Value) -> Result<Vec<u8>, FieldError> {
    let request = bytes(object, REQUEST);
    if request.is_empty() {
        return Ok(bytes(object, KEY));
    }
    wire::pod_keys::key_of_request(&request).map_err(|why| unusable(REQUEST, why))
}

async fn answered(state: &State, review: &Review<'_>) -> Result<(), FieldError> {
    let (Some(new), Some(old)) = (review.object.as_deref(), review.old) else {
        return Ok(());
    };
    if new.get("status") == old.get("status") {
        return Ok(());
    }
    let signer = text(old, "/spec/signerName");
    if !may(state, review.user, "sign", signer).await {
        let path = FieldPath::new("spec").child("signerName");
        let user = &review.user.name;
        let why = format!("User {user:?} is not permitted to \"sign\" for signer {signer:?}");
        return Err(FieldError::forbidden(&path, &why));
    }
    let mut conditions = list(new, "/status/conditions").iter();
    if conditions.any(|c| text(c, "/type") == "Issued") {
        issued(new, &key(old)?, state.now())
    } else {
        Ok(())
    }
}

/// Whether the certificate is what was asked for, and the times are those of the certificate.
fn issued(object: &Value, key: &[u8], now: i64) -> Result<(), FieldError> {
    let path = |field: &str| FieldPath::new("status").child(field);
    let wrong = |field: &str, value: &str, why: &str| {
        Err(FieldError::invalid_str(&path(field), value, why))
    };
    let chain = text(object, "/status/certificateChain");
    let leaf = match wire::pod_keys::check_chain(chain, key) {
        Ok(leaf) => leaf,
        Err(why) => return wrong("certificateChain", "<value omitted>", why),
    };
    let value = |field: &str| text(object, &format!("/status/{field}"));
    let seconds = |field: &str| {
        let time: Option<jiff::Timestamp> = value(field).parse().ok();
        time.map(jiff::Timestamp::as_second)
    };
    let refuse = |field: &str, why: &str| wrong(field, value(field), why);
    if seconds("notBefore") != Some(leaf.not_before) {
        let why = "must be set to the NotBefore time encoded in the leaf certificate";
        return refuse("notBefore", why);
    }
    if (leaf.not_before - now).abs() >= SKEW {
        let why = "must be set to within 5 minutes of kube-apiserver's current time";
        return refuse("notBefore", why);
    }
    if seconds("notAfter") != Some(leaf.not_after) {
        let why = "must be set to the NotAfter time encoded in the leaf certificate";
        return refuse("notAfter", why);
    }
    let life = leaf.not_after - leaf.not_before;
    let most = object
        .pointer("/spec/maxExpirationSeconds")
        .and_then(Value::as_i64);
    if life < HOUR {
        let why = "leaf certificate lifetime must be >= 1 hour";
        return wrong("certificateChain", &format!("{life}s"), why);
    }
    if most.is_some_and(|most| life > most) {
        let why = "leaf certificate lifetime must be <= spec.maxExpirationSeconds";
        return wrong("certificateChain", &format!("{life}s"), why);
    }
    let refresh = seconds("beginRefreshAt").unwrap_or_default();
    if refresh < leaf.not_before + MARGIN {
        return refuse(
            "beginRefreshAt",
            "must be at least 10 minutes after status.notBefore",
        );
    }
    if refresh > leaf.not_after - MARGIN {
        return refuse(
            "beginRefreshAt",
            "must be at least 10 minutes before status.notAfter",
        );
    }
    Ok(())
}

/// What is needed to judge a node's request.
pub(super) fn needs(asked: &AdmissionAttributes<'_>, node: &str) -> Vec<Need> {
    let namespace = asked.namespace;
    let account = asked.text("/spec/serviceAccountName");
    let mut all = vec![Need::seen(NODE, ("", "nodes"), "", node)];
    for (label, resource, name) in [
        (POD, "pods", asked.text("/spec/podName")),
        (ACCOUNT, "serviceaccounts", account),
    ] {
        if !name.is_empty() {
            all.push(Need::seen(label, ("", resource), namespace, name));
        }
    }
    all
}

/// Whether a node asks for a pod that runs on it, as what the pod is.
pub(super) fn of_node(review: &Review<'_>, node: &str) -> Result<(), String> {
    if review.operation != Operation::Create {
        return Err("unexpected operation: nodes can only create PodCertificateRequests".into());
    }
    if !review.subresource.is_empty() {
        return Err(format!("unexpected subresource {}", review.subresource));
    }
    let Some(request) = review.object.as_deref() else {
        return Ok(());
    };
    let asks = |field: &str| text(request, &format!("/spec/{field}"));
    if asks("nodeName") != node {
        return Err(format!(
            "PodCertificateRequest.Spec.NodeName={:?}, which is not the requesting node {node:?}",
            asks("nodeName")
        ));
    }
    let name = format!("{}/{}", review.namespace, asks("podName"));
    let found = |label: &str, what: &str| {
        let object = review.found.get(label).map(|o| o.to_value());
        object.ok_or_else(|| format!("{what} named in the PodCertificateRequest does not exist"))
    };
    let own = found(NODE, &format!("node {node:?}"))?;
    let pod = found(POD, &format!("pod {name:?}"))?;
    let account_name = asks("serviceAccountName");
    if asks("nodeUID") != text(&own, "/metadata/uid") {
        return Err(format!(
            "PodCertificateRequest for pod {name:?} names another node UID"
        ));
    }
    if asks("podUID") != text(&pod, "/metadata/uid") {
        return Err(format!(
            "PodCertificateRequest for pod {name:?} contains another pod UID"
        ));
    }
    if text(&pod, "/spec/nodeName") != node {
        return Err(format!(
            "pod {name:?} is not running on node {node:?} named in the PodCertificateRequest"
        ));
    }
    if pod.pointer(MIRROR).is_some() {
        return Err(format!("pod {name:?} is a mirror pod"));
    }
    let pods = text(&pod, "/spec/serviceAccountName");
    if account_name != pods {
        return Err(format!(
            "PodCertificateRequest for pod {name:?} contains serviceAccountName ({account_name:?}) that differs from running pod ({pods:?})"
        ));
    }
    let account = found(ACCOUNT, &format!("service account {account_name:?}"))?;
    if asks("serviceAccountUID") != text(&account, "/metadata/uid") {
        return Err(format!(
            "PodCertificateRequest for pod {name:?} names another service account UID"
        ));
    }
    Ok(())
}
