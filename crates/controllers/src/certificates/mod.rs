//! Certificate signing requests: nodes' requests are approved when they ask for what is theirs;
//! approved requests of the cluster's own signers are signed with its CA.

mod approve;

use std::sync::Arc;

use client::{Informer, Informers};
use control::action::Target;
use control::{Action, Controller, Plan, Watches};
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition as Condition,
};
use kube::ResourceExt;
use wire::pki::Ca;

use crate::common::{time_at, value_of};

/// Signers whose certificates the cluster's CA makes.
const SIGNERS: [&str; 4] = [
    "kubernetes.io/kube-apiserver-client",
    "kubernetes.io/kube-apiserver-client-kubelet",
    "kubernetes.io/kubelet-serving",
    "kubernetes.io/legacy-unknown",
];
/// A certificate is good for a year, as upstream's; nodes ask anew a month before its end.
const LONGEST_SECONDS: i64 = 365 * 86_400;
/// Shorter ones would end before anybody could use them.
const SHORTEST_SECONDS: i64 = 600;

/// Approves and signs.
pub struct Certificates {
    requests: Informer<CertificateSigningRequest>,
    ca: Option<Arc<Ca>>,
}

impl Certificates {
    /// Without a CA requests are approved, and somebody else signs.
    pub fn new(informers: &Informers, ca: Option<Arc<Ca>>) -> Self {
        Self {
            requests: informers.of(),
            ca,
        }
    }
}

/// What is known of a request. Signing needs a key and chance, so it happens on observation; the
/// plan only says where the outcome goes.
pub struct Seen {
    request: Arc<CertificateSigningRequest>,
    signed: Option<Result<String, String>>,
}

fn has(request: &CertificateSigningRequest, kind: &str) -> bool {
    request
        .status
        .iter()
        .flat_map(|s| s.conditions.iter().flatten())
        .any(|c| c.type_ == kind)
}

fn is_decided(request: &CertificateSigningRequest) -> bool {
    ["Approved", "Denied", "Failed"]
        .iter()
        .any(|k| has(request, k))
}

fn wants_signature(request: &CertificateSigningRequest) -> bool {
    has(request, "Approved")
        && !has(request, "Denied")
        && !has(request, "Failed")
        && request
            .status
            .as_ref()
            .is_none_or(|s| s.certificate.is_none())
        && SIGNERS.contains(&request.spec.signer_name.as_str())
}

fn sign(ca: &Ca, request: &CertificateSigningRequest) -> Result<String, String> {
    let pem = String::from_utf8(request.spec.request.0.clone()).map_err(|e| e.to_string())?;
    let usages: Vec<&str> = request
        .spec
        .usages
        .iter()
        .flatten()
        .map(String::as_str)
        .collect();
    let asked = request
        .spec
        .expiration_seconds
        .map_or(LONGEST_SECONDS, i64::from);
    let seconds = asked.clamp(SHORTEST_SECONDS, LONGEST_SECONDS);
    let now = jiff::Timestamp::now().as_second();
    ca.sign_request(&pem, &usages, now, seconds)
        .map_err(|e| e.to_string())
}

impl Controller for Certificates {
    const NAME: &'static str = "certificate-controller";
    type Key = String;
    type Observed = Seen;

    fn watches(&self, watches: &mut Watches<String>) {
        watches.on(&self.requests, |r| vec![r.name_any()]);
    }

    fn observe(&self, name: &String) -> Option<Seen> {
        let request = self.requests.get("", name)?;
        let signed = match &self.ca {
            Some(ca) if wants_signature(&request) => Some(sign(ca, &request)),
            _ => None,
        };
        Some(Seen { request, signed })
    }

    fn plan(&self, seen: &Seen, now_millis: i64) -> Plan {
        plan(seen, now_millis)
    }
}

/// Requests are cleaned up an hour after they were decided, or a day after they were made.
const KEEP_DECIDED_MILLIS: i64 = 3_600_000;
const KEEP_PENDING_MILLIS: i64 = 86_400_000;

fn plan(seen: &Seen, now_millis: i64) -> Plan {
    let request = &seen.request;
    let target = Target::of::<CertificateSigningRequest>("", &request.name_any());
    let created = request
        .metadata
        .creation_timestamp
        .as_ref()
        .map_or(now_millis, |t| t.0.as_millisecond());
    let keep = if is_decided(request) {
        KEEP_DECIDED_MILLIS
    } else {
        KEEP_PENDING_MILLIS
    };
    if now_millis - created > keep {
        let action = Action::delete(target, request.uid());
        return Plan {
            actions: vec![action],
            ..Plan::default()
        }
        .because("it is old");
    }
    if let Some(outcome) = &seen.signed {
        return certificate(request, target, outcome, now_millis);
    }
    if !is_decided(request)
        && let Some(why) = approve::reason(&request.spec)
    {
        let changed = with_condition(request, "Approved", "AutoApproved", why, now_millis);
        let action = Action::Update {
            target,
            subresource: "approval",
            object: value_of(&changed),
        };
        return Plan {
            actions: vec![action],
            ..Plan::default()
        }
        .because(why);
    }
    let left = u64::try_from(created + keep - now_millis).unwrap_or(0) + 1;
    Plan {
        wake_after_millis: Some(left),
        ..Plan::default()
    }
}

