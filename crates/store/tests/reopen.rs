//! The thinnest proof of the embedded engine: acknowledged writes, watch and recovery.

use bytes::Bytes;
use futures::StreamExt;
use store::{Compare, Embedded, Op, Options, Outcome, Store, Txn};

fn put(key: &str, value: &str) -> Txn {
    let key = Bytes::from(key.to_owned());
    let op = Op::Put {
        key: key.clone(),
        value: Bytes::from(value.to_owned()),
        expires_after_seconds: None,
    };
    Txn {
        compare: vec![Compare::ModRevision(key, 0)],
        ops: vec![op],
    }
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(dir.path(), Options::default()).unwrap();
    assert_eq!(
        store.commit(put("/a", "1")).await.unwrap(),
        Outcome::Committed(1)
    );
    assert!(matches!(
        store.commit(put("/a", "2")).await.unwrap(),
        Outcome::Refused(_)
    ));
    assert_eq!(
        store.commit(put("/b", "2")).await.unwrap(),
        Outcome::Committed(2)
    );
    let mut watch = store.watch(Bytes::new(), 1).await.unwrap();
    assert_eq!(watch.next().await.unwrap().unwrap().revision, 2);
    let log = dir.path().join("log");
    let copy = tempfile::tempdir().unwrap();
    let mut bytes = std::fs::read(&log).unwrap();
    bytes.extend([1, 2, 3]);
    std::fs::write(copy.path().join("log"), bytes).unwrap();
    let again = Embedded::open(copy.path(), Options::default()).unwrap();
    let page = again.range(Bytes::new(), Bytes::new(), 1, 0).await.unwrap();
    assert_eq!((page.items.len(), page.remaining, page.revision), (1, 1, 2));
    assert!(
        Embedded::open(copy.path(), Options::default()).is_err(),
        "the directory is locked"
    );
}
