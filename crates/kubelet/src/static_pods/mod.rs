//! Static pods: pods that the node runs because files of its own say so, whether or not an API server
//! can be reached. Their folder is read when it changes, and now and then anyhow. What each file
//! means is decided in [`manifest`]; so that people see them, each has a mirror in the API
//! ([`mirror`]).

pub mod manifest;
pub mod mirror;

use crate::pod::deps::Deps;
use crate::pod::manager::Pods;
use futures::StreamExt;
use inotify::{Inotify, WatchMask};
use k8s_openapi::api::core::v1::Pod;
use manifest::{Source, identify};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The most bytes of a manifest; upstream's.
const MOST_BYTES: u64 = 10 << 20;
/// The most files of a folder. 1024: ten times what a node runs.
const MOST_FILES: usize = 1024;
/// Several events in a row are one look.
const SETTLE: Duration = Duration::from_millis(50);
/// Between looks whether a pod of an older file has ended, whose name a new one waits for.
const AWAIT_END: Duration = Duration::from_millis(500);

/// Brings the pods in line with the files as long as the kubelet runs. What there is when the kubelet
/// starts must have been read before ([`read`]).
pub async fn run(deps: Arc<Deps>, pods: Arc<Pods>) {
    let Some(source) = deps.config.static_pods.clone() else {
        return std::future::pending().await;
    };
    tokio::join!(follow(&deps, &pods, &source), mirror::run(&deps, &pods));
}

async fn follow(deps: &Deps, pods: &Arc<Pods>, source: &Source) {
    let mut events = None;
    loop {
        if events.is_none() {
            // What is not there yet may come.
            events = watch(&source.path).ok();
            read(deps, pods, source);
        }
        let pause = if pods.awaits_the_end_of_a_static_pod() {
            AWAIT_END.min(source.period)
        } else {
            source.period
        };
        let event = async {
            match &mut events {
                Some(all) => {
                    if all.next().await.is_none() {
                        events = None;
                    }
                }
                None => std::future::pending().await,
            }
        };
        if tokio::time::timeout(pause, event).await.is_ok() {
            tokio::time::sleep(SETTLE).await;
        }
        if !source.path.exists() {
            // Another one of this name would not be watched.
            events = None;
        }
        read(deps, pods, source);
    }
}

fn watch(path: &Path) -> io::Result<inotify::EventStream<Vec<u8>>> {
    let inotify = Inotify::init()?;
    let mask = WatchMask::CREATE
        | WatchMask::DELETE
        | WatchMask::MOVED_TO
        | WatchMask::MOVED_FROM
        | WatchMask::CLOSE_WRITE
        | WatchMask::ATTRIB;
    inotify.watches().add(path, mask)?;
    inotify.into_event_stream(vec![0; 4096])
}

/// Reads all files, and makes the pods that they say the node's. Files that cannot be read now leave
/// their pods as they are.
pub fn read(deps: &Deps, pods: &Arc<Pods>, source: &Source) {
    let found = match all(source, &deps.config.node_name) {
        Ok(found) => found,
        Err(e) => {
            let path = source.path.display();
            tracing::warn!(%path, error = %e, "static pods cannot be read");
            return;
        }
    };
    pods.set_static(found);
}

/// The pods by namespace and name, each as the first file in the order of names says it.
type PodsByName = BTreeMap<(String, String), Arc<Pod>>;

fn all(source: &Source, node: &str) -> io::Result<PodsByName> {
    let mut found = PodsByName::new();
    for file in files(&source.path)? {
        let pod = match pod(source, &file, node) {
            Ok(Some(pod)) => pod,
            Ok(None) => continue,
            Err(error) => {
                let file = file.display();
                tracing::warn!(%file, error, "a manifest of a static pod is of no use");
                continue;
            }
        };
        let name = (
            crate::pod::spec::namespace(&pod).to_owned(),
            crate::pod::spec::name(&pod).to_owned(),
        );
        if found.contains_key(&name) {
            let file = file.display();
            tracing::warn!(%file, ?name, "another file has a static pod of this name");
            continue;
        }
        found.insert(name, Arc::new(pod));
    }
    Ok(found)
}

/// What is to be read: the file itself, or those of the folder, but for hidden ones. A path that is
/// not there has none.
fn files(path: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => return Ok(vec![path.to_owned()]),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut out = Vec::new();
    for entry in entries {
        let entry = entry?;
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        if !hidden {
            out.push(entry.path());
        }
    }
    out.sort();
    if out.len() > MOST_FILES {
        return Err(io::Error::other(format!(
            "there are more than {MOST_FILES} files"
        )));
    }
    Ok(out)
}

/// The pod of a file; none for a folder, and for a file that is gone again.
fn pod(source: &Source, file: &Path, node: &str) -> Result<Option<Pod>, String> {
    use std::io::Read;
    let open = match std::fs::File::open(file) {
        Ok(open) => open,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e.to_string()),
    };
    let meta = open.metadata().map_err(|e| e.to_string())?;
    if meta.is_dir() {
        return Ok(None);
    }
    if !meta.is_file() || meta.len() > MOST_BYTES {
        return Err(format!(
            "it is not an ordinary file of at most {MOST_BYTES} bytes"
        ));
    }
    let mut bytes = Vec::new();
    let read = open.take(MOST_BYTES).read_to_end(&mut bytes);
    read.map_err(|e| e.to_string())?;
    let (pod, warnings) = (source.read)(&bytes)?;
    for warning in warnings {
        tracing::warn!(file = %file.display(), warning, "a manifest of a static pod");
    }
    let pod: Pod = serde_json::from_value(pod).map_err(|e| e.to_string())?;
    Ok(Some(identify(pod, file, node)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::spec;
    use std::fs;

    fn source(path: &Path) -> Source {
        Source {
            path: path.to_owned(),
            period: Duration::from_secs(20),
            read: |bytes| {
                let pod = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
                Ok((pod, Vec::new()))
            },
        }
    }

    fn manifest(name: &str, image: &str) -> String {
        format!(
            r#"{{"metadata":{{"name":"{name}"}},"spec":{{"containers":[{{"name":"a","image":"{image}"}}]}}}}"#
        )
    }

    #[test]
    fn each_file_is_a_pod_of_the_node() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        put("b.json", &manifest("web", "one"));
        put("c.json", &manifest("web", "two"));
        put("d.json", "no manifest");
        put(".hidden", &manifest("hidden", "one"));
        fs::create_dir(dir.path().join("folder")).unwrap();
        let source = source(dir.path());
        let found = all(&source, "Node-1").unwrap();
        let name = ("default".to_owned(), "web-node-1".to_owned());
        assert_eq!(found.keys().collect::<Vec<_>>(), [&name]);
        let first = found.get(&name).unwrap();
        let image = spec::containers(first).first().unwrap().image.clone();
        assert_eq!(image.as_deref(), Some("one"));
        // What says the same is the same pod; what says something else is another one.
        assert_eq!(all(&source, "Node-1").unwrap(), found);
        put("b.json", &manifest("web", "three"));
        let changed = all(&source, "Node-1").unwrap();
        assert_ne!(spec::uid(changed.get(&name).unwrap()), spec::uid(first));
    }

    #[test]
    fn a_single_file_is_read_and_none_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pod.json");
        assert!(all(&source(&file), "n").unwrap().is_empty());
        fs::write(&file, manifest("web", "one")).unwrap();
        assert_eq!(all(&source(&file), "n").unwrap().len(), 1);
    }
}
