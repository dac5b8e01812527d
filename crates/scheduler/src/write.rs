//! What the scheduler writes: bindings, conditions, nominations, and the ends of victims.

mod claims;
pub mod groups;

use std::sync::Arc;
use std::time::Duration;

use clock::Clock;
use control::Recorder;
use futures::StreamExt;
use k8s_openapi::api::core::v1::{
    Binding, ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod as ApiPod, PodCondition,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client};
use serde_json::json;

use crate::core::{Nomination, Room};
use crate::extenders::http::{self, Lines};
use crate::plugins::Write;
use crate::pod::Pod;
use crate::storage::{Claim, SELECTED_NODE};

/// Between two questions whether a binding of unknown outcome took place.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// Victims of one pod that are asked to go at the same time.
const VICTIMS_IN_FLIGHT: usize = 16;

pub fn is_gated(pod: &ApiPod) -> bool {
    let gates = pod.spec.as_ref().and_then(|s| s.scheduling_gates.as_ref());
    gates.is_some_and(|g| !g.is_empty())
}

pub fn scheduled(pod: &ApiPod) -> Option<&PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|c| c.type_ == "PodScheduled")
}

pub fn scheduled_reason(pod: &ApiPod) -> Option<&str> {
    scheduled(pod)?.reason.as_deref()
}

pub fn reference(pod: &Pod) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        namespace: Some(pod.namespace.to_string()),
        name: Some(pod.name.clone()),
        uid: Some(pod.uid.to_string()),
        ..ObjectReference::default()
    }
}

fn api(client: &Client, pod: &Pod) -> Api<ApiPod> {
    Api::namespaced(client.clone(), &pod.namespace)
}

/// Why a pod was not bound; nothing of one that has gone, or is not this scheduler's to bind any more.
pub type NotBound = Option<String>;

/// Binds. When the outcome is unknown it is found out first, since the room may not be given away
/// before.
///
/// # Errors
/// Why the pod is not on the node.
pub async fn bind(client: &Client, lines: &Lines, pod: &Pod, node: &str) -> Result<(), NotBound> {
    let api = api(client, pod);
    if let Some(line) = http::binder(lines, pod) {
        match http::bind(line, pod, node).await {
            Ok(()) => return Ok(()),
            Err(e) if line.extender.ignorable => {
                tracing::info!("an extender that may be ignored is: {e}");
            }
            // It may have bound the pod nevertheless.
            Err(e) => {
                tracing::debug!("{}/{}: bound or not: {e}", pod.namespace, pod.name);
                return match was_bound(&api, pod, node).await {
                    true => Ok(()),
                    false => Err(Some(e.to_string())),
                };
            }
        }
    }
    let binding = Binding {
        metadata: ObjectMeta {
            name: Some(pod.name.clone()),
            namespace: Some(pod.namespace.to_string()),
            uid: Some(pod.uid.to_string()),
            ..ObjectMeta::default()
        },
        target: ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Node".into()),
            name: Some(node.to_owned()),
            ..ObjectReference::default()
        },
    };
    let answer: Result<serde_json::Value, kube::Error> = api
        .create_subresource("binding", &pod.name, &PostParams::default(), &binding)
        .await;
    let failed = |why: String| Some(format!("running Bind plugin \"DefaultBinder\": {why}"));
    match answer {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if (400..500).contains(&status.code) => {
            let (code, why) = (status.code, status.message);
            tracing::debug!("{}/{}: not bound: {why}", pod.namespace, pod.name);
            Err(match code {
                404 | 409 => None,
                _ => failed(why),
            })
        }
        Err(e) => {
            tracing::debug!("{}/{}: bound or not: {e}", pod.namespace, pod.name);
            if was_bound(&api, pod, node).await {
                return Ok(());
            }
            Err(failed(match e {
                kube::Error::Api(status) => status.message,
                other => other.to_string(),
            }))
        }
    }
}

