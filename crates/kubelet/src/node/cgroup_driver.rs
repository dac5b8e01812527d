//! Whether the container runtime makes control groups as this kubelet names them: as folders. Upstream does
//! as the runtime says; here a runtime that asks systemd for them cannot be used, which an event says
//! before the first pod shows it.

use crate::events::Severity;
use crate::pod::deps::Deps;
use host::runtime::CgroupDriver;
use std::sync::Arc;
use std::time::Duration;

/// Until a runtime is asked again that did not answer: it may still be starting.
const AGAIN: Duration = Duration::from_secs(10);

/// Asks until there is an answer, which upstream takes to hold as long as the kubelet runs.
pub async fn run(deps: Arc<Deps>) {
    let driver = loop {
        match deps.runtime.cgroup_driver().await {
            Ok(driver) => break driver,
            Err(error) => tracing::debug!(%error, "the container runtime does not say its driver"),
        }
        tokio::time::sleep(AGAIN).await;
    };
    if let Some(text) = problem(driver) {
        tracing::error!("{text}");
        let (node, warning) = (&deps.config.node_name, Severity::Warning);
        deps.recorder
            .node(node, warning, "CgroupDriverMismatch", text);
    }
}

/// What is wrong with the driver; one that the runtime does not say is taken for the usual.
fn problem(driver: Option<CgroupDriver>) -> Option<String> {
    let name = match driver? {
        CgroupDriver::Cgroupfs => return None,
        CgroupDriver::Systemd => "systemd".to_owned(),
        CgroupDriver::Other(number) => format!("number {number}"),
    };
    Some(format!(
        "The container runtime's cgroup driver is {name}, and this kubelet's is cgroupfs: pods may not start. Set the runtime's option SystemdCgroup to false"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_of_another_driver_is_warned_of() {
        assert_eq!(problem(None), None);
        assert_eq!(problem(Some(CgroupDriver::Cgroupfs)), None);
        let said = |driver| problem(Some(driver)).unwrap_or_default();
        assert!(said(CgroupDriver::Systemd).contains("cgroup driver is systemd,"));
        assert!(said(CgroupDriver::Other(7)).contains("cgroup driver is number 7,"));
    }
}
