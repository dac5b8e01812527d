//! Arguments of plugins, as their files say them.

use k8s_openapi::api::core::v1::{NodeAffinity as ApiAffinity, TopologySpreadConstraint};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::plugins::{
    DynamicResources, InterPodAffinity, NodeAffinity, NodeResourcesBalancedAllocation,
    NodeResourcesFit, Plugin, PodTopologySpread, Strategy, VolumeBinding,
};
use crate::pod::Spread;
use crate::preempt::Candidates;
use crate::selector_terms::NodeTerm;

fn read<T: DeserializeOwned>(name: &str, args: &Value) -> Result<T, String> {
    let mut args = args.clone();
    if args.is_null() {
        args = Value::Object(serde_json::Map::new());
    }
    if let Some(fields) = args.as_object_mut() {
        let kind = fields.remove("kind");
        let version = fields.remove("apiVersion");
        let wrong = kind.is_some_and(|k| k != format!("{name}Args"))
            || version.is_some_and(|v| v != super::API_VERSION);
        if wrong {
            return Err(format!("not of type {name}Args of {}", super::API_VERSION));
        }
    }
    serde_json::from_value(args).map_err(|e| e.to_string())
}

/// The plugin of this name with these arguments; extended resources that are `ignored` somebody
/// else looks after.
///
/// # Errors
/// What is wrong with them.
pub fn plugin(name: &str, args: &Value, ignored: &[String]) -> Result<Box<dyn Plugin>, String> {
    match name {
        "NodeResourcesFit" => {
            let mut plugin = fit(read(name, args)?)?;
            plugin.ignored.extend_from_slice(ignored);
            Ok(boxed(plugin))
        }
        "NodeResourcesBalancedAllocation" => balanced(read(name, args)?).map(boxed),
        "NodeAffinity" => affinity(read(name, args)?).map(boxed),
        "InterPodAffinity" => pod_affinity(&read(name, args)?).map(boxed),
        "PodTopologySpread" => spread(read(name, args)?).map(boxed),
        "DynamicResources" => devices(&read(name, args)?).map(boxed),
        "VolumeBinding" => volumes(&read(name, args)?).map(boxed),
        _ => Err(format!("{name} takes no arguments")),
    }
}

