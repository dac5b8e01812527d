//! Writing a pod's status to the API: the newest one only, tried again until it is taken.

use super::spec;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Between tries when the API does not answer.
const RETRY: Duration = Duration::from_secs(1);
/// A conflict that lasts for so many tries is about another pod of the same name.
const CONFLICTS: u32 = 5;
/// How long the last status of a pod may take before its object is deleted all the same.
const FLUSH: Duration = Duration::from_secs(5);

/// Publishes the statuses of one pod in the background.
#[derive(Debug)]
pub struct Publisher {
    wanted: watch::Sender<(u64, Arc<PodStatus>)>,
    done: watch::Receiver<u64>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Publisher {
    /// Starts with the status that the API has.
    #[must_use]
    pub fn start(client: kube::Client, pod: &Pod) -> Self {
        let api: kube::Api<Pod> = kube::Api::namespaced(client, spec::namespace(pod));
        let (name, uid) = (spec::name(pod).to_owned(), spec::uid(pod).to_owned());
        let (wanted, receiver) = watch::channel((0, Arc::new(PodStatus::default())));
        let (sender, done) = watch::channel(0);
        let task = tokio::spawn(send_all(api, name, uid, receiver, sender));
        Self { wanted, done, task }
    }

    /// Publishes a status, unless it is the one that was published last.
    pub fn publish(&self, status: PodStatus) {
        self.wanted.send_if_modified(|(generation, last)| {
            if **last == status && *generation > 0 {
                return false;
            }
            *last = Arc::new(status);
            *generation += 1;
            true
        });
    }

    /// The status that was asked for last.
    #[must_use]
    pub fn last(&self) -> Option<Arc<PodStatus>> {
        let wanted = self.wanted.borrow();
        (wanted.0 > 0).then(|| wanted.1.clone())
    }

    /// Waits until the newest status is taken (or a few seconds are over).
    pub async fn flush(&self) {
        let want = self.wanted.borrow().0;
        let mut done = self.done.clone();
        let _ = tokio::time::timeout(FLUSH, done.wait_for(|d| *d >= want)).await;
    }
}

async fn send_all(
    api: kube::Api<Pod>,
    name: String,
    uid: String,
    mut wanted: watch::Receiver<(u64, Arc<PodStatus>)>,
    done: watch::Sender<u64>,
) {
    while wanted.changed().await.is_ok() {
        let mut conflicts = 0;
        loop {
            let (generation, status) = wanted.borrow_and_update().clone();
            let body = patch(&uid, &status);
            match api
                .patch_status(&name, &PatchParams::default(), &Patch::Strategic(body))
                .await
            {
                Ok(_) => {}
                // Gone: nobody wants this status any more.
                Err(kube::Error::Api(e)) if e.code == 404 => {}
                // Another pod of that name, or others write at the same time.
                Err(kube::Error::Api(e)) if e.code == 409 && conflicts < CONFLICTS => {
                    conflicts += 1;
                    tracing::debug!(pod = name, error = %e, "a status met a conflict; trying again");
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
                Err(kube::Error::Api(e)) if matches!(e.code, 409 | 422) => {
                    tracing::warn!(pod = name, error = %e, "a status was refused");
                }
                Err(e) => {
                    tracing::debug!(pod = name, error = %e, "publishing a status failed; trying again");
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            }
            let _ = done.send(generation);
            break;
        }
    }
}

/// A strategic merge patch of all that the kubelet owns. Fields that are absent are deleted;
/// lists with merge keys are replaced as a whole, except conditions, which others write too.
fn patch(uid: &str, status: &PodStatus) -> Value {
    let mut body = serde_json::to_value(status).unwrap_or_default();
    if let Some(map) = body.as_object_mut() {
        for field in ["reason", "message", "podIP", "podIPs"] {
            map.entry(field).or_insert(Value::Null);
        }
        for field in ["podIPs", "hostIPs"] {
            if let Some(list) = map.get_mut(field).and_then(Value::as_array_mut) {
                list.insert(0, json!({"$patch": "replace"}));
            }
        }
    }
    json!({"metadata": {"uid": uid}, "status": body})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_fields_are_deleted_and_addresses_replaced() {
        let status: PodStatus =
            serde_json::from_value(json!({"phase": "Running", "podIPs": [{"ip": "1.1.1.1"}]}))
                .unwrap();
        expect_test::expect![[r#"{"metadata":{"uid":"u"},"status":{"message":null,"phase":"Running","podIP":null,"podIPs":[{"$patch":"replace"},{"ip":"1.1.1.1"}],"reason":null}}"#]]
            .assert_eq(&patch("u", &status).to_string());
    }
}
