//! What no cluster may do, at any revision: promise more of a node, or of a quota, than there is,
//! move a pod, run more of a workload than it may, run two pods under one identity, count a Job's pod
//! twice, evict more pods than a budget allows, collect what is owned by something that lives, give a
//! volume or a device to two, take a pod's place for a less important one, leave something of a
//! namespace that has gone, write an object over and over. It looks at stored values and at the truth
//! of the runtimes alone, so nothing that it judges by is computed by what it judges.

use std::collections::BTreeMap;
use std::sync::Arc;

use host::runtime::fake::Running;
use serde_json::Value;

use crate::given::{Devices, Keys, Volumes};
use crate::jobs::Jobs;
use crate::limits::{self, Quotas};
use crate::pods::Pods;
use crate::sets::Wanted;
use crate::trace::Line;
use crate::values::{is_finished, millis, number, owner, text};

const PODS: &str = "/registry/pods/";
const NODES: &str = "/registry/minions/";
const REPLICA_SETS: &str = "/registry/replicasets/";
const DEPLOYMENTS: &str = "/registry/deployments/";
const JOBS: &str = "/registry/jobs/";
const CONFIG_MAPS: &str = "/registry/configmaps/";
const QUOTAS: &str = "/registry/resourcequotas/";
const BUDGETS: &str = "/registry/poddisruptionbudgets/";
const CLAIMS: &str = "/registry/persistentvolumeclaims/";
const DEVICE_CLAIMS: &str = "/registry/resourceclaims/";
/// Kinds whose lives are followed.
const FOLLOWED: [&str; 10] = [
    PODS,
    NODES,
    REPLICA_SETS,
    DEPLOYMENTS,
    JOBS,
    CONFIG_MAPS,
    QUOTAS,
    BUDGETS,
    CLAIMS,
    DEVICE_CLAIMS,
];
/// Writes of one key in a minute. Leases of elections are renewed each second, and the status of a
/// Deployment follows each step of its pods: some hundred in a story of several rollouts. A loop
/// would write thousands.
const WRITES_A_MINUTE: usize = 180;

/// The state so far, and what was wrong in it.
#[derive(Default)]
pub struct Invariants {
    objects: BTreeMap<String, Arc<Value>>,
    pods: Pods,
    wanted: Wanted,
    quotas: Quotas,
    jobs: Jobs,
    volumes: Volumes,
    devices: Devices,
    keys: Keys,
    /// The highest priority of any pod so far.
    most_important: i64,
    /// By the pod's UID and the container's name: the first attempt that ran.
    started: BTreeMap<(String, String), u32>,
    /// By key: the minute, the writes in it, and all writes.
    writes: BTreeMap<String, (u128, usize, usize)>,
    broken: Vec<String>,
}

/// Part of `of`, which may be given in percent.
fn share(value: Option<&Value>, of: i64) -> i64 {
    match value {
        Some(Value::Number(n)) => n.as_i64().unwrap_or(0),
        Some(Value::String(s)) => {
            let percent: i64 = s.trim_end_matches('%').parse().unwrap_or(0);
            // Rounded up, as a surge is.
            (of * percent + 99) / 100
        }
        _ => 0,
    }
}

impl Invariants {
    pub fn broken(&self) -> Vec<String> {
        self.broken.clone()
    }

