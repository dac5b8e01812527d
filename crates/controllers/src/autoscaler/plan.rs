//! The plan of a HorizontalPodAutoscaler: the scale that its metrics ask for, within what it may
//! do now, and a status that says why. The scale is changed first; the status that says so is
//! written by the next plan, when the change is known to have gone well.

use std::sync::Arc;

use control::action::{Action, Plan, Target, reference};
use k8s_openapi::api::autoscaling::v2::{
    ContainerResourceMetricStatus, ExternalMetricStatus, HPAScalingRules, HorizontalPodAutoscaler,
    HorizontalPodAutoscalerCondition, HorizontalPodAutoscalerStatus, MetricIdentifier, MetricSpec,
    MetricStatus, MetricTarget, MetricValueStatus, ObjectMetricStatus, PodsMetricStatus,
    ResourceMetricStatus,
};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::core::ApiResource;
use serde_json::Value;

use super::history::{Bounds, History};
use super::options::Options;
use super::replicas::{self, Measures, Proposal, Tolerance, milli_value};
use crate::common::{Key, key_of, time_at, update_status, value_of};

/// The scale of what is scaled.
#[derive(Clone, Debug)]
pub struct Scale {
    /// The resource that has it.
    pub resource: ApiResource,
    /// As it was read; it is written back changed.
    pub object: Value,
}

impl Scale {
    fn number(&self, pointer: &str) -> i32 {
        let found = self.object.pointer(pointer).and_then(Value::as_i64);
        found.map_or(0, |n| i32::try_from(n).unwrap_or(i32::MAX))
    }
    /// As many as there should be.
    pub fn wanted(&self) -> i32 {
        self.number("/spec/replicas")
    }
    fn present(&self) -> i32 {
        self.number("/status/replicas")
    }
    /// Which pods are counted, as text.
    pub fn selector(&self) -> &str {
        let found = self.object.pointer("/status/selector");
        found.and_then(Value::as_str).unwrap_or_default()
    }
}

/// What one metric was found to be.
#[derive(Clone, Debug)]
pub enum Sample {
    /// Of each pod.
    Pods(Measures),
    /// Of one thing, or the sum of several series, in thousandths.
    Value(i64),
}

/// An autoscaler and what there is to know of what it scales.
#[derive(Clone, Debug)]
pub struct Observed {
    pub autoscaler: Arc<HorizontalPodAutoscaler>,
    /// Why it could not be read, if so.
    pub scale: Result<Scale, String>,
    /// The pods that the scale selects.
    pub pods: Vec<Arc<Pod>>,
    /// Other autoscalers that select one of them.
    pub others: Vec<Key>,
    /// One for each metric of the spec.
    pub samples: Vec<Result<Sample, String>>,
    /// What holds for all.
    pub options: Options,
}

/// The first thing that keeps an autoscaler from knowing what it needs.
struct Unknown {
    /// Of its condition and event.
    reason: &'static str,
    /// Of its event and, with some words around, of its condition.
    text: String,
    /// Where it stands among all metrics.
    context: String,
}

struct Status<'a> {
    of: &'a HorizontalPodAutoscaler,
    status: HorizontalPodAutoscalerStatus,
    events: Vec<Action>,
    now_millis: i64,
    period_millis: u64,
}

impl Status<'_> {
    fn condition(&mut self, kind: &str, is_true: bool, reason: &str, message: impl Into<String>) {
        let status = if is_true { "True" } else { "False" };
        let all = self.status.conditions.get_or_insert_default();
        let at = all.iter().position(|c| c.type_ == kind);
        let before = at.map(|at| all.remove(at));
        let since = match before {
            Some(c) if c.status == status => c.last_transition_time,
            _ => Some(time_at(self.now_millis)),
        };
        let condition = HorizontalPodAutoscalerCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.into()),
            last_transition_time: since,
        };
        let at = at.unwrap_or(all.len());
        all.insert(at, condition);
    }

    fn warn(&mut self, reason: &'static str, message: String) {
        self.events.push(Action::Event {
            about: reference(self.of),
            warning: true,
            reason,
            message,
        });
    }

    /// The plan that writes it, if it says anything new.
    fn write(self) -> Plan {
        let mut plan = Plan {
            actions: self.events,
            wake_after_millis: Some(self.period_millis),
            ..Plan::default()
        };
        if self.of.status.as_ref() != Some(&self.status) {
            plan.last
                .push(update_status(self.of, value_of(&self.status)));
        }
        plan
    }
}

