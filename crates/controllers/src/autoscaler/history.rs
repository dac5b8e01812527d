//! What an autoscaler remembers: what it recommended and how it scaled. From these follow the
//! stabilisation of its recommendations and the rate at which it may scale, by upstream's rules.

use k8s_openapi::api::autoscaling::v2::{HPAScalingRules, HorizontalPodAutoscalerBehavior};
use serde_json::Value;

/// Without rules, what is there may double at a time,
const UP_FACTOR: i64 = 2;
/// or become this many.
const UP_AT_LEAST: i64 = 4;

/// When, and how many.
type Dated = (i64, i32);

/// What is remembered of one autoscaler. It is lost with the leader, as upstream's.
#[derive(Clone, Debug, Default)]
pub struct History {
    recommended: Vec<Dated>,
    /// How many replicas came and went by its doing.
    added: Vec<Dated>,
    removed: Vec<Dated>,
    /// Whether the last change of the scale was noted, and as growth.
    noted: Option<bool>,
    /// The status that is written when the scale was changed.
    pub pending: Option<Value>,
    /// The same, once it is being written.
    pub written: Option<Value>,
    /// Why the scale could not be changed the last time.
    pub failure: Option<String>,
}

/// How a number of replicas came about: reason and message of a condition.
pub type Why = (&'static str, &'static str);

const WITHIN_RANGE: Why = (
    "DesiredWithinRange",
    "the desired count is within the acceptable range",
);
const TOO_MANY: Why = (
    "TooManyReplicas",
    "the desired replica count is more than the maximum replica count",
);
const TOO_FEW: Why = (
    "TooFewReplicas",
    "the desired replica count is less than the minimum replica count",
);
const UP_LIMIT: Why = (
    "ScaleUpLimit",
    "the desired replica count is increasing faster than the maximum scale rate",
);
const DOWN_LIMIT: Why = (
    "ScaleDownLimit",
    "the desired replica count is decreasing faster than the maximum scale rate",
);
pub const DOWN_STABILIZED: Why = (
    "ScaleDownStabilized",
    "recent recommendations were higher than current one, applying the highest recent recommendation",
);
pub const UP_STABILIZED: Why = (
    "ScaleUpStabilized",
    "recent recommendations were lower than current one, applying the lowest recent recommendation",
);

/// The replicas as they are and as they may be.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub current: i32,
    pub least: i32,
    pub most: i32,
}

/// A number of replicas and why it is that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limited {
    pub replicas: i32,
    pub why: Why,
}

/// The window of a direction, in seconds.
fn window(rules: Option<&HPAScalingRules>, otherwise: i32) -> i32 {
    rules
        .and_then(|r| r.stabilization_window_seconds)
        .unwrap_or(otherwise)
}

impl History {
    /// The first time that an autoscaler is looked at, what is there counts as recommended.
    pub fn begin(&mut self, current: i32, now_millis: i64) {
        if self.recommended.is_empty() {
            self.recommended.push((now_millis, current));
        }
    }

    /// Notes what is wanted now, and what that is after stabilisation; `usual_window`: how long, in
    /// seconds, the highest recommendation counts where the behaviour does not say it.
    pub fn stabilize(
        &mut self,
        (behavior, usual_window): (Option<&HorizontalPodAutoscalerBehavior>, i32),
        current: i32,
        wanted: i32,
        now_millis: i64,
    ) -> Limited {
        let up = window(behavior.and_then(|b| b.scale_up.as_ref()), 0);
        let down = window(behavior.and_then(|b| b.scale_down.as_ref()), usual_window);
        let within = |at: i64, seconds: i32| at > now_millis - i64::from(seconds) * 1_000;
        let longest = up.max(down);
        self.recommended.retain(|(at, _)| within(*at, longest));
        let (mut low, mut high) = (wanted, wanted);
        for (at, replicas) in &self.recommended {
            if within(*at, up) {
                low = low.min(*replicas);
            }
            if within(*at, down) {
                high = high.max(*replicas);
            }
        }
        self.recommended.push((now_millis, wanted));
        match behavior {
            None => Limited {
                replicas: high,
                why: DOWN_STABILIZED,
            },
            Some(_) => Limited {
                replicas: current.max(low).min(high),
                why: if wanted >= current {
                    UP_STABILIZED
                } else {
                    DOWN_STABILIZED
                },
            },
        }
    }

