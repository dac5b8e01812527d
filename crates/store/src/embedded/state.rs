//! The store's content in memory: versions of each key, a ring of recent batches for watches,
//! and the deadlines of what expires. Pure: the caller brings clock and disk.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use super::record::Logged;
use crate::{Batch, Event, EventKind, KeyValue, RangePage, Result, Revision, StoreError};

/// How much history is kept for watches and for reads at a revision.
#[derive(Clone, Copy, Debug)]
pub struct History {
    /// Batches at most. 10,000: a minute of a very busy cluster.
    pub batches: usize,
    /// Bytes of keys and values at most. 32 MiB: the share of memory that may go into the past.
    pub bytes: usize,
}

impl Default for History {
    fn default() -> Self {
        Self {
            batches: 10_000,
            bytes: 32 << 20,
        }
    }
}

/// One version of a key: `None` when it was deleted.
type Version = (Revision, Option<KeyValue>);

#[derive(Default)]
pub struct State {
    revision: Revision,
    /// The oldest revision that can be read.
    oldest: Revision,
    keys: BTreeMap<Bytes, Vec<Version>>,
    ring: VecDeque<Arc<Batch>>,
    ring_bytes: usize,
    deadlines: HashMap<Bytes, i64>,
    expiring: BTreeSet<(i64, Bytes)>,
}

fn weight(batch: &Batch) -> usize {
    batch
        .events
        .iter()
        .map(|e| e.kv.key.len() + e.kv.value.len())
        .sum()
}

fn seen_at(versions: &[Version], at: Revision) -> Option<&KeyValue> {
    versions.iter().rfind(|v| v.0 <= at)?.1.as_ref()
}

impl State {
    /// A state without history, as a snapshot has it.
    pub fn from_snapshot(revision: Revision, live: Vec<(KeyValue, i64)>) -> Self {
        let mut state = Self {
            revision,
            oldest: revision,
            ..Self::default()
        };
        for (kv, deadline) in live {
            state.set_deadline(&kv.key, deadline);
            state
                .keys
                .insert(kv.key.clone(), vec![(kv.mod_revision, Some(kv))]);
        }
        state
    }

    pub fn revision(&self) -> Revision {
        self.revision
    }

    pub fn live(&self, key: &[u8]) -> Option<&KeyValue> {
        self.keys.get(key)?.last()?.1.as_ref()
    }

    /// Every live value with its deadline.
    pub fn all_live(&self) -> Vec<(KeyValue, i64)> {
        let live = self.keys.values().filter_map(|v| v.last()?.1.as_ref());
        live.map(|kv| {
            (
                kv.clone(),
                self.deadlines.get(&kv.key).copied().unwrap_or(0),
            )
        })
        .collect()
    }

    pub fn check(&self, at: Revision) -> Result<Revision> {
        match at {
            0 => Ok(self.revision),
            at if at > self.revision => Err(StoreError::Future {
                asked: at,
                current: self.revision,
            }),
            at if at < self.oldest => Err(StoreError::Compacted {
                asked: at,
                oldest: self.oldest,
            }),
            at => Ok(at),
        }
    }

    pub fn get(&self, key: &[u8], at: Revision) -> Result<Option<KeyValue>> {
        let at = self.check(at)?;
        Ok(self.keys.get(key).and_then(|v| seen_at(v, at)).cloned())
    }

    pub fn range(
        &self,
        prefix: &Bytes,
        start: Bytes,
        limit: usize,
        at: Revision,
    ) -> Result<RangePage> {
        let revision = self.check(at)?;
        let (mut items, mut remaining) = (Vec::new(), 0);
        let from = start.max(prefix.clone());
        for (_, versions) in self
            .keys
            .range(from..)
            .take_while(|(k, _)| k.starts_with(prefix))
        {
            match seen_at(versions, revision) {
                None => {}
                Some(kv) if limit == 0 || items.len() < limit => items.push(kv.clone()),
                Some(_) => remaining += 1,
            }
        }
        Ok(RangePage {
            items,
            more: remaining > 0,
            remaining,
            revision,
        })
    }

    /// Batches after a revision that are still held.
    pub fn since(&self, after: Revision) -> Result<Vec<Arc<Batch>>> {
        if after < self.oldest {
            return Err(StoreError::Compacted {
                asked: after,
                oldest: self.oldest,
            });
        }
        let from = self.ring.partition_point(|b| b.revision <= after);
        Ok(self.ring.range(from..).cloned().collect())
    }

