//! Why a Service has no endpoints.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use super::pod;
use super::report::Answer;
use super::state::{self, State};
use crate::pod::is_terminal;

pub fn explain(state: &State, of: &Service) -> Answer {
    let namespace = of.namespace().unwrap_or_default();
    let name = of.name_any();
    let about = format!("service {namespace}/{name}");
    let spec = of.spec.clone().unwrap_or_default();
    if spec.type_.as_deref() == Some("ExternalName") {
        let to = spec.external_name.unwrap_or_default();
        return Answer::of(
            about,
            format!("it is another name for {to}: such have no endpoints"),
        );
    }
    let has_ports = spec.ports.as_ref().is_some_and(|ports| !ports.is_empty());
    let ready = ready_addresses(state, &namespace, &name, has_ports);
    if ready > 0 {
        return Answer::of(about, format!("it has {ready} ready endpoints"));
    }
    let selector = spec.selector.clone().unwrap_or_default();
    if selector.is_empty() {
        return Answer::of(about, "it has no selector: nobody makes endpoints for it")
            .change("give it a selector, or create EndpointSlices by hand");
    }
    let here = state.pods.iter();
    let here = here.filter(|p| p.namespace().as_deref() == Some(&*namespace) && !is_terminal(p));
    let here: Vec<&Pod> = here.collect();
    let selected: Vec<&Pod> = here
        .iter()
        .copied()
        .filter(|p| state::has_all(p.labels(), &selector))
        .collect();
    if selected.is_empty() {
        return nothing_selected(about, &selector, &here);
    }
    let unready = selected.iter().find(|p| !serves(p));
    if let Some(unready) = unready {
        let why = pod::not_running(unready);
        let why = why.unwrap_or_else(|| state_of(unready));
        let count = selected.len();
        return Answer::of(
            about,
            format!(
                "none of its {count} pods is ready; {}: {why}",
                unready.name_any()
            ),
        )
        .change(format!("ask why pod/{}", unready.name_any()));
    }
    for port in spec.ports.iter().flatten() {
        if let Some(IntOrString::String(wanted)) = &port.target_port
            && !selected.iter().any(|p| has_port(p, wanted))
        {
            return Answer::of(
                about,
                format!("its target port {wanted:?} is the name of no port of its pods"),
            )
            .change(format!(
                "name a container's port {wanted:?}, or give a number"
            ));
        }
    }
    Answer::of(
        about,
        "its pods are ready; its EndpointSlices have not been written yet",
    )
}

/// Ready endpoints; of a Service with ports those of them where one of the ports is.
fn ready_addresses(state: &State, namespace: &str, name: &str, has_ports: bool) -> usize {
    let slices = state.slices.iter().filter(|s| {
        let owner = s.labels().get("kubernetes.io/service-name");
        let serves = !has_ports || s.ports.as_ref().is_some_and(|ports| !ports.is_empty());
        let is_its = owner.map(String::as_str) == Some(name);
        s.namespace().as_deref() == Some(namespace) && is_its && serves
    });
    let endpoints = slices.flat_map(|s| s.endpoints.iter().flatten());
    let ready = endpoints.filter(|e| {
        let ready = e.conditions.as_ref().and_then(|c| c.ready);
        ready.unwrap_or(true)
    });
    ready.count()
}

fn nothing_selected(about: String, selector: &BTreeMap<String, String>, pods: &[&Pod]) -> Answer {
    let text: Vec<String> = selector.iter().map(|(k, v)| format!("{k}={v}")).collect();
    let answer = Answer::of(about, format!("no pod has the labels {}", text.join(",")));
    // Whoever has most of them was perhaps meant.
    let shared = |p: &&&Pod| {
        let labels = p.labels();
        selector
            .iter()
            .filter(|(k, v)| labels.get(*k) == Some(*v) || labels.contains_key(*k))
            .count()
    };
    let near = pods.iter().max_by_key(shared).filter(|p| shared(p) > 0);
    let Some(near) = near else {
        return answer.change("create pods with these labels");
    };
    let wrong = selector
        .iter()
        .filter(|(k, v)| near.labels().get(*k) != Some(*v));
    let wrong: Vec<String> = wrong
        .map(|(k, v)| match near.labels().get(k) {
            Some(has) => format!("{k}={has} is not {k}={v}"),
            None => format!("{k} is missing"),
        })
        .collect();
    answer.change(format!(
        "nearest is pod {}: {}",
        near.name_any(),
        wrong.join(", ")
    ))
}

fn serves(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .iter()
        .flat_map(|s| s.conditions.iter().flatten());
    pod.metadata.deletion_timestamp.is_none()
        && conditions
            .into_iter()
            .any(|c| c.type_ == "Ready" && c.status == "True")
}

fn state_of(pod: &Pod) -> String {
    if pod.metadata.deletion_timestamp.is_some() {
        return "it is being deleted".to_owned();
    }
    match pod.spec.as_ref().and_then(|s| s.node_name.as_deref()) {
        None => "it has no node".to_owned(),
        Some(_) => "it is not ready".to_owned(),
    }
}

fn has_port(pod: &Pod, name: &str) -> bool {
    let containers = pod.spec.iter().flat_map(|s| &s.containers);
    let mut ports = containers.flat_map(|c| c.ports.iter().flatten());
    ports.any(|p| p.name.as_deref() == Some(name))
}
