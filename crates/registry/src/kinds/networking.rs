//! Rows of `networking.k8s.io`, `discovery.k8s.io`.

use super::columns;
use super::def::*;

pub(super) const ROWS: &[Def] = &[
    cluster("networking.k8s.io", "IngressClass", "ingressclasses", V1)
        .columns(columns::INGRESS_CLASSES)
        .inert(),
    namespaced("networking.k8s.io", "Ingress", "ingresses", V1)
        .columns(columns::INGRESSES)
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
    .columns(columns::IP_ADDRESSES)
    .short(&["ip"]),
    namespaced("networking.k8s.io", "NetworkPolicy", "networkpolicies", V1)
        .columns(columns::NETWORK_POLICIES)
        .short(&["netpol"])
        .inert(),
    cluster(
        "networking.k8s.io",
        "ServiceCIDR",
        "servicecidrs",
        &["v1", "v1beta1"],
    )
    .columns(columns::SERVICE_CIDRS)
    .subs(&[STATUS]),
];
pub(super) const DISCOVERY: &[Def] =
    &[
        namespaced("discovery.k8s.io", "EndpointSlice", "endpointslices", V1)
            .columns(columns::ENDPOINT_SLICES),
    ];
