//! The store's content in memory: versions of each key, a ring of recent batches for watches,
//! and the deadlines of what expires. Pure: the caller brings clock and disk. It is all of the
//! store in memory, and what the embedded engine keeps beside its log.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use crate::contract::{Batch, Event, EventKind, KeyValue, RangePage, Result, Revision, StoreError};
use crate::transaction::Logged;

/// How much history is kept for watches and for reads at a revision.
#[derive(Clone, Copy, Debug)]
pub struct History {
    /// Batches at most. 10,000: a minute of a very busy cluster.
    pub batches: usize,
    /// Bytes at most of what only the past needs: values that were changed or deleted since.
    /// 32 MiB: the share of memory that may go into it.
    pub bytes: usize,
    /// Seconds after which it goes, also where nothing is written: after one to two times this.
    /// 300, as upstream compacts.
    pub seconds: i64,
}

impl Default for History {
    fn default() -> Self {
        Self {
            batches: 10_000,
            bytes: 32 << 20,
            seconds: 300,
        }
    }
}

/// One version of a key.
struct Version {
    /// The revision that made it.
    at: Revision,
    created: Revision,
    /// 1 at creation, counted up by each change.
    number: u64,
    /// `None` when the key was deleted.
    value: Option<Bytes>,
}

impl Version {
    fn of(event: &Event, at: Revision) -> Self {
        let kv = &event.kv;
        Self {
            at,
            created: kv.create_revision,
            number: kv.version,
            value: (event.kind == EventKind::Put).then(|| kv.value.clone()),
        }
    }

    fn under(&self, key: &[u8]) -> Option<KeyValue> {
        Some(KeyValue {
            key: Bytes::copy_from_slice(key),
            value: self.value.clone()?,
            create_revision: self.created,
            mod_revision: self.at,
            version: self.number,
        })
    }
}

/// What is known of a key. Of a hundred thousand keys each word here is most of a megabyte: most
/// have one version, and pay for no list; the key stands once, in the tree.
struct Versions {
    newest: Version,
    /// Versions before, ascending, as far as history reaches.
    #[expect(
        clippy::box_collection,
        reason = "most have none, and a list takes three words"
    )]
    older: Option<Box<Vec<Version>>>,
}

impl Versions {
    fn of(newest: Version) -> Box<Self> {
        let older = None;
        Box::new(Self { newest, older })
    }

    fn live(&self) -> Option<&Bytes> {
        self.newest.value.as_ref()
    }

    fn at(&self, revision: Revision) -> Option<&Version> {
        if self.newest.at <= revision {
            return Some(&self.newest);
        }
        self.older.as_ref()?.iter().rfind(|v| v.at <= revision)
    }

    fn replace(&mut self, version: Version) {
        let last = std::mem::replace(&mut self.newest, version);
        self.older.get_or_insert_default().push(last);
    }

    /// Forgets what no read at `before` or later sees. True when nothing at all is left to see.
    fn forget(&mut self, before: Revision) -> bool {
        if self.newest.at <= before {
            self.older = None;
            return self.newest.value.is_none();
        }
        if let Some(older) = &mut self.older {
            let shown = older.partition_point(|v| v.at <= before);
            older.drain(..shown.saturating_sub(1));
            if older
                .first()
                .is_some_and(|v| v.value.is_none() && v.at <= before)
            {
                older.remove(0);
            }
            older.shrink_to_fit();
            if older.is_empty() {
                self.older = None;
            }
        }
        false
    }
}

/// What a live value takes in a log or a snapshot beside key and value, about.
const HEAD_BYTES: u64 = 40;

fn stored_bytes(key: &[u8], value: &Bytes) -> u64 {
    HEAD_BYTES + key.len() as u64 + value.len() as u64
}

#[derive(Default)]
pub struct State {
    revision: Revision,
    /// The oldest revision that can be read.
    oldest: Revision,
    keys: BTreeMap<Box<[u8]>, Box<Versions>>,
    /// What all live values would take in a snapshot.
    live_bytes: u64,
    ring: VecDeque<Arc<Batch>>,
    ring_bytes: usize,
    deadlines: HashMap<Bytes, i64>,
    expiring: BTreeSet<(i64, Bytes)>,
}

