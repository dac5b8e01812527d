//! Certificate signing requests: nodes' requests are approved when they ask for what is theirs;
//! approved requests of the cluster's own signers are signed with its CA; old ones are removed.
//! [`Certificates`] does what upstream's controllers do, as their account; [`NodeApprover`]
//! approves what only our nodes ask for.

mod approve;
mod signers;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;

use client::{Informer, Informers};
use clock::Clock;
use control::action::{Target, reference};
use control::{Action, Controller, Plan, Watches};
use k8s_openapi::ByteString;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition as Condition,
};
use k8s_openapi::api::core::v1::Node;
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt};
use wire::pki::{self, Ca};

use crate::common::{millis_of, time_at, value_of};
use approve::{ApprovalFacts, Decision, Grant, Holder};

/// Approves and signs.
pub struct Certificates {
    requests: Informer<CertificateSigningRequest>,
    nodes: Informer<Node>,
    ca: Option<Arc<Ca>>,
    clock: Clock,
}

impl Certificates {
    /// Without a CA requests are approved, and somebody else signs.
    pub fn new(informers: &Informers, ca: Option<Arc<Ca>>) -> Self {
        Self {
            requests: informers.of(),
            nodes: informers.of(),
            ca,
            clock: informers.clock(),
        }
    }
}

/// What a signature came to.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Signature {
    Pem(String),
    /// The signer does not sign such requests.
    Refused(String),
    /// It would, but cannot.
    Failed(String),
}

/// What is known of a request. Signing needs a key and chance, so the outcome is gathered; the plan
/// only says where it goes.
pub struct Observed {
    request: Arc<CertificateSigningRequest>,
    signed: Option<Signature>,
    known: ApprovalFacts,
    /// When the issued certificate ends, in milliseconds since the epoch.
    ends: Option<i64>,
}

fn condition<'a>(request: &'a CertificateSigningRequest, kind: &str) -> Option<&'a Condition> {
    let conditions = request.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|c| c.type_ == kind)
}

fn has(request: &CertificateSigningRequest, kind: &str) -> bool {
    condition(request, kind).is_some()
}

fn is_decided(request: &CertificateSigningRequest) -> bool {
    ["Approved", "Denied", "Failed"]
        .iter()
        .any(|k| has(request, k))
}

fn certificate_of(request: &CertificateSigningRequest) -> Option<&str> {
    let certificate = request.status.as_ref()?.certificate.as_ref()?;
    std::str::from_utf8(&certificate.0).ok()
}

fn wants_signature(request: &CertificateSigningRequest) -> bool {
    let issued = request.status.as_ref().and_then(|s| s.certificate.as_ref());
    has(request, "Approved")
        && !has(request, "Denied")
        && !has(request, "Failed")
        && issued.is_none_or(|c| c.0.is_empty())
        && signers::ALL.contains(&request.spec.signer_name.as_str())
}

fn sign(ca: &Ca, request: &CertificateSigningRequest, now: i64) -> Signature {
    let refused = |e: &dyn std::fmt::Display| Signature::Refused(e.to_string());
    let spec = &request.spec;
    let pem = match std::str::from_utf8(&spec.request.0) {
        Ok(pem) => pem,
        Err(e) => return refused(&e),
    };
    let names = match pki::request_names(pem) {
        Ok(names) => names,
        Err(e) => return refused(&e),
    };
    let usages = approve::usages(spec);
    if let Err(why) = signers::check(&spec.signer_name, &names, &usages) {
        return Signature::Refused(why);
    }
    let signed = pki::not_after(&ca.pair.cert_pem)
        .map_err(|e| e.to_string())
        .and_then(|ends| signers::validity(spec.expiration_seconds.map(i64::from), now, ends))
        .and_then(|validity| {
            ca.sign_request(pem, &usages, validity)
                .map_err(|e| e.to_string())
        });
    signed.map_or_else(Signature::Failed, Signature::Pem)
}

