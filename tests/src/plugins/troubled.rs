//! What stands between a kubelet and its container runtime, and makes the runtime's answers slow, late
//! or lost. It passes bytes and knows no protocol: a connection that breaks in the middle of an answer
//! is a call whose outcome nobody knows.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::StreamExt as _;

use super::listen;

/// What is done to answers: a file says `MILLISECONDS EVERY`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Trouble {
    /// By how much each comes late.
    delay: Duration,
    /// Each of this number is lost, and its connection with it; 0: none.
    loses_every: u64,
}

impl Trouble {
    /// No file: all is well.
    fn of(text: &str) -> Self {
        let mut words = text.split_whitespace().map(|w| w.parse().unwrap_or(0));
        let mut next = || words.next().unwrap_or(0);
        Self {
            delay: Duration::from_millis(next()),
            loses_every: next(),
        }
    }

    fn loses(self, number: u64) -> bool {
        self.loses_every > 0 && number.is_multiple_of(self.loses_every)
    }
}

/// Stands at `front` for the runtime at `back`, as the file says.
pub async fn run(front: &Path, back: &Path, file: &Path) -> Result<()> {
    let mut incoming = listen(front)?;
    println!("listening");
    let answers = Arc::new(AtomicU64::new(0));
    while let Some(client) = incoming.next().await {
        let (client, back, file) = (client?, back.to_owned(), file.to_owned());
        let answers = answers.clone();
        tokio::spawn(async move {
            // Its two ends see it break.
            let _ = pass(client, back, file, answers).await;
        });
    }
    Ok(())
}

async fn pass(
    client: UnixStream,
    back: PathBuf,
    file: PathBuf,
    answers: Arc<AtomicU64>,
) -> Result<()> {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_runtime, mut to_runtime) = UnixStream::connect(back).await?.into_split();
    // It holds what the kubelet asked for within the delay.
    let (sender, mut due) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    let asked = async {
        tokio::io::copy(&mut from_client, &mut to_runtime).await?;
        Ok(())
    };
    let answered = async {
        loop {
            let mut part = vec![0; 64 << 10];
            let n = from_runtime.read(&mut part).await?;
            let trouble = Trouble::of(&std::fs::read_to_string(&file).unwrap_or_default());
            if n == 0 || trouble.loses(answers.fetch_add(1, Ordering::Relaxed) + 1) {
                return Ok(());
            }
            part.truncate(n);
            sender.send((Instant::now() + trouble.delay, part))?;
        }
    };
    let delivered = async {
        while let Some((at, part)) = due.recv().await {
            tokio::time::sleep_until(at).await;
            to_client.write_all(&part).await?;
        }
        Ok(())
    };
    tokio::select! {
        biased;
        ended = asked => ended,
        ended = answered => ended,
        ended = delivered => ended,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_says_what_is_done_to_answers() {
        let well = Trouble::default();
        assert_eq!(Trouble::of(""), well);
        assert!(!well.loses(1));
        let all = Trouble::of("250 3\n");
        assert_eq!(all.delay, Duration::from_millis(250));
        let lost: Vec<u64> = (1..=7).filter(|n| all.loses(*n)).collect();
        assert_eq!(lost, [3, 6]);
    }
}
