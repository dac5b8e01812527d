//! What clients are warned of: fields that are deprecated or do not do what they seem to.

use std::collections::{BTreeMap, HashMap, HashSet};

use api::{FieldPath, names};
use serde_json::Value;

use super::overlaps;
use super::parts::each_container;
use crate::check::{at, has, int, items, text};
use crate::strategies::canonical::{address, each};
use crate::strategies::quantity::{is_fractional, show};

/// Warnings of a new pod.
pub fn pod(obj: &Value) -> Vec<String> {
    let mut out = Vec::new();
    let wrong = names::is_dns1123_label(text(at(obj, "metadata"), "name"));
    if !wrong.is_empty() {
        out.push(format!(
            "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: [{}]",
            wrong.join(" ")
        ));
    }
    out.extend(pod_spec(
        &FieldPath::root(),
        at(obj, "spec"),
        at(obj, "metadata"),
    ));
    out
}

const OLD_LABELS: &[(&str, &str)] = &[
    (
        "beta.kubernetes.io/arch",
        "deprecated since v1.14; use \"kubernetes.io/arch\" instead",
    ),
    (
        "beta.kubernetes.io/os",
        "deprecated since v1.14; use \"kubernetes.io/os\" instead",
    ),
    (
        "failure-domain.beta.kubernetes.io/region",
        "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead",
    ),
    (
        "failure-domain.beta.kubernetes.io/zone",
        "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead",
    ),
    (
        "beta.kubernetes.io/instance-type",
        "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead",
    ),
    ("app.kubernetes.io/created-by", "deprecated since v1.9"),
    (
        "scheduler.alpha.kubernetes.io/preferAvoidPods",
        "deprecated since v1.22; use Taints and Tolerations instead",
    ),
    (
        "node-role.kubernetes.io/master",
        "use \"node-role.kubernetes.io/control-plane\" instead",
    ),
];

/// What is to be said of a label of nodes that had a better one since.
pub(crate) fn old_label(key: &str) -> Option<&'static str> {
    let found = OLD_LABELS.iter().find(|(name, _)| *name == key);
    found.map(|(_, message)| *message)
}

const OLD_VOLUMES: &[(&str, &str)] = &[
    (
        "photonPersistentDisk",
        "deprecated in v1.11, non-functional in v1.16+",
    ),
    (
        "gitRepo",
        "deprecated in v1.11, and disabled by default in v1.33+",
    ),
    ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
];

