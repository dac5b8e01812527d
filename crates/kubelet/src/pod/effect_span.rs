//! The spans of what is done for a pod: upstream's names and attributes, and which step it is.

use super::plan::Effect;
use super::spec;
use super::state_machine::Result as Outcome;
use clock::Clock;
use k8s_openapi::api::core::v1::Pod;
use traces::{Span, Tracer};

/// Begins the span of an effect; none where nobody wants it, or where nothing is done.
pub(super) fn begin((tracer, clock): (&Tracer, Clock), effect: &Effect, pod: &Pod) -> Option<Span> {
    if !tracer.is_on() {
        return None;
    }
    let (name, step) = names(effect)?;
    let span = tracer.work_for(name, spec::uid(pod), clock.now())?;
    let (name, namespace) = (spec::name(pod), spec::namespace(pod));
    span.set("k8s.pod", format!("{namespace}/{name}"));
    span.set("k8s.pod.uid", spec::uid(pod).to_owned());
    span.set("k8s.pod.name", name.to_owned());
    span.set("k8s.namespace.name", namespace.to_owned());
    span.set("tiphys.step", step);
    if let Effect::Start { name, .. } | Effect::Resize { name, .. } = effect {
        span.set("k8s.container.name", name.clone());
    }
    Some(span)
}

/// Says what became of it.
pub(super) fn end(span: &Span, outcome: &Outcome) {
    match outcome {
        Outcome::Done => {}
        Outcome::Failed => span.failed("it will be tried again"),
        Outcome::NotStarted {
            reason, message, ..
        } => span.failed(format!("{reason}: {message}")),
        Outcome::NotPulled { message, .. } => span.failed(message.clone()),
    }
    span.end();
}

fn names(effect: &Effect) -> Option<(&'static str, &'static str)> {
    Some(match effect {
        Effect::CreateSandbox { .. } => ("syncPod", "create sandbox"),
        Effect::Start { .. } => ("syncPod", "start container"),
        Effect::Resize { .. } => ("syncPod", "resize container"),
        Effect::LimitPod { .. } => ("syncPod", "limit pod"),
        Effect::RefreshVolumes => ("syncPod", "refresh volumes"),
        Effect::RemoveContainer { .. } => ("syncPod", "remove container"),
        Effect::RemoveSandbox { .. } => ("syncPod", "remove sandbox"),
        Effect::StopSandbox { .. } => ("syncTerminatingPod", "stop sandbox"),
        Effect::Release => ("syncTerminatedPod", "release"),
        Effect::DeleteObject => ("syncTerminatedPod", "delete object"),
        Effect::Kill(_) | Effect::BackOff { .. } | Effect::WakeAt(_) => return None,
    })
}
