//! What is to be said in the end: how far each workload has come, and of what has no node, why. The
//! reasons are those of `tiphys why`, by the scheduler's own code.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use scheduler::Profile;
use scheduler::why::{Answer, Question, QuestionKind, State, answer};

use super::census::{is_finished, node_of};
use super::report::{Pending, Workload};

/// Owners of pending pods whose reasons are looked for: more than a person reads at once.
const MOST_ASKED: usize = 20;

pub(super) struct Ending {
    pub workloads: Vec<Workload>,
    pub pending: Vec<Pending>,
    pub notes: Vec<String>,
}

fn workload(
    kind: &'static str,
    object: &impl ResourceExt,
    wanted: Option<i32>,
    ready: Option<i32>,
) -> Workload {
    Workload {
        kind,
        namespace: object.namespace().unwrap_or_default(),
        name: object.name_any(),
        wanted: i64::from(wanted.unwrap_or(1)),
        ready: i64::from(ready.unwrap_or(0)),
    }
}

/// All objects of a kind that questions are answered from, and that no decision about pods needs.
async fn add_workloads(client: &Client, state: &mut State) -> Result<(), kube::Error> {
    let all = ListParams::default();
    let daemons: Api<DaemonSet> = Api::all(client.clone());
    state.daemon_sets = daemons.list(&all).await?.items;
    let jobs: Api<Job> = Api::all(client.clone());
    state.jobs = jobs.list(&all).await?.items;
    let autoscalers: Api<HorizontalPodAutoscaler> = Api::all(client.clone());
    state.autoscalers = autoscalers.list(&all).await?.items;
    Ok(())
}

fn workloads(state: &State) -> Vec<Workload> {
    let mut out = Vec::new();
    for one in &state.deployments {
        let ready = one.status.as_ref().and_then(|s| s.ready_replicas);
        let wanted = one.spec.as_ref().and_then(|s| s.replicas);
        out.push(workload("Deployment", one, wanted, ready));
    }
    for one in &state.stateful_sets {
        let ready = one.status.as_ref().and_then(|s| s.ready_replicas);
        let wanted = one.spec.as_ref().and_then(|s| s.replicas);
        out.push(workload("StatefulSet", one, wanted, ready));
    }
    // Those of Deployments are counted there.
    let alone = state.replica_sets.iter();
    for one in alone.filter(|s| s.owner_references().is_empty()) {
        let ready = one.status.as_ref().and_then(|s| s.ready_replicas);
        let wanted = one.spec.as_ref().and_then(|s| s.replicas);
        out.push(workload("ReplicaSet", one, wanted, ready));
    }
    for one in &state.replication_controllers {
        let ready = one.status.as_ref().and_then(|s| s.ready_replicas);
        let wanted = one.spec.as_ref().and_then(|s| s.replicas);
        out.push(workload("ReplicationController", one, wanted, ready));
    }
    for one in &state.daemon_sets {
        let counts = one
            .status
            .as_ref()
            .map(|s| (s.desired_number_scheduled, s.number_ready));
        let (wanted, ready) = counts.unwrap_or_default();
        out.push(workload("DaemonSet", one, Some(wanted), Some(ready)));
    }
    for one in &state.jobs {
        let done = one.status.as_ref().and_then(|s| s.succeeded);
        let wanted = one.spec.as_ref().and_then(|s| s.completions);
        out.push(workload("Job", one, wanted, done));
    }
    out
}

/// How many pods of a workload are missing beside those that have no node, and what is asked about
/// it; none where nothing is, or nothing can be asked.
fn missing(one: &Workload, without_node: usize, live: usize) -> Option<(QuestionKind, usize)> {
    let kind = match one.kind {
        "Deployment" => QuestionKind::Deployment,
        "StatefulSet" => QuestionKind::StatefulSet,
        "DaemonSet" => QuestionKind::DaemonSet,
        // One that has pods goes on.
        "Job" if live == 0 => QuestionKind::Job,
        _ => return None,
    };
    let count = usize::try_from(one.wanted - one.ready).unwrap_or(0);
    let count = count.saturating_sub(without_node);
    (count > 0).then_some((kind, count))
}

/// Whose pod it is, as a person names it: a Deployment rather than its ReplicaSet.
fn owner(pod: &Pod, state: &State) -> String {
    let controls = |o: &&k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference| {
        o.controller == Some(true)
    };
    let Some(owner) = pod.owner_references().iter().find(controls) else {
        return format!("Pod/{}", pod.name_any());
    };
    let mut sets = state.replica_sets.iter();
    let set = sets.find(|s| s.metadata.uid.as_deref() == Some(&owner.uid));
    let above = set.and_then(|s| s.owner_references().iter().find(controls));
    let top = above.unwrap_or(owner);
    format!("{}/{}", top.kind, top.name)
}

