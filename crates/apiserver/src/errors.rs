//! The one place where errors of the modules below become a `Status`. Texts for clients carry no
//! paths or secrets of this machine; those go to the log.

use api::{GroupResource, Status};
use registry::Row;
use store::StoreError;

/// Upstream's texts, which are etcd's.
const TOO_LARGE: &str = "etcdserver: request is too large";
const NO_SPACE: &str = "etcdserver: mvcc: database space exceeded";

/// The resource's name as messages print it.
pub fn resource_of(row: &Row) -> GroupResource {
    GroupResource::new(&row.group, &row.resource)
}

/// A store failure as the client sees it.
pub fn from_store(e: &StoreError) -> Status {
    match e {
        StoreError::Compacted { .. } => {
            Status::expired(format!("The provided resource version is too old: {e}"))
        }
        StoreError::Future { asked, current } => {
            Status::too_large_resource_version(*current, *asked)
        }
        StoreError::TooLarge { limit, .. } => {
            let mut status = Status::too_large(*limit);
            status.message = TOO_LARGE.into();
            status
        }
        StoreError::NoSpace(_) => {
            tracing::error!("{e}");
            // As upstream: an error without a reason.
            Status {
                code: 500,
                status: "Failure".into(),
                message: NO_SPACE.into(),
                ..Status::default()
            }
        }
        // No time to try again after, either: the server has tried for longer than an election
        // among etcd's members takes, and clients that are given one repeat that ten times before
        // they say anything.
        StoreError::Unavailable(_) => {
            tracing::warn!("{e}");
            Status::unavailable("the store is not available; nothing was written")
        }
        // The client must look before it tries again.
        StoreError::Unknown(_) => {
            tracing::warn!("{e}");
            Status::timeout("the store did not confirm the write in time; it may have been applied")
        }
        StoreError::Invalid(_) => {
            tracing::error!("{e}");
            Status::internal("the write cannot be stored")
        }
        StoreError::Corrupt(_) => {
            tracing::error!("{e}");
            Status::internal("stored data is damaged")
        }
    }
}

/// Upstream's text for a continue token whose snapshot is gone.
pub const CONTINUE_EXPIRED: &str = "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.";
