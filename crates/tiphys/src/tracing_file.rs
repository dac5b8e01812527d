//! Where the API server sends spans of its requests, and controllers and scheduler beside it those of
//! what they do: a flag with upstream's name, and the file that it names.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use traces::{Configuration, Tracer};

use crate::machine::read;

/// Upstream's flag.
#[derive(Args, Clone, Default)]
pub struct TracingFlags {
    /// Where spans of requests and of the control plane's work are sent by OTLP, and how many: a
    /// TracingConfiguration of apiserver.config.k8s.io/v1, in YAML or JSON [default: none are made].
    #[arg(long, value_name = "FILE")]
    tracing_config_file: Option<PathBuf>,
}

/// One for each component of the server's process, under its own name.
#[derive(Default)]
pub struct Tracers {
    pub api: Tracer,
    pub controllers: Tracer,
    pub scheduler: Tracer,
}

impl Tracers {
    /// Sends what has ended.
    pub async fn finish(&self) {
        for tracer in [&self.scheduler, &self.controllers, &self.api] {
            tracer.finish().await;
        }
    }
}

impl TracingFlags {
    /// The tracers of a server with this name; called within a runtime.
    pub fn tracers(&self, server: &str) -> Result<Tracers> {
        let Some(path) = &self.tracing_config_file else {
            return Ok(Tracers::default());
        };
        let told = || format!("--tracing-config-file {}", path.display());
        let decoded = schema::decode::yaml(read(path)?.as_bytes()).with_context(told)?;
        if let Some(problem) = decoded.problems.first() {
            bail!("{}: {problem}", told());
        }
        let wanted = Configuration::read(&decoded.value).with_context(told)?;
        let start = |service| {
            Tracer::start(&wanted, service, ("service.instance.id", server)).with_context(told)
        };
        Ok(Tracers {
            api: start("apiserver")?,
            controllers: start("kube-controller-manager")?,
            scheduler: start("kube-scheduler")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_turns_it_on_and_a_wrong_one_is_an_error_of_the_start() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("tracing.yaml");
        let flags = TracingFlags {
            tracing_config_file: Some(path.clone()),
        };
        let asked = |text: &str| {
            std::fs::write(&path, text).expect("written");
            let tracers = flags.tracers("one");
            tracers.map(|t| t.api).map_err(|e| format!("{e:#}"))
        };
        let head = "apiVersion: apiserver.config.k8s.io/v1\nkind: TracingConfiguration\n";
        let tracer = asked(&format!("{head}samplingRatePerMillion: 10\n")).expect("a tracer");
        assert!(tracer.is_on());
        for wrong in ["endpoint: http://x", "endpoint: a\nendpoint: b", "rate: 1"] {
            let why = asked(&format!("{head}{wrong}\n")).expect_err(wrong);
            assert!(why.contains("--tracing-config-file"), "{why}");
        }
        let off = TracingFlags::default()
            .tracers("one")
            .expect("nothing to read");
        assert!(!off.api.is_on() && !off.scheduler.is_on());
    }
}
