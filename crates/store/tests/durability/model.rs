//! The store against a plain map, over random steps with restarts.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use store::{Compare, Embedded, Op, Options, Outcome, Store, Txn};

use super::{bytes, content, put};

#[derive(Clone, Debug)]
enum Step {
    Put(u8, u16),
    Delete(u8),
    Create(u8, u16),
    Reopen,
    Compact,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..6u8, any::<u16>()).prop_map(|(k, v)| Step::Put(k, v)),
        2 => (0..6u8).prop_map(Step::Delete),
        2 => (0..6u8, any::<u16>()).prop_map(|(k, v)| Step::Create(k, v)),
        1 => Just(Step::Reopen),
        1 => Just(Step::Compact),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn it_behaves_as_a_map(steps in proptest::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
        runtime.block_on(async {
            let dir = tempfile::tempdir().expect("dir");
            let options = || Options { segment_bytes: 300, ..Options::default() };
            let mut store = Embedded::open(dir.path(), options()).expect("open");
            let mut model: BTreeMap<Bytes, Bytes> = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Put(k, v) => {
                        store.commit(put(&k.to_string(), &v.to_string())).await.expect("put");
                        model.insert(bytes(&k.to_string()), bytes(&v.to_string()));
                    }
                    Step::Delete(k) => {
                        let ops = vec![Op::Delete { key: bytes(&k.to_string()) }];
                        store.commit(Txn { compare: vec![], ops }).await.expect("delete");
                        model.remove(&bytes(&k.to_string()));
                    }
                    Step::Create(k, v) => {
                        let key = bytes(&k.to_string());
                        let compare = vec![Compare::ModRevision(key.clone(), 0)];
                        let outcome = store.commit(Txn { compare, ..put(&k.to_string(), &v.to_string()) }).await.expect("create");
                        assert_eq!(matches!(outcome, Outcome::Committed(_)), !model.contains_key(&key));
                        model.entry(key).or_insert_with(|| bytes(&v.to_string()));
                    }
                    Step::Reopen => {
                        store.close();
                        store = Embedded::open(dir.path(), options()).expect("reopen");
                    }
                    Step::Compact => {
                        let now = store.revision().await.expect("revision");
                        if now > 0 {
                            store.compact(now).await.expect("compact");
                        }
                    }
                }
                assert_eq!(content(&store).await, model);
            }
        });
    }
}
