//! The system calls that change a machine: control groups, mounts, netlink, namespaces, and the
//! clients of the container runtime. Used by what runs on a node (kubelet, proxy, network, the supervisor,
//! the binary) and by the simulation of nodes; never by a part of the control plane.

pub mod arp;
pub mod cgroup;
pub mod conntrack;
pub mod copy;
pub mod cri;
mod kernel_call;
pub mod kernel_log;
pub mod mounts;
pub mod namespaces;
pub mod ndp;
mod netfilter;
pub mod netlink;
pub mod netns;
pub mod nft;
mod nla;
pub mod open_beneath;
pub mod ping;
pub mod plugins;
pub mod podlink;
pub mod process;
pub mod quota;
pub mod runtime;
pub mod sctp;
pub mod signals;
pub mod sysctl;
pub mod wireguard;