/// Warnings of a `PodSpec` with its metadata; `path` is that of the template, or the root.
pub fn pod_spec(path: &FieldPath, spec: &Value, meta: &Value) -> Vec<String> {
    let mut out = Vec::new();
    let base = path.child("spec");
    for (key, message) in OLD_LABELS {
        if has(at(spec, "nodeSelector"), key) {
            out.push(format!(
                "{}: {message}",
                base.child("nodeSelector").key(key)
            ));
        }
    }
    node_affinity(&mut out, &base, at(at(spec, "affinity"), "nodeAffinity"));
    for (i, c) in items(spec, "topologySpreadConstraints").iter().enumerate() {
        let path = base.child("topologySpreadConstraints").index(i);
        let key = text(c, "topologyKey");
        if let Some((_, message)) = OLD_LABELS.iter().find(|(k, _)| *k == key) {
            out.push(format!("{}: {key} is {message}", path.child("topologyKey")));
        }
        if !has(c, "labelSelector") {
            let path = path.child("labelSelector");
            out.push(format!(
                "{path}: a null labelSelector results in matching no pod"
            ));
        }
    }
    out.extend(super::annotations::gone(path, meta, spec));
    for (i, v) in items(spec, "volumes").iter().enumerate() {
        for (field, message) in OLD_VOLUMES {
            if has(v, field) {
                out.push(format!(
                    "{}: {message}",
                    base.child("volumes").index(i).child(field)
                ));
            }
        }
        let template = at(at(v, "ephemeral"), "volumeClaimTemplate");
        let path = ["ephemeral", "volumeClaimTemplate", "spec"].iter();
        let path = path.fold(base.child("volumes").index(i), |path, part| {
            path.child(part)
        });
        claim_fractions(&mut out, &path, at(template, "spec"));
    }
    out.extend(overlaps::of_volumes(items(spec, "volumes")));
    twice(&mut out, &base, spec, "hostAliases", "ip");
    twice(&mut out, &base, spec, "imagePullSecrets", "name");
    for (i, s) in items(spec, "imagePullSecrets").iter().enumerate() {
        if text(s, "name").is_empty() {
            let path = base.child("imagePullSecrets").index(i).child("name");
            out.push(format!("{path}: invalid empty name \"\""));
        }
    }
    for name in ["memory", "ephemeral-storage"] {
        let amount = at(at(spec, "overhead"), name);
        fraction(&mut out, &base.child("overhead").key(name), amount);
    }
    each_container(&base, spec, |path, c| {
        fractions(&mut out, &path, c);
        environment(&mut out, &path, c);
    });
    out.extend(super::annotations::warnings(path, meta, spec));
    ports(&mut out, &base, spec);
    if int(spec, "terminationGracePeriodSeconds").is_some_and(|s| s < 0) {
        let path = base.child("terminationGracePeriodSeconds");
        out.push(format!(
            "{path}: must be >= 0; negative values are invalid and will be treated as 1"
        ));
    }
    pod_affinity(&mut out, &base, spec);
    let path = base.child("dnsConfig").child("nameservers");
    let servers = items(at(spec, "dnsConfig"), "nameservers");
    each(&mut out, &path, servers, address);
    for (i, alias) in items(spec, "hostAliases").iter().enumerate() {
        let path = base.child("hostAliases").index(i).child("ip");
        address(&mut out, &path, text(alias, "ip"));
    }
    out
}

fn twice(out: &mut Vec<String>, base: &FieldPath, spec: &Value, list: &str, field: &str) {
    let mut seen = HashSet::new();
    for (i, item) in items(spec, list).iter().enumerate() {
        let value = text(item, field);
        if !seen.insert(value) {
            let path = base.child(list).index(i).child(field);
            out.push(format!("{path}: duplicate {field} {value:?}"));
        }
    }
}

fn fractions(out: &mut Vec<String>, path: &FieldPath, c: &Value) {
    for name in ["memory", "ephemeral-storage"] {
        for side in ["limits", "requests"] {
            let amount = at(at(at(c, "resources"), side), name);
            fraction(out, &path.child("resources").child(side).key(name), amount);
        }
    }
}

/// Of the specification of a claim.
pub(crate) fn claim_fractions(out: &mut Vec<String>, path: &FieldPath, spec: &Value) {
    for side in ["requests", "limits"] {
        let path = path.child("resources").child(side);
        let amount = at(at(at(spec, "resources"), side), "storage");
        fraction(out, &path.key("storage"), amount);
    }
}

/// Bytes come whole.
pub(crate) fn fraction(out: &mut Vec<String>, path: &FieldPath, amount: &Value) {
    if is_fractional(amount) {
        let shown = show(amount);
        out.push(format!(
            "{path}: fractional byte value {shown:?} is invalid, must be an integer"
        ));
    }
}

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

/// Nodes by labels that have better ones since, and wishes that no label can fulfil.
fn node_affinity(out: &mut Vec<String>, base: &FieldPath, affinity: &Value) {
    let path = base.child("affinity").child("nodeAffinity");
    let required = path.child(REQUIRED).child("nodeSelectorTerms");
    let terms = items(at(affinity, REQUIRED), "nodeSelectorTerms");
    for (i, term) in terms.iter().enumerate() {
        node_term(out, &required.index(i), term, false);
    }
    for (i, wish) in items(affinity, PREFERRED).iter().enumerate() {
        let path = path.child(PREFERRED).index(i).child("preference");
        node_term(out, &path, at(wish, "preference"), true);
    }
}

