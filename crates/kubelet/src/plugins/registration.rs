//! One plugin is asked who it is, taken in by whoever handles its kind, and hears what came of it.

use crate::pod::deps::Deps;
use host::plugins::registration::registration_client::RegistrationClient;
use host::plugins::registration::{InfoRequest, PluginInfo, RegistrationStatus};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The longest that a plugin may take for an answer; upstream's value for its connection.
const ANSWER: Duration = Duration::from_secs(10);

/// What a plugin does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PluginKind {
    /// It has volumes.
    Csi,
    /// It has devices.
    Device,
    /// It has dynamic resources.
    Dra,
}

/// A plugin that was taken in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Registered {
    /// What it does.
    pub kind: PluginKind,
    /// The driver or the resource.
    pub name: String,
    /// Where it is asked.
    pub endpoint: PathBuf,
}

/// Asks the plugin at a socket, takes it in, and lets it know.
pub(super) async fn register(deps: &Deps, socket: &Path) -> Result<Registered, String> {
    let channel = host::plugins::channel(&socket.to_string_lossy());
    let mut plugin = RegistrationClient::new(channel);
    let asked = tokio::time::timeout(ANSWER, plugin.get_info(InfoRequest {})).await;
    let info = match asked {
        Ok(answer) => answer.map_err(|e| e.message().to_owned())?.into_inner(),
        Err(_) => return Err("it does not answer".into()),
    };
    let outcome = take_in(deps, socket, &info).await;
    let status = RegistrationStatus {
        plugin_registered: outcome.is_ok(),
        error: outcome.clone().err().unwrap_or_default(),
    };
    let told = tokio::time::timeout(ANSWER, plugin.notify_registration_status(status)).await;
    if !matches!(told, Ok(Ok(_))) {
        tracing::debug!(
            plugin = info.name,
            "a plugin did not hear what came of its registration"
        );
    }
    outcome
}

async fn take_in(deps: &Deps, socket: &Path, info: &PluginInfo) -> Result<Registered, String> {
    if info.name.is_empty() {
        return Err("a plugin without a name".into());
    }
    let endpoint = endpoint(socket, info);
    let kind = match info.r#type.as_str() {
        "CSIPlugin" => {
            let versions = &info.supported_versions;
            deps.csi.register(&info.name, &endpoint, versions).await?;
            PluginKind::Csi
        }
        "DevicePlugin" => {
            let versions = &info.supported_versions;
            deps.devices
                .introduce(&info.name, &endpoint, versions)
                .await?;
            PluginKind::Device
        }
        "DRAPlugin" => {
            let services = &info.supported_versions;
            deps.dra.register(&info.name, &endpoint, services)?;
            PluginKind::Dra
        }
        other => {
            return Err(format!(
                "no handler registered for plugin type: {other} at socket {}",
                socket.display()
            ));
        }
    };
    Ok(Registered {
        kind,
        name: info.name.clone(),
        endpoint,
    })
}

/// The socket of the plugin itself.
fn endpoint(socket: &Path, info: &PluginInfo) -> PathBuf {
    match info.endpoint.as_str() {
        "" => socket.to_owned(),
        named => PathBuf::from(named.strip_prefix("unix://").unwrap_or(named)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_may_listen_elsewhere() {
        let of = |endpoint_said: &str| {
            let info = PluginInfo {
                endpoint: endpoint_said.into(),
                ..PluginInfo::default()
            };
            endpoint(Path::new("/r/a.sock"), &info)
        };
        assert_eq!(of(""), Path::new("/r/a.sock"));
        assert_eq!(of("/p/a/csi.sock"), Path::new("/p/a/csi.sock"));
        assert_eq!(of("unix:///p/csi.sock"), Path::new("/p/csi.sock"));
    }
}
