//! DefaultStorageClass and DefaultIngressClass: the class of a claim or an ingress that names
//! none. Of several default classes the newest counts, then the first by name.

use api::Status;
use futures::future::BoxFuture;
use registry::Row;
use serde_json::Value;

use super::{AdmissionAttributes, Admit, Need, NeededObjects, Operation, Review, text};
use crate::state::State;

/// One of the two.
pub struct DefaultClass {
    name: &'static str,
    /// Group and resource of what gets a class …
    of: (&'static str, &'static str),
    /// … the field that names it, and the annotation that once did.
    field: &'static str,
    old_annotation: &'static str,
    /// Group and resource of the classes, and the annotation of a default one.
    classes: (&'static str, &'static str),
    mark: &'static str,
}

pub const STORAGE: DefaultClass = DefaultClass {
    name: "DefaultStorageClass",
    of: ("", "persistentvolumeclaims"),
    field: "storageClassName",
    old_annotation: "volume.beta.kubernetes.io/storage-class",
    classes: ("storage.k8s.io", "storageclasses"),
    mark: "storageclass.kubernetes.io/is-default-class",
};

pub const INGRESS: DefaultClass = DefaultClass {
    name: "DefaultIngressClass",
    of: ("networking.k8s.io", "ingresses"),
    field: "ingressClassName",
    old_annotation: "kubernetes.io/ingress.class",
    classes: ("networking.k8s.io", "ingressclasses"),
    mark: "ingressclass.kubernetes.io/is-default-class",
};

impl Admit for DefaultClass {
    fn name(&self) -> &'static str {
        self.name
    }
    fn handles(&self, operation: Operation, row: &Row, subresource: &str) -> bool {
        operation == Operation::Create
            && subresource.is_empty()
            && (&*row.group, &*row.resource) == self.of
    }
    fn needs(&self, asked: &AdmissionAttributes<'_>) -> Vec<Need> {
        if asked.object.is_none_or(|o| self.is_chosen(o)) {
            return Vec::new();
        }
        let (group, resource) = self.classes;
        vec![Need::all(self.name, group, resource)]
    }
    fn mutate<'a>(
        &'a self,
        _: &'a State,
        review: &'a mut Review<'_>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        if let Some(object) = review.object.as_deref_mut()
            && !self.is_chosen(object)
            && let Some(class) = self.default(review.found)
        {
            object["spec"][self.field] = class.into();
        }
        Box::pin(std::future::ready(Ok(())))
    }
}

fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a Value> {
    object.pointer("/metadata/annotations")?.get(key)
}

impl DefaultClass {
    fn is_chosen(&self, object: &Value) -> bool {
        let named = object.get("spec").and_then(|s| s.get(self.field));
        named.is_some_and(|n| !n.is_null()) || annotation(object, self.old_annotation).is_some()
    }

    fn default(&self, found: &NeededObjects) -> Option<String> {
        let all = found.all(self.name);
        choose(all.iter().map(|o| o.to_value()), self.mark)
    }
}

fn choose(classes: impl Iterator<Item = Value>, mark: &str) -> Option<String> {
    let mut found: Vec<Value> = classes
        .filter(|v| annotation(v, mark).is_some_and(|m| m == "true"))
        .collect();
    let made = |v: &Value| text(v, "/metadata/creationTimestamp").to_owned();
    let name = |v: &Value| text(v, "/metadata/name").to_owned();
    found.sort_by(|a, b| made(b).cmp(&made(a)).then_with(|| name(a).cmp(&name(b))));
    found.first().map(name)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_newest_default_counts() {
        let class = |name: &str, made: &str, mark: &str| json!({ "metadata": { "name": name, "creationTimestamp": made, "annotations": { "m": mark } } });
        let all = [
            class("a", "2020-01-01T00:00:00Z", "true"),
            class("c", "2021-01-01T00:00:00Z", "true"),
            class("b", "2021-01-01T00:00:00Z", "true"),
            class("z", "2022-01-01T00:00:00Z", "false"),
        ];
        assert_eq!(choose(all.into_iter(), "m").as_deref(), Some("b"));
        assert_eq!(choose(std::iter::empty(), "m"), None);
    }
}
