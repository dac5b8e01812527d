//! The supervisor's socket, which root alone can open: a request is one line of JSON, and so is
//! its answer.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

use crate::report::Report;

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "command")]
pub enum Request {
    Status,
    Down,
    /// Boot a machine of the cluster, or pull its plug.
    Switch {
        kind: MachineKind,
        name: String,
        on: bool,
    },
}

/// What a machine of the cluster is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MachineKind {
    Node,
    Server,
}

impl std::fmt::Display for MachineKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Node => "node",
            Self::Server => "server",
        })
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "answer")]
pub enum Answer {
    Done { message: String },
    Failed { message: String },
    Status { report: Report },
}

#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("no cluster is up on this data directory ({0})")]
    NotUp(String),
    #[error("talking to the supervisor: {0}")]
    Io(#[from] std::io::Error),
    #[error("the supervisor's answer is not understood: {0}")]
    Json(#[from] serde_json::Error),
}

/// Opens the socket, with mode 0600, in place of one that a dead supervisor left.
pub fn listen(path: &Path) -> std::io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Longest request line in bytes: a command and a node's name.
const MAX_REQUEST: u64 = 4096;

/// Reads the one request of a connection.
pub async fn receive(stream: &mut UnixStream) -> Result<Request, ControlError> {
    let mut line = String::new();
    let mut limited = tokio::io::AsyncReadExt::take(BufReader::new(stream), MAX_REQUEST);
    limited.read_line(&mut line).await?;
    Ok(serde_json::from_str(&line)?)
}

pub async fn answer(stream: &mut UnixStream, answer: &Answer) -> Result<(), ControlError> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    Ok(stream.write_all(&line).await?)
}

/// Asks the supervisor of a data directory.
pub async fn ask(socket: &Path, request: &Request) -> Result<Answer, ControlError> {
    let mut stream = UnixStream::connect(socket)
        .await
        .map_err(|_| ControlError::NotUp(socket.display().to_string()))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    let mut text = String::new();
    BufReader::new(stream).read_line(&mut text).await?;
    Ok(serde_json::from_str(&text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_request_reaches_the_supervisor_and_its_answer_comes_back() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("sock");
        let listener = listen(&path).expect("listen");
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("accept");
            let request = receive(&mut stream).await.expect("request");
            answer(
                &mut stream,
                &Answer::Done {
                    message: "x".into(),
                },
            )
            .await
            .expect("answer");
            request
        });
        let request = Request::Switch {
            kind: MachineKind::Node,
            name: "n1".into(),
            on: false,
        };
        let answer = ask(&path, &request).await.expect("ask");
        assert!(matches!(answer, Answer::Done { message } if message == "x"));
        assert_eq!(server.await.expect("server"), request);
    }

    #[tokio::test]
    async fn nobody_there_is_said_plainly() {
        let dir = tempfile::tempdir().expect("dir");
        let error = ask(&dir.path().join("sock"), &Request::Status)
            .await
            .expect_err("nobody");
        assert!(error.to_string().starts_with("no cluster is up"));
    }
}
