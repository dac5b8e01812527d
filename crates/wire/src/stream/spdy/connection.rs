//! A SPDY connection: one task reads frames and hands data to streams, one writes.
//!
//! Every queue is bounded. Data that nobody reads stops the reading task, and so, through TCP,
//! the sender; answers that the peer does not take (pings, replies) end the connection.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, ReadBuf};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::{CancellationToken, DropGuard, PollSender};

use super::frame::{Decoder, Encoder, Frame, HEAD_BYTES, Head, INITIAL_WINDOW, SpdyError, reset};
use super::headers::Headers;
use crate::stream::chunks::ChunkReader;
use crate::stream::{CHUNK_BYTES, Io, lock};

/// SPDY's default window, which we announce: bytes of a stream that may be under way unread.
pub const WINDOW_BYTES: u32 = 64 * 1024;
/// Streams at once; each forwarded connection needs two.
const MAX_STREAMS: usize = 1_000;
/// Data frames waiting for the connection: 512 KiB at most.
const OUT_QUEUE: usize = 16;
/// Answers waiting for the connection.
const MAX_ANSWERS: usize = 1_000;
/// Streams of the peer that nobody has taken yet.
const INCOMING_QUEUE: usize = 64;
/// What is gathered before it is written at once.
const WRITE_BYTES: usize = 64 * 1024;
/// How long a closing connection may take to send its rest and to hear the peer's end.
const LINGER: Duration = Duration::from_secs(5);
/// Between our pings: often enough for middleboxes, and a dead peer shows as a failed write.
const PING_PERIOD: Duration = Duration::from_secs(30);

/// Which side of the connection this is; a client's streams have odd ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Client,
    Server,
}

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

#[derive(Debug)]
struct Shared {
    table: Mutex<Table>,
    answers: Mutex<Answers>,
    wake_writer: Notify,
    out: mpsc::Sender<Frame>,
    closing: CancellationToken,
    ended: CancellationToken,
}

#[derive(Debug)]
struct Table {
    streams: HashMap<u32, Entry>,
    next_id: u32,
    last_seen: u32,
    /// No new streams: the peer said so, or the connection ended.
    gone: bool,
    /// The window that the peer announced; none: it keeps no windows.
    peer_window: Option<u32>,
}

#[derive(Debug)]
struct Entry {
    /// None once the peer has finished.
    data: Option<mpsc::Sender<Bytes>>,
    state: Arc<Mutex<State>>,
    local_done: bool,
}

/// What a writer waits for.
#[derive(Debug, Default)]
struct State {
    replied: bool,
    reset: bool,
    /// Bytes that may still be sent; none: no window.
    credit: Option<i64>,
    waker: Option<Waker>,
}

impl State {
    fn wake(&mut self) {
        if let Some(w) = self.waker.take() {
            w.wake();
        }
    }
}

/// Frames that the reading task and readers cause; written before data.
#[derive(Debug, Default)]
struct Answers {
    frames: VecDeque<Frame>,
    credits: BTreeMap<u32, u32>,
}

