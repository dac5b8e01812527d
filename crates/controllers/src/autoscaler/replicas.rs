//! How many replicas one metric asks for: upstream's arithmetic, on values. Pods that cannot be
//! counted on are taken for idle when the metric asks for more, and for busy when it asks for
//! less, so that what is unknown never makes a change larger.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::ResourceExt;

use super::options::Starts;
use crate::common::{is_deleting, is_ready, millis_of, phase, value_of};

/// What was measured of one pod, in thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measured {
    pub millis: i64,
    /// When the measuring ended, since the epoch.
    pub at_millis: i64,
    /// How long it took.
    pub window_millis: i64,
}

/// By the pod's name.
pub type Measures = BTreeMap<String, Measured>;

/// How far a metric may be from its target without any change, as shares of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    pub up: f64,
    pub down: f64,
}

impl Tolerance {
    fn allows(self, ratio: f64) -> bool {
        (1.0 - self.down) <= ratio && ratio <= (1.0 + self.up)
    }
}

/// What one metric asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proposal {
    pub replicas: i32,
    /// In percent of what was requested; for a target of that kind.
    pub utilization: Option<i32>,
    /// What was measured, in thousandths.
    pub usage_millis: i64,
}

/// What the target says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// Percent of what the containers request of a resource; of one container, or of all.
    Utilization {
        percent: i32,
        resource: &'a str,
        container: Option<&'a str>,
    },
    /// An average in thousandths; of a resource, or of a metric of the pods' own.
    Average {
        millis: i64,
        resource: Option<&'a str>,
    },
}

impl Target<'_> {
    fn is_cpu(&self) -> bool {
        match self {
            Self::Utilization { resource, .. } => *resource == "cpu",
            Self::Average { resource, .. } => *resource == Some("cpu"),
        }
    }
}

/// Names of pods, by how they count.
#[derive(Debug, Default)]
struct Groups {
    ready: usize,
    unready: BTreeSet<String>,
    missing: BTreeSet<String>,
    ignored: BTreeSet<String>,
}

/// `cpu`: what counts of pods that start, where the metric is CPU.
fn group(pods: &[Arc<Pod>], measures: &Measures, cpu: Option<Starts>, now_millis: i64) -> Groups {
    let mut groups = Groups::default();
    for pod in pods {
        let name = pod.name_any();
        if is_deleting(&**pod) || phase(pod) == "Failed" {
            groups.ignored.insert(name);
        } else if phase(pod) == "Pending" {
            groups.unready.insert(name);
        } else if let Some(measured) = measures.get(&name) {
            if cpu.is_some_and(|starts| is_starting(pod, measured, starts, now_millis)) {
                groups.unready.insert(name);
            } else {
                groups.ready += 1;
            }
        } else {
            groups.missing.insert(name);
        }
    }
    groups
}

/// Whether the CPU that was measured is that of a start.
fn is_starting(pod: &Pod, measured: &Measured, starts: Starts, now_millis: i64) -> bool {
    let status = pod.status.as_ref();
    let conditions = status.and_then(|s| s.conditions.as_ref());
    let ready = conditions.and_then(|all| all.iter().find(|c| c.type_ == "Ready"));
    let started = status.and_then(|s| millis_of(s.start_time.as_ref()));
    let (Some(ready), Some(started)) = (ready, started) else {
        return true;
    };
    let changed = |c: &PodCondition| millis_of(c.last_transition_time.as_ref()).unwrap_or(0);
    let is_false = ready.status == "False";
    if started.saturating_add(starts.cpu_millis) > now_millis {
        is_false || measured.at_millis < changed(ready) + measured.window_millis
    } else {
        is_false && started.saturating_add(starts.first_ready_millis) > changed(ready)
    }
}

/// How usage stands to the target: the ratio, percent where the target is one, and the average.
fn ratio(
    measures: &Measures,
    target: &Target<'_>,
    requests: &BTreeMap<String, i64>,
) -> Result<(f64, Option<i32>, i64), String> {
    match target {
        Target::Average { millis, .. } => {
            let sum: i128 = measures.values().map(|m| i128::from(m.millis)).sum();
            let average = narrow(sum / measures.len().max(1) as i128);
            Ok((average as f64 / *millis as f64, None, average))
        }
        Target::Utilization { percent, .. } => {
            let known = measures
                .iter()
                .filter_map(|(name, m)| Some((m.millis, *requests.get(name)?)));
            let sums = known.fold((0i128, 0i128, 0i128), |(used, asked, n), (m, r)| {
                (used + i128::from(m), asked + i128::from(r), n + 1)
            });
            let (used, asked, count) = sums;
            if asked == 0 {
                return Err("no metrics returned matched known pods".into());
            }
            let utilization = i32::try_from(used * 100 / asked).unwrap_or(i32::MAX);
            let ratio = f64::from(utilization) / f64::from(*percent);
            Ok((ratio, Some(utilization), narrow(used / count)))
        }
    }
}

