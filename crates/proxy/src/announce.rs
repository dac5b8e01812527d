//! Addresses of load balancers that belong to no interface: one node, which the control plane
//! chooses, lets its network know that packets for them come here. Which they are is in Services; on
//! which link is decided here; the words are `host::arp`. Another one, which it chooses too, takes
//! over as soon as the first is silent (`standby`), and gives back when that one speaks again, until
//! the control plane has decided again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clock::{Instant, watch};
use host::arp::{Arp, Mac};
use host::ndp::Ndp;
use host::netlink::{Netlink, NetlinkError};
use host::nft::{Family, Prefix};
use host::podlink::LINK_GROUP;
use tokio::task::JoinHandle;

use crate::model::Service;
use crate::standby::Watchman;

/// When an address that moved here is announced, in milliseconds after it did: at once, and again
/// for those who missed that.
const ANNOUNCED_AFTER_MILLISECONDS: [u64; 5] = [0, 300, 1_000, 3_000, 9_000];
/// How often links are looked at, while there is something to announce: they may come, go and
/// change their hardware addresses.
const LOOK_SECONDS: u64 = 5;

/// The addresses that Services ask this node to announce.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AnnouncedAddresses {
    /// At any time.
    pub always: BTreeSet<IpAddr>,
    /// While the node that has it is gone: where that is asked.
    pub instead: BTreeMap<IpAddr, IpAddr>,
}

impl AnnouncedAddresses {
    /// What the node of this name is asked for.
    pub fn of<'a>(node: &str, services: impl IntoIterator<Item = &'a Service>) -> Self {
        let mut wanted = Self::default();
        for service in services {
            let ours = service.announcers.iter().filter(|(_, by)| by == node);
            wanted.always.extend(ours.map(|(ip, _)| *ip));
            let ours = service.standbys.iter().filter(|s| s.node == node);
            wanted.instead.extend(ours.map(|s| (s.ip, s.asks)));
        }
        wanted.instead.retain(|ip, _| !wanted.always.contains(ip));
        wanted
    }
}

/// A link on which addresses may be announced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnnouncingLink {
    /// Its number.
    pub link: u32,
    /// Its name.
    pub name: String,
    /// Its hardware address.
    pub mac: Mac,
    /// The networks that it is in.
    pub networks: Vec<Prefix>,
}

