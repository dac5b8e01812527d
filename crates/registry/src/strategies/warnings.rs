//! What clients are warned of in objects other than pods: addresses that are written in an unusual
//! way, labels of nodes that have better ones since, volumes and annotations that nothing acts on.

use api::FieldPath;
use serde_json::Value;

pub use super::canonical::{address, each, range};
pub(crate) use super::pod::warnings::claim_fractions as claim_spec;
use super::pod::warnings::{node_term, old_label};
use crate::check::{at, has, items, text};

const ANNOTATIONS: &str = "metadata.annotations";
const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
const CLASS_INSTEAD: &str = "deprecated since v1.8; use \"storageClassName\" attribute instead";
/// Sources of volumes that are gone, as they are named to the client.
const GONE_VOLUMES: [(&str, &str, &str); 6] = [
    ("cephfs", "cephfs", "v1.28, non-functional in v1.31+"),
    (
        "photonPersistentDisk",
        "photonPersistentDisk",
        "v1.11, non-functional in v1.16+",
    ),
    ("scaleIO", "scaleIO", "v1.16, non-functional in v1.22+"),
    ("storageos", "storageOS", "v1.22, non-functional in v1.25+"),
    ("glusterfs", "glusterfs", "v1.25, non-functional in v1.26+"),
    ("rbd", "rbd", "v1.28, non-functional in v1.31+"),
];

/// The addresses of a load balancer, in the status of what it serves.
pub fn load_balancer(status: &Value) -> Vec<String> {
    let mut out = Vec::new();
    let path = ["loadBalancer", "ingress"]
        .iter()
        .fold(FieldPath::new("status"), |path, part| path.child(part));
    let all = items(at(status, "loadBalancer"), "ingress");
    for (i, ingress) in all.iter().enumerate() {
        address(&mut out, &path.index(i), text(ingress, "ip"));
    }
    out
}

/// Of the addresses of Endpoints, unless the controller writes them.
pub fn endpoints(obj: &Value) -> Vec<String> {
    let mut out = Vec::new();
    if managed_by(obj, "endpoints.kubernetes.io/managed-by") == "endpoint-controller" {
        return out;
    }
    for (i, subset) in items(obj, "subsets").iter().enumerate() {
        let path = FieldPath::new("subsets").index(i);
        for list in ["addresses", "notReadyAddresses"] {
            for (j, one) in items(subset, list).iter().enumerate() {
                let path = path.child(list).index(j).child("ip");
                address(&mut out, &path, text(one, "ip"));
            }
        }
    }
    out
}

fn managed_by<'a>(obj: &'a Value, label: &str) -> &'a str {
    text(at(at(obj, "metadata"), "labels"), label)
}

/// The same of a slice of them; new ones had better have addresses.
pub fn endpoint_slice(obj: &Value, is_new: bool) -> Vec<String> {
    let mut out = Vec::new();
    let kind = text(obj, "addressType");
    if is_new && kind == "FQDN" {
        out.push("spec.addressType: FQDN endpoints are deprecated".to_owned());
    }
    let by = managed_by(obj, "endpointslice.kubernetes.io/managed-by");
    let ours = [
        "endpointslice-controller.k8s.io",
        "endpointslicemirroring-controller.k8s.io",
    ];
    if ours.contains(&by) || kind == "FQDN" {
        return out;
    }
    for (i, endpoint) in items(obj, "endpoints").iter().enumerate() {
        let path = FieldPath::new("endpoints").index(i).child("addresses");
        each(&mut out, &path, items(endpoint, "addresses"), address);
    }
    out
}

/// The ranges of a network policy.
pub fn network_policy(obj: &Value) -> Vec<String> {
    let mut out = Vec::new();
    for (list, peers) in [("ingress", "from"), ("egress", "to")] {
        for (i, rule) in items(at(obj, "spec"), list).iter().enumerate() {
            let path = FieldPath::new("spec").child(list).index(i).child(peers);
            for (j, peer) in items(rule, peers).iter().enumerate() {
                let (path, block) = (path.index(j).child("ipBlock"), at(peer, "ipBlock"));
                range(&mut out, &path.child("cidr"), text(block, "cidr"));
                let except = items(block, "except");
                each(&mut out, &path.child("except"), except, range);
            }
        }
    }
    out
}

