//! What must be unique cluster-wide: cluster IPs as `IPAddress` objects (which ones: `cluster_ips`),
//! node ports as a `RangeAllocation` (`node_ports`). Chosen here, committed in the transaction of the
//! object that claims them, freed with it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use api::cidr::IpFamily;
use api::{FieldError, FieldPath, Status};
use clock::Instant;
use registry::Claim;
use serde_json::{Value, json};
use store::{Compare, Op};
use tokio::sync::OwnedMutexGuard;

use crate::admission::Together;
use crate::cache::encode;
use crate::call::Call;
use crate::cluster_ips::{self, Had, Offer, Refused};
use crate::errors::from_store;
use crate::metrics::allocators::{AllocatedValue, Choice};
use crate::node_ports::PortMap;
use crate::object::time_text;
use crate::state::State;

/// The key of the node ports' allocation; as upstream's.
const PORTS_KEY: &str = "/registry/ranges/servicenodeports";

/// Labels of the objects that say who has an address; upstream's.
pub const FAMILY: &str = "ipaddress.kubernetes.io/ip-family";
pub const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
pub const ALLOCATOR: &str = "ipallocator.k8s.io";

/// Additions to the transaction of the claiming object.
#[derive(Debug, Default)]
pub struct Planned {
    pub compare: Vec<Compare>,
    pub ops: Vec<Op>,
    /// Held until the commit by a request that changes the node ports: all of them are one value,
    /// and the writers of this server would only race with each other. Those of others still do.
    pub guard: Option<OwnedMutexGuard<()>>,
    /// The turn of who writes what admission counts in: it ends once the cache shows the write.
    pub turn: Option<OwnedMutexGuard<()>>,
    /// There was something to claim, so that the object may say now what was chosen.
    pub has_chosen: bool,
    /// What the object is given, for the figures, and since when it is being chosen.
    pub given: Vec<AllocatedValue>,
    pub since: Option<Instant>,
}

impl Planned {
    /// Counts what the object has been given by the commit.
    pub fn count(&self, state: &State) {
        let took = self.since.map(|since| since.elapsed()).unwrap_or_default();
        let metrics = &state.metrics().allocators;
        self.given
            .iter()
            .for_each(|given| metrics.given(given, took));
    }

    /// Adds what admission wants to be committed with the object.
    #[must_use]
    pub fn with(mut self, together: Together) -> Self {
        self.compare.extend(together.compare);
        self.ops.extend(together.ops);
        self.turn = together.turn;
        self
    }
}

/// Plans what `object` (absent: deleted) claims beyond `old`, writes choices to the object, and
/// frees what is no longer claimed.
pub async fn plan(
    call: &Call,
    object: Option<&mut Value>,
    old: Option<&Value>,
    name: &str,
) -> Result<Planned, Status> {
    let strategy = &call.row.strategy;
    let had = old.map(|o| strategy.claims(o, None)).unwrap_or_default();
    let want = object
        .as_deref()
        .map(|o| strategy.claims(o, old))
        .unwrap_or_default();
    if had.is_empty() && want.is_empty() {
        return Ok(Planned::default());
    }
    let mut planned = Planned {
        has_chosen: true,
        since: Some(Instant::now()),
        ..Planned::default()
    };
    planned
        .ops
        .extend(crate::fence::op(&call.info.namespace, name, &had, &want));
    let mut errors = Vec::new();
    let mut scratch = Value::Null;
    let chosen = object.is_some();
    let object = object.unwrap_or(&mut scratch);
    let mut addresses = Addresses::choose(call, &had, &want);
    if addresses.is_err() {
        // Another server may have freed an address, or know of another range. What is free is found
        // among all addresses and ranges, which the cache has to have.
        let cache = call.state.cache();
        cache.reach_newest().await.map_err(|e| from_store(&e))?;
        addresses = Addresses::choose(call, &had, &want);
    }
    match addresses {
        Ok(addresses) => addresses.write(call, object, name, &mut planned)?,
        Err(refused) => {
            if !is_dry(call) {
                refused.count(call);
            }
            return Err(refused.status(call, object, name));
        }
    }
    ports(call, object, &had, &want, &mut planned, &mut errors).await?;
    call.check(name, &errors)?;
    if chosen {
        strategy.after_claims(object);
    }
    Ok(planned)
}

/// Whether nothing is to be written, and so nothing is counted.
fn is_dry(call: &Call) -> bool {
    call.write_options().unwrap_or_default()
}

