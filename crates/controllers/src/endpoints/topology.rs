//! Which zones' clients an endpoint is for, where a Service asks for it by the annotation
//! `service.kubernetes.io/topology-mode`: each zone gets as many endpoints as its share of the
//! cluster's CPU, its own where there are enough. Where that cannot be, nobody gets hints, and all
//! clients use all endpoints. Pure; numbers are counted in endpoints times the cluster's CPU, so that
//! shares are exact.

use std::collections::BTreeMap;
use std::sync::Arc;

use control::action::{Action, Plan, reference};
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use serde_json::{Value, json};

use crate::common::is_node_ready;

/// The label of a node with its zone.
pub const ZONE: &str = "topology.kubernetes.io/zone";
const MODE: &str = "service.kubernetes.io/topology-mode";
const OLD_MODE: &str = "service.kubernetes.io/topology-aware-hints";
/// Nodes with one of these labels take no part.
const EXCLUDED: [&str; 2] = [
    "node-role.kubernetes.io/control-plane",
    "node-role.kubernetes.io/master",
];

/// CPU in thousandths by zone.
pub type Cpus = BTreeMap<String, u64>;

/// Whether a Service asks for hints by its annotation.
pub fn is_wanted(service: &Service) -> bool {
    let all = service.annotations();
    let mode = all.get(OLD_MODE).or_else(|| all.get(MODE));
    mode.is_some_and(|m| m == "Auto" || m == "auto")
}

/// What a node has for its zone.
#[derive(PartialEq, Eq)]
enum Share<'a> {
    /// It takes no part.
    Nothing,
    /// It does not say its zone or its CPU.
    Unknown,
    Of(&'a str, u64),
}

fn share(node: &Node) -> Share<'_> {
    let labels = node.labels();
    if EXCLUDED.iter().any(|l| labels.contains_key(*l)) || !is_node_ready(node) {
        return Share::Nothing;
    }
    let zone = labels.get(ZONE).filter(|z| !z.is_empty());
    let status = node.status.as_ref();
    let cpu = status.and_then(|s| s.allocatable.as_ref()?.get("cpu"));
    let cpu = cpu.and_then(|q| q.0.parse::<api::Quantity>().ok());
    let cpu = cpu.and_then(|q| u64::try_from(q.milli_value()).ok());
    match (zone, cpu) {
        (Some(zone), Some(cpu)) if cpu > 0 => Share::Of(zone, cpu),
        _ => Share::Unknown,
    }
}

/// Whether a change of a node changes what zones have.
pub fn is_other(old: Option<&Node>, new: Option<&Node>) -> bool {
    old.map(share) != new.map(share)
}

/// The CPU of each zone; none where a node does not say its own.
pub fn cpus<'a>(nodes: impl Iterator<Item = &'a Node>) -> Option<Cpus> {
    let mut all = Cpus::new();
    for node in nodes {
        match share(node) {
            Share::Nothing => {}
            Share::Unknown => return None,
            Share::Of(zone, cpu) => *all.entry(zone.to_owned()).or_default() += cpu,
        }
    }
    Some(all)
}

/// A ready endpoint: where it is, and for which zone it was until now; both may be empty.
#[derive(Clone, Copy, Debug)]
pub struct Placed<'a> {
    pub zone: &'a str,
    pub before: &'a str,
}

struct Allocation {
    minimum: u128,
    maximum: u128,
    /// Times the cluster's CPU.
    desired: u128,
}

