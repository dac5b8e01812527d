//! Questions about the rest of the world, passed on to the node's resolvers as they are.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

/// A server that does not answer within this time is given up for the next. Clients wait five
/// seconds before they repeat a question.
const ANSWER_MILLISECONDS: u64 = 1800;
/// No datagram is longer.
const DATAGRAM_BYTES: usize = 65_535;

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

/// The servers of a resolv.conf, at most as many as the C library asks.
pub fn upstreams_of(resolv_conf: &str) -> Vec<SocketAddr> {
    resolv_conf
        .lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"))
        .filter(|rest| rest.starts_with([' ', '\t']))
        .filter_map(|rest| rest.split_whitespace().next())
        // An address may name the link that it is valid on.
        .filter_map(|text| text.split('%').next()?.parse::<IpAddr>().ok())
        .map(|ip| SocketAddr::new(ip, 53))
        .take(3)
        .collect()
}

/// Asks the servers one after another; gives the first answer, with the question's identifier.
pub async fn forward(
    question: &[u8],
    upstreams: &[SocketAddr],
    by_udp: bool,
) -> Result<Vec<u8>, ForwardError> {
    let mut last = None;
    for upstream in upstreams {
        let limit = Duration::from_millis(ANSWER_MILLISECONDS);
        let answer = async {
            if by_udp {
                ask_udp(question, *upstream).await
            } else {
                ask_tcp(question, *upstream).await
            }
        };
        match timeout(limit, answer).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => last = Some(error),
            Err(_) => last = Some(std::io::ErrorKind::TimedOut.into()),
        }
    }
    Err(last.map_or(ForwardError::NoUpstream, ForwardError::Failed))
}

/// By a socket of its own, whose port nobody can guess, with an identifier that nobody can.
async fn ask_udp(question: &[u8], upstream: SocketAddr) -> std::io::Result<Vec<u8>> {
    let any: IpAddr = match upstream {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(upstream).await?;
    #[expect(clippy::disallowed_methods, reason = "a secret: nobody may guess it")]
    let id: [u8; 2] = rand::random();
    let (own_id, rest) = question
        .split_at_checked(2)
        .ok_or(std::io::ErrorKind::InvalidInput)?;
    socket.send(&[&id, rest].concat()).await?;
    let mut buffer = vec![0; DATAGRAM_BYTES];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let answer = buffer.get(..length).unwrap_or_default();
        if let Some((got, rest)) = answer.split_at_checked(2)
            && got == id
        {
            return Ok([own_id, rest].concat());
        }
    }
}

async fn ask_tcp(question: &[u8], upstream: SocketAddr) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(upstream).await?;
    write_framed(&mut stream, question).await?;
    read_framed(&mut stream).await
}

/// Reads a message with its length before it.
pub async fn read_framed(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

/// Writes a message with its length before it.
pub async fn write_framed(stream: &mut TcpStream, message: &[u8]) -> std::io::Result<()> {
    let length = u16::try_from(message.len()).map_err(std::io::Error::other)?;
    let framed = [&length.to_be_bytes(), message].concat();
    stream.write_all(&framed).await
}