    /// What of a wanted number may be done at once.
    pub fn limit(
        &self,
        behavior: Option<&HorizontalPodAutoscalerBehavior>,
        bounds: Bounds,
        wanted: i32,
        now_millis: i64,
    ) -> Limited {
        let limited = |replicas, why| Limited { replicas, why };
        let Bounds {
            current,
            least,
            most,
        } = bounds;
        let Some(behavior) = behavior else {
            let fastest = (UP_FACTOR * i64::from(current)).max(UP_AT_LEAST);
            let fastest = i32::try_from(fastest).unwrap_or(i32::MAX);
            return if wanted < least {
                limited(least, TOO_FEW)
            } else if wanted > most.min(fastest) {
                let why = if most > fastest { UP_LIMIT } else { TOO_MANY };
                limited(most.min(fastest), why)
            } else {
                limited(wanted, WITHIN_RANGE)
            };
        };
        if wanted > current {
            let rules = behavior.scale_up.as_ref();
            let fastest = self.rate(rules, current, true, now_millis).max(current);
            if wanted > most.min(fastest) {
                let why = if most > fastest { UP_LIMIT } else { TOO_MANY };
                return limited(most.min(fastest), why);
            }
        } else if wanted < current {
            let rules = behavior.scale_down.as_ref();
            let fastest = self.rate(rules, current, false, now_millis).min(current);
            if wanted < least.max(fastest) {
                let why = if least < fastest { DOWN_LIMIT } else { TOO_FEW };
                return limited(least.max(fastest), why);
            }
        }
        limited(wanted, WITHIN_RANGE)
    }

    /// As far as the rules let it go from what was there when their periods began.
    fn rate(
        &self,
        rules: Option<&HPAScalingRules>,
        current: i32,
        grows: bool,
        now_millis: i64,
    ) -> i32 {
        let policies = rules.and_then(|r| r.policies.as_ref());
        let select = rules.and_then(|r| r.select_policy.as_deref());
        if select == Some("Disabled") {
            return current;
        }
        let proposals = policies.into_iter().flatten().map(|policy| {
            let since = now_millis - i64::from(policy.period_seconds) * 1_000;
            let sum = |all: &[Dated]| -> i64 {
                let within = all.iter().filter(|(at, _)| *at > since);
                within.map(|(_, n)| i64::from(*n)).sum()
            };
            let start = i64::from(current) - sum(&self.added) + sum(&self.removed);
            let value = i64::from(policy.value);
            let share = f64::from(policy.value) / 100.0;
            let proposed = match (policy.type_.as_str(), grows) {
                ("Pods", true) => start + value,
                ("Pods", false) => start - value,
                // Casts from float saturate.
                (_, true) => (start as f64 * (1.0 + share)).ceil() as i64,
                (_, false) => (start as f64 * (1.0 - share)) as i64,
            };
            i32::try_from(proposed).unwrap_or(if proposed > 0 { i32::MAX } else { i32::MIN })
        });
        // The largest change is the highest number when it grows and the lowest when it shrinks.
        let wants_high = (select == Some("Min")) != grows;
        let chosen = if wants_high {
            proposals.max()
        } else {
            proposals.min()
        };
        chosen.unwrap_or(current)
    }

    /// Notes that the scale was changed.
    pub fn scaled(
        &mut self,
        behavior: Option<&HorizontalPodAutoscalerBehavior>,
        from: i32,
        to: i32,
        now_millis: i64,
    ) {
        self.noted = None;
        // Only rules ask for it.
        let Some(behavior) = behavior else { return };
        let longest = |rules: Option<&HPAScalingRules>| {
            let policies = rules.and_then(|r| r.policies.as_ref());
            let periods = policies.into_iter().flatten().map(|p| p.period_seconds);
            periods.max().unwrap_or(0)
        };
        let up = longest(behavior.scale_up.as_ref());
        let kept = up.max(longest(behavior.scale_down.as_ref()));
        let since = now_millis - i64::from(kept) * 1_000;
        for all in [&mut self.added, &mut self.removed] {
            all.retain(|(at, _)| *at >= since);
        }
        self.noted = Some(to > from);
        if to > from {
            self.added.push((now_millis, to.saturating_sub(from)));
        } else {
            self.removed.push((now_millis, from.saturating_sub(to)));
        }
    }

    /// Takes back what [`History::scaled`] noted last: the scale was not changed.
    pub fn not_scaled(&mut self, why: String) {
        self.pending = None;
        match self.noted.take() {
            Some(true) => drop(self.added.pop()),
            Some(false) => drop(self.removed.pop()),
            None => {}
        }
        self.failure = Some(why);
    }

