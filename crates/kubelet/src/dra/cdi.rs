//! What a device's name in CDI stands for, on runtimes that do not know CDI: the description that its
//! driver wrote is read, and the container is asked for with what it says. What cannot be said to a
//! runtime from outside, such as hooks, is an error: a container that would lack half of its device
//! does not start.

use host::runtime::{ContainerSpec, Device, Mount, Version};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Where descriptions lie; what is said in the last folder goes first.
pub const FOLDERS: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];
/// The most bytes of a description. 1 MiB: some hundred devices.
const MOST_BYTES: u64 = 1 << 20;
/// The most descriptions in a folder.
const MOST_FILES: usize = 1000;

/// Whether a runtime gives containers devices by their names. containerd does so by itself since 2.0.
#[must_use]
pub fn is_known_to(runtime: &Version) -> bool {
    let major = runtime.version.trim_start_matches('v').split('.').next();
    let major: Option<u32> = major.and_then(|m| m.parse().ok());
    runtime.name != "containerd" || major.is_some_and(|m| m >= 2)
}

/// A description, as its format has it.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Description {
    kind: String,
    devices: Vec<Named>,
    container_edits: Edits,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Named {
    name: String,
    container_edits: Edits,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Edits {
    env: Vec<String>,
    device_nodes: Vec<Node>,
    mounts: Vec<Bound>,
    hooks: Vec<serde_json::Value>,
    additional_gids: Vec<u32>,
    intel_rdt: Option<serde_json::Value>,
    net_devices: Vec<serde_json::Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Node {
    path: String,
    host_path: String,
    permissions: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Bound {
    host_path: String,
    container_path: String,
    options: Vec<String>,
}

/// Puts into a container's specification what the names in it stand for, in their place.
pub fn resolve(spec: &mut ContainerSpec, folders: &[PathBuf]) -> Result<(), String> {
    if spec.cdi_devices.is_empty() {
        return Ok(());
    }
    let all = read(folders);
    let mut whole = BTreeSet::new();
    for name in std::mem::take(&mut spec.cdi_devices) {
        let unresolvable = || format!("unresolvable CDI device {name}");
        let (kind, device) = name.split_once('=').ok_or_else(unresolvable)?;
        let of_kind = all.iter().enumerate().filter(|(_, d)| d.kind == kind);
        let mut found = of_kind.filter_map(|(at, description)| {
            let mut devices = description.devices.iter();
            Some((at, description, devices.find(|d| d.name == device)?))
        });
        let (at, description, device) = found.next_back().ok_or_else(unresolvable)?;
        apply(&device.container_edits, spec).map_err(|e| format!("CDI device {name}: {e}"))?;
        // What all devices of a description need is needed once.
        if whole.insert(at) {
            let edits = &description.container_edits;
            apply(edits, spec).map_err(|e| format!("CDI device {name}: {e}"))?;
        }
    }
    Ok(())
}

fn apply(edits: &Edits, spec: &mut ContainerSpec) -> Result<(), String> {
    let beyond = [
        ("hooks", edits.hooks.is_empty()),
        ("intelRdt", edits.intel_rdt.is_none()),
        ("netDevices", edits.net_devices.is_empty()),
    ];
    if let Some((what, _)) = beyond.iter().find(|(_, none)| !none) {
        return Err(format!(
            "its description has {what}, which this container runtime knows nothing of"
        ));
    }
    for variable in &edits.env {
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        spec.env.retain(|(known, _)| known != name);
        spec.env.push((name.to_owned(), value.to_owned()));
    }
    for node in &edits.device_nodes {
        let from = [&node.host_path, &node.path];
        let from = from.into_iter().find(|p| !p.is_empty());
        let permissions = Some(node.permissions.as_str()).filter(|p| !p.is_empty());
        spec.devices.retain(|d| d.container_path != node.path);
        spec.devices.push(Device {
            container_path: node.path.clone(),
            host_path: from.cloned().unwrap_or_default(),
            permissions: permissions.unwrap_or("rwm").to_owned(),
        });
    }
    for bound in &edits.mounts {
        spec.mounts
            .retain(|m| m.container_path != bound.container_path);
        spec.mounts.push(Mount {
            container_path: bound.container_path.clone(),
            host_path: bound.host_path.clone(),
            read_only: bound.options.iter().any(|o| o == "ro"),
            ..Mount::default()
        });
    }
    let groups = &mut spec.security.common.more_groups;
    for gid in edits.additional_gids.iter().map(|g| i64::from(*g)) {
        if !groups.contains(&gid) {
            groups.push(gid);
        }
    }
    Ok(())
}

/// All descriptions, in the order of their folders and names. One that cannot be read is left out,
/// as other runtimes do: its devices are unknown.
fn read(folders: &[PathBuf]) -> Vec<Description> {
    let mut out = Vec::new();
    for folder in folders {
        let mut files = crate::folder::entries_or_none(folder);
        files.truncate(MOST_FILES);
        files.retain(|f| {
            let end = f.extension().and_then(|e| e.to_str());
            matches!(end, Some("json" | "yaml"))
        });
        for file in files {
            match one(&file) {
                Ok(description) => out.push(description),
                Err(e) => {
                    tracing::warn!(file = %file.display(), error = %e, "a description of CDI devices cannot be read");
                }
            }
        }
    }
    out
}

fn one(file: &Path) -> io::Result<Description> {
    let mut text = String::new();
    let file = std::fs::File::open(file)?;
    file.take(MOST_BYTES).read_to_string(&mut text)?;
    // JSON is YAML.
    serde_norway::from_str(&text).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_what_their_driver_wrote() {
        let dir = tempfile::tempdir().unwrap();
        let folders = ["etc", "run"].map(|n| dir.path().join(n));
        for folder in &folders {
            std::fs::create_dir(folder).unwrap();
        }
        std::fs::write(
            folders[0].join("a.json"),
            r#"{"cdiVersion":"0.5.0","kind":"v.io/c","devices":[
                {"name":"one","containerEdits":{"env":["WHO=old"]}},
                {"name":"hooked","containerEdits":{"hooks":[{"hookName":"createContainer","path":"/x"}]}}]}"#,
        )
        .unwrap();
        std::fs::write(
            folders[1].join("b.yaml"),
            "cdiVersion: 0.5.0\nkind: v.io/c\ncontainerEdits:\n  env: [ALL=1]\ndevices:\n- name: one\n  \
             containerEdits:\n    env: [WHO=new]\n    additionalGids: [7]\n    deviceNodes:\n    - path: /dev/x\n      \
             hostPath: /dev/null\n    mounts:\n    - hostPath: /h\n      containerPath: /c\n      options: [ro, bind]\n",
        )
        .unwrap();
        std::fs::write(folders[1].join("c.yaml"), "kind: [").unwrap();
        let mut spec = ContainerSpec {
            cdi_devices: vec!["v.io/c=one".into()],
            env: vec![("WHO".into(), "own".into())],
            ..ContainerSpec::default()
        };
        resolve(&mut spec, &folders).unwrap();
        let text = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(spec.env, [text("WHO", "new"), text("ALL", "1")]);
        assert!(spec.cdi_devices.is_empty());
        let device = &spec.devices[0];
        assert_eq!(
            (device.host_path.as_str(), device.permissions.as_str()),
            ("/dev/null", "rwm")
        );
        assert!(spec.mounts[0].read_only && spec.mounts[0].host_path == "/h");
        assert_eq!(spec.security.common.more_groups, [7]);
        for (name, why) in [("v.io/c=two", "unresolvable"), ("v.io/c=hooked", "hooks")] {
            let mut spec = ContainerSpec {
                cdi_devices: vec![name.into()],
                ..ContainerSpec::default()
            };
            let error = resolve(&mut spec, &folders).unwrap_err();
            assert!(error.contains(why) && error.contains(name), "{error}");
        }
    }

    #[test]
    fn newer_runtimes_know_the_names() {
        let known = |name: &str, version: &str| {
            is_known_to(&Version {
                name: name.into(),
                version: version.into(),
            })
        };
        assert!(!known("containerd", "1.6.20~ds1") && !known("containerd", "1.7.0"));
        assert!(known("containerd", "v2.0.0") && known("cri-o", "1.30.0"));
    }
}
