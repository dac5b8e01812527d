//! Autoscalers on values: what they ask for, how fast they may have it, and what they say.

use std::collections::BTreeMap;
use std::sync::Arc;

use control::{Action, Plan};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::Pod;
use kube::core::ApiResource;
use serde_json::{Value, json};

use super::history::History;
use super::options::{Options, Starts};
use super::plan::{Observed, Sample, Scale, plan};
use super::replicas::{self, Measured, Measures, Proposal, Target, Tolerance};
use crate::common::time_text;

const NOW: i64 = 1_700_000_000_000;
const TOLERANCE: Tolerance = Tolerance { up: 0.1, down: 0.1 };
const RULES: (Tolerance, Starts) = (TOLERANCE, Starts::USUAL);

/// A pod that requests a whole CPU and became ready an hour ago.
fn pod(name: &str, status: Value) -> Arc<Pod> {
    let mut whole = json!({
        "phase": "Running", "startTime": time_text(NOW - 3_600_000),
        "conditions": [{"type": "Ready", "status": "True",
            "lastTransitionTime": time_text(NOW - 3_500_000)}],
    });
    crate::common::merge(&mut whole, &status);
    let pod = json!({
        "metadata": {"name": name, "namespace": "a", "labels": {"app": "x"}},
        "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]},
        "status": whole,
    });
    Arc::new(serde_json::from_value(pod).unwrap())
}

fn pods(count: usize) -> Vec<Arc<Pod>> {
    (0..count)
        .map(|i| pod(&format!("p{i}"), json!({})))
        .collect()
}

fn used(millis: &[i64]) -> Measures {
    let one = |(i, millis): (usize, &i64)| {
        let measured = Measured {
            millis: *millis,
            at_millis: NOW,
            window_millis: 15_000,
        };
        (format!("p{i}"), measured)
    };
    millis.iter().enumerate().map(one).collect()
}

const HALF: Target<'static> = Target::Utilization {
    percent: 50,
    resource: "cpu",
    container: None,
};

fn asked(measures: Measures, pods: &[Arc<Pod>], current: i32) -> Result<Proposal, String> {
    replicas::of_pods(measures, &HALF, pods, current, RULES, NOW)
}

fn wanted(measures: Measures, pods: &[Arc<Pod>], current: i32) -> i32 {
    asked(measures, pods, current).unwrap().replicas
}

#[test]
fn use_over_the_target_asks_for_more_and_under_it_for_fewer() {
    let three = pods(3);
    let found = asked(used(&[900, 950, 1000]), &three, 3).unwrap();
    assert_eq!(
        found,
        Proposal {
            replicas: 6,
            utilization: Some(95),
            usage_millis: 950
        }
    );
    assert_eq!(wanted(used(&[100, 100, 100]), &three, 3), 1);
    // 55 % is within a tenth of 50 %.
    assert_eq!(wanted(used(&[550, 550, 550]), &three, 3), 3);
    assert_eq!(wanted(used(&[560, 560, 560]), &three, 3), 4);
}

#[test]
fn what_is_not_known_makes_no_change_larger() {
    let three = pods(3);
    // Of p2 nothing is known. It might be idle: 1.8 of 3 instead of 1.8 of 2.
    assert_eq!(wanted(used(&[900, 900]), &three, 3), 4);
    // Or busy: it is taken to use all that it requests, and the ratio turns.
    assert_eq!(wanted(used(&[100, 100]), &three, 3), 3);
    assert_eq!(wanted(used(&[10, 10]), &pods(12), 12), 12);
    let waiting = vec![three[0].clone(), pod("p1", json!({"phase": "Pending"}))];
    assert_eq!(wanted(used(&[900, 0]), &waiting, 2), 2);
    let dead = vec![three[0].clone(), pod("p1", json!({"phase": "Failed"}))];
    assert_eq!(wanted(used(&[900, 900]), &dead, 1), 2);
}

