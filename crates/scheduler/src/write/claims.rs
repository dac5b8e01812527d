//! What is written of claims of devices: their allocation, who may use them, and that they are free.

use clock::Clock;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::{
    AllocationResult, ResourceClaim, ResourceClaimConsumerReference,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client};
use serde_json::json;

use crate::devices::{ExtendedClaim, FINALIZER};

/// Tries after others changed the claim meanwhile, as upstream.
const TRIES: usize = 5;

#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    #[error("it got deleted in the meantime")]
    Deleted,
    #[error("it got allocated elsewhere in the meantime")]
    Allocated,
    #[error("it got deallocated elsewhere in the meantime")]
    Freed,
    #[error("{0}")]
    Api(#[from] kube::Error),
}

fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}

fn api(client: &Client, claim: &ResourceClaim) -> (Api<ResourceClaim>, String) {
    let meta = &claim.metadata;
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    let name = meta.name.clone().unwrap_or_default();
    (Api::namespaced(client.clone(), namespace), name)
}

/// Writes who may use the claim, and its devices where it gets them now.
pub async fn reserve(
    client: &Client,
    claim: &ResourceClaim,
    allocation: Option<&AllocationResult>,
    pod: &(String, String),
    clock: Clock,
) -> Result<(), ClaimError> {
    let (api, name) = api(client, claim);
    let mut current = claim.clone();
    let mut tries = 0;
    loop {
        match once(&api, &name, current, allocation, pod, clock).await {
            Err(ClaimError::Api(e)) if is_conflict(&e) && tries < TRIES => {}
            other => return other,
        }
        tries += 1;
        current = api.get(&name).await?;
        // Another claim of this name is not the one.
        if current.metadata.uid != claim.metadata.uid {
            return Err(ClaimError::Deleted);
        }
    }
}

async fn once(
    api: &Api<ResourceClaim>,
    name: &str,
    mut claim: ResourceClaim,
    allocation: Option<&AllocationResult>,
    (pod, uid): &(String, String),
    clock: Clock,
) -> Result<(), ClaimError> {
    let params = PostParams::default();
    if claim.metadata.deletion_timestamp.is_some() {
        return Err(ClaimError::Deleted);
    }
    let is_allocated = crate::devices::is_allocated(&claim);
    match allocation {
        None if !is_allocated => return Err(ClaimError::Freed),
        Some(_) if is_allocated => return Err(ClaimError::Allocated),
        Some(_) => {
            let finalizers = claim.metadata.finalizers.get_or_insert_default();
            if !finalizers.iter().any(|f| f == FINALIZER) {
                finalizers.push(FINALIZER.to_owned());
                claim = api.replace(name, &params, &claim).await?;
            }
        }
        None => {}
    }
    let status = claim.status.get_or_insert_default();
    if let Some(allocation) = allocation {
        let mut allocation = allocation.clone();
        allocation.allocation_timestamp = Some(Time(clock.now_in_seconds()));
        status.allocation = Some(allocation);
    }
    let users = status.reserved_for.get_or_insert_default();
    if users.iter().any(|u| u.uid == *uid) {
        return Ok(());
    }
    users.push(ResourceClaimConsumerReference {
        api_group: None,
        resource: "pods".to_owned(),
        name: pod.clone(),
        uid: uid.clone(),
    });
    api.replace_status(name, &params, &claim).await?;
    Ok(())
}

/// Makes the claim of a pod's extended resources, gives it its devices, and says in the pod's status
/// which container has which of them.
pub async fn make(
    client: &Client,
    made: &ExtendedClaim,
    allocation: &AllocationResult,
    pod: &(String, String),
    clock: Clock,
) -> Result<(), ClaimError> {
    let (claims, _) = api(client, &made.claim);
    let created = claims.create(&PostParams::default(), &made.claim).await?;
    reserve(client, &created, Some(allocation), pod, clock).await?;
    let mappings = made.mappings.iter().map(|m| {
        json!({ "containerName": m.container, "resourceName": m.resource,
            "requestName": m.request })
    });
    let (name, uid) = pod;
    // The UID makes sure that it is not another pod of the same name.
    let patch = json!({ "metadata": { "uid": uid }, "status": { "extendedResourceClaimStatus": {
        "resourceClaimName": created.metadata.name,
        "requestMappings": mappings.collect::<Vec<_>>() } } });
    let namespace = made.claim.metadata.namespace.as_deref();
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace.unwrap_or_default());
    let params = PatchParams::default();
    pods.patch_status(name, &params, &Patch::Strategic(patch))
        .await?;
    Ok(())
}

/// The claim without what protects it; none where nothing does.
fn without_finalizer(claim: &ResourceClaim) -> Option<ResourceClaim> {
    let mut open = claim.clone();
    let finalizers = open.metadata.finalizers.as_mut()?;
    let before = finalizers.len();
    finalizers.retain(|f| f != FINALIZER);
    (finalizers.len() < before).then_some(open)
}

/// Removes a claim that was made for a pod which was not bound, with what protects it.
pub async fn remove(client: &Client, claim: &ResourceClaim) -> Result<(), ClaimError> {
    let (api, name) = api(client, claim);
    let (mut open, mut tries) = (claim.clone(), 0);
    // Others may have changed it meanwhile.
    while let Some(free) = without_finalizer(&open) {
        match api.replace(&name, &PostParams::default(), &free).await {
            Ok(_) => break,
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
            Err(e) if is_conflict(&e) && tries < TRIES => tries += 1,
            Err(e) => return Err(e.into()),
        }
        match api.get_opt(&name).await? {
            Some(now) if now.metadata.uid == claim.metadata.uid => open = now,
            _ => return Ok(()),
        }
    }
    let params = DeleteParams::default().preconditions(Preconditions {
        uid: claim.metadata.uid.clone(),
        resource_version: None,
    });
    match api.delete(&name, &params).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => Ok(other.map(drop)?),
    }
}

/// Writes that nobody uses the claim and that it has no devices, if nothing else has changed.
pub async fn free(client: &Client, claim: &ResourceClaim) -> Result<(), ClaimError> {
    let (api, name) = api(client, claim);
    let mut claim = claim.clone();
    claim.status = Some(Default::default());
    api.replace_status(&name, &PostParams::default(), &claim)
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_freed_of_its_own_protection_alone() {
        let claim = |finalizers: serde_json::Value| -> ResourceClaim {
            serde_json::from_value(json!({ "metadata": { "finalizers": finalizers }, "spec": {} }))
                .expect("a claim")
        };
        let free = without_finalizer(&claim(json!(["x.io/other", FINALIZER])));
        let left = free.and_then(|c| c.metadata.finalizers);
        assert_eq!(left, Some(vec!["x.io/other".to_owned()]));
        assert_eq!(without_finalizer(&claim(json!(["x.io/other"]))), None);
        assert_eq!(without_finalizer(&claim(json!(null))), None);
    }
}
