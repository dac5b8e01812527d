//! What the tasks of a connection and its streams share: the table of streams, and what waits to be
//! written before data.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex};
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::frame::{Frame, SpdyError};
use super::headers::Headers;
use super::streams::Stream;
use crate::stream::chunks::ChunkReader;
use crate::stream::lock;

/// SPDY's default window, which we announce: bytes of a stream that may be under way unread.
pub(super) const WINDOW_BYTES: u32 = 64 * 1024;
/// Streams at once; each forwarded connection needs two.
pub(super) const MAX_STREAMS: usize = 1_000;
/// Answers waiting for the connection.
const MAX_ANSWERS: usize = 1_000;
/// How long a closing connection may take to send its rest and to hear the peer's end.
pub(super) const LINGER: Duration = Duration::from_secs(5);

/// Which side of the connection this is; a client's streams have odd ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Client,
    Server,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub table: Mutex<Table>,
    pub answers: Mutex<Answers>,
    pub wake_writer: Notify,
    pub out: mpsc::Sender<Frame>,
    pub closing: CancellationToken,
    pub ended: CancellationToken,
}

#[derive(Debug)]
pub(super) struct Table {
    pub streams: HashMap<u32, Entry>,
    pub next_id: u32,
    pub last_seen: u32,
    /// No new streams: the peer said so, or the connection ended.
    pub gone: bool,
    /// The window that the peer announced; none: it keeps no windows.
    pub peer_window: Option<u32>,
}

#[derive(Debug)]
pub(super) struct Entry {
    /// None once the peer has finished.
    pub data: Option<mpsc::Sender<Bytes>>,
    pub state: Arc<Mutex<State>>,
    pub local_done: bool,
}

/// What a writer waits for.
#[derive(Debug, Default)]
pub(super) struct State {
    pub replied: bool,
    pub reset: bool,
    /// Bytes that may still be sent; none: no window.
    pub credit: Option<i64>,
    pub waker: Option<Waker>,
}

impl State {
    pub(super) fn wake(&mut self) {
        if let Some(w) = self.waker.take() {
            w.wake();
        }
    }
}

/// Frames that the reading task and readers cause; written before data.
#[derive(Debug, Default)]
pub(super) struct Answers {
    pub frames: VecDeque<Frame>,
    pub credits: BTreeMap<u32, u32>,
}

impl Shared {
    pub(super) fn answer(&self, frame: Frame) -> Result<(), SpdyError> {
        let mut answers = lock(&self.answers);
        if answers.frames.len() >= MAX_ANSWERS {
            return Err(SpdyError::Flood);
        }
        answers.frames.push_back(frame);
        drop(answers);
        self.wake_writer.notify_one();
        Ok(())
    }

    /// Reports to a peer that keeps windows how much was read. Such a peer says so before its first
    /// data, though perhaps after a stream was opened to it.
    pub(super) fn give_credit(&self, id: u32, bytes: u32) {
        if lock(&self.table).peer_window.is_none() {
            return;
        }
        let mut answers = lock(&self.answers);
        let sum = answers.credits.entry(id).or_default();
        *sum = sum.saturating_add(bytes);
        drop(answers);
        self.wake_writer.notify_one();
    }

    pub(super) fn finish_local(&self, id: u32) {
        let mut table = lock(&self.table);
        if let Some(entry) = table.streams.get_mut(&id) {
            entry.local_done = true;
            if entry.data.is_none() {
                table.streams.remove(&id);
            }
        }
    }

    pub(super) fn finish_remote(&self, id: u32) {
        let mut table = lock(&self.table);
        if let Some(entry) = table.streams.get_mut(&id) {
            entry.data = None;
            if entry.local_done {
                table.streams.remove(&id);
            }
        }
    }

    /// Forgets a stream: its reader sees the end, its writer an error.
    pub(super) fn drop_stream(&self, id: u32) {
        let entry = lock(&self.table).streams.remove(&id);
        if let Some(entry) = entry {
            let mut state = lock(&entry.state);
            state.reset = true;
            state.wake();
        }
    }

    pub(super) fn end(&self) {
        let streams = {
            let mut table = lock(&self.table);
            table.gone = true;
            std::mem::take(&mut table.streams)
        };
        for entry in streams.into_values() {
            let mut state = lock(&entry.state);
            state.reset = true;
            state.wake();
        }
        self.closing.cancel();
        self.ended.cancel();
    }

    pub(super) fn add_stream(
        self: &Arc<Self>,
        table: &mut Table,
        id: u32,
        headers: Headers,
        replied: bool,
    ) -> Stream {
        let (data, chunks) = ChunkReader::new();
        let state = Arc::new(Mutex::new(State {
            replied,
            credit: table.peer_window.map(i64::from),
            ..State::default()
        }));
        let entry = Entry {
            data: Some(data),
            state: state.clone(),
            local_done: false,
        };
        table.streams.insert(id, entry);
        Stream::new(id, headers, chunks, state, self.clone())
    }
}

pub(super) fn broken(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, why.to_owned())
}
