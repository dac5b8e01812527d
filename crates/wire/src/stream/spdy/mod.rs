//! SPDY/3.1 as far as Kubernetes uses it: streams in both directions with headers, half-close
//! and reset. Both roles, over any byte stream.
//!
//! The other side is nearly always Go's spdystream. It keeps no flow-control windows, never
//! sends WINDOW_UPDATE, drops what it gets for a stream before its SYN_REPLY, and takes a
//! RST_STREAM for the ordinary end of a stream. So: windows bind only towards a peer that
//! announced one in SETTINGS, writers wait for the reply, and a reset ends reading cleanly.

mod connection;
pub mod frame;
pub mod headers;
mod reader;
mod shared;
mod streams;
mod writer;

#[cfg(test)]
mod tests;

pub use connection::{Connection, Incoming};
pub use frame::{Frame, SpdyError};
pub use headers::Headers;
pub use shared::Role;
pub use streams::{ReadHalf, Stream, WriteHalf};
