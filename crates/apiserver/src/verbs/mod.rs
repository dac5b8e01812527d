//! One function per verb, for all kinds. They alone own names, dry-run, preconditions,
//! resourceVersion, generation, finalizers, admission and managed fields.

pub mod create;
pub mod delete;
pub mod fields;
pub mod list;
pub mod patch;
pub mod update;
pub mod watch;
pub mod write;

use api::Status;
use bytes::Bytes;
use http::Method;

use crate::call::{Answer, Call};
use crate::subresources;

/// Runs the verb of a call.
pub async fn run(call: &Call, method: &Method, body: Bytes) -> Result<Answer, Status> {
    check_scope(call)?;
    if !call.info.subresource.is_empty() {
        check_sub_verb(call)?;
        return subresources::run(call, body).await;
    }
    if !call.row.has_verb(&call.info.verb) {
        return Err(Status::method_not_supported(
            &call.resource(),
            method.as_str(),
        ));
    }
    match call.info.verb.as_str() {
        "get" => list::get(call).await,
        "list" => list::list(call).await,
        "watch" => watch::watch(call).await,
        "create" => create::create(call, &body).await,
        "update" => update::update(call, &body).await,
        "patch" => patch::patch(call, &body).await,
        "delete" => delete::delete(call, &body).await,
        "deletecollection" => delete::collection(call, &body).await,
        _ => Err(Status::method_not_supported(
            &call.resource(),
            method.as_str(),
        )),
    }
}

/// A namespace belongs in the path of namespaced kinds and nowhere else.
fn check_scope(call: &Call) -> Result<(), Status> {
    let info = &call.info;
    let is_namespaces = info.group.is_empty() && info.resource == "namespaces";
    // A single object of a namespaced kind is in a namespace, also for a watch by the old path.
    let everywhere = match info.verb.as_str() {
        "watch" if info.legacy_watch => info.name.is_empty(),
        verb => matches!(verb, "list" | "watch"),
    };
    if call.row.namespaced && info.namespace.is_empty() && !everywhere
        || !call.row.namespaced && !info.namespace.is_empty() && !is_namespaces
    {
        return Err(Status::no_such_path());
    }
    Ok(())
}

fn check_sub_verb(call: &Call) -> Result<(), Status> {
    let sub = call.subresource().ok_or_else(Status::no_such_path)?;
    if sub.verbs.iter().any(|v| **v == *call.info.verb) {
        Ok(())
    } else {
        Err(Status::method_not_supported(
            &call.resource(),
            &call.info.verb,
        ))
    }
}