/// Shows in the figures how many addresses Services have, as far as the cache knows.
pub fn show(state: &State) {
    let all = state.lookup_all(GROUP, "ipaddresses", "");
    let had: Vec<IpAddr> = all.iter().filter_map(|o| o.key.parse().ok()).collect();
    let ranges = offered(state).into_iter().map(|offer| {
        let taken = had.iter().filter(|ip| offer.cidr.contains(**ip)).count();
        let size = offer.cidr.of_services().map_or(0, |all| {
            let (first, last) = all.into_inner();
            (last - first).saturating_add(1)
        });
        (offer.cidr.to_string(), taken, size)
    });
    state.metrics().allocators.ranges(ranges);
}

/// `/spec/ports/0/nodePort` as messages print it: `spec.ports[0].nodePort`.
fn path_of(pointer: &str) -> FieldPath {
    pointer
        .split('/')
        .filter(|p| !p.is_empty())
        .fold(FieldPath::root(), |path, part| match part.parse() {
            Ok(i) => path.index(i),
            Err(_) => path.child(part),
        })
}

fn set(object: &mut Value, pointer: &str, value: Value) {
    let Some((parent, last)) = pointer.rsplit_once('/') else {
        return;
    };
    if last.parse::<usize>().is_ok() && object.pointer(parent).is_none_or(Value::is_null) {
        // The first item of a list that the client did not write.
        set(object, parent, Value::Array(Vec::new()));
    }
    let parent = if parent.is_empty() {
        Some(object)
    } else {
        object.pointer_mut(parent)
    };
    match parent {
        Some(Value::Object(map)) => {
            map.insert(last.to_owned(), value);
        }
        Some(Value::Array(items)) => match last.parse::<usize>() {
            Ok(i) if i < items.len() => {
                if let Some(place) = items.get_mut(i) {
                    *place = value;
                }
            }
            _ => items.push(value),
        },
        _ => {}
    }
}

/// The cluster IPs that an object gets and gives back.
struct Addresses {
    new: Vec<New>,
    freed: Vec<IpAddr>,
}

/// One that it gets.
struct New {
    /// Where it is written to, as a JSON pointer, and in which words.
    field: String,
    text: String,
    ip: IpAddr,
    offer: Offer,
    choice: Choice,
}

/// Why an object does not get a cluster IP; the address, if it named one.
struct NoAddress {
    named: Option<String>,
    /// The ranges that could have had one.
    asked: Vec<String>,
    why: Refused,
}

/// The addresses that the cache knows to be had.
struct Cached<'a>(&'a State);

/// A dry run takes every address for a free one, as upstream's: what it would say of one that is
/// had is of that moment only, and depends on how much the cache knows already.
struct Nobody;

impl Had for Nobody {
    fn has(&self, _: IpAddr) -> bool {
        false
    }
    fn between(&self, _: IpAddr, _: IpAddr) -> BTreeSet<IpAddr> {
        BTreeSet::new()
    }
}

const GROUP: &str = "networking.k8s.io";

impl Had for Cached<'_> {
    fn has(&self, address: IpAddr) -> bool {
        let name = address.to_string();
        self.0.is_stored(GROUP, "ipaddresses", "", &name)
    }
    fn between(&self, first: IpAddr, last: IpAddr) -> BTreeSet<IpAddr> {
        // Also those that cannot be read: their names say enough.
        let all = self.0.stored_keys(GROUP, "ipaddresses");
        let all = all.iter().filter_map(|key| key.parse::<IpAddr>().ok());
        all.filter(|ip| (first..=last).contains(ip)).collect()
    }
}

impl Addresses {
    /// Chooses by what the cache knows.
    fn choose(call: &Call, had: &[Claim], want: &[Claim]) -> Result<Self, NoAddress> {
        let held: BTreeSet<IpAddr> = had
            .iter()
            .filter_map(|c| match c {
                Claim::ServiceIp { ip, .. } => ip.as_deref()?.parse().ok(),
                Claim::NodePort { .. } | Claim::Leadership { .. } => None,
            })
            .collect();
        let state = &call.state;
        let cached = Cached(state);
        let taken: &dyn Had = if is_dry(call) { &Nobody } else { &cached };
        let (mut new, mut kept) = (Vec::new(), BTreeSet::new());
        let mut offers = None;
        for claim in want {
            let Claim::ServiceIp { ip, family, field } = claim else {
                continue;
            };
            let address = ip.as_deref().map(str::parse::<IpAddr>);
            if let Some(Ok(address)) = &address
                && held.contains(address)
            {
                kept.insert(*address);
                continue;
            }
            // Most writes claim nothing new.
            let offers = &*offers.get_or_insert_with(|| offered(state));
            let chosen = match address {
                None => cluster_ips::give(offers, *family, taken, &state.random()),
                Some(Err(_)) => Err(Refused::Mismatched),
                Some(Ok(address)) => {
                    cluster_ips::named(offers, address, taken).map(|offer| (address, offer))
                }
            };
            let (address, offer) = chosen.map_err(|why| {
                let could = |offer: &&Offer| match &address {
                    Some(named) => named.as_ref().is_ok_and(|ip| offer.cidr.serves(*ip)),
                    None => offer.cidr.family() == *family,
                };
                let asked = offers.iter().filter(could);
                NoAddress {
                    named: ip.clone(),
                    asked: asked.map(|offer| offer.cidr.to_string()).collect(),
                    why,
                }
            })?;
            new.push(New {
                field: field.clone(),
                text: ip.clone().unwrap_or_else(|| address.to_string()),
                ip: address,
                offer: offer.clone(),
                choice: match ip {
                    Some(_) => Choice::Client,
                    None => Choice::Server,
                },
            });
        }
        let freed = held.difference(&kept).copied().collect();
        Ok(Self { new, freed })
    }

