//! A service of keys on this machine, and values that it opens.

use std::sync::atomic::{AtomicUsize, Ordering};

use tonic::Status;

use store::{Op, Outcome, Store, Txn};

use super::super::rules::Rules;
use super::super::{Encrypted, ExchangeError, Vault, config};
use super::*;
use crate::settings::StoredKeys;
use crate::unix_grpc::testing::{self, Answer, Served, unary};

/// A service whose key is one number, which it writes before what it encrypts.
#[derive(Default)]
struct Service {
    key: AtomicUsize,
    decryptions: AtomicUsize,
    is_ill: std::sync::atomic::AtomicBool,
}

impl Service {
    fn status(&self) -> StatusResponse {
        StatusResponse {
            version: "v2".into(),
            healthz: match self.is_ill.load(Ordering::Relaxed) {
                true => "a headache".into(),
                false => "ok".into(),
            },
            key_id: self.key.load(Ordering::Relaxed).to_string(),
        }
    }

    fn encrypt(&self, asked: &EncryptRequest) -> EncryptResponse {
        let key_id = self.key.load(Ordering::Relaxed).to_string();
        let mut ciphertext = key_id.clone().into_bytes();
        ciphertext.extend(asked.plaintext.iter().map(|b| b ^ 0x55));
        EncryptResponse {
            ciphertext: ciphertext.into(),
            key_id,
            annotations: HashMap::from([("a.example.com".to_owned(), b"b".to_vec())]),
        }
    }

    fn decrypt(&self, asked: &DecryptRequest) -> Result<DecryptResponse, Status> {
        self.decryptions.fetch_add(1, Ordering::Relaxed);
        let sealed = asked.ciphertext.strip_prefix(asked.key_id.as_bytes());
        let sealed = sealed.ok_or_else(|| Status::invalid_argument("another key"))?;
        assert_eq!(asked.annotations["a.example.com"], b"b");
        Ok(DecryptResponse {
            plaintext: sealed.iter().map(|b| b ^ 0x55).collect(),
        })
    }
}

async fn answer(service: Arc<Service>, request: http::Request<hyper::body::Incoming>) -> Answer {
    match request.uri().path() {
        STATUS => unary(request, |_: StatusRequest| Ok(service.status())).await,
        ENCRYPT => unary(request, |asked: EncryptRequest| Ok(service.encrypt(&asked))).await,
        _ => unary(request, |asked: DecryptRequest| service.decrypt(&asked)).await,
    }
}

/// Serves until the first is dropped.
fn serve(service: Arc<Service>) -> (Served, PathBuf) {
    let served = testing::serve(move |request| answer(service.clone(), request));
    let path = served.path();
    (served, path)
}

const LONG: Duration = Duration::from_secs(60);

fn clock() -> clock::Clock {
    clock::Clock::virtual_from(jiff::Timestamp::UNIX_EPOCH)
}

