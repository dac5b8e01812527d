//! How CPUs are given, as the configuration says it.

use super::set::CpuSet;

/// What the configuration says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Whole CPUs are given; else all containers share all.
    pub is_static: bool,
    /// Limits of CPU are not enforced by the kernel: who asks for little may use more.
    pub no_quotas: bool,
    /// CPUs that are never given.
    pub reserved: Option<CpuSet>,
    /// A container gets whole cores, or is refused.
    pub full_cores_only: bool,
    /// Containers without CPUs of their own do not run on reserved ones either.
    pub strict_reservation: bool,
    /// What needs several NUMA nodes is spread evenly over them.
    pub over_numa: bool,
    /// Threads are spread over cores.
    pub over_cores: bool,
    /// Those that share a last cache are given together, where that can be.
    pub by_cache: bool,
    /// Nodes of one socket are as good as one node.
    pub by_socket: bool,
}
