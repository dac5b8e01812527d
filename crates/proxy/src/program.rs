//! Programming: from touched Services to one transaction, and repair when the kernel disagrees.

use std::collections::BTreeSet;

use clock::Instant;
use host::conntrack::Conntrack;
use host::nft::{Family, Installed, NftError, Socket, Table, diff, diff_part};

use crate::merge::Desired;
use crate::metrics::Metrics;
use crate::model::{Name, UDP};
use crate::rules::{Node, service_rules};
use crate::stale::Frontends;
use crate::state::State;

/// One family's table: what it shall be, and what it is known to be.
pub struct Programmer {
    node: Node,
    table: Table,
    desired: Desired,
    /// `None` while it is unknown: at the start, and after a transaction that failed.
    installed: Option<Installed>,
    socket: Socket,
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
            table,
            desired,
            installed: None,
            socket: Socket::open()?,
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
        let mut changed = BTreeSet::new();
        for name in touched {
            let fragment = match state.service(name) {
                Some(service) => service_rules(&self.node, name, service, &state.endpoints(name)),
                None => Default::default(),
            };
            if self.desired.set(name, fragment) {
                changed.insert(name.clone());
            }
        }
        let dirty = self.desired.take_dirty();
        let (delta, mut installed) = match self.installed.take() {
            Some(installed) => (
                diff_part(&self.table, &installed, self.desired.ruleset(), &dirty),
                installed,
            ),
            None => {
                let installed = self.socket.read(&self.table)?;
                (
                    diff(&self.table, &installed, self.desired.ruleset()),
                    installed,
                )
            }
        };
        if !delta.is_empty() {
            // An error leaves `installed` unknown.
            self.socket.program(&self.table, delta, &mut installed)?;
        }
        self.installed = Some(installed);
        metrics.synced(start.elapsed());
        self.forget_stale_flows(state, &changed);
        Ok(())
    }

    /// Compares with the kernel at the next call, whatever is believed to be installed.
    pub fn distrust(&mut self) {
        self.installed = None;
    }

    fn forget_stale_flows(&self, state: &State, changed: &BTreeSet<Name>) {
        let mut frontends = Frontends::default();
        for name in changed {
            if let Some(service) = state.service(name) {
                frontends.add(service, &state.endpoints(name));
            }
        }
        if frontends.is_empty() {
            return;
        }
        // The rules are right already; a flow that stays is an error of its own, not of the sync.
        if let Err(error) = forget(self.node.family, &frontends) {
            tracing::warn!(%error, "stale UDP flows could not be forgotten");
        }
    }
}

fn forget(family: Family, frontends: &Frontends) -> std::io::Result<()> {
    let mut conntrack = Conntrack::open()?;
    let flows = conntrack.list(family, UDP)?;
    for flow in flows.iter().filter(|flow| frontends.is_stale(flow)) {
        conntrack.delete(flow)?;
    }
    Ok(())
}
