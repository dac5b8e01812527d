//! Whether nodes that announce addresses are still there, asked by the nodes that would take over.
//! The control plane hears of a death by missing heartbeats, which takes seconds, and may be away
//! itself; their network does not wait for it.
//!
//! It is the node's kernel that answers, so that a proxy that starts again loses no connection. A
//! node that never answered, as behind a filter of ICMP, is never believed to be gone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use clock::Instant;
use host::nft::Family;
use host::ping::Ping;

/// Between two questions.
const ASK_MILLISECONDS: u64 = 250;
/// So many questions without an answer: the node is gone, after a second and a bit.
const MISSED: u32 = 4;
/// So many answers in a row of one that was gone: it is back, and not only for a moment.
const ANSWERED: u32 = 8;
/// So many questions that were never answered are said once.
const NEVER: u32 = 40;

/// What is known of a node by its answers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Liveness {
    /// It has answered once.
    known: bool,
    gone: bool,
    /// The last question has no answer yet.
    waiting: bool,
    /// Questions without an answer since the last one.
    missed: u32,
    /// Answers since the last question without one.
    answered: u32,
}

impl Liveness {
    /// The next question is due: what the last one has not brought by now is missed.
    pub fn ask(&mut self) {
        if self.waiting {
            self.missed = self.missed.saturating_add(1);
            self.answered = 0;
            self.gone |= self.known && self.missed >= MISSED;
        }
        self.waiting = true;
    }

    /// An answer came.
    pub fn answer(&mut self) {
        self.known = true;
        self.waiting = false;
        self.missed = 0;
        self.answered = self.answered.saturating_add(1);
        self.gone &= self.answered < ANSWERED;
    }

    /// Whether its addresses are to be taken over.
    pub fn is_gone(&self) -> bool {
        self.gone
    }

    /// Whether it is just now that it should have answered at least once.
    fn is_mute(&self) -> bool {
        !self.known && self.missed == NEVER
    }
}

/// Asks nodes.
#[derive(Debug, Default)]
pub struct Watchman {
    nodes: BTreeMap<IpAddr, Liveness>,
    pings: BTreeMap<Family, Ping>,
    due: Option<Instant>,
    number: u16,
}

impl Watchman {
    /// From now on asks at these addresses; what is known of those that stay is kept.
    pub fn watch(&mut self, addresses: &BTreeSet<IpAddr>) {
        self.nodes.retain(|ip, _| addresses.contains(ip));
        for ip in addresses {
            self.nodes.entry(*ip).or_default();
        }
        let families: BTreeSet<Family> = addresses.iter().map(|ip| Family::of(*ip)).collect();
        self.pings.retain(|family, _| families.contains(family));
        for family in families {
            if self.pings.contains_key(&family) {
                continue;
            }
            match Ping::open(family) {
                Ok(ping) => {
                    self.pings.insert(family, ping);
                }
                Err(error) => tracing::warn!(
                    %error,
                    "nodes cannot be asked: their addresses move when the control plane says so"
                ),
            }
        }
    }

    /// Whether anybody is asked.
    pub fn is_asking(&self) -> bool {
        !self.pings.is_empty()
    }

    /// Whether the node with this address is gone.
    pub fn is_gone(&self, address: IpAddr) -> bool {
        self.nodes.get(&address).is_some_and(Liveness::is_gone)
    }

    /// Asks on until a node has gone or come back. Nothing is lost when it is left and called again.
    pub async fn changed(&mut self) {
        let gone = |nodes: &BTreeMap<IpAddr, Liveness>| -> BTreeSet<IpAddr> {
            let gone = nodes.iter().filter(|(_, node)| node.is_gone());
            gone.map(|(ip, _)| *ip).collect()
        };
        let before = gone(&self.nodes);
        while gone(&self.nodes) == before {
            let due = *self.due.get_or_insert_with(Instant::now);
            tokio::select! {
                // What has been answered already is heard before anything is concluded.
                biased;
                from = answer(&self.pings) => match from {
                    Ok(ip) => {
                        if let Some(node) = self.nodes.get_mut(&ip) {
                            node.answer();
                        }
                    }
                    Err(error) => {
                        tracing::warn!(%error, "answers of nodes are not heard");
                        self.pings.clear();
                        return;
                    }
                },
                () = tokio::time::sleep_until(due) => self.ask(),
            }
        }
    }

    fn ask(&mut self) {
        self.due = Some(Instant::now() + Duration::from_millis(ASK_MILLISECONDS));
        self.number = self.number.wrapping_add(1);
        for (ip, node) in &mut self.nodes {
            node.ask();
            if node.is_mute() {
                tracing::warn!(
                    address = %ip,
                    "a node does not answer echo requests: its addresses move when the control plane says so"
                );
            }
            // Without a way to it there is no answer either, which says the same.
            if let Some(ping) = self.pings.get(&Family::of(*ip)) {
                let _ = ping.ask(*ip, self.number);
            }
        }
    }
}

/// The next answer to either.
async fn answer(pings: &BTreeMap<Family, Ping>) -> std::io::Result<IpAddr> {
    let one = async |family: Family| match pings.get(&family) {
        Some(ping) => ping.answer().await,
        None => std::future::pending().await,
    };
    tokio::select! {
        biased;
        from = one(Family::Ip4) => from,
        from = one(Family::Ip6) => from,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(steps: &str) -> Liveness {
        let mut node = Liveness::default();
        for step in steps.chars() {
            node.ask();
            if step == '+' {
                node.answer();
            }
        }
        // The last question is judged by the next one.
        node.ask();
        node
    }

    #[test]
    fn a_node_is_gone_after_four_questions_and_back_after_eight_answers() {
        for (steps, gone) in [
            ("", false),
            ("----------", false),
            ("+---", false),
            ("+----", true),
            ("+---+---+", false),
            ("+----+++++++", true),
            ("+----++++++++", false),
            // In a row.
            ("+----+++++++-+++", true),
            ("+----++++++++----", true),
        ] {
            assert_eq!(after(steps).is_gone(), gone, "{steps:?}");
        }
    }

    #[test]
    fn who_never_answers_is_said_once() {
        let mut node = Liveness::default();
        let said = (0..200).filter(|_| {
            node.ask();
            node.is_mute()
        });
        assert_eq!(said.count(), 1);
        assert!(!after("+---------------------------------------------").is_mute());
    }
}
