//! Cluster IPs and the `IPAddress` objects that say who has them belong together; here is looked
//! whether they do, and mended what somebody changed, as upstream's repair does. Services and their
//! addresses are written in one transaction, so nothing is to be mended unless somebody wrote
//! addresses by hand, or brought Services from elsewhere.
//!
//! Each repair compares the Service and the address that it was found out from, so that it is right
//! whatever is written meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use api::Status;
use api::cidr::{Cidr, IpFamily};
use serde_json::Value;
use store::{Compare, Op, Outcome, Txn};

use super::Loopback;
use super::events::{About, warn};
use crate::allocations::{ALLOCATOR, FAMILY, MANAGED_BY, address_object};
use crate::cache::{Object, encode};
use crate::cluster_ips::cidrs;
use crate::codec;
use crate::errors::from_store;
use crate::object::meta_text;
use crate::state::State;

const GROUP: &str = "networking.k8s.io";
/// How often it is looked; upstream's.
const EVERY: Duration = Duration::from_secs(180);
/// Whose name its events have.
const COMPONENT: &str = "ipallocator-repair-controller";

/// A Service and its cluster IPs, as they are written.
#[derive(Debug, PartialEq)]
struct Service {
    key: String,
    revision: u64,
    ips: Vec<String>,
}

/// An `IPAddress` object.
#[derive(Debug, PartialEq)]
struct Address {
    ip: IpAddr,
    revision: u64,
    /// A server made it, or says so.
    of_servers: bool,
    /// With the labels that servers give.
    is_labelled: bool,
    /// The key of the Service that it is for; `None` if it is for something else.
    service: Option<String>,
    /// Somebody wants to know before it goes.
    is_held: bool,
}

/// What is to be done, and what its event says: reason and message.
#[derive(Debug, PartialEq)]
struct Repair<'a> {
    step: Step<'a>,
    told: (&'static str, String),
}

#[derive(Debug, PartialEq)]
enum Step<'a> {
    /// The Service has the address: an object says so, instead of another one.
    Take(&'a Service, IpAddr, Option<&'a Address>),
    /// Nobody has the address: its object goes. The Service, if there is one, has others.
    Free(&'a Address, Option<&'a Service>),
    /// Only somebody else can mend it.
    Tell(&'a Service),
}

/// What is known.
struct ServicesAndAddresses<'a> {
    services: BTreeMap<&'a str, &'a Service>,
    addresses: BTreeMap<IpAddr, &'a Address>,
    /// Whether some range has an address.
    serves: &'a dyn Fn(IpAddr) -> bool,
}

impl Service {
    fn has(&self, ip: IpAddr) -> bool {
        self.ips
            .iter()
            .any(|t| t.parse::<IpAddr>().ok() == Some(ip))
    }
}

