//! ConfigMaps and Secrets.

use api::corefile::{self, Corefile};
use api::{FieldError, FieldPath, names};
use serde_json::{Map, Value};

use crate::base64;
use crate::check::{Errors, at, fill_zero, flag, has, immutable, invalid_each, set, text};
use crate::pem;
use crate::strategy::{Context, Strategy};

/// Data may have this many bytes in all.
const MAX_BYTES: usize = 1 << 20;
/// The label of a certificate.
const CERTIFICATE: &str = "CERTIFICATE";
/// So many warnings at most go with an answer: they are headers.
const MOST_WARNINGS: usize = 20;

/// The strategy of config maps.
pub struct ConfigMap;

impl Strategy for ConfigMap {
    fn validate(&self, obj: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let mut errs = Errors::new();
        let (data, binary) = (entries(obj, "data"), entries(obj, "binaryData"));
        let mut bytes = 0;
        for (k, v) in data.into_iter().flatten() {
            let path = FieldPath::new("data").key(k);
            invalid_each(&mut errs, &path, k, names::is_config_map_key(k));
            if binary.is_some_and(|b| b.contains_key(k)) {
                let why = "duplicate of key present in binaryData";
                errs.push(FieldError::invalid_str(&path, k, why));
            }
            bytes += v.as_str().map_or(0, str::len);
        }
        for (k, v) in binary.into_iter().flatten() {
            let path = FieldPath::new("binaryData").key(k);
            invalid_each(&mut errs, &path, k, names::is_config_map_key(k));
            bytes += decoded_len(v);
        }
        if bytes > MAX_BYTES {
            // The object as a whole, as upstream prints it.
            errs.push(FieldError::too_long(&FieldPath::new("[]"), MAX_BYTES));
        }
        errs
    }
    /// What the cluster's DNS does not act on of a Corefile.
    fn warnings(&self, obj: &Value, _old: Option<&Value>) -> Vec<String> {
        let metadata = at(obj, "metadata");
        if text(metadata, "namespace") != corefile::NAMESPACE {
            return Vec::new();
        }
        let data = entries(obj, "data").into_iter().flatten();
        let keys = data.filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)));
        let read = match text(metadata, "name") {
            corefile::CONFIG_MAP => Corefile::of_keys(keys, []),
            corefile::CUSTOM_CONFIG_MAP => Corefile::of_keys([], keys),
            _ => return Vec::new(),
        };
        match read {
            Ok(file) => file.warnings.into_iter().take(MOST_WARNINGS).collect(),
            Err((key, error)) => vec![format!("{key}: {error}; DNS goes on as before")],
        }
    }
    fn validate_update(&self, obj: &Value, old: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        frozen(obj, old, &["data", "binaryData"])
    }
}

fn entries<'a>(obj: &'a Value, field: &str) -> Option<&'a Map<String, Value>> {
    at(obj, field).as_object()
}

/// How many bytes a base64 text stands for.
fn decoded_len(v: &Value) -> usize {
    let text = v.as_str().unwrap_or("");
    let padding = text.bytes().rev().take_while(|b| *b == b'=').count();
    (text.len() / 4 * 3).saturating_sub(padding)
}

/// What is marked immutable stays so, and its data too.
fn frozen(obj: &Value, old: &Value, fields: &[&str]) -> Errors {
    let mut errs = Errors::new();
    if !flag(old, "immutable") {
        return errs;
    }
    let why = "field is immutable when `immutable` is set";
    if !flag(obj, "immutable") {
        errs.push(FieldError::forbidden(&FieldPath::new("immutable"), why));
    }
    for f in fields {
        if at(obj, f) != at(old, f) {
            errs.push(FieldError::forbidden(&FieldPath::new(f), why));
        }
    }
    errs
}

/// The strategy of secrets.
pub struct Secret;

