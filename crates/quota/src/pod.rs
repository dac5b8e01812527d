//! What a pod asks for as a whole: containers beside one another, init containers before them,
//! sidecars beside all, the pod's own resources in their place, overhead on top. As upstream's
//! component helpers compute it.

use api::{qos, resize};
use serde_json::Value;

use crate::amounts::Amounts;

/// Which of the rules apply.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// What the node has given counts beside what the specification says (quotas: a pod that is
    /// being resized holds the larger of both).
    pub status: bool,
    pub overhead: bool,
    /// Huge pages of the pod itself count, not only CPU and memory.
    pub huge_pages: bool,
}

/// As quotas count.
pub const QUOTA: Rules = Rules {
    status: true,
    overhead: true,
    huge_pages: true,
};
/// As limit ranges compare.
pub const LIMIT_RANGE: Rules = Rules {
    status: false,
    overhead: false,
    huge_pages: false,
};

/// One of the two lists of resources.
#[derive(Clone, Copy, PartialEq, Eq)]
enum List {
    Requests,
    Limits,
}

impl List {
    fn field(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Limits => "limits",
        }
    }
}

pub fn requests(pod: &Value, rules: Rules) -> Amounts {
    let mut sum = of_containers(pod, List::Requests, rules);
    instead(&mut sum, pod, List::Requests, rules);
    if rules.overhead {
        sum.add(&Amounts::read(pod.pointer("/spec/overhead")));
    }
    sum
}

pub fn limits(pod: &Value, rules: Rules) -> Amounts {
    let mut sum = of_containers(pod, List::Limits, rules);
    instead(&mut sum, pod, List::Limits, rules);
    if rules.overhead {
        for (name, amount) in Amounts::read(pod.pointer("/spec/overhead")).iter() {
            if sum.get(name).is_some_and(|q| !q.is_zero()) {
                sum.add_to(name, *amount);
            }
        }
    }
    sum
}

/// Resources that a pod may be given as a whole.
pub fn is_of_pod(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || name.starts_with("hugepages-")
}

/// Whether the pod as a whole asks for something that it may.
pub fn has_own_resources(pod: &Value) -> bool {
    [List::Requests, List::Limits]
        .iter()
        .any(|list| own(pod, *list).names().any(is_of_pod))
}

fn own(pod: &Value, list: List) -> Amounts {
    let resources = pod.pointer("/spec/resources");
    Amounts::read(resources.and_then(|r| r.get(list.field())))
}

/// The pod's own resources stand in place of its containers' sum.
fn instead(sum: &mut Amounts, pod: &Value, list: List, rules: Rules) {
    for (name, amount) in own(pod, list).iter() {
        if is_of_pod(name) && (rules.huge_pages || !name.starts_with("hugepages-")) {
            sum.set(name, *amount);
        }
    }
}

pub(crate) fn list<'a>(v: &'a Value, pointer: &str) -> &'a [Value] {
    v.pointer(pointer)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

pub(crate) fn text<'a>(v: &'a Value, field: &str) -> &'a str {
    v.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn of_containers(pod: &Value, list_of: List, rules: Rules) -> Amounts {
    let mut sum = Amounts::default();
    for container in list(pod, "/spec/containers") {
        sum.add(&effective(
            pod,
            container,
            list_of,
            rules,
            "/status/containerStatuses",
        ));
    }
    let (mut sidecars, mut most) = (Amounts::default(), Amounts::default());
    for container in list(pod, "/spec/initContainers") {
        if text(container, "restartPolicy") == "Always" {
            let own = effective(
                pod,
                container,
                list_of,
                rules,
                "/status/initContainerStatuses",
            );
            sum.add(&own);
            sidecars.add(&own);
            most.at_least(&sidecars);
        } else {
            let mut own = asked(container, list_of);
            own.add(&sidecars);
            most.at_least(&own);
        }
    }
    sum.at_least(&most);
    sum
}

fn asked(container: &Value, list: List) -> Amounts {
    let resources = container.get("resources");
    Amounts::read(resources.and_then(|r| r.get(list.field())))
}

