//! What samples of cAdvisor's pages are of: the machine, pods with their sandboxes, containers.

use crate::pod::spec;
use crate::stats::text::Labels;
use crate::stats::{All, Interface, OfDisk};
use host::cgroup::{Limits, Stats};
use jiff::Timestamp;

/// What samples are of: a group of processes, with what is known of it.
pub(in crate::stats) struct Subject<'a> {
    pub container: &'a str,
    pub group: &'a str,
    pub image: &'a str,
    pub name: &'a str,
    pub namespace: &'a str,
    pub pod: &'a str,
    pub stats: &'a Stats,
    pub limits: Limits,
    pub swap_limit: Option<u64>,
    pub memory_reservation: Option<u64>,
    pub started: Option<Timestamp>,
    pub disk: Option<OfDisk>,
    /// Processes, descriptors, sockets; none of what was not counted.
    pub held: Option<&'a host::cgroup::Descriptors>,
    /// Of the machine and of pods.
    pub network: &'a [Interface],
}

impl Subject<'_> {
    /// The labels that all its samples have.
    pub(super) fn labels(&self) -> Labels {
        Labels::of(&[
            ("container", self.container),
            ("id", self.group),
            ("image", self.image),
            ("name", self.name),
            ("namespace", self.namespace),
            ("pod", self.pod),
        ])
    }
}

/// All that samples are of: the machine first.
pub(in crate::stats) fn subjects(all: &All) -> Vec<Subject<'_>> {
    let empty = |stats, group| Subject {
        container: "",
        group,
        image: "",
        name: "",
        namespace: "",
        pod: "",
        stats,
        limits: Limits::default(),
        swap_limit: None,
        memory_reservation: None,
        started: None,
        disk: None,
        held: None,
        network: &[],
    };
    let mut out = vec![Subject {
        started: all.start_time,
        swap_limit: all.swap_limit,
        network: &all.network,
        disk: Some(OfDisk {
            used_bytes: all.fs.used_bytes,
            ..all.disk()
        }),
        ..empty(&all.node, "/")
    }];
    for p in &all.pods {
        let (namespace, pod) = (spec::namespace(&p.pod), spec::name(&p.pod));
        let status = p.pod.status.as_ref();
        let started = status.and_then(|s| s.start_time.as_ref()).map(|t| t.0);
        let of_pod = |stats, group| Subject {
            namespace,
            pod,
            started,
            ..empty(stats, group)
        };
        out.push(Subject {
            limits: p.limits,
            swap_limit: p.swap_limit,
            memory_reservation: p.memory_reservation,
            network: &p.network,
            ..of_pod(&p.stats, &p.group)
        });
        out.extend(p.sandbox.as_ref().map(|(group, stats)| Subject {
            name: &p.sandbox_id,
            image: &all.pause_image,
            ..of_pod(stats, group)
        }));
        out.extend(p.containers.iter().map(|c| Subject {
            container: &c.name,
            name: &c.id,
            image: &c.image,
            limits: c.limits,
            swap_limit: c.swap_limit,
            memory_reservation: c.memory_reservation,
            started: c.started_at,
            held: Some(&c.held),
            disk: c.layer.map(|layer| OfDisk {
                used_bytes: layer.bytes,
                ..all.disk()
            }),
            ..of_pod(&c.stats, &c.group)
        }));
    }
    out
}
