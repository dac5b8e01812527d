//! The network of a node, without control plane: Services in the kernel, network policies, names.
//! Each part is measured in a process of its own, which holds nothing else; those that make rules
//! do so in network namespaces of their own, and need root.

mod child;
mod objects;
mod packets;
mod policies;
mod services;

pub mod names;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::plan::Plan;
use crate::report::{Report, Row};

pub use child::child;

fn must_be_root() -> Result<()> {
    let root = rustix::process::geteuid().is_root();
    ensure!(root, "network namespaces are made for this: run it as root");
    Ok(())
}

fn thousands(count: u32) -> String {
    match (count / 1000, count % 1000) {
        (0, rest) => rest.to_string(),
        (thousands, rest) => format!("{thousands},{rest:03}"),
    }
}

/// Services by number, and endpoints of each; then so many times one of them changes.
pub fn services(plan: &Plan, report: &mut Report) -> Result<()> {
    must_be_root()?;
    let sizes: &[(u32, u32)] = match plan.quick {
        true => &[(1, 10), (2_000, 10)],
        // Upstream was measured with 2,000.
        false => &[(1, 10), (2_000, 10), (5_000, 10), (30_000, 2)],
    };
    let changes = if plan.quick { 60 } else { 300 };
    let mut one: Option<packets::Packets> = None;
    for (count, endpoints) in sizes {
        let asked = format!("services {count} {endpoints} {changes}");
        let seen: services::Figures = child::ask(&asked)?;
        let case = match count {
            1 => format!("1 Service × {endpoints} endpoints"),
            _ => format!("{} Services × {endpoints} endpoints", thousands(*count)),
        };
        if *count > 1 {
            for row in seen.rows(&case) {
                report.add(row);
            }
        }
        for row in seen.packets.rows(&case, one.as_ref()) {
            report.add(row);
        }
        one.get_or_insert(seen.packets);
    }
    Ok(())
}

/// Policies over the pods of a cluster, of which one node has its share.
pub fn policies(plan: &Plan, report: &mut Report) -> Result<()> {
    must_be_root()?;
    let (policies, pods, times) = match plan.quick {
        true => (200, 400, 50),
        false => (1_000, 2_000, 300),
    };
    let seen: policies::Figures = child::ask(&format!("policies {policies} {pods} {times}"))?;
    let case = format!(
        "{} policies over {} pods",
        thousands(policies),
        thousands(pods)
    );
    for row in seen.rows(&case) {
        report.add(row);
    }
    Ok(())
}

/// Times of something that was done again and again, and its CPU time.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
struct Times {
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

    fn row(&self, case: String) -> Row {
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
struct Watch {
    begun: Instant,
    cpu: Duration,
}

impl Watch {
    fn start() -> Result<Self> {
        Ok(Self {
            begun: Instant::now(),
            cpu: cpu_of_thread()?,
        })
    }

    /// What has gone by: by the clock, and of CPU.
    fn seen(&self) -> Result<(Duration, Duration)> {
        let elapsed = self.begun.elapsed();
        Ok((elapsed, cpu_of_thread()?.saturating_sub(self.cpu)))
    }

    /// Does steps one after another, and measures each.
    fn each<T>(steps: Vec<T>, mut step: impl FnMut(T) -> Result<()>) -> Result<Times> {
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