fn asked(state: &State, namespace: &str, kind: QuestionKind, name: &str) -> Option<Answer> {
    let question = Question {
        kind,
        name: name.to_owned(),
    };
    answer(state, namespace, Some(&question), &[], &|| {
        Ok(vec![Profile::default()])
    })
    .ok()
}

impl Ending {
    pub async fn look(client: &Client, pods: &[Arc<Pod>]) -> Result<Self, kube::Error> {
        let any = Question {
            kind: QuestionKind::Pod,
            name: String::new(),
        };
        let mut state = State::load(client, "", Some(&any), &[]).await?;
        add_workloads(client, &mut state).await?;
        let workloads = workloads(&state);
        let mut groups: BTreeMap<(String, String), Vec<&Pod>> = BTreeMap::new();
        let mut live: BTreeMap<(String, String), usize> = BTreeMap::new();
        for pod in pods.iter().filter(|p| !is_finished(p)) {
            let key = (pod.namespace().unwrap_or_default(), owner(pod, &state));
            *live.entry(key.clone()).or_default() += 1;
            if node_of(pod).is_none() {
                groups.entry(key).or_default().push(pod);
            }
        }
        let mut notes = Vec::new();
        if groups.len() > MOST_ASKED {
            notes.push(format!(
                "the reasons of {MOST_ASKED} owners of pending pods were looked for, of {}",
                groups.len()
            ));
        }
        let mut pending: Vec<Pending> = Vec::new();
        for (at, ((namespace, owner), pods)) in groups.into_iter().enumerate() {
            let first = pods.first().filter(|_| at < MOST_ASKED);
            let why =
                first.and_then(|p| asked(&state, &namespace, QuestionKind::Pod, &p.name_any()));
            pending.push(of_answer(owner, namespace, pods.len(), why));
        }
        // Pods that were never made, or are on nodes that failed, have a reason of their own.
        for one in &workloads {
            let owner = format!("{}/{}", one.kind, one.name);
            let key = (one.namespace.clone(), owner.clone());
            let has = live.get(&key).copied().unwrap_or(0);
            let is_its = |p: &Pending| p.owner == owner && p.namespace == one.namespace;
            let known = pending.iter().position(is_its);
            let without_node = known.and_then(|at| pending.get(at));
            let without_node = without_node.map_or(0, |p| p.pods);
            let Some((kind, count)) = missing(one, without_node, has) else {
                continue;
            };
            // Of a StatefulSet the others wait for that one.
            let joins = known.filter(|_| kind == QuestionKind::StatefulSet);
            if let Some(first) = joins.and_then(|at| pending.get_mut(at)) {
                first.pods += count;
            } else if pending.len() < MOST_ASKED {
                let why = asked(&state, &one.namespace, kind, &one.name);
                pending.push(of_answer(owner, one.namespace.clone(), count, why));
            }
        }
        notes.extend(autoscalers(&state));
        Ok(Self {
            workloads,
            pending,
            notes,
        })
    }
}

/// What autoscalers do not know: of pods without a load nothing is measured.
fn autoscalers(state: &State) -> Vec<String> {
    let blind = state.autoscalers.iter().filter(|a| {
        let conditions = a.status.as_ref().and_then(|s| s.conditions.as_ref());
        let mut conditions = conditions.into_iter().flatten();
        conditions.any(|c| c.type_ == "ScalingActive" && c.status == "False")
    });
    let each = blind.map(|a| {
        let namespace = a.namespace().unwrap_or_default();
        let name = a.name_any();
        let why = asked(state, &namespace, QuestionKind::Autoscaler, &name);
        let why = why.map(|a| a.cause).unwrap_or_default();
        format!(
            "HorizontalPodAutoscaler {namespace}/{name}: {why} (of pods without a load nothing is \
             measured: let an event give those of {} one)",
            a.spec.scale_target_ref.name
        )
    });
    each.take(MOST_ASKED).collect()
}

fn of_answer(owner: String, namespace: String, pods: usize, why: Option<Answer>) -> Pending {
    let (cause, change) = why.map_or_else(
        || ("not looked for".to_owned(), None),
        |a| (a.cause, a.change),
    );
    Pending {
        owner,
        namespace,
        pods,
        cause,
        change,
    }
}
