//! What was heard of policies, namespaces, pods and nodes, and the answers to the queries in use:
//! pure.
//!
//! Answers are kept up to date pod by pod, so a changed label costs one look at each query, and
//! not one at each pod.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::net::IpAddr;

use client::reflector::{Changed, Table};
use host::nft::Key;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::networking::v1 as networking;
use kube::ResourceExt;
use kube::api::DynamicObject;
use kube::runtime::watcher::Event;

use super::allowed::{Direction, Isolation, isolation};
use super::cluster_wide::{ClusterPolicy, PolicyKind, in_order};
use super::model::{Name, Node, Pod, Policy};
use super::query::Query;

type Labels = Box<[(String, String)]>;

/// Who has an address of this node, as the plugin said when it gave the address out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    /// The pod's namespace and name.
    pub name: Name,
    /// The pod's identity; empty where the runtime does not say.
    pub uid: String,
    /// The name of the attachment.
    pub sandbox: String,
}

/// What is watched only while a policy asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum OptionalWatch {
    /// Namespaces and pods.
    Pods,
    /// Nodes.
    Nodes,
}

/// What is known.
#[derive(Debug, Default)]
pub struct World {
    node: String,
    policies: Table<Name, Policy>,
    /// Of the kinds that there are.
    cluster_wide: BTreeMap<PolicyKind, Table<String, ClusterPolicy>>,
    /// Everything was known once: a kind that comes later is waited for no more.
    was_complete: bool,
    namespaces: Table<String, Labels>,
    pods: Table<Name, Pod>,
    nodes: Table<String, Node>,
    /// The pods of this node among them.
    local: BTreeSet<Name>,
    tenants: BTreeMap<IpAddr, Tenant>,
    answers: BTreeMap<String, Answer>,
    /// Pods of this node that are to be looked at again.
    touched: BTreeSet<Name>,
    /// Elements of answers that came or went: the set and the key.
    moved: BTreeSet<(String, Key)>,
}

/// The pods or nodes that a query finds.
#[derive(Debug)]
struct Answer {
    query: Query,
    /// How many times it is in use.
    users: usize,
    /// How many account for each key: for a moment, two may have one address.
    keys: BTreeMap<Key, usize>,
}

/// What a pod of this node is allowed under one of its addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// The address.
    pub address: IpAddr,
    /// What of connections to it.
    pub ingress: Isolation,
    /// What of connections from it.
    pub egress: Isolation,
}

impl World {
    /// Nothing heard yet.
    pub fn new(node: &str) -> Self {
        Self {
            node: node.to_owned(),
            ..Self::default()
        }
    }

    /// Whether enough is known to conclude anything. Without policies nobody has to be known.
    pub fn is_complete(&self) -> bool {
        let known = |wanted: OptionalWatch| match wanted {
            OptionalWatch::Pods => self.pods.is_complete() && self.namespaces.is_complete(),
            OptionalWatch::Nodes => self.nodes.is_complete(),
        };
        self.policies.is_complete()
            && (self.was_complete || self.cluster_wide.values().all(Table::is_complete))
            && self.wanted().all(known)
    }

    /// What policies ask for.
    pub fn wanted(&self) -> impl Iterator<Item = OptionalWatch> {
        let mut wide = self.cluster_wide.values().flat_map(Table::iter);
        let nodes = wide.any(|(_, policy)| policy.names_nodes);
        let pods = (self.policies() > 0).then_some(OptionalWatch::Pods);
        pods.into_iter()
            .chain(nodes.then_some(OptionalWatch::Nodes))
    }

    /// Says that what is known is acted on.
    pub fn begin(&mut self) {
        self.was_complete = true;
    }

    /// How many policies there are.
    pub fn policies(&self) -> usize {
        let of_kinds = self.cluster_wide.values().map(Table::len);
        self.policies.len() + of_kinds.sum::<usize>()
    }

    /// How many things in policies could not be read.
    pub fn unreadable(&self) -> usize {
        let own = self.policies.iter().map(|(_, p)| p.unreadable.len());
        let wide = self.cluster_wide.values().flat_map(Table::iter);
        own.chain(wide.map(|(_, p)| p.unreadable.len())).sum()
    }

    /// The kinds of administrators' policies that the API has now.
    pub fn kinds(&mut self, kinds: &BTreeSet<PolicyKind>) {
        for kind in kinds {
            self.cluster_wide.entry(*kind).or_default();
        }
        let gone = |kind: &PolicyKind| !kinds.contains(kind);
        let gone: Vec<PolicyKind> = self.cluster_wide.keys().copied().filter(gone).collect();
        for kind in gone {
            for event in [Event::Init, Event::InitDone] {
                self.cluster_wide_event(kind, event);
            }
            self.cluster_wide.remove(&kind);
        }
    }

