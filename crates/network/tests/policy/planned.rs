//! What is planned, as a kernel of values would hold it, and the verdict of such a kernel.

use std::net::IpAddr;

use host::nft::{
    Family, Field, Installed, Key, KeyPart, Part, Rule, Ruleset, SetKind, Table, Value, Verdict,
    diff, diff_part,
};
use kube::runtime::watcher::Event;
use network::policy::tables::Tables;
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

fn found<'a>(table: &'a Ruleset, name: &str, key: &Key) -> Option<&'a Value> {
    let set = table.sets.get(name).expect("a set that exists");
    match set.kind {
        SetKind::Ranges(_) => {
            let before = set.elements.range(..=key.clone()).next_back()?.1;
            (*before == Value::Present).then_some(before)
        }
        _ => set.elements.get(key),
    }
}

/// The verdict of a rule; `None` if it does not match.
fn judged(table: &Ruleset, rule: &Rule, call: &Call) -> Option<Verdict> {
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
            } => found(table, set, &key(fields)).is_some() != *negate,
            Part::VerdictMap { fields, map } => match found(table, map, &key(fields)) {
                Some(Value::Verdict(verdict)) => return Some(verdict.clone()),
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
fn passes_chain(table: &Ruleset, chain: &str, call: &Call) -> Option<bool> {
    for rule in &table.chains.get(chain).expect("a chain that exists").rules {
        match judged(table, rule, call) {
            None => {}
            Some(Verdict::Accept) => return Some(true),
            Some(Verdict::Drop) => return Some(false),
            Some(Verdict::Return) => return None,
            Some(Verdict::Jump(to)) => {
                if let Some(word) = passes_chain(table, &to, call) {
                    return Some(word);
                }
            }
            Some(Verdict::Goto(to)) => return passes_chain(table, &to, call),
        }
    }
    None
}

fn passes(table: &Ruleset, call: &Call) -> bool {
    !table.chains.contains_key("forward") || passes_chain(table, "forward", call).unwrap_or(true)
}

/// A node: what it has heard, what it plans, and what its kernel would have.
pub struct Node {
    pub world: World,
    pub tables: Tables,
    pub installed: [Installed; 2],
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
        Self {
            world,
            tables: Tables::default(),
            installed: Default::default(),
        }
    }

    pub fn hear(&mut self, change: &Change) {
        match change.clone() {
            Change::Policy(p) => drop(self.world.policy_event(Event::Apply(*p))),
            Change::NoPolicy(p) => drop(self.world.policy_event(Event::Delete(*p))),
            Change::Namespace(n) => self.world.namespace_event(Event::Apply(*n)),
            Change::Pod(p) => self.world.pod_event(Event::Apply(*p)),
            Change::NoPod(p) => self.world.pod_event(Event::Delete(*p)),
        }
    }

    /// Programs a kernel of values by the small difference, and checks that nothing is left.
    pub fn sync(&mut self) {
        self.tables.update(&mut self.world);
        let families = self.tables.families().iter_mut();
        for (desired, installed) in families.zip(&mut self.installed) {
            let (dirty, table) = (desired.take_dirty(), name(desired.family()));
            let delta = diff_part(&table, installed, desired.ruleset(), &dirty);
            delta.apply(&table, installed);
            let rest = diff(&table, installed, desired.ruleset());
            assert!(rest.is_empty(), "left over: {rest:?}");
        }
    }

    pub fn allows(&mut self, call: &Call) -> bool {
        let [v4, v6] = self.tables.families();
        let table = match Family::of(call.server) {
            Family::Ip4 => v4,
            Family::Ip6 => v6,
        };
        passes(table.ruleset(), call)
    }
}
