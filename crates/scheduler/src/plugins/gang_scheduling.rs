//! Pods of a group whose policy wants it get their nodes together, or none of them does: they wait
//! until enough of them are there, and with their nodes until enough of them have one, or until that
//! cannot be.

use super::{Events, Plugin, Prepare, Ready, Reason};
use crate::node::Node;
use crate::pod::Pod;
use crate::snapshot::Snapshot;

pub struct GangScheduling;

/// How long a pod keeps a node for the others of its gang, in milliseconds; upstream's.
const PATIENCE: u64 = 300_000;

/// How many pods of its group must have nodes at once; none where the pod goes by itself.
fn least(pod: &Pod, snapshot: &Snapshot) -> Result<Option<i64>, String> {
    let gangs = snapshot.gangs();
    let Some(group) = pod.wants.group.as_ref().filter(|_| gangs.are_served()) else {
        return Ok(None);
    };
    match gangs.least(group) {
        Some(least) => Ok(Some(least).filter(|least| *least > 0)),
        None => {
            let name = group.rsplit('/').next().unwrap_or_default();
            Err(format!(
                "waiting for pods's pod group {name:?} to appear in scheduling queue"
            ))
        }
    }
}

/// Pods of the group, and those of them that have nodes.
fn count(pod: &Pod, snapshot: &Snapshot) -> (i64, i64) {
    let group = pod.wants.group.as_deref().unwrap_or_default();
    let members = snapshot.gangs().members(group);
    members.fold((0, 0), |(all, placed), uid| {
        let has_node = snapshot.place(uid).is_some();
        (all + 1, placed + i64::from(has_node))
    })
}

impl Plugin for GangScheduling {
    fn name(&self) -> &'static str {
        "GangScheduling"
    }
    fn wakes_on(&self) -> Events {
        Events::POD_GROUPS
    }
    fn prepare<'a>(&'a self, pod: &'a Pod, snapshot: &'a Snapshot) -> Prepare<'a> {
        match least(pod, snapshot) {
            Ok(Some(least)) if count(pod, snapshot).0 < least => Err(Reason::one(
                "waiting for minCount pods from a gang to appear in scheduling queue",
            )),
            Ok(_) => Ok(None),
            Err(why) => Err(Reason::text(why)),
        }
    }
    fn permit(&self, pod: &Pod, _: &Node, snapshot: &Snapshot) -> Ready {
        match least(pod, snapshot) {
            Ok(Some(least)) if count(pod, snapshot).1 < least => Ready::Not,
            Ok(_) => Ready::Yes,
            Err(why) => Ready::Never(why),
        }
    }
    fn permit_patience_ms(&self) -> u64 {
        PATIENCE
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1 as k8s;
    use serde_json::json;

    use crate::core::{Core, Step};
    use crate::decide::Profile;
    use crate::plugins::testing::node;
    use crate::queue::Waits;

    fn core(cpu: &str) -> Core {
        let mut core = Core::new(vec![Profile::default()], Waits::default());
        let node = serde_json::from_value(node("a", cpu, "8Gi")).expect("a node");
        core.node_changed(None, Some(&node));
        core
    }

    fn pod(name: &str) -> k8s::Pod {
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "n", "uid": name},
            "spec": {"schedulingGroup": {"podGroupName": "g"}, "containers": [
                {"name": "c", "resources": {"requests": {"cpu": "1"}}}]}}))
        .expect("a pod")
    }

    fn why(step: Option<Step>) -> String {
        match step {
            Some(Step::Unschedulable { message, .. }) => message,
            other => panic!("{other:?}"),
        }
    }

    fn bound(step: Option<Step>) -> String {
        match step {
            Some(Step::Bind { pod, .. }) => pod.name.clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_gang_gets_its_nodes_together() {
        let mut core = core("8");
        core.pod_groups_served();
        core.pod_changed(None, Some(&pod("p")), 0);
        let first = why(core.step(1, 0));
        assert!(first.contains("pod group \"g\" to appear"), "{first}");
        core.pod_group_changed("n/g", Some(3));
        let second = why(core.step(2, 60_000));
        assert!(
            second.contains("minCount pods from a gang to appear"),
            "{second}"
        );
        for (name, now) in [("q", 60_000), ("r", 60_000)] {
            core.pod_changed(None, Some(&pod(name)), now);
        }
        // Two of them wait with their nodes for the third.
        let steps = std::iter::from_fn(|| core.step(3, 600_000));
        let mut names: Vec<String> = steps.map(|step| bound(Some(step))).collect();
        names.sort();
        assert_eq!(names, ["p", "q", "r"]);
    }

    #[test]
    fn a_gang_that_does_not_fit_gets_nothing() {
        let mut core = core("2");
        core.pod_groups_served();
        core.pod_group_changed("n/g", Some(3));
        for name in ["p", "q", "r"] {
            core.pod_changed(None, Some(&pod(name)), 0);
        }
        let steps = std::iter::from_fn(|| core.step(1, 0));
        let mut reports = Vec::new();
        for step in steps {
            match step {
                Step::Unschedulable { message, .. } => reports.push(message),
                other => panic!("{other:?}"),
            }
        }
        assert!(
            reports.iter().any(|r| r.contains("Insufficient cpu")),
            "{reports:?}"
        );
    }

    #[test]
    fn where_groups_are_not_served_pods_go_by_themselves() {
        let mut core = core("8");
        core.pod_changed(None, Some(&pod("p")), 0);
        assert_eq!(bound(core.step(1, 0)), "p");
        // Nor do those of a group whose policy wants nothing.
        core.pod_groups_served();
        core.pod_group_changed("n/g", Some(0));
        core.pod_changed(None, Some(&pod("q")), 0);
        assert_eq!(bound(core.step(2, 0)), "q");
    }
}
