//! Flags that several commands have.

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Arg, ArgAction, Args};
use supervisor::config::{Cidr, Cidrs};

/// Nanoseconds of a duration as Go writes it, such as `1m30s`; what is negative is refused.
pub fn go_duration(text: &str) -> Result<i64, String> {
    match api::duration::parse(text)? {
        nanos if nanos < 0 => Err("it is negative".into()),
        nanos => Ok(nanos),
    }
}

/// Flags that say yes or no, as upstream's: `--NAME`, `--NAME=true` or `--NAME=false`. In `#[arg]` they
/// stand beside `long`.
pub trait BoolFlag {
    /// Its name alone says yes; for an `Option<bool>`, which is none where the flag is not given.
    fn bare_is_true(self) -> Self;
    /// The same for a `bool`, which is `default` where the flag is not given.
    fn bool_flag(self, default: bool) -> Self;
}

impl BoolFlag for Arg {
    fn bare_is_true(self) -> Self {
        self.num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
    }

    fn bool_flag(self, default: bool) -> Self {
        let default = if default { "true" } else { "false" };
        self.bare_is_true()
            .action(ArgAction::Set)
            .default_value(default)
    }
}

/// Where a cluster of this machine keeps everything, unless it is said.
pub const DEFAULT_DATA_DIR: &str = "/var/lib/tiphys";

/// Where a cluster of this machine keeps everything.
#[derive(Args, Clone)]
pub struct DataDir {
    /// Folder of all state.
    #[arg(long, env = "TIPHYS_DATA_DIR", default_value = DEFAULT_DATA_DIR)]
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

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Asked {
        #[arg(long, bool_flag(true))]
        on: bool,
        #[arg(long, bool_flag(false))]
        off: bool,
        #[arg(long, bare_is_true())]
        maybe: Option<bool>,
    }

    fn read(words: &[&str]) -> Option<(bool, bool, Option<bool>)> {
        let words = std::iter::once("x").chain(words.iter().copied());
        let asked = Asked::try_parse_from(words).ok()?;
        Some((asked.on, asked.off, asked.maybe))
    }

    #[test]
    fn a_flag_by_its_name_alone_says_yes() {
        assert_eq!(read(&[]), Some((true, false, None)));
        let all = read(&["--on", "--off", "--maybe"]);
        assert_eq!(all, Some((true, true, Some(true))));
        let all = read(&["--on=false", "--off=true", "--maybe=false"]);
        assert_eq!(all, Some((false, true, Some(false))));
        // As upstream's: what follows without `=` is a word of its own.
        assert_eq!(read(&["--on", "false"]), None);
        assert_eq!(read(&["--off=1x"]), None);
    }
}
