//! Several servers on one store: each test runs on the embedded store and on a real etcd that it
//! starts for itself.
#![expect(clippy::disallowed_methods, reason = "a real server, in real time")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../../../store/tests/common/mod.rs"]
mod stores;

/// Makes two tests of each function.
macro_rules! on_both_stores {
    ($($test:ident),+ $(,)?) => { $(
        mod $test {
            #[tokio::test(flavor = "multi_thread")]
            async fn embedded() {
                super::$test($crate::test_store::TestStore::embedded()).await;
            }
            #[tokio::test(flavor = "multi_thread")]
            async fn etcd() {
                super::$test($crate::test_store::TestStore::etcd().await).await;
            }
        }
    )+ };
}

mod admission_reads;
mod compaction;
mod endpoints;
mod held_creations;
mod leaders;
mod namespaces;
mod quotas;
mod ranges;
mod stalled_watch;
mod store_failures;
mod test_store;
mod writes;
