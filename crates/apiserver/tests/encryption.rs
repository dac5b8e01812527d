//! Encryption of what is stored, through a whole server: what lies in the store, what is read of
//! it, and what becomes of both when keys are replaced.
#![expect(clippy::disallowed_methods, reason = "a real server, in real time")]

mod common;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use apiserver::ApiServer;
use apiserver::filters::encryption_file::EncryptionFile;
use apiserver::filters::files::Followed;
use apiserver::storage::Upstream;
use apiserver::storage::encryption::ring::Ring;
use apiserver::storage::encryption::{Encrypted, Keeper, RecordedKeys, Vault, config, record};
use bytes::Bytes;
use common::{ask, get, post};
use futures::future::BoxFuture;
use http::Method;
use parking_lot::Mutex;
use serde_json::{Value, json};
use store::{Compare, Embedded, Memory, Op, Outcome, Revision, Store, Txn};
use tokio_util::sync::CancellationToken;

const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const ROTATE: &str = "/tiphys/secrets/rotate-key";
/// Of every value of these tests.
const PLAIN: &str = "correct horse battery staple";

/// Keys in memory, shared by servers; the store has their record.
#[derive(Clone)]
struct Keys {
    store: Arc<dyn Store>,
    /// By the revision of the record.
    rings: Arc<Mutex<Vec<(Revision, Ring)>>>,
}

impl Keys {
    fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            rings: Arc::default(),
        }
    }

    async fn put(&self, ring: Ring, seen: Revision) -> bool {
        let txn = Txn {
            compare: vec![Compare::ModRevision(record(), seen)],
            ops: vec![Op::Put {
                key: record(),
                value: ring.names().join(",").into(),
                expires_after_seconds: None,
            }],
        };
        match self.store.commit(txn).await.expect("store") {
            Outcome::Committed(revision) => {
                self.rings.lock().push((revision, ring));
                true
            }
            Outcome::Refused(_) => false,
        }
    }

    fn names(&self) -> Vec<String> {
        let rings = self.rings.lock();
        let (_, ring) = rings.last().expect("keys");
        ring.names().iter().map(|n| (*n).to_owned()).collect()
    }
}

impl Keeper for Keys {
    fn load(&self) -> BoxFuture<'_, Result<RecordedKeys, String>> {
        Box::pin(async move {
            if self.rings.lock().is_empty() {
                self.put(Ring::generate(), 0).await;
            }
            let (revision, ring) = self.rings.lock().last().cloned().expect("keys");
            Ok(RecordedKeys { ring, revision })
        })
    }
    fn replace(&self, ring: Ring, seen: Revision) -> BoxFuture<'_, Result<bool, String>> {
        Box::pin(async move { Ok(self.put(ring, seen).await) })
    }
}

async fn encrypted(store: Arc<dyn Store>, keys: &Keys) -> Encrypted {
    let vault = Vault::of_cluster(Arc::new(keys.clone()))
        .await
        .expect("keys");
    Encrypted::new(store, vault)
}

async fn server(store: Arc<dyn Store>, keys: Option<&Encrypted>) -> (ApiServer, CancellationToken) {
    server_with(store, keys, None).await
}

/// One that follows a file of rules, too.
async fn server_with(
    store: Arc<dyn Store>,
    keys: Option<&Encrypted>,
    file: Option<Arc<Followed>>,
) -> (ApiServer, CancellationToken) {
    let mut config = common::open_config();
    config.background.extend(file.map(|f| f as _));
    if let Some(keys) = keys {
        config.settings.keys = Some(Arc::new(keys.clone()));
    }
    let stop = CancellationToken::new();
    let server = ApiServer::new(config, store, stop.clone())
        .await
        .expect("server");
    server.bootstrap().await.expect("first objects");
    (server, stop)
}

/// A server whose Secrets are encrypted.
async fn over(store: Arc<dyn Store>, keys: &Keys) -> (ApiServer, Encrypted, CancellationToken) {
    let encrypted = encrypted(store, keys).await;
    assert_eq!(encrypted.check().await.expect("readable"), 0);
    let (server, stop) = server(Arc::new(encrypted.clone()), Some(&encrypted)).await;
    (server, encrypted, stop)
}

fn secret(name: &str) -> Value {
    json!({"kind": "Secret", "apiVersion": "v1", "metadata": {"name": name},
        "stringData": {"password": format!("{PLAIN} {name}")}})
}

