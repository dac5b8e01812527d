//! The plugins that look at next to nothing: AlwaysAdmit, AlwaysDeny, NamespaceExists.

use api::{GroupResource, Status};
use futures::future::BoxFuture;
use registry::Row;

use super::{AdmissionAttributes, Admit, Need, Operation, Review};
use crate::state::State;

/// Admits all. Deprecated upstream, since nothing is refused without it.
pub struct AlwaysAdmit;

impl Admit for AlwaysAdmit {
    fn name(&self) -> &'static str {
        "AlwaysAdmit"
    }
    fn handles(&self, _: Operation, _: &Row, _: &str) -> bool {
        false
    }
}

/// Refuses all; for tests of clients.
pub struct AlwaysDeny;

impl Admit for AlwaysDeny {
    fn name(&self) -> &'static str {
        "AlwaysDeny"
    }
    fn handles(&self, _: Operation, _: &Row, _: &str) -> bool {
        true
    }
    fn mutate<'a>(
        &'a self,
        _: &'a State,
        review: &'a mut Review<'_>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        let refused = review.forbidden("admission control is denying all modifications");
        Box::pin(std::future::ready(Err(refused)))
    }
    fn validate<'a>(
        &'a self,
        _: &'a State,
        review: &'a mut Review<'_>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        let refused = review.forbidden("admission control is denying all modifications");
        Box::pin(std::future::ready(Err(refused)))
    }
}

/// The label of the namespace.
const NAMESPACE: &str = "namespace that exists";

/// Nothing is written in a namespace that does not exist.
pub struct NamespaceExists;

impl Admit for NamespaceExists {
    fn name(&self) -> &'static str {
        "NamespaceExists"
    }
    fn handles(&self, operation: Operation, row: &Row, _: &str) -> bool {
        operation != Operation::Connect && row.namespaced
    }
    fn needs(&self, asked: &AdmissionAttributes<'_>) -> Vec<Need> {
        let kind = ("", "namespaces");
        vec![Need::seen(NAMESPACE, kind, "", asked.namespace)]
    }
    fn validate<'a>(
        &'a self,
        _: &'a State,
        review: &'a mut Review<'_>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        let found = review.found.get(NAMESPACE).map(|_| ());
        let done = found.ok_or_else(|| {
            let namespaces = GroupResource::new("", "namespaces");
            Status::not_found(&namespaces, review.namespace)
        });
        Box::pin(std::future::ready(done))
    }
}
