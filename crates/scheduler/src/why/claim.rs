//! Why a claim is not bound, or does not go.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::ResourceExt;

use super::report::Answer;
use super::reported;
use super::state::{self, State};
use crate::interned::Strings;
use crate::storage::{Claim, Volume, unsuited};

pub fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    Claim::read(claim, &mut Strings::default()).is_bound()
}

/// Whether a node has been chosen for its volume, which is not there yet.
pub fn is_being_made(claim: &PersistentVolumeClaim) -> bool {
    let claim = Claim::read(claim, &mut Strings::default());
    !claim.is_bound() && claim.selected_node.is_some()
}

/// Pods that use the claim.
fn users(state: &State, namespace: &str, name: &str) -> Vec<String> {
    let pods = state.pods.iter().filter(|p| {
        let spec = p.spec.as_ref();
        let volumes = spec.into_iter().flat_map(|s| s.volumes.iter().flatten());
        p.namespace().as_deref() == Some(namespace)
            && volumes.into_iter().any(|v| {
                let named = v.persistent_volume_claim.as_ref();
                let made = v.ephemeral.is_some() && format!("{}-{}", p.name_any(), v.name) == name;
                made || named.is_some_and(|c| c.claim_name == name)
            })
    });
    pods.map(ResourceExt::name_any).collect()
}

pub fn explain(state: &State, from: &PersistentVolumeClaim) -> Answer {
    let namespace = from.namespace().unwrap_or_default();
    let name = from.name_any();
    let about = format!("persistentvolumeclaim {namespace}/{name}");
    let claim = Claim::read(from, &mut Strings::default());
    let users = users(state, &namespace, &name);
    if claim.deleting {
        let answer = if users.is_empty() {
            let held = from.finalizers().join(", ");
            Answer::of(
                about,
                format!("it is being deleted; held by the finalizers {held}"),
            )
        } else {
            let pods = users.join(", ");
            Answer::of(about, format!("it is being deleted; pods use it: {pods}"))
                .change(format!("delete the pods {pods}"))
        };
        return answer;
    }
    if claim.lost {
        return Answer::of(about, format!("its volume {} is gone", claim.volume))
            .change("restore the volume, or make the claim again");
    }
    if claim.is_bound() {
        return Answer::of(about, format!("it is bound to volume {}", claim.volume));
    }
    if !claim.volume.is_empty() {
        return named_volume(state, about, &claim);
    }
    let class = state
        .classes
        .iter()
        .find(|c| state::is(*c, "", &claim.class));
    match class {
        None if !claim.class.is_empty() => {
            let known: Vec<String> = state.classes.iter().map(ResourceExt::name_any).collect();
            Answer::of(
                about,
                format!("its storage class {:?} does not exist", claim.class),
            )
            .change(format!(
                "create that class, or name one of: {}",
                known.join(", ")
            ))
        }
        None => no_volume(state, about, &claim)
            .note("it has no storage class: no volume is made for it"),
        Some(class) => {
            let waits = class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer");
            if waits && users.is_empty() {
                return Answer::of(
                    about,
                    format!(
                        "its class {:?} waits for the first pod that uses it",
                        claim.class
                    ),
                )
                .change("create a pod that uses it");
            }
            let made = !matches!(
                class.provisioner.as_str(),
                "" | "kubernetes.io/no-provisioner"
            );
            if !made {
                return no_volume(state, about, &claim);
            }
            let answer = being_made(state, about, &claim, &class.provisioner, waits, &users);
            // Whoever makes volumes says there what went wrong.
            match reported::last_warning(state, from, |_| true) {
                Some(event) => answer.note(reported::quoted(event)),
                None => answer,
            }
        }
    }
}

fn being_made(
    state: &State,
    about: String,
    claim: &Claim,
    provisioner: &str,
    waits: bool,
    users: &[String],
) -> Answer {
    if waits && claim.selected_node.is_none() {
        let pods = users.join(", ");
        return Answer::of(
            about,
            format!("no node has been chosen for the pods that use it: {pods}"),
        )
        .change(format!(
            "ask why pod/{}",
            users.first().cloned().unwrap_or_default()
        ));
    }
    let driver = state.drivers.iter().any(|d| d.name_any() == provisioner);
    if driver {
        Answer::of(about, format!("its volume is being made by {provisioner}"))
    } else {
        Answer::of(
            about,
            format!(
                "nothing in the cluster makes its volume: there is no CSI driver {provisioner}"
            ),
        )
        .change(format!("install {provisioner}, or create a volume by hand"))
    }
}

fn named_volume(state: &State, about: String, claim: &Claim) -> Answer {
    let name = &claim.volume;
    let found = state.volumes.iter().find(|v| state::is(*v, "", name));
    let Some(found) = found else {
        return Answer::of(
            about,
            format!("it names volume {name}, which does not exist"),
        )
        .change(format!("create volume {name}"));
    };
    match objection(claim, found) {
        Some(why) => Answer::of(about, format!("it names volume {name}: {why}")),
        None => Answer::of(
            about,
            format!("it names volume {name}; the binder has not bound it yet"),
        ),
    }
}

fn objection(claim: &Claim, volume: &PersistentVolume) -> Option<String> {
    let key = format!("{}/{}", claim.namespace, claim.name);
    let read = Volume::read(volume, &mut Strings::default());
    unsuited(&key, claim, &read)
}

fn no_volume(state: &State, about: String, claim: &Claim) -> Answer {
    let of_class =
        |v: &&PersistentVolume| Volume::read(v, &mut Strings::default()).class == claim.class;
    let candidates: Vec<&PersistentVolume> = state.volumes.iter().filter(of_class).collect();
    if candidates.is_empty() {
        let class = &claim.class;
        return Answer::of(about, format!("there is no volume of its class {class:?}"))
            .change(format!("create a volume of class {class:?}"));
    }
    let objections = candidates.iter().map(|v| {
        let why = objection(claim, v).unwrap_or_else(|| "it would do".to_owned());
        format!("{}: {why}", v.name_any())
    });
    let objections: Vec<String> = objections.collect();
    Answer::of(
        about,
        format!("no volume suits it: {}", objections.join("; ")),
    )
}
