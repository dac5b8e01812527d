//! Which requests are approved without a person. Pure.
//!
//! A bootstrap token brings in machines that are not members yet. It never takes the name of one
//! that is: a node that holds its name already renews with that identity, and only a person gives
//! the name to another machine (by deleting the Node, or by approving the request).

use std::net::IpAddr;

use k8s_openapi::api::certificates::v1::CertificateSigningRequestSpec as Spec;
use wire::pki::{Names, request_names};

use super::signers::{self, CLIENT, KUBELET_CLIENT, KUBELET_SERVING, NODE_PREFIX, NODES};

const PROXY: &str = "system:kube-proxy";

/// What holds the node name that a request asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Holder {
    /// Nobody.
    Free,
    /// The key of this very request got a certificate before: an answer was lost.
    Same,
    /// A Node of this name is registered.
    Registered,
    /// Another key asked first, or got a certificate and may be about to register; the name is
    /// looked at again after so many milliseconds.
    Taken(u64),
}

/// What the authorizers let whoever asks for a node's client certificate have without a person.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Grant {
    /// The certificate of the node that it is.
    Own,
    /// That of a node which it names.
    Any,
}

impl Grant {
    /// The subresource of requests that it must be allowed to create.
    pub fn subresource(self) -> &'static str {
        match self {
            Self::Own => "selfnodeclient",
            Self::Any => "nodeclient",
        }
    }
}

/// What the cluster knows that a request's approval depends on.
pub struct ApprovalFacts {
    /// None: it may have nothing, or nobody was asked.
    pub grant: Option<Grant>,
    pub holder: Holder,
    /// Addresses of the other nodes.
    pub others: Vec<IpAddr>,
}

/// What is done with a request that nobody has decided.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Decision {
    /// Approved; says why.
    Approve(&'static str),
    /// Left to a person; says why, where somebody may be waiting for it.
    Person(Option<String>),
    /// Whoever asks may not have it without a person now; says why. It may be let later.
    Unpermitted(String),
    /// Looked at again after so many milliseconds.
    Later(u64),
}

fn is_in(spec: &Spec, group: &str) -> bool {
    spec.groups.iter().flatten().any(|g| g == group)
}

fn has_no_alternatives(names: &Names) -> bool {
    names.dns_names.is_empty()
        && names.ips.is_empty()
        && names.emails.is_empty()
        && names.uris.is_empty()
}

/// The node that a subject names; empty for none.
pub fn node_of(names: &Names) -> &str {
    let is_node = names.organizations == [NODES];
    let name = names.common_name.strip_prefix(NODE_PREFIX);
    name.filter(|_| is_node).unwrap_or_default()
}

/// The usages of a request.
pub fn usages(spec: &Spec) -> Vec<&str> {
    spec.usages.iter().flatten().map(String::as_str).collect()
}

/// The names in a request; `None` when it cannot be read.
pub fn names(spec: &Spec) -> Option<Names> {
    request_names(std::str::from_utf8(&spec.request.0).ok()?).ok()
}

/// Upstream lets its controllers approve the certificates of kubelets' clients alone. What our
/// nodes ask for beside that is approved under another account.
pub fn is_upstreams(signer: &str) -> bool {
    signer == KUBELET_CLIENT
}

/// The grants by which a request could be approved, the narrower one first.
pub fn grants(spec: &Spec) -> Vec<Grant> {
    let names = names(spec).filter(|_| is_upstreams(&spec.signer_name));
    let Some(names) = names else {
        return Vec::new();
    };
    let is_signed = signers::check(&spec.signer_name, &names, &usages(spec)).is_ok();
    if !is_signed || node_of(&names).is_empty() {
        return Vec::new();
    }
    let is_own = spec.username.as_deref() == Some(&names.common_name);
    let own = is_own.then_some(Grant::Own);
    own.into_iter().chain([Grant::Any]).collect()
}

/// What is to be done with a request that nobody has decided.
pub fn decide(spec: &Spec, known: &ApprovalFacts) -> Decision {
    let signer = spec.signer_name.as_str();
    let Some(names) = names(spec) else {
        return Decision::Person(None);
    };
    if signers::check(signer, &names, &usages(spec)).is_err() {
        return Decision::Person(None);
    }
    let node = node_of(&names);
    let own = !node.is_empty()
        && spec.username.as_deref() == Some(&names.common_name)
        && is_in(spec, NODES);
    match signer {
        KUBELET_CLIENT if !node.is_empty() => match known.grant {
            Some(Grant::Own) => Decision::Approve(
                "Auto approving self kubelet client certificate after SubjectAccessReview.",
            ),
            Some(Grant::Any) => bootstrap(node, known.holder),
            None => Decision::Unpermitted(format!(
                "{:?} may not have the client certificate of node {node} without a person: it may not create certificatesigningrequests/nodeclient",
                spec.username.as_deref().unwrap_or_default()
            )),
        },
        // Its own name only: another DNS name would let it stand for another server.
        KUBELET_SERVING if own && names.dns_names.iter().all(|n| n == node) => {
            serving(&names.ips, &known.others)
        }
        CLIENT => proxy(spec, &names),
        _ => Decision::Person(None),
    }
}

fn bootstrap(node: &str, holder: Holder) -> Decision {
    match holder {
        Holder::Free | Holder::Same => Decision::Approve(
            "Auto approving kubelet client certificate after SubjectAccessReview.",
        ),
        Holder::Taken(millis) => Decision::Later(millis),
        Holder::Registered => Decision::Person(Some(format!(
            "Node {node} exists, and a bootstrap token cannot take over its name. If its machine was rebuilt, delete the Node, or approve this request (kubectl certificate approve)"
        ))),
    }
}

fn serving(ips: &[IpAddr], others: &[IpAddr]) -> Decision {
    let wrong = |ip: &&IpAddr| ip.is_loopback() || ip.is_unspecified() || others.contains(ip);
    match ips.iter().find(wrong) {
        Some(ip) => Decision::Person(Some(format!("the address {ip} is not this node's alone"))),
        None => Decision::Approve("The node asks for its own serving certificate."),
    }
}

fn proxy(spec: &Spec, names: &Names) -> Decision {
    let fits =
        names.common_name == PROXY && names.organizations.is_empty() && has_no_alternatives(names);
    if fits && is_in(spec, NODES) {
        Decision::Approve("A node asks for its service proxy's certificate.")
    } else {
        Decision::Person(None)
    }
}
