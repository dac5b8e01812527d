//! `tiphys top`: what nodes, pods and containers use, beside what they asked for.

mod screen;

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, ResourceRequirements};
use serde::Serialize;

use crate::glance::{Read, Use};
use crate::style::{Style, Tone};
use crate::table::{self, Cell, Column};
use crate::{pods, words};

pub use screen::{Key, Next, Screen, keys};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum View {
    Nodes,
    Pods,
    Containers,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sort {
    /// What uses most comes first.
    Cpu,
    Memory,
    Name,
}

impl Sort {
    pub const fn word(self) -> &'static str {
        match self {
            Self::Cpu => "CPU",
            Self::Memory => "memory",
            Self::Name => "name",
        }
    }
}

/// Of one moment: what there is, and what it uses.
pub struct UsageSnapshot {
    pub now: Timestamp,
    pub nodes: Read<Node>,
    pub pods: Read<Pod>,
    /// What nodes use, by name, or why nobody knows.
    pub node_use: Result<BTreeMap<String, Use>, String>,
    /// What containers use, by namespace, pod and container.
    pub container_use: Result<BTreeMap<(String, String, String), Use>, String>,
}

/// One node, pod or container.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Of the node or the pod.
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub container: String,
    /// The node that a pod is on; empty of nodes themselves.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub node: String,
    pub state: String,
    #[serde(skip)]
    pub tone: Tone,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Use>,
    /// What pods ask for.
    pub requested: Use,
    /// The most that may be used: a node's room, a container's limits. None where there is none, or
    /// not for each container of a pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_limit_millis: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_limit_bytes: Option<i64>,
    /// Of nodes: the pods on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pods: Option<usize>,
    pub restarts: i32,
}

impl Row {
    /// The name by which a filter finds it.
    fn label(&self) -> String {
        [&self.namespace, &self.name, &self.container, &self.node]
            .map(String::as_str)
            .join("/")
    }
}

/// What a view shows, sorted, and why figures are missing, if they are.
pub fn rows(seen: &UsageSnapshot, view: View, sort: Sort, filter: &str) -> (Vec<Row>, Vec<String>) {
    let (mut rows, lacks) = match view {
        View::Nodes => (
            node_rows(seen),
            vec![why(&seen.nodes), why(&seen.pods), why(&seen.node_use)],
        ),
        View::Pods => (
            pod_rows(seen),
            vec![why(&seen.pods), why(&seen.container_use)],
        ),
        View::Containers => (
            container_rows(seen),
            vec![why(&seen.pods), why(&seen.container_use)],
        ),
    };
    let filter = filter.to_lowercase();
    rows.retain(|r| r.label().to_lowercase().contains(&filter));
    // By name first: what uses the same does not change its place with each look.
    rows.sort_by_cached_key(Row::label);
    match sort {
        Sort::Name => {}
        Sort::Cpu => rows.sort_by_key(|r| -r.usage.map_or(-1, |u| u.cpu_millis)),
        Sort::Memory => rows.sort_by_key(|r| -r.usage.map_or(-1, |u| u.memory_bytes)),
    }
    (rows, lacks.into_iter().flatten().collect())
}

fn why<K>(read: &Result<K, String>) -> Option<String> {
    read.as_ref().err().cloned()
}

fn listed<K>(read: &Read<K>) -> &[K] {
    read.as_deref().unwrap_or_default()
}

