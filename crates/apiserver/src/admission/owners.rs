//! OwnerReferencesPermissionEnforcement: who names an owner could delete the object, and who keeps
//! an owner from being deleted may change that owner's finalizers.

use access::Attributes;
use api::Status;
use futures::future::BoxFuture;
use registry::Row;
use serde_json::Value;

use super::{Admit, Operation, Review, list, text};
use crate::filters::authz;
use crate::state::State;

pub struct OwnerReferencesPermissionEnforcement;

impl Admit for OwnerReferencesPermissionEnforcement {
    fn name(&self) -> &'static str {
        "OwnerReferencesPermissionEnforcement"
    }
    /// A pod's status cannot change its owners, see `registry`'s `keep_other_half`.
    fn handles(&self, operation: Operation, row: &Row, subresource: &str) -> bool {
        let status = subresource == "status" && row.group.is_empty() && &*row.resource == "pods";
        matches!(operation, Operation::Create | Operation::Update) && !status
    }
    fn validate<'a>(
        &'a self,
        state: &'a State,
        review: &'a mut Review<'_>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(check(state, review))
    }
}

fn owners(object: Option<&Value>) -> &[Value] {
    object.map_or(&[], |o| list(o, "/metadata/ownerReferences"))
}

fn blocks(reference: &Value) -> bool {
    reference.get("blockOwnerDeletion") == Some(&Value::Bool(true))
}

/// References that keep their owner, and did not before.
fn blocking<'a>(new: &'a [Value], old: &[Value]) -> Vec<&'a Value> {
    let before = |r: &Value| {
        let mut same = old.iter().filter(|o| text(o, "/uid") == text(r, "/uid"));
        same.any(blocks)
    };
    new.iter().filter(|r| blocks(r) && !before(r)).collect()
}

async fn check(state: &State, review: &Review<'_>) -> Result<(), Status> {
    let (new, old) = (owners(review.object.as_deref()), owners(review.old));
    if new == old {
        return Ok(());
    }
    if review.operation != Operation::Create {
        let delete = Attributes {
            verb: "delete",
            is_resource: true,
            namespace: review.namespace,
            group: &review.row.group,
            version: review.version,
            resource: &review.row.resource,
            subresource: review.subresource,
            name: review.name,
            ..Attributes::default()
        };
        if !authz::decide(state, review.user, &delete)
            .await
            .is_allowed()
        {
            let why = "cannot set an ownerRef on a resource you can't delete: , <nil>";
            return Err(review.forbidden(why));
        }
    }
    let blocking = blocking(new, old);
    let anything = Attributes {
        verb: "update",
        is_resource: true,
        group: "*",
        version: "*",
        resource: "*",
        subresource: "finalizers",
        name: "*",
        ..Attributes::default()
    };
    if blocking.is_empty()
        || authz::decide(state, review.user, &anything)
            .await
            .is_allowed()
    {
        return Ok(());
    }
    let kinds = state.kinds();
    for reference in blocking {
        let (version, kind) = (text(reference, "/apiVersion"), text(reference, "/kind"));
        let (group, of) = version.rsplit_once('/').unwrap_or(("", version));
        let mut rows = kinds.rows().iter();
        let row = rows.find(|r| *r.group == *group && *r.kind == *kind && r.version(of).is_some());
        let Some(row) = row else {
            return Err(review.forbidden(&format!(
                "cannot set blockOwnerDeletion in this case because cannot find RESTMapping for APIVersion {version} Kind {kind}: no matches for kind {kind:?} in version {version:?}"
            )));
        };
        let asked = Attributes {
            verb: "update",
            is_resource: true,
            namespace: if row.namespaced { review.namespace } else { "" },
            group,
            version: of,
            resource: &row.resource,
            subresource: "finalizers",
            name: text(reference, "/name"),
            ..Attributes::default()
        };
        if !authz::decide(state, review.user, &asked).await.is_allowed() {
            let why = "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on: , <nil>";
            return Err(review.forbidden(why));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_new_blocks_count() {
        let r = |uid: &str, block: bool| json!({ "uid": uid, "blockOwnerDeletion": block });
        let old = [r("a", true), r("b", false)];
        let new = [r("a", true), r("b", true), r("c", true), r("d", false)];
        let names: Vec<&str> = blocking(&new, &old)
            .iter()
            .map(|r| text(r, "/uid"))
            .collect();
        assert_eq!(names, ["b", "c"]);
    }
}
