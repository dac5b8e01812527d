//! What is asked about, and what is answered: which part explains it, and what a supposed change does.

use std::str::FromStr;

use kube::ResourceExt;

use super::change::{self, Change};
use super::report::{Answer, Profiles, WhyError};
use super::state::{self, State};
use super::{
    autoscaler, budget, claim, cron_job, daemon_set, deployment, job, namespace, node, pod,
    service, stateful_set,
};

/// What is asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    pub kind: QuestionKind,
    pub name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuestionKind {
    Pod,
    Deployment,
    StatefulSet,
    DaemonSet,
    Job,
    CronJob,
    Autoscaler,
    Budget,
    Claim,
    Namespace,
    Service,
    Node,
}

/// Answers about the object of a namespace and a name; none where it is not there.
type Explain = fn(&State, &str, &str, Profiles<'_>) -> Result<Option<Answer>, WhyError>;

/// A kind that can be asked about.
struct AskedKind {
    kind: QuestionKind,
    /// How it is called; answers call it by the first.
    names: &'static [&'static str],
    /// Its API group, as `kubectl get -o name` writes it behind the kind.
    group: &'static str,
    /// Whether its objects lie in namespaces.
    is_namespaced: bool,
    explain: Explain,
}

static KINDS: [AskedKind; 12] = [
    AskedKind {
        kind: QuestionKind::Pod,
        names: &["pod", "pods", "po"],
        group: "",
        is_namespaced: true,
        explain: |state, namespace, name, profiles| {
            about(&state.pods, namespace, name, |o| {
                pod::explain(state, o, profiles)
            })
        },
    },
    AskedKind {
        kind: QuestionKind::Deployment,
        names: &["deployment", "deployments", "deploy"],
        group: "apps",
        is_namespaced: true,
        explain: |state, namespace, name, profiles| {
            about(&state.deployments, namespace, name, |o| {
                deployment::explain(state, o, profiles)
            })
        },
    },
    AskedKind {
        kind: QuestionKind::StatefulSet,
        names: &["statefulset", "statefulsets", "sts"],
        group: "apps",
        is_namespaced: true,
        explain: |state, namespace, name, profiles| {
            about(&state.stateful_sets, namespace, name, |o| {
                stateful_set::explain(state, o, profiles)
            })
        },
    },
    AskedKind {
        kind: QuestionKind::DaemonSet,
        names: &["daemonset", "daemonsets", "ds"],
        group: "apps",
        is_namespaced: true,
        explain: |state, namespace, name, profiles| {
            about(&state.daemon_sets, namespace, name, |o| {
                daemon_set::explain(state, o, profiles)
            })
        },
    },
    AskedKind {
        kind: QuestionKind::Job,
        names: &["job", "jobs"],
        group: "batch",
        is_namespaced: true,
        explain: |state, namespace, name, profiles| {
            about(&state.jobs, namespace, name, |o| {
                job::explain(state, o, profiles)
            })
        },
    },
    AskedKind {
        kind: QuestionKind::CronJob,
        names: &["cronjob", "cronjobs", "cj"],
        group: "batch",
        is_namespaced: true,
        explain: |state, namespace, name, profiles| {
            about(&state.cron_jobs, namespace, name, |o| {
                cron_job::explain(state, o, profiles)
            })
        },
    },
    AskedKind {
        kind: QuestionKind::Budget,
        names: &["poddisruptionbudget", "poddisruptionbudgets", "pdb"],
        group: "policy",
        is_namespaced: true,
        explain: |state, namespace, name, profiles| {
            about(&state.budgets, namespace, name, |o| {
                budget::explain(state, o, profiles)
            })
        },
    },
    AskedKind {
        kind: QuestionKind::Autoscaler,
        names: &["horizontalpodautoscaler", "horizontalpodautoscalers", "hpa"],
        group: "autoscaling",
        is_namespaced: true,
        explain: |state, namespace, name, _| {
            about(&state.autoscalers, namespace, name, |o| {
                Ok(autoscaler::explain(o))
            })
        },
    },
    AskedKind {
        kind: QuestionKind::Claim,
        names: &["persistentvolumeclaim", "persistentvolumeclaims", "pvc"],
        group: "",
        is_namespaced: true,
        explain: |state, namespace, name, _| {
            about(&state.claims, namespace, name, |o| {
                Ok(claim::explain(state, o))
            })
        },
    },
    AskedKind {
        kind: QuestionKind::Namespace,
        names: &["namespace", "namespaces", "ns"],
        group: "",
        is_namespaced: false,
        explain: |state, _, name, _| {
            about(&state.namespaces, "", name, |o| {
                Ok(namespace::explain(state, o))
            })
        },
    },
    AskedKind {
        kind: QuestionKind::Service,
        names: &["service", "services", "svc"],
        group: "",
        is_namespaced: true,
        explain: |state, namespace, name, _| {
            about(&state.services, namespace, name, |o| {
                Ok(service::explain(state, o))
            })
        },
    },
    AskedKind {
        kind: QuestionKind::Node,
        names: &["node", "nodes", "no"],
        group: "",
        is_namespaced: false,
        explain: |state, _, name, _| about(&state.nodes, "", name, |o| Ok(node::explain(state, o))),
    },
];

