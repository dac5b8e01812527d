//! What is supposed: changes on a copy of a cluster's state, and what the scheduler would do then.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use api::names;
use api::quantity::Quantity;
use k8s_openapi::api::core::v1 as k8s;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Amount;
use kube::ResourceExt;

use super::report::{Answer, Profiles, WhyError};
use super::state::{self, State};
use super::workload::{SCALED, Scaled, Workload};
use crate::core::Step;
use crate::pod::is_terminal;

/// Pods that are added at most by one change: more than any cluster has.
const MOST_PODS: usize = 200_000;
/// Pods that are named one by one.
const NAMED: usize = 10;

/// One thing that is supposed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A node has more of a resource, or less (`less`).
    Resource {
        node: String,
        resource: String,
        amount: Quantity,
        less: bool,
    },
    /// The node is closed, and its pods have to go elsewhere, but those of DaemonSets.
    Drain(String),
    /// The node is open.
    Uncordon(String),
    /// A workload is to have so many pods.
    Scale {
        kind: Scaled,
        name: String,
        replicas: usize,
    },
}

impl Change {
    /// Whether it is about a Job.
    pub fn is_of_job(&self) -> bool {
        let kind = match self {
            Self::Scale { kind, .. } => Some(*kind),
            Self::Resource { .. } | Self::Drain(_) | Self::Uncordon(_) => None,
        };
        kind == Some(Scaled::Job)
    }
}

impl FromStr for Change {
    type Err = WhyError;

    fn from_str(text: &str) -> Result<Self, WhyError> {
        let wrong = || WhyError::Supposition(text.to_owned());
        let (kind, rest) = text.split_once('/').ok_or_else(wrong)?;
        let named = |name: &str| {
            let good = !name.is_empty() && !name.contains('/');
            good.then(|| name.to_owned()).ok_or_else(wrong)
        };
        match kind {
            "drain" => Ok(Self::Drain(named(rest)?)),
            "uncordon" => Ok(Self::Uncordon(named(rest)?)),
            "scale" => {
                let not = |why: String| WhyError::Scale {
                    change: text.to_owned(),
                    why,
                };
                let split = rest.split_once('/');
                let split = split.and_then(|(kind, rest)| Some((Scaled::named(kind)?, rest)));
                let (kind, rest) = split.ok_or_else(|| not(SCALED.to_owned()))?;
                let split = rest.split_once('=');
                let (name, number) =
                    split.ok_or_else(|| not("say how many pods, as in NAME=50".to_owned()))?;
                let name = named(name)?;
                let replicas = number.parse::<usize>();
                let replicas =
                    replicas.map_err(|_| not(format!("{number:?} is not a number of pods")))?;
                if replicas > MOST_PODS {
                    return Err(not(format!("it may be {MOST_PODS} pods at most")));
                }
                Ok(Self::Scale {
                    kind,
                    name,
                    replicas,
                })
            }
            "node" => {
                let (place, amount) = rest.split_once('=').ok_or_else(wrong)?;
                let (node, resource, less) = more_or_less(place).ok_or_else(wrong)?;
                let amount: Quantity = amount.parse().map_err(|_| wrong())?;
                if amount.is_negative() {
                    return Err(wrong());
                }
                Ok(Self::Resource {
                    node: named(node)?,
                    resource: resource.to_owned(),
                    amount,
                    less,
                })
            }
            _ => Err(wrong()),
        }
    }
}

/// Resources of nodes with a minus in their names, that some node may have less of: what they begin with.
const WITH_MINUS: [&str; 2] = ["-ephemeral-storage", "-hugepages-"];

/// Of `NODE+RESOURCE` or `NODE-RESOURCE`: the node, the resource, and whether there is less of it. A plus
/// is in no name; a minus may be in that of the node, and in that of the resource. Of an extended resource
/// (`example.com/gpu`) the last one before the slash counts, of others that are not known the last one.
fn more_or_less(place: &str) -> Option<(&str, &str, bool)> {
    let less = !place.contains('+');
    let (node, resource) = if less {
        let known = WITH_MINUS.iter().find_map(|name| {
            let at = place.rfind(*name)?;
            // Otherwise it is part of the node's name.
            let (_, rest) = place.split_at_checked(at + name.len())?;
            (!rest.contains('-')).then_some(at)
        });
        let before_slash = place.split('/').next().unwrap_or_default();
        let (node, rest) = place.split_at(known.or_else(|| before_slash.rfind('-'))?);
        (node, rest.strip_prefix('-')?)
    } else {
        place.split_once('+')?
    };
    let is_name = names::is_qualified_name(resource).is_empty();
    is_name.then_some((node, resource, less))
}

