//! What form of answer a client accepts: encoding (JSON, YAML, protobuf) and shape (the object
//! itself, a table, metadata only).

use api::Status;
use http::HeaderMap;
use http::header::{ACCEPT, ACCEPT_ENCODING};

use crate::http::request::Query;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Encoding {
    Json,
    Yaml,
    Proto,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Shape {
    Full,
    /// `as=Table`, with its version.
    Table(String),
    /// `as=PartialObjectMetadata` or its list, with its version.
    Metadata(String),
}

/// The negotiated form.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Accept {
    pub encoding: Encoding,
    pub shape: Shape,
    pub pretty: bool,
    pub gzip: bool,
}

pub const JSON: &str = "application/json";
pub const YAML: &str = "application/yaml";
pub const PROTO: &str = "application/vnd.kubernetes.protobuf";

/// Whether a person reads it: who says so, and programs that show what they get. What a page's own
/// scripts ask for is for no person.
fn is_pretty(headers: &HeaderMap, query: &Query) -> bool {
    if let Some(said) = query.get("pretty") {
        return matches!(said, "1" | "t" | "T" | "true" | "True" | "TRUE");
    }
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
    let agent = text("user-agent").unwrap_or_default();
    let is_script = text("sec-fetch-dest") == Some("empty");
    let shows = ["curl", "Wget", "Mozilla/5.0"];
    !is_script && shows.iter().any(|name| agent.starts_with(name))
}

/// Whether the client takes what is compressed.
pub fn takes_gzip(headers: &HeaderMap) -> bool {
    headers
        .get(ACCEPT_ENCODING)
        .and_then(|v| v.to_str().ok())
        // Upstream reads no weights: `gzip;q=0` would be a refusal.
        .is_some_and(|v| v.split(',').any(|e| e.trim() == "gzip"))
}

impl Accept {
    /// JSON, as an error is written.
    pub fn json() -> Self {
        Self {
            encoding: Encoding::Json,
            shape: Shape::Full,
            pretty: false,
            gzip: false,
        }
    }

    /// Chooses the first form of the client's list that the server has; `tables`: the kind can be
    /// shown as one, which what is only answered and never stored cannot.
    pub fn negotiate(headers: &HeaderMap, query: &Query, tables: bool) -> Result<Self, Status> {
        let text = headers
            .get(ACCEPT)
            .and_then(|v| v.to_str().ok())
            .unwrap_or("*/*");
        let mut ranges: Vec<(f32, &str)> = text.split(',').map(|r| (quality(r), r)).collect();
        // Stable: among equals the client's order counts.
        ranges.sort_by(|a, b| b.0.total_cmp(&a.0));
        let chosen = ranges
            .iter()
            .filter(|(q, _)| *q > 0.0)
            .filter_map(|(_, r)| read(r))
            .find(|(_, shape)| tables || !matches!(shape, Shape::Table(_)));
        let (encoding, shape) = chosen.ok_or_else(|| {
            Status::not_acceptable(format!(
                "only the following media types are accepted: {JSON}, {YAML}, {PROTO}"
            ))
        })?;
        Ok(Self {
            encoding,
            shape,
            pretty: is_pretty(headers, query),
            gzip: takes_gzip(headers),
        })
    }

    pub fn content_type(&self) -> &'static str {
        match self.encoding {
            Encoding::Json => JSON,
            Encoding::Yaml => YAML,
            Encoding::Proto => PROTO,
        }
    }
}

fn quality(range: &str) -> f32 {
    let q = range
        .split(';')
        .skip(1)
        .find_map(|p| p.trim().strip_prefix("q="));
    q.and_then(|q| q.trim().parse().ok()).unwrap_or(1.0)
}

fn read(range: &str) -> Option<(Encoding, Shape)> {
    let mut parts = range.split(';').map(str::trim);
    let encoding = match parts.next()? {
        JSON | "*/*" | "application/*" | "" => Encoding::Json,
        YAML => Encoding::Yaml,
        PROTO => Encoding::Proto,
        _ => return None,
    };
    let (mut kind, mut group, mut version) = ("", "", "");
    for (k, v) in parts.filter_map(|p| p.split_once('=')) {
        match k {
            "as" => kind = v,
            "g" => group = v,
            "v" => version = v,
            _ => {}
        }
    }
    let known = group == "meta.k8s.io" && matches!(version, "v1" | "v1beta1");
    let shape = match kind {
        "" => Shape::Full,
        // A table has no protobuf form.
        "Table" if known && encoding != Encoding::Proto => Shape::Table(version.to_owned()),
        "PartialObjectMetadata" | "PartialObjectMetadataList" if known => {
            Shape::Metadata(version.to_owned())
        }
        _ => return None,
    };
    Some((encoding, shape))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(accept: &str) -> Option<(Encoding, Shape)> {
        let mut h = HeaderMap::new();
        h.insert(ACCEPT, accept.parse().expect("header"));
        Accept::negotiate(&h, &Query::default(), true)
            .ok()
            .map(|a| (a.encoding, a.shape))
    }

    #[test]
    fn the_first_known_form_is_chosen() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
        assert_eq!(of(table), Some((Encoding::Json, Shape::Table("v1".into()))));
        assert_eq!(
            of("application/x, */*"),
            Some((Encoding::Json, Shape::Full))
        );
        assert_eq!(
            of("application/json;q=0.5,application/yaml"),
            Some((Encoding::Yaml, Shape::Full))
        );
        assert_eq!(
            of("application/vnd.kubernetes.protobuf,application/json"),
            Some((Encoding::Proto, Shape::Full))
        );
        let mut h = HeaderMap::new();
        h.insert(ACCEPT, table.parse().expect("header"));
        let full = Accept::negotiate(&h, &Query::default(), false).expect("the second form");
        assert_eq!(full.shape, Shape::Full);
        h.insert(ACCEPT, table[..table.len() - 17].parse().expect("header"));
        let refused = Accept::negotiate(&h, &Query::default(), false);
        assert_eq!(refused.map_err(|s| s.code), Err(406));
        assert_eq!(of("text/html"), None);
        assert_eq!(of("application/json;as=Foo;v=v1;g=meta.k8s.io"), None);
    }
}
