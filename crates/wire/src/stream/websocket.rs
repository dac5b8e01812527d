//! WebSocket as Kubernetes uses it: messages whose first byte is a channel's number, or (the
//! tunnel) messages that together are one byte stream.
//!
//! In `v5` a message of 255 and a number ends the client's side of one channel. Only clients
//! send it: kubectl complains about one from the server. In base64 protocols the number is a
//! digit and the rest is base64 text.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::stream::{SplitSink, SplitStream};
use futures::{Sink, SinkExt, Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{
    CloseFrame, WebSocketConfig, frame::coding::CloseCode,
};
use tokio_tungstenite::tungstenite::{Error as WsError, Message};
use tokio_util::sync::{CancellationToken, DropGuard, PollSender};

use super::chunks::ChunkReader;
use super::{CHUNK_BYTES, Io};

pub use tokio_tungstenite::tungstenite::protocol::Role;

/// Before the name of a stream protocol: SPDY frames inside binary messages.
pub const TUNNEL_PREFIX: &str = "SPDY/3.1+";

/// The largest message taken. kubectl's have 32 KiB, other clients send a file as one.
const MAX_MESSAGE_BYTES: usize = 8 << 20;
/// Messages waiting for the connection: 512 KiB at most.
const OUT_QUEUE: usize = 16;
/// Between our pings.
const PING_PERIOD: Duration = Duration::from_secs(20);
/// How long a closing connection may take.
const LINGER: Duration = Duration::from_secs(5);
/// The number that ends a channel.
const CLOSE: u8 = 255;

/// How channels are put into messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    Binary,
    Base64,
}

impl Codec {
    fn encode(self, channel: u8, data: &[u8]) -> Message {
        match self {
            Self::Binary => {
                let mut all = BytesMut::with_capacity(1 + data.len());
                all.put_u8(channel);
                all.put_slice(data);
                Message::Binary(all.freeze())
            }
            Self::Base64 => {
                let digit = char::from(b'0'.wrapping_add(channel));
                Message::text(format!("{digit}{}", BASE64.encode(data)))
            }
        }
    }

    /// Channel and data; none for an empty message or what is not base64.
    fn decode(self, mut message: Bytes) -> Option<(u8, Bytes)> {
        let first = message.try_get_u8().ok()?;
        match self {
            Self::Binary => Some((first, message)),
            Self::Base64 => {
                let data = BASE64.decode(&message).ok()?;
                Some((first.wrapping_sub(b'0'), data.into()))
            }
        }
    }
}

fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(CHUNK_BYTES)
        .write_buffer_size(0)
        .max_write_buffer_size(2 * MAX_MESSAGE_BYTES)
        .max_message_size(Some(MAX_MESSAGE_BYTES))
        .max_frame_size(Some(MAX_MESSAGE_BYTES))
}

/// A WebSocket over a connection whose handshake is done.
pub async fn open<I: Io>(io: I, role: Role) -> WebSocketStream<I> {
    WebSocketStream::from_raw_socket(io, role, Some(config())).await
}

/// Numbered byte streams over a WebSocket. Dropping it closes the connection after what was
/// written has been sent.
#[derive(Debug)]
pub struct Channels {
    readers: BTreeMap<u8, ChunkReader>,
    out: mpsc::Sender<Message>,
    codec: Codec,
    ends_channels: bool,
    ended: CancellationToken,
    _close: DropGuard,
}

impl Channels {
    /// Takes over a WebSocket; data for channels other than `readable` is thrown away.
    /// `half_close`: the protocol has the message that ends a channel.
    pub fn start<I: Io>(
        socket: WebSocketStream<I>,
        role: Role,
        codec: Codec,
        half_close: bool,
        readable: impl IntoIterator<Item = u8>,
    ) -> Self {
        let (sink, stream) = socket.split();
        let (out, queue) = mpsc::channel(OUT_QUEUE);
        let (closing, ended) = (CancellationToken::new(), CancellationToken::new());
        let mut senders = BTreeMap::new();
        let mut readers = BTreeMap::new();
        for channel in readable {
            let (sender, reader) = ChunkReader::new();
            senders.insert(channel, sender);
            readers.insert(channel, reader);
        }
        tokio::spawn(write(sink, queue, closing.clone()));
        let reading = Reading {
            codec,
            half_close,
            senders,
            closing: closing.clone(),
        };
        tokio::spawn(reading.run(stream, ended.clone()));
        Self {
            readers,
            out,
            codec,
            ends_channels: half_close && role == Role::Client,
            ended,
            _close: closing.drop_guard(),
        }
    }

