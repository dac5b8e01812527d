//! A cluster of a test's own: `tiphys up` with its nodes, or `tiphys server` alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::command::{self, Ran, Running, eventually, words};
use crate::slot::Slot;
use crate::{binary, traces};

/// What a cluster is to be.
#[derive(Clone, Default)]
pub struct Setup {
    /// 0 for the API server and its controllers alone, without root.
    pub nodes: u32,
    /// Servers of `up` with an etcd member each; none for one server with the embedded store.
    pub servers: Option<u32>,
    /// Declared capacity of each node.
    pub node_cpu_millis: Option<u64>,
    pub node_memory_mib: Option<u64>,
    /// Load balancers have addresses of a pool of the nodes' network, not the nodes' own.
    pub balancer_pool: bool,
    /// Which families nodes, pods and Services have addresses of.
    pub families: Families,
    /// Further arguments of `up` or `server`.
    pub args: Vec<String>,
}

/// Families of addresses.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub enum Families {
    /// IPv4 alone.
    #[default]
    Four,
    /// Both, IPv4 first.
    Both,
    /// IPv6 alone.
    Six,
}

impl Families {
    /// Ranges of the two families, as a flag takes them.
    fn of(self, four: String, six: String) -> String {
        match self {
            Self::Four => four,
            Self::Both => format!("{four},{six}"),
            Self::Six => six,
        }
    }
}

impl Setup {
    pub fn server() -> Self {
        Self::default()
    }
    pub fn nodes(nodes: u32) -> Self {
        Self {
            nodes,
            ..Self::default()
        }
    }
}

/// Its end is that of everything in it.
pub struct Cluster {
    binary: PathBuf,
    setup: Setup,
    /// What was set on the machine before the cluster came.
    pub before: traces::Settings,
    pub slot: Slot,
    main: Mutex<Option<Running>>,
    runtime: tokio::runtime::Runtime,
    client: Mutex<Option<kube::Client>>,
    /// Last: it is removed when all else is gone.
    dir: TempDir,
}

impl Cluster {
    /// Starts a cluster and waits until it is up.
    pub fn start(setup: Setup) -> Result<Self> {
        if setup.nodes > 0 {
            ensure!(
                rustix::process::geteuid().is_root(),
                "cluster tests make namespaces: run them as root"
            );
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        let cluster = Self {
            binary: binary::tiphys()?,
            before: if setup.nodes > 0 {
                traces::settings()?
            } else {
                traces::Settings::new()
            },
            setup,
            slot: Slot::take()?,
            main: Mutex::new(None),
            runtime,
            client: Mutex::new(None),
            dir: tempfile::Builder::new().prefix("tiphys-").tempdir()?,
        };
        fs::create_dir_all(cluster.home())?;
        cluster.launch()?;
        Ok(cluster)
    }

    /// Runs `up` (or `server`), the first or a further time, and waits until it is ready.
    pub fn launch(&self) -> Result<()> {
        let up = self.setup.nodes > 0;
        let running = Running::start(if up {
            self.up_command()?
        } else {
            self.server_command()
        })?;
        if up {
            running.line(|l| l.contains("The cluster is up"))?;
        }
        if let Ok(mut main) = self.main.lock() {
            *main = Some(running);
        }
        let ready = || {
            ensure!(
                self.main
                    .lock()
                    .map_err(|_| anyhow::anyhow!("poisoned"))?
                    .as_ref()
                    .is_some_and(Running::is_running),
                "the program has ended:\n{}",
                self.main_text()
            );
            self.kubectl("get --raw /readyz")?.ok()
        };
        eventually("the API server is ready", ready)?;
        Ok(())
    }

    /// Flags for the ranges of Services and pods.
    fn ranges(&self) -> [String; 2] {
        let (slot, families) = (&self.slot, self.setup.families);
        let services = families.of(slot.service_cidr(), slot.service_cidr6());
        let pods = families.of(slot.pod_cidr(), slot.pod_cidr6());
        [
            format!("--service-cidr={services}"),
            format!("--pod-cidr={pods}"),
        ]
    }

    fn node_ranges(&self) -> String {
        let (four, six) = (self.slot.node_cidr(), self.slot.node_cidr6());
        self.setup.families.of(four, six)
    }

    fn up_command(&self) -> Result<Command> {
        let mut command = self.tiphys(&["up"]);
        if let Some(servers) = self.setup.servers {
            command
                .arg(format!("--servers={servers}"))
                .env("TIPHYS_ETCD", binary::etcd()?);
        }
        command
            .arg(format!("--data-dir={}", self.data().display()))
            .arg(format!("--nodes={}", self.setup.nodes))
            .arg(format!("--port={}", self.slot.port()))
            .args(self.ranges())
            .arg(format!("--node-cidr={}", self.node_ranges()));
        command.args(
            self.setup
                .node_cpu_millis
                .map(|v| format!("--node-cpu-millis={v}")),
        );
        command.args(
            self.setup
                .node_memory_mib
                .map(|v| format!("--node-memory-mib={v}")),
        );
        if self.setup.balancer_pool {
            let pools = (self.slot.balancer_pool(), self.slot.balancer_pool6());
            let pool = self.setup.families.of(pools.0, pools.1);
            command.arg(format!("--server-arg=--load-balancer-pool={pool}"));
        }
        command.args(&self.setup.args);
        Ok(command)
    }

    fn server_command(&self) -> Command {
        let mut command = self.tiphys(&[
            "server",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
        ]);
        command
            .arg(format!(
                "--data-dir={}",
                self.data().join("server").display()
            ))
            .arg(format!("--port={}", self.slot.port()))
            .args(self.ranges())
            .arg(format!("--kubeconfig-out={}", self.kubeconfig().display()))
            .args(&self.setup.args);
        command
    }

    /// The binary with arguments, to be run by the caller.
    pub fn tiphys(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .args(args)
            .env("HOME", self.home())
            .env_remove("TIPHYS_DATA_DIR");
        command
    }

    /// Runs `tiphys LINE --data-dir …` to its end.
    pub fn tiphys_on_data(&self, line: &str) -> Result<Ran> {
        let mut command = self.tiphys(&[]);
        command.args(words(line)).arg("--data-dir").arg(self.data());
        command::run(command, "")
    }

    /// Whether its nodes have addresses of IPv6.
    pub fn has_ipv6(&self) -> bool {
        self.setup.families != Families::Four
    }
    pub fn binary(&self) -> &Path {
        &self.binary
    }
    /// The cluster's data directory.
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }
    /// A folder for the test's own files.
    pub fn scratch(&self) -> Result<PathBuf> {
        let dir = self.dir.path().join("scratch");
        fs::create_dir_all(&dir)?;
        Ok(dir)
    }
    fn home(&self) -> PathBuf {
        self.dir.path().join("home")
    }
    pub fn kubeconfig(&self) -> PathBuf {
        self.data().join("admin.kubeconfig")
    }
    pub fn server_url(&self) -> String {
        format!("https://127.0.0.1:{}", self.slot.port())
    }
    pub fn node_names(&self) -> Vec<String> {
        (1..=self.setup.nodes)
            .map(|i| format!("node-{i}"))
            .collect()
    }