/// Of a persistent volume.
pub fn volume(obj: &Value) -> Vec<String> {
    let mut out = Vec::new();
    let (notes, spec) = (at(at(obj, "metadata"), "annotations"), at(obj, "spec"));
    for (key, why) in [
        (BETA_CLASS, CLASS_INSTEAD),
        (
            "volume.beta.kubernetes.io/mount-options",
            "deprecated since v1.31; use \"mountOptions\" attribute instead",
        ),
    ] {
        if has(notes, key) {
            out.push(format!("{ANNOTATIONS}[{key}]: {why}"));
        }
    }
    let reclaim = "persistentVolumeReclaimPolicy";
    if text(spec, reclaim) == "Recycle" {
        out.push(format!("spec.{reclaim}: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning."));
    }
    let path = ["nodeAffinity", "required", "nodeSelectorTerms"]
        .iter()
        .fold(FieldPath::new("spec"), |path, part| path.child(part));
    let required = at(at(spec, "nodeAffinity"), "required");
    for (i, term) in items(required, "nodeSelectorTerms").iter().enumerate() {
        node_term(&mut out, &path.index(i), term, false);
    }
    for (field, shown, when) in GONE_VOLUMES {
        if has(spec, field) {
            out.push(format!("spec.{shown}: deprecated in {when}"));
        }
    }
    out
}

/// Of a claim.
pub fn claim(obj: &Value) -> Vec<String> {
    let mut out = Vec::new();
    if has(at(at(obj, "metadata"), "annotations"), BETA_CLASS) {
        out.push(format!("{ANNOTATIONS}[{BETA_CLASS}]: {CLASS_INSTEAD}"));
    }
    claim_spec(&mut out, &FieldPath::new("spec"), at(obj, "spec"));
    out
}

/// Labels in the topologies of a class of storage.
pub fn storage_class(obj: &Value) -> Vec<String> {
    let mut out = Vec::new();
    let path = FieldPath::new("allowedTopologies");
    for (i, topology) in items(obj, "allowedTopologies").iter().enumerate() {
        let path = path.index(i).child("matchLabelExpressions");
        let all = items(topology, "matchLabelExpressions");
        for (j, expression) in all.iter().enumerate() {
            if let Some(why) = old_label(text(expression, "key")) {
                out.push(format!("{}: {why}", path.index(j).child("key")));
            }
        }
    }
    out
}

/// Labels in the topology of a driver's capacity.
pub fn capacity(obj: &Value) -> Vec<String> {
    let mut out = Vec::new();
    let (path, topology) = (FieldPath::new("nodeTopology"), at(obj, "nodeTopology"));
    node_term(&mut out, &path, topology, false);
    let labels = at(topology, "matchLabels").as_object();
    for (key, _) in labels.into_iter().flatten() {
        if let Some(why) = old_label(key) {
            out.push(format!("{}: {why}", path.child("matchLabels").child(key)));
        }
    }
    out
}

/// A CSI driver that gets tokens among the attributes of volumes, which may be logged.
pub fn csi_driver(obj: &Value, old: Option<&Value>) -> Vec<String> {
    let spec = at(obj, "spec");
    let tokens = at(spec, "tokenRequests");
    let new = old.is_none_or(|old| at(at(old, "spec"), "tokenRequests") != tokens);
    let field = "serviceAccountTokenInSecrets";
    if !new || items(spec, "tokenRequests").is_empty() || has(spec, field) {
        return Vec::new();
    }
    vec![format!(
        "spec.{field} is unset; if supported by this CSI driver, set to true to prevent possible logging of tokens in volume attributes"
    )]
}