    /// What the other side sends on a channel; each can be taken once.
    pub fn take_reader(&mut self, channel: u8) -> Option<ChunkReader> {
        self.readers.remove(&channel)
    }

    /// A writer to a channel.
    #[must_use]
    pub fn writer(&self, channel: u8) -> ChannelWriter {
        ChannelWriter {
            channel,
            codec: self.codec,
            ends: self.ends_channels,
            finished: false,
            out: PollSender::new(self.out.clone()),
        }
    }

    /// Cancelled when the other side is gone.
    #[must_use]
    pub fn end_token(&self) -> CancellationToken {
        self.ended.clone()
    }

    /// Sends a message without data: it shows a client that the connection works.
    pub async fn greet(&self, channel: u8) {
        let _ = self.out.send(self.codec.encode(channel, &[])).await;
    }
}

/// Writes to one channel.
#[derive(Debug)]
pub struct ChannelWriter {
    channel: u8,
    codec: Codec,
    ends: bool,
    finished: bool,
    out: PollSender<Message>,
}

impl ChannelWriter {
    fn poll_message(
        &mut self,
        cx: &mut Context<'_>,
        make: impl FnOnce() -> Message,
    ) -> Poll<io::Result<()>> {
        let gone = || io::Error::new(io::ErrorKind::BrokenPipe, "the WebSocket is closed");
        ready!(self.out.poll_reserve(cx)).map_err(|_| gone())?;
        Poll::Ready(self.out.send_item(make()).map_err(|_| gone()))
    }
}

impl AsyncWrite for ChannelWriter {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let part = data.get(..CHUNK_BYTES).unwrap_or(data);
        let (codec, channel) = (self.codec, self.channel);
        ready!(self.poll_message(cx, || codec.encode(channel, part)))?;
        Poll::Ready(Ok(part.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The writing task flushes each message.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.finished || !self.ends {
            return Poll::Ready(Ok(()));
        }
        let channel = self.channel;
        let end = || Message::Binary(Bytes::copy_from_slice(&[CLOSE, channel]));
        ready!(self.poll_message(cx, end))?;
        self.finished = true;
        Poll::Ready(Ok(()))
    }
}

async fn write<I: Io>(
    sink: SplitSink<WebSocketStream<I>, Message>,
    queue: mpsc::Receiver<Message>,
    closing: CancellationToken,
) {
    let patience = async {
        closing.cancelled().await;
        tokio::time::sleep(LINGER).await;
    };
    tokio::select! {
        done = write_messages(sink, queue, &closing) => {
            if let Err(e) = done {
                tracing::debug!("writing a WebSocket: {e}");
            }
        }
        () = patience => {}
    }
    closing.cancel();
}

async fn write_messages<I: Io>(
    mut sink: SplitSink<WebSocketStream<I>, Message>,
    mut queue: mpsc::Receiver<Message>,
    closing: &CancellationToken,
) -> Result<(), WsError> {
    let mut pings =
        tokio::time::interval_at(tokio::time::Instant::now() + PING_PERIOD, PING_PERIOD);
    let mut is_closing = false;
    loop {
        let message = tokio::select! {
            biased;
            () = closing.cancelled(), if !is_closing => {
                is_closing = true;
                queue.close();
                continue;
            }
            message = queue.recv() => match message {
                Some(m) => m,
                None => break,
            },
            _ = pings.tick() => Message::Ping(Bytes::new()),
        };
        sink.send(message).await?;
    }
    let normal = CloseFrame {
        code: CloseCode::Normal,
        reason: "".into(),
    };
    match sink.send(Message::Close(Some(normal))).await {
        Ok(()) | Err(WsError::ConnectionClosed | WsError::AlreadyClosed) => Ok(()),
        Err(e) => Err(e),
    }
}

struct Reading {
    codec: Codec,
    half_close: bool,
    senders: BTreeMap<u8, mpsc::Sender<Bytes>>,
    closing: CancellationToken,
}

impl Reading {
    async fn run<I: Io>(
        mut self,
        stream: SplitStream<WebSocketStream<I>>,
        ended: CancellationToken,
    ) {
        let closing = self.closing.clone();
        let patience = async {
            closing.cancelled().await;
            tokio::time::sleep(LINGER).await;
        };
        tokio::select! {
            () = self.messages(stream) => {}
            () = patience => {}
        }
        self.senders.clear();
        ended.cancel();
        closing.cancel();
    }

