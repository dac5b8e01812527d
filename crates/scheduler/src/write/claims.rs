//! What is written of claims of devices: their allocation, who may use them, and that they are free.

use clock::Clock;
use k8s_openapi::api::resource::v1::{
    AllocationResult, ResourceClaim, ResourceClaimConsumerReference,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::PostParams;
use kube::{Api, Client};

use crate::devices::FINALIZER;

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

/// Writes that nobody uses the claim and that it has no devices, if nothing else has changed.
pub async fn free(client: &Client, claim: &ResourceClaim) -> Result<(), ClaimError> {
    let (api, name) = api(client, claim);
    let mut claim = claim.clone();
    claim.status = Some(Default::default());
    api.replace_status(&name, &PostParams::default(), &claim)
        .await?;
    Ok(())
}
