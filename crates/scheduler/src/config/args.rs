//! Arguments of plugins, as their files say them, checked as upstream checks them: all that is wrong
//! is said, each with the path of its field.

use api::{FieldError, FieldPath, names};
use k8s_openapi::api::core::v1::{NodeAffinity as ApiAffinity, TopologySpreadConstraint};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::terms::{self, Errors};
use crate::plugins::{
    DynamicResources, InterPodAffinity, NodeAffinity, NodeResourcesBalancedAllocation,
    NodeResourcesFit, Plugin, PodTopologySpread, Strategy, VolumeBinding,
};
use crate::pod::Spread;
use crate::preempt::Candidates;
use crate::selector_terms;

fn read<T: DeserializeOwned>(path: &FieldPath, name: &str, args: &Value) -> Result<T, Vec<String>> {
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
            let version = super::API_VERSION;
            return Err(vec![format!("{path}: not of type {name}Args of {version}")]);
        }
    }
    serde_json::from_value(args).map_err(|e| vec![format!("{path}: {e}")])
}

/// What was made, unless something was wrong.
fn unless<T>(errs: Errors, made: T) -> Result<T, Vec<String>> {
    if errs.is_empty() {
        return Ok(made);
    }
    Err(errs.iter().map(ToString::to_string).collect())
}

/// The plugin of this name with these arguments, which stand at `path`; extended resources that are
/// `ignored` somebody else looks after.
///
/// # Errors
/// All that is wrong with them.
pub fn plugin(
    path: &FieldPath,
    name: &str,
    args: &Value,
    ignored: &[String],
) -> Result<Box<dyn Plugin>, Vec<String>> {
    let mut errs = Errors::new();
    let made: Box<dyn Plugin> = match name {
        "NodeResourcesFit" => {
            let mut plugin = fit(&mut errs, path, read(path, name, args)?);
            plugin.ignored.extend_from_slice(ignored);
            Box::new(plugin)
        }
        "NodeResourcesBalancedAllocation" => {
            Box::new(balanced(&mut errs, path, read(path, name, args)?))
        }
        "NodeAffinity" => Box::new(affinity(&mut errs, path, read(path, name, args)?)),
        "InterPodAffinity" => Box::new(pod_affinity(&mut errs, path, &read(path, name, args)?)),
        "PodTopologySpread" => Box::new(spread(&mut errs, path, &read(path, name, args)?)),
        "DynamicResources" => Box::new(devices(&mut errs, path, &read(path, name, args)?)),
        "VolumeBinding" => Box::new(volumes(&mut errs, path, &read(path, name, args)?)),
        _ => return Err(vec![format!("{path}: {name} takes no arguments")]),
    };
    unless(errs, made)
}

