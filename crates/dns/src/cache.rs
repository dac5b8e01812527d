//! Answers of others that are kept: pure, on a time that it is given.
//!
//! Bounded by number and by bytes; what ends first goes first. An answer that has ended is kept on
//! for a while, for the time when nobody else answers.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use clock::Instant;

use crate::packet::{AnswerKind, Layout};

/// All kept answers together have so many bytes at most.
const MOST_BYTES: usize = 16 << 20;
/// What an answer takes beside its bytes: the places of its records.
const ANSWER_BYTES: usize = 128;
/// What keeping it takes: its keys, and links.
const ENTRY_BYTES: usize = 200;

/// What is asked, as far as answers differ by it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The block of the configuration: its upstream servers may say something else.
    pub block: usize,
    /// The question in lower case, as it is written: name, type and class.
    pub question: Vec<u8>,
    /// Whether EDNS was spoken, and then whether signatures are wanted.
    pub edns: Option<bool>,
    /// Signatures are not to be checked.
    pub checking_disabled: bool,
}

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// As it came.
    pub bytes: Vec<u8>,
    /// Where its records lie.
    pub layout: Layout,
}

impl Answer {
    /// About the bytes that it takes.
    pub fn cost(&self) -> usize {
        ANSWER_BYTES + self.bytes.len()
    }
}

/// An answer and how long it is good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// The answer.
    pub answer: Arc<Answer>,
    /// When it came.
    pub came: Instant,
    /// When its time ends.
    pub ends: Instant,
}

impl Kept {
    /// How old it is; `None` when its time has ended.
    pub fn age_seconds(&self, now: Instant) -> Option<u32> {
        let age = now.saturating_duration_since(self.came).as_secs();
        (now < self.ends).then(|| u32::try_from(age).unwrap_or(u32::MAX))
    }
}

#[derive(Debug)]
struct Entry {
    kept: Kept,
    /// Its place among those that are to go: when it is of no use any more, and a number.
    order: (Instant, u64),
}

/// How long answers are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// For records: at least and at most.
    pub success_seconds: (u32, u32),
    /// For absence: at least and at most.
    pub denial_seconds: (u32, u32),
    /// For failures.
    pub failure_seconds: u32,
    /// So long behind its end an answer is still good when there is no other.
    pub stale_seconds: u32,
    /// So many at most.
    pub entries: usize,
}

/// What is kept of a question.
#[derive(Debug, PartialEq, Eq)]
pub enum CachedAnswer {
    /// An answer that is good.
    Fresh(Kept),
    /// One whose time has ended.
    Stale(Arc<Answer>),
    /// Nothing.
    Nothing,
}

/// The kept answers.
#[derive(Debug, Default)]
pub struct Cache {
    entries: HashMap<Key, Entry>,
    order: BTreeMap<(Instant, u64), Key>,
    bytes: usize,
    count: u64,
}

impl Cache {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Forgets all: somebody else is asked from now on.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Looks for an answer.
    pub fn get(&self, key: &Key, now: Instant) -> CachedAnswer {
        match self.entries.get(key) {
            Some(entry) if now < entry.kept.ends => CachedAnswer::Fresh(entry.kept.clone()),
            Some(entry) if now < entry.order.0 => {
                CachedAnswer::Stale(Arc::clone(&entry.kept.answer))
            }
            _ => CachedAnswer::Nothing,
        }
    }

    /// Keeps an answer, if the terms say so. One of a failure never replaces another.
    pub fn put(&mut self, key: Key, answer: &Arc<Answer>, terms: &Terms, now: Instant) {
        let clamp = |seconds: u32, (least, most): (u32, u32)| match most {
            0 => 0,
            most => seconds.clamp(least.min(most), most),
        };
        let kind = answer.layout.kind(&answer.bytes);
        let (seconds, stale) = match kind {
            AnswerKind::Success(seconds) => {
                (clamp(seconds, terms.success_seconds), terms.stale_seconds)
            }
            AnswerKind::Denial(Some(seconds)) => {
                (clamp(seconds, terms.denial_seconds), terms.stale_seconds)
            }
            // A zone that does not say is believed for the least.
            AnswerKind::Denial(None) => (terms.denial_seconds.0.min(terms.denial_seconds.1), 0),
            AnswerKind::Failure => (terms.failure_seconds, 0),
        };
        let old = self.entries.get(&key);
        if seconds == 0 || kind == AnswerKind::Failure && old.is_some() {
            return;
        }
        self.remove(&key);
        let cost = ENTRY_BYTES + answer.cost() + key.question.len();
        let ends = now + Duration::from_secs(seconds.into());
        self.count += 1;
        let order = (ends + Duration::from_secs(stale.into()), self.count);
        while self.entries.len() >= terms.entries.max(1) || self.bytes + cost > MOST_BYTES {
            let Some((_, first)) = self.order.first_key_value() else {
                return;
            };
            let first = first.clone();
            self.remove(&first);
        }
        self.bytes += cost;
        self.order.insert(order, key.clone());
        let kept = Kept {
            answer: Arc::clone(answer),
            came: now,
            ends,
        };
        self.entries.insert(key, Entry { kept, order });
    }

