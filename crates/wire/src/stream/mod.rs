//! Several byte streams over one upgraded HTTP/1.1 connection, as `kubectl exec`, `attach` and
//! `port-forward` use them: WebSocket with numbered channels, or SPDY/3.1, plain or tunnelled
//! in a WebSocket. It knows nothing of pods; [`remote`] knows what a remote command is made of.
//!
//! ```text
//! upgrade     HTTP/1.1 handshakes of both kinds, both roles; relaying an upgraded connection
//! websocket   channels in messages; or one byte stream over messages (the tunnel)
//! spdy        frames, header compression, streams with half-close
//! remote      stdin, stdout, stderr, error, resize over either of them
//! output      one stream of bytes to a WebSocket client, such as a log
//! ports       port-forwarding's pairs of streams over either of them
//! idle        how long nothing has flowed in them
//! tunnel      one plain connection to a pod's port
//! ```

pub mod chunks;
pub mod idle;
pub mod output;
pub mod ports;
pub mod remote;
pub mod spdy;
pub mod tunnel;
pub mod upgrade;
pub mod websocket;

use tokio::io::{AsyncRead, AsyncWrite};

/// A connection: TCP, TLS, an upgraded HTTP connection, a pipe in a test.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

/// Any connection.
pub type BoxIo = Box<dyn Io>;
/// Any readable stream.
pub type BoxRead = Box<dyn AsyncRead + Send + Unpin>;
/// Any writable stream; shutting it down ends the stream for the other side.
pub type BoxWrite = Box<dyn AsyncWrite + Send + Unpin>;

/// Bytes moved in one piece: what kubectl and containerd use.
pub const CHUNK_BYTES: usize = 32 * 1024;

/// Locks a mutex; one that a panicking thread has left is used as it is.
pub(crate) fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
