//! Whether the watch cache holds what the store holds: names and revisions are compared every few
//! minutes, as of one revision. What differs is a fault of this server, or of who changed the store
//! below it; it is reported and counted, and nothing else follows. Values are not compared.

use std::cmp::Ordering;
use std::iter::Peekable;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use store::{Revision, StoreError};
use tokio_util::sync::CancellationToken;

use super::{Cache, ResourceCache};

/// Between two comparisons; upstream's.
const EVERY: Duration = Duration::from_secs(5 * 60);
/// Keys that are read at once: a store in memory holds its lock for so long.
const PAGE: usize = 500;

/// An object of which cache and store hold different revisions, or one of them none.
#[derive(Debug, PartialEq, Eq)]
struct Difference {
    /// Below the resource's prefix.
    key: String,
    cached: Option<Revision>,
    stored: Option<Revision>,
}

/// Why they were not compared.
#[derive(Debug, thiserror::Error)]
enum CompareError {
    /// It forgot, or has objects that cannot be read, which is reported elsewhere.
    #[error("the cache does not hold all of revision {0}")]
    NotWhole(Revision),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Cache {
    /// Compares each resource's cache with the store every few minutes, one after the other, until
    /// `stop`.
    pub async fn compare_with_store(self: Arc<Self>, stop: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(EVERY) => {}
            }
            let mut all = self.all();
            all.sort_by(|a, b| a.row.storage_prefix.cmp(&b.row.storage_prefix));
            for cache in all {
                if stop.is_cancelled() {
                    return;
                }
                self.compare(&cache).await;
            }
        }
    }

    async fn compare(&self, cache: &Arc<ResourceCache>) {
        let found = self.difference(cache).await;
        let is_kept = self.of(&cache.row).is_some_and(|c| Arc::ptr_eq(&c, cache));
        if !is_kept {
            // Its row went meanwhile, or is another: nothing keeps it up to date.
            return;
        }
        let prefix = &cache.row.storage_prefix;
        let status = match found {
            Ok(None) => "success",
            Ok(Some(Difference {
                key,
                cached,
                stored,
            })) => {
                tracing::error!(
                    "the watch cache differs from the store, first in {prefix}/{key}: revision {cached:?} is cached, {stored:?} is stored"
                );
                "failure"
            }
            Err(why) => {
                tracing::warn!("comparing the watch cache of {prefix} with the store: {why}");
                "error"
            }
        };
        cache.figures.compared(status);
    }

    /// The first object in which they differ, in the order of keys.
    async fn difference(&self, cache: &ResourceCache) -> Result<Option<Difference>, CompareError> {
        let at = self.revision();
        let objects = cache.at(at).map_err(|_| CompareError::NotWhole(at))?;
        let cached: Vec<(Arc<str>, Revision)> = objects
            .iter()
            .map(|(key, object)| (key.clone(), object.revision))
            .collect();
        drop(objects);
        let mut cached = cached.into_iter().peekable();
        let prefix = Bytes::from(format!("{}/", cache.row.storage_prefix));
        let mut start = prefix.clone();
        loop {
            let read = self.store.revisions(prefix.clone(), start, PAGE, at);
            let page = read.await?;
            let Some((last, _)) = page.last() else {
                break;
            };
            start = [&last[..], b"\0"].concat().into();
            for (key, stored) in page {
                let Some(name) = name_of(&key, prefix.len(), cache.row.namespaced) else {
                    continue;
                };
                let found = first_difference(&mut cached, name, stored);
                if found.is_some() {
                    return Ok(found);
                }
            }
            tokio::task::yield_now().await;
        }
        Ok(cached.next().map(|(key, revision)| Difference {
            key: key.to_string(),
            cached: Some(revision),
            stored: None,
        }))
    }
}

/// The part of a key behind a prefix of so many bytes, if an object of such a row can have it.
fn name_of(key: &[u8], prefix: usize, namespaced: bool) -> Option<&str> {
    let name = std::str::from_utf8(key.get(prefix..)?).ok()?;
    (name.matches('/').count() == usize::from(namespaced)).then_some(name)
}

