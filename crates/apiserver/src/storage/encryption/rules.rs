//! Which values are kept how: resources, as an EncryptionConfiguration names them, and where their
//! objects lie. Pure.

use std::sync::Arc;

use registry::Kinds;
use registry::kinds::ByName;

use super::kms::Kms;
use super::provider::Providers;
use crate::cache::ROOT;

/// Resources by their names: `secrets`, `deployments.apps`, `*.apps`, `*.` (of the core group), `*.*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resources(pub Vec<String>);

impl Resources {
    fn has(&self, group: &str, resource: &str) -> bool {
        self.0.iter().any(|name| {
            let (r, g) = name.split_once('.').unwrap_or((name, ""));
            name == "*.*" || (r == resource || r == "*") && g == group
        })
    }
}

/// The rules, in order: the first that names a resource decides.
pub struct Rules {
    by_prefix: ByName<Arc<str>, Arc<Providers>>,
    all: Vec<(Resources, Arc<Providers>)>,
}

impl Rules {
    pub fn new(kinds: &Kinds, all: Vec<(Resources, Providers)>) -> Self {
        let all: Vec<_> = all
            .into_iter()
            .map(|(resources, providers)| (resources, Arc::new(providers)))
            .collect();
        let mut by_prefix = ByName::default();
        for row in kinds.rows().iter().filter(|r| !r.virtual_kind) {
            let found = all.iter().find(|(of, _)| of.has(&row.group, &row.resource));
            // Where two rows share objects, the one that stores them decides.
            let stores = row.storage_group == row.group;
            if let Some((_, providers)) = found
                && (stores || !by_prefix.contains_key(&row.storage_prefix))
            {
                by_prefix.insert(row.storage_prefix.clone(), providers.clone());
            }
        }
        Self { by_prefix, all }
    }

    /// The providers of a key's value; none for what is kept as it is.
    pub fn of(&self, key: &[u8]) -> Option<&Providers> {
        let key = std::str::from_utf8(key).ok()?;
        let (head, _) = key.rsplit_once('/')?;
        if let Some(found) = self.by_prefix.get(head) {
            return Some(found);
        }
        let below = head.rsplit_once('/').map(|(prefix, _)| prefix);
        if let Some(found) = below.and_then(|prefix| self.by_prefix.get(prefix)) {
            return Some(found);
        }
        // A custom kind's: its group has a dot.
        let mut parts = head.strip_prefix(ROOT)?.split('/');
        let (group, resource) = (parts.next()?, parts.next()?);
        if !group.contains('.') {
            return None;
        }
        let found = self.all.iter().find(|(of, _)| of.has(group, resource));
        found.map(|(_, providers)| &**providers)
    }

    /// The services that keep keys.
    pub fn services(&self) -> Vec<Arc<Kms>> {
        let all = self.all.iter().flat_map(|(_, p)| p.services());
        all.cloned().collect()
    }

    /// Below which keys there may be values of these rules.
    pub fn prefixes(&self) -> Vec<String> {
        let is_custom = |name: &String| {
            name.starts_with('*') || name.split_once('.').is_some_and(|(_, g)| g.contains('.'))
        };
        let named = self.all.iter().flat_map(|(of, _)| &of.0);
        if named.clone().any(is_custom) {
            return vec![ROOT.to_owned()];
        }
        let mut all: Vec<String> = self.by_prefix.keys().map(|p| format!("{p}/")).collect();
        all.sort();
        all
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::provider::{Form, Key, NamedKey, Provider};
    use super::*;

    fn providers(name: &str) -> Providers {
        let key = Key {
            name: name.into(),
            secret: vec![1; 32],
        };
        Providers::new(vec![Provider::Keyed(vec![
            NamedKey::new(Form::AesGcm, &key).expect("key"),
        ])])
    }

    fn rules(all: &[(&[&str], &str)]) -> Rules {
        let all = all.iter().map(|(names, key)| {
            let names = names.iter().map(|n| (*n).to_owned()).collect();
            (Resources(names), providers(key))
        });
        Rules::new(registry::kinds(), all.collect())
    }

    /// The name of the key with which a value is written.
    fn written(rules: &Rules, key: &str) -> String {
        let plain = Bytes::from_static(b"{}");
        let Some(providers) = rules.of(key.as_bytes()) else {
            return String::new();
        };
        let stored = providers.seal(key.as_bytes(), &plain).expect("seal");
        let text = String::from_utf8_lossy(&stored).into_owned();
        text.split(':').nth(4).unwrap_or_default().to_owned()
    }

    #[test]
    fn the_first_rule_that_names_a_resource_decides() {
        let rules = rules(&[
            (&["secrets", "things.example.com"], "a"),
            (&["*.apps"], "b"),
            (&["*."], "c"),
            (&["*.*"], "d"),
        ]);
        for (key, want) in [
            ("/registry/secrets/ns/s", "a"),
            ("/registry/example.com/things/ns/t", "a"),
            ("/registry/example.com/others/o", "d"),
            ("/registry/deployments/ns/d", "b"),
            ("/registry/configmaps/ns/m", "c"),
            ("/registry/namespaces/ns", "c"),
            ("/registry/clusterroles/r", "d"),
            ("/tiphys/cluster", ""),
        ] {
            assert_eq!(written(&rules, key), want, "{key}");
        }
        assert_eq!(rules.prefixes(), [ROOT]);
    }

    #[test]
    fn others_are_left_alone() {
        let rules = rules(&[(&["secrets"], "a")]);
        assert_eq!(written(&rules, "/registry/secrets/ns/s"), "a");
        for key in [
            "/registry/configmaps/ns/m",
            "/registry/example.com/secrets/ns/s",
            "/x",
        ] {
            assert_eq!(written(&rules, key), "", "{key}");
        }
        assert_eq!(rules.prefixes(), ["/registry/secrets/"]);
    }
}
