//! Certificates of pods in projected volumes: a key that never leaves the node, a
//! PodCertificateRequest for it, and what its signer answers, asked for again before it expires. The
//! signer is somebody else's: where nobody signs, the pod waits. Keys and certificates are held in
//! memory alone; another kubelet asks again.

mod plan;

use super::followed::Followed;
use super::wakes::{Wake, Wakes};
use crate::events::{Recorder, Severity};
use crate::node::own_object::OwnNode;
use crate::pod::spec;
use clock::{Clock, Instant, Random};
use jiff::Timestamp;
use k8s_openapi::api::certificates::v1beta1::{PodCertificateRequest, PodCertificateRequestSpec};
use k8s_openapi::api::core::v1::{Pod, PodCertificateProjection, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::PostParams;
use parking_lot::Mutex;
use plan::{CertificateState, PendingRequest, RequestStatus};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use wire::pod_keys;

/// How long a volume waits for its first certificate before the pod's start is said to fail, and is
/// tried again: most signers answer at once.
const FIRST_ANSWER: Duration = Duration::from_secs(5);

/// A source of a volume: the pod's UID, the volume, and which of its sources.
type Which = (String, String, usize);

/// What is kept of a request.
#[derive(Debug, PartialEq, Eq)]
struct Request {
    pod_uid: String,
    seen: RequestStatus,
}

/// A key with its certificate.
pub struct Credential {
    /// The key, PEM.
    pub key: String,
    /// The certificate, and those that lead to its authority, PEM.
    pub chain: String,
}

/// The certificates of all pods of the node.
pub struct PodCertificates {
    client: kube::Client,
    clock: Clock,
    random: Random,
    recorder: Recorder,
    node_name: String,
    node: Arc<OwnNode>,
    requests: Followed<PodCertificateRequest, Request>,
    wakes: Wakes,
    held: Mutex<HashMap<Which, CertificateState>>,
}

impl std::fmt::Debug for PodCertificates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PodCertificates").finish_non_exhaustive()
    }
}

impl PodCertificates {
    /// None yet. `wakes`: who hears of answers.
    #[must_use]
    pub fn new(
        client: kube::Client,
        recorder: Recorder,
        random: Random,
        (node_name, node): (&str, Arc<OwnNode>),
        wakes: &Wakes,
    ) -> Self {
        let fields = format!("spec.nodeName={node_name}");
        let tell = wakes.clone();
        let told = move |r: &Request| tell.send(Wake::PodCertificate(r.pod_uid.clone()));
        let all = kube::Api::all(client.clone());
        Self {
            requests: Followed::new(all, Some(fields), random.clone(), request, told),
            clock: recorder.clock(),
            client,
            random,
            recorder,
            node_name: node_name.to_owned(),
            node,
            wakes: wakes.clone(),
            held: Mutex::default(),
        }
    }

    /// The certificate that a source of a pod's volume shows now; another one is asked for when it is
    /// time. An error says why there is none.
    pub async fn get(
        &self,
        pod: &Pod,
        (volume, index): (&str, usize),
        source: &PodCertificateProjection,
    ) -> Result<Credential, String> {
        let which = (spec::uid(pod).to_owned(), volume.to_owned(), index);
        let mut wakes = self.wakes.listen();
        self.step(pod, &which, source).await?;
        let until = Instant::now() + FIRST_ANSWER;
        while self.held(&which).waits() {
            if tokio::time::timeout_at(until, wakes.recv()).await.is_err() {
                break;
            }
            self.step(pod, &which, source).await?;
        }
        let held = self.held(&which);
        let found = held.certificate()?;
        Ok(Credential {
            key: found.key.clone(),
            chain: found.chain.clone(),
        })
    }

    fn held(&self, which: &Which) -> CertificateState {
        self.held.lock().get(which).cloned().unwrap_or_default()
    }

    async fn step(
        &self,
        pod: &Pod,
        which: &Which,
        source: &PodCertificateProjection,
    ) -> Result<(), String> {
        let mut held = self.held(which);
        let all = self.requests.all().await?;
        let seen = held.asked().and_then(|name| {
            all.get(&(spec::namespace(pod).to_owned(), name.to_owned()))
                .map(|r| r.seen.clone())
        });
        let mut said = Vec::new();
        let now = self.clock.now();
        let seen = seen.unwrap_or(RequestStatus::Missing);
        let due = held.step(seen, now, self.random.fraction(), &mut said);
        for said in said {
            let warning = Severity::Warning;
            self.recorder
                .pod(pod, None, warning, &said.reason, said.message);
        }
        let asked = if due {
            self.ask(pod, source).await.map(|asked| held.note(asked))
        } else {
            Ok(())
        };
        // One that cannot be exchanged now is shown as long as there is one.
        let has_one = held.certificate().is_ok();
        self.held.lock().insert(which.clone(), held);
        if let Err(why) = &asked
            && has_one
        {
            tracing::warn!(
                pod = spec::full_name(pod),
                why,
                "a pod's certificate cannot be exchanged now; trying again"
            );
            return Ok(());
        }
        asked
    }

