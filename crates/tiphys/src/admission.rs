//! Which admission plugins judge writes, and how they are configured: flags and the file that they name.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use apiserver::admission::{Options, configuration};
use clap::Args;
use registry::Features;
use serde_json::Value;

/// Upstream's flags.
#[derive(Args, Clone)]
pub struct AdmissionFlags {
    /// Admission plugins to turn on beside those that are on anyway, separated by commas.
    #[arg(long, value_delimiter = ',')]
    enable_admission_plugins: Vec<String>,
    /// Admission plugins to turn off, separated by commas.
    #[arg(long, value_delimiter = ',')]
    disable_admission_plugins: Vec<String>,
    /// File with the configuration of single plugins (AdmissionConfiguration, YAML or JSON).
    #[arg(long)]
    admission_control_config_file: Option<PathBuf>,
}

impl AdmissionFlags {
    /// The configuration of this server's plugins; the times are those of DefaultTolerationSeconds.
    pub fn options(
        &self,
        not_ready_seconds: i64,
        unreachable_seconds: i64,
        features: &Features,
    ) -> Result<Options> {
        let mut options = Options::default();
        options.default_not_ready_toleration_seconds = not_ready_seconds;
        options.default_unreachable_toleration_seconds = unreachable_seconds;
        if let Some(path) = &self.admission_control_config_file {
            let told = || format!("--admission-control-config-file {}", path.display());
            let document = document_of(path).map_err(anyhow::Error::msg);
            let folder = path.parent().unwrap_or(Path::new("."));
            // Paths in it are meant from where it lies.
            let other = |name: &str| document_of(&folder.join(name));
            configuration::read(&mut options, document.with_context(told)?, other)
                .with_context(told)?;
        }
        let names = |all: &[String]| {
            let given = all.iter().filter(|n| !n.is_empty());
            given.cloned().collect()
        };
        let mut disabled: Vec<String> = names(&self.disable_admission_plugins);
        let policies = "MutatingAdmissionPolicy";
        if !features.on(policies) && !disabled.iter().any(|n| n == policies) {
            disabled.push(policies.to_owned());
        }
        options.choose(names(&self.enable_admission_plugins), disabled)?;
        Ok(options)
    }
}

fn document_of(path: &Path) -> Result<Value, String> {
    let bytes = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
    configuration::parse(&bytes)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        admission: AdmissionFlags,
    }

    fn read(args: &[&str]) -> Result<Options> {
        let args = std::iter::once("x").chain(args.iter().copied());
        let command = Command::try_parse_from(args)?;
        command.admission.options(1, 2, &Features::default())
    }

    #[test]
    fn files_and_names_are_read() {
        let dir = tempfile::tempdir().expect("folder");
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).expect("file");
            path.display().to_string()
        };
        write(
            "events.yaml",
            "apiVersion: eventratelimit.admission.k8s.io/v1alpha1\nkind: Configuration\nlimits: [{type: Server, qps: 1, burst: 2}]\n",
        );
        let file = write(
            "admission.yaml",
            "apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\nplugins:\n- name: EventRateLimit\n  path: events.yaml\n",
        );
        let flag = format!("--admission-control-config-file={file}");
        let options = read(&[&flag, "--enable-admission-plugins=EventRateLimit"]).expect("good");
        assert_eq!(options.event_limits.len(), 1);
        assert!(read(&["--enable-admission-plugins=EventRateLimit"]).is_err());
        assert!(read(&["--disable-admission-plugins=PodSecurity,Nothing"]).is_err());
        assert!(read(&["--disable-admission-plugins=PodSecurity,Priority"]).is_ok());
        assert!(read(&["--admission-control-config-file=/nowhere"]).is_err());
    }
}
