//! systemd-logind, by the host's own tools: it announces that the machine goes down, and waits while
//! somebody holds its lock.

use serde_json::Value;
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

/// Where logind reads how long it may have to wait.
const SETTINGS: &str = "/etc/systemd/logind.conf.d/99-tiphys-kubelet.conf";
const MANAGER: [&str; 3] = [
    "org.freedesktop.login1",
    "/org/freedesktop/login1",
    "org.freedesktop.login1.Manager",
];
const MATCH: &str = "--match=type='signal',sender='org.freedesktop.login1',interface='org.freedesktop.login1.Manager',member='PrepareForShutdown'";
/// The longest that a tool may take which only asks.
const ANSWER: Duration = Duration::from_secs(10);

/// What logind announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Announced {
    /// The machine goes down as soon as nobody holds the lock.
    Shutdown,
    /// It stays.
    Cancelled,
}

/// Whoever is asked; what is held is let go when this is dropped.
pub(super) struct Logind {
    /// Holds the lock as long as it runs.
    lock: Option<Child>,
    /// Ends with this.
    _monitor: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Logind {
    /// Asks logind to wait for so long, and holds its lock.
    pub(super) async fn ask(whole: Duration) -> io::Result<Self> {
        if longest_wait().await? < whole {
            let text = format!(
                "# Pods get their time to end before the machine goes down.\n[Login]\nInhibitDelayMaxSec={}\n",
                whole.as_secs().saturating_add(1)
            );
            if let Some(folder) = Path::new(SETTINGS).parent() {
                std::fs::create_dir_all(folder)?;
            }
            std::fs::write(SETTINGS, text)?;
            let reload = ["kill", "--signal=HUP", "systemd-logind.service"];
            output("systemctl", &reload).await?;
            let now = longest_wait().await?;
            if now < whole {
                tracing::warn!(
                    seconds = now.as_secs(),
                    "logind waits for less than shutdownGracePeriod"
                );
            }
        }
        let mut monitor = Command::new("busctl")
            .args(["--system", "--json=short", MATCH, "monitor"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let out = monitor.stdout.take();
        let out = out.ok_or_else(|| io::Error::other("busctl has no output"))?;
        let mut logind = Self {
            lock: None,
            _monitor: monitor,
            lines: BufReader::new(out).lines(),
        };
        logind.hold().await?;
        Ok(logind)
    }

    /// Holds the lock.
    pub(super) async fn hold(&mut self) -> io::Result<()> {
        let mut lock = Command::new("systemd-inhibit")
            .args(["--what=shutdown", "--mode=delay", "--who=kubelet"])
            .arg("--why=Kubelet needs time to handle node shutdown")
            .args(["sh", "-c", "echo held; exec sleep infinity"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let out = lock.stdout.take();
        let out = out.ok_or_else(|| io::Error::other("systemd-inhibit has no output"))?;
        let mut lines = BufReader::new(out).lines();
        match tokio::time::timeout(ANSWER, lines.next_line()).await {
            Ok(Ok(Some(_))) => {
                self.lock = Some(lock);
                Ok(())
            }
            _ => Err(io::Error::other("systemd-inhibit does not hold the lock")),
        }
    }

    /// Lets the machine go down.
    pub(super) fn release(&mut self) {
        // Killed when dropped.
        self.lock = None;
    }

    /// What is announced next.
    pub(super) async fn next(&mut self) -> io::Result<Announced> {
        while let Some(line) = self.lines.next_line().await? {
            if let Some(announced) = read(&line) {
                return Ok(announced);
            }
        }
        Err(io::Error::other("busctl has ended"))
    }
}

/// A line of busctl.
fn read(line: &str) -> Option<Announced> {
    let message: Value = serde_json::from_str(line).ok()?;
    if message.get("member")? != "PrepareForShutdown" {
        return None;
    }
    let begins = message.pointer("/payload/data/0")?.as_bool()?;
    Some(if begins {
        Announced::Shutdown
    } else {
        Announced::Cancelled
    })
}

/// How long logind waits for those that hold its lock.
async fn longest_wait() -> io::Result<Duration> {
    let [service, object, interface] = MANAGER;
    let question = [
        "--system",
        "get-property",
        service,
        object,
        interface,
        "InhibitDelayMaxUSec",
    ];
    let answer = output("busctl", &question).await?;
    microseconds(&answer)
        .ok_or_else(|| io::Error::other(format!("logind said {answer:?} to how long it waits")))
}

/// Such as `t 5000000`.
fn microseconds(answer: &str) -> Option<Duration> {
    let number = answer.trim().strip_prefix("t ")?;
    number.parse().ok().map(Duration::from_micros)
}

async fn output(tool: &str, words: &[&str]) -> io::Result<String> {
    let mut command = Command::new(tool);
    command.args(words).kill_on_drop(true);
    let done = tokio::time::timeout(ANSWER, command.output()).await;
    let done = done.map_err(|_| io::Error::other(format!("{tool} does not end")))?;
    let done = done.map_err(|e| io::Error::new(e.kind(), format!("{tool}: {e}")))?;
    if done.status.success() {
        return Ok(String::from_utf8_lossy(&done.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&done.stderr);
    Err(io::Error::other(format!("{tool}: {}", said.trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_logind_says_is_read() {
        let line = |member: &str, begins: bool| {
            format!(
                r#"{{"type":"signal","sender":":1.7","path":"/org/freedesktop/login1","interface":"org.freedesktop.login1.Manager","member":"{member}","payload":{{"type":"b","data":[{begins}]}}}}"#
            )
        };
        let announced = read(&line("PrepareForShutdown", true));
        assert_eq!(announced, Some(Announced::Shutdown));
        let announced = read(&line("PrepareForShutdown", false));
        assert_eq!(announced, Some(Announced::Cancelled));
        assert_eq!(read(&line("PrepareForSleep", true)), None);
        assert_eq!(read("no JSON"), None);
        assert_eq!(microseconds("t 5000000\n"), Some(Duration::from_secs(5)));
        assert_eq!(microseconds("s 5"), None);
    }
}
