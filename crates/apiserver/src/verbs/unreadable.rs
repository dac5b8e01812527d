//! Removes a stored object that cannot be read, for who asks for that and may do it: past finalizers,
//! preconditions and admission, since nobody knows what it says. Off unless the gate is on, as upstream.

use api::status::Details;
use api::{FieldError, FieldPath, GroupKind, Status};
use store::{Compare, Op};

use super::commit::{Committed, commit};
use crate::allocations::Planned;
use crate::cache::Contents;
use crate::call::{Answer, Call};
use crate::errors::from_store;
use crate::state::State;

/// The field of `DeleteOptions` that asks for it.
pub const OPTION: &str = "ignoreStoreReadErrorWithClusterBreakingPotential";
/// What who asks for it must be allowed besides the deletion.
const VERB: &str = "unsafe-delete-ignore-read-errors";
/// How the audit log shows that it was asked for.
const ANNOTATION: &str = "apiserver.k8s.io/unsafe-delete-ignore-read-error";

/// Whether the option counts at all.
pub fn is_enabled(state: &State) -> bool {
    state.has_feature("AllowUnsafeMalformedObjectDeletion")
}

/// What is wrong with the option.
pub fn wrong(why: &str) -> FieldError {
    FieldError::invalid(&FieldPath::new(OPTION), &true.into(), why)
}

/// Removes the object of the request.
pub async fn remove(call: &Call) -> Result<Answer, Status> {
    let name = call.info.name.as_str();
    call.audit.annotate(ANNOTATION, "");
    let allowed = call.may_also(VERB).await;
    allowed.map_err(|refused| refusal(call, name, &refused))?;
    let key = State::store_key(&call.row, &call.key(name));
    let stored = call.state.store().get(key.clone(), 0).await;
    let stored = stored.map_err(|e| from_store(&e))?;
    let contents = Contents::of(&call.row, stored.into_iter().collect());
    let Some(unreadable) = contents.unreadable.first() else {
        let why =
            "is exclusively used to delete corrupt object(s), try again by removing this option";
        // By the resource's name, as upstream.
        let kind = GroupKind::new(&call.row.group, &call.row.resource);
        return Err(Status::invalid(&kind, name, &[wrong(why)]));
    };
    let own = Compare::ModRevision(key.clone(), unreadable.revision);
    let done = commit(
        call,
        own,
        Op::Delete { key },
        Vec::new(),
        Planned::default(),
    )
    .await?;
    match done {
        Committed::At(_) => {
            let namespace = call.info.namespace.as_str();
            let (resource, user) = (&*call.row.resource, call.user.name.as_str());
            tracing::warn!(
                resource,
                namespace,
                name,
                user,
                "an object that cannot be read was removed"
            );
        }
        Committed::Raced(raced) if raced.current.is_some() => {
            return Err(Status::stale(&call.resource(), name));
        }
        // Somebody else was faster.
        Committed::Raced(_) => {}
    }
    let mut status = Status::success();
    status.details = Some(Details {
        name: name.to_owned(),
        kind: call.row.kind.to_string(),
        ..Details::default()
    });
    Ok(Answer::Status(status))
}

fn refusal(call: &Call, name: &str, refused: &Status) -> Status {
    let why = match refused.is("Forbidden") {
        true => format!("not permitted to do {VERB:?}, reason: "),
        false => format!(
            "error while checking permission for {VERB:?}, {}",
            refused.message
        ),
    };
    Status::forbidden(&call.resource(), name, &why)
}
