//! A store whose values have upstream's form, seen as one whose values have ours. It translates
//! what passes and keeps nothing.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use registry::Kinds;
use store::{
    Batch, Event, EventKind, KeyValue, Layer, Op, Outcome, RangePage, Result, Revision, Store,
    StoreError, Txn, WatchStream,
};

use super::Layout;

/// Wraps a store (etcd) that is to hold what a Kubernetes API server would have written.
pub struct Upstream {
    inner: Arc<dyn Store>,
    layout: Arc<Layout>,
}

impl Upstream {
    pub fn new(inner: Arc<dyn Store>, kinds: &Kinds) -> Self {
        Self {
            inner,
            layout: Arc::new(Layout::new(kinds)),
        }
    }
}

impl Layout {
    fn write(&self, op: Op) -> Result<Op> {
        let Op::Put {
            key,
            value,
            expires_after_seconds,
        } = op
        else {
            return Ok(op);
        };
        let value = match self.of(&key) {
            None => value,
            Some(form) => form.write(&value).map_err(|e| {
                let key = String::from_utf8_lossy(&key);
                StoreError::Invalid(format!("the value of {key} cannot be stored: {e}"))
            })?,
        };
        Ok(Op::Put {
            key,
            value,
            expires_after_seconds,
        })
    }

    /// A value that cannot be read stays as it is: what parses it then names it as damaged.
    fn read(&self, mut kv: KeyValue) -> KeyValue {
        match self.of(&kv.key).map(|form| form.read(&kv.value)) {
            None => {}
            Some(Ok(json)) => kv.value = json,
            Some(Err(e)) => {
                tracing::error!("stored value of {}: {e}", String::from_utf8_lossy(&kv.key));
            }
        }
        kv
    }

    fn event(&self, event: Event) -> Event {
        let kv = match event.kind {
            EventKind::Put => self.read(event.kv),
            EventKind::Delete => event.kv,
        };
        Event {
            kind: event.kind,
            kv,
            // The cache has its own previous states; they are not worth a second translation.
            prev: None,
        }
    }
}

impl Layer for Upstream {
    fn below(&self) -> &dyn Store {
        &*self.inner
    }

    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Outcome>> {
        Box::pin(async move {
            let ops: Result<Vec<Op>> = txn.ops.into_iter().map(|o| self.layout.write(o)).collect();
            let txn = Txn {
                compare: txn.compare,
                ops: ops?,
            };
            Ok(match self.inner.commit(txn).await? {
                Outcome::Refused(now) => {
                    let now = now.into_iter().map(|kv| Some(self.layout.read(kv?)));
                    Outcome::Refused(now.collect())
                }
                done => done,
            })
        })
    }

    fn get(&self, key: Bytes, at: Revision) -> BoxFuture<'_, Result<Option<KeyValue>>> {
        Box::pin(async move {
            let found = self.inner.get(key, at).await?;
            Ok(found.map(|kv| self.layout.read(kv)))
        })
    }

    fn range(
        &self,
        prefix: Bytes,
        start: Bytes,
        limit: usize,
        at: Revision,
    ) -> BoxFuture<'_, Result<RangePage>> {
        Box::pin(async move {
            let mut page = self.inner.range(prefix, start, limit, at).await?;
            let items = std::mem::take(&mut page.items).into_iter();
            page.items = items.map(|kv| self.layout.read(kv)).collect();
            Ok(page)
        })
    }

    fn watch(&self, prefix: Bytes, after: Revision) -> BoxFuture<'_, Result<WatchStream>> {
        Box::pin(async move {
            let stream = self.inner.watch(prefix, after).await?;
            let layout = self.layout.clone();
            let translated = stream.map(move |batch| {
                batch.map(|b| Batch {
                    revision: b.revision,
                    events: b.events.into_iter().map(|e| layout.event(e)).collect(),
                })
            });
            Ok(translated.boxed())
        })
    }

    fn is_outdated(&self, key: Bytes) -> BoxFuture<'_, Result<bool>> {
        Box::pin(async move {
            if let Some(form) = self.layout.of(&key) {
                let found = self.inner.get(key.clone(), 0).await?;
                if found.is_some_and(|kv| form.is_outdated(&kv.value)) {
                    return Ok(true);
                }
            }
            self.inner.is_outdated(key).await
        })
    }
}
