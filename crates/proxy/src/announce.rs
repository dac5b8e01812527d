//! Addresses of load balancers that belong to no interface: one node, which the control plane
//! chooses, lets its network know that packets for them come here. Which they are is in Services; on
//! which link is decided here; the words are `host::arp`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clock::{Instant, watch};
use host::arp::{Arp, Mac};
use host::netlink::{Netlink, NetlinkError};
use host::nft::Prefix;
use host::podlink::LINK_GROUP;
use tokio::task::JoinHandle;

use crate::model::Service;

/// When an address that moved here is announced, in milliseconds after it did: at once, and again
/// for those who missed that.
const ANNOUNCED_AFTER_MILLISECONDS: [u64; 5] = [0, 300, 1_000, 3_000, 9_000];
/// How often links are looked at, while there is something to announce: they may come, go and
/// change their hardware addresses.
const LOOK_SECONDS: u64 = 5;

/// The addresses that Services ask this node to announce.
pub fn announced_by<'a>(
    node: &str,
    services: impl IntoIterator<Item = &'a Service>,
) -> BTreeSet<Ipv4Addr> {
    let all = services.into_iter().flat_map(|s| &s.announcers);
    let ours = all.filter(|(_, by)| by == node);
    ours.filter_map(|(ip, _)| match ip {
        IpAddr::V4(four) => Some(*four),
        // The control plane gives none of these.
        IpAddr::V6(_) => None,
    })
    .collect()
}

/// A link on which addresses may be announced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its number.
    pub link: u32,
    /// Its hardware address.
    pub mac: Mac,
    /// The networks that it is in.
    pub networks: Vec<Prefix>,
}

/// The link of each address: the one whose network has it, the smallest of several.
pub fn placed(addresses: &BTreeSet<Ipv4Addr>, places: &[Place]) -> BTreeMap<Ipv4Addr, u32> {
    let fit = |place: &Place, ip: Ipv4Addr| -> Option<u8> {
        let around = place.networks.iter().filter(|n| n.contains(ip.into()));
        around.map(|n| n.length).max()
    };
    let place = |ip: &Ipv4Addr| -> Option<(Ipv4Addr, u32)> {
        let fitting = places.iter().filter_map(|p| Some((fit(p, *ip)?, p.link)));
        fitting
            .max_by_key(|(length, _)| *length)
            .map(|(_, link)| (*ip, link))
    };
    addresses.iter().filter_map(place).collect()
}

/// Announces what it is given until it is dropped.
#[derive(Debug)]
pub struct Announcer {
    wanted: watch::Sender<BTreeSet<Ipv4Addr>>,
    task: JoinHandle<()>,
}

impl Announcer {
    /// Announces nothing yet; in the network namespace of the calling thread.
    pub fn start() -> Self {
        let wanted = watch::Sender::new(BTreeSet::new());
        let task = tokio::spawn(run(wanted.subscribe()));
        Self { wanted, task }
    }

    /// From now on these addresses.
    pub fn set(&self, addresses: BTreeSet<Ipv4Addr>) {
        self.wanted.send_if_modified(|now| {
            let changed = *now != addresses;
            *now = addresses;
            changed
        });
    }
}

