//! Programs that tests run: to their end, or beside the test while it reads what they print.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// Guards against hanging for ever; no test relies on it.
pub const GUARD: Duration = Duration::from_secs(300);

/// A program that has ended.
#[derive(Clone, Debug)]
pub struct Ran {
    pub what: String,
    /// Its exit code; 128 and more for a signal.
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    /// Its standard output, if it succeeded.
    pub fn ok(self) -> Result<String> {
        ensure!(
            self.code == 0,
            "`{}` failed with {}\n{}{}",
            self.what,
            self.code,
            self.out,
            self.err
        );
        Ok(self.out)
    }
    /// What it said on standard error, if it failed.
    pub fn failed(self) -> Result<String> {
        ensure!(
            self.code != 0,
            "`{}` succeeded, though it should not:\n{}{}",
            self.what,
            self.out,
            self.err
        );
        Ok(self.err)
    }
}

fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|w| w.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

fn code_of(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// Runs a program to its end with `stdin` as its standard input.
pub fn run(command: Command, stdin: &str) -> Result<Ran> {
    run_bytes(command, stdin.as_bytes()).map(|(ran, _)| ran)
}

/// As [`run`]; gives the standard output as bytes, too.
pub fn run_bytes(mut command: Command, stdin: &[u8]) -> Result<(Ran, Vec<u8>)> {
    let what = describe(&command);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .with_context(|| format!("starting `{what}`"))?;
    let (mut input, input_bytes) = (child.stdin.take(), stdin.to_vec());
    // Dropping the pipe at the end is how the program learns that there is no more.
    let writer = thread::spawn(move || {
        if let Some(mut pipe) = input.take() {
            let _ = pipe.write_all(&input_bytes);
        }
    });
    let (out, err) = (drain(child.stdout.take()), drain(child.stderr.take()));
    let status = wait(&mut child, GUARD).with_context(|| format!("`{what}`"))?;
    let _ = writer.join();
    let out = out.join().unwrap_or_default();
    let err = err.join().unwrap_or_default();
    let ran = Ran {
        what,
        code: code_of(status),
        out: String::from_utf8_lossy(&out).into_owned(),
        err: String::from_utf8_lossy(&err).into_owned(),
    };
    Ok((ran, out))
}

fn drain(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.read_to_end(&mut bytes);
        }
        bytes
    })
}

/// Waits for the child's end; a child that outlasts the guard is killed.
fn wait(child: &mut Child, guard: Duration) -> Result<ExitStatus> {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if started.elapsed() > guard {
            let _ = child.kill();
            let _ = child.wait();
            bail!("still ran after {} s", guard.as_secs());
        }
        // The standard library has no wait with a limit.
        thread::sleep(Duration::from_millis(5));
    }
}

/// A program that runs beside the test; killed when dropped.
pub struct Running {
    what: String,
    child: Child,
    lines: Receiver<String>,
    /// All lines so far, for messages.
    seen: Arc<Mutex<Vec<String>>>,
    /// Each says when its pipe is at its end.
    readers: Receiver<()>,
    pub stdin: Option<ChildStdin>,
}

/// How long the last output of a program that has ended may take: a process that it left behind
/// may hold its pipes open for ever.
const LAST_OUTPUT: Duration = Duration::from_secs(10);