/// Writes what must be there before a pod is bound.
///
/// # Errors
/// What could not be written, and why: as a person reads it.
pub async fn write_all(client: &Client, writes: &[Write], clock: Clock) -> Result<(), String> {
    for write in writes {
        match write {
            Write::BindVolume {
                volume,
                version,
                claim,
            } => {
                let sent = bind_volume(client, volume, version, claim).await;
                sent.map_err(|e| format!("binding volume {volume:?}: {e}"))?;
            }
            Write::SelectNode { claim, node } => {
                let sent = select_node(client, claim, node).await;
                let name = &claim.name;
                sent.map_err(|e| format!("selecting a node for claim {name:?}: {e}"))?;
            }
            Write::ReserveClaim {
                claim,
                allocation,
                pod,
            } => {
                let sent = claims::reserve(client, claim, allocation.as_deref(), pod, clock);
                let name = claim.metadata.name.as_deref().unwrap_or_default();
                let sent = sent.await;
                sent.map_err(|e| format!("reserving resource claim {name:?}: {e}"))?;
            }
            Write::FreeClaim { claim } => {
                let name = claim.metadata.name.as_deref().unwrap_or_default();
                let sent = claims::free(client, claim).await;
                sent.map_err(|e| format!("freeing resource claim {name:?}: {e}"))?;
            }
            Write::MakeClaim {
                made,
                allocation,
                pod,
            } => {
                let sent = claims::make(client, made, allocation, pod, clock).await;
                sent.map_err(|e| format!("claiming extended resources: {e}"))?;
            }
            Write::RemoveClaim { claim } => {
                let name = claim.metadata.name.as_deref().unwrap_or_default();
                let sent = claims::remove(client, claim).await;
                sent.map_err(|e| format!("removing resource claim {name:?}: {e}"))?;
            }
            // It is the shell's last step, not one before.
            Write::BindPod { .. } => {}
        }
    }
    Ok(())
}

async fn bind_volume(
    client: &Client,
    volume: &str,
    version: &str,
    claim: &Claim,
) -> Result<(), kube::Error> {
    let patch = json!({
        "metadata": {
            "resourceVersion": version,
            "annotations": {"pv.kubernetes.io/bound-by-controller": "yes"},
        },
        "spec": {"claimRef": {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "namespace": claim.namespace,
            "name": claim.name,
            "uid": claim.uid,
            "resourceVersion": claim.version,
        }},
    });
    let api: Api<PersistentVolume> = Api::all(client.clone());
    let params = PatchParams::default();
    api.patch(volume, &params, &Patch::Merge(patch))
        .await
        .map(drop)
}

async fn select_node(client: &Client, claim: &Claim, node: &str) -> Result<(), kube::Error> {
    let patch = json!({"metadata": {
        "uid": claim.uid,
        "resourceVersion": claim.version,
        "annotations": {SELECTED_NODE: node},
    }});
    let api: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &claim.namespace);
    let params = PatchParams::default();
    api.patch(&claim.name, &params, &Patch::Merge(patch))
        .await
        .map(drop)
}

/// Asks until there is an answer.
async fn was_bound(api: &Api<ApiPod>, pod: &Pod, node: &str) -> bool {
    loop {
        tokio::time::sleep(ASK_AGAIN).await;
        match api.get_opt(&pod.name).await {
            Ok(Some(now)) if now.metadata.uid.as_deref() == Some(&*pod.uid) => {
                let on = now.spec.and_then(|s| s.node_name);
                return on.as_deref() == Some(node);
            }
            Ok(_) => return false,
            Err(e) => tracing::debug!("{}/{}: {e}", pod.namespace, pod.name),
        }
    }
}

/// What to report of a pod without a node.
pub struct Report {
    pub pod: Arc<Pod>,
    pub reason: &'static str,
    pub message: String,
    pub nomination: Nomination,
    /// Beside it.
    pub writes: Vec<Write>,
}

/// Writes the condition and the nominated node, if they say something new.
pub async fn publish(client: &Client, clock: Clock, report: &Report, current: Option<&ApiPod>) {
    let pod = &report.pod;
    let known = current.filter(|c| c.metadata.uid.as_deref() == Some(&*pod.uid));
    // It has got a node meanwhile.
    let node = known.and_then(|c| c.spec.as_ref()?.node_name.as_deref());
    if node.is_some_and(|node| !node.is_empty()) {
        return;
    }
    let before = known.and_then(scheduled);
    let nominated = match &report.nomination {
        Nomination::Stays => None,
        Nomination::Ends => Some(None),
        Nomination::Begins(room) => Some(Some(room.node.to_string())),
    };
    let published = before.is_some_and(|c| {
        c.status == "False"
            && c.reason.as_deref() == Some(report.reason)
            && c.message.as_deref() == Some(&report.message)
    });
    if published
        && nominated
            .as_ref()
            .is_none_or(|n| *n == known.and_then(nominated_node))
    {
        return;
    }
    let since = before.filter(|c| c.status == "False");
    let since = since.and_then(|c| c.last_transition_time.clone());
    let mut status = json!({"conditions": [{
        "type": "PodScheduled",
        "status": "False",
        "reason": report.reason,
        "message": report.message,
        "lastProbeTime": null,
        "lastTransitionTime": since.unwrap_or_else(|| Time(clock.now_in_seconds())),
        "observedGeneration": known.and_then(|p| p.metadata.generation),
    }]});
    if let (Some(node), Some(fields)) = (nominated, status.as_object_mut()) {
        fields.insert("nominatedNodeName".into(), node.into());
    }
    if let Err(e) = patch_status(client, pod, status).await {
        tracing::debug!("status of {}/{}: {e}", pod.namespace, pod.name);
    }
}

