//! Ranges of Services' addresses: each is ready as long as it is to stay, and one that is used
//! outlives its deletion. Which addresses are given is the API server's business, which looks at the
//! condition that is written here.
//!
//! An address keeps a range that is being deleted, unless another range has it, too. Of several that
//! are being deleted and have the same address, the last one by name is kept: so not each of them
//! goes because of the others.

use std::net::IpAddr;
use std::sync::Arc;

use api::cidr::Cidr;
use client::{Informer, Informers};
use control::action::Target;
use control::{Action, Controller, Plan, Watches};
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR, ServiceCIDRStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};

use crate::common::{is_deleting, millis_of, time_at, update_status, value_of, wake_at};

const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
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

fn cidrs(range: &ServiceCIDR) -> &[String] {
    let spec = range.spec.as_ref();
    spec.and_then(|s| s.cidrs.as_deref()).unwrap_or_default()
}

fn has(range: &ServiceCIDR, address: IpAddr) -> bool {
    let mut all = cidrs(range).iter().filter_map(|c| Cidr::of_object(c));
    all.any(|c| c.serves(address))
}

/// The address of an object that the API server made for a Service.
fn address_of(address: &IPAddress) -> Option<IpAddr> {
    let manager = address.labels().get(MANAGED_BY)?;
    let ours = manager == ALLOCATOR;
    address.name_any().parse().ok().filter(|_| ours)
}

/// Whether some address would be in no range if this one went.
fn is_needed<'a>(
    range: &ServiceCIDR,
    all: &[Arc<ServiceCIDR>],
    addresses: impl IntoIterator<Item = &'a IPAddress>,
) -> bool {
    let name = range.name_any();
    let stays = |other: &&Arc<ServiceCIDR>| {
        let theirs = other.name_any();
        theirs != name && (!is_deleting(&***other) || theirs > name)
    };
    let others: Vec<_> = all.iter().filter(stays).collect();
    let mut ours = addresses.into_iter().filter_map(address_of);
    ours.any(|a| has(range, a) && !others.iter().any(|other| has(other, a)))
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
        let message = "Kubernetes Service CIDR is ready";
        let told = says(range, "True", "", message, now_millis);
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
        let is_used = is_deleting(&*range) && {
            let addresses = self.addresses.list();
            is_needed(&range, &self.ranges.list(), addresses.iter().map(|a| &**a))
        };
        Some(Observed { range, is_used })
    }

    /// Before a range goes: the server has given no more of it since its deletion, so a list from
    /// then on has all, which the caches may not yet.
    async fn gather(&self, client: &Client, mut seen: Observed) -> Result<Observed, kube::Error> {
        let held = seen.range.finalizers().iter().any(|f| f == FINALIZER);
        if is_deleting(&*seen.range) && held && !seen.is_used {
            let addresses = Api::<IPAddress>::all(client.clone());
            let addresses = addresses.list(&ListParams::default()).await?;
            seen.is_used = is_needed(&seen.range, &self.ranges.list(), &addresses);
        }
        Ok(seen)
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
    fn a_range_that_stays_is_held_and_ready() {
        let held = || json!([FINALIZER]);
        let first = plan(&seen("kubernetes", None, json!([]), false), 0);
        let [Action::Update { object, .. }] = first.actions.as_slice() else {
            panic!("{first:?}");
        };
        assert_eq!(object["metadata"]["finalizers"], held());
        for name in ["kubernetes", "more"] {
            let told = ready(&plan(&seen(name, None, held(), false), 0));
            assert_eq!(told, Some(("True".into(), String::new())));
        }
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

    fn range(name: &str, cidrs: &[&str], deleted: bool) -> Arc<ServiceCIDR> {
        let deleted = deleted.then_some("1970-01-01T00:01:40Z");
        let range = json!({ "metadata": { "name": name, "deletionTimestamp": deleted },
            "spec": { "cidrs": cidrs } });
        Arc::new(serde_json::from_value(range).expect("a range"))
    }

    fn address(name: &str, manager: Option<&str>) -> IPAddress {
        let labels: Value = match manager {
            Some(manager) => json!({ MANAGED_BY: manager }),
            None => json!({}),
        };
        let address = json!({ "metadata": { "name": name, "labels": labels },
            "spec": { "parentRef": { "resource": "services", "name": "a" } } });
        serde_json::from_value(address).expect("an address")
    }

    /// Which of these ranges are needed by addresses.
    fn needed(all: &[Arc<ServiceCIDR>], addresses: &[IPAddress]) -> Vec<String> {
        let needed = all.iter().filter(|r| is_needed(r, all, addresses));
        needed.map(|r| r.name_any()).collect()
    }

    #[test]
    fn an_address_keeps_its_last_range() {
        let had = |name: &str| [address(name, Some(ALLOCATOR))];
        let alone = [range("a", &["10.1.0.0/24", "fd00:1::/112"], true)];
        for (name, keeps) in [
            ("10.1.0.7", true),
            ("fd00:1::7", true),
            ("10.2.0.7", false),
            // Neither is an address that a range gives.
            ("10.1.0.0", false),
            ("10.1.0.255", false),
        ] {
            let want: &[&str] = if keeps { &["a"] } else { &[] };
            assert_eq!(needed(&alone, &had(name)), want, "{name}");
        }
        for manager in [None, Some("others.example.com")] {
            assert!(needed(&alone, &[address("10.1.0.7", manager)]).is_empty());
        }
        let covered = [
            range("a", &["10.1.0.0/24"], true),
            range("b", &["10.0.0.0/8"], false),
        ];
        assert_eq!(needed(&covered, &had("10.1.0.7")), ["b"]);
        assert!(needed(&covered, &had("11.1.0.7")).is_empty());
        let last = range("z", &["10.1.0.0/16"], true);
        let both = [range("a", &["10.1.0.0/24"], true), last];
        assert_eq!(needed(&both, &had("10.1.0.7")), ["z"]);
    }
}
