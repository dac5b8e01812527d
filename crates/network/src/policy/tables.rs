//! The desired tables, one for each family, kept up to date address by address: pure.
//!
//! A packet that is forwarded meets one base chain. Two maps lead from the addresses of its
//! connection's ends to the chain of what that end is allowed, so what it costs does not depend on
//! how many policies, pods and addresses there are, but on how many different things that pod is
//! allowed. What is looked at is the connection (see [`host::nft::Field::Client`]) and not whether
//! it is new: each packet of it, in both directions, has the verdict of today's policies, so what a
//! policy forbids ends at once.
//!
//! A packet may meet a change on its way through: each of its look-ups sees the elements of its own
//! moment. Therefore both maps are asked twice. Of a change, one of both times saw nothing, or all; so
//! nothing passes that was forbidden both before and after it.
//!
//! Most packets are of pods without policies: they are through after two look-ups, one for each end.
//! The set of all isolated addresses is left later than the maps, when no packet is under way any
//! more that was there before. So if it has not the client, nor after that the server, then neither
//! was in a map when it was asked for the client, however many changes came in between.
//!
//! What a pod's own node sends to it, and what it sends to its node, is not forwarded: it is always
//! allowed, as Kubernetes demands. Only pods of this node are in the maps: what a pod may send is
//! decided at its node, and what it may receive at its own.

use std::collections::BTreeMap;
use std::mem;
use std::net::IpAddr;

use host::nft::{
    Chain, ChainKind, Dirty, Family, Field, Hook, Key, KeyPart, Order, PRIORITY_FILTER, Part,
    Point, Rule, Ruleset, Set, SetKind, Value, Verdict,
};

use super::allowed::{Direction, Grant, Isolation, Peers, Profile, REFUSED};
use super::blocks::{block_elements, blocks_name};
use super::model::FAMILIES;
use super::world::{Placed, World};

/// Addresses of pods of this node to what connections to them are allowed.
const INGRESS: &str = "ingress";
/// Addresses of pods of this node to what connections from them are allowed.
const EGRESS: &str = "egress";
/// The addresses in either of them, and those that have just left them.
const ISOLATED: &str = "isolated";
/// Each of them with itself: no policy keeps a pod from itself.
const ITSELF: &str = "itself";
/// What becomes of packets that belong to no connection.
const LOST: &str = "lost";

/// Whoever a packet may have seen in the maps, it finds in these.
pub const ORDER: Order = Order {
    lingers: |set| matches!(set, ITSELF | ISOLATED),
    chains_first: true,
};

/// The table of one family.
#[derive(Debug)]
pub struct Desired {
    family: Family,
    ruleset: Ruleset,
    dirty: Dirty,
    /// Chains of profiles with the number of addresses that lead to them.
    chains: BTreeMap<String, (usize, Profile)>,
    /// Sets of queries and blocks with the number of chains that look into them.
    sets: BTreeMap<String, usize>,
    /// What stands in the maps.
    placed: BTreeMap<IpAddr, Placed>,
}

/// The tables of both families, and who accounts for which address.
#[derive(Debug)]
pub struct Tables {
    families: [Desired; 2],
    owners: BTreeMap<IpAddr, super::model::Name>,
}

impl Default for Tables {
    fn default() -> Self {
        Self {
            families: FAMILIES.map(Desired::new),
            owners: BTreeMap::new(),
        }
    }
}

impl Tables {
    /// Brings the tables to what is known.
    pub fn update(&mut self, world: &mut World) {
        for name in world.take_touched() {
            let places = world.places(&name);
            let of = self.owners.iter().filter(|(_, owner)| **owner == name);
            let gone: Vec<IpAddr> = of
                .map(|(address, _)| *address)
                .filter(|address| !places.iter().any(|p| p.address == *address))
                .collect();
            for address in gone {
                self.owners.remove(&address);
                self.family(address).place(world, address, None);
            }
            for placed in places {
                let address = placed.address;
                self.owners.insert(address, name.clone());
                self.family(address).place(world, address, Some(placed));
            }
        }
        for (set, key) in world.take_moved() {
            let Some(KeyPart::Address(address)) = key.first() else {
                continue;
            };
            self.family(*address).element_moved(world, &set, key);
        }
    }

    /// The tables, in the order of [`FAMILIES`].
    pub fn families(&mut self) -> &mut [Desired; 2] {
        &mut self.families
    }

    /// How many addresses are isolated in some direction.
    pub fn isolated(&self) -> usize {
        self.families.iter().map(|f| f.placed.len()).sum()
    }

    fn family(&mut self, address: IpAddr) -> &mut Desired {
        let [v4, v6] = &mut self.families;
        match Family::of(address) {
            Family::Ip4 => v4,
            Family::Ip6 => v6,
        }
    }
}

