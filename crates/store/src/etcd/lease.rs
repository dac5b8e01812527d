//! Values with an expiry: etcd deletes what hangs on a lease when the lease ends. Values of about
//! the same deadline share one, as upstream's do: a lease for each Event would be a second write
//! for each, and much work at its end.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::failure::Failure;
use super::inner::Inner;
use super::members::{Members, led};
use super::proto;
use super::proto::lease_client::LeaseClient;
use crate::contract::Result;

/// Values on one lease at most: they end in one transaction of etcd's.
const MOST_VALUES: u32 = 1000;
/// Values live longer than asked by a twentieth of their time, and by a minute at most.
const SLACK_DIVISOR: u32 = 20;
const MOST_SLACK_SECONDS: u32 = 60;
/// Different lifetimes that are remembered: a cluster has one or two.
const MOST_LIFETIMES: usize = 16;

struct GrantedLease {
    id: i64,
    ends: Instant,
    values: u32,
}

/// The leases in use, by lifetime in seconds.
#[derive(Default)]
pub struct Leases {
    held: Mutex<HashMap<u32, GrantedLease>>,
}

fn slack(seconds: u32) -> u32 {
    (seconds / SLACK_DIVISOR).clamp(1, MOST_SLACK_SECONDS)
}

impl Leases {
    /// A lease that lasts at least so long, for one more value.
    pub async fn of(&self, members: &Members, seconds: u32) -> Result<i64, Failure> {
        let mut held = self.held.lock().await;
        let now = Instant::now();
        let needed = now + Duration::from_secs(seconds.into());
        if let Some(lease) = held.get_mut(&seconds)
            && lease.ends >= needed
            && lease.values < MOST_VALUES
        {
            lease.values += 1;
            return Ok(lease.id);
        }
        let extra = slack(seconds);
        let request = proto::LeaseGrantRequest {
            ttl: i64::from(seconds) + i64::from(extra),
            id: 0,
        };
        // A grant whose answer is lost ends by itself.
        let granted = members
            .read(
                |channel| async move { LeaseClient::new(channel).lease_grant(led(request)).await },
            )
            .await?;
        if held.len() >= MOST_LIFETIMES {
            held.clear();
        }
        held.insert(
            seconds,
            GrantedLease {
                id: granted.id,
                ends: needed + Duration::from_secs(extra.into()),
                values: 1,
            },
        );
        Ok(granted.id)
    }

    /// After etcd has said that a lease is gone: someone ended it.
    pub async fn forget(&self) {
        self.held.lock().await.clear();
    }
}

impl Inner {
    /// Reads all keys and asks for the time that each of their leases has left.
    pub async fn expiries(&self) -> Result<HashMap<Bytes, u32>> {
        let mut by_lease: HashMap<i64, Vec<Bytes>> = HashMap::new();
        let mut note = |kv: &proto::KeyValue| {
            if kv.lease != 0 {
                let key = Bytes::copy_from_slice(&kv.key);
                by_lease.entry(kv.lease).or_default().push(key);
            }
        };
        self.each_key(&mut note).await?;
        let mut left = HashMap::new();
        for (id, keys) in by_lease {
            let request = proto::LeaseTimeToLiveRequest { id, keys: false };
            let answer = self
                .members
                .read(|channel| async move {
                    LeaseClient::new(channel)
                        .lease_time_to_live(led(request))
                        .await
                })
                .await;
            let answer = match answer {
                Ok(answer) => answer,
                Err(failure) => return Err(self.explain(failure, 0).await),
            };
            // -1 when it has ended since.
            let seconds = u32::try_from(answer.ttl.max(0)).unwrap_or(u32::MAX);
            left.extend(keys.into_iter().map(|key| (key, seconds)));
        }
        Ok(left)
    }
}