    /// Takes an event of the watch of such a kind; gives what could not be read of the policies
    /// that have changed.
    pub fn cluster_wide_event(
        &mut self,
        kind: PolicyKind,
        event: Event<DynamicObject>,
    ) -> Vec<(String, String)> {
        let Some(table) = self.cluster_wide.get_mut(&kind) else {
            return Vec::new();
        };
        let keep = |o: DynamicObject| Some(ClusterPolicy::of(kind, &o.data["spec"]));
        let changed = table.take(event, |o| o.name_any(), keep);
        let mut problems = Vec::new();
        for change in changed {
            let new = self
                .cluster_wide
                .get(&kind)
                .and_then(|t| t.get(&change.key));
            if let Some(new) = new.filter(|policy| !policy.unreadable.is_empty()) {
                problems.push((change.key, new.unreadable.join("; ")));
            }
            let touched = self.concerned([change.old.as_ref(), new]);
            self.touched.extend(touched);
        }
        problems
    }

    /// The pods of this node that any of these is for, and those that are not known.
    fn concerned(&self, policies: [Option<&ClusterPolicy>; 2]) -> Vec<Name> {
        let concerned = |name: &Name, pod: &Pod| {
            let labels = self.namespaces.get(&name.0).map(|l| &**l);
            let mut policies = policies.iter().flatten();
            policies.any(|policy| labels.is_none() || policy.selects(labels, pod))
        };
        let known = self.local.iter();
        let known = known.filter(|name| self.pods.get(name).is_some_and(|p| concerned(name, p)));
        let tenants = self.tenants.values();
        let unknown = tenants.filter(|t| !self.pods.get(&t.name).is_some_and(|p| is_of(t, p)));
        known.chain(unknown.map(|t| &t.name)).cloned().collect()
    }

    /// Whether it cannot be said which of administrators' policies are for a namespace's pods.
    fn is_strange(&self, namespace: &str) -> bool {
        let mut tables = self.cluster_wide.values();
        self.namespaces.get(&namespace.to_owned()).is_none()
            && tables.any(|table| !table.is_empty())
    }

    /// Administrators' policies, in the order in which they are asked.
    fn in_order(&self) -> Vec<&ClusterPolicy> {
        let all = self.cluster_wide.iter();
        let all = all.flat_map(|(kind, table)| table.iter().map(|(n, p)| (*kind, n.as_str(), p)));
        in_order(all)
    }

    /// Takes an event of the policies' watch; gives the policies that have changed.
    pub fn policy_event(&mut self, event: Event<networking::NetworkPolicy>) -> Vec<Name> {
        let key = |p: &networking::NetworkPolicy| name_of(p);
        let changed = self.policies.take(event, key, |p| Some(Policy::of(&p)));
        for change in &changed {
            self.policy_changed(change);
        }
        changed.into_iter().map(|change| change.key).collect()
    }

    /// What of a policy could not be read.
    pub fn problems(&self, name: &Name) -> &[String] {
        self.policies.get(name).map_or(&[], |p| &p.unreadable)
    }

    /// Takes an event of the namespaces' watch.
    pub fn namespace_event(&mut self, event: Event<core::Namespace>) {
        let key = |n: &core::Namespace| n.name_any();
        let keep = |n: core::Namespace| -> Option<Labels> {
            Some(n.metadata.labels.unwrap_or_default().into_iter().collect())
        };
        for change in self.namespaces.take(event, key, keep) {
            self.namespace_changed(&change);
        }
    }

    /// Takes an event of the pods' watch.
    pub fn pod_event(&mut self, event: Event<core::Pod>) {
        let node = mem::take(&mut self.node);
        let changes = self.pods.take(event, name_of, |p| Pod::of(p, &node));
        self.node = node;
        for change in changes {
            self.pod_changed(change);
        }
    }

    /// Takes an event of the nodes' watch.
    pub fn node_event(&mut self, event: Event<core::Node>) {
        let key = |n: &core::Node| n.name_any();
        for change in self.nodes.take(event, key, |n| Some(Node::of(n))) {
            let new = self.nodes.get(&change.key);
            let moves = self.moves(|query| {
                let keys = |node: Option<&Node>| node.map(|n| query.keys_of_node(n));
                [change.old.as_ref(), new].map(|node| keys(node).unwrap_or_default())
            });
            self.answers_moved(moves);
        }
    }

    /// An address of this node was given to a pod.
    pub fn moved_in(&mut self, address: IpAddr, tenant: Tenant) {
        self.touched.insert(tenant.name.clone());
        let before = self.tenants.insert(address, tenant);
        self.touched.extend(before.map(|tenant| tenant.name));
    }

