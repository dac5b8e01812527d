//! Which APIs a server serves, and which of upstream's features are on: flags.

use std::sync::Arc;

use anyhow::{Result, bail};
use apiserver::settings::Settings;
use clap::Args;
use registry::{Features, served_versions};

/// Upstream's flags.
#[derive(Args, Clone, Default)]
pub struct ApiFlags {
    /// Built-in APIs to serve or not: `group/version=true|false`, `group/version/resource=…`, and
    /// `api/all`, `api/ga`, `api/beta`, `api/alpha` for all of a kind [default: what is stable].
    #[arg(long, value_delimiter = ',')]
    runtime_config: Vec<String>,
    /// Features of Kubernetes v1.36 to turn on or off: `Name=true|false`; those that change nothing
    /// here are named at the start.
    #[arg(long, value_delimiter = ',')]
    feature_gates: Vec<String>,
}

impl ApiFlags {
    /// Sets the server's kinds and features; warns of what has no effect.
    pub fn apply(&self, settings: &mut Settings) -> Result<()> {
        let features = match Features::read(&self.feature_gates) {
            Ok(features) => features,
            Err(errors) => bail!("--feature-gates: {}", errors.join("; ")),
        };
        let served = match served_versions::configured(&self.runtime_config, &features) {
            Ok(served) => served,
            Err(why) => bail!("--runtime-config: {why}"),
        };
        for warning in features.warnings().iter().chain(&served.warnings) {
            tracing::warn!("{warning}");
        }
        settings.kinds = served.kinds;
        settings.features = Arc::new(features);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        apis: ApiFlags,
    }

    fn applied(args: &[&str]) -> Result<Settings> {
        let args = std::iter::once("x").chain(args.iter().copied());
        let address = "192.0.2.1".parse()?;
        let (clock, random) = (clock::Clock::system(), clock::Random::system());
        let mut settings = Settings::new(address, 6443, clock, random);
        Command::try_parse_from(args)?.apis.apply(&mut settings)?;
        Ok(settings)
    }

    #[test]
    fn flags_choose_kinds_and_features() {
        let gates = "--feature-gates=ClusterTrustBundle=true,WatchList=false";
        let settings = applied(&[
            gates,
            "--runtime-config=api/beta=true",
            "--runtime-config=batch/v1=false",
        ]);
        let settings = settings.expect("good");
        assert!(!settings.features.on("WatchList"));
        let kinds = settings.kinds;
        assert!(
            kinds
                .resource("certificates.k8s.io", "clustertrustbundles")
                .is_some()
        );
        assert!(kinds.resource("batch", "jobs").is_none());
        for (flag, why) in [
            (
                "--feature-gates=No=true",
                "--feature-gates: unrecognized feature gate: No",
            ),
            (
                "--runtime-config=no/v1=true",
                "--runtime-config: unknown api groups no/v1",
            ),
        ] {
            let refused = applied(&[flag]).err().map(|e| e.to_string());
            assert_eq!(refused.as_deref(), Some(why));
        }
    }
}