pub(crate) fn node_term(out: &mut Vec<String>, path: &FieldPath, term: &Value, with_values: bool) {
    for (i, expression) in items(term, "matchExpressions").iter().enumerate() {
        let path = path.child("matchExpressions").index(i);
        let key = text(expression, "key");
        if let Some(message) = old_label(key) {
            out.push(format!("{}: {key} is {message}", path.child("key")));
        }
        let values = items(expression, "values").iter().filter(|_| with_values);
        for (j, value) in values.enumerate() {
            let value = value.as_str().unwrap_or_default();
            let path = path.child("values").index(j);
            for why in names::is_valid_label_value(value) {
                out.push(format!("{path}: {value} is invalid, {why}"));
            }
        }
    }
}

/// Terms of pods without a selector, which select none.
fn pod_affinity(out: &mut Vec<String>, base: &FieldPath, spec: &Value) {
    for kind in ["podAffinity", "podAntiAffinity"] {
        let terms = at(at(spec, "affinity"), kind);
        let path = base.child("affinity").child(kind);
        for (list, part) in [(REQUIRED, ""), (PREFERRED, "podAffinityTerm")] {
            for (i, term) in items(terms, list).iter().enumerate() {
                let path = path.child(list).index(i);
                let (term, path) = match part {
                    "" => (term, path),
                    part => (at(term, part), path.child(part)),
                };
                if !has(term, "labelSelector") {
                    let path = path.child("labelSelector");
                    out.push(format!(
                        "{path}: a null labelSelector results in matching no pod"
                    ));
                }
            }
        }
    }
}

fn environment(out: &mut Vec<String>, path: &FieldPath, c: &Value) {
    let mut seen = HashSet::new();
    for (i, e) in items(c, "env").iter().enumerate() {
        let name = text(e, "name");
        if seen.insert(name) {
            continue;
        }
        let (value, earlier) = (text(e, "value"), format!("$({name})"));
        if has(e, "valueFrom") || value == earlier || !value.contains(&earlier) {
            let path = path.child("env").index(i);
            out.push(format!(
                "{path}: hides previous definition of {name:?}, which may be dropped when using apply"
            ));
        }
    }
}

/// Pairs of ports of a pod that are spoken of at most; no answer has room for as many.
const PORT_PAIRS: usize = 128;

fn ports<'a>(out: &mut Vec<String>, base: &FieldPath, spec: &'a Value) {
    let mut all: HashMap<(i64, &'a str), Ports<'a>> = HashMap::new();
    let mut by_name: BTreeMap<&'a str, FieldPath> = BTreeMap::new();
    let (mut pairs, mut names) = (Vec::new(), Vec::new());
    each_container(base, spec, |path, c| {
        for (i, p) in items(c, "ports").iter().enumerate() {
            let path = path.child("ports").index(i);
            without_port(&mut pairs, &path, p);
            let key = (int(p, "containerPort").unwrap_or(0), text(p, "protocol"));
            let others = all.entry(key).or_default();
            let port = Port::of(p);
            for (how, other) in others.at_odds(port, PORT_PAIRS - pairs.len()) {
                pairs.push(format!("{path}: {how} port definition with {other}"));
            }
            others.add(port, path.clone());
            let name = text(p, "name");
            if !name.is_empty() {
                match by_name.get(name) {
                    Some(other) => names.push(format!(
                        "{path}: duplicate port name {name:?} with {other}, services and probes that select ports by name will use {other}"
                    )),
                    None => {
                        by_name.insert(name, path);
                    }
                }
            }
        }
    });
    out.append(&mut pairs);
    out.append(&mut names);
}

/// An address of the host that is named for no port of it; the port is shown as Go shows it.
fn without_port(out: &mut Vec<String>, path: &FieldPath, p: &Value) {
    let (ip, host) = (text(p, "hostIP"), int(p, "hostPort").unwrap_or(0));
    if ip.is_empty() || host != 0 || out.len() >= PORT_PAIRS {
        return;
    }
    let (name, protocol) = (text(p, "name"), text(p, "protocol"));
    let number = int(p, "containerPort").unwrap_or(0);
    out.push(format!(
        "{path}: hostIP set without hostPort: {{Name:{name} HostPort:0 ContainerPort:{number} Protocol:{protocol} HostIP:{ip}}}"
    ));
}

/// What of a port can be at odds with another of the same number and protocol.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Port<'a> {
    host: i64,
    ip: &'a str,
}

