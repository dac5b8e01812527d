//! StorageObjectInUseProtection: claims and volumes get a finalizer that their controller takes away
//! once nobody uses them. Attribute classes would, too, and wait for a controller that does.

use api::Status;
use futures::future::BoxFuture;
use registry::Row;
use serde_json::{Value, json};

use super::{Admit, Operation, Review};
use crate::object::meta_mut;
use crate::state::State;

fn finalizer(row: &Row) -> Option<&'static str> {
    match (&*row.group, &*row.resource) {
        ("", "persistentvolumes") => Some("kubernetes.io/pv-protection"),
        ("", "persistentvolumeclaims") => Some("kubernetes.io/pvc-protection"),
        _ => None,
    }
}

pub struct StorageObjectInUseProtection;

impl Admit for StorageObjectInUseProtection {
    fn name(&self) -> &'static str {
        "StorageObjectInUseProtection"
    }
    fn handles(&self, operation: Operation, row: &Row, subresource: &str) -> bool {
        operation == Operation::Create && subresource.is_empty() && finalizer(row).is_some()
    }
    fn mutate<'a>(
        &'a self,
        _: &'a State,
        review: &'a mut Review<'_>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        if let Some(name) = finalizer(review.row)
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