#[tokio::test]
async fn the_service_opens_what_another_server_wrote_once() {
    let service = Arc::new(Service::default());
    let (_dir, path) = serve(service.clone());
    let one = Arc::new(Kms::new("k", path.clone(), LONG));
    assert!(one.seal(b"/a", b"x").is_err());
    one.refresh().await.expect("an answer");
    let stored = one.seal(b"/a", b"correct horse").expect("sealed");
    assert!(stored.starts_with(b"k8s:enc:kms:v2:k:"));
    assert!(memchr::memmem::find(&stored, b"horse").is_none());
    let sealed = stored.strip_prefix(one.prefix()).expect("prefix");
    // Who wrote it has the seed.
    assert_eq!(&*one.open(b"/a", sealed).expect("opened"), b"correct horse");
    assert_eq!(service.decryptions.load(Ordering::Relaxed), 0);

    let two = Arc::new(Kms::new("k", path, LONG));
    two.refresh().await.expect("an answer");
    let Err(CipherError::Asks(ask)) = two.open(b"/a", sealed) else {
        panic!("it has no seed of another server");
    };
    ask.open().await.expect("opened");
    assert_eq!(&*two.open(b"/a", sealed).expect("opened"), b"correct horse");
    assert!(matches!(
        two.open(b"/b", sealed),
        Err(CipherError::Wrong(_))
    ));
    let again = one.seal(b"/a", b"battery").expect("sealed");
    let again = again.strip_prefix(one.prefix()).expect("prefix");
    assert_eq!(&*two.open(b"/a", again).expect("opened"), b"battery");
    assert_eq!(service.decryptions.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn another_key_of_the_service_makes_values_stale() {
    let service = Arc::new(Service::default());
    let (_dir, path) = serve(service.clone());
    let kms = Arc::new(Kms::new("k", path, LONG));
    kms.refresh().await.expect("an answer");
    let stored = kms.seal(b"/a", b"x").expect("sealed");
    let sealed = stored.strip_prefix(kms.prefix()).expect("prefix");
    kms.refresh().await.expect("an answer");
    assert!(!kms.is_stale(sealed));
    service.key.store(7, Ordering::Relaxed);
    kms.refresh().await.expect("an answer");
    assert!(kms.is_stale(sealed));
    assert_eq!(&*kms.open(b"/a", sealed).expect("opened"), b"x");
    service.is_ill.store(true, Ordering::Relaxed);
    let why = kms.refresh().await.expect_err("ill").to_string();
    assert!(why.contains("a headache"), "{why}");
}

#[tokio::test]
async fn a_service_that_is_away_is_named() {
    let dir = tempfile::tempdir().expect("dir");
    let kms = Kms::new("k", dir.path().join("none.sock"), LONG);
    let why = kms.refresh().await.expect_err("away").to_string();
    assert!(why.contains("the KMS provider \"k\""), "{why}");
}

/// A file of these services, by name and socket; the first writes.
fn file_of(services: &[(&str, &PathBuf)]) -> Rules {
    let provider = |(name, socket): &(&str, &PathBuf)| {
        serde_json::json!({ "kms": { "apiVersion": "v2", "name": name,
            "endpoint": format!("unix://{}", socket.display()), "timeout": "60s" } })
    };
    let providers: Vec<_> = services.iter().map(provider).collect();
    let file = serde_json::json!({
        "apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration",
        "resources": [{ "resources": ["secrets"], "providers": providers }],
    });
    let read = config::read(file.to_string().as_bytes(), registry::kinds(), || None);
    read.expect("rules")
}

async fn put(stored: &Encrypted, key: &'static str) {
    let txn = Txn {
        compare: Vec::new(),
        ops: vec![Op::Put {
            key: key.into(),
            value: "correct horse".into(),
            expires_after_seconds: None,
        }],
    };
    let done = stored.commit(txn).await;
    assert!(matches!(done, Ok(Outcome::Committed(_))));
}

/// First the service's own key is exchanged, then the service, while values are read and written.
#[tokio::test]
async fn keys_and_services_are_exchanged_while_a_store_is_used() {
    let (one, two) = (Arc::new(Service::default()), Arc::new(Service::default()));
    let ((_dir1, first), (_dir2, second)) = (serve(one.clone()), serve(two.clone()));
    let below: Arc<dyn Store> = Arc::new(store::Memory::new(clock()));
    let vault = Vault::of_file(file_of(&[("one", &first)])).await;
    let stored = Encrypted::new(below.clone(), vault.expect("vault").followed());
    let (a, b) = ("/registry/secrets/ns/a", "/registry/secrets/ns/b");
    put(&stored, a).await;
    let kms = stored.vault.services().pop().expect("a service");
    one.key.store(1, Ordering::Relaxed);
    kms.refresh().await.expect("an answer");
    put(&stored, b).await;
    assert_eq!(
        stored.check().await.expect("readable"),
        1,
        "one has the old key"
    );
    assert_eq!(stored.rewrite().await.expect("written"), 1);
    assert_eq!(stored.check().await.expect("readable"), 0);

    let next = || file_of(&[("two", &second), ("one", &first)]);
    two.is_ill.store(true, Ordering::Relaxed);
    let refused = stored.exchange(next()).await;
    assert!(matches!(refused, Err(ExchangeError::Service(_))));
    two.is_ill.store(false, Ordering::Relaxed);
    stored.exchange(next()).await.expect("both answer");
    put(&stored, a).await;
    let alone = stored.exchange(file_of(&[("two", &second)])).await;
    assert!(matches!(alone, Err(ExchangeError::Unreadable(_))));
    assert_eq!(stored.rewrite().await.expect("written"), 1);
    let done = stored.exchange(file_of(&[("two", &second)])).await;
    done.expect("all is written by the other service");
    for key in [a, b] {
        let kept = below.get(key.into(), 0).await.expect("store");
        let kept = kept.expect("a value").value;
        assert!(kept.starts_with(b"k8s:enc:kms:v2:two:"));
        let read = stored.get(key.into(), 0).await.expect("store");
        assert_eq!(read.expect("a value").value, "correct horse");
    }
    let well = StoredKeys::services(&stored)
        .expect("something to ask")
        .await;
    assert_eq!(well, Ok(()));
    // Where the machine stood still for as long as a failure counts, this shows nothing.
    loop {
        let kms = Kms::new("two", second.clone(), LONG);
        let began = Instant::now();
        two.is_ill.store(true, Ordering::Relaxed);
        assert!(kms.is_well().await.is_err());
        two.is_ill.store(false, Ordering::Relaxed);
        let again = kms.is_well().await;
        if began.elapsed() < ILL_FOR {
            assert!(again.is_err(), "it is not asked at once again");
            break;
        }
    }
}

/// A value in upstream's form that OpenSSL made.
#[tokio::test]
async fn what_others_wrote_is_read() {
    let sealed =
        "9118cb056bd087888ee44dc12b08da1c95c49942ff1c305e7f6c635ce9ade4378150859ce3f5c594e52082d8";
    let sealed = (0..sealed.len()).step_by(2).map(|at| {
        let digits = sealed.get(at..at + 2).expect("two digits");
        u8::from_str_radix(digits, 16).expect("hexadecimal")
    });
    let data = [vec![4; 32], vec![2; 12], sealed.collect()].concat();
    let object = EncryptedObject {
        data: data.into(),
        key_id: "1".into(),
        source: Bytes::from_static(b"sealed seed"),
        annotations: HashMap::new(),
        source_type: SEED,
    };
    let kms = Arc::new(Kms::new("k", PathBuf::from("/nowhere"), LONG));
    let opened = Arc::new(vec![3; 32]);
    kms.opened.lock().insert(object.source.clone(), opened);
    let plain = kms.open(b"/registry/secrets/a/b", &object.encode_to_vec());
    assert_eq!(&*plain.expect("opened"), b"correct horse battery staple");
}
