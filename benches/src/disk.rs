//! The disk itself: how many small appended writes per second it makes durable, one after the
//! other. No writer that answers after its write is durable can be faster at concurrency 1.

use std::fs::File;
use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::load::percentile_ms;
use crate::plan::Plan;
use crate::report::{Report, Row};
use crate::server::scratch;

const WRITE_BYTES: usize = 1500;

pub fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    let dir = scratch()?;
    let mut file = File::create(dir.path().join("log"))?;
    let time = Duration::from_secs(if plan.quick { 1 } else { 3 });
    let block = [b'x'; WRITE_BYTES];
    let mut latencies = Vec::new();
    let begun = Instant::now();
    while begun.elapsed() < time {
        let sent = Instant::now();
        file.write_all(&block)?;
        file.sync_data()?;
        latencies.push(sent.elapsed().as_nanos() as u64);
    }
    let per_second = latencies.len() as f64 / begun.elapsed().as_secs_f64();
    latencies.sort_unstable();
    report.add(Row {
        case: "disk: append 1.5 KB, fdatasync".into(),
        concurrency: 1,
        per_second: Some(per_second),
        p50_ms: Some(percentile_ms(&latencies, 50.0)),
        p99_ms: Some(percentile_ms(&latencies, 99.0)),
        ..Row::default()
    });
    Ok(())
}