impl Running {
    /// Starts it; lines of standard output and standard error come as they are printed.
    pub fn start(mut command: Command) -> Result<Self> {
        let what = describe(&command);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .with_context(|| format!("starting `{what}`"))?;
        let (sender, lines) = channel();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (at_end, readers) = channel();
        let pipes: [Option<Box<dyn Read + Send>>; 2] = [
            child.stdout.take().map(|p| Box::new(p) as _),
            child.stderr.take().map(|p| Box::new(p) as _),
        ];
        for pipe in pipes.into_iter().flatten() {
            let (sender, seen, at_end) = (sender.clone(), seen.clone(), at_end.clone());
            thread::spawn(move || {
                // Dropped when all is read.
                let _at_end: Sender<()> = at_end;
                for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                    if let Ok(mut seen) = seen.lock() {
                        seen.push(line.clone());
                    }
                    if sender.send(line).is_err() {
                        // Nobody reads any more, but the program must not block on its pipe.
                        continue;
                    }
                }
            });
        }
        let stdin = child.stdin.take();
        Ok(Self {
            what,
            child,
            lines,
            seen,
            readers,
            stdin,
        })
    }

    /// The next line that fulfils `wanted`.
    pub fn line(&self, wanted: impl Fn(&str) -> bool) -> Result<String> {
        loop {
            match self.lines.recv_timeout(GUARD) {
                Ok(line) if wanted(&line) => return Ok(line),
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    bail!(
                        "`{}` ended before the awaited line; it printed:\n{}",
                        self.what,
                        self.text()
                    )
                }
                Err(RecvTimeoutError::Timeout) => {
                    bail!(
                        "`{}` did not print the awaited line; it printed:\n{}",
                        self.what,
                        self.text()
                    )
                }
            }
        }
    }

    /// All that it has printed.
    pub fn text(&self) -> String {
        self.seen.lock().map(|s| s.join("\n")).unwrap_or_default()
    }

    /// The PID of its first child, for programs that only start another one.
    pub fn child_pid(&self) -> Result<u32> {
        let pid = self.child.id();
        let path = format!("/proc/{pid}/task/{pid}/children");
        let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
        let first = text.split_whitespace().next();
        Ok(first
            .with_context(|| format!("`{}` has no child", self.what))?
            .parse()?)
    }

    /// Whether it has not ended yet.
    pub fn is_running(&self) -> bool {
        // A zombie has an empty command line.
        std::fs::read(format!("/proc/{}/cmdline", self.child.id())).is_ok_and(|l| !l.is_empty())
    }

    pub fn signal(&self, signal: rustix::process::Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id())?;
        let pid = rustix::process::Pid::from_raw(pid).context("pid 0")?;
        Ok(rustix::process::kill_process(pid, signal)?)
    }

    /// Waits for its end, until all that it printed is read, and gives its exit code.
    pub fn end(&mut self) -> Result<i32> {
        drop(self.stdin.take());
        let status = wait(&mut self.child, GUARD).with_context(|| {
            format!(
                "`{}`; it printed:\n{}",
                self.what,
                self.seen.lock().map(|s| s.join("\n")).unwrap_or_default()
            )
        })?;
        // No reader sends anything; that all of them are gone is what is waited for.
        let _ = self.readers.recv_timeout(LAST_OUTPUT);
        Ok(code_of(status))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where the PATH has a program; links followed.
pub fn find(program: &str) -> Result<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(|file| file.is_file());
    Ok(std::fs::canonicalize(
        found.with_context(|| format!("there is no {program}"))?,
    )?)
}

/// Splits a command line at blanks; single quotes keep what is between them together.
pub fn words(line: &str) -> Vec<String> {
    let (mut out, mut word, mut quoted) = (Vec::new(), None::<String>, false);
    for c in line.chars() {
        match c {
            '\'' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            c if c.is_whitespace() && !quoted => out.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    out.extend(word);
    out
}

/// Calls `look` until it gives something; for what cannot be watched. Its last error is reported
/// when the guard strikes.
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Result<T>) -> Result<T> {
    let started = Instant::now();
    loop {
        match look() {
            Ok(found) => return Ok(found),
            Err(e) if started.elapsed() > GUARD => {
                return Err(e.context(format!("waited {} s until {what}", GUARD.as_secs())));
            }
            Err(_) => thread::sleep(Duration::from_millis(100)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Running, words};

    #[test]
    fn what_a_program_printed_last_is_read_when_it_has_ended() {
        let mut command = std::process::Command::new("sh");
        command.args(["-c", "seq 1 20000; echo last; echo error >&2"]);
        let mut running = Running::start(command).unwrap();
        assert_eq!(running.end().unwrap(), 0);
        let text = running.text();
        assert!(text.contains("\nlast") && text.contains("error"));
        assert_eq!(text.lines().count(), 20_002);
    }

    #[test]
    fn quotes_keep_words_together() {
        assert_eq!(words("a  'b c' d''"), ["a", "b c", "d"]);
        assert_eq!(words("x=''"), ["x="]);
    }
}
