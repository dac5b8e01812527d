//! A client that can be exchanged under its users: for credentials that are renewed while a
//! component runs. What was asked before goes on with the old one until it ends.

use std::sync::Arc;

use http::Request;
use kube::Client;
use kube::client::Body;
use parking_lot::RwLock;

/// The place of a client. Clones share it.
#[derive(Clone)]
pub struct Swap(Arc<RwLock<Client>>);

impl Swap {
    pub fn new(first: Client) -> Self {
        Self(Arc::new(RwLock::new(first)))
    }

    /// Requests go out by `next` from now on.
    pub fn exchange(&self, next: Client) {
        *self.0.write() = next;
    }

    /// The client that components use.
    pub fn client(&self) -> Client {
        self.client_after(|| {})
    }

    /// As [`Self::client`]; before each request `look` may exchange it.
    pub(crate) fn client_after(&self, look: impl Fn() + Send + 'static) -> Client {
        let (held, namespace) = (self.0.clone(), self.0.read().default_namespace().to_owned());
        let service = tower::service_fn(move |request: Request<Body>| {
            look();
            let now = held.read().clone();
            async move { now.send(request).await }
        });
        Client::new(service, namespace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answering(code: u16) -> Client {
        let service = tower::service_fn(move |_: Request<Body>| {
            let answer = http::Response::builder().status(code);
            std::future::ready(answer.body(Body::from(b"{}".to_vec())))
        });
        Client::new(service, "default")
    }

    #[tokio::test]
    async fn the_next_request_takes_the_new_client() {
        let swap = Swap::new(answering(200));
        let client = swap.client();
        for code in [200, 201] {
            let request = Request::get("/version").body(Body::empty());
            let answer = client.send(request.expect("request")).await;
            assert_eq!(answer.expect("answer").status(), code);
            swap.exchange(answering(201));
        }
    }
}
