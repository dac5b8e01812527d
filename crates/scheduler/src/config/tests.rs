//! What files make, and how wrong ones are refused.

use serde_json::json;

use super::*;

fn file(profiles: Value) -> Value {
    json!({"apiVersion": API_VERSION, "kind": KIND, "profiles": profiles})
}

fn faults(profile: Value) -> String {
    match read(file(json!([profile]))) {
        Ok(_) => "none".to_owned(),
        Err(faults) => faults.to_string(),
    }
}

fn names(profile: &Profile) -> Vec<(&'static str, i64)> {
    let plugins = profile.plugins.iter();
    plugins.map(|(p, weight)| (p.name(), *weight)).collect()
}

#[test]
fn an_empty_file_is_the_default() {
    let settings = read(file(json!([]))).expect("a configuration");
    let profile = settings.profiles.first().expect("a profile");
    assert_eq!(profile.scheduler, "default-scheduler");
    assert_eq!(names(profile), names(&Profile::default()));
    assert!(settings.warnings.is_empty());
}

#[test]
fn plugins_are_switched_and_weighed() {
    let settings = read(file(json!([
        {"schedulerName": "bins", "percentageOfNodesToScore": 30,
         "plugins": {
             "multiPoint": {"disabled": [{"name": "ImageLocality"}]},
             "score": {"disabled": [{"name": "NodeAffinity"}],
                       "enabled": [{"name": "NodeResourcesFit", "weight": 5}]},
             "postFilter": {"disabled": [{"name": "*"}]}},
         "pluginConfig": [{"name": "NodeResourcesFit", "args": {
             "apiVersion": API_VERSION, "kind": "NodeResourcesFitArgs",
             "scoringStrategy": {"type": "MostAllocated",
                 "resources": [{"name": "cpu", "weight": 3}]}}}]},
        {"schedulerName": "other"},
    ])))
    .expect("a configuration");
    let bins = settings.profiles.first().expect("a profile");
    let of = |name: &str| names(bins).into_iter().find(|(n, _)| *n == name);
    assert_eq!(of("ImageLocality"), None);
    assert_eq!(of("NodeAffinity"), Some(("NodeAffinity", 2)));
    assert_eq!(of("NodeResourcesFit"), Some(("NodeResourcesFit", 5)));
    assert_eq!(
        (bins.percentage_of_nodes, bins.candidates.is_none()),
        (30, true)
    );
    assert_eq!(settings.profiles.len(), 2);
}

#[test]
fn what_is_wrong_is_named() {
    for (profile, fault) in [
        (
            json!({"plugins": {"filter": {"disabled": [{"name": "Nix"}]}}}),
            "profiles[0].plugins.filter.disabled[0].name: \"Nix\": no such plugin",
        ),
        (
            json!({"plugins": {"middle": {}}}),
            "profiles[0].plugins.middle: no such extension point",
        ),
        (
            json!({"plugins": {"bind": {"disabled": [{"name": "*"}]},
                               "multiPoint": {"disabled": [{"name": "DefaultBinder"}]}}}),
            "profiles[0].plugins.bind: at least one bind plugin is needed",
        ),
        (
            json!({"pluginConfig": [{"name": "InterPodAffinity",
                "args": {"hardPodAffinityWeight": 101}}]}),
            "profiles[0].pluginConfig[0].args.hardPodAffinityWeight: Invalid value: 101: not in \
             valid range [0, 100]",
        ),
        (
            json!({"pluginConfig": [{"name": "NodePorts", "args": {}}]}),
            "profiles[0].pluginConfig[0].args: NodePorts takes no arguments",
        ),
        (
            json!({"percentageOfNodesToScore": 101}),
            "profiles[0].percentageOfNodesToScore: Invalid value: 101: not in valid range [0-100]",
        ),
    ] {
        assert_eq!(faults(profile), fault);
    }
    let unknown = faults(json!({"pluginConfig": [{"name": "NodeAffinity", "args": {"x": 1}}]}));
    assert!(unknown.contains("unknown field `x`"), "{unknown}");
    let twice = read(file(json!([{}, {}]))).err().expect("a fault");
    assert_eq!(
        twice.to_string(),
        "profiles[0].schedulerName: Required value; profiles[1].schedulerName: Required value; \
         profiles[1].schedulerName: Duplicate value: \"\""
    );
}

