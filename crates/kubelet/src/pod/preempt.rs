//! Which pods end for one that the cluster needs and that does not fit: of the lowest quality of
//! service first, and as few as possible. Pure.

use super::reserved::{Need, Short};
use super::resources::Qos;

/// Who gives way to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rank {
    /// Quality of service.
    pub qos: Qos,
    /// Priority; none where the pod has none.
    pub priority: Option<i32>,
    /// The cluster itself needs it.
    pub critical: bool,
}

impl Default for Rank {
    fn default() -> Self {
        Self {
            qos: Qos::BestEffort,
            priority: None,
            critical: false,
        }
    }
}

impl Rank {
    /// Whether a pod of this rank may take the place of one of the other.
    #[must_use]
    pub fn goes_before(&self, other: &Self) -> bool {
        self.critical && !other.critical
            || matches!((self.priority, other.priority), (Some(own), Some(other)) if own > other)
    }
}

/// A pod that may have to go: its UID and what it has.
pub type Candidate<'a> = (&'a str, &'a Need);

/// What is still missing: amounts by resource.
type Missing = Vec<(String, i64)>;

/// How much must become free of each resource.
fn missing(short: &[Short]) -> Missing {
    let amount = |s: &Short| {
        s.requested
            .saturating_add(s.used)
            .saturating_sub(s.capacity)
    };
    let all = short.iter().map(|s| (s.resource.clone(), amount(s)));
    all.filter(|(_, amount)| *amount > 0).collect()
}

fn has(pod: &Need, resource: &str) -> i64 {
    match resource {
        "pods" => 1,
        other => pod.resources.get(other).copied().unwrap_or(0),
    }
}

/// What is missing when these have gone.
fn without<'a>(missing: &Missing, pods: impl Iterator<Item = Candidate<'a>> + Clone) -> Missing {
    let left = |(resource, amount): &(String, i64)| {
        let freed = pods.clone().map(|(_, need)| has(need, resource));
        let left = freed.fold(*amount, i64::saturating_sub);
        (left > 0).then(|| (resource.clone(), left))
    };
    missing.iter().filter_map(left).collect()
}

/// The pods that go so that what is short suffices; `ending` go anyhow.
///
/// # Errors
/// All that may go are not enough.
pub fn plan(
    rank: &Rank,
    short: &[Short],
    ending: &[Candidate<'_>],
    pods: &[Candidate<'_>],
) -> Result<Vec<String>, String> {
    let missing = without(&missing(short), ending.iter().copied());
    let of = |qos: Qos| -> Vec<Candidate<'_>> {
        let all = pods.iter().filter(|(_, need)| need.rank.qos == qos);
        all.filter(|(_, need)| rank.goes_before(&need.rank))
            .copied()
            .collect()
    };
    let best_effort = of(Qos::BestEffort);
    let (burstable, guaranteed) = (of(Qos::Burstable), of(Qos::Guaranteed));
    // Of the higher ones only what the lower ones all together cannot give.
    let lower = best_effort.iter().chain(&burstable).copied();
    let guaranteed = nearest(guaranteed, without(&missing, lower))?;
    let chosen = guaranteed.iter().copied();
    let others = best_effort.iter().copied().chain(chosen.clone());
    let burstable = nearest(burstable, without(&missing, others))?;
    let chosen = burstable.iter().copied().chain(chosen);
    let best_effort = nearest(best_effort, without(&missing, chosen))?;
    let all = best_effort.into_iter().chain(burstable).chain(guaranteed);
    Ok(all.map(|(uid, _)| uid.to_owned()).collect())
}

/// One after the other the pod that leaves the least missing; of equal ones that which has least.
fn nearest<'a>(
    mut pods: Vec<Candidate<'a>>,
    mut missing: Missing,
) -> Result<Vec<Candidate<'a>>, String> {
    let mut chosen = Vec::new();
    while !missing.is_empty() {
        let best = pods.iter().enumerate().min_by(|(_, a), (_, b)| {
            let far = |pod: &Candidate<'_>| distance(&missing, pod.1);
            let size = |pod: &Candidate<'_>| (has(pod.1, "memory"), has(pod.1, "cpu"));
            far(a)
                .total_cmp(&far(b))
                .then_with(|| size(a).cmp(&size(b)))
        });
        let Some((at, _)) = best else {
            let all: Vec<String> = missing
                .iter()
                .map(|(resource, amount)| format!("(res: {resource}, q: {amount}), "))
                .collect();
            return Err(format!(
                "no set of running pods found to reclaim resources: [{}]",
                all.concat()
            ));
        };
        let pod = pods.swap_remove(at);
        missing = without(&missing, std::iter::once(pod));
        chosen.push(pod);
    }
    Ok(chosen)
}