/// After a certificate was made for a node's name, so long is waited for the node to register,
/// before another machine may have the name.
const REGISTERS_WITHIN_MILLIS: i64 = 600_000;
/// Between questions whether a request may be approved that could not.
const ASK_AGAIN_MILLIS: u64 = 60_000;
/// Between looks at a name that an older request asks for.
const LOOK_AGAIN_MILLIS: u64 = 5_000;

/// How another request stands in the way of the one for a node's name.
fn rival(
    other: &CertificateSigningRequest,
    request: &CertificateSigningRequest,
    now_millis: i64,
) -> Option<Holder> {
    let key = |r: &CertificateSigningRequest| {
        let pem = String::from_utf8(r.spec.request.0.clone()).ok()?;
        pki::request_key_hash(&pem).ok()
    };
    let same_key = key(other).is_some_and(|k| Some(k) == key(request));
    if let Some(approved) = condition(other, "Approved").filter(|_| !has(other, "Failed")) {
        if same_key {
            return Some(Holder::Same);
        }
        let since = millis_of(approved.last_update_time.as_ref()).unwrap_or(now_millis);
        let left = u64::try_from(since + REGISTERS_WITHIN_MILLIS - now_millis).ok()?;
        return Some(Holder::Taken(left.max(1)));
    }
    let made = |r: &CertificateSigningRequest| {
        let time = millis_of(r.metadata.creation_timestamp.as_ref());
        (time.unwrap_or(0), r.name_any())
    };
    let first = !is_decided(other) && !same_key && made(other) < made(request);
    first.then_some(Holder::Taken(LOOK_AGAIN_MILLIS))
}

impl Certificates {
    fn holder(&self, node: &str, request: &CertificateSigningRequest, now_millis: i64) -> Holder {
        let mut taken = Holder::Free;
        for other in self.requests.list() {
            let spec = &other.spec;
            if other.metadata.uid == request.metadata.uid
                || spec.signer_name != signers::KUBELET_CLIENT
                || approve::names(spec).is_none_or(|n| approve::node_of(&n) != node)
            {
                continue;
            }
            match rival(&other, request, now_millis) {
                Some(Holder::Same) => return Holder::Same,
                Some(rival) => taken = rival,
                None => {}
            }
        }
        if self.nodes.get("", node).is_some() {
            return Holder::Registered;
        }
        taken
    }

    /// Addresses of all nodes but one.
    fn others(&self, node: &str) -> Vec<IpAddr> {
        let nodes = self.nodes.list();
        let others = nodes.iter().filter(|n| n.name_any() != node);
        others
            .filter_map(|n| n.status.as_ref()?.addresses.as_ref())
            .flatten()
            .filter_map(|a| a.address.parse().ok())
            .collect()
    }

    fn known(&self, request: &CertificateSigningRequest, now_millis: i64) -> ApprovalFacts {
        let nothing = ApprovalFacts {
            grant: None,
            holder: Holder::Free,
            others: Vec::new(),
        };
        if is_decided(request) {
            return nothing;
        }
        let names = approve::names(&request.spec).unwrap_or_default();
        match (request.spec.signer_name.as_str(), approve::node_of(&names)) {
            (_, "") => nothing,
            (signers::KUBELET_CLIENT, node) => ApprovalFacts {
                holder: self.holder(node, request, now_millis),
                ..nothing
            },
            (signers::KUBELET_SERVING, node) => ApprovalFacts {
                others: self.others(node),
                ..nothing
            },
            _ => nothing,
        }
    }
}