/// What a container holds, also while it is being resized.
fn effective(pod: &Value, container: &Value, of: List, rules: Rules, statuses: &str) -> Amounts {
    let name = text(container, "name");
    let mut statuses = list(pod, statuses).iter();
    let status = statuses.find(|s| text(s, "name") == name);
    let of_node = status.filter(|_| rules.status).and_then(|s| {
        let resources = s.get("resources").filter(|r| !r.is_null())?;
        let set_aside = s.get("allocatedResources");
        let set_aside = set_aside.filter(|_| of == List::Requests);
        Some((resources.get(of.field()), set_aside))
    });
    let wish = container.get("resources").and_then(|r| r.get(of.field()));
    let mut sum = Amounts::default();
    for list in resize::held(wish, of_node, is_infeasible(pod)) {
        sum.at_least(&Amounts::read(list));
    }
    sum
}

/// The node can never do what the resize asks for.
fn is_infeasible(pod: &Value) -> bool {
    let conditions = list(pod, "/status/conditions");
    let pending = conditions
        .iter()
        .find(|c| text(c, "type") == resize::PENDING);
    pending.is_some_and(|c| text(c, "reason") == resize::INFEASIBLE)
}

/// Whether the class of a pod is BestEffort: as noted, else computed.
pub fn is_best_effort(pod: &Value) -> bool {
    let noted = pod.pointer("/status/qosClass").and_then(Value::as_str);
    if let Some(class) = noted.filter(|class| !class.is_empty()) {
        return class == qos::Class::BestEffort.name();
    }
    let of = |owner: &Value| -> qos::ContainerAmounts {
        let (requests, limits) = (asked(owner, List::Requests), asked(owner, List::Limits));
        qos::RESOURCES.map(|name| qos::Amount {
            request: requests.get(name).copied(),
            limit: limits.get(name).copied(),
        })
    };
    let of_pod = pod
        .get("spec")
        .filter(|spec| spec.get("resources").is_some_and(|r| !r.is_null()));
    let class = of_pod.map_or_else(
        || {
            let containers = list(pod, "/spec/containers").iter();
            let all = containers.chain(list(pod, "/spec/initContainers"));
            qos::class(&all.map(of).collect::<Vec<_>>())
        },
        |spec| qos::class(&[of(spec)]),
    );
    class == qos::Class::BestEffort
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn show(a: &Amounts) -> String {
        a.show()
    }

    #[test]
    fn init_containers_sidecars_and_overhead() {
        let c = |cpu: &str| json!({ "name": "c", "resources": { "requests": { "cpu": cpu }, "limits": { "cpu": cpu } } });
        let mut side = c("2");
        side["restartPolicy"] = json!("Always");
        let pod = json!({ "spec": {
            "containers": [c("1"), c("1")],
            "initContainers": [c("7"), side, c("3")],
            "overhead": { "cpu": "100m", "memory": "1Mi" },
        } });
        // 1 + 1 + 2 beside one another; the first init container needs 7 alone.
        assert_eq!(show(&requests(&pod, QUOTA)), "cpu=7100m,memory=1Mi");
        assert_eq!(show(&limits(&pod, QUOTA)), "cpu=7100m");
        assert_eq!(show(&requests(&pod, LIMIT_RANGE)), "cpu=7");
    }

    #[test]
    fn the_pods_own_resources_stand_in_place_of_the_sum() {
        let pod = json!({ "spec": {
            "containers": [{ "name": "c", "resources": { "requests": { "cpu": "1", "memory": "1Gi" } } }],
            "resources": { "requests": { "cpu": "5", "hugepages-2Mi": "2Mi" } },
        } });
        assert_eq!(
            show(&requests(&pod, QUOTA)),
            "cpu=5,hugepages-2Mi=2Mi,memory=1Gi"
        );
        assert_eq!(show(&requests(&pod, LIMIT_RANGE)), "cpu=5,memory=1Gi");
        assert!(has_own_resources(&pod) && !is_best_effort(&pod));
    }

    #[test]
    fn what_is_being_resized_holds_the_larger() {
        let mut pod = json!({ "spec": { "containers": [{ "name": "c", "resources": { "requests": { "cpu": "1" } } }] },
            "status": { "containerStatuses": [{ "name": "c", "allocatedResources": { "cpu": "3" }, "resources": { "requests": { "cpu": "2" } } }] } });
        assert_eq!(show(&requests(&pod, QUOTA)), "cpu=3");
        pod["spec"]["containers"][0]["resources"]["requests"]["cpu"] = json!("9");
        assert_eq!(show(&requests(&pod, QUOTA)), "cpu=9");
        pod["status"]["conditions"] =
            json!([{ "type": "PodResizePending", "reason": "Infeasible" }]);
        assert_eq!(show(&requests(&pod, QUOTA)), "cpu=3");
        assert_eq!(show(&requests(&pod, LIMIT_RANGE)), "cpu=9");
    }
}
