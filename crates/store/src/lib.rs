//! Revisioned bytes: one totally ordered log of small transactions with multi-version reads,
//! with etcd's semantics (one revision for the whole store, compare-and-swap, watch from a
//! revision, compaction). It knows no kinds: a value is bytes under a key.
//! The embedded engine, an etcd cluster and memory alone implement the same trait.

#![forbid(unsafe_code)]

pub mod backup;
mod contract;
mod cursor;
mod embedded;
mod etcd;
mod frame;
mod layer;
mod memory;
mod raise_revision;
mod state;
mod transaction;

pub use contract::{
    Batch, Compare, Event, EventKind, KeyValue, Op, Outcome, PRIVATE_PREFIX, RangePage, Result,
    Revision, Store, StoreError, Txn, WatchStream,
};
pub use embedded::{Embedded, Options, fault};
pub use etcd::{ConnectError, Etcd, EtcdConfig, EtcdTls, MemberStatus};
pub use layer::Layer;
pub use memory::Memory;
pub use state::History;
