//! What every cluster begins with: the objects that a server makes in an empty store, some hundred.
//! They are the same for every seed. So one server makes them once in a process, at a time before all
//! clusters and from a seed of its own, and stores begin with copies of them.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use clock::{Clock, Random};
use jiff::Timestamp;
use store::{Memory, Op, Store, Txn};
use tokio_util::sync::CancellationToken;

use crate::basis::{BEGINNING, Failed, runtime};
use crate::control_plane;

/// How long before the clusters that begin with its objects the server works, in seconds.
const BEFORE: i64 = 60;
/// In this time it has said of its objects what there is to be said: of flow schemas, that their
/// levels are there.
const SETTLES: Duration = Duration::from_secs(20);
const SEED: u64 = 0;

/// Keys and values.
type Objects = Vec<(Bytes, Bytes)>;

static MADE: OnceLock<Result<Objects, String>> = OnceLock::new();

/// Puts the first objects into an empty store.
pub(crate) async fn fill(store: &dyn Store) -> Result<(), Failed> {
    let made = MADE.get_or_init(|| make().map_err(|e| e.0));
    for (key, value) in made.as_ref().map_err(|e| Failed(e.clone()))? {
        let put = Op::Put {
            key: key.clone(),
            value: value.clone(),
            expires_after_seconds: None,
        };
        let txn = Txn {
            compare: Vec::new(),
            ops: vec![put],
        };
        let done = store.commit(txn).await;
        done.map_err(|e| Failed(e.to_string()))?;
    }
    Ok(())
}

/// Has them made on a thread of its own, whose runtime has a clock of its own: that of the caller does
/// not go on meanwhile.
#[expect(
    clippy::disallowed_methods,
    reason = "nothing else runs until it has ended"
)]
fn make() -> Result<Objects, Failed> {
    let thread = std::thread::spawn(|| {
        let runtime = runtime().map_err(|e| Failed(e.to_string()))?;
        runtime.block_on(first())
    });
    let made = thread.join();
    made.unwrap_or_else(|_| Err(Failed("the server of the first objects panicked".into())))
}

async fn first() -> Result<Objects, Failed> {
    let start = Timestamp::from_second(BEGINNING - BEFORE).map_err(|e| Failed(e.to_string()))?;
    let clock = Clock::virtual_from(start);
    let store: Arc<dyn Store> = Arc::new(Memory::new(clock));
    let stop = CancellationToken::new();
    let own = (clock, Random::seeded(SEED));
    let api = control_plane::api(0, own, store.clone(), &|_| {}, &stop).await?;
    tokio::time::sleep(SETTLES).await;
    let failed = |e: store::StoreError| Failed(e.to_string());
    // What expires says that a server lives; this one does not.
    let expires = store.expiries().await.map_err(failed)?;
    let all = store.range(Bytes::new(), Bytes::new(), 0, 0).await;
    let all = all.map_err(failed)?.items.into_iter();
    stop.cancel();
    drop(api);
    Ok(all
        .filter(|kv| !expires.contains_key(&kv.key))
        .map(|kv| (kv.key, kv.value))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stores_begin_with_the_same_objects() {
        let (one, two) = (make().unwrap(), make().unwrap());
        assert!(one == two, "two runs make other objects");
        let has = |key: &str| one.iter().any(|(k, _)| k == key);
        assert!(has("/registry/namespaces/kube-system"));
        assert!(has("/registry/clusterroles/cluster-admin"));
        assert!(
            !one.iter()
                .any(|(k, _)| k.starts_with(b"/registry/masterleases/"))
        );
    }
}
