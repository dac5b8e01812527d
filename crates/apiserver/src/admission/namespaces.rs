//! NamespaceLifecycle: nothing is made in a namespace that is missing or being terminated; the
//! namespaces that a cluster needs are not deleted.

use api::{Cause, GroupResource, Status};
use futures::future::BoxFuture;
use registry::Row;

use super::{AdmissionAttributes, Admit, Need, Operation, Review};
use crate::state::State;

const IMMORTAL: &[&str] = &["default", "kube-system", "kube-public"];

/// The label of the namespace of the write.
const NAMESPACE: &str = "namespace";

pub struct NamespaceLifecycle;

impl Admit for NamespaceLifecycle {
    fn name(&self) -> &'static str {
        "NamespaceLifecycle"
    }
    fn handles(&self, operation: Operation, row: &Row, _: &str) -> bool {
        match operation {
            Operation::Delete => is_namespaces(row),
            // Upstream also refuses an update in a namespace that does not exist; the object
            // that would be updated cannot exist either.
            Operation::Create => row.namespaced,
            Operation::Update | Operation::Connect => false,
        }
    }
    /// Between the look and the commit the namespace may end, and with it all that looks for what
    /// is left in it.
    fn needs(&self, asked: &AdmissionAttributes<'_>) -> Vec<Need> {
        if asked.operation == Operation::Delete {
            return Vec::new();
        }
        let kind = ("", "namespaces");
        vec![Need::relied(NAMESPACE, kind, "", asked.namespace)]
    }
    fn mutate<'a>(
        &'a self,
        state: &'a State,
        review: &'a mut Review<'_>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            if review.operation == Operation::Delete {
                return immortal(review);
            }
            let name = review.namespace;
            let found = review.found.get(NAMESPACE);
            let found = found.ok_or_else(|| Status::not_found(&namespaces(), name))?;
            let kinds = state.kinds();
            let Some(row) = kinds.resource("", "namespaces") else {
                return Ok(());
            };
            let phase = row
                .selectable_fields
                .iter()
                .position(|f| &*f.name == "status.phase")
                .map_or("", |n| found.field(n));
            if phase == "Terminating" {
                return Err(terminating(review, name));
            }
            Ok(())
        })
    }
}

fn is_namespaces(row: &Row) -> bool {
    row.group.is_empty() && &*row.resource == "namespaces"
}

fn namespaces() -> GroupResource {
    GroupResource::new("", "namespaces")
}

fn immortal(review: &Review<'_>) -> Result<(), Status> {
    if IMMORTAL.contains(&review.name) {
        return Err(Status::forbidden(
            &namespaces(),
            review.name,
            "this namespace may not be deleted",
        ));
    }
    Ok(())
}

fn terminating(review: &Review<'_>, name: &str) -> Status {
    let mut status = review.forbidden(&format!(
        "unable to create new content in namespace {name} because it is being terminated"
    ));
    if let Some(details) = &mut status.details {
        details.causes.push(Cause {
            reason: "NamespaceTerminating".into(),
            message: format!("namespace {name} is being terminated"),
            field: "metadata.namespace".into(),
        });
    }
    status
}
