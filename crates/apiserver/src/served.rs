//! What the server serves at one moment: its kinds, and the documents that follow from them. A
//! kind that comes or goes makes a new one; nothing in it ever changes.

use std::sync::Arc;

use registry::Kinds;

use crate::discovery::Documents;

/// The kinds and their documents.
pub struct Served {
    pub kinds: Arc<Kinds>,
    pub documents: Documents,
}

impl Served {
    pub fn new(kinds: Arc<Kinds>) -> Self {
        Self {
            kinds,
            documents: Documents::default(),
        }
    }
}
