//! Writing a pod's status to the API: the newest one only, tried again until it is taken. The
//! kubelet owns what it writes: where the API shows something else, whoever wrote it, it is
//! written again. What the API shows comes from the watch of pods; nothing is asked for.

use super::deps::Deps;
use super::handle::Desired;
use super::spec;
use super::status::{IN_PROGRESS, PENDING};
use crate::persisting::Persisting;
use clock::{Clock, Instant, watch};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use traces::{Span, Tracer};

/// Between tries when the API does not answer.
const RETRY: Duration = Duration::from_secs(1);
/// A conflict that lasts for so many tries is about another pod of the same name.
const CONFLICTS: u32 = 5;
/// How long the last status of a pod may take before its object is deleted all the same.
const FLUSH: Duration = Duration::from_secs(5);
/// Repairs that follow one another within twice the longest pause wait for longer and longer:
/// something that writes against the kubelet all the time, such as a controller that has not seen
/// yet that the node is back, costs little until one of them gives in.
const REPAIR_PAUSE: Duration = Duration::from_secs(1);
const REPAIR_PAUSE_MAX: Duration = Duration::from_secs(30);

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
    /// Starts for a pod; `shown` is its object as the API shows it.
    #[must_use]
    pub fn start(deps: &Deps, pod: &Pod, shown: watch::Receiver<Desired>) -> Self {
        let wanted = watch::Sender::new((0, Arc::new(PodStatus::default())));
        let sender = watch::Sender::new(0);
        let done = sender.subscribe();
        let writer = Writer {
            api: kube::Api::namespaced(deps.client.clone(), spec::namespace(pod)),
            tracing: (deps.tracer.clone(), deps.clock),
            name: spec::name(pod).to_owned(),
            wanted: wanted.subscribe(),
            done: sender,
            shown,
            written_version: 0,
            repairs: Repairs::default(),
            failure: Persisting::default(),
        };
        let task = tokio::spawn(writer.run());
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

struct Writer {
    api: kube::Api<Pod>,
    tracing: (Tracer, Clock),
    name: String,
    wanted: watch::Receiver<(u64, Arc<PodStatus>)>,
    done: watch::Sender<u64>,
    shown: watch::Receiver<Desired>,
    /// The version of the object that the last write led to. What is older does not show it yet.
    written_version: u64,
    repairs: Repairs,
    failure: Persisting,
}

impl Writer {
    async fn run(mut self) {
        loop {
            let repair_at = self.repair_at();
            let repair = async {
                match repair_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                changed = self.wanted.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                changed = self.shown.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    continue;
                }
                () = repair => {
                    self.repairs.note(Instant::now());
                    if self.written_version > 0 {
                        tracing::info!(pod = self.name, "the API shows another status of a pod than the node's; writing it again");
                    }
                }
            }
            self.write().await;
        }
    }

    /// When to write once more, if the API shows something else than was written.
    fn repair_at(&self) -> Option<Instant> {
        let (generation, wanted) = self.wanted.borrow().clone();
        let shown = self.shown.borrow().shown()?.clone();
        let is_newer = version(&shown) > self.written_version;
        (generation > 0 && is_newer && !shows(&shown, &wanted)).then(|| self.repairs.next())
    }

    /// Writes the newest status until it is taken.
    async fn write(&mut self) {
        let mut conflicts = 0;
        loop {
            let (generation, status) = self.wanted.borrow_and_update().clone();
            let shown = self.shown.borrow().shown().cloned();
            let Some(shown) = shown else {
                // A static pod has no mirror yet; it is written when that comes.
                self.done.send_replace(generation);
                return;
            };
            let body = patch(spec::uid(&shown), &status);
            let params = PatchParams::default();
            let patch = Patch::Strategic(body);
            let writing = self.api.patch_status(&self.name, &params, &patch);
            let written = match self.span(spec::uid(&shown)) {
                None => writing.await,
                Some(span) => span.over(Box::pin(writing)).await,
            };
            match written {
                Ok(pod) => {
                    self.failure.is_over();
                    self.written_version = version(&pod);
                }
                // Gone: nobody wants this status any more.
                Err(kube::Error::Api(e)) if e.code == 404 => self.give_up(),
                // Another pod of that name, or others write at the same time.
                Err(kube::Error::Api(e)) if e.code == 409 && conflicts < CONFLICTS => {
                    conflicts += 1;
                    tracing::debug!(pod = self.name, error = %e, "a status met a conflict; trying again");
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
                Err(kube::Error::Api(e)) if matches!(e.code, 409 | 422) => {
                    tracing::warn!(pod = self.name, error = %e, "a status was refused");
                    self.give_up();
                }
                Err(e) => {
                    if self.failure.failed() {
                        tracing::warn!(pod = self.name, error = %e, "a pod's status cannot be published; it is tried again and again");
                    } else {
                        tracing::debug!(pod = self.name, error = %e, "publishing a status failed; trying again");
                    }
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            }
            self.done.send_replace(generation);
            return;
        }
    }

    /// A part of the pod's own trace.
    fn span(&self, uid: &str) -> Option<Span> {
        let (tracer, clock) = &self.tracing;
        let span = tracer.work_for("writeStatus", uid, clock.now())?;
        span.set("k8s.pod.uid", uid.to_owned());
        Some(span)
    }

    /// Until the object changes again, another try would meet the same answer.
    fn give_up(&mut self) {
        let shown = self.shown.borrow().shown().cloned();
        self.written_version = shown.map_or(0, |shown| version(&shown));
    }
}

/// Versions of objects are numbers that only grow (upstream says so since 1.35).
fn version(pod: &Pod) -> u64 {
    let text = pod.metadata.resource_version.as_deref();
    text.and_then(|v| v.parse().ok()).unwrap_or(0)
}

/// How close repairs follow one another.
#[derive(Clone, Copy, Debug, Default)]
struct Repairs {
    last: Option<(Instant, Duration)>,
}

impl Repairs {
    /// When the next one may be.
    fn next(&self) -> Instant {
        self.last
            .map_or_else(Instant::now, |(at, pause)| at + pause)
    }

    fn note(&mut self, now: Instant) {
        let pause = match self.last {
            Some((at, pause)) if now.duration_since(at) < REPAIR_PAUSE_MAX * 2 => {
                (pause * 2).min(REPAIR_PAUSE_MAX)
            }
            _ => REPAIR_PAUSE,
        };
        self.last = Some((now, pause));
    }
}

/// Whether the API shows all of a status. One that calls the pod ended is believed: the pod's
/// own task hears of it and speaks next.
fn shows(pod: &Pod, wanted: &PodStatus) -> bool {
    if spec::is_terminal(pod) && !matches!(wanted.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return true;
    }
    let shown = pod.status.clone().unwrap_or_default();
    let shown = serde_json::to_value(shown).unwrap_or_default();
    let body = body(wanted);
    body.as_object().into_iter().flatten().all(|(field, want)| {
        let have = shown.get(field).unwrap_or(&Value::Null);
        match field.as_str() {
            "conditions" => conditions_shown(have, want),
            "podIPs" | "hostIPs" => without_directive(want) == list(have),
            "resources" | "allocatedResources" => whole(want) == *have,
            _ => have == want,
        }
    })
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A map that replaces the old one, as it will be.
fn whole(value: &Value) -> Value {
    let mut out = value.clone();
    if let Some(map) = out.as_object_mut() {
        map.remove("$patch");
    }
    out
}

fn without_directive(value: &Value) -> &[Value] {
    match list(value) {
        [first, rest @ ..] if first.get("$patch").is_some() => rest,
        all => all,
    }
}

fn conditions_shown(have: &Value, want: &Value) -> bool {
    list(want).iter().all(|want| {
        let kind = want.get("type");
        let have = list(have).iter().find(|have| have.get("type") == kind);
        if want.get("$patch").is_some() {
            return have.is_none();
        }
        let fields = want.as_object().into_iter().flatten();
        let mut fields = fields.map(|(field, value)| (field.as_str(), value));
        have.is_some_and(|have| fields.all(|(f, v)| have.get(f).unwrap_or(&Value::Null) == v))
    })
}

/// A strategic merge patch of all that the kubelet owns.
fn patch(uid: &str, status: &PodStatus) -> Value {
    json!({"metadata": {"uid": uid}, "status": body(status)})
}

/// Fields that are absent are deleted; lists with merge keys are replaced as a whole, except
/// conditions, which others write too: each of the kubelet's is whole, and those of others are not
/// among them.
fn body(status: &PodStatus) -> Value {
    let mut body = serde_json::to_value(status).unwrap_or_default();
    let Some(map) = body.as_object_mut() else {
        return body;
    };
    for field in ["reason", "message", "podIP", "podIPs"] {
        map.entry(field).or_insert(Value::Null);
    }
    for field in ["resources", "allocatedResources"] {
        match map.get_mut(field).and_then(Value::as_object_mut) {
            Some(whole) => drop(whole.insert("$patch".into(), json!("replace"))),
            None => drop(map.insert(field.into(), Value::Null)),
        }
    }
    for field in ["podIPs", "hostIPs"] {
        if let Some(list) = map.get_mut(field).and_then(Value::as_array_mut) {
            list.insert(0, json!({"$patch": "replace"}));
        }
    }
    let conditions = map.get_mut("conditions").and_then(Value::as_array_mut);
    for condition in conditions.into_iter().flatten() {
        if let Some(map) = condition.as_object_mut() {
            for field in ["reason", "message"] {
                map.entry(field).or_insert(Value::Null);
            }
        }
    }
    // Conditions that end with what they report; the others only change.
    if let Some(list) = body.get_mut("conditions").and_then(Value::as_array_mut) {
        for kind in [PENDING, IN_PROGRESS] {
            if list.iter().all(|c| c["type"] != kind) {
                list.push(json!({"$patch": "delete", "type": kind}));
            }
        }
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(value: Value) -> PodStatus {
        serde_json::from_value(value).unwrap()
    }

    fn pod(status: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "status": status})).unwrap()
    }

    #[test]
    fn absent_fields_are_deleted_and_addresses_replaced() {
        let status = status(json!({
            "phase": "Running", "podIPs": [{"ip": "1.1.1.1"}],
            "resources": {"requests": {"cpu": "1"}},
            "conditions": [{"type": "Ready", "status": "True"}],
        }));
        expect_test::expect![[r#"{"metadata":{"uid":"u"},"status":{"allocatedResources":null,"conditions":[{"message":null,"reason":null,"status":"True","type":"Ready"},{"$patch":"delete","type":"PodResizePending"},{"$patch":"delete","type":"PodResizeInProgress"}],"message":null,"phase":"Running","podIP":null,"podIPs":[{"$patch":"replace"},{"ip":"1.1.1.1"}],"reason":null,"resources":{"$patch":"replace","requests":{"cpu":"1"}}}}"#]]
            .assert_eq(&patch("u", &status).to_string());
    }

    /// Each change of what the kubelet owns is seen, and none of what others own.
    #[test]
    fn what_others_wrote_over_is_seen() {
        let good = json!({
            "phase": "Running", "podIP": "1.1.1.1", "podIPs": [{"ip": "1.1.1.1"}],
            "hostIP": "2.2.2.2", "hostIPs": [{"ip": "2.2.2.2"}],
            "startTime": "2026-01-01T00:00:00Z",
            "conditions": [
                {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"},
            ],
            "containerStatuses": [{
                "name": "a", "image": "i", "imageID": "", "ready": true, "restartCount": 0,
            }],
        });
        let wanted = status(good.clone());
        assert!(shows(&pod(good.clone()), &wanted));
        let changed = |path: &str, value: Value| {
            let mut changed = good.clone();
            match changed.pointer_mut(path) {
                Some(place) => *place = value,
                None => changed[path.trim_start_matches('/')] = value,
            }
            shows(&pod(changed), &wanted)
        };
        let ready = |more: Value| {
            let mut ready = good["conditions"][0].clone();
            for (field, value) in more.as_object().unwrap() {
                ready[field] = value.clone();
            }
            json!([ready])
        };
        assert!(!changed("/phase", json!("Pending")));
        assert!(!changed("/reason", json!("NodeLost")));
        assert!(!changed("/podIP", json!("9.9.9.9")));
        assert!(!changed(
            "/podIPs",
            json!([{"ip": "1.1.1.1"}, {"ip": "9.9.9.9"}])
        ));
        assert!(!changed("/hostIPs", json!([])));
        assert!(!changed("/conditions", json!([])));
        assert!(!changed(
            "/conditions",
            ready(json!({"status": "False", "reason": "NodeNotReady"}))
        ));
        assert!(!changed(
            "/conditions",
            ready(json!({"reason": "NodeNotReady"}))
        ));
        assert!(!changed("/containerStatuses/0/ready", json!(false)));
        assert!(!changed("/containerStatuses", json!([])));
        assert!(!changed("/resources", json!({"requests": {"cpu": "1"}})));
        assert!(!changed("/allocatedResources", json!({"cpu": "1"})));
        let mut more = good["conditions"].clone();
        let other = json!({"type": "other/s", "status": "True"});
        more.as_array_mut().unwrap().push(other);
        assert!(changed("/conditions", more));
        assert!(changed("/nominatedNodeName", json!("n")));
        assert!(changed("/phase", json!("Failed")), "an end is believed");
    }

    #[test]
    fn repairs_against_somebody_who_goes_on_are_rare() {
        let mut repairs = Repairs::default();
        let mut now = Instant::now();
        let mut pauses = Vec::new();
        for _ in 0..7 {
            repairs.note(now);
            pauses.push(repairs.next().duration_since(now).as_secs());
            now = repairs.next();
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
        now += REPAIR_PAUSE_MAX * 2;
        repairs.note(now);
        assert_eq!(repairs.next().duration_since(now), REPAIR_PAUSE);
    }
}