/// What the authorizers let whoever made a request have without a person.
async fn granted(
    client: &Client,
    request: &CertificateSigningRequest,
) -> Result<Option<Grant>, kube::Error> {
    let spec = &request.spec;
    for grant in approve::grants(spec) {
        let attributes = ResourceAttributes {
            group: Some("certificates.k8s.io".into()),
            resource: Some("certificatesigningrequests".into()),
            subresource: Some(grant.subresource().into()),
            verb: Some("create".into()),
            version: Some("*".into()),
            ..ResourceAttributes::default()
        };
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: spec.username.clone(),
                uid: spec.uid.clone(),
                groups: spec.groups.clone(),
                extra: spec.extra.clone(),
                resource_attributes: Some(attributes),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let reviews: Api<SubjectAccessReview> = Api::all(client.clone());
        let answer = reviews.create(&PostParams::default(), &review).await?;
        if answer.status.is_some_and(|s| s.allowed) {
            return Ok(Some(grant));
        }
    }
    Ok(None)
}

impl Certificates {
    /// A deleted Node frees its name and addresses for what waits for them.
    fn on_deleted_nodes(&self, watches: &mut Watches<String>) {
        let (nodes, requests) = (self.nodes.clone(), self.requests.clone());
        watches.on(&self.nodes, move |node| {
            let name = node.name_any();
            if nodes.get("", &name).is_some() {
                return Vec::new();
            }
            let all = requests.list();
            let waiting = all.iter().filter(|r| !is_decided(r));
            waiting.map(|r| r.name_any()).collect()
        });
    }
}

/// Approves the certificates of kubelets' servers and of service proxies, which upstream leaves
/// to people.
pub struct NodeApprover(Certificates);

impl NodeApprover {
    pub fn new(informers: &Informers) -> Self {
        Self(Certificates::new(informers, None))
    }
}

impl Controller for NodeApprover {
    const NAME: &'static str = "node-certificate-approver";
    const ACCOUNT: &'static str = "node-certificate-approver";
    type Key = String;
    type Observed = Observed;

    fn watches(&self, watches: &mut Watches<String>) {
        watches.on(&self.0.requests, |r| vec![r.name_any()]);
        self.0.on_deleted_nodes(watches);
    }

    fn observe(&self, name: &String) -> Option<Observed> {
        let request = self.0.requests.get("", name)?;
        let ours = !approve::is_upstreams(&request.spec.signer_name);
        (ours && !is_decided(&request)).then(|| Observed {
            known: self.0.known(&request, self.0.clock.millis()),
            signed: None,
            ends: None,
            request,
        })
    }

    fn plan(&self, seen: &Observed, now_millis: i64) -> Plan {
        approval(seen, now_millis)
    }
}

impl Controller for Certificates {
    const NAME: &'static str = "certificate-controller";
    const QUEUE: &'static str = "certificate";
    const ACCOUNT: &'static str = "certificate-controller";
    type Key = String;
    type Observed = Observed;

    fn watches(&self, watches: &mut Watches<String>) {
        watches.on(&self.requests, |r| vec![r.name_any()]);
        self.on_deleted_nodes(watches);
    }

    fn observe(&self, name: &String) -> Option<Observed> {
        let request = self.requests.get("", name)?;
        let ends = certificate_of(&request).and_then(|pem| pki::not_after(pem).ok());
        Some(Observed {
            known: self.known(&request, self.clock.millis()),
            signed: None,
            ends: ends.map(|s| s * 1_000),
            request,
        })
    }

    async fn gather(&self, client: &Client, mut seen: Observed) -> Result<Observed, kube::Error> {
        if !is_decided(&seen.request) {
            seen.known.grant = granted(client, &seen.request).await?;
        }
        if let Some(ca) = self.ca.as_ref().filter(|_| wants_signature(&seen.request)) {
            let now = self.clock.seconds();
            seen.signed = Some(sign(ca, &seen.request, now));
        }
        Ok(seen)
    }

    fn plan(&self, seen: &Observed, now_millis: i64) -> Plan {
        plan(seen, now_millis)
    }
}

/// A request is kept for an hour after its outcome, so that the client sees it.
const KEEP_DECIDED_MILLIS: i64 = 3_600_000;
/// A request that waits, for a person or for its signer, is kept for a day.
const KEEP_PENDING_MILLIS: i64 = 86_400_000;

