//! The environment of a container: from objects, fields, services and `$(NAME)` references.
//! Pure; objects and files are read before.

use super::{envfile, spec};
use crate::objects::{Data, Key, ObjectKind};
use crate::quantity;
use k8s_openapi::api::core::v1::{
    Container, EnvVarSource, FileKeySelector, Pod, ResourceFieldSelector, Service,
};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// What was found of all that environments name.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// Objects by key; one that is missing is an error only where it is used.
    pub objects: HashMap<Key, Arc<Data>>,
    /// Files of volumes, by volume and path inside it.
    pub files: HashMap<(String, String), EnvFile>,
}

/// A file that variables are read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EnvFile {
    /// The pod has no such volume.
    NoVolume,
    /// It could not be read; why is for the node's log alone.
    Unreadable,
    /// It is here.
    File {
        /// Where, on the host.
        path: String,
        /// What it says.
        text: String,
    },
}

/// Volumes and paths of the files that a container's variables are read from.
#[must_use]
pub fn files_of(container: &Container) -> Vec<(String, String)> {
    let variables = container.env.iter().flatten();
    let selectors = variables.filter_map(|v| v.value_from.as_ref()?.file_key_ref.as_ref());
    selectors
        .map(|f| (f.volume_name.clone(), f.path.clone()))
        .collect()
}

/// What fields may refer to beside the pod.
#[derive(Clone, Debug, Default)]
pub struct Around {
    /// Addresses of the pod.
    pub pod_ips: Vec<String>,
    /// Addresses of the node.
    pub host_ips: Vec<String>,
    /// Name of the node.
    pub node_name: String,
    /// CPU that pods can have in thousandths: the value of a limit that is not set.
    pub allocatable_cpu_millis: i64,
    /// Memory that pods can have in bytes.
    pub allocatable_memory_bytes: i64,
    /// Local storage that pods can have in bytes.
    pub allocatable_storage_bytes: i64,
}

/// Why an environment cannot be made: the container waits with CreateContainerConfigError.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(pub String);

/// Name and value pairs in order, the last of a name counting.
pub fn environment(
    pod: &Pod,
    container: &Container,
    sources: &Sources,
    services: &[Arc<Service>],
    around: &Around,
) -> Result<Vec<(String, String)>, Error> {
    let mut out = Ordered::default();
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        if let Some(r) = &from.config_map_ref {
            add_all(
                &mut out,
                pod,
                ObjectKind::ConfigMap,
                &r.name,
                r.optional,
                prefix,
                sources,
            )?;
        }
        if let Some(r) = &from.secret_ref {
            add_all(
                &mut out,
                pod,
                ObjectKind::Secret,
                &r.name,
                r.optional,
                prefix,
                sources,
            )?;
        }
    }
    let links = spec::of(pod).enable_service_links.unwrap_or(true);
    let service_vars = service_variables(spec::namespace(pod), links, services);
    for var in container.env.iter().flatten() {
        let value = match (&var.value, &var.value_from) {
            (Some(text), _) if !text.is_empty() => Some(expand(text, |name| {
                out.get(name).or_else(|| service_vars.get(name).cloned())
            })),
            (_, Some(from)) => from_source(pod, container, from, sources, around)?,
            _ => Some(String::new()),
        };
        if let Some(value) = value {
            out.set(&var.name, value);
        }
    }
    for (name, value) in service_vars {
        if out.get(&name).is_none() {
            out.set(&name, value);
        }
    }
    Ok(out.list)
}

/// A list whose names are unique.
#[derive(Default)]
struct Ordered {
    list: Vec<(String, String)>,
}

impl Ordered {
    fn get(&self, name: &str) -> Option<String> {
        self.list
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, v)| v.clone())
    }
    fn set(&mut self, name: &str, value: String) {
        match self.list.iter_mut().find(|(n, _)| n == name) {
            Some(entry) => entry.1 = value,
            None => self.list.push((name.to_owned(), value)),
        }
    }
}

fn add_all(
    out: &mut Ordered,
    pod: &Pod,
    kind: ObjectKind,
    name: &str,
    optional: Option<bool>,
    prefix: &str,
    sources: &Sources,
) -> Result<(), Error> {
    let Some(data) = find(pod, kind, name, sources) else {
        return if optional == Some(true) {
            Ok(())
        } else {
            Err(not_found(kind, name))
        };
    };
    for (key, value) in &data.values {
        out.set(
            &format!("{prefix}{key}"),
            String::from_utf8_lossy(value).into_owned(),
        );
    }
    Ok(())
}

fn find<'a>(
    pod: &Pod,
    kind: ObjectKind,
    name: &str,
    sources: &'a Sources,
) -> Option<&'a Arc<Data>> {
    let namespace = spec::namespace(pod).to_owned();
    sources.objects.get(&Key {
        kind,
        namespace,
        name: name.to_owned(),
    })
}

