//! The sockets: questions in, answers out. Names of the cluster are answered from the index at
//! once; others wait for the upstream servers, a bounded number at a time.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use clock::Instant;
use hickory_proto::op::{Message, ResponseCode};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use wire::serve::{Connections, Limits, serve_streams};

use crate::answer::{Zone, answer};
use crate::counted::FIGURES;
use crate::forward::{ForwardError, forward, read_framed, write_framed};
use crate::index::Index;
use crate::message::{
    Question, Refusal, encode, error, open_alias, question, response, upstream_question,
};

/// So many questions at most wait for upstream servers; more are refused at once. At two kilobytes
/// and a socket each this stays far below the usual limit of descriptors.
const FORWARDED_AT_ONCE: usize = 512;
/// So many TCP connections at most are open; one more ends one of the address that has most, so that
/// a pod that holds many takes none of the others'. Each has at most a question and an answer of
/// 64 KiB in memory.
const CONNECTIONS: usize = 256;
/// A connection that has not brought a whole question, or taken its answer, for this long is closed.
const IDLE_SECONDS: u64 = 10;
/// No question is longer than this, by UDP or TCP: a name has 255 bytes.
const QUESTION_BYTES: usize = 4096;

/// What all sockets share.
pub struct Answerer {
    /// What names stand for.
    pub index: RwLock<Index>,
    /// Whether the index is complete: before, it cannot be said that a name does not exist.
    pub complete: AtomicBool,
    zone: Zone,
    upstreams: Vec<SocketAddr>,
    turn: AtomicUsize,
    forwarded: Semaphore,
}

impl Answerer {
    /// With an empty index.
    pub fn new(zone: Zone, upstreams: Vec<SocketAddr>) -> Self {
        Self {
            index: RwLock::default(),
            complete: AtomicBool::new(false),
            zone,
            upstreams,
            turn: AtomicUsize::new(0),
            forwarded: Semaphore::new(FORWARDED_AT_ONCE),
        }
    }

    /// Answers from the index, or says that the question is to be passed on.
    fn answer_here(&self, question: &Question) -> Option<(Message, Option<Vec<u8>>)> {
        let found = {
            let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
            answer(&index, &self.zone, &question.name, question.kind)?
        };
        if !self.complete.load(Ordering::Acquire) {
            return Some((error(&question.request, ResponseCode::ServFail), None));
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let alias = open_alias(&found, question.kind).and_then(|name| {
            upstream_question(
                question.request.metadata.id,
                name,
                question.query.query_type,
            )
        });
        Some((response(question, &found, turn), alias))
    }

    /// The whole answer to a request; `None` for silence.
    async fn handle(&self, bytes: &[u8], by_udp: bool) -> Option<Vec<u8>> {
        let began = Instant::now();
        let question = match question(bytes) {
            Ok(question) => question,
            Err(Refusal::Silence) => return None,
            Err(Refusal::Answer(message)) => return message.to_vec().ok(),
        };
        let answer = self.answered(&question, bytes, by_udp).await;
        let asked = FIGURES.asked(question.kind, by_udp, bytes.len());
        asked.answered(answer.as_deref(), began.elapsed());
        answer
    }

    async fn answered(&self, question: &Question, bytes: &[u8], by_udp: bool) -> Option<Vec<u8>> {
        match self.answer_here(question) {
            Some((response, None)) => encode(response, &question.request, by_udp),
            Some((response, Some(alias))) => {
                let response = self.follow(response, &alias).await;
                encode(response, &question.request, by_udp)
            }
            None => match self.pass_on(bytes, by_udp).await {
                Ok(answer) => Some(answer),
                Err(code) => error(&question.request, code).to_vec().ok(),
            },
        }
    }

    /// Adds the addresses of the name outside that a Service stands for: simple resolvers do not
    /// ask again.
    async fn follow(&self, mut response: Message, alias: &[u8]) -> Message {
        if let Ok(bytes) = self.pass_on(alias, true).await
            && let Ok(more) = Message::from_vec(&bytes)
        {
            response.answers.extend(more.answers);
        }
        response
    }

    async fn pass_on(&self, bytes: &[u8], by_udp: bool) -> Result<Vec<u8>, ResponseCode> {
        let Ok(_permit) = self.forwarded.try_acquire() else {
            return Err(ResponseCode::ServFail);
        };
        FIGURES.passed_on();
        forward(bytes, &self.upstreams, by_udp)
            .await
            .map_err(|error| match error {
                ForwardError::NoUpstream => ResponseCode::Refused,
                ForwardError::Failed(cause) => {
                    tracing::debug!(%cause, "question not answered upstream");
                    ResponseCode::ServFail
                }
            })
    }
}

/// Serves questions by UDP until dropped.
pub async fn serve_udp(socket: UdpSocket, answerer: Arc<Answerer>) {
    let socket = Arc::new(socket);
    let mut buffer = vec![0; QUESTION_BYTES];
    loop {
        let (length, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            // An answer to somebody could not be delivered.
            Err(_) => continue,
        };
        let bytes = buffer.get(..length).unwrap_or_default().to_vec();
        let (socket, answerer) = (Arc::clone(&socket), Arc::clone(&answerer));
        // Each waits for upstream by itself; `Answerer` bounds how many do.
        tokio::spawn(async move {
            if let Some(answer) = answerer.handle(&bytes, true).await {
                let _ = socket.send_to(&answer, from).await;
            }
        });
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
    while let Ok(Ok(bytes)) = tokio::time::timeout(idle, read_framed(&mut stream)).await {
        if bytes.len() > QUESTION_BYTES {
            return;
        }
        let Some(answer) = answerer.handle(&bytes, false).await else {
            return;
        };
        match tokio::time::timeout(idle, write_framed(&mut stream, &answer)).await {
            Ok(Ok(())) => {}
            _ => return,
        }
    }
}