    async fn messages<I: Io>(&mut self, mut stream: SplitStream<WebSocketStream<I>>) {
        while let Some(message) = stream.next().await {
            let data = match message {
                Ok(Message::Binary(data)) => data,
                Ok(Message::Text(text)) => Bytes::from(text),
                // The end of the stream follows a close; pings are answered below us.
                Ok(_) => continue,
                Err(e) => return tracing::debug!("reading a WebSocket: {e}"),
            };
            if !self.message(data).await {
                return;
            }
        }
    }

    /// Hands on one message; false ends the connection.
    async fn message(&mut self, data: Bytes) -> bool {
        if self.half_close && data.first() == Some(&CLOSE) {
            let [_, channel] = *data else { return false };
            self.senders.remove(&channel);
            return true;
        }
        let Some((channel, data)) = self.codec.decode(data) else {
            return true;
        };
        if let Some(sender) = self.senders.get(&channel)
            && !data.is_empty()
        {
            tokio::select! {
                _ = sender.send(data) => {}
                () = self.closing.cancelled() => {}
            }
        }
        true
    }
}

/// A WebSocket whose binary messages are one byte stream.
#[derive(Debug)]
pub struct Tunnel<I> {
    socket: WebSocketStream<I>,
    current: Bytes,
}

impl<I: Io> Tunnel<I> {
    #[must_use]
    pub fn new(socket: WebSocketStream<I>) -> Self {
        let current = Bytes::new();
        Self { socket, current }
    }
}

fn io_error(e: WsError) -> io::Error {
    match e {
        WsError::Io(e) => e,
        WsError::ConnectionClosed | WsError::AlreadyClosed => io::ErrorKind::BrokenPipe.into(),
        other => io::Error::new(io::ErrorKind::InvalidData, other),
    }
}

impl<I: Io> AsyncRead for Tunnel<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.current.is_empty() {
            match ready!(Pin::new(&mut self.socket).poll_next(cx)) {
                None => return Poll::Ready(Ok(())),
                Some(Ok(Message::Binary(data))) => self.current = data,
                Some(Ok(Message::Text(_))) => {
                    let why = "a text message in a tunnel";
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, why)));
                }
                Some(Ok(_)) => {}
                Some(Err(WsError::ConnectionClosed | WsError::AlreadyClosed)) => {
                    return Poll::Ready(Ok(()));
                }
                Some(Err(e)) => return Poll::Ready(Err(io_error(e))),
            }
        }
        let n = self.current.len().min(out.remaining());
        out.put_slice(self.current.get(..n).unwrap_or_default());
        self.current.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl<I: Io> AsyncWrite for Tunnel<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(Pin::new(&mut self.socket).poll_ready(cx)).map_err(io_error)?;
        let part = data.get(..CHUNK_BYTES).unwrap_or(data);
        let message = Message::Binary(Bytes::copy_from_slice(part));
        let sent = Pin::new(&mut self.socket).start_send(message);
        Poll::Ready(sent.map(|()| part.len()).map_err(io_error))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx).map_err(io_error)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match ready!(Pin::new(&mut self.socket).poll_close(cx)) {
            Ok(()) | Err(WsError::ConnectionClosed | WsError::AlreadyClosed) => Poll::Ready(Ok(())),
            Err(e) => Poll::Ready(Err(io_error(e))),
        }
    }
}