/// How the next stored object differs from the next ones that are cached, which are taken as far as
/// they are compared. Both come in the order of their keys.
fn first_difference(
    cached: &mut Peekable<impl Iterator<Item = (Arc<str>, Revision)>>,
    name: &str,
    stored: Revision,
) -> Option<Difference> {
    let next = cached.next_if(|(key, _)| (**key).cmp(name) != Ordering::Greater);
    let Some((key, revision)) = next else {
        return Some(Difference {
            key: name.to_owned(),
            cached: None,
            stored: Some(stored),
        });
    };
    let is_same = *key == *name;
    let differs = !is_same || revision != stored;
    differs.then(|| Difference {
        key: key.to_string(),
        cached: Some(revision),
        stored: is_same.then_some(stored),
    })
}

#[cfg(test)]
mod tests {
    use registry::Row;
    use store::{Memory, Op, Outcome, Store, Txn};

    use super::super::{Object, Observe};
    use super::*;

    struct Nobody;

    impl Observe for Nobody {
        fn replaced(&self, _: &[(&Row, &Object)]) {}
        fn changed(&self, _: &Row, _: Option<&Object>, _: Option<&Object>) {}
    }

    fn value(name: &str) -> String {
        format!(
            r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}","namespace":"ns"}}}}"#
        )
    }

    async fn put(store: &dyn Store, name: &str, value: String) -> Revision {
        let txn = Txn {
            compare: Vec::new(),
            ops: vec![Op::Put {
                key: format!("/registry/configmaps/ns/{name}").into(),
                value: value.into(),
                expires_after_seconds: None,
            }],
        };
        match store.commit(txn).await.expect("store") {
            Outcome::Committed(revision) => revision,
            Outcome::Refused(_) => panic!("nothing was compared"),
        }
    }

    #[tokio::test]
    async fn what_the_cache_lacks_or_has_too_much_is_found() {
        let clock = clock::Clock::virtual_from(jiff::Timestamp::UNIX_EPOCH);
        let store: Arc<dyn Store> = Arc::new(Memory::new(clock));
        let row = registry::kinds().resource("", "configmaps");
        let row = row.expect("a row").clone();
        for name in ["a", "b", "c"] {
            put(&*store, name, value(name)).await;
        }
        let stop = CancellationToken::new();
        let started = Cache::start(store.clone(), [row.clone()], Arc::new(Nobody), stop.clone());
        let all = started.await.expect("a cache");
        let cache = all.of(&row).expect("of the row");
        assert_eq!(cache.len(), 3);
        assert_eq!(all.difference(&cache).await.expect("read"), None);

        let now = put(&*store, "d", value("d")).await;
        assert_eq!(all.reach_newest().await.expect("reached"), now);
        assert_eq!(all.difference(&cache).await.expect("read"), None);
        let b = cache.get("ns/b").expect("cached").revision;
        cache.apply("ns/b", None, now);
        let lacks = Difference {
            key: "ns/b".into(),
            cached: None,
            stored: Some(b),
        };
        assert_eq!(all.difference(&cache).await.expect("read"), Some(lacks));

        let older = |name: &str, revision| {
            let key = format!("ns/{name}");
            let object = Object::parse(&row, &key, value(name).into(), revision);
            Some(Arc::new(object.expect("an object")))
        };
        cache.apply("", older("b", b), now);
        cache.apply("", older("e", now), now);
        let too_much = Difference {
            key: "ns/e".into(),
            cached: Some(now),
            stored: None,
        };
        assert_eq!(all.difference(&cache).await.expect("read"), Some(too_much));
        cache.apply("", older("c", 1), now);
        let found = all.difference(&cache).await.expect("read").expect("some");
        assert_eq!((&*found.key, found.cached), ("ns/c", Some(1)));

        let damaged = put(&*store, "damaged", "{".into()).await;
        assert_eq!(all.reach_newest().await.expect("reached"), damaged);
        let found = all.difference(&cache).await;
        assert!(matches!(found, Err(CompareError::NotWhole(at)) if at == damaged));
        stop.cancel();
    }

    #[test]
    fn only_keys_of_the_row_are_compared() {
        assert_eq!(name_of(b"/r/pods/ns/a", 8, true), Some("ns/a"));
        assert_eq!(name_of(b"/r/pods/ns/a", 8, false), None);
        assert_eq!(name_of(b"/r/pods/a", 8, false), Some("a"));
        assert_eq!(name_of(b"/r/pods/\xff", 8, false), None);
    }
}
