//! The keys of a cluster that nobody has to think about: AES-256-GCM for Secrets, made by the first
//! server. How they are kept is not known here.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::provider::{Form, Key, NamedKey, Provider, Providers};
use super::rules::{Resources, Rules};

/// Bytes of a key.
const LENGTH: usize = 32;

/// Keys; the first one writes, all read.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ring {
    keys: Vec<Entry>,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    /// In base64.
    secret: String,
}

impl std::fmt::Debug for Ring {
    /// Keys stay out of logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ring({})", self.names().join(", "))
    }
}

impl Entry {
    fn generate() -> Self {
        #[expect(clippy::disallowed_methods, reason = "a secret")]
        let (name, secret): (u64, [u8; LENGTH]) = (rand::random(), rand::random());
        Self {
            name: format!("tiphys-{name:016x}"),
            secret: STANDARD.encode(secret),
        }
    }

    fn key(&self) -> Result<NamedKey, String> {
        let secret = STANDARD.decode(&self.secret);
        let secret = secret.ok().filter(|s| s.len() == LENGTH);
        let key = secret.and_then(|secret| {
            let name = self.name.clone();
            NamedKey::new(Form::AesGcm, &Key { name, secret })
        });
        key.ok_or_else(|| format!("the key {:?} is damaged", self.name))
    }
}

impl Ring {
    /// With one key, of random numbers.
    pub fn generate() -> Self {
        Self {
            keys: vec![Entry::generate()],
        }
    }

    /// Reads what [`Ring::to_json`] gave.
    pub fn read(json: &[u8]) -> Result<Self, String> {
        let ring: Self = serde_json::from_slice(json).map_err(|_| "it is damaged".to_owned())?;
        if ring.keys.is_empty() {
            return Err("it has no keys".into());
        }
        Ok(ring)
    }

    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// With a new key, which writes from now on.
    #[must_use]
    pub fn with_new_key(&self) -> Self {
        let mut keys = vec![Entry::generate()];
        keys.extend(self.keys.iter().cloned());
        Self { keys }
    }

    /// With the key alone that writes.
    #[must_use]
    pub fn without_old_keys(&self) -> Self {
        Self {
            keys: self.keys.iter().take(1).cloned().collect(),
        }
    }

    /// The names of the keys, in order.
    pub fn names(&self) -> Vec<&str> {
        self.keys.iter().map(|k| &*k.name).collect()
    }

    pub fn len(&self) -> usize {
        self.keys.len()
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The provider of its keys.
    pub fn provider(&self) -> Result<Provider, String> {
        let keys: Result<_, String> = self.keys.iter().map(Entry::key).collect();
        Ok(Provider::Keyed(keys?))
    }

    /// Secrets are encrypted; those are read, too, that were written before.
    pub fn rules(&self) -> Result<Rules, String> {
        let providers = Providers::new(vec![self.provider()?, Provider::Identity]);
        let secrets = Resources(vec!["secrets".into()]);
        Ok(Rules::new(registry::kinds(), vec![(secrets, providers)]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_change_and_are_read_again() {
        let one = Ring::generate();
        assert_ne!(one, Ring::generate());
        let two = one.with_new_key();
        assert_eq!(two.names().len(), 2);
        assert_eq!(two.names()[1], one.names()[0]);
        assert_eq!(two.without_old_keys().names(), [two.names()[0]]);
        assert_eq!(Ring::read(&two.to_json()), Ok(two.clone()));
        assert!(Ring::read(b"{\"keys\": []}").is_err());
        let shown = format!("{two:?}");
        assert!(!shown.contains(&two.keys[0].secret));
        let damaged = Ring::read(b"{\"keys\": [{\"name\": \"a\", \"secret\": \"AAAA\"}]}");
        assert!(damaged.expect("a ring").provider().is_err());
    }
}
