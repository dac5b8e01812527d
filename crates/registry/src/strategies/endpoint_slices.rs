//! Slices of endpoints: what may be behind a Service.

use std::collections::BTreeSet;

use api::{FieldError, FieldPath, names};
use serde_json::Value;

use super::service::endpoint_ip;
use super::warnings;
use crate::check::{
    Errors, at, dns_label, dns_subdomain, fill, has, immutable, invalid_each, ip, items, items_mut,
    labels, optional_word, qualified_name, required_word, set, text, unset,
};
use crate::status_writes::keep_other_half;
use crate::strategy::{Context, Dependents, Strategy};

const ENDPOINTS: usize = 1000;
const PORTS: usize = 20_000;
const ADDRESSES: usize = 100;
const TOPOLOGY_LABELS: usize = 16;
/// Of zones, and of nodes.
const HINTS: usize = 8;
/// What an older version kept there, which nobody writes any more; in it, the node's name.
const TOPOLOGY: &str = "deprecatedTopology";
const HOSTNAME: &str = "kubernetes.io/hostname";

/// The strategy of the kind.
pub struct EndpointSlice;

impl Strategy for EndpointSlice {
    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        warnings::endpoint_slice(obj, old.is_none())
    }
    fn default(&self, obj: &mut Value) {
        for p in items_mut(obj, "ports") {
            fill(p, "name", "");
            fill(p, "protocol", "TCP");
        }
    }
    fn prepare_create(&self, obj: &mut Value, _cx: &Context<'_>) {
        without_topology(obj, &Value::Null);
    }
    fn prepare_update(&self, obj: &mut Value, old: &Value, cx: &Context<'_>) {
        keep_other_half(obj, old, cx.subresource);
        if at(obj, "endpoints") != at(old, "endpoints") {
            without_topology(obj, old);
        }
    }
    fn validate(&self, obj: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let mut errs = head(obj);
        errs.extend(endpoints(obj));
        errs
    }
    fn validates_whole_update(&self) -> bool {
        true
    }
    /// Endpoints that nobody changes may stay as they were let in once.
    fn validate_update(&self, obj: &Value, old: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let mut errs = head(obj);
        let wrong = endpoints(obj);
        if !wrong.is_empty() && items(obj, "endpoints") != items(old, "endpoints") {
            errs.extend(wrong);
        }
        immutable(&mut errs, &FieldPath::root(), obj, old, "addressType");
        errs
    }
    fn dependents(&self) -> Dependents {
        Dependents::None
    }
    fn has_generation(&self) -> bool {
        true
    }
    /// By them a Service knows its slices.
    fn generation_counts_labels(&self) -> bool {
        true
    }
}

/// Takes away what only the version before v1 may write. A node that an endpoint had by it alone
/// keeps its name.
fn without_topology(obj: &mut Value, old: &Value) {
    let was = items(old, "endpoints").iter();
    let known: BTreeSet<&str> = was.map(|e| text(at(e, TOPOLOGY), HOSTNAME)).collect();
    for endpoint in items_mut(obj, "endpoints") {
        let node = text(at(endpoint, TOPOLOGY), HOSTNAME).to_owned();
        let is_name = !node.is_empty() && names::is_dns1123_subdomain(&node).is_empty();
        if is_name && !has(endpoint, "nodeName") && known.contains(node.as_str()) {
            set(endpoint, "nodeName", node);
        }
        unset(endpoint, TOPOLOGY);
    }
}

/// The type of the addresses, and the ports.
fn head(obj: &Value) -> Errors {
    let (mut errs, root) = (Errors::new(), FieldPath::root());
    let types = ["FQDN", "IPv4", "IPv6"];
    required_word(&mut errs, &root, obj, "addressType", &types);
    let (all, path) = (items(obj, "ports"), root.child("ports"));
    if all.len() > PORTS {
        errs.push(FieldError::too_many(&path, all.len(), PORTS));
        return errs;
    }
    let mut seen = BTreeSet::new();
    for (i, p) in all.iter().enumerate() {
        let (path, name) = (path.index(i), text(p, "name"));
        if !name.is_empty() {
            dns_label(&mut errs, &path.child("name"), name);
        }
        if !seen.insert(name) {
            errs.push(FieldError::duplicate(&path.child("name"), &name.into()));
        }
        optional_word(&mut errs, &path, p, "protocol", &["SCTP", "TCP", "UDP"]);
        // Any number may be a port, as upstream has it: of what is none, nothing is led anywhere.
        if has(p, "appProtocol") {
            let path = path.child("appProtocol");
            qualified_name(&mut errs, &path, text(p, "appProtocol"));
        }
    }
    errs
}