    async fn ask(
        &self,
        pod: &Pod,
        source: &PodCertificateProjection,
    ) -> Result<PendingRequest, String> {
        let failed = |what: &str, e: &dyn std::fmt::Display| format!("while {what}: {e}");
        let namespace = spec::namespace(pod);
        let account = spec::of(pod).service_account_name.clone();
        let account = account.unwrap_or_else(|| "default".into());
        let accounts = kube::Api::<ServiceAccount>::namespaced(self.client.clone(), namespace);
        let found = accounts.get(&account).await;
        let found = found.map_err(|e| failed("fetching service account", &e))?;
        let node = self
            .node
            .get()
            .await
            .map_err(|e| failed("getting node object", &e))?;
        let key = pod_keys::new_pod_key(&source.key_type);
        let key = key.map_err(|e| failed("generating keypair", &e))?;
        let request = PodCertificateRequest {
            metadata: ObjectMeta {
                namespace: Some(namespace.to_owned()),
                generate_name: Some("req-".into()),
                owner_references: Some(vec![OwnerReference {
                    api_version: "v1".into(),
                    kind: "Pod".into(),
                    name: spec::name(pod).to_owned(),
                    uid: spec::uid(pod).to_owned(),
                    ..Default::default()
                }]),
                ..Default::default()
            },
            spec: PodCertificateRequestSpec {
                signer_name: source.signer_name.clone(),
                pod_name: spec::name(pod).to_owned(),
                pod_uid: spec::uid(pod).to_owned(),
                service_account_name: account,
                service_account_uid: found.metadata.uid.unwrap_or_default(),
                node_name: self.node_name.clone(),
                node_uid: node.metadata.uid.clone().unwrap_or_default(),
                max_expiration_seconds: source.max_expiration_seconds,
                stub_pkc_s10_request: k8s_openapi::ByteString(key.request_der),
                unverified_user_annotations: source.user_annotations.clone(),
                ..Default::default()
            },
            status: None,
        };
        let requests = kube::Api::namespaced(self.client.clone(), namespace);
        let made: Result<PodCertificateRequest, _> =
            requests.create(&PostParams::default(), &request).await;
        let made = made.map_err(|e| failed("creating PodCertificateRequest", &e))?;
        Ok(PendingRequest {
            name: made.metadata.name.unwrap_or_default(),
            key: key.key_pem,
            at: self.clock.now(),
        })
    }

    /// Forgets the certificates of a pod.
    pub fn forget(&self, uid: &str) {
        self.held.lock().retain(|which, _| which.0 != uid);
    }
}

fn request(object: PodCertificateRequest) -> Request {
    let seen = seen(&object);
    Request {
        pod_uid: object.spec.pod_uid,
        seen,
    }
}

fn seen(object: &PodCertificateRequest) -> RequestStatus {
    let status = object.status.as_ref();
    let conditions = status.and_then(|s| s.conditions.as_deref());
    for condition in conditions.unwrap_or_default() {
        let refused = |which| RequestStatus::Refused {
            condition: which,
            reason: condition.reason.clone(),
            message: condition.message.clone(),
        };
        match condition.type_.as_str() {
            "Denied" => return refused("Denied"),
            "Failed" => return refused("Failed"),
            "Issued" => {
                let status = object.status.clone().unwrap_or_default();
                let at = |time: Option<_>| {
                    time.map_or(
                        Timestamp::MAX,
                        |t: k8s_openapi::apimachinery::pkg::apis::meta::v1::Time| t.0,
                    )
                };
                return match clean(&status.certificate_chain.unwrap_or_default()) {
                    Ok(chain) => RequestStatus::Issued {
                        chain,
                        refresh_at: at(status.begin_refresh_at),
                        not_after: at(status.not_after),
                    },
                    Err(why) => RequestStatus::Refused {
                        condition: "Failed",
                        reason: "UnreadableCertificateChain".into(),
                        message: why,
                    },
                };
            }
            _ => {}
        }
    }
    RequestStatus::Pending
}

/// The certificates alone, without what stands around them.
fn clean(chain: &str) -> Result<String, String> {
    let all = pod_keys::certificates_der(chain)?;
    Ok(all
        .iter()
        .map(|der| pod_keys::certificate_pem(der))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_a_request_shows_is_read_from_its_conditions() {
        let ca = wire::pki::Ca::generate("a", 0).unwrap().pair.cert_pem;
        let read = |conditions: serde_json::Value, chain: &str| {
            let spec = json!({ "podUID": "u", "podName": "p", "nodeName": "n", "nodeUID": "n",
                "serviceAccountName": "s", "serviceAccountUID": "s", "signerName": "x.io/s",
                "stubPKCS10Request": "" });
            let status = json!({ "conditions": conditions, "certificateChain": chain,
                "beginRefreshAt": "1970-01-01T00:10:00Z", "notAfter": "1970-01-01T01:00:00Z" });
            let object = json!({ "metadata": {}, "spec": spec, "status": status });
            request(serde_json::from_value(object).unwrap())
        };
        let one = |kind: &str| {
            json!([{ "type": kind, "status": "True", "reason": "R", "message": "m",
                "lastTransitionTime": "1970-01-01T00:00:00Z" }])
        };
        assert_eq!(read(json!([]), "").seen, RequestStatus::Pending);
        let issued = read(one("Issued"), &format!("text\n{ca}"));
        let want = RequestStatus::Issued {
            chain: ca,
            refresh_at: Timestamp::from_second(600).unwrap(),
            not_after: Timestamp::from_second(3600).unwrap(),
        };
        assert_eq!((issued.pod_uid.as_str(), issued.seen), ("u", want));
        for kind in ["Denied", "Failed"] {
            let found = read(one(kind), "").seen;
            assert!(matches!(found, RequestStatus::Refused { condition, .. } if condition == kind));
        }
    }
}
