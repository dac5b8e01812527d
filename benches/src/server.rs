//! The server under test: a child process on a free port with a data directory of its own, and
//! what the kernel says about it.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use wire::pki::Pair;

use crate::load::Client;
use crate::plan::Plan;

/// The unit of CPU times in /proc; the same on every Linux that runs this binary.
const TICKS_PER_SECOND: f64 = 100.0;
/// Far above the slowest start seen; only a server that never comes up meets it.
const START_TIMEOUT: Duration = Duration::from_secs(60);
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
/// How often a starting server is looked at: the resolution of the start time.
const LOOK: Duration = Duration::from_millis(4);

/// Where an API server is and how a client proves who it is.
#[derive(Clone)]
pub struct Access {
    pub host: String,
    pub ca_pem: String,
    pub pair: Pair,
}

impl Access {
    /// Reads a kubeconfig that holds a client certificate.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path)?;
        let config: serde_json::Value = serde_norway::from_str(&text)?;
        let word = |pointer: &str| {
            let found = config.pointer(pointer).and_then(|v| v.as_str());
            found.with_context(|| format!("{} has no {pointer}", path.display()))
        };
        let decoded = |pointer: &str| -> Result<String> {
            Ok(String::from_utf8(STANDARD.decode(word(pointer)?)?)?)
        };
        let server = word("/clusters/0/cluster/server")?;
        Ok(Self {
            host: server.trim_start_matches("https://").to_owned(),
            ca_pem: decoded("/clusters/0/cluster/certificate-authority-data")?,
            pair: Pair {
                cert_pem: decoded("/users/0/user/client-certificate-data")?,
                key_pem: decoded("/users/0/user/client-key-data")?,
            },
        })
    }
}

/// A running server; dropping it kills it.
pub struct Server {
    child: Child,
    pub access: Access,
    /// From launch until /readyz answered 200.
    pub ready_after: Duration,
}

impl Server {
    /// Starts `tiphys <command>` (`server` or `apiserver`) on a data directory.
    pub async fn start(plan: &Plan, command: &str, dir: &Path) -> Result<Self> {
        Self::start_with(plan, command, dir, &[]).await
    }

    /// The same, with more flags.
    pub async fn start_with(
        plan: &Plan,
        command: &str,
        dir: &Path,
        flags: &[&str],
    ) -> Result<Self> {
        let port = free_port()?;
        let kubeconfig = dir.join("admin.kubeconfig");
        // Only what this start writes counts.
        let _ = fs::remove_file(&kubeconfig);
        let log = fs::File::create(dir.join("log"))?;
        let begun = Instant::now();
        let mut child = Command::new(&plan.binary)
            .arg(command)
            .arg("--data-dir")
            .arg(dir.join("data"))
            .args(["--bind-address", "127.0.0.1"])
            .args(["--advertise-address", "127.0.0.1"])
            .args(["--port", &port.to_string()])
            .args(flags)
            .arg("--kubeconfig-out")
            .arg(&kubeconfig)
            .env(
                "TIPHYS_LOG",
                std::env::var("TIPHYS_LOG").unwrap_or_else(|_| "warn".into()),
            )
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {}", plan.binary.display()))?;
        let found = wait_ready(&mut child, &kubeconfig, begun).await;
        let ready_after = begun.elapsed();
        match found {
            Ok(access) => Ok(Self {
                child,
                access,
                ready_after,
            }),
            Err(e) => {
                let _ = child.kill();
                let _ = child.wait();
                let log = fs::read_to_string(dir.join("log")).unwrap_or_default();
                Err(e.context(format!("the server's log:\n{log}")))
            }
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn cpu(&self) -> Duration {
        cpu_of(self.pid())
    }

    /// Ends it as a person would, so that the data directory can be used again.
    pub async fn stop(mut self) -> Result<()> {
        if let Some(pid) = i32::try_from(self.pid()).ok().and_then(Pid::from_raw) {
            kill_process(pid, Signal::TERM)?;
        }
        let deadline = Instant::now() + STOP_TIMEOUT;
        while self.child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                bail!("the server did not end within {STOP_TIMEOUT:?}");
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn wait_ready(child: &mut Child, kubeconfig: &Path, begun: Instant) -> Result<Access> {
    while begun.elapsed() < START_TIMEOUT {
        if let Some(status) = child.try_wait()? {
            bail!("the server ended while it started: {status}");
        }
        if let Ok(access) = Access::read(kubeconfig)
            && let Ok(client) = Client::connect(&access, 1).await
            && let Ok(reply) = client.get(0, "/readyz").await
            && reply.status == StatusCode::OK
        {
            return Ok(access);
        }
        tokio::time::sleep(LOOK).await;
    }
    bail!("the server was not ready within {START_TIMEOUT:?}")
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// A data directory on the disk that holds the build, since /tmp is memory on many machines.
pub fn scratch() -> Result<TempDir> {
    let base = PathBuf::from("target");
    fs::create_dir_all(&base)?;
    Ok(tempfile::Builder::new()
        .prefix("bench-")
        .tempdir_in(base.canonicalize()?)?)
}

/// CPU time of all threads of a process so far, ended ones too; zero when it is gone.
pub fn cpu_of(pid: u32) -> Duration {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name may hold anything, so fields are counted from its closing parenthesis.
    let rest = text.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let ticks: u64 = rest
        .split(' ')
        .skip(11)
        .take(2)
        .filter_map(|f| f.parse::<u64>().ok())
        .sum();
    Duration::from_secs_f64(ticks as f64 / TICKS_PER_SECOND)
}

/// Resident memory of a process, in MB of 1,000,000 bytes: all, and what is not backed by files.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    pub resident_mb: f64,
    pub own_mb: f64,
    pub peak_mb: f64,
}

pub fn memory_of(pid: u32) -> Memory {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mb = |name: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(name));
        let kib = line.and_then(|l| l.split_whitespace().next()?.parse::<f64>().ok());
        kib.unwrap_or_default() * 1024.0 / 1e6
    };
    Memory {
        resident_mb: mb("VmRSS:"),
        own_mb: mb("RssAnon:"),
        peak_mb: mb("VmHWM:"),
    }
}

/// Memory that a process shares with no other and that no file backs, in MB of 1,000,000 bytes:
/// pages of the binary that only this process has mapped come and go as the kernel likes.
pub fn private_mb(pid: u32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find(|l| l.starts_with("Private_Dirty:"));
    let kib = line.and_then(|l| l.split_whitespace().nth(1)?.parse::<f64>().ok());
    kib.unwrap_or_default() * 1024.0 / 1e6
}