fn node_rows(seen: &UsageSnapshot) -> Vec<Row> {
    let row = |node: &Node| {
        let name = node.metadata.name.clone().unwrap_or_default();
        let status = node.status.as_ref();
        let can = status.and_then(|s| s.allocatable.as_ref());
        let on = |p: &&Pod| {
            let of = p.spec.as_ref().and_then(|s| s.node_name.as_deref());
            of == Some(name.as_str()) && !pods::has_ended(p)
        };
        let own: Vec<&Pod> = listed(&seen.pods).iter().filter(on).collect();
        let conditions = status.and_then(|s| s.conditions.as_deref());
        let mut ready = conditions.unwrap_or_default().iter();
        let ready = ready.any(|c| c.type_ == "Ready" && c.status == "True");
        let (tone, state) = match ready {
            true => (Tone::Good, "Ready"),
            false => (Tone::Bad, "NotReady"),
        };
        let measured = seen.node_use.as_ref().ok();
        Row {
            namespace: String::new(),
            container: String::new(),
            node: String::new(),
            state: state.to_owned(),
            tone,
            usage: measured.and_then(|all| all.get(&name)).copied(),
            requested: sum(own.iter().map(|p| asked(p))),
            cpu_limit_millis: words::millis(can.and_then(|c| c.get("cpu"))),
            memory_limit_bytes: words::units(can.and_then(|c| c.get("memory"))),
            pods: seen.pods.is_ok().then_some(own.len()),
            restarts: own.iter().map(|p| pods::restarts(p)).sum(),
            name,
        }
    };
    listed(&seen.nodes).iter().map(row).collect()
}

fn sum(all: impl Iterator<Item = Use>) -> Use {
    all.fold(Use::default(), |a, b| Use {
        cpu_millis: a.cpu_millis + b.cpu_millis,
        memory_bytes: a.memory_bytes + b.memory_bytes,
    })
}

fn requested(of: Option<&ResourceRequirements>) -> Use {
    let all = of.and_then(|r| r.requests.as_ref());
    Use {
        cpu_millis: words::millis(all.and_then(|r| r.get("cpu"))).unwrap_or(0),
        memory_bytes: words::units(all.and_then(|r| r.get("memory"))).unwrap_or(0),
    }
}

fn asked(pod: &Pod) -> Use {
    let containers = pod.spec.as_ref().map(|s| s.containers.as_slice());
    sum(containers
        .unwrap_or_default()
        .iter()
        .map(|c| requested(c.resources.as_ref())))
}

fn limits(of: Option<&ResourceRequirements>) -> (Option<i64>, Option<i64>) {
    let all = of.and_then(|r| r.limits.as_ref());
    (
        words::millis(all.and_then(|r| r.get("cpu"))),
        words::units(all.and_then(|r| r.get("memory"))),
    )
}

/// A row for a pod's own, with what all its containers share.
fn base(pod: &Pod, now: Timestamp) -> Row {
    let state = pods::state(pod, now);
    let meta = &pod.metadata;
    let node = pod.spec.as_ref().and_then(|s| s.node_name.clone());
    Row {
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
        container: String::new(),
        node: node.unwrap_or_default(),
        state: state.word,
        tone: state.tone,
        usage: None,
        requested: Use::default(),
        cpu_limit_millis: None,
        memory_limit_bytes: None,
        pods: None,
        restarts: pods::restarts(pod),
    }
}

/// Pods that have not ended; one row for each container.
fn container_rows(seen: &UsageSnapshot) -> Vec<Row> {
    let known = seen.container_use.as_ref().ok();
    let mut out = Vec::new();
    for pod in listed(&seen.pods).iter().filter(|p| !pods::has_ended(p)) {
        let base = base(pod, seen.now);
        let spec = pod.spec.as_ref().map(|s| s.containers.as_slice());
        let statuses = pod
            .status
            .as_ref()
            .and_then(|s| s.container_statuses.as_deref());
        for container in spec.unwrap_or_default() {
            let key = (
                base.namespace.clone(),
                base.name.clone(),
                container.name.clone(),
            );
            let (cpu, memory) = limits(container.resources.as_ref());
            let mut statuses = statuses.unwrap_or_default().iter();
            let status = statuses.find(|s| s.name == container.name);
            out.push(Row {
                container: container.name.clone(),
                usage: known.and_then(|all| all.get(&key)).copied(),
                requested: requested(container.resources.as_ref()),
                cpu_limit_millis: cpu,
                memory_limit_bytes: memory,
                restarts: status.map_or(0, |s| s.restart_count),
                ..base.clone()
            });
        }
    }
    out
}

