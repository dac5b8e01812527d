//! What an error of etcd's means for a request: whether it was begun, whether it may be repeated.
//! etcd's texts are part of its interface: its codes alone do not distinguish these cases.

use tonic::{Code, Status};

use super::wire::REQUEST_BYTES;
use crate::contract::StoreError;

#[derive(Clone, Debug)]
pub enum Failure {
    /// It was not carried out and never will be: it may be sent again.
    NotBegun(String),
    /// It may have been carried out, or may yet be.
    Open(String),
    /// The read revision is compacted.
    Compacted,
    /// The read revision is not there yet.
    Future,
    /// A put names a lease that has ended.
    LeaseGone,
    /// An answer that another try does not change.
    Final(StoreError),
}

impl Failure {
    /// The error of a request that may be repeated, without revisions to name.
    pub fn into_error(self) -> StoreError {
        match self {
            Self::Final(e) => e,
            Self::NotBegun(why) | Self::Open(why) => StoreError::Unavailable(why),
            other => StoreError::Unavailable(format!("{other:?}")),
        }
    }
}

/// An error with its causes, outermost first, each text once.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let more = cause.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        next = cause.source();
    }
    text
}

/// A status of the transport as well as one of etcd's.
pub fn text(status: &Status) -> String {
    match std::error::Error::source(status) {
        Some(source) => format!("{}: {}", status.message(), chain(source)),
        None => status.message().to_owned(),
    }
}

fn was_never_connected(status: &Status) -> bool {
    let mut next = std::error::Error::source(status);
    while let Some(cause) = next {
        if cause.is::<tonic::ConnectError>() {
            return true;
        }
        next = cause.source();
    }
    false
}

fn too_large(bytes: usize) -> Failure {
    Failure::Final(StoreError::TooLarge {
        bytes,
        limit: REQUEST_BYTES.min(bytes.saturating_sub(1)),
    })
}

/// What a failed request of `bytes` means.
pub fn classify(status: &Status, bytes: usize) -> Failure {
    let message = status.message();
    let ours = message.strip_prefix("etcdserver: ");
    match ours {
        Some("mvcc: required revision has been compacted") => Failure::Compacted,
        Some("mvcc: required revision is a future revision") => Failure::Future,
        Some("mvcc: database space exceeded") => {
            Failure::Final(StoreError::NoSpace("etcd's space quota is used up".into()))
        }
        Some("request is too large") => too_large(bytes),
        Some("requested lease not found") => Failure::LeaseGone,
        // Refused before it is proposed.
        Some("no leader" | "too many requests" | "rpc not supported for learner") => {
            Failure::NotBegun(message.to_owned())
        }
        Some("corrupt cluster" | "corrupt alarm" | "unhealthy cluster") => {
            Failure::Final(StoreError::Corrupt(message.to_owned()))
        }
        _ => by_code(status, bytes),
    }
}

fn by_code(status: &Status, bytes: usize) -> Failure {
    let why = text(status);
    if was_never_connected(status) {
        return Failure::NotBegun(why);
    }
    match status.code() {
        // gRPC's own limit of a message, which etcd sets a little above that of requests.
        Code::ResourceExhausted if status.message().contains("larger than max") => too_large(bytes),
        Code::InvalidArgument => Failure::Final(StoreError::Invalid(why)),
        Code::PermissionDenied | Code::Unauthenticated => Failure::Final(StoreError::Unavailable(
            format!("etcd denies access: {why}"),
        )),
        Code::Unimplemented => {
            Failure::Final(StoreError::Unavailable(format!("not an etcd: {why}")))
        }
        _ => Failure::Open(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_surely_not_begun_counts_as_such() {
        let of = |code, text: &str| classify(&Status::new(code, text), 10);
        assert!(matches!(
            of(Code::Unavailable, "etcdserver: no leader"),
            Failure::NotBegun(_)
        ));
        for open in [
            "etcdserver: request timed out",
            "etcdserver: request timed out, possibly due to previous leader failure",
            "etcdserver: leader changed",
            "etcdserver: server stopped",
            "transport is closing",
        ] {
            assert!(
                matches!(of(Code::Unavailable, open), Failure::Open(_)),
                "{open}"
            );
        }
        assert!(matches!(
            of(
                Code::ResourceExhausted,
                "etcdserver: mvcc: database space exceeded"
            ),
            Failure::Final(StoreError::NoSpace(_))
        ));
        assert!(matches!(
            of(Code::InvalidArgument, "etcdserver: request is too large"),
            Failure::Final(StoreError::TooLarge { .. })
        ));
    }
}
