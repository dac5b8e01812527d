//! Volumes that grow: where the persistent volume is larger than the claim knows, the driver is
//! asked to let the file system on this node grow, and the claim says how far that is. What it says of
//! a failure is for whoever made the volume larger: a claim may ask for less again.

use super::driver::CallError;
use super::error::Error;
use super::paths::text;
use super::{Csi, CsiVolume};
use crate::events::Severity;
use crate::pod::spec;
use api::Quantity;
use host::plugins::csi::{CapacityRange, NodeExpandVolumeRequest};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ObjectReference, PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimCondition, Pod,
};
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use tonic::Code;

/// Conditions of a claim that say that it still has to grow, or why it does not.
const GROWING: [&str; 4] = [
    "Resizing",
    "FileSystemResizePending",
    "ControllerResizeError",
    NODE_ERROR,
];
/// The condition that says why a claim does not grow on its node.
const NODE_ERROR: &str = "NodeResizeError";
/// It is the node's turn.
const PENDING: &str = "NodeResizePending";
/// The node has begun.
const IN_PROGRESS: &str = "NodeResizeInProgress";
/// It cannot be: only whoever made the volume larger goes on.
const INFEASIBLE: &str = "NodeResizeInfeasible";
/// The reason of events that say that a volume has grown.
const GROWN: &str = "FileSystemResizeSuccessful";

impl Csi {
    /// Lets the volume grow that a pod has, if it is to; its new size.
    pub async fn grow(
        &self,
        asked: &CsiVolume,
        pod: &Pod,
        claim: &PersistentVolumeClaim,
        volume: &PersistentVolume,
    ) -> Result<Option<String>, Error> {
        let key = (asked.driver.clone(), asked.handle.clone());
        let size = larger(claim, volume).filter(|_| is_nodes_turn(claim));
        let Some(size) = size.filter(|_| !self.grow_unused.lock().contains(&key)) else {
            return Ok(None);
        };
        let driver = self.driver(&asked.driver)?;
        let can = driver.abilities().await?;
        if !can.expand {
            return Ok(None);
        }
        let alone = self.alone(&asked.driver, &asked.handle).await;
        let place = self.paths.place(asked, spec::uid(pod));
        let secrets = self.secrets(asked.expand_secret.as_ref(), "NodeExpandSecretRef");
        let staging = if can.stage {
            text(&place.staging)
        } else {
            String::new()
        };
        let request = NodeExpandVolumeRequest {
            volume_id: asked.handle.clone(),
            volume_path: text(&place.target),
            capacity_range: Some(CapacityRange {
                required_bytes: size.value(),
                limit_bytes: 0,
            }),
            staging_target_path: staging,
            volume_capability: Some(asked.capability(can, None)),
            secrets: secrets.await?,
        };
        if step(claim) == Some(PENDING) {
            self.tell(claim, begun(claim)).await?;
        }
        if let Err(e) = driver.expand(request).await {
            return self.not_grown(claim, size, key, e).await;
        }
        drop(alone);
        self.tell(claim, grown(claim, size)).await?;
        let said = format!(
            "MountVolume.NodeExpandVolume succeeded for volume {:?} {}",
            asked.name, self.node
        );
        let recorder = &self.recorder;
        recorder.pod(pod, None, Severity::Normal, GROWN, said.clone());
        recorder.about(&reference(claim), Severity::Normal, GROWN, said);
        Ok(Some(size.to_string()))
    }

    /// A volume that is to grow and did not, for an event of its pod, which goes on with what it has.
    pub fn say_not_grown(&self, pod: &Pod, why: &str) {
        let (recorder, warning) = (&self.recorder, Severity::Warning);
        recorder.pod(pod, None, warning, "VolumeResizeFailed", why);
    }

