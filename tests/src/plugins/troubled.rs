//! What stands between a kubelet and its container runtime, and makes the runtime's answers slow, late
//! or lost. It passes bytes and knows no protocol: a connection that breaks in the middle of an answer
//! is a call whose outcome nobody knows.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::StreamExt as _;

use super::listen;

/// What is done to answers: a file says `MILLISECONDS ANSWERS`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Trouble {
    /// By how much each comes late.
    delay: Duration,
    /// After so many answers the next is lost, and its connection with it; 0: none.
    loses_after: u64,
}

impl Trouble {
    /// No file: all is well.
    fn of(text: &str) -> Self {
        let mut words = text.split_whitespace().map(|w| w.parse().unwrap_or(0));
        let mut next = || words.next().unwrap_or(0);
        Self {
            delay: Duration::from_millis(next()),
            loses_after: next(),
        }
    }
}

/// Which answers are lost. A connection that breaks ends every call on it, and the runtime gives up what
/// these calls began. Losses in equal distances could therefore meet a long call at the same place again
/// each time it is tried, for ever; each distance is one answer longer than the one before, so that
/// whatever takes long is done at last, however slow the machine.
#[derive(Debug, Default)]
struct Losses {
    /// Answers since the last loss.
    passed: u64,
    lost: u64,
}

impl Losses {
    /// Counts an answer; whether it is lost.
    fn take(&mut self, trouble: Trouble) -> bool {
        if trouble.loses_after == 0 {
            *self = Self::default();
            return false;
        }
        if self.passed < trouble.loses_after + self.lost {
            self.passed += 1;
            return false;
        }
        self.passed = 0;
        self.lost += 1;
        true
    }
}

/// Stands at `front` for the runtime at `back`, as the file says.
pub async fn run(front: &Path, back: &Path, file: &Path) -> Result<()> {
    let mut incoming = listen(front)?;
    println!("listening");
    let losses = Arc::new(Mutex::new(Losses::default()));
    while let Some(client) = incoming.next().await {
        let (client, back, file) = (client?, back.to_owned(), file.to_owned());
        let losses = losses.clone();
        tokio::spawn(async move {
            // Its two ends see it break.
            let _ = pass(client, back, file, losses).await;
        });
    }
    Ok(())
}

async fn pass(
    client: UnixStream,
    back: PathBuf,
    file: PathBuf,
    losses: Arc<Mutex<Losses>>,
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
            if n == 0 {
                return Ok(());
            }
            let mut losses = losses.lock().unwrap_or_else(PoisonError::into_inner);
            if losses.take(trouble) {
                return Ok(());
            }
            drop(losses);
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
        assert_eq!(Trouble::of(""), Trouble::default());
        let all = Trouble::of("250 3\n");
        assert_eq!(all.delay, Duration::from_millis(250));
        assert_eq!(all.loses_after, 3);
    }

    #[test]
    fn losses_come_ever_more_rarely_and_begin_afresh() {
        let trouble = Trouble::of("0 2");
        let mut losses = Losses::default();
        let lost = |losses: &mut Losses| -> Vec<u64> {
            (1..=17).filter(|_| losses.take(trouble)).collect()
        };
        let first = lost(&mut losses);
        assert_eq!(first, [3, 7, 12]);
        assert!(!losses.take(Trouble::default()));
        assert_eq!(lost(&mut losses), first);
    }
}
