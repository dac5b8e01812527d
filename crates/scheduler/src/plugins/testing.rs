//! Clusters for tests of plugins, written as JSON.

use std::sync::Arc;

use serde_json::{Value, json};

use k8s_openapi::api::core::v1 as core;

use super::{Plugin, Verdict};
use crate::interned::Strings;
use crate::node::{Node, Offer};
use crate::pod::Pod;
use crate::snapshot::Snapshot;
use crate::storage;

/// A snapshot in the making.
#[derive(Default)]
pub struct Cluster {
    pub snapshot: Snapshot,
    pub strings: Strings,
    count: usize,
}

/// A claim that is not bound.
pub fn claim(name: &str, class: &str, size: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}")},
           "spec": {"storageClassName": class, "accessModes": ["ReadWriteOnce"],
                    "resources": {"requests": {"storage": size}}},
           "status": {"phase": "Pending"}})
}

/// A volume that is available; in a zone, if one is given.
pub fn volume(name: &str, class: &str, size: &str, zone: Option<&str>) -> Value {
    let affinity = zone.map(|zone| {
        json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [
            {"key": "zone", "operator": "In", "values": [zone]}]}]}})
    });
    json!({"metadata": {"name": name},
           "spec": {"storageClassName": class, "accessModes": ["ReadWriteOnce"],
                    "capacity": {"storage": size}, "nodeAffinity": affinity},
           "status": {"phase": "Available"}})
}

/// A class of volumes; whether it waits for the first consumer.
pub fn class(name: &str, provisioner: &str, waits: bool) -> Value {
    let mode = if waits {
        "WaitForFirstConsumer"
    } else {
        "Immediate"
    };
    json!({"metadata": {"name": name}, "provisioner": provisioner, "volumeBindingMode": mode})
}

/// A node with room for 110 pods.
pub fn node(name: &str, cpu: &str, memory: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
           "status": {"allocatable": {"cpu": cpu, "memory": memory, "pods": "110"}}})
}

impl Cluster {
    pub fn new(nodes: impl IntoIterator<Item = Value>) -> Self {
        let mut out = Self::default();
        for node in nodes {
            let node: k8s_openapi::api::core::v1::Node =
                serde_json::from_value(node).expect("a node");
            let name = out
                .strings
                .get(node.metadata.name.as_deref().unwrap_or("?"));
            let offer = Offer::read(&node, &mut out.strings);
            out.snapshot.set_node(&name, offer);
        }
        out
    }

    /// Reads a pod, which gets a UID and, where it has none, a namespace.
    pub fn pod(&mut self, mut pod: Value) -> Arc<Pod> {
        self.count += 1;
        pod["metadata"]["uid"] = json!(format!("uid-{}", self.count));
        if pod["metadata"]["namespace"].is_null() {
            pod["metadata"]["namespace"] = json!("default");
        }
        if pod["metadata"]["name"].is_null() {
            pod["metadata"]["name"] = json!(format!("pod-{}", self.count));
        }
        let mut pod = serde_json::from_value(pod).expect("a pod");
        // As the cache has it: a plugin that reads more fails its own tests.
        control::trimmed::pod(&mut pod);
        Arc::new(Pod::read(&pod, &mut self.strings))
    }

    pub fn claim(&mut self, claim: Value) {
        let claim: core::PersistentVolumeClaim = serde_json::from_value(claim).expect("a claim");
        let name = claim.metadata.name.as_deref().unwrap_or("?");
        let key = self.strings.get(&format!("default/{name}"));
        let claim = storage::Claim::read(&claim, &mut self.strings);
        self.snapshot.storage_mut().set_claim(key, Some(claim));
    }
    pub fn volume(&mut self, volume: Value) {
        let volume: core::PersistentVolume = serde_json::from_value(volume).expect("a volume");
        let name = self
            .strings
            .get(volume.metadata.name.as_deref().unwrap_or("?"));
        let volume = storage::Volume::read(&volume, &mut self.strings);
        self.snapshot.storage_mut().set_volume(name, Some(volume));
    }
    pub fn class(&mut self, class: Value) {
        let name = class["metadata"]["name"].as_str().unwrap_or("?").to_owned();
        let class = storage::Class::read(&serde_json::from_value(class).expect("a class"));
        self.snapshot.storage_mut().set_class(&name, Some(class));
    }
    pub fn driver(&mut self, driver: Value) {
        let name = driver["metadata"]["name"]
            .as_str()
            .unwrap_or("?")
            .to_owned();
        let driver = storage::Driver::read(&serde_json::from_value(driver).expect("a driver"));
        self.snapshot.storage_mut().set_driver(&name, Some(driver));
    }
    pub fn capacity(&mut self, capacity: Value) {
        let capacity = serde_json::from_value(capacity).expect("a capacity");
        let capacity = storage::Capacity::read(&capacity);
        self.snapshot
            .storage_mut()
            .set_capacity("x", Some(capacity));
    }
    pub fn limits(&mut self, node: Value) {
        let name = node["metadata"]["name"].as_str().unwrap_or("?").to_owned();
        let limits = storage::Limits::read(&serde_json::from_value(node).expect("a CSINode"));
        self.snapshot.storage_mut().set_limits(&name, Some(limits));
    }
    pub fn attachment(&mut self, attachment: Value) {
        let name = attachment["metadata"]["name"]
            .as_str()
            .unwrap_or("?")
            .to_owned();
        let read = serde_json::from_value(attachment).expect("an attachment");
        let read = storage::Attachment::read(&read);
        self.snapshot.storage_mut().set_attachment(&name, read);
    }

    /// Puts a pod on a node.
    pub fn place(&mut self, node: &str, pod: Value) -> Arc<Pod> {
        let pod = self.pod(pod);
        let node = self.strings.get(node);
        self.snapshot.observe(&node, pod.clone());
        pod
    }
}

fn pod_of(spec: Value) -> Pod {
    let pod = if spec.get("spec").is_some() {
        spec
    } else {
        json!({"spec": spec})
    };
    Pod::clone(&Cluster::default().pod(pod))
}

/// What a plugin says of each node about a pod (or its spec alone).
pub fn verdicts(plugin: &dyn Plugin, cluster: &Cluster, pod: Value) -> String {
    let pod = pod_of(pod);
    let check = match plugin.prepare(&pod, &cluster.snapshot) {
        Ok(Some(check)) => check,
        Ok(None) => return "nothing to say".to_owned(),
        Err(reason) => return reason.texts().collect::<Vec<_>>().join(", "),
    };
    let lines: Vec<String> = cluster
        .snapshot
        .nodes()
        .map(|node| {
            let verdict = check.filter(node);
            let texts: Vec<&str> = verdict.reasons().collect();
            let texts = texts.join(", ");
            match &verdict {
                Verdict::Fits => format!("{}: fits", node.name),
                Verdict::NotNow(_) => format!("{}: not now, {texts}", node.name),
                Verdict::Never(_) => format!("{}: never, {texts}", node.name),
            }
        })
        .collect();
    lines.join("\n")
}

/// The scores that a plugin gives the nodes.
pub fn scores(plugin: &dyn Plugin, cluster: &Cluster, pod: Value) -> Vec<i64> {
    let pod = pod_of(pod);
    let nodes: Vec<&Node> = cluster.snapshot.nodes().collect();
    let mut scores = vec![0; nodes.len()];
    if let Ok(Some(check)) = plugin.prepare(&pod, &cluster.snapshot) {
        check.score(&nodes, &mut scores);
    }
    scores
}
