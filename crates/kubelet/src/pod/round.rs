//! Rounds of a pod: the end of a container whose rule says `RestartAllContainers` starts all of
//! the pod's containers again, in the sandbox that there is. Pure.
//!
//! Each container carries the number of the round that it was made in, so a kubelet that starts
//! sees how far the pod is. When a container's end asks for it, all others are killed; when nothing
//! of the round runs any more, the next one begins as if the pod had no containers yet. Upstream
//! removes them from the runtime instead; kept, they still show their logs, ends and counts.

use super::plan::{Effect, Kill};
use super::restart_policy;
use super::runtime_state::{Run, SeenContainer, SeenPod};
use super::spec;
use k8s_openapi::api::core::v1::Pod;

/// How far the rounds of a pod are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// The one whose containers should run.
    pub number: u32,
    /// It ended, and some of its containers must be killed before the next begins.
    pub ends: bool,
}

impl Round {
    /// Reads it from what the runtime has.
    #[must_use]
    pub fn of(pod: &Pod, seen: &SeenPod) -> Self {
        if !restart_policy::may_restart_all(pod) {
            return Self::default();
        }
        let number = members(pod, seen).map(|c| c.round).max().unwrap_or(0);
        if !asks(pod, seen, number) {
            return Self {
                number,
                ends: false,
            };
        }
        if alive(pod, seen).next().is_some() {
            return Self { number, ends: true };
        }
        Self {
            number: number.saturating_add(1),
            ends: false,
        }
    }

    /// Whether a container counts: it is of this round, or of none, as those for debugging.
    #[must_use]
    pub fn counts(&self, pod: &Pod, c: &SeenContainer) -> bool {
        c.round == self.number || spec::container(pod, &c.name).is_none()
    }
}

/// What the runtime has of the pod's containers, without those for debugging.
fn members<'a>(pod: &'a Pod, seen: &'a SeenPod) -> impl Iterator<Item = &'a SeenContainer> {
    let all = seen.containers.iter();
    all.filter(move |c| spec::container(pod, &c.name).is_some())
}

fn alive<'a>(pod: &'a Pod, seen: &'a SeenPod) -> impl Iterator<Item = &'a SeenContainer> {
    members(pod, seen).filter(|c| matches!(c.run, Run::Running | Run::Unknown))
}

/// Whether a container of the round ended in a way that starts all again.
fn asks(pod: &Pod, seen: &SeenPod, round: u32) -> bool {
    let all = spec::init_containers(pod)
        .iter()
        .chain(spec::containers(pod));
    all.filter_map(|c| Some((c, seen.newest(&c.name)?)))
        .any(|(container, last)| {
            last.round == round
                && last.run == Run::Exited
                && restart_policy::restarts_all(container, last.exit_code)
        })
}

/// Kills what runs of a round that ended: without grace, as upstream; ordinary containers first.
#[must_use]
pub fn kills(pod: &Pod, seen: &SeenPod) -> Vec<Effect> {
    let kill = |c: &SeenContainer| {
        Effect::Kill(Kill {
            id: c.id.clone(),
            name: c.name.clone(),
            grace_seconds: 0,
            message: "RestartAllContainers".into(),
            ..Default::default()
        })
    };
    let main = |c: &&SeenContainer| !spec::is_init(pod, &c.name);
    let mains: Vec<Effect> = alive(pod, seen).filter(main).map(kill).collect();
    if mains.is_empty() {
        alive(pod, seen).map(kill).collect()
    } else {
        mains
    }
}

/// Whether a container was killed for the next round, rather than ended by itself.
#[must_use]
pub fn was_killed(pod: &Pod, seen: &SeenPod, c: &SeenContainer) -> bool {
    let asked = |other: &&SeenContainer| {
        other.round == c.round
            && other.run == Run::Exited
            && spec::container(pod, &other.name)
                .is_some_and(|spec| restart_policy::restarts_all(spec, other.exit_code))
    };
    let mut sources = members(pod, seen).filter(asked);
    c.exit_code == KILLED
        && sources.any(|source| source.id != c.id && source.finished_at <= c.finished_at)
}

/// The exit code of what SIGKILL ended.
const KILLED: i32 = 137;

