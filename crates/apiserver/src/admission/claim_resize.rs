//! PersistentVolumeClaimResize: a claim grows only when it is bound and its class allows it.

use api::{Quantity, Status};
use futures::future::BoxFuture;
use registry::Row;
use serde_json::Value;

use super::{AdmissionAttributes, Admit, Need, NeededObjects, Operation, Review, text};
use crate::state::State;

/// The label of the claim's class.
const CLASS: &str = "storage class";

pub struct PersistentVolumeClaimResize;

impl Admit for PersistentVolumeClaimResize {
    fn name(&self) -> &'static str {
        "PersistentVolumeClaimResize"
    }
    fn handles(&self, operation: Operation, row: &Row, subresource: &str) -> bool {
        operation == Operation::Update
            && subresource.is_empty()
            && row.group.is_empty()
            && &*row.resource == "persistentvolumeclaims"
    }
    fn needs(&self, asked: &AdmissionAttributes<'_>) -> Vec<Need> {
        match asked.text("/spec/storageClassName") {
            "" => Vec::new(),
            name => vec![Need::relied(
                CLASS,
                ("storage.k8s.io", "storageclasses"),
                "",
                name,
            )],
        }
    }
    fn validate<'a>(
        &'a self,
        _: &'a State,
        review: &'a mut Review<'_>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        let done = match (review.object.as_deref(), review.old) {
            (Some(new), Some(old)) if size(new) > size(old) => {
                check(review.found, new, old).map_err(|why| review.forbidden(why))
            }
            _ => Ok(()),
        };
        Box::pin(std::future::ready(done))
    }
}

fn size(claim: &Value) -> Option<Quantity> {
    let text = text(claim, "/spec/resources/requests/storage");
    text.parse().ok()
}

fn check(found: &NeededObjects, new: &Value, old: &Value) -> Result<(), &'static str> {
    if text(old, "/status/phase") != "Bound" {
        return Err("Only bound persistent volume claims can be expanded");
    }
    let class = text(new, "/spec/storageClassName");
    let found = found
        .get(CLASS)
        .filter(|_| !class.is_empty() && class == text(old, "/spec/storageClassName"));
    let grows = found.map(|o| o.to_value());
    if grows.is_some_and(|c| c.get("allowVolumeExpansion") == Some(&Value::Bool(true))) {
        return Ok(());
    }
    Err(
        "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize",
    )
}
