//! Groups of pods of which so many must have nodes at once: what the API says of them, and which pods
//! name them. The kind is served where somebody asks for it; elsewhere pods go by themselves.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// What has become of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupState {
    /// So many of its pods have nodes as must have them.
    Scheduled,
    /// They cannot have them now.
    Unschedulable,
    /// Nor can they, but room is being made.
    AwaitsRoom,
}

/// The groups, by `namespace/name`.
#[derive(Default)]
pub struct Gangs {
    served: bool,
    /// How many of its pods must have nodes; 0 where each goes by itself.
    least: HashMap<Arc<str>, i64>,
    /// The pods of each, by UID, whether they have nodes or not.
    members: HashMap<Arc<str>, BTreeSet<Arc<str>>>,
    /// The group of each pod.
    of: HashMap<Arc<str>, Arc<str>>,
    /// What was last reported of each.
    told: HashMap<Arc<str>, GroupState>,
    /// What is to be reported.
    news: Vec<(Arc<str>, GroupState)>,
}

impl Gangs {
    /// Groups can be there from now on.
    pub fn serve(&mut self) {
        self.served = true;
    }
    /// There are no groups any more.
    pub fn end(&mut self) {
        self.served = false;
        self.least.clear();
        self.told.clear();
        self.news.clear();
    }
    pub fn are_served(&self) -> bool {
        self.served
    }
    /// A group came, or has gone.
    pub fn set(&mut self, group: Arc<str>, least: Option<i64>) {
        match least {
            Some(least) => self.least.insert(group, least),
            None => {
                self.told.remove(&group);
                self.least.remove(&group)
            }
        };
    }
    /// Whether it is news that this has become of a group. Once it is scheduled nothing more is.
    pub fn is_news(&self, group: &str, state: GroupState) -> bool {
        let told = self.told.get(group).copied();
        let ends = told == Some(GroupState::Scheduled) || told == Some(state);
        self.served && self.least.contains_key(group) && !ends
    }
    /// Notes that this has become of a group; what was to be reported of it before is old.
    pub fn tell(&mut self, group: &Arc<str>, state: GroupState) {
        self.news.retain(|(other, _)| other != group);
        self.told.insert(group.clone(), state);
        self.news.push((group.clone(), state));
    }
    /// What is to be reported, the latest last.
    pub fn take_news(&mut self) -> Vec<(Arc<str>, GroupState)> {
        std::mem::take(&mut self.news)
    }
    pub fn has_news(&self) -> bool {
        !self.news.is_empty()
    }
    /// How many pods of a group must have nodes; none where there is no such group.
    pub fn least(&self, group: &str) -> Option<i64> {
        self.least.get(group).copied()
    }
    /// A pod names a group; whether that is new.
    pub fn join(&mut self, pod: Arc<str>, group: Arc<str>) -> bool {
        let members = self.members.entry(group.clone()).or_default();
        self.of.insert(pod.clone(), group);
        members.insert(pod)
    }
    /// The group that a pod names.
    pub fn group_of(&self, pod: &str) -> Option<&Arc<str>> {
        self.of.get(pod)
    }
    /// A pod is gone, or has run to its end.
    pub fn leave(&mut self, pod: &str) {
        let Some(group) = self.of.remove(pod) else {
            return;
        };
        if let Some(members) = self.members.get_mut(&group) {
            members.remove(pod);
            if members.is_empty() {
                self.members.remove(&group);
            }
        }
    }
    /// The pods of a group.
    pub fn members(&self, group: &str) -> impl Iterator<Item = &Arc<str>> {
        self.members.get(group).into_iter().flatten()
    }
}