/// What `explain` answers about the one of these objects that is meant.
fn about<K: ResourceExt>(
    all: &[K],
    namespace: &str,
    name: &str,
    explain: impl FnOnce(&K) -> Result<Answer, WhyError>,
) -> Result<Option<Answer>, WhyError> {
    let found = all.iter().find(|o| state::is(*o, namespace, name));
    found.map(explain).transpose()
}

impl FromStr for Question {
    type Err = WhyError;

    fn from_str(text: &str) -> Result<Self, WhyError> {
        let wrong = || WhyError::Question(text.to_owned());
        let (kind, name) = text.split_once('/').ok_or_else(wrong)?;
        let kind = kind.to_lowercase();
        let (kind, group) = match kind.split_once('.') {
            Some((kind, group)) => (kind, Some(group)),
            None => (kind.as_str(), None),
        };
        let is_meant =
            |k: &&AskedKind| k.names.contains(&kind) && group.is_none_or(|g| g == k.group);
        let kind = KINDS.iter().find(is_meant).ok_or_else(wrong)?.kind;
        if name.is_empty() || name.contains('/') {
            return Err(wrong());
        }
        Ok(Self {
            kind,
            name: name.to_owned(),
        })
    }
}

/// Answers a question about a namespace's object, where these changes are supposed. Without a
/// question it says what the changes would do.
///
/// # Errors
/// When the object, or what a change is about, is not there, or there are no profiles.
pub fn answer(
    state: &State,
    namespace: &str,
    question: Option<&Question>,
    changes: &[Change],
    profiles: Profiles<'_>,
) -> Result<Answer, WhyError> {
    let supposed = change::suppose(state, namespace, changes)?;
    let mut out = match question {
        None => Answer::default(),
        Some(question) => ask(&supposed.state, namespace, question, profiles)?,
    };
    if !changes.is_empty() {
        let told = supposed.outcome(profiles)?;
        if question.is_none() {
            out.cause = told.cause;
        } else {
            out.notes.push(told.cause);
        }
        out.notes.extend(told.notes);
    }
    Ok(out)
}

fn ask(
    state: &State,
    namespace: &str,
    question: &Question,
    profiles: Profiles<'_>,
) -> Result<Answer, WhyError> {
    let name = &question.name;
    let Some(asked) = KINDS.iter().find(|k| k.kind == question.kind) else {
        return Err(WhyError::NotFound(name.clone()));
    };
    let found = (asked.explain)(state, namespace, name, profiles)?;
    found.ok_or_else(|| {
        let kind = asked.names.first().copied().unwrap_or_default();
        WhyError::NotFound(match asked.is_namespaced {
            true => format!("{kind} {namespace}/{name}"),
            false => format!("{kind} {name}"),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_questions_say_what_can_be_asked() {
        for bad in ["web", "pod/", "secret/a", "pod/a/b", ""] {
            let error = bad.parse::<Question>().expect_err(bad);
            assert!(error.to_string().contains("ask pod/NAME"), "{error}");
        }
        for bad in [
            "node/a",
            "node/a+memory",
            "node/a+memory=x",
            "scale/deploy/=1",
            "drain/",
        ] {
            let error = bad.parse::<Change>().expect_err(bad);
            assert!(error.to_string().contains("suppose node/NAME"), "{error}");
        }
        for (bad, why) in [
            ("scale/w=1", "scale a deployment"),
            ("scale/secret/w=1", "scale a deployment"),
            ("scale/ds/w=1", "a DaemonSet has a pod on each"),
            ("scale/sts/w", "say how many pods"),
            ("scale/deploy/w=-1", "\"-1\" is not a number of pods"),
            ("scale/job/w=many", "\"many\" is not a number of pods"),
            ("scale/rs/w=200001", "200000 pods at most"),
        ] {
            let error = bad.parse::<Change>().expect_err(bad).to_string();
            assert!(error.contains(why), "{error}");
            assert!(error.contains(bad), "{error}");
        }
        for good in ["deploy/web", "Deployment/web", "deployment.apps/web"] {
            let good = good.parse::<Question>().map(|q| q.kind);
            assert_eq!(good, Ok(QuestionKind::Deployment));
        }
        // Of the same name, and of another group.
        let other = "service.serving.knative.dev/web".parse::<Question>();
        assert!(other.is_err());
    }

    #[test]
    fn each_kind_has_names_of_its_own_and_is_offered() {
        let offered = WhyError::Question(String::new()).to_string();
        let mut names: Vec<&str> = Vec::new();
        for asked in &KINDS {
            let one = asked
                .names
                .iter()
                .any(|n| offered.contains(&format!("{n}/NAME")));
            assert!(one, "{:?} is not in: {offered}", asked.kind);
            names.extend_from_slice(asked.names);
        }
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
