//! What is planned, as a kernel of values would hold it, and the verdict of such a kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use host::nft::{
    Delta, Family, Field, Installed, Key, KeyPart, Part, Rule, Stages, Table, Value, Verdict, diff,
};
use kube::runtime::watcher::Event;
use network::policy::tables::{ORDER, Tables};
use network::policy::world::World;

use crate::spoken::Change;

/// A connection: who opens it, who answers, and by what.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    pub client: IpAddr,
    pub server: IpAddr,
    pub protocol: u8,
    pub port: u16,
}

fn field(call: &Call, field: Field) -> KeyPart {
    match field {
        Field::Client => KeyPart::Address(call.client),
        Field::Server => KeyPart::Address(call.server),
        Field::ConnectionProtocol => KeyPart::Protocol(call.protocol),
        Field::ServerPort => KeyPart::Port(call.port),
        other => panic!("{other:?} is not of a connection"),
    }
}

/// What a kernel holds.
#[derive(Clone, Default)]
pub struct Kernel {
    pub installed: Installed,
    rules: BTreeMap<String, Vec<Rule>>,
}

impl Kernel {
    /// Whether a connection passes while nothing changes.
    pub fn allows(&self, call: &Call) -> bool {
        passes(self, self, usize::MAX, call).0
    }

    /// Whether packets of an address are asked more about.
    pub fn isolates(&self, address: IpAddr) -> bool {
        let set = self.installed.sets.get("isolated");
        set.is_some_and(|set| set.elements.contains_key(&vec![KeyPart::Address(address)]))
    }

    fn take(&mut self, table: &Table, delta: Delta) {
        let mut filled: BTreeMap<String, Vec<Rule>> = BTreeMap::new();
        for (chain, rule) in delta.rules() {
            let rules = filled.entry(chain.to_owned()).or_default();
            rules.push(rule.clone());
        }
        delta.apply(table, &mut self.installed);
        self.rules.extend(filled);
        let chains = &self.installed.chains;
        self.rules.retain(|chain, _| chains.contains_key(chain));
        for (name, chain) in chains {
            let has = self.rules.get(name).map_or(0, Vec::len);
            assert_eq!(has, chain.rules.len(), "{name}");
        }
    }
}

/// A packet on its way through, which meets a change: it stays at the rules of before, and from some
/// look-up on sees the elements of after.
struct Packet<'a> {
    before: &'a Kernel,
    after: &'a Kernel,
    look_ups_before: usize,
    look_ups: usize,
}

impl Packet<'_> {
    fn found(&mut self, name: &str, key: &Key) -> Option<Value> {
        let kernel = match self.look_ups < self.look_ups_before {
            true => self.before,
            false => self.after,
        };
        self.look_ups += 1;
        // A set that is gone has no elements.
        let elements = &kernel.installed.sets.get(name)?.elements;
        if name.starts_with("blocks-") {
            let before = elements.range(..=key.clone()).next_back()?.1;
            return (*before == Value::Present).then(|| before.clone());
        }
        elements.get(key).cloned()
    }

    /// The verdict of a rule; `None` if it does not match.
    fn judged(&mut self, rule: &Rule, call: &Call) -> Option<Verdict> {
        for part in &rule.0 {
            let key = |fields: &[Field]| fields.iter().map(|f| field(call, *f)).collect::<Key>();
            let goes_on = match part {
                Part::Unconnected => false,
                Part::Counter => true,
                Part::ConnectionProtocol(number) => call.protocol == *number,
                Part::ServerPorts { first, last } => (*first..=*last).contains(&call.port),
                Part::InSet {
                    fields,
                    set,
                    negate,
                } => self.found(set, &key(fields)).is_some() != *negate,
                Part::VerdictMap { fields, map } => match self.found(map, &key(fields)) {
                    Some(Value::Verdict(verdict)) => return Some(verdict),
                    _ => false,
                },
                Part::Verdict(verdict) => return Some(verdict.clone()),
                other => panic!("{other} is not planned"),
            };
            if !goes_on {
                return None;
            }
        }
        None
    }

    /// The last word of a chain; `None` if it comes back.
    fn passes_chain(&mut self, chain: &str, call: &Call) -> Option<bool> {
        // One that is younger than the packet has no rules for it.
        let rules: &[Rule] = self.before.rules.get(chain).map_or(&[], Vec::as_slice);
        for rule in rules {
            match self.judged(rule, call) {
                None => {}
                Some(Verdict::Accept) => return Some(true),
                Some(Verdict::Drop) => return Some(false),
                Some(Verdict::Return) => return None,
                Some(Verdict::Jump(to)) => {
                    if let Some(word) = self.passes_chain(&to, call) {
                        return Some(word);
                    }
                }
                Some(Verdict::Goto(to)) => return self.passes_chain(&to, call),
            }
        }
        None
    }
}

/// Whether a packet passes, and how often it looks something up.
fn passes(before: &Kernel, after: &Kernel, look_ups_before: usize, call: &Call) -> (bool, usize) {
    let mut packet = Packet {
        before,
        after,
        look_ups_before,
        look_ups: 0,
    };
    let passes = packet.passes_chain("forward", call).unwrap_or(true);
    (passes, packet.look_ups)
}