#[test]
fn what_has_no_effect_is_said() {
    let mut given = file(json!([]));
    given["parallelism"] = json!(8);
    given["clientConnection"] = json!({"kubeconfig": "/x", "qps": 5});
    given["leaderElection"] = json!({"leaderElect": false});
    let settings = read(given).expect("a configuration");
    assert_eq!(settings.warnings.len(), 2, "{:?}", settings.warnings);
    assert_eq!(settings.kubeconfig.as_deref(), Some("/x"));
    assert_eq!(settings.election.leader_elect, Some(false));
}

#[test]
fn extenders_are_read_and_checked_as_by_upstream() {
    let with = |extenders: Value| {
        let mut file = file(json!([]));
        file["extenders"] = extenders;
        read(file)
    };
    let good = with(json!([{
        "urlPrefix": "https://gpus.example:443/v1", "filterVerb": "filter", "bindVerb": "bind",
        "prioritizeVerb": "prioritize", "weight": 5, "enableHTTPS": true, "httpTimeout": "1m30s",
        "nodeCacheCapable": true, "ignorable": true,
        "tlsConfig": {"caFile": "/ca.pem", "certData": "Y2VydA==", "keyData": "a2V5"},
        "managedResources": [{"name": "example.com/gpu", "ignoredByScheduler": true}]}]))
    .expect("a configuration");
    let gpus = good.extenders.first().expect("an extender");
    assert_eq!((gpus.timeout_ms, gpus.weight), (90_000, 5));
    assert!(gpus.knows_nodes && gpus.ignorable);
    assert_eq!(
        gpus.tls.authorities,
        crate::extenders::Source::File("/ca.pem".into())
    );
    for (extenders, fault) in [
        (
            json!([{"urlPrefix": "http://x", "prioritizeVerb": "p"}]),
            "extenders[0].weight: Invalid value: 0: must have a positive weight applied to it",
        ),
        (
            json!([{"urlPrefix": "http://x", "bindVerb": "b"},
                   {"urlPrefix": "http://y", "bindVerb": "b"}]),
            "only one extender can implement bind",
        ),
        (
            json!([{"urlPrefix": "http://x", "managedResources": [{"name": "kubernetes.io/x"}]}]),
            "is an invalid extended resource name",
        ),
        (
            json!([{"urlPrefix": "http://x", "managedResources": [
                {"name": "a.b/x"}, {"name": "a.b/x"}]}]),
            "extenders[0].managedResources[1].name: Invalid value: \"a.b/x\": duplicate extender \
             managed resource name",
        ),
        (
            json!([{"urlPrefix": "http://x", "httpTimeout": "soon"}]),
            "extenders[0].httpTimeout: Invalid value: \"soon\": not a duration",
        ),
        (
            json!([{"urlPrefix": "http://x", "verb": "b"}]),
            "unknown field `verb`",
        ),
        (
            json!([{"urlPrefix": "x"}]),
            "must begin with http:// or https://",
        ),
    ] {
        let faults = with(extenders).err().expect(fault).to_string();
        assert!(faults.contains(fault), "{faults}");
    }
}

#[test]
fn the_whole_file_is_checked_as_by_upstream() {
    for (field, value, fault) in [
        (
            "parallelism",
            json!(0),
            "parallelism: Invalid value: 0: should be an integer",
        ),
        (
            "leaderElection",
            json!({"resourceLock": "endpoints"}),
            "resourceLock value must be \"leases\"",
        ),
        (
            "leaderElection",
            json!({"leaseDuration": "5s", "renewDeadline": "5s"}),
            "LeaseDuration must be greater than RenewDeadline",
        ),
        (
            "profiles",
            json!([{"plugins": {"queueSort": {"disabled": [{"name": "*"}],
                                              "enabled": [{"name": "PrioritySort"}]}}},
                   {"schedulerName": "b"}]),
            "profiles[1].plugins.queueSort: Invalid value: must be the same for all profiles",
        ),
        (
            "profiles",
            json!([{"pluginConfig": [
                {"name": "InterPodAffinity", "args": {}},
                {"name": "InterPodAffinity", "args": {}}]}]),
            "profiles[0].pluginConfig[1]: Duplicate value: \"InterPodAffinity\"",
        ),
    ] {
        let mut given = file(json!([]));
        given[field] = value;
        let faults = read(given).err().expect(fault).to_string();
        assert!(faults.contains(fault), "{faults}");
    }
}

