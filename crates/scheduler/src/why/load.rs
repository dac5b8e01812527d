//! What is read of a cluster to answer a question: all that the answer depends on and no more, so
//! that somebody who may read one namespace may ask about what is in it.

use std::collections::BTreeMap;
use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Event, Namespace, Node, Pod};
use k8s_openapi::api::scheduling::v1alpha2::PodGroup;
use kube::api::{ApiResource, DynamicObject, ListParams};
use kube::core::GroupVersionKind;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;

use super::state::{State, TerminatingObject};
use super::{Change, Question, QuestionKind};
use crate::pod::group_of;

/// Objects of one list request: large clusters are read in parts.
const PAGE: u32 = 500;
/// Kinds whose objects hold a namespace that are looked at: more would not help a person.
const HOLDING_KINDS: usize = 20;

/// All objects that the API lists.
async fn pages<K>(api: Api<K>, most: usize) -> Result<Vec<K>, kube::Error>
where
    K: Clone + DeserializeOwned + Debug,
{
    selected(api, ListParams::default(), most).await
}

/// Those of them that are selected.
async fn selected<K>(api: Api<K>, selection: ListParams, most: usize) -> Result<Vec<K>, kube::Error>
where
    K: Clone + DeserializeOwned + Debug,
{
    let mut params = selection.limit(PAGE);
    let mut out = Vec::new();
    loop {
        let page = api.list(&params).await?;
        out.extend(page.items);
        match page.metadata.continue_.filter(|c| !c.is_empty()) {
            Some(more) if out.len() < most => params = params.continue_token(&more),
            _ => return Ok(out),
        }
    }
}

async fn all<K>(client: &Client) -> Result<Vec<K>, kube::Error>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    pages(Api::all(client.clone()), usize::MAX).await
}

async fn within<K>(client: &Client, namespace: &str) -> Result<Vec<K>, kube::Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + Debug,
{
    pages(Api::namespaced(client.clone(), namespace), usize::MAX).await
}

/// What makes an answer better and never wrong: who may not read it gets one without.
fn if_permitted<K>(found: Result<Vec<K>, kube::Error>) -> Result<Vec<K>, kube::Error> {
    match found {
        Err(kube::Error::Api(status)) if status.code == 403 => Ok(Vec::new()),
        found => found,
    }
}

/// Warnings of a namespace; without its name, those of all.
async fn warnings(client: &Client, namespace: &str) -> Result<Vec<Event>, kube::Error> {
    let api: Api<Event> = match namespace {
        "" => Api::all(client.clone()),
        of => Api::namespaced(client.clone(), of),
    };
    let selection = ListParams::default().fields("type=Warning");
    if_permitted(selected(api, selection, usize::MAX).await)
}

/// The groups of these pods, where any of them names one and the kind is served.
async fn groups(client: &Client, pods: &[Pod]) -> Result<Option<Vec<PodGroup>>, kube::Error> {
    if pods.iter().all(|pod| group_of(pod).is_none()) {
        return Ok(None);
    }
    match all(client).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        found => found.map(Some),
    }
}

impl State {
    /// What an answer depends on. The client's user must be allowed to read all of it: an answer
    /// from a part would be wrong.
    ///
    /// # Errors
    /// When something cannot be read.
    pub async fn load(
        client: &Client,
        namespace: &str,
        question: Option<&Question>,
        changes: &[Change],
    ) -> Result<Self, kube::Error> {
        let kind = question.map(|q| q.kind);
        let mut state = match (question, kind.filter(|_| changes.is_empty())) {
            (_, Some(QuestionKind::Claim)) => Self {
                pods: within(client, namespace).await?,
                claims: within(client, namespace).await?,
                volumes: all(client).await?,
                classes: all(client).await?,
                drivers: all(client).await?,
                events: warnings(client, namespace).await?,
                ..Self::default()
            },
            (Some(question), Some(QuestionKind::Namespace)) => {
                Self::of_namespace(client, &question.name).await?
            }
            (_, Some(QuestionKind::Service)) => Self {
                pods: within(client, namespace).await?,
                services: within(client, namespace).await?,
                slices: within(client, namespace).await?,
                ..Self::default()
            },
            (Some(question), Some(QuestionKind::Node)) => {
                Self::of_nodes(client, &question.name).await?
            }
            (_, Some(QuestionKind::Autoscaler)) => Self::default(),
            _ => Self::whole(client).await?,
        };
        let about_pods = [
            QuestionKind::Pod,
            QuestionKind::Deployment,
            QuestionKind::StatefulSet,
            QuestionKind::DaemonSet,
            QuestionKind::Job,
            QuestionKind::CronJob,
            QuestionKind::Budget,
        ];
        if kind.is_some_and(|kind| about_pods.contains(&kind)) {
            state.events = warnings(client, namespace).await?;
        }
        // No decision about pods depends on these.
        match kind {
            Some(QuestionKind::DaemonSet) => state.daemon_sets = within(client, namespace).await?,
            Some(QuestionKind::Autoscaler) => state.autoscalers = within(client, namespace).await?,
            Some(QuestionKind::CronJob) => state.cron_jobs = within(client, namespace).await?,
            _ => {}
        }
        let of_jobs = [QuestionKind::Job, QuestionKind::CronJob];
        if kind.is_some_and(|kind| of_jobs.contains(&kind)) || changes.iter().any(Change::is_of_job)
        {
            state.jobs = within(client, namespace).await?;
        }
        Ok(state)
    }

