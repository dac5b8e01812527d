//! Times of steps that are done again and again, by the clock and of CPU.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::report::Row;

/// Times of something that was done again and again, and its CPU time.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Times {
    p50_ms: f64,
    p99_ms: f64,
    cpu_ms: f64,
}

impl Times {
    /// Of all the times in nanoseconds, and the CPU time of all together.
    fn of(mut all: Vec<u64>, cpu: Duration) -> Self {
        all.sort_unstable();
        Self {
            p50_ms: crate::load::percentile_ms(&all, 50.0),
            p99_ms: crate::load::percentile_ms(&all, 99.0),
            cpu_ms: cpu.as_secs_f64() * 1e3 / all.len().max(1) as f64,
        }
    }

    pub fn row(&self, case: String) -> Row {
        Row {
            case,
            concurrency: 1,
            p50_ms: Some(self.p50_ms),
            p99_ms: Some(self.p99_ms),
            cpu_ms: Some(self.cpu_ms),
            ..Row::default()
        }
    }
}

/// Measures the calling thread. The kernel brings CPU times up to date a few hundred times a second:
/// what is short has to be done again and again.
pub struct Watch {
    begun: Instant,
    cpu: Duration,
}

impl Watch {
    pub fn start() -> Result<Self> {
        Ok(Self {
            begun: Instant::now(),
            cpu: cpu_of_thread()?,
        })
    }

    /// What has gone by: by the clock, and of CPU.
    pub fn seen(&self) -> Result<(Duration, Duration)> {
        let elapsed = self.begun.elapsed();
        Ok((elapsed, cpu_of_thread()?.saturating_sub(self.cpu)))
    }

    /// Does steps one after another, and measures each.
    pub fn each<T>(steps: Vec<T>, mut step: impl FnMut(T) -> Result<()>) -> Result<Times> {
        let mut all = Vec::with_capacity(steps.len());
        let watch = Self::start()?;
        for one in steps {
            let begun = Instant::now();
            step(one)?;
            all.push(u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX));
        }
        let (_, cpu) = watch.seen()?;
        Ok(Times::of(all, cpu))
    }
}

fn cpu_of_thread() -> Result<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanoseconds = text.split_whitespace().next().context("no CPU time")?;
    Ok(Duration::from_nanos(nanoseconds.parse()?))
}
