//! A store as a network and a disk make it: every write takes its time, some fail, and of some the
//! outcome is not known. When and which is drawn from the seed.

use std::sync::Arc;
use std::time::Duration;

use clock::Random;
use futures::future::BoxFuture;
use rand::RngExt;
use store::{Layer, Outcome, Result, Store, StoreError, Txn};

/// How bad it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Longest time of a write, in microseconds.
    pub write_micros: u64,
    /// Part of the writes that fail, from 0 to 1; a third of them are applied all the same.
    pub failing: f64,
}

/// The store.
pub(crate) struct FaultyStore {
    inner: Arc<dyn Store>,
    faults: Faults,
    random: Random,
}

impl FaultyStore {
    pub fn new(inner: Arc<dyn Store>, faults: Faults, random: Random) -> Self {
        Self {
            inner,
            faults,
            random,
        }
    }

    async fn wait(&self) {
        if self.faults.write_micros > 0 {
            let micros = self
                .random
                .clone()
                .random_range(0..self.faults.write_micros);
            tokio::time::sleep(Duration::from_micros(micros)).await;
        }
    }
}

impl Layer for FaultyStore {
    fn below(&self) -> &dyn Store {
        &*self.inner
    }

    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Outcome>> {
        Box::pin(async move {
            self.wait().await;
            if self.random.fraction() >= self.faults.failing {
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
}
