//! The mirrors of static pods: objects of the API that show what the node runs by itself. They mean
//! nothing for the node: whoever deletes one gets it back, and its status is the static pod's.

use super::manifest::{self, HASH};
use crate::pod::deps::Deps;
use crate::pod::manager::Pods;
use crate::pod::spec;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{DeleteParams, PostParams, Preconditions};
use std::sync::Arc;
use std::time::Duration;

/// The annotation by which an object is a mirror: it says of which static pod.
pub const MIRROR: &str = "kubernetes.io/config.mirror";
/// Between tries, and looks at what no event reported.
const AGAIN: Duration = Duration::from_secs(5);

/// Whether an object of the API is a static pod's mirror.
#[must_use]
pub fn is_mirror(pod: &Pod) -> bool {
    of(pod).is_some()
}

fn of(pod: &Pod) -> Option<&String> {
    pod.metadata.annotations.as_ref()?.get(MIRROR)
}

/// Whether a mirror shows a static pod as it is now, and stays.
#[must_use]
pub fn shows(mirror: &Pod, pod: &Pod) -> bool {
    of(mirror) == identity(pod) && mirror.metadata.deletion_timestamp.is_none()
}

fn identity(pod: &Pod) -> Option<&String> {
    pod.metadata.annotations.as_ref()?.get(HASH)
}

/// What is to be done about a name.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Nothing,
    Create,
    /// It shows something else, or somebody wants it gone.
    Delete,
}

fn decide(pod: Option<&Pod>, mirror: Option<&Pod>) -> Step {
    match (pod, mirror) {
        (None, None) => Step::Nothing,
        (Some(_), None) => Step::Create,
        (Some(pod), Some(mirror)) if shows(mirror, pod) => Step::Nothing,
        (_, Some(_)) => Step::Delete,
    }
}

/// Keeps the mirrors as long as the kubelet runs.
pub(super) async fn run(deps: &Deps, pods: &Arc<Pods>) {
    // Before the API's pods are known, it is not known which mirrors there are.
    let mut listed = deps.listed.subscribe();
    if listed.wait_for(|l| *l).await.is_err() {
        return;
    }
    let changed = pods.static_changes();
    loop {
        for (pod, mirror) in pods.mirrors() {
            let done = match decide(pod.as_deref(), mirror.as_deref()) {
                Step::Nothing => Ok(()),
                Step::Create => create(deps, pod.as_deref()).await,
                Step::Delete => delete(deps, mirror.as_deref()).await,
            };
            if let Err(error) = done {
                let name = pod.or(mirror).map(|p| spec::full_name(&p));
                tracing::warn!(
                    name,
                    error,
                    "the mirror of a static pod is not as it should be; trying again"
                );
            }
        }
        // The watch shows what became of it.
        let _ = tokio::time::timeout(AGAIN, changed.notified()).await;
    }
}

fn api(deps: &Deps, pod: &Pod) -> kube::Api<Pod> {
    kube::Api::namespaced(deps.client.clone(), spec::namespace(pod))
}

async fn create(deps: &Deps, pod: Option<&Pod>) -> Result<(), String> {
    let Some(pod) = pod else { return Ok(()) };
    let node = deps.node.get().await.map_err(|e| e.to_string())?;
    let mut mirror = mirror_of(pod, &node);
    manifest::note_seen(&mut mirror, deps.clock.now());
    match api(deps, pod).create(&PostParams::default(), &mirror).await {
        Ok(_) => Ok(()),
        // The watch will show it.
        Err(kube::Error::Api(e)) if e.code == 409 => Ok(()),
        Err(e) => Err(e.to_string()),
    }
}

async fn delete(deps: &Deps, mirror: Option<&Pod>) -> Result<(), String> {
    let Some(mirror) = mirror else { return Ok(()) };
    let how = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions {
            uid: mirror.metadata.uid.clone(),
            resource_version: None,
        }),
        ..Default::default()
    };
    match api(deps, mirror).delete(spec::name(mirror), &how).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(e)) if matches!(e.code, 404 | 409) => Ok(()),
        Err(e) => Err(e.to_string()),
    }
}

/// The object that shows a static pod; the node owns it.
fn mirror_of(pod: &Pod, node: &Node) -> Pod {
    let mut mirror = pod.clone();
    let meta = &mut mirror.metadata;
    let identity = meta.annotations.as_ref().and_then(|a| a.get(HASH)).cloned();
    let annotations = meta.annotations.get_or_insert_default();
    annotations.insert(MIRROR.into(), identity.unwrap_or_default());
    meta.uid = None;
    meta.resource_version = None;
    meta.creation_timestamp = None;
    meta.owner_references = Some(vec![OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: node.metadata.name.clone().unwrap_or_default(),
        uid: node.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: None,
    }]);
    if let Some(spec) = &mut mirror.spec {
        // It follows from the class.
        spec.priority = None;
    }
    mirror.status = None;
    mirror
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(hash: &str) -> Pod {
        let pod = json!({ "metadata": { "name": "web-n", "namespace": "default", "uid": hash,
            "annotations": { HASH: hash } }, "spec": { "containers": [], "priority": 7 } });
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn a_mirror_shows_its_pod_and_comes_back() {
        let node: Node =
            serde_json::from_value(json!({ "metadata": { "name": "n", "uid": "u" } })).unwrap();
        let (now, before) = (pod("b"), pod("a"));
        let mut mirror = mirror_of(&now, &node);
        assert!(is_mirror(&mirror) && !is_mirror(&now) && shows(&mirror, &now));
        assert_eq!(mirror.spec.as_ref().unwrap().priority, None);
        assert_eq!(decide(Some(&now), None), Step::Create);
        assert_eq!(decide(Some(&now), Some(&mirror)), Step::Nothing);
        assert_eq!(decide(Some(&before), Some(&mirror)), Step::Delete);
        assert_eq!(decide(None, Some(&mirror)), Step::Delete);
        assert_eq!(decide(None, None), Step::Nothing);
        mirror.metadata.deletion_timestamp =
            serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        assert_eq!(decide(Some(&now), Some(&mirror)), Step::Delete);
    }
}
