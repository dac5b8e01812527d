//! One stream of a connection: its headers, what the peer sends on it and what we do, each within the
//! windows that were announced.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio_util::sync::PollSender;

use super::frame::{Frame, reset};
use super::headers::Headers;
use super::shared::{Shared, State, WINDOW_BYTES, broken};
use crate::stream::chunks::ChunkReader;
use crate::stream::{CHUNK_BYTES, lock};

/// A stream with its headers; take it apart to read and write.
#[derive(Debug)]
pub struct Stream {
    id: u32,
    headers: Headers,
    read: ReadHalf,
    write: WriteHalf,
}

impl Stream {
    /// A stream that stands in the connection's table.
    pub(super) fn new(
        id: u32,
        headers: Headers,
        chunks: ChunkReader,
        state: Arc<Mutex<State>>,
        shared: Arc<Shared>,
    ) -> Self {
        let read = ReadHalf {
            id,
            chunks,
            shared: shared.clone(),
            unreported: 0,
        };
        let write = WriteHalf {
            id,
            state,
            sender: PollSender::new(shared.out.clone()),
            shared,
            finished: false,
        };
        Self {
            id,
            headers,
            read,
            write,
        }
    }

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
