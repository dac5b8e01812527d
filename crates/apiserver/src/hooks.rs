//! The rules that are plugged into a server, as the verbs find them in a call: they are given what
//! rules may see ([`crate::state::State`]), and nothing behind it.

use std::pin::Pin;
use std::sync::Arc;

use api::Status;
use bytes::Bytes;
use futures::future::BoxFuture;
use http::request::Parts;

use crate::admission::Admit;
use crate::call::Call;
use crate::filters::authn::{Authenticator, UserInfo};
use crate::http::{Body, BoxError};

/// See the fields of `Config`, which name them all.
#[derive(Default)]
pub struct Plugins {
    pub authenticators: Vec<Arc<dyn Authenticator>>,
    pub admission: Vec<Arc<dyn Admit>>,
    pub connect: Option<Arc<dyn Connect>>,
    pub explain: Option<Arc<dyn Explain>>,
}

/// A request's body that is not read yet.
pub type RequestBody = Pin<Box<dyn http_body::Body<Data = Bytes, Error = BoxError> + Send>>;

/// Serves the streaming subresources.
pub trait Connect: Send + Sync + 'static {
    /// `head` has the request's headers and its `hyper::upgrade::OnUpgrade` extension;
    /// `call.info` names the object, the subresource and (for a proxy) the rest of the path.
    fn connect<'a>(
        &'a self,
        call: &'a Call,
        head: Parts,
        body: RequestBody,
    ) -> BoxFuture<'a, Result<http::Response<Body>, Status>>;
}

/// What is asked at `/tiphys/why`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WhyQuestion {
    /// Such as `pod/web`; without it, what the suppositions would do.
    pub of: Option<String>,
    pub namespace: String,
    /// Changes that are supposed, one after the other.
    pub suppose: Vec<String>,
}

/// Answers why something is as it is. It knows the cluster as a client does: whatever it reads for
/// an answer it reads as `user`, so that nobody learns more than they may read.
pub trait Explain: Send + Sync + 'static {
    fn explain(
        &self,
        asked: WhyQuestion,
        user: UserInfo,
    ) -> BoxFuture<'static, Result<serde_json::Value, Status>>;
}
