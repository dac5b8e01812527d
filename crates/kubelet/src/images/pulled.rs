//! Who may use an image that is here: what was pulled with a secret is for pods that have the secret,
//! or another one that the registry takes, what was pulled for a service account for its pods; what was
//! pulled without either, or came here otherwise, is for all. Noted on the disk in upstream's form and folders, so that it holds for the next kubelet.

use super::verification::{Verification, bare};
use crate::objects::Key;
use crate::{checkpoint, folder};
use host::runtime::Credential;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};

/// The folder below the kubelet's; upstream's.
const FOLDER: &str = "image_manager";
/// The most secrets, and service accounts, that are noted for an image; upstream's. Pods with others prove
/// theirs by a pull.
const MOST_SECRETS: usize = 100;

/// Whose credential it is by which an image came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// A secret's.
    Secret(SecretProof),
    /// One that a provider gave for a token of this service account.
    Account(AccountProof),
}

/// A secret's credential, as it is noted: nothing of it can be used to pull.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SecretProof {
    uid: String,
    namespace: String,
    name: String,
    credential_hash: String,
}

/// A service account.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AccountProof {
    /// Which of that name.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Proof {
    /// Of a credential in a secret.
    #[must_use]
    pub fn of(secret: &Key, uid: &str, credential: &Credential) -> Self {
        let Credential {
            username,
            password,
            server,
        } = credential;
        // Lengths, so that no two credentials are one text.
        let text = format!(
            "{}:{username}{}:{password}{}:{server}",
            username.len(),
            password.len(),
            server.len()
        );
        Self::Secret(SecretProof {
            uid: uid.to_owned(),
            namespace: secret.namespace.clone(),
            name: secret.name.clone(),
            credential_hash: hex(text.as_bytes()),
        })
    }
}

