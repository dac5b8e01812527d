//! Events of what pods do not get of names, in upstream's words: lists that are too long, and a cluster's
//! name server that is not known. What they get is decided by [`super::sandbox`].

use super::deps::Deps;
use super::sandbox::{Resolver, SEARCH_DOMAIN, SEARCH_LINE, SEARCHES, asks_cluster};
use super::spec;
use crate::events::Severity;
use k8s_openapi::api::core::v1::Pod;
use std::net::IpAddr;
use std::path::Path;

/// Search domains that a pod has of its cluster, beside the node's.
const OF_CLUSTER: usize = 3;

/// What is left out of a pod's lists, and that it gets the node's name servers in place of the cluster's.
pub fn of_pod(deps: &Deps, pod: &Pod, left_out: Vec<String>) {
    let (recorder, warning) = (&deps.recorder, Severity::Warning);
    for text in left_out {
        recorder.pod(pod, None, warning, "DNSConfigForming", text);
    }
    if let Some(why) = without_cluster(pod, &deps.config.cluster_dns) {
        let reason = "MissingClusterDNS";
        let (name, namespace, uid) = (spec::name(pod), spec::namespace(pod), spec::uid(pod));
        let of_pod = format!("pod: \"{name}_{namespace}({uid})\". {why}");
        recorder.node(&deps.config.node_name, warning, reason, why);
        recorder.pod(pod, None, warning, reason, of_pod);
    }
}

/// At the kubelet's start: what of the node's resolver file no pod can have.
pub fn of_node(deps: &Deps) {
    let file = &deps.config.resolv_conf;
    if file.as_os_str().is_empty() {
        return;
    }
    let wrong = match deps.resolver() {
        Ok(node) => too_long(file, &node, &deps.config.cluster_domain),
        Err(why) => Some(why),
    };
    if let Some(text) = wrong {
        let (node, warning) = (&deps.config.node_name, Severity::Warning);
        deps.recorder
            .node(node, warning, "CheckLimitsForResolvConf", text);
    }
}

fn without_cluster(pod: &Pod, cluster: &[IpAddr]) -> Option<&'static str> {
    let why = "kubelet does not have ClusterDNS IP configured and cannot create Pod using \"ClusterFirst\" policy. Falling back to \"Default\" policy.";
    (asks_cluster(pod) && cluster.is_empty()).then_some(why)
}

/// What of the node's search list is too long beside the cluster's.
fn too_long(file: &Path, node: &Resolver, domain: &str) -> Option<String> {
    let (file, searches) = (file.display(), &node.searches);
    let of_cluster = if domain.is_empty() { 0 } else { OF_CLUSTER };
    let most = SEARCHES - of_cluster;
    if searches.len() > most {
        return Some(format!(
            "Resolv.conf file '{file}' contains search line consisting of more than {most} domains!"
        ));
    }
    if searches.iter().any(|domain| domain.len() > SEARCH_DOMAIN) {
        return Some(format!(
            "Resolv.conf file \"{file}\" contains a search path which length is more than allowed {SEARCH_DOMAIN} chars!"
        ));
    }
    (searches.join(" ").len() > SEARCH_LINE).then(|| {
        format!(
            "Resolv.conf file '{file}' contains search line which length is more than allowed {SEARCH_LINE} chars!"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_nodes_search_list_has_room_beside_the_clusters() {
        let of = |searches: Vec<String>, domain| {
            let node = Resolver {
                searches,
                ..Default::default()
            };
            too_long(Path::new("/r"), &node, domain).unwrap_or_default()
        };
        let many = |n: usize| (0..n).map(|n| format!("d{n}")).collect::<Vec<_>>();
        assert_eq!(of(many(29), "cluster.local"), "");
        assert_eq!(
            of(many(30), "cluster.local"),
            "Resolv.conf file '/r' contains search line consisting of more than 29 domains!"
        );
        assert_eq!(of(many(32), ""), "");
        assert_eq!(
            of(vec!["x".repeat(254)], "c"),
            "Resolv.conf file \"/r\" contains a search path which length is more than allowed 253 chars!"
        );
        // Eight of 253 characters and the spaces between them are 2031.
        let wide = |n: usize| vec!["x".repeat(253); n];
        assert_eq!(of(wide(8), "c"), "");
        assert_eq!(
            of(wide(9), "c"),
            "Resolv.conf file '/r' contains search line which length is more than allowed 2048 chars!"
        );
    }

    #[test]
    fn pods_of_a_cluster_without_a_name_server_are_warned_of() {
        let of = |spec: serde_json::Value, cluster: &[IpAddr]| {
            let pod = json!({ "metadata": { "name": "p", "namespace": "n" }, "spec": spec });
            let pod: Pod = serde_json::from_value(pod).expect("a pod");
            without_cluster(&pod, cluster).is_some()
        };
        let known = ["10.0.0.10".parse().expect("an address")];
        let first = || json!({ "containers": [], "dnsPolicy": "ClusterFirst" });
        assert!(of(first(), &[]));
        assert!(!of(first(), &known));
        let of_node = json!({ "containers": [], "dnsPolicy": "ClusterFirst", "hostNetwork": true });
        assert!(!of(of_node, &[]));
        let with = json!({ "containers": [], "dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": true });
        assert!(of(with, &[]));
        assert!(!of(
            json!({ "containers": [], "dnsPolicy": "Default" }),
            &[]
        ));
    }
}
