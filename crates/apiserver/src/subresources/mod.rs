//! What lies below an object: status, scale, binding, eviction, finalize, token, and the streams
//! of [`connect`]. Each is chosen by its name in the row; none knows a kind beyond that.

pub mod binding;
pub mod connect;
mod eviction;
pub mod scale;
pub mod token;

use api::Status;
use bytes::Bytes;

use crate::call::{Answer, Call};
use crate::verbs;

/// Runs a verb of a subresource that the row has.
pub async fn run(call: &Call, body: Bytes) -> Result<Answer, Status> {
    let (sub, verb) = (call.info.subresource.as_str(), call.info.verb.as_str());
    match (sub, verb) {
        ("scale", _) => scale::run(call, &body).await,
        ("binding", "create") => binding::bind(call, &body).await,
        ("eviction", "create") => eviction::evict(call, &body).await,
        ("token", "create") => token::create(call, &body).await,
        // The body is the object itself: the strategy keeps what the subresource does not name.
        (_, "get") => verbs::list::get(call).await,
        (_, "update") => verbs::update::update(call, &body).await,
        (_, "patch") => verbs::patch::patch(call, &body).await,
        _ => Err(Status::method_not_supported(&call.resource(), verb)),
    }
}