/// Arguments of a plugin, and all that is wrong with them, each at its path below them.
#[track_caller]
fn wrong(plugin: &str, args: Value, expected: &[&str]) {
    let told = faults(json!({"pluginConfig": [{"name": plugin, "args": args}]}));
    let all = expected
        .iter()
        .map(|e| format!("profiles[0].pluginConfig[0].args.{e}"));
    assert_eq!(told, all.collect::<Vec<_>>().join("; "));
}

#[test]
fn arguments_are_checked_as_by_upstream() {
    wrong(
        "DefaultPreemption",
        json!({"minCandidateNodesPercentage": 101, "minCandidateNodesAbsolute": -1}),
        &[
            "minCandidateNodesPercentage: Invalid value: 101: not in valid range [0, 100]",
            "minCandidateNodesAbsolute: Invalid value: -1: not in valid range [0, inf)",
        ],
    );
    wrong(
        "DefaultPreemption",
        json!({"minCandidateNodesPercentage": 0, "minCandidateNodesAbsolute": 0}),
        &[
            "minCandidateNodesPercentage: Invalid value: 0: cannot be zero at the same time as \
             minCandidateNodesAbsolute",
            "minCandidateNodesAbsolute: Invalid value: 0: cannot be zero at the same time as \
             minCandidateNodesPercentage",
        ],
    );
    wrong(
        "InterPodAffinity",
        json!({"hardPodAffinityWeight": -1}),
        &["hardPodAffinityWeight: Invalid value: -1: not in valid range [0, 100]"],
    );
    wrong(
        "NodeResourcesBalancedAllocation",
        json!({"resources": [{"name": "cpu"}, {"name": "cpu", "weight": 2}]}),
        &[
            "resources[1].name: Duplicate value: \"cpu\"",
            "resources[1].weight: Invalid value: 2: must be 1",
        ],
    );
    wrong(
        "VolumeBinding",
        json!({"bindTimeoutSeconds": -1, "shape": []}),
        &[
            "shape: Invalid value: []: unexpected field `shape`, remove it or turn on the feature \
             gate StorageCapacityScoring",
            "bindTimeoutSeconds: Invalid value: -1: invalid BindTimeoutSeconds, should not be a \
             negative value",
        ],
    );
    wrong(
        "DynamicResources",
        json!({"filterTimeout": "-1s", "bindingTimeout": "10ms"}),
        &[
            "filterTimeout: Invalid value: \"-1s\": must be zero or positive",
            "bindingTimeout: Invalid value: \"10ms\": must be at least 1 second",
        ],
    );
}

