//! Admission: rules that may change or refuse a write of any kind and that need more than the
//! object itself. The verb functions run all plugins, for every kind, in one place each.

use std::sync::Arc;

use api::Status;
use futures::future::BoxFuture;
use registry::Row;
use serde_json::Value;

use crate::ApiServer;
use crate::filters::authn::UserInfo;

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
    /// Texts for `Warning` headers.
    pub warnings: &'a mut Vec<String>,
}

/// One rule. Both steps default to nothing.
pub trait Admit: Send + Sync + 'static {
    fn name(&self) -> &'static str;
    /// Whether the plugin looks at such writes at all; asked first, since most do not.
    fn handles(&self, operation: Operation, row: &Row, subresource: &str) -> bool;
    /// May change the object.
    fn mutate<'a>(
        &'a self,
        _server: &'a ApiServer,
        _review: &'a mut Review<'_>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(std::future::ready(Ok(())))
    }
    /// May refuse it; sees it as it will be stored.
    fn validate<'a>(
        &'a self,
        _server: &'a ApiServer,
        _review: &'a mut Review<'_>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// Runs the mutating step of all plugins.
pub async fn mutate(
    plugins: &[Arc<dyn Admit>],
    server: &ApiServer,
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
    server: &ApiServer,
    review: &mut Review<'_>,
) -> Result<(), Status> {
    for p in plugins {
        if p.handles(review.operation, review.row, review.subresource) {
            p.validate(server, review).await?;
        }
    }
    Ok(())
}
