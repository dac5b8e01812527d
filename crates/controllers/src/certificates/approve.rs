//! Which requests are approved without a person. Pure.

use k8s_openapi::api::certificates::v1::CertificateSigningRequestSpec as Spec;
use wire::pki::{Names, request_names};

const NODES: &str = "system:nodes";
const BOOTSTRAPPERS: &str = "system:bootstrappers";
const NODE_PREFIX: &str = "system:node:";
const PROXY: &str = "system:kube-proxy";

fn is_in(spec: &Spec, group: &str) -> bool {
    spec.groups.iter().flatten().any(|g| g == group)
}

/// Exactly one purpose, besides what every key is for.
fn usages_are(spec: &Spec, purpose: &str) -> bool {
    let usages = || spec.usages.iter().flatten().map(String::as_str);
    usages().any(|u| u == purpose)
        && usages().all(|u| u == purpose || u == "digital signature" || u == "key encipherment")
}

fn has_no_alternatives(names: &Names) -> bool {
    names.dns_names.is_empty()
        && names.ips.is_empty()
        && names.emails.is_empty()
        && names.uris.is_empty()
}

fn is_node(names: &Names) -> bool {
    names.common_name.len() > NODE_PREFIX.len()
        && names.common_name.starts_with(NODE_PREFIX)
        && names.organizations == [NODES]
}

/// Why a request is approved, or `None` when a person must decide.
pub fn reason(spec: &Spec) -> Option<&'static str> {
    let pem = std::str::from_utf8(&spec.request.0).ok()?;
    let names = request_names(pem).ok()?;
    let user = spec.username.as_deref().unwrap_or_default();
    match spec.signer_name.as_str() {
        "kubernetes.io/kube-apiserver-client-kubelet" => {
            let fits =
                is_node(&names) && has_no_alternatives(&names) && usages_are(spec, "client auth");
            let own = user == names.common_name && is_in(spec, NODES);
            if fits && own {
                Some("Auto approving self kubelet client certificate after SubjectAccessReview.")
            } else {
                (fits && is_in(spec, BOOTSTRAPPERS)).then_some(
                    "Auto approving kubelet client certificate after SubjectAccessReview.",
                )
            }
        }
        "kubernetes.io/kubelet-serving" => {
            let node = names
                .common_name
                .strip_prefix(NODE_PREFIX)
                .unwrap_or_default();
            // Its own name only: another DNS name would let it stand for another server.
            let named = names.dns_names.iter().all(|n| n == node)
                && names.emails.is_empty()
                && names.uris.is_empty()
                && !(names.dns_names.is_empty() && names.ips.is_empty());
            let fits = is_node(&names) && named && usages_are(spec, "server auth");
            (fits && user == names.common_name && is_in(spec, NODES))
                .then_some("The node asks for its own serving certificate.")
        }
        "kubernetes.io/kube-apiserver-client" => {
            let fits = names.common_name == PROXY
                && names.organizations.is_empty()
                && has_no_alternatives(&names)
                && usages_are(spec, "client auth");
            (fits && (is_in(spec, NODES) || is_in(spec, BOOTSTRAPPERS)))
                .then_some("A node asks for its service proxy's certificate.")
        }
        _ => None,
    }
}
