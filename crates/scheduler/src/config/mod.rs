//! The file that `--config` names: a KubeSchedulerConfiguration of
//! `kubescheduler.config.k8s.io/v1`, from values to profiles. What it may hold is upstream's; what
//! Tiphys has no use for is named in a warning, never passed over.

mod args;
mod extenders;
mod partly;
mod plugins;
mod terms;

use serde::Deserialize;
use serde_json::Value;

use crate::decide::Profile;
use crate::extenders::Extender;
use crate::queue::Waits;

/// What a file says.
pub struct Settings {
    pub profiles: Vec<Profile>,
    pub waits: Waits,
    /// The files that they name have not been read.
    pub extenders: Vec<Extender>,
    pub election: Election,
    /// In place of `--kubeconfig`.
    pub kubeconfig: Option<String>,
    /// What has no effect here, for people.
    pub warnings: Vec<String>,
}

/// How the file wants leaders elected; durations as upstream writes them, such as `15s`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Election {
    pub leader_elect: Option<bool>,
    pub lease_duration: Option<String>,
    pub renew_deadline: Option<String>,
    pub retry_period: Option<String>,
    resource_lock: Option<String>,
    resource_name: Option<String>,
    resource_namespace: Option<String>,
}

/// Why a file is not a configuration: one line for each fault, with the path of its field.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct Faults(pub Vec<String>);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    parallelism: Option<i64>,
    #[serde(default)]
    leader_election: Election,
    client_connection: Option<Connection>,
    enable_profiling: Option<bool>,
    enable_contention_profiling: Option<bool>,
    percentage_of_nodes_to_score: Option<i64>,
    pod_initial_backoff_seconds: Option<i64>,
    pod_max_backoff_seconds: Option<i64>,
    #[serde(default)]
    profiles: Vec<plugins::ProfileFile>,
    #[serde(default)]
    extenders: Vec<extenders::ExtenderFile>,
    delay_cache_until_active: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Connection {
    kubeconfig: Option<String>,
    accept_content_types: Option<String>,
    content_type: Option<String>,
    qps: Option<f64>,
    burst: Option<i64>,
}

const API_VERSION: &str = "kubescheduler.config.k8s.io/v1";
const KIND: &str = "KubeSchedulerConfiguration";

/// A file that says nothing: all is as by default.
pub fn empty() -> Value {
    serde_json::json!({"apiVersion": API_VERSION, "kind": KIND})
}

/// Reads a configuration.
///
/// # Errors
/// All faults that it has.
pub fn read(file: Value) -> Result<Settings, Faults> {
    let file: File = serde_json::from_value(file).map_err(|e| Faults(vec![e.to_string()]))?;
    let mut faults = Vec::new();
    if (file.api_version.as_str(), file.kind.as_str()) != (API_VERSION, KIND) {
        faults.push(format!(
            "apiVersion and kind: {} {}: only {KIND} of {API_VERSION} is known",
            file.api_version, file.kind
        ));
    }
    let mut warnings = idle(&file);
    let waits = waits(&file, &mut faults);
    let percentage = percentage(
        file.percentage_of_nodes_to_score,
        "percentageOfNodesToScore",
        &mut faults,
    );
    if let Some(parallelism) = file.parallelism.filter(|p| *p <= 0) {
        faults.push(format!(
            "parallelism: Invalid value: {parallelism}: should be an integer value greater than \
             zero"
        ));
    }
    election(&file.leader_election, &mut faults);
    let (extenders, ignored) = extenders::read(file.extenders, &mut faults);
    plugins::same_queue_sort(&file.profiles, &mut faults);
    let mut profiles = Vec::new();
    let alone = file.profiles.len() == 1;
    for (i, mut profile) in file.profiles.into_iter().enumerate() {
        let path = format!("profiles[{i}]");
        if !alone {
            // Only a profile that is alone may go without a name.
            profile.scheduler_name.get_or_insert_default();
        }
        profiles.push(profile.read(&path, percentage, &ignored, &mut faults, &mut warnings));
    }
    if profiles.is_empty() {
        let file = plugins::ProfileFile::default();
        profiles.push(file.read(
            "profiles[0]",
            percentage,
            &ignored,
            &mut faults,
            &mut warnings,
        ));
    }
    for (i, profile) in profiles.iter().enumerate() {
        let before = profiles.iter().take(i);
        if before.into_iter().any(|p| p.scheduler == profile.scheduler) {
            let name = &profile.scheduler;
            faults.push(format!(
                "profiles[{i}].schedulerName: Duplicate value: {name:?}"
            ));
        }
    }
    if !faults.is_empty() {
        return Err(Faults(faults));
    }
    Ok(Settings {
        profiles,
        waits,
        extenders,
        election: file.leader_election,
        kubeconfig: file.client_connection.and_then(|c| c.kubeconfig),
        warnings,
    })
}

