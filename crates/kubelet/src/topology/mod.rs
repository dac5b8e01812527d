//! Where in the machine pods get what they have for themselves: upstream's topology manager, which
//! makes one set of NUMA nodes of what CPUs, memory and devices say of them, and its memory manager, which
//! notes whose memory is where. What a container was given is kept in its pod's folder, as its CPUs
//! are; all else follows from that and from the machine.

pub mod ledger;
pub mod merge;
pub mod nodes;

use crate::checkpoint;
use crate::cpus::{Cpus, Draft};
use crate::devices;
use crate::metrics::COUNTS;
use crate::pod::admit::Refusal;
use crate::pod::resources::{Qos, qos};
use crate::pod::spec;
use crate::quantity::units;
use clock::Instant;
use k8s_openapi::api::core::v1::{Container, Pod};
use ledger::{Amounts, Block, Ledger, use_again};
use merge::{Hint, OfResource, Policy, Rules, Scope, merge};
use nodes::{Machine, Nodes};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where the kernel describes NUMA nodes.
const SYSTEM: &str = "/sys/devices/system/node";
/// The file in a pod's folder.
const FILE: &str = "memory.json";

/// How memory is given, as the configuration says it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryPolicy {
    /// Containers of Guaranteed pods have memory of certain NUMA nodes.
    pub is_static: bool,
    /// What is not given, by NUMA node.
    pub reserved: BTreeMap<u32, Amounts>,
}

/// The NUMA nodes of containers, by their names; a container that may be anywhere has no entry.
pub type Places = BTreeMap<String, Nodes>;

/// What is held, by container.
type OfPod = BTreeMap<String, Vec<Block>>;

/// The NUMA nodes, and who has what of them.
#[derive(Debug)]
pub struct Topology {
    rules: Rules,
    memory: MemoryPolicy,
    machine: Machine,
    pods_dir: PathBuf,
    held: Mutex<BTreeMap<String, OfPod>>,
}

impl Topology {
    /// Of this machine, of which `memory_bytes` are the node's and `kept_bytes` are kept from pods.
    ///
    /// # Errors
    /// The configuration does not fit the machine.
    pub fn new(
        (rules, memory): (Rules, MemoryPolicy),
        cpus: &Cpus,
        (memory_bytes, kept_bytes): (u64, u64),
        pods_dir: PathBuf,
    ) -> Result<Self, String> {
        let machine = if rules.policy == Policy::None && !memory.is_static {
            Machine::default()
        } else {
            Machine::read(Path::new(SYSTEM), &cpus.all(), memory_bytes)?
        };
        Self::on(machine, (rules, memory), kept_bytes, pods_dir)
    }

    fn on(
        machine: Machine,
        (rules, memory): (Rules, MemoryPolicy),
        kept_bytes: u64,
        pods_dir: PathBuf,
    ) -> Result<Self, String> {
        let (have, most) = (machine.0.len(), rules.most_nodes);
        if rules.policy != Policy::None && have > most {
            return Err(format!(
                "unsupported on machines with more than {most} NUMA Nodes"
            ));
        }
        if memory.is_static {
            check_reserved(&machine, &memory, kept_bytes)?;
        }
        Ok(Self {
            rules,
            memory,
            machine,
            pods_dir,
            held: Mutex::default(),
        })
    }

    /// Gives a pod that comes CPUs and memory for its containers, or says why it cannot have them.
    /// `devices` are those that it is to have, which then are given as the answer says.
    pub fn admit(
        &self,
        pod: &Pod,
        cpus: &Cpus,
        devices: Option<devices::Draft>,
    ) -> Result<Places, Refusal> {
        let began = Instant::now();
        let places = self.place(pod, cpus, devices);
        let is_well = self.rules.policy == Policy::None || places.is_ok();
        COUNTS.aligned(began.elapsed(), is_well);
        places
    }

    fn place(
        &self,
        pod: &Pod,
        cpus: &Cpus,
        devices: Option<devices::Draft>,
    ) -> Result<Places, Refusal> {
        if self.rules.policy == Policy::None && !self.memory.is_static {
            return cpus.allocate(pod).map(|()| Places::new());
        }
        let uid = spec::uid(pod);
        let mut held = self.held.lock();
        let has_memory = held.contains_key(uid);
        let mut turn = Turn {
            of: self,
            pod,
            cpus: cpus.draft(pod),
            ledger: (self.memory.is_static && !has_memory).then(|| self.ledger(&held)),
            devices,
            own: OfPod::new(),
            places: Places::new(),
        };
        turn.run()?;
        let Turn {
            cpus, own, places, ..
        } = turn;
        if !own.is_empty() {
            let saved = save(&self.pods_dir.join(uid), &own);
            saved.map_err(|e| refused(&format!("which memory it has cannot be noted: {e}")))?;
            held.insert(uid.to_owned(), own);
        }
        let kept = cpus.map_or(Ok(()), Draft::keep);
        if kept.is_err() && !has_memory {
            held.remove(uid);
        }
        kept.map(|()| places)
    }

