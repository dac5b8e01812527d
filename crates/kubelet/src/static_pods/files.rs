//! Which files say static pods, and which pods those are.

use super::manifest::{Source, identify};
use k8s_openapi::api::core::v1::Pod;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The most bytes of a manifest; upstream's.
const MOST_BYTES: u64 = 10 << 20;
/// The most files of a folder. 1024: ten times what a node runs.
const MOST_FILES: usize = 1024;

/// The pods by namespace and name, each as the first file in the order of names says it.
pub type PodsByName = BTreeMap<(String, String), Arc<Pod>>;

/// The pods that all files say, those of no use left out.
pub fn all(source: &Source, node: &str) -> io::Result<PodsByName> {
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
    // Before it is opened: a pipe would be waited for until somebody writes into it.
    let meta = match std::fs::metadata(file) {
        Ok(meta) => meta,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e.to_string()),
    };
    if meta.is_dir() {
        return Ok(None);
    }
    if !meta.is_file() || meta.len() > MOST_BYTES {
        return Err(format!(
            "it is not an ordinary file of at most {MOST_BYTES} bytes"
        ));
    }
    let open = match std::fs::File::open(file) {
        Ok(open) => open,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e.to_string()),
    };
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
    use std::time::Duration;

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
        let mut pipe = std::process::Command::new("mkfifo");
        let made = pipe.arg(dir.path().join("e.json")).status().unwrap();
        assert!(made.success());
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
