//! Ranges of Services' addresses: one that is used outlives its deletion, and its condition says
//! whether addresses come from it. Which ones are given is the API server's business: it gives those
//! of its `--service-cidr` alone, so other ranges are not ready, and say so.

use std::net::IpAddr;
use std::sync::Arc;

use client::{Informer, Informers};
use control::action::Target;
use control::{Action, Controller, Plan, Watches};
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR, ServiceCIDRStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;

use crate::common::{is_deleting, millis_of, time_at, update_status, value_of, wake_at};

const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
/// The range that the API server makes of its flag.
const DEFAULT: &str = "kubernetes";
const READY: &str = "Ready";
const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
const ALLOCATOR: &str = "ipallocator.k8s.io";
/// Servers that still give addresses of a range hear of its deletion in the meantime; upstream's.
const GRACE_MILLIS: i64 = 10_000;

/// Keeps ranges.
pub struct ServiceCidrs {
    ranges: Informer<ServiceCIDR>,
    addresses: Informer<IPAddress>,
}

impl ServiceCidrs {
    pub fn new(informers: &Informers) -> Self {
        Self {
            ranges: informers.of(),
            addresses: informers.of(),
        }
    }
}

/// A range, and whether something would be without one if it went.
pub struct Observed {
    range: Arc<ServiceCIDR>,
    is_used: bool,
}

/// The first address of a range and how many bits of it count.
fn parse(cidr: &str) -> Option<(IpAddr, u32)> {
    let (first, bits) = cidr.split_once('/')?;
    Some((first.parse().ok()?, bits.parse().ok()?))
}

fn contains(cidr: &str, address: IpAddr) -> bool {
    match (parse(cidr), address) {
        (Some((IpAddr::V4(first), bits)), IpAddr::V4(a)) => {
            let mask = u32::MAX
                .checked_shl(32_u32.saturating_sub(bits))
                .unwrap_or(0);
            u32::from(first) & mask == u32::from(a) & mask
        }
        (Some((IpAddr::V6(first), bits)), IpAddr::V6(a)) => {
            let left = 128_u32.saturating_sub(bits);
            let mask = u128::MAX.checked_shl(left).unwrap_or(0);
            u128::from(first) & mask == u128::from(a) & mask
        }
        _ => false,
    }
}

fn cidrs(range: &ServiceCIDR) -> &[String] {
    let spec = range.spec.as_ref();
    spec.and_then(|s| s.cidrs.as_deref()).unwrap_or_default()
}

fn has(range: &ServiceCIDR, address: IpAddr) -> bool {
    cidrs(range).iter().any(|c| contains(c, address))
}

/// The address of an object that the API server made for a Service.
fn address_of(address: &IPAddress) -> Option<IpAddr> {
    let manager = address.labels().get(MANAGED_BY).map(String::as_str);
    let ours = manager.is_none_or(|m| m == ALLOCATOR);
    address.name_any().parse().ok().filter(|_| ours)
}

fn condition(range: &ServiceCIDR) -> Option<&Condition> {
    let status = range.status.as_ref()?;
    status
        .conditions
        .iter()
        .flatten()
        .find(|c| c.type_ == READY)
}

/// The status with this condition, unless it says so already.
fn says(
    range: &ServiceCIDR,
    status: &str,
    reason: &str,
    message: &str,
    now: i64,
) -> Option<Action> {
    let old = condition(range);
    let same = |c: &Condition| {
        (c.status.as_str(), c.reason.as_str(), c.message.as_str()) == (status, reason, message)
    };
    if old.is_some_and(same) {
        return None;
    }
    let since = old.filter(|c| c.status == status);
    let since = since.map_or_else(|| time_at(now), |c| c.last_transition_time.clone());
    let new = Condition {
        type_: READY.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        last_transition_time: since,
        observed_generation: range.metadata.generation,
    };
    let others = range
        .status
        .iter()
        .flat_map(|s| s.conditions.iter().flatten());
    let mut all: Vec<Condition> = others.filter(|c| c.type_ != READY).cloned().collect();
    all.push(new);
    let status = ServiceCIDRStatus {
        conditions: Some(all),
    };
    Some(update_status(range, value_of(&status)))
}

fn with_finalizers(range: &ServiceCIDR, change: impl FnOnce(&mut Vec<String>)) -> Plan {
    let mut changed = range.clone();
    change(changed.finalizers_mut());
    Action::Update {
        target: Target::of::<ServiceCIDR>("", &range.name_any()),
        subresource: "",
        object: value_of(&changed),
    }
    .into()
}

