//! The pods for which there is no node: in the order in which they have waited, and by the plugins that
//! refused them and what they ask for. What happened is looked at once for all that are alike, so that an
//! event which helps nobody costs as much for ten thousand equal pods as for one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use crate::plugins::Refused;
use crate::pod::Pod;

/// Since when a pod waits, and its UID.
pub type Since = (u64, Arc<str>);

/// Pods that are alike and were refused by the same plugins.
struct Kind {
    /// One of them. Where there were several, without a UID: room that is made for one of them is not
    /// for this one.
    any: Arc<Pod>,
    pods: BTreeSet<Since>,
}

/// Where a pod is.
struct Place {
    since_ms: u64,
    refused: Refused,
    kind: u64,
    digest: u64,
}

/// See the top of this file.
#[derive(Default)]
pub struct Unschedulable {
    all: BTreeSet<Since>,
    places: HashMap<Arc<str>, Place>,
    /// By the plugins that refused them and a number.
    kinds: BTreeMap<(Refused, u64), Kind>,
    /// The numbers of kinds by the plugins and a digest of what is asked for: mostly one.
    by_digest: HashMap<(Refused, u64), Vec<u64>>,
    /// The number of the latest kind.
    latest: u64,
    /// How many of a profile these plugins refused.
    refusals: BTreeMap<(Arc<str>, Refused), usize>,
}

/// The same for pods that are alike.
fn digest(pod: &Pod) -> u64 {
    let mut hasher = DefaultHasher::new();
    pod.priority.hash(&mut hasher);
    pod.namespace.hash(&mut hasher);
    pod.labels.hash(&mut hasher);
    pod.request.cpu_millis.hash(&mut hasher);
    pod.request.memory_bytes.hash(&mut hasher);
    hasher.finish()
}

fn without_uid(pod: &Pod) -> Arc<Pod> {
    Arc::new(Pod {
        uid: Arc::from(""),
        ..Pod::clone(pod)
    })
}

impl Unschedulable {
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// How many kinds of them there are.
    pub fn kinds(&self) -> usize {
        self.kinds.len()
    }

    /// Who waits longest.
    pub fn first(&self) -> Option<&Since> {
        self.all.first()
    }

    /// How many of a profile which plugins refused.
    pub fn refusals(&self) -> &BTreeMap<(Arc<str>, Refused), usize> {
        &self.refusals
    }

    pub fn insert(&mut self, pod: &Arc<Pod>, refused: Refused, since_ms: u64) {
        self.remove(&pod.uid);
        let since = (since_ms, pod.uid.clone());
        let digest = digest(pod);
        let same = self.by_digest.entry((refused, digest)).or_default();
        let like = |kind: &&u64| {
            let kind = self.kinds.get(&(refused, **kind));
            kind.is_some_and(|k| k.any.is_like(pod))
        };
        let kind = match same.iter().find(like) {
            Some(kind) => *kind,
            None => {
                self.latest += 1;
                same.push(self.latest);
                let new = Kind {
                    any: pod.clone(),
                    pods: BTreeSet::new(),
                };
                self.kinds.insert((refused, self.latest), new);
                self.latest
            }
        };
        if let Some(of_kind) = self.kinds.get_mut(&(refused, kind)) {
            of_kind.pods.insert(since.clone());
            if of_kind.pods.len() > 1 && !of_kind.any.uid.is_empty() {
                of_kind.any = without_uid(&of_kind.any);
            }
        }
        self.all.insert(since);
        let key = (pod.scheduler.clone(), refused);
        *self.refusals.entry(key).or_default() += 1;
        let place = Place {
            since_ms,
            refused,
            kind,
            digest,
        };
        self.places.insert(pod.uid.clone(), place);
    }

