//! The scheduler's configuration: a KubeSchedulerConfiguration in YAML or JSON, or the defaults.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use scheduler::config::{Election, Settings};
use serde_json::Value;

use crate::machine::read;

/// What a file says, as values: a scheduler is made of it for each of its terms.
#[derive(Clone, Default)]
pub struct SchedulerFile(Option<Value>);

impl SchedulerFile {
    /// Reads and checks it, and says what in it has no effect.
    pub fn open(path: Option<&Path>) -> Result<Self> {
        let Some(path) = path else {
            return Ok(Self::default());
        };
        let text = read(path)?;
        let fault = || format!("the scheduler's configuration {}", path.display());
        let decoded = schema::decode::yaml(text.as_bytes()).with_context(fault)?;
        if let Some(problem) = decoded.problems.first() {
            bail!("{}: {problem}", fault());
        }
        let file = Self(Some(decoded.value));
        for warning in file.settings().with_context(fault)?.warnings {
            tracing::warn!("{}: {warning}", path.display());
        }
        Ok(file)
    }

    fn settings(&self) -> Result<Settings> {
        let file = self.0.clone();
        Ok(scheduler::config::read(
            file.unwrap_or_else(scheduler::config::empty),
        )?)
    }

    /// The scheduler as the file wants it.
    pub fn config(&self) -> Result<scheduler::Config> {
        let Settings {
            profiles, waits, ..
        } = self.settings()?;
        Ok(scheduler::Config {
            profiles,
            waits,
            ..scheduler::Config::default()
        })
    }

    /// The kubeconfig that the file names.
    pub fn kubeconfig(&self) -> Result<Option<PathBuf>> {
        let named = self.settings()?.kubeconfig;
        Ok(named.filter(|p| !p.is_empty()).map(PathBuf::from))
    }

    /// How the file wants leaders elected.
    pub fn election(&self) -> Result<Election> {
        Ok(self.settings()?.election)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(text: &str) -> Result<SchedulerFile> {
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), text)?;
        SchedulerFile::open(Some(file.path()))
    }

    const HEAD: &str =
        "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n";

    #[test]
    fn a_file_makes_profiles_and_elections() {
        let file = open(&format!(
            "{HEAD}profiles:\n- schedulerName: bins\nleaderElection:\n  leaderElect: false\n"
        ))
        .expect("a file");
        let config = file.config().expect("a configuration");
        let names: Vec<&str> = config
            .profiles
            .iter()
            .map(|p| p.scheduler.as_str())
            .collect();
        assert_eq!(names, ["bins"]);
        let election = file.election().expect("an election");
        assert_eq!(election.leader_elect, Some(false));
        assert!(SchedulerFile::default().config().is_ok());
    }

    #[test]
    fn a_wrong_file_is_refused() {
        for text in [
            "apiVersion: v1\nkind: Pod\n",
            "not: [yaml",
            &format!("{HEAD}profile: []\n"),
            &format!("{HEAD}parallelism: 1\nparallelism: 2\n"),
        ] {
            assert!(open(text).is_err(), "{text}");
        }
    }
}
