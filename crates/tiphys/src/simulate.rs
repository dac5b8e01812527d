//! `tiphys simulate`: plays a cluster that a file describes, in virtual time, and shows what came of
//! it. What is played, and how, is [`sim::described`].

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use sim::described::{Description, Report, Sample, simulate};
use terminal::plot::{self, Plot};
use terminal::style::{Style, Tone, harmless};
use terminal::table::{self, Column};

use crate::show::progress::Work;
use crate::show::{Output, print, standard_output};

#[derive(Args)]
pub struct SimulateArgs {
    /// The cluster and what happens to it, as YAML; `-` is standard input.
    file: PathBuf,
    /// Begin with a cluster as it is: what `kubectl get nodes,deployments,… -A -o yaml` printed. Its
    /// objects come before those of the file.
    #[arg(long, value_name = "FILE")]
    cluster: Option<PathBuf>,
    /// Another seed than the file's: all chance comes from it.
    #[arg(long)]
    seed: Option<u64>,
    /// How the answer is written.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

fn read(path: &Path) -> Result<String> {
    if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin()
            .read_to_string(&mut text)
            .context("reading standard input")?;
        return Ok(text);
    }
    std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}

pub fn run(args: &SimulateArgs) -> Result<()> {
    let of = |path: &Path| path.display().to_string();
    let mut description = Description::read(&read(&args.file)?).with_context(|| of(&args.file))?;
    if let Some(cluster) = &args.cluster {
        let text = read(cluster)?;
        description.begin_with(&text).with_context(|| of(cluster))?;
    }
    if let Some(seed) = args.seed {
        description.seed = seed;
    }
    let work = Work::begin();
    work.waits(format!("playing {}", of(&args.file)));
    let report = simulate(&description).with_context(|| of(&args.file))?;
    drop(work);
    let (style, width) = standard_output();
    let text = args.output.of(&report, || lines(&report, style, width))?;
    print(&format!("{text}\n")).map(drop)
}

/// `1h30m` or `45s`.
fn span(seconds: u64) -> String {
    let (hours, minutes, rest) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    let part = |n: u64, unit: &str| {
        if n > 0 {
            format!("{n}{unit}")
        } else {
            String::new()
        }
    };
    let text = format!(
        "{}{}{}",
        part(hours, "h"),
        part(minutes, "m"),
        part(rest, "s")
    );
    if text.is_empty() {
        "0s".to_owned()
    } else {
        text
    }
}

fn lines(report: &Report, style: Style, width: Option<usize>) -> Vec<String> {
    let mut out = vec![format!(
        "{} in the life of {} nodes, seed {}: {} changes of objects.",
        span(report.virtual_seconds),
        report.nodes,
        report.seed,
        report.revisions,
    )];
    out.extend(pending(report, style, width));
    out.extend(workloads(report, style, width));
    out.push(String::new());
    let waits = report.waits;
    out.push(match waits.pods {
        0 => "No pod got a node.".to_owned(),
        pods => format!(
            "{pods} pods got a node: half of them within {}, 99 % within {}, the last after {}.",
            span(waits.median_seconds.round() as u64),
            span(waits.p99_seconds.round() as u64),
            span(waits.longest_seconds.round() as u64),
        ),
    });
    let evicted = report.evictions;
    out.push(match evicted.all() {
        0 => "No pod was evicted.".to_owned(),
        all => format!(
            "{all} evictions: {} for pods of higher priority, {} from nodes with taints (as those that failed), {} by drains and the eviction API, {} others.",
            evicted.preempted, evicted.by_taints, evicted.by_request, evicted.others,
        ),
    });
    out.extend(plots(report, width));
    for note in &report.notes {
        out.push(style.paint(Tone::Warn, &format!("note: {}", harmless(note))));
    }
    out
}

fn pending(report: &Report, style: Style, width: Option<usize>) -> Vec<String> {
    if report.pending.is_empty() {
        return vec![style.paint(Tone::Good, "All pods have a node.")];
    }
    let columns = [
        Column::left("PENDING"),
        Column::left("NAMESPACE"),
        Column::right("PODS"),
        Column::text("WHY"),
    ];
    let count: usize = report.pending.iter().map(|p| p.pods).sum();
    let mut out = vec![
        style.paint(Tone::Bad, &format!("{count} pods have no node:")),
        String::new(),
    ];
    let rows: Vec<_> = report
        .pending
        .iter()
        .map(|p| {
            let mut why = p.cause.clone();
            if let Some(change) = &p.change {
                why = format!("{why} (smallest change: {change})");
            }
            vec![
                p.owner.as_str().into(),
                p.namespace.as_str().into(),
                p.pods.to_string().into(),
                why.into(),
            ]
        })
        .collect();
    out.extend(table::lines(&columns, &rows, width, style));
    out
}