    /// What becomes of a failure: the claim says it where nothing of the call can go on.
    async fn not_grown(
        &self,
        claim: &PersistentVolumeClaim,
        size: Quantity,
        key: (String, String),
        e: CallError,
    ) -> Result<Option<String>, Error> {
        if step(claim).is_some() && e.is_final() {
            let now = self.recorder.clock().now();
            let status = failed(claim, &e, is_infeasible(claim, size, e.code), now);
            // The next try has another chance to say it.
            if let Err(error) = self.tell(claim, status).await {
                tracing::warn!(%error, "a claim could not be told that it does not grow");
            }
        }
        if e.code == Code::FailedPrecondition {
            let (driver, handle) = &key;
            tracing::warn!(driver, handle, error = %e, "a volume does not grow while it is used");
            self.grow_unused.lock().insert(key);
            return Ok(None);
        }
        Err(e.into())
    }

    /// Changes a claim's status.
    async fn tell(&self, claim: &PersistentVolumeClaim, change: Value) -> Result<(), Error> {
        let meta = &claim.metadata;
        let claims: kube::Api<PersistentVolumeClaim> = kube::Api::namespaced(
            self.client.clone(),
            meta.namespace.as_deref().unwrap_or_default(),
        );
        let name = meta.name.as_deref().unwrap_or_default();
        let told = claims
            .patch_status(name, &PatchParams::default(), &Patch::Merge(change))
            .await;
        told.map(drop)
            .map_err(|e| Error::api("failed to update the status of the claim", &e))
    }
}

fn reference(claim: &PersistentVolumeClaim) -> ObjectReference {
    let meta = claim.metadata.clone();
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("PersistentVolumeClaim".into()),
        name: meta.name,
        namespace: meta.namespace,
        uid: meta.uid,
        resource_version: meta.resource_version,
        ..Default::default()
    }
}

/// How far a claim is on its way to a larger volume; none where whoever made the volume larger does not
/// say it, as older resizers.
fn step(claim: &PersistentVolumeClaim) -> Option<&str> {
    let steps = claim
        .status
        .as_ref()?
        .allocated_resource_statuses
        .as_ref()?;
    steps.get("storage").map(String::as_str)
}

/// The size that a claim is on its way to.
fn allocated(claim: &PersistentVolumeClaim) -> Option<Quantity> {
    let all = claim.status.as_ref()?.allocated_resources.as_ref()?;
    all.get("storage")?.0.parse().ok()
}

/// Whether the node is to do something now.
fn is_nodes_turn(claim: &PersistentVolumeClaim) -> bool {
    match step(claim) {
        Some(step) => step == PENDING || step == IN_PROGRESS,
        None => allocated(claim).is_none(),
    }
}