fn narrow(n: i128) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// A number of replicas; what is too large for one is the largest.
fn whole(replicas: f64) -> i32 {
    // A cast from float saturates.
    replicas.ceil() as i32
}

/// What a metric that each pod has asks for.
pub fn of_pods(
    mut measures: Measures,
    target: &Target<'_>,
    pods: &[Arc<Pod>],
    current: i32,
    (tolerance, starts): (Tolerance, Starts),
    now_millis: i64,
) -> Result<Proposal, String> {
    if pods.is_empty() {
        return Err("no pods returned by selector while calculating replica count".into());
    }
    let cpu = target.is_cpu().then_some(starts);
    let groups = group(pods, &measures, cpu, now_millis);
    measures.retain(|name, _| !groups.ignored.contains(name) && !groups.unready.contains(name));
    if measures.is_empty() {
        let text = "did not receive metrics for targeted pods (pods might be unready)";
        return Err(text.into());
    }
    let requests = match target {
        Target::Utilization {
            resource,
            container,
            ..
        } => requests(pods, resource, *container)?,
        Target::Average { .. } => BTreeMap::new(),
    };
    let (first, utilization, usage_millis) = ratio(&measures, target, &requests)?;
    let propose = |replicas| {
        Ok(Proposal {
            replicas,
            utilization,
            usage_millis,
        })
    };
    let grows_unready = !groups.unready.is_empty() && first > 1.0;
    if !grows_unready && groups.missing.is_empty() {
        if tolerance.allows(first) {
            return propose(current);
        }
        return propose(whole(first * groups.ready as f64));
    }
    let pretend = |millis| Measured {
        millis,
        at_millis: now_millis,
        window_millis: 0,
    };
    for name in &groups.missing {
        let busy = match target {
            Target::Average { millis, .. } => *millis,
            Target::Utilization { percent, .. } => {
                let asked = requests.get(name).copied().unwrap_or(0);
                narrow(i128::from(asked) * i128::from((*percent).max(100)) / 100)
            }
        };
        if first < 1.0 {
            measures.insert(name.clone(), pretend(busy));
        } else if first > 1.0 {
            measures.insert(name.clone(), pretend(0));
        }
    }
    if grows_unready {
        measures.extend(groups.unready.iter().map(|n| (n.clone(), pretend(0))));
    }
    let (again, ..) = ratio(&measures, target, &requests)?;
    let turned = (first < 1.0 && again > 1.0) || (first > 1.0 && again < 1.0);
    if tolerance.allows(again) || turned {
        return propose(current);
    }
    let replicas = whole(again * measures.len() as f64);
    if (again < 1.0 && replicas > current) || (again > 1.0 && replicas < current) {
        return propose(current);
    }
    propose(replicas)
}

/// What a metric of one thing asks for, whose value should be `target_millis` for all pods together.
pub fn of_value(
    usage_millis: i64,
    target_millis: i64,
    pods: &[Arc<Pod>],
    current: i32,
    tolerance: Tolerance,
) -> Result<Proposal, String> {
    let ratio = usage_millis as f64 / target_millis as f64;
    let replicas = if current == 0 {
        whole(ratio)
    } else if tolerance.allows(ratio) {
        current
    } else if pods.is_empty() {
        let text = "unable to calculate ready pods: no pods returned by selector while calculating replica count";
        return Err(text.into());
    } else {
        let ready = pods
            .iter()
            .filter(|p| phase(p) == "Running" && is_ready(p))
            .count();
        whole(ratio * ready as f64)
    };
    Ok(Proposal {
        replicas,
        utilization: None,
        usage_millis,
    })
}

/// What a metric of one thing asks for, whose share for each pod should be `target_millis`.
pub fn of_share(
    usage_millis: i64,
    target_millis: i64,
    status_replicas: i32,
    tolerance: Tolerance,
) -> Proposal {
    let ratio = usage_millis as f64 / (target_millis as f64 * f64::from(status_replicas));
    let replicas = if tolerance.allows(ratio) {
        status_replicas
    } else {
        whole(usage_millis as f64 / target_millis as f64)
    };
    Proposal {
        replicas,
        utilization: None,
        // A cast from float saturates, also where nothing runs yet.
        usage_millis: (usage_millis as f64 / f64::from(status_replicas)).ceil() as i64,
    }
}

