//! Flags of autoscaling: upstream's names and defaults.

use anyhow::{Result, bail};
use clap::Args;
use controllers::autoscaler::{Options, Starts};
use jiff::SignedDuration;

/// What holds for all HorizontalPodAutoscalers.
#[derive(Args, Clone)]
pub struct AutoscalingFlags {
    /// How often each HorizontalPodAutoscaler looks at its metrics.
    #[arg(long, default_value = "15s")]
    pub horizontal_pod_autoscaler_sync_period: SignedDuration,
    /// For so long no fewer replicas are there than were recommended at any time, where a
    /// HorizontalPodAutoscaler does not say it.
    #[arg(long, default_value = "5m")]
    pub horizontal_pod_autoscaler_downscale_stabilization: SignedDuration,
    /// How far metrics may be from their targets without any change, as a share of them, where a
    /// HorizontalPodAutoscaler does not say it.
    #[arg(long, default_value_t = Options::USUAL.tolerance)]
    pub horizontal_pod_autoscaler_tolerance: f64,
    /// For so long after a pod's start its CPU is counted only while the pod is ready.
    #[arg(long, default_value = "5m")]
    pub horizontal_pod_autoscaler_cpu_initialization_period: SignedDuration,
    /// A pod that became unready within this time of its start is taken for one that never was
    /// ready.
    #[arg(long, default_value = "30s")]
    pub horizontal_pod_autoscaler_initial_readiness_delay: SignedDuration,
}

impl AutoscalingFlags {
    pub fn options(&self) -> Result<Options> {
        let millis = |of: SignedDuration, name: &str, least: i64| {
            let millis = i64::try_from(of.as_millis()).unwrap_or(i64::MAX);
            if millis < least {
                bail!("--horizontal-pod-autoscaler-{name}: {of:#} is too short");
            }
            Ok(millis)
        };
        // Looking more often would cost more than it says: samples of CPU are some seconds apart.
        let period = millis(
            self.horizontal_pod_autoscaler_sync_period,
            "sync-period",
            1_000,
        )?;
        let window = self.horizontal_pod_autoscaler_downscale_stabilization;
        let window = millis(window, "downscale-stabilization", 0)? / 1_000;
        let tolerance = self.horizontal_pod_autoscaler_tolerance;
        if !(tolerance.is_finite() && tolerance >= 0.0) {
            bail!("--horizontal-pod-autoscaler-tolerance: {tolerance} is not a share");
        }
        Ok(Options {
            period_millis: period.unsigned_abs(),
            downscale_window_seconds: i32::try_from(window).unwrap_or(i32::MAX),
            tolerance,
            starts: Starts {
                cpu_millis: millis(
                    self.horizontal_pod_autoscaler_cpu_initialization_period,
                    "cpu-initialization-period",
                    0,
                )?,
                first_ready_millis: millis(
                    self.horizontal_pod_autoscaler_initial_readiness_delay,
                    "initial-readiness-delay",
                    0,
                )?,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        flags: AutoscalingFlags,
    }

    fn options(words: &[&str]) -> Result<Options> {
        let words = ["x"].iter().chain(words);
        Line::try_parse_from(words)?.flags.options()
    }

    #[test]
    fn flags_have_upstreams_names_and_defaults() {
        assert_eq!(options(&[]).unwrap(), Options::USUAL);
        let set = options(&[
            "--horizontal-pod-autoscaler-sync-period=5s",
            "--horizontal-pod-autoscaler-downscale-stabilization=1m30s",
            "--horizontal-pod-autoscaler-tolerance=0.25",
            "--horizontal-pod-autoscaler-cpu-initialization-period=0s",
            "--horizontal-pod-autoscaler-initial-readiness-delay=45s",
        ]);
        let wanted = Options {
            period_millis: 5_000,
            downscale_window_seconds: 90,
            tolerance: 0.25,
            starts: Starts {
                cpu_millis: 0,
                first_ready_millis: 45_000,
            },
        };
        assert_eq!(set.unwrap(), wanted);
        for bad in [
            "--horizontal-pod-autoscaler-sync-period=10ms",
            "--horizontal-pod-autoscaler-tolerance=-1",
            "--horizontal-pod-autoscaler-tolerance=NaN",
        ] {
            assert!(options(&[bad]).is_err(), "{bad}");
        }
    }
}
