//! What has happened since the last decision, and which waiting pods that may help.

use std::sync::Arc;

use crate::decide::Profile;
use crate::plugins::{About, Events, Plugin, Refused};
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

impl What {
    /// Whether a plugin that refused a pod finds that it may help.
    fn helps(&self, plugin: &dyn Plugin, pod: &Pod, snapshot: &Snapshot) -> bool {
        let about = match self {
            Self::Claim(key) => About::Claim(key),
            Self::Node(name) => snapshot.node(name).map_or(About::Anything, About::Node),
        };
        plugin.helps(pod, about, snapshot)
    }
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
            let found = about.find(|(_, what)| what.helps(plugin.as_ref(), pod, snapshot));
            found.map(|(events, _)| wakes_on.among(*events))
        })
    }

    /// The pods for which room is made on a node with events that help them, and those events: since
    /// such a pod fits there now, or since nobody there is about to go any more, so that it has to look
    /// again. `refused` says which plugins refused a pod that waits.
    pub fn helped_where_room_is_made<'a>(
        &self,
        snapshot: &'a Snapshot,
        profiles: &[Profile],
        refused: impl Fn(&str) -> Option<Refused>,
    ) -> Vec<(&'a Arc<Pod>, Events)> {
        let mut out = Vec::new();
        for (events, what) in &self.about {
            let What::Node(name) = what else { continue };
            let coming = snapshot.nominated_on(name);
            if coming.is_empty() {
                continue;
            }
            let there = snapshot.node(name).map_or(&[][..], |n| n.pods.as_slice());
            let all_gone = events.meets(Events::POD_REMOVED)
                && !there.iter().any(|pod| snapshot.makes_room(pod));
            for pod in coming {
                let Some(refused) = refused(&pod.uid) else {
                    continue;
                };
                let mut own = profiles.iter().filter(|p| p.scheduler == *pod.scheduler);
                let helped = own.any(|profile| {
                    let mut plugins = profile.plugins.iter().enumerate();
                    plugins.any(|(i, (plugin, _))| {
                        refused.has(i)
                            && plugin.wakes_on().meets(*events)
                            && (all_gone || what.helps(plugin.as_ref(), pod, snapshot))
                    })
                });
                if helped {
                    out.push((pod, *events));
                }
            }
        }
        out
    }
}