/// What a batch itself takes in memory, about, beside the values.
const BATCH_BYTES: usize = 300;

/// What a batch keeps from being freed: the values before it. Those that it wrote are live, or
/// counted by the batch that replaced them.
fn weight(batch: &Batch) -> usize {
    let before = batch.events.iter().filter_map(|e| e.prev.as_ref());
    BATCH_BYTES + before.map(|kv| kv.value.len()).sum::<usize>()
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
            state.live_bytes += stored_bytes(&kv.key, &kv.value);
            let versions = Versions::of(Version {
                at: kv.mod_revision,
                created: kv.create_revision,
                number: kv.version,
                value: Some(kv.value),
            });
            state.keys.insert(Box::from(&*kv.key), versions);
        }
        state
    }

    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The oldest revision that can be read.
    pub fn oldest(&self) -> Revision {
        self.oldest
    }

    pub fn live(&self, key: &[u8]) -> Option<KeyValue> {
        self.keys.get(key)?.newest.under(key)
    }

    /// The size of a snapshot of what is live, about.
    pub fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// Every live value with its deadline.
    pub fn all_live(&self) -> Vec<(KeyValue, i64)> {
        let live = self.keys.iter().filter_map(|(k, v)| v.newest.under(k));
        live.map(|kv| {
            let deadline = self.deadlines.get(&kv.key).copied();
            (kv, deadline.unwrap_or(0))
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
        let version = self.keys.get(key).and_then(|v| v.at(at));
        Ok(version.and_then(|v| v.under(key)))
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
        let from: (Bound<&[u8]>, Bound<&[u8]>) = (Bound::Included(&from), Bound::Unbounded);
        for (key, versions) in self
            .keys
            .range::<[u8], _>(from)
            .take_while(|(k, _)| k.starts_with(prefix))
        {
            let shown = versions.at(revision).filter(|v| v.value.is_some());
            match shown {
                None => {}
                Some(version) if limit == 0 || items.len() < limit => {
                    items.extend(version.under(key));
                }
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

    /// The keys of [`State::range`] with the revisions of what they hold.
    pub fn revisions(
        &self,
        prefix: &Bytes,
        start: Bytes,
        limit: usize,
        at: Revision,
    ) -> Result<Vec<(Bytes, Revision)>> {
        let revision = self.check(at)?;
        let from = start.max(prefix.clone());
        let from: (Bound<&[u8]>, Bound<&[u8]>) = (Bound::Included(&from), Bound::Unbounded);
        let limit = if limit == 0 { usize::MAX } else { limit };
        let all = self.keys.range::<[u8], _>(from);
        let all = all.take_while(|(k, _)| k.starts_with(prefix));
        let live = all.filter_map(|(key, versions)| {
            let shown = versions.at(revision).filter(|v| v.value.is_some())?;
            Some((Bytes::copy_from_slice(key), shown.at))
        });
        Ok(live.take(limit).collect())
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

    /// Whether a watch may begin after a revision.
    pub fn can_watch(&self, after: Revision) -> Result<()> {
        if after > self.revision {
            return Err(StoreError::Future {
                asked: after,
                current: self.revision,
            });
        }
        self.since(after).map(drop)
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
            self.set_version(&event.kv.key, Version::of(event, batch.revision));
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

    fn set_version(&mut self, key: &[u8], version: Version) {
        let bytes = |value: Option<&Bytes>| value.map_or(0, |v| stored_bytes(key, v));
        self.live_bytes += bytes(version.value.as_ref());
        match self.keys.get_mut(key) {
            Some(versions) => {
                self.live_bytes -= bytes(versions.live());
                versions.replace(version);
            }
            None => {
                self.keys.insert(key.into(), Versions::of(version));
            }
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

    /// Goes on at a later revision, from which on it is readable: what was between is nobody's.
    pub fn raise(&mut self, to: Revision) {
        self.revision = self.revision.max(to);
        self.forget(self.revision);
    }

    fn forget_versions(&mut self, key: &[u8], before: Revision) {
        let is_over = |v: &mut Box<Versions>| v.forget(before);
        if self.keys.get_mut(key).is_some_and(is_over) {
            self.keys.remove(key);
        }
    }
}