/// What is to be done now.
pub fn plan(seen: &Observed, history: &mut History, now_millis: i64) -> Plan {
    let hpa = &*seen.autoscaler;
    if crate::common::is_deleting(hpa) {
        return Plan::nothing();
    }
    if let Some(status) = history.pending.take() {
        history.failure = None;
        history.written = Some(status.clone());
        let mut plan = Plan::from(update_status(hpa, status));
        plan.wake_after_millis = Some(seen.options.period_millis);
        return plan;
    }
    let mut status = Status {
        of: hpa,
        status: hpa.status.clone().unwrap_or_default(),
        events: Vec::new(),
        now_millis,
        period_millis: seen.options.period_millis,
    };
    let scale = match &seen.scale {
        Ok(scale) => scale,
        Err(why) => {
            let text =
                format!("the HPA controller was unable to get the target's current scale: {why}");
            status.warn("FailedGetScale", why.clone());
            status.condition("AbleToScale", false, "FailedGetScale", text);
            return status.write();
        }
    };
    let text = "the HPA controller was able to get the target's current scale";
    status.condition("AbleToScale", true, "SucceededGetScale", text);
    history.begin(scale.wanted(), now_millis);
    let Some(decision) = decide(seen, scale, history, &mut status) else {
        return status.write();
    };
    apply(seen, scale, &decision, history, status)
}

/// How many there should be, and why.
struct Decision {
    replicas: i32,
    reason: String,
}

/// `None`: the metrics do not say, and the status does.
fn decide(
    seen: &Observed,
    scale: &Scale,
    history: &mut History,
    status: &mut Status<'_>,
) -> Option<Decision> {
    let spec = &seen.autoscaler.spec;
    let current = scale.wanted();
    let (least, most) = (spec.min_replicas.unwrap_or(1), spec.max_replicas);
    let decision = |replicas, reason: &str| {
        let reason = reason.to_owned();
        Some(Decision { replicas, reason })
    };
    status.status.current_replicas = Some(current);
    status.status.current_metrics = None;
    if current == 0 {
        let text = "scaling is disabled since the replica count of the target is zero";
        status.condition("ScalingActive", false, "ScalingDisabled", text);
        return decision(0, "");
    }
    if current > most {
        return decision(most, "Current number of replicas above Spec.MaxReplicas");
    }
    if current < least {
        return decision(least, "Current number of replicas below Spec.MinReplicas");
    }
    let (proposed, metric) = metrics(seen, scale, status)?;
    let reason = match proposed.cmp(&current) {
        std::cmp::Ordering::Greater => format!("{metric} above target"),
        std::cmp::Ordering::Less => "All metrics below target".to_owned(),
        std::cmp::Ordering::Equal => String::new(),
    };
    let behavior = spec.behavior.as_ref();
    let now_millis = status.now_millis;
    let window = seen.options.downscale_window_seconds;
    let stable = history.stabilize((behavior, window), current, proposed, now_millis);
    if stable.replicas == proposed {
        let text = "recommended size matches current size";
        status.condition("AbleToScale", true, "ReadyForNewScale", text);
    } else {
        status.condition("AbleToScale", true, stable.why.0, stable.why.1);
    }
    let bounds = Bounds {
        current,
        least,
        most,
    };
    let limited = history.limit(behavior, bounds, stable.replicas, now_millis);
    let is_limited = limited.replicas != stable.replicas;
    status.condition("ScalingLimited", is_limited, limited.why.0, limited.why.1);
    decision(limited.replicas, &reason)
}

