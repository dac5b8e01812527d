//! What the parts of a decision take, under upstream's words for them. The clock is given by the shell:
//! without one nothing is measured, so that a decision depends on nothing but its arguments. Whoever
//! counts takes out what was noted, now and then.

use std::sync::Arc;
use std::time::Duration;

use clock::Instant;
use parking_lot::Mutex;

use crate::plugins::Verdict;
use crate::pod::Pod;

/// A part of a pod's way to a node: upstream's extension points. What a plugin prepares for filtering
/// and for scoring is one step here, noted as the first of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Point {
    PreEnqueue,
    PreFilter,
    Filter,
    PostFilter,
    Score,
    Reserve,
    Permit,
    /// Until what was written before the binding has had its effect.
    PreBind,
    Bind,
}

impl Point {
    pub fn word(self) -> &'static str {
        match self {
            Self::PreEnqueue => "PreEnqueue",
            Self::PreFilter => "PreFilter",
            Self::Filter => "Filter",
            Self::PostFilter => "PostFilter",
            Self::Score => "Score",
            Self::Reserve => "Reserve",
            Self::Permit => "Permit",
            Self::PreBind => "PreBind",
            Self::Bind => "Bind",
        }
    }
}

/// How a part ended: upstream's codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Code {
    Success,
    Error,
    Unschedulable,
    /// Nor would it be if other pods were not there.
    Unresolvable,
    Wait,
    /// The plugin has nothing to say about the pod.
    Skip,
}

impl Code {
    pub fn word(self) -> &'static str {
        match self {
            Self::Success => "Success",
            Self::Error => "Error",
            Self::Unschedulable => "Unschedulable",
            Self::Unresolvable => "UnschedulableAndUnresolvable",
            Self::Wait => "Wait",
            Self::Skip => "Skip",
        }
    }

    pub fn of(verdict: &Verdict) -> Self {
        match verdict {
            Verdict::Fits => Self::Success,
            Verdict::NotNow(_) => Self::Unschedulable,
            Verdict::Never(_) => Self::Unresolvable,
        }
    }
}

/// All plugins of a profile at one point.
#[derive(Clone, Debug)]
pub struct Part {
    /// The scheduler that the pod names.
    pub profile: Arc<str>,
    pub point: Point,
    pub code: Code,
    pub took: Duration,
}

/// One plugin at one point.
#[derive(Clone, Copy, Debug)]
pub struct OfPlugin {
    pub plugin: &'static str,
    pub point: Point,
    pub code: Code,
    pub took: Duration,
}

/// What was noted since it was last taken out.
#[derive(Debug, Default)]
pub struct Noted {
    pub parts: Vec<Part>,
    pub plugins: Vec<OfPlugin>,
    /// What pods waited that were not permitted at once, and how that ended.
    pub permits: Vec<(Code, Duration)>,
    is_sampled: bool,
}

/// A stopwatch and what it has noted.
#[derive(Debug, Default)]
pub struct Timings {
    clock: Option<fn() -> Instant>,
    noted: Mutex<Noted>,
}

impl Timings {
    pub fn by(clock: fn() -> Instant) -> Self {
        Self {
            clock: Some(clock),
            noted: Mutex::default(),
        }
    }

    /// Where a part begins; none where nothing is measured.
    pub fn now(&self) -> Option<Instant> {
        self.clock.map(|now| now())
    }

    /// Whether of the decision that comes each plugin is measured, too: upstream does that with a
    /// tenth of them.
    pub fn sample(&self, yes: bool) {
        if self.clock.is_some() {
            self.noted.lock().is_sampled = yes;
        }
    }
    pub fn is_sampled(&self) -> bool {
        self.clock.is_some() && self.noted.lock().is_sampled
    }

    fn since(&self, began: Option<Instant>) -> Option<Duration> {
        Some(self.now()?.saturating_duration_since(began?))
    }

    /// A part that began then has ended for a pod.
    pub fn part(&self, began: Option<Instant>, point: Point, code: Code, pod: &Pod) {
        let Some(took) = self.since(began) else {
            return;
        };
        let profile = pod.scheduler.clone();
        self.noted.lock().parts.push(Part {
            profile,
            point,
            code,
            took,
        });
    }

    /// A pod has waited so long to be permitted.
    pub fn permit(&self, code: Code, waited: Duration) {
        if self.clock.is_some() {
            self.noted.lock().permits.push((code, waited));
        }
    }

    /// A plugin that began then has answered.
    pub fn plugin(&self, began: Option<Instant>, plugin: &'static str, point: Point, code: Code) {
        if let Some(took) = self.since(began) {
            self.noted.lock().plugins.push(OfPlugin {
                plugin,
                point,
                code,
                took,
            });
        }
    }

    /// What was noted, once.
    pub fn take(&self) -> Noted {
        let mut noted = self.noted.lock();
        let is_sampled = noted.is_sampled;
        let out = std::mem::take(&mut *noted);
        noted.is_sampled = is_sampled;
        out
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::decide::{Profile, decide_with};
    use crate::plugins::testing::{Cluster, node};

    #[test]
    fn a_decision_says_what_its_parts_took() {
        let mut c = Cluster::new(["a", "b"].map(|name| node(name, "2", "8Gi")));
        let pod = c.pod(json!({"metadata": {"name": "p"}, "spec": {"containers": [
            {"name": "c", "resources": {"requests": {"cpu": "1"}}}]}}));
        let timings = Timings::by(Instant::now);
        timings.sample(true);
        let profile = Profile::default();
        decide_with(&c.snapshot, &pod, &profile, 1, None, &timings);
        let noted = timings.take();
        let points: Vec<Point> = noted.parts.iter().map(|p| p.point).collect();
        assert_eq!(points, [Point::PreFilter, Point::Filter, Point::Score]);
        let of = |point| noted.plugins.iter().filter(move |p| p.point == point);
        assert_eq!(of(Point::PreFilter).count(), profile.plugins.len());
        assert!(of(Point::Filter).any(|p| p.plugin == "NodeResourcesFit"));
        assert!(of(Point::Score).any(|p| p.plugin == "NodeResourcesFit"));
        assert!(of(Point::Filter).all(|p| p.code == Code::Success));
        assert!(of(Point::PreFilter).any(|p| p.code == Code::Skip));
        assert!(timings.take().parts.is_empty(), "it is taken out once");
    }

    #[test]
    fn without_a_clock_nothing_is_noted() {
        let mut c = Cluster::default();
        let pod = c.pod(json!({"metadata": {"name": "p"}}));
        let timings = Timings::default();
        timings.sample(true);
        assert!(!timings.is_sampled());
        timings.part(timings.now(), Point::Filter, Code::Success, &pod);
        assert!(timings.take().parts.is_empty());
    }
}
