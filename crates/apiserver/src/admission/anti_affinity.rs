//! LimitPodHardAntiAffinityTopology: nobody keeps others out of a whole zone.

use api::Status;
use futures::future::BoxFuture;
use registry::Row;

use super::{Admit, Operation, Review, is_pod, list, text};
use crate::state::State;

const HOST: &str = "kubernetes.io/hostname";
const REQUIRED: &str =
    "/spec/affinity/podAntiAffinity/requiredDuringSchedulingIgnoredDuringExecution";

pub struct LimitPodHardAntiAffinityTopology;

impl Admit for LimitPodHardAntiAffinityTopology {
    fn name(&self) -> &'static str {
        "LimitPodHardAntiAffinityTopology"
    }
    fn handles(&self, operation: Operation, row: &Row, subresource: &str) -> bool {
        matches!(operation, Operation::Create | Operation::Update) && is_pod(row, subresource)
    }
    fn validate<'a>(
        &'a self,
        _: &'a State,
        review: &'a mut Review<'_>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        let terms = review
            .object
            .as_deref()
            .map_or(&[][..], |p| list(p, REQUIRED));
        let keys = terms.iter().map(|term| text(term, "/topologyKey"));
        let done = match keys.into_iter().find(|key| *key != HOST) {
            None => Ok(()),
            Some(key) => Err(review.forbidden(&format!(
                "affinity.PodAntiAffinity.RequiredDuringScheduling has TopologyKey {key} but only key {HOST} is allowed"
            ))),
        };
        Box::pin(std::future::ready(done))
    }
}