    /// The status that says how the scale was changed was not written: it is written again.
    pub fn not_written(&mut self) {
        self.pending = self.pending.take().or(self.written.take());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: i64 = 1_700_000_000_000;

    /// Changes that were spread evenly over the last two minutes.
    fn spread(all: &[i32]) -> Vec<Dated> {
        let part = 120_000 / i64::try_from(all.len().max(1)).unwrap();
        let dated = (0..)
            .zip(all)
            .map(|(i, n)| (NOW - 120_000 + part * i + part / 2, *n));
        dated.collect()
    }

    /// So many pods and so many percent, each in its seconds; nought is not a policy.
    fn rules(policies: (i32, i32, i32, i32), select: &str) -> Value {
        let (pods, in_seconds, percent, percent_in) = policies;
        let all = [("Pods", pods, in_seconds), ("Percent", percent, percent_in)];
        let all = all.into_iter().filter(|(_, value, _)| *value != 0);
        let policies: Vec<Value> = all
            .map(|(kind, value, seconds)| json!({ "type": kind, "value": value, "periodSeconds": seconds }))
            .collect();
        json!({ "selectPolicy": select, "policies": policies })
    }

    #[test]
    fn rules_limit_how_fast_it_grows_and_shrinks() {
        let none: &[i32] = &[];
        let three: &[i32] = &[1, 5, 9];
        let four: &[i32] = &[8, 12, 9, 11];
        let (two, even, rising): (&[i32], &[i32], &[i32]) = (&[2], &[4], &[2, 4, 6]);
        for (added, removed, policies, range, current, wanted, expected, why) in [
            (
                none,
                none,
                (100, 60, 100, 60),
                (1, 1000),
                10,
                500,
                110,
                UP_LIMIT,
            ),
            (
                none,
                none,
                (2, 60, 100, 60),
                (1, 1000),
                10,
                500,
                20,
                UP_LIMIT,
            ),
            (
                none,
                none,
                (100, 60, 0, 0),
                (1, 1000),
                10,
                50,
                50,
                WITHIN_RANGE,
            ),
            (none, none, (30, 60, 0, 0), (1, 1000), 10, 50, 40, UP_LIMIT),
            (none, none, (0, 0, 200, 60), (1, 1000), 10, 50, 30, UP_LIMIT),
            (
                none,
                none,
                (20, 60, 1, 60),
                (1, 1000),
                100,
                2,
                80,
                DOWN_LIMIT,
            ),
            (
                none,
                none,
                (2, 60, 1, 60),
                (1, 1000),
                100,
                2,
                98,
                DOWN_LIMIT,
            ),
            (none, none, (100, 60, 0, 0), (1, 1000), 10, 0, 1, TOO_FEW),
            (none, none, (0, 0, 100, 60), (5, 1000), 10, 2, 5, TOO_FEW),
            (none, none, (5, 60, 0, 0), (1, 1000), 10, 2, 5, DOWN_LIMIT),
            (
                none,
                none,
                (0, 0, 50, 60),
                (1, 1000),
                10,
                5,
                5,
                WITHIN_RANGE,
            ),
            (
                three,
                none,
                (300, 60, 0, 0),
                (1, 200),
                100,
                500,
                200,
                TOO_MANY,
            ),
            (
                three,
                none,
                (0, 0, 10_000, 60),
                (1, 200),
                100,
                500,
                200,
                TOO_MANY,
            ),
            // It grew by more than it may, and stays as it is.
            (
                three,
                none,
                (5, 120, 0, 0),
                (1, 1000),
                100,
                500,
                100,
                UP_LIMIT,
            ),
            (
                three,
                none,
                (150, 120, 0, 0),
                (1, 1000),
                100,
                500,
                235,
                UP_LIMIT,
            ),
            (
                three,
                none,
                (0, 0, 200, 120),
                (1, 1000),
                100,
                500,
                255,
                UP_LIMIT,
            ),
            (even, two, (0, 0, 300, 300), (1, 1000), 6, 24, 16, UP_LIMIT),
            (none, three, (115, 120, 0, 0), (1, 1000), 100, 0, 1, TOO_FEW),
            (none, three, (130, 120, 0, 0), (5, 1000), 100, 0, 5, TOO_FEW),
            (none, three, (0, 0, 100, 120), (5, 1000), 100, 2, 5, TOO_FEW),
            (
                none,
                three,
                (5, 120, 0, 0),
                (1, 1000),
                100,
                2,
                100,
                DOWN_LIMIT,
            ),
            (
                none,
                rising,
                (0, 0, 50, 120),
                (1, 1000),
                100,
                0,
                56,
                DOWN_LIMIT,
            ),
            (two, even, (0, 0, 50, 180), (1, 1000), 10, 1, 6, DOWN_LIMIT),
            (
                four,
                none,
                (1000, 60, 0, 0),
                (1, 1000),
                100,
                200,
                200,
                WITHIN_RANGE,
            ),
            (
                four,
                none,
                (1000, 30, 100, 60),
                (1, 1000),
                100,
                200,
                200,
                WITHIN_RANGE,
            ),
            (
                none,
                four,
                (1000, 120, 100, 60),
                (1, 1000),
                100,
                5,
                5,
                WITHIN_RANGE,
            ),
        ] {
            let history = History {
                added: spread(added),
                removed: spread(removed),
                ..History::default()
            };
            let one = rules(policies, "Max");
            let behavior = json!({ "scaleUp": one, "scaleDown": one });
            let behavior = serde_json::from_value(behavior).unwrap();
            let bounds = Bounds {
                current,
                least: range.0,
                most: range.1,
            };
            let found = history.limit(Some(&behavior), bounds, wanted, NOW);
            let expected = Limited {
                replicas: expected,
                why,
            };
            assert_eq!(
                found, expected,
                "{added:?} {removed:?} {policies:?} {current} to {wanted}"
            );
        }
        // The smaller change.
        for (current, grows, expected) in [(1, true, 2), (5, false, 3)] {
            let smaller: HPAScalingRules =
                serde_json::from_value(rules((2, 60, 50, 60), "Min")).unwrap();
            let found = History::default().rate(Some(&smaller), current, grows, NOW);
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn without_rules_it_doubles_at_most() {
        for (current, wanted, least, most, replicas, why) in [
            (5, 7, 3, 8, 7, WITHIN_RANGE),
            (3, 1, 2, 8, 2, TOO_FEW),
            (1, 0, 0, 10, 0, WITHIN_RANGE),
            (20, 1000, 1, 10, 10, TOO_MANY),
            (3, 1000, 1, 2000, 6, UP_LIMIT),
            (1, 1000, 1, 2000, 4, UP_LIMIT),
        ] {
            let bounds = Bounds {
                current,
                least,
                most,
            };
            let found = History::default().limit(None, bounds, wanted, NOW);
            assert_eq!(found, Limited { replicas, why }, "{current} to {wanted}");
        }
    }

    #[test]
    fn recommendations_of_the_windows_hold_it_back() {
        let (low, high): (&[Dated], &[Dated]) = (&[(120, 1), (60, 2)], &[(120, 4), (60, 5)]);
        let old: &[Dated] = &[(600, 10), (540, 9)];
        let mixed: &[Dated] = &[(600, 10), (60, 4), (120, 5), (540, 9)];
        let remembering = |seconds_ago: &[Dated]| History {
            recommended: seconds_ago
                .iter()
                .map(|(s, n)| (NOW - s * 1_000, *n))
                .collect(),
            ..History::default()
        };
        let none: &[Dated] = &[];
        let far: &[Dated] = &[(6_000, 10), (60, 6), (120, 5), (180, 9)];
        let (rose, fell): (&[Dated], &[Dated]) = (&[(6_000, 2), (180, 3)], &[(6_000, 2), (180, 1)]);
        for (known, up, down, current, wanted, expected) in [
            (none, 0, 0, 100, 5, 5),
            (high, 0, 180, 100, 3, 5),
            (high, 300, 0, 1, 7, 4),
            (low, 300, 0, 100, 3, 3),
            (high, 0, 300, 1, 3, 3),
            (old, 0, 0, 100, 3, 3),
            (old, 0, 0, 1, 100, 100),
            (mixed, 0, 180, 100, 3, 5),
            (far, 300, 0, 1, 100, 5),
            // It goes up and down between the two, and stays.
            (rose, 300, 300, 2, 1, 2),
            (fell, 300, 300, 2, 3, 2),
        ] {
            let behavior = json!({ "scaleUp": { "stabilizationWindowSeconds": up },
                "scaleDown": { "stabilizationWindowSeconds": down } });
            let behavior = serde_json::from_value(behavior).unwrap();
            let mut history = remembering(known);
            let found = history.stabilize((Some(&behavior), 300), current, wanted, NOW);
            assert_eq!(found.replicas, expected, "{known:?} {up} {down} {wanted}");
        }
        for (known, wanted, expected) in [
            (none, 5, 5),
            (high, 3, 5),
            (low, 3, 3),
            (old, 3, 3),
            (mixed, 3, 5),
        ] {
            let found = remembering(known).stabilize((None, 300), 3, wanted, NOW);
            assert_eq!(found.replicas, expected, "{known:?} {wanted}");
        }
    }
}