#[test]
fn arguments_of_fit_are_checked_as_by_upstream() {
    wrong(
        "NodeResourcesFit",
        json!({"ignoredResourceGroups": ["example.com/x"],
            "scoringStrategy": {"type": "Most", "resources": [{"name": "cpu", "weight": 101}]}}),
        &[
            "ignoredResourceGroups[0]: Invalid value: \"example.com/x\": resource group name can't \
             contain '/'",
            "scoringStrategy.resources[0].weight: Invalid value: 101: resource weight of cpu not \
             in valid range (0, 100]",
            "scoringStrategy.type: Unsupported value: \"Most\": supported values: \
             \"LeastAllocated\", \"MostAllocated\", \"RequestedToCapacityRatio\"",
        ],
    );
    let ratio = |shape: Value| {
        json!({"scoringStrategy": {"type": "RequestedToCapacityRatio",
            "requestedToCapacityRatio": {"shape": shape}}})
    };
    let at = "scoringStrategy.requestedToCapacityRatio";
    wrong(
        "NodeResourcesFit",
        ratio(
            json!([{"utilization": 50, "score": 11}, {"utilization": 50, "score": 1},
            {"utilization": 101, "score": 0}]),
        ),
        &[
            &format!(
                "{at}.shape[1].utilization: Invalid value: 50: values must be sorted in \
                 increasing order"
            ),
            &format!("{at}.shape[0].score: Invalid value: 11: not in valid range [0, 10]"),
            &format!("{at}.shape[2].utilization: Invalid value: 101: not in valid range [0, 100]"),
        ],
    );
    wrong(
        "NodeResourcesFit",
        ratio(json!([])),
        &[&format!(
            "{at}.shape: Required value: at least one point must be specified"
        )],
    );
    wrong(
        "NodeResourcesFit",
        json!({"scoringStrategy": {"type": "RequestedToCapacityRatio"}}),
        &[&format!(
            "{at}: Required value: must be specified when type is RequestedToCapacityRatio"
        )],
    );
    wrong(
        "NodeResourcesFit",
        json!({"scoringStrategy": {"type": "MostAllocated",
            "requestedToCapacityRatio": {"shape": []}}}),
        &[&format!(
            "{at}: Forbidden: must be nil when type is not RequestedToCapacityRatio"
        )],
    );
}

#[test]
fn arguments_of_spreading_and_affinity_are_checked_as_by_upstream() {
    wrong(
        "PodTopologySpread",
        json!({"defaultingType": "List", "defaultConstraints": [
            {"maxSkew": 0, "topologyKey": "", "whenUnsatisfiable": ""},
            {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "Never"},
            {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "Never",
             "labelSelector": {}}]}),
        &[
            "defaultConstraints[0].maxSkew: Invalid value: 0: not in valid range (0, inf)",
            "defaultConstraints[0].topologyKey: Required value: can not be empty",
            "defaultConstraints[0].whenUnsatisfiable: Required value: can not be empty",
            "defaultConstraints[1].whenUnsatisfiable: Unsupported value: \"Never\": supported \
             values: \"DoNotSchedule\", \"ScheduleAnyway\"",
            "defaultConstraints[2].whenUnsatisfiable: Unsupported value: \"Never\": supported \
             values: \"DoNotSchedule\", \"ScheduleAnyway\"",
            "defaultConstraints[2].labelSelector: Forbidden: constraint must not define a \
             selector, as they deduced for each pod",
            "defaultConstraints[2]: Duplicate value: \"{zone, Never}\"",
        ],
    );
    wrong(
        "PodTopologySpread",
        json!({"defaultingType": "Some"}),
        &[
            "defaultingType: Unsupported value: \"Some\": supported values: \"System\", \
             \"List\"",
        ],
    );
    let required = "addedAffinity.requiredDuringSchedulingIgnoredDuringExecution";
    wrong(
        "NodeAffinity",
        json!({"addedAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": [
                {"key": "disk", "operator": "Is", "values": ["ssd"]},
                {"key": "disk", "operator": "In"},
                {"key": "size", "operator": "Gt", "values": ["large"]}],
              "matchFields": [{"key": "metadata.name", "operator": "In", "values": []}]}]}}}),
        &[
            &format!(
                "{required}.nodeSelectorTerms[0].matchExpressions[0].operator: Unsupported value: \
                 \"Is\": supported values: \"In\", \"NotIn\", \"Exists\", \"DoesNotExist\", \
                 \"Gt\", \"Lt\""
            ),
            &format!(
                "{required}.nodeSelectorTerms[0].matchExpressions[1].values: Invalid value: []: \
                 for 'in', 'notin' operators, values set can't be empty"
            ),
            &format!(
                "{required}.nodeSelectorTerms[0].matchExpressions[2].values[0]: Invalid value: \
                 \"large\": for 'Gt', 'Lt' operators, the value must be an integer"
            ),
            &format!(
                "{required}.nodeSelectorTerms[0].matchFields[0].values: Invalid value: []: must \
                 have one element"
            ),
        ],
    );
}
