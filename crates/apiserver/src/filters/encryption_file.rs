//! The file of `--encryption-provider-config`, whose changes are put into effect while the server
//! runs: upstream's `--encryption-provider-config-automatic-reload`.

use std::sync::Arc;

use futures::future::BoxFuture;

use super::files::{Configured, ReloadError};
use crate::metrics::identity::Reloads;
use crate::state::State;
use crate::storage::encryption::ring::Ring;
use crate::storage::encryption::{Encrypted, ExchangeError, config};

/// What the file configures.
pub struct EncryptionFile {
    stored: Arc<Encrypted>,
    /// Keys of the cluster's own, with which things were written before there was a file.
    before: Option<Ring>,
}

impl EncryptionFile {
    pub fn new(stored: Arc<Encrypted>, before: Option<Ring>) -> Self {
        Self { stored, before }
    }

    async fn put_into_effect(&self, bytes: &[u8]) -> Result<(), ReloadError> {
        // It could be read when the server started.
        let also = || self.before.as_ref().and_then(|ring| ring.provider().ok());
        let rules = config::read(bytes, registry::kinds(), also);
        let rules = rules.map_err(|e| ReloadError::Wrong(e.to_string()))?;
        self.stored.exchange(rules).await.map_err(|e| match e {
            ExchangeError::OwnKeys => ReloadError::Wrong(e.to_string()),
            // A service may answer later, and what is stored may be written again.
            ExchangeError::Service(_) | ExchangeError::Unreadable(_) => {
                ReloadError::NotYet(e.to_string())
            }
        })
    }
}

impl Configured for EncryptionFile {
    fn what(&self) -> &'static str {
        "the encryption configuration"
    }

    fn reloads<'a>(&self, state: &'a State) -> &'a Reloads {
        &state.metrics().identity.encryption
    }

    fn exchange<'a>(
        &'a self,
        _: &'a State,
        bytes: &'a [u8],
    ) -> BoxFuture<'a, Result<(), ReloadError>> {
        Box::pin(self.put_into_effect(bytes))
    }
}