    fn remove(&mut self, key: &Key) {
        if let Some(entry) = self.entries.remove(key) {
            self.order.remove(&entry.order);
            let cost = ENTRY_BYTES + entry.kept.answer.cost() + key.question.len();
            self.bytes = self.bytes.saturating_sub(cost);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> Key {
        Key {
            block: 0,
            question: vec![1, n, 0, 0, 1, 0, 1],
            edns: None,
            checking_disabled: false,
        }
    }

    /// An answer with one record of this time to live, or of a code alone.
    fn answer(code: u8, ttl: Option<u32>, length: u8) -> Arc<Answer> {
        let count = u8::from(ttl.is_some());
        let mut bytes = vec![
            0, 0, 0x80, code, 0, 1, 0, count, 0, 0, 0, 0, 1, b'a', 0, 0, 1, 0, 1,
        ];
        if let Some(ttl) = ttl {
            bytes.extend([0xc0, 12, 0, 1, 0, 1]);
            bytes.extend(ttl.to_be_bytes());
            bytes.extend([0, length]);
            bytes.extend(vec![1; length.into()]);
        }
        let layout = Layout::of(&bytes).expect("an answer");
        Arc::new(Answer { bytes, layout })
    }

    fn terms() -> Terms {
        Terms {
            success_seconds: (5, 60),
            denial_seconds: (5, 30),
            failure_seconds: 3,
            stale_seconds: 100,
            entries: 4,
        }
    }

    /// Whether an answer is fresh (`f`), stale (`s`) or gone (`-`) after so many seconds.
    fn life(cache: &Cache, n: u8, start: Instant, seconds: &[u64]) -> String {
        let at = |s: &u64| match cache.get(&key(n), start + Duration::from_secs(*s)) {
            CachedAnswer::Fresh(..) => 'f',
            CachedAnswer::Stale(_) => 's',
            CachedAnswer::Nothing => '-',
        };
        seconds.iter().map(at).collect()
    }

    #[test]
    fn answers_live_as_long_as_they_and_the_terms_say() {
        let start = Instant::now();
        for (answer, seconds, expected) in [
            (answer(0, Some(20), 4), [0, 19, 20, 119, 120], "ffss-"),
            (answer(0, Some(1), 4), [0, 4, 5, 104, 105], "ffss-"),
            (answer(0, Some(900), 4), [0, 59, 60, 159, 160], "ffss-"),
            (answer(3, None, 0), [0, 4, 5, 104, 105], "ff---"),
            (answer(2, None, 0), [0, 2, 3, 102, 103], "ff---"),
        ] {
            let mut cache = Cache::default();
            cache.put(key(1), &answer, &terms(), start);
            assert_eq!(life(&cache, 1, start, &seconds), expected, "{answer:?}");
        }
        let mut cache = Cache::default();
        let off = Terms {
            success_seconds: (5, 0),
            ..terms()
        };
        cache.put(key(1), &answer(0, Some(20), 4), &off, start);
        assert_eq!(cache.len(), 0, "turned off");
    }

    #[test]
    fn a_failure_replaces_no_answer() {
        let (mut cache, start) = (Cache::default(), Instant::now());
        cache.put(key(1), &answer(0, Some(20), 4), &terms(), start);
        let later = start + Duration::from_secs(30);
        cache.put(key(1), &answer(2, None, 0), &terms(), later);
        assert_eq!(life(&cache, 1, start, &[31]), "s");
    }

    #[test]
    fn what_ends_first_goes_first() {
        let (mut cache, start) = (Cache::default(), Instant::now());
        for (n, ttl) in [(1, 50), (2, 10), (3, 40), (4, 30), (5, 20)] {
            cache.put(key(n), &answer(0, Some(ttl), 4), &terms(), start);
        }
        let left: String = (1..=5).map(|n| life(&cache, n, start, &[0])).collect();
        assert_eq!((left.as_str(), cache.len()), ("f-fff", 4));
        for _ in 0..3 {
            cache.put(key(5), &answer(0, Some(20), 200), &terms(), start);
        }
        assert_eq!(cache.len(), 4, "an answer in its own place");
        let bytes: usize = cache
            .entries
            .iter()
            .map(|(k, e)| ENTRY_BYTES + e.kept.answer.cost() + k.question.len())
            .sum();
        assert_eq!(cache.bytes, bytes);
        assert_eq!(cache.order.len(), 4);
        cache.clear();
        assert_eq!(cache.len(), 0);
    }

    #[test]
    fn all_together_have_a_bound_in_bytes() {
        let (mut cache, start) = (Cache::default(), Instant::now());
        let many = Terms {
            entries: usize::MAX,
            ..terms()
        };
        let answer = answer(0, Some(20), 255);
        for n in 0..40_000u32 {
            let mut key = key(0);
            key.question.extend(n.to_be_bytes());
            cache.put(key, &answer, &many, start);
        }
        assert!(
            cache.bytes <= MOST_BYTES && cache.len() > 20_000,
            "{}",
            cache.len()
        );
    }
}
