//! Finds devices for claims on one node: the first of all ways that meets every request, in a fixed
//! order of pools, slices and devices (documentation "Dynamic Resource Allocation"). A search that
//! goes back where it gets stuck; what it takes it gives back.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::capacity::{self, Amounts};
use super::pools::Pool;
use super::requests::{Constraint, Request, WantedClaim};
use super::slices::{Attribute, Counters, Device, DeviceId, Slice};
use super::store::Allocated;
use crate::node::Node;

/// Devices of one claim, at most; the API's limit.
pub const MOST_DEVICES: usize = 32;
/// Devices that are tried for one node, and for all nodes of one decision: what takes longer is given
/// up, as upstream does after ten seconds. Some tenths of a second, for which no other pod is decided.
const MOST_TRIES: usize = 100_000;
const MOST_TRIES_OF_A_POD: usize = 1_000_000;

/// Why there is no answer for a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nothing suits.
    None,
    /// Something is wrong with the claim, a class or the devices.
    Wrong(String),
    TooLong,
}

/// A device that a request gets.
#[derive(Clone, Debug)]
pub struct Chosen<'a> {
    pub id: DeviceId,
    pub slice: &'a Slice,
    pub device: &'a Device,
    /// The place of the request in its claim, and of the alternative in that.
    pub request: usize,
    pub alternative: usize,
    /// Of a device that several may have.
    pub taken: Option<Amounts>,
    counted: bool,
}

/// What one decision knows of all nodes: which request meets which devices, and how many were tried.
#[derive(Debug, Default)]
pub struct Matches {
    known: RefCell<HashMap<(usize, usize, usize, DeviceId), bool>>,
    tries: Cell<usize>,
}

/// A place in the search.
#[derive(Clone, Copy)]
struct At {
    claim: usize,
    request: usize,
    alternative: usize,
    /// How many devices of the request there are.
    device: usize,
}

/// Pool, slice and device from which to look on.
type From = (usize, usize, usize);

enum Stop {
    Failure(Failure),
    /// More devices than a claim may have: another alternative may need fewer.
    TooMany,
}

pub struct Search<'a> {
    claims: &'a [WantedClaim<'a>],
    node: &'a Node,
    pools: &'a [Pool<'a>],
    before: &'a Allocated,
    matches: &'a Matches,
    /// Devices that requests for all get, by claim, request and alternative.
    all: BTreeMap<(usize, usize, usize), Vec<From>>,
    /// Which claims take a device for themselves.
    taking: BTreeMap<DeviceId, BTreeSet<usize>>,
    taking_capacity: BTreeMap<DeviceId, Vec<Amounts>>,
    /// What is left of the counters of each pool, once it was asked for.
    left: BTreeMap<usize, Counters>,
    chosen: Vec<Vec<Chosen<'a>>>,
    tries: usize,
}

/// Devices for each claim.
///
/// # Errors
/// Why there are none on this node.
pub fn allocate<'a>(
    claims: &'a [WantedClaim<'a>],
    node: &'a Node,
    pools: &'a [Pool<'a>],
    before: &'a Allocated,
    matches: &'a Matches,
) -> Result<Vec<Vec<Chosen<'a>>>, Failure> {
    let mut search = Search {
        claims,
        node,
        pools,
        before,
        matches,
        all: BTreeMap::new(),
        taking: BTreeMap::new(),
        taking_capacity: BTreeMap::new(),
        left: BTreeMap::new(),
        chosen: vec![Vec::new(); claims.len()],
        tries: 0,
    };
    search.count()?;
    let first = At {
        claim: 0,
        request: 0,
        alternative: 0,
        device: 0,
    };
    match search.request(first) {
        Ok(true) => Ok(search.chosen),
        Ok(false) | Err(Stop::TooMany) => Err(match pools.iter().find(|p| p.invalid.is_some()) {
            Some(_) => Failure::Wrong("invalid resource pools were encountered".to_owned()),
            None => Failure::None,
        }),
        Err(Stop::Failure(failure)) => Err(failure),
    }
}

