//! The processes under test: API servers and, where they share one, their etcd.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use tempfile::TempDir;
use tests::binary;
use tests::command::{Running, eventually};
use tests::slot::Slot;

/// A process that can be started again, with the slot of its port.
pub struct Process {
    slot: Slot,
    program: PathBuf,
    args: Vec<String>,
    running: Option<Running>,
}

impl Process {
    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.args).env_remove("TIPHYS_DATA_DIR");
        command
    }

    pub fn start(&mut self) -> Result<()> {
        self.running = Some(Running::start(self.command())?);
        Ok(())
    }

    /// Ends it at once, and waits until it is gone.
    pub fn kill(&mut self) {
        self.running = None;
    }

    /// Stops it where it stands, or wakes it.
    pub fn pause(&self, pause: bool) -> Result<()> {
        let signal = if pause { Signal::STOP } else { Signal::CONT };
        self.running
            .as_ref()
            .context("it does not run")?
            .signal(signal)
    }

    fn text(&self) -> String {
        self.running.as_ref().map(Running::text).unwrap_or_default()
    }
}

/// A control plane without controllers.
pub struct Control {
    pub servers: Vec<Process>,
    pub etcd: Option<Process>,
    // Last: removed when the processes are gone.
    dir: TempDir,
}

impl Control {
    /// One server with the embedded store.
    pub fn embedded() -> Result<Self> {
        let mut control = Self::empty()?;
        control.add_server(&[])?;
        Ok(control)
    }

    /// Two servers on an etcd of one member.
    pub fn etcd() -> Result<Self> {
        let mut control = Self::empty()?;
        let (etcd, url) = member(control.dir.path())?;
        control.etcd.insert(etcd).start()?;
        let token = control.dir.path().join("server-token");
        let args = [
            format!("--etcd-endpoints={url}"),
            format!("--server-token-file={}", token.display()),
        ];
        control.add_server(&args)?;
        control.add_server(&args)?;
        Ok(control)
    }

    fn empty() -> Result<Self> {
        Ok(Self {
            servers: Vec::new(),
            etcd: None,
            dir: tempfile::Builder::new().prefix("tiphys-").tempdir()?,
        })
    }

    fn data(&self, server: usize) -> PathBuf {
        self.dir.path().join(format!("server-{server}"))
    }

    /// The administrator's way to a server.
    pub fn kubeconfig(&self, server: usize) -> PathBuf {
        self.data(server).join("admin.kubeconfig")
    }

    fn add_server(&mut self, more: &[String]) -> Result<()> {
        let (number, slot) = (self.servers.len(), Slot::take()?);
        let mut args: Vec<String> = [
            "apiserver",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            "--log=warn,tiphys=info",
        ]
        .map(str::to_owned)
        .to_vec();
        args.push(format!("--port={}", slot.port()));
        args.push(format!("--data-dir={}", self.data(number).display()));
        args.extend_from_slice(more);
        self.servers.push(Process {
            slot,
            program: binary::tiphys()?,
            args,
            running: None,
        });
        self.start_server(number)
    }

    /// Starts a server, and waits until it serves.
    pub fn start_server(&mut self, number: usize) -> Result<()> {
        let server = self.servers.get_mut(number).context("no such server")?;
        server.start()?;
        let running = server.running.as_ref().context("it does not run")?;
        running.line(|l| l.contains("serving at")).map(drop)
    }

    /// All that the processes have printed since their last start, for a failed test.
    pub fn text(&self) -> String {
        let all = self.servers.iter().chain(&self.etcd);
        all.map(Process::text).collect::<Vec<_>>().join("\n---\n")
    }
}

/// An etcd of one member, and its URL.
fn member(dir: &Path) -> Result<(Process, String)> {
    let (slot, peers) = (Slot::take()?, Slot::take()?);
    let url = |slot: &Slot| format!("http://127.0.0.1:{}", slot.port());
    let (client, peer) = (url(&slot), url(&peers));
    // Nobody else listens for peers: one member needs none.
    drop(peers);
    let args = [
        "--name=m".to_owned(),
        format!("--data-dir={}", dir.join("etcd").display()),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={}", "http://127.0.0.1:0"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=m={peer}"),
        "--logger=zap".to_owned(),
        "--log-level=warn".to_owned(),
    ];
    let process = Process {
        slot,
        program: binary::etcd()?,
        args: args.to_vec(),
        running: None,
    };
    Ok((process, client))
}

impl Process {
    /// Waits until its port answers.
    pub fn listens(&self) -> Result<()> {
        eventually("the port answers", || {
            let address = (std::net::Ipv4Addr::LOCALHOST, self.slot.port());
            let connected = std::net::TcpStream::connect(address);
            ensure!(connected.is_ok(), "{}", self.text());
            Ok(())
        })
    }
}