/// The link of each address: the one whose network has it, the smallest of several.
pub fn placed(addresses: &BTreeSet<IpAddr>, places: &[AnnouncingLink]) -> BTreeMap<IpAddr, u32> {
    let fit = |place: &AnnouncingLink, ip: IpAddr| -> Option<u8> {
        let around = place.networks.iter().filter(|n| n.contains(ip));
        around.map(|n| n.length).max()
    };
    let place = |ip: &IpAddr| -> Option<(IpAddr, u32)> {
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
    wanted: watch::Sender<AnnouncedAddresses>,
    task: JoinHandle<()>,
}

impl Announcer {
    /// Announces nothing yet; in the network namespace of the calling thread.
    pub fn start() -> Self {
        let wanted = watch::Sender::new(AnnouncedAddresses::default());
        let task = tokio::spawn(run(wanted.subscribe()));
        Self { wanted, task }
    }

    /// From now on these addresses.
    pub fn set(&self, wanted: AnnouncedAddresses) {
        self.wanted.send_if_modified(|now| {
            let changed = *now != wanted;
            *now = wanted;
            changed
        });
    }
}

impl Drop for Announcer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One link on which questions about addresses of a family are answered.
struct Listener {
    mac: Mac,
    voice: Voice,
}

/// Who answers them.
enum Voice {
    /// Of IPv4, a task of ours.
    Arp {
        arp: Arc<Arp>,
        answers: watch::Sender<BTreeSet<IpAddr>>,
        ended: Arc<AtomicBool>,
        task: JoinHandle<()>,
    },
    /// Of IPv6, the kernel.
    Ndp(Ndp),
}

impl Listener {
    fn start(place: &AnnouncingLink, family: Family) -> std::io::Result<Self> {
        let voice = match family {
            Family::Ip4 => Voice::listen(place)?,
            Family::Ip6 => Voice::Ndp(Ndp::open(place.link, &place.name)?),
        };
        let mac = place.mac;
        Ok(Self { mac, voice })
    }

    fn serves(&self, place: &AnnouncingLink) -> bool {
        let alive = match &self.voice {
            Voice::Arp { ended, .. } => !ended.load(Ordering::Relaxed),
            Voice::Ndp(_) => true,
        };
        self.mac == place.mac && alive
    }

    /// From now on these are answered for; of IPv6 by `answer_by_kernel`.
    fn set(&self, addresses: BTreeSet<IpAddr>) {
        if let Voice::Arp { answers, .. } = &self.voice {
            answers.send_replace(addresses);
        }
    }

    /// Tells everybody that whoever has the hardware address has the address.
    fn announce(&self, address: IpAddr, mac: Mac) -> std::io::Result<()> {
        match (&self.voice, address) {
            (Voice::Arp { arp, .. }, IpAddr::V4(four)) => arp.announce(four, mac),
            (Voice::Ndp(ndp), IpAddr::V6(six)) => ndp.announce(six, mac),
            _ => Ok(()),
        }
    }
}

impl Voice {
    fn listen(place: &AnnouncingLink) -> std::io::Result<Self> {
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
        Ok(Self::Arp {
            arp,
            answers,
            ended,
            task,
        })
    }
}

impl Drop for Voice {
    fn drop(&mut self) {
        if let Self::Arp { task, .. } = self {
            task.abort();
        }
    }
}

/// Brings what the kernel answers for to what is placed. What an earlier run left is removed, too.
async fn answer_by_kernel(
    netlink: &Netlink,
    placed: &BTreeMap<IpAddr, u32>,
) -> Result<(), NetlinkError> {
    let six = |(ip, link): (&IpAddr, &u32)| match ip {
        IpAddr::V6(six) => Some((*link, *six)),
        IpAddr::V4(_) => None,
    };
    let wanted: BTreeSet<(u32, Ipv6Addr)> = placed.iter().filter_map(six).collect();
    let present: BTreeSet<_> = netlink.proxies().await?.into_iter().collect();
    for (link, ip) in present.difference(&wanted) {
        netlink.delete_proxy(*link, *ip).await?;
    }
    for (link, ip) in wanted.difference(&present) {
        netlink.set_proxy(*link, *ip).await?;
    }
    Ok(())
}

async fn answer(arp: &Arp, known: watch::Receiver<BTreeSet<IpAddr>>) -> std::io::Result<()> {
    loop {
        let question = arp.question().await?;
        if known.borrow().contains(&question.target.into()) {
            arp.answer(&question)?;
        }
    }
}

#[derive(Default)]
struct State {
    listeners: BTreeMap<(u32, Family), Listener>,
    /// Where each address is announced.
    placed: BTreeMap<IpAddr, u32>,
    /// Announcements to come.
    due: Vec<(Instant, IpAddr)>,
    /// What has no place, and was said so.
    homeless: BTreeSet<IpAddr>,
    /// What an earlier run had the kernel answer for was looked at.
    cleaned: bool,
}

async fn run(mut wanted: watch::Receiver<AnnouncedAddresses>) {
    let mut state = State::default();
    let mut watchman = Watchman::default();
    let mut taken = BTreeSet::new();
    let mut look = Instant::now();
    loop {
        let AnnouncedAddresses { always, instead } = wanted.borrow_and_update().clone();
        watchman.watch(&instead.values().copied().collect());
        let gone = instead.iter().filter(|(_, asks)| watchman.is_gone(**asks));
        let now: BTreeSet<IpAddr> = gone.map(|(ip, _)| *ip).collect();
        for ip in now.difference(&taken) {
            let node = instead.get(ip);
            tracing::info!(address = %ip, ?node, "the node that has it is silent: it is announced here");
        }
        for (ip, asks) in instead
            .iter()
            .filter(|(ip, _)| taken.contains(ip) && !now.contains(ip))
        {
            state.give_back(*ip, *asks).await;
        }
        taken = now;
        let addresses = &always | &taken;
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
            () = watchman.changed(), if watchman.is_asking() => {}
            () = tokio::time::sleep_until(next), if !addresses.is_empty() => {}
        }
    }
}

impl State {
    /// Brings listeners and places up to date.
    async fn look(&mut self, addresses: &BTreeSet<IpAddr>) -> Result<(), NetlinkError> {
        let places = if addresses.is_empty() {
            Vec::new()
        } else {
            places().await?
        };
        let placed = placed(addresses, &places);
        let place_of = |(ip, link): (&IpAddr, &u32)| (*link, Family::of(*ip));
        let used: BTreeSet<(u32, Family)> = placed.iter().map(place_of).collect();
        let mut fresh = BTreeSet::new();
        for key in &used {
            let Some(place) = places.iter().find(|p| p.link == key.0) else {
                continue;
            };
            let old = self.listeners.get(key);
            if old.is_some_and(|l| l.serves(place)) {
                continue;
            }
            match Listener::start(place, key.1) {
                Ok(listener) => {
                    self.listeners.insert(*key, listener);
                    fresh.insert(*key);
                }
                Err(error) => {
                    tracing::warn!(%error, link = place.link, "addresses are not announced there");
                    self.listeners.remove(key);
                }
            }
        }
        self.listeners.retain(|key, _| used.contains(key));
        for (key, listener) in &self.listeners {
            let here = placed.iter().filter(|at| place_of(*at) == *key);
            listener.set(here.map(|(ip, _)| *ip).collect());
        }
        let six = |ip: &IpAddr| ip.is_ipv6();
        // Without IPv6 nothing is asked of the kernel that it could not do; what was left by an
        // earlier run is looked for once.
        if !self.cleaned || placed.keys().chain(self.placed.keys()).any(six) {
            let kernel = answer_by_kernel(&Netlink::connect()?, &placed).await;
            match kernel {
                Err(error) if placed.keys().any(six) => return Err(error),
                _ => self.cleaned = true,
            }
        }
        let now = Instant::now();
        self.due.retain(|(_, ip)| placed.contains_key(ip));
        for (ip, link) in &placed {
            if self.placed.get(ip) != Some(link) || fresh.contains(&place_of((ip, link))) {
                let times = ANNOUNCED_AFTER_MILLISECONDS.map(Duration::from_millis);
                self.due.extend(times.map(|after| (now + after, *ip)));
            }
        }
        let homeless = |ip: &&IpAddr| !placed.contains_key(*ip);
        let homeless: BTreeSet<IpAddr> = addresses.iter().filter(homeless).copied().collect();
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
        let due: BTreeSet<IpAddr> = Vec::into_iter(due).map(|(_, ip)| ip).collect();
        for ip in due {
            let Some((_, listener)) = self.listener(ip) else {
                continue;
            };
            if let Err(error) = listener.announce(ip, listener.mac) {
                tracing::warn!(%error, address = %ip, "not announced");
            }
        }
    }

