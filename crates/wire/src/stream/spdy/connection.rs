//! A SPDY connection: one task reads frames and hands data to streams, one writes.
//!
//! Every queue is bounded. Data that nobody reads stops the reading task, and so, through TCP,
//! the sender; answers that the peer does not take (pings, replies) end the connection.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex};

use tokio::sync::{Notify, mpsc};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::frame::{Frame, INITIAL_WINDOW};
use super::headers::Headers;
use super::reader::run_reader;
use super::shared::{MAX_STREAMS, Role, Shared, Table, WINDOW_BYTES, broken};
use super::streams::Stream;
use super::writer::run_writer;
use crate::stream::{Io, lock};

/// Data frames waiting for the connection: 512 KiB at most.
const OUT_QUEUE: usize = 16;
/// Streams of the peer that nobody has taken yet.
const INCOMING_QUEUE: usize = 64;

/// A connection. Dropping it closes it: what streams have written is still sent.
#[derive(Debug)]
pub struct Connection {
    shared: Arc<Shared>,
    opening: tokio::sync::Mutex<()>,
    _close: DropGuard,
}

/// Streams that the peer opens.
#[derive(Debug)]
pub struct Incoming(mpsc::Receiver<Stream>);

impl Incoming {
    /// The next stream; none when the connection has ended.
    pub async fn next(&mut self) -> Option<Stream> {
        self.0.recv().await
    }
}

impl Connection {
    /// Takes over a byte stream. Must be called within a tokio runtime.
    pub fn start<I: Io>(io: I, role: Role) -> (Self, Incoming) {
        let (out, queue) = mpsc::channel(OUT_QUEUE);
        let (incoming, streams) = mpsc::channel(INCOMING_QUEUE);
        let shared = Arc::new(Shared {
            table: Mutex::new(Table {
                streams: HashMap::new(),
                next_id: if role == Role::Client { 1 } else { 2 },
                last_seen: 0,
                gone: false,
                peer_window: None,
            }),
            answers: Mutex::default(),
            wake_writer: Notify::new(),
            out,
            closing: CancellationToken::new(),
            ended: CancellationToken::new(),
        });
        let settings = Frame::Settings(vec![(INITIAL_WINDOW, WINDOW_BYTES)]);
        lock(&shared.answers).frames.push_back(settings);
        let (read, write) = tokio::io::split(io);
        tokio::spawn(run_writer(shared.clone(), queue, write, role));
        tokio::spawn(run_reader(shared.clone(), incoming, read, role));
        let connection = Self {
            _close: shared.closing.clone().drop_guard(),
            opening: tokio::sync::Mutex::new(()),
            shared,
        };
        (connection, Incoming(streams))
    }

    /// Opens a stream. Data may be written at once; it is held until the peer has replied.
    pub async fn open(&self, headers: Headers) -> io::Result<Stream> {
        // Ids must arrive in order.
        let _turn = self.opening.lock().await;
        let stream = {
            let mut table = lock(&self.shared.table);
            if table.gone || table.streams.len() >= MAX_STREAMS || table.next_id >= 0x7fff_fffe {
                return Err(broken("the connection takes no more streams"));
            }
            let id = table.next_id;
            table.next_id += 2;
            self.shared
                .add_stream(&mut table, id, headers.clone(), false)
        };
        let syn = Frame::SynStream {
            id: stream.id(),
            fin: false,
            unidirectional: false,
            headers,
        };
        match self.shared.out.send(syn).await {
            Ok(()) => Ok(stream),
            Err(_) => Err(broken("the connection is closed")),
        }
    }

    /// Sends what was written, says goodbye and ends the connection.
    pub fn close(&self) {
        self.shared.closing.cancel();
    }

    /// Waits until the connection has ended, for whatever reason.
    pub async fn ended(&self) {
        self.shared.ended.cancelled().await;
    }

    /// Cancelled when the connection has ended.
    pub fn end_token(&self) -> CancellationToken {
        self.shared.ended.clone()
    }
}