fn apply(
    seen: &Observed,
    scale: &Scale,
    decision: &Decision,
    history: &mut History,
    mut status: Status<'_>,
) -> Plan {
    let (from, to) = (scale.wanted(), decision.replicas);
    status.status.desired_replicas = to;
    if from == to {
        history.failure = None;
        return status.write();
    }
    let hpa = &*seen.autoscaler;
    let size = format!("New size: {to}; reason: {}", decision.reason);
    let mut object = scale.object.clone();
    object["spec"]["replicas"] = to.into();
    // Whatever else of the target has changed meanwhile: that is not a reason to scale it later.
    if let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        meta.remove("resourceVersion");
    }
    let update = Action::Update {
        target: Target {
            resource: scale.resource.clone(),
            namespace: key_of(hpa).0,
            name: hpa.spec.scale_target_ref.name.clone(),
        },
        subresource: "scale",
        object,
    };
    let failure = format!("{size}; error: {{error}}");
    let update = update.noted(
        &reference(hpa),
        ("SuccessfulRescale", size),
        ("FailedRescale", failure),
    );
    // Until it is known how this goes, the status says how it went the last time.
    let failed = history.failure.take().map(|why| {
        let mut failed = Status {
            of: hpa,
            status: status.status.clone(),
            events: Vec::new(),
            now_millis: status.now_millis,
            period_millis: status.period_millis,
        };
        failed.status.desired_replicas = hpa.status.as_ref().map_or(0, |s| s.desired_replicas);
        let text = format!("the HPA controller was unable to update the target scale: {why}");
        failed.condition("AbleToScale", false, "FailedUpdateScale", text);
        failed.write().last
    });
    let now_millis = status.now_millis;
    let text = format!("the HPA controller was able to update the target scale to {to}");
    status.condition("AbleToScale", true, "SucceededRescale", text);
    status.status.last_scale_time = Some(time_at(now_millis));
    let behavior = hpa.spec.behavior.as_ref();
    history.scaled(behavior, from, to, now_millis);
    history.pending = Some(value_of(&status.status));
    let mut actions = failed.unwrap_or_default();
    actions.extend(status.events);
    Plan {
        actions,
        last: vec![update],
        // At once, for the status.
        wake_after_millis: Some(1),
        reasons: vec![format!("{from} to {to}: {}", decision.reason)],
        ..Plan::default()
    }
}

/// What all metrics together ask for: the most, and which of them does; `None` when they do not
/// say, which is noted.
fn metrics(seen: &Observed, scale: &Scale, status: &mut Status<'_>) -> Option<(i32, String)> {
    let selector = scale.selector();
    let wrong = if selector.is_empty() {
        let text = "selector is required".to_owned();
        let message = "the HPA target's scale is missing a selector".to_owned();
        Some(("SelectorRequired", "InvalidSelector", text, message))
    } else if let Err(why) = api::LabelSelector::parse(selector) {
        let text = format!(
            "couldn't convert selector into a corresponding internal selector object: {why}"
        );
        Some(("InvalidSelector", "InvalidSelector", text.clone(), text))
    } else if !seen.others.is_empty() {
        let own = key_of(&*seen.autoscaler);
        let all = seen.others.iter().chain([&own]);
        let mut all: Vec<String> = all.map(|(ns, name)| format!("{ns}/{name}")).collect();
        all.sort();
        let text = format!(
            "pods by selector {selector} are controlled by multiple HPAs: [{}]",
            all.join(" ")
        );
        Some(("AmbiguousSelector", "AmbiguousSelector", text.clone(), text))
    } else {
        None
    };
    if let Some((event, reason, text, message)) = wrong {
        status.warn(event, text.clone());
        status.warn("FailedComputeMetricsReplicas", text);
        status.condition("ScalingActive", false, reason, message);
        return None;
    }
    let specs = seen.autoscaler.spec.metrics.as_deref().unwrap_or_default();
    let (mut best, mut first, mut unknown): (Option<(i32, String)>, _, _) = (None, None, 0usize);
    let mut shown = Vec::new();
    for (spec, sample) in specs.iter().zip(&seen.samples) {
        match metric(spec, sample, seen, scale, status.now_millis) {
            Ok((replicas, name, current)) => {
                shown.push(current);
                if best.as_ref().is_none_or(|(most, _)| replicas > *most) {
                    best = Some((replicas, name));
                }
            }
            Err(why) => {
                status.warn(why.reason, why.text.clone());
                first = first.or(Some(why));
                unknown += 1;
            }
        }
    }
    status.status.current_metrics = Some(shown).filter(|s| !s.is_empty());
    let fewer = best
        .as_ref()
        .is_none_or(|(replicas, _)| *replicas < scale.wanted());
    if let Some(why) = first.filter(|_| best.is_none() || fewer) {
        // Metrics that are not known might ask for more than those that are.
        let message = format!(
            "the HPA was unable to compute the replica count: {}",
            why.text
        );
        status.condition("ScalingActive", false, why.reason, message);
        let count = specs.len();
        let text = format!(
            "invalid metrics ({unknown} invalid out of {count}), first error is: {}",
            why.context
        );
        status.warn("FailedComputeMetricsReplicas", text);
        return None;
    }
    let (replicas, name) = best?;
    let text = format!("the HPA was able to successfully calculate a replica count from {name}");
    status.condition("ScalingActive", true, "ValidMetricFound", text);
    Some((replicas, name))
}

