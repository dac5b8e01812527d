//! A value and the tasks that wait for it to change, woken in the order in which they began to
//! wait.
//! tokio's channel of this name, whose interface this has, draws by chance whom it wakes first,
//! from a generator that no seed reaches.

use std::future::poll_fn;
use std::ops::Deref;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Poll;

use parking_lot::{RwLock, RwLockReadGuard};
use tokio::sync::Notify;

#[derive(Debug)]
struct Shared<T> {
    value: RwLock<T>,
    /// Counts changes; only written under the value's lock.
    version: AtomicU64,
    closed: AtomicBool,
    changed: Notify,
}

impl<T> Shared<T> {
    /// Whether there is something that a receiver which saw this version has not.
    fn has_news(&self, seen: u64) -> bool {
        self.version.load(Ordering::Acquire) != seen || self.closed.load(Ordering::Acquire)
    }
}

/// The one that changes the value.
#[derive(Debug)]
pub struct Sender<T>(Arc<Shared<T>>);

/// One that follows the value.
#[derive(Debug)]
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
    seen: u64,
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
            seen: self.seen,
        }
    }
}

/// The value will not change any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its sender is gone")]
pub struct Closed;

impl<T> Sender<T> {
    pub fn new(value: T) -> Self {
        Self(Arc::new(Shared {
            value: RwLock::new(value),
            version: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            changed: Notify::new(),
        }))
    }

    /// Changes the value and wakes all that wait.
    pub fn send_modify(&self, change: impl FnOnce(&mut T)) {
        let mut value = self.0.value.write();
        change(&mut value);
        self.0.version.fetch_add(1, Ordering::Release);
        drop(value);
        self.0.changed.notify_waiters();
    }

    /// Puts a value and gives the one before.
    pub fn send_replace(&self, new: T) -> T {
        let mut new = new;
        self.send_modify(|value| std::mem::swap(value, &mut new));
        new
    }

    /// Changes the value, if `change` says that it did, and then wakes all that wait.
    pub fn send_if_modified(&self, change: impl FnOnce(&mut T) -> bool) -> bool {
        let mut value = self.0.value.write();
        let changed = change(&mut value);
        if changed {
            self.0.version.fetch_add(1, Ordering::Release);
        }
        drop(value);
        if changed {
            self.0.changed.notify_waiters();
        }
        changed
    }

    /// The value; it cannot change while this is held.
    pub fn borrow(&self) -> impl Deref<Target = T> + '_ {
        self.0.value.read()
    }

    /// One that has seen the value as it is.
    pub fn subscribe(&self) -> Receiver<T> {
        Receiver {
            shared: self.0.clone(),
            seen: self.0.version.load(Ordering::Acquire),
        }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.closed.store(true, Ordering::Release);
        self.0.changed.notify_waiters();
    }
}

impl<T> Receiver<T> {
    /// The value; it cannot change while this is held.
    pub fn borrow(&self) -> RwLockReadGuard<'_, T> {
        self.shared.value.read()
    }

    /// The value, which is seen from now on.
    pub fn borrow_and_update(&mut self) -> RwLockReadGuard<'_, T> {
        let value = self.shared.value.read();
        self.seen = self.shared.version.load(Ordering::Acquire);
        value
    }

    /// Whether the value is another than the one that was seen.
    pub fn has_changed(&self) -> Result<bool, Closed> {
        if self.shared.closed.load(Ordering::Acquire) {
            return Err(Closed);
        }
        Ok(self.shared.version.load(Ordering::Acquire) != self.seen)
    }

    /// The value is seen from now on, whatever it is.
    pub fn mark_seen(&mut self) {
        self.seen = self.shared.version.load(Ordering::Acquire);
    }

    /// Takes notice of a change, or of the end if there was none before it.
    fn notice(&mut self) -> Option<Result<(), Closed>> {
        let closed = self.shared.closed.load(Ordering::Acquire);
        let version = self.shared.version.load(Ordering::Acquire);
        if version != self.seen {
            self.seen = version;
            return Some(Ok(()));
        }
        closed.then_some(Err(Closed))
    }

    /// Waits until the value is another than the one that was seen, which it then is.
    pub async fn changed(&mut self) -> Result<(), Closed> {
        loop {
            // The line is behind a lock that all share: nobody enters it without need.
            if let Some(news) = self.notice() {
                return news;
            }
            let mut notified = pin!(self.shared.changed.notified());
            let (shared, seen) = (&*self.shared, self.seen);
            poll_fn(|cx| {
                // In line before the look, so that no change falls between the two.
                if notified.as_mut().poll(cx).is_ready() || shared.has_news(seen) {
                    return Poll::Ready(());
                }
                Poll::Pending
            })
            .await;
        }
    }

    /// Waits until the value is as wanted.
    pub async fn wait_for(&mut self, is_wanted: impl Fn(&T) -> bool) -> Result<(), Closed> {
        loop {
            if is_wanted(&self.borrow_and_update()) {
                return Ok(());
            }
            self.changed().await?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_change_is_seen_once_and_an_end_after_it() {
        let sender = Sender::new(1);
        let mut one = sender.subscribe();
        assert_eq!(sender.send_replace(2), 1);
        let mut late = sender.subscribe();
        one.changed().await.expect("a change");
        assert_eq!(*one.borrow(), 2);
        assert!(!sender.send_if_modified(|_| false));
        sender.send_modify(|v| *v += 1);
        late.wait_for(|v| *v == 3).await.expect("the value");
        sender.send_modify(|_| {});
        late.mark_seen();
        assert_eq!(late.has_changed(), Ok(false));
        drop(sender);
        one.changed().await.expect("the change before the end");
        assert_eq!(one.changed().await, Err(Closed));
        assert_eq!(late.wait_for(|v| *v == 4).await, Err(Closed));
    }

    #[tokio::test]
    async fn all_are_woken_in_the_order_of_their_waiting() {
        let (sender, order) = (Sender::new(0), Arc::new(parking_lot::Mutex::default()));
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..20 {
            let (mut receiver, order) = (sender.subscribe(), order.clone());
            tasks.spawn(async move {
                receiver.changed().await.expect("a change");
                let mut order: parking_lot::MutexGuard<'_, Vec<i32>> = order.lock();
                order.push(n);
            });
        }
        tokio::task::yield_now().await;
        sender.send_replace(1);
        while tasks.join_next().await.is_some() {}
        assert_eq!(*order.lock(), (0..20).collect::<Vec<_>>());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn no_change_is_missed_between_threads() {
        let sender = Sender::new(0_u32);
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let mut receiver = sender.subscribe();
            tasks.spawn(async move {
                let mut last = 0;
                while last < 5_000 {
                    receiver.changed().await.expect("a change");
                    let now = *receiver.borrow_and_update();
                    assert!(now > last, "{now} after {last}");
                    last = now;
                }
            });
        }
        for n in 1..=5_000 {
            sender.send_replace(n);
            if n % 16 == 0 {
                tokio::task::yield_now().await;
            }
        }
        while let Some(done) = tasks.join_next().await {
            done.expect("all changes");
        }
    }
}
