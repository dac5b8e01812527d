//! Which controllers run: what upstream's flag `--controllers` says. So those of Tiphys alone can run beside
//! upstream's controller manager, and single ones can be left to somebody else.

use std::fmt;
use std::str::FromStr;

/// All that can be chosen, by upstream's names; the last four have no counterpart in upstream's program
/// (there the first of them is a cloud provider's). What upstream has several names for and is one
/// controller here has the name of its main part: certificate requests are approved by the one that signs
/// them, and pods leave tainted nodes by that of nodes' lives.
pub const NAMES: [&str; 43] = [
    "certificatesigningrequest-signing-controller",
    "clusterrole-aggregation-controller",
    "cronjob-controller",
    "daemonset-controller",
    "deployment-controller",
    "device-taint-eviction-controller",
    "disruption-controller",
    "endpoints-controller",
    "endpointslice-controller",
    "endpointslice-mirroring-controller",
    "ephemeral-volume-controller",
    "garbage-collector-controller",
    "horizontal-pod-autoscaler-controller",
    "job-controller",
    "legacy-serviceaccount-token-cleaner-controller",
    "namespace-controller",
    "node-ipam-controller",
    "node-lifecycle-controller",
    "persistentvolume-attach-detach-controller",
    "persistentvolume-binder-controller",
    "persistentvolume-expander-controller",
    "persistentvolume-protection-controller",
    "persistentvolumeclaim-protection-controller",
    "pod-garbage-collector-controller",
    "podgroup-protection-controller",
    "replicaset-controller",
    "replicationcontroller-controller",
    "resourceclaim-controller",
    "resourcequota-controller",
    "root-ca-certificate-publisher-controller",
    "service-cidr-controller",
    "serviceaccount-controller",
    "serviceaccount-token-controller",
    "statefulset-controller",
    "storage-version-migrator-controller",
    "ttl-after-finished-controller",
    "ttl-controller",
    "validatingadmissionpolicy-status-controller",
    "volumeattributesclass-protection-controller",
    "service-lb-controller",
    "node-certificate-approver",
    "cluster-dns-controller",
    "local-volume-provisioner",
];

/// Upstream's names for what is part of another controller here, or nobody's work: command lines that are
/// written for upstream's program may have them, and they choose nothing.
const ELSEWHERE: [&str; 8] = [
    "bootstrap-signer-controller",
    "certificatesigningrequest-approving-controller",
    "certificatesigningrequest-cleaner-controller",
    "kube-apiserver-serving-clustertrustbundle-publisher-controller",
    "selinux-warning-controller",
    "storageversion-garbage-collector-controller",
    "taint-eviction-controller",
    "token-cleaner-controller",
];

const ALL: &str = "*";

/// A list such as `*,-job-controller`: of what names a controller the first word decides, and `*` stands for
/// those that no word names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen(Vec<String>);

/// A word of the list that names no controller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not in the list of known controllers: {known}", known = NAMES.join(", "))]
pub struct UnknownController(String);

impl Default for Chosen {
    fn default() -> Self {
        Self(vec![ALL.to_owned()])
    }
}

impl FromStr for Chosen {
    type Err = UnknownController;

    fn from_str(list: &str) -> Result<Self, UnknownController> {
        let words = list.split(',').map(str::trim);
        let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
        for word in &words {
            let name = word.strip_prefix('-').unwrap_or(word);
            if *word != ALL && !NAMES.contains(&name) && !ELSEWHERE.contains(&name) {
                return Err(UnknownController(name.to_owned()));
            }
        }
        Ok(Self(words.into_iter().map(str::to_owned).collect()))
    }
}

impl fmt::Display for Chosen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(","))
    }
}

impl Chosen {
    /// Whether the controller of a name runs.
    pub fn has(&self, name: &str) -> bool {
        let named = self.0.iter().find_map(|word| match word.strip_prefix('-') {
            Some(left_out) => (left_out == name).then_some(false),
            None => (word == name).then_some(true),
        });
        named.unwrap_or_else(|| self.words().any(|word| word == ALL))
    }

    /// The names of it that choose nothing here.
    pub fn in_vain(&self) -> impl Iterator<Item = &str> {
        let names = self
            .words()
            .map(|word| word.strip_prefix('-').unwrap_or(word));
        names.filter(|name| ELSEWHERE.contains(name))
    }

    /// The list as it was given.
    pub fn words(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(list: &str, name: &str) -> bool {
        list.parse::<Chosen>().expect("a list").has(name)
    }

    #[test]
    fn the_first_word_decides_and_a_star_stands_for_the_rest() {
        for (list, job, cron) in [
            ("*", true, true),
            ("", false, false),
            ("job-controller", true, false),
            ("*,-job-controller", false, true),
            ("-job-controller, *", false, true),
            ("-job-controller", false, false),
            ("job-controller,-job-controller,*", true, true),
        ] {
            assert_eq!(runs(list, "job-controller"), job, "{list:?}");
            assert_eq!(runs(list, "cronjob-controller"), cron, "{list:?}");
        }
        assert_eq!(Chosen::default(), "*".parse().expect("a list"));
    }

    #[test]
    fn upstreams_names_for_what_is_part_of_another_one_choose_nothing() {
        let list = "*,bootstrap-signer-controller,-taint-eviction-controller";
        let chosen: Chosen = list.parse().expect("a list");
        let names: Vec<&str> = chosen.in_vain().collect();
        assert_eq!(
            names,
            ["bootstrap-signer-controller", "taint-eviction-controller"]
        );
        assert!(chosen.has("job-controller"));
    }

    #[test]
    fn unknown_names_are_refused() {
        for list in ["*,-jobs", "jobs", "-", "-*"] {
            assert!(list.parse::<Chosen>().is_err(), "{list:?}");
        }
        let error = "*,-jobs".parse::<Chosen>().expect_err("no such controller");
        let text = error.to_string();
        assert!(text.starts_with("\"jobs\" is not in the list"), "{text}");
        assert!(text.contains("job-controller"), "{text}");
    }

    #[test]
    fn each_name_is_one_that_is_started() {
        let source = include_str!("run.rs");
        for (i, name) in NAMES.iter().enumerate() {
            assert!(source.contains(&format!("\"{name}\"")), "{name}");
            assert!(!NAMES[..i].contains(name), "{name} is there twice");
        }
    }
}
