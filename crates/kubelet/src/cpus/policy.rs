//! How CPUs are given, as the configuration says it.

use super::set::CpuSet;

/// What the configuration says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Whole CPUs are given; else all containers share all.
    pub is_static: bool,
    /// CPUs that are never given.
    pub reserved: Option<CpuSet>,
    /// A container gets whole cores, or is refused.
    pub full_cores_only: bool,
    /// Containers without CPUs of their own do not run on reserved ones either.
    pub strict_reservation: bool,
}