/// How a pod's request is counted that asks for something as a whole.
const OF_POD: quota::pod::Rules = quota::pod::Rules {
    status: false,
    overhead: true,
    huge_pages: true,
};

/// What each pod requests of a resource, in thousandths.
fn requests(
    pods: &[Arc<Pod>],
    resource: &str,
    container: Option<&str>,
) -> Result<BTreeMap<String, i64>, String> {
    let one = |pod: &Arc<Pod>| Ok((pod.name_any(), request(pod, resource, container)?));
    pods.iter().map(one).collect()
}

fn request(pod: &Pod, resource: &str, container: Option<&str>) -> Result<i64, String> {
    let name = pod.name_any();
    let Some(spec) = &pod.spec else {
        return Err(format!("missing request for {resource} in Pod {name}"));
    };
    let of_pod = spec.resources.as_ref().and_then(|r| r.requests.as_ref());
    let mut of_pod = of_pod.into_iter().flat_map(|r| r.keys());
    if container.is_none() && of_pod.any(|name| quota::pod::is_of_pod(name)) {
        let whole = quota::pod::requests(&value_of(pod), OF_POD);
        return whole.get(resource).map_or_else(
            || {
                Err(format!(
                    "missing pod-level request for {resource} in Pod {name}"
                ))
            },
            |asked| Ok(asked.milli_value()),
        );
    }
    let is_sidecar = |c: &&Container| c.restart_policy.as_deref() == Some("Always");
    let sidecars = spec.init_containers.iter().flatten().filter(is_sidecar);
    let mut sum = 0i64;
    for c in spec.containers.iter().chain(sidecars) {
        if container.is_some_and(|wanted| wanted != c.name) {
            continue;
        }
        let requests = c.resources.as_ref().and_then(|r| r.requests.as_ref());
        let asked = requests.and_then(|r| r.get(resource)).ok_or_else(|| {
            let c = &c.name;
            format!("missing request for {resource} in container {c} of Pod {name}")
        })?;
        sum = sum.saturating_add(milli_value(asked));
        if container.is_some() {
            return Ok(sum);
        }
    }
    match container {
        Some(wanted) => Err(format!("container {wanted} not found in Pod {name}")),
        None => Ok(sum),
    }
}

