//! The priority levels and flow schemas that every cluster has (the mandatory ones), and those that
//! it begins with and may change (the suggested ones); upstream's, word for word.

use serde_json::{Value, json};

use crate::{CATCH_ALL, EXEMPT, GROUP};

/// On an object: whether the server keeps its spec as it is here.
pub const AUTO_UPDATE: &str = "apf.kubernetes.io/autoupdate-spec";

/// An object, and whether every cluster must have it just so.
#[derive(Clone, Debug)]
pub struct Predefined {
    pub value: Value,
    pub is_mandatory: bool,
}

impl Predefined {
    pub fn name(&self) -> &str {
        self.value["metadata"]["name"].as_str().unwrap_or_default()
    }

    /// Whether an object's spec is what it is to be. How many seats exempt requests are taken to
    /// have is the administrator's business.
    pub fn has_spec_of(&self, object: &Value) -> bool {
        let spec = object.get("spec").unwrap_or(&Value::Null);
        if self.name() == EXEMPT && spec.get("exempt").is_some() {
            let mut spec = spec.clone();
            spec["exempt"] = self.value["spec"]["exempt"].clone();
            return spec == self.value["spec"];
        }
        *spec == self.value["spec"]
    }
}

/// The spec that an object of this name must have: `kind` is that of a flow schema or of a priority
/// level.
pub fn mandatory(kind: &str, name: &str) -> Option<Predefined> {
    let all = match kind {
        "FlowSchema" => schemas(),
        _ => levels(),
    };
    all.into_iter().find(|d| d.is_mandatory && d.name() == name)
}

fn object(kind: &str, name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": format!("{GROUP}/v1"),
        "kind": kind,
        "metadata": { "name": name, "annotations": { AUTO_UPDATE: "true" } },
        "spec": spec,
    })
}

/// The priority levels.
pub fn levels() -> Vec<Predefined> {
    let exempt = json!({
        "type": "Exempt",
        "exempt": { "nominalConcurrencyShares": 0, "lendablePercent": 0 },
    });
    let limited = |shares: u32, lendable: u32, response: Value| {
        json!({
            "type": "Limited",
            "limited": {
                "nominalConcurrencyShares": shares,
                "lendablePercent": lendable,
                "limitResponse": response,
            },
        })
    };
    let queue = |queues: u32, hand_size: u32| {
        let queuing = json!({ "queues": queues, "handSize": hand_size, "queueLengthLimit": 50 });
        json!({ "type": "Queue", "queuing": queuing })
    };
    let level = |is_mandatory, name, spec| Predefined {
        value: object("PriorityLevelConfiguration", name, spec),
        is_mandatory,
    };
    vec![
        level(true, EXEMPT, exempt),
        level(true, CATCH_ALL, limited(5, 0, json!({ "type": "Reject" }))),
        // Nodes, but for what reports that they live.
        level(false, "system", limited(30, 33, queue(64, 6))),
        // What reports that nodes live: it must not wait behind the start of many pods.
        level(false, "node-high", limited(40, 25, queue(64, 6))),
        level(false, "leader-election", limited(10, 0, queue(16, 4))),
        // Controllers and the scheduler.
        level(false, "workload-high", limited(40, 50, queue(128, 6))),
        level(false, "workload-low", limited(100, 90, queue(128, 6))),
        level(false, "global-default", limited(20, 50, queue(128, 6))),
    ]
}

fn groups(names: &[&str]) -> Vec<Value> {
    let one = |name: &&str| json!({ "kind": "Group", "group": { "name": name } });
    names.iter().map(one).collect()
}

fn users(names: &[&str]) -> Vec<Value> {
    let one = |name: &&str| json!({ "kind": "User", "user": { "name": name } });
    names.iter().map(one).collect()
}

fn system_accounts() -> Value {
    json!({
        "kind": "ServiceAccount",
        "serviceAccount": { "namespace": "kube-system", "name": "*" },
    })
}