impl<'a> Port<'a> {
    fn of(port: &'a Value) -> Self {
        Self {
            host: int(port, "hostPort").unwrap_or(0),
            ip: text(port, "hostIP"),
        }
    }

    /// How it is at odds with another.
    fn conflict(self, other: Self) -> Option<&'static str> {
        match (self.host, other.host) {
            _ if self == other => Some("duplicate"),
            (0, _) | (_, 0) => Some("overlapping"),
            (a, b) if a == b && self.ip.is_empty() != other.ip.is_empty() => {
                Some("dangerously ambiguous")
            }
            _ => None,
        }
    }
}

/// The ports of one number and protocol, found by what is at odds with what: a pod may have tens of
/// thousands, and each is compared only with those that it meets.
#[derive(Default)]
struct Ports<'a> {
    all: Vec<(Port<'a>, FieldPath)>,
    equal: HashMap<Port<'a>, Vec<usize>>,
    /// By the host's port, those that name an address.
    addressed: HashMap<i64, Vec<usize>>,
    /// Those without a port of the host.
    inside: Vec<usize>,
}

impl<'a> Ports<'a> {
    /// The first ports that a new one is at odds with, in their order, and how.
    fn at_odds(&self, port: Port<'a>, most: usize) -> Vec<(&'static str, &FieldPath)> {
        let mut found: Vec<usize> = Vec::new();
        if port.host == 0 {
            found.extend(0..self.all.len().min(most));
        } else {
            let mut more = |places: Option<&Vec<usize>>| {
                found.extend(places.into_iter().flatten().take(most));
            };
            more(self.equal.get(&port));
            more(Some(&self.inside));
            match port.ip {
                "" => more(self.addressed.get(&port.host)),
                _ => more(self.equal.get(&Port { ip: "", ..port })),
            }
            found.sort_unstable();
        }
        let known = found.into_iter().filter_map(|place| self.all.get(place));
        known
            .filter_map(|(other, path)| Some((port.conflict(*other)?, path)))
            .take(most)
            .collect()
    }