impl SecretProof {
    fn is_same_secret(&self, other: &Self) -> bool {
        (&self.uid, &self.namespace, &self.name) == (&other.uid, &other.namespace, &other.name)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Credentials {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    kubernetes_secrets: Vec<SecretProof>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    kubernetes_service_accounts: Vec<AccountProof>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    node_pods_accessible: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Record {
    kind: String,
    api_version: String,
    image_ref: String,
    /// By the image's name without tag and digest.
    credential_mapping: BTreeMap<String, Credentials>,
}

impl Record {
    fn new(image_ref: &str) -> Self {
        Self {
            kind: "ImagePulledRecord".into(),
            api_version: "kubelet.config.k8s.io/v1alpha1".into(),
            image_ref: image_ref.to_owned(),
            credential_mapping: BTreeMap::new(),
        }
    }

    fn allows(&self, image: &str, own: &[Proof]) -> bool {
        let Some(known) = self.credential_mapping.get(bare(image)) else {
            return false;
        };
        let proves = |p: &Proof| match p {
            Proof::Secret(p) => {
                let mut all = known.kubernetes_secrets.iter();
                all.any(|k| k.credential_hash == p.credential_hash || k.is_same_secret(p))
            }
            Proof::Account(p) => known.kubernetes_service_accounts.contains(p),
        };
        known.node_pods_accessible || own.iter().any(proves)
    }

    /// Notes who pulled it; none: all pods of the node may have it, since no credential was needed, or it
    /// was the node's.
    fn note(&mut self, image: &str, by: Option<&Proof>) {
        let known = self.credential_mapping.entry(bare(image).to_owned());
        let known = known.or_default();
        match by {
            None => {
                known.node_pods_accessible = true;
                known.kubernetes_secrets.clear();
                known.kubernetes_service_accounts.clear();
            }
            Some(_) if known.node_pods_accessible => {}
            Some(Proof::Secret(proof)) => {
                known
                    .kubernetes_secrets
                    .retain(|k| !k.is_same_secret(proof));
                known.kubernetes_secrets.insert(0, proof.clone());
                known.kubernetes_secrets.truncate(MOST_SECRETS);
            }
            Some(Proof::Account(proof)) => {
                let accounts = &mut known.kubernetes_service_accounts;
                accounts.retain(|k| k != proof);
                accounts.insert(0, proof.clone());
                accounts.truncate(MOST_SECRETS);
            }
        }
    }
}

/// A pull that goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Intent {
    kind: String,
    api_version: String,
    image: String,
    /// Of ours: which image of the name was here before.
    #[serde(skip_serializing_if = "Option::is_none")]
    here: Option<String>,
}

fn hex(bytes: &[u8]) -> String {
    let sum = Sha256::digest(bytes);
    sum.iter().map(|b| format!("{b:02x}")).collect()
}

/// What is noted.
#[derive(Debug)]
pub struct Pulled {
    folder: PathBuf,
    verification: Verification,
}

impl Pulled {
    /// In the kubelet's folder.
    #[must_use]
    pub fn new(root: &Path, verification: Verification) -> Self {
        Self {
            folder: root.join(FOLDER),
            verification,
        }
    }

    /// Where records are.
    fn records(&self) -> PathBuf {
        self.folder.join("pulled")
    }

    /// Where intents are.
    fn intents(&self) -> PathBuf {
        self.folder.join("pulling")
    }

    /// Whether a pod with these credentials may use an image that is here, by what is noted and asked
    /// about; of what cannot be read nothing is believed.
    #[must_use]
    pub fn may_use(&self, image: &str, image_ref: &str, own: &[Proof]) -> bool {
        if !self.verification.asks(image, true) {
            return true;
        }
        let is_known = match checkpoint::load::<Record>(&self.records(), &file_of(image_ref)) {
            Ok(Some(record)) => Ok(record.allows(image, own)),
            // It was here before the pull that goes on, or that a kubelet died in.
            Ok(None) => checkpoint::load::<Intent>(&self.intents(), &file_of(image))
                .map(|i| i.is_none_or(|i| i.here.as_deref() == Some(image_ref)))
                .map(|preloaded| preloaded && !self.verification.asks(image, false)),
            Err(e) => Err(e),
        };
        is_known.unwrap_or_else(|error| {
            tracing::warn!(image, %error, "who may use an image cannot be read: who pulls it may");
            false
        })
    }

    /// A pull begins: until [`Pulled::note`] what comes by it is nobody's. `here`: the image of the
    /// name that there is.
    pub fn begin(&self, image: &str, here: Option<&str>) -> io::Result<()> {
        let intent = Intent {
            kind: "ImagePullIntent".into(),
            api_version: "kubelet.config.k8s.io/v1alpha1".into(),
            image: image.to_owned(),
            here: here.map(str::to_owned),
        };
        write(&self.intents(), &file_of(image), &intent)
    }

    /// A pull failed.
    pub fn failed(&self, image: &str) {
        folder::remove_file(&self.intents().join(file_of(image)));
    }

    /// An image was pulled; `by` nobody's credential, or this one's.
    pub fn note(&self, image: &str, image_ref: &str, by: Option<&Proof>) -> io::Result<()> {
        let (folder, file) = (self.records(), file_of(image_ref));
        // Of what cannot be read nothing is believed.
        let known = checkpoint::load(&folder, &file).ok().flatten();
        let mut record = known.unwrap_or_else(|| Record::new(image_ref));
        record.note(image, by);
        write(&folder, &file, &record)?;
        self.failed(image);
        Ok(())
    }

    /// What is noted now; to be asked for before it is looked which images there are.
    #[must_use]
    pub fn noted(&self) -> Vec<PathBuf> {
        folder::entries_or_none(&self.records())
    }

    /// Forgets what was noted of images that are not among these.
    pub fn forget_others(&self, noted: &[PathBuf], image_refs: &HashSet<&str>) {
        let folder = self.records();
        let names: HashSet<PathBuf> = image_refs.iter().map(|r| folder.join(file_of(r))).collect();
        for path in noted.iter().filter(|path| !names.contains(*path)) {
            folder::remove_file(path);
        }
    }
}

/// The file about an image or a name of one.
fn file_of(image: &str) -> String {
    format!("sha256-{}", hex(image.as_bytes()))
}

fn write<T: Serialize>(folder: &Path, file: &str, value: &T) -> io::Result<()> {
    crate::volumes::private_folder(folder)?;
    checkpoint::save(folder, file, value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::ObjectKind;

    fn proof(namespace: &str, uid: &str, password: &str) -> Proof {
        let key = Key {
            kind: ObjectKind::Secret,
            namespace: namespace.into(),
            name: "pull".into(),
        };
        let credential = Credential {
            username: "u".into(),
            password: password.into(),
            server: "reg.io".into(),
        };
        Proof::of(&key, uid, &credential)
    }

    #[test]
    fn what_was_pulled_with_a_secret_is_for_who_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let new = || Pulled::new(dir.path(), Verification::default());
        let pulled = new();
        let (mine, other) = (proof("a", "1", "good"), proof("b", "2", "bad"));
        let image = "reg.io/app:1";
        // It was here before any kubelet.
        assert!(pulled.may_use(image, "id-1", &[]));
        pulled.begin(image, Some("id-0")).unwrap();
        assert!(pulled.may_use(image, "id-0", &[]));
        assert!(!pulled.may_use(image, "id-1", std::slice::from_ref(&mine)));
        pulled.note(image, "id-1", Some(&mine)).unwrap();
        let may = |own: &[Proof]| new().may_use(image, "id-1", own);
        assert!(may(std::slice::from_ref(&mine)));
        assert!(!may(&[]) && !may(std::slice::from_ref(&other)));
        // The same credential in another secret, and another one in the same secret.
        assert!(may(&[proof("c", "3", "good")]) && may(&[proof("a", "1", "new")]));
        // The same content by another name is not known of.
        let alias = "reg.io/alias:1";
        assert!(!pulled.may_use(alias, "id-1", std::slice::from_ref(&mine)));
        pulled.note(image, "id-1", None).unwrap();
        assert!(may(&[]));
        pulled.forget_others(&pulled.noted(), &["id-1"].into());
        assert!(!pulled.may_use(alias, "id-1", &[]));
        pulled.forget_others(&pulled.noted(), &HashSet::new());
        assert!(pulled.may_use(alias, "id-1", &[]));
    }

    #[test]
    fn what_was_pulled_for_an_account_is_for_its_pods() {
        let dir = tempfile::tempdir().unwrap();
        let pulled = Pulled::new(dir.path(), Verification::default());
        let account = |uid: &str| {
            Proof::Account(AccountProof {
                uid: uid.into(),
                namespace: "a".into(),
                name: "builder".into(),
            })
        };
        let image = "reg.io/app:1";
        pulled.note(image, "id-1", Some(&account("1"))).unwrap();
        let may = |own: &[Proof]| pulled.may_use(image, "id-1", own);
        assert!(may(&[account("1")]));
        // One of that name that was made later is another one.
        assert!(!may(&[]) && !may(&[account("2")]) && !may(&[proof("a", "1", "good")]));
        pulled
            .note(image, "id-1", Some(&proof("a", "1", "good")))
            .unwrap();
        assert!(may(&[account("1")]) && may(&[proof("a", "1", "good")]));
    }

    #[test]
    fn the_policy_says_who_is_asked() {
        let dir = tempfile::tempdir().unwrap();
        let with = |policy| Pulled::new(dir.path(), policy);
        let image = "reg.io/app:1";
        let may = |policy: Verification| with(policy).may_use(image, "id-1", &[]);
        // It was here before any kubelet.
        assert!(may(Verification::Never) && may(Verification::NotPreloaded));
        assert!(!may(Verification::Always));
        let mine = proof("a", "1", "good");
        with(Verification::Always)
            .note(image, "id-1", Some(&mine))
            .unwrap();
        assert!(may(Verification::Never));
        assert!(!may(Verification::NotPreloaded) && !may(Verification::Always));
        let own = std::slice::from_ref(&mine);
        assert!(with(Verification::Always).may_use(image, "id-1", own));
    }

    #[test]
    fn names_lose_tag_and_digest() {
        for (image, name) in [
            ("a", "a"),
            ("r:5000/a", "r:5000/a"),
            ("r:5000/a:1", "r:5000/a"),
            ("r/a:1@sha256:ab", "r/a"),
        ] {
            assert_eq!(bare(image), name);
        }
    }
}