async fn password(server: &ApiServer, name: &str) -> String {
    let (code, found) = get(server, &format!("{SECRETS}/{name}")).await;
    assert_eq!(code, 200, "{found}");
    use base64::Engine;
    let text = found["data"]["password"].as_str().expect("text");
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(text)
        .expect("base64");
    String::from_utf8(bytes).expect("text")
}

async fn stored(store: &dyn Store, name: &str) -> Bytes {
    let key = format!("/registry/secrets/default/{name}");
    let found = store.get(key.into(), 0).await.expect("store");
    found.expect("a value").value
}

fn has_plain_text(bytes: &[u8]) -> bool {
    use base64::Engine;
    let encoded = base64::engine::general_purpose::STANDARD.encode(PLAIN);
    // The last letters depend on what follows.
    let encoded = &encoded.as_bytes()[..encoded.len() - 4];
    [PLAIN.as_bytes(), encoded]
        .iter()
        .any(|text| memchr::memmem::find(bytes, text).is_some())
}

/// Whether any file below a folder has it.
fn folder_has_plain_text(folder: &Path) -> bool {
    let entries = std::fs::read_dir(folder).expect("folder");
    entries.map(|e| e.expect("entry").path()).any(|path| {
        if path.is_dir() {
            return folder_has_plain_text(&path);
        }
        has_plain_text(&std::fs::read(&path).expect("file"))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_without_a_change_encrypts_what_was_not() {
    let store: Arc<dyn Store> = Arc::new(Memory::new(clock::Clock::system()));
    let (first, stop) = server(store.clone(), None).await;
    for name in ["a", "b"] {
        assert_eq!(post(&first, SECRETS, secret(name)).await.0, 201);
    }
    stop.cancel();
    drop(first);
    assert!(has_plain_text(&stored(&*store, "a").await));

    let keys = Keys::new(store.clone());
    let now = encrypted(store.clone(), &keys).await;
    let (second, _stop) = server(Arc::new(now.clone()), Some(&now)).await;
    let one = format!("{SECRETS}/a");
    let (_, read) = get(&second, &one).await;
    let (code, put) = ask(&second, Method::PUT, &one, read.clone()).await;
    assert_eq!(code, 200, "{put}");
    let version = |of: &Value| of["metadata"]["resourceVersion"].clone();
    assert_ne!(version(&put), version(&read));
    assert_eq!(put["data"], read["data"]);
    assert!(!has_plain_text(&stored(&*store, "a").await));
    assert!(
        has_plain_text(&stored(&*store, "b").await),
        "nobody wrote it"
    );
    // Once is enough.
    let (_, again) = ask(&second, Method::PUT, &one, put.clone()).await;
    assert_eq!(again, put);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_files_of_the_store_show_no_secret_and_a_restart_reads_them() {
    let dir = tempfile::tempdir().expect("dir");
    let open = || {
        let store = Embedded::open(dir.path(), store::Options::default());
        store.expect("store")
    };
    let embedded = open();
    let keys = Keys::new(Arc::new(embedded.clone()));
    let (first, _, stop) = over(Arc::new(embedded.clone()), &keys).await;
    assert_eq!(post(&first, SECRETS, secret("a")).await.0, 201);
    let merge = json!({"stringData": {"more": PLAIN}});
    let one = format!("{SECRETS}/a");
    assert_eq!(ask(&first, Method::PATCH, &one, merge).await.0, 200);
    assert_eq!(password(&first, "a").await, format!("{PLAIN} a"));
    stop.cancel();
    drop(first);
    tokio::task::spawn_blocking(move || embedded.close())
        .await
        .expect("closed");
    assert!(!folder_has_plain_text(dir.path()));

    let embedded: Arc<dyn Store> = Arc::new(open());
    let keys = Keys {
        store: embedded.clone(),
        ..keys
    };
    let (second, _, _stop) = over(embedded, &keys).await;
    assert_eq!(password(&second, "a").await, format!("{PLAIN} a"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_stored_before_is_encrypted_and_only_secrets_are() {
    let store: Arc<dyn Store> = Arc::new(Memory::new(clock::Clock::system()));
    let (plain, stop) = server(store.clone(), None).await;
    assert_eq!(post(&plain, SECRETS, secret("old")).await.0, 201);
    stop.cancel();
    assert!(has_plain_text(&stored(&*store, "old").await));

    let keys = Keys::new(store.clone());
    let encrypted = encrypted(store.clone(), &keys).await;
    let stale = encrypted.check().await.expect("readable");
    assert!(stale > 0);
    let (server, _stop) = server(Arc::new(encrypted.clone()), Some(&encrypted)).await;
    assert_eq!(password(&server, "old").await, format!("{PLAIN} old"));
    encrypted.settle(stale).await.expect("settled");
    let value = stored(&*store, "old").await;
    assert!(value.starts_with(b"k8s:enc:aesgcm:v1:") && !has_plain_text(&value));
    assert_eq!(password(&server, "old").await, format!("{PLAIN} old"));
    assert_eq!(encrypted.check().await.expect("readable"), 0);

    let map = json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "m"}, "data": {"a": PLAIN}});
    assert_eq!(
        post(&server, "/api/v1/namespaces/default/configmaps", map)
            .await
            .0,
        201
    );
    let key = Bytes::from_static(b"/registry/configmaps/default/m");
    let found = store.get(key, 0).await.expect("store").expect("a value");
    assert!(found.value.starts_with(b"{"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_replaced_while_two_servers_write() {
    let store: Arc<dyn Store> = Arc::new(Memory::new(clock::Clock::system()));
    let keys = Keys::new(store.clone());
    let (one, _, _stop1) = over(store.clone(), &keys).await;
    let (two, second, _stop2) = over(store.clone(), &keys).await;
    for n in 0..20 {
        assert_eq!(post(&one, SECRETS, secret(&format!("s{n}"))).await.0, 201);
    }
    let before = keys.names();
    let writing = tokio::spawn(async move {
        for n in 0..20 {
            assert_eq!(post(&two, SECRETS, secret(&format!("t{n}"))).await.0, 201);
        }
        two
    });
    let (code, done) = ask(&one, Method::POST, ROTATE, Value::Null).await;
    assert_eq!(code, 200, "{done}");
    assert!(done["rewritten"].as_u64() >= Some(20));
    let two = writing.await.expect("written");
    let after = keys.names();
    assert_eq!(after.len(), 1);
    assert_eq!(done["key"], *after[0]);
    assert_ne!(before, after);
    // Nothing is left under the old key, whoever wrote it and when.
    assert_eq!(second.check().await.expect("readable"), 0);
    for name in (0..20).flat_map(|n| [format!("s{n}"), format!("t{n}")]) {
        let prefix = format!("k8s:enc:aesgcm:v1:{}:", after[0]);
        assert!(
            stored(&*store, &name).await.starts_with(prefix.as_bytes()),
            "{name}"
        );
        assert_eq!(password(&one, &name).await, format!("{PLAIN} {name}"));
        assert_eq!(password(&two, &name).await, format!("{PLAIN} {name}"));
    }
    // The other server has not heard of the new key, and writes.
    assert_eq!(post(&two, SECRETS, secret("late")).await.0, 201);
    let late = stored(&*store, "late").await;
    assert!(late.starts_with(format!("k8s:enc:aesgcm:v1:{}:", after[0]).as_bytes()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_the_key_says_which_one_is_missing() {
    let store: Arc<dyn Store> = Arc::new(Memory::new(clock::Clock::system()));
    let keys = Keys::new(store.clone());
    let (server, _, _stop) = over(store.clone(), &keys).await;
    assert_eq!(post(&server, SECRETS, secret("a")).await.0, 201);
    let text = "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\n\
                resources: [{resources: [secrets], providers: [{identity: {}}]}]\n";
    let rules = config::read(text.as_bytes(), registry::kinds(), || None).expect("rules");
    let without = Encrypted::new(store.clone(), Vault::of_file(rules).await.expect("vault"));
    let why = without.check().await.expect_err("no key").to_string();
    let name = &keys.names()[0];
    assert!(
        why.contains("/registry/secrets/default/a") && why.contains(name),
        "{why}"
    );
    // And with another key under its name.
    let text = format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\n\
         resources: [{{resources: [secrets], providers: [{{aesgcm: {{keys: [{{name: {name}, secret: AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=}}]}}}}]}}]\n"
    );
    let rules = config::read(text.as_bytes(), registry::kinds(), || None).expect("rules");
    let wrong = Encrypted::new(store, Vault::of_file(rules).await.expect("vault"));
    let why = wrong.check().await.expect_err("wrong key").to_string();
    assert!(why.contains("cannot be decrypted with the key"), "{why}");
}

/// A file with these keys of AES-GCM, by their names; the first writes.
fn file_of(keys: &[&str]) -> String {
    let key = |name: &&str| {
        use base64::Engine;
        let secret = base64::engine::general_purpose::STANDARD.encode(name.repeat(32));
        json!({ "name": name, "secret": secret })
    };
    let keys: Vec<Value> = keys.iter().map(key).collect();
    let resources =
        json!([{ "resources": ["secrets"], "providers": [{ "aesgcm": { "keys": keys } }] }]);
    json!({ "apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration",
        "resources": resources })
    .to_string()
}

fn rules(text: &str) -> apiserver::storage::encryption::rules::Rules {
    config::read(text.as_bytes(), registry::kinds(), || None).expect("rules")
}

/// A key is exchanged by changes of the file alone, while the server runs.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_exchanged_if_all_that_is_stored_can_be_read_by_it() {
    let store: Arc<dyn Store> = Arc::new(Memory::new(clock::Clock::system()));
    let vault = Vault::of_file(rules(&file_of(&["a"])))
        .await
        .expect("vault");
    let encrypted = Encrypted::new(store.clone(), vault);
    let (server, _stop) = server(Arc::new(encrypted.clone()), Some(&encrypted)).await;
    let by = async |name: &str, key: &str| {
        let stored = stored(&*store, name).await;
        let text = String::from_utf8_lossy(&stored).into_owned();
        assert!(
            text.starts_with(&format!("k8s:enc:aesgcm:v1:{key}:")),
            "{text}"
        );
    };
    assert_eq!(post(&server, SECRETS, secret("one")).await.0, 201);
    by("one", "a").await;
    // The next key alone could not read it.
    let refused = encrypted.exchange(rules(&file_of(&["b"]))).await;
    let why = refused.expect_err("it needs the key a").to_string();
    assert!(why.contains("/registry/secrets/default/one"), "{why}");
    assert_eq!(post(&server, SECRETS, secret("two")).await.0, 201);
    by("two", "a").await;
    // First it is there for reading, then it writes, then all is written again.
    for keys in [["a", "b"], ["b", "a"]] {
        encrypted
            .exchange(rules(&file_of(&keys)))
            .await
            .expect("both");
    }
    assert_eq!(post(&server, SECRETS, secret("three")).await.0, 201);
    by("three", "b").await;
    by("one", "a").await;
    let rewrite = "/tiphys/secrets/rewrite";
    assert_eq!(
        ask(&server, Method::POST, rewrite, Value::Null).await.0,
        200
    );
    encrypted
        .exchange(rules(&file_of(&["b"])))
        .await
        .expect("b");
    for name in ["one", "two", "three"] {
        by(name, "b").await;
        assert_eq!(password(&server, name).await, format!("{PLAIN} {name}"));
    }
    // Keys of the cluster's own are not a file's to exchange.
    let keys = Keys::new(store.clone());
    let own = self::encrypted(store, &keys).await;
    assert!(own.exchange(rules(&file_of(&["b"]))).await.is_err());
}

/// How many changes of the file were put into effect, or were not.
async fn reloads(server: &ApiServer, status: &str) -> u64 {
    let (_, text) = get(server, "/metrics").await;
    let text = text.as_str().expect("text").to_owned();
    let name = "apiserver_encryption_config_controller_automatic_reloads_total";
    let head = format!("{name}{{status=\"{status}\"");
    let line = text.lines().find(|l| l.starts_with(&head));
    let number = line.and_then(|l| l.rsplit(' ').next()?.parse().ok());
    number.unwrap_or_default()
}

/// Waits until there are more of them.
async fn reloaded(server: &ApiServer, status: &str, before: u64) {
    let waiting = async {
        while reloads(server, status).await <= before {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(120), waiting).await;
    assert!(waited.is_ok(), "{status}");
}

/// The key of a file is exchanged by its changes alone while somebody writes all the time.
#[tokio::test(flavor = "multi_thread")]
async fn a_changed_file_takes_effect_while_somebody_writes() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("encryption.json");
    let write = |keys: &[&str]| common::replace_file(&path, file_of(keys));
    write(&["a"]);
    let store: Arc<dyn Store> = Arc::new(Memory::new(clock::Clock::system()));
    let vault = Vault::of_file(rules(&file_of(&["a"])))
        .await
        .expect("vault");
    let encrypted = Encrypted::new(store.clone(), vault.followed());
    let file = Arc::new(Followed {
        path: path.clone(),
        first: file_of(&["a"]).into(),
        configures: Arc::new(EncryptionFile::new(Arc::new(encrypted.clone()), None)),
    });
    let above: Arc<dyn Store> = Arc::new(encrypted.clone());
    let (server, stop) = server_with(above, Some(&encrypted), Some(file)).await;
    let key_of = async |name: &str| {
        let stored = stored(&*store, name).await;
        let text = String::from_utf8_lossy(&stored).into_owned();
        text.split(':').nth(4).unwrap_or_default().to_owned()
    };
    assert_eq!(post(&server, SECRETS, secret("one")).await.0, 201);
    assert_eq!(get(&server, "/readyz/kms-providers").await.0, 200);
    assert_eq!(get(&server, "/livez/kms-providers").await.0, 404);

    // The next key alone could not read what is stored: nothing changes.
    write(&["b"]);
    reloaded(&server, "failure", 0).await;
    assert_eq!(post(&server, SECRETS, secret("two")).await.0, 201);
    assert_eq!(key_of("two").await, "a");

    let ends = Arc::new(AtomicBool::new(false));
    let writing = tokio::spawn({
        let (server, ends) = (server.clone(), ends.clone());
        async move {
            let mut names = Vec::new();
            while !ends.load(Ordering::Relaxed) {
                let name = format!("w{}", names.len());
                assert_eq!(post(&server, SECRETS, secret(&name)).await.0, 201);
                assert_eq!(password(&server, &name).await, format!("{PLAIN} {name}"));
                names.push(name);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            names
        }
    });
    for (n, keys) in [["a", "b"], ["b", "a"]].iter().enumerate() {
        write(keys);
        reloaded(&server, "success", n as u64).await;
    }
    ends.store(true, Ordering::Relaxed);
    let mut names = writing.await.expect("written");
    assert_eq!(post(&server, SECRETS, secret("late")).await.0, 201);
    assert_eq!(key_of("late").await, "b");
    let rewrite = "/tiphys/secrets/rewrite";
    let done = ask(&server, Method::POST, rewrite, Value::Null).await;
    assert_eq!(done.0, 200);
    write(&["b"]);
    reloaded(&server, "success", 2).await;
    names.extend(["one", "two", "late"].map(str::to_owned));
    for name in names {
        assert_eq!(key_of(&name).await, "b", "{name}");
        assert_eq!(password(&server, &name).await, format!("{PLAIN} {name}"));
    }
    let (_, text) = get(&server, "/metrics").await;
    let text = text.as_str().expect("text");
    for (line, times) in [
        (
            "apiserver_encryption_config_controller_last_config_info{",
            1,
        ),
        (
            "apiserver_encryption_config_controller_automatic_reload_last_timestamp_seconds{",
            2,
        ),
    ] {
        let found = text.lines().filter(|l| l.starts_with(line)).count();
        assert_eq!(found, times, "{line}");
    }
    stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_providers_decides_over_upstreams_layout() {
    let text = "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\n\
                resources:\n\
                - resources: [secrets, configmaps]\n  providers:\n\
                \x20 - secretbox: {keys: [{name: k, secret: AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=}]}\n\
                \x20 - identity: {}\n";
    let store: Arc<dyn Store> = Arc::new(Memory::new(clock::Clock::system()));
    let keys = Keys::new(store.clone());
    let before = encrypted(store.clone(), &keys).await;
    let layered: Arc<dyn Store> = Arc::new(Upstream::new(Arc::new(before), registry::kinds()));
    let (first, stop) = server(layered, None).await;
    assert_eq!(post(&first, SECRETS, secret("a")).await.0, 201);
    assert_eq!(password(&first, "a").await, format!("{PLAIN} a"));
    stop.cancel();
    assert!(!has_plain_text(&stored(&*store, "a").await));

    // What the cluster's own key wrote is still read, and is written again when that is wished.
    let ring = keys.load().await.expect("keys").ring;
    let also = || ring.provider().ok();
    let rules = config::read(text.as_bytes(), registry::kinds(), also).expect("rules");
    let now = Encrypted::new(store.clone(), Vault::of_file(rules).await.expect("vault"));
    assert!(now.check().await.expect("readable") > 0);
    let layered: Arc<dyn Store> = Arc::new(Upstream::new(Arc::new(now.clone()), registry::kinds()));
    let (second, _stop) = server(layered, Some(&now)).await;
    assert_eq!(password(&second, "a").await, format!("{PLAIN} a"));
    let (code, said) = ask(&second, Method::POST, ROTATE, Value::Null).await;
    assert_eq!(code, 500);
    assert!(
        said["message"]
            .as_str()
            .is_some_and(|m| m.contains("--encryption-provider-config"))
    );
    let (code, _) = ask(
        &second,
        Method::POST,
        "/tiphys/secrets/rewrite",
        Value::Null,
    )
    .await;
    assert_eq!(code, 200);
    assert!(
        stored(&*store, "a")
            .await
            .starts_with(b"k8s:enc:secretbox:v1:k:")
    );
    assert_eq!(now.check().await.expect("readable"), 0);
    assert_eq!(password(&second, "a").await, format!("{PLAIN} a"));
}
