//! The task that writes a connection: answers first, then the data of its streams, and pings.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use super::frame::{Encoder, Frame};
use super::shared::{LINGER, Role, Shared};
use crate::stream::lock;

/// What is gathered before it is written at once.
const WRITE_BYTES: usize = 64 * 1024;
/// Between our pings: often enough for middleboxes, and a dead peer shows as a failed write.
const PING_PERIOD: Duration = Duration::from_secs(30);

pub(super) async fn run_writer<W: AsyncWrite + Unpin>(
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