impl Shared {
    fn answer(&self, frame: Frame) -> Result<(), SpdyError> {
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
    fn give_credit(&self, id: u32, bytes: u32) {
        if lock(&self.table).peer_window.is_none() {
            return;
        }
        let mut answers = lock(&self.answers);
        let sum = answers.credits.entry(id).or_default();
        *sum = sum.saturating_add(bytes);
        drop(answers);
        self.wake_writer.notify_one();
    }

    fn finish_local(&self, id: u32) {
        let mut table = lock(&self.table);
        if let Some(entry) = table.streams.get_mut(&id) {
            entry.local_done = true;
            if entry.data.is_none() {
                table.streams.remove(&id);
            }
        }
    }

    fn finish_remote(&self, id: u32) {
        let mut table = lock(&self.table);
        if let Some(entry) = table.streams.get_mut(&id) {
            entry.data = None;
            if entry.local_done {
                table.streams.remove(&id);
            }
        }
    }

    /// Forgets a stream: its reader sees the end, its writer an error.
    fn drop_stream(&self, id: u32) {
        let entry = lock(&self.table).streams.remove(&id);
        if let Some(entry) = entry {
            let mut state = lock(&entry.state);
            state.reset = true;
            state.wake();
        }
    }

    fn end(&self) {
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

    fn add_stream(
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
        let read = ReadHalf {
            id,
            chunks,
            shared: self.clone(),
            unreported: 0,
        };
        let write = WriteHalf {
            id,
            state,
            sender: PollSender::new(self.out.clone()),
            shared: self.clone(),
            finished: false,
        };
        Stream {
            id,
            headers,
            read,
            write,
        }
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
            id: stream.id,
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

fn broken(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, why.to_owned())
}

/// A stream with its headers; take it apart to read and write.
#[derive(Debug)]
pub struct Stream {
    id: u32,
    headers: Headers,
    read: ReadHalf,
    write: WriteHalf,
}

impl Stream {
    pub fn id(&self) -> u32 {
        self.id
    }
    pub fn headers(&self) -> &Headers {
        &self.headers
    }
    pub fn split(self) -> (ReadHalf, WriteHalf) {
        (self.read, self.write)
    }
}

/// What the peer sends. Its end is the peer's half-close, a reset, or the connection's end.
#[derive(Debug)]
pub struct ReadHalf {
    id: u32,
    chunks: ChunkReader,
    shared: Arc<Shared>,
    unreported: u32,
}

impl AsyncRead for ReadHalf {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = out.filled().len();
        let done = Pin::new(&mut self.chunks).poll_read(cx, out);
        let n = u32::try_from(out.filled().len() - before).unwrap_or(u32::MAX);
        self.unreported = self.unreported.saturating_add(n);
        if self.unreported >= WINDOW_BYTES / 2 {
            self.shared.give_credit(self.id, self.unreported);
            self.unreported = 0;
        }
        done
    }
}

/// What we send. Shutting it down half-closes the stream; dropping it does so, too.
#[derive(Debug)]
pub struct WriteHalf {
    id: u32,
    state: Arc<Mutex<State>>,
    sender: PollSender<Frame>,
    shared: Arc<Shared>,
    finished: bool,
}

impl WriteHalf {
    /// Ends the stream in both directions; unread data of the peer is thrown away.
    pub fn reset(mut self) {
        self.finished = true;
        self.shared.drop_stream(self.id);
        let status = reset::CANCEL;
        let _ = self.shared.answer(Frame::Rst {
            id: self.id,
            status,
        });
    }

    /// How many of `wanted` bytes may be sent now.
    fn poll_credit(&self, cx: &mut Context<'_>, wanted: usize) -> Poll<io::Result<usize>> {
        if self.finished {
            return Poll::Ready(Err(broken("the stream is finished")));
        }
        let mut state = lock(&self.state);
        if state.reset {
            return Poll::Ready(Err(broken("the stream was reset")));
        }
        let allowed = state
            .credit
            .map_or(CHUNK_BYTES, |c| usize::try_from(c).unwrap_or(0))
            .min(CHUNK_BYTES);
        if !state.replied || (allowed == 0 && wanted > 0) {
            state.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Ok(allowed.min(wanted)))
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>, data: &[u8], fin: bool) -> Poll<io::Result<()>> {
        match self.sender.poll_reserve(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Err(_)) => return Poll::Ready(Err(broken("the connection is closed"))),
            Poll::Ready(Ok(())) => {}
        }
        let frame = Frame::Data {
            id: self.id,
            fin,
            data: Bytes::copy_from_slice(data),
        };
        let sent = self.sender.send_item(frame);
        Poll::Ready(sent.map_err(|_| broken("the connection is closed")))
    }
}

impl AsyncWrite for WriteHalf {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let n = std::task::ready!(self.poll_credit(cx, data.len()))?;
        let part = data.get(..n).unwrap_or_default();
        std::task::ready!(self.poll_frame(cx, part, false))?;
        if let Some(credit) = lock(&self.state).credit.as_mut() {
            *credit -= i64::try_from(n).unwrap_or(i64::MAX);
        }
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The writing task flushes whenever it has nothing left to write.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.finished {
            return Poll::Ready(Ok(()));
        }
        std::task::ready!(self.poll_credit(cx, 0))?;
        std::task::ready!(self.poll_frame(cx, &[], true))?;
        self.finished = true;
        self.shared.finish_local(self.id);
        Poll::Ready(Ok(()))
    }
}

impl Drop for WriteHalf {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        let (replied, reset) = {
            let state = lock(&self.state);
            (state.replied, state.reset)
        };
        if reset {
            return;
        }
        self.shared.finish_local(self.id);
        let id = self.id;
        if !replied {
            // A half-close before the reply would be overlooked.
            self.shared.drop_stream(id);
            let status = reset::CANCEL;
            let _ = self.shared.answer(Frame::Rst { id, status });
            return;
        }
        let fin = Frame::Data {
            id,
            fin: true,
            data: Bytes::new(),
        };
        // In its turn behind the data that was written.
        if let Err(mpsc::error::TrySendError::Full(fin)) = self.shared.out.try_send(fin)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let out = self.shared.out.clone();
            runtime.spawn(async move {
                let _ = out.send(fin).await;
            });
        }
    }
}

async fn run_writer<W: AsyncWrite + Unpin>(
    shared: Arc<Shared>,
    queue: mpsc::Receiver<Frame>,
    io: W,
    role: Role,
) {
    let patience = async {
        shared.closing.cancelled().await;
        tokio::time::sleep(LINGER).await;
    };
    tokio::select! {
        done = write_frames(&shared, queue, io, role) => {
            if let Err(e) = done {
                tracing::debug!("writing a SPDY connection: {e}");
            }
        }
        () = patience => {}
    }
    shared.closing.cancel();
}

