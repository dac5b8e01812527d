//! Rows of `networking.k8s.io`, `discovery.k8s.io`.

use std::sync::Arc;

use super::columns;
use super::def::*;
use crate::strategies::{endpoint_slices, ingresses, networking};

pub(super) const ROWS: &[Def] = &[
    cluster("networking.k8s.io", "IngressClass", "ingressclasses", V1)
        .strategy(|| Arc::new(networking::IngressClass))
        .columns(columns::INGRESS_CLASSES),
    namespaced("networking.k8s.io", "Ingress", "ingresses", V1)
        .strategy(|| Arc::new(ingresses::Ingress))
        .columns(columns::INGRESSES)
        .short(&["ing"])
        .subs(&[STATUS])
        .prefix("ingress"),
    cluster(
        "networking.k8s.io",
        "IPAddress",
        "ipaddresses",
        &["v1", "v1beta1"],
    )
    .strategy(|| Arc::new(networking::IpAddress))
    .columns(columns::IP_ADDRESSES)
    .short(&["ip"]),
    namespaced("networking.k8s.io", "NetworkPolicy", "networkpolicies", V1)
        .strategy(|| Arc::new(networking::NetworkPolicy))
        .columns(columns::NETWORK_POLICIES)
        .short(&["netpol"]),
    cluster(
        "networking.k8s.io",
        "ServiceCIDR",
        "servicecidrs",
        &["v1", "v1beta1"],
    )
    .strategy(|| Arc::new(networking::ServiceCidr))
    .columns(columns::SERVICE_CIDRS)
    .subs(&[STATUS]),
];
pub(super) const DISCOVERY: &[Def] =
    &[
        namespaced("discovery.k8s.io", "EndpointSlice", "endpointslices", V1)
            .strategy(|| Arc::new(endpoint_slices::EndpointSlice))
            .columns(columns::ENDPOINT_SLICES),
    ];
