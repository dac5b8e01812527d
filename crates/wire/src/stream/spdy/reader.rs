//! The task that reads a connection: hands data to streams, and answers what the peer asks.

use std::io;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt, BufReader};
use tokio::sync::mpsc;

use super::frame::{Decoder, Frame, HEAD_BYTES, Head, INITIAL_WINDOW, SpdyError, reset};
use super::headers::Headers;
use super::shared::{LINGER, MAX_STREAMS, Role, Shared, State};
use super::streams::Stream;
use crate::stream::{CHUNK_BYTES, lock};

#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Spdy(#[from] SpdyError),
}

pub(super) async fn run_reader<R: AsyncRead + Unpin + Send>(
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