#[test]
fn the_cpu_of_a_start_does_not_count() {
    let starting = |ready: &str, ready_before: i64, start_before: i64| {
        let status = json!({"startTime": time_text(NOW - start_before), "conditions":
            [{"type": "Ready", "status": ready, "lastTransitionTime": time_text(NOW - ready_before)}]});
        vec![pod("p0", status)]
    };
    let none = "did not receive metrics for targeted pods (pods might be unready)";
    let why = |pods: &[Arc<Pod>]| asked(used(&[1000]), pods, 1).map(|p| p.replicas);
    // Within five minutes of the start: ready, and measured since it is.
    assert_eq!(why(&starting("True", 60_000, 61_000)), Ok(2));
    assert_eq!(why(&starting("True", 10_000, 61_000)), Err(none.into()));
    assert_eq!(why(&starting("False", 60_000, 61_000)), Err(none.into()));
    // Later: one that never was ready, but not one that became unready.
    assert_eq!(why(&starting("False", 590_000, 600_000)), Err(none.into()));
    assert_eq!(why(&starting("False", 60_000, 600_000)), Ok(2));
}

#[test]
fn an_administrator_says_what_holds_for_all() {
    // A pod within five minutes of its start that is not ready, and became so long after it began.
    let status = json!({"startTime": time_text(NOW - 100_000), "conditions":
        [{"type": "Ready", "status": "False", "lastTransitionTime": time_text(NOW - 10_000)}]});
    let one = vec![pod("p0", status)];
    let with = |starts| replicas::of_pods(used(&[1000]), &HALF, &one, 1, (TOLERANCE, starts), NOW);
    assert!(with(Starts::USUAL).is_err());
    let short = Starts {
        cpu_millis: 60_000,
        first_ready_millis: 30_000,
    };
    assert_eq!(with(short).map(|p| p.replicas), Ok(2));
    let long = Starts {
        first_ready_millis: 95_000,
        ..short
    };
    assert!(with(long).is_err());

    let mut world = World::new(json!({}), 4);
    world.options = Options {
        tolerance: 0.5,
        downscale_window_seconds: 60,
        period_millis: 7_000,
        ..Options::USUAL
    };
    // 70 % are within a half of 50 %, 30 % too; 20 % are not.
    for (millis, after, replicas) in [
        (700, 0, 4),
        (300, 61_000, 4),
        (200, 1_000, 4),
        (200, 61_000, 2),
    ] {
        (world.millis, world.now) = (millis, world.now + after);
        world.look();
        assert_eq!(world.replicas, replicas, "{millis}");
    }
    let next = plan(&world.observed(), &mut world.history, world.now);
    assert_eq!(next.wake_after_millis, Some(7_000));
}