/// Says that a number is out of its range.
fn in_range(errs: &mut Errors, path: &FieldPath, n: i64, least: i64, most: i64) {
    if !(least..=most).contains(&n) {
        let why = format!("not in valid range [{least}, {most}]");
        errs.push(FieldError::invalid(path, &n.into(), &why));
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PreemptionArgs {
    min_candidate_nodes_percentage: Option<i64>,
    min_candidate_nodes_absolute: Option<i64>,
}

/// The arguments of preemption.
///
/// # Errors
/// All that is wrong with them.
pub fn candidates(path: &FieldPath, args: &Value) -> Result<Candidates, Vec<String>> {
    let args: PreemptionArgs = read(path, "DefaultPreemption", args)?;
    let (mut errs, default) = (Errors::new(), Candidates::default());
    let percent_path = path.child("minCandidateNodesPercentage");
    let least_path = path.child("minCandidateNodesAbsolute");
    let or = |given: Option<i64>, default: usize| {
        given.unwrap_or(i64::try_from(default).unwrap_or(i64::MAX))
    };
    let percent = or(args.min_candidate_nodes_percentage, default.percent);
    let least = or(args.min_candidate_nodes_absolute, default.least);
    in_range(&mut errs, &percent_path, percent, 0, 100);
    if least < 0 {
        let why = "not in valid range [0, inf)";
        errs.push(FieldError::invalid(&least_path, &least.into(), why));
    }
    if percent == 0 && least == 0 {
        for (path, other) in [
            (&percent_path, "minCandidateNodesAbsolute"),
            (&least_path, "minCandidateNodesPercentage"),
        ] {
            let why = format!("cannot be zero at the same time as {other}");
            errs.push(FieldError::invalid(path, &0.into(), &why));
        }
    }
    let made = Candidates {
        percent: usize::try_from(percent).unwrap_or(default.percent),
        least: usize::try_from(least).unwrap_or(default.least),
    };
    unless(errs, made)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ResourceSpec {
    name: String,
    weight: Option<i64>,
}

impl ResourceSpec {
    /// Zero is none, as upstream.
    fn weight(&self) -> i64 {
        self.weight.filter(|w| *w != 0).unwrap_or(1)
    }
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
    #[serde(default, rename = "type")]
    kind: String,
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

fn label_name(errs: &mut Errors, path: &FieldPath, name: &str) {
    let wrong = names::is_qualified_name(name);
    errs.extend(
        wrong
            .iter()
            .map(|why| FieldError::invalid_str(path, name, why)),
    );
}

fn fit(errs: &mut Errors, path: &FieldPath, args: FitArgs) -> NodeResourcesFit {
    for (i, name) in args.ignored_resources.iter().enumerate() {
        label_name(errs, &path.child("ignoredResources").index(i), name);
    }
    for (i, group) in args.ignored_resource_groups.iter().enumerate() {
        let path = path.child("ignoredResourceGroups").index(i);
        if group.contains('/') {
            let why = "resource group name can't contain '/'";
            errs.push(FieldError::invalid_str(&path, group, why));
        }
        label_name(errs, &path, group);
    }
    let mut out = NodeResourcesFit {
        ignored: args.ignored_resources,
        ignored_groups: args.ignored_resource_groups,
        ..NodeResourcesFit::default()
    };
    let Some(strategy) = args.scoring_strategy else {
        return out;
    };
    let path = path.child("scoringStrategy");
    for (i, spec) in strategy.resources.iter().enumerate() {
        let weight = spec.weight();
        if !(1..=100).contains(&weight) {
            let path = path.child("resources").index(i).child("weight");
            let why = format!(
                "resource weight of {} not in valid range (0, 100]",
                spec.name
            );
            errs.push(FieldError::invalid(&path, &weight.into(), &why));
        }
    }
    if !strategy.resources.is_empty() {
        let weights = strategy.resources.iter();
        out.resources = weights.map(|r| (r.name.clone(), r.weight())).collect();
    }
    out.strategy = fit_strategy(errs, &path, &strategy);
    out
}

fn fit_strategy(errs: &mut Errors, path: &FieldPath, args: &StrategyArgs) -> Strategy {
    let ratio = &args.requested_to_capacity_ratio;
    let ratio_path = path.child("requestedToCapacityRatio");
    let kind = args.kind.as_str();
    if kind == "RequestedToCapacityRatio" {
        let Some(ratio) = ratio else {
            let why = "must be specified when type is RequestedToCapacityRatio";
            errs.push(FieldError::required(&ratio_path, why));
            return Strategy::LeastAllocated;
        };
        shape(errs, &ratio_path.child("shape"), &ratio.shape);
        // Points in percent and scores of 100, where the file has scores of 10.
        let points = ratio.shape.iter();
        let points = points.map(|p| (p.utilization, p.score.saturating_mul(10)));
        return Strategy::RequestedToCapacityRatio(points.collect());
    }
    if ratio.is_some() {
        let why = "must be nil when type is not RequestedToCapacityRatio";
        errs.push(FieldError::forbidden(&ratio_path, why));
    }
    match kind {
        "LeastAllocated" => Strategy::LeastAllocated,
        "MostAllocated" => Strategy::MostAllocated,
        other => {
            let known = [
                "LeastAllocated",
                "MostAllocated",
                "RequestedToCapacityRatio",
            ];
            errs.push(FieldError::not_supported(
                &path.child("type"),
                other,
                &known,
            ));
            Strategy::LeastAllocated
        }
    }
}

fn shape(errs: &mut Errors, path: &FieldPath, shape: &[Point]) {
    if shape.is_empty() {
        let why = "at least one point must be specified";
        errs.push(FieldError::required(path, why));
        return;
    }
    let unsorted = shape
        .windows(2)
        .position(|pair| matches!(pair, [one, next] if one.utilization >= next.utilization));
    if let Some(i) = unsorted {
        let at = i + 1;
        let value = shape.get(at).map_or(0, |p| p.utilization);
        let path = path.index(at).child("utilization");
        let why = "values must be sorted in increasing order";
        errs.push(FieldError::invalid(&path, &value.into(), why));
    }
    for (i, point) in shape.iter().enumerate() {
        let path = path.index(i);
        in_range(errs, &path.child("utilization"), point.utilization, 0, 100);
        in_range(errs, &path.child("score"), point.score, 0, 10);
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BalancedArgs {
    #[serde(default)]
    resources: Vec<ResourceSpec>,
}

fn balanced(
    errs: &mut Errors,
    path: &FieldPath,
    args: BalancedArgs,
) -> NodeResourcesBalancedAllocation {
    let mut seen: Vec<&str> = Vec::new();
    for (i, spec) in args.resources.iter().enumerate() {
        let path = path.child("resources").index(i);
        if seen.contains(&spec.name.as_str()) {
            let name = spec.name.as_str().into();
            errs.push(FieldError::duplicate(&path.child("name"), &name));
        }
        seen.push(&spec.name);
        if spec.weight() != 1 {
            let path = path.child("weight");
            errs.push(FieldError::invalid(
                &path,
                &spec.weight().into(),
                "must be 1",
            ));
        }
    }
    if args.resources.is_empty() {
        return NodeResourcesBalancedAllocation::default();
    }
    NodeResourcesBalancedAllocation {
        resources: args.resources.into_iter().map(|r| r.name).collect(),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct AffinityArgs {
    added_affinity: Option<ApiAffinity>,
}

fn affinity(errs: &mut Errors, path: &FieldPath, args: AffinityArgs) -> NodeAffinity {
    let Some(added) = args.added_affinity else {
        return NodeAffinity::default();
    };
    let path = path.child("addedAffinity");
    let required = added.required_during_scheduling_ignored_during_execution;
    let wishes = added
        .preferred_during_scheduling_ignored_during_execution
        .unwrap_or_default();
    if let Some(required) = &required {
        let path = path.child("requiredDuringSchedulingIgnoredDuringExecution");
        for (i, term) in required.node_selector_terms.iter().enumerate() {
            let path = path.child("nodeSelectorTerms").index(i);
            terms::check(errs, &path, term);
        }
    }
    for (i, wish) in wishes.iter().enumerate() {
        let path = path.child("preferredDuringSchedulingIgnoredDuringExecution");
        terms::check(errs, &path.index(i), &wish.preference);
    }
    NodeAffinity {
        added_required: required.as_ref().map(selector_terms::node_terms),
        added_preferred: selector_terms::node_wishes(&wishes),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PodAffinityArgs {
    hard_pod_affinity_weight: Option<i64>,
    #[serde(default)]
    ignore_preferred_terms_of_existing_pods: bool,
}

fn pod_affinity(errs: &mut Errors, path: &FieldPath, args: &PodAffinityArgs) -> InterPodAffinity {
    let hard_weight = args.hard_pod_affinity_weight.unwrap_or(1);
    let path = path.child("hardPodAffinityWeight");
    in_range(errs, &path, hard_weight, 0, 100);
    InterPodAffinity {
        hard_weight,
        ignore_wishes_of_others: args.ignore_preferred_terms_of_existing_pods,
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SpreadArgs {
    #[serde(default)]
    default_constraints: Vec<TopologySpreadConstraint>,
    defaulting_type: Option<String>,
}

fn spread(errs: &mut Errors, path: &FieldPath, args: &SpreadArgs) -> PodTopologySpread {
    let given = &args.default_constraints;
    let type_path = path.child("defaultingType");
    let kind = args.defaulting_type.as_deref().filter(|t| !t.is_empty());
    let kind = kind.unwrap_or("System");
    match kind {
        "System" if !given.is_empty() => {
            let why = "when .defaultConstraints are not empty";
            errs.push(FieldError::invalid_str(&type_path, kind, why));
        }
        "System" | "List" => {}
        other => errs.push(FieldError::not_supported(
            &type_path,
            other,
            &["System", "List"],
        )),
    }
    let path = path.child("defaultConstraints");
    for (i, one) in given.iter().enumerate() {
        constraint(errs, &path.index(i), one);
        let same = |other: &TopologySpreadConstraint| {
            (&other.topology_key, &other.when_unsatisfiable)
                == (&one.topology_key, &one.when_unsatisfiable)
        };
        if given.iter().take(i).any(same) {
            let shown = format!("{{{}, {}}}", one.topology_key, one.when_unsatisfiable);
            errs.push(FieldError::duplicate(&path.index(i), &shown.into()));
        }
    }
    if kind == "System" {
        return PodTopologySpread::default();
    }
    PodTopologySpread {
        defaults: given.iter().map(made).collect(),
        system: false,
    }
}

fn constraint(errs: &mut Errors, path: &FieldPath, from: &TopologySpreadConstraint) {
    if from.max_skew <= 0 {
        let why = "not in valid range (0, inf)";
        let path = path.child("maxSkew");
        errs.push(FieldError::invalid(&path, &from.max_skew.into(), why));
    }
    let key_path = path.child("topologyKey");
    if from.topology_key.is_empty() {
        errs.push(FieldError::required(&key_path, "can not be empty"));
    } else {
        label_name(errs, &key_path, &from.topology_key);
    }
    let when_path = path.child("whenUnsatisfiable");
    match from.when_unsatisfiable.as_str() {
        "DoNotSchedule" | "ScheduleAnyway" => {}
        "" => errs.push(FieldError::required(&when_path, "can not be empty")),
        other => errs.push(FieldError::not_supported(
            &when_path,
            other,
            &["DoNotSchedule", "ScheduleAnyway"],
        )),
    }
    let selected = from.label_selector.is_some().then_some("labelSelector");
    let keys = from.match_label_keys.is_some().then_some("matchLabelKeys");
    for field in selected.into_iter().chain(keys) {
        let why = "constraint must not define a selector, as they deduced for each pod";
        errs.push(FieldError::forbidden(&path.child(field), why));
    }
}

fn made(from: &TopologySpreadConstraint) -> Spread {
    Spread {
        max_skew: i64::from(from.max_skew),
        topology_key: from.topology_key.as_str().into(),
        required: from.when_unsatisfiable == "DoNotSchedule",
        selector: api::selector::LabelSelector::nothing(),
        min_domains: i64::from(from.min_domains.unwrap_or(1)),
        honors_affinity: from.node_affinity_policy.as_deref() != Some("Ignore"),
        honors_taints: from.node_taints_policy.as_deref() == Some("Honor"),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct VolumeArgs {
    bind_timeout_seconds: Option<i64>,
    shape: Option<Value>,
}

fn volumes(errs: &mut Errors, path: &FieldPath, args: &VolumeArgs) -> VolumeBinding {
    if let Some(shape) = &args.shape {
        let why = "unexpected field `shape`, remove it or turn on the feature gate \
                   StorageCapacityScoring";
        errs.push(FieldError::invalid(&path.child("shape"), shape, why));
    }
    let Some(seconds) = args.bind_timeout_seconds else {
        return VolumeBinding::default();
    };
    let Ok(given) = u64::try_from(seconds) else {
        let why = "invalid BindTimeoutSeconds, should not be a negative value";
        let path = path.child("bindTimeoutSeconds");
        errs.push(FieldError::invalid(&path, &seconds.into(), why));
        return VolumeBinding::default();
    };
    VolumeBinding {
        timeout_ms: given.saturating_mul(1_000),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DeviceArgs {
    filter_timeout: Option<String>,
    binding_timeout: Option<String>,
}

fn devices(errs: &mut Errors, path: &FieldPath, args: &DeviceArgs) -> DynamicResources {
    let mut read = |text: &Option<String>, name: &str, least: u64, why: &str| {
        let text = text.as_deref()?;
        let given = super::extenders::duration_ms(text).filter(|ms| *ms >= least);
        if given.is_none() {
            errs.push(FieldError::invalid_str(&path.child(name), text, why));
        }
        given
    };
    let (filter, binding) = (&args.filter_timeout, &args.binding_timeout);
    read(filter, "filterTimeout", 0, "must be zero or positive");
    match read(
        binding,
        "bindingTimeout",
        1_000,
        "must be at least 1 second",
    ) {
        None => DynamicResources::default(),
        Some(timeout_ms) => DynamicResources { timeout_ms },
    }
}
