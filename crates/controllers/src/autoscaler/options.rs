//! What an administrator may set of all autoscalers, by flags of upstream's controller manager.

/// Times and measures that hold for every autoscaler.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// How often each looks at its metrics: `--horizontal-pod-autoscaler-sync-period`.
    pub period_millis: u64,
    /// For so long the highest recommendation counts when less is wanted, where an autoscaler does
    /// not say it: `--horizontal-pod-autoscaler-downscale-stabilization`.
    pub downscale_window_seconds: i32,
    /// How far a metric may be from its target without any change, as a share of it, where an
    /// autoscaler does not say it: `--horizontal-pod-autoscaler-tolerance`.
    pub tolerance: f64,
    /// What counts of pods that start.
    pub starts: Starts,
}

/// What counts of pods that start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Starts {
    /// For so long after its start a pod's CPU is counted only while it is ready, and only what was
    /// measured since it became so: `--horizontal-pod-autoscaler-cpu-initialization-period`.
    pub cpu_millis: i64,
    /// A pod that became unready within this time of its start never was ready:
    /// `--horizontal-pod-autoscaler-initial-readiness-delay`.
    pub first_ready_millis: i64,
}

impl Starts {
    /// Upstream's.
    pub const USUAL: Self = Self {
        cpu_millis: 300_000,
        first_ready_millis: 30_000,
    };
}

impl Options {
    /// Upstream's.
    pub const USUAL: Self = Self {
        period_millis: 15_000,
        downscale_window_seconds: 300,
        tolerance: 0.1,
        starts: Starts::USUAL,
    };
}

impl Default for Options {
    fn default() -> Self {
        Self::USUAL
    }
}
