//! Figures that are kept: what is too old is read again in the background, and who asks gets what
//! there is. A source that never answers keeps nobody waiting.

use clock::Instant;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// Figures by their source.
#[derive(Debug)]
pub struct BackgroundCache<V>(Arc<Inner<V>>);

#[derive(Debug)]
struct Inner<V> {
    entries: Mutex<BTreeMap<String, Entry<V>>>,
    /// Some reading has ended.
    ended: Notify,
}

#[derive(Debug)]
struct Entry<V> {
    value: Option<Arc<V>>,
    at: Option<Instant>,
    is_read: bool,
}

impl<V> Default for BackgroundCache<V> {
    fn default() -> Self {
        Self(Arc::new(Inner {
            entries: Mutex::default(),
            ended: Notify::new(),
        }))
    }
}

impl<V: Send + Sync + 'static> BackgroundCache<V> {
    /// Begins to read what is older than this, unless that is under way.
    pub fn refresh<F>(&self, key: &str, age: Duration, read: impl FnOnce() -> F)
    where
        F: Future<Output = V> + Send + 'static,
    {
        {
            let mut entries = self.0.entries.lock();
            let entry = entries.entry(key.to_owned()).or_insert(Entry {
                value: None,
                at: None,
                is_read: false,
            });
            if entry.is_read || entry.at.is_some_and(|at| at.elapsed() < age) {
                return;
            }
            entry.is_read = true;
        }
        let reading = Reading(self.0.clone(), key.to_owned());
        let read = read();
        tokio::spawn(async move {
            let value = read.await;
            reading.ends_with(value);
        });
    }

    /// What is known of a source; none as long as it has never answered.
    pub fn get(&self, key: &str) -> Option<Arc<V>> {
        self.0.entries.lock().get(key)?.value.clone()
    }

    /// Forgets all other sources.
    pub fn retain(&self, wanted: impl Fn(&str) -> bool) {
        self.0.entries.lock().retain(|key, _| wanted(key));
    }

    /// Waits until nothing is being read, but not longer than this.
    pub async fn settled(&self, most: Duration) {
        let settles = async {
            loop {
                let mut ended = pin!(self.0.ended.notified());
                ended.as_mut().enable();
                if self.0.entries.lock().values().all(|e| !e.is_read) {
                    return;
                }
                ended.await;
            }
        };
        let _ = tokio::time::timeout(most, settles).await;
    }
}

/// A reading that is under way. It ends also when its task does without an answer.
struct Reading<V>(Arc<Inner<V>>, String);

impl<V> Reading<V> {
    fn ends_with(self, value: V) {
        if let Some(entry) = self.0.entries.lock().get_mut(&self.1) {
            entry.value = Some(Arc::new(value));
            entry.at = Some(Instant::now());
        }
    }
}

impl<V> Drop for Reading<V> {
    fn drop(&mut self) {
        if let Some(entry) = self.0.entries.lock().get_mut(&self.1) {
            entry.is_read = false;
        }
        self.0.ended.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::{pending, ready};

    const MINUTE: Duration = Duration::from_secs(60);
    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn what_is_too_old_is_read_again_and_the_old_shown_meanwhile() {
        let kept = BackgroundCache::default();
        kept.refresh("a", MINUTE, || ready(1));
        assert_eq!(kept.get("a"), None);
        kept.settled(SECOND).await;
        assert_eq!(kept.get("a").as_deref(), Some(&1));
        kept.refresh("a", MINUTE, || ready(2));
        kept.settled(SECOND).await;
        assert_eq!(kept.get("a").as_deref(), Some(&1), "it is young enough");
        tokio::time::advance(MINUTE).await;
        kept.refresh("a", MINUTE, pending);
        kept.settled(SECOND).await;
        assert_eq!(kept.get("a").as_deref(), Some(&1));
        // It is under way: not begun once more.
        kept.refresh("a", MINUTE, || ready(3));
        kept.settled(SECOND).await;
        assert_eq!(kept.get("a").as_deref(), Some(&1));
        kept.retain(|key| key != "a");
        assert_eq!(kept.get("a"), None);
        kept.refresh("a", MINUTE, || ready(4));
        kept.settled(SECOND).await;
        assert_eq!(kept.get("a").as_deref(), Some(&4));
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_that_never_answers_keeps_nobody_waiting_for_others() {
        let kept = BackgroundCache::default();
        kept.refresh("hangs", MINUTE, pending);
        kept.refresh("b", MINUTE, || ready(2));
        let began = Instant::now();
        kept.settled(SECOND).await;
        assert_eq!(began.elapsed(), SECOND);
        assert_eq!(kept.get("b").as_deref(), Some(&2));
        assert_eq!(kept.get("hangs"), None);
    }
}
