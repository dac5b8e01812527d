//! The columns of pods: what READY, STATUS and RESTARTS say is worked out from the containers'
//! states, in upstream's order of precedence.

use serde_json::Value;

use super::{AGE, NAME, col, wide, wide_col};
use crate::kinds::def::Col;
use crate::print::{flag, int, list, seconds, since, text};

pub const PODS: &[Col] = &[
    NAME,
    col("Ready", "string", |o, _| {
        let s = summary(o);
        format!("{}/{}", s.ready, s.total).into()
    }),
    col("Status", "string", |o, _| summary(o).reason.into()),
    col("Restarts", "string", |o, now| {
        restarts(&summary(o), now).into()
    }),
    AGE,
    wide_col!("IP", "/status/podIPs/0/ip", "<none>"),
    wide_col!("Node", "/spec/nodeName", "<none>"),
    wide_col!("Nominated Node", "/status/nominatedNodeName", "<none>"),
    wide("Readiness Gates", |o, _| gates(o).into()),
];

/// What a row says of a pod.
#[derive(Default)]
struct Summary {
    ready: usize,
    total: usize,
    reason: String,
    restarts: i64,
    /// When the last container ended that was started again, as the pod says it.
    last_restart: Option<Value>,
}

fn restarts(s: &Summary, now: i64) -> String {
    match &s.last_restart {
        Some(t) if s.restarts != 0 => format!("{} ({} ago)", s.restarts, since(Some(t), now)),
        _ => s.restarts.to_string(),
    }
}

/// Whether an init container runs beside the others (a sidecar).
fn is_sidecar(pod: &Value, name: &str) -> bool {
    list(pod, "/spec/initContainers")
        .iter()
        .any(|c| text(c, "/name") == name && text(c, "/restartPolicy") == "Always")
}

fn condition<'a>(pod: &'a Value, ty: &str) -> Option<&'a Value> {
    list(pod, "/status/conditions")
        .iter()
        .find(|c| text(c, "/type") == ty)
}

fn is_true(pod: &Value, ty: &str) -> bool {
    condition(pod, ty).is_some_and(|c| text(c, "/status") == "True")
}

impl Summary {
    fn count_restarts(&mut self, status: &Value) {
        self.restarts += int(status, "/restartCount");
        let ended = status
            .pointer("/lastState/terminated/finishedAt")
            .filter(|t| t.is_string());
        let newer = |t: &Value| seconds(t) > self.last_restart.as_ref().and_then(seconds);
        if let Some(t) = ended.filter(|t| newer(t)) {
            self.last_restart = Some(t.clone());
        }
    }
}

fn summary(pod: &Value) -> Summary {
    let phase = text(pod, "/status/phase");
    let inits = list(pod, "/spec/initContainers");
    let sidecars = inits
        .iter()
        .filter(|c| text(c, "/restartPolicy") == "Always")
        .count();
    let mut s = Summary {
        total: list(pod, "/spec/containers").len() + sidecars,
        reason: crate::print::text_or(pod, "/status/reason", &phase),
        ..Summary::default()
    };
    if condition(pod, "PodScheduled").is_some_and(|c| text(c, "/reason") == "SchedulingGated") {
        s.reason = "SchedulingGated".to_owned();
    }
    let (initializing, of_sidecars) = init_containers(pod, inits.len(), &mut s);
    if !initializing || is_true(pod, "Initialized") {
        s.restarts = of_sidecars.restarts;
        s.last_restart = of_sidecars.last_restart;
        containers(pod, &mut s);
    }
    let deleted = pod
        .pointer("/metadata/deletionTimestamp")
        .is_some_and(|t| !t.is_null());
    if deleted && text(pod, "/status/reason") == "NodeLost" {
        s.reason = "Unknown".to_owned();
    } else if deleted && phase != "Failed" && phase != "Succeeded" {
        s.reason = "Terminating".to_owned();
    }
    s
}

/// How far initialization is: whether it still runs, and the restarts of sidecars alone.
fn init_containers(pod: &Value, wanted: usize, s: &mut Summary) -> (bool, Summary) {
    let mut of_sidecars = Summary::default();
    for (i, c) in list(pod, "/status/initContainerStatuses")
        .iter()
        .enumerate()
    {
        s.count_restarts(c);
        let sidecar = is_sidecar(pod, &text(c, "/name"));
        if sidecar {
            of_sidecars.count_restarts(c);
        }
        let ended = c.pointer("/state/terminated").filter(|t| t.is_object());
        if ended.is_some_and(|t| int(t, "/exitCode") == 0) {
            continue;
        }
        if sidecar && flag(c, "/started") {
            s.ready += usize::from(flag(c, "/ready"));
            continue;
        }
        let waiting = text(c, "/state/waiting/reason");
        s.reason = match ended {
            Some(t) => format!("Init:{}", why_ended(t)),
            None if !waiting.is_empty() && waiting != "PodInitializing" => {
                format!("Init:{waiting}")
            }
            None => format!("Init:{i}/{wanted}"),
        };
        return (true, of_sidecars);
    }
    (false, of_sidecars)
}

