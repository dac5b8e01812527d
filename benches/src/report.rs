//! Results as a table, printed row by row, and as a JSON file.

use std::fs;
use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use crate::figures::{Upstream, upstream};
use crate::plan::Plan;

/// One result.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Row {
    pub case: String,
    /// 0 for what has none.
    pub concurrency: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_second: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p50_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99_ms: Option<f64>,
    /// CPU time of the server per request or delivery.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_ms: Option<f64>,
    /// Mean size of an answer's body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub unit: &'static str,
    /// How many times as many per second as upstream, and upstream's CPU time, median latency
    /// or value by ours: above 1 is better.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_ratio: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p50_ratio: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99_ratio: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_ratio: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value_ratio: Option<f64>,
}

impl Row {
    /// A single figure, of which less is better.
    pub fn value(case: &str, unit: &'static str, value: f64) -> Self {
        Self {
            case: case.into(),
            value: Some(value),
            unit,
            ..Self::default()
        }
    }

    /// Compares with what was measured of another in the same run.
    pub fn against(mut self, other: &Row) -> Self {
        self.compare(&Upstream {
            per_second: other.per_second.unwrap_or(0.0),
            p50_ms: other.p50_ms.unwrap_or(0.0),
            p99_ms: other.p99_ms.unwrap_or(0.0),
            cpu_ms: other.cpu_ms.unwrap_or(0.0),
            value: other.value.unwrap_or(0.0),
        });
        self
    }

    fn compare(&mut self, other: &Upstream) {
        let by = |a: Option<f64>, b: Option<f64>| match (a, b) {
            (Some(a), Some(b)) if a > 0.0 && b > 0.0 => Some(a / b),
            _ => None,
        };
        self.rate_ratio = by(self.per_second, Some(other.per_second));
        self.p50_ratio = by(Some(other.p50_ms), self.p50_ms);
        self.p99_ratio = by(Some(other.p99_ms), self.p99_ms);
        self.cpu_ratio = by(Some(other.cpu_ms), self.cpu_ms);
        self.value_ratio = by(Some(other.value), self.value);
    }
}

/// All results so far.
#[derive(Default, Serialize)]
pub struct Report {
    rows: Vec<Row>,
}

/// What is measured, on what, and how the columns read.
pub fn opening(plan: &Plan) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if !plan.binary.as_os_str().is_empty() {
        println!("binary {}", plan.binary.display());
    }
    println!("{cores} cores, which the load generator shares.");
    println!(
        "(×n): n times better than upstream (for the store: than etcd in this run): requests per second ours by theirs, times theirs by ours."
    );
    println!(
        "{:<52} {:>4} {:>17} {:>17} {:>17} {:>19} {:>9}",
        "case", "conc", "per second", "p50 ms", "p99 ms", "CPU ms/request", "KB"
    );
}

fn number(n: f64) -> String {
    match n.abs() {
        a if a >= 100.0 => format!("{n:.0}"),
        a if a >= 1.0 => format!("{n:.2}"),
        _ => format!("{n:.4}"),
    }
}

fn with_ratio(n: Option<f64>, ratio: Option<f64>) -> String {
    match (n, ratio) {
        (None, _) => String::new(),
        (Some(n), None) => number(n),
        (Some(n), Some(r)) => format!("{} (×{r:.1})", number(n)),
    }
}

impl Report {
    /// Compares, prints and keeps a result.
    pub fn add(&mut self, mut row: Row) {
        if let Some(other) = upstream(&row.case, row.concurrency) {
            row.compare(&other);
        }
        let conc = match row.concurrency {
            0 => String::new(),
            n => n.to_string(),
        };
        match row.value {
            Some(v) => println!(
                "{:<52} {:>4} {:>17} {}",
                row.case,
                conc,
                with_ratio(Some(v), row.value_ratio),
                row.unit
            ),
            None => println!(
                "{:<52} {:>4} {:>17} {:>17} {:>17} {:>19} {:>9}",
                row.case,
                conc,
                with_ratio(row.per_second, row.rate_ratio),
                with_ratio(row.p50_ms, row.p50_ratio),
                with_ratio(row.p99_ms, row.p99_ratio),
                with_ratio(row.cpu_ms, row.cpu_ratio),
                with_ratio(row.bytes.map(|b| b / 1e3), None)
            ),
        }
        self.rows.push(row);
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        fs::write(path, serde_json::to_vec_pretty(self)?)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_say_how_much_better() {
        let mut row = Row {
            per_second: Some(20.0),
            p50_ms: Some(2.0),
            cpu_ms: Some(0.1),
            ..Row::default()
        };
        row.compare(&Upstream {
            per_second: 10.0,
            p50_ms: 1.0,
            cpu_ms: 1.0,
            ..Upstream::default()
        });
        assert_eq!(row.rate_ratio, Some(2.0));
        assert_eq!(row.p50_ratio, Some(0.5));
        assert_eq!(row.cpu_ratio, Some(10.0));
        assert_eq!(row.value_ratio, None);
    }
}
