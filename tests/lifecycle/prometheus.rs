//! What Prometheus' own reader says of the pages of figures. (Debian's Prometheus is built without the
//! discovery of Kubernetes, so that it cannot read `docs/prometheus.yml` itself.)

use std::process::Command;

use anyhow::{Result, ensure};
use tests::Context;
use tests::command;

const NODE: &str = "node-1";

/// Families whose names and types are upstream's, of which promtool thinks that they should be others.
const UPSTREAMS_NAMES: &[&str] = &[
    "aggregator_",
    "apiserver_",
    "authenticated_",
    "authentication_",
    "coredns_",
    "serviceaccount_",
    "cadvisor_version_info",
    "container_",
    "endpoint_slice_controller_",
    "kubelet_",
    "kubeproxy_",
    "machine_",
    "node_collector_",
    "volume_manager_total_volumes",
    "running_managed_controllers",
    "workqueue_",
    "scheduler_",
    "rest_client_",
    "process_",
    "job_controller_",
    "prober_",
    "etcd_",
];

/// Every page can be read by Prometheus' own reader, and nothing of it is named otherwise than it should,
/// but where upstream names it so.
pub fn promtool_is_content_with_every_page(cx: &Context) -> Result<()> {
    let node = |page: &str| format!("/api/v1/nodes/{NODE}/proxy/{page}");
    for page in [
        "/metrics".to_owned(),
        node("metrics"),
        node("metrics/cadvisor"),
        node("metrics/resource"),
        node("metrics/probes"),
    ] {
        let text = cx.kubectl(&format!("get --raw {page}"))?;
        let mut promtool = Command::new("promtool");
        promtool.args(["check", "metrics"]);
        let ran = command::run(promtool, &text)?;
        // 3: it can be read, and something is said of names.
        ensure!(matches!(ran.code, 0 | 3), "{page}: {ran:?}");
        for line in ran
            .out
            .lines()
            .chain(ran.err.lines())
            .filter(|l| !l.is_empty())
        {
            let is_upstreams = UPSTREAMS_NAMES.iter().any(|name| line.starts_with(name));
            ensure!(is_upstreams, "{page}: {line}");
        }
    }
    Ok(())
}