/// A driver of devices whose name is not all in small letters.
pub fn slice_driver(obj: &Value) -> Vec<String> {
    let driver = text(at(obj, "spec"), "driver");
    if driver.to_lowercase() == driver {
        return Vec::new();
    }
    vec![format!(
        "spec.driver: driver names should be lowercase; {driver:?} contains uppercase characters"
    )]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const LONG: &str = "2001:DB8::1";
    const SAID: &str =
        "IPv6 address \"2001:DB8::1\" should be in RFC 5952 canonical format (\"2001:db8::1\")";

    #[test]
    fn what_is_said_of_each_kind() {
        let slice = |labels: Value| {
            json!({ "metadata": { "labels": labels },
            "endpoints": [{ "addresses": ["10.0.0.1", LONG] }] })
        };
        let block = json!({ "ipBlock": { "cidr": "fd00::/8", "except": ["FD01::/16"] } });
        let old_key = "beta.kubernetes.io/os";
        let old_why = "deprecated since v1.14; use \"kubernetes.io/os\" instead";
        let terms = json!([{ "matchExpressions": [{ "key": old_key, "operator": "Exists" }] }]);
        let tokens = json!({ "spec": { "tokenRequests": [{ "audience": "a" }] } });
        let cases: [(Vec<String>, &[String]); 13] = [
            (
                endpoints(&json!({ "subsets": [{ "notReadyAddresses": [{ "ip": LONG }] }] })),
                &[format!("subsets[0].notReadyAddresses[0].ip: {SAID}")],
            ),
            (
                endpoint_slice(&slice(json!({})), true),
                &[format!("endpoints[0].addresses[1]: {SAID}")],
            ),
            (
                endpoint_slice(
                    &slice(json!({ "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io" })),
                    true,
                ),
                &[],
            ),
            (
                endpoint_slice(&json!({ "addressType": "FQDN" }), true),
                &["spec.addressType: FQDN endpoints are deprecated".to_owned()],
            ),
            (
                load_balancer(&json!({ "loadBalancer": { "ingress": [{ "ip": LONG }] } })),
                &[format!("status.loadBalancer.ingress[0]: {SAID}")],
            ),
            (
                network_policy(&json!({ "spec": { "egress": [{ "to": [block] }] } })),
                &["spec.egress[0].to[0].ipBlock.except[0]: IPv6 CIDR value \"FD01::/16\" should be in RFC 5952 canonical format (\"fd01::/16\")".to_owned()],
            ),
            (
                volume(&json!({ "metadata": { "annotations": { BETA_CLASS: "c" } },
                    "spec": { "storageos": {}, "nodeAffinity": { "required": { "nodeSelectorTerms": terms } } } })),
                &[
                    "metadata.annotations[volume.beta.kubernetes.io/storage-class]: deprecated since v1.8; use \"storageClassName\" attribute instead".to_owned(),
                    format!("spec.nodeAffinity.required.nodeSelectorTerms[0].matchExpressions[0].key: {old_key} is {old_why}"),
                    "spec.storageOS: deprecated in v1.22, non-functional in v1.25+".to_owned(),
                ],
            ),
            (
                claim(&json!({ "spec": { "resources": { "requests": { "storage": "500m" } } } })),
                &["spec.resources.requests[storage]: fractional byte value \"500m\" is invalid, must be an integer".to_owned()],
            ),
            (
                storage_class(&json!({ "allowedTopologies": [{ "matchLabelExpressions": [{ "key": old_key }] }] })),
                &[format!("allowedTopologies[0].matchLabelExpressions[0].key: {old_why}")],
            ),
            (
                capacity(&json!({ "nodeTopology": { "matchLabels": { old_key: "linux" } } })),
                &[format!("nodeTopology.matchLabels.{old_key}: {old_why}")],
            ),
            (csi_driver(&tokens, Some(&tokens)), &[]),
            (
                csi_driver(&tokens, None),
                &["spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent possible logging of tokens in volume attributes".to_owned()],
            ),
            (
                slice_driver(&json!({ "spec": { "driver": "D.x.io" } })),
                &["spec.driver: driver names should be lowercase; \"D.x.io\" contains uppercase characters".to_owned()],
            ),
        ];
        for (found, want) in cases {
            assert_eq!(found, want);
        }
    }
}