/// A transaction: what the kernel held before and after it.
pub struct Step {
    pub before: Kernel,
    pub after: Kernel,
}

impl Step {
    /// The verdicts before and after it, and all that a packet may have that meets it.
    pub fn verdicts(&self, call: &Call) -> (bool, bool, BTreeSet<bool>) {
        let (before, most) = passes(&self.before, &self.before, usize::MAX, call);
        let (after, _) = passes(&self.after, &self.after, usize::MAX, call);
        let mut between = BTreeSet::new();
        let mut look_ups_before = 0;
        while look_ups_before <= most {
            let (word, _) = passes(&self.before, &self.after, look_ups_before, call);
            between.insert(word);
            look_ups_before += 1;
        }
        (before, after, between)
    }
}

/// A node: what it has heard, what it plans, and what its kernel would have.
pub struct Node {
    pub world: World,
    pub tables: Tables,
    pub kernels: [Kernel; 2],
    stages: [Stages; 2],
}

fn name(family: Family) -> Table {
    let name = "t".to_owned();
    Table { family, name }
}

impl Node {
    pub fn new(node: &str) -> Self {
        let mut world = World::new(node);
        world.policy_event(Event::Init);
        world.policy_event(Event::InitDone);
        for event in [Event::Init, Event::InitDone] {
            world.namespace_event(event);
        }
        for event in [Event::Init, Event::InitDone] {
            world.pod_event(event);
        }
        for event in [Event::Init, Event::InitDone] {
            world.node_event(event);
        }
        Self {
            world,
            tables: Tables::default(),
            kernels: Default::default(),
            stages: [Stages::new(ORDER), Stages::new(ORDER)],
        }
    }

    pub fn hear(&mut self, change: &Change) {
        match change.clone() {
            Change::Policy(p) => drop(self.world.policy_event(Event::Apply(*p))),
            Change::NoPolicy(p) => drop(self.world.policy_event(Event::Delete(*p))),
            Change::Namespace(n) => self.world.namespace_event(Event::Apply(*n)),
            Change::Kinds(kinds) => self.world.kinds(&kinds),
            Change::ClusterWide(kind, o) => {
                self.world.cluster_wide_event(kind, Event::Apply(*o));
            }
            Change::NoClusterWide(kind, o) => {
                self.world.cluster_wide_event(kind, Event::Delete(*o));
            }
            Change::Node(n) => self.world.node_event(Event::Apply(*n)),
            Change::NoNode(n) => self.world.node_event(Event::Delete(*n)),
            Change::Pod(p) => self.world.pod_event(Event::Apply(*p)),
            Change::NoPod(p) => self.world.pod_event(Event::Delete(*p)),
        }
    }

    /// Programs a kernel of values by the small difference, and checks that nothing is left. Gives
    /// the transactions of IPv4.
    pub fn sync(&mut self) -> Vec<Step> {
        self.tables.update(&mut self.world);
        let families = self.tables.families().iter_mut();
        let kernels = self.kernels.iter_mut().zip(&mut self.stages);
        let mut steps = Vec::new();
        for (desired, (kernel, stages)) in families.zip(kernels) {
            let (dirty, table) = (desired.take_dirty(), name(desired.family()));
            let installed = &kernel.installed;
            let deltas = stages.change(&table, installed, desired.ruleset(), Some(&dirty));
            for delta in deltas {
                let before = kernel.clone();
                kernel.take(&table, delta);
                let after = kernel.clone();
                steps.push((desired.family(), Step { before, after }));
            }
            let rest = stages.strange(&table, &kernel.installed, desired.ruleset());
            assert!(rest.is_empty(), "left over: {rest:?}");
        }
        let four = |(family, step): (Family, Step)| (family == Family::Ip4).then_some(step);
        steps.into_iter().filter_map(four).collect()
    }

    /// What no packet needs any more goes.
    pub fn clear(&mut self) {
        for _ in 0..2 {
            let families = self.tables.families().iter();
            let kernels = self.kernels.iter_mut().zip(&mut self.stages);
            for (desired, (kernel, stages)) in families.zip(kernels) {
                let table = name(desired.family());
                let delta = stages.clear(&table, &kernel.installed, desired.ruleset());
                kernel.take(&table, delta);
            }
        }
        for (desired, kernel) in self.tables.families().iter().zip(&self.kernels) {
            let rest = diff(
                &name(desired.family()),
                &kernel.installed,
                desired.ruleset(),
            );
            assert!(rest.is_empty(), "left over: {rest:?}");
        }
    }

    pub fn allows(&self, call: &Call) -> bool {
        self.kernel(call).allows(call)
    }

    /// How often one of its packets is looked for.
    pub fn look_ups(&self, call: &Call) -> usize {
        let kernel = self.kernel(call);
        passes(kernel, kernel, usize::MAX, call).1
    }

    fn kernel(&self, call: &Call) -> &Kernel {
        let [v4, v6] = &self.kernels;
        match Family::of(call.server) {
            Family::Ip4 => v4,
            Family::Ip6 => v6,
        }
    }
}