    /// Writes the choices to the object, and plans what makes them its own.
    fn write(
        self,
        call: &Call,
        object: &mut Value,
        name: &str,
        planned: &mut Planned,
    ) -> Result<(), Status> {
        let row = |resource: &str| {
            let row = call.kinds.resource(GROUP, resource);
            row.ok_or_else(|| Status::internal(format!("no {resource}")))
        };
        let (addresses, ranges) = (row("ipaddresses")?, row("servicecidrs")?);
        let key = |ip: IpAddr| State::store_key(addresses, &ip.to_string());
        for new in self.new {
            let New {
                field,
                text,
                ip,
                offer,
                choice,
            } = new;
            let cidr = offer.cidr.to_string();
            planned.given.push(AllocatedValue::Address { cidr, choice });
            set(object, &field, text.into());
            // The range still gives addresses when this one is given: one that is being deleted has
            // another revision. So whoever sees the deletion sees all addresses of the range, too.
            let range = State::store_key(ranges, &offer.name);
            planned
                .compare
                .push(Compare::ModRevision(range, offer.revision));
            planned.compare.push(Compare::ModRevision(key(ip), 0));
            let mut value = address_object(&call.state, ip, &call.info.namespace, name);
            crate::codec::settle(addresses, &mut value);
            planned.ops.push(Op::Put {
                key: key(ip),
                value: encode(&value),
                expires_after_seconds: None,
            });
        }
        let freed = self.freed.into_iter().map(|ip| Op::Delete { key: key(ip) });
        planned.ops.extend(freed);
        Ok(())
    }
}

impl NoAddress {
    fn count(&self, call: &Call) {
        let choice = match &self.named {
            Some(_) => Choice::Client,
            None => Choice::Server,
        };
        let metrics = &call.state.metrics().allocators;
        for cidr in &self.asked {
            metrics.no_address(cidr.clone(), choice);
        }
    }

    fn status(self, call: &Call, object: &Value, name: &str) -> Status {
        let Self { named, why, .. } = self;
        let Some(ip) = named else {
            let about = format!("failed to allocate a serviceIP for Service {name:?}: {why}");
            return Status::internal(about);
        };
        // As upstream: the list as a whole is at fault, not the item.
        let list = FieldPath::new("spec").child("clusterIPs");
        let given = object.pointer("/spec/clusterIPs");
        let given = given.filter(|all| all.as_array().is_some_and(|all| !all.is_empty()));
        let given = given.cloned().unwrap_or_else(|| json!([ip]));
        let about = format!("failed to allocate IP {ip}: {why}");
        let error = FieldError::invalid(&list, &given, &about);
        match call.check(name, &[error]) {
            Err(status) => status,
            Ok(()) => Status::internal(about),
        }
    }
}

/// What ServiceCIDRs offer, as far as the cache knows.
fn offered(state: &State) -> Vec<Offer> {
    let all = state.lookup_all(GROUP, "servicecidrs", "");
    cluster_ips::offers(all.iter().map(|o| (&*o.key, o.to_value(), o.revision)))
}

/// The object that says that a Service has an address.
pub fn address_object(state: &State, ip: IpAddr, namespace: &str, name: &str) -> Value {
    let family = IpFamily::of(ip).word();
    json!({
        "kind": "IPAddress",
        "apiVersion": "networking.k8s.io/v1",
        "metadata": {
            "name": ip.to_string(),
            "uid": state.random().uuid(),
            "creationTimestamp": time_text(state.now()),
            "labels": {
                FAMILY: family,
                MANAGED_BY: ALLOCATOR,
            },
        },
        "spec": {
            "parentRef": {
                "group": "", "resource": "services", "namespace": namespace, "name": name,
            },
        },
    })
}

fn port_of(claim: &Claim) -> Option<u16> {
    match claim {
        Claim::NodePort { port, .. } => *port,
        Claim::ServiceIp { .. } | Claim::Leadership { .. } => None,
    }
}

