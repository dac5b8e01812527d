//! An etcd of one member on a free loopback port, with its default settings. It ends with the
//! value.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use store::{Etcd, EtcdConfig};

/// A start with much data on a slow disk.
const START_LIMIT: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(5);

/// The binary: named, or on the PATH. `cargo xtask bench` names one.
pub fn binary() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("TIPHYS_ETCD") {
        return Some(path.into());
    }
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|dir| dir.join("etcd"))
        .find(|file| file.is_file())
}

pub struct Server {
    child: Child,
    url: String,
    /// From launch to the first linearizable read.
    pub ready_after: Duration,
}

impl Server {
    /// Starts it on its data, and waits until it serves.
    pub async fn start(binary: &Path, dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        let port = || -> Result<u16> { Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port()) };
        let (url, peer) = (
            format!("http://127.0.0.1:{}", port()?),
            format!("http://127.0.0.1:{}", port()?),
        );
        let begun = Instant::now();
        let child = Command::new(binary)
            .args(["--name", "bench", "--data-dir"])
            .arg(dir.join("data"))
            .args(["--listen-client-urls", &url])
            .args(["--advertise-client-urls", &url])
            .args(["--listen-peer-urls", &peer])
            .args(["--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("bench={peer}")])
            .args(["--log-level", "error"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(dir.join("log"))?)
            .spawn()
            .with_context(|| format!("starting {}", binary.display()))?;
        let mut server = Self {
            child,
            url,
            ready_after: Duration::ZERO,
        };
        loop {
            match server.connect().await {
                Ok(_) => break,
                Err(e) if begun.elapsed() > START_LIMIT => return Err(e),
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
        server.ready_after = begun.elapsed();
        Ok(server)
    }

    pub async fn connect(&self) -> Result<Etcd> {
        let config = EtcdConfig {
            endpoints: vec![self.url.clone()],
            tls: None,
        };
        Ok(Etcd::connect(&config).await?)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it in order, so that all of its data is on disk.
    pub fn stop(mut self) -> Result<()> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
