//! What can be wrong with a patch, and the `Status` that clients see for it.

use api::Status;
use api::status::{Cause, Details};

/// Why a patch was not applied. The text is what the client reads, but for [`Self::Unfit`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch itself is malformed (400).
    #[error("{0}")]
    Malformed(String),
    /// Too many operations (413).
    #[error("{0}")]
    TooLarge(String),
    /// The patch does not fit the object (422); clients get a fixed text, logs get this one.
    #[error("{0}")]
    Unfit(String),
    /// A test of a JSON patch found another value: as [`Self::Unfit`] for a client's own patch.
    #[error("{0}")]
    Test(String),
    /// Other managers own what is applied (409).
    #[error("{message}")]
    Conflict { message: String, causes: Vec<Cause> },
    /// Upstream reports these as a plain server error (500).
    #[error("{0}")]
    Failed(String),
}

impl PatchError {
    /// The answer to the client.
    pub fn status(&self) -> Status {
        match self {
            Self::Malformed(m) => Status::bad_request(m.clone()),
            Self::TooLarge(m) => failure(413, "RequestEntityTooLarge", m.clone(), None),
            Self::Unfit(_) | Self::Test(_) => failure(
                422,
                "Invalid",
                "the server rejected our request due to an error in our request".into(),
                Some(Details::default()),
            ),
            Self::Conflict { message, causes } => failure(
                409,
                "Conflict",
                message.clone(),
                Some(Details {
                    causes: causes.clone(),
                    ..Details::default()
                }),
            ),
            // A plain error keeps its text and has no reason.
            Self::Failed(m) => failure(500, "", m.clone(), None),
        }
    }
}

impl From<PatchError> for Status {
    fn from(e: PatchError) -> Self {
        e.status()
    }
}

fn failure(code: u16, reason: &str, message: String, details: Option<Details>) -> Status {
    Status {
        code,
        status: "Failure".into(),
        reason: reason.into(),
        message,
        details,
        ..Status::default()
    }
}