    pub fn remove(&mut self, uid: &Arc<str>) {
        let Some(place) = self.places.remove(uid) else {
            return;
        };
        let since = (place.since_ms, uid.clone());
        self.all.remove(&since);
        let key = (place.refused, place.kind);
        let Some(kind) = self.kinds.get_mut(&key) else {
            return;
        };
        kind.pods.remove(&since);
        let refusal = (kind.any.scheduler.clone(), place.refused);
        let is_last = kind.pods.is_empty();
        if let Some(count) = self.refusals.get_mut(&refusal) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.refusals.remove(&refusal);
            }
        }
        if !is_last {
            return;
        }
        self.kinds.remove(&key);
        let key = (place.refused, place.digest);
        if let Some(same) = self.by_digest.get_mut(&key) {
            same.retain(|kind| *kind != place.kind);
            if same.is_empty() {
                self.by_digest.remove(&key);
            }
        }
    }

    /// Those that something may help, with the answer, who waits longest first: it is asked once for all
    /// that are alike, and only where the plugins that refused them are `concerned`.
    pub fn helped<T: Copy>(
        &self,
        concerned: impl Fn(Refused) -> bool,
        helps: impl Fn(&Pod, Refused) -> Option<T>,
    ) -> Vec<(Arc<str>, T)> {
        let mut found: Vec<(&Since, T)> = Vec::new();
        // Kinds are sorted by the plugins that refused them.
        let mut last: Option<(Refused, bool)> = None;
        for ((refused, _), kind) in &self.kinds {
            let is_concerned = match last {
                Some((before, answer)) if before == *refused => answer,
                _ => concerned(*refused),
            };
            last = Some((*refused, is_concerned));
            if is_concerned && let Some(answer) = helps(&kind.any, *refused) {
                found.extend(kind.pods.iter().map(|since| (since, answer)));
            }
        }
        found.sort_by_key(|(since, _)| *since);
        let found = found.into_iter();
        found.map(|((_, uid), why)| (uid.clone(), why)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use serde_json::{Value, json};

    use super::*;
    use crate::plugins::testing::Cluster;

    fn asks(cpu: &str) -> Value {
        json!({"spec": {"containers": [
            {"name": "c", "resources": {"requests": {"cpu": cpu}}}]}})
    }

    #[test]
    fn what_happened_is_looked_at_once_for_all_that_are_alike() {
        let mut c = Cluster::default();
        let (mut waiting, refused) = (Unschedulable::default(), Refused::NOBODY.and(1));
        let mut small = Vec::new();
        for since in [3, 1, 2] {
            let pod = c.pod(asks("1"));
            waiting.insert(&pod, refused, since);
            small.push(pod.uid.clone());
        }
        let large = c.pod(asks("2"));
        waiting.insert(&large, refused, 0);
        let other = c.pod(asks("1"));
        waiting.insert(&other, Refused::NOBODY.and(2), 0);
        // A pod with a claim is like no other.
        let mut with_claim = asks("1");
        with_claim["spec"]["volumes"] =
            json!([{"name": "v", "persistentVolumeClaim": {"claimName": "v"}}]);
        for _ in 0..2 {
            let pod = c.pod(with_claim.clone());
            waiting.insert(&pod, refused, 9);
        }
        let asked = Cell::new(0);
        let helped = waiting.helped(
            |of| of == refused,
            |pod, _| {
                asked.set(asked.get() + 1);
                let is_small = pod.request.cpu_millis == 1_000 && pod.wants.claims.is_empty();
                is_small.then_some("why")
            },
        );
        let expected = [&small[1], &small[2], &small[0]];
        let helped: Vec<&Arc<str>> = helped.iter().map(|(uid, _)| uid).collect();
        assert_eq!(helped, expected);
        assert_eq!(asked.get(), 4);
    }

    #[test]
    fn nothing_is_left_of_those_that_go() {
        let mut c = Cluster::default();
        let (mut waiting, refused) = (Unschedulable::default(), Refused::NOBODY.and(1));
        let pods: Vec<Arc<Pod>> = (0..3).map(|_| c.pod(asks("1"))).collect();
        for pod in &pods {
            waiting.insert(pod, refused, 5);
        }
        // One is tried again and refused by others.
        waiting.insert(&pods[0], Refused::NOBODY, 7);
        assert_eq!(waiting.len(), 3);
        assert_eq!(waiting.first().map(|(since, _)| *since), Some(5));
        let key = (pods[0].scheduler.clone(), refused);
        assert_eq!(waiting.refusals().get(&key), Some(&2));
        for pod in &pods {
            waiting.remove(&pod.uid);
        }
        assert_eq!(waiting.len(), 0);
        assert!(waiting.refusals().is_empty());
        assert!(waiting.kinds.is_empty() && waiting.by_digest.is_empty());
        assert!(waiting.places.is_empty());
    }
}