/// Fields that are accepted and have no effect.
fn idle(file: &File) -> Vec<String> {
    let connection = file.client_connection.as_ref();
    let election = &file.leader_election;
    let name = election.resource_name.as_deref();
    let namespace = election.resource_namespace.as_deref();
    let fields = [
        (
            file.parallelism.is_some(),
            "parallelism: pods are decided one after the other",
        ),
        (
            file.enable_profiling == Some(true),
            "enableProfiling: there is no profiler",
        ),
        (
            file.enable_contention_profiling == Some(true),
            "enableContentionProfiling: there is no profiler",
        ),
        (
            file.delay_cache_until_active == Some(true),
            "delayCacheUntilActive: caches are filled when the scheduler leads in any case",
        ),
        (
            connection.is_some_and(|c| c.qps.is_some() || c.burst.is_some()),
            "clientConnection.qps and burst: requests have no limit but the server's",
        ),
        (
            connection.is_some_and(|c| c.content_type.is_some()),
            "clientConnection.contentType: requests are JSON",
        ),
        (
            connection.is_some_and(|c| c.accept_content_types.is_some()),
            "clientConnection.acceptContentTypes: answers are JSON",
        ),
        (
            name.is_some_and(|n| n != "kube-scheduler")
                || namespace.is_some_and(|n| n != "kube-system"),
            "leaderElection: the lock is the Lease kube-scheduler in kube-system",
        ),
    ];
    let idle = fields.into_iter().filter(|(given, _)| *given);
    idle.map(|(_, text)| format!("{text}: no effect")).collect()
}

/// The durations of an election, as upstream checks them.
fn election(of: &Election, faults: &mut Vec<String>) {
    if of.leader_elect == Some(false) {
        return;
    }
    if let Some(lock) = of.resource_lock.as_deref().filter(|l| *l != "leases") {
        faults.push(format!(
            "leaderElection.resourceLock: Invalid value: {lock:?}: resourceLock value must be \
             \"leases\""
        ));
    }
    let mut read = |text: &Option<String>, name: &str| {
        let text = text.as_deref()?;
        let ms = extenders::duration_ms(text).filter(|ms| *ms > 0);
        if ms.is_none() {
            faults.push(format!(
                "leaderElection.{name}: Invalid value: {text:?}: must be greater than zero"
            ));
        }
        ms
    };
    let lease = read(&of.lease_duration, "leaseDuration");
    let renew = read(&of.renew_deadline, "renewDeadline");
    let retry = read(&of.retry_period, "retryPeriod");
    if lease
        .zip(renew)
        .is_some_and(|(lease, renew)| lease <= renew)
    {
        faults.push(
            "leaderElection.leaseDuration: Invalid value: LeaseDuration must be greater than \
             RenewDeadline"
                .to_owned(),
        );
    }
    if renew
        .zip(retry)
        .is_some_and(|(renew, retry)| renew <= retry)
    {
        faults.push(
            "leaderElection.renewDeadline: Invalid value: RenewDeadline must be greater than \
             RetryPeriod"
                .to_owned(),
        );
    }
}

fn waits(file: &File, faults: &mut Vec<String>) -> Waits {
    let mut waits = Waits::default();
    let mut set = |seconds: Option<i64>, name: &str, to: &mut u64| {
        let Some(seconds) = seconds else { return };
        match u64::try_from(seconds) {
            Ok(seconds) if seconds > 0 => *to = seconds.saturating_mul(1_000),
            _ => faults.push(format!(
                "{name}: Invalid value: {seconds}: must be greater than 0"
            )),
        }
    };
    let first = "podInitialBackoffSeconds";
    set(
        file.pod_initial_backoff_seconds,
        first,
        &mut waits.first_back_off_ms,
    );
    set(
        file.pod_max_backoff_seconds,
        "podMaxBackoffSeconds",
        &mut waits.longest_back_off_ms,
    );
    if waits.longest_back_off_ms < waits.first_back_off_ms {
        faults.push(format!(
            "podMaxBackoffSeconds: must be greater than or equal to {first}"
        ));
    }
    waits
}

fn percentage(given: Option<i64>, path: &str, faults: &mut Vec<String>) -> u8 {
    let given = given.unwrap_or(0);
    match u8::try_from(given).ok().filter(|p| *p <= 100) {
        Some(percent) => percent,
        None => {
            faults.push(format!(
                "{path}: Invalid value: {given}: not in valid range [0-100]"
            ));
            0
        }
    }
}

#[cfg(test)]
mod tests;
