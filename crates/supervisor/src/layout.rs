//! Where everything lies below the data directory.

use std::path::{Path, PathBuf};

/// The folders and files of a cluster on this machine.
#[derive(Clone, Debug)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }
    pub fn root(&self) -> &Path {
        &self.root
    }
    /// What `up` was asked for; see `config`.
    pub fn config(&self) -> PathBuf {
        self.root.join("cluster.json")
    }
    /// The binary that children run: a copy, so that a new build does not change it under them.
    pub fn binary(&self) -> PathBuf {
        self.root.join("bin/tiphys")
    }
    /// Folder of the CNI plugin, which is the binary by another name.
    pub fn bin(&self) -> PathBuf {
        self.root.join("bin")
    }
    pub fn server(&self) -> PathBuf {
        self.root.join("server")
    }
    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.root.join("admin.kubeconfig")
    }
    /// Folder of one of several servers: its own state and that of its etcd member.
    pub fn server_machine(&self, name: &str) -> PathBuf {
        self.root.join("servers").join(name)
    }
    /// What several servers share; it opens the cluster's keys.
    pub fn server_token(&self) -> PathBuf {
        self.root.join("server-token")
    }
    /// Written by a server once it answers; removed before it starts.
    pub fn ready(&self, name: &str) -> PathBuf {
        self.root.join("run").join(format!("{name}.ready"))
    }
    /// Images that every node imports when it boots.
    pub fn images(&self) -> PathBuf {
        self.root.join("images")
    }
    pub fn node(&self, name: &str) -> PathBuf {
        self.root.join("nodes").join(name)
    }
    pub fn run(&self) -> PathBuf {
        self.root.join("run")
    }
    pub fn lock(&self) -> PathBuf {
        self.root.join("run/up.lock")
    }
    pub fn socket(&self) -> PathBuf {
        self.root.join("run/up.sock")
    }
    pub fn record(&self, name: &str) -> PathBuf {
        self.root.join("run").join(format!("{name}.json"))
    }
    pub fn log(&self, name: &str) -> PathBuf {
        self.root.join("logs").join(format!("{name}.log"))
    }
    /// Six hexadecimal digits that differ between clusters on one machine: part of the names of
    /// links, cgroups and tables.
    pub fn id(&self) -> String {
        use sha2::Digest;
        let sum = sha2::Sha256::digest(self.root.as_os_str().as_encoded_bytes());
        sum.iter().take(3).map(|b| format!("{b:02x}")).collect()
    }
}
