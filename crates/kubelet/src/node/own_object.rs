//! The node's own object, as the API shows it: labels and taints that others set count when a pod
//! comes.

use k8s_openapi::api::core::v1::Node;
use parking_lot::Mutex;
use std::sync::Arc;

/// The node's object, kept by whoever watches it.
pub struct OwnNode {
    api: kube::Api<Node>,
    name: String,
    last: Mutex<Option<Arc<Node>>>,
}

impl std::fmt::Debug for OwnNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OwnNode").finish_non_exhaustive()
    }
}

impl OwnNode {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(client: kube::Client, name: &str) -> Self {
        Self {
            api: kube::Api::all(client),
            name: name.to_owned(),
            last: Mutex::default(),
        }
    }

    /// Notes what a watch shows; none when the object is gone.
    pub fn note(&self, node: Option<&Node>) {
        *self.last.lock() = node.cloned().map(Arc::new);
    }

    /// The object as it was seen last.
    #[must_use]
    pub fn last(&self) -> Option<Arc<Node>> {
        self.last.lock().clone()
    }

    /// The object as it was seen last, or asked for now.
    pub async fn get(&self) -> kube::Result<Arc<Node>> {
        let known = self.last.lock().clone();
        match known {
            Some(node) => Ok(node),
            None => self.ask().await,
        }
    }

    /// The object as it is now.
    pub async fn ask(&self) -> kube::Result<Arc<Node>> {
        let node = Arc::new(self.api.get(&self.name).await?);
        *self.last.lock() = Some(node.clone());
        Ok(node)
    }
}
