//! Rows of `networking.k8s.io`, `discovery.k8s.io`.

use super::def::*;

pub(super) const ROWS: &[Def] = &[
    cluster("networking.k8s.io", "IngressClass", "ingressclasses", V1).inert(),
    namespaced("networking.k8s.io", "Ingress", "ingresses", V1)
        .short(&["ing"])
        .subs(&[STATUS])
        .prefix("ingress")
        .inert(),
    cluster(
        "networking.k8s.io",
        "IPAddress",
        "ipaddresses",
        &["v1", "v1beta1"],
    )
    .short(&["ip"]),
    namespaced("networking.k8s.io", "NetworkPolicy", "networkpolicies", V1)
        .short(&["netpol"])
        .inert(),
    cluster(
        "networking.k8s.io",
        "ServiceCIDR",
        "servicecidrs",
        &["v1", "v1beta1"],
    )
    .subs(&[STATUS]),
];
pub(super) const DISCOVERY: &[Def] = &[namespaced(
    "discovery.k8s.io",
    "EndpointSlice",
    "endpointslices",
    V1,
)];