/// The volume's size, if the claim knows of a smaller one.
fn larger(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Option<Quantity> {
    let read = |q: &k8s_openapi::apimachinery::pkg::api::resource::Quantity| q.0.parse().ok();
    let capacity = volume.spec.as_ref()?.capacity.as_ref()?;
    let size: Quantity = read(capacity.get("storage")?)?;
    let known = claim.status.as_ref()?.capacity.as_ref()?;
    let known: Quantity = read(known.get("storage")?)?;
    let wanted = allocated(claim).filter(|_| step(claim).is_some());
    (size > known).then(|| wanted.unwrap_or(size))
}

/// Whether a driver that fails so will always: or has failed before, while the claim asks for another
/// size by now.
fn is_infeasible(claim: &PersistentVolumeClaim, size: Quantity, code: Code) -> bool {
    if matches!(
        code,
        Code::InvalidArgument | Code::OutOfRange | Code::NotFound
    ) {
        return true;
    }
    let resources = claim.spec.as_ref().and_then(|s| s.resources.as_ref());
    let asked = resources.and_then(|r| r.requests.as_ref()?.get("storage"));
    let asked: Option<Quantity> = asked.and_then(|q| q.0.parse().ok());
    let has_failed = conditions(claim).any(|c| c.type_ == NODE_ERROR && c.status == "True");
    has_failed && asked.is_some_and(|asked| asked != size)
}

fn conditions(
    claim: &PersistentVolumeClaim,
) -> impl Iterator<Item = &PersistentVolumeClaimCondition> {
    let status = claim.status.as_ref();
    status
        .and_then(|s| s.conditions.as_ref())
        .into_iter()
        .flatten()
}

/// What the claim's status is to say before the driver is asked: only if it is still as it was seen.
fn begun(claim: &PersistentVolumeClaim) -> Value {
    json!({
        "metadata": { "resourceVersion": claim.metadata.resource_version },
        "status": { "allocatedResourceStatuses": { "storage": IN_PROGRESS } },
    })
}

/// What it is to say of a failure.
fn failed(
    claim: &PersistentVolumeClaim,
    error: &CallError,
    infeasible: bool,
    now: Timestamp,
) -> Value {
    let (old, mut left): (Vec<_>, Vec<_>) = conditions(claim)
        .map(|c| json!(c))
        .partition(|c| c["type"] == NODE_ERROR);
    let now = json!(now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
    let same = old.iter().find(|c| c["status"] == "True");
    let since = same.map_or(now, |c| c["lastTransitionTime"].clone());
    left.push(json!({
        "type": NODE_ERROR,
        "status": "True",
        "lastTransitionTime": since,
        "message": format!("failed to expand pvc with {error}"),
    }));
    let mut status = json!({ "conditions": left });
    if infeasible {
        status["allocatedResourceStatuses"] = json!({ "storage": INFEASIBLE });
    }
    json!({ "status": status })
}

/// What it is to say when the volume has grown.
fn grown(claim: &PersistentVolumeClaim, size: Quantity) -> Value {
    let left: Vec<_> = conditions(claim)
        .filter(|c| !GROWING.contains(&c.type_.as_str()))
        .collect();
    json!({ "status": {
        "capacity": { "storage": size.to_string() },
        "conditions": left,
        "allocatedResourceStatuses": { "storage": null },
    } })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Api, Fake, NAME, with};
    use super::*;
    use host::plugins::csi::node_service_capability::rpc::Type as Rpc;
    use tonic::Status;

    fn volume(size: &str) -> PersistentVolume {
        let spec = json!({ "capacity": { "storage": size } });
        serde_json::from_value(json!({ "metadata": {}, "spec": spec })).unwrap()
    }

    fn claim(step: Value) -> Value {
        json!({ "apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": { "name": "c", "namespace": "a", "resourceVersion": "5" },
            "spec": { "resources": { "requests": { "storage": "2Gi" } } },
            "status": { "capacity": { "storage": "1Gi" },
                "allocatedResources": { "storage": "2Gi" },
                "allocatedResourceStatuses": { "storage": step },
                "conditions": [{ "type": "FileSystemResizePending", "status": "True" },
                    { "type": "x", "status": "True" }] } })
    }

    fn read(claim: &Value) -> PersistentVolumeClaim {
        serde_json::from_value(claim.clone()).unwrap()
    }

    #[test]
    fn a_claim_is_told_when_it_has_grown() {
        let mut old = claim(json!(null));
        let status = old["status"].as_object_mut().unwrap();
        status.retain(|field, _| !field.starts_with("allocated"));
        let claim = read(&old);
        assert!(is_nodes_turn(&claim));
        assert!(larger(&claim, &volume("1Gi")).is_none());
        let size = larger(&claim, &volume("2Gi")).unwrap();
        let patch = grown(&claim, size);
        assert_eq!(patch["status"]["capacity"]["storage"], "2Gi");
        let left = patch["status"]["conditions"].as_array().unwrap();
        assert_eq!((left.len(), &left[0]["type"]), (1, &json!("x")));
    }

    #[test]
    fn the_node_acts_when_it_is_its_turn() {
        for (step, want) in [
            (PENDING, true),
            (IN_PROGRESS, true),
            (INFEASIBLE, false),
            ("ControllerResizeInProgress", false),
        ] {
            assert_eq!(is_nodes_turn(&read(&claim(json!(step)))), want, "{step}");
        }
        // What is allocated is what the driver is asked for.
        let mut less = claim(json!(PENDING));
        less["status"]["allocatedResources"]["storage"] = json!("1536Mi");
        let size = larger(&read(&less), &volume("2Gi")).unwrap();
        assert_eq!(size.to_string(), "1536Mi");
    }

    #[test]
    fn what_always_fails_is_infeasible() {
        let mut failed = claim(json!(IN_PROGRESS));
        let size: Quantity = "2Gi".parse().unwrap();
        let is = |claim: &Value, code| is_infeasible(&read(claim), size, code);
        assert!(is(&failed, Code::OutOfRange) && !is(&failed, Code::Internal));
        let condition = json!({ "type": NODE_ERROR, "status": "True" });
        failed["status"]["conditions"] = json!([condition]);
        assert!(!is(&failed, Code::Internal));
        failed["spec"]["resources"]["requests"]["storage"] = json!("1536Mi");
        assert!(is(&failed, Code::Internal));
    }

    #[tokio::test]
    async fn a_claim_says_how_far_its_node_is() {
        let dir = tempfile::tempdir().unwrap();
        let (api, path) = (
            Api::default(),
            "/api/v1/namespaces/a/persistentvolumeclaims/c/status",
        );
        api.put(path, claim(json!(PENDING)));
        let fake = Fake {
            can: vec![Rpc::ExpandVolume],
            ..Fake::default()
        };
        let (csi, _serving) = with(dir.path(), &api, &fake);
        let asked = CsiVolume {
            name: "pv".into(),
            driver: NAME.into(),
            handle: "h".into(),
            ..CsiVolume::default()
        };
        let pod = json!({ "metadata": { "name": "p", "namespace": "a", "uid": "u" } });
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let grow = async |fails: Option<Status>| {
            *fake.fails.lock() = fails;
            let claim = read(&api.get(path).unwrap());
            let grown = csi.grow(&asked, &pod, &claim, &volume("2Gi")).await;
            let status = api.get(path).unwrap()["status"].clone();
            let kinds = status["conditions"].as_array().unwrap().iter();
            let kinds: Vec<_> = kinds.map(|c| c["type"].as_str().unwrap()).collect();
            let step = status["allocatedResourceStatuses"]["storage"].clone();
            (grown.map_err(drop), step, kinds.join(" "))
        };
        let waits = "FileSystemResizePending x".to_owned();
        // Nobody knows whether it still goes on.
        let late = grow(Some(Status::deadline_exceeded("late"))).await;
        assert_eq!(late, (Err(()), json!(IN_PROGRESS), waits.clone()));
        let failed = grow(Some(Status::internal("no"))).await;
        let kinds = format!("{waits} {NODE_ERROR}");
        assert_eq!(failed, (Err(()), json!(IN_PROGRESS), kinds.clone()));
        let never = grow(Some(Status::out_of_range("too much"))).await;
        assert_eq!(never, (Err(()), json!(INFEASIBLE), kinds.clone()));
        assert_eq!(grow(None).await, (Ok(None), json!(INFEASIBLE), kinds));
        assert_eq!(fake.taken(), ["expand h"; 3]);
        // Whoever made it larger lets the node try again.
        api.put(path, claim(json!(PENDING)));
        let done = (Ok(Some("2Gi".to_owned())), Value::Null, "x".to_owned());
        assert_eq!(grow(None).await, done);
        // In use: the pod goes on, and nobody asks again.
        api.put(path, claim(json!(PENDING)));
        fake.taken();
        let used = Status::failed_precondition("in use");
        assert_eq!(grow(Some(used)).await.0, Ok(None));
        assert_eq!(grow(None).await.0, Ok(None));
        assert_eq!(fake.taken(), ["expand h"]);
    }
}
