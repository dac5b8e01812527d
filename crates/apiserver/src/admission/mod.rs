//! Admission: rules that may change or refuse a write of any kind and that need more than the
//! object itself. The verb functions run all plugins, for every kind, in one place each.

mod certificates;
mod default_class;
mod escalation;
mod namespaces;
mod node_restriction;
mod priority;
mod resize;
mod runtime_class;
mod service_account;
mod standard;
mod taints;
mod tolerations;
mod topology;

use std::collections::BTreeMap;
use std::sync::Arc;

use api::{GroupResource, Status};
use futures::future::BoxFuture;
use registry::{Read, Row};
use serde_json::Value;

use crate::cache::Object;
use crate::filters::authn::UserInfo;
use crate::state::State;

pub use standard::{Options, standard};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

/// A write before it is made.
pub struct Review<'a> {
    pub operation: Operation,
    pub row: &'a Row,
    /// The version of the request.
    pub version: &'a str,
    /// Empty for the object itself.
    pub subresource: &'a str,
    /// Empty for objects of the whole cluster.
    pub namespace: &'a str,
    /// Empty while a generated name is not chosen.
    pub name: &'a str,
    pub user: &'a UserInfo,
    pub dry_run: bool,
    /// The new object in its storage version (for subresources such as binding: their body);
    /// absent for a deletion.
    pub object: Option<&'a mut Value>,
    /// The stored object; absent for a creation.
    pub old: Option<&'a Value>,
    /// What [`Admit::needs`] asked for and exists, by the label that it gave.
    pub found: &'a Found,
    /// Texts for `Warning` headers.
    pub warnings: &'a mut Vec<String>,
}

/// Objects that plugins need, by label.
pub type Found = BTreeMap<String, Arc<Object>>;

/// An object that a plugin needs for its decision.
pub struct Need {
    pub read: Read,
    /// The decision must still hold when the write is committed: the object's revision (or that
    /// it does not exist) joins the comparisons of the transaction.
    pub relied: bool,
}

/// One rule. Both steps default to nothing.
pub trait Admit: Send + Sync + 'static {
    fn name(&self) -> &'static str;
    /// Whether the plugin looks at such writes at all; asked first, since most do not.
    fn handles(&self, operation: Operation, row: &Row, subresource: &str) -> bool;
    /// Objects that both steps need. The verb reads them, and puts those that are relied on into
    /// the transaction: a plugin cannot do that itself.
    fn needs(&self, _operation: Operation, _row: &Row, _namespace: &str) -> Vec<Need> {
        Vec::new()
    }
    /// May change the object.
    fn mutate<'a>(
        &'a self,
        _server: &'a State,
        _review: &'a mut Review<'_>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(std::future::ready(Ok(())))
    }
    /// May refuse it; sees it as it will be stored.
    fn validate<'a>(
        &'a self,
        _server: &'a State,
        _review: &'a mut Review<'_>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

impl Review<'_> {
    /// The refusal of this write, in upstream's form.
    pub fn forbidden(&self, why: &str) -> Status {
        let resource = GroupResource::new(&self.row.group, &self.row.resource);
        Status::forbidden(&resource, self.name, why)
    }
    pub fn is(&self, group: &str, resource: &str) -> bool {
        *self.row.group == *group && *self.row.resource == *resource
    }
}

/// A text of an object by JSON pointer; empty when there is none.
fn text<'a>(v: &'a Value, pointer: &str) -> &'a str {
    v.pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// A list of an object by JSON pointer; empty when there is none.
fn list<'a>(v: &'a Value, pointer: &str) -> &'a [Value] {
    v.pointer(pointer)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// Appends to a list field of `spec`, made when there is none.
fn push(object: &mut Value, field: &str, item: Value) {
    let list = &mut object["spec"][field];
    match list.as_array_mut() {
        Some(all) => all.push(item),
        None => *list = Value::Array(vec![item]),
    }
}

/// Creation of a pod itself.
fn is_new_pod(operation: Operation, row: &Row, subresource: &str) -> bool {
    operation == Operation::Create
        && subresource.is_empty()
        && row.group.is_empty()
        && &*row.resource == "pods"
}

/// Runs the mutating step of all plugins.
pub async fn mutate(
    plugins: &[Arc<dyn Admit>],
    server: &State,
    review: &mut Review<'_>,
) -> Result<(), Status> {
    for p in plugins {
        if p.handles(review.operation, review.row, review.subresource) {
            p.mutate(server, review).await?;
        }
    }
    Ok(())
}

/// Runs the validating step of all plugins.
pub async fn validate(
    plugins: &[Arc<dyn Admit>],
    server: &State,
    review: &mut Review<'_>,
) -> Result<(), Status> {
    for p in plugins {
        if p.handles(review.operation, review.row, review.subresource) {
            p.validate(server, review).await?;
        }
    }
    Ok(())
}
