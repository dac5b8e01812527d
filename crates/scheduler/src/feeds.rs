//! What the scheduler watches beside pods and nodes: kinds of which there are few events. Each has a
//! line in [`follow_all`].

use std::fmt::Debug;

use client::reflector::Table;
use client::served_kinds::Looked;
use client::{Informer, Informers};
use clock::Random;
use futures::StreamExt;
use k8s_openapi::api::apps::v1 as apps;
use k8s_openapi::api::core::v1 as k8s;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::resource::v1::{DeviceClass, ResourceSlice};
use k8s_openapi::api::scheduling::v1alpha2::PodGroup;
use k8s_openapi::api::storage::v1 as api_storage;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::runtime::watcher::Config;
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::core::Core;
use crate::selectors::Owner;
use crate::storage;

/// Changes that wait to be taken in; their watches wait, too, while there are more.
const WAITING: usize = 1_024;

/// A change of something that the core knows.
pub type News = Box<dyn FnOnce(&mut Core) + Send>;

type Apply<K> = fn(&mut Core, Option<&K>, Option<&K>);

struct Feeds<'a> {
    informers: &'a Informers,
    core: &'a mut Core,
    news: mpsc::Sender<News>,
    end: CancellationToken,
}

/// Takes in all that is there, and says what comes until `end`.
pub async fn follow_all(
    informers: &Informers,
    core: &mut Core,
    end: CancellationToken,
) -> mpsc::Receiver<News> {
    let (news, receiver) = mpsc::channel(WAITING);
    let mut all = Feeds {
        informers,
        core,
        news,
        end,
    };
    all.follow::<k8s::Namespace>(Core::namespace_changed).await;
    all.follow::<PodDisruptionBudget>(Core::budget_changed)
        .await;
    all.follow::<k8s::PersistentVolumeClaim>(Core::claim_changed)
        .await;
    all.follow::<k8s::PersistentVolume>(Core::volume_changed)
        .await;
    all.follow(class_changed).await;
    all.follow(limits_changed).await;
    all.follow(driver_changed).await;
    all.follow(capacity_changed).await;
    all.follow(attachment_changed).await;
    all.follow(service_changed).await;
    all.follow(replication_controller_changed).await;
    all.follow(replica_set_changed).await;
    all.follow(stateful_set_changed).await;
    all.follow(Core::device_claim_changed).await;
    all.follow(device_class_changed).await;
    all.follow(slice_changed).await;
    all.follow_groups().await;
    receiver
}

impl Feeds<'_> {
    async fn follow<K>(&mut self, apply: Apply<K>)
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    {
        let informer: Informer<K> = self.informers.of();
        tokio::select! {
            biased;
            () = self.end.cancelled() => return,
            () = informer.synced() => {}
        }
        let mut feed = informer.subscribe();
        while let Ok(change) = feed.try_recv() {
            apply(self.core, change.old.as_deref(), change.new.as_deref());
        }
        let (news, end) = (self.news.clone(), self.end.clone());
        tokio::spawn(async move {
            // The watch lives as long as somebody holds its informer.
            let _informer = informer;
            let pass = async {
                while let Some(change) = feed.recv().await {
                    let item: News = Box::new(move |core| {
                        apply(core, change.old.as_deref(), change.new.as_deref());
                    });
                    if news.send(item).await.is_err() {
                        return;
                    }
                }
            };
            tokio::select! {
                biased;
                () = end.cancelled() => {}
                () = pass => {}
            }
        });
    }
}

/// Whether groups of pods are served, as far as that is known.
fn has_groups(looked: &Looked) -> bool {
    looked.can_watch(&PodGroup::group(&()), &PodGroup::plural(&()))
}

impl Feeds<'_> {
    /// Groups of pods are a kind that is there only where somebody asks for it. It is waited until a
    /// server has said so or not: pods of a gang must not go by themselves because one did not answer.
    async fn follow_groups(&mut self) {
        let served = self.informers.served();
        let mut looks = served.subscribe();
        tokio::select! {
            biased;
            () = self.end.cancelled() => return,
            _ = looks.wait_for(|looked| !matches!(looked, Looked::NotYet)) => {}
        }
        let mut is_served = has_groups(&looks.borrow());
        if is_served {
            self.core.pod_groups_served();
        }
        let api: Api<PodGroup> = Api::all(self.informers.client().clone());
        let (news, end) = (self.news.clone(), self.end.clone());
        let random = self.informers.random().clone();
        let pass = async move {
            // It is looked as long as somebody holds it.
            let _served = served;
            loop {
                if is_served {
                    tokio::select! {
                        biased;
                        _ = looks.wait_for(|looked| !has_groups(looked)) => {}
                        () = pass_groups(random.clone(), api.clone(), &news) => return,
                    }
                } else if looks.wait_for(has_groups).await.is_err() {
                    return;
                }
                is_served = !is_served;
                let item: News = match is_served {
                    true => Box::new(Core::pod_groups_served),
                    false => Box::new(Core::pod_groups_gone),
                };
                if news.send(item).await.is_err() {
                    return;
                }
            }
        };
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = end.cancelled() => {}
                () = pass => {}
            }
        });
    }
}

