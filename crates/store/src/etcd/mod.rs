//! The store over an existing etcd cluster (version 3.4 to 3.6): the same trait, the same
//! semantics. It owns no data: each call becomes requests to one of the members, and another
//! member is asked when one does not answer. It knows no kinds, and writes no key of its own
//! except under [`crate::contract::PRIVATE_PREFIX`].
//!
//! How long things take when members fail, with etcd's default timing (election after 1 to 2 s):
//! * A dead process closes its connections: the next member is asked at once.
//! * A member that is silent: a read is asked again elsewhere after 1.5 s; a write that waits asks
//!   the member each half second whether it still follows the same leader, and is given up when
//!   it does not or says nothing for 1 s; a watch moves when a revision that is known to exist has
//!   not arrived for 2 s.
//! * No quorum: an answer within 10 s, which is longer than etcd's own limit of 7 s.
//!
//! A write whose outcome is open is sent again only if that cannot apply it twice (`txn.rs`);
//! else it ends with [`StoreError::Unknown`].

mod connect;
mod failure;
mod inner;
mod lease;
mod members;
mod proto;
mod read;
mod txn;
mod watch;
mod wire;

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::contract::{
    KeyValue, Outcome, RangePage, Result, Revision, Store, StoreError, Txn, WatchStream,
};
pub use connect::{ConnectError, EtcdConfig, EtcdTls};
use failure::Failure;
use inner::Inner;
use lease::Leases;
use proto::kv_client::KvClient;
use wire::{signed, unsigned};

/// A client of an etcd cluster; clones share connections.
#[derive(Clone)]
pub struct Etcd {
    inner: Arc<Inner>,
}

/// A member's own words.
#[derive(Clone, Debug)]
pub struct MemberStatus {
    pub version: String,
    pub is_leader: bool,
    pub has_leader: bool,
    pub database_bytes: u64,
    /// Alarms such as NOSPACE, and errors.
    pub errors: Vec<String>,
}

impl From<proto::StatusResponse> for MemberStatus {
    fn from(status: proto::StatusResponse) -> Self {
        let own = status.header.map_or(0, |h| h.member_id);
        Self {
            version: status.version,
            is_leader: status.leader != 0 && status.leader == own,
            has_leader: status.leader != 0,
            database_bytes: unsigned(status.db_size),
            errors: status.errors,
        }
    }
}

impl Etcd {
    /// Connects, checks certificates and that the members are of one cluster, and waits for one
    /// linearizable read. Nothing is written.
    pub async fn connect(config: &EtcdConfig) -> std::result::Result<Self, ConnectError> {
        let members = connect::members(config).await?;
        let etcd = Self {
            inner: Arc::new(Inner {
                members: Arc::new(members),
                leases: Leases::default(),
                newest: read::SharedRead::default(),
            }),
        };
        etcd.revision().await.map_err(ConnectError::Unready)?;
        Ok(etcd)
    }

    /// The identity of the cluster, which distinguishes it from others.
    pub fn cluster_id(&self) -> u64 {
        self.inner.members.cluster()
    }

    /// What each member says of itself, by endpoint.
    pub async fn status(&self) -> Vec<(String, Result<MemberStatus>)> {
        let members = &self.inner.members;
        let ask = async |number: usize| {
            let name = members.at(number).name().to_owned();
            let status = members.status(number).await.map(MemberStatus::from);
            (name, status.map_err(Failure::into_error))
        };
        futures::future::join_all((0..members.list().len()).map(ask)).await
    }

    /// Gives compacted space back: defragments each member in turn, then takes back the alarm
    /// that refuses writes. For operators: a member answers nothing while it is defragmented.
    pub async fn reclaim_space(&self) -> Result<()> {
        self.inner.members.reclaim_space().await
    }
}

impl Inner {
    async fn compact(&self, before: Revision) -> Result<()> {
        let request = proto::CompactionRequest {
            revision: signed(before),
            physical: false,
        };
        let done =
            self.members
                .read(|channel| async move {
                    KvClient::new(channel).compact(members::led(request)).await
                })
                .await;
        match done {
            Ok(_) => Ok(()),
            Err(failure) => match self.explain(failure, before).await {
                // Another server was faster, or an attempt whose answer was lost.
                StoreError::Compacted { oldest, .. } if oldest == before => Ok(()),
                e => Err(e),
            },
        }
    }
}

impl Store for Etcd {
    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Outcome>> {
        Box::pin(self.inner.commit(txn))
    }

    fn get(&self, key: Bytes, at: Revision) -> BoxFuture<'_, Result<Option<KeyValue>>> {
        Box::pin(self.inner.get(key, at))
    }

    fn range(
        &self,
        prefix: Bytes,
        start: Bytes,
        limit: usize,
        at: Revision,
    ) -> BoxFuture<'_, Result<RangePage>> {
        Box::pin(self.inner.range(prefix, start, limit, at))
    }

    fn watch(&self, prefix: Bytes, after: Revision) -> BoxFuture<'_, Result<WatchStream>> {
        Box::pin(watch::start(self.inner.clone(), prefix, after))
    }

    fn revision(&self) -> BoxFuture<'_, Result<Revision>> {
        Box::pin(self.inner.newest.revision(&self.inner.members))
    }

    /// Of the member that is asked.
    fn disk_bytes(&self) -> BoxFuture<'_, Result<Option<u64>>> {
        Box::pin(async move {
            let members = &self.inner.members;
            let status = members.status(members.current()).await;
            let status = status.map_err(Failure::into_error)?;
            Ok(u64::try_from(status.db_size).ok())
        })
    }

    fn compact(&self, before: Revision) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.inner.compact(before))
    }

    fn expiries(&self) -> BoxFuture<'_, Result<HashMap<Bytes, u32>>> {
        Box::pin(self.inner.expiries())
    }
}
