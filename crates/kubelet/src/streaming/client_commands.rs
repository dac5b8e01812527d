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
/// Processes that are kept while they run nothing that anybody waits for.
const UNCLAIMED: usize = 64;

/// The commands of clients that have streams on this node.
#[derive(Debug, Default)]
pub struct ClientCommands(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    last: u64,
    waiting: Vec<WaitingClient>,
    unclaimed: Vec<Unclaimed>,
}

/// A process that ran nothing that somebody waited for when it began: it had not become it yet, gave
/// itself another name, or is a probe's.
#[derive(Debug)]
struct Unclaimed {
    container: String,
    process: Arc<Process>,
    /// Who alone waited in its container.
    only: Option<u64>,
}

#[derive(Debug)]
struct WaitingClient {
    number: u64,
    container: String,
    command: Vec<String>,
    since: Instant,
    found: Option<Arc<Process>>,
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
            begun: Arc::default(),
        });
        ExpectedCommand {
            commands: self.clone(),
            number,
        }
    }

    /// Whether a command of somebody is about to begin in a container.
    #[must_use]
    pub fn are_expected(&self, container: &str) -> bool {
        self.0.lock().in_container(container).next().is_some()
    }

    /// A command has begun in a container: somebody's who waits, or a probe's. What the kernel says of
    /// its process is read, which blocks for as long as the process likes that: not for a task.
    pub fn started(&self, container: &str, pid: u32) {
        if !self.are_expected(container) {
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
        let mut table = self.0.lock();
        let mut waiting: Vec<&mut WaitingClient> = table.in_container(container).collect();
        let only = match &waiting[..] {
            [one] => Some(one.number),
            _ => None,
        };
        // The one that waits longest, where several run the same.
        match waiting.iter_mut().find(|w| process.runs(&w.command)) {
            Some(w) => {
                w.found = Some(Arc::new(process));
                w.begun.notify_one();
            }
            None => table.keep(Unclaimed {
                container: container.to_owned(),
                process: Arc::new(process),
                only,
            }),
        }
    }

    /// The process of a command. As of [`ClientCommands::started`], it may block.
    fn take(&self, number: u64) -> Option<Arc<Process>> {
        let (command, unclaimed) = {
            let mut table = self.0.lock();
            let w = table.waiting.iter_mut().find(|w| w.number == number)?;
            if let Some(process) = w.found.take() {
                return Some(process);
            }
            let (container, command) = (w.container.clone(), w.command.clone());
            let there = table.unclaimed.iter();
            let there = there.filter(|u| u.container == container);
            let there: Vec<_> = there.map(|u| u.process.clone()).collect();
            (command, there)
        };
        // Others go on meanwhile.
        let found = unclaimed.into_iter().find(|p| p.runs_by_now(&command));
        self.0.lock().claim(number, found)
    }

    fn begun(&self, number: u64) -> Option<Arc<Notify>> {
        let table = self.0.lock();
        let w = table.waiting.iter().find(|w| w.number == number)?;
        w.found.is_none().then(|| w.begun.clone())
    }
}

impl Table {
    /// Whose commands may begin in a container now.
    fn in_container(&mut self, container: &str) -> impl Iterator<Item = &mut WaitingClient> {
        let now = Instant::now();
        self.waiting
            .iter_mut()
            .filter(move |w| w.container == container && w.found.is_none())
            .filter(move |w| now.saturating_duration_since(w.since) < BEGINNING)
    }

    fn keep(&mut self, one: Unclaimed) {
        if self.unclaimed.len() == UNCLAIMED {
            self.unclaimed.remove(0);
        }
        self.unclaimed.push(one);
    }

    /// What runs a command by now; else what only its client can mean.
    fn claim(&mut self, number: u64, found: Option<Arc<Process>>) -> Option<Arc<Process>> {
        if let Some(found) = found {
            self.unclaimed.retain(|u| !Arc::ptr_eq(&u.process, &found));
            return Some(found);
        }
        // Of those that run something else only one alone can be meant.
        let mut meant = self.unclaimed.iter().enumerate();
        let (at, _) = meant.find(|(_, u)| u.only == Some(number))?;
        let is_alone = !meant.any(|(_, u)| u.only == Some(number));
        is_alone.then(|| self.unclaimed.remove(at).process)
    }

    /// A command is over.
    fn forget(&mut self, number: u64) {
        self.waiting.retain(|w| w.number != number);
        let waiting = &self.waiting;
        self.unclaimed.retain(|u| {
            u.only != Some(number) && waiting.iter().any(|w| w.container == u.container)
        });
    }
}

impl ExpectedCommand {
    /// Nobody is there any more for whom it runs: it ends.
    pub async fn hang_up(self) {
        if let Some(begun) = self.commands.begun(self.number) {
            // What had no time to begin may still do so.
            let _ = tokio::time::timeout(LATE, begun.notified()).await;
        }
        let (commands, number) = (self.commands.clone(), self.number);
        #[expect(
            clippy::disallowed_methods,
            reason = "a process can make who looks at it wait"
        )]
        let taken = tokio::task::spawn_blocking(move || commands.take(number)).await;
        let Some(process) = taken.ok().flatten() else {
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
        self.commands.0.lock().forget(self.number);
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
        assert!(commands.are_expected(&container) && !commands.are_expected("another"));
        commands.started(&container, child.id());
        expected.hang_up().await;
        let status = child.wait().unwrap();
        assert!(!status.success(), "{status:?}");
        assert!(commands.take(other.number).is_none());
        drop(other);
        assert!(commands.0.lock().waiting.is_empty());
    }

    /// The runtime's event comes before the process has become what its client asked for.
    #[tokio::test]
    async fn what_becomes_the_command_later_is_found() {
        let commands = Arc::new(ClientCommands::default());
        let container = own_group();
        let mut command = std::process::Command::new("sh");
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command.args(["-c", "read go; exec sleep 1000000"]);
        let mut child = command.stdin(std::process::Stdio::piped()).spawn().unwrap();
        let sleep = texts(&["sleep", "1000000"]);
        let first = commands.expect(&container, &texts(&["cat"]));
        let second = commands.expect(&container, &sleep);
        commands.started(&container, child.id());
        drop(child.stdin.take());
        let process = Process::find(child.id(), &container).unwrap().unwrap();
        while !process.runs_by_now(&sleep) {
            tokio::task::yield_now().await;
        }
        assert!(commands.take(first.number).is_none());
        second.hang_up().await;
        assert!(!child.wait().unwrap().success());
        drop(first);
        assert!(commands.0.lock().unclaimed.is_empty());
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