fn pod_rows(seen: &UsageSnapshot) -> Vec<Row> {
    let mut out: Vec<Row> = Vec::new();
    // Containers of a pod come one after the other.
    for row in container_rows(seen) {
        let same = |last: &&mut Row| last.namespace == row.namespace && last.name == row.name;
        let Some(last) = out.last_mut().filter(same) else {
            out.push(Row {
                container: String::new(),
                ..row
            });
            continue;
        };
        last.usage = match (last.usage, row.usage) {
            (Some(a), Some(b)) => Some(sum([a, b].into_iter())),
            (one, other) => one.or(other),
        };
        last.requested = sum([last.requested, row.requested].into_iter());
        // Without a limit of each there is none of all.
        let both = |a: Option<i64>, b: Option<i64>| Some(a? + b?);
        last.cpu_limit_millis = both(last.cpu_limit_millis, row.cpu_limit_millis);
        last.memory_limit_bytes = both(last.memory_limit_bytes, row.memory_limit_bytes);
        last.restarts += row.restarts;
    }
    out
}

/// From this share of what may be used it is worth a look; from the other it is nearly over.
const HIGH: i64 = 80;
const FULL: i64 = 95;

fn tone(used: i64, limit: Option<i64>) -> Option<Tone> {
    match words::percent(used, limit?)? {
        FULL.. => Some(Tone::Bad),
        HIGH.. => Some(Tone::Warn),
        _ => None,
    }
}

fn used_cell(used: Option<i64>, limit: Option<i64>, word: fn(i64) -> String) -> [Cell; 2] {
    let Some(used) = used else {
        return ["-".into(), "".into()];
    };
    let share = limit.and_then(|l| words::percent(used, l));
    let share = share.map(|p| format!("{p}%")).unwrap_or_default();
    match tone(used, limit) {
        Some(tone) => [Cell::toned(&word(used), tone), Cell::toned(&share, tone)],
        None => [word(used).into(), share.into()],
    }
}

fn or_dash(value: Option<i64>, word: fn(i64) -> String) -> Cell {
    value.map_or_else(|| "-".into(), |v| word(v).into())
}

/// A table of a view; `many` says whether namespaces differ.
pub fn table(
    rows: &[Row],
    view: View,
    many: bool,
    width: Option<usize>,
    style: Style,
) -> Vec<String> {
    let mut columns = Vec::new();
    if many && view != View::Nodes {
        columns.push(Column::text("NAMESPACE"));
    }
    columns.push(Column::text(if view == View::Nodes {
        "NODE"
    } else {
        "POD"
    }));
    if view == View::Containers {
        columns.push(Column::text("CONTAINER"));
    }
    columns.push(Column::left("STATE"));
    columns
        .extend(["CPU", "CPU%", "REQUESTED", "MEMORY", "MEMORY%", "REQUESTED"].map(Column::right));
    if view == View::Nodes {
        columns.push(Column::right("PODS"));
    }
    columns.push(Column::right("RESTARTS"));
    if view != View::Nodes {
        columns.push(Column::text("NODE"));
    }
    let cells: Vec<Vec<Cell>> = rows.iter().map(|r| cells(r, view, many)).collect();
    table::lines(&columns, &cells, width, style)
}

fn cells(row: &Row, view: View, many: bool) -> Vec<Cell> {
    let mut out: Vec<Cell> = Vec::new();
    if many && view != View::Nodes {
        out.push(row.namespace.as_str().into());
    }
    out.push(row.name.as_str().into());
    if view == View::Containers {
        out.push(row.container.as_str().into());
    }
    out.push(Cell::toned(&row.state, row.tone));
    out.extend(used_cell(
        row.usage.map(|u| u.cpu_millis),
        row.cpu_limit_millis,
        words::cores,
    ));
    out.push(or_dash(
        Some(row.requested.cpu_millis).filter(|v| *v > 0),
        words::cores,
    ));
    out.extend(used_cell(
        row.usage.map(|u| u.memory_bytes),
        row.memory_limit_bytes,
        words::bytes,
    ));
    out.push(or_dash(
        Some(row.requested.memory_bytes).filter(|v| *v > 0),
        words::bytes,
    ));
    if view == View::Nodes {
        out.push(or_dash(row.pods.and_then(|n| n.try_into().ok()), |n| {
            n.to_string()
        }));
    }
    out.push(row.restarts.to_string().into());
    if view != View::Nodes {
        out.push(if row.node.is_empty() { "-" } else { &row.node }.into());
    }
    out
}

#[cfg(test)]
mod tests;