impl Desired {
    fn new(family: Family) -> Self {
        Self {
            family,
            ruleset: Ruleset::default(),
            dirty: Dirty::default(),
            chains: BTreeMap::new(),
            sets: BTreeMap::new(),
            placed: BTreeMap::new(),
        }
    }

    /// The family.
    pub fn family(&self) -> Family {
        self.family
    }

    /// The whole table; empty while nobody is isolated.
    pub fn ruleset(&self) -> &Ruleset {
        &self.ruleset
    }

    /// What changed since the last call.
    pub fn take_dirty(&mut self) -> Dirty {
        mem::take(&mut self.dirty)
    }

    /// Sets what connections of an address are allowed.
    fn place(&mut self, world: &mut World, address: IpAddr, new: Option<Placed>) {
        let open = |p: &Placed| p.ingress == Isolation::Open && p.egress == Isolation::Open;
        let new = new.filter(|placed| !open(placed));
        if self.placed.get(&address) == new.as_ref() {
            return;
        }
        if self.placed.is_empty() {
            self.begin();
        }
        // New chains before old ones: what both look into stays.
        let verdict = |desired: &mut Self, world: &mut World, placed: &Placed, direction| {
            let isolation = match direction {
                Direction::In => &placed.ingress,
                Direction::Out => &placed.egress,
            };
            match isolation {
                Isolation::Open => None,
                Isolation::Dark => Some(Verdict::Jump(REFUSED.to_owned())),
                Isolation::Only(profile) => {
                    Some(Verdict::Jump(desired.chain(world, profile, direction)))
                }
            }
        };
        for (direction, map) in [(Direction::In, INGRESS), (Direction::Out, EGRESS)] {
            let verdict = new
                .as_ref()
                .and_then(|p| verdict(self, world, p, direction));
            self.element(
                map,
                vec![KeyPart::Address(address)],
                verdict.map(Value::Verdict),
            );
        }
        let present = new.as_ref().map(|_| Value::Present);
        let own = KeyPart::Address(address);
        self.element(ISOLATED, vec![own], present.clone());
        self.element(ITSELF, vec![own, own], present);
        let old = match new {
            Some(placed) => self.placed.insert(address, placed),
            None => self.placed.remove(&address),
        };
        if let Some(old) = old {
            for (direction, isolation) in
                [(Direction::In, &old.ingress), (Direction::Out, &old.egress)]
            {
                if let Isolation::Only(profile) = isolation {
                    self.drop_chain(world, &profile.chain_name(direction), direction);
                }
            }
        }
        if self.placed.is_empty() {
            self.end();
        }
    }

    /// The chain of a profile, for one address more.
    fn chain(&mut self, world: &mut World, profile: &Profile, direction: Direction) -> String {
        let name = profile.chain_name(direction);
        if let Some((users, _)) = self.chains.get_mut(&name) {
            *users += 1;
            return name;
        }
        for grant in profile.parts() {
            self.set(world, grant);
        }
        for (name, chain) in profile.chains(direction) {
            self.ruleset.chains.insert(name.clone(), chain);
            self.dirty.chains.insert(name);
        }
        self.chains.insert(name.clone(), (1, profile.clone()));
        name
    }

    fn drop_chain(&mut self, world: &mut World, name: &str, direction: Direction) {
        match self.chains.get_mut(name) {
            Some((users, _)) if *users > 1 => *users -= 1,
            Some(_) => {
                let Some((_, profile)) = self.chains.remove(name) else {
                    return;
                };
                for grant in profile.parts() {
                    self.drop_set(world, grant);
                }
                for (name, _) in profile.chains(direction) {
                    self.ruleset.chains.remove(&name);
                    self.dirty.chains.insert(name);
                }
            }
            None => {}
        }
    }

    /// The set that a grant looks into, for one chain more.
    fn set(&mut self, world: &mut World, grant: &Grant) {
        let (name, kind) = match &grant.peers {
            Peers::Anyone => return,
            Peers::Found(query) => (query.set_name(), SetKind::Set(query.fields())),
            Peers::Blocks(blocks) => (blocks_name(blocks), SetKind::Ranges(Field::Client)),
        };
        let users = self.sets.entry(name.clone()).or_default();
        *users += 1;
        if *users > 1 {
            return;
        }
        let mut set = Set::new(kind);
        match &grant.peers {
            Peers::Anyone => {}
            Peers::Blocks(blocks) => set.elements = block_elements(blocks, self.family),
            Peers::Found(query) => {
                world.acquire(query);
                let ours = world.answer(&name).filter(|key| self.is_ours(key));
                set.elements = ours.map(|key| (key.clone(), Value::Present)).collect();
            }
        }
        let elements = set.elements.keys().map(|key| (name.clone(), key.clone()));
        self.dirty.elements.extend(elements);
        self.dirty.sets.insert(name.clone());
        self.ruleset.sets.insert(name, set);
    }

