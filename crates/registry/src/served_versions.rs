//! Which of the built-in kinds a server serves, in which versions: upstream's default, changed by what
//! `--runtime-config` says and by the feature gates of kinds.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::feature_gates::{Features, go_bool, not_a_bool};
use crate::kinds::version_rank;
use crate::{Kinds, Row, kinds};

/// Keys that stand for versions of all groups, in the order in which they hold.
const ALL: [&str; 4] = ["api/all", "api/ga", "api/beta", "api/alpha"];

/// The core group's version as keys have it: its group has no name.
const CORE: &str = "/v1";

/// A key that once stood for versions of then; it is accepted and says nothing any more.
const LEGACY: &str = "api/legacy";

/// Whether a key is one of the shorter forms for the core group's version. As upstream's, they mean
/// all of it, whatever resource follows.
fn names_core(key: &str) -> bool {
    let version = key.strip_prefix("api/").unwrap_or(key);
    version == "v1" || version.starts_with("v1/")
}

/// Versions that upstream knows and that have no kinds in v1.36: they may be named.
#[rustfmt::skip]
const WITHOUT_KINDS: &[(&str, &[&str])] = &[
    ("apps", &["v1beta1", "v1beta2"]),
    ("authentication.k8s.io", &["v1beta1", "v1alpha1"]),
    ("authorization.k8s.io", &["v1beta1"]),
    ("batch", &["v1beta1"]),
    ("discovery.k8s.io", &["v1beta1"]),
    ("events.k8s.io", &["v1beta1"]),
    ("extensions", &["v1beta1"]),
    ("flowcontrol.apiserver.k8s.io", &["v1beta1", "v1beta2", "v1beta3"]),
    ("imagepolicy.k8s.io", &["v1alpha1"]),
    ("node.k8s.io", &["v1beta1", "v1alpha1"]),
    ("policy", &["v1beta1"]),
    ("rbac.authorization.k8s.io", &["v1beta1", "v1alpha1"]),
    ("scheduling.k8s.io", &["v1beta1", "v1alpha1"]),
    ("storage.k8s.io", &["v1alpha1"]),
];

/// Kinds that are served only where their gate is on, whatever else is said of their versions.
const GATED: &[(&str, &str, &str)] = &[
    (
        "certificates.k8s.io",
        "clustertrustbundles",
        "ClusterTrustBundle",
    ),
    (
        "certificates.k8s.io",
        "podcertificaterequests",
        "PodCertificateRequest",
    ),
    ("scheduling.k8s.io", "workloads", "GenericWorkload"),
    ("scheduling.k8s.io", "podgroups", "GenericWorkload"),
    (
        "storagemigration.k8s.io",
        "storageversionmigrations",
        "StorageVersionMigrator",
    ),
];

/// Usage of pods and nodes comes from an extension server in upstream's clusters: what is said of
/// all groups does not mean it.
const USAGE: &str = "metrics.k8s.io";

/// Kinds whose objects the server makes itself; it does not start without them.
const OWN: &[(&str, &str)] = &[
    ("", "configmaps"),
    ("", "endpoints"),
    ("", "namespaces"),
    ("", "secrets"),
    ("", "serviceaccounts"),
    ("", "services"),
    ("apiregistration.k8s.io", "apiservices"),
    ("discovery.k8s.io", "endpointslices"),
    ("networking.k8s.io", "ipaddresses"),
    ("networking.k8s.io", "servicecidrs"),
    ("rbac.authorization.k8s.io", "clusterrolebindings"),
    ("rbac.authorization.k8s.io", "clusterroles"),
    ("rbac.authorization.k8s.io", "rolebindings"),
    ("rbac.authorization.k8s.io", "roles"),
    ("scheduling.k8s.io", "priorityclasses"),
];

/// The kinds of a server, and what whoever configured it should know.
pub struct Served {
    pub kinds: Arc<Kinds>,
    pub warnings: Vec<String>,
}

/// The kinds that are served where nothing is said.
pub fn by_default() -> Arc<Kinds> {
    let wish = RequestedVersions::default();
    Arc::new(Kinds::new(wish.rows(&Features::default())))
}