impl<'a> ServicesAndAddresses<'a> {
    /// All that does not belong together.
    fn repairs(
        services: &'a [Service],
        addresses: &'a [Address],
        serves: &'a dyn Fn(IpAddr) -> bool,
    ) -> Vec<Repair<'a>> {
        let known = Self {
            services: services.iter().map(|s| (&*s.key, s)).collect(),
            addresses: addresses.iter().map(|a| (a.ip, a)).collect(),
            serves,
        };
        let mut taken = BTreeSet::new();
        let mut all = Vec::new();
        for service in services {
            for text in &service.ips {
                let repair = known.of_service(service, text);
                // Several that take one address are reported by the next look.
                all.extend(repair.filter(|repair| match repair.step {
                    Step::Take(_, ip, _) => taken.insert(ip),
                    Step::Free(..) | Step::Tell(_) => true,
                }));
            }
        }
        let left = addresses.iter().filter(|a| !taken.contains(&a.ip));
        all.extend(left.filter_map(|address| known.of_address(address)));
        all
    }

    /// What is wrong with a cluster IP of a Service.
    fn of_service(&self, service: &'a Service, text: &str) -> Option<Repair<'a>> {
        let key = service.key.as_str();
        let Ok(ip) = text.parse::<IpAddr>() else {
            let message = format!("Cluster IP {text} is not a valid IP; please recreate Service");
            return Some(Repair {
                step: Step::Tell(service),
                told: ("ClusterIPNotValid", message),
            });
        };
        let family = IpFamily::of(ip);
        let had = self.addresses.get(&ip).copied();
        let owner = had.and_then(|a| a.service.as_deref());
        let other = owner.filter(|owner| *owner != key);
        let other = other.and_then(|owner| self.services.get(owner).copied());
        let (step, told) = if !(self.serves)(ip) {
            let message = format!(
                "Cluster IP [{family}]: {ip} is not within any configured Service CIDR; please \
                 recreate service"
            );
            (Step::Tell(service), ("ClusterIPOutOfRange", message))
        } else if let Some(other) = other.filter(|other| other.has(ip)) {
            let message = format!(
                "Cluster IP [{family}]:{ip} was assigned to multiple services ({} has it); please \
                 recreate service",
                other.key
            );
            (Step::Tell(service), ("ClusterIPAlreadyAllocated", message))
        } else if owner == Some(key) && had.is_some_and(|a| a.is_labelled) {
            return None;
        } else {
            let message = match had {
                None => format!("Cluster IP [{family}]: {ip} is not allocated; repairing"),
                Some(_) => format!(
                    "the ClusterIP [{family}]: {ip} for Service {key} has a wrong reference; \
                     repairing"
                ),
            };
            let step = Step::Take(service, ip, had);
            (step, ("ClusterIPNotAllocated", message))
        };
        Some(Repair { step, told })
    }

    /// What is wrong with an address that no Service takes.
    fn of_address(&self, address: &'a Address) -> Option<Repair<'a>> {
        if !address.of_servers || address.is_held {
            return None;
        }
        let ip = address.ip;
        let key = address.service.as_deref();
        let service = key.and_then(|key| self.services.get(key).copied());
        let told = match (key, service) {
            (_, Some(service)) if service.has(ip) => return None,
            (Some(key), Some(_)) => (
                "IPAddressWrongReference",
                format!("IPAddress: {ip} for Service {key} has a wrong reference; cleaning up"),
            ),
            (Some(key), None) => (
                "IPAddressNotAllocated",
                format!("IPAddress: {ip} for Service {key} appears to have leaked: cleaning up"),
            ),
            (None, _) => (
                "IPAddressNotAllocated",
                format!(
                    "IPAddress {ip} appears to have been modified, not referencing a Service: \
                     cleaning up"
                ),
            ),
        };
        let step = Step::Free(address, service);
        Some(Repair { step, told })
    }
}

fn service(object: &Object) -> Service {
    let value = object.to_value();
    let list = value.pointer("/spec/clusterIPs").and_then(Value::as_array);
    let texts = list.into_iter().flatten().filter_map(Value::as_str);
    let ips = texts.filter(|t| !t.is_empty() && *t != "None");
    Service {
        key: object.key.to_string(),
        revision: object.revision,
        ips: ips.map(str::to_owned).collect(),
    }
}

fn address(object: &Object) -> Option<Address> {
    let ip: IpAddr = object.key.parse().ok()?;
    let value = object.to_value();
    let parent = value.pointer("/spec/parentRef");
    let word = |name: &str| {
        let word = parent.and_then(|p| p.get(name)).and_then(Value::as_str);
        word.unwrap_or_default()
    };
    let is_service = word("group").is_empty() && word("resource") == "services";
    let finalizers = value.pointer("/metadata/finalizers");
    let of_servers = object.label(MANAGED_BY) == Some(ALLOCATOR);
    Some(Address {
        ip,
        revision: object.revision,
        of_servers,
        is_labelled: of_servers && object.label(FAMILY) == Some(IpFamily::of(ip).word()),
        service: is_service.then(|| format!("{}/{}", word("namespace"), word("name"))),
        is_held: finalizers
            .and_then(Value::as_array)
            .is_some_and(|all| !all.is_empty()),
    })
}

/// What was found the last time.
#[derive(Default)]
struct Last {
    /// How many objects there were, and the newest one's revision, of each resource; nothing was to
    /// be done then.
    quiet: Option<[(usize, u64); 3]>,
    /// What was reported and is still so.
    told: BTreeSet<String>,
}

/// Looks at once and now and then, until the server stops.
pub async fn keep(loopback: Loopback) {
    let mut last = Last::default();
    loop {
        if let Err(e) = turn(&loopback, &mut last).await {
            tracing::warn!("looking through cluster IPs: {e}");
        }
        if !loopback.goes_on_after(EVERY).await {
            return;
        }
    }
}

fn extent(objects: &[Arc<Object>]) -> (usize, u64) {
    let newest = objects.iter().map(|o| o.revision).max();
    (objects.len(), newest.unwrap_or_default())
}

async fn turn(loopback: &Loopback, last: &mut Last) -> Result<(), Status> {
    let state = &loopback.state;
    // An address whose Service cannot be read is not free.
    let addresses = state.all_of(GROUP, "ipaddresses", "")?;
    let services = state.all_of("", "services", "")?;
    let ranges = state.all_of(GROUP, "servicecidrs", "")?;
    let extents = [extent(&addresses), extent(&services), extent(&ranges)];
    if last.quiet == Some(extents) {
        return Ok(());
    }
    let ranges: Vec<Cidr> = ranges.iter().flat_map(|r| cidrs(&r.to_value())).collect();
    let addresses: Vec<Address> = addresses.iter().filter_map(|o| address(o)).collect();
    let services: Vec<Service> = services.iter().map(|o| service(o)).collect();
    let serves = |ip: IpAddr| ranges.iter().any(|range| range.serves(ip));
    let all = ServicesAndAddresses::repairs(&services, &addresses, &serves);
    let is_quiet = all.iter().all(|r| matches!(r.step, Step::Tell(_)));
    last.quiet = is_quiet.then_some(extents);
    let mut told = BTreeSet::new();
    for Repair { step, told: what } in &all {
        if !mend(state, step).await? {
            continue;
        }
        let (words, stays) = match step {
            Step::Tell(service) => (format!("{} {}", service.key, what.1), true),
            Step::Take(..) | Step::Free(..) => (what.1.clone(), false),
        };
        if !stays || !last.told.contains(&words) {
            tell(loopback, step, (what.0, what.1.as_str())).await;
        }
        if stays {
            told.insert(words);
        }
    }
    last.told = told;
    Ok(())
}

async fn tell(loopback: &Loopback, step: &Step<'_>, what: (&str, &str)) {
    match step {
        Step::Take(service, ..) | Step::Tell(service) => {
            let (namespace, name) = service.key.split_once('/').unwrap_or_default();
            let found = loopback.state.lookup("", "services", namespace, name);
            let found = found.map(|o| o.to_value()).unwrap_or_default();
            let about = About {
                kind: "Service",
                api_version: "v1",
                namespace,
                name,
                uid: meta_text(&found, "uid"),
            };
            warn(loopback, COMPONENT, &about, what).await;
        }
        Step::Free(address, _) => {
            let name = address.ip.to_string();
            let about = About {
                kind: "IPAddress",
                api_version: "networking.k8s.io/v1",
                namespace: "",
                name: &name,
                uid: "",
            };
            warn(loopback, COMPONENT, &about, what).await;
        }
    }
}

async fn commit(state: &State, txn: Txn) -> Result<bool, Status> {
    let outcome = state
        .store()
        .commit(txn)
        .await
        .map_err(|e| from_store(&e))?;
    Ok(matches!(outcome, Outcome::Committed(_)))
}

/// Does it; not if something is no longer as it was seen.
async fn mend(state: &State, step: &Step<'_>) -> Result<bool, Status> {
    let kinds = state.kinds();
    let row = |group: &str, resource: &str| {
        let row = kinds.resource(group, resource);
        row.ok_or_else(|| Status::internal(format!("no {resource}")))
    };
    let (addresses, services) = (row(GROUP, "ipaddresses")?, row("", "services")?);
    let key = |ip: IpAddr| State::store_key(addresses, &ip.to_string());
    let stays = |service: &Service| {
        let key = State::store_key(services, &service.key);
        Compare::ModRevision(key, service.revision)
    };
    let goes = |address: &Address, owner: Option<Compare>| {
        let key = key(address.ip);
        let mut compare = vec![Compare::ModRevision(key.clone(), address.revision)];
        compare.extend(owner);
        Txn {
            compare,
            ops: vec![Op::Delete { key }],
        }
    };
    match step {
        Step::Tell(_) => Ok(true),
        Step::Free(address, service) => {
            let key = address.service.as_deref();
            let absent = |key| Compare::ModRevision(State::store_key(services, key), 0);
            let owner = service.map(stays).or(key.map(absent));
            commit(state, goes(address, owner)).await
        }
        Step::Take(service, ip, had) => {
            if let Some(had) = had {
                let goes = goes(had, Some(stays(service)));
                if had.is_held || !commit(state, goes).await? {
                    return Ok(false);
                }
            }
            let (namespace, name) = service.key.split_once('/').unwrap_or_default();
            let mut value = address_object(state, *ip, namespace, name);
            codec::settle(addresses, &mut value);
            let put = Op::Put {
                key: key(*ip),
                value: encode(&value),
                expires_after_seconds: None,
            };
            let txn = Txn {
                compare: vec![Compare::ModRevision(key(*ip), 0), stays(service)],
                ops: vec![put],
            };
            commit(state, txn).await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(key: &str, ips: &[&str]) -> Service {
        Service {
            key: key.to_owned(),
            revision: 5,
            ips: ips.iter().map(|ip| (*ip).to_owned()).collect(),
        }
    }

    fn address(ip: &str, service: Option<&str>) -> Address {
        Address {
            ip: ip.parse().expect("an address"),
            revision: 6,
            of_servers: true,
            is_labelled: true,
            service: service.map(str::to_owned),
            is_held: false,
        }
    }

    /// What is done, in short.
    fn seen(services: &[Service], addresses: &[Address]) -> Vec<String> {
        let serves = |ip: IpAddr| !ip.to_string().starts_with("192.");
        let all = ServicesAndAddresses::repairs(services, addresses, &serves);
        let show = |repair: &Repair<'_>| {
            let reason = repair.told.0;
            match repair.step {
                Step::Take(s, ip, None) => format!("{} takes {ip}: {reason}", s.key),
                Step::Take(s, ip, Some(_)) => format!("{} takes over {ip}: {reason}", s.key),
                Step::Free(a, _) => format!("{} is free: {reason}", a.ip),
                Step::Tell(s) => format!("{}: {reason}", s.key),
            }
        };
        all.iter().map(show).collect()
    }

    #[test]
    fn what_belongs_together_is_left_alone() {
        let services = [
            service("a/one", &["10.0.0.1", "fd00::1"]),
            service("a/none", &[]),
        ];
        let mut others = address("10.0.0.9", None);
        others.of_servers = false;
        let mut held = address("10.0.0.8", Some("a/gone"));
        held.is_held = true;
        let all = [
            address("10.0.0.1", Some("a/one")),
            address("fd00::1", Some("a/one")),
            others,
            held,
        ];
        assert!(
            seen(&services, &all).is_empty(),
            "{:?}",
            seen(&services, &all)
        );
    }

    #[test]
    fn what_somebody_changed_is_mended_or_told() {
        let services = [
            service("a/bare", &["10.0.0.1"]),
            service("a/far", &["192.0.2.1"]),
            service("a/first", &["10.0.0.2"]),
            service("a/second", &["10.0.0.2"]),
            service("a/unlabelled", &["10.0.0.3"]),
            service("a/foreign", &["10.0.0.4", "10.0.0.5", "10.0.0.6"]),
            service("a/wrong", &["x"]),
        ];
        let mut unlabelled = address("10.0.0.3", Some("a/unlabelled"));
        unlabelled.is_labelled = false;
        let all = [
            address("10.0.0.2", Some("a/first")),
            unlabelled,
            address("10.0.0.4", None),
            address("10.0.0.5", Some("a/gone")),
            address("10.0.0.6", Some("a/bare")),
            address("10.0.0.7", None),
            address("10.0.0.8", Some("a/gone")),
            address("10.0.0.9", Some("a/first")),
        ];
        assert_eq!(
            seen(&services, &all),
            [
                "a/bare takes 10.0.0.1: ClusterIPNotAllocated",
                "a/far: ClusterIPOutOfRange",
                "a/second: ClusterIPAlreadyAllocated",
                "a/unlabelled takes over 10.0.0.3: ClusterIPNotAllocated",
                "a/foreign takes over 10.0.0.4: ClusterIPNotAllocated",
                "a/foreign takes over 10.0.0.5: ClusterIPNotAllocated",
                "a/foreign takes over 10.0.0.6: ClusterIPNotAllocated",
                "a/wrong: ClusterIPNotValid",
                "10.0.0.7 is free: IPAddressNotAllocated",
                "10.0.0.8 is free: IPAddressNotAllocated",
                "10.0.0.9 is free: IPAddressWrongReference",
            ]
        );
    }

    #[test]
    fn of_two_with_one_address_one_takes_it() {
        let services = [service("a/x", &["10.0.0.1"]), service("a/y", &["10.0.0.1"])];
        assert_eq!(
            seen(&services, &[]),
            ["a/x takes 10.0.0.1: ClusterIPNotAllocated"]
        );
    }
}
