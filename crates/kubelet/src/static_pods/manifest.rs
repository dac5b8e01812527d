//! What a file says of a static pod, as the node runs it. Pure.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus, Toleration};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What identifies the file's content; upstream's annotation.
pub const HASH: &str = "kubernetes.io/config.hash";
/// Where the pod is from; upstream's annotation.
const SOURCE: &str = "kubernetes.io/config.source";
/// The priority of pods that a node cannot do without: static ones are among them, as upstream.
const CRITICAL: i32 = 2_000_001_000;

/// What a manifest says: a pod with defaults that was found valid, and what in it has no effect. An
/// error says why it is not a pod that a node may run by itself.
pub type Read = fn(&[u8]) -> Result<(Value, Vec<String>), String>;

/// Where static pods are described.
#[derive(Clone, Debug)]
pub struct Source {
    /// A folder, or one file.
    pub path: PathBuf,
    /// It is read again after this, also if no change was noticed. 20 s as upstream.
    pub period: Duration,
    /// How a manifest is read.
    pub read: Read,
}

/// Whether a pod is from elsewhere than the API.
#[must_use]
pub fn is_static(pod: &Pod) -> bool {
    let annotations = pod.metadata.annotations.as_ref();
    annotations
        .and_then(|a| a.get(SOURCE))
        .is_some_and(|s| s != "api")
}

/// The pod as the node's own: its name ends with the node's, its UID is that of what the file says, no
/// taint of the node ends it, and the node takes it whatever it is short of.
#[must_use]
pub fn identify(mut pod: Pod, file: &Path, node: &str) -> Pod {
    let meta = &mut pod.metadata;
    let given = meta.uid.take().filter(|uid| !uid.is_empty());
    let namespace = meta.namespace.take().filter(|n| !n.is_empty());
    meta.namespace = Some(namespace.unwrap_or_else(|| "default".into()));
    pod.status = None;
    let uid = given.unwrap_or_else(|| hash(&pod, file, node));
    let meta = &mut pod.metadata;
    let name = meta.name.take().unwrap_or_default();
    meta.name = Some(format!("{name}-{}", node.to_lowercase()));
    let annotations = meta.annotations.get_or_insert_default();
    annotations.insert(HASH.into(), uid.clone());
    annotations.insert(SOURCE.into(), "file".into());
    meta.uid = Some(uid);
    let spec = pod.spec.get_or_insert_default();
    spec.node_name = Some(node.to_owned());
    spec.priority = Some(spec.priority.unwrap_or(CRITICAL));
    let tolerations = spec.tolerations.get_or_insert_default();
    let all = Toleration {
        operator: Some("Exists".into()),
        effect: Some("NoExecute".into()),
        ..Default::default()
    };
    if !tolerations.contains(&all) {
        tolerations.push(all);
    }
    pod.status = Some(PodStatus {
        phase: Some("Pending".into()),
        ..Default::default()
    });
    pod
}

/// 32 hexadecimal digits, as upstream's.
fn hash(pod: &Pod, file: &Path, node: &str) -> String {
    let text = serde_json::to_string(pod).unwrap_or_default();
    let text = format!("{text}\nhost:{node}\nfile:{}", file.display());
    let sum = Sha256::digest(text.as_bytes());
    sum.iter().take(16).map(|b| format!("{b:02x}")).collect()
}

/// When the node first saw a static pod; upstream's annotation.
pub(super) fn note_seen(pod: &mut Pod, now: Timestamp) {
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert("kubernetes.io/config.seen".into(), now.to_string());
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_static_pod_is_the_nodes_own() {
        let plain = json!({ "metadata": { "name": "web" }, "spec": {
            "containers": [{ "name": "a" }],
            "tolerations": [{ "operator": "Exists", "effect": "NoExecute" }] } });
        let plain: Pod = serde_json::from_value(plain).unwrap();
        let own = identify(plain.clone(), Path::new("/m/web.yaml"), "N1");
        let meta = &own.metadata;
        assert_eq!(meta.name.as_deref(), Some("web-n1"));
        assert_eq!(meta.namespace.as_deref(), Some("default"));
        assert_eq!(meta.uid.as_ref().map(String::len), Some(32));
        let annotations = meta.annotations.as_ref().unwrap();
        assert_eq!(annotations.get(HASH), meta.uid.as_ref());
        let spec = own.spec.as_ref().unwrap();
        assert_eq!(spec.tolerations.as_ref().map(Vec::len), Some(1));
        assert!(crate::pod::fit::is_critical(&own));
        let elsewhere = identify(plain.clone(), Path::new("/m/other.yaml"), "N1");
        assert_ne!(elsewhere.metadata.uid, own.metadata.uid);
        let mut named = plain;
        named.metadata.uid = Some("mine".into());
        let named = identify(named, Path::new("/m/web.yaml"), "N1");
        assert_eq!(named.metadata.uid.as_deref(), Some("mine"));
    }
}
