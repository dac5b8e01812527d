//! The sockets of clients: questions in, answers out. What they are answered is known to
//! [`Answerer`] alone.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use clock::Instant;
use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::coop::{consume_budget, has_budget_remaining};
use wire::serve::{Connections, Limits, serve_streams};

use crate::forward::{read_framed, write_framed};
use crate::metrics::CountedQuestion;
use crate::outgoing::Outgoing;
use crate::server::{Answerer, Handled};

/// So many TCP connections at most are open; one more ends one of the address that has most, so that
/// a pod that holds many takes none of the others'. Each has at most a question and an answer of
/// 64 KiB in memory.
const CONNECTIONS: usize = 256;
/// A connection that has not brought a whole question, or taken its answer, for this long is closed.
const IDLE_SECONDS: u64 = 10;
/// No question is longer than this, by UDP or TCP: a name has 255 bytes.
const QUESTION_BYTES: usize = 4096;
/// So many bytes of questions wait at most while our threads do something else. The kernel counts
/// about 800 for each, and doubles this: some 2,600 of them, where by its own bound the 280th of a
/// burst is lost, and whoever asked waits for seconds before he asks again.
const WAITING_BYTES: usize = 1 << 20;

/// Counts an answer, if there was a question.
fn note(taken: Option<CountedQuestion>, answer: Option<&[u8]>, start: Instant) {
    if let Some(taken) = taken {
        taken.answered(answer, start.elapsed());
    }
}

/// Gives questions that wait their room; as much as the machine gives anybody, where this user may
/// not have more.
pub fn make_room(socket: &UdpSocket) {
    let size = WAITING_BYTES;
    let forced = sockopt::set_socket_recv_buffer_size_force(socket, size);
    let made = forced.or_else(|_| sockopt::set_socket_recv_buffer_size(socket, size));
    if let Err(error) = made {
        tracing::warn!(%error, "bursts of DNS questions have the kernel's room alone");
    }
}

/// Serves questions by UDP until dropped.
pub async fn serve_udp(socket: UdpSocket, answerer: Arc<Answerer>) {
    let socket = Arc::new(socket);
    let mut buffer = vec![0; QUESTION_BYTES];
    let mut outgoing = Outgoing::default();
    loop {
        // What has arrived already is taken without asking whether there is something.
        let received = socket.try_recv_from(&mut buffer);
        let is_none = |error: &std::io::Error| error.kind() == ErrorKind::WouldBlock;
        let has_waited = received.as_ref().is_err_and(is_none);
        let received = match has_waited {
            true => {
                outgoing.send(&socket).await;
                socket.recv_from(&mut buffer).await
            }
            false => {
                // Others have their turn, however many ask.
                if !has_budget_remaining() {
                    outgoing.send(&socket).await;
                }
                consume_budget().await;
                received
            }
        };
        // Else an answer to somebody could not be delivered.
        let Ok((length, from)) = received else {
            continue;
        };
        let start = Instant::now();
        let bytes = buffer.get(..length).unwrap_or_default();
        let (taken, handled) = answerer.handle(bytes, (from, true), start);
        match handled {
            Handled::Done(answer) => {
                note(taken, answer.as_deref(), start);
                // The first of those that come at once, which may be the only one, waits for none.
                if let Some(answer) = answer
                    && (outgoing.put(from, answer) || has_waited)
                {
                    outgoing.send(&socket).await;
                }
            }
            // Each waits for others by itself; `Answerer` bounds how many do.
            Handled::Waits(asked, said) => {
                let (socket, answerer) = (Arc::clone(&socket), Arc::clone(&answerer));
                tokio::spawn(async move {
                    let answer = answerer.go_on(*asked, said).await;
                    note(taken, answer.as_deref(), start);
                    if let Some(answer) = answer {
                        let _ = socket.send_to(&answer, from).await;
                    }
                });
            }
        }
    }
}

/// Serves questions by TCP until dropped; the connections end with it.
pub async fn serve_tcp(listener: TcpListener, answerer: Arc<Answerer>) {
    let room = Connections::new(Limits::of_strangers(CONNECTIONS));
    let handle = move |stream| connection(stream, Arc::clone(&answerer));
    serve_streams(room, listener, handle).await;
}

async fn connection(mut stream: TcpStream, answerer: Arc<Answerer>) {
    let idle = Duration::from_secs(IDLE_SECONDS);
    let Ok(from) = stream.peer_addr() else { return };
    while let Ok(Ok(bytes)) = tokio::time::timeout(idle, read_framed(&mut stream)).await {
        if bytes.len() > QUESTION_BYTES {
            return;
        }
        let start = Instant::now();
        let (taken, handled) = answerer.handle(&bytes, (from, false), start);
        let answer = match handled {
            Handled::Done(answer) => answer,
            Handled::Waits(asked, said) => answerer.go_on(*asked, said).await,
        };
        note(taken, answer.as_deref(), start);
        let Some(answer) = answer else { return };
        match tokio::time::timeout(idle, write_framed(&mut stream, &answer)).await {
            Ok(Ok(())) => {}
            _ => return,
        }
    }
}
