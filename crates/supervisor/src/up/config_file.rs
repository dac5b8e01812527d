//! What an `up` leaves for the next one: the cluster's configuration, and the secrets that its servers
//! share. A configuration that cannot be read is an error, not a cluster without one.

use std::fs;
use std::io;

use super::error::{UpError, file_error};
use crate::config::ClusterConfig;
use crate::layout::Layout;
use crate::members;

/// The configuration of an earlier `up`; none where there was none.
///
/// # Errors
/// It cannot be read: who took that for none would forget what the cluster is, and what runs of it.
pub fn read_config(layout: &Layout) -> Result<Option<ClusterConfig>, UpError> {
    let path = layout.config();
    let bytes = match fs::read(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read.map_err(file_error(&path))?,
    };
    let config = serde_json::from_slice(&bytes).map_err(io::Error::from);
    Ok(Some(config.map_err(file_error(&path))?))
}

/// Writes the configuration down for the next `up`, whole or not at all.
pub(super) fn write_config(layout: &Layout, config: &ClusterConfig) -> Result<(), UpError> {
    let path = layout.config();
    let text = serde_json::to_vec_pretty(config).map_err(io::Error::from);
    let text = text.map_err(file_error(&path))?;
    Ok(wire::pki::write_public(&path, &text)?)
}

/// What several servers need to know each other by: the token that opens the cluster's keys, and
/// the certificates of their etcd members. `now`: seconds since the epoch.
pub(super) fn share_secrets(
    layout: &Layout,
    config: &ClusterConfig,
    now: i64,
) -> Result<(), UpError> {
    let token = layout.server_token();
    if !token.exists() {
        wire::pki::write_private(&token, wire::seal::new_token().as_bytes())?;
    }
    Ok(members::ensure_pki(layout, config, now)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_that_cannot_be_read_is_not_absent() {
        let dir = tempfile::tempdir().expect("folder");
        let layout = Layout::new(dir.path());
        let read = || read_config(&layout);
        assert!(matches!(read(), Ok(None)));
        let config = ClusterConfig::example();
        write_config(&layout, &config).expect("written");
        assert_eq!(read().expect("readable"), Some(config));
        fs::write(layout.config(), b"{\"port\":").expect("written");
        assert!(read().is_err());
    }
}
