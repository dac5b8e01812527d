//! Clusters and pods that schedulers are measured by: as upstream's performance tests have them,
//! without their controllers.

use serde_json::{Value, json};

use crate::objects::{self, NAMESPACE};

/// Zones that nodes are spread over.
const ZONES: u64 = 10;
const ZONE: &str = "topology.kubernetes.io/zone";
const HOST: &str = "kubernetes.io/hostname";
/// Pods that preemption takes end at once.
const NO_GRACE: u32 = 0;
/// CPU of a node, in cores.
const CORES: u64 = 32;

/// What the waiting pods are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Plain,
    /// Spread over zones, at most five apart.
    Spread,
    /// All in one zone with others of their kind.
    Affinity,
    /// None on a node with another of its kind, in namespaces that a selector chooses.
    AntiAffinity,
    /// Each in one of two zones of the ten.
    NodeAffinity,
    /// Plain ones, among others that want to be near some or away from them, or must.
    Mixed,
    /// Each takes the place of a less important one.
    Preemption,
    /// Each with a volume that is there.
    Volumes,
    /// They may be decided only when the measuring begins.
    Gates,
    /// As many go as come.
    Churn,
}

impl Shape {
    pub const ALL: [Self; 10] = [
        Self::Plain,
        Self::Spread,
        Self::Affinity,
        Self::AntiAffinity,
        Self::NodeAffinity,
        Self::Mixed,
        Self::Preemption,
        Self::Volumes,
        Self::Gates,
        Self::Churn,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Spread => "spread over zones",
            Self::Affinity => "affinity",
            Self::AntiAffinity => "anti-affinity with namespace selector",
            Self::NodeAffinity => "zones by node affinity",
            Self::Mixed => "mixed",
            Self::Preemption => "preemption",
            Self::Volumes => "volumes",
            Self::Gates => "gates opened",
            Self::Churn => "churn",
        }
    }

    /// How many of so many pods can have a place: of those that keep off each other one a node.
    pub fn pods(self, nodes: u64, pods: u64) -> u64 {
        match self {
            Self::AntiAffinity => pods.min(nodes),
            // Four large ones fill a node.
            Self::Preemption => pods.min(nodes * 4),
            Self::NodeAffinity => pods.min(nodes / 5 * 100),
            // A node has room for 110.
            _ => pods.min(nodes * 100),
        }
    }
}

pub fn node_name(i: u64) -> String {
    format!("node-{i:04}")
}

/// A node, in one of the zones.
pub fn node(i: u64) -> Value {
    let mut node = objects::node(&node_name(i));
    let zone = format!("zone-{}", i % ZONES);
    node["metadata"]["labels"][ZONE] = zone.into();
    node
}

/// The namespace of the pods, with a label by which selectors choose it.
pub fn namespace() -> Value {
    let mut namespace = objects::namespace();
    namespace["metadata"]["labels"] = json!({ "team": "load" });
    namespace
}

/// The class of those that preempt.
pub fn priority_class() -> Value {
    json!({ "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass",
        "metadata": { "name": "high" }, "value": 1_000 })
}

/// The name of a waiting pod.
pub fn pod_name(i: u64) -> String {
    format!("waiting-{i:05}")
}

/// A pod that waits.
pub fn pod(shape: Shape, i: u64) -> Value {
    let name = pod_name(i);
    let mut pod = objects::waiting_pod(&name);
    let spec = &mut pod["spec"];
    let same = json!({ "matchLabels": { "app": "load" } });
    match shape {
        Shape::Plain | Shape::Churn | Shape::Mixed => {}
        Shape::NodeAffinity => {
            spec["affinity"] = json!({ "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": [{
                    "matchExpressions": [{ "key": ZONE, "operator": "In",
                        "values": ["zone-0", "zone-1"] }] }] } } });
        }
        Shape::Spread => {
            spec["topologySpreadConstraints"] = json!([{ "maxSkew": 5,
                "topologyKey": ZONE,
                "whenUnsatisfiable": "DoNotSchedule", "labelSelector": same }]);
        }
        Shape::Affinity => beside_its_kind(&mut pod, i),
        Shape::AntiAffinity => {
            spec["affinity"] = json!({ "podAntiAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": [{
                    "topologyKey": HOST, "labelSelector": same,
                    "namespaceSelector": { "matchLabels": { "team": "load" } } }] } });
        }
        Shape::Preemption => {
            spec["priorityClassName"] = "high".into();
            spec["priority"] = 1_000.into();
            spec["containers"][0]["resources"]["requests"]["cpu"] = large();
        }
        Shape::Volumes => {
            spec["volumes"] = json!([{ "name": "v",
                "persistentVolumeClaim": { "claimName": name } }]);
        }
        Shape::Gates => {
            spec["schedulingGates"] = json!([{ "name": "bench.example/wait" }]);
        }
    }
    pod
}

