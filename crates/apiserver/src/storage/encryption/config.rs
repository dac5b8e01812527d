//! The file of `--encryption-provider-config`: an EncryptionConfiguration of
//! apiserver.config.k8s.io/v1, with upstream's checks.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use api::{FieldError, FieldPath};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use registry::Kinds;
use serde::Deserialize;

use super::kms::Kms;
use super::provider::{Form, Key, NamedKey, Provider, Providers};
use super::rules::{Resources, Rules};
use crate::configuration_file::{self, Problem};

/// What is wrong with the file.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{0}")]
    Form(#[from] Problem),
    #[error("{}", joined(.0))]
    Invalid(Vec<FieldError>),
}

fn joined(errors: &[FieldError]) -> String {
    let all: Vec<String> = errors.iter().map(ToString::to_string).collect();
    all.join(", ")
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    resources: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    providers: Vec<ProviderConfig>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ProviderConfig {
    identity: Option<Nothing>,
    aesgcm: Option<Keys>,
    aescbc: Option<Keys>,
    secretbox: Option<Keys>,
    kms: Option<GivenKms>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct GivenKms {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    endpoint: String,
    #[serde(default)]
    timeout: Option<String>,
    /// Of v1.
    #[serde(default, rename = "cachesize")]
    cache_size: Option<i64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    #[serde(default)]
    keys: Vec<GivenKey>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GivenKey {
    #[serde(default)]
    name: String,
    #[serde(default)]
    secret: String,
}

/// Reads the file. `also`: a provider that reads, too, after those of the file.
pub fn read(
    bytes: &[u8],
    kinds: &Kinds,
    mut also: impl FnMut() -> Option<Provider>,
) -> Result<Rules, ConfigError> {
    let versions = ["apiserver.config.k8s.io/v1"];
    let document: Document = configuration_file::read(bytes, "EncryptionConfiguration", &versions)?;
    let (mut errors, mut all, mut names) = (Vec::new(), Vec::new(), BTreeSet::new());
    let path = FieldPath::new("resources");
    if document.resources.is_empty() {
        let why = "at least one resources is required";
        errors.push(FieldError::required(&path, why));
    }
    for (n, rule) in document.resources.into_iter().enumerate() {
        let path = path.index(n);
        check_names(&rule.resources, &path.child("resources"), &mut errors);
        let field = path.child("providers");
        let mut providers = providers(rule.providers, &field, &mut names, &mut errors);
        providers.extend(also());
        all.push((Resources(rule.resources), Providers::new(providers)));
    }
    match errors.is_empty() {
        true => Ok(Rules::new(kinds, all)),
        false => Err(ConfigError::Invalid(errors)),
    }
}

fn check_names(names: &[String], path: &FieldPath, errors: &mut Vec<FieldError>) {
    if names.is_empty() {
        let why = format!("at least one {} is required", path.as_str());
        errors.push(FieldError::required(path, &why));
    }
    for (n, name) in names.iter().enumerate() {
        if let Some(why) = wrong_name(name) {
            errors.push(FieldError::invalid_str(&path.index(n), name, why));
        }
    }
    let split: Vec<(&str, &str)> = names
        .iter()
        .map(|n| n.split_once('.').unwrap_or((n, "")))
        .collect();
    let mut complain = |why: &str| {
        let value = serde_json::json!(names);
        errors.push(FieldError::invalid(path, &value, why));
    };
    let pairs = || {
        let pairs = split.iter().enumerate();
        pairs.flat_map(|(i, a)| split.iter().skip(i + 1).map(move |b| (*a, *b)))
    };
    if pairs().any(|(a, b)| a == b) {
        complain("the same resource cannot be specified multiple times");
    }
    let all = ("*", "*");
    let masks = |(a, b): ((&str, &str), (&str, &str))| {
        a != b && (a == all || b == all || a.1 == b.1 && (a.0 == "*" || b.0 == "*"))
    };
    if pairs().any(masks) {
        complain(
            "using overlapping resources such as 'secrets' and '*.' in the same resource list is not allowed as they will be masked",
        );
    }
}

/// Why a name names no resources; upstream's words.
fn wrong_name(name: &str) -> Option<&'static str> {
    let (resource, group) = name.split_once('.').unwrap_or((name, ""));
    if name.chars().any(char::is_uppercase) {
        return Some("resource name should not contain capital letters");
    }
    match (name, resource, group) {
        ("*", ..) => Some(
            "use '*.' to encrypt all the resources from core API group or *.* to encrypt all resources",
        ),
        ("apiserveripinfo" | "serviceipallocations" | "servicenodeportallocations", ..) => {
            Some("resources which do not have REST API/s cannot be encrypted")
        }
        (_, _, "events.k8s.io") => Some(
            "'*.events.k8s.io' objects are stored using the 'events' API group in etcd. Use 'events' instead in the config file",
        ),
        (_, _, "extensions") => {
            Some("'extensions' group has been removed and cannot be used for encryption")
        }
        (_, resource, "*") if resource != "*" => {
            Some("encrypting the same resource across groups is not supported")
        }
        _ => None,
    }
}

fn providers(
    given: Vec<ProviderConfig>,
    path: &FieldPath,
    names: &mut BTreeSet<String>,
    errors: &mut Vec<FieldError>,
) -> Vec<Provider> {
    if given.is_empty() {
        let why = format!("at least one {} is required", path.as_str());
        errors.push(FieldError::required(path, &why));
    }
    let mut all = Vec::new();
    for (n, given) in given.into_iter().enumerate() {
        let path = path.index(n);
        let ProviderConfig {
            identity,
            aesgcm,
            aescbc,
            secretbox,
            kms,
        } = given;
        let keyed = [
            (Form::AesGcm, aesgcm),
            (Form::AesCbc, aescbc),
            (Form::Secretbox, secretbox),
        ];
        let count = keyed.iter().filter(|(_, keys)| keys.is_some()).count()
            + usize::from(identity.is_some())
            + usize::from(kms.is_some());
        if count != 1 {
            let why = match count {
                0 => {
                    "provider does not contain any of the expected providers: KMS, AESGCM, AESCBC, Secretbox, Identity"
                }
                _ => {
                    "more than one provider specified in a single element, should split into different list elements"
                }
            };
            errors.push(FieldError::invalid_str(&path, "", why));
            continue;
        }
        if identity.is_some() {
            all.push(Provider::Identity);
        }
        if let Some(given) = kms {
            let kms = service(given, &path.child("kms"), names, errors);
            all.extend(kms.map(|kms| Provider::Kms(Arc::new(kms))));
        }
        for (form, keys) in keyed {
            if let Some(keys) = keys {
                let path = path.child(form.word()).child("keys");
                all.push(Provider::Keyed(named(form, keys.keys, &path, errors)));
            }
        }
    }
    all
}

/// For an answer of a service, where the file does not say; upstream's.
const TIMEOUT: Duration = Duration::from_secs(3);

fn service(
    given: GivenKms,
    path: &FieldPath,
    names: &mut BTreeSet<String>,
    errors: &mut Vec<FieldError>,
) -> Option<Kms> {
    let before = errors.len();
    let mut wrong = |field: &str, value: &str, why: &str| {
        errors.push(FieldError::invalid_str(&path.child(field), value, why));
    };
    let name = &given.name;
    if name.is_empty() {
        wrong("name", name, "name is a mandatory field for a provider");
    } else if name.contains(':') {
        let why = format!("invalid KMS provider name {name}, must not contain ':'");
        wrong("name", name, &why);
    } else if !names.insert(name.clone()) {
        let why = format!("duplicate KMS provider name {name}, names must be unique");
        wrong("name", name, &why);
    }
    if given.api_version != "v2" {
        let version = &given.api_version;
        let why =
            format!("unsupported apiVersion {version} for KMS provider, only v2 is supported");
        wrong("apiVersion", version, &why);
    }
    if let Some(size) = given.cache_size {
        wrong(
            "cachesize",
            &size.to_string(),
            "cachesize is not supported in v2",
        );
    }
    let timeout = match &given.timeout {
        None => Some(TIMEOUT),
        Some(text) => {
            let read = text.parse::<jiff::SignedDuration>().ok();
            let read = read.and_then(|d| Duration::try_from(d).ok());
            read.filter(|d| !d.is_zero())
        }
    };
    if timeout.is_none() {
        let text = given.timeout.as_deref().unwrap_or_default();
        wrong("timeout", text, "timeout should be a positive value");
    }
    let socket = given.endpoint.strip_prefix("unix://").map(PathBuf::from);
    let socket = socket.filter(|s| !s.as_os_str().is_empty());
    if socket.is_none() {
        let why = "unsupported scheme for KMS provider, only unix is supported";
        wrong("endpoint", &given.endpoint, why);
    }
    let (socket, timeout) = (socket?, timeout?);
    (errors.len() == before).then(|| Kms::new(name, socket, timeout))
}

fn named(
    form: Form,
    keys: Vec<GivenKey>,
    path: &FieldPath,
    errors: &mut Vec<FieldError>,
) -> Vec<NamedKey> {
    if keys.is_empty() {
        errors.push(FieldError::required(path, "at least one keys is required"));
    }
    let mut all = Vec::new();
    for (n, key) in keys.into_iter().enumerate() {
        let path = path.index(n);
        if key.name.is_empty() {
            let why = "name is a mandatory field for a key";
            errors.push(FieldError::required(&path.child("name"), why));
        }
        let path = path.child("secret");
        if key.secret.is_empty() {
            let why = "secret is a mandatory field for a key";
            errors.push(FieldError::required(&path, why));
            continue;
        }
        // The key itself is shown to nobody.
        let mut refuse = |why: &str| errors.push(FieldError::invalid_str(&path, "REDACTED", why));
        let Ok(secret) = STANDARD.decode(&key.secret) else {
            refuse("secrets must be base64 encoded");
            continue;
        };
        let length = secret.len();
        let key = Key {
            name: key.name,
            secret,
        };
        match NamedKey::new(form, &key) {
            Some(key) => all.push(key),
            None => {
                let lengths = form.lengths().iter().map(ToString::to_string);
                let lengths = lengths.collect::<Vec<_>>().join(" ");
                refuse(&format!(
                    "secret is not of the expected length, got {length}, expected one of [{lengths}]"
                ));
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn of(resources: &str) -> Result<Rules, ConfigError> {
        let text = format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources: {resources}\n"
        );
        read(text.as_bytes(), registry::kinds(), || None)
    }

    const KEY: &str = "{name: a, secret: AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=}";

    #[test]
    fn the_first_provider_writes_and_all_read() {
        let key = b"/registry/secrets/ns/s";
        let plain = Bytes::from_static(b"{}");
        let rule = |providers: &str| {
            of(&format!(
                "[{{resources: [secrets], providers: [{providers}]}}]"
            ))
            .expect("rules")
        };
        let seal = |rules: &Rules| {
            let providers = rules.of(key).expect("a rule");
            providers.seal(key, &plain).expect("seal")
        };
        for (word, other) in [
            ("aesgcm", "secretbox"),
            ("aescbc", "aesgcm"),
            ("secretbox", "identity"),
        ] {
            let own = format!("{word}: {{keys: [{KEY}]}}");
            let other = match other {
                "identity" => "identity: {}".to_owned(),
                other => format!("{other}: {{keys: [{KEY}]}}"),
            };
            let stored = seal(&rule(&format!("{{{own}}}, {{{other}}}")));
            let prefix = format!("k8s:enc:{word}:v1:a:");
            assert!(stored.starts_with(prefix.as_bytes()));
            let turned = rule(&format!("{{{other}}}, {{{own}}}"));
            let turned = turned.of(key).expect("a rule");
            assert_eq!(turned.open(key, &stored), Ok(plain.clone()));
            assert!(turned.is_stale(&stored));
        }
    }

    #[test]
    fn what_is_wrong_is_named_and_no_key_is_shown() {
        let wrong = |resources: &str| match of(resources) {
            Ok(_) => String::new(),
            Err(e) => e.to_string(),
        };
        let rule = |names: &str, provider: &str| {
            wrong(&format!(
                "[{{resources: [{names}], providers: [{provider}]}}]"
            ))
        };
        for (said, why) in [
            (wrong("[]"), "resources: Required value: at least one"),
            (
                rule("", "{identity: {}}"),
                "resources[0].resources: Required value",
            ),
            (
                rule("secrets", ""),
                "resources[0].providers: Required value",
            ),
            (
                rule("secrets", "{}"),
                "does not contain any of the expected providers",
            ),
            (
                rule(
                    "secrets",
                    &format!("{{identity: {{}}, aesgcm: {{keys: [{KEY}]}}}}"),
                ),
                "more than one provider",
            ),
            (
                rule("secrets", "{aesgcm: {keys: [{name: a, secret: c2VjcmV0}]}}"),
                "resources[0].providers[0].aesgcm.keys[0].secret: Invalid value: \"REDACTED\": secret is not of the expected length, got 6, expected one of [16 32]",
            ),
            (
                rule("secrets", "{aescbc: {keys: [{name: a, secret: '?'}]}}"),
                "secrets must be base64 encoded",
            ),
            (rule("secrets, secrets", "{identity: {}}"), "multiple times"),
            (rule("secrets, '*.'", "{identity: {}}"), "overlapping"),
            (rule("'*'", "{identity: {}}"), "use '*.'"),
            (rule("pods.*", "{identity: {}}"), "across groups"),
            (rule("secrets", "{rot13: {}}"), "unknown field"),
            (
                rule(
                    "secrets",
                    "{kms: {apiVersion: v1, name: a, endpoint: 'unix:///x'}}",
                ),
                "only v2 is supported",
            ),
            (
                rule(
                    "secrets",
                    "{kms: {apiVersion: v2, name: 'a:b', endpoint: 'tcp://x'}}",
                ),
                "must not contain ':', resources[0].providers[0].kms.endpoint",
            ),
        ] {
            assert!(said.contains(why), "{said}");
            assert!(!said.contains("c2VjcmV0"));
        }
    }
}