#[test]
fn requests_are_those_of_the_containers_that_count() {
    let sidecar: Pod = serde_json::from_value(json!({
        "metadata": {"name": "p0"},
        "spec": {
            "containers": [{"name": "c", "resources": {"requests": {"cpu": "500m"}}}],
            "initContainers": [
                {"name": "once"},
                {"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "500m"}}},
            ],
        },
        "status": {"phase": "Running", "startTime": time_text(NOW - 3_600_000),
            "conditions": [{"type": "Ready", "status": "True"}]},
    }))
    .unwrap();
    let all = vec![Arc::new(sidecar.clone())];
    assert_eq!(
        asked(used(&[1000]), &all, 1).unwrap().utilization,
        Some(100)
    );
    let of = |container| Target::Utilization {
        percent: 50,
        resource: "cpu",
        container: Some(container),
    };
    let one = |container, pods: &[Arc<Pod>]| {
        replicas::of_pods(used(&[1000]), &of(container), pods, 1, RULES, NOW)
    };
    assert_eq!(one("s", &all).unwrap().utilization, Some(200));
    assert_eq!(
        one("x", &all),
        Err("container x not found in Pod p0".into())
    );
    let mut bare = sidecar;
    bare.spec.as_mut().unwrap().containers[0].resources = None;
    let text = "missing request for cpu in container c of Pod p0";
    assert_eq!(asked(used(&[1000]), &[Arc::new(bare)], 1), Err(text.into()));
}

#[test]
fn values_of_things_are_for_all_pods_or_each() {
    let three = pods(3);
    let of = |usage, current| {
        replicas::of_value(usage, 100, &three, current, TOLERANCE)
            .unwrap()
            .replicas
    };
    assert_eq!((of(200, 3), of(105, 3), of(250, 0)), (6, 3, 3));
    let share = |usage| replicas::of_share(usage, 100, 3, TOLERANCE);
    assert_eq!((share(900).replicas, share(310).replicas), (9, 3));
    assert_eq!(share(910).usage_millis, 304);
}

fn autoscaler(spec: Value) -> Arc<HorizontalPodAutoscaler> {
    let mut whole = json!({
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
        "minReplicas": 1, "maxReplicas": 10,
        "metrics": [{"type": "Resource", "resource": {"name": "cpu",
            "target": {"type": "Utilization", "averageUtilization": 50}}}],
    });
    crate::common::merge(&mut whole, &spec);
    let hpa = json!({"metadata": {"name": "h", "namespace": "a", "uid": "u"}, "spec": whole});
    Arc::new(serde_json::from_value(hpa).unwrap())
}

/// What an autoscaler sees, and what becomes of what it does.
struct World {
    hpa: Arc<HorizontalPodAutoscaler>,
    replicas: i32,
    /// What each pod uses.
    millis: i64,
    now: i64,
    history: History,
    options: Options,
    events: Vec<String>,
}

impl World {
    fn new(spec: Value, replicas: i32) -> Self {
        Self {
            hpa: autoscaler(spec),
            replicas,
            millis: 500,
            now: NOW,
            history: History::default(),
            events: Vec::new(),
            options: Options::USUAL,
        }
    }

    fn observed(&self) -> Observed {
        let count = usize::try_from(self.replicas).unwrap();
        Observed {
            autoscaler: self.hpa.clone(),
            scale: Ok(Scale {
                resource: ApiResource {
                    group: "apps".into(),
                    version: "v1".into(),
                    api_version: "apps/v1".into(),
                    kind: "Deployment".into(),
                    plural: "deployments".into(),
                },
                object: json!({"metadata": {"name": "web", "uid": "w", "resourceVersion": "7"},
                    "spec": {"replicas": self.replicas},
                    "status": {"replicas": self.replicas, "selector": "app=x"}}),
            }),
            pods: pods(count),
            others: Vec::new(),
            samples: vec![Ok(Sample::Pods(used(&vec![self.millis; count])))],
            options: self.options,
        }
    }

    fn act(&mut self, plan: Plan) {
        for action in plan.actions.into_iter().chain(plan.last) {
            self.one(action);
        }
    }

    fn one(&mut self, action: Action) {
        match action {
            Action::Update {
                subresource: "scale",
                object,
                ..
            } => {
                // The object of this name, in whichever version.
                assert_eq!(object["metadata"], json!({"name": "web", "uid": "w"}));
                self.replicas =
                    i32::try_from(object["spec"]["replicas"].as_i64().unwrap()).unwrap();
            }
            Action::Update { object, .. } => {
                self.hpa = Arc::new(serde_json::from_value(object).unwrap());
            }
            Action::Noted {
                action, success, ..
            } => {
                let said = success.map(|(reason, message)| format!("{reason} {message}"));
                self.events.extend(said);
                self.one(*action);
            }
            Action::Event {
                reason, message, ..
            } => self.events.push(format!("{reason} {message}")),
            other => panic!("{other:?}"),
        }
    }

    /// Looks now, and once more where that was asked for at once.
    fn look(&mut self) -> i32 {
        for _ in 0..2 {
            let seen = self.observed();
            let plan = plan(&seen, &mut self.history, self.now);
            let again = plan.wake_after_millis == Some(1);
            self.act(plan);
            if !again {
                break;
            }
        }
        self.replicas
    }

    /// So many seconds later.
    fn after(&mut self, seconds: i64) -> i32 {
        self.now += seconds * 1_000;
        self.look()
    }

    fn condition(&self, kind: &str) -> String {
        let status = self.hpa.status.clone().unwrap_or_default();
        let all = status.conditions.unwrap_or_default();
        let found = all.into_iter().find(|c| c.type_ == kind).unwrap();
        format!("{} {}", found.status, found.reason.unwrap_or_default())
    }
}

#[test]
fn load_doubles_what_is_there_at_most_and_its_end_is_waited_for() {
    let mut world = World::new(json!({}), 4);
    world.millis = 1_000;
    assert_eq!(world.look(), 8);
    assert_eq!(
        world.events,
        [
            "SuccessfulRescale New size: 8; reason: cpu resource utilization (percentage of request) above target"
        ]
    );
    assert_eq!(world.condition("AbleToScale"), "True SucceededRescale");
    let status = world.hpa.status.clone().unwrap();
    assert_eq!(
        (status.current_replicas, status.desired_replicas),
        (Some(4), 8)
    );
    assert!(status.last_scale_time.is_some());
    // As many as are allowed, though twice as many are asked for.
    assert_eq!(world.after(15), 10);
    assert_eq!(world.condition("ScalingLimited"), "True TooManyReplicas");
    world.millis = 50;
    assert_eq!(world.after(15), 10);
    assert_eq!(world.condition("AbleToScale"), "True ScaleDownStabilized");
    assert_eq!(world.after(280), 10);
    assert_eq!(world.after(25), 1);
    assert_eq!(world.condition("ScalingActive"), "True ValidMetricFound");
}

#[test]
fn behaviour_limits_the_rate_in_both_directions() {
    let slow = json!({"behavior": {
        "scaleUp": {"stabilizationWindowSeconds": 0, "selectPolicy": "Max",
            "policies": [{"type": "Pods", "value": 2, "periodSeconds": 60}]},
        "scaleDown": {"stabilizationWindowSeconds": 0, "selectPolicy": "Min",
            "policies": [{"type": "Percent", "value": 50, "periodSeconds": 60},
                {"type": "Pods", "value": 1, "periodSeconds": 60}]},
    }});
    let mut world = World::new(slow, 2);
    world.millis = 2_000;
    assert_eq!(world.look(), 4);
    assert_eq!(world.condition("ScalingLimited"), "True ScaleUpLimit");
    assert_eq!(world.after(15), 4);
    assert_eq!(world.after(50), 6);
    world.millis = 10;
    // One pod a minute, the smaller change, from what was there a minute ago.
    assert_eq!(world.after(61), 5);
    assert_eq!(world.condition("ScalingLimited"), "True ScaleDownLimit");
    assert_eq!(world.after(15), 5);
    assert_eq!(world.after(50), 4);
}

#[test]
fn a_direction_may_be_closed_and_a_tolerance_given() {
    let closed = json!({"behavior": {
        "scaleUp": {"stabilizationWindowSeconds": 0, "selectPolicy": "Disabled",
            "policies": [{"type": "Pods", "value": 2, "periodSeconds": 60}]},
        "scaleDown": {"stabilizationWindowSeconds": 0, "selectPolicy": "Max", "tolerance": "500m",
            "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}]},
    }});
    let mut world = World::new(closed, 4);
    world.millis = 1_000;
    assert_eq!(world.look(), 4);
    world.millis = 300;
    assert_eq!(
        world.after(15),
        4,
        "60 % of the target is within a tolerance of one half"
    );
    world.millis = 200;
    assert_eq!(world.after(15), 2);
}

#[test]
fn bounds_come_before_metrics_and_zero_means_off() {
    let mut world = World::new(json!({"minReplicas": 3}), 1);
    assert_eq!(world.look(), 3);
    assert!(
        world.events[0].ends_with("below Spec.MinReplicas"),
        "{:?}",
        world.events
    );
    let mut world = World::new(json!({}), 12);
    assert_eq!(world.look(), 10);
    for least in [0, 1] {
        let mut world = World::new(json!({"minReplicas": least}), 0);
        assert_eq!(world.look(), 0);
        assert_eq!(world.condition("ScalingActive"), "False ScalingDisabled");
    }
}

#[test]
fn a_metric_that_is_not_known_is_said_and_never_scales_down() {
    let mut world = World::new(json!({}), 4);
    let mut seen = world.observed();
    seen.samples = vec![Err("unable to get metrics for resource cpu: no".into())];
    let done = plan(&seen, &mut world.history, NOW);
    world.act(done);
    assert_eq!(world.replicas, 4);
    assert_eq!(
        world.condition("ScalingActive"),
        "False FailedGetResourceMetric"
    );
    let text = "failed to get cpu utilization: unable to get metrics for resource cpu: no";
    assert_eq!(
        world.events,
        [
            format!("FailedGetResourceMetric {text}"),
            format!(
                "FailedComputeMetricsReplicas invalid metrics (1 invalid out of 1), first error is: failed to get cpu resource metric value: {text}"
            ),
        ]
    );
    // Two metrics, one known: it may only make it more.
    let cpu = json!({"type": "Resource", "resource": {"name": "cpu",
        "target": {"type": "Utilization", "averageUtilization": 50}}});
    let two = json!({"metrics": [cpu, cpu]});
    for (millis, expected) in [(10, 4), (1_000, 8)] {
        let mut world = World::new(two.clone(), 4);
        world.millis = millis;
        let mut seen = world.observed();
        seen.samples.push(Err("no".into()));
        let done = plan(&seen, &mut world.history, NOW);
        world.act(done);
        assert_eq!(world.replicas, expected);
    }
}

#[test]
fn a_scale_that_cannot_be_changed_is_said_and_tried_again() {
    let mut world = World::new(json!({}), 4);
    world.millis = 1_000;
    let seen = world.observed();
    plan(&seen, &mut world.history, NOW);
    world.history.not_scaled("no such luck".into());
    let again = plan(&seen, &mut world.history, NOW);
    let said = again.actions.clone();
    assert!(
        matches!(&said[..], [Action::Update { subresource: "status", object, .. }]
        if object["status"]["conditions"].to_string().contains("FailedUpdateScale"))
    );
    world.act(again);
    assert_eq!(world.replicas, 8);
    world.look();
    assert_eq!(world.condition("AbleToScale"), "True SucceededRescale");
}

#[test]
fn two_autoscalers_of_the_same_pods_do_nothing() {
    let mut world = World::new(json!({}), 4);
    world.millis = 1_000;
    let mut seen = world.observed();
    seen.others = vec![("a".into(), "other".into())];
    let done = plan(&seen, &mut world.history, NOW);
    world.act(done);
    assert_eq!(
        (world.replicas, world.condition("ScalingActive").as_str()),
        (4, "False AmbiguousSelector")
    );
    let names: BTreeMap<_, _> = world
        .events
        .iter()
        .filter_map(|e| e.split_once(' '))
        .collect();
    assert!(
        names["AmbiguousSelector"].ends_with("[a/h a/other]"),
        "{names:?}"
    );
}

#[test]
fn a_quiet_autoscaler_writes_nothing() {
    let mut world = World::new(json!({}), 4);
    world.look();
    world.now += 15_000;
    let seen = world.observed();
    let plan = plan(&seen, &mut world.history, world.now);
    assert!(plan.is_empty(), "{plan:?}");
    assert_eq!(plan.wake_after_millis, Some(Options::USUAL.period_millis));
}
