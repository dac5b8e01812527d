//! In which form a page is answered: as text for people, or as a versioned object for those who name
//! its kind, by upstream's rules.

use bytes::Bytes;
use http::header::{HeaderValue, WARNING};
use http::{Response, StatusCode};
use serde_json::Value;

use crate::page::{page, text};

const GROUP: &str = "config.k8s.io";

/// A form in which a page can be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Text,
    Object { version: Version, is_yaml: bool },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    V1Alpha1,
    V1Beta1,
}

impl Version {
    /// As objects name it.
    pub fn api_version(self) -> String {
        let version = match self {
            Self::V1Alpha1 => "v1alpha1",
            Self::V1Beta1 => "v1beta1",
        };
        format!("{GROUP}/{version}")
    }
}

/// The form that an `Accept` header asks for of a page of this kind; `None`: it has none of them.
pub fn form(accept: Option<&str>, kind: &str) -> Option<Form> {
    let Some(accept) = accept.filter(|a| !a.trim().is_empty()) else {
        return Some(Form::Text);
    };
    let mut clauses: Vec<Clause<'_>> = accept.split(',').map(Clause::read).collect();
    // The order of those that are wanted as much stays.
    clauses.sort_by(|a, b| b.quality.total_cmp(&a.quality));
    clauses.iter().find_map(|c| c.form(kind))
}

/// One of the media types of an `Accept` header.
struct Clause<'a> {
    media: &'a str,
    quality: f64,
    group: Option<&'a str>,
    version: Option<&'a str>,
    kind: Option<&'a str>,
}

impl<'a> Clause<'a> {
    fn read(clause: &'a str) -> Self {
        let mut parts = clause.split(';').map(str::trim);
        let mut out = Self {
            media: parts.next().unwrap_or_default(),
            quality: 1.0,
            group: None,
            version: None,
            kind: None,
        };
        for (name, value) in parts.filter_map(|p| p.split_once('=')) {
            match name {
                "q" => out.quality = value.parse().unwrap_or(1.0),
                "g" => out.group = Some(value),
                "v" => out.version = Some(value),
                "as" => out.kind = Some(value),
                _ => {}
            }
        }
        out
    }

    fn form(&self, kind: &str) -> Option<Form> {
        let object = |is_yaml| {
            let version = match self.version? {
                "v1alpha1" => Version::V1Alpha1,
                "v1beta1" => Version::V1Beta1,
                _ => return None,
            };
            let is_known = self.group == Some(GROUP) && self.kind == Some(kind);
            is_known.then_some(Form::Object { version, is_yaml })
        };
        // As text there is no kind to name.
        let plain = || self.kind.is_none().then_some(Form::Text);
        match self.media {
            "application/json" => object(false),
            "application/yaml" => object(true),
            "text/plain" | "text/*" => plain(),
            "application/*" => object(false),
            "*/*" => object(false).or_else(plain),
            _ => None,
        }
    }
}

/// Answers in a form; `object` makes the page of a version, `plain` the text.
pub fn answer(
    form: Option<Form>,
    page_name: &str,
    plain: impl FnOnce() -> String,
    object: impl FnOnce(Version) -> Value,
) -> Response<Bytes> {
    let (version, is_yaml) = match form {
        None => {
            return text(
                StatusCode::NOT_ACCEPTABLE,
                "only the following media types are accepted: \
                 application/json, application/yaml, text/plain\n",
            );
        }
        Some(Form::Text) => return text(StatusCode::OK, plain()),
        Some(Form::Object { version, is_yaml }) => (version, is_yaml),
    };
    let value = object(version);
    let mut answer = match serde_norway::to_string(&value) {
        Ok(yaml) if is_yaml => page(StatusCode::OK, "application/yaml", yaml),
        _ => page(StatusCode::OK, "application/json", value.to_string()),
    };
    let old = format!(
        "299 - \"This version of the {page_name} endpoint is deprecated. Please use a newer version.\""
    );
    if version == Version::V1Alpha1
        && let Ok(old) = HeaderValue::from_str(&old)
    {
        answer.headers_mut().insert(WARNING, old);
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_for_people_and_objects_for_those_who_name_them() {
        let object = |version, is_yaml| Some(Form::Object { version, is_yaml });
        for (accept, want) in [
            (None, Some(Form::Text)),
            (Some(""), Some(Form::Text)),
            (Some("*/*"), Some(Form::Text)),
            (Some("text/plain"), Some(Form::Text)),
            // As kubectl asks for raw pages.
            (Some("application/json, */*"), Some(Form::Text)),
            (Some("application/json"), None),
            (Some("application/vnd.kubernetes.protobuf"), None),
            (
                Some("application/json;v=v1beta1;g=config.k8s.io;as=Statusz"),
                object(Version::V1Beta1, false),
            ),
            (
                Some("application/yaml; v=v1alpha1; g=config.k8s.io; as=Statusz"),
                object(Version::V1Alpha1, true),
            ),
            (
                Some("application/json;v=v1;g=config.k8s.io;as=Statusz"),
                None,
            ),
            (
                Some("application/json;v=v1beta1;g=config.k8s.io;as=Flagz"),
                None,
            ),
            (
                Some("text/plain;q=0.5,application/json;v=v1beta1;g=config.k8s.io;as=Statusz"),
                object(Version::V1Beta1, false),
            ),
        ] {
            assert_eq!(form(accept, "Statusz"), want, "{accept:?}");
        }
    }

    #[test]
    fn an_old_version_says_so() {
        let of = |version| {
            let form = Form::Object {
                version,
                is_yaml: false,
            };
            answer(Some(form), "statusz", String::new, |_| Value::Null)
        };
        assert!(of(Version::V1Alpha1).headers().contains_key("warning"));
        assert!(!of(Version::V1Beta1).headers().contains_key("warning"));
    }
}
