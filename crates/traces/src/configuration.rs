//! Where spans are sent, and how many: upstream's TracingConfiguration, as a file of the API server or
//! as a field of a KubeletConfiguration.

use serde_json::{Map, Value};

/// Versions of the file's kind, all of the same form.
const VERSIONS: [&str; 3] = [
    "apiserver.config.k8s.io/v1",
    "apiserver.config.k8s.io/v1beta1",
    "apiserver.config.k8s.io/v1alpha1",
];
const KIND: &str = "TracingConfiguration";
/// Where collectors listen on the machine itself.
const DEFAULT: &str = "localhost:4317";
/// The port of a name that has none, as gRPC has it.
const PORT: u16 = 443;
const MOST: i64 = 1_000_000;

/// What a configuration says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// `http://host:port`, or `unix:path`.
    pub endpoint: String,
    /// Of a million traces that begin here, how many are recorded. Those of clients that are believed
    /// are recorded as they say.
    pub per_million: u32,
}

/// What is wrong with a configuration; a line for each fault.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct Faults(pub Vec<String>);

impl Configuration {
    /// Reads a file's object.
    pub fn read(file: &Value) -> Result<Self, Faults> {
        let one = |why: String| Faults(vec![why]);
        let Value::Object(fields) = file else {
            return Err(one("it is not an object".into()));
        };
        let mut fields = fields.clone();
        let version = fields.remove("apiVersion").unwrap_or_default();
        let kind = fields.remove("kind").unwrap_or_default();
        let is_known = VERSIONS.iter().any(|v| version == *v);
        if kind != KIND || !is_known {
            return Err(one(format!(
                "no kind {kind} is registered for version {version}"
            )));
        }
        Self::read_fields(&fields)
    }

    /// Reads the fields alone, as a KubeletConfiguration has them.
    pub fn read_fields(fields: &Map<String, Value>) -> Result<Self, Faults> {
        let mut faults = Vec::new();
        let mut out = Self {
            endpoint: format!("http://{DEFAULT}"),
            per_million: 0,
        };
        for (name, value) in fields.iter().filter(|(_, v)| !v.is_null()) {
            let set = match (name.as_str(), value) {
                ("endpoint", Value::String(text)) => uri(text).map(|uri| out.endpoint = uri),
                ("samplingRatePerMillion", Value::Number(rate)) => {
                    rate_of(rate.as_i64()).map(|rate| out.per_million = rate)
                }
                ("endpoint" | "samplingRatePerMillion", _) => Err("it has another type".into()),
                _ => Err("unknown field".into()),
            };
            if let Err(why) = set {
                faults.push(format!("{name}: Invalid value: {value}: {why}"));
            }
        }
        match faults.is_empty() {
            true => Ok(out),
            false => Err(Faults(faults)),
        }
    }
}

fn rate_of(rate: Option<i64>) -> Result<u32, String> {
    match rate {
        Some(rate) if rate < 0 => Err("sampling rate must be positive".into()),
        Some(rate) if rate <= MOST => Ok(u32::try_from(rate).unwrap_or_default()),
        Some(_) => {
            Err("sampling rate per million must be less than or equal to one million".into())
        }
        None => Err("it is not a whole number".into()),
    }
}

/// A target of gRPC as the address of a channel.
fn uri(target: &str) -> Result<String, String> {
    if let Some(path) = target.strip_prefix("unix:") {
        return Ok(format!("unix:{}", path.strip_prefix("//").unwrap_or(path)));
    }
    let place = match target.split_once("://") {
        // Behind the name server, which is this machine's whatever is written.
        Some(("dns", rest)) => rest.split_once('/').map_or(rest, |(_, place)| place),
        Some(("unix-abstract", _)) => return Err("abstract sockets are not supported here".into()),
        Some((scheme, _)) => {
            return Err(format!(
                "unsupported scheme: {scheme}.  Options are none, dns, unix, or unix-abstract.  See https://github.com/grpc/grpc/blob/master/doc/naming.md"
            ));
        }
        None => target.strip_prefix("dns:").unwrap_or(target),
    };
    let place = place.trim_end_matches('/');
    if place.is_empty() {
        return Err("it names no host".into());
    }
    let behind = place.rsplit(']').next().unwrap_or(place);
    Ok(match behind.contains(':') {
        true => format!("http://{place}"),
        false => format!("http://{place}:{PORT}"),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn file(version: &str, fields: Value) -> Value {
        let mut file = json!({ "apiVersion": version, "kind": KIND });
        for (name, value) in fields.as_object().into_iter().flatten() {
            file[name] = value.clone();
        }
        file
    }

    #[test]
    fn files_of_all_versions_are_read() {
        for version in VERSIONS {
            let fields = json!({ "endpoint": "10.0.0.1:4317", "samplingRatePerMillion": 100 });
            let read = Configuration::read(&file(version, fields));
            let want = Configuration {
                endpoint: "http://10.0.0.1:4317".into(),
                per_million: 100,
            };
            assert_eq!(read, Ok(want));
        }
        let read = Configuration::read(&file(VERSIONS[0], json!({ "endpoint": null })));
        let read = read.expect("nothing has to be said");
        assert_eq!(
            (read.endpoint.as_str(), read.per_million),
            ("http://localhost:4317", 0)
        );
        for (version, kind) in [
            ("apiserver.config.k8s.io/v2", KIND),
            (VERSIONS[0], "Tracing"),
        ] {
            let file = json!({ "apiVersion": version, "kind": kind });
            assert!(Configuration::read(&file).is_err(), "{version} {kind}");
        }
    }

    #[test]
    fn endpoints_are_what_grpc_takes() {
        for (target, want) in [
            ("localhost:4317", "http://localhost:4317"),
            ("[fd00::1]:4317", "http://[fd00::1]:4317"),
            ("[fd00::1]", "http://[fd00::1]:443"),
            ("collector", "http://collector:443"),
            ("dns:collector:1", "http://collector:1"),
            ("dns:///collector:1", "http://collector:1"),
            ("dns://10.0.0.10/collector:1", "http://collector:1"),
            ("unix:/run/otel.sock", "unix:/run/otel.sock"),
            ("unix:///run/otel.sock", "unix:/run/otel.sock"),
        ] {
            assert_eq!(uri(target).as_deref(), Ok(want), "{target}");
        }
        for target in [
            "http://collector:1",
            "https://collector",
            "unix-abstract://x",
            "",
            "dns:///",
        ] {
            assert!(uri(target).is_err(), "{target}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_field_by_field() {
        let fields =
            json!({ "endpoint": "ftp://x", "samplingRatePerMillion": 1_000_001, "rate": 1 });
        let faults = Configuration::read_fields(fields.as_object().expect("fields"));
        let faults = faults.expect_err("three faults").0;
        assert_eq!(faults.len(), 3, "{faults:?}");
        for (field, value, why) in [
            (
                "samplingRatePerMillion",
                json!(-1),
                "sampling rate must be positive",
            ),
            (
                "samplingRatePerMillion",
                json!(0.5),
                "it is not a whole number",
            ),
            ("endpoint", json!(4317), "it has another type"),
        ] {
            let mut fields = Map::new();
            fields.insert(field.into(), value.clone());
            let faults = Configuration::read_fields(&fields).expect_err(why);
            let want = format!("{field}: Invalid value: {value}: {why}");
            assert_eq!(faults.0, [want]);
        }
    }
}
