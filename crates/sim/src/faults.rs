//! What a store, a network and a machine do to their users: all takes its time, some fails, and of
//! some the outcome is not known. When and which is drawn from the seed.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use clock::Random;
use futures::future::BoxFuture;
use host::runtime;
use host::runtime::fake::{Step, Trouble};
use rand::RngExt;
use store::{KeyValue, Outcome, RangePage, Result, Revision, Store, StoreError, Txn, WatchStream};
use tokio::sync::Notify;

/// How bad it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Longest time of a write, in microseconds.
    pub write_micros: u64,
    /// Part of the writes, of the nodes' requests and of the calls to their runtimes that fail,
    /// from 0 to 1; some of them are applied all the same.
    pub failing: f64,
    /// Longest time of a call to a container runtime, in microseconds.
    pub runtime_micros: u64,
}

/// The faults, until it is calm. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Weather {
    faults: Faults,
    calm: Arc<AtomicBool>,
}

impl Weather {
    pub fn new(faults: Faults) -> Self {
        Self {
            faults,
            calm: Arc::default(),
        }
    }

    /// Nothing fails by itself from now on.
    pub fn calm(&self) {
        self.calm.store(true, Ordering::SeqCst);
    }

    /// Whether this one fails.
    pub fn strikes(&self, random: &Random) -> bool {
        !self.calm.load(Ordering::SeqCst) && random.fraction() < self.faults.failing
    }
}

/// How many more steps a part does before it dies; none: it does not die by itself. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fuse(Arc<AtomicU64>);

impl Fuse {
    /// The part dies at the step of this number, the next one being 1.
    pub fn light(&self, steps: u64) {
        self.0.store(steps, Ordering::SeqCst);
    }

    /// One more step is about to be done: whether the part dies at it.
    pub fn burns_down(&self) -> bool {
        let left = self.0.load(Ordering::SeqCst);
        self.0.store(left.saturating_sub(1), Ordering::SeqCst);
        left == 1
    }
}

/// What a container runtime does to its kubelet, and what happens on its machine.
pub(crate) struct Runtime {
    pub weather: Weather,
    pub random: Random,
    /// Called when a container was started.
    pub started: Arc<dyn Fn() + Send + Sync>,
    /// Notified when something has changed whose containers may end by themselves.
    pub changed: Arc<Notify>,
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Runtime")
    }
}

impl Runtime {
    fn fails(&self, when: &str) -> runtime::Result<()> {
        if self.weather.strikes(&self.random) {
            let why = format!("by the simulation, {when}");
            return Err(runtime::Error::new(runtime::ErrorKind::Other, why));
        }
        Ok(())
    }
}

impl Trouble for Runtime {
    fn before(&self, step: Step) -> runtime::Call<'_, ()> {
        Box::pin(async move {
            let most = match step {
                Step::Any => self.weather.faults.runtime_micros / 100,
                _ => self.weather.faults.runtime_micros,
            };
            if most > 0 {
                let micros = self.random.clone().random_range(0..most);
                tokio::time::sleep(Duration::from_micros(micros)).await;
            }
            self.fails("before")
        })
    }

    fn after(&self, step: Step) -> runtime::Call<'_, ()> {
        Box::pin(async move {
            if step == Step::StartContainer {
                (self.started)();
            }
            // What only reads has failed before.
            if step == Step::Any {
                return Ok(());
            }
            self.changed.notify_one();
            self.fails("after")
        })
    }
}

/// The store.
pub(crate) struct FaultyStore {
    inner: Arc<dyn Store>,
    weather: Weather,
    random: Random,
    fuse: Fuse,
    /// Called when the server dies at a write.
    dies: Box<dyn Fn() + Send + Sync>,
}

impl FaultyStore {
    pub fn new(
        inner: Arc<dyn Store>,
        weather: Weather,
        random: Random,
        fuse: Fuse,
        dies: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        Self {
            inner,
            weather,
            random,
            fuse,
            dies: Box::new(dies),
        }
    }

    async fn wait(&self) {
        if self.weather.faults.write_micros > 0 {
            let micros = self
                .random
                .clone()
                .random_range(0..self.weather.faults.write_micros);
            tokio::time::sleep(Duration::from_micros(micros)).await;
        }
    }
}

impl Store for FaultyStore {
    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Outcome>> {
        Box::pin(async move {
            self.wait().await;
            if self.fuse.burns_down() {
                // Nobody will ever know whether it was applied.
                if self.random.number().is_multiple_of(2) {
                    self.inner.commit(txn).await?;
                }
                (self.dies)();
                return std::future::pending().await;
            }
            if !self.weather.strikes(&self.random) {
                return self.inner.commit(txn).await;
            }
            match self.random.number() % 3 {
                0 => Err(StoreError::Unavailable("by the simulation".into())),
                1 => Err(StoreError::Unknown("by the simulation; it was lost".into())),
                _ => {
                    self.inner.commit(txn).await?;
                    self.wait().await;
                    Err(StoreError::Unknown(
                        "by the simulation; it was applied".into(),
                    ))
                }
            }
        })
    }
    fn get(&self, key: Bytes, at: Revision) -> BoxFuture<'_, Result<Option<KeyValue>>> {
        self.inner.get(key, at)
    }
    fn range(
        &self,
        prefix: Bytes,
        start: Bytes,
        limit: usize,
        at: Revision,
    ) -> BoxFuture<'_, Result<RangePage>> {
        self.inner.range(prefix, start, limit, at)
    }
    fn watch(&self, prefix: Bytes, after: Revision) -> BoxFuture<'_, Result<WatchStream>> {
        self.inner.watch(prefix, after)
    }
    fn revision(&self) -> BoxFuture<'_, Result<Revision>> {
        self.inner.revision()
    }
    fn compact(&self, before: Revision) -> BoxFuture<'_, Result<()>> {
        self.inner.compact(before)
    }
    fn expiries(&self) -> BoxFuture<'_, Result<HashMap<Bytes, u32>>> {
        self.inner.expiries()
    }
}
