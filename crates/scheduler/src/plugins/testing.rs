//! Clusters for tests of plugins, written as JSON.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Plugin, Verdict};
use crate::node::{Node, Offer};
use crate::pod::Pod;
use crate::snapshot::Snapshot;
use crate::strings::Strings;

/// A snapshot in the making.
#[derive(Default)]
pub struct Cluster {
    pub snapshot: Snapshot,
    pub strings: Strings,
    count: usize,
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
        let pod = serde_json::from_value(pod).expect("a pod");
        Arc::new(Pod::read(&pod, &mut self.strings))
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
    let Some(check) = plugin.prepare(&pod, &cluster.snapshot) else {
        return "nothing to say".to_owned();
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
    if let Some(check) = plugin.prepare(&pod, &cluster.snapshot) {
        check.score(&nodes, &mut scores);
    }
    scores
}