    fn set_deadline(&mut self, key: &Bytes, deadline: i64) {
        if let Some(old) = self.deadlines.remove(key) {
            self.expiring.remove(&(old, key.clone()));
        }
        if deadline > 0 {
            self.deadlines.insert(key.clone(), deadline);
            self.expiring.insert((deadline, key.clone()));
        }
    }

    /// What expires, with the seconds left.
    pub fn expiries(&self, now: i64) -> HashMap<Bytes, u32> {
        let left = |at: i64| u32::try_from((at - now).max(0)).unwrap_or(u32::MAX);
        let pairs = self.deadlines.iter();
        pairs.map(|(key, at)| (key.clone(), left(*at))).collect()
    }

    /// When the next value expires, in seconds since the epoch.
    pub fn next_deadline(&self) -> Option<i64> {
        self.expiring.first().map(|(at, _)| *at)
    }

    /// Keys whose time is over, at most `limit`.
    pub fn expired(&self, now: i64, limit: usize) -> Vec<Bytes> {
        self.expiring
            .iter()
            .take_while(|(at, _)| *at <= now)
            .take(limit)
            .map(|(_, key)| key.clone())
            .collect()
    }

    /// Takes in a durable transaction.
    pub fn apply(&mut self, batch: Arc<Batch>, ops: &[Logged], keep: History) {
        for op in ops {
            let deadline = match op {
                Logged::Put { deadline, .. } => *deadline,
                Logged::Delete { .. } => 0,
            };
            self.set_deadline(op.key(), deadline);
        }
        for event in &batch.events {
            let kv = (event.kind == EventKind::Put).then(|| event.kv.clone());
            self.keys
                .entry(event.kv.key.clone())
                .or_default()
                .push((batch.revision, kv));
        }
        self.revision = batch.revision;
        self.ring_bytes += weight(&batch);
        self.ring.push_back(batch);
        while self.ring.len() > keep.batches
            || (self.ring_bytes > keep.bytes && self.ring.len() > 1)
        {
            let Some(first) = self.ring.front().map(|b| b.revision) else {
                break;
            };
            self.forget(first);
        }
    }

    /// Makes `before` the oldest readable revision and drops what only older reads need.
    pub fn forget(&mut self, before: Revision) {
        self.oldest = self.oldest.max(before);
        while self.ring.front().is_some_and(|b| b.revision <= before) {
            let Some(batch) = self.ring.pop_front() else {
                break;
            };
            self.ring_bytes -= weight(&batch);
            for event in &batch.events {
                self.forget_versions(&event.kv.key, before);
            }
        }
    }

    /// Goes on at a later revision, from which on it is readable: what was between is no one's.
    pub fn raise(&mut self, to: Revision) {
        self.revision = self.revision.max(to);
        self.forget(self.revision);
    }

    fn forget_versions(&mut self, key: &Bytes, before: Revision) {
        let Some(versions) = self.keys.get_mut(key) else {
            return;
        };
        let shown = versions.partition_point(|v| v.0 <= before);
        versions.drain(..shown.saturating_sub(1));
        match versions.as_slice() {
            [(at, None)] if *at <= before => {
                self.keys.remove(key);
            }
            [_] => versions.shrink_to_fit(),
            _ => {}
        }
    }
}

/// The events of a transaction, given what was before it.
pub fn batch_of(
    revision: Revision,
    ops: &[Logged],
    before: impl Fn(&[u8]) -> Option<KeyValue>,
) -> Batch {
    let event = |op: &Logged| match op {
        Logged::Put { key, value, .. } => {
            let prev = before(key);
            let kv = KeyValue {
                key: key.clone(),
                value: value.clone(),
                create_revision: prev.as_ref().map_or(revision, |p| p.create_revision),
                mod_revision: revision,
                version: prev.as_ref().map_or(1, |p| p.version + 1),
            };
            Some(Event {
                kind: EventKind::Put,
                kv,
                prev,
            })
        }
        Logged::Delete { key } => {
            let prev = before(key)?;
            let kv = KeyValue {
                key: key.clone(),
                value: Bytes::new(),
                create_revision: 0,
                mod_revision: revision,
                version: 0,
            };
            Some(Event {
                kind: EventKind::Delete,
                kv,
                prev: Some(prev),
            })
        }
    };
    Batch {
        revision,
        events: ops.iter().filter_map(event).collect(),
    }
}
