//! Questions about the rest of the world: to whom, in which order, and their answers.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use api::corefile::Order;
use clock::{Instant, Random};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::cache::Key;
use crate::message::UDP_BYTES;
use crate::metrics::METRICS;
use crate::packet::{is_cut, question_of};
use crate::settings::{Route, Server};
use crate::tls::Dialer;

/// A server that does not answer within this time is given up for the next one; those that were silent
/// are asked again in a next round, and waited for longer. So a datagram that is lost costs a moment,
/// also where there is one server alone, and one that is slow has its time in the end.
const ROUNDS_MILLISECONDS: [u64; 3] = [800, 1500, 2200];
/// For all rounds together: clients wait five seconds before they repeat a question.
const ALL_MILLISECONDS: u64 = 4500;
/// No datagram is longer.
const DATAGRAM_BYTES: usize = 65_535;
/// A server that did not answer is asked last for so long.
const LAST_SECONDS: u64 = 10;
/// Of so many servers it is remembered that they did not answer: more than any configuration has.
const REMEMBERED: usize = 256;
/// A server that does not answer is spoken of in the log so often: some datagrams are always lost.
const WARNED_SECONDS: u64 = 60;

/// Why a question could not be passed on.
#[derive(Debug, Error)]
pub enum ForwardError {
    /// There is nobody to ask.
    #[error("no upstream resolvers")]
    NoUpstream,
    /// Nobody answered.
    #[error("no upstream resolver answered: {0}")]
    Failed(std::io::Error),
}

/// The servers of a resolv.conf, at most as many as the C library asks. A port may be named as OpenBSD
/// has it: `[192.0.2.1]:5353`.
pub fn upstreams_of(resolv_conf: &str) -> Vec<SocketAddr> {
    resolv_conf
        .lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"))
        .filter(|rest| rest.starts_with([' ', '\t']))
        .filter_map(|rest| rest.split_whitespace().next())
        .filter_map(server_of)
        .take(3)
        .collect()
}

fn server_of(text: &str) -> Option<SocketAddr> {
    let (ip, port) = match text.strip_prefix('[') {
        Some(text) => text.split_once("]:")?,
        None => (text, "53"),
    };
    // An address may name the link that it is valid on.
    let ip: IpAddr = ip.split('%').next()?.parse().ok()?;
    Some(SocketAddr::new(ip, port.parse().ok()?))
}

/// The servers in the order in which they are asked: by the order that is wished, those that lately
/// did not answer behind all others.
pub fn ordered<S: Clone>(
    servers: &[S],
    order: Order,
    (turn, lot): (usize, u64),
    fails: impl Fn(&S) -> bool,
) -> Vec<S> {
    let mut all = servers.to_vec();
    let count = all.len().max(1);
    match order {
        Order::First => {}
        Order::InTurn => all.rotate_left(turn % count),
        Order::Random => {
            let by = usize::try_from(lot % u64::try_from(count).unwrap_or(1)).unwrap_or(0);
            all.rotate_left(by);
        }
    }
    // Stable: among those that answer, and among the others, the order stays.
    all.sort_by_key(fails);
    all
}

/// Who did not answer.
#[derive(Debug, Default)]
pub struct Failing(Mutex<HashMap<SocketAddr, Silence>>);

#[derive(Debug)]
struct Silence {
    /// Until when it counts.
    until: Instant,
    /// When it was last spoken of.
    warned: Instant,
}

impl Failing {
    fn has(&self, server: &SocketAddr, now: Instant) -> bool {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(server).is_some_and(|silence| now < silence.until)
    }

    /// Whether none of them answered lately.
    pub fn has_all(&self, servers: &[Server], now: Instant) -> bool {
        servers.iter().all(|server| self.has(&server.address, now))
    }