fn certificate(
    request: &CertificateSigningRequest,
    target: Target,
    outcome: &Result<String, String>,
    now_millis: i64,
) -> Plan {
    let changed = match outcome {
        Ok(pem) => {
            let mut changed = request.clone();
            changed.status.get_or_insert_default().certificate =
                Some(ByteString(pem.clone().into_bytes()));
            changed
        }
        Err(why) => with_condition(request, "Failed", "SigningError", why, now_millis),
    };
    let action = Action::Update {
        target,
        subresource: "status",
        object: value_of(&changed),
    };
    Plan {
        actions: vec![action],
        ..Plan::default()
    }
}

fn with_condition(
    request: &CertificateSigningRequest,
    kind: &str,
    reason: &str,
    message: &str,
    now_millis: i64,
) -> CertificateSigningRequest {
    let mut changed = request.clone();
    changed
        .status
        .get_or_insert_default()
        .conditions
        .get_or_insert_default()
        .push(Condition {
            type_: kind.into(),
            status: "True".into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_update_time: Some(time_at(now_millis)),
            last_transition_time: Some(time_at(now_millis)),
        });
    changed
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use wire::pki::{Subject, make_request};

    use super::*;

    const NOW: i64 = 1_700_000_000_000;

    fn request(
        subject: &Subject,
        signer: &str,
        usage: &str,
        user: &str,
        group: &str,
    ) -> CertificateSigningRequest {
        let (csr, _) = make_request(subject).expect("request");
        let mut request: CertificateSigningRequest = serde_json::from_value(json!({
            "metadata": { "name": "r", "uid": "u", "creationTimestamp": api::time::format_seconds(NOW / 1000) },
            "spec": { "request": "", "signerName": signer, "usages": ["digital signature", usage], "username": user, "groups": [group] },
        })).expect("object");
        request.spec.request = ByteString(csr.into_bytes());
        request
    }

    fn is_approved(request: CertificateSigningRequest) -> bool {
        let plan = plan(
            &Seen {
                request: Arc::new(request),
                signed: None,
            },
            NOW,
        );
        matches!(
            &plan.actions[..],
            [Action::Update {
                subresource: "approval",
                ..
            }]
        )
    }

    #[test]
    fn nodes_get_what_is_theirs() {
        let client = "kubernetes.io/kube-apiserver-client-kubelet";
        let node = Subject::client("system:node:n1", &["system:nodes"]);
        let boot = ("system:bootstrap:abcdef", "system:bootstrappers");
        assert!(is_approved(request(
            &node,
            client,
            "client auth",
            boot.0,
            boot.1
        )));
        assert!(is_approved(request(
            &node,
            client,
            "client auth",
            "system:node:n1",
            "system:nodes"
        )));
        assert!(!is_approved(request(
            &node,
            client,
            "client auth",
            "system:node:n2",
            "system:nodes"
        )));
        assert!(!is_approved(request(
            &node,
            client,
            "server auth",
            boot.0,
            boot.1
        )));
        let admin = Subject::client("system:node:n1", &["system:masters"]);
        assert!(!is_approved(request(
            &admin,
            client,
            "client auth",
            boot.0,
            boot.1
        )));
        let mut serving = Subject::server(
            "system:node:n1",
            &["n1"],
            &["10.0.0.9".parse().expect("ip")],
        );
        serving.organizations = vec!["system:nodes".into()];
        let signer = "kubernetes.io/kubelet-serving";
        assert!(is_approved(request(
            &serving,
            signer,
            "server auth",
            "system:node:n1",
            "system:nodes"
        )));
        assert!(!is_approved(request(
            &serving,
            signer,
            "server auth",
            boot.0,
            boot.1
        )));
        serving.dns_names = vec!["kubernetes".into()];
        assert!(!is_approved(request(
            &serving,
            signer,
            "server auth",
            "system:node:n1",
            "system:nodes"
        )));
        let proxy = Subject::client("system:kube-proxy", &[]);
        let signer = "kubernetes.io/kube-apiserver-client";
        assert!(is_approved(request(
            &proxy,
            signer,
            "client auth",
            "system:node:n1",
            "system:nodes"
        )));
        assert!(!is_approved(request(
            &proxy,
            signer,
            "client auth",
            "someone",
            "system:authenticated"
        )));
        let other = Subject::client("admin", &[]);
        assert!(!is_approved(request(
            &other,
            signer,
            "client auth",
            "system:node:n1",
            "system:nodes"
        )));
    }

    #[test]
    fn approved_requests_are_signed() {
        let node = Subject::client("system:node:n1", &["system:nodes"]);
        let plain = request(
            &node,
            "kubernetes.io/kube-apiserver-client-kubelet",
            "client auth",
            "x",
            "y",
        );
        let approved = with_condition(&plain, "Approved", "x", "y", NOW);
        assert!(wants_signature(&approved) && !wants_signature(&plain));
        let ca = Ca::generate("ca", NOW / 1000).expect("ca");
        let pem = sign(&ca, &approved).expect("signed");
        assert_eq!(
            wire::pki::certificate_names_pem(&pem)
                .expect("names")
                .common_name,
            "system:node:n1"
        );
        let seen = Seen {
            request: Arc::new(approved),
            signed: Some(Ok(pem)),
        };
        assert!(matches!(
            &plan(&seen, NOW).actions[..],
            [Action::Update {
                subresource: "status",
                ..
            }]
        ));
    }
}
