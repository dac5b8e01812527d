//! What is answered, for people and programs, and why a question has no answer.

use std::fmt::{self, Write};

use serde::Serialize;

use crate::decide::Profile;

/// Makes the scheduler's profiles, others for each try, or says why there are none.
pub type Profiles<'a> = &'a dyn Fn() -> Result<Vec<Profile>, String>;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum WhyError {
    #[error(
        "{0:?} cannot be asked about: ask pod/NAME, deployment/NAME, statefulset/NAME, \
         daemonset/NAME, job/NAME, cronjob/NAME, hpa/NAME, pdb/NAME, pvc/NAME, namespace/NAME, \
         service/NAME or node/NAME"
    )]
    Question(String),
    #[error(
        "{0:?} cannot be supposed: suppose node/NAME+memory=2Gi, node/NAME-cpu=500m (or another \
         resource), drain/NAME, uncordon/NAME or scale/KIND/NAME=50 of a deployment, replicaset, \
         statefulset, replicationcontroller or job"
    )]
    Supposition(String),
    #[error("{change:?} cannot be supposed: {why}")]
    Scale { change: String, why: String },
    #[error("{0} not found")]
    NotFound(String),
    /// By other rules than the scheduler's an answer would be a wrong one.
    #[error("the scheduler's configuration cannot be read: {0}")]
    Profiles(String),
}

/// What one node says.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub struct NodeAnswer {
    pub node: String,
    pub fits: bool,
    /// Points that it got, where several fit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<i64>,
    pub refusals: Vec<Refusal>,
}

/// What one plugin has against a node, and what would change its mind.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub struct Refusal {
    pub plugin: String,
    pub reasons: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub change: Option<String>,
}

/// An answer, for people and programs.
#[derive(Clone, Debug, Default, Serialize, PartialEq, Eq)]
pub struct Answer {
    /// What it is about, as `pod default/web`.
    pub about: String,
    pub cause: String,
    /// The smallest change that would help.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub change: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<NodeAnswer>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

impl Answer {
    pub fn of(about: impl Into<String>, cause: impl Into<String>) -> Self {
        Self {
            about: about.into(),
            cause: cause.into(),
            ..Self::default()
        }
    }
    /// Of something whose trouble is that of a part of it, as a pod: what is said of the whole, and
    /// the answer about the part.
    pub fn of_part(about: impl Into<String>, said: &str, part: Self) -> Self {
        Self {
            about: about.into(),
            cause: format!("{said}; {}: {}", part.about, part.cause),
            ..part
        }
    }
    #[must_use]
    pub fn change(mut self, change: impl Into<String>) -> Self {
        self.change = Some(change.into());
        self
    }
    #[must_use]
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }
}

/// A reason and a message as they are quoted, where they say something.
pub fn quoted(reason: Option<&str>, message: Option<&str>) -> String {
    let parts = [reason, message].into_iter().flatten().map(str::trim);
    let parts: Vec<&str> = parts.filter(|t| !t.is_empty()).collect();
    parts.join(": ")
}

/// Nodes that are printed one by one; of more only how many there are.
const PRINTED: usize = 50;

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.about.is_empty() {
            writeln!(f, "{}", self.cause)?;
        } else {
            writeln!(f, "{}: {}", self.about, self.cause)?;
        }
        if let Some(change) = &self.change {
            writeln!(f, "smallest change: {change}")?;
        }
        for node in self.nodes.iter().take(PRINTED) {
            let mut line = String::new();
            for refusal in &node.refusals {
                let comma = if line.is_empty() { "" } else { "; " };
                write!(
                    line,
                    "{comma}{}: {}",
                    refusal.plugin,
                    refusal.reasons.join(", ")
                )?;
                if let Some(change) = &refusal.change {
                    write!(line, " ({change})")?;
                }
            }
            match (node.fits, node.score) {
                (true, Some(score)) => writeln!(f, "  {}: fits, score {score}", node.node)?,
                (true, None) => writeln!(f, "  {}: fits", node.node)?,
                (false, _) => writeln!(f, "  {}: {line}", node.node)?,
            }
        }
        if let Some(more) = self.nodes.len().checked_sub(PRINTED).filter(|n| *n > 0) {
            writeln!(f, "  and {more} more nodes")?;
        }
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        Ok(())
    }
}
