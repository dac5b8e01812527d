//! Stores over another store: a layer writes only the calls that it changes; the others are passed
//! on as they are.

use std::collections::HashMap;

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::contract::{KeyValue, Outcome, RangePage, Result, Revision, Store, Txn, WatchStream};

/// A store over another one. Each call has the meaning that [`Store`] gives it.
pub trait Layer: Send + Sync + 'static {
    /// The store below, to which every call goes that the layer does not change.
    fn below(&self) -> &dyn Store;

    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Outcome>> {
        self.below().commit(txn)
    }

    fn get(&self, key: Bytes, at: Revision) -> BoxFuture<'_, Result<Option<KeyValue>>> {
        self.below().get(key, at)
    }

    fn range(
        &self,
        prefix: Bytes,
        start: Bytes,
        limit: usize,
        at: Revision,
    ) -> BoxFuture<'_, Result<RangePage>> {
        self.below().range(prefix, start, limit, at)
    }

    fn revisions(
        &self,
        prefix: Bytes,
        start: Bytes,
        limit: usize,
        at: Revision,
    ) -> BoxFuture<'_, Result<Vec<(Bytes, Revision)>>> {
        self.below().revisions(prefix, start, limit, at)
    }

    fn watch(&self, prefix: Bytes, after: Revision) -> BoxFuture<'_, Result<WatchStream>> {
        self.below().watch(prefix, after)
    }

    fn revision(&self) -> BoxFuture<'_, Result<Revision>> {
        self.below().revision()
    }

    fn compact(&self, before: Revision) -> BoxFuture<'_, Result<()>> {
        self.below().compact(before)
    }

    fn is_outdated(&self, key: Bytes) -> BoxFuture<'_, Result<bool>> {
        self.below().is_outdated(key)
    }

    fn disk_bytes(&self) -> BoxFuture<'_, Result<Option<u64>>> {
        self.below().disk_bytes()
    }

    fn expiries(&self) -> BoxFuture<'_, Result<HashMap<Bytes, u32>>> {
        self.below().expiries()
    }

    fn raise(&self, to: Revision) -> BoxFuture<'_, Result<Revision>> {
        self.below().raise(to)
    }
}

impl<L: Layer> Store for L {
    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Outcome>> {
        Layer::commit(self, txn)
    }

    fn get(&self, key: Bytes, at: Revision) -> BoxFuture<'_, Result<Option<KeyValue>>> {
        Layer::get(self, key, at)
    }

    fn range(
        &self,
        prefix: Bytes,
        start: Bytes,
        limit: usize,
        at: Revision,
    ) -> BoxFuture<'_, Result<RangePage>> {
        Layer::range(self, prefix, start, limit, at)
    }

    fn revisions(
        &self,
        prefix: Bytes,
        start: Bytes,
        limit: usize,
        at: Revision,
    ) -> BoxFuture<'_, Result<Vec<(Bytes, Revision)>>> {
        Layer::revisions(self, prefix, start, limit, at)
    }

    fn watch(&self, prefix: Bytes, after: Revision) -> BoxFuture<'_, Result<WatchStream>> {
        Layer::watch(self, prefix, after)
    }

    fn revision(&self) -> BoxFuture<'_, Result<Revision>> {
        Layer::revision(self)
    }

    fn compact(&self, before: Revision) -> BoxFuture<'_, Result<()>> {
        Layer::compact(self, before)
    }

    fn is_outdated(&self, key: Bytes) -> BoxFuture<'_, Result<bool>> {
        Layer::is_outdated(self, key)
    }

    fn disk_bytes(&self) -> BoxFuture<'_, Result<Option<u64>>> {
        Layer::disk_bytes(self)
    }

    fn expiries(&self) -> BoxFuture<'_, Result<HashMap<Bytes, u32>>> {
        Layer::expiries(self)
    }

    fn raise(&self, to: Revision) -> BoxFuture<'_, Result<Revision>> {
        Layer::raise(self, to)
    }
}
