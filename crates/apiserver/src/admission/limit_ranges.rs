//! LimitRanger: what a namespace's limit ranges give to pods that do not say, and what they refuse.
//! The rules are `quota::limits`'.

use api::Status;
use futures::future::BoxFuture;
use quota::limits;
use registry::Row;
use serde_json::Value;

use super::{AdmissionAttributes, Admit, Need, Operation, Review, is_pod, joined};
use crate::state::State;

/// The label of the namespace's limit ranges.
const RANGES: &str = "limit ranges";

pub struct LimitRanger;

impl Admit for LimitRanger {
    fn name(&self) -> &'static str {
        "LimitRanger"
    }
    /// What a pod asks for changes by being resized alone.
    fn handles(&self, operation: Operation, row: &Row, subresource: &str) -> bool {
        if !row.group.is_empty() {
            return false;
        }
        match (&*row.resource, subresource) {
            ("pods", "") => operation == Operation::Create,
            ("pods", "resize") => operation == Operation::Update,
            ("persistentvolumeclaims", "") => {
                matches!(operation, Operation::Create | Operation::Update)
            }
            _ => false,
        }
    }
    fn needs(&self, asked: &AdmissionAttributes<'_>) -> Vec<Need> {
        vec![Need::All {
            label: RANGES.to_owned(),
            group: String::new(),
            resource: "limitranges".to_owned(),
            namespace: asked.namespace.to_owned(),
        }]
    }
    fn mutate<'a>(
        &'a self,
        _: &'a State,
        review: &'a mut Review<'_>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        if &*review.row.resource == "pods" && !ends(review) {
            let ranges = ranges(review);
            if let Some(pod) = review.object.as_deref_mut() {
                ranges.iter().for_each(|r| limits::default_pod(r, pod));
            }
        }
        Box::pin(std::future::ready(Ok(())))
    }
    fn validate<'a>(
        &'a self,
        _: &'a State,
        review: &'a mut Review<'_>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(std::future::ready(check(review)))
    }
}

/// What is being deleted is let go.
fn ends(review: &Review<'_>) -> bool {
    let at = review
        .old
        .and_then(|o| o.pointer("/metadata/deletionTimestamp"));
    at.is_some_and(|at| !at.is_null())
}

fn ranges(review: &Review<'_>) -> Vec<Value> {
    let all = review.found.all(RANGES);
    all.iter().map(|o| o.to_value()).collect()
}

fn check(review: &Review<'_>) -> Result<(), Status> {
    let Some(object) = review.object.as_deref().filter(|_| !ends(review)) else {
        return Ok(());
    };
    let wrong = if is_pod(review.row, "") {
        limits::check_pod
    } else {
        limits::check_claim
    };
    for range in ranges(review) {
        let why = wrong(&range, object);
        if !why.is_empty() {
            return Err(review.forbidden(&joined(why)));
        }
    }
    Ok(())
}
