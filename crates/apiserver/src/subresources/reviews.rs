//! Questions that are answered and not stored: TokenReview, SubjectAccessReview and the Self
//! reviews, and the tokens of service accounts. The answering rules belong to authentication and
//! authorization; this is where they plug in.

use api::Status;
use serde_json::Value;

use crate::call::{Answer, Call};

/// Answers the creation of a kind that is never stored.
pub async fn answer(call: &Call, object: Value) -> Result<Answer, Status> {
    if &*call.row.kind == "Binding" {
        return super::binding::bind_value(call, object).await;
    }
    Err(Status::method_not_supported(&call.resource(), "create"))
}

/// Issues a token for the service account of the path.
pub async fn token(call: &Call, _body: &[u8]) -> Result<Answer, Status> {
    Err(Status::method_not_supported(&call.resource(), "create"))
}