fn endpoints(obj: &Value) -> Errors {
    let (mut errs, path) = (Errors::new(), FieldPath::new("endpoints"));
    let all = items(obj, "endpoints");
    if all.len() > ENDPOINTS {
        errs.push(FieldError::too_many(&path, all.len(), ENDPOINTS));
        return errs;
    }
    let ty = text(obj, "addressType");
    for (i, e) in all.iter().enumerate() {
        endpoint(&mut errs, &path.index(i), e, ty);
    }
    errs
}

fn endpoint(errs: &mut Errors, path: &FieldPath, e: &Value, ty: &str) {
    let (all, at_addresses) = (items(e, "addresses"), path.child("addresses"));
    if all.is_empty() {
        let why = "must contain at least 1 address";
        errs.push(FieldError::required(&at_addresses, why));
    } else if all.len() > ADDRESSES {
        errs.push(FieldError::too_many(&at_addresses, all.len(), ADDRESSES));
    }
    for (i, a) in all.iter().enumerate() {
        address(errs, &at_addresses, i, a.as_str().unwrap_or(""), ty);
    }
    if has(e, "nodeName") {
        dns_subdomain(errs, &path.child("nodeName"), text(e, "nodeName"));
    }
    let (topology, at_topology) = (at(e, TOPOLOGY), path.child(TOPOLOGY));
    let count = topology.as_object().map_or(0, serde_json::Map::len);
    if count > TOPOLOGY_LABELS {
        errs.push(FieldError::too_many(&at_topology, count, TOPOLOGY_LABELS));
    }
    labels(errs, &at_topology, topology);
    if has(e, "hostname") {
        dns_label(errs, &path.child("hostname"), text(e, "hostname"));
    }
    hints(errs, &path.child("hints"), at(e, "hints"));
}

/// An address of the slice's type; the wrong family is said of the list, as upstream.
fn address(errs: &mut Errors, list: &FieldPath, i: usize, a: &str, ty: &str) {
    let path = list.index(i);
    match ty {
        "FQDN" => domain(errs, &path, a),
        "IPv4" | "IPv6" if ip(errs, &path, a) => {
            if (ty == "IPv6") != a.contains(':') {
                let why = format!("must be an {ty} address");
                errs.push(FieldError::invalid_str(list, a, &why));
            }
            endpoint_ip(errs, &path, a);
        }
        _ => {}
    }
}

