//! The door between the CNI plugin and the agent: before the plugin says that a pod is connected,
//! the agent has to have programmed what the pod is allowed. So no process of the pod runs before,
//! and there is no moment in which it is without protection.
//!
//! A socket in the file system, which is the node's alone: one question a connection, as a line of
//! JSON; one line answers.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clock::Instant;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};

/// Questions that wait for the agent at most; more wait in front of the door.
const QUESTIONS: usize = 64;
/// A question is not longer: some addresses and names.
const QUESTION_BYTES: u64 = 16 << 10;
/// How long the agent may take. A transaction takes milliseconds; a server that does not answer
/// after a restart of the node takes longer, and then the runtime asks again.
const ANSWER: Duration = Duration::from_secs(10);
/// How long the plugin tries to find the agent, which may be restarting.
const FIND: Duration = Duration::from_secs(5);
/// The pause between two attempts.
const FIND_PAUSE: Duration = Duration::from_millis(100);

/// What the plugin has done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Notice {
    /// A pod is about to have these addresses.
    Added {
        /// The pod's namespace.
        namespace: String,
        /// The pod's name.
        name: String,
        /// The pod's identity.
        uid: String,
        /// The name of the attachment.
        sandbox: String,
        /// Its addresses.
        addresses: Vec<IpAddr>,
    },
    /// Nobody has these addresses any more.
    Removed {
        /// The name of the attachment that had them.
        sandbox: String,
        /// The addresses.
        addresses: Vec<IpAddr>,
    },
}

/// A question that the agent is to answer: it does so when the kernel has what follows from it.
pub type Question = (Notice, oneshot::Sender<()>);

/// The agent's side; closes when dropped.
pub struct Door {
    path: PathBuf,
    task: JoinHandle<()>,
}

impl Door {
    /// Opens the door at a path, which a dead agent may have left.
    pub fn open(path: &Path) -> io::Result<(Self, mpsc::Receiver<Question>)> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        // Another name first: nobody may connect before the file's rights are as they shall be.
        let new = path.with_extension("new");
        for old in [&new, path] {
            match std::fs::remove_file(old) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        let listener = UnixListener::bind(&new)?;
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600))?;
        std::fs::rename(&new, path)?;
        let (to_agent, questions) = mpsc::channel(QUESTIONS);
        let task = tokio::spawn(serve(listener, to_agent));
        let path = path.to_owned();
        Ok((Self { path, task }, questions))
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.task.abort();
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn serve(listener: UnixListener, to_agent: mpsc::Sender<Question>) {
    let mut asked = JoinSet::new();
    loop {
        while asked.len() >= QUESTIONS {
            asked.join_next().await;
        }
        tokio::select! {
            biased;
            Some(_) = asked.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let to_agent = to_agent.clone();
                    asked.spawn(async move {
                        let _ = tokio::time::timeout(ANSWER, answer(stream, to_agent)).await;
                    });
                }
                // Such as too many open files.
                Err(_) => tokio::time::sleep(FIND_PAUSE).await,
            },
        }
    }
}

async fn answer(
    mut stream: tokio::net::UnixStream,
    to_agent: mpsc::Sender<Question>,
) -> io::Result<()> {
    let (read, mut write) = stream.split();
    let mut line = String::new();
    let read = read.take(QUESTION_BYTES);
    tokio::io::BufReader::new(read).read_line(&mut line).await?;
    let said = match serde_json::from_str(&line) {
        Err(e) => format!("not understood: {e}"),
        Ok(notice) => {
            let (done, when_done) = oneshot::channel();
            let sent = to_agent.send((notice, done)).await.is_ok();
            match sent && when_done.await.is_ok() {
                true => "ok".into(),
                false => "the agent is about to end".into(),
            }
        }
    };
    write.write_all(format!("{said}\n").as_bytes()).await
}

/// The plugin's side: reports to the agent, and returns when the kernel has what follows from it.
pub fn tell(path: &Path, notice: &Notice) -> io::Result<()> {
    let mut stream = find(path)?;
    // A little longer than the agent takes, so that its own words are heard.
    stream.set_read_timeout(Some(ANSWER + FIND_PAUSE))?;
    stream.set_write_timeout(Some(ANSWER))?;
    let mut line = serde_json::to_vec(notice)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut said = String::new();
    BufReader::new(stream.take(QUESTION_BYTES)).read_line(&mut said)?;
    match said.trim() {
        "ok" => Ok(()),
        "" => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the node's agent does not know enough to decide",
        )),
        other => Err(io::Error::other(other.to_owned())),
    }
}

/// The plugin's side of a notice that nothing depends on.
pub fn mention(path: &Path, notice: &Notice) -> io::Result<()> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_write_timeout(Some(FIND_PAUSE))?;
    let mut line = serde_json::to_vec(notice)?;
    line.push(b'\n');
    stream.write_all(&line)
}

/// Connects, also to an agent that is just starting.
#[expect(
    clippy::disallowed_methods,
    reason = "the plugin is a process of its own, which does nothing else"
)]
fn find(path: &Path) -> io::Result<UnixStream> {
    let begin = Instant::now();
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return Ok(stream),
            Err(e) if begin.elapsed() > FIND => return Err(e),
            Err(_) => std::thread::sleep(FIND_PAUSE),
        }
    }
}
