//! Static pods among the pods of the node: what files want, what runs, and the mirrors that the API
//! has. A name is one pod's at a time: a changed file's pod starts when that of the file before has
//! ended.

use super::handle::{Handle, Origin};
use super::manager::Pods;
use super::{spec, worker};
use crate::static_pods::mirror::{is_mirror, shows};
use client::reflector::Change;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Notify;

/// Pods by namespace and name.
type ByName = BTreeMap<(String, String), Arc<Pod>>;

/// A static pod, and what the API has under its name.
type Pair = (Option<Arc<Pod>>, Option<Arc<Pod>>);

/// What is known of static pods.
#[derive(Debug, Default)]
pub(super) struct Statics {
    known: Mutex<FilesAndMirrors>,
    changed: Arc<Notify>,
    are_read: AtomicBool,
}

impl Statics {
    /// The files were read once: before, nobody knows which pods they want.
    pub fn are_read(&self) -> bool {
        self.are_read.load(Ordering::Acquire)
    }
}

#[derive(Debug, Default)]
struct FilesAndMirrors {
    /// What the files say.
    wanted: ByName,
    /// What the API shows.
    mirrors: ByName,
}

fn name(pod: &Pod) -> (String, String) {
    (spec::namespace(pod).to_owned(), spec::name(pod).to_owned())
}

/// Whether a handle is a static pod's that is not at its end.
fn lives(handle: &Handle) -> bool {
    handle.desired.borrow().is_static() && !handle.task.is_finished()
}

impl Pods {
    /// These are what the files say.
    pub fn set_static(self: &Arc<Self>, wanted: ByName) {
        self.statics.known.lock().wanted = wanted;
        self.sync_static();
        self.statics.are_read.store(true, Ordering::Release);
    }

    /// A pod of a file waits for the end of one that has its name.
    pub fn awaits_the_end_of_a_static_pod(&self) -> bool {
        let wanted = self.statics.known.lock().wanted.clone();
        let handles = self.handles.lock();
        let runs = |pod: &Arc<Pod>| {
            let handle = handles.get(spec::uid(pod));
            handle.is_some_and(|h| lives(h) && !h.desired.borrow().gone)
        };
        wanted.values().any(|pod| !runs(pod))
    }

    /// What the files want and the API shows, by name.
    pub fn mirrors(&self) -> Vec<Pair> {
        let known = self.statics.known.lock();
        let mut names: Vec<_> = known.wanted.keys().chain(known.mirrors.keys()).collect();
        names.sort();
        names.dedup();
        let of = |name| {
            (
                known.wanted.get(name).cloned(),
                known.mirrors.get(name).cloned(),
            )
        };
        names.into_iter().map(of).collect()
    }

    /// Tells that mirrors should be looked at.
    pub fn static_changes(&self) -> Arc<Notify> {
        self.statics.changed.clone()
    }

    /// Takes what the API shows of a mirror; false for any other pod.
    pub(super) fn take_mirror(self: &Arc<Self>, change: &Change<Pod>) -> bool {
        let any = change.new.as_ref().or(change.old.as_ref());
        if !any.is_some_and(|pod| is_mirror(pod)) {
            return false;
        }
        // An ordinary pod may have had its name, while the watch was away.
        let left = change.old.as_ref().filter(|old| !is_mirror(old));
        if let Some(old) = left {
            self.gone(spec::uid(old));
        }
        {
            let mut known = self.statics.known.lock();
            match (&change.new, any) {
                (Some(new), _) => drop(known.mirrors.insert(name(new), new.clone())),
                (None, Some(old)) => drop(known.mirrors.remove(&name(old))),
                (None, None) => {}
            }
        }
        self.sync_static();
        true
    }

    /// Ends what no file wants any more, starts what has no pod yet, and passes on what the API
    /// shows of each.
    fn sync_static(self: &Arc<Self>) {
        let (wanted, mirrors) = {
            let known = self.statics.known.lock();
            (known.wanted.clone(), known.mirrors.clone())
        };
        let unwanted: Vec<String> = {
            let handles = self.handles.lock();
            let all = handles.iter();
            let all = all.filter(|(_, h)| lives(h) && !h.desired.borrow().gone);
            let unwanted = all.filter(|(uid, _)| wanted.values().all(|p| spec::uid(p) != *uid));
            unwanted.map(|(uid, _)| uid.clone()).collect()
        };
        for uid in unwanted {
            self.gone(&uid);
        }
        let mut handles = self.handles.lock();
        for (name_of, pod) in &wanted {
            let mirror = mirrors.get(name_of).filter(|m| shows(m, pod)).cloned();
            let mut same_name = handles.iter().filter(|(_, h)| lives(h));
            let holder = same_name.find(|(_, h)| name(&h.desired.borrow().pod) == *name_of);
            match holder {
                None => {
                    let origin = Origin::File { mirror };
                    let handle = worker::start(self.deps.clone(), pod.clone(), origin);
                    handles.insert(spec::uid(pod).to_owned(), handle);
                }
                Some((uid, handle)) if uid == spec::uid(pod) => {
                    handle.desired.send_if_modified(|d| {
                        let origin = Origin::File { mirror };
                        let changed = !d.gone && (d.origin != origin || d.pod != *pod);
                        if changed {
                            d.origin = origin;
                            d.pod = pod.clone();
                        }
                        changed
                    });
                }
                // That of the file before; this one is started when it has ended.
                Some(_) => {}
            }
        }
        drop(handles);
        self.statics.changed.notify_one();
    }
}
