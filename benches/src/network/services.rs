//! Services: the first programming of all, and one change until it is in the kernel.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use clock::Clock;
use host::netns::NetNs;
use host::nft::Family;
use kube::runtime::watcher::Event;
use proxy::metrics::Metrics;
use proxy::program::Programmer;
use proxy::rules::{Node, NodeTopology};
use proxy::state::State;
use serde::{Deserialize, Serialize};

use super::objects::{self, NODE, service, slice};
use super::packets::{self, Packets, Unallocated};
use super::times::{Times, Watch};
use crate::report::Row;
use crate::server::memory_of;

/// What a child saw.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Figures {
    first_ms: f64,
    first_cpu_ms: f64,
    changes: Times,
    again_ms: f64,
    resident_mb: f64,
    own_mb: f64,
    pub packets: Packets,
    /// Of one Service alone: it does not depend on how many there are.
    pub unallocated: Option<Unallocated>,
}

impl Figures {
    pub fn rows(&self, case: &str) -> Vec<Row> {
        let value = |what: &str, unit, value| Row::value(&format!("{case}: {what}"), unit, value);
        let change = format!("{case}: one change until it is in the kernel");
        vec![
            value("first programming", "ms", self.first_ms),
            value("first programming, CPU", "ms", self.first_cpu_ms),
            self.changes.row(change),
            value(
                "read back and compared after a restart",
                "ms",
                self.again_ms,
            ),
            value("proxy, resident", "MB", self.resident_mb),
            value("proxy, not backed by files", "MB", self.own_mb),
        ]
    }
}

fn cluster_ip(index: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 96, 0, 10).to_bits() + index)
}

/// Addresses of a Service's endpoints, the first of them replaced or not.
fn addresses(index: u32, count: u32, replaced: bool) -> Vec<Ipv4Addr> {
    let first = Ipv4Addr::new(11, 0, 0, 0).to_bits() + index * 32;
    let other = if replaced { 16 } else { 0 };
    (0..count)
        .map(|i| if i == 0 { other } else { i })
        .map(|i| Ipv4Addr::from_bits(first + i))
        .collect()
}

struct Proxy {
    state: State,
    metrics: Metrics,
}

impl Proxy {
    fn sync(&mut self, programmer: &mut Programmer) -> Result<()> {
        let touched = self.state.take_touched();
        programmer.sync(&self.state, &touched, &self.metrics)?;
        Ok(())
    }
}

/// What every node has: the rules of no Service.
pub fn program_none() -> Result<Programmer> {
    let mut proxy = Proxy {
        state: State::new(NODE),
        metrics: Metrics::new(Clock::system()),
    };
    let mut programmer = programmer()?;
    proxy.sync(&mut programmer)?;
    Ok(programmer)
}

fn programmer() -> Result<Programmer> {
    let node = Node {
        family: Family::Ip4,
        cluster_cidr: Some("10.244.0.0/16".parse().map_err(anyhow::Error::msg)?),
        loopback_node_ports: false,
        node_port_addresses: Vec::new(),
        masquerade_bit: proxy::MASQUERADE_BIT,
        place: NodeTopology::default(),
    };
    Ok(Programmer::new(node, "tiphys-proxy")?)
}

/// In the child.
pub fn measure(count: u32, endpoints: u32, changes: u32) -> Result<Figures> {
    let lab = packets::Lab::new()?;
    let node: &NetNs = &lab.node;
    let lab = &lab;
    node.run(move || program(lab, count, endpoints, changes))?
}

fn program(lab: &packets::Lab, count: u32, endpoints: u32, changes: u32) -> Result<Figures> {
    let mut proxy = Proxy {
        state: State::new(NODE),
        metrics: Metrics::new(Clock::system()),
    };
    proxy.state.service_event(Event::Init);
    proxy.state.slice_event(Event::Init);
    for index in 0..count {
        let name = format!("s{index}");
        let made = service(&name, cluster_ip(index), "TCP")?;
        proxy.state.service_event(Event::InitApply(made));
        let made = slice(&name, &addresses(index, endpoints, false), "TCP")?;
        proxy.state.slice_event(Event::InitApply(made));
    }
    let target = service(packets::SERVICE, packets::CLUSTER_IP, "UDP")?;
    proxy.state.service_event(Event::InitApply(target));
    let target = slice(packets::SERVICE, &[packets::SERVER], "UDP")?;
    proxy.state.slice_event(Event::InitApply(target));
    proxy.state.service_event(Event::InitDone);
    proxy.state.slice_event(Event::InitDone);

    let mut programmer = programmer()?;
    let watch = Watch::start()?;
    proxy.sync(&mut programmer)?;
    let first = watch.seen()?;
    let memory = memory_of(std::process::id());
    let changes = change(&mut proxy, &mut programmer, count, endpoints, changes)?;
    let packets = lab.measure().context("packets")?;
    let unallocated = match count {
        1 => Some(measure_unallocated(&mut proxy, &mut programmer, lab)?),
        _ => None,
    };

    // Another one finds it all.
    drop(programmer);
    let mut programmer = self::programmer()?;
    let all = proxy
        .state
        .services()
        .map(|(name, _)| name.clone())
        .collect();
    let watch = Watch::start()?;
    programmer.sync(&proxy.state, &all, &proxy.metrics)?;
    let again = watch.seen()?;
    Ok(Figures {
        first_ms: first.0.as_secs_f64() * 1e3,
        first_cpu_ms: first.1.as_secs_f64() * 1e3,
        changes,
        again_ms: again.0.as_secs_f64() * 1e3,
        resident_mb: memory.resident_mb,
        own_mb: memory.own_mb,
        packets,
        unallocated,
    })
}

/// Ranges of Services' addresses come: two, as where the first one was too small.
fn measure_unallocated(
    proxy: &mut Proxy,
    programmer: &mut Programmer,
    lab: &packets::Lab,
) -> Result<Unallocated> {
    let ranges = objects::ranges(&["10.96.0.0/16", "198.51.100.0/24"])?;
    proxy.state.range_event(Event::Apply(ranges));
    proxy.sync(programmer)?;
    let beside = lab.measure().context("packets beside ranges")?;
    let dropped = lab.measure_dropped()?;
    proxy.state.range_event(Event::Apply(objects::ranges(&[])?));
    proxy.sync(programmer)?;
    Ok(Unallocated { beside, dropped })
}

/// In turn an endpoint is replaced, one goes, and it comes back; each in another Service.
fn change(
    proxy: &mut Proxy,
    programmer: &mut Programmer,
    count: u32,
    endpoints: u32,
    changes: u32,
) -> Result<Times> {
    let one = |round: u32| {
        let index = (round / 3).wrapping_mul(7919) % count;
        let mut now = addresses(index, endpoints, round.is_multiple_of(3));
        if round % 3 == 1 {
            now.pop();
        }
        slice(&format!("s{index}"), &now, "TCP")
    };
    let slices = (0..changes).map(one).collect::<Result<Vec<_>>>()?;
    Watch::each(slices, |slice| {
        proxy.state.slice_event(Event::Apply(slice));
        proxy.sync(programmer)
    })
}
