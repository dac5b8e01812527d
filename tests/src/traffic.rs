//! Connections to Services from this machine, each a new one.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// A connection that hangs is a failure, not a wait.
const LIMIT: Duration = Duration::from_secs(30);

/// GETs a path over a new connection and gives the body.
pub fn get(address: SocketAddr, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, LIMIT)
        .with_context(|| format!("connecting to {address}"))?;
    stream.set_read_timeout(Some(LIMIT))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    let mut text = String::new();
    stream
        .read_to_string(&mut text)
        .with_context(|| format!("reading from {address}"))?;
    let (head, body) = text
        .split_once("\r\n\r\n")
        .with_context(|| format!("no answer: {text:?}"))?;
    ensure!(head.contains(" 200 "), "{address}{path} answered {head}");
    Ok(body.to_owned())
}

/// How often each pod answered `count` connections.
pub fn spread(address: SocketAddr, count: usize) -> Result<BTreeMap<String, usize>> {
    let mut answers = BTreeMap::new();
    for _ in 0..count {
        *answers
            .entry(get(address, "/hostname")?.trim().to_owned())
            .or_insert(0) += 1;
    }
    Ok(answers)
}

/// A datagram that is not answered is sent again by the same socket, which is the same flow.
const AGAIN: Duration = Duration::from_secs(1);

/// How often each pod answered `count` datagrams, each from a socket of its own. Sockets are kept: a
/// port that is used again would go on with an older flow.
pub fn spread_udp(
    address: SocketAddr,
    count: usize,
    kept: &mut Vec<UdpSocket>,
) -> Result<BTreeMap<String, usize>> {
    let mut answers = BTreeMap::new();
    for _ in 0..count {
        let socket = match address {
            SocketAddr::V4(_) => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?,
            SocketAddr::V6(_) => UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?,
        };
        socket.connect(address)?;
        socket.set_read_timeout(Some(AGAIN))?;
        *answers.entry(answer_to(&socket)?).or_insert(0) += 1;
        kept.push(socket);
    }
    Ok(answers)
}

fn answer_to(socket: &UdpSocket) -> Result<String> {
    let mut buffer = [0; 512];
    let begun = Instant::now();
    while begun.elapsed() < LIMIT {
        socket.send(b"who?")?;
        if let Ok(length) = socket.recv(&mut buffer) {
            let text = buffer.get(..length).unwrap_or_default();
            return Ok(String::from_utf8_lossy(text).trim().to_owned());
        }
    }
    bail!("{:?} did not answer", socket.peer_addr())
}

/// The same from lines that a loop inside a pod printed.
pub fn count(lines: &str) -> BTreeMap<String, usize> {
    let mut answers = BTreeMap::new();
    for line in lines.lines() {
        *answers.entry(line.trim().to_owned()).or_insert(0) += 1;
    }
    answers
}

/// Requests without a pause, each over a new connection, beside the test.
pub struct Load {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<LoadResult>>,
    threads: Vec<JoinHandle<()>>,
}

/// What a [`Load`] got.
#[derive(Clone, Debug, Default)]
pub struct LoadResult {
    pub answered: usize,
    pub failures: Vec<String>,
}

impl Load {
    /// Asks each of the addresses by a thread of its own.
    pub fn start(addresses: &[SocketAddr]) -> Self {
        let (stop, seen) = (
            Arc::<AtomicBool>::default(),
            Arc::<Mutex<LoadResult>>::default(),
        );
        let ask = |address: SocketAddr| {
            let (stop, seen) = (stop.clone(), seen.clone());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let answer = get(address, "/hostname");
                    let Ok(mut seen) = seen.lock() else { return };
                    match answer {
                        Ok(_) => seen.answered += 1,
                        Err(e) => seen.failures.push(format!("{e:#}")),
                    }
                }
            })
        };
        let threads = addresses.iter().map(|a| ask(*a)).collect();
        Self {
            stop,
            seen,
            threads,
        }
    }

    /// How many requests were answered so far.
    pub fn answered(&self) -> usize {
        self.seen.lock().map(|s| s.answered).unwrap_or_default()
    }

    /// How many failed so far.
    pub fn failed(&self) -> usize {
        self.seen
            .lock()
            .map(|s| s.failures.len())
            .unwrap_or_default()
    }

    /// Ends it, and gives all that it got.
    pub fn end(mut self) -> Result<LoadResult> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread
                .join()
                .map_err(|_| anyhow::anyhow!("a thread of the load panicked"))?;
        }
        let seen = self.seen.lock().map_err(|_| anyhow::anyhow!("poisoned"))?;
        Ok(seen.clone())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