    /// The link that an address is announced on.
    fn listener(&self, ip: IpAddr) -> Option<(u32, &Listener)> {
        let link = *self.placed.get(&ip)?;
        Some((link, self.listeners.get(&(link, Family::of(ip)))?))
    }

    /// Tells everybody that the node which is asked at `at` has the address again. It does not know
    /// that it was thought to be gone.
    async fn give_back(&self, ip: IpAddr, at: IpAddr) {
        tracing::info!(address = %ip, node = %at, "the node that has it is back");
        let Some((link, listener)) = self.listener(ip) else {
            return;
        };
        let told = async {
            let known = Netlink::connect()?.neighbours(link).await?;
            let mac = known.into_iter().find(|(neighbour, _)| *neighbour == at);
            Ok::<_, NetlinkError>(mac.and_then(|(_, mac)| Mac::try_from(mac.as_slice()).ok()))
        };
        let told = match told.await {
            Ok(Some(mac)) => listener.announce(ip, mac).map_err(|e| e.to_string()),
            Ok(None) => Err("it is not a neighbour".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = told {
            tracing::warn!(%error, address = %ip, "neighbours find out by themselves where it is");
        }
    }
}

/// The links that lead to other machines: up, with a hardware address, and no pod's.
async fn places() -> Result<Vec<AnnouncingLink>, NetlinkError> {
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
        places.push(AnnouncingLink {
            link: link.index,
            name: link.name,
            mac,
            networks,
        });
    }
    Ok(places)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Standby;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn an_address_is_announced_where_its_network_is() {
        let place = |link, networks: &[&str]| AnnouncingLink {
            link,
            name: format!("eth{link}"),
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
        let all = [
            "10.9.0.1",
            "10.1.0.9",
            "192.0.2.77",
            "198.51.100.1",
            "2001:db8::77",
            "2001:db9::77",
        ];
        let placed = placed(&BTreeSet::from(all.map(ip)), &places);
        let expected = [
            ("10.9.0.1", 2),
            ("10.1.0.9", 3),
            ("192.0.2.77", 3),
            ("2001:db8::77", 2),
        ];
        assert_eq!(placed, expected.map(|(a, l)| (ip(a), l)).into());
    }

    #[test]
    fn a_node_announces_what_services_ask_it_to() {
        let service = |pairs: &[(&str, &str)], standbys: &[(&str, &str, &str)]| Service {
            announcers: pairs
                .iter()
                .map(|(i, n)| (ip(i), (*n).to_owned()))
                .collect(),
            standbys: standbys
                .iter()
                .map(|(i, node, asks)| Standby {
                    ip: ip(i),
                    node: (*node).to_owned(),
                    asks: ip(asks),
                })
                .collect(),
            ..Service::default()
        };
        let services = [
            service(&[("192.0.2.1", "a")], &[("192.0.2.1", "b", "10.0.0.1")]),
            service(
                &[("192.0.2.2", "b"), ("2001:db8::1", "a")],
                &[
                    ("192.0.2.2", "a", "10.0.0.2"),
                    ("2001:db8::1", "a", "10.0.0.1"),
                ],
            ),
            service(&[], &[]),
        ];
        let wanted = AnnouncedAddresses::of("a", &services);
        assert_eq!(wanted.always, ["192.0.2.1", "2001:db8::1"].map(ip).into());
        // Not what it announces already.
        assert_eq!(wanted.instead, [(ip("192.0.2.2"), ip("10.0.0.2"))].into());
        assert_eq!(
            AnnouncedAddresses::of("c", &services),
            AnnouncedAddresses::default()
        );
    }
}
