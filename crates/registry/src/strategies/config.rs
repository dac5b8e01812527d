//! ConfigMaps and Secrets.

use api::corefile::{self, Corefile};
use api::{FieldError, FieldPath, names};
use serde_json::{Map, Value};

use crate::check::{Errors, at, fill_zero, flag, has, immutable, invalid_each, set, text};
use crate::strategy::{Context, Strategy};

/// Data may have this many bytes in all.
const MAX_BYTES: usize = 1 << 20;
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
                data.insert(k, base64(v.as_str().unwrap_or("").as_bytes()).into());
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
        "kubernetes.io/dockercfg" => need(".dockercfg"),
        "kubernetes.io/dockerconfigjson" => need(".dockerconfigjson"),
        "kubernetes.io/basic-auth" if !has(data, "username") && !has(data, "password") => {
            need("username");
            need("password");
        }
        "kubernetes.io/ssh-auth" => need("ssh-privatekey"),
        "kubernetes.io/tls" => {
            need("tls.crt");
            need("tls.key");
        }
        _ => {}
    }
}

/// Standard base64 with padding.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |i: usize| u32::from(chunk.get(i).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for i in 0..4 {
            let letter = usize::try_from(bits >> (18 - 6 * i) & 63).unwrap_or(0);
            let letter = LETTERS.get(letter).copied().unwrap_or(b'=');
            out.push(char::from(if i > chunk.len() { b'=' } else { letter }));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn writes_base64() {
        for (plain, encoded) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v")] {
            assert_eq!(super::base64(plain.as_bytes()), encoded);
        }
    }
}