/// The kinds that are served with what `--runtime-config` was given (`apps/v1=false`,
/// `api/beta=true`); errors in upstream's words.
pub fn configured<S: AsRef<str>>(given: &[S], features: &Features) -> Result<Served, String> {
    let wish = RequestedVersions::read(given)?;
    let rows = wish.rows(features);
    let missing = OWN.iter().find(|(group, resource)| {
        !rows
            .iter()
            .any(|r| (&*r.group, &*r.resource) == (*group, *resource))
    });
    if let Some((group, resource)) = missing {
        let name = api::GroupResource::new(group, resource);
        return Err(format!(
            "runtime-config turns off {name}, which the server needs itself"
        ));
    }
    Ok(Served {
        warnings: wish.warnings(&rows, features),
        kinds: Arc::new(Kinds::new(rows)),
    })
}

type Version = (String, String);

/// What was said of versions and resources.
#[derive(Default)]
struct RequestedVersions {
    all: BTreeMap<&'static str, bool>,
    versions: BTreeMap<Version, bool>,
    resources: BTreeMap<(Version, String), bool>,
    legacy: bool,
}

fn rank(version: &str) -> u8 {
    version_rank(version).0
}

/// Whether one of [`ALL`] means a version.
fn means(key: &str, version: &str) -> bool {
    match key {
        "api/all" => true,
        "api/ga" => rank(version) == 3,
        "api/beta" => rank(version) == 2,
        _ => rank(version) == 1,
    }
}

fn is_known(group: &str, version: &str) -> Option<bool> {
    let groups = kinds().groups();
    let built_in = groups.iter().find(|(g, _)| &**g == group);
    let old = WITHOUT_KINDS.iter().find(|(g, _)| *g == group);
    if built_in.is_none() && old.is_none() {
        return None;
    }
    let serves = built_in.is_some_and(|(_, all)| all.iter().any(|v| &**v == version));
    Some(serves || old.is_some_and(|(_, all)| all.contains(&version)))
}

impl RequestedVersions {
    fn read<S: AsRef<str>>(given: &[S]) -> Result<Self, String> {
        let pairs = given.iter().flat_map(|g| g.as_ref().split(','));
        let said: BTreeMap<&str, &str> = pairs
            .map(str::trim)
            .filter(|p| !p.is_empty())
            .map(|p| {
                p.split_once('=')
                    .map_or((p, ""), |(k, v)| (k.trim(), v.trim()))
            })
            .collect();
        if said.len() == 1 && said.get("api/all") == Some(&"false") {
            return Err("invalid runtime-config with only api/all=false".into());
        }
        let mut wish = Self::default();
        let mut unknown = Vec::new();
        for (key, value) in said {
            if key == LEGACY {
                wish.legacy = true;
                continue;
            }
            let key = if names_core(key) { CORE } else { key };
            if let Some(all) = ALL.iter().find(|all| **all == key) {
                let on = match value {
                    "true" => true,
                    "false" => false,
                    _ => return Err(format!("invalid value {key}={value}")),
                };
                wish.all.insert(all, on);
            } else if let Some(group_version) = wish.one(key, value)? {
                unknown.push(group_version);
            }
        }
        if unknown.is_empty() {
            Ok(wish)
        } else {
            Err(format!("unknown api groups {}", unknown.join(",")))
        }
    }

    /// Notes a version or a resource; gives the version where its group is not known.
    fn one(&mut self, key: &str, value: &str) -> Result<Option<String>, String> {
        let parts: Vec<&str> = key.split('/').collect();
        let (group, version, resource) = match parts[..] {
            [group, version] => (group, version, None),
            [group, version, resource] => (group, version, Some(resource)),
            _ => return Err(format!("runtime-config invalid key {key}")),
        };
        let named = format!("{group}/{version}");
        let shown = if group.is_empty() { version } else { &*named };
        match is_known(group, version) {
            None => return Ok(Some(named)),
            Some(false) => {
                return Err(format!(
                    "group version {shown} that has not been registered"
                ));
            }
            Some(true) => {}
        }
        let on = match value {
            "" => true,
            _ => go_bool(value).ok_or_else(|| {
                format!(
                    "invalid value of {key}: {value}, err: {}",
                    not_a_bool(value)
                )
            })?,
        };
        let version = (group.to_owned(), version.to_owned());
        match resource {
            None => drop(self.versions.insert(version, on)),
            Some(r) if r.to_lowercase() != r => {
                return Err(format!(
                    "invalid key {key}: group/version/resource and resource is always lowercase plural, not {r:?}"
                ));
            }
            Some(r) => drop(self.resources.insert((version, r.to_owned()), on)),
        }
        Ok(None)
    }