    /// Notes whether a server has answered; says whether that it has not is worth a word.
    fn note(&self, server: SocketAddr, answered: bool, now: Instant) -> bool {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if answered {
            if let Some(silence) = all.get_mut(&server) {
                silence.until = now;
            }
            return false;
        }
        let until = now + Duration::from_secs(LAST_SECONDS);
        if let Some(silence) = all.get_mut(&server) {
            silence.until = until;
            let again = now >= silence.warned + Duration::from_secs(WARNED_SECONDS);
            if again {
                silence.warned = now;
            }
            return again;
        }
        if all.len() >= REMEMBERED {
            all.retain(|_, silence| now < silence.until);
        }
        let has_room = all.len() < REMEMBERED;
        if has_room {
            all.insert(server, Silence { until, warned: now });
        }
        has_room
    }
}

/// The question as it is passed on: nothing of the client's but what makes answers differ.
fn question(key: &Key) -> Vec<u8> {
    let checking_disabled = if key.checking_disabled { 0x10 } else { 0 };
    let additional = u8::from(key.edns.is_some());
    // Recursion is desired.
    let header = [0, 0, 1, checking_disabled, 0, 1, 0, 0, 0, 0, 0, additional];
    let mut bytes = header.to_vec();
    bytes.extend_from_slice(&key.question);
    if let Some(signed) = key.edns {
        let [high, low] = UDP_BYTES.to_be_bytes();
        let wanted = if signed { 0x80 } else { 0 };
        bytes.extend_from_slice(&[0, 0, 41, high, low, 0, 0, wanted, 0, 0, 0]);
    }
    bytes
}

/// What is asked with.
pub struct ForwardContext<'a> {
    /// Who did not answer.
    pub failing: &'a Failing,
    /// Which server's turn it is.
    pub turn: usize,
    /// Lots.
    pub random: &'a Random,
    /// Connections over TLS.
    pub dialer: &'a Dialer,
}

/// Asks a route's servers one after another, those that are silent several times; gives the first
/// answer.
pub async fn forward(
    key: &Key,
    route: &Route,
    means: ForwardContext<'_>,
) -> Result<Vec<u8>, ForwardError> {
    let ForwardContext {
        failing,
        turn,
        random,
        dialer,
    } = means;
    let question = question(key);
    let now = Instant::now();
    let end = now + Duration::from_millis(ALL_MILLISECONDS);
    let lot = (turn, random.number());
    let fails = |server: &Server| failing.has(&server.address, now);
    let mut asked = ordered(&route.servers, route.order, lot, fails);
    let mut last = None;
    for milliseconds in ROUNDS_MILLISECONDS {
        let mut silent = Vec::new();
        for server in asked {
            let start = Instant::now();
            let rest = end.saturating_duration_since(start);
            if rest.is_zero() {
                break;
            }
            METRICS.passed_on(server.address);
            let limit = Duration::from_millis(milliseconds).min(rest);
            let address = server.address;
            let answer = match &server.tls {
                Some(name) => {
                    let peer = (address, name.clone());
                    within(limit, ask_tls(&question, &peer, dialer)).await
                }
                None => ask(&question, address, route.by_tcp, limit).await,
            };
            if failing.note(address, answer.is_ok(), Instant::now())
                && let Err(error) = &answer
            {
                tracing::warn!(server = %address, %error, "a DNS server that is asked does not answer");
            }
            let bytes = answer.as_ref().ok().map(Vec::as_slice);
            METRICS.upstream(address, start.elapsed(), bytes);
            match answer {
                Ok(answer) => return Ok(answer),
                // Who says no would say it again.
                Err(error) => {
                    if error.kind() == std::io::ErrorKind::TimedOut {
                        silent.push(server);
                    }
                    last = Some(error);
                }
            }
        }
        asked = silent;
    }
    METRICS.nobody_answered();
    Err(last.map_or(ForwardError::NoUpstream, ForwardError::Failed))
}

/// What is not there in time is an error of its own kind.
async fn within(
    limit: Duration,
    answer: impl Future<Output = std::io::Result<Vec<u8>>>,
) -> std::io::Result<Vec<u8>> {
    match timeout(limit, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(std::io::ErrorKind::TimedOut.into()),
    }
}