impl Drop for Announcer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One link on which questions are answered.
struct Listener {
    mac: Mac,
    arp: Arc<Arp>,
    answers: watch::Sender<BTreeSet<Ipv4Addr>>,
    ended: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Listener {
    fn start(place: &Place) -> std::io::Result<Self> {
        let arp = Arc::new(Arp::open(place.link, place.mac)?);
        let answers = watch::Sender::new(BTreeSet::new());
        let ended = Arc::new(AtomicBool::new(false));
        let (own, known, end) = (arp.clone(), answers.subscribe(), ended.clone());
        let task = tokio::spawn(async move {
            if let Err(error) = answer(&own, known).await {
                tracing::warn!(%error, "a link's questions are not heard any more");
            }
            end.store(true, Ordering::Relaxed);
        });
        Ok(Self {
            mac: place.mac,
            arp,
            answers,
            ended,
            task,
        })
    }

    fn serves(&self, place: &Place) -> bool {
        self.mac == place.mac && !self.ended.load(Ordering::Relaxed)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(arp: &Arp, known: watch::Receiver<BTreeSet<Ipv4Addr>>) -> std::io::Result<()> {
    loop {
        let question = arp.question().await?;
        if known.borrow().contains(&question.target) {
            arp.answer(&question)?;
        }
    }
}

#[derive(Default)]
struct State {
    listeners: BTreeMap<u32, Listener>,
    /// Where each address is announced.
    placed: BTreeMap<Ipv4Addr, u32>,
    /// Announcements to come.
    due: Vec<(Instant, Ipv4Addr)>,
    /// What has no place, and was said so.
    homeless: BTreeSet<Ipv4Addr>,
}

async fn run(mut wanted: watch::Receiver<BTreeSet<Ipv4Addr>>) {
    let mut state = State::default();
    let mut look = Instant::now();
    loop {
        let addresses = wanted.borrow_and_update().clone();
        if let Err(error) = state.look(&addresses).await {
            tracing::warn!(%error, "links cannot be looked at; addresses stay where they are");
        }
        state.announce(Instant::now());
        if look <= Instant::now() {
            look = Instant::now() + Duration::from_secs(LOOK_SECONDS);
        }
        let due = state.due.iter().map(|(at, _)| *at).min();
        let next = due.map_or(look, |due| due.min(look));
        tokio::select! {
            biased;
            changed = wanted.changed() => if changed.is_err() { return },
            () = tokio::time::sleep_until(next), if !addresses.is_empty() => {}
        }
    }
}

impl State {
    /// Brings listeners and places up to date.
    async fn look(&mut self, addresses: &BTreeSet<Ipv4Addr>) -> Result<(), NetlinkError> {
        let places = if addresses.is_empty() {
            Vec::new()
        } else {
            places().await?
        };
        let placed = placed(addresses, &places);
        let used: BTreeSet<u32> = placed.values().copied().collect();
        let mut fresh = BTreeSet::new();
        for place in places.iter().filter(|p| used.contains(&p.link)) {
            let old = self.listeners.get(&place.link);
            if old.is_some_and(|l| l.serves(place)) {
                continue;
            }
            match Listener::start(place) {
                Ok(listener) => {
                    self.listeners.insert(place.link, listener);
                    fresh.insert(place.link);
                }
                Err(error) => {
                    tracing::warn!(%error, link = place.link, "addresses are not announced there");
                    self.listeners.remove(&place.link);
                }
            }
        }
        self.listeners.retain(|link, _| used.contains(link));
        for (link, listener) in &self.listeners {
            let here = placed.iter().filter(|(_, on)| *on == link);
            listener
                .answers
                .send_replace(here.map(|(ip, _)| *ip).collect());
        }
        let now = Instant::now();
        self.due.retain(|(_, ip)| placed.contains_key(ip));
        for (ip, link) in &placed {
            if self.placed.get(ip) != Some(link) || fresh.contains(link) {
                let times = ANNOUNCED_AFTER_MILLISECONDS.map(Duration::from_millis);
                self.due.extend(times.map(|after| (now + after, *ip)));
            }
        }
        let homeless = |ip: &&Ipv4Addr| !placed.contains_key(*ip);
        let homeless: BTreeSet<Ipv4Addr> = addresses.iter().filter(homeless).copied().collect();
        for ip in homeless.difference(&self.homeless) {
            tracing::warn!(address = %ip, "no link of this node is in its network: it is not announced");
        }
        self.homeless = homeless;
        self.placed = placed;
        Ok(())
    }

    /// Sends what is due.
    fn announce(&mut self, now: Instant) {
        let (due, later) = self.due.drain(..).partition(|(at, _)| *at <= now);
        self.due = later;
        let due: BTreeSet<Ipv4Addr> = Vec::into_iter(due).map(|(_, ip)| ip).collect();
        for ip in due {
            let listener = self.placed.get(&ip).and_then(|l| self.listeners.get(l));
            let Some(listener) = listener else { continue };
            if let Err(error) = listener.arp.announce(ip) {
                tracing::warn!(%error, address = %ip, "not announced");
            }
        }
    }
}

/// The links that lead to other machines: up, with a hardware address, and no pod's.
async fn places() -> Result<Vec<Place>, NetlinkError> {
    let netlink = Netlink::connect()?;
    let mut places = Vec::new();
    for link in netlink.links().await? {
        let Ok(mac) = Mac::try_from(link.mac.as_slice()) else {
            continue;
        };
        if !link.up || link.group == LINK_GROUP || mac == Mac::default() {
            continue;
        }
        let networks = netlink.addresses(Some(link.index)).await?;
        places.push(Place {
            link: link.index,
            mac,
            networks,
        });
    }
    Ok(places)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> Ipv4Addr {
        text.parse().expect("an address")
    }

    #[test]
    fn an_address_is_announced_where_its_network_is() {
        let place = |link, networks: &[&str]| Place {
            link,
            mac: [2, 0, 0, 0, 0, 1],
            networks: networks
                .iter()
                .map(|n| n.parse().expect("a network"))
                .collect(),
        };
        let places = [
            place(2, &["10.0.0.5/8", "2001:db8::5/64"]),
            place(3, &["192.0.2.5/24", "10.1.0.5/16"]),
            place(4, &["10.2.0.5/32"]),
        ];
        let all = ["10.9.0.1", "10.1.0.9", "192.0.2.77", "198.51.100.1"].map(ip);
        let placed = placed(&BTreeSet::from(all), &places);
        let expected = [("10.9.0.1", 2), ("10.1.0.9", 3), ("192.0.2.77", 3)];
        assert_eq!(placed, expected.map(|(a, l)| (ip(a), l)).into());
    }

    #[test]
    fn a_node_announces_what_services_ask_it_to() {
        let service = |pairs: &[(&str, &str)]| Service {
            announcers: pairs
                .iter()
                .map(|(ip, node)| (ip.parse().expect("an address"), (*node).to_owned()))
                .collect(),
            ..Service::default()
        };
        let services = [
            service(&[("192.0.2.1", "a")]),
            service(&[("192.0.2.2", "b"), ("2001:db8::1", "a")]),
            service(&[]),
        ];
        assert_eq!(announced_by("a", &services), [ip("192.0.2.1")].into());
        assert_eq!(announced_by("c", &services), BTreeSet::new());
    }
}