fn tolerance(hpa: &HorizontalPodAutoscaler, options: &Options) -> Tolerance {
    let behavior = hpa.spec.behavior.as_ref();
    let of = |rules: Option<&HPAScalingRules>| {
        let given = rules.and_then(|r| r.tolerance.as_ref());
        given.map_or(options.tolerance, |q| milli_value(q) as f64 / 1_000.0)
    };
    Tolerance {
        up: of(behavior.and_then(|b| b.scale_up.as_ref())),
        down: of(behavior.and_then(|b| b.scale_down.as_ref())),
    }
}

fn quantity(millis: i64, is_memory: bool) -> Quantity {
    // Memory has whole bytes, and is written in powers of two.
    let text = if is_memory && millis % 1_000 == 0 {
        api::Quantity::from_bytes(millis / 1_000).to_string()
    } else {
        api::Quantity::from_millis(millis).to_string()
    };
    Quantity(text)
}

/// What one metric asks for: how many, its name in messages, and its part of the status.
fn metric(
    spec: &MetricSpec,
    sample: &Result<Sample, String>,
    seen: &Observed,
    scale: &Scale,
    now_millis: i64,
) -> Result<(i32, String, MetricStatus), Unknown> {
    let tolerance = tolerance(&seen.autoscaler, &seen.options);
    let current = scale.wanted();
    let shown = |status: MetricStatus| MetricStatus {
        type_: spec.type_.clone(),
        ..status
    };
    let of_pods = |target: &replicas::Target<'_>| match sample {
        Ok(Sample::Pods(measures)) => {
            let measures = measures.clone();
            let rules = (tolerance, seen.options.starts);
            replicas::of_pods(measures, target, &seen.pods, current, rules, now_millis)
        }
        Ok(Sample::Value(_)) => Err("the metric is not one of pods".to_owned()),
        Err(why) => Err(why.clone()),
    };
    let value = || match sample {
        Ok(Sample::Value(value)) => Ok(*value),
        Ok(Sample::Pods(_)) => Err("the metric is one of pods".to_owned()),
        Err(why) => Err(why.clone()),
    };
    if let Some(resource) = &spec.resource {
        let failed = unknown(
            "FailedGetResourceMetric",
            format!("{} resource metric value", resource.name),
        );
        let (found, name, current) =
            resource_metric(&resource.name, None, &resource.target, of_pods).map_err(failed)?;
        let resource = ResourceMetricStatus {
            name: resource.name.clone(),
            current,
        };
        let status = MetricStatus {
            resource: Some(resource),
            ..Default::default()
        };
        return Ok((found.replicas, name, shown(status)));
    }
    if let Some(resource) = &spec.container_resource {
        let container = &resource.container;
        let failed = unknown(
            "FailedGetContainerResourceMetric",
            format!("{container} container metric value"),
        );
        let (found, name, current) =
            resource_metric(&resource.name, Some(container), &resource.target, of_pods)
                .map_err(failed)?;
        let container_resource = ContainerResourceMetricStatus {
            container: container.clone(),
            name: resource.name.clone(),
            current,
        };
        let status = MetricStatus {
            container_resource: Some(container_resource),
            ..Default::default()
        };
        return Ok((found.replicas, name, shown(status)));
    }
    if let Some(pods) = &spec.pods {
        let failed = unknown("FailedGetPodsMetric", "pods metric value".into());
        let millis = pods.target.average_value.as_ref().map_or(0, milli_value);
        let target = replicas::Target::Average {
            millis,
            resource: None,
        };
        let found = of_pods(&target).map_err(failed)?;
        let status = MetricStatus {
            pods: Some(PodsMetricStatus {
                metric: pods.metric.clone(),
                current: average(found.usage_millis),
            }),
            ..Default::default()
        };
        return Ok((
            found.replicas,
            format!("pods metric {}", pods.metric.name),
            shown(status),
        ));
    }
    if let Some(object) = &spec.object {
        let failed = unknown("FailedGetObjectMetric", "object metric value".into());
        let about = &object.described_object;
        let (found, current) = value()
            .and_then(|v| thing("object", v, &object.target, seen, scale, tolerance))
            .map_err(failed)?;
        let name = if current.value.is_some() {
            format!("{} metric {}", about.kind, object.metric.name)
        } else {
            external_name(&object.metric)
        };
        let status = MetricStatus {
            object: Some(ObjectMetricStatus {
                current,
                described_object: about.clone(),
                metric: object.metric.clone(),
            }),
            ..Default::default()
        };
        return Ok((found.replicas, name, shown(status)));
    }
    if let Some(external) = &spec.external {
        let failed = unknown(
            "FailedGetExternalMetric",
            format!("{} external metric value", external.metric.name),
        );
        let (found, current) = value()
            .and_then(|v| thing("external", v, &external.target, seen, scale, tolerance))
            .map_err(failed)?;
        let status = MetricStatus {
            external: Some(ExternalMetricStatus {
                current,
                metric: external.metric.clone(),
            }),
            ..Default::default()
        };
        return Ok((
            found.replicas,
            external_name(&external.metric),
            shown(status),
        ));
    }
    let text = format!("unknown metric source type {:?}", spec.type_);
    Err(Unknown {
        reason: "InvalidMetricSourceType",
        context: text.clone(),
        text,
    })
}