/// How far from enough a pod's end would leave it: the sum of the squares of the missing parts.
#[expect(
    clippy::cast_precision_loss,
    reason = "distances are compared, not counted"
)]
fn distance(missing: &Missing, pod: &Need) -> f64 {
    let of = |(resource, amount): &(String, i64)| {
        let left = amount.saturating_sub(has(pod, resource)).max(0);
        (left as f64 / *amount as f64).powi(2)
    };
    missing.iter().map(of).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(qos: Qos, priority: i32, cpu: i64, memory: i64) -> Need {
        Need {
            resources: [("cpu".to_owned(), cpu), ("memory".to_owned(), memory)].into(),
            ports: Vec::new(),
            rank: Rank {
                qos,
                priority: Some(priority),
                critical: priority >= 2_000_000_000,
            },
        }
    }

    fn short(resource: &str, missing: i64) -> Short {
        Short {
            resource: resource.into(),
            requested: missing,
            used: 100,
            capacity: 100,
        }
    }

    const CRITICAL: Rank = Rank {
        qos: Qos::Guaranteed,
        priority: Some(2_000_000_000),
        critical: true,
    };

    #[test]
    fn the_lowest_and_the_fewest_go() {
        let all = [
            ("best", pod(Qos::BestEffort, 0, 0, 0)),
            ("small", pod(Qos::Burstable, 0, 100, 100)),
            ("large", pod(Qos::Burstable, 0, 500, 500)),
            ("fixed", pod(Qos::Guaranteed, 0, 1000, 1000)),
            ("needed", pod(Qos::Guaranteed, 2_000_000_000, 1000, 1000)),
        ];
        let all: Vec<Candidate<'_>> = all.iter().map(|(uid, need)| (*uid, need)).collect();
        let go = |short: &[Short]| plan(&CRITICAL, short, &[], &all);
        let names = |all: &[&str]| Ok(all.iter().map(|n| (*n).to_owned()).collect());
        assert_eq!(go(&[]), names(&[]));
        assert_eq!(go(&[short("cpu", 50)]), names(&["small"]));
        assert_eq!(go(&[short("cpu", 200)]), names(&["large"]));
        assert_eq!(go(&[short("cpu", 600)]), names(&["large", "small"]));
        // Burstable pods alone are too few; with the guaranteed one nobody else has to go.
        assert_eq!(go(&[short("cpu", 700)]), names(&["fixed"]));
        assert_eq!(go(&[short("cpu", 1100)]), names(&["small", "fixed"]));
        assert_eq!(
            go(&[short("memory", 400), short("cpu", 50)]),
            names(&["large"])
        );
        // A place for a pod: that of the lowest.
        assert_eq!(go(&[short("pods", 1)]), names(&["best"]));
        let why = go(&[short("cpu", 1700)]).unwrap_err();
        assert!(
            why.starts_with("no set of running pods found to reclaim resources: [(res: cpu, q: "),
            "{why}"
        );
    }

    #[test]
    fn what_ends_already_is_not_made_up_for_twice() {
        let (a, b) = (
            pod(Qos::Burstable, 0, 500, 0),
            pod(Qos::Burstable, 0, 500, 0),
        );
        let go = |missing| {
            plan(
                &CRITICAL,
                &[short("cpu", missing)],
                &[("a", &a)],
                &[("b", &b)],
            )
        };
        assert_eq!(go(400), Ok(Vec::new()));
        assert_eq!(go(600), Ok(vec!["b".to_owned()]));
    }

    #[test]
    fn nobody_goes_for_an_equal() {
        let plain = |priority| Rank {
            priority,
            ..Rank::default()
        };
        assert!(CRITICAL.goes_before(&plain(None)));
        assert!(!plain(None).goes_before(&plain(Some(-1))));
        assert!(plain(Some(2)).goes_before(&plain(Some(1))));
        assert!(!CRITICAL.goes_before(&CRITICAL));
        let higher = Rank {
            priority: Some(2_000_001_000),
            ..CRITICAL
        };
        assert!(higher.goes_before(&CRITICAL));
    }
}