impl<'a> Search<'a> {
    fn wanted(&self, at: At) -> Option<&'a Request<'a>> {
        let claim = self.claims.get(at.claim)?;
        claim.requests.get(at.request)?.get(at.alternative)
    }

    /// Finds out what "all" means, and refuses claims that need too many devices in any case.
    fn count(&mut self) -> Result<(), Failure> {
        for (c, claim) in self.claims.iter().enumerate() {
            let mut least = 0usize;
            for (r, alternatives) in claim.requests.iter().enumerate() {
                let mut fewest = usize::MAX;
                for (a, request) in alternatives.iter().enumerate() {
                    let at = At {
                        claim: c,
                        request: r,
                        alternative: a,
                        device: 0,
                    };
                    let count = match request.count {
                        Some(count) => count,
                        None => self.gather_all(at, claim, request)?,
                    };
                    fewest = fewest.min(count);
                }
                least = least.saturating_add(fewest);
            }
            if least > MOST_DEVICES {
                return Err(Failure::Wrong(format!(
                    "claim {}: number of requested devices {least} exceeds the claim limit of \
                     {MOST_DEVICES}",
                    claim.key
                )));
            }
        }
        Ok(())
    }

    fn gather_all(
        &mut self,
        at: At,
        claim: &WantedClaim<'_>,
        request: &'a Request<'a>,
    ) -> Result<usize, Failure> {
        let mut found = Vec::new();
        for (p, pool) in self.pools.iter().enumerate() {
            if !pool.usable() {
                let why = if pool.incomplete {
                    "being updated"
                } else {
                    "invalid"
                };
                return Err(Failure::Wrong(format!(
                    "claim {}, request {}: asks for all devices, but resource pool {}/{} is \
                     currently {why}",
                    claim.key, request.name, pool.driver, pool.name
                )));
            }
            for (s, slice) in pool.slices.iter().enumerate() {
                for (d, device) in slice.devices.iter().enumerate() {
                    if self.selectable(at, request, slice, device)?
                        && self.enough(request, &slice.id(device), device).is_some()
                    {
                        found.push((p, s, d));
                    }
                }
            }
        }
        let count = found.len();
        self.all
            .insert((at.claim, at.request, at.alternative), found);
        Ok(count)
    }

    /// Goes on with the next request: tries its alternatives, the first first.
    fn request(&mut self, at: At) -> Result<bool, Stop> {
        let Some(claim) = self.claims.get(at.claim) else {
            return Ok(true);
        };
        let Some(alternatives) = claim.requests.get(at.request) else {
            let next = At {
                claim: at.claim + 1,
                request: 0,
                alternative: 0,
                device: 0,
            };
            return match self.request(next) {
                // With other devices of this claim the next one may need fewer.
                Err(Stop::TooMany) => Ok(false),
                other => other,
            };
        };
        let mut too_many = true;
        for alternative in 0..alternatives.len() {
            let at = At {
                alternative,
                device: 0,
                ..at
            };
            match self.devices(at, (0, 0, 0)) {
                Err(Stop::TooMany) => {}
                Ok(false) => too_many = false,
                other => return other,
            }
        }
        if too_many {
            return Err(Stop::TooMany);
        }
        Ok(false)
    }

    /// Takes the next device of a request.
    fn devices(&mut self, at: At, from: From) -> Result<bool, Stop> {
        let Some(request) = self.wanted(at) else {
            return Ok(false);
        };
        let key = (at.claim, at.request, at.alternative);
        let count = match request.count {
            Some(count) => count,
            None => self.all.get(&key).map_or(0, Vec::len),
        };
        // All of nothing is not enough.
        if count == 0 && request.count.is_none() {
            return Ok(false);
        }
        if at.device >= count {
            return self.request(At {
                request: at.request + 1,
                alternative: 0,
                device: 0,
                ..at
            });
        }
        let have = self.chosen.get(at.claim).map_or(0, Vec::len);
        if have.saturating_add(count).saturating_sub(at.device) > MOST_DEVICES {
            return Err(Stop::TooMany);
        }
        let next = At {
            device: at.device + 1,
            ..at
        };
        if request.count.is_none() {
            let Some(place) = self.all.get(&key).and_then(|all| all.get(at.device)) else {
                return Ok(false);
            };
            // Which one is next does not matter: all are needed.
            return self.try_device(at, request, *place, next);
        }
        self.any_device(at, request, from, next)
    }

