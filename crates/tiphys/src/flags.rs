//! Flags that several commands have.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use supervisor::config::Cidr;

/// Nanoseconds of a duration as Go writes it, such as `1m30s`; what is negative is refused.
pub fn go_duration(text: &str) -> Result<i64, String> {
    match api::duration::parse(text)? {
        nanos if nanos < 0 => Err("it is negative".into()),
        nanos => Ok(nanos),
    }
}

/// Where a cluster of this machine keeps everything.
#[derive(Args, Clone)]
pub struct DataDir {
    /// Folder of all state.
    #[arg(long, env = "TIPHYS_DATA_DIR", default_value = "/var/lib/tiphys")]
    pub data_dir: PathBuf,
}

/// Ranges that control plane and nodes must agree on.
#[derive(Args, Clone)]
pub struct Ranges {
    /// Range of cluster IPs.
    #[arg(
        long,
        alias = "service-cluster-ip-range",
        default_value = "10.96.0.0/16"
    )]
    pub service_cidr: Cidr,
    /// Range of pod IPs.
    #[arg(long, alias = "cluster-cidr", default_value = "10.244.0.0/16")]
    pub pod_cidr: Cidr,
    /// DNS domain of the cluster.
    #[arg(long, default_value = "cluster.local")]
    pub cluster_domain: String,
}

impl Ranges {
    /// The fixed address of cluster DNS: the tenth of the service range.
    pub fn dns_ip(&self) -> Result<Ipv4Addr> {
        self.service_cidr
            .nth(10)
            .context("the service range is too small for cluster DNS")
    }
}