/// When a request is removed, in milliseconds since the epoch.
fn removed_at(seen: &Observed, now_millis: i64) -> i64 {
    let request = &seen.request;
    let created = millis_of(request.metadata.creation_timestamp.as_ref()).unwrap_or(now_millis);
    let since = |c: &Condition| millis_of(c.last_update_time.as_ref()).unwrap_or(created);
    let refused = condition(request, "Denied").or_else(|| condition(request, "Failed"));
    if let Some(refused) = refused {
        return since(refused) + KEEP_DECIDED_MILLIS;
    }
    match (condition(request, "Approved"), certificate_of(request)) {
        (None, _) => created + KEEP_PENDING_MILLIS,
        (Some(approved), None) => since(approved) + KEEP_PENDING_MILLIS,
        (Some(approved), Some(_)) => {
            let at = since(approved) + KEEP_DECIDED_MILLIS;
            seen.ends.map_or(at, |ends| at.min(ends))
        }
    }
}

fn plan(seen: &Observed, now_millis: i64) -> Plan {
    let request = &seen.request;
    let target = Target::of::<CertificateSigningRequest>("", &request.name_any());
    let removed_at = removed_at(seen, now_millis);
    if now_millis > removed_at {
        return Plan::from(Action::delete(target, request.uid())).because("it is old");
    }
    if let Some(outcome) = &seen.signed {
        return certificate(request, outcome, now_millis);
    }
    let left = u64::try_from(removed_at - now_millis).unwrap_or(0) + 1;
    let waits = |plan: Plan| Plan {
        wake_after_millis: Some(plan.wake_after_millis.map_or(left, |ms| ms.min(left))),
        ..plan
    };
    if is_decided(request) || !approve::is_upstreams(&request.spec.signer_name) {
        return waits(Plan::nothing());
    }
    waits(approval(seen, now_millis))
}

/// What is done with a request that nobody has decided.
fn approval(seen: &Observed, now_millis: i64) -> Plan {
    let request = &seen.request;
    match approve::decide(&request.spec, &seen.known) {
        Decision::Person(None) => Plan::nothing(),
        Decision::Person(Some(message)) => Plan::from(Action::Event {
            about: reference(&**request),
            warning: true,
            reason: "NotApproved",
            message: message.clone(),
        })
        .because(message),
        Decision::Unpermitted(message) => Plan {
            actions: vec![Action::Event {
                about: reference(&**request),
                warning: true,
                reason: "NotApproved",
                message: message.clone(),
            }],
            wake_after_millis: Some(ASK_AGAIN_MILLIS),
            ..Plan::default()
        }
        .because(message),
        Decision::Later(millis) => Plan {
            wake_after_millis: Some(millis),
            ..Plan::default()
        },
        Decision::Approve(why) => {
            let changed = with_condition(request, "Approved", "AutoApproved", why, now_millis);
            update(&changed, "approval").because(why)
        }
    }
}

/// Writes one part of the request, as it was read and changed.
fn update(changed: &CertificateSigningRequest, subresource: &'static str) -> Plan {
    Plan::from(Action::Update {
        target: Target::of::<CertificateSigningRequest>("", &changed.name_any()),
        subresource,
        object: value_of(changed),
    })
}

fn certificate(request: &CertificateSigningRequest, outcome: &Signature, now_millis: i64) -> Plan {
    let changed = match outcome {
        Signature::Pem(pem) => {
            let mut changed = request.clone();
            changed.status.get_or_insert_default().certificate =
                Some(ByteString(pem.clone().into_bytes()));
            changed
        }
        Signature::Refused(why) => with_condition(
            request,
            "Failed",
            "SignerValidationFailure",
            why,
            now_millis,
        ),
        Signature::Failed(why) => {
            with_condition(request, "Failed", "SigningError", why, now_millis)
        }
    };
    update(&changed, "status")
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