    fn ledger(&self, held: &BTreeMap<String, OfPod>) -> Ledger {
        let mut ledger = Ledger::new(&self.machine, &self.memory.reserved);
        let all = held.values().flat_map(BTreeMap::values).flatten();
        all.for_each(|block| ledger.take(block));
        ledger
    }

    /// What an earlier kubelet gave a pod.
    pub fn load(&self, uid: &str) {
        if !self.memory.is_static {
            return;
        }
        match checkpoint::load(&self.pods_dir.join(uid), FILE) {
            Ok(None) => {}
            Ok(Some(own)) => drop(self.held.lock().insert(uid.to_owned(), own)),
            Err(error) => {
                tracing::error!(%error, "which memory a pod has cannot be read");
            }
        }
    }

    /// Nothing of the pod runs any more.
    pub fn forget(&self, uid: &str) {
        self.held.lock().remove(uid);
    }

    /// The memory of certain nodes that a container has.
    #[must_use]
    pub fn blocks(&self, uid: &str, container: &str) -> Vec<Block> {
        let held = self.held.lock();
        let own = held.get(uid).and_then(|own| own.get(container));
        own.cloned().unwrap_or_default()
    }

    /// All memory of certain nodes that can be given, whether somebody has it or not.
    #[must_use]
    pub fn allocatable(&self) -> Vec<Block> {
        if !self.memory.is_static {
            return Vec::new();
        }
        let ledger = Ledger::new(&self.machine, &self.memory.reserved);
        let of = |(node, amounts): (u32, Amounts)| {
            let block = move |(kind, bytes)| Block {
                nodes: vec![node],
                kind,
                bytes,
            };
            amounts.into_iter().map(block)
        };
        ledger.allocatable().into_iter().flat_map(of).collect()
    }

    /// The nodes whose memory a container has, in the runtime's words; empty where nothing is said of
    /// it.
    #[must_use]
    pub fn words(&self, uid: &str, container: &str) -> String {
        let held = self.held.lock();
        let blocks = held.get(uid).and_then(|own| own.get(container));
        let nodes = blocks.into_iter().flatten().flat_map(|b| b.nodes.iter());
        nodes.copied().collect::<Nodes>().to_string()
    }
}

/// One pod that comes.
struct Turn<'a> {
    of: &'a Topology,
    pod: &'a Pod,
    cpus: Option<Draft<'a>>,
    ledger: Option<Ledger>,
    devices: Option<devices::Draft>,
    own: OfPod,
    places: Places,
}

impl Turn<'_> {
    fn run(&mut self) -> Result<(), Refusal> {
        let rules = &self.of.rules;
        let (pod, machine) = (self.pod, &self.of.machine);
        let asks_whole = rules.policy != Policy::None && rules.scope == Scope::Pod;
        let whole = if asks_whole {
            let count = self.cpus.as_ref().map(|c| c.hints_of_pod(machine));
            let memory = of_pod(pod);
            let devices = self.devices.as_ref().map(|d| d.hints_of_pod(machine, pod));
            Some(self.choose(count.unwrap_or_default(), &memory, devices)?)
        } else {
            None
        };
        let init = spec::init_containers(pod).iter();
        for c in init.chain(spec::containers(pod)) {
            let asked = of_container(pod, c);
            let hint = match (whole, rules.policy) {
                (Some(hint), _) => hint,
                (None, Policy::None) => Hint {
                    nodes: None,
                    preferred: false,
                },
                (None, _) => {
                    let count = self.cpus.as_ref().map(|d| d.hints(machine, c));
                    let devices = self.devices.as_ref().map(|d| d.hints(machine, c));
                    self.choose(count.unwrap_or_default(), &asked, devices)?
                }
            };
            if let Some(devices) = &mut self.devices {
                devices.give(pod, c, hint.nodes);
            }
            if let Some(nodes) = hint.nodes {
                self.places.insert(c.name.clone(), nodes);
            }
            if let Some(draft) = &mut self.cpus {
                let within = hint.nodes.map(|nodes| machine.cpus_of(nodes));
                draft.give(c, within.as_ref())?;
            }
            self.give_memory(c, &asked, hint)?;
        }
        Ok(())
    }

    fn choose(
        &self,
        cpus: OfResource,
        memory: &Amounts,
        devices: Option<Vec<OfResource>>,
    ) -> Result<Hint, Refusal> {
        let mut all = devices.unwrap_or_default();
        all.push(cpus);
        if let Some(ledger) = &self.ledger {
            all.extend(ledger.hints(memory));
        }
        let (best, taken) = merge(&self.of.machine, &self.of.rules, &all);
        taken.then_some(best).ok_or_else(|| Refusal {
            reason: "TopologyAffinityError".into(),
            message: "Resources cannot be allocated with Topology locality".into(),
        })
    }

    fn give_memory(&mut self, c: &Container, asked: &Amounts, hint: Hint) -> Result<(), Refusal> {
        let Some(ledger) = self.ledger.as_mut().filter(|_| !asked.is_empty()) else {
            return Ok(());
        };
        let ends = spec::is_init(self.pod, &c.name) && !spec::is_sidecar(c);
        let blocks = ledger.give(asked, hint, ends);
        COUNTS.pinned_memory(blocks.is_ok());
        let blocks = blocks.map_err(|why| refused(&why))?;
        let earlier = spec::init_containers(self.pod).iter();
        let earlier = earlier.take_while(|i| i.name != c.name);
        for i in earlier.filter(|i| !spec::is_sidecar(i)) {
            if let Some(had) = self.own.get_mut(&i.name) {
                use_again(had, &blocks);
            }
        }
        self.own.insert(c.name.clone(), blocks);
        Ok(())
    }
}