    /// An attachment gave back an address of this node; one that somebody else has by now stays.
    pub fn moved_out(&mut self, address: IpAddr, sandbox: &str) {
        let same = |t: &Tenant| t.sandbox == sandbox;
        if self.tenants.get(&address).is_some_and(same) {
            let before = self.tenants.remove(&address);
            self.touched.extend(before.map(|tenant| tenant.name));
        }
    }

    /// Whether what a tenant is allowed follows from what is known: its pod, or that no policy
    /// can be meant for it.
    pub fn is_known(&self, tenant: &Tenant) -> bool {
        let pod = self.pods.get(&tenant.name);
        self.is_complete()
            && (pod.is_some_and(|p| is_of(tenant, p)) && !self.is_strange(&tenant.name.0)
                || !self.governed(&tenant.name.0))
    }

    /// The pods of this node that are to be placed again, since the last call.
    pub fn take_touched(&mut self) -> BTreeSet<Name> {
        mem::take(&mut self.touched)
    }

    /// Elements of answers that may have come or gone since the last call.
    pub fn take_moved(&mut self) -> BTreeSet<(String, Key)> {
        mem::take(&mut self.moved)
    }

    /// What a pod of this node is allowed, under each of its addresses.
    pub fn places(&self, name: &Name) -> Vec<Placed> {
        let mut places = Vec::new();
        let pod = self.pods.get(name).filter(|pod| pod.local);
        let mut said = false;
        for (address, tenant) in self.tenants.iter().filter(|(_, t)| t.name == *name) {
            let known = pod.filter(|pod| is_of(tenant, pod));
            said |= known.is_some();
            places.push(match known {
                Some(pod) => self.place(name, pod, *address),
                None => self.unknown(name, *address),
            });
        }
        // The plugin did not say, such as one of an earlier version.
        let status = pod.filter(|_| !said).into_iter();
        for (pod, address) in status.flat_map(|p| p.addresses.iter().map(move |a| (p, a))) {
            if !self.tenants.contains_key(address) {
                places.push(self.place(name, pod, *address));
            }
        }
        places
    }

    fn place(&self, name: &Name, pod: &Pod, address: IpAddr) -> Placed {
        if self.is_strange(&name.0) {
            return self.unknown(name, address);
        }
        let policies = || self.policies_of(&name.0).map(|(_, policy)| policy);
        let labels = self.namespaces.get(&name.0).map(|l| &**l);
        let mut wide = self.in_order();
        wide.retain(|policy| policy.selects(labels, pod));
        Placed {
            address,
            ingress: isolation(Direction::In, pod, policies(), &wide),
            egress: isolation(Direction::Out, pod, policies(), &wide),
        }
    }

    /// Of a pod that is not known, or no more: if there are policies that could be meant for it,
    /// it gets nothing and sends nothing.
    fn unknown(&self, name: &Name, address: IpAddr) -> Placed {
        let isolation = match self.governed(&name.0) {
            true => Isolation::Dark,
            false => Isolation::Open,
        };
        Placed {
            address,
            ingress: isolation.clone(),
            egress: isolation,
        }
    }

    fn governed(&self, namespace: &str) -> bool {
        let labels = self.namespaces.get(&namespace.to_owned());
        let labels = labels.map(|l| &**l);
        let mut wide = self.cluster_wide.values().flat_map(Table::iter);
        // One that cannot be said to be for others may be for this namespace.
        self.policies_of(namespace).next().is_some()
            || wide.any(|(_, policy)| labels.is_none() || policy.may_select(labels))
    }

    fn policies_of(&self, namespace: &str) -> impl Iterator<Item = (&Name, &Policy)> {
        let start = (namespace.to_owned(), String::new());
        in_namespace(self.policies.starting(start), namespace)
    }

    fn policy_changed(&mut self, change: &Changed<Name, Policy>) {
        let namespace = &change.key.0;
        let new = self.policies.get(&change.key);
        let concerned = |pod: &Pod| {
            change.old.as_ref().is_some_and(|p| p.selects(pod))
                || new.is_some_and(|p| p.selects(pod))
        };
        let local = self.local.range((namespace.clone(), String::new())..);
        let local = local.take_while(|name| name.0 == *namespace);
        let known = local.filter(|name| self.pods.get(name).is_some_and(concerned));
        let tenants = self.tenants.values().filter(|t| t.name.0 == *namespace);
        let unknown = tenants.filter(|t| !self.pods.get(&t.name).is_some_and(|p| is_of(t, p)));
        let touched: Vec<Name> = known.chain(unknown.map(|t| &t.name)).cloned().collect();
        self.touched.extend(touched);
    }