impl Strategy for Secret {
    fn default(&self, obj: &mut Value) {
        fill_zero(obj, "type", "Opaque");
        // `stringData` is only ever written: its values replace those of `data`.
        if let Some(Value::Object(plain)) = obj.as_object_mut().and_then(|o| o.remove("stringData"))
        {
            let mut data = at(obj, "data").as_object().cloned().unwrap_or_default();
            for (k, v) in plain {
                data.insert(
                    k,
                    base64::encode(v.as_str().unwrap_or("").as_bytes()).into(),
                );
            }
            if !data.is_empty() {
                set(obj, "data", data);
            }
        }
    }
    fn validate(&self, obj: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let mut errs = Errors::new();
        let path = FieldPath::new("data");
        let mut bytes = 0;
        for (k, v) in entries(obj, "data").into_iter().flatten() {
            invalid_each(&mut errs, &path.key(k), k, names::is_config_map_key(k));
            bytes += decoded_len(v);
        }
        if bytes > MAX_BYTES {
            errs.push(FieldError::too_long(&path, MAX_BYTES));
        }
        of_type(&mut errs, &path, obj);
        errs
    }
    fn warnings(&self, obj: &Value, _old: Option<&Value>) -> Vec<String> {
        match text(obj, "type") {
            "kubernetes.io/tls" => wrong_pair(obj).into_iter().collect(),
            _ => Vec::new(),
        }
    }
    fn validate_update(&self, obj: &Value, old: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let mut errs = Errors::new();
        immutable(&mut errs, &FieldPath::root(), obj, old, "type");
        errs.extend(frozen(obj, old, &["data"]));
        errs
    }
    fn prepare_update(&self, obj: &mut Value, old: &Value, _cx: &Context<'_>) {
        // A client that leaves the type out means the one it has.
        let ty = at(old, "type").clone();
        if text(obj, "type").is_empty() {
            set(obj, "type", ty);
        }
    }
}

/// What the type of a secret demands.
fn of_type(errs: &mut Errors, path: &FieldPath, obj: &Value) {
    let data = at(obj, "data");
    let mut need = |key: &str| {
        if !has(data, key) {
            errs.push(FieldError::required(&path.key(key), ""));
        }
    };
    match text(obj, "type") {
        "kubernetes.io/service-account-token" => {
            let notes = at(at(obj, "metadata"), "annotations");
            if text(notes, "kubernetes.io/service-account.name").is_empty() {
                let path = FieldPath::new("metadata").child("annotations");
                let path = path.key("kubernetes.io/service-account.name");
                errs.push(FieldError::required(&path, ""));
            }
        }
        "kubernetes.io/dockercfg" => registries(errs, path, data, ".dockercfg"),
        "kubernetes.io/dockerconfigjson" => registries(errs, path, data, ".dockerconfigjson"),
        "kubernetes.io/basic-auth" if !has(data, "username") && !has(data, "password") => {
            need("username");
            need("password");
        }
        "kubernetes.io/ssh-auth" if text(data, "ssh-privatekey").is_empty() => {
            errs.push(FieldError::required(&path.key("ssh-privatekey"), ""));
        }
        "kubernetes.io/tls" => {
            need("tls.crt");
            need("tls.key");
        }
        _ => {}
    }
}

/// What the blocks of a certificate and its key show that no server could use. Whether one belongs to
/// the other, admission looks at (`TlsSecrets`).
fn wrong_pair(obj: &Value) -> Option<String> {
    let data = at(obj, "data");
    let labels = |key: &str| -> Vec<String> {
        let bytes = base64::decode(text(data, key)).unwrap_or_default();
        let all = String::from_utf8_lossy(&bytes).into_owned();
        let (blocks, _) = pem::blocks(&all);
        blocks.iter().map(|block| block.label.to_owned()).collect()
    };
    let of_certificate = labels("tls.crt");
    let is_key = |label: &str| label.ends_with("PRIVATE KEY");
    if !of_certificate.iter().any(|label| label == CERTIFICATE) {
        return Some(match of_certificate.as_slice() {
            [] => "tls: failed to find any PEM data in certificate input".to_owned(),
            [only] if is_key(only) => "tls: failed to find certificate PEM data in certificate input, but did find a private key; PEM inputs may have been switched".to_owned(),
            others => format!("tls: failed to find \"{CERTIFICATE}\" PEM block in certificate input after skipping PEM blocks of the following types: [{}]", others.join(" ")),
        });
    }
    let of_key = labels("tls.key");
    if of_key.iter().any(|label| is_key(label)) {
        return None;
    }
    Some(match of_key.as_slice() {
        [] => "tls: failed to find any PEM data in key input".to_owned(),
        [only] if only == CERTIFICATE => {
            "tls: found a certificate rather than a key in the PEM for the private key".to_owned()
        }
        others => format!(
            "tls: failed to find PEM block with type ending in \"PRIVATE KEY\" in key input after skipping PEM blocks of the following types: [{}]",
            others.join(" ")
        ),
    })
}