    /// Takes a change in and looks at what it may have broken.
    pub fn note(&mut self, line: &Line) {
        self.count(line);
        if let Some(why) = self.keys.note(&line.key, line.value.is_some()) {
            self.wrong(line, &why);
        }
        if !FOLLOWED.iter().any(|prefix| line.key.starts_with(prefix)) {
            return;
        }
        let Some(value) = &line.value else {
            if let Some(old) = self.objects.remove(&line.key) {
                self.gone(line, &old);
            }
            return;
        };
        let Ok(new) = serde_json::from_slice::<Value>(value) else {
            return self.wrong(line, "the value is not JSON");
        };
        let new = Arc::new(new);
        let old = self.objects.insert(line.key.clone(), new.clone());
        let (old, new): (Option<&Value>, &Value) = (old.as_deref(), &new);
        if line.key.starts_with(PODS) {
            self.pods.note(&line.key, old, Some(new));
            self.pod(line, old, new);
            self.jobs.pod(new);
        }
        if line.key.starts_with(REPLICA_SETS) {
            self.wanted.note(new);
        }
        if line.key.starts_with(QUOTAS) {
            self.quotas.note(&line.key, Some(new));
        }
        if let Some(why) = self.given(line, Some(new)) {
            self.wrong(line, &why);
        }
        if line.key.starts_with(BUDGETS)
            && let Some(why) = limits::budget(old, new)
        {
            self.wrong(line, &why);
        }
        if line.key.starts_with(JOBS)
            && let Some(why) = self.jobs.job(old, new)
        {
            self.wrong(line, &why);
        }
        if line.key.starts_with(DEPLOYMENTS) || line.key.starts_with(REPLICA_SETS) {
            self.surge(line, new);
        }
    }

    /// The most writes of one key, and which; what says that somebody lives is left out.
    pub fn most_written(&self) -> (usize, String) {
        let all = self
            .writes
            .iter()
            .filter(|(key, _)| !key.contains("leases/"));
        let all = all.map(|(key, (_, _, n))| (*n, key.clone()));
        all.max().unwrap_or_default()
    }

    fn count(&mut self, line: &Line) {
        let minute = line.millis / 60_000;
        let entry = self.writes.entry(line.key.clone()).or_default();
        if entry.0 != minute {
            (entry.0, entry.1) = (minute, 0);
        }
        entry.1 += 1;
        entry.2 += 1;
        if entry.1 == WRITES_A_MINUTE {
            self.wrong(line, "written over and over");
        }
    }

    fn gone(&mut self, line: &Line, old: &Value) {
        if line.key.starts_with(PODS) {
            self.pods.note(&line.key, Some(old), None);
        }
        if line.key.starts_with(REPLICA_SETS) {
            self.wanted.gone(old);
        }
        if line.key.starts_with(QUOTAS) {
            self.quotas.note(&line.key, None);
        }
        self.given(line, None);
        self.collected(line, old);
    }

    /// What is wrong with what a claim has been given.
    fn given(&mut self, line: &Line, claim: Option<&Value>) -> Option<String> {
        if line.key.starts_with(CLAIMS) {
            self.volumes.note(&line.key, claim)
        } else if line.key.starts_with(DEVICE_CLAIMS) {
            self.devices.note(&line.key, claim)
        } else {
            None
        }
    }

    /// Nothing that only its owners keep goes before they do.
    fn collected(&mut self, line: &Line, old: &Value) {
        if !line.key.starts_with(CONFIG_MAPS) || owner(old).is_empty() {
            return;
        }
        // An owner that waits for what it owns, in a deletion in the foreground, goes after it.
        let lives = |o: &Value| {
            text(o, "/metadata/uid") == owner(old)
                && o.pointer("/metadata/deletionTimestamp").is_none()
        };
        if self.objects.values().any(|o| lives(o.as_ref())) {
            self.wrong(line, "it was collected although its owner lives");
        }
    }

    /// No two pods of one name run at the same time, and what may not restart does not.
    pub fn note_running(&mut self, running: &[Running]) {
        let mut names: BTreeMap<(&str, &str), &str> = BTreeMap::new();
        let mut wrong = Vec::new();
        for one in running {
            let name = (one.pod.namespace.as_str(), one.pod.name.as_str());
            let first = *names.entry(name).or_insert(&one.pod.uid);
            if first != one.pod.uid {
                wrong.push(format!("{name:?}: {first} and {} run at once", one.pod.uid));
            }
            let key = format!("{PODS}{}/{}", name.0, name.1);
            let pod = self.objects.get(&key);
            let pod = pod.filter(|p| text(p, "/metadata/uid") == one.pod.uid);
            // An attempt that was made and never started does not count.
            let container = (one.pod.uid.clone(), one.name.clone());
            let first = *self.started.entry(container).or_insert(one.attempt);
            let never = pod.is_some_and(|p| text(p, "/spec/restartPolicy") == "Never");
            if never && one.attempt > first {
                wrong.push(format!("{key}: started again, which it may never be"));
            }
            if pod.is_some_and(|p| is_finished(p)) {
                wrong.push(format!("{key}: started although it had finished"));
            }
        }
        self.broken.extend(wrong);
    }

