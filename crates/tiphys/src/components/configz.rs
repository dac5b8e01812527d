//! What `/configz` shows of controllers and scheduler, in upstream's words: the fields that are acted on,
//! with the values by which they run.

use control::lease::Times;
use serde_json::{Value, json};
use zpages::duration;

fn election(times: Option<Times>) -> Value {
    let Some(times) = times else {
        return json!({ "leaderElect": false });
    };
    json!({
        "leaderElect": true,
        "leaseDuration": duration(times.duration()),
        "renewDeadline": duration(times.renew_deadline()),
        "retryPeriod": duration(times.retry()),
        "resourceLock": "leases",
        "resourceNamespace": "kube-system",
    })
}

/// Shows a `KubeControllerManagerConfiguration`.
pub fn controllers(config: &controllers::Config, times: Option<Times>) {
    let cidr = config.pod_cidrs.as_ref();
    let rates = config.eviction_rates;
    let shown = json!({
        "kind": "KubeControllerManagerConfiguration",
        "apiVersion": "kubecontrollermanager.config.k8s.io/v1alpha1",
        "Generic": { "LeaderElection": election(times), "Controllers": config.chosen.words().collect::<Vec<_>>() },
        "NodeLifecycleController": {
            "NodeMonitorGracePeriod": duration(config.node_grace),
            "NodeEvictionRate": rates.usual,
            "SecondaryNodeEvictionRate": rates.reduced,
            "LargeClusterSizeThreshold": rates.large,
            "UnhealthyZoneThreshold": rates.unhealthy,
        },
        "PodGCController": { "TerminatedPodGCThreshold": config.most_ended_pods.unwrap_or(0) },
        "CSRSigningController": { "Enabled": config.ca.is_some() },
        "KubeCloudShared": { "AllocateNodeCIDRs": cidr.is_some() },
    });
    zpages::show_config("kubecontrollermanager.config.k8s.io", shown);
}

/// Shows a `KubeSchedulerConfiguration`: what the file says, with what holds where it is silent.
pub fn scheduler(file: Value, profiles: &[scheduler::Profile], times: Option<Times>) {
    let mut shown = file;
    shown["leaderElection"] = election(times);
    if shown["profiles"].as_array().is_none_or(Vec::is_empty) {
        let names = profiles.iter();
        let names = names.map(|p| json!({ "schedulerName": p.scheduler }));
        shown["profiles"] = names.collect();
    }
    zpages::show_config("componentconfig", shown);
}
