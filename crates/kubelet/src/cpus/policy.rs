//! How CPUs are given, as the configuration says it.

use super::set::CpuSet;

/// What the configuration says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Whole CPUs are given; else all containers share all.
    pub is_static: bool,
    /// Limits of CPU are not enforced by the kernel: who asks for little may use more.
    pub no_quotas: bool,
    /// Microseconds of the period of limits; none: upstream's usual one.
    pub quota_period_micros: Option<i64>,
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

/// Microseconds that a quota has at least; the kernel's.
const LEAST_QUOTA: i64 = 1000;

impl Policy {
    /// A quota of CPU time and its period, both in microseconds, as the configuration wants them. What is
    /// not positive does not limit.
    #[must_use]
    pub fn in_period(&self, quota: i64, period: i64) -> (i64, i64) {
        match self.quota_period_micros {
            Some(wanted) if period > 0 && quota > 0 => {
                let part = quota.saturating_mul(wanted) / period;
                (part.max(LEAST_QUOTA), wanted)
            }
            _ => (quota, period),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_is_the_same_part_of_another_period() {
        let usual = Policy::default();
        assert_eq!(usual.in_period(50_000, 100_000), (50_000, 100_000));
        let of = |micros, quota| {
            let policy = Policy {
                quota_period_micros: Some(micros),
                ..Policy::default()
            };
            policy.in_period(quota, 100_000)
        };
        assert_eq!(of(10_000, 50_000), (5_000, 10_000));
        assert_eq!(of(1_000_000, 150_000), (1_500_000, 1_000_000));
        // The kernel takes no less.
        assert_eq!(of(5_000, 10_000), (1_000, 5_000));
        assert_eq!(of(5_000, -1), (-1, 100_000));
        assert_eq!(of(5_000, 0), (0, 100_000));
    }
}
