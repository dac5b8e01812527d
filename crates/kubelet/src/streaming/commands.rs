//! Which process a client's command became, so that it ends when the client is gone. No protocol
//! of runtimes says it: the runtime's events name each process that begins in a container, and which
//! of them is whose follows from what it runs.

use std::sync::Arc;
use std::time::Duration;

use clock::Instant;
use host::process::Process;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Processes that begin later than this after the runtime was asked belong to somebody else.
const BEGINNING: Duration = Duration::from_secs(10);
/// How long a process is waited for whose client has gone before it began.
const LATE: Duration = Duration::from_secs(2);
/// Of processes that run something else (they gave themselves another name, or are probes) only one
/// alone can be meant.
const OTHERS: usize = 2;

/// The commands of clients that have streams on this node.
#[derive(Debug, Default)]
pub struct ClientCommands(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    last: u64,
    waiting: Vec<WaitingClient>,
}

#[derive(Debug)]
struct WaitingClient {
    number: u64,
    container: String,
    command: Vec<String>,
    since: Instant,
    found: Option<Process>,
    others: Vec<Process>,
    begun: Arc<Notify>,
}

/// A command of a client; dropped when it is over.
#[derive(Debug)]
pub struct ExpectedCommand {
    commands: Arc<ClientCommands>,
    number: u64,
}

impl ClientCommands {
    /// A client's command is about to begin in a container.
    #[must_use]
    pub fn expect(self: &Arc<Self>, container: &str, command: &[String]) -> ExpectedCommand {
        let mut table = self.0.lock();
        table.last += 1;
        let number = table.last;
        table.waiting.push(WaitingClient {
            number,
            container: container.to_owned(),
            command: command.to_vec(),
            since: Instant::now(),
            found: None,
            others: Vec::new(),
            begun: Arc::default(),
        });
        ExpectedCommand {
            commands: self.clone(),
            number,
        }
    }

    /// A command has begun in a container: somebody's who waits, or a probe's.
    pub fn started(&self, container: &str, pid: u32) {
        let mut table = self.0.lock();
        let now = Instant::now();
        let mut waiting: Vec<&mut WaitingClient> = table
            .waiting
            .iter_mut()
            .filter(|w| w.container == container && w.found.is_none())
            .filter(|w| now.saturating_duration_since(w.since) < BEGINNING)
            .collect();
        if waiting.is_empty() {
            return;
        }
        let process = match Process::find(pid, container) {
            Ok(Some(process)) => process,
            Ok(None) => return,
            Err(error) => {
                tracing::debug!(container, pid, %error, "a command's process is not there any more");
                return;
            }
        };
        let alone = waiting.len() == 1;
        // The one that waits longest, where several run the same.
        let at = waiting.iter().position(|w| process.runs(&w.command));
        if let Some(w) = waiting.get_mut(at.unwrap_or_default()) {
            if at.is_some() {
                w.found = Some(process);
                w.begun.notify_one();
            } else if alone && w.others.len() < OTHERS {
                w.others.push(process);
            }
        }
    }

    fn take(&self, number: u64) -> Option<Process> {
        let mut table = self.0.lock();
        let mut all = table.waiting.iter_mut();
        let w = all.find(|w| w.number == number)?;
        let alone = w.others.len() == 1;
        w.found.take().or_else(|| w.others.pop().filter(|_| alone))
    }

    fn begun(&self, number: u64) -> Option<Arc<Notify>> {
        let table = self.0.lock();
        let w = table.waiting.iter().find(|w| w.number == number)?;
        w.found.is_none().then(|| w.begun.clone())
    }
}

impl ExpectedCommand {
    /// Nobody is there any more for whom it runs: it ends.
    pub async fn hang_up(self) {
        if let Some(begun) = self.commands.begun(self.number) {
            // What had no time to begin may still do so.
            let _ = tokio::time::timeout(LATE, begun.notified()).await;
        }
        let Some(process) = self.commands.take(self.number) else {
            tracing::debug!("a client went before it was known which process its command is");
            return;
        };
        if let Err(error) = process.hang_up().await {
            tracing::warn!(%error, "a command whose client is gone could not be ended");
        }
    }
}

impl Drop for ExpectedCommand {
    fn drop(&mut self) {
        let mut table = self.commands.0.lock();
        table.waiting.retain(|w| w.number != self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where this process is, as if that were a container.
    fn own_group() -> String {
        let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap();
        let line = groups.lines().next().unwrap();
        line.rsplit(':').next().unwrap().to_owned()
    }

    fn texts(all: &[&str]) -> Vec<String> {
        all.iter().map(|t| (*t).to_owned()).collect()
    }

    fn sleeper() -> (std::process::Child, Vec<String>) {
        let mut command = std::process::Command::new("sleep");
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        (
            command.arg("1000000").spawn().unwrap(),
            texts(&["sleep", "1000000"]),
        )
    }

    #[tokio::test]
    async fn a_command_ends_when_its_client_is_gone() {
        let commands = Arc::new(ClientCommands::default());
        let container = own_group();
        let (mut child, command) = sleeper();
        let other = commands.expect(&container, &texts(&["cat"]));
        let expected = commands.expect(&container, &command);
        commands.started(&container, child.id());
        expected.hang_up().await;
        let status = child.wait().unwrap();
        assert!(!status.success(), "{status:?}");
        assert!(commands.take(other.number).is_none());
        drop(other);
        assert!(commands.0.lock().waiting.is_empty());
    }

    #[tokio::test]
    async fn what_runs_under_another_name_is_meant_only_where_nothing_else_can_be() {
        let commands = Arc::new(ClientCommands::default());
        let container = own_group();
        let expected = commands.expect(&container, &texts(&["renamed"]));
        let (mut first, _) = sleeper();
        let (mut second, _) = sleeper();
        commands.started("another", first.id());
        assert!(commands.take(expected.number).is_none());
        commands.started(&container, first.id());
        assert!(commands.take(expected.number).is_some());
        commands.started(&container, first.id());
        commands.started(&container, second.id());
        assert!(commands.take(expected.number).is_none());
        for child in [&mut first, &mut second] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}