    fn wrong(&mut self, line: &Line, why: &str) {
        self.broken.push(format!("{line}: {why}"));
    }

    fn under<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a Value> + 'a {
        let from = self.objects.range(prefix.to_owned()..);
        from.take_while(move |(key, _)| key.starts_with(prefix))
            .map(|(_, object)| object.as_ref())
    }

    fn pod(&mut self, line: &Line, old: Option<&Value>, new: &Value) {
        if let Some(old) = old {
            if text(old, "/metadata/uid") != text(new, "/metadata/uid") {
                self.wrong(line, "a pod took the place of another that was not deleted");
            }
            let (was, is) = (text(old, "/spec/nodeName"), text(new, "/spec/nodeName"));
            if !was.is_empty() && was != is {
                self.wrong(line, "a pod changed its node");
            }
            if is_finished(old) && !is_finished(new) {
                self.wrong(line, "a pod that had finished runs again");
            }
            let deleting = |p: &Value| !text(p, "/metadata/deletionTimestamp").is_empty();
            if deleting(old) && !deleting(new) {
                self.wrong(line, "the deletion of a pod was taken back");
            }
        } else {
            self.replicas(line, new);
        }
        self.preempted(line, old, new);
        self.room(line, text(new, "/spec/nodeName"));
        let namespace = text(new, "/metadata/namespace");
        if let Some(why) = self.quotas.exceeded(namespace, &self.pods) {
            self.wrong(line, &why);
        }
    }

    /// A pod makes room only for one that is more important.
    fn preempted(&mut self, line: &Line, old: Option<&Value>, new: &Value) {
        let priority = number(new, "/spec/priority");
        self.most_important = self.most_important.max(priority);
        let goes = |pod: &Value| {
            let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
            let mut all = conditions.into_iter().flatten();
            all.any(|c| c["reason"] == "PreemptionByScheduler")
        };
        if goes(new) && !old.is_some_and(goes) && priority >= self.most_important {
            self.wrong(line, &format!("it makes room, of priority {priority}"));
        }
    }

    /// No node has more pods than it has room for.
    fn room(&mut self, line: &Line, node: &str) {
        if node.is_empty() {
            return;
        }
        let (count, cpu) = self.pods.on(node);
        // The pods of a node that was removed are somebody else's matter.
        let Some(object) = self.objects.get(&format!("{NODES}{node}")) else {
            return;
        };
        let has = millis(text(object, "/status/allocatable/cpu"));
        let most: i64 = text(object, "/status/allocatable/pods")
            .parse()
            .unwrap_or(0);
        if cpu > has || count > most {
            self.wrong(
                line,
                &format!("{node} has {cpu}m of {has}m, {count} pods of {most}"),
            );
        }
    }

    /// A new pod is one that its ReplicaSet wants.
    fn replicas(&mut self, line: &Line, pod: &Value) {
        let own = owner(pod).to_owned();
        let Some(set) = self
            .under(REPLICA_SETS)
            .find(|s| text(s, "/metadata/uid") == own)
        else {
            return;
        };
        let active = self.pods.active_of(&own);
        let wanted = number(set, "/spec/replicas");
        // What was decided before the set was made smaller may still come.
        let most = self.wanted.most(&own);
        let before = number(set, "/status/replicas").max(most);
        if active > before {
            let why = format!("{active} pods of a set that wants {wanted} and had {before}");
            self.wrong(line, &why);
        }
    }

    /// What a Deployment has seen of itself it keeps to: its sets together want no more than its
    /// replicas and its surge.
    fn surge(&mut self, line: &Line, changed: &Value) {
        let uid = if line.key.starts_with(DEPLOYMENTS) {
            text(changed, "/metadata/uid")
        } else {
            owner(changed)
        };
        let Some(deployment) = self
            .under(DEPLOYMENTS)
            .find(|d| text(d, "/metadata/uid") == uid)
        else {
            return;
        };
        let seen = number(deployment, "/status/observedGeneration");
        if seen < number(deployment, "/metadata/generation") {
            return;
        }
        // Of one that is being deleted only the status is kept, as upstream: its sets are nobody's to scale.
        if !text(deployment, "/metadata/deletionTimestamp").is_empty() {
            return;
        }
        let replicas = number(deployment, "/spec/replicas");
        let surge = deployment.pointer("/spec/strategy/rollingUpdate/maxSurge");
        let most = replicas + share(surge, replicas);
        let sets = self.under(REPLICA_SETS).filter(|s| owner(s) == uid);
        let wanted: i64 = sets.map(|s| number(s, "/spec/replicas")).sum();
        if wanted > most {
            self.wrong(line, &format!("{wanted} pods are wanted of {most} at most"));
        }
    }
}

