//! The extenders of a configuration.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::extenders::{Extender, Source, Tls};

/// Upstream's.
const DEFAULT_TIMEOUT_MS: u64 = 5_000;

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExtenderFile {
    url_prefix: String,
    #[serde(default)]
    filter_verb: String,
    #[serde(default)]
    preempt_verb: String,
    #[serde(default)]
    prioritize_verb: String,
    #[serde(default)]
    weight: i64,
    #[serde(default)]
    bind_verb: String,
    #[serde(default, rename = "enableHTTPS")]
    enable_https: bool,
    tls_config: Option<TlsFile>,
    http_timeout: Option<String>,
    #[serde(default)]
    node_cache_capable: bool,
    #[serde(default)]
    managed_resources: Vec<Managed>,
    #[serde(default)]
    ignorable: bool,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct TlsFile {
    #[serde(default)]
    insecure: bool,
    server_name: Option<String>,
    cert_file: Option<String>,
    key_file: Option<String>,
    ca_file: Option<String>,
    cert_data: Option<String>,
    key_data: Option<String>,
    ca_data: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Managed {
    name: String,
    #[serde(default)]
    ignored_by_scheduler: bool,
}

/// A duration of Go, in milliseconds; none for what is none or negative.
pub fn duration_ms(text: &str) -> Option<u64> {
    let nanoseconds = api::duration::parse(text).ok()?;
    u64::try_from(nanoseconds).ok().map(|n| n / 1_000_000)
}

/// Extenders, and the resources of which they alone know how much there is.
pub fn read(files: Vec<ExtenderFile>, faults: &mut Vec<String>) -> (Vec<Extender>, Vec<String>) {
    let binders = files.iter().filter(|f| !f.bind_verb.is_empty()).count();
    let (mut managed, mut ignored) = (Vec::new(), Vec::new());
    let mut out = Vec::new();
    for (i, file) in files.into_iter().enumerate() {
        let path = format!("extenders[{i}]");
        if !file.prioritize_verb.is_empty() && file.weight <= 0 {
            faults.push(format!(
                "{path}.weight: Invalid value: {}: must have a positive weight applied to it",
                file.weight
            ));
        }
        for (j, resource) in file.managed_resources.iter().enumerate() {
            let path = format!("{path}.managedResources[{j}].name");
            let name = &resource.name;
            if let Some(why) = not_extended(name) {
                faults.push(format!("{path}: Invalid value: {name:?}: {why}"));
            } else if managed.contains(name) {
                faults.push(format!(
                    "{path}: Invalid value: {name:?}: duplicate extender managed resource name"
                ));
            }
            managed.push(name.clone());
            if resource.ignored_by_scheduler {
                ignored.push(name.clone());
            }
        }
        out.push(extender(file, &path, faults));
    }
    if binders > 1 {
        faults.push(format!(
            "extenders: Invalid value: \"found {binders} extenders implementing bind\": only one \
             extender can implement bind"
        ));
    }
    (out, ignored)
}

fn extender(file: ExtenderFile, path: &str, faults: &mut Vec<String>) -> Extender {
    let timeout_ms = match &file.http_timeout {
        None => DEFAULT_TIMEOUT_MS,
        Some(text) => match duration_ms(text) {
            Some(0) => DEFAULT_TIMEOUT_MS,
            Some(ms) => ms,
            None => {
                faults.push(format!(
                    "{path}.httpTimeout: Invalid value: {text:?}: not a duration"
                ));
                DEFAULT_TIMEOUT_MS
            }
        },
    };
    let scheme = file.url_prefix.split_once("://").map(|(scheme, _)| scheme);
    if !matches!(scheme, Some("http" | "https")) {
        faults.push(format!(
            "{path}.urlPrefix: Invalid value: {:?}: must begin with http:// or https://",
            file.url_prefix
        ));
    }
    let tls = tls(file.tls_config.unwrap_or_default(), path, faults);
    Extender {
        url: file.url_prefix,
        filter: file.filter_verb,
        prioritize: file.prioritize_verb,
        preempt: file.preempt_verb,
        bind: file.bind_verb,
        weight: file.weight,
        timeout_ms,
        knows_nodes: file.node_cache_capable,
        managed: file.managed_resources.into_iter().map(|r| r.name).collect(),
        ignorable: file.ignorable,
        https: file.enable_https,
        tls,
    }
}

fn tls(file: TlsFile, path: &str, faults: &mut Vec<String>) -> Tls {
    let mut source = |data: Option<String>, named: Option<String>, name: &str| {
        let data = data.filter(|d| !d.is_empty());
        let named = named.filter(|f| !f.is_empty());
        match (data, named) {
            (Some(data), _) => match STANDARD.decode(data) {
                Ok(data) => Source::Data(data),
                Err(_) => {
                    faults.push(format!("{path}.tlsConfig.{name}: not Base64"));
                    Source::None
                }
            },
            (None, Some(file)) => Source::File(file),
            (None, None) => Source::None,
        }
    };
    let certificate = source(file.cert_data, file.cert_file, "certData");
    let key = source(file.key_data, file.key_file, "keyData");
    let authorities = source(file.ca_data, file.ca_file, "caData");
    if (certificate == Source::None) != (key == Source::None) {
        faults.push(format!(
            "{path}.tlsConfig: a client certificate and its key must be given together"
        ));
    }
    if file.insecure && authorities != Source::None {
        faults.push(format!(
            "{path}.tlsConfig: specifying a root certificates file with the insecure flag is not \
             allowed"
        ));
    }
    Tls {
        insecure: file.insecure,
        server_name: file.server_name.filter(|n| !n.is_empty()),
        certificate,
        key,
        authorities,
    }
}

/// Why a name is not that of an extended resource.
fn not_extended(name: &str) -> Option<&'static str> {
    let Some((domain, _)) = name.split_once('/') else {
        return Some("is an invalid extended resource name");
    };
    let native = domain == "kubernetes.io" || domain.ends_with(".kubernetes.io");
    if native || name.starts_with("requests.") {
        return Some("is an invalid extended resource name");
    }
    let wrong = !api::names::is_qualified_name(name).is_empty();
    wrong.then_some("is not a qualified name")
}
