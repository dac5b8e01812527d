//! A real etcd of the test's own: one or several members on free loopback ports, with TLS and
//! client certificates, their data in a temporary folder. They end with the value.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use clock::Instant;

use store::{Etcd, EtcdConfig};

use super::pki::Pki;

/// The binary: named, on the PATH, or unpacked by `cargo xtask test`.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("TIPHYS_ETCD") {
        return path.into();
    }
    let on_path = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .map(|dir| dir.join("etcd"))
        .find(|file| file.is_file());
    // The test runs from `<target>/<profile>/deps`, or below a folder for its target.
    let own = std::env::current_exe().expect("own path");
    let unpacked = own
        .ancestors()
        .map(|dir| dir.join("test-tools/etcd"))
        .find(|file| file.is_file());
    on_path.or(unpacked).expect(
        "no etcd: set TIPHYS_ETCD to its binary, or run `cargo xtask etcd`, which unpacks \
         Debian's into the target folder",
    )
}

pub struct Member {
    name: String,
    client: u16,
    peer: u16,
    child: Option<Child>,
}

pub struct Cluster {
    dir: tempfile::TempDir,
    pki: Arc<Pki>,
    flags: Vec<String>,
    pub members: Vec<Member>,
    _ports: Vec<Port>,
}

/// Below the ports that the kernel gives to connections: one of those would be another's when a member
/// comes back.
const PORTS: Range<u16> = 20_000..24_000;

/// A port that is this process's as long as it lives, whatever test programs run beside it: by a file
/// that is locked.
struct Port {
    number: u16,
    _lock: File,
}

fn ports(count: usize) -> Vec<Port> {
    let dir = std::env::temp_dir().join("tiphys-test-ports");
    std::fs::create_dir_all(&dir).expect("dir");
    let take = |number: u16| {
        let lock = File::create(dir.join(number.to_string())).expect("file");
        lock.try_lock().ok()?;
        TcpListener::bind((Ipv4Addr::LOCALHOST, number)).ok()?;
        Some(Port {
            number,
            _lock: lock,
        })
    };
    let found: Vec<Port> = PORTS.filter_map(take).take(count).collect();
    assert_eq!(found.len(), count, "free ports");
    found
}

impl Cluster {
    /// Starts so many members and waits until they serve.
    pub async fn start(members: usize, flags: &[&str]) -> Self {
        Self::start_with(Arc::new(Pki::new("test CA")), members, flags).await
    }

    /// The same with the certificates of another cluster.
    pub async fn start_with(pki: Arc<Pki>, members: usize, flags: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("dir");
        let ports = ports(members * 2);
        let numbers: Vec<u16> = ports.iter().map(|port| port.number).collect();
        let member = |(i, pair): (usize, &[u16])| Member {
            name: format!("m{i}"),
            client: pair[0],
            peer: pair[1],
            child: None,
        };
        let mut cluster = Self {
            members: numbers.chunks(2).enumerate().map(member).collect(),
            flags: flags.iter().map(|&f| f.to_owned()).collect(),
            dir,
            pki,
            _ports: ports,
        };
        for i in 0..members {
            cluster.launch(i);
        }
        drop(cluster.connect().await);
        cluster
    }

    /// Starts a member, again if it ran before.
    pub fn launch(&mut self, number: usize) {
        let dir = self.dir.path().join(format!("m{number}"));
        std::fs::create_dir_all(&dir).expect("dir");
        let [ca, cert, key] = self.pki.write_server(&dir).map(|p| p.display().to_string());
        let peers: Vec<String> = self
            .members
            .iter()
            .map(|m| format!("{}=https://127.0.0.1:{}", m.name, m.peer))
            .collect();
        let member = &self.members[number];
        let (client, peer) = (
            format!("https://127.0.0.1:{}", member.client),
            format!("https://127.0.0.1:{}", member.peer),
        );
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(dir.join("log"))
            .expect("log");
        let child = Command::new(binary())
            .args(["--name", &member.name])
            .arg("--data-dir")
            .arg(dir.join("data"))
            .args(["--listen-client-urls", &client])
            .args(["--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer])
            .args(["--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &peers.join(",")])
            .args(["--cert-file", &cert, "--key-file", &key])
            .args(["--trusted-ca-file", &ca, "--client-cert-auth"])
            .args(["--peer-cert-file", &cert, "--peer-key-file", &key])
            .args(["--peer-trusted-ca-file", &ca, "--peer-client-cert-auth"])
            .args(&self.flags)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("etcd starts");
        self.members[number].child = Some(child);
    }

    pub fn endpoints(&self) -> Vec<String> {
        let url = |m: &Member| format!("https://127.0.0.1:{}", m.client);
        self.members.iter().map(url).collect()
    }

    pub fn config(&self) -> EtcdConfig {
        EtcdConfig {
            endpoints: self.endpoints(),
            tls: Some(self.pki.client()),
        }
    }

    pub fn pki(&self) -> &Arc<Pki> {
        &self.pki
    }

    /// Connects as soon as the cluster serves; a start takes long on a busy machine.
    pub async fn connect(&self) -> Etcd {
        let begun = Instant::now();
        loop {
            match Etcd::connect(&self.config()).await {
                Ok(etcd) => return etcd,
                Err(e) if begun.elapsed() > Duration::from_secs(120) => {
                    panic!("{e}\n{}", self.log(0))
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    pub fn log(&self, number: usize) -> String {
        let path = self.dir.path().join(format!("m{number}/log"));
        std::fs::read_to_string(path).unwrap_or_default()
    }

    /// Ends a member without warning.
    pub fn kill(&mut self, number: usize) {
        if let Some(mut child) = self.members[number].child.take() {
            child.kill().expect("kill");
            child.wait().expect("wait");
        }
    }

    pub fn signal(&self, number: usize, signal: rustix::process::Signal) {
        let child = self.members[number].child.as_ref().expect("it runs");
        let pid = rustix::process::Pid::from_child(child);
        rustix::process::kill_process(pid, signal).expect("signal");
    }

    /// Which member leads; waits for an election.
    pub async fn leader(&self, etcd: &Etcd) -> usize {
        loop {
            let all = etcd.status().await;
            let leads = |(_, s): &(String, store::Result<store::MemberStatus>)| {
                s.as_ref().is_ok_and(|s| s.is_leader)
            };
            if let Some(number) = all.iter().position(leads) {
                return number;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for number in 0..self.members.len() {
            self.kill(number);
        }
    }
}