/// The node ports that Services have now, all of which the cache has to have.
async fn had_ports(call: &Call) -> Result<BTreeSet<u16>, Status> {
    let cache = call.state.cache();
    cache.reach_newest().await.map_err(|e| from_store(&e))?;
    let services = call.state.all_of(&call.row.group, &call.row.resource, "")?;
    let strategy = &call.row.strategy;
    let claims = services
        .iter()
        .flat_map(|o| strategy.claims(&o.to_value(), None));
    Ok(claims.filter_map(|claim| port_of(&claim)).collect())
}

/// Which ports are taken. Where what is stored does not say so, Services do: whoever else gives or
/// takes one meanwhile changes what is stored, and then this is done once more.
async fn taken_ports(call: &Call, stored: Option<&[u8]>) -> Result<PortMap, Status> {
    let range = call.state.settings().node_ports.clone();
    let why = match PortMap::read(range.clone(), stored) {
        Ok(map) => return Ok(map),
        Err(why) => why,
    };
    tracing::warn!("{PORTS_KEY}: {why}; it is made again of the ports that Services have");
    call.state.metrics().allocators.ports_made_again();
    Ok(PortMap::of(range, had_ports(call).await?))
}

async fn ports(
    call: &Call,
    object: &mut Value,
    had: &[Claim],
    want: &[Claim],
    planned: &mut Planned,
    errors: &mut Vec<FieldError>,
) -> Result<(), Status> {
    let held: BTreeSet<u16> = had.iter().filter_map(port_of).collect();
    let is_port = |c: &&Claim| matches!(c, Claim::NodePort { .. });
    let wanted: Vec<&Claim> = want.iter().filter(is_port).collect();
    let new = wanted
        .iter()
        .any(|c| port_of(c).is_none_or(|p| !held.contains(&p)));
    let asked: BTreeSet<u16> = wanted.iter().filter_map(|c| port_of(c)).collect();
    if !new && asked == held {
        return Ok(());
    }
    planned.guard = Some(call.state.ports().lock_owned().await);
    let key = bytes::Bytes::from_static(PORTS_KEY.as_bytes());
    let stored = call
        .state
        .store()
        .get(key.clone(), 0)
        .await
        .map_err(|e| from_store(&e))?;
    let mut map = taken_ports(call, stored.as_ref().map(|kv| &*kv.value)).await?;
    let mut kept = BTreeSet::new();
    for claim in wanted {
        let Claim::NodePort { port, field, .. } = claim else {
            continue;
        };
        match port {
            // The same number for another protocol of the same Service.
            Some(p) if held.contains(p) || kept.contains(p) => {
                kept.insert(*p);
            }
            Some(p) => match map.take(*p) {
                Ok(()) => {
                    kept.insert(*p);
                    planned.given.push(AllocatedValue::NodePort(Choice::Client));
                }
                Err(why) => {
                    no_port(call, Choice::Client);
                    let path = path_of(field);
                    errors.push(FieldError::invalid(&path, &json!(p), &why));
                }
            },
            None => match map.take_any(call.state.random()) {
                Some(p) => {
                    kept.insert(p);
                    set(object, field, p.into());
                    planned.given.push(AllocatedValue::NodePort(Choice::Server));
                }
                None => {
                    no_port(call, Choice::Server);
                    return Err(Status::internal(
                        "failed to allocate a nodePort: range is full",
                    ));
                }
            },
        }
    }
    held.difference(&kept).for_each(|p| map.free(*p));
    let (taken, free) = map.count();
    planned
        .given
        .push(AllocatedValue::NodePorts { taken, free });
    let revision = stored.map_or(0, |kv| kv.mod_revision);
    planned
        .compare
        .push(Compare::ModRevision(key.clone(), revision));
    let value = encode(&map.write());
    planned.ops.push(Op::Put {
        key,
        value,
        expires_after_seconds: None,
    });
    Ok(())
}

fn no_port(call: &Call, choice: Choice) {
    if !is_dry(call) {
        call.state.metrics().allocators.no_port(choice);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_written_to_lists_that_are_not_there_yet() {
        let mut object = json!({"spec": {"clusterIPs": null}});
        set(&mut object, "/spec/clusterIPs/0", "10.96.0.9".into());
        set(&mut object, "/spec/clusterIPs/1", "fd00::9".into());
        assert_eq!(
            object,
            json!({"spec": {"clusterIPs": ["10.96.0.9", "fd00::9"]}})
        );
    }

    #[test]
    fn pointers_are_printed_as_paths() {
        assert_eq!(
            path_of("/spec/ports/0/nodePort").as_str(),
            "spec.ports[0].nodePort"
        );
    }
}
