//! Keys that are made, found again, shared, and missed; on an embedded store that stands for any.

use std::os::unix::fs::PermissionsExt;

use store::Embedded;

use super::*;

struct Bench {
    dir: tempfile::TempDir,
    store: Arc<dyn Store>,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("dir");
        fs::create_dir_all(dir.path().join("pki")).expect("dir");
        let store = Embedded::open(&dir.path().join("store"), store::Options::default());
        Self {
            store: Arc::new(store.expect("store")),
            dir,
        }
    }

    fn keeper(&self, token: Option<&str>) -> Arc<dyn Keeper> {
        let token = token.map(|secret| Token {
            secret: secret.into(),
            cluster_id: "c".into(),
        });
        keeper(self.store.clone(), self.dir.path(), token)
    }

    async fn put_secret(&self, keeper: Arc<dyn Keeper>) {
        let vault = Vault::of_cluster(keeper).await.expect("keys");
        let txn = Txn {
            compare: Vec::new(),
            ops: vec![Op::Put {
                key: Bytes::from_static(b"/registry/secrets/a/b"),
                value: "plain".into(),
                expires_after_seconds: None,
            }],
        };
        let done = Encrypted::new(self.store.clone(), vault).commit(txn).await;
        assert!(matches!(done, Ok(Outcome::Committed(_))));
    }
}

#[tokio::test]
async fn a_server_alone_keeps_its_keys_in_a_file() {
    let bench = Bench::new();
    let keeper = bench.keeper(None);
    let made = keeper.load().await.expect("made");
    let path = key_file(bench.dir.path());
    let mode = fs::metadata(&path).expect("file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let again = keeper.load().await.expect("read");
    assert_eq!(
        (again.ring, again.revision),
        (made.ring.clone(), made.revision)
    );

    let both = made.ring.with_new_key();
    assert!(
        keeper
            .replace(both.clone(), made.revision)
            .await
            .expect("written")
    );
    assert!(
        !keeper
            .replace(both.clone(), made.revision)
            .await
            .expect("refused")
    );
    let now = keeper.load().await.expect("read");
    assert_eq!(now.ring, both);
    assert!(now.revision > made.revision);
}

#[tokio::test]
async fn a_file_that_is_lost_is_missed_where_it_is_needed() {
    let bench = Bench::new();
    let keeper = bench.keeper(None);
    let made = keeper.load().await.expect("made");
    let path = key_file(bench.dir.path());
    // Nothing is encrypted yet.
    fs::remove_file(&path).expect("removed");
    assert_ne!(keeper.load().await.expect("made").ring, made.ring);
    bench.put_secret(keeper.clone()).await;
    fs::remove_file(&path).expect("removed");
    let why = keeper.load().await.err().expect("missed");
    assert!(
        why.contains("encryption-keys.json") && why.contains("bring"),
        "{why}"
    );
    assert!(!path.exists());
    let why = readable(bench.store.clone(), bench.dir.path(), None).await;
    assert!(why.is_err());
}

#[tokio::test]
async fn servers_of_one_store_share_their_keys_by_the_token() {
    let bench = Bench::new();
    let (one, two) = (bench.keeper(Some("token-1")), bench.keeper(Some("token-1")));
    let made = one.load().await.expect("made");
    let read = two.load().await.expect("read");
    assert_eq!(
        (read.ring, read.revision),
        (made.ring.clone(), made.revision)
    );
    assert!(!key_file(bench.dir.path()).exists());
    let raw = bench
        .store
        .get(record(), 0)
        .await
        .expect("store")
        .expect("a record");
    for name in made.ring.names() {
        let secret = String::from_utf8(made.ring.to_json()).expect("text");
        let secret = secret.split('"').nth(9).expect("the secret").to_owned();
        assert!(
            !String::from_utf8_lossy(&raw.value).contains(&secret),
            "{name}"
        );
    }
    bench.put_secret(one.clone()).await;
    let why = bench
        .keeper(Some("token-2"))
        .load()
        .await
        .err()
        .expect("refused");
    assert!(why.contains("server token"), "{why}");

    let both = made.ring.with_new_key();
    assert!(
        two.replace(both.clone(), made.revision)
            .await
            .expect("written")
    );
    assert_eq!(one.load().await.expect("read").ring, both);
    // A backup of the store itself holds values in the clear.
    let token = Token {
        secret: "token-1".into(),
        cluster_id: "c".into(),
    };
    let plain = readable(bench.store.clone(), bench.dir.path(), Some(token)).await;
    let key = Bytes::from_static(b"/registry/secrets/a/b");
    let found = plain.expect("readable").get(key, 0).await.expect("store");
    assert_eq!(&*found.expect("a value").value, b"plain");
}

#[derive(clap::Parser)]
struct Line {
    #[command(flatten)]
    flags: EncryptionFlags,
}

/// What a command line with these words opens.
async fn opened(bench: &Bench, words: &[&str]) -> Result<Opened> {
    let words = std::iter::once("server").chain(words.iter().copied());
    let line: Line = clap::Parser::try_parse_from(words)?;
    let (store, dir) = (bench.store.clone(), bench.dir.path());
    line.flags.open(store, dir, None).await
}

#[tokio::test]
async fn changes_of_the_file_are_followed_where_the_flag_says_so() {
    let bench = Bench::new();
    let path = bench.dir.path().join("encryption.yaml");
    let text = "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\n\
        resources:\n- resources: [secrets]\n  providers:\n  - identity: {}\n";
    fs::write(&path, text).expect("written");
    let file = format!("--encryption-provider-config={}", path.display());
    let flag = "--encryption-provider-config-automatic-reload";
    let (yes, no) = (format!("{flag}=true"), format!("{flag}=false"));
    let cases: [(&[&str], bool); 4] = [
        (&[&file], false),
        (&[&file, flag], true),
        (&[&file, &yes], true),
        (&[&file, &no], false),
    ];
    for (words, is_followed) in cases {
        let opened = opened(&bench, words).await.expect("opened");
        let stored = Arc::new(Encrypted::new(bench.store.clone(), opened.vault));
        let followed = opened.file.expect("a file").followed(&stored);
        assert_eq!(followed.is_some(), is_followed, "{words:?}");
        if let Some(followed) = followed {
            assert_eq!((&followed.path, &*followed.first), (&path, text.as_bytes()));
        }
    }
    let without = opened(&bench, &[flag]).await.err().expect("refused");
    assert!(
        without.to_string().contains("must be set with"),
        "{without}"
    );
    assert!(opened(&bench, &[&format!("{flag}=perhaps")]).await.is_err());
    assert!(opened(&bench, &[&no]).await.expect("opened").file.is_none());
}