    fn serves(&self, row: &Row, version: &str) -> bool {
        let at = (row.group.to_string(), version.to_owned());
        let resource = (at.clone(), row.resource.to_string());
        if let Some(on) = self.resources.get(&resource) {
            return *on;
        }
        if let Some(on) = self.versions.get(&at) {
            return *on;
        }
        if &*row.group == USAGE {
            return true;
        }
        let meant = ALL.iter().rev().filter(|key| means(key, version));
        let said = meant.filter_map(|key| self.all.get(key)).next();
        // Upstream's default: what is stable.
        said.copied().unwrap_or(rank(version) == 3)
    }

    fn rows(&self, features: &Features) -> Vec<Arc<Row>> {
        let rows = kinds()
            .rows()
            .iter()
            .filter(|row| gate(row).is_none_or(|g| features.on(g)));
        rows.filter_map(|row| {
            if row.versions.iter().all(|v| self.serves(row, &v.version)) {
                return Some(row.clone());
            }
            let mut row = Row::clone(row);
            let group = row.clone();
            row.versions.retain(|v| self.serves(&group, &v.version));
            (!row.versions.is_empty()).then(|| Arc::new(row))
        })
        .collect()
    }

    /// What is asked for and not served.
    fn warnings(&self, rows: &[Arc<Row>], features: &Features) -> Vec<String> {
        let mut out = Vec::new();
        if self.legacy {
            out.push(format!("runtime-config: {LEGACY} says nothing any more"));
        }
        let serves = |(group, version): &Version, resource: Option<&str>| {
            rows.iter().any(|r| {
                *r.group == **group
                    && r.version(version).is_some()
                    && resource.is_none_or(|name| *r.resource == *name)
            })
        };
        let versions = self.versions.iter().map(|(at, on)| (at, None, on));
        let resources = self.resources.iter();
        let resources = resources.map(|((at, r), on)| (at, Some(r.as_str()), on));
        for (at, resource, on) in versions.chain(resources) {
            if *on && !serves(at, resource) {
                let below = resource.map_or_else(String::new, |r| format!("/{r}"));
                let (group, version) = at;
                out.push(format!(
                    "runtime-config: {group}/{version}{below} serves nothing here"
                ));
            }
        }
        for row in kinds().rows() {
            let wanted = row.versions.iter().any(|v| self.serves(row, &v.version));
            if let Some(gate) = gate(row).filter(|gate| wanted && !features.on(gate)) {
                let (resource, group) = (&row.resource, &row.group);
                out.push(format!(
                    "runtime-config: {resource}.{group} is not served because the {gate} feature gate is disabled"
                ));
            }
        }
        out
    }
}