    fn namespace_changed(&mut self, change: &Changed<String, Labels>) {
        let namespace = &change.key;
        let old = change.old.as_deref();
        let new = self.namespaces.get(namespace).map(|l| &**l);
        let start = (namespace.clone(), String::new());
        if self.cluster_wide.values().any(|table| !table.is_empty()) {
            let local = self.local.range(start.clone()..);
            let local = local.take_while(|name| name.0 == *namespace).cloned();
            let tenants = self.tenants.values().map(|t| t.name.clone());
            let tenants = tenants.filter(|name| name.0 == *namespace);
            let touched: Vec<Name> = local.chain(tenants).collect();
            self.touched.extend(touched);
        }
        let pods = in_namespace(self.pods.starting(start), namespace);
        let moves = |(_, pod): (&Name, &Pod)| {
            self.moves(|query| [old, new].map(|labels| query.keys(namespace, labels, pod)))
        };
        let moves = pods.flat_map(moves).collect();
        self.answers_moved(moves);
    }

    fn pod_changed(&mut self, change: Changed<Name, Pod>) {
        let name = change.key;
        let new = self.pods.get(&name);
        let here = |pod: &Pod| pod.local;
        if change.old.as_ref().is_some_and(here) || new.is_some_and(here) {
            self.touched.insert(name.clone());
        }
        if new.is_some_and(here) {
            self.local.insert(name.clone());
        } else {
            self.local.remove(&name);
        }
        let labels = self.namespaces.get(&name.0).map(|l| &**l);
        let moves = self.moves(|query| {
            let keys = |pod: &Pod| query.keys(&name.0, labels, pod);
            [change.old.as_ref(), new].map(|pod| pod.map(keys).unwrap_or_default())
        });
        self.answers_moved(moves);
    }

    /// The answers that something changes: what it added to them before, and what it does now.
    fn moves(&self, keys: impl Fn(&Query) -> [Vec<Key>; 2]) -> Vec<(String, [Vec<Key>; 2])> {
        let answers = self.answers.iter();
        let moves = answers.filter_map(|(set, answer)| {
            let [gone, come] = keys(&answer.query);
            (gone != come).then(|| (set.clone(), [gone, come]))
        });
        moves.collect()
    }

    fn answers_moved(&mut self, moves: Vec<(String, [Vec<Key>; 2])>) {
        for (set, [gone, come]) in moves {
            let Some(answer) = self.answers.get_mut(&set) else {
                continue;
            };
            come.iter().for_each(|key| answer.add(key.clone()));
            gone.iter().for_each(|key| answer.remove(key));
            let keys = gone.into_iter().chain(come);
            self.moved.extend(keys.map(|key| (set.clone(), key)));
        }
    }

    /// Begins to use a query, or uses it once more.
    pub fn acquire(&mut self, query: &Query) {
        let set = query.set_name();
        if let Some(answer) = self.answers.get_mut(&set) {
            answer.users += 1;
            return;
        }
        let mut answer = Answer {
            query: query.clone(),
            users: 1,
            keys: BTreeMap::new(),
        };
        for (name, pod) in self.pods.iter() {
            let labels = self.namespaces.get(&name.0).map(|l| &**l);
            for key in query.keys(&name.0, labels, pod) {
                answer.add(key);
            }
        }
        let nodes = self.nodes.iter();
        for key in nodes.flat_map(|(_, node)| query.keys_of_node(node)) {
            answer.add(key);
        }
        self.answers.insert(set, answer);
    }

    /// Uses a query once less.
    pub fn release(&mut self, set: &str) {
        if let Some(answer) = self.answers.get_mut(set) {
            answer.users = answer.users.saturating_sub(1);
            if answer.users == 0 {
                self.answers.remove(set);
            }
        }
    }

    /// The answer to a query in use.
    pub fn answer(&self, set: &str) -> impl Iterator<Item = &Key> {
        self.answers
            .get(set)
            .into_iter()
            .flat_map(|a| a.keys.keys())
    }

    /// Whether the answer to a query in use has the key.
    pub fn has(&self, set: &str, key: &Key) -> bool {
        self.answers
            .get(set)
            .is_some_and(|a| a.keys.contains_key(key))
    }
}

impl Answer {
    fn add(&mut self, key: Key) {
        *self.keys.entry(key).or_default() += 1;
    }

    fn remove(&mut self, key: &Key) {
        if let Some(count) = self.keys.get_mut(key) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.keys.remove(key);
            }
        }
    }
}

fn is_of(tenant: &Tenant, pod: &Pod) -> bool {
    tenant.uid.is_empty() || tenant.uid == pod.uid
}

fn in_namespace<'a, V: 'a>(
    all: impl Iterator<Item = (&'a Name, &'a V)>,
    namespace: &str,
) -> impl Iterator<Item = (&'a Name, &'a V)> {
    all.take_while(move |(name, _)| name.0 == namespace)
}

fn name_of(object: &impl ResourceExt) -> Name {
    (object.namespace().unwrap_or_default(), object.name_any())
}