/// A state in which something is supposed.
pub struct Supposed {
    pub state: State,
    /// UIDs of pods that look for a node because of it.
    moved: BTreeSet<String>,
    notes: Vec<String>,
}

/// Copies the state and changes it.
///
/// # Errors
/// When something that is to be changed is not there.
pub fn suppose(state: &State, namespace: &str, changes: &[Change]) -> Result<Supposed, WhyError> {
    let mut out = Supposed {
        state: state.clone(),
        moved: BTreeSet::new(),
        notes: Vec::new(),
    };
    for change in changes {
        out.change(namespace, change)?;
    }
    Ok(out)
}

impl Supposed {
    fn node(&mut self, name: &str) -> Result<&mut k8s::Node, WhyError> {
        let node = self.state.nodes.iter_mut().find(|n| n.name_any() == name);
        node.ok_or_else(|| WhyError::NotFound(format!("node {name}")))
    }

    fn change(&mut self, namespace: &str, change: &Change) -> Result<(), WhyError> {
        match change {
            Change::Resource {
                node,
                resource,
                amount,
                less,
            } => {
                let node = self.node(node)?;
                let status = node.status.get_or_insert_default();
                let all = status.allocatable.get_or_insert_default();
                let before = all.get(resource).and_then(|q| q.0.parse().ok());
                let before: i64 = before.map_or(0, |q: Quantity| q.milli_value());
                let by = amount.milli_value();
                let after = if *less {
                    before.saturating_sub(by).max(0)
                } else {
                    before.saturating_add(by)
                };
                all.insert(resource.clone(), Amount(format!("{after}m")));
            }
            Change::Drain(name) => self.drain(name)?,
            Change::Uncordon(name) => {
                let node = self.node(name)?;
                if let Some(spec) = node.spec.as_mut() {
                    spec.unschedulable = None;
                    if let Some(taints) = spec.taints.as_mut() {
                        taints.retain(|t| t.key != "node.kubernetes.io/unschedulable");
                    }
                }
            }
            Change::Scale {
                kind,
                name,
                replicas,
            } => {
                let of = kind.find(&self.state, namespace, name)?;
                self.scale(&of, *replicas);
            }
        }
        Ok(())
    }

    fn drain(&mut self, name: &str) -> Result<(), WhyError> {
        let node = self.node(name)?;
        node.spec.get_or_insert_default().unschedulable = Some(true);
        let (mut moved, mut lost) = (Vec::new(), Vec::new());
        let kept = std::mem::take(&mut self.state.pods).into_iter();
        let kept = kept.filter_map(|mut pod| {
            let on = pod.spec.as_ref().and_then(|s| s.node_name.as_deref()) == Some(name);
            let owner = state::controller(&pod).map(|o| o.kind.clone());
            let stays = matches!(owner.as_deref(), Some("DaemonSet" | "Node"));
            if !on || stays || is_terminal(&pod) {
                return Some(pod);
            }
            if owner.is_none() {
                lost.push(format!(
                    "{}/{}",
                    pod.namespace().unwrap_or_default(),
                    pod.name_any()
                ));
                return None;
            }
            let uid = format!("{}-moved", pod.uid().unwrap_or_default());
            free(&mut pod, &uid);
            moved.push(uid);
            Some(pod)
        });
        self.state.pods = kept.collect();
        self.moved.extend(moved);
        if !lost.is_empty() {
            self.notes.push(format!(
                "nothing makes these pods again, they would be lost: {}",
                lost.join(", ")
            ));
        }
        Ok(())
    }

    fn scale(&mut self, of: &Workload, replicas: usize) {
        if let Some(who) = &of.set_by {
            let note = format!(
                "{who} sets how many pods {} has, and may set it back",
                of.about
            );
            self.notes.push(note);
        }
        let mut replicas = replicas;
        if let Some((most, why)) = of.most.filter(|(most, _)| *most < replicas) {
            let note = format!("{} would have {most} pods, not {replicas}: {why}", of.about);
            self.notes.push(note);
            replicas = most;
        }
        let (gone, new) = of.scaled(replicas);
        let stays = |p: &k8s::Pod| p.uid().is_none_or(|uid| !gone.contains(&uid));
        self.state.pods.retain(stays);
        let mut volumes = false;
        for name in new {
            let (mut pod, are_made) = of.next_pod(&name, &self.state);
            volumes |= are_made;
            // So many were never supposed before.
            let uid = format!("supposed-{}", self.moved.len());
            free(&mut pod, &uid);
            self.moved.insert(uid);
            self.state.pods.push(pod);
        }
        if volumes {
            self.notes.push(format!(
                "the volumes of new pods of {} are taken for made, wherever they go",
                of.about
            ));
        }
    }

