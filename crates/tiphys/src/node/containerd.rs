//! The node's own containerd: its configuration, its process, and whether it answers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use kubelet::node::machine::has_app_armor;
use supervisor::doctor::find_program;
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

/// Where a node's containerd keeps what.
#[derive(Clone, Debug)]
pub struct Containerd {
    /// Survives reboots: images and snapshots.
    pub root: PathBuf,
    /// Below /run: gone after a reboot, as the containers are.
    pub state: PathBuf,
    pub config: PathBuf,
    pub cni_bin: PathBuf,
    pub cni_conf: PathBuf,
    pub sandbox_image: String,
}

impl Containerd {
    pub fn socket(&self) -> PathBuf {
        self.state.join("containerd.sock")
    }

    /// The configuration file's text. Profiles of AppArmor and labels of SELinux are passed on where the
    /// kernel has them.
    fn config_text(&self) -> String {
        let (root, state) = (self.root.display(), self.state.display());
        let (socket, image) = (self.socket(), &self.sandbox_image);
        let (bin, conf) = (self.cni_bin.display(), self.cni_conf.display());
        format!(
            r#"version = 2
root = "{root}"
state = "{state}"
oom_score = 0
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
  "io.containerd.internal.v1.opt",
  "io.containerd.tracing.processor.v1.otlp",
]
[grpc]
  address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{image}"
  restrict_oom_score_adj = true
  disable_apparmor = {without_app_armor}
  enable_selinux = {selinux}
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  max_container_log_line_size = 16384
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "/etc/containerd/certs.d"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{bin}"
    conf_dir = "{conf}"
    max_conf_num = 1
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
"#,
            socket = socket.display(),
            without_app_armor = !has_app_armor(),
            selinux = Path::new("/sys/fs/selinux/enforce").exists(),
        )
    }

    async fn answers(&self) -> bool {
        tokio::net::UnixStream::connect(self.socket()).await.is_ok()
    }

    async fn start(&self) -> Result<Child> {
        for dir in [&self.root, &self.state, &self.cni_conf] {
            fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
        }
        fs::write(&self.config, self.config_text())
            .with_context(|| format!("writing {}", self.config.display()))?;
        let program = find_program("containerd")
            .context("containerd is not on the PATH; see `tiphys doctor`")?;
        let mut command = Command::new(program);
        command
            .arg("--config")
            .arg(&self.config)
            .stdin(Stdio::null())
            // In its own group, so that it and the containers outlive this agent.
            .process_group(0);
        supervisor::process::inheriting_nothing(|| command.spawn()).context("starting containerd")
    }

    /// Waits until containerd answers, which takes it about 0.2 s.
    async fn wait_until_it_answers(&self, child: &mut Child) -> Result<()> {
        let waiting = async {
            while !self.answers().await {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            () = waiting => Ok(()),
            status = child.wait() => bail!("containerd ended at its start: {status:?}"),
            () = tokio::time::sleep(Duration::from_secs(60)) => bail!("containerd does not answer"),
        }
    }

    /// Starts containerd, or takes up the one that an earlier agent started, and starts it again
    /// whenever it dies, until `shutdown`. It is left running then: containers outlive the agent.
    pub async fn run(
        self,
        ready: tokio::sync::oneshot::Sender<()>,
        shutdown: CancellationToken,
    ) -> Result<()> {
        let mut ready = Some(ready);
        loop {
            if self.answers().await {
                tracing::info!("containerd of an earlier run is taken up");
                if fs::read_to_string(&self.config).is_ok_and(|old| old != self.config_text()) {
                    tracing::warn!(
                        "it goes on by the configuration of that run until it is started again: \
                         folders of network plugins are those of before"
                    );
                }
                announce(&mut ready);
                tokio::select! {
                    () = self.dies() => {}
                    () = shutdown.cancelled() => return Ok(()),
                }
            } else {
                let mut child = self.start().await?;
                self.wait_until_it_answers(&mut child).await?;
                announce(&mut ready);
                tokio::select! {
                    status = child.wait() => tracing::warn!("containerd ended ({status:?}); it is started again"),
                    () = shutdown.cancelled() => return Ok(()),
                }
            }
        }
    }

    /// Ends when the adopted containerd no longer answers: its end of a connection that is kept
    /// open closes.
    async fn dies(&self) {
        use tokio::io::AsyncReadExt;
        let Ok(mut stream) = tokio::net::UnixStream::connect(self.socket()).await else {
            return;
        };
        let mut buffer = [0; 256];
        // It greets with HTTP/2 settings and then waits for ours; it may close an idle connection.
        while matches!(stream.read(&mut buffer).await, Ok(n) if n > 0) {}
        while self.answers().await {
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
    }
}

fn announce(ready: &mut Option<tokio::sync::oneshot::Sender<()>>) {
    if let Some(ready) = ready.take() {
        let _ = ready.send(());
    }
}

/// The CNI plugin's and containerd's places below a node's folder.
pub fn of_node(dir: &Path, run: &Path, bin: &Path, sandbox_image: &str) -> Containerd {
    Containerd {
        root: dir.join("containerd"),
        state: run.join("containerd"),
        config: dir.join("containerd.toml"),
        cni_bin: bin.to_owned(),
        cni_conf: dir.join("cni"),
        sandbox_image: sandbox_image.to_owned(),
    }
}