async fn ask(
    question: &[u8],
    server: SocketAddr,
    by_tcp: bool,
    limit: Duration,
) -> std::io::Result<Vec<u8>> {
    if by_tcp {
        return within(limit, ask_tcp(question, server)).await;
    }
    let answer = within(limit, ask_udp(question, server)).await?;
    if !is_cut(&answer) {
        return Ok(answer);
    }
    // All of it is kept, for who comes by TCP too; a part is better than nothing.
    match within(limit, ask_tcp(question, server)).await {
        Ok(whole) => Ok(whole),
        Err(_) => Ok(answer),
    }
}

/// An identifier that nobody can guess.
fn with_id(question: &[u8]) -> std::io::Result<([u8; 2], Vec<u8>)> {
    #[expect(clippy::disallowed_methods, reason = "a secret: nobody may guess it")]
    let id: [u8; 2] = rand::random();
    let rest = question.get(2..).ok_or(std::io::ErrorKind::InvalidInput)?;
    Ok((id, [&id, rest].concat()))
}

/// Whether bytes answer a question: the same identifier and the same question.
fn answers(answer: &[u8], id: [u8; 2], question: &[u8]) -> bool {
    let same = |a: &[u8], b: &[u8]| a.eq_ignore_ascii_case(b);
    let asked = question_of(question).unwrap_or_default();
    answer.get(..2) == Some(&id)
        && answer.get(2).is_some_and(|flags| flags & 0x80 != 0)
        && question_of(answer).is_some_and(|repeated| same(repeated, asked))
}

/// By a socket of its own, whose port nobody can guess.
async fn ask_udp(question: &[u8], upstream: SocketAddr) -> std::io::Result<Vec<u8>> {
    let any: IpAddr = match upstream {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(upstream).await?;
    let (id, message) = with_id(question)?;
    socket.send(&message).await?;
    // Nothing of it is written, or in memory, but what comes: with 512 questions on their way that is
    // the difference between two megabytes and 33.
    let mut buffer: Vec<u8> = Vec::with_capacity(DATAGRAM_BYTES);
    loop {
        buffer.clear();
        socket.recv_buf(&mut buffer).await?;
        if answers(&buffer, id, question) {
            return Ok(buffer.as_slice().into());
        }
    }
}

async fn ask_tcp(question: &[u8], upstream: SocketAddr) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(upstream).await?;
    exchange(question, &mut stream).await
}

