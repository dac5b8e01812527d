//! Why a HorizontalPodAutoscaler does not scale, as its conditions say.

use k8s_openapi::api::autoscaling::v2::{
    HorizontalPodAutoscaler, HorizontalPodAutoscalerCondition,
};
use kube::ResourceExt;

use super::report::{self, Answer};
use super::state;

pub fn explain(of: &HorizontalPodAutoscaler) -> Answer {
    let namespace = of.namespace().unwrap_or_default();
    let about = format!("horizontalpodautoscaler {namespace}/{}", of.name_any());
    if let Some(held) = state::held(of) {
        return Answer::of(about, held);
    }
    let target = &of.spec.scale_target_ref;
    let target = format!("{} {}", target.kind, target.name);
    let status = of.status.as_ref();
    let conditions = status.and_then(|s| s.conditions.as_deref());
    let conditions = conditions.unwrap_or_default();
    let is = |kind: &str, state: &str| {
        conditions
            .iter()
            .find(|c| c.type_ == kind && c.status == state)
    };
    if conditions.is_empty() {
        return Answer::of(about, "nobody has looked at it yet");
    }
    if let Some(c) = is("AbleToScale", "False") {
        let answer = Answer::of(about, format!("it cannot scale {target}: {}", told(c)));
        return match c.reason.as_deref() {
            Some("FailedGetScale") => {
                answer.change(format!("create {target}, or name one that is there"))
            }
            _ => answer,
        };
    }
    if let Some(c) = is("ScalingActive", "False") {
        let cause = format!("it does not know how many pods {target} needs: {}", told(c));
        return match c.reason.as_deref().unwrap_or_default() {
            "ScalingDisabled" => {
                let cause = format!("{target} is to have no pods: so it is left alone");
                Answer::of(about, cause).change(format!("scale {target} up by hand"))
            }
            reason => {
                let answer = Answer::of(about, cause);
                match advice(reason, c.message.as_deref().unwrap_or_default()) {
                    Some(change) => answer.change(change),
                    None => answer,
                }
            }
        };
    }
    let has = status.and_then(|s| s.current_replicas).unwrap_or(0);
    let wants = status.map_or(0, |s| s.desired_replicas);
    if let Some(c) = is("ScalingLimited", "True") {
        let cause = format!(
            "{target} has {has} pods, and it may not give another number: {}",
            told(c)
        );
        let answer = Answer::of(about, cause);
        return match c.reason.as_deref() {
            Some("TooManyReplicas") => answer.change("raise maxReplicas"),
            Some("TooFewReplicas") => answer.change("lower minReplicas"),
            _ => answer,
        };
    }
    Answer::of(about, format!("{target} has {has} pods, and needs {wants}"))
}

fn told(condition: &HorizontalPodAutoscalerCondition) -> String {
    report::quoted(condition.reason.as_deref(), condition.message.as_deref())
}

/// What would give it the figure that it lacks.
fn advice(reason: &str, message: &str) -> Option<&'static str> {
    Some(match reason {
        _ if message.contains("missing request for") => {
            "give each container of its pods a request for what is measured"
        }
        "FailedGetResourceMetric" | "FailedGetContainerResourceMetric" => {
            "see that its pods run and that their use is measured: kubectl top pods"
        }
        "FailedGetPodsMetric" | "FailedGetObjectMetric" => {
            "run an adapter that serves custom.metrics.k8s.io with this metric"
        }
        "FailedGetExternalMetric" => {
            "run an adapter that serves external.metrics.k8s.io with this metric"
        }
        "AmbiguousSelector" => "let one autoscaler alone select these pods",
        _ => return None,
    })
}
