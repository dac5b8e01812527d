//! The file of `--admission-control-config-file`: the configuration of single plugins. Read strictly, since
//! a field that is ignored would be a rule that is not applied.

use std::collections::BTreeMap;

use podsecurity::{Level, Policy, Standard, Version};
use quota::{Limited, Scope};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::event_rate::{Limit, Shared};
use super::{Options, node_selector, plugin_order, pod_security, toleration_lists};

/// What is wrong with the file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigurationError {
    #[error(
        "{kind:?} of version {version:?} is no AdmissionConfiguration of apiserver.config.k8s.io/v1"
    )]
    Kind { kind: String, version: String },
    #[error("plugins[{0}]: a plugin is configured by its configuration or by a path, not by both")]
    Both(usize),
    #[error("plugins[{n}]: admission plugin {name:?} is unknown")]
    Unknown { n: usize, name: String },
    #[error("plugins[{n}]: admission plugin {name:?} takes no configuration")]
    Needless { n: usize, name: String },
    #[error("admission plugin {name}: {why}")]
    Plugin { name: String, why: String },
    #[error("{0}")]
    Form(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    plugins: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Entry {
    name: String,
    #[serde(default)]
    path: String,
    #[serde(default)]
    configuration: Value,
}

/// The value of a YAML or JSON file.
pub fn parse(bytes: &[u8]) -> Result<Value, String> {
    let read = schema::decode::yaml(bytes).map_err(|e| e.to_string())?;
    match read.problems.first() {
        Some(problem) => Err(problem.to_string()),
        None => Ok(read.value),
    }
}

/// Reads the file into the options; `file` reads another one, by its path in this one.
pub fn read(
    options: &mut Options,
    document: Value,
    file: impl Fn(&str) -> Result<Value, String>,
) -> Result<(), ConfigurationError> {
    let document: Document =
        serde_json::from_value(document).map_err(|e| ConfigurationError::Form(e.to_string()))?;
    let versions = [
        "apiserver.config.k8s.io/v1",
        "apiserver.k8s.io/v1alpha1",
        "apiserver.config.k8s.io/v1alpha1",
    ];
    if document.kind != "AdmissionConfiguration" || !versions.contains(&&*document.api_version) {
        let (kind, version) = (document.kind, document.api_version);
        return Err(ConfigurationError::Kind { kind, version });
    }
    for (n, entry) in document.plugins.into_iter().enumerate() {
        let name = entry.name;
        if !plugin_order::is_known(&name) {
            return Err(ConfigurationError::Unknown { n, name });
        }
        let wrong = |why: String| ConfigurationError::Plugin {
            name: name.clone(),
            why,
        };
        let configuration = match (entry.path.as_str(), entry.configuration) {
            ("", configuration) => configuration,
            (path, Value::Null) => file(path).map_err(wrong)?,
            _ => return Err(ConfigurationError::Both(n)),
        };
        let taken = plugin(options, &name, configuration);
        match taken.map_err(wrong)? {
            true => {}
            false => return Err(ConfigurationError::Needless { n, name }),
        }
    }
    Ok(())
}

/// Whether a plugin takes a configuration at all.
fn plugin(options: &mut Options, name: &str, value: Value) -> Result<bool, String> {
    match name {
        _ if value.is_null() => {}
        "PodSecurity" => options.pod_security = pod_security(value)?,
        "ResourceQuota" => options.limited = limited(value)?,
        "EventRateLimit" => options.event_limits = event_limits(value)?,
        "PodNodeSelector" => options.node_selectors = node_selectors(value)?,
        "PodTolerationRestriction" => options.tolerations = tolerations(value)?,
        _ => return Ok(false),
    }
    Ok(true)
}

/// A configuration without its kind and version, which must be among these.
fn body<T: DeserializeOwned>(mut value: Value, known: &[(&str, &[&str])]) -> Result<T, String> {
    let members = value.as_object_mut().ok_or("it is not an object")?;
    let mut take = |field: &str| match members.remove(field) {
        Some(Value::String(text)) => text,
        _ => String::new(),
    };
    let (version, kind) = (take("apiVersion"), take("kind"));
    let is = |(k, versions): &(&str, &[&str])| *k == kind && versions.contains(&&*version);
    if !known.iter().any(is) {
        return Err(format!(
            "no kind {kind:?} is registered for version {version:?}"
        ));
    }
    serde_json::from_value(value).map_err(|e| e.to_string())
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct PodSecurityConfiguration {
    defaults: Defaults,
    exemptions: Exemptions,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct Defaults {
    enforce: String,
    enforce_version: String,
    audit: String,
    audit_version: String,
    warn: String,
    warn_version: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Exemptions {
    usernames: Vec<String>,
    namespaces: Vec<String>,
    runtime_classes: Vec<String>,
}

fn pod_security(value: Value) -> Result<pod_security::Configuration, String> {
    let versions: &[&str] = &[
        "pod-security.admission.config.k8s.io/v1",
        "pod-security.admission.config.k8s.io/v1beta1",
        "pod-security.admission.config.k8s.io/v1alpha1",
    ];
    let read: PodSecurityConfiguration = body(value, &[("PodSecurityConfiguration", versions)])?;
    let standard = |field: &str, level: &str, version: &str| {
        let level = match level {
            "" => Level::Privileged,
            text => Level::parse(text)
                .map_err(|why| format!("defaults.{field}: Invalid value: {text:?}: {why}"))?,
        };
        let version = match version {
            "" => Version::Latest,
            text => Version::parse(text).map_err(|why| {
                format!("defaults.{field}-version: Invalid value: {text:?}: {why}")
            })?,
        };
        Ok::<_, String>(Standard { level, version })
    };
    let d = &read.defaults;
    let defaults = Policy {
        enforce: standard("enforce", &d.enforce, &d.enforce_version)?,
        audit: standard("audit", &d.audit, &d.audit_version)?,
        warn: standard("warn", &d.warn, &d.warn_version)?,
    };
    let exempt = read.exemptions;
    each_once("usernames", &exempt.usernames, |name| {
        name.is_empty()
            .then(|| "username must not be empty".to_owned())
    })?;
    let joined = |wrong: Vec<String>| (!wrong.is_empty()).then(|| wrong.join(", "));
    each_once("namespaces", &exempt.namespaces, |name| {
        joined(api::names::is_dns1123_label(name))
    })?;
    each_once("runtimeClasses", &exempt.runtime_classes, |name| {
        joined(api::names::is_dns1123_subdomain(name))
    })?;
    Ok(pod_security::Configuration {
        defaults,
        users: exempt.usernames,
        namespaces: exempt.namespaces,
        runtime_classes: exempt.runtime_classes,
    })
}

fn each_once(
    field: &str,
    all: &[String],
    wrong: impl Fn(&str) -> Option<String>,
) -> Result<(), String> {
    for (n, name) in all.iter().enumerate() {
        let path = format!("exemptions.{field}[{n}]");
        if let Some(why) = wrong(name) {
            return Err(format!("{path}: Invalid value: {name:?}: {why}"));
        }
        if all.iter().take(n).any(|other| other == name) {
            return Err(format!("{path}: Duplicate value: {name:?}"));
        }
    }
    Ok(())
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct QuotaConfiguration {
    limited_resources: Vec<LimitedResource>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct LimitedResource {
    api_group: String,
    resource: String,
    match_contains: Vec<String>,
    match_scopes: Vec<Value>,
}

fn limited(value: Value) -> Result<Vec<Limited>, String> {
    let configuration: &[&str] = &[
        "resourcequota.admission.k8s.io/v1beta1",
        "resourcequota.admission.k8s.io/v1alpha1",
    ];
    let known: &[(&str, &[&str])] = &[
        (
            "ResourceQuotaConfiguration",
            &["apiserver.config.k8s.io/v1"],
        ),
        ("Configuration", configuration),
    ];
    let read: QuotaConfiguration = body(value, known)?;
    let mut all = Vec::new();
    for (n, one) in read.limited_resources.into_iter().enumerate() {
        if one.resource.is_empty() {
            return Err(format!("limitedResources[{n}].resource: Required value"));
        }
        all.push(Limited {
            group: one.api_group,
            resource: one.resource,
            contains: one.match_contains,
            scopes: one.match_scopes.iter().map(Scope::read).collect(),
        });
    }
    Ok(all)
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct EventConfiguration {
    limits: Vec<EventLimit>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct EventLimit {
    #[serde(rename = "type")]
    kind: String,
    qps: i32,
    burst: i32,
    cache_size: i32,
}

fn event_limits(value: Value) -> Result<Vec<Limit>, String> {
    let versions: &[&str] = &["eventratelimit.admission.k8s.io/v1alpha1"];
    let read: EventConfiguration = body(value, &[("Configuration", versions)])?;
    if read.limits.is_empty() {
        return Err("limits: Invalid value: []: must not be empty".to_owned());
    }
    let one = |(n, limit): (usize, EventLimit)| {
        let wrong = |field: &str, value: String, why: &str| {
            format!("limits[{n}].{field}: Invalid value: {value}: {why}")
        };
        let shared = Shared::parse(&limit.kind).ok_or_else(|| {
            let known = Shared::NAMES.map(|n| format!("{n:?}")).join(", ");
            let kind = &limit.kind;
            format!("limits[{n}].type: Unsupported value: {kind:?}: supported values: {known}")
        })?;
        let positive = |field: &str, value: i32| {
            let given = u32::try_from(value).ok().filter(|v| *v > 0);
            given.ok_or_else(|| wrong(field, value.to_string(), "must be positive"))
        };
        let (burst, per_second) = (positive("burst", limit.burst)?, positive("qps", limit.qps)?);
        let kept = usize::try_from(limit.cache_size).map_err(|_| {
            wrong(
                "cacheSize",
                limit.cache_size.to_string(),
                "must not be negative",
            )
        })?;
        Ok(Limit {
            shared,
            per_second,
            burst,
            kept,
        })
    };
    read.limits.into_iter().enumerate().map(one).collect()
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct SelectorConfiguration {
    pod_node_selector_plugin_config: BTreeMap<String, String>,
}

fn node_selectors(value: Value) -> Result<node_selector::Selectors, String> {
    let read: SelectorConfiguration = serde_json::from_value(value).map_err(|e| e.to_string())?;
    let mut all = BTreeMap::new();
    for (namespace, text) in read.pod_node_selector_plugin_config {
        let labels = node_selector::parse(&text).map_err(|why| format!("{namespace}: {why}"))?;
        all.insert(namespace, labels);
    }
    Ok(node_selector::Selectors {
        default: all.remove("clusterDefaultNodeSelector").unwrap_or_default(),
        allowed: all,
    })
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct TolerationConfiguration {
    default: Vec<Value>,
    whitelist: Vec<Value>,
}

fn tolerations(value: Value) -> Result<toleration_lists::Lists, String> {
    let versions: &[&str] = &["podtolerationrestriction.admission.k8s.io/v1alpha1"];
    let read: TolerationConfiguration = body(value, &[("Configuration", versions)])?;
    Ok(toleration_lists::Lists {
        default: read.default,
        allowed: read.whitelist,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn with(plugins: Value) -> Result<Options, String> {
        let document = json!({ "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AdmissionConfiguration", "plugins": plugins });
        let mut options = Options::default();
        let file = |path: &str| match path {
            "limits.yaml" => Ok(
                json!({ "apiVersion": "eventratelimit.admission.k8s.io/v1alpha1", "kind": "Configuration",
                "limits": [{ "type": "Namespace", "qps": 5, "burst": 10 }] }),
            ),
            other => Err(format!("no file {other}")),
        };
        read(&mut options, document, file).map_err(|e| e.to_string())?;
        Ok(options)
    }

    #[test]
    fn plugins_are_told_what_stands_in_the_file() {
        let options = with(json!([
            { "name": "PodSecurity", "configuration": {
                "apiVersion": "pod-security.admission.config.k8s.io/v1", "kind": "PodSecurityConfiguration",
                "defaults": { "enforce": "baseline", "warn-version": "v1.30" },
                "exemptions": { "namespaces": ["kube-system"] } } },
            { "name": "ResourceQuota", "configuration": {
                "apiVersion": "apiserver.config.k8s.io/v1", "kind": "ResourceQuotaConfiguration",
                "limitedResources": [{ "resource": "pods", "matchScopes": [
                    { "scopeName": "PriorityClass", "operator": "In", "values": ["high"] }] }] } },
            { "name": "EventRateLimit", "path": "limits.yaml" },
            { "name": "PodNodeSelector", "configuration": {
                "podNodeSelectorPluginConfig": { "clusterDefaultNodeSelector": "a=b", "ns": "c=d" } } },
        ]))
        .expect("a good file");
        let security = &options.pod_security;
        assert_eq!(security.defaults.enforce.to_string(), "baseline:latest");
        assert_eq!(security.defaults.warn.to_string(), "privileged:v1.30");
        assert_eq!(security.namespaces, ["kube-system"]);
        assert_eq!(options.limited[0].scopes[0].values, ["high"]);
        assert_eq!(options.event_limits[0].per_second, 5);
        assert_eq!(options.node_selectors.default.len(), 1);
        assert_eq!(options.node_selectors.allowed["ns"]["c"], "d");
    }

    #[test]
    fn what_cannot_be_applied_is_refused() {
        let security = |more: Value| {
            let mut c = json!({ "apiVersion": "pod-security.admission.config.k8s.io/v1", "kind": "PodSecurityConfiguration" });
            if let (Some(c), Some(more)) = (c.as_object_mut(), more.as_object()) {
                c.extend(more.clone());
            }
            json!([{ "name": "PodSecurity", "configuration": c }])
        };
        for (plugins, why) in [
            (
                json!([{ "name": "X" }]),
                "plugins[0]: admission plugin \"X\" is unknown",
            ),
            (
                json!([{ "name": "Priority", "configuration": {} }]),
                "takes no configuration",
            ),
            (
                json!([{ "name": "EventRateLimit", "path": "none" }]),
                "no file none",
            ),
            (
                json!([{ "name": "EventRateLimit", "path": "limits.yaml", "configuration": {} }]),
                "not by both",
            ),
            (
                security(json!({ "default": {} })),
                "unknown field `default`",
            ),
            (
                security(json!({ "defaults": { "audit": "strict" } })),
                "defaults.audit: Invalid value: \"strict\"",
            ),
            (
                security(json!({ "exemptions": { "namespaces": ["a", "a"] } })),
                "exemptions.namespaces[1]: Duplicate value: \"a\"",
            ),
            (
                security(json!({ "exemptions": { "usernames": [""] } })),
                "username must not be empty",
            ),
        ] {
            let got = with(plugins).expect_err(why);
            assert!(got.contains(why), "{got}");
        }
    }
}
