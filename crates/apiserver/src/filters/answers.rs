//! Answers that hold for a while: what somebody outside said of a token or of a request. Bounded in
//! number, each with an end.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use clock::Instant;
use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;

/// The name of a question.
pub type Key = [u8; 32];

/// A name made of parts, none of which runs into the next.
pub fn key(parts: &[&[u8]]) -> Key {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    // A digest of SHA-256 has 32 bytes.
    context.finish().as_ref().try_into().unwrap_or_default()
}

/// The answers.
pub struct Answers<V> {
    most: usize,
    kept: Mutex<HashMap<Key, (V, Instant)>>,
    asking: Mutex<HashMap<Key, Arc<tokio::sync::Mutex<()>>>>,
}

impl<V: Clone> Answers<V> {
    /// Keeps so many at most.
    pub fn new(most: usize) -> Self {
        Self {
            most,
            kept: Mutex::default(),
            asking: Mutex::default(),
        }
    }

    pub fn get(&self, key: &Key) -> Option<V> {
        let kept = self.kept.lock();
        let (value, until) = kept.get(key)?;
        (Instant::now() < *until).then(|| value.clone())
    }

    /// Keeps an answer for so long; not at all for no time.
    pub fn put(&self, key: Key, value: V, hold: Duration) {
        if hold.is_zero() {
            return;
        }
        let now = Instant::now();
        let mut kept = self.kept.lock();
        if kept.len() >= self.most {
            kept.retain(|_, (_, until)| now < *until);
            if kept.len() >= self.most {
                kept.clear();
            }
        }
        kept.insert(key, (value, now + hold));
    }

    /// The right to ask: others who want to know the same wait, and then find the answer.
    pub async fn turn(&self, key: &Key) -> Turn<'_, V> {
        let one = {
            let mut asking = self.asking.lock();
            asking.entry(*key).or_default().clone()
        };
        let held = one.lock_owned().await;
        Turn {
            answers: self,
            key: *key,
            _held: held,
        }
    }
}

/// See [`Answers::turn`].
pub struct Turn<'a, V> {
    answers: &'a Answers<V>,
    key: Key,
    _held: OwnedMutexGuard<()>,
}

impl<V> Drop for Turn<'_, V> {
    fn drop(&mut self) {
        let mut asking = self.answers.asking.lock();
        // The map's and this one's own: nobody waits.
        let is_last = |one: &Arc<tokio::sync::Mutex<()>>| Arc::strong_count(one) <= 2;
        if asking.get(&self.key).is_some_and(is_last) {
            asking.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn answers_end_and_are_few() {
        let answers = Answers::new(2);
        let name = |n: u8| key(&[&[n]]);
        answers.put(name(1), 1, Duration::from_secs(10));
        answers.put(name(2), 2, Duration::from_secs(20));
        answers.put(name(9), 9, Duration::ZERO);
        assert_eq!(
            (answers.get(&name(1)), answers.get(&name(9))),
            (Some(1), None)
        );
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(
            (answers.get(&name(1)), answers.get(&name(2))),
            (None, Some(2))
        );
        answers.put(name(3), 3, Duration::from_secs(10));
        assert_eq!(
            (answers.get(&name(2)), answers.get(&name(3))),
            (Some(2), Some(3))
        );
        answers.put(name(4), 4, Duration::from_secs(10));
        assert_eq!(answers.kept.lock().len(), 1);
        assert_ne!(key(&[b"ab", b"c"]), key(&[b"a", b"bc"]));
    }

    #[tokio::test]
    async fn one_asks_at_a_time() {
        let answers = Answers::<u8>::new(2);
        let name = key(&[b"x"]);
        let first = answers.turn(&name).await;
        let second = answers.turn(&name);
        futures::pin_mut!(second);
        assert!(futures::poll!(&mut second).is_pending());
        drop(first);
        drop(second.await);
        assert!(answers.asking.lock().is_empty());
    }
}