    fn drop_set(&mut self, world: &mut World, grant: &Grant) {
        let name = match &grant.peers {
            Peers::Anyone => return,
            Peers::Found(query) => query.set_name(),
            Peers::Blocks(blocks) => blocks_name(blocks),
        };
        match self.sets.get_mut(&name) {
            Some(users) if *users > 1 => *users -= 1,
            Some(_) => {
                self.sets.remove(&name);
                world.release(&name);
                self.ruleset.sets.remove(&name);
                self.dirty.sets.insert(name);
            }
            None => {}
        }
    }

    /// An answer has got or lost a key.
    fn element_moved(&mut self, world: &World, set: &str, key: Key) {
        if self.sets.contains_key(set) {
            let value = world.has(set, &key).then_some(Value::Present);
            self.element(set, key, value);
        }
    }

    fn element(&mut self, set: &str, key: Key, value: Option<Value>) {
        self.dirty.element(&mut self.ruleset, set, key, value);
    }

    fn is_ours(&self, key: &Key) -> bool {
        matches!(key.first(), Some(KeyPart::Address(a)) if Family::of(*a) == self.family)
    }

    /// What stands in the table as soon as anybody is isolated.
    fn begin(&mut self) {
        for (name, kind) in frame_sets() {
            self.ruleset.sets.insert(name.to_owned(), Set::new(kind));
            self.dirty.sets.insert(name.to_owned());
        }
        for (name, chain) in frame_chains() {
            self.ruleset.chains.insert(name.to_owned(), chain);
            self.dirty.chains.insert(name.to_owned());
        }
    }

    /// Nobody is isolated: what is forwarded is not looked at.
    fn end(&mut self) {
        for (name, _) in frame_chains() {
            self.ruleset.chains.remove(name);
            self.dirty.chains.insert(name.to_owned());
        }
        for (name, _) in frame_sets() {
            self.ruleset.sets.remove(name);
            self.dirty.sets.insert(name.to_owned());
        }
    }
}

fn frame_sets() -> [(&'static str, SetKind); 4] {
    [
        (INGRESS, SetKind::Verdicts(vec![Field::Server])),
        (EGRESS, SetKind::Verdicts(vec![Field::Client])),
        (ISOLATED, SetKind::Set(vec![Field::SourceAddress])),
        (ITSELF, SetKind::Set(vec![Field::Client, Field::Server])),
    ]
}

fn frame_chains() -> [(&'static str, Chain); 3] {
    let is_isolated = |field: Field, is: bool| Part::InSet {
        fields: vec![field],
        set: ISOLATED.into(),
        negate: !is,
    };
    let drop = || Part::Verdict(Verdict::Drop);
    let lost = |field: Field| Rule(vec![is_isolated(field, true), Part::Counter, drop()]);
    let lead = |field: Field, map: &str| {
        let (fields, map) = (vec![field], map.to_owned());
        Rule(vec![Part::VerdictMap { fields, map }])
    };
    let itself = Part::InSet {
        fields: vec![Field::Client, Field::Server],
        set: ITSELF.into(),
        negate: false,
    };
    let hook = Hook {
        kind: ChainKind::Filter,
        point: Point::Forward,
        priority: PRIORITY_FILTER,
    };
    let to_lost = Part::Verdict(Verdict::Goto(LOST.into()));
    let forward = vec![
        // Of what belongs to no connection it cannot be said who has opened it.
        Rule(vec![Part::Unconnected, to_lost]),
        Rule(vec![
            is_isolated(Field::Client, false),
            is_isolated(Field::Server, false),
            Part::Verdict(Verdict::Accept),
        ]),
        lead(Field::Client, EGRESS),
        lead(Field::Server, INGRESS),
        // Once more, lest each of the words be of another moment.
        lead(Field::Client, EGRESS),
        lead(Field::Server, INGRESS),
    ];
    let lost = vec![lost(Field::SourceAddress), lost(Field::DestinationAddress)];
    let refused = vec![
        Rule(vec![itself, Part::Verdict(Verdict::Return)]),
        Rule(vec![Part::Counter, drop()]),
    ];
    let chain = |hook: Option<Hook>, rules: Vec<Rule>| Chain { hook, rules };
    [
        ("forward", chain(Some(hook), forward)),
        (LOST, chain(None, lost)),
        (REFUSED, chain(None, refused)),
    ]
}