async fn write_frames<W: AsyncWrite + Unpin>(
    shared: &Shared,
    mut queue: mpsc::Receiver<Frame>,
    mut io: W,
    role: Role,
) -> io::Result<()> {
    let mut encoder = Encoder::default();
    let mut buffer = BytesMut::new();
    let mut ping_id = if role == Role::Client { 1 } else { 2 };
    let mut pings =
        tokio::time::interval_at(tokio::time::Instant::now() + PING_PERIOD, PING_PERIOD);
    let mut closing = false;
    shared.wake_writer.notify_one();
    loop {
        let mut first = None;
        tokio::select! {
            biased;
            () = shared.wake_writer.notified() => {}
            frame = queue.recv() => match frame {
                Some(frame) => first = Some(frame),
                None => break,
            },
            () = shared.closing.cancelled(), if !closing => {
                closing = true;
                queue.close();
            }
            _ = pings.tick() => {
                first = Some(Frame::Ping(ping_id));
                ping_id = (ping_id + 2) & 0x7fff_ffff;
            }
        }
        write_answers(shared, &mut encoder, &mut buffer);
        if let Some(frame) = first {
            encoder.write(&frame, &mut buffer);
        }
        while buffer.len() < WRITE_BYTES
            && let Ok(frame) = queue.try_recv()
        {
            // A stream's reply was queued before anybody could write to the stream.
            write_answers(shared, &mut encoder, &mut buffer);
            encoder.write(&frame, &mut buffer);
        }
        io.write_all(&buffer).await?;
        buffer.clear();
        if queue.is_empty() {
            io.flush().await?;
        }
    }
    write_answers(shared, &mut encoder, &mut buffer);
    let last = lock(&shared.table).last_seen;
    encoder.write(&Frame::GoAway { last, status: 0 }, &mut buffer);
    io.write_all(&buffer).await?;
    io.flush().await?;
    io.shutdown().await
}

fn write_answers(shared: &Shared, encoder: &mut Encoder, buffer: &mut BytesMut) {
    let answers = std::mem::take(&mut *lock(&shared.answers));
    for frame in answers.frames {
        encoder.write(&frame, buffer);
    }
    for (id, delta) in answers.credits {
        encoder.write(&Frame::WindowUpdate { id, delta }, buffer);
    }
}

#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Spdy(#[from] SpdyError),
}

async fn run_reader<R: AsyncRead + Unpin + Send>(
    shared: Arc<Shared>,
    incoming: mpsc::Sender<Stream>,
    io: R,
    role: Role,
) {
    let mut reader = Reader {
        io: BufReader::with_capacity(CHUNK_BYTES, io),
        decoder: Decoder::default(),
        shared: shared.clone(),
        incoming,
        role,
    };
    let patience = async {
        shared.closing.cancelled().await;
        tokio::time::sleep(LINGER).await;
    };
    tokio::select! {
        done = reader.run() => match done {
            Ok(()) => {}
            Err(ReadError::Io(e)) if e.kind() == io::ErrorKind::UnexpectedEof => {}
            Err(e) => tracing::debug!("reading a SPDY connection: {e}"),
        },
        () = patience => {}
    }
    shared.end();
}

struct Reader<R> {
    io: BufReader<R>,
    decoder: Decoder,
    shared: Arc<Shared>,
    incoming: mpsc::Sender<Stream>,
    role: Role,
}

impl<R: AsyncRead + Unpin + Send> Reader<R> {
    async fn run(&mut self) -> Result<(), ReadError> {
        loop {
            let mut head = [0; HEAD_BYTES];
            self.io.read_exact(&mut head).await?;
            match Head::read(head)? {
                Head::Data { id, fin, length } => {
                    self.data(id, length).await?;
                    if fin {
                        self.shared.finish_remote(id);
                    }
                }
                Head::Control {
                    kind,
                    flags,
                    length,
                } => {
                    let mut body = vec![0; length];
                    self.io.read_exact(&mut body).await?;
                    let frame = self.decoder.read(kind, flags, &body)?;
                    self.control(frame).await?;
                }
            }
        }
    }

