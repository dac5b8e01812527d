//! A client whose writes carry a fence, so that they fail once leadership is lost. It knows
//! nothing of elections.

use api::Fence;
use http::{HeaderValue, Method};
use kube::Client;
use kube::client::Body;

/// The same client, with `fence` in every request that may write. Reads stay as they are: a
/// former leader may look.
pub fn fenced(client: &Client, fence: &Fence) -> Client {
    // The parts are names of API objects and a number, so there is always a value.
    let value = HeaderValue::from_str(&fence.to_string()).ok();
    let (inner, namespace) = (client.clone(), client.default_namespace().to_owned());
    let service = tower::service_fn(move |mut request: http::Request<Body>| {
        let client = inner.clone();
        if !matches!(*request.method(), Method::GET | Method::HEAD)
            && let Some(value) = &value
        {
            request.headers_mut().insert(Fence::HEADER, value.clone());
        }
        async move { client.send(request).await }
    });
    Client::new(service, namespace)
}