fn why_ended(terminated: &Value) -> String {
    let reason = text(terminated, "/reason");
    let signal = int(terminated, "/signal");
    match () {
        () if !reason.is_empty() => reason,
        () if signal != 0 => format!("Signal:{signal}"),
        () => format!("ExitCode:{}", int(terminated, "/exitCode")),
    }
}

fn containers(pod: &Value, s: &mut Summary) {
    let (mut running, mut failure) = (false, String::new());
    for c in list(pod, "/status/containerStatuses").iter().rev() {
        s.count_restarts(c);
        let waiting = text(c, "/state/waiting/reason");
        let ended = c.pointer("/state/terminated").filter(|t| t.is_object());
        if !waiting.is_empty() {
            s.reason = waiting;
        } else if let Some(t) = ended {
            s.reason = why_ended(t);
            if int(t, "/exitCode") != 0 {
                failure.clone_from(&s.reason);
            }
        } else if flag(c, "/ready") && c.pointer("/state/running").is_some_and(Value::is_object) {
            running = true;
            s.ready += 1;
        }
    }
    if s.reason == "Completed" {
        if running && is_true(pod, "Ready") {
            s.reason = "Running".to_owned();
        } else if !failure.is_empty() {
            s.reason = failure;
        } else if running {
            s.reason = "NotReady".to_owned();
        }
    }
}

fn gates(pod: &Value) -> String {
    let gates = list(pod, "/spec/readinessGates");
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let open = gates
        .iter()
        .filter(|g| is_true(pod, &text(g, "/conditionType")))
        .count();
    format!("{open}/{}", gates.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(pod: Value, ready: &str, status: &str, restart: &str) {
        let now = seconds(&json!("2026-01-01T01:00:00Z")).unwrap_or_default();
        let s = summary(&pod);
        assert_eq!(
            (
                format!("{}/{}", s.ready, s.total).as_str(),
                s.reason.as_str(),
                &*restarts(&s, now)
            ),
            (ready, status, restart),
            "{pod}"
        );
    }

    #[test]
    fn says_what_upstream_says() {
        let spec = json!({"containers": [{"name": "a"}, {"name": "b"}]});
        let up = json!({"name": "a", "ready": true, "state": {"running": {}}});
        let crashed = json!({"name": "b", "restartCount": 3,
            "state": {"waiting": {"reason": "CrashLoopBackOff"}},
            "lastState": {"terminated": {"finishedAt": "2026-01-01T00:59:00Z"}}});
        let done =
            json!({"name": "b", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}});
        check(
            json!({"spec": spec, "status": {"phase": "Pending"}}),
            "0/2",
            "Pending",
            "0",
        );
        check(
            json!({"spec": spec, "status": {"phase": "Running", "containerStatuses": [up, crashed]}}),
            "1/2",
            "CrashLoopBackOff",
            "3 (60s ago)",
        );
        check(
            json!({"spec": spec, "status": {"phase": "Running", "containerStatuses": [up, done]}}),
            "1/2",
            "NotReady",
            "0",
        );
        check(
            json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"},
                "spec": spec, "status": {"phase": "Running", "containerStatuses": [up, up]}}),
            "2/2",
            "Terminating",
            "0",
        );
    }

    #[test]
    fn shows_the_progress_of_init_containers() {
        let spec = json!({"containers": [{"name": "a"}],
            "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}]});
        let done = json!({"name": "i", "state": {"terminated": {"exitCode": 0}}});
        let failed = json!({"name": "i", "state": {"terminated": {"exitCode": 2}}});
        let side = json!({"name": "s", "started": true, "ready": true, "state": {"running": {}}});
        let pod = |inits: Value| json!({"spec": spec, "status": {"phase": "Pending", "initContainerStatuses": inits}});
        check(
            pod(json!([{"name": "i", "state": {"running": {}}}])),
            "0/2",
            "Init:0/2",
            "0",
        );
        check(pod(json!([failed])), "0/2", "Init:ExitCode:2", "0");
        check(pod(json!([done, side])), "1/2", "Pending", "0");
    }
}