    fn any_device(
        &mut self,
        at: At,
        request: &'a Request<'a>,
        (p0, s0, d0): From,
        next: At,
    ) -> Result<bool, Stop> {
        let pools = self.pools;
        for (p, pool) in pools.iter().enumerate().skip(p0) {
            if !pool.usable() {
                continue;
            }
            let first_slice = if p == p0 { s0 } else { 0 };
            for (s, slice) in pool.slices.iter().enumerate().skip(first_slice) {
                let first = if (p, s) == (p0, s0) { d0 } else { 0 };
                for (d, device) in slice.devices.iter().enumerate().skip(first) {
                    self.one_more()?;
                    let id = slice.id(device);
                    if self.in_use(at, request, &id) {
                        continue;
                    }
                    let suits = self.selectable(at, request, slice, device);
                    if suits.map_err(Stop::Failure)?
                        && self.try_device(at, request, (p, s, d), next)?
                    {
                        return Ok(true);
                    }
                }
            }
        }
        Ok(false)
    }

    fn one_more(&mut self) -> Result<(), Stop> {
        self.tries += 1;
        let all = self.matches.tries.get() + 1;
        self.matches.tries.set(all);
        if self.tries > MOST_TRIES || all > MOST_TRIES_OF_A_POD {
            return Err(Stop::Failure(Failure::TooLong));
        }
        Ok(())
    }

    fn in_use(&self, at: At, request: &Request<'_>, id: &DeviceId) -> bool {
        let by = self.taking.get(id);
        if request.admin {
            return by.is_some_and(|claims| claims.contains(&at.claim));
        }
        self.before.devices.contains(id) || by.is_some_and(|claims| !claims.is_empty())
    }

    fn selectable(
        &self,
        at: At,
        request: &Request<'_>,
        slice: &Slice,
        device: &Device,
    ) -> Result<bool, Failure> {
        if slice.place.is_none() && !device.place.has(self.node) {
            return Ok(false);
        }
        let id = slice.id(device);
        let key = (at.claim, at.request, at.alternative, id);
        if let Some(known) = self.matches.known.borrow().get(&key) {
            return Ok(*known);
        }
        let matches = request.selects(&slice.driver, device);
        let matches = matches.map_err(Failure::Wrong)?;
        self.matches.known.borrow_mut().insert(key, matches);
        Ok(matches)
    }

    /// What the request takes of the device's capacity, if there is enough.
    fn enough(&self, request: &Request<'_>, id: &DeviceId, device: &Device) -> Option<Amounts> {
        let taken = capacity::taken(&request.capacity, &device.capacity)?;
        let now = self.taking_capacity.get(id).into_iter().flatten();
        let used: Vec<Option<&Amounts>> = now
            .map(Some)
            .chain([self.before.capacity.get(id)])
            .collect();
        capacity::fits(&taken, &device.capacity, &used).then_some(taken)
    }

