//! Flags that several commands have.

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use supervisor::config::{Cidr, Cidrs};

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
    /// Range of cluster IPs, or one of each family with a comma between them; the first one's family
    /// is that of Services which do not say.
    #[arg(
        long,
        alias = "service-cluster-ip-range",
        default_value = "10.96.0.0/16"
    )]
    pub service_cidr: Cidrs,
    /// Range of pod IPs, or one of each family: then pods have an address of each.
    #[arg(long, alias = "cluster-cidr", default_value = "10.244.0.0/16")]
    pub pod_cidr: Cidrs,
    /// DNS domain of the cluster.
    #[arg(long, default_value = "cluster.local")]
    pub cluster_domain: String,
}

impl Ranges {
    /// The fixed address of cluster DNS in pods: the tenth of the first service range.
    pub fn dns_ip(&self) -> Result<IpAddr> {
        self.service_cidr
            .primary()
            .nth(10)
            .context("the service range is too small for cluster DNS")
    }

    /// The families that Services or pods have addresses of.
    pub fn families(&self) -> Vec<host::nft::Family> {
        let all = self.service_cidr.iter().chain(self.pod_cidr.iter());
        let mut families: Vec<_> = all.map(|range| host::nft::Family::of(range.base)).collect();
        families.sort();
        families.dedup();
        families
    }

    /// The ranges of Services.
    pub fn services(&self) -> Vec<host::nft::Prefix> {
        self.service_cidr.iter().map(prefix_of).collect()
    }

    /// The ranges of pods.
    pub fn pods(&self) -> Vec<host::nft::Prefix> {
        self.pod_cidr.iter().map(prefix_of).collect()
    }
}

/// The same range in the words of who programs the kernel.
pub fn prefix_of(range: Cidr) -> host::nft::Prefix {
    host::nft::Prefix {
        address: range.base,
        length: range.prefix,
    }
}
