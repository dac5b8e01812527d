//! CPUs that a pod that comes is about to be given, container by container.

use super::set::CpuSet;
use super::{Cpus, OfPod, exclusive, refused, save};
use crate::metrics::COUNTS;
use crate::pod::admit::Refusal;
use crate::pod::spec;
use crate::topology::merge::{Hint, OfResource};
use crate::topology::nodes::{Machine, Nodes};
use k8s_openapi::api::core::v1::{Container, Pod};
use parking_lot::MutexGuard;
use std::collections::BTreeMap;

/// What is about to be given; dropped, nothing was.
#[derive(Debug)]
pub struct Draft<'a> {
    pub(super) cpus: &'a Cpus,
    pub(super) pod: &'a Pod,
    pub(super) held: MutexGuard<'a, BTreeMap<String, OfPod>>,
    /// That nobody has.
    pub(super) free: CpuSet,
    /// Of init containers, which end before the next one starts, which may have theirs.
    pub(super) reusable: CpuSet,
    pub(super) own: OfPod,
}

impl Draft<'_> {
    /// The NUMA nodes that could give a container its CPUs; none where any do.
    #[must_use]
    pub fn hints(&self, machine: &Machine, c: &Container) -> OfResource {
        self.sets(machine, exclusive(self.pod, c))
    }

    /// The same for all containers of the pod together.
    #[must_use]
    pub fn hints_of_pod(&self, machine: &Machine) -> OfResource {
        let count = |c: &Container| exclusive(self.pod, c);
        let (mut always, mut most) = (0, 0);
        for c in spec::init_containers(self.pod) {
            if spec::is_sidecar(c) {
                always += count(c);
            } else {
                most = most.max(always + count(c));
            }
        }
        let main: usize = spec::containers(self.pod).iter().map(count).sum();
        self.sets(machine, most.max(always + main))
    }

    fn sets(&self, machine: &Machine, count: usize) -> OfResource {
        if count == 0 {
            return None;
        }
        let mut least = machine.all().count();
        let mut out = Vec::new();
        for nodes in machine.all().subsets() {
            let here = machine.cpus_of(nodes);
            if here.0.len() >= count {
                least = least.min(nodes.count());
            }
            let again = self.reusable.0.is_subset(&here.0);
            let fresh = self.free.without(&self.reusable);
            let left = fresh.0.intersection(&here.0).count() + self.reusable.0.len();
            if again && left >= count {
                out.push(nodes);
            }
        }
        let hint = |nodes: Nodes| Hint {
            nodes: Some(nodes),
            preferred: nodes.count() == least || self.is_of_few_sockets(machine, nodes, least),
        };
        Some(out.into_iter().map(hint).collect())
    }

    /// Whether nodes are in as few sockets as so many nodes can be, where that is what counts.
    fn is_of_few_sockets(&self, machine: &Machine, nodes: Nodes, least: u32) -> bool {
        let topology = &self.cpus.topology;
        let sockets = |of: &CpuSet| u32::try_from(topology.sockets(of).len()).unwrap_or(u32::MAX);
        let per_socket = machine
            .all()
            .count()
            .checked_div(sockets(&topology.all()))
            .unwrap_or(0);
        self.cpus.policy.by_socket
            && per_socket > 0
            && sockets(&machine.cpus_of(nodes)) == least.div_ceil(per_socket)
    }

    /// Gives a container what it asks for, of the CPUs `within` first.
    pub fn give(&mut self, c: &Container, within: Option<&CpuSet>) -> Result<(), Refusal> {
        let count = exclusive(self.pod, c);
        if count == 0 {
            return Ok(());
        }
        let given = self.give_count(c, count, within);
        COUNTS.pinned_cpus(given.is_ok());
        given
    }

    fn give_count(
        &mut self,
        c: &Container,
        count: usize,
        within: Option<&CpuSet>,
    ) -> Result<(), Refusal> {
        self.cpus.is_aligned(count)?;
        let fresh = self.free.without(&self.reusable);
        // Nodes of a socket are one where sockets are what counts.
        let wide = within.filter(|_| self.cpus.policy.by_socket);
        let wide = wide.map(|set| self.cpus.topology.beside(set));
        let within = wide.as_ref().or(within);
        let inside = |set: &CpuSet| match within {
            Some(within) => CpuSet(set.0.intersection(&within.0).copied().collect()),
            None => set.clone(),
        };
        let (near_again, near) = (inside(&self.reusable), inside(&fresh));
        let (far_again, far) = (self.reusable.without(&near_again), fresh.without(&near));
        let mut set = CpuSet::default();
        for from in [near_again, near, far_again, far] {
            let missing = count - set.0.len();
            let (topology, policy) = (&self.cpus.topology, &self.cpus.policy);
            let more = topology.choose(&from, missing.min(from.0.len()), policy);
            set.add(&more.unwrap_or_default());
        }
        if set.0.len() < count {
            return Err(refused(format!(
                "not enough cpus available to satisfy request: requested={count}, available={}",
                set.0.len()
            )));
        }
        self.free = self.free.without(&set);
        if spec::is_init(self.pod, &c.name) && !spec::is_sidecar(c) {
            self.reusable.add(&set);
        } else {
            self.reusable = self.reusable.without(&set);
        }
        self.own.insert(c.name.clone(), set);
        Ok(())
    }

    /// Gives it all.
    pub fn keep(mut self) -> Result<(), Refusal> {
        if self.own.is_empty() {
            return Ok(());
        }
        let uid = spec::uid(self.pod);
        let saved = save(&self.cpus.pods_dir.join(uid), &self.own);
        saved.map_err(|e| refused(format!("which CPUs it has cannot be noted: {e}")))?;
        self.held
            .insert(uid.to_owned(), std::mem::take(&mut self.own));
        self.cpus.changed.notify_one();
        Ok(())
    }
}
