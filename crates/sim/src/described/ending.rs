//! What is to be said in the end: how far each workload has come, and of what has no node, why. The
//! reasons are those of `tiphys why`, by the scheduler's own code.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
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

async fn workloads(client: &Client) -> Result<Vec<Workload>, kube::Error> {
    let all = ListParams::default();
    let (deployments, sets, daemons, jobs): (
        Api<Deployment>,
        Api<StatefulSet>,
        Api<DaemonSet>,
        Api<Job>,
    ) = (
        Api::all(client.clone()),
        Api::all(client.clone()),
        Api::all(client.clone()),
        Api::all(client.clone()),
    );
    let mut out = Vec::new();
    for one in deployments.list(&all).await?.items {
        let ready = one.status.as_ref().and_then(|s| s.ready_replicas);
        let wanted = one.spec.as_ref().and_then(|s| s.replicas);
        out.push(workload("Deployment", &one, wanted, ready));
    }
    for one in sets.list(&all).await?.items {
        let ready = one.status.as_ref().and_then(|s| s.ready_replicas);
        let wanted = one.spec.as_ref().and_then(|s| s.replicas);
        out.push(workload("StatefulSet", &one, wanted, ready));
    }
    for one in daemons.list(&all).await?.items {
        let counts = one
            .status
            .as_ref()
            .map(|s| (s.desired_number_scheduled, s.number_ready));
        let (wanted, ready) = counts.unwrap_or_default();
        out.push(workload("DaemonSet", &one, Some(wanted), Some(ready)));
    }
    for one in jobs.list(&all).await?.items {
        let done = one.status.as_ref().and_then(|s| s.succeeded);
        let wanted = one.spec.as_ref().and_then(|s| s.completions);
        out.push(workload("Job", &one, wanted, done));
    }
    Ok(out)
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
        let workloads = workloads(client).await?;
        let any = Question {
            kind: QuestionKind::Pod,
            name: String::new(),
        };
        let state = State::load(client, "", Some(&any), &[]).await?;
        let mut groups: BTreeMap<(String, String), Vec<&Pod>> = BTreeMap::new();
        for pod in pods
            .iter()
            .filter(|p| node_of(p).is_none() && !is_finished(p))
        {
            let key = (pod.namespace().unwrap_or_default(), owner(pod, &state));
            groups.entry(key).or_default().push(pod);
        }
        let mut notes = Vec::new();
        if groups.len() > MOST_ASKED {
            notes.push(format!(
                "the reasons of {MOST_ASKED} owners of pending pods were looked for, of {}",
                groups.len()
            ));
        }
        let mut pending = Vec::new();
        for (at, ((namespace, owner), pods)) in groups.into_iter().enumerate() {
            let first = pods.first().filter(|_| at < MOST_ASKED);
            let why =
                first.and_then(|p| asked(&state, &namespace, QuestionKind::Pod, &p.name_any()));
            pending.push(of_answer(owner, namespace, pods.len(), why));
        }
        // Pods that were never made have no reason of their own.
        for one in workloads.iter().filter(|w| w.ready < w.wanted) {
            let kind = match one.kind {
                "Deployment" => QuestionKind::Deployment,
                "StatefulSet" => QuestionKind::StatefulSet,
                _ => continue,
            };
            let owner = format!("{}/{}", one.kind, one.name);
            let known = pending
                .iter()
                .any(|p| p.owner == owner && p.namespace == one.namespace);
            if !known && pending.len() < MOST_ASKED {
                let why = asked(&state, &one.namespace, kind, &one.name);
                let missing = usize::try_from(one.wanted - one.ready).unwrap_or(0);
                pending.push(of_answer(owner, one.namespace.clone(), missing, why));
            }
        }
        Ok(Self {
            workloads,
            pending,
            notes,
        })
    }
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
