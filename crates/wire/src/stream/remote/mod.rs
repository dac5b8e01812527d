//! A remote command's streams (stdin, stdout, stderr, error, resize) over WebSocket or SPDY,
//! from the side that serves it and from the side that asks for it, and a bridge between two.
//!
//! The error stream carries one `Status` as JSON from version 4 on, before that plain text that
//! is empty on success. The exit code is a cause of reason `ExitCode`.

mod bridge;
mod client;
mod outcome;
mod server;
#[cfg(test)]
mod tests;

pub use bridge::{Ended, bridge};
pub use client::{Client, connect_spdy, connect_websocket};
pub use outcome::Outcome;
pub use server::{Server, choose, serve};

use tokio_util::sync::CancellationToken;

use super::spdy;
use super::websocket::Channels;

/// What we speak over SPDY, best first.
pub const SPDY_PROTOCOLS: &[&str] = &[
    "v4.channel.k8s.io",
    "v3.channel.k8s.io",
    "v2.channel.k8s.io",
    "channel.k8s.io",
];
/// What we speak over WebSocket, best first.
pub const WEBSOCKET_PROTOCOLS: &[&str] = &[
    "v5.channel.k8s.io",
    "v4.channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "channel.k8s.io",
    "base64.channel.k8s.io",
];
/// The header that says what a SPDY stream is for.
pub const STREAM_TYPE: &str = "streamtype";

/// Channels of WebSocket, by number.
mod channel {
    pub const STDIN: u8 = 0;
    pub const STDOUT: u8 = 1;
    pub const STDERR: u8 = 2;
    pub const ERROR: u8 = 3;
    pub const RESIZE: u8 = 4;
}

/// Which streams a command has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestedStreams {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

impl RequestedStreams {
    /// A terminal has no stderr of its own; a command without any stream is an error, in
    /// upstream's words.
    pub fn checked(mut self) -> Result<Self, &'static str> {
        self.stderr &= !self.tty;
        if self.stdin || self.stdout || self.stderr {
            Ok(self)
        } else {
            Err("you must specify at least 1 of stdin, stdout, stderr")
        }
    }
}

/// What keeps a connection open.
#[derive(Debug)]
enum Keep {
    Spdy {
        connection: spdy::Connection,
        /// Streams that come later wait here.
        _incoming: spdy::Incoming,
        /// Directions that nobody uses, not to be ended before the rest.
        _unused: Vec<spdy::WriteHalf>,
    },
    Channels(Channels),
}

impl Keep {
    fn end_token(&self) -> CancellationToken {
        match self {
            Self::Spdy { connection, .. } => connection.end_token(),
            Self::Channels(channels) => channels.end_token(),
        }
    }
}