/// Says what comes of groups, as long as somebody hears it.
async fn pass_groups(random: Random, api: Api<PodGroup>, news: &mpsc::Sender<News>) {
    let mut groups: Table<String, i64> = Table::default();
    let mut events = client::events(random, api, Config::default()).boxed();
    while let Some(event) = events.next().await {
        for changed in groups.take(event, key_of, |group| Some(least(&group))) {
            let now = groups.get(&changed.key).copied();
            let item: News = Box::new(move |core| {
                core.pod_group_changed(&changed.key, now);
            });
            if news.send(item).await.is_err() {
                return;
            }
        }
    }
}

fn key_of(group: &PodGroup) -> String {
    let namespace = group.namespace().unwrap_or_default();
    format!("{namespace}/{}", group.name_any())
}

pub fn pod_group_added(core: &mut Core, group: &PodGroup) {
    core.pod_group_changed(&key_of(group), Some(least(group)));
}

/// How many of a group's pods must have nodes at once; 0 where each goes by itself.
fn least(group: &PodGroup) -> i64 {
    let gang = group.spec.scheduling_policy.gang.as_ref();
    gang.map_or(0, |gang| i64::from(gang.min_count))
}

fn name_of<K: ResourceExt>(old: Option<&K>, new: Option<&K>) -> String {
    new.or(old).map(ResourceExt::name_any).unwrap_or_default()
}

pub fn class_changed(
    core: &mut Core,
    old: Option<&api_storage::StorageClass>,
    new: Option<&api_storage::StorageClass>,
) {
    let name = name_of(old, new);
    core.storage_changed(|s| s.set_class(&name, new.map(storage::Class::read)));
}

pub fn limits_changed(
    core: &mut Core,
    old: Option<&api_storage::CSINode>,
    new: Option<&api_storage::CSINode>,
) {
    let name = name_of(old, new);
    core.storage_changed(|s| s.set_limits(&name, new.map(storage::Limits::read)));
}

pub fn driver_changed(
    core: &mut Core,
    old: Option<&api_storage::CSIDriver>,
    new: Option<&api_storage::CSIDriver>,
) {
    let name = name_of(old, new);
    core.storage_changed(|s| s.set_driver(&name, new.map(storage::Driver::read)));
}

pub fn capacity_changed(
    core: &mut Core,
    old: Option<&api_storage::CSIStorageCapacity>,
    new: Option<&api_storage::CSIStorageCapacity>,
) {
    let namespace = new.or(old).and_then(ResourceExt::namespace);
    let key = format!("{}/{}", namespace.unwrap_or_default(), name_of(old, new));
    core.storage_changed(|s| s.set_capacity(&key, new.map(storage::Capacity::read)));
}

pub fn attachment_changed(
    core: &mut Core,
    old: Option<&api_storage::VolumeAttachment>,
    new: Option<&api_storage::VolumeAttachment>,
) {
    let name = name_of(old, new);
    core.storage_changed(|s| {
        s.set_attachment(&name, new.and_then(storage::Attachment::read));
    });
}

pub fn device_class_changed(core: &mut Core, old: Option<&DeviceClass>, new: Option<&DeviceClass>) {
    let name = name_of(old, new);
    core.device_class_changed(&name, new);
}

pub fn slice_changed(core: &mut Core, old: Option<&ResourceSlice>, new: Option<&ResourceSlice>) {
    let name = name_of(old, new);
    core.devices_changed(|d| d.set_slice(&name, new));
}

fn place_of<K: ResourceExt>(old: Option<&K>, new: Option<&K>) -> (String, String) {
    let namespace = new.or(old).and_then(ResourceExt::namespace);
    (namespace.unwrap_or_default(), name_of(old, new))
}

pub fn service_changed(core: &mut Core, old: Option<&k8s::Service>, new: Option<&k8s::Service>) {
    let (namespace, name) = place_of(old, new);
    let selector = new.and_then(|s| s.spec.as_ref()?.selector.as_ref());
    core.selectors_changed(|s| s.set_service(&namespace, &name, selector));
}

pub fn replication_controller_changed(
    core: &mut Core,
    old: Option<&k8s::ReplicationController>,
    new: Option<&k8s::ReplicationController>,
) {
    let (namespace, name) = place_of(old, new);
    let labels = new.and_then(|c| c.spec.as_ref()?.selector.clone());
    let selector = labels.map(|labels| LabelSelector {
        match_labels: Some(labels),
        match_expressions: None,
    });
    let kind = Owner::ReplicationController;
    core.selectors_changed(|s| s.set_owner(kind, &namespace, &name, selector.as_ref()));
}

pub fn replica_set_changed(
    core: &mut Core,
    old: Option<&apps::ReplicaSet>,
    new: Option<&apps::ReplicaSet>,
) {
    let (namespace, name) = place_of(old, new);
    let selector = new.and_then(|s| s.spec.as_ref()).map(|s| &s.selector);
    core.selectors_changed(|s| s.set_owner(Owner::ReplicaSet, &namespace, &name, selector));
}

pub fn stateful_set_changed(
    core: &mut Core,
    old: Option<&apps::StatefulSet>,
    new: Option<&apps::StatefulSet>,
) {
    let (namespace, name) = place_of(old, new);
    let selector = new.and_then(|s| s.spec.as_ref()).map(|s| &s.selector);
    core.selectors_changed(|s| s.set_owner(Owner::StatefulSet, &namespace, &name, selector));
}