/// The failure of a metric, with what is said where it is one of several.
fn unknown(reason: &'static str, what: String) -> impl FnOnce(String) -> Unknown {
    move |text| Unknown {
        reason,
        context: format!("failed to get {what}: {text}"),
        text,
    }
}

fn external_name(metric: &MetricIdentifier) -> String {
    let selector = metric.selector.as_ref().map(value_of).unwrap_or_default();
    format!("external metric {}({selector})", metric.name)
}

fn average(millis: i64) -> MetricValueStatus {
    MetricValueStatus {
        average_value: Some(quantity(millis, false)),
        ..Default::default()
    }
}

/// Of a resource that the pods' containers use.
fn resource_metric(
    name: &str,
    container: Option<&str>,
    target: &MetricTarget,
    of_pods: impl Fn(&replicas::Target<'_>) -> Result<Proposal, String>,
) -> Result<(Proposal, String, MetricValueStatus), String> {
    let is_memory = name == "memory";
    let shown = |found: &Proposal| MetricValueStatus {
        average_utilization: found.utilization,
        average_value: Some(quantity(found.usage_millis, is_memory)),
        value: None,
    };
    if let Some(wanted) = &target.average_value {
        let target = replicas::Target::Average {
            millis: milli_value(wanted),
            resource: Some(name),
        };
        let found = of_pods(&target).map_err(|e| format!("failed to get {name} usage: {e}"))?;
        return Ok((found, format!("{name} resource"), shown(&found)));
    }
    let Some(percent) = target.average_utilization else {
        return Err("invalid resource metric source: neither an average utilization target nor an average value (usage) target was set".into());
    };
    let target = replicas::Target::Utilization {
        percent,
        resource: name,
        container,
    };
    let found = of_pods(&target).map_err(|e| format!("failed to get {name} utilization: {e}"))?;
    let of = if container.is_some() {
        " container"
    } else {
        ""
    };
    let named = format!("{name}{of} resource utilization (percentage of request)");
    Ok((found, named, shown(&found)))
}

/// Of something that is not a pod.
fn thing(
    kind: &str,
    usage_millis: i64,
    target: &MetricTarget,
    seen: &Observed,
    scale: &Scale,
    tolerance: Tolerance,
) -> Result<(Proposal, MetricValueStatus), String> {
    if let Some(wanted) = &target.average_value {
        let wanted = milli_value(wanted);
        let found = replicas::of_share(usage_millis, wanted, scale.present(), tolerance);
        return Ok((found, average(found.usage_millis)));
    }
    if let Some(wanted) = &target.value {
        let wanted = milli_value(wanted);
        let found =
            replicas::of_value(usage_millis, wanted, &seen.pods, scale.wanted(), tolerance)?;
        let current = MetricValueStatus {
            value: Some(quantity(found.usage_millis, false)),
            ..Default::default()
        };
        return Ok((found, current));
    }
    Err(format!(
        "invalid {kind} metric source: neither a value target nor an average value target was set"
    ))
}
