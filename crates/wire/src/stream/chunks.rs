//! A reader over a bounded queue of chunks: how a demultiplexing task hands a stream's bytes to
//! whoever reads it. The queue's end is the stream's end.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::mpsc;

/// Chunks waiting for a reader: with chunks of 32 KiB a stream holds at most half a MiB; after
/// that the whole connection waits, which is how the sender is slowed down.
pub const QUEUE: usize = 16;

/// Reads chunks as one stream of bytes.
#[derive(Debug)]
pub struct ChunkReader {
    queue: mpsc::Receiver<Bytes>,
    current: Bytes,
}

impl ChunkReader {
    /// A reader and the queue's other end.
    #[must_use]
    pub fn new() -> (mpsc::Sender<Bytes>, Self) {
        let (sender, queue) = mpsc::channel(QUEUE);
        let current = Bytes::new();
        (sender, Self { queue, current })
    }

    /// The next chunk as it was sent; none at the end.
    pub async fn chunk(&mut self) -> Option<Bytes> {
        if self.current.is_empty() {
            self.queue.recv().await
        } else {
            Some(std::mem::take(&mut self.current))
        }
    }
}

impl AsyncRead for ChunkReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.current.is_empty() {
            match self.queue.poll_recv(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Ready(Some(chunk)) => self.current = chunk,
            }
        }
        let n = self.current.len().min(out.remaining());
        out.put_slice(self.current.get(..n).unwrap_or_default());
        self.current.advance(n);
        Poll::Ready(Ok(()))
    }
}
