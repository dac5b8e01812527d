//! What has happened since the last decision, and which waiting pods that may help.

use std::sync::Arc;

use crate::decide::Profile;
use crate::plugins::{About, Events, Refused};
use crate::pod::Pod;
use crate::snapshot::Snapshot;

/// Events that are remembered one by one; of more only the kinds, so that all are woken whom they
/// may help: looking at each would cost more than trying.
const REMEMBERED: usize = 256;

#[derive(Debug)]
enum What {
    Node(Arc<str>),
    Claim(Arc<str>),
}

/// Events since the last decision.
#[derive(Debug, Default)]
pub struct Happened {
    all: Events,
    /// Of these it is not known what they are about.
    vague: Events,
    about: Vec<(Events, What)>,
}

impl Happened {
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }
    pub fn anything(&mut self, events: Events) {
        self.all = self.all.with(events);
        self.vague = self.vague.with(events);
    }
    pub fn on_node(&mut self, events: Events, node: &Arc<str>) {
        self.add(events, What::Node(node.clone()));
    }
    pub fn to_claim(&mut self, events: Events, key: &Arc<str>) {
        self.add(events, What::Claim(key.clone()));
    }

    fn add(&mut self, events: Events, what: What) {
        if events.is_empty() {
            return;
        }
        self.all = self.all.with(events);
        if self.about.len() < REMEMBERED {
            self.about.push((events, what));
        } else {
            self.vague = self.vague.with(events);
        }
    }

    /// Whether one of these plugins of a profile wants to hear of it.
    pub fn concerns(&self, refused: Refused, profiles: &[Profile]) -> bool {
        profiles.iter().any(|profile| {
            let mut plugins = profile.plugins.iter().enumerate();
            plugins.any(|(i, (p, _))| refused.has(i) && p.wakes_on().meets(self.all))
        })
    }

    /// Which events of it may help a pod that these plugins refused; none where none does.
    pub fn helps(
        &self,
        pod: &Pod,
        refused: Refused,
        profile: &Profile,
        snapshot: &Snapshot,
    ) -> Option<Events> {
        let plugins = profile.plugins.iter().enumerate();
        let mut plugins = plugins.filter(|(i, _)| refused.has(*i));
        plugins.find_map(|(_, (plugin, _))| {
            let wakes_on = plugin.wakes_on();
            if !wakes_on.meets(self.all) {
                return None;
            }
            if wakes_on.meets(self.vague) && plugin.helps(pod, About::Anything, snapshot) {
                return Some(wakes_on.among(self.vague));
            }
            let mut about = self.about.iter().filter(|(e, _)| wakes_on.meets(*e));
            let found = about.find(|(_, what)| match what {
                What::Claim(key) => plugin.helps(pod, About::Claim(key), snapshot),
                What::Node(name) => match snapshot.node(name) {
                    Some(node) => plugin.helps(pod, About::Node(node), snapshot),
                    None => plugin.helps(pod, About::Anything, snapshot),
                },
            });
            found.map(|(events, _)| wakes_on.among(*events))
        })
    }
}