fn not_found(kind: ObjectKind, name: &str) -> Error {
    Error(match kind {
        ObjectKind::ConfigMap => format!("configmap \"{name}\" not found"),
        ObjectKind::Secret => format!("secret \"{name}\" not found"),
    })
}

fn from_source(
    pod: &Pod,
    container: &Container,
    from: &EnvVarSource,
    sources: &Sources,
    around: &Around,
) -> Result<Option<String>, Error> {
    if let Some(r) = &from.field_ref {
        return field(pod, &r.field_path, around).map(Some);
    }
    if let Some(r) = &from.resource_field_ref {
        return resource(pod, container, r, around).map(Some);
    }
    if let Some(r) = &from.config_map_key_ref {
        return key_of(
            pod,
            ObjectKind::ConfigMap,
            &r.name,
            &r.key,
            r.optional,
            sources,
        );
    }
    if let Some(r) = &from.secret_key_ref {
        return key_of(
            pod,
            ObjectKind::Secret,
            &r.name,
            &r.key,
            r.optional,
            sources,
        );
    }
    if let Some(selector) = &from.file_key_ref {
        return in_file(selector, sources);
    }
    Ok(None)
}

/// A variable in a file of a volume; messages are upstream's.
fn in_file(selector: &FileKeySelector, sources: &Sources) -> Result<Option<String>, Error> {
    let place = (selector.volume_name.clone(), selector.path.clone());
    let unparsed = || Error("couldn't parse env file".into());
    let (path, text) = match sources.files.get(&place) {
        None | Some(EnvFile::NoVolume) => {
            return Err(Error(format!(
                "cannot find the volume {:?} referenced by FileKeyRef",
                selector.volume_name
            )));
        }
        Some(EnvFile::Unreadable) => return Err(unparsed()),
        Some(EnvFile::File { path, text }) => (path, text),
    };
    match envfile::value(text, &selector.key) {
        Ok(Some(value)) => Ok(Some(value)),
        Ok(None) if selector.optional == Some(true) => Ok(None),
        Ok(None) => Err(Error(format!(
            "environment variable key {:?} not found in file {path:?}",
            selector.key
        ))),
        Err(e) => {
            tracing::debug!(file = path, error = %e, "a file of variables is not one");
            Err(unparsed())
        }
    }
}

fn key_of(
    pod: &Pod,
    kind: ObjectKind,
    name: &str,
    key: &str,
    optional: Option<bool>,
    sources: &Sources,
) -> Result<Option<String>, Error> {
    let optional = optional == Some(true);
    let Some(data) = find(pod, kind, name, sources) else {
        return if optional {
            Ok(None)
        } else {
            Err(not_found(kind, name))
        };
    };
    match data.values.get(key) {
        Some(value) => Ok(Some(String::from_utf8_lossy(value).into_owned())),
        None if optional => Ok(None),
        None => {
            let what = match kind {
                ObjectKind::ConfigMap => "ConfigMap",
                ObjectKind::Secret => "Secret",
            };
            Err(Error(format!(
                "couldn't find key {key} in {what} {}/{name}",
                spec::namespace(pod)
            )))
        }
    }
}

/// A field of the pod by its path, as downward API and environment name it.
pub fn field(pod: &Pod, path: &str, around: &Around) -> Result<String, Error> {
    if let Some((map, key)) = path.strip_suffix("']").and_then(|p| p.split_once("['")) {
        let from = match map {
            "metadata.labels" => &pod.metadata.labels,
            "metadata.annotations" => &pod.metadata.annotations,
            _ => return Err(Error(format!("unsupported fieldPath: {path}"))),
        };
        return Ok(from
            .as_ref()
            .and_then(|m| m.get(key))
            .cloned()
            .unwrap_or_default());
    }
    let text = match path {
        "metadata.name" => spec::name(pod).to_owned(),
        "metadata.namespace" => spec::namespace(pod).to_owned(),
        "metadata.uid" => spec::uid(pod).to_owned(),
        "metadata.labels" => quoted(pod.metadata.labels.as_ref()),
        "metadata.annotations" => quoted(pod.metadata.annotations.as_ref()),
        "spec.nodeName" => around.node_name.clone(),
        "spec.serviceAccountName" => spec::of(pod)
            .service_account_name
            .clone()
            .unwrap_or_else(|| "default".into()),
        "status.hostIP" => around.host_ips.first().cloned().unwrap_or_default(),
        "status.hostIPs" => around.host_ips.join(","),
        "status.podIP" => around.pod_ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => around.pod_ips.join(","),
        _ => return Err(Error(format!("unsupported fieldPath: {path}"))),
    };
    Ok(text)
}

/// A map as lines of `key="value"`, the value escaped as Go's %q does.
fn quoted(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<String> = map
        .into_iter()
        .flatten()
        .map(|(k, v)| format!("{k}={}", go_quote(v)))
        .collect();
    lines.join("\n")
}