/// Credentials of registries: a JSON object. It is never shown.
fn registries(errs: &mut Errors, path: &FieldPath, data: &Value, key: &str) {
    let path = path.key(key);
    if !has(data, key) {
        errs.push(FieldError::required(&path, ""));
        return;
    }
    let bytes = base64::decode(text(data, key)).unwrap_or_default();
    let read: Result<Option<serde_json::Map<String, Value>>, _> = serde_json::from_slice(&bytes);
    if let Err(e) = read {
        let shown = "<secret contents redacted>";
        errs.push(FieldError::invalid_str(&path, shown, &in_words(&e)));
    }
}

/// What is wrong with JSON, without what it says, which may be a password.
fn in_words(error: &serde_json::Error) -> String {
    let what = match error.classify() {
        serde_json::error::Category::Eof => "unexpected end of JSON input",
        serde_json::error::Category::Data => "it is not a JSON object",
        _ => "it is not JSON",
    };
    format!("{what} (line {}, column {})", error.line(), error.column())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pairs_of_certificates_and_keys_are_looked_at() {
        let block = |label: &str| format!("-----BEGIN {label}-----\nAAAA\n-----END {label}-----\n");
        let cases = [
            ("CERTIFICATE", "EC PRIVATE KEY", None),
            (
                "",
                "PRIVATE KEY",
                Some("tls: failed to find any PEM data in certificate input"),
            ),
            (
                "PRIVATE KEY",
                "CERTIFICATE",
                Some(
                    "tls: failed to find certificate PEM data in certificate input, but did find a private key; PEM inputs may have been switched",
                ),
            ),
            (
                "X",
                "PRIVATE KEY",
                Some(
                    "tls: failed to find \"CERTIFICATE\" PEM block in certificate input after skipping PEM blocks of the following types: [X]",
                ),
            ),
            (
                "CERTIFICATE",
                "",
                Some("tls: failed to find any PEM data in key input"),
            ),
            (
                "CERTIFICATE",
                "CERTIFICATE",
                Some("tls: found a certificate rather than a key in the PEM for the private key"),
            ),
            (
                "CERTIFICATE",
                "X",
                Some(
                    "tls: failed to find PEM block with type ending in \"PRIVATE KEY\" in key input after skipping PEM blocks of the following types: [X]",
                ),
            ),
        ];
        for (certificate, key, want) in cases {
            let data = |label: &str| match label {
                "" => base64::encode(b"none"),
                label => base64::encode(block(label).as_bytes()),
            };
            let secret = json!({ "type": "kubernetes.io/tls",
                "data": { "tls.crt": data(certificate), "tls.key": data(key) } });
            let found = Secret.warnings(&secret, None);
            assert_eq!(found, want.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn credentials_of_registries_are_json_and_never_shown() {
        let of = |ty: &str, key: &str, plain: &str| {
            let data = json!({ key: base64::encode(plain.as_bytes()) });
            let secret = json!({ "type": format!("kubernetes.io/{ty}"), "data": data });
            let found = Secret.validate(&secret, &Context::of_nobody());
            found.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        for (ty, key) in [
            ("dockercfg", ".dockercfg"),
            ("dockerconfigjson", ".dockerconfigjson"),
        ] {
            for good in ["{}", "{\"auths\": {}}", "null"] {
                assert_eq!(of(ty, key, good), Vec::<String>::new(), "{good}");
            }
            for bad in ["", "{", "pass: word", "[\"word\"]", "\"word\""] {
                let found = of(ty, key, bad);
                let start = format!("data[{key}]: Invalid value: \"<secret contents redacted>\": ");
                assert!(
                    found.len() == 1 && found[0].starts_with(&start),
                    "{found:?}"
                );
                assert!(!found[0].contains("word"), "{found:?}");
            }
            assert_eq!(
                of(ty, "other", "{}"),
                [format!("data[{key}]: Required value")]
            );
        }
        assert_eq!(
            of("ssh-auth", "ssh-privatekey", ""),
            ["data[ssh-privatekey]: Required value"]
        );
        assert_eq!(of("ssh-auth", "ssh-privatekey", "k"), Vec::<String>::new());
    }
}
