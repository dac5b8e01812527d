//! Which form of a document a client gets, as upstream reads `Accept` for these documents: by type
//! and subtype alone, whatever parameters stand behind them.

use super::edition::Edition;
use crate::http::negotiate::JSON;

/// How a document is written.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Form {
    Json,
    /// gnostic's protobuf.
    Protobuf,
}

impl Form {
    /// The first form of the client's list that there is; none if it takes neither. Who says nothing
    /// takes all.
    pub fn chosen(accept: &str, edition: Edition) -> Option<Self> {
        let accept = if accept.is_empty() { "*/*" } else { accept };
        let mut clauses: Vec<Clause> = accept.split(',').filter_map(Clause::read).collect();
        // Stable: among equals the client's order counts.
        clauses.sort_by(|a, b| {
            let weights = b.weight.total_cmp(&a.weight);
            weights.then_with(|| a.wildcards().cmp(&b.wildcards()))
        });
        clauses.iter().find_map(|clause| clause.form(edition))
    }

    /// What the client is answered as the content's type.
    pub fn media(self, edition: Edition) -> &'static str {
        match (self, edition) {
            (Self::Json, _) => JSON,
            (Self::Protobuf, Edition::V2) => {
                "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
            }
            (Self::Protobuf, Edition::V3) => {
                "application/com.github.proto-openapi.spec.v3.v1.0+protobuf"
            }
        }
    }
}

/// One of the types that a client accepts.
struct Clause<'a> {
    kind: &'a str,
    subtype: &'a str,
    weight: f32,
}

impl<'a> Clause<'a> {
    /// None where it does not name a type: it says nothing.
    fn read(text: &'a str) -> Option<Self> {
        let mut parts = text.split(';');
        let name = parts.next()?.trim();
        let (kind, subtype) = match name.split_once('/') {
            Some((kind, subtype)) => (kind.trim(), subtype.trim()),
            None if name == "*" => ("*", "*"),
            None => return None,
        };
        let weight = parts.find_map(|p| p.trim().strip_prefix("q="));
        Some(Self {
            kind,
            subtype,
            // What is not a number is the least, as upstream.
            weight: weight.map_or(1.0, |w| w.trim().parse().unwrap_or(0.0)),
        })
    }

    fn wildcards(&self) -> usize {
        let words = [self.kind, self.subtype];
        words.into_iter().filter(|word| *word == "*").count()
    }

    fn form(&self, edition: Edition) -> Option<Form> {
        if !matches!(self.kind, "application" | "*") {
            return None;
        }
        // Older clients write `@` where newer ones write a dot.
        let protobuf = match edition {
            Edition::V2 => [
                "com.github.proto-openapi.spec.v2@v1.0+protobuf",
                "com.github.proto-openapi.spec.v2.v1.0+protobuf",
            ],
            Edition::V3 => [
                "com.github.proto-openapi.spec.v3@v1.0+protobuf",
                "com.github.proto-openapi.spec.v3.v1.0+protobuf",
            ],
        };
        match self.subtype {
            "json" | "*" => Some(Form::Json),
            other if protobuf.contains(&other) => Some(Form::Protobuf),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_form_that_there_is() {
        let v2 = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
        let with_json = format!("text/html;q=0.9, application/json;q=0.5, {v2};q=0.7");
        for (accept, form) in [
            ("", Some(Form::Json)),
            ("*", Some(Form::Json)),
            ("*/*", Some(Form::Json)),
            ("application/*", Some(Form::Json)),
            ("application/json;as=Table;v=v1", Some(Form::Json)),
            (v2, Some(Form::Protobuf)),
            (
                "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
                Some(Form::Protobuf),
            ),
            (with_json.as_str(), Some(Form::Protobuf)),
            ("application/json, */*", Some(Form::Json)),
            ("*/*, application/yaml", Some(Form::Json)),
            ("application/yaml", None),
            ("text/json", None),
            ("json", None),
            // The other edition's.
            (
                "application/com.github.proto-openapi.spec.v3@v1.0+protobuf",
                None,
            ),
        ] {
            assert_eq!(Form::chosen(accept, Edition::V2), form, "{accept}");
        }
        let specific = format!("*/*, {v2}");
        let chosen = Form::chosen(&specific, Edition::V2);
        assert_eq!(chosen, Some(Form::Protobuf), "a wildcard comes last");
        assert_eq!(Form::chosen(v2, Edition::V3), None);
    }
}