    /// kubectl as the administrator, with the arguments to be added.
    pub fn kubectl_command(&self) -> Command {
        let mut command = Command::new("kubectl");
        command
            .env("KUBECONFIG", self.kubeconfig())
            .env("HOME", self.home())
            .env("KUBECACHEDIR", self.home().join("cache"));
        command
    }

    /// Runs kubectl to its end.
    pub fn kubectl(&self, line: &str) -> Result<Ran> {
        let mut command = self.kubectl_command();
        command.args(words(line));
        command::run(command, "")
    }

    /// Makes a namespace and waits for its account: a pod that comes at once waits for it two seconds at
    /// most, and controllers that have just begun, or a busy machine, take longer.
    pub fn make_namespace(&self, name: &str) -> Result<()> {
        self.kubectl(&format!("create namespace {name}"))?.ok()?;
        let line = format!("get serviceaccount default --namespace {name} -o name");
        eventually("the namespace has its account", || {
            self.kubectl(&line)?.ok().map(drop)
        })
    }

    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// Starts a task that goes on beside the test.
    pub fn spawn<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        self.runtime.spawn(future)
    }

    /// A client with the administrator's certificate.
    pub fn client(&self) -> Result<kube::Client> {
        let mut kept = self
            .client
            .lock()
            .map_err(|_| anyhow::anyhow!("poisoned"))?;
        if let Some(client) = kept.as_ref() {
            return Ok(client.clone());
        }
        let client = self.block_on(client::from_kubeconfig(&self.kubeconfig(), "tests"))?;
        *kept = Some(client.clone());
        Ok(client)
    }

    /// The PID, as this machine sees it, of a child of `up`: `server` or a node's first process.
    pub fn pid(&self, child: &str) -> Result<i32> {
        let path = self.data().join("run").join(format!("{child}.json"));
        let text = fs::read(&path).with_context(|| format!("{}", path.display()))?;
        let record: Value = serde_json::from_slice(&text)?;
        Ok(i32::try_from(
            record["pid"].as_i64().context("no pid in the record")?,
        )?)
    }

    /// A command that runs within a node, as on its console.
    pub fn in_node(&self, node: &str, line: &str) -> Result<Ran> {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--target={}", self.pid(node)?))
            .args(["--mount", "--net", "--pid", "sh", "-c", line]);
        command::run(command, "")
    }

    /// The agent that runs on a node, as its process there. The node's init has the agent's command
    /// among its words; no signal from within the node ends that one.
    pub fn agent(&self, node: &str) -> Result<String> {
        let line = "pgrep -f '^[^ ]*tiphys node --server'";
        Ok(self.in_node(node, line)?.ok()?.trim().to_owned())
    }

    /// Kills a node's agent, which is started again, later each time if it happens often: who needs it
    /// next waits for it (`wait_agent`). An error if none runs.
    pub fn kill_agent(&self, node: &str) -> Result<()> {
        let line = format!("kill -9 {}", self.agent(node)?);
        self.in_node(node, &line)?.ok().map(drop)
    }

    /// Waits until a node's agent runs, its kubelet answers, and its proxy has programmed what there is.
    /// That the node is Ready says nothing: it may be so since before a kill.
    pub fn wait_agent(&self, node: &str) -> Result<()> {
        let line = format!("get --raw /api/v1/nodes/{node}/proxy/healthz");
        eventually("the node's agent answers", || {
            self.agent(node)?;
            self.kubectl(&line)?.ok()?;
            let proxy = "busybox wget -q -O - http://127.0.0.1:10256/healthz";
            self.in_node(node, proxy)?.ok().map(drop)
        })
    }

    /// Sends a signal to the running `up` or `server`.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let main = self.main.lock().map_err(|_| anyhow::anyhow!("poisoned"))?;
        main.as_ref().context("nothing runs")?.signal(signal)
    }

    /// Kills `up` (or `server`) at once; nodes and control plane of an `up` go on.
    pub fn kill_main(&self) -> Result<()> {
        let mut main = self.main.lock().map_err(|_| anyhow::anyhow!("poisoned"))?;
        // Dropping it kills it and waits.
        drop(main.take().context("nothing runs")?);
        Ok(())
    }

    /// What `up` or `server` printed.
    pub fn main_text(&self) -> String {
        self.main
            .lock()
            .ok()
            .and_then(|m| m.as_ref().map(Running::text))
            .unwrap_or_default()
    }

    /// Ends the cluster as Ctrl-C or TERM does, and says what it left on the machine.
    pub fn end(&self) -> Result<()> {
        let ids = traces::ids(&self.data());
        let running = self
            .main
            .lock()
            .map_err(|_| anyhow::anyhow!("poisoned"))?
            .take();
        if let Some(mut running) = running {
            if running.is_running() {
                running.signal(Signal::TERM)?;
            }
            let code = running.end()?;
            ensure!(code == 0, "it ended with {code}:\n{}", running.text());
        }
        let left = traces::of(&self.data(), &ids);
        if !left.is_empty() {
            bail!("the ended cluster left:\n  {}", left.join("\n  "));
        }
        Ok(())
    }

    /// Whether anything of the cluster should still run.
    pub fn is_launched(&self) -> bool {
        self.main.lock().is_ok_and(|m| m.is_some())
    }

    /// The ends of all logs, for a failed test.
    pub fn logs(&self, lines: usize) -> String {
        let mut out = String::new();
        let main = self.main_text();
        out.push_str(&format!("--- what it printed\n{}\n", tail(&main, lines)));
        let Ok(entries) = fs::read_dir(self.data().join("logs")) else {
            return out;
        };
        for entry in entries.filter_map(Result::ok) {
            let text = fs::read(entry.path()).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            out.push_str(&format!(
                "--- {}\n{}\n",
                entry.path().display(),
                tail(&text, lines)
            ));
        }
        out
    }

    /// Copies the logs to where they outlive the cluster.
    pub fn keep_logs(&self, name: &str) -> Result<PathBuf> {
        let target = std::env::temp_dir().join("tiphys-test-logs").join(name);
        fs::create_dir_all(&target)?;
        fs::write(target.join("main.log"), self.main_text())?;
        if let Ok(entries) = fs::read_dir(self.data().join("logs")) {
            for entry in entries.filter_map(Result::ok) {
                fs::copy(entry.path(), target.join(entry.file_name()))?;
            }
        }
        Ok(target)
    }
}

fn tail(text: &str, lines: usize) -> String {
    // The container runtime logs much that is of no interest.
    let all: Vec<&str> = text
        .lines()
        .filter(|l| !l.contains(" level=info "))
        .collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.is_launched() {
            let _ = self.end();
        }
        if self.setup.nodes > 0 {
            // Also what lost its supervisor.
            let _ = self.tiphys_on_data("down");
        }
    }
}
