//! What may be in use gets a finalizer, which its controller takes away once nobody uses it: claims,
//! volumes and classes of their attributes (StorageObjectInUseProtection), groups of pods
//! (PodGroupProtection).

use api::Status;
use futures::future::BoxFuture;
use registry::Row;
use serde_json::{Value, json};

use super::{Admit, Operation, Review};
use crate::object::meta_mut;
use crate::state::State;

/// A plugin that gives finalizers: by group and resource.
pub struct InUseProtection {
    name: &'static str,
    finalizers: &'static [(&'static str, &'static str, &'static str)],
}

pub const STORAGE: InUseProtection = InUseProtection {
    name: "StorageObjectInUseProtection",
    finalizers: &[
        ("", "persistentvolumes", "kubernetes.io/pv-protection"),
        ("", "persistentvolumeclaims", "kubernetes.io/pvc-protection"),
        (
            "storage.k8s.io",
            "volumeattributesclasses",
            "kubernetes.io/vac-protection",
        ),
    ],
};

/// The kind is served only with the feature gate that turns this plugin on.
pub const POD_GROUPS: InUseProtection = InUseProtection {
    name: "PodGroupProtection",
    finalizers: &[(
        "scheduling.k8s.io",
        "podgroups",
        "scheduling.k8s.io/podgroup-protection",
    )],
};

impl InUseProtection {
    fn finalizer(&self, row: &Row) -> Option<&'static str> {
        let mut all = self.finalizers.iter();
        let found =
            all.find(|(group, resource, _)| *row.group == **group && *row.resource == **resource);
        found.map(|(_, _, finalizer)| *finalizer)
    }
}

impl Admit for InUseProtection {
    fn name(&self) -> &'static str {
        self.name
    }
    fn handles(&self, operation: Operation, row: &Row, subresource: &str) -> bool {
        operation == Operation::Create && subresource.is_empty() && self.finalizer(row).is_some()
    }
    fn mutate<'a>(
        &'a self,
        _: &'a State,
        review: &'a mut Review<'_>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        if let Some(name) = self.finalizer(review.row)
            && let Some(object) = review.object.as_deref_mut()
        {
            add(object, name);
        }
        Box::pin(std::future::ready(Ok(())))
    }
}

fn add(object: &mut Value, name: &str) {
    let all = meta_mut(object).entry("finalizers").or_insert(Value::Null);
    match all.as_array_mut() {
        Some(all) if all.iter().any(|f| f == name) => {}
        Some(all) => all.push(name.into()),
        None => *all = json!([name]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finalizer_is_added_once() {
        let mut claim = json!({ "metadata": { "finalizers": ["a"] } });
        add(&mut claim, "b");
        add(&mut claim, "b");
        assert_eq!(claim["metadata"]["finalizers"], json!(["a", "b"]));
        let mut bare = json!({ "metadata": {} });
        add(&mut bare, "b");
        assert_eq!(bare["metadata"]["finalizers"], json!(["b"]));
    }
}