fn workloads(report: &Report, style: Style, width: Option<usize>) -> Vec<String> {
    if report.workloads.is_empty() {
        return Vec::new();
    }
    let columns = [
        Column::left("WORKLOAD"),
        Column::left("NAMESPACE"),
        Column::right("READY"),
        Column::right("WANTED"),
    ];
    let rows: Vec<_> = report
        .workloads
        .iter()
        .map(|w| {
            let name = format!("{}/{}", w.kind, w.name);
            vec![
                name.into(),
                w.namespace.as_str().into(),
                w.ready.to_string().into(),
                w.wanted.to_string().into(),
            ]
        })
        .collect();
    let mut out = vec![String::new()];
    out.extend(table::lines(&columns, &rows, width, style));
    out
}

/// Part of what there is, in percent.
fn percent(part: i64, whole: i64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 * 100.0 / whole as f64
    }
}

fn plots(report: &Report, width: Option<usize>) -> Vec<String> {
    let end = span(report.virtual_seconds);
    let mut out = Vec::new();
    let mut draw = |title: &str, top: Option<(f64, &str)>, of: &dyn Fn(&Sample) -> f64| {
        let values: Vec<f64> = report.samples.iter().map(of).collect();
        let highest = values.iter().copied().fold(1.0, f64::max);
        let label = format!("{highest:.0}");
        let plot = Plot {
            title,
            values: &values,
            top: top.unwrap_or((highest, &label)),
            times: ("0s", &end),
        };
        out.push(String::new());
        out.extend(plot::lines(&plot, width));
    };
    draw("pods without a node", None, &|s| s.pending as f64);
    draw("pods that run", None, &|s| s.running as f64);
    draw(
        "CPU that pods request, of what ready nodes have",
        Some((100.0, "100 %")),
        &|s| percent(s.cpu_requested_millis, s.cpu_allocatable_millis),
    );
    draw(
        "memory that pods request, of what ready nodes have",
        Some((100.0, "100 %")),
        &|s| percent(s.memory_requested_bytes, s.memory_allocatable_bytes),
    );
    if report.evictions.all() > 0 {
        draw("evictions so far", None, &|s| s.evictions as f64);
    }
    if report.samples.iter().any(|s| s.nodes_ready < s.nodes) {
        draw("nodes that are ready", None, &|s| s.nodes_ready as f64);
    }
    out
}

#[cfg(test)]
mod tests {
    use sim::described::{Pending, Workload};

    use super::*;

    #[test]
    fn a_person_sees_first_what_does_not_fit() {
        let sample = |pending| Sample {
            pending,
            nodes: 2,
            nodes_ready: 2,
            ..Sample::default()
        };
        let report = Report {
            seed: 1,
            virtual_seconds: 5_400,
            nodes: 2,
            revisions: 9,
            waits: sim::described::Waits::default(),
            evictions: sim::described::Evictions::default(),
            workloads: vec![Workload {
                kind: "Deployment",
                namespace: "shop".into(),
                name: "web".into(),
                wanted: 3,
                ready: 1,
            }],
            pending: vec![Pending {
                owner: "Deployment/web".into(),
                namespace: "shop".into(),
                pods: 2,
                cause: "0/2 nodes are available".into(),
                change: Some("1 cpu more".into()),
            }],
            notes: Vec::new(),
            samples: vec![sample(0), sample(2)],
        };
        let all = lines(&report, Style::PLAIN, None);
        let expected = [
            "1h30m in the life of 2 nodes, seed 1: 9 changes of objects.",
            "2 pods have no node:",
            "",
            "PENDING          NAMESPACE   PODS   WHY",
            "Deployment/web   shop           2   0/2 nodes are available (smallest change: 1 cpu more)",
            "",
            "WORKLOAD         NAMESPACE   READY   WANTED",
            "Deployment/web   shop            1        3",
        ];
        assert_eq!(
            all.get(..expected.len()),
            Some(&expected.map(str::to_owned)[..])
        );
        let has = |title: &str| all.iter().any(|l| l == title);
        assert!(
            has("pods without a node") && !has("evictions so far"),
            "{all:#?}"
        );
        assert!(
            has("No pod got a node.") && has("No pod was evicted."),
            "{all:#?}"
        );
        let whole = Report {
            pending: Vec::new(),
            ..report
        };
        let all = lines(&whole, Style::PLAIN, None);
        assert_eq!(
            all.get(1).map(String::as_str),
            Some("All pods have a node.")
        );
    }
}
