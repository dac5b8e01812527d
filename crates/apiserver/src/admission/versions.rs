//! The objects of a review in the versions that rules name. Conversions that are asked of somebody
//! else are the verbs' business; they come in through [`Versions`].

use std::borrow::Cow;
use std::sync::Arc;

use api::Status;
use futures::future::BoxFuture;
use registry::Row;
use serde_json::Value;

use super::matching::Gvk;

/// Brings objects into other versions, whoever must be asked for that.
pub trait Versions: Sync {
    /// An object of a row, in any of its versions, in another one (`group/version`).
    fn convert<'a>(
        &'a self,
        row: &'a Arc<Row>,
        value: Value,
        to: (&'a str, &'a str),
    ) -> BoxFuture<'a, Result<Value, Status>>;
}

/// An object, or the body of a subresource, as a kind that rules name.
pub async fn shown<'v>(
    versions: &dyn Versions,
    row: &Arc<Row>,
    value: &'v Value,
    kind: &Gvk,
) -> Result<Cow<'v, Value>, Status> {
    // The bodies of most subresources are of one version alone.
    if *kind.kind != *row.kind || value["apiVersion"] == *kind.api_version() {
        return Ok(Cow::Borrowed(value));
    }
    let to = (&*kind.group, &*kind.version);
    let made = versions.convert(row, value.clone(), to).await?;
    Ok(Cow::Owned(made))
}

/// An object in the version in which it is stored, with defaults.
pub async fn stored(
    versions: &dyn Versions,
    row: &Arc<Row>,
    mut value: Value,
) -> Result<Value, Status> {
    if value["apiVersion"] != *row.storage_api_version() {
        let to = (&*row.storage_group, &*row.storage_version);
        value = versions.convert(row, value, to).await?;
    }
    row.strategy.default(&mut value);
    Ok(value)
}