#[cfg(test)]
mod tests {
    use super::super::plan::{Facts, Outcome, outcome};
    use super::super::stage::Stage;
    use super::super::tests::{at, container, next, pod, seen, starts};
    use super::*;
    use serde_json::json;

    fn three() -> Pod {
        pod(json!({
            "restartPolicy": "Never",
            "initContainers": [{"name": "i"}, {"name": "side", "restartPolicy": "Always"}],
            "containers": [
                {"name": "a", "restartPolicy": "Never", "restartPolicyRules": [
                    {"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [42]}}]},
                {"name": "b"}]
        }))
    }

    fn in_round(mut c: SeenContainer, round: u32, second: i64) -> SeenContainer {
        c.round = round;
        c.created_at = Some(at(second));
        c.finished_at = (c.run == Run::Exited).then(|| at(second));
        c
    }

    /// What a runtime has after `code` ended `a` while the others run.
    fn ended(code: i32) -> SeenPod {
        seen(vec![
            in_round(container("b", Run::Running, 0, 0), 0, 4),
            in_round(container("a", Run::Exited, code, 0), 0, 3),
            in_round(container("side", Run::Running, 0, 0), 0, 2),
            in_round(container("i", Run::Exited, 0, 0), 0, 1),
        ])
    }

    fn end(seen: &mut SeenPod, name: &str) {
        let found = seen.containers.iter_mut().find(|c| c.name == name);
        let c = found.expect("it runs");
        (c.run, c.exit_code, c.finished_at) = (Run::Exited, KILLED, Some(at(5)));
    }

    #[test]
    fn all_are_killed_and_then_started_from_the_beginning() {
        let p = three();
        let mut s = ended(42);
        let killed = |s: &SeenPod| {
            let (stage, effects) = next(&p, s, &Facts::default());
            assert_eq!(stage, Stage::Running);
            let kills = effects.iter().map(|e| match e {
                Effect::Kill(kill) if kill.grace_seconds == 0 => kill.name.clone(),
                other => panic!("{other:?}"),
            });
            kills.collect::<Vec<_>>()
        };
        assert_eq!(killed(&s), ["b"]);
        end(&mut s, "b");
        assert_eq!(killed(&s), ["side"]);
        end(&mut s, "side");
        let begun = |s: &SeenPod| {
            let (_, effects) = next(&p, s, &Facts::default());
            let rounds = effects.iter().filter_map(|e| match e {
                Effect::Start { round, .. } => Some(*round),
                _ => None,
            });
            assert!(rounds.clone().all(|round| round == 1), "{effects:?}");
            let all = starts(&effects).into_iter();
            all.map(|(name, attempt)| (name.to_owned(), attempt))
                .collect::<Vec<_>>()
        };
        assert_eq!(begun(&s), [("i".to_owned(), 1)]);
        s.containers
            .insert(0, in_round(container("i", Run::Exited, 0, 1), 1, 6));
        assert_eq!(begun(&s), [("side".to_owned(), 1)]);
        s.containers
            .insert(0, in_round(container("side", Run::Running, 0, 1), 1, 7));
        assert_eq!(begun(&s), [("a".to_owned(), 1), ("b".to_owned(), 1)]);
        let b = &s
            .containers
            .iter()
            .find(|c| c.id == "b-0")
            .expect("kept")
            .clone();
        let i = &s
            .containers
            .iter()
            .find(|c| c.id == "i-0")
            .expect("kept")
            .clone();
        assert!(was_killed(&p, &s, b) && !was_killed(&p, &s, i));
    }

    #[test]
    fn another_end_starts_nothing_again() {
        let p = three();
        let mut s = ended(1);
        assert_eq!(Round::of(&p, &s), Round::default());
        let (_, effects) = next(&p, &s, &Facts::default());
        assert!(effects.is_empty(), "{effects:?}");
        assert_eq!(outcome(&p, &s), None);
        end(&mut s, "b");
        assert_eq!(outcome(&p, &s), Some(Outcome::Failed));
        // The pod does not end for what ended in an earlier round.
        let mut s = ended(42);
        end(&mut s, "b");
        end(&mut s, "side");
        assert_eq!(outcome(&p, &s), None);
    }
}