/// The flow schemas.
pub fn schemas() -> Vec<Predefined> {
    const EVERYBODY: &[&str] = &["system:unauthenticated", "system:authenticated"];
    const BY_USER: Option<&str> = Some("ByUser");
    const BY_NAMESPACE: Option<&str> = Some("ByNamespace");
    let resources = |verbs: &[&str], group: &str, resources: &[&str], cluster_scope: bool| {
        let mut rule = json!({
            "verbs": verbs, "apiGroups": [group], "resources": resources, "namespaces": ["*"],
        });
        if cluster_scope {
            rule["clusterScope"] = true.into();
        }
        rule
    };
    let everything = |subjects: Vec<Value>| {
        json!([{
            "subjects": subjects,
            "resourceRules": [resources(&["*"], "*", &["*"], true)],
            "nonResourceRules": [{ "verbs": ["*"], "nonResourceURLs": ["*"] }],
        }])
    };
    let leases = |verbs: &[&str]| resources(verbs, "coordination.k8s.io", &["leases"], false);
    let schema =
        |is_mandatory, name: &str, level: &str, precedence: i32, by: Option<&str>, rules: Value| {
            let mut spec = json!({
                "priorityLevelConfiguration": { "name": level },
                "matchingPrecedence": precedence,
                "rules": rules,
            });
            if let Some(by) = by {
                spec["distinguisherMethod"] = json!({ "type": by });
            }
            Predefined {
                value: object("FlowSchema", name, spec),
                is_mandatory,
            }
        };
    let probes = json!([{
        "subjects": groups(EVERYBODY),
        "nonResourceRules": [{
            "verbs": ["get"], "nonResourceURLs": ["/healthz", "/readyz", "/livez"],
        }],
    }]);
    let mut leaders = users(&["system:kube-controller-manager", "system:kube-scheduler"]);
    leaders.push(system_accounts());
    let leading = json!([{
        "subjects": leaders, "resourceRules": [leases(&["get", "create", "update"])],
    }]);
    let nodes_live = json!([{
        "subjects": groups(&["system:nodes"]),
        "resourceRules": [
            resources(&["*"], "", &["nodes", "nodes/status"], true),
            leases(&["*"]),
        ],
    }]);
    let nodes = everything(groups(&["system:nodes"]));
    let manager = everything(users(&["system:kube-controller-manager"]));
    let scheduler = everything(users(&["system:kube-scheduler"]));
    let accounts = everything(groups(&["system:serviceaccounts"]));
    let masters = everything(groups(&["system:masters"]));
    let (system, all) = (
        everything(vec![system_accounts()]),
        everything(groups(EVERYBODY)),
    );
    vec![
        schema(true, EXEMPT, EXEMPT, 1, None, masters),
        schema(true, CATCH_ALL, CATCH_ALL, 10_000, BY_USER, all.clone()),
        schema(false, "probes", EXEMPT, 2, None, probes),
        schema(
            false,
            "system-leader-election",
            "leader-election",
            100,
            BY_USER,
            leading,
        ),
        schema(
            false,
            "system-node-high",
            "node-high",
            400,
            BY_USER,
            nodes_live,
        ),
        schema(false, "system-nodes", "system", 500, BY_USER, nodes),
        schema(
            false,
            "kube-controller-manager",
            "workload-high",
            800,
            BY_NAMESPACE,
            manager,
        ),
        schema(
            false,
            "kube-scheduler",
            "workload-high",
            800,
            BY_NAMESPACE,
            scheduler,
        ),
        schema(
            false,
            "kube-system-service-accounts",
            "workload-high",
            900,
            BY_NAMESPACE,
            system,
        ),
        schema(
            false,
            "service-accounts",
            "workload-low",
            9000,
            BY_USER,
            accounts,
        ),
        schema(
            false,
            "global-default",
            "global-default",
            9900,
            BY_USER,
            all,
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_must_be_is_told_from_what_may_change() {
        let exempt = mandatory("PriorityLevelConfiguration", EXEMPT).expect("there");
        let mut changed = exempt.value.clone();
        changed["spec"]["exempt"]["nominalConcurrencyShares"] = 7.into();
        assert!(exempt.has_spec_of(&changed));
        changed["spec"]["type"] = "Limited".into();
        assert!(!exempt.has_spec_of(&changed));
        let all = mandatory("FlowSchema", CATCH_ALL).expect("there");
        let mut changed = all.value.clone();
        changed["spec"]["matchingPrecedence"] = 1.into();
        assert!(!all.has_spec_of(&changed) && all.has_spec_of(&all.value));
        assert!(mandatory("FlowSchema", "probes").is_none());
    }

    #[test]
    fn each_schema_names_a_level() {
        let levels = levels();
        let names: Vec<&str> = levels.iter().map(Predefined::name).collect();
        for schema in schemas() {
            let level = schema.value["spec"]["priorityLevelConfiguration"]["name"].as_str();
            assert!(level.is_some_and(|l| names.contains(&l)));
        }
    }
}