    async fn whole(client: &Client) -> Result<Self, kube::Error> {
        let pods: Vec<Pod> = all(client).await?;
        Ok(Self {
            pod_groups: groups(client, &pods).await?,
            pods,
            nodes: all(client).await?,
            namespaces: all(client).await?,
            services: all(client).await?,
            slices: all(client).await?,
            claims: all(client).await?,
            volumes: all(client).await?,
            replication_controllers: all(client).await?,
            replica_sets: all(client).await?,
            stateful_sets: all(client).await?,
            deployments: all(client).await?,
            budgets: all(client).await?,
            classes: all(client).await?,
            csi_nodes: all(client).await?,
            drivers: all(client).await?,
            capacities: all(client).await?,
            attachments: all(client).await?,
            device_claims: all(client).await?,
            device_classes: all(client).await?,
            device_slices: all(client).await?,
            ..Self::default()
        })
    }

    /// The nodes; of one that is closed its pods, too, and the budgets that may keep them there.
    async fn of_nodes(client: &Client, name: &str) -> Result<Self, kube::Error> {
        let mut out = Self {
            nodes: all(client).await?,
            ..Self::default()
        };
        let is_closed = |n: &Node| n.spec.as_ref().and_then(|s| s.unschedulable) == Some(true);
        let mut asked = out
            .nodes
            .iter()
            .filter(|n| n.metadata.name.as_deref() == Some(name));
        if asked.any(is_closed) {
            let here = ListParams::default().fields(&format!("spec.nodeName={name}"));
            let pods = selected(Api::all(client.clone()), here, usize::MAX).await;
            out.pods = if_permitted(pods)?;
            out.budgets = if_permitted(all(client).await)?;
        }
        Ok(out)
    }

    /// A namespace and, where it is going, what its conditions say is left and held.
    async fn of_namespace(client: &Client, name: &str) -> Result<Self, kube::Error> {
        let api: Api<Namespace> = Api::all(client.clone());
        let Some(found) = api.get_opt(name).await? else {
            return Ok(Self::default());
        };
        let mut held = Vec::new();
        for left in remaining(&found).iter().take(HOLDING_KINDS) {
            held.extend(holding(client, name, left).await?);
        }
        Ok(Self {
            namespaces: vec![found],
            held,
            ..Self::default()
        })
    }
}

/// The resources that its condition says are left in a namespace, as (resource, group).
fn remaining(of: &Namespace) -> Vec<(String, String)> {
    let conditions = of.status.iter().flat_map(|s| s.conditions.iter().flatten());
    let said = conditions
        .filter(|c| c.type_ == "NamespaceContentRemaining" && c.status == "True")
        .filter_map(|c| c.message.as_deref());
    // `Some resources are remaining: jobs.batch has 1 resource instances, pods. has 2 …`
    said.filter_map(|m| m.split_once(": "))
        .flat_map(|(_, list)| list.split(", "))
        .filter_map(|item| item.split_once(" has ")?.0.split_once('.'))
        .map(|(resource, group)| (resource.to_owned(), group.to_owned()))
        .collect()
}

/// Objects of a resource that finalizers hold in a namespace; nothing where it is not served any
/// more.
async fn holding(
    client: &Client,
    namespace: &str,
    (resource, group): &(String, String),
) -> Result<Vec<TerminatingObject>, kube::Error> {
    let (version, served) = if group.is_empty() {
        ("v1".to_owned(), client.list_core_api_resources("v1").await?)
    } else {
        let groups = client.list_api_groups().await?.groups;
        let versions: BTreeMap<String, String> = groups
            .into_iter()
            .filter_map(|g| {
                let preferred = g.preferred_version.or_else(|| g.versions.first().cloned());
                Some((g.name, preferred?.version))
            })
            .collect();
        let Some(version) = versions.get(group) else {
            return Ok(Vec::new());
        };
        let path = format!("{group}/{version}");
        let served = client.list_api_group_resources(&path).await?;
        (version.clone(), served)
    };
    let mut served = served.resources.into_iter();
    let Some(kind) = served.find(|r| r.name == *resource).map(|r| r.kind) else {
        return Ok(Vec::new());
    };
    let names = GroupVersionKind::gvk(group, &version, &kind);
    let kind = if group.is_empty() {
        kind.to_lowercase()
    } else {
        format!("{}.{group}", kind.to_lowercase())
    };
    let resource = ApiResource::from_gvk_with_plural(&names, resource);
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    let objects = pages(api, usize::try_from(PAGE).unwrap_or(usize::MAX)).await?;
    let held = objects
        .iter()
        .map(|o| TerminatingObject::read(&kind, &o.metadata));
    Ok(held.flatten().collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_left_is_read_from_the_condition() {
        let of: Namespace = serde_json::from_value(json!({"status": {"conditions": [
            {"type": "NamespaceContentRemaining", "status": "True", "message":
             "Some resources are remaining: jobs.batch has 1 resource instances, \
              widgets.example.com has 3 resource instances, pods. has 2 resource instances"}]}}))
        .expect("a namespace");
        let left = remaining(&of);
        let names: Vec<String> = left.iter().map(|(r, g)| format!("{r}|{g}")).collect();
        assert_eq!(names, ["jobs|batch", "widgets|example.com", "pods|"]);
    }

    #[test]
    fn who_may_not_read_something_gets_an_answer_without_it() {
        let refused = |code: u16| -> Result<Vec<Pod>, kube::Error> {
            let status = json!({"code": code, "message": "no", "reason": "Other"});
            Err(kube::Error::Api(
                serde_json::from_value(status).expect("a status"),
            ))
        };
        assert!(if_permitted(refused(403)).is_ok_and(|all| all.is_empty()));
        assert!(if_permitted(refused(500)).is_err());
    }
}
