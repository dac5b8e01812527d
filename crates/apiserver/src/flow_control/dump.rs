//! The pages `/debug/api_priority_and_fairness/…`: which levels, queues and requests there are, as
//! tables of text in upstream's form.

use std::time::Duration;

use flowcontrol::config::Response;
use jiff::Timestamp;

use super::FlowControl;
use super::table::Level;
use crate::configuration_objects::Configurations;

/// Queues of a level that are shown though nothing is in them.
const EMPTY_SHOWN: u32 = 1024;

type Rows = Vec<Vec<String>>;

impl FlowControl {
    /// A page; `None` when there is no such one. `with_details`: also who asks for what.
    pub fn dump(&self, objects: &Configurations, page: &str, with_details: bool) -> Option<String> {
        let table = self.table(objects);
        let levels = table.1.levels.values();
        let rows = match page {
            "dump_priority_levels" => levels.map(|l| level(l)).collect(),
            "dump_queues" => levels.flat_map(|l| queues(l)).collect(),
            "dump_requests" => levels
                .flat_map(|l| self.requests(l, with_details))
                .collect(),
            _ => return None,
        };
        Some(aligned(heads(page, with_details), rows))
    }

    fn requests(&self, level: &Level, with_details: bool) -> Rows {
        let now = self.now();
        let today = self.clock.now();
        let at = |when: Duration| {
            let ago = now.saturating_sub(when);
            today.checked_sub(ago).unwrap_or(Timestamp::MIN).to_string()
        };
        let state = level.state.lock();
        let one = |r: flowcontrol::queues::RequestShown<'_, super::Details>| {
            let number = |n: Option<u64>| n.map_or_else(|| "-1".to_owned(), |n| n.to_string());
            let mut row = vec![
                level.name.clone(),
                r.details.schema().to_owned(),
                number(r.queue.map(u64::from)),
                number(r.place.map(|p| p as u64)),
                r.details.distinguisher(),
                at(r.arrived),
                r.work.initial_seats.to_string(),
                r.work.final_seats.to_string(),
                duration(r.work.latency),
                // Upstream's zero time stands for none.
                r.started
                    .map_or_else(|| "0001-01-01T00:00:00Z".to_owned(), at),
            ];
            if with_details {
                let (user, info) = r.details.read();
                let version = match (&*info.group, &*info.version) {
                    ("", version) => version.to_owned(),
                    (group, version) => format!("{group}/{version}"),
                };
                let user = user.to_owned();
                let what = [
                    user,
                    info.verb,
                    info.path,
                    info.namespace,
                    info.name,
                    version,
                ];
                row.extend(what);
                row.extend([info.resource, info.subresource]);
            }
            row
        };
        state.set.requests().map(one).collect()
    }
}

fn heads(page: &str, with_details: bool) -> Vec<&'static str> {
    match page {
        "dump_priority_levels" => vec![
            "PriorityLevelName",
            "ActiveQueues",
            "IsIdle",
            "IsQuiescing",
            "WaitingRequests",
            "ExecutingRequests",
            "DispatchedRequests",
            "RejectedRequests",
            "TimedoutRequests",
            "CancelledRequests",
        ],
        "dump_queues" => vec![
            "PriorityLevelName",
            "Index",
            "PendingRequests",
            "ExecutingRequests",
            "SeatsInUse",
            "NextDispatchR",
            "InitialSeatsSum",
            "MaxSeatsSum",
            "TotalWorkSum",
        ],
        _ => {
            let mut heads = vec![
                "PriorityLevelName",
                "FlowSchemaName",
                "QueueIndex",
                "RequestIndexInQueue",
                // Upstream's spelling, which programs know it by.
                "FlowDistingsher",
                "ArriveTime",
                "InitialSeats",
                "FinalSeats",
                "AdditionalLatency",
                "StartTime",
            ];
            if with_details {
                heads.extend([
                    "UserName",
                    "Verb",
                    "APIPath",
                    "Namespace",
                    "Name",
                    "APIVersion",
                    "Resource",
                    "SubResource",
                ]);
            }
            heads
        }
    }
}

fn level(level: &Level) -> Vec<String> {
    let state = level.state.lock();
    let set = &state.set;
    let counts = set.counts();
    let active = set.queues().filter(|q| q.waiting > 0).count();
    vec![
        level.name.clone(),
        active.to_string(),
        set.is_idle().to_string(),
        state.is_leftover.to_string(),
        set.waiting().to_string(),
        set.running().to_string(),
        counts.dispatched.to_string(),
        counts.rejected.to_string(),
        // Who waits too long counts as cancelled; as upstream.
        "0".to_owned(),
        counts.cancelled.to_string(),
    ]
}

fn queues(level: &Level) -> Rows {
    let state = level.state.lock();
    let configured = match state.config.response {
        Response::Queue(q) => q.queues.min(EMPTY_SHOWN),
        _ => 0,
    };
    let mut known = state.set.queues().peekable();
    let mut rows = Rows::new();
    let mut next = 0;
    while next < configured || known.peek().is_some() {
        let empty = flowcontrol::queues::QueueShown {
            number: next,
            ..Default::default()
        };
        let shown = match known.next_if(|q| q.number == next || next >= configured) {
            Some(q) => q,
            None => empty,
        };
        next = shown.number.saturating_add(1);
        rows.push(vec![
            level.name.clone(),
            shown.number.to_string(),
            shown.waiting.to_string(),
            shown.executing.to_string(),
            shown.seats.to_string(),
            format!("{:.8}ss", shown.next.max(0.0)),
            shown.initial_seats.to_string(),
            shown.waiting_seats.to_string(),
            format!("{:.8}ss", shown.waiting_work.max(0.0)),
        ]);
    }
    rows
}

/// As Go writes durations of this size.
fn duration(d: Duration) -> String {
    if d.is_zero() {
        "0s".to_owned()
    } else if d < Duration::from_secs(1) {
        format!("{}ms", d.as_secs_f64() * 1e3)
    } else {
        format!("{}s", d.as_secs_f64())
    }
}

/// Cells with commas behind them, each column as wide as its widest cell.
fn aligned(heads: Vec<&str>, rows: Rows) -> String {
    let heads: Vec<String> = heads.into_iter().map(str::to_owned).collect();
    let all: Vec<&Vec<String>> = std::iter::once(&heads).chain(&rows).collect();
    let width = |nth: usize| {
        let cells = all.iter().filter_map(|row| row.get(nth));
        let longest = cells.map(|cell| cell.chars().count() + 2).max();
        longest.unwrap_or(0).max(8)
    };
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let mut text = String::new();
    for row in all {
        let last = row.len().saturating_sub(1);
        for (nth, (cell, width)) in row.iter().zip(&widths).enumerate() {
            if nth == last {
                text.push_str(cell);
            } else {
                text.push_str(&format!("{:width$}", format!("{cell},")));
            }
        }
        text.push('\n');
    }
    text
}