    /// Passes a data frame on piece by piece: a frame may have 16 MiB.
    async fn data(&mut self, id: u32, length: usize) -> Result<(), ReadError> {
        let (known, sender) = {
            let table = lock(&self.shared.table);
            let entry = table.streams.get(&id);
            (entry.is_some(), entry.and_then(|e| e.data.clone()))
        };
        if !known && self.is_new(id) {
            let status = reset::INVALID_STREAM;
            self.shared.answer(Frame::Rst { id, status })?;
        }
        let mut left = length;
        while left > 0 {
            // Whole pieces: a stream's queue counts pieces, not bytes.
            let n = left.min(CHUNK_BYTES);
            let mut chunk = vec![0; n];
            self.io.read_exact(&mut chunk).await?;
            left -= n;
            let Some(sender) = &sender else { continue };
            let undelivered = tokio::select! {
                sent = sender.send(chunk.into()) => sent.is_err(),
                () = self.shared.closing.cancelled() => true,
            };
            if undelivered {
                self.shared
                    .give_credit(id, u32::try_from(n).unwrap_or(u32::MAX));
            }
        }
        Ok(())
    }

    /// A stream that was never there, as opposed to one that has ended.
    fn is_new(&self, id: u32) -> bool {
        let table = lock(&self.shared.table);
        if self.is_peers(id) {
            id > table.last_seen
        } else {
            id >= table.next_id
        }
    }

    fn is_peers(&self, id: u32) -> bool {
        (id % 2 == 1) == (self.role == Role::Server)
    }

    async fn control(&mut self, frame: Frame) -> Result<(), ReadError> {
        match frame {
            Frame::SynStream {
                id,
                fin,
                unidirectional,
                headers,
            } => self.opened(id, fin, unidirectional, headers).await?,
            Frame::SynReply { id, fin, .. } => {
                if let Some(state) = self.state_of(id) {
                    let mut state = lock(&state);
                    state.replied = true;
                    state.wake();
                }
                if fin {
                    self.shared.finish_remote(id);
                }
            }
            Frame::Headers { id, fin: true, .. } => self.shared.finish_remote(id),
            Frame::Rst { id, .. } => self.shared.drop_stream(id),
            Frame::Ping(id) if self.is_peers(id) => self.shared.answer(Frame::Ping(id))?,
            Frame::GoAway { .. } => lock(&self.shared.table).gone = true,
            Frame::Settings(all) => self.settings(&all),
            Frame::WindowUpdate { id, delta } => self.credit(id, delta)?,
            Frame::Headers { .. } | Frame::Ping(_) | Frame::Unknown(_) | Frame::Data { .. } => {}
        }
        Ok(())
    }

    async fn opened(
        &mut self,
        id: u32,
        fin: bool,
        unidirectional: bool,
        headers: Headers,
    ) -> Result<(), ReadError> {
        let made = {
            let mut table = lock(&self.shared.table);
            if !self.is_peers(id) || id <= table.last_seen {
                return Err(SpdyError::StreamId(id).into());
            }
            table.last_seen = id;
            let closing = self.shared.closing.is_cancelled();
            if closing || table.gone || table.streams.len() >= MAX_STREAMS {
                None
            } else {
                Some(self.shared.add_stream(&mut table, id, headers, true))
            }
        };
        let Some(stream) = made else {
            let status = reset::REFUSED_STREAM;
            return Ok(self.shared.answer(Frame::Rst { id, status })?);
        };
        let headers = Headers::default();
        let reply = Frame::SynReply {
            id,
            fin: false,
            headers,
        };
        self.shared.answer(reply)?;
        if fin {
            self.shared.finish_remote(id);
        }
        if unidirectional {
            self.shared.finish_local(id);
        }
        tokio::select! {
            // Nobody takes streams: dropping it ends the peer's.
            _ = self.incoming.send(stream) => {}
            () = self.shared.closing.cancelled() => {}
        }
        Ok(())
    }

    fn state_of(&self, id: u32) -> Option<Arc<Mutex<State>>> {
        let table = lock(&self.shared.table);
        table.streams.get(&id).map(|e| e.state.clone())
    }

    /// The peer keeps windows. Ours announces it first of all, so no stream has sent before.
    fn settings(&self, all: &[(u32, u32)]) {
        let Some((_, window)) = all.iter().find(|(id, _)| *id == INITIAL_WINDOW) else {
            return;
        };
        let mut table = lock(&self.shared.table);
        let before = table.peer_window.replace(*window).unwrap_or(*window);
        for entry in table.streams.values() {
            let mut state = lock(&entry.state);
            let credit = state.credit.unwrap_or(i64::from(before));
            state.credit = Some(credit + i64::from(*window) - i64::from(before));
            state.wake();
        }
    }

    fn credit(&self, id: u32, delta: u32) -> Result<(), SpdyError> {
        let Some(state) = self.state_of(id) else {
            return Ok(());
        };
        let overflow = {
            let mut state = lock(&state);
            let credit = state.credit.map(|c| c + i64::from(delta));
            state.credit = credit;
            state.wake();
            credit.is_some_and(|c| c > i64::from(i32::MAX))
        };
        if overflow {
            self.shared.drop_stream(id);
            let status = reset::FLOW_CONTROL;
            self.shared.answer(Frame::Rst { id, status })?;
        }
        Ok(())
    }
}