/// A domain of at least two labels; a dot at its end is none of its own.
fn domain(errs: &mut Errors, path: &FieldPath, name: &str) {
    if name.is_empty() {
        errs.push(FieldError::required(path, ""));
        return;
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    let wrong = names::is_dns1123_subdomain(name);
    if !wrong.is_empty() {
        errs.push(FieldError::invalid_str(path, name, &wrong.join(",")));
    } else if !name.contains('.') {
        let why = "should be a domain with at least two segments separated by dots";
        errs.push(FieldError::invalid_str(path, name, why));
    } else {
        let labels = name.split('.');
        let wrong = labels.map(|l| (l, names::is_dns1123_label(l)));
        if let Some((label, wrong)) = wrong.into_iter().find(|(_, w)| !w.is_empty()) {
            errs.push(FieldError::invalid_str(path, label, &wrong.join(",")));
        }
    }
}

fn hints(errs: &mut Errors, path: &FieldPath, hints: &Value) {
    for list in ["forZones", "forNodes"] {
        let (all, path) = (items(hints, list), path.child(list));
        if all.len() > HINTS {
            errs.push(FieldError::too_many(&path, all.len(), HINTS));
            return;
        }
        let mut seen = BTreeSet::new();
        for (i, hint) in all.iter().enumerate() {
            let (path, name) = (path.index(i).child("name"), text(hint, "name"));
            if !seen.insert(name) {
                errs.push(FieldError::duplicate(&path, &name.into()));
            }
            let wrong = match list {
                "forZones" => names::is_valid_label_value(name),
                _ => names::is_dns1123_subdomain(name),
            };
            invalid_each(errs, &path, name, wrong);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn wrong(slice: &Value) -> Vec<String> {
        let found = EndpointSlice.validate(slice, &Context::of_nobody());
        found.iter().map(ToString::to_string).collect()
    }

    fn slice(ty: &str, endpoint: Value) -> Value {
        json!({ "addressType": ty, "endpoints": [endpoint] })
    }

    #[test]
    fn addresses_are_of_the_slices_type() {
        let of = |ty: &str, address: &str| wrong(&slice(ty, json!({ "addresses": [address] })));
        for (ty, address) in [
            ("IPv4", "10.0.0.1"),
            ("IPv6", "fd00::1"),
            ("FQDN", "a.example.com."),
        ] {
            assert_eq!(of(ty, address), Vec::<String>::new());
        }
        assert_eq!(
            of("IPv4", "fd00::1"),
            ["endpoints[0].addresses: Invalid value: \"fd00::1\": must be an IPv4 address"]
        );
        assert_eq!(
            of("FQDN", "host"),
            [
                "endpoints[0].addresses[0]: Invalid value: \"host\": should be a domain with at least two segments separated by dots"
            ]
        );
        // What cannot be judged is not.
        assert_eq!(of("Other", "anything at all").len(), 1);
        assert_eq!(
            wrong(&slice("IPv4", json!({}))),
            ["endpoints[0].addresses: Required value: must contain at least 1 address"]
        );
    }

    #[test]
    fn ports_have_names_and_protocols_and_any_number() {
        let of = |ports: Value| {
            let mut slice = slice("IPv4", json!({ "addresses": ["10.0.0.1"] }));
            slice["ports"] = ports;
            EndpointSlice.default(&mut slice);
            wrong(&slice)
        };
        for good in [
            json!([{}]),
            json!([{ "port": 0 }, { "name": "a", "port": 70_000, "protocol": "SCTP" }]),
            json!([{ "port": -1, "appProtocol": "x.io/p" }]),
        ] {
            assert_eq!(of(good), Vec::<String>::new());
        }
        assert_eq!(
            of(json!([{ "protocol": "" }, { "name": "A_b" }, { "port": 1 }])).len(),
            3
        );
        assert_eq!(
            of(json!([{ "protocol": "" }])),
            [
                "ports[0].protocol: Unsupported value: \"\": supported values: \"SCTP\", \"TCP\", \"UDP\""
            ]
        );
    }

    #[test]
    fn topology_of_the_older_version_is_not_written() {
        let cx = Context::of_nobody();
        let topology = |node: &str| json!({ "kubernetes.io/hostname": node });
        let with = |node: &str| {
            slice(
                "IPv4",
                json!({ "addresses": ["10.0.0.1"], "deprecatedTopology": topology(node) }),
            )
        };
        let mut new = with("n");
        EndpointSlice.prepare_create(&mut new, &cx);
        assert_eq!(new["endpoints"], json!([{ "addresses": ["10.0.0.1"] }]));
        // Endpoints that nobody changes keep it; others keep the name of the node that they had.
        let old = with("n");
        let mut same = old.clone();
        same["metadata"] = json!({ "labels": { "a": "b" } });
        EndpointSlice.prepare_update(&mut same, &old, &cx);
        assert_eq!(same["endpoints"], old["endpoints"]);
        for (node, named) in [("n", json!("n")), ("other", Value::Null)] {
            let mut new = with(node);
            new["endpoints"][0]["zone"] = "z".into();
            EndpointSlice.prepare_update(&mut new, &old, &cx);
            assert_eq!(new["endpoints"][0]["nodeName"], named);
            assert!(new["endpoints"][0].get("deprecatedTopology").is_none());
        }
    }

    #[test]
    fn hints_are_few_and_different() {
        let of = |hints: Value| {
            wrong(&slice(
                "IPv4",
                json!({ "addresses": ["10.0.0.1"], "hints": hints }),
            ))
        };
        assert_eq!(
            of(json!({ "forZones": [{ "name": "a" }, { "name": "a" }] })),
            ["endpoints[0].hints.forZones[1].name: Duplicate value: \"a\""]
        );
        let many: Vec<Value> = (0..9).map(|n| json!({ "name": format!("n{n}") })).collect();
        assert_eq!(
            of(json!({ "forNodes": many })),
            ["endpoints[0].hints.forNodes: Too many: 9: must have at most 8 items"]
        );
        assert_eq!(of(json!({ "forNodes": [{ "name": "A_b" }] })).len(), 1);
    }

    #[test]
    fn endpoints_that_stay_are_not_judged_again() {
        let old = slice("IPv4", json!({ "addresses": [] }));
        let cx = Context::of_nobody();
        let mut new = old.clone();
        new["metadata"] = json!({ "labels": { "a": "b" } });
        assert_eq!(EndpointSlice.validate_update(&new, &old, &cx), []);
        new["endpoints"][0]["nodeName"] = "n".into();
        assert_eq!(EndpointSlice.validate_update(&new, &old, &cx).len(), 1);
        new["addressType"] = "IPv6".into();
        assert_eq!(EndpointSlice.validate_update(&new, &old, &cx).len(), 2);
    }
}