/// Has a pod be in one zone with the others of its kind, of which there are as many as zones.
fn beside_its_kind(pod: &mut Value, i: u64) {
    let kind = format!("kind-{}", i % ZONES);
    pod["metadata"]["labels"]["kind"] = kind.as_str().into();
    pod["spec"]["affinity"] = json!({ "podAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": [{
            "topologyKey": ZONE,
            "labelSelector": { "matchLabels": { "kind": kind } } }] } });
}

fn large() -> Value {
    (CORES / 4).to_string().into()
}

/// A pod that has its node before anything is measured, where the shape has such ones.
pub fn settled(shape: Shape, i: u64, nodes: u64) -> Option<Value> {
    let mut pod = objects::waiting_pod(&format!("settled-{i:05}"));
    pod["spec"]["nodeName"] = node_name(i % nodes).into();
    pod["spec"]["terminationGracePeriodSeconds"] = NO_GRACE.into();
    match shape {
        Shape::Preemption => {
            pod["spec"]["containers"][0]["resources"]["requests"]["cpu"] = large();
        }
        Shape::Churn => {}
        // One of each kind, in a zone of its own: two kinds in one zone might not find room there.
        Shape::Affinity => beside_its_kind(&mut pod, i),
        Shape::Mixed => {
            // Of each kind there is at most one on a node.
            pod["spec"]["nodeName"] = node_name(i / KINDS % nodes).into();
            mixed(&mut pod, i % KINDS);
        }
        _ => return None,
    }
    Some(pod)
}

/// Kinds of pods that are there before mixed ones.
const KINDS: u64 = 5;

/// What a pod of a kind asks of others of its kind: nothing, to be in a zone with them, not to be on a
/// node with them, and the wish to be so or not.
fn mixed(pod: &mut Value, kind: u64) {
    let name = format!("kind-{kind}");
    pod["metadata"]["labels"]["kind"] = name.as_str().into();
    let term = |key: &str| json!({ "topologyKey": key, "labelSelector": { "matchLabels": { "kind": name } } });
    let must = |key| json!({ "requiredDuringSchedulingIgnoredDuringExecution": [term(key)] });
    let wish = || {
        json!({ "preferredDuringSchedulingIgnoredDuringExecution":
            [{ "weight": 1, "podAffinityTerm": term(HOST) }] })
    };
    pod["spec"]["affinity"] = match kind {
        1 => json!({ "podAffinity": must(ZONE) }),
        2 => json!({ "podAntiAffinity": must(HOST) }),
        3 => json!({ "podAffinity": wish() }),
        4 => json!({ "podAntiAffinity": wish() }),
        _ => return,
    };
}

/// How many pods have their nodes before.
pub fn settled_pods(shape: Shape, nodes: u64, pods: u64) -> u64 {
    match shape {
        Shape::Preemption => nodes * 4,
        Shape::Churn => pods,
        Shape::Affinity => ZONES,
        // One of each kind on two of five nodes.
        Shape::Mixed => nodes * 2,
        _ => 0,
    }
}

/// A volume and its claim, bound to each other.
pub fn volume(i: u64) -> [Value; 2] {
    let name = pod_name(i);
    [
        json!({ "apiVersion": "v1", "kind": "PersistentVolume", "metadata": { "name": name },
            "spec": { "capacity": { "storage": "1Gi" }, "accessModes": ["ReadWriteOnce"],
                "persistentVolumeReclaimPolicy": "Retain", "storageClassName": "by-hand",
                "csi": { "driver": "bench.example", "volumeHandle": name },
                "claimRef": { "kind": "PersistentVolumeClaim", "namespace": NAMESPACE,
                    "name": name } } }),
        json!({ "apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": { "name": name, "namespace": NAMESPACE,
                "annotations": { "pv.kubernetes.io/bind-completed": "yes" } },
            "spec": { "accessModes": ["ReadWriteOnce"], "storageClassName": "by-hand",
                "volumeName": name, "resources": { "requests": { "storage": "1Gi" } } },
            "status": { "phase": "Bound" } }),
    ]
}