    fn add(&mut self, port: Port<'a>, path: FieldPath) {
        let place = self.all.len();
        self.all.push((port, path));
        self.equal.entry(port).or_default().push(place);
        if port.host == 0 {
            self.inside.push(place);
        } else if !port.ip.is_empty() {
            self.addressed.entry(port.host).or_default().push(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of_ports(ports: &Value) -> Vec<String> {
        let spec = json!({ "containers": [{ "name": "c", "ports": ports }] });
        let mut out = Vec::new();
        super::ports(&mut out, &FieldPath::new("spec"), &spec);
        out
    }

    #[test]
    fn all_ports_that_one_is_at_odds_with_are_named_in_order() {
        let port = |host: i64, ip: &str| json!({ "containerPort": 80, "protocol": "TCP", "hostPort": host, "hostIP": ip });
        let all = [
            port(0, ""),
            port(8080, "192.0.2.1"),
            port(8080, "192.0.2.2"),
            port(8081, ""),
            port(8080, ""),
            port(8081, "192.0.2.1"),
            port(0, ""),
        ];
        let at = |n: usize| format!("spec.containers[0].ports[{n}]");
        let mut wanted = Vec::new();
        for (n, (how, other)) in [
            (1, ("overlapping", 0)),
            (2, ("overlapping", 0)),
            (3, ("overlapping", 0)),
            (4, ("overlapping", 0)),
            (4, ("dangerously ambiguous", 1)),
            (4, ("dangerously ambiguous", 2)),
            (5, ("overlapping", 0)),
            (5, ("dangerously ambiguous", 3)),
            (6, ("duplicate", 0)),
            (6, ("overlapping", 1)),
            (6, ("overlapping", 2)),
            (6, ("overlapping", 3)),
            (6, ("overlapping", 4)),
            (6, ("overlapping", 5)),
        ] {
            wanted.push(format!(
                "{}: {how} port definition with {}",
                at(n),
                at(other)
            ));
        }
        assert_eq!(of_ports(&json!(all)), wanted);
    }

    #[test]
    fn what_selects_nothing_or_is_old_is_warned_of() {
        let term = json!({ "matchExpressions": [{ "key": "beta.kubernetes.io/os", "operator": "In", "values": ["a b"] }] });
        let spec = json!({
            "overhead": { "memory": "1m" },
            "affinity": {
                "nodeAffinity": {
                    REQUIRED: { "nodeSelectorTerms": [term] },
                    PREFERRED: [{ "weight": 1, "preference": term }],
                },
                "podAntiAffinity": { PREFERRED: [{ "podAffinityTerm": { "topologyKey": "k" } }] },
            },
            "containers": [{ "name": "c", "ports": [{ "name": "p", "containerPort": 80, "protocol": "TCP", "hostIP": "192.0.2.1" }] }],
        });
        let meta = json!({ "annotations": { "security.alpha.kubernetes.io/sysctls": "", "container.seccomp.security.alpha.kubernetes.io/c": "" } });
        let node = format!(
            "spec.affinity.nodeAffinity.{REQUIRED}.nodeSelectorTerms[0].matchExpressions[0].key"
        );
        let wish =
            format!("spec.affinity.nodeAffinity.{PREFERRED}[0].preference.matchExpressions[0]");
        let said = pod_spec(&FieldPath::root(), &spec, &meta);
        let old = "deprecated since v1.14; use \"kubernetes.io/os\" instead";
        assert_eq!(
            said,
            [
                format!("{node}: beta.kubernetes.io/os is {old}"),
                format!("{wish}.key: beta.kubernetes.io/os is {old}"),
                format!("{wish}.values[0]: a b is invalid, {}", names::is_valid_label_value("a b")[0]),
                "metadata.annotations[security.alpha.kubernetes.io/sysctls]: non-functional in v1.11+; use the \"sysctls\" field instead".to_owned(),
                "metadata.annotations[container.seccomp.security.alpha.kubernetes.io/c]: non-functional in v1.27+; use the \"seccompProfile\" field instead".to_owned(),
                "spec.overhead[memory]: fractional byte value \"1m\" is invalid, must be an integer".to_owned(),
                "spec.containers[0].ports[0]: hostIP set without hostPort: {Name:p HostPort:0 ContainerPort:80 Protocol:TCP HostIP:192.0.2.1}".to_owned(),
                format!("spec.affinity.podAntiAffinity.{PREFERRED}[0].podAffinityTerm.labelSelector: a null labelSelector results in matching no pod"),
            ]
        );
    }

    #[test]
    fn addresses_and_sizes_of_pods_are_looked_at() {
        let spec = json!({
            "dnsConfig": { "nameservers": ["10.0.0.10", "FD00::A"] },
            "hostAliases": [{ "ip": "FD00::B" }],
            "volumes": [{ "name": "v", "ephemeral": { "volumeClaimTemplate": { "spec": {
                "resources": { "requests": { "storage": "1m" } } } } } }],
        });
        assert_eq!(
            pod_spec(&FieldPath::new("template"), &spec, &Value::Null),
            [
                "template.spec.volumes[0].ephemeral.volumeClaimTemplate.spec.resources.requests[storage]: fractional byte value \"1m\" is invalid, must be an integer",
                "template.spec.dnsConfig.nameservers[1]: IPv6 address \"FD00::A\" should be in RFC 5952 canonical format (\"fd00::a\")",
                "template.spec.hostAliases[0].ip: IPv6 address \"FD00::B\" should be in RFC 5952 canonical format (\"fd00::b\")",
            ]
        );
    }

    #[test]
    fn many_ports_are_named_up_to_a_bound() {
        let same = vec![json!({ "containerPort": 1 }); 50_000];
        assert_eq!(of_ports(&json!(same)).len(), PORT_PAIRS);
        let one = |n: i64| json!({ "containerPort": 1, "hostPort": n });
        let other: Vec<Value> = (1..=60_000).map(one).collect();
        assert_eq!(of_ports(&json!(other)).len(), 0);
    }
}