/// How many of so many endpoints each zone gets, or why that cannot be said.
fn allocations(count: usize, cpus: &Cpus) -> Result<BTreeMap<&str, Allocation>, String> {
    let zones = cpus.len();
    let numbers = format!("({count} endpoints, {zones} zones)");
    if zones < 2 {
        return Err("Nodes only ready in one zone".to_owned());
    }
    if zones > count {
        return Err(format!("Insufficient number of endpoints {numbers}"));
    }
    let total = total(cpus);
    let count = u128::try_from(count).unwrap_or(u128::MAX);
    let share = |cpu: u64| count.saturating_mul(u128::from(cpu));
    // An endpoint may get a fifth more than its share of the clients.
    let minimum = |cpu: u64| share(cpu).saturating_mul(10).div_ceil(total * 12);
    let least: u128 = cpus.values().map(|cpu| minimum(*cpu)).sum();
    let Some(left) = count.checked_sub(least) else {
        return Err(format!(
            "Unable to allocate minimum required endpoints to each zone without exceeding overload threshold {numbers}"
        ));
    };
    let of = |cpu: u64| Allocation {
        minimum: minimum(cpu),
        maximum: minimum(cpu) + left,
        desired: share(cpu).max(minimum(cpu) * total),
    };
    Ok(cpus.iter().map(|(z, cpu)| (z.as_str(), of(*cpu))).collect())
}

fn total(cpus: &Cpus) -> u128 {
    let total: u128 = cpus.values().map(|cpu| u128::from(*cpu)).sum();
    total.max(1)
}

fn counts<'a>(zones: &[&'a str]) -> BTreeMap<&'a str, u128> {
    let mut all = BTreeMap::new();
    for zone in zones {
        *all.entry(*zone).or_default() += 1;
    }
    all
}

/// The zone that has most, the first of several.
fn most<'a>(zones: &BTreeMap<&'a str, u128>) -> Option<(&'a str, u128)> {
    let some = zones.iter().filter(|(_, n)| **n > 0);
    let most = some.max_by(|a, b| a.1.cmp(b.1).then_with(|| b.0.cmp(a.0)));
    most.map(|(zone, n)| (*zone, *n))
}

