//! What of a resource is stored and cannot be read: it is neither served nor taken for absent.

use std::sync::Arc;

use api::Status;
use store::Revision;

use super::{ResourceCache, State};
use crate::cache::unreadable::{Unreadable, of_list};
use crate::cache::{Object, Selection};

impl ResourceCache {
    /// An object; an error where there is one that cannot be read.
    pub fn find(&self, key: &str) -> Result<Option<Arc<Object>>, Status> {
        let state = self.state.read();
        match state.unreadable.get(key) {
            Some(unreadable) => Err(unreadable.status(&self.row)),
            None => Ok(state.objects.get(key).cloned()),
        }
    }

    /// An object as it was when it could last be read: for who goes by what was seen, as by
    /// an informer.
    pub fn last_known(&self, key: &str) -> Option<Arc<Object>> {
        let state = self.state.read();
        let found = state.objects.get(key);
        let lost = || state.unreadable.get(key).and_then(|u| u.last.as_ref());
        found.or_else(lost).cloned()
    }

    /// [`ResourceCache::last_known`] of all that cannot be read now, in a namespace or (empty)
    /// everywhere.
    pub fn lost(&self, namespace: &str) -> Vec<Arc<Object>> {
        let state = self.state.read();
        let lost = state.unreadable.values().filter_map(|u| u.last.as_ref());
        let lost = lost.filter(|o| namespace.is_empty() || o.namespace() == namespace);
        lost.cloned().collect()
    }

    /// The keys of all that is stored, whether or not it can be read.
    pub fn keys(&self) -> Vec<Arc<str>> {
        let state = self.state.read();
        let all = state.objects.keys().chain(state.unreadable.keys());
        all.cloned().collect()
    }

    /// What cannot be read.
    pub fn unreadable(&self) -> Vec<Arc<Unreadable>> {
        self.state.read().unreadable.values().cloned().collect()
    }

    /// Whether something is stored that this server has never been able to read.
    pub fn has_unknown(&self) -> bool {
        let state = self.state.read();
        state.unreadable.values().any(|u| u.last.is_none())
    }

    /// Whether all objects that a selection may ask for can be read.
    pub fn whole(&self, selection: &Selection) -> Result<(), Status> {
        self.is_whole(&self.state.read(), selection)
    }

    pub(super) fn is_whole(&self, state: &State, selection: &Selection) -> Result<(), Status> {
        let all = state.unreadable.values().map(|u| &**u);
        of_list(&self.row, all.filter(|u| u.may_be_in(selection)))
    }

    /// A value cannot be read that was put. All watchers begin again, so that none goes on as if
    /// nothing had changed.
    pub(in crate::cache) fn lose(&self, mut unreadable: Unreadable) {
        self.figures.received();
        let mut state = self.state.write();
        let revision = unreadable.revision;
        if revision <= state.loaded {
            return;
        }
        let prev = state.objects.remove(&*unreadable.key);
        state.index(prev.as_ref(), None);
        let before = state.unreadable.get(&*unreadable.key);
        unreadable.last = prev.or_else(|| before.and_then(|u| u.last.clone()));
        let key = unreadable.key.clone();
        state.unreadable.insert(key, Arc::new(unreadable));
        state.begin_again(revision);
        drop(state);
        self.figures.dispatched(revision);
        self.changed.send_modify(|_| {});
    }

    /// A value can be read again that could not, and that nobody has changed: a key is there again.
    pub(in crate::cache) fn regain(&self, object: Arc<Object>) {
        let mut state = self.state.write();
        let lost = state.unreadable.get(&*object.key).map(|u| u.revision);
        if lost != Some(object.revision) {
            return;
        }
        state.unreadable.remove(&*object.key);
        state.index(None, Some(&object));
        state.objects.insert(object.key.clone(), object);
        let newest: Revision = state.newest();
        state.begin_again(newest);
        drop(state);
        self.changed.send_modify(|_| {});
    }
}