fn gate(row: &Row) -> Option<&'static str> {
    let found = GATED
        .iter()
        .find(|(g, r, _)| (*g, *r) == (&*row.group, &*row.resource));
    found.map(|(_, _, gate)| *gate)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn versions(kinds: &Kinds) -> Vec<String> {
        let groups = kinds.groups().into_iter();
        let all = groups.flat_map(|(g, all)| all.into_iter().map(move |v| format!("{g}/{v}")));
        let mut all: Vec<String> = all.collect();
        all.sort();
        all
    }

    #[test]
    fn by_default_what_is_stable_is_served() {
        let all = versions(&by_default());
        let old: Vec<&String> = all
            .iter()
            .filter(|v| v.contains("alpha") || v.contains("beta"))
            .collect();
        assert_eq!(old, ["metrics.k8s.io/v1beta1"]);
        // Those of upstream, and usage.
        let groups = by_default().groups();
        let groups: Vec<&str> = groups.iter().map(|(g, _)| &**g).collect();
        for gone in ["internal.apiserver.k8s.io", "storagemigration.k8s.io"] {
            assert!(!groups.contains(&gone));
        }
        assert_eq!(groups.len(), 22, "{groups:?}");
        assert!(
            by_default()
                .resource("resource.k8s.io", "devicetaintrules")
                .is_none()
        );
    }

    #[test]
    fn keys_hold_from_the_general_to_the_particular() {
        let gates = Features::read(&["ClusterTrustBundle=true"]).expect("known");
        let served = |given: &[&str]| configured(given, &gates).expect("good").kinds;
        let all = served(&["api/all=true"]);
        assert!(
            all.by_resource("coordination.k8s.io", "v1alpha2", "leasecandidates")
                .is_some()
        );
        assert!(
            all.by_resource("certificates.k8s.io", "v1alpha1", "clustertrustbundles")
                .is_some()
        );
        assert!(all.resource("scheduling.k8s.io", "workloads").is_none());
        let some = served(&[
            "api/beta=true",
            "networking.k8s.io/v1beta1=false",
            "networking.k8s.io/v1beta1/ipaddresses",
        ]);
        assert!(
            some.by_resource("networking.k8s.io", "v1beta1", "ipaddresses")
                .is_some()
        );
        assert!(
            some.by_resource("networking.k8s.io", "v1beta1", "servicecidrs")
                .is_none()
        );
        assert!(
            some.by_resource("resource.k8s.io", "v1beta2", "devicetaintrules")
                .is_some()
        );
        assert!(
            some.by_resource("resource.k8s.io", "v1alpha3", "devicetaintrules")
                .is_none()
        );
        let core = served(&["api/all=false", "api/ga=true", "api/v1", "v1=true"]);
        assert!(core.by_resource("", "v1", "pods").is_some());
        let less = served(&["apps/v1/daemonsets=false,batch/v1=0"]);
        assert!(less.resource("apps", "daemonsets").is_none());
        assert!(less.resource("apps", "deployments").is_some());
        assert!(less.resource("batch", "jobs").is_none());
    }

    #[test]
    fn what_is_not_known_is_refused() {
        let refused = |given: &[&str]| {
            configured(given, &Features::default())
                .err()
                .expect("refused")
        };
        assert_eq!(
            refused(&["api/all=false"]),
            "invalid runtime-config with only api/all=false"
        );
        assert_eq!(
            refused(&["no.such/v1=true", "a/v2"]),
            "unknown api groups a/v2,no.such/v1"
        );
        assert_eq!(refused(&["v2=true"]), "runtime-config invalid key v2");
        assert_eq!(refused(&["api/v2"]), "unknown api groups api/v2");
        assert_eq!(refused(&["api/ga=yes"]), "invalid value api/ga=yes");
        assert_eq!(
            refused(&["apps/v7=true"]),
            "group version apps/v7 that has not been registered"
        );
        assert!(
            refused(&["apps/v1=yes"]).starts_with("invalid value of apps/v1: yes, err: strconv")
        );
        assert!(
            refused(&["apps/v1/Deployments=false"])
                .contains("always lowercase plural, not \"Deployments\"")
        );
        for core in ["/v1=false", "v1=false", "api/v1=false", "v1/pods=false"] {
            assert!(
                refused(&[core]).contains("configmaps, which the server needs itself"),
                "{core}"
            );
        }
        let warned = configured(&["apps/v1beta1=true", "api/all=true"], &Features::default());
        let warned = warned.expect("known").warnings;
        let legacy = configured(&["api/legacy=true"], &Features::default());
        assert_eq!(
            legacy.expect("accepted").warnings,
            ["runtime-config: api/legacy says nothing any more"]
        );
        assert!(warned.contains(&"runtime-config: apps/v1beta1 serves nothing here".to_owned()));
        assert!(
            warned
                .iter()
                .any(|w| w.contains("workloads.scheduling.k8s.io is not served")),
            "{warned:?}"
        );
    }
}
