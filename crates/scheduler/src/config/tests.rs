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
            "profiles[0].pluginConfig[0].args: hardPodAffinityWeight: Invalid value: 101: not in \
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
    assert!(twice.to_string().contains("Duplicate value"), "{twice}");
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