#[cfg(test)]
mod tests {
    use host::runtime::PodName;
    use serde_json::json;

    use super::*;

    fn line(key: &str, value: &Value) -> Line {
        Line {
            revision: 1,
            millis: 0,
            key: key.to_owned(),
            value: (!value.is_null()).then(|| value.to_string().into()),
        }
    }

    fn running(uid: &str, attempt: u32) -> Running {
        Running {
            pod: PodName {
                name: "db-0".into(),
                namespace: "default".into(),
                uid: uid.into(),
            },
            name: "c".into(),
            attempt,
        }
    }

    #[test]
    fn two_pods_of_one_name_and_a_forbidden_start_are_seen() {
        let mut all = Invariants::default();
        all.note_running(&[running("a", 0)]);
        all.note_running(&[running("b", 0)]);
        assert!(all.broken().is_empty());
        all.note_running(&[running("a", 1), running("b", 0)]);
        assert_eq!(all.broken().len(), 1);
        let pod = json!({ "metadata": { "uid": "c" }, "spec": { "restartPolicy": "Never" } });
        all.note(&line("/registry/pods/default/db-0", &pod));
        all.note_running(&[running("c", 1)]);
        assert_eq!(all.broken().len(), 1, "its first start");
        all.note_running(&[running("c", 2)]);
        assert_eq!(all.broken().len(), 2);
    }

    #[test]
    fn what_is_counted_twice_or_collected_too_early_is_seen() {
        let mut all = Invariants::default();
        let owner = json!([{ "kind": "Job", "uid": "j" }]);
        let pod = json!({ "metadata": { "uid": "p", "ownerReferences": owner },
            "status": { "phase": "Succeeded" } });
        let job = |succeeded: u32| {
            json!({ "metadata": { "uid": "j" }, "spec": { "completions": 2 },
                "status": { "succeeded": succeeded } })
        };
        all.note(&line("/registry/pods/default/p", &pod));
        all.note(&line("/registry/jobs/default/j", &job(1)));
        assert!(all.broken().is_empty());
        all.note(&line("/registry/jobs/default/j", &job(2)));
        assert_eq!(all.broken().len(), 1);
        let owned = json!({ "metadata": { "uid": "m", "ownerReferences": owner } });
        all.note(&line("/registry/configmaps/default/m", &owned));
        all.note(&line("/registry/configmaps/default/m", &Value::Null));
        assert_eq!(all.broken().len(), 2);
        for _ in 0..WRITES_A_MINUTE {
            all.note(&line("/registry/leases/a/b", &json!({})));
        }
        assert_eq!(all.broken().len(), 3);
    }
}