    /// Takes a device and goes on; gives it back where that leads nowhere.
    fn try_device(
        &mut self,
        at: At,
        request: &'a Request<'a>,
        (p, s, d): From,
        next: At,
    ) -> Result<bool, Stop> {
        let pools = self.pools;
        let Some(pool) = pools.get(p) else {
            return Ok(false);
        };
        let Some(slice) = pool.slices.get(s).copied() else {
            return Ok(false);
        };
        let Some(device) = slice.devices.get(d) else {
            return Ok(false);
        };
        let id = slice.id(device);
        if self.in_use(at, request, &id)
            || !request.tolerates(device)
            || !self.keeps_constraints(at, request, slice, device)
        {
            return Ok(false);
        }
        let Some(taken) = self.enough(request, &id, device) else {
            return Ok(false);
        };
        // Who shares a device shares what it takes of the counters.
        let shared_already = device.shared
            && (self.before.capacity.contains_key(&id) || self.taking_capacity.contains_key(&id));
        let counts = !device.consumes.is_empty() && !shared_already;
        if counts && !self.take_counters(p, device) {
            return Ok(false);
        }
        if device.shared {
            let sums = self.taking_capacity.entry(id.clone()).or_default();
            sums.push(taken.clone());
        } else {
            self.taking.entry(id.clone()).or_default().insert(at.claim);
        }
        let chosen = Chosen {
            id: id.clone(),
            slice,
            device,
            request: at.request,
            alternative: at.alternative,
            taken: device.shared.then_some(taken),
            counted: counts,
        };
        if let Some(list) = self.chosen.get_mut(at.claim) {
            list.push(chosen);
        }
        let done = self.devices(next, (p, s, d + 1));
        if !matches!(done, Ok(true)) {
            self.give_back(at, p, &id);
        }
        done
    }

    fn give_back(&mut self, at: At, pool: usize, id: &DeviceId) {
        let Some(chosen) = self.chosen.get_mut(at.claim).and_then(Vec::pop) else {
            return;
        };
        if chosen.device.shared {
            if let Some(sums) = self.taking_capacity.get_mut(id) {
                sums.pop();
                if sums.is_empty() {
                    self.taking_capacity.remove(id);
                }
            }
        } else if let Some(claims) = self.taking.get_mut(id) {
            claims.remove(&at.claim);
        }
        if chosen.counted
            && let Some(left) = self.left.get_mut(&pool)
        {
            for (counter, amount) in &chosen.device.consumes {
                if let Some(left) = left.get_mut(counter) {
                    *left = *left + *amount;
                }
            }
        }
    }

    /// Takes what a device needs of its pool's counters, if there is enough of all.
    fn take_counters(&mut self, at: usize, device: &Device) -> bool {
        let (pools, before) = (self.pools, self.before);
        let left = self.left.entry(at).or_insert_with(|| {
            let Some(pool) = pools.get(at) else {
                return Counters::new();
            };
            let mut left = pool.counters.clone();
            let taken = pool.all_devices().filter(|(id, _)| before.has(id));
            for (counter, amount) in taken.flat_map(|(_, device)| &device.consumes) {
                if let Some(left) = left.get_mut(counter) {
                    *left = *left - *amount;
                }
            }
            left
        });
        let mut needs = device.consumes.iter();
        if !needs.all(|(counter, amount)| left.get(counter).is_some_and(|l| amount <= l)) {
            return false;
        }
        for (counter, amount) in &device.consumes {
            if let Some(left) = left.get_mut(counter) {
                *left = *left - *amount;
            }
        }
        true
    }

    fn keeps_constraints(
        &self,
        at: At,
        request: &Request<'_>,
        slice: &Slice,
        device: &Device,
    ) -> bool {
        let Some(claim) = self.claims.get(at.claim) else {
            return false;
        };
        let others = || self.chosen.get(at.claim).into_iter().flatten();
        let mut constraints = claim.constraints.iter();
        constraints.all(|constraint| {
            if !constraint.is_about(request) {
                return true;
            }
            let name = constraint.attribute();
            let Some(own) = device.attribute(&slice.driver, name) else {
                return false;
            };
            let mut concerned = others().filter(|c| {
                let of = claim.requests.get(c.request);
                let of = of.and_then(|r| r.get(c.alternative));
                of.is_some_and(|r| constraint.is_about(r))
            });
            concerned.all(|c| {
                let other = c.device.attribute(&c.slice.driver, name);
                match constraint {
                    Constraint::Match { .. } => *own != Attribute::Unknown && other == Some(own),
                    Constraint::Distinct { .. } => *own != Attribute::Unknown && other != Some(own),
                }
            })
        })
    }
}
