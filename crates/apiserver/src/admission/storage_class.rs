//! DefaultStorageClass: the class of a claim that names none. Of several default classes the
//! newest counts, then the first by name.

use api::Status;
use futures::future::BoxFuture;
use registry::Row;
use serde_json::Value;

use super::{Admit, Operation, Review, text};
use crate::ApiServer;

const ANNOTATION: &str = "storageclass.kubernetes.io/is-default-class";

pub struct DefaultStorageClass;

impl Admit for DefaultStorageClass {
    fn name(&self) -> &'static str {
        "DefaultStorageClass"
    }
    fn handles(&self, operation: Operation, row: &Row, subresource: &str) -> bool {
        operation == Operation::Create
            && subresource.is_empty()
            && row.group.is_empty()
            && &*row.resource == "persistentvolumeclaims"
    }
    fn mutate<'a>(
        &'a self,
        server: &'a ApiServer,
        review: &'a mut Review<'_>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        if let Some(claim) = review.object.as_deref_mut()
            && claim
                .pointer("/spec/storageClassName")
                .is_none_or(Value::is_null)
            && claim
                .pointer("/metadata/annotations/volume.beta.kubernetes.io~1storage-class")
                .is_none()
            && let Some(name) = default_class(server)
        {
            claim["spec"]["storageClassName"] = name.into();
        }
        Box::pin(std::future::ready(Ok(())))
    }
}

fn default_class(server: &ApiServer) -> Option<String> {
    let is_default = |v: &Value| {
        let all = v.pointer("/metadata/annotations");
        all.and_then(|a| a.get(ANNOTATION))
            .is_some_and(|v| v == "true")
    };
    let mut found: Vec<Value> = server
        .lookup_all("storage.k8s.io", "storageclasses", "")
        .iter()
        .map(|o| o.to_value())
        .filter(is_default)
        .collect();
    let made = |v: &Value| text(v, "/metadata/creationTimestamp").to_owned();
    let name = |v: &Value| text(v, "/metadata/name").to_owned();
    found.sort_by(|a, b| made(b).cmp(&made(a)).then_with(|| name(a).cmp(&name(b))));
    found.first().map(name)
}