/// What is kept on NUMA nodes must be what is kept at all, or else pods are admitted without
/// memory for them.
fn check_reserved(machine: &Machine, memory: &MemoryPolicy, kept: u64) -> Result<(), String> {
    for node in memory.reserved.keys() {
        if !machine.0.contains_key(node) {
            return Err(format!(
                "the reserved memory configuration references a NUMA node {node} that does not exist on this machine"
            ));
        }
    }
    let plain = memory.reserved.values().filter_map(|r| r.get("memory"));
    let sum = plain.fold(0u64, |sum, bytes| sum.saturating_add(*bytes));
    if sum == 0 {
        return Err("[memorymanager] you should specify the system reserved memory".into());
    }
    if sum != kept {
        return Err(format!(
            "the total amount {sum} of type \"memory\" of reservedMemory is not equal to the value {kept} that kubeReserved, systemReserved and evictionHard make together"
        ));
    }
    Ok(())
}

/// Memory that a container of a Guaranteed pod has of certain nodes.
fn of_container(pod: &Pod, c: &Container) -> Amounts {
    // What a pod names as a whole is not divided among containers, as upstream.
    if qos(pod) != Qos::Guaranteed || spec::of(pod).resources.is_some() {
        return Amounts::new();
    }
    let resources = c.resources.as_ref();
    let asked = resources.and_then(|r| r.requests.as_ref().or(r.limits.as_ref()));
    let memory = |name: &str| name == "memory" || name.starts_with("hugepages-");
    let all = asked.into_iter().flatten().filter(|(name, _)| memory(name));
    all.filter_map(|(name, q)| {
        let bytes = u64::try_from(units(&q.0)?).ok().filter(|b| *b > 0)?;
        Some((name.clone(), bytes))
    })
    .collect()
}

/// What all containers of a pod have at the same time at most.
fn of_pod(pod: &Pod) -> Amounts {
    let add = |to: &mut Amounts, more: Amounts| {
        for (kind, bytes) in more {
            let sum = to.entry(kind).or_default();
            *sum = sum.saturating_add(bytes);
        }
    };
    let (mut always, mut most) = (Amounts::new(), Amounts::new());
    for c in spec::init_containers(pod) {
        let mut now = always.clone();
        add(&mut now, of_container(pod, c));
        if spec::is_sidecar(c) {
            always = now;
        } else {
            for (kind, bytes) in now {
                let most = most.entry(kind).or_default();
                *most = (*most).max(bytes);
            }
        }
    }
    for c in spec::containers(pod) {
        add(&mut always, of_container(pod, c));
    }
    for (kind, bytes) in most {
        let sum = always.entry(kind).or_default();
        *sum = (*sum).max(bytes);
    }
    always
}

fn refused(why: &str) -> Refusal {
    Refusal {
        reason: "UnexpectedAdmissionError".into(),
        message: format!("Allocate failed due to {why}, which is unexpected"),
    }
}

fn save(dir: &Path, own: &OfPod) -> std::io::Result<()> {
    crate::volumes::private_folder(dir)?;
    checkpoint::save(dir, FILE, own)
}

#[cfg(test)]
mod tests;
