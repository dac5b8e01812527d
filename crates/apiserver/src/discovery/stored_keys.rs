//! `/tiphys/secrets/rotate-key` and `/tiphys/secrets/rewrite`: has the keys replaced with which what
//! is stored is encrypted, or what is stored written again with those that there are. As for a
//! backup, it takes the right to everything.

use api::Status;
use http::Response;

use crate::filters::authn::UserInfo;
use crate::filters::authz;
use crate::http::body::Body;
use crate::http::negotiate::JSON;
use crate::http::respond::respond;
use crate::state::State;

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyAction {
    Rotate,
    Rewrite,
}

impl KeyAction {
    /// By the last word of its path.
    pub fn read(word: &str) -> Option<Self> {
        match word {
            "rotate-key" => Some(Self::Rotate),
            "rewrite" => Some(Self::Rewrite),
            _ => None,
        }
    }
}

/// Does it, and says what was done. It goes on when its client has gone.
pub async fn answer(
    state: &State,
    user: &UserInfo,
    wish: KeyAction,
) -> Result<Response<Body>, Status> {
    authz::everything(state, user).await?;
    let keys = state.settings().keys.clone();
    let keys = keys.ok_or_else(Status::no_such_path)?;
    let work = tokio::spawn(async move {
        match wish {
            KeyAction::Rotate => keys.rotate().await,
            KeyAction::Rewrite => keys.rewrite().await,
        }
    });
    let done = work.await.map_err(Status::internal)?;
    let done = done.map_err(Status::internal)?;
    Ok(respond(200, JSON, done.to_string()))
}