/// A kept connection may have been closed by the other side meanwhile; then by a new one.
async fn ask_tls(
    question: &[u8],
    peer: &(SocketAddr, ServerName<'static>),
    dialer: &Dialer,
) -> std::io::Result<Vec<u8>> {
    let (mut connection, was_kept) = dialer.connection(peer).await?;
    let mut answer = exchange(question, &mut connection).await;
    if answer.is_err() && was_kept {
        connection = dialer.connect(peer).await?;
        answer = exchange(question, &mut connection).await;
    }
    if answer.is_ok() {
        dialer.keep(peer, connection);
    }
    answer
}

async fn exchange(
    question: &[u8],
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
) -> std::io::Result<Vec<u8>> {
    let (id, message) = with_id(question)?;
    write_framed(stream, &message).await?;
    let answer = read_framed(stream).await?;
    match answers(&answer, id, question) {
        true => Ok(answer),
        false => Err(std::io::ErrorKind::InvalidData.into()),
    }
}

/// Reads a message with its length before it.
pub async fn read_framed(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

/// Writes a message with its length before it.
pub async fn write_framed(
    stream: &mut (impl AsyncWrite + Unpin),
    message: &[u8],
) -> std::io::Result<()> {
    let length = u16::try_from(message.len()).map_err(std::io::Error::other)?;
    let framed = [&length.to_be_bytes(), message].concat();
    stream.write_all(&framed).await?;
    stream.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_did_not_answer_is_asked_last() {
        let servers: Vec<SocketAddr> = ["192.0.2.1:53", "192.0.2.2:53", "192.0.2.3:53"]
            .map(|s| s.parse().unwrap())
            .into();
        let asked = |order, turn, lot, bad: &[usize]| -> Vec<usize> {
            let fails = |s: &SocketAddr| bad.iter().any(|i| servers[*i] == *s);
            let place = |s: &SocketAddr| servers.iter().position(|o| o == s);
            let all = ordered(&servers, order, (turn, lot), fails);
            all.iter().filter_map(place).collect()
        };
        for (order, turn, lot, bad, expected) in [
            (Order::First, 5, 5, &[][..], [0, 1, 2]),
            (Order::First, 5, 5, &[0], [1, 2, 0]),
            (Order::InTurn, 1, 0, &[], [1, 2, 0]),
            (Order::InTurn, 3, 0, &[], [0, 1, 2]),
            (Order::InTurn, 1, 0, &[1, 2], [0, 1, 2]),
            (Order::Random, 0, 2, &[], [2, 0, 1]),
            (Order::Random, 0, 2, &[0, 1, 2], [2, 0, 1]),
        ] {
            assert_eq!(
                asked(order, turn, lot, bad),
                expected,
                "{order:?} {turn} {lot} {bad:?}"
            );
        }
        assert!(ordered::<SocketAddr>(&[], Order::Random, (3, 3), |_| false).is_empty());
    }

    #[test]
    fn servers_are_read_with_links_and_ports() {
        let text = "search example.com\nnameserver 192.0.2.1\n  nameserver\tfe80::1%eth0\n\
                    nameservers 192.0.2.9\n# nameserver 192.0.2.9\nnameserver [192.0.2.2]:5353\n\
                    nameserver [::1]:\nnameserver nobody\nnameserver 192.0.2.3\n";
        let expected = ["192.0.2.1:53", "[fe80::1]:53", "192.0.2.2:5353"];
        assert_eq!(
            upstreams_of(text),
            expected.map(|s| s.parse::<SocketAddr>().unwrap())
        );
        assert_eq!(server_of("[::1]:54"), "[::1]:54".parse().ok());
    }

    #[test]
    fn who_fails_is_remembered_for_a_while() {
        let (failing, now) = (Failing::default(), Instant::now());
        let server = "192.0.2.1:53".parse().unwrap();
        assert!(
            failing.note(server, false, now),
            "the first time it is said"
        );
        let last = Duration::from_secs(LAST_SECONDS);
        assert!(failing.has(&server, now) && !failing.has(&server, now + last));
        assert!(!failing.note(server, true, now));
        assert!(!failing.has(&server, now));
        for (seconds, said) in [
            (1, false),
            (WARNED_SECONDS - 1, false),
            (WARNED_SECONDS, true),
        ] {
            let later = now + Duration::from_secs(seconds);
            assert_eq!(failing.note(server, false, later), said, "{seconds}");
            assert!(failing.has(&server, later));
        }
        for number in 0..2 * u16::try_from(REMEMBERED).unwrap() {
            failing.note(([192, 0, 2, 9], number).into(), false, now);
        }
        let all = failing.0.lock().unwrap();
        assert_eq!(all.len(), REMEMBERED);
    }

    #[test]
    fn only_the_answer_to_the_question_is_one() {
        let key = Key {
            block: 0,
            question: b"\x01a\0\0\x01\0\x01".to_vec(),
            edns: Some(true),
            checking_disabled: false,
        };
        let asked = question(&key);
        let mut answer = asked.clone();
        answer[..3].copy_from_slice(&[9, 9, 0x81]);
        assert!(answers(&answer, [9, 9], &asked));
        assert!(!answers(&answer, [9, 8], &asked), "another identifier");
        let mut other = answer.clone();
        other[13] = b'b';
        assert!(!answers(&other, [9, 9], &asked), "another name");
        answer[13] = b'A';
        assert!(answers(&answer, [9, 9], &asked), "other letters");
        assert!(!answers(&asked, [0, 0], &asked), "a question");
    }
}