fn nominated_node(pod: &ApiPod) -> Option<String> {
    pod.status.as_ref()?.nominated_node_name.clone()
}

/// Says on which node a pod is about to be, where what is done before takes a while: whoever adds and
/// removes nodes counts on it. That it could not be said keeps nobody from going on.
pub async fn announce(client: &Client, pod: &Pod, node: &str) {
    if pod.wants.nominated.as_deref() == Some(node) {
        return;
    }
    let status = json!({"nominatedNodeName": node});
    if let Err(e) = patch_status(client, pod, status).await {
        tracing::debug!("node of {}/{}: {e}", pod.namespace, pod.name);
    }
}

async fn patch_status(
    client: &Client,
    pod: &Pod,
    status: serde_json::Value,
) -> Result<(), kube::Error> {
    // The UID makes sure that it is not another pod of the same name.
    let patch = json!({"metadata": {"uid": *pod.uid}, "status": status});
    api(client, pod)
        .patch_status(&pod.name, &PatchParams::default(), &Patch::Strategic(patch))
        .await
        .map(drop)
}

/// Whether a victim, as the cache has it now, has yet to be asked to go.
pub fn is_to_be_asked(victim: &Pod, now: Option<Arc<ApiPod>>) -> bool {
    now.is_some_and(|now| {
        let is_it = now.metadata.uid.as_deref() == Some(&*victim.uid);
        is_it && now.metadata.deletion_timestamp.is_none()
    })
}

/// What makes room, for the requests about its victims.
pub struct Preemptor<'a> {
    pub client: &'a Client,
    pub recorder: &'a Recorder,
    pub pod: &'a Pod,
}

impl Preemptor<'_> {
    /// Asks all victims to go; false where one could not be asked.
    pub async fn make_room(&self, room: &Room) -> bool {
        for other in &room.displaced {
            let status = json!({"nominatedNodeName": null});
            if let Err(e) = patch_status(self.client, other, status).await {
                // It is only a hint to others: the next report of that pod says it again.
                tracing::debug!("status of {}/{}: {e}", other.namespace, other.name);
            }
        }
        let victims = room.victims.iter().filter(|v| !v.terminating);
        let asked: Vec<_> = victims.map(|v| self.evict(v, &room.node)).collect();
        let mut asked = futures::stream::iter(asked).buffer_unordered(VICTIMS_IN_FLIGHT);
        let mut all = true;
        while let Some(gone) = asked.next().await {
            all &= gone;
        }
        all
    }

    /// Deletes a victim gracefully, and says why. True also when it is gone already.
    async fn evict(&self, victim: &Pod, node: &str) -> bool {
        match self.try_to_evict(victim).await {
            Ok(()) => {
                let text = format!("Preempted by pod {} on node {node}", self.pod.uid);
                self.recorder
                    .event(&reference(victim), false, "Preempted", &text);
                true
            }
            // Another pod of its name is not the victim.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => true,
            Err(e) => {
                tracing::debug!("preempting {}/{}: {e}", victim.namespace, victim.name);
                false
            }
        }
    }

    async fn try_to_evict(&self, victim: &Pod) -> Result<(), kube::Error> {
        let message = format!(
            "{}: preempting to accommodate a higher priority pod",
            self.pod.scheduler
        );
        let condition = json!({"conditions": [{
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "PreemptionByScheduler",
            "message": message,
            "lastTransitionTime": Time(self.recorder.clock().now_in_seconds()),
            "observedGeneration": victim.generation,
        }]});
        patch_status(self.client, victim, condition).await?;
        let params = DeleteParams::default().preconditions(Preconditions {
            uid: Some(victim.uid.to_string()),
            resource_version: None,
        });
        api(self.client, victim)
            .delete(&victim.name, &params)
            .await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::testing::Cluster;

    #[test]
    fn only_a_pod_that_is_there_and_stays_is_asked_to_go() {
        let victim = Cluster::default().pod(json!({"metadata": {"name": "a"}}));
        let now = |uid: &str, deleted: Option<&str>| {
            let value =
                json!({"metadata": {"name": "a", "uid": uid, "deletionTimestamp": deleted}});
            let pod: ApiPod = serde_json::from_value(value).expect("a pod");
            Some(Arc::new(pod))
        };
        assert!(is_to_be_asked(&victim, now(&victim.uid, None)));
        let at = Some("2026-01-01T00:00:00Z");
        assert!(!is_to_be_asked(&victim, now(&victim.uid, at)));
        assert!(!is_to_be_asked(&victim, now("another", None)));
        assert!(!is_to_be_asked(&victim, None));
    }
}
