//! TaintNodesByCondition: a new node takes no pods until it is known to be ready.

use api::Status;
use futures::future::BoxFuture;
use registry::Row;
use serde_json::json;

use super::{Admit, Operation, Review, list, push, text};
use crate::state::State;

const NOT_READY: &str = "node.kubernetes.io/not-ready";

pub struct TaintNodesByCondition;

impl Admit for TaintNodesByCondition {
    fn name(&self) -> &'static str {
        "TaintNodesByCondition"
    }
    fn handles(&self, operation: Operation, row: &Row, subresource: &str) -> bool {
        operation == Operation::Create
            && subresource.is_empty()
            && row.group.is_empty()
            && &*row.resource == "nodes"
    }
    fn mutate<'a>(
        &'a self,
        _: &'a State,
        review: &'a mut Review<'_>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        if let Some(node) = review.object.as_deref_mut() {
            let has = list(node, "/spec/taints")
                .iter()
                .any(|t| text(t, "/key") == NOT_READY && text(t, "/effect") == "NoSchedule");
            if !has {
                push(
                    node,
                    "taints",
                    json!({ "key": NOT_READY, "effect": "NoSchedule" }),
                );
            }
        }
        Box::pin(std::future::ready(Ok(())))
    }
}