fn plan(seen: &Observed, now_millis: i64) -> Plan {
    let range = &*seen.range;
    let held = range.finalizers().iter().any(|f| f == FINALIZER);
    if !is_deleting(range) {
        if !held {
            return with_finalizers(range, |all| all.push(FINALIZER.to_owned()));
        }
        let told = if range.name_any() == DEFAULT {
            says(
                range,
                "True",
                "",
                "Kubernetes Service CIDR is ready",
                now_millis,
            )
        } else {
            let message = "Services get addresses from the ranges of the API server's \
                           --service-cidr alone";
            says(range, "False", "NotServed", message, now_millis)
        };
        return told.map_or_else(Plan::nothing, Plan::from);
    }
    if !held {
        return Plan::nothing();
    }
    if seen.is_used {
        let message = "There are still IPAddresses referencing the ServiceCIDR, please remove them \
                       or create a new ServiceCIDR";
        let told = says(range, "False", "Terminating", message, now_millis);
        return told.map_or_else(Plan::nothing, Plan::from);
    }
    let asked = millis_of(range.metadata.deletion_timestamp.as_ref()).unwrap_or(now_millis);
    if now_millis < asked + GRACE_MILLIS {
        let mut plan = Plan::nothing();
        wake_at(Some(asked + GRACE_MILLIS), now_millis, &mut plan);
        return plan;
    }
    with_finalizers(range, |all| all.retain(|f| f != FINALIZER))
}

impl Controller for ServiceCidrs {
    const NAME: &'static str = "service-cidr-controller";
    const QUEUE: &'static str = "ipaddresses";
    const ACCOUNT: &'static str = "service-cidrs-controller";
    type Key = String;
    type Observed = Observed;

    fn watches(&self, watches: &mut Watches<String>) {
        let ranges = self.ranges.clone();
        // Ranges are few, and one that comes or goes may free another.
        watches.on(&self.ranges, move |_| {
            ranges.list().iter().map(|r| r.name_any()).collect()
        });
        let ranges = self.ranges.clone();
        watches.on_change(&self.addresses, move |change| {
            if change.old.is_some() && change.new.is_some() {
                return Vec::new();
            }
            // Only a range that is to go waits for addresses.
            let all = ranges.list();
            let going = all.iter().filter(|r| is_deleting(&***r));
            going.map(|r| r.name_any()).collect()
        });
    }

    fn observe(&self, name: &String) -> Option<Observed> {
        let range = self.ranges.get("", name)?;
        let others = self.ranges.list();
        let others: Vec<_> = others.iter().filter(|r| r.name_any() != *name).collect();
        let orphan = |a: &IPAddress| {
            let address = address_of(a);
            address.is_some_and(|a| has(&range, a) && !others.iter().any(|r| has(r, a)))
        };
        let is_used = is_deleting(&*range) && self.addresses.list().iter().any(|a| orphan(a));
        Some(Observed { range, is_used })
    }

    fn plan(&self, seen: &Observed, now_millis: i64) -> Plan {
        plan(seen, now_millis)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn seen(name: &str, deleted: Option<&str>, finalizers: Value, is_used: bool) -> Observed {
        let range = json!({ "metadata": { "name": name, "deletionTimestamp": deleted,
            "finalizers": finalizers }, "spec": { "cidrs": ["10.96.0.0/16"] } });
        Observed {
            range: Arc::new(serde_json::from_value(range).expect("a range")),
            is_used,
        }
    }

    fn ready(plan: &Plan) -> Option<(String, String)> {
        let [Action::Update { object, .. }] = plan.actions.as_slice() else {
            return None;
        };
        let ready = &object["status"]["conditions"][0];
        let word = |name: &str| ready[name].as_str().unwrap_or_default().to_owned();
        Some((word("status"), word("reason")))
    }

    #[test]
    fn a_range_is_held_and_says_whether_it_serves() {
        let held = || json!([FINALIZER]);
        let first = plan(&seen(DEFAULT, None, json!([]), false), 0);
        let [Action::Update { object, .. }] = first.actions.as_slice() else {
            panic!("{first:?}");
        };
        assert_eq!(object["metadata"]["finalizers"], held());
        let told = |name| ready(&plan(&seen(name, None, held(), false), 0));
        assert_eq!(told(DEFAULT), Some(("True".into(), String::new())));
        assert_eq!(told("more"), Some(("False".into(), "NotServed".into())));
    }

    #[test]
    fn a_range_goes_when_no_address_needs_it() {
        let asked = Some("1970-01-01T00:01:40Z");
        let held = || json!([FINALIZER]);
        let used = plan(&seen("more", asked, held(), true), 200_000);
        assert_eq!(ready(&used), Some(("False".into(), "Terminating".into())));
        let early = plan(&seen("more", asked, held(), false), 105_000);
        assert!(early.is_empty() && early.wake_after_millis.is_some());
        let late = plan(&seen("more", asked, held(), false), 110_000);
        let [Action::Update { object, .. }] = late.actions.as_slice() else {
            panic!("{late:?}");
        };
        assert!(
            object["metadata"]["finalizers"]
                .as_array()
                .is_none_or(Vec::is_empty)
        );
    }

    #[test]
    fn addresses_belong_to_ranges_of_their_family() {
        let at = |text: &str| text.parse().expect("an address");
        assert!(contains("10.96.0.0/16", at("10.96.200.1")));
        assert!(!contains("10.96.0.0/16", at("10.97.0.1")));
        assert!(contains("0.0.0.0/0", at("1.2.3.4")));
        assert!(contains("fd00::/64", at("fd00::1")));
        assert!(!contains("fd00::/64", at("10.96.0.1")));
    }
}
