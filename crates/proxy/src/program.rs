//! Programming: from touched Services to one transaction, and repair when the kernel disagrees.
//! How a table gets to be what is desired is [`host::nft::Mirror`]'s matter.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use clock::Instant;
use host::conntrack::Conntrack;
use host::nft::{Dirty, Family, Mirror, NftError, Table};

use crate::merge::Desired;
use crate::metrics::{Metrics, Policy};
use crate::model::Name;
use crate::rules::{Node, ORDER};
use crate::service_rules::{away, service_rules};
use crate::stale::{Frontends, PROTOCOLS, takes_node_ports};
use crate::state::State;
use crate::unallocated::unallocated;

/// One family's table: what it shall be, and what it is known to be.
pub struct Programmer {
    node: Node,
    desired: Desired,
    mirror: Mirror,
    /// What an earlier run left was taken over.
    adopted: bool,
    /// Services with ports of Local policies that have endpoints, but none here: how many, by
    /// internal and external policy.
    away: BTreeMap<Name, (usize, usize)>,
    /// Services whose rules changed since flows were last looked through: not before the kernel has
    /// the rules.
    changed: BTreeSet<Name>,
    /// Some of their flows could not be forgotten, and that was said.
    flows_stay: bool,
}

impl Programmer {
    /// For a table of this name in the calling thread's network namespace.
    pub fn new(node: Node, table_name: &str) -> Result<Self, NftError> {
        let table = Table {
            family: node.family,
            name: table_name.to_owned(),
        };
        let desired = Desired::new(&node);
        Ok(Self {
            node,
            desired,
            mirror: Mirror::ordered(table, ORDER)?,
            adopted: false,
            away: BTreeMap::new(),
            changed: BTreeSet::new(),
            flows_stay: false,
        })
    }

    /// Says in which zone the node is. All Services are to be planned again then.
    pub fn set_zone(&mut self, zone: Option<&str>) {
        self.node.place.zone = zone.map(str::to_owned);
    }

    /// Plans the touched Services again and brings the kernel's table to what is desired, in one
    /// transaction. An error leaves the old rules; the next call compares everything.
    pub fn sync(
        &mut self,
        state: &State,
        touched: &BTreeSet<Name>,
        metrics: &Metrics,
    ) -> Result<(), NftError> {
        let start = Instant::now();
        metrics.queued(self.node.family);
        let first = !self.adopted;
        if first {
            self.desired.adopt(self.mirror.installed()?);
            self.adopted = true;
        }
        let (family, pods) = (self.node.family, self.node.cluster_cidr);
        self.desired
            .set_unallocated(unallocated(family, pods, &state.ranges()));
        for name in touched {
            let (mut fragment, mut away_now) = Default::default();
            if let Some(service) = state.service(name) {
                let endpoints = state.endpoints(name);
                fragment = service_rules(&self.node, name, service, &endpoints);
                away_now = away(&self.node, service, &endpoints);
            }
            if away_now == (0, 0) {
                self.away.remove(name);
            } else {
                self.away.insert(name.clone(), away_now);
            }
            if self.desired.set(name, fragment) {
                self.changed.insert(name.clone());
            }
        }
        if first {
            self.desired.settle();
            self.desired.make_ready();
        }
        let dirty = self.desired.take_dirty();
        let full = !self.mirror.is_known();
        self.mirror.program(self.desired.ruleset(), &dirty)?;
        let family = self.node.family;
        metrics.synced(family, start.elapsed(), full);
        let counts = self.away.values();
        let (internal, external) = counts.fold((0, 0), |(i, e), (a, b)| (i + a, e + b));
        metrics.no_local(family, Policy::Internal, internal);
        metrics.no_local(family, Policy::External, external);
        self.forget_stale_flows(state, metrics);
        Ok(())
    }

    /// The family of its addresses.
    pub fn family(&self) -> Family {
        self.node.family
    }

    /// Looks whether others changed the table since the last look, and repairs it; says whether
    /// there was something to repair. An error is as one of [`Programmer::sync`].
    pub fn repair(&mut self, state: &State, metrics: &Metrics) -> Result<bool, NftError> {
        self.make_ready()?;
        let repaired = self.mirror.verify(self.desired.ruleset());
        if !matches!(repaired, Ok(false)) {
            // What began meanwhile was led by nothing, or by what others had made of the rules.
            let all = state.services().map(|(name, _)| name.clone());
            self.changed.extend(all);
        }
        if repaired.is_err() {
            self.mirror.distrust();
            return repaired;
        }
        // Also what could not be forgotten before.
        self.forget_stale_flows(state, metrics);
        repaired
    }

    /// Makes what a next change may need, and removes what none may, where nothing waits for it.
    fn make_ready(&mut self) -> Result<(), NftError> {
        if !self.mirror.is_known() {
            return Ok(());
        }
        self.desired.remove_unused();
        self.desired.make_ready();
        let dirty = self.desired.take_dirty();
        if dirty == Dirty::default() {
            return Ok(());
        }
        self.mirror.program(self.desired.ruleset(), &dirty)
    }

    fn forget_stale_flows(&mut self, state: &State, metrics: &Metrics) {
        let changed = std::mem::take(&mut self.changed);
        let mut frontends = Frontends::default();
        for name in &changed {
            if let Some(service) = state.service(name) {
                frontends.add(service, &state.endpoints(name));
            }
        }
        let protocols = PROTOCOLS.into_iter().filter(|p| frontends.has(*p));
        let mut stay = false;
        for protocol in protocols {
            let start = Instant::now();
            // The rules are right already; a flow that stays is an error of its own, not of the sync.
            // The next look at the rules tries again.
            match forget(&self.node, protocol, &frontends) {
                Ok(count) => metrics.flows_forgotten(self.node.family, count, start.elapsed()),
                Err(error) => {
                    if !self.flows_stay {
                        tracing::warn!(%error, "stale flows could not be forgotten yet");
                    }
                    stay = true;
                }
            }
        }
        self.flows_stay = stay;
        if stay {
            self.changed = changed;
        }
    }
}

/// Gives how many.
fn forget(node: &Node, protocol: u8, frontends: &Frontends) -> std::io::Result<u64> {
    let own: BTreeSet<IpAddr> = match frontends.has_node_port(protocol) {
        true => host::netlink::own_addresses()?,
        false => BTreeSet::new(),
    };
    let here = |ip| takes_node_ports(node, &own, ip);
    let mut conntrack = Conntrack::open()?;
    let flows = conntrack.list(node.family, protocol)?;
    let mut count = 0;
    for flow in flows.iter().filter(|flow| frontends.is_stale(flow, here)) {
        conntrack.delete(flow)?;
        count += 1;
    }
    Ok(count)
}