fn boxed(plugin: impl Plugin + 'static) -> Box<dyn Plugin> {
    Box::new(plugin)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PreemptionArgs {
    min_candidate_nodes_percentage: Option<i64>,
    min_candidate_nodes_absolute: Option<i64>,
}

pub fn candidates(args: &Value) -> Result<Candidates, String> {
    let args: PreemptionArgs = read("DefaultPreemption", args)?;
    let default = Candidates::default();
    let amount = |given: Option<i64>, default: usize, most: i64, name: &str| match given {
        None => Ok(default),
        Some(n) if (0..=most).contains(&n) => Ok(usize::try_from(n).unwrap_or(default)),
        Some(n) => Err(format!(
            "{name}: Invalid value: {n}: not in valid range [0, {most}]"
        )),
    };
    let percent = args.min_candidate_nodes_percentage;
    let least = args.min_candidate_nodes_absolute;
    let out = Candidates {
        percent: amount(percent, default.percent, 100, "minCandidateNodesPercentage")?,
        least: amount(
            least,
            default.least,
            i64::from(i32::MAX),
            "minCandidateNodesAbsolute",
        )?,
    };
    if out.percent == 0 && out.least == 0 {
        return Err(
            "minCandidateNodesPercentage and minCandidateNodesAbsolute: cannot both be zero"
                .to_owned(),
        );
    }
    Ok(out)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ResourceSpec {
    name: String,
    weight: Option<i64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FitArgs {
    #[serde(default)]
    ignored_resources: Vec<String>,
    #[serde(default)]
    ignored_resource_groups: Vec<String>,
    scoring_strategy: Option<StrategyArgs>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct StrategyArgs {
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    resources: Vec<ResourceSpec>,
    requested_to_capacity_ratio: Option<RatioArgs>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RatioArgs {
    #[serde(default)]
    shape: Vec<Point>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Point {
    #[serde(default)]
    utilization: i64,
    #[serde(default)]
    score: i64,
}

fn fit(args: FitArgs) -> Result<NodeResourcesFit, String> {
    let mut out = NodeResourcesFit {
        ignored: args.ignored_resources,
        ignored_groups: args.ignored_resource_groups,
        ..NodeResourcesFit::default()
    };
    if let Some(group) = out.ignored_groups.iter().find(|g| g.contains('/')) {
        return Err(format!(
            "ignoredResourceGroups: Invalid value: {group:?}: resource group name can't contain '/'"
        ));
    }
    let Some(strategy) = args.scoring_strategy else {
        return Ok(out);
    };
    if !strategy.resources.is_empty() {
        let weights = strategy.resources.into_iter().map(weight);
        out.resources = weights.collect::<Result<_, _>>()?;
    }
    let shape = strategy.requested_to_capacity_ratio;
    out.strategy = match strategy.kind.as_deref().unwrap_or("LeastAllocated") {
        "LeastAllocated" => Strategy::LeastAllocated,
        "MostAllocated" => Strategy::MostAllocated,
        "RequestedToCapacityRatio" => {
            Strategy::RequestedToCapacityRatio(points(&shape.map_or(Vec::new(), |r| r.shape))?)
        }
        other => {
            return Err(format!(
                "scoringStrategy.type: Unsupported value: {other:?}: supported values: \
                 \"LeastAllocated\", \"MostAllocated\", \"RequestedToCapacityRatio\""
            ));
        }
    };
    Ok(out)
}

fn weight(spec: ResourceSpec) -> Result<(String, i64), String> {
    let weight = spec.weight.filter(|w| *w != 0).unwrap_or(1);
    if (1..=100).contains(&weight) {
        return Ok((spec.name, weight));
    }
    Err(format!(
        "scoringStrategy.resources: Invalid value: {weight}: resource weight of {} not in valid \
         range [1, 100]",
        spec.name
    ))
}

/// Points in percent and scores of 100, where the file has scores of 10.
fn points(shape: &[Point]) -> Result<Vec<(i64, i64)>, String> {
    let path = "scoringStrategy.requestedToCapacityRatio.shape";
    if shape.is_empty() {
        return Err(format!(
            "{path}: Required value: at least one point must be specified"
        ));
    }
    let mut last = -1;
    for point in shape {
        if point.utilization <= last || !(0..=100).contains(&point.utilization) {
            return Err(format!(
                "{path}: Invalid value: {}: utilization values must be in [0, 100] and sorted in \
                 increasing order",
                point.utilization
            ));
        }
        if !(0..=10).contains(&point.score) {
            return Err(format!(
                "{path}: Invalid value: {}: not in valid range [0, 10]",
                point.score
            ));
        }
        last = point.utilization;
    }
    Ok(shape
        .iter()
        .map(|p| (p.utilization, p.score * 10))
        .collect())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BalancedArgs {
    #[serde(default)]
    resources: Vec<ResourceSpec>,
}

fn balanced(args: BalancedArgs) -> Result<NodeResourcesBalancedAllocation, String> {
    if args.resources.is_empty() {
        return Ok(NodeResourcesBalancedAllocation::default());
    }
    if let Some(spec) = args.resources.iter().find(|r| r.weight.unwrap_or(1) != 1) {
        return Err(format!("resources: {}: the weight must be 1", spec.name));
    }
    let names = args.resources.into_iter().map(|r| r.name);
    Ok(NodeResourcesBalancedAllocation {
        resources: names.collect(),
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct AffinityArgs {
    added_affinity: Option<ApiAffinity>,
}

fn affinity(args: AffinityArgs) -> Result<NodeAffinity, String> {
    let Some(added) = args.added_affinity else {
        return Ok(NodeAffinity::default());
    };
    let required = added.required_during_scheduling_ignored_during_execution;
    let preferred = added.preferred_during_scheduling_ignored_during_execution;
    let terms = |r: k8s_openapi::api::core::v1::NodeSelector| {
        r.node_selector_terms.iter().map(NodeTerm::read).collect()
    };
    let wishes = preferred.iter().flatten();
    Ok(NodeAffinity {
        added_required: required.map(terms),
        added_preferred: wishes
            .map(|p| (i64::from(p.weight), NodeTerm::read(&p.preference)))
            .collect(),
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PodAffinityArgs {
    hard_pod_affinity_weight: Option<i64>,
    #[serde(default)]
    ignore_preferred_terms_of_existing_pods: bool,
}

fn pod_affinity(args: &PodAffinityArgs) -> Result<InterPodAffinity, String> {
    let hard_weight = args.hard_pod_affinity_weight.unwrap_or(1);
    if !(0..=100).contains(&hard_weight) {
        return Err(format!(
            "hardPodAffinityWeight: Invalid value: {hard_weight}: not in valid range [0, 100]"
        ));
    }
    Ok(InterPodAffinity {
        hard_weight,
        ignore_wishes_of_others: args.ignore_preferred_terms_of_existing_pods,
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SpreadArgs {
    #[serde(default)]
    default_constraints: Vec<TopologySpreadConstraint>,
    defaulting_type: Option<String>,
}

fn spread(args: SpreadArgs) -> Result<PodTopologySpread, String> {
    match args.defaulting_type.as_deref().unwrap_or("System") {
        "System" if args.default_constraints.is_empty() => Ok(PodTopologySpread::default()),
        "System" => Err(
            "defaultingType: Invalid value: \"System\": when .defaultConstraints are not empty"
                .to_owned(),
        ),
        "List" => {
            let read = args.default_constraints.iter().map(constraint);
            Ok(PodTopologySpread {
                defaults: read.collect::<Result<_, _>>()?,
                system: false,
            })
        }
        other => Err(format!(
            "defaultingType: Unsupported value: {other:?}: supported values: \"List\", \"System\""
        )),
    }
}

fn constraint(from: &TopologySpreadConstraint) -> Result<Spread, String> {
    if from.label_selector.is_some() || from.match_label_keys.is_some() {
        return Err(
            "defaultConstraints.labelSelector: Forbidden: constraint must not define a selector, \
             as they deduced for each pod"
                .to_owned(),
        );
    }
    if from.max_skew <= 0 || from.topology_key.is_empty() {
        return Err(
            "defaultConstraints: maxSkew must be greater than zero and topologyKey given"
                .to_owned(),
        );
    }
    let required = match from.when_unsatisfiable.as_str() {
        "DoNotSchedule" => true,
        "ScheduleAnyway" => false,
        other => {
            return Err(format!(
                "defaultConstraints.whenUnsatisfiable: Unsupported value: {other:?}: supported \
                 values: \"DoNotSchedule\", \"ScheduleAnyway\""
            ));
        }
    };
    Ok(Spread {
        max_skew: i64::from(from.max_skew),
        topology_key: from.topology_key.as_str().into(),
        required,
        selector: api::selector::LabelSelector::nothing(),
        min_domains: i64::from(from.min_domains.unwrap_or(1)),
        honors_affinity: from.node_affinity_policy.as_deref() != Some("Ignore"),
        honors_taints: from.node_taints_policy.as_deref() == Some("Honor"),
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct VolumeArgs {
    bind_timeout_seconds: Option<i64>,
    #[serde(default)]
    shape: Vec<Value>,
}

fn volumes(args: &VolumeArgs) -> Result<VolumeBinding, String> {
    if !args.shape.is_empty() {
        return Err("shape: Forbidden: volumes are not scored by capacity".to_owned());
    }
    let Some(seconds) = args.bind_timeout_seconds else {
        return Ok(VolumeBinding::default());
    };
    let seconds = u64::try_from(seconds);
    let seconds = seconds.map_err(|_| "bindTimeoutSeconds: must be positive".to_owned())?;
    Ok(VolumeBinding {
        timeout_ms: seconds.saturating_mul(1_000),
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DeviceArgs {
    filter_timeout: Option<String>,
    binding_timeout: Option<String>,
}

fn devices(args: &DeviceArgs) -> Result<DynamicResources, String> {
    let read = |text: &Option<String>, name: &str| match text {
        None => Ok(None),
        Some(text) => super::extenders::duration_ms(text)
            .map(Some)
            .ok_or_else(|| format!("{name}: Invalid value: {text:?}: must not be negative")),
    };
    read(&args.filter_timeout, "filterTimeout")?;
    match read(&args.binding_timeout, "bindingTimeout")? {
        None => Ok(DynamicResources::default()),
        Some(ms) if ms < 1_000 => {
            Err("bindingTimeout: Invalid value: must be at least 1 second".to_owned())
        }
        Some(timeout_ms) => Ok(DynamicResources { timeout_ms }),
    }
}
