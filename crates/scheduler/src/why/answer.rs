//! What is asked about, and what is answered: which part explains it, and what a supposed change does.

use std::str::FromStr;

use super::change::{self, Change};
use super::report::{Answer, Profiles, WhyError};
use super::state::{self, State};
use super::{claim, deployment, namespace, pod, service};

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
    Claim,
    Namespace,
    Service,
}

impl FromStr for Question {
    type Err = WhyError;

    fn from_str(text: &str) -> Result<Self, WhyError> {
        let wrong = || WhyError::Question(text.to_owned());
        let (kind, name) = text.split_once('/').ok_or_else(wrong)?;
        let kind = match kind {
            "pod" | "pods" | "po" => QuestionKind::Pod,
            "deployment" | "deployments" | "deploy" => QuestionKind::Deployment,
            "persistentvolumeclaim" | "persistentvolumeclaims" | "pvc" => QuestionKind::Claim,
            "namespace" | "namespaces" | "ns" => QuestionKind::Namespace,
            "service" | "services" | "svc" => QuestionKind::Service,
            _ => return Err(wrong()),
        };
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
    let found = match question.kind {
        QuestionKind::Pod => {
            let pod = state.pods.iter().find(|p| state::is(*p, namespace, name));
            pod.map(|pod| pod::explain(state, pod, profiles))
                .transpose()?
        }
        QuestionKind::Deployment => {
            let all = state.deployments.iter();
            let found = all.clone().find(|d| state::is(*d, namespace, name));
            found
                .map(|d| deployment::explain(state, d, profiles))
                .transpose()?
        }
        QuestionKind::Claim => {
            let claim = state.claims.iter().find(|c| state::is(*c, namespace, name));
            claim.map(|claim| claim::explain(state, claim))
        }
        QuestionKind::Namespace => {
            let found = state.namespaces.iter().find(|n| state::is(*n, "", name));
            found.map(|n| namespace::explain(state, n))
        }
        QuestionKind::Service => {
            let found = state
                .services
                .iter()
                .find(|s| state::is(*s, namespace, name));
            found.map(|s| service::explain(state, s))
        }
    };
    let kind = match question.kind {
        QuestionKind::Pod => "pod",
        QuestionKind::Deployment => "deployment",
        QuestionKind::Claim => "persistentvolumeclaim",
        QuestionKind::Namespace => {
            return found.ok_or_else(|| WhyError::NotFound(format!("namespace {name}")));
        }
        QuestionKind::Service => "service",
    };
    found.ok_or_else(|| WhyError::NotFound(format!("{kind} {namespace}/{name}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_questions_say_what_can_be_asked() {
        for bad in ["web", "pod/", "node/a", "pod/a/b", ""] {
            let error = bad.parse::<Question>().expect_err(bad);
            assert!(error.to_string().contains("ask pod/NAME"), "{error}");
        }
        for bad in [
            "node/a",
            "node/a+memory",
            "node/a+memory=x",
            "scale/deploy/w=-1",
            "drain/",
        ] {
            let error = bad.parse::<Change>().expect_err(bad);
            assert!(error.to_string().contains("suppose node/NAME"), "{error}");
        }
        let good = "deploy/web".parse::<Question>().map(|q| q.kind);
        assert_eq!(good, Ok(QuestionKind::Deployment));
    }
}