/// In thousandths; the API has checked what is written there.
pub fn milli_value(quantity: &Quantity) -> i64 {
    quantity
        .0
        .parse::<api::Quantity>()
        .map_or(0, |q| q.milli_value())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::common::time_text;

    const NOW: i64 = 1_700_000_000_000;

    fn object(value: Value) -> Arc<Pod> {
        Arc::new(serde_json::from_value(value).unwrap())
    }

    /// `r`: ready for long; `u`: never was; `h`: has just started; `p`, `f`, `d`: waits, has failed, is
    /// being deleted. Each requests a whole CPU.
    fn pods(states: &str) -> Vec<Arc<Pod>> {
        let one = |(i, state): (usize, char)| {
            let ready = if matches!(state, 'u' | 'p' | 'f') {
                "False"
            } else {
                "True"
            };
            let phase = match state {
                'p' => "Pending",
                'f' => "Failed",
                _ => "Running",
            };
            let (started, changed) = match state {
                'u' => (600_000, 590_000),
                'h' => (12_000, 10_000),
                _ => (3_600_000, 3_500_000),
            };
            let deleted = (state == 'd').then(|| time_text(NOW));
            object(json!({
                "metadata": { "name": format!("p{i}"), "deletionTimestamp": deleted },
                "spec": { "containers": [{ "name": "c", "resources": { "requests": { "cpu": "1" } } }] },
                "status": { "phase": phase, "startTime": time_text(NOW - started), "conditions": [
                    { "type": "Ready", "status": ready, "lastTransitionTime": time_text(NOW - changed) }] },
            }))
        };
        states.chars().enumerate().map(one).collect()
    }

    #[test]
    fn pods_in_any_state_count_as_they_should() {
        type Row<'a> = (&'a str, &'a [i64], i32, i32, i32, i32);
        let rows: &[Row<'_>] = &[
            ("rrr", &[300, 500, 700], 30, 3, 5, 50),
            ("urr", &[300, 500, 700], 30, 3, 4, 60),
            ("hrr", &[300, 500, 700], 30, 3, 4, 60),
            ("ruu", &[400, 500, 700], 30, 3, 3, 40),
            ("rhh", &[400, 500, 700], 30, 3, 3, 40),
            ("rrff", &[500, 700], 30, 2, 4, 60),
            ("rrdd", &[500, 700], 30, 2, 4, 60),
            ("rrrrr", &[100, 300, 500, 250, 250], 50, 5, 3, 28),
            ("rrruu", &[100, 300, 500, 250, 250], 50, 5, 2, 30),
            ("rrrhh", &[100, 300, 500, 250, 250], 50, 5, 2, 30),
            ("rrrrrff", &[100, 300, 500, 250, 250], 50, 5, 3, 28),
            ("rpppp", &[100], 50, 5, 1, 10),
            ("rrr", &[1010, 1030, 1020], 100, 3, 3, 102),
            // Measured, but not selected.
            (
                "rrrr",
                &[4000, 9500, 3000, 7000, 3200, 2000],
                100,
                4,
                24,
                587,
            ),
            // Selected, but not measured.
            ("rrrr", &[400, 95], 100, 4, 3, 24),
            ("rr", &[1000], 100, 2, 2, 100),
            ("rr", &[1900], 100, 2, 2, 190),
            ("rr", &[600], 100, 2, 2, 60),
            ("urr", &[100, 450], 50, 3, 3, 45),
            ("urr", &[100, 2000], 50, 3, 4, 200),
            ("urrr", &[100, 100, 100], 50, 4, 3, 10),
            // More than there should be, as while they are replaced.
            ("rrr", &[100, 100], 50, 2, 2, 10),
        ];
        for &(states, used, percent, current, replicas, utilization) in rows {
            let measured = |millis: &i64| Measured {
                millis: *millis,
                at_millis: NOW,
                window_millis: 15_000,
            };
            let all = used.iter().enumerate();
            let measures = all.map(|(i, millis)| (format!("p{i}"), measured(millis)));
            let target = Target::Utilization {
                percent,
                resource: "cpu",
                container: None,
            };
            let rules = (Tolerance { up: 0.1, down: 0.1 }, Starts::USUAL);
            let (measures, pods) = (measures.collect(), pods(states));
            let found = of_pods(measures, &target, &pods, current, rules, NOW).unwrap();
            let expected = (replicas, Some(utilization));
            assert_eq!(
                (found.replicas, found.utilization),
                expected,
                "{states} {used:?}"
            );
        }
    }

    #[test]
    fn a_pod_requests_as_a_whole_or_by_its_containers() {
        let asks = |cpu: &str| json!({ "requests": { "cpu": cpu } });
        let one = |name: &str, cpu: Value| json!({ "name": name, "resources": cpu });
        let two = json!([one("a", asks("100m")), one("b", asks("50m"))]);
        let half = json!([one("a", json!({})), one("b", asks("50m"))]);
        let none = json!([one("a", json!({}))]);
        let memory = json!({ "requests": { "memory": "1Gi" } });
        let missing = "missing request for cpu in container a of Pod p";
        for (own, containers, container, expected) in [
            (json!({}), &two, None, Ok(150)),
            (json!({}), &half, None, Err(missing)),
            (json!({}), &two, Some("a"), Ok(100)),
            (
                json!({}),
                &two,
                Some("x"),
                Err("container x not found in Pod p"),
            ),
            (asks("800m"), &two, None, Ok(800)),
            (asks("800m"), &half, None, Ok(800)),
            (asks("800m"), &two, Some("a"), Ok(100)),
            (memory.clone(), &half, None, Ok(50)),
            (
                memory,
                &none,
                None,
                Err("missing pod-level request for cpu in Pod p"),
            ),
        ] {
            let pod = object(json!({ "metadata": { "name": "p" },
                "spec": { "resources": own, "containers": containers } }));
            let expected = expected.map_err(str::to_owned);
            assert_eq!(
                request(&pod, "cpu", container),
                expected,
                "{own} {containers}"
            );
        }
    }

    #[test]
    fn what_is_too_much_for_a_number_is_the_largest() {
        let tolerance = Tolerance { up: 0.1, down: 0.1 };
        let found = of_share(i64::MAX, 1, 1, tolerance);
        assert_eq!((found.replicas, found.usage_millis), (i32::MAX, i64::MAX));
        let found = of_share(i64::MAX, i64::MAX, 1, tolerance);
        assert_eq!((found.replicas, found.usage_millis), (1, i64::MAX));
        let found = of_value(i64::MAX, 1, &pods("rrr"), 3, tolerance).unwrap();
        assert_eq!((found.replicas, found.usage_millis), (i32::MAX, i64::MAX));
    }
}