/// How many endpoints each zone gives to others, and how many it gets from them.
fn moves<'a>(
    have: &BTreeMap<&'a str, u128>,
    wanted: &BTreeMap<&'a str, Allocation>,
    total: u128,
) -> [BTreeMap<&'a str, usize>; 2] {
    let has = |zone: &str| have.get(zone).copied().unwrap_or(0) * total;
    let more = |(zone, a): (&&'a str, &Allocation)| (*zone, has(zone).saturating_sub(a.desired));
    let less = |(zone, a): (&&'a str, &Allocation)| (*zone, a.desired.saturating_sub(has(zone)));
    let mut give: BTreeMap<&str, u128> = wanted.iter().map(more).collect();
    let mut get: BTreeMap<&str, u128> = wanted.iter().map(less).collect();
    let mut out = [BTreeMap::new(), BTreeMap::new()];
    while let (Some((giver, gives)), Some((getter, gets))) = (most(&give), most(&get)) {
        let is_half = |n: u128| n * 2 >= total;
        if (gives < total && gets < total) || !is_half(gives) || !is_half(gets) {
            break;
        }
        give.insert(giver, gives.saturating_sub(total));
        get.insert(getter, gets.saturating_sub(total));
        let [given, got] = &mut out;
        *given.entry(giver).or_default() += 1;
        *got.entry(getter).or_default() += 1;
    }
    out
}

/// The zone that each of these endpoints is for, or why none has one.
pub fn assign<'a>(all: &[Placed<'a>], cpus: Option<&'a Cpus>) -> Result<Vec<&'a str>, String> {
    let cpus = cpus.filter(|c| !c.is_empty()).ok_or(
        "Insufficient Node information: allocatable CPU or zone not specified on one or more nodes",
    )?;
    let wanted = allocations(all.len(), cpus)?;
    if all.iter().any(|one| one.zone.is_empty()) {
        return Err("One or more endpoints do not have a zone specified".to_owned());
    }
    // What was said stays while it is good enough, so that few slices are written.
    let kept = all.iter().map(|one| match wanted.contains_key(one.before) {
        true => one.before,
        false => one.zone,
    });
    let kept: Vec<&str> = kept.collect();
    let have = counts(&kept);
    let is_fine = |(zone, a): (&&str, &Allocation)| {
        let n = have.get(zone).copied().unwrap_or(0);
        (a.minimum..=a.maximum).contains(&n)
    };
    let is_known = have.keys().all(|zone| wanted.contains_key(zone));
    if is_known && all.iter().any(|one| !one.before.is_empty()) && wanted.iter().all(is_fine) {
        return Ok(kept);
    }
    let mut zones: Vec<&str> = all.iter().map(|one| one.zone).collect();
    let [mut give, mut get] = moves(&counts(&zones), &wanted, total(cpus));
    for zone in &mut zones {
        let Some(gives) = give.get_mut(*zone).filter(|n| **n > 0) else {
            continue;
        };
        let Some((getter, gets)) = get.iter_mut().find(|(_, n)| **n > 0) else {
            break;
        };
        (*gives, *gets) = (*gives - 1, *gets - 1);
        *zone = *getter;
    }
    Ok(zones)
}

/// The zone for which an endpoint was until now.
fn before(slices: &[Arc<EndpointSlice>], family: &str) -> BTreeMap<String, String> {
    let slices = slices.iter().filter(|s| s.address_type == family);
    let all = slices.flat_map(|s| s.endpoints.iter().flatten());
    let hinted = all.filter_map(|e| {
        let zones = e.hints.as_ref()?.for_zones.as_ref()?;
        let uid = e.target_ref.as_ref()?.uid.clone()?;
        Some((uid, zones.first()?.name.clone()))
    });
    hinted.collect()
}

/// Gives the ready ones of all endpoints of a family their zones, by the UIDs of their pods, or says
/// why they have none. `slices` were published before.
pub fn hint<'a>(
    service: &Service,
    (slices, cpus): (&[Arc<EndpointSlice>], Option<&Cpus>),
    family: &str,
    endpoints: impl Iterator<Item = (&'a String, &'a mut Value)>,
    plan: &mut Plan,
) {
    let before = before(slices, family);
    let ready = endpoints.filter(|(_, one)| one["conditions"]["ready"] == true);
    let ready: Vec<_> = ready.collect();
    let zones: Vec<(String, &str)> = ready
        .iter()
        .map(|(uid, one)| {
            let zone = one["zone"].as_str().unwrap_or_default();
            let before = before.get(*uid).map_or("", String::as_str);
            (zone.to_owned(), before)
        })
        .collect();
    let placed = zones.iter().map(|(zone, before)| Placed { zone, before });
    let placed: Vec<Placed<'_>> = placed.collect();
    let (warning, reason, text) = match assign(&placed, cpus) {
        Ok(zones) => {
            for ((_, one), zone) in ready.into_iter().zip(zones) {
                one["hints"] = json!({ "forZones": [{ "name": zone }] });
            }
            if !before.is_empty() {
                return;
            }
            let text = "Topology Aware Hints has been enabled".to_owned();
            (false, "TopologyAwareHintsEnabled", text)
        }
        Err(why) => (true, "TopologyAwareHintsDisabled", why),
    };
    plan.actions.push(Action::Event {
        about: reference(service),
        warning,
        reason,
        message: format!("{text}, addressType: {family}"),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpus_of(all: &[(&str, u64)]) -> Cpus {
        all.iter().map(|(z, c)| ((*z).to_owned(), *c)).collect()
    }

    fn placed<'a>(zones: &[(&'a str, &'a str)]) -> Vec<Placed<'a>> {
        let all = zones.iter();
        all.map(|&(zone, before)| Placed { zone, before }).collect()
    }

    #[test]
    fn zones_get_endpoints_by_their_cpu_their_own_first() {
        let even = cpus_of(&[("a", 4_000), ("b", 4_000)]);
        let one_sided = placed(&[("a", ""), ("a", ""), ("a", ""), ("b", "")]);
        assert_eq!(
            assign(&one_sided, Some(&even)).unwrap(),
            ["b", "a", "a", "b"]
        );
        let balanced = placed(&[("a", ""), ("b", ""), ("a", ""), ("b", "")]);
        assert_eq!(
            assign(&balanced, Some(&even)).unwrap(),
            ["a", "b", "a", "b"]
        );
        let uneven = cpus_of(&[("a", 9_000), ("b", 3_000)]);
        assert_eq!(
            assign(&balanced, Some(&uneven)).unwrap(),
            ["a", "a", "a", "b"]
        );
    }

    #[test]
    fn what_is_said_stays_while_no_endpoint_has_too_much() {
        let even = cpus_of(&[("a", 1_000), ("b", 1_000)]);
        // Seven and five of twelve: a zone may have as few as five.
        let mut all = vec![("a", "a"); 7];
        all.extend([("b", "b"); 5]);
        let kept = assign(&placed(&all), Some(&even)).unwrap();
        assert_eq!(counts(&kept), [("a", 7), ("b", 5)].into());
        // The next one would be too much.
        all[11] = ("a", "a");
        let moved = assign(&placed(&all), Some(&even)).unwrap();
        assert_eq!(counts(&moved), [("a", 6), ("b", 6)].into());
        // A zone that is no more is nobody's.
        all[0] = ("a", "gone");
        let moved = assign(&placed(&all), Some(&even)).unwrap();
        assert_eq!(counts(&moved), [("a", 6), ("b", 6)].into());
    }

    #[test]
    fn where_zones_cannot_be_served_nobody_has_hints() {
        let even = cpus_of(&[("a", 1_000), ("b", 1_000)]);
        let both = placed(&[("a", ""), ("b", "")]);
        let why = |all: &[Placed<'_>], cpus: Option<&Cpus>| assign(all, cpus).unwrap_err();
        assert!(why(&both, None).starts_with("Insufficient Node information"));
        let one = cpus_of(&[("a", 1_000)]);
        assert_eq!(why(&both, Some(&one)), "Nodes only ready in one zone");
        assert_eq!(
            why(&both[..1], Some(&even)),
            "Insufficient number of endpoints (1 endpoints, 2 zones)"
        );
        let nowhere = placed(&[("a", ""), ("", "")]);
        assert!(why(&nowhere, Some(&even)).starts_with("One or more endpoints"));
        let many = cpus_of(&[("a", 1_000), ("b", 1_000), ("c", 2_500)]);
        let three = placed(&[("a", ""), ("b", ""), ("c", "")]);
        assert!(why(&three, Some(&many)).starts_with("Unable to allocate minimum"));
    }

    #[test]
    fn a_ready_node_without_zone_or_cpu_leaves_nothing_to_go_by() {
        let node = |labels: serde_json::Value, cpu: &str, ready: &str| -> Node {
            serde_json::from_value(json!({
                "metadata": { "labels": labels },
                "status": { "allocatable": { "cpu": cpu },
                    "conditions": [{ "type": "Ready", "status": ready }] },
            }))
            .expect("a node")
        };
        let good = node(json!({ ZONE: "a" }), "1500m", "True");
        let other = node(json!({ ZONE: "b" }), "2", "True");
        let nowhere = node(json!({}), "2", "True");
        let dark = node(json!({}), "2", "Unknown");
        let control = node(json!({ EXCLUDED[0]: "" }), "8", "True");
        let all = [&good, &other, &good, &dark, &control];
        let found = cpus(all.into_iter()).expect("all say it");
        assert_eq!(found, cpus_of(&[("a", 3_000), ("b", 2_000)]));
        assert!(cpus([&good, &nowhere].into_iter()).is_none());
        assert!(is_other(Some(&good), Some(&other)) && is_other(None, Some(&good)));
        assert!(!is_other(Some(&dark), Some(&control)));
    }

    #[test]
    fn either_annotation_asks() {
        for (name, value, asks) in [
            (MODE, "Auto", true),
            (OLD_MODE, "auto", true),
            (MODE, "Disabled", false),
            ("other", "Auto", false),
        ] {
            let service = json!({ "metadata": { "annotations": { name: value } } });
            let service: Service = serde_json::from_value(service).expect("a Service");
            assert_eq!(is_wanted(&service), asks, "{name} {value}");
        }
    }
}
