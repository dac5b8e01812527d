//! Why a pod whose containers have been made is not ready: which container, and what is asked of it; and
//! what a node says that is not.

use k8s_openapi::api::core::v1::{
    Container, ContainerStatus, Node, NodeCondition, Pod, PodStatus, Probe,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::report;

/// What keeps it from being ready, if anything does.
pub fn unready(pod: &Pod, status: &PodStatus) -> Option<String> {
    let mut init = status.init_container_statuses.iter().flatten();
    if let Some(why) = init.find_map(|c| before_others(pod, c)) {
        return Some(why);
    }
    let running = |c: &&ContainerStatus| is_running(c) && !c.ready;
    let mut main = status.container_statuses.iter().flatten();
    if let Some(c) = main.find(running) {
        let asked = spec(pod, &c.name).and_then(|spec| probe(spec, c));
        let asked = asked.map(|why| format!(": {why}")).unwrap_or_default();
        return Some(format!("container {} runs and is not ready{asked}", c.name));
    }
    let mut conditions = status.conditions.iter().flatten();
    let not_ready = conditions.find(|c| c.type_ == "Ready" && c.status == "False")?;
    if let Some(gate) = closed_gate(pod, status) {
        return Some(format!("its readiness gate {gate} is not True"));
    }
    let message = not_ready
        .message
        .clone()
        .or_else(|| not_ready.reason.clone());
    message.filter(|_| status.phase.as_deref() != Some("Running"))
}

fn is_running(c: &ContainerStatus) -> bool {
    c.state.as_ref().is_some_and(|s| s.running.is_some())
}

fn spec<'a>(pod: &'a Pod, name: &str) -> Option<&'a Container> {
    let spec = pod.spec.as_ref()?;
    let init = spec.init_containers.iter().flatten();
    init.chain(&spec.containers).find(|c| c.name == name)
}

/// Of an init container that runs, for what the others wait: that it ends or, where it stays beside
/// them, that it has started.
fn before_others(pod: &Pod, c: &ContainerStatus) -> Option<String> {
    let spec = spec(pod, &c.name)?;
    let stays = spec.restart_policy.as_deref() == Some("Always");
    if !is_running(c) || (stays && c.started == Some(true)) {
        return None;
    }
    if !stays {
        return Some(format!(
            "init container {} has not ended yet, the others wait",
            c.name
        ));
    }
    let asked = spec.startup_probe.as_ref().map(startup);
    let asked = asked.map(|why| format!(": {why}")).unwrap_or_default();
    Some(format!(
        "init container {} has not started yet{asked}",
        c.name
    ))
}

fn startup(probe: &Probe) -> String {
    format!(
        "its startup probe ({}) has not succeeded yet",
        question(probe)
    )
}

/// The probe that says that a container is not ready.
fn probe(spec: &Container, c: &ContainerStatus) -> Option<String> {
    if let Some(probe) = spec
        .startup_probe
        .as_ref()
        .filter(|_| c.started != Some(true))
    {
        return Some(startup(probe));
    }
    let probe = spec.readiness_probe.as_ref()?;
    Some(format!(
        "its readiness probe ({}) does not succeed",
        question(probe)
    ))
}

/// What a probe asks.
fn question(probe: &Probe) -> String {
    let number = |port: &IntOrString| match port {
        IntOrString::Int(number) => number.to_string(),
        IntOrString::String(name) => name.clone(),
    };
    if let Some(get) = &probe.http_get {
        let path = get.path.as_deref().unwrap_or("/");
        return format!("GET {path} on port {}", number(&get.port));
    }
    if let Some(tcp) = &probe.tcp_socket {
        return format!("a connection to port {}", number(&tcp.port));
    }
    if let Some(grpc) = &probe.grpc {
        return format!("gRPC on port {}", grpc.port);
    }
    let command = probe.exec.as_ref().and_then(|e| e.command.as_deref());
    command.unwrap_or_default().join(" ")
}

/// A condition that must be true besides, and is not.
fn closed_gate(pod: &Pod, status: &PodStatus) -> Option<String> {
    let is_open = |gate: &str| {
        let mut conditions = status.conditions.iter().flatten();
        conditions.any(|c| c.type_ == gate && c.status == "True")
    };
    let spec = pod.spec.as_ref()?;
    let mut gates = spec.readiness_gates.iter().flatten();
    let closed = gates.find(|g| !is_open(&g.condition_type))?;
    Some(closed.condition_type.clone())
}

/// What a condition of a node says.
pub fn told(condition: &NodeCondition) -> String {
    report::quoted(condition.reason.as_deref(), condition.message.as_deref())
}

/// Of a node that says that it is not ready, or of which nobody hears: so much, and what to do.
pub fn lost(of: &Node) -> Option<(String, &'static str)> {
    let conditions = of.status.as_ref().and_then(|s| s.conditions.as_deref());
    let ready = conditions?.iter().find(|c| c.type_ == "Ready")?;
    match ready.status.as_str() {
        "True" => None,
        "Unknown" => Some((
            format!("it is not heard from: {}", told(ready)),
            "start its agent, or mend the network between it and the servers",
        )),
        _ => Some((
            format!("it is not ready: {}", told(ready)),
            "mend what the node says",
        )),
    }
}