fn go_quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A request or limit of a container, divided as asked and rounded up.
pub fn resource(
    pod: &Pod,
    own: &Container,
    selector: &ResourceFieldSelector,
    around: &Around,
) -> Result<String, Error> {
    let container = match selector.container_name.as_deref() {
        None | Some("") => own,
        Some(name) => spec::container(pod, name)
            .ok_or_else(|| Error(format!("container {name} not found")))?,
    };
    let resources = container.resources.clone().unwrap_or_default();
    let (requests, limits) = (resources.requests.as_ref(), resources.limits.as_ref());
    let divisor = selector.divisor.as_ref().map_or("0", |d| d.0.as_str());
    let divide = |value: i64, by: i64| {
        let (value, by) = (i128::from(value), i128::from(by.max(1)));
        (value.div_euclid(by) + i128::from(value.rem_euclid(by) != 0)).to_string()
    };
    let cpu = |millis: i64| {
        let by = quantity::millis(divisor).filter(|d| *d > 0).unwrap_or(1000);
        divide(millis, by)
    };
    let bytes = |value: i64| {
        let by = quantity::units(divisor).filter(|d| *d > 0).unwrap_or(1);
        divide(value, by)
    };
    let of_pod = spec::of(pod).resources.as_ref();
    let of_pod = of_pod.and_then(|r| r.limits.as_ref());
    // What nothing limits is limited by what pods can have.
    let limit = |own: Option<i64>, of_pod: Option<i64>, all: i64| {
        let set = |v: &i64| *v > 0;
        own.filter(set).or(of_pod.filter(set)).unwrap_or(all)
    };
    Ok(match selector.resource.as_str() {
        "limits.cpu" => cpu(limit(
            quantity::cpu_millis(limits),
            quantity::cpu_millis(of_pod),
            around.allocatable_cpu_millis,
        )),
        "limits.memory" => bytes(limit(
            quantity::amount(limits, "memory"),
            quantity::amount(of_pod, "memory"),
            around.allocatable_memory_bytes,
        )),
        "requests.cpu" => cpu(quantity::cpu_millis(requests).unwrap_or(0)),
        "requests.memory" => bytes(quantity::amount(requests, "memory").unwrap_or(0)),
        "limits.ephemeral-storage" => bytes(limit(
            quantity::amount(limits, "ephemeral-storage"),
            None,
            around.allocatable_storage_bytes,
        )),
        "requests.ephemeral-storage" => {
            bytes(quantity::amount(requests, "ephemeral-storage").unwrap_or(0))
        }
        other => {
            let (list, name) = match other.split_once('.') {
                Some(("requests", name)) => (requests, name),
                Some(("limits", name)) => (limits, name),
                _ => (None, ""),
            };
            if !name.starts_with("hugepages-") {
                return Err(Error(format!("unsupported container resource : {other}")));
            }
            bytes(quantity::amount(list, name).unwrap_or(0))
        }
    })
}

/// Replaces `$(NAME)` where the name is known; `$$` is a dollar.
pub fn expand(text: &str, known: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|r| r.split_once(')')) {
            match known(name) {
                Some(value) => out.push_str(&value),
                None => out.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

/// The variables of services: those of the pod's namespace, and always the API server's.
fn service_variables(
    namespace: &str,
    links: bool,
    services: &[Arc<Service>],
) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    for service in services {
        let (name, of) = (
            service.metadata.name.as_deref().unwrap_or_default(),
            service.metadata.namespace.as_deref().unwrap_or_default(),
        );
        let is_api = of == "default" && name == "kubernetes";
        if !(is_api || links && of == namespace) {
            continue;
        }
        let Some(spec) = &service.spec else { continue };
        let Some(ip) = spec
            .cluster_ip
            .as_deref()
            .filter(|ip| !ip.is_empty() && *ip != "None")
        else {
            continue;
        };
        let prefix = name.to_uppercase().replace('-', "_");
        let host = if ip.contains(':') {
            format!("[{ip}]")
        } else {
            ip.to_owned()
        };
        for (i, port) in spec.ports.iter().flatten().enumerate() {
            let number = port.port;
            let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".into());
            let url = format!("{}://{host}:{number}", protocol.to_lowercase());
            if i == 0 {
                out.insert(format!("{prefix}_SERVICE_HOST"), ip.to_owned());
                out.insert(format!("{prefix}_SERVICE_PORT"), number.to_string());
                out.insert(format!("{prefix}_PORT"), url.clone());
            }
            if let Some(port_name) = port.name.as_deref().filter(|n| !n.is_empty()) {
                let port_name = port_name.to_uppercase().replace('-', "_");
                out.insert(
                    format!("{prefix}_SERVICE_PORT_{port_name}"),
                    number.to_string(),
                );
            }
            let base = format!("{prefix}_PORT_{number}_{}", protocol.to_uppercase());
            out.insert(format!("{base}_PROTO"), protocol.to_lowercase());
            out.insert(format!("{base}_PORT"), number.to_string());
            out.insert(format!("{base}_ADDR"), ip.to_owned());
            out.insert(base, url);
        }
    }
    out
}

#[cfg(test)]
mod tests;
