//! What all clones of a client share.

use std::sync::Arc;

use super::lease::Leases;
use super::members::Members;
use super::read::SharedRead;

/// Connections, leases, and the read that all wait for together.
pub struct Inner {
    pub members: Arc<Members>,
    pub leases: Leases,
    pub newest: SharedRead,
}
