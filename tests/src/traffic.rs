//! Connections to Services from this machine, each a new one.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

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

/// The same from lines that a loop inside a pod printed.
pub fn count(lines: &str) -> BTreeMap<String, usize> {
    let mut answers = BTreeMap::new();
    for line in lines.lines() {
        *answers.entry(line.trim().to_owned()).or_insert(0) += 1;
    }
    answers
}
