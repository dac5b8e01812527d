//! The ways out of this server: to kubelets and through them to pods, and to hosts that
//! administrators have named; with the connections to webhooks and extension servers that are kept
//! for their next request. It does not know Services: [`crate::egress`] finds places.

pub mod dial;
mod pool;

use std::io;
use std::sync::Arc;

use wire::stream::BoxIo;

pub use dial::{DialTarget, Dialer, PodPort};
pub use pool::{Identity, Sent, TlsSide};

/// The ways out, and what is kept of them.
#[derive(Default)]
pub struct Reach {
    /// None for a server without a way to nodes.
    pub dialer: Option<Arc<Dialer>>,
    pub(crate) kept: pool::ConnectionPools,
}

impl Reach {
    pub fn new(dialer: Option<Arc<Dialer>>) -> Self {
        Self {
            dialer,
            kept: pool::ConnectionPools::default(),
        }
    }

    /// A connection that is not kept, TLS done.
    pub async fn connect(
        &self,
        place: &DialTarget,
        server_name: &str,
        tls: &TlsSide,
    ) -> io::Result<BoxIo> {
        let io = pool::plain(self.dialer.as_ref(), place).await?;
        pool::secure(io, server_name, tls).await
    }
}