    /// What the scheduler would do with all pods that wait.
    ///
    /// # Errors
    /// When there are no profiles.
    pub fn outcome(&self, profiles: Profiles<'_>) -> Result<Answer, WhyError> {
        let mut core = self.state.core_of(profiles)?;
        let mut placed: BTreeMap<String, usize> = BTreeMap::new();
        let (mut waiting, mut others) = (Vec::new(), 0usize);
        let (mut all, mut with_node) = (0usize, 0usize);
        let mut volumes = false;
        // Each pod is tried once, and once more for each that makes it ready.
        let most = self.state.pods.len().saturating_mul(2).saturating_add(1);
        for seed in 0..most {
            let seed = u64::try_from(seed).unwrap_or(u64::MAX);
            let Some(step) = core.step(seed, 0) else {
                break;
            };
            match step {
                Step::Bind { pod, node } | Step::Prepare { pod, node, .. } => {
                    volumes |= !pod.wants.claims.is_empty();
                    if self.moved.contains(&*pod.uid) {
                        all += 1;
                        with_node += 1;
                        *placed.entry(node.to_string()).or_default() += 1;
                    } else {
                        others += 1;
                    }
                }
                // A copy of the state has no extenders.
                Step::Ask(_) => {}
                Step::Unschedulable { pod, message, .. } | Step::Failed { pod, message } => {
                    if self.moved.contains(&*pod.uid) {
                        all += 1;
                        waiting.push((format!("{}/{}", pod.namespace, pod.name), message));
                    }
                }
            }
        }
        let cause = match (all, with_node) {
            (0, _) if others == 0 => "no pod would get another node".to_owned(),
            (0, _) => format!("{others} pods that wait would get a node"),
            _ => format!(
                "{with_node} of {all} pods would get a node, {} would wait",
                all - with_node
            ),
        };
        let mut out = Answer::of("", cause);
        for (node, pods) in placed {
            out.notes.push(format!("{pods} on node {node}"));
        }
        for (pod, message) in waiting.iter().take(NAMED) {
            out.notes.push(format!("pod {pod} would wait: {message}"));
        }
        if let Some(more) = waiting.len().checked_sub(NAMED).filter(|n| *n > 0) {
            out.notes.push(format!("and {more} more would wait"));
        }
        if volumes {
            out.notes
                .push("where volumes have to be made, they are taken for made".to_owned());
        }
        out.notes.extend(self.notes.iter().cloned());
        Ok(out)
    }
}

/// The pod as it was before it had a node, under another UID.
fn free(pod: &mut k8s::Pod, uid: &str) {
    pod.metadata.uid = Some(uid.to_owned());
    pod.metadata.deletion_timestamp = None;
    pod.status = None;
    if let Some(spec) = pod.spec.as_mut() {
        spec.node_name = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_resource_of_a_node_can_be_supposed() {
        for (text, node, resource, less) in [
            ("node/a+memory=1", "a", "memory", false),
            ("node/a-b-cpu=1", "a-b", "cpu", true),
            (
                "node/a-b+ephemeral-storage=1",
                "a-b",
                "ephemeral-storage",
                false,
            ),
            (
                "node/a-b-ephemeral-storage=1",
                "a-b",
                "ephemeral-storage",
                true,
            ),
            ("node/a+hugepages-2Mi=1", "a", "hugepages-2Mi", false),
            ("node/a-b-hugepages-2Mi=1", "a-b", "hugepages-2Mi", true),
            ("node/a-hugepages-1-cpu=1", "a-hugepages-1", "cpu", true),
            (
                "node/a-b+my-own.com/a-gpu=1",
                "a-b",
                "my-own.com/a-gpu",
                false,
            ),
            (
                "node/a-b-example.com/a-gpu=1",
                "a-b",
                "example.com/a-gpu",
                true,
            ),
        ] {
            let expected = Change::Resource {
                node: node.to_owned(),
                resource: resource.to_owned(),
                amount: "1".parse().expect("a quantity"),
                less,
            };
            assert_eq!(text.parse::<Change>(), Ok(expected), "{text}");
        }
        for bad in [
            "node/a+=1",
            "node/a-=1",
            "node/+cpu=1",
            "node/a=1",
            "node/a/b=1",
            "node/a+a+b=1",
            "node/a+x y=1",
        ] {
            let error = bad.parse::<Change>().expect_err(bad);
            assert!(matches!(error, WhyError::Supposition(_)), "{bad}: {error}");
        }
    }
}
