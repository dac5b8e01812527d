//! Types checked beside a policy: what its validations would get wrong of the kinds that it
//! matches. Nothing is refused for that; its status says so to the author of the policy.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use cel::Decl;
use serde_json::Value as Json;

use crate::compile::{Compiler, Want};
use crate::env::Types;

/// Most kinds that one policy is checked against, as upstream.
const MAX_KINDS: usize = 10;

/// A kind in a version.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MatchedKind {
    pub group: String,
    pub version: String,
    pub kind: String,
}

impl fmt::Display for MatchedKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}, Kind={}", self.group, self.version, self.kind)
    }
}

/// A field whose expression does not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    pub field: String,
    pub warning: String,
}

/// Which kinds a policy's rules name, as `(group, version, resource)` each; `kind_of` says what
/// kind that is. Rules with wildcards name none.
pub fn wanted(
    spec: &Json,
    mut kind_of: impl FnMut(&str, &str, &str) -> Option<MatchedKind>,
) -> Vec<MatchedKind> {
    let mut found = BTreeSet::new();
    let rules = spec["matchConstraints"]["resourceRules"].as_array();
    for rule in rules.into_iter().flatten() {
        let list = |field: &str| -> Vec<&str> {
            let mut all: Vec<&str> = rule[field]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Json::as_str)
                .collect();
            all.sort_unstable();
            all
        };
        let (groups, versions, mut resources) =
            (list("apiGroups"), list("apiVersions"), list("resources"));
        if groups.iter().chain(&versions).any(|w| w.contains('*')) {
            continue;
        }
        resources.retain(|r| !r.contains(['*', '/']));
        let mut count = 0;
        for group in &groups {
            for version in &versions {
                for resource in &resources {
                    if let Some(kind) = kind_of(group, version, resource) {
                        found.insert(kind);
                        count += 1;
                    }
                    if count == MAX_KINDS {
                        return found.into_iter().collect();
                    }
                }
            }
        }
    }
    found.into_iter().collect()
}

/// Checks the validations of a policy against kinds and their declarations; `params` is that of
/// its parameters, where it is known.
pub fn check(
    spec: &Json,
    kinds: &[(MatchedKind, Arc<Decl>)],
    params: Option<&Arc<Decl>>,
) -> Vec<Warning> {
    let has_params = !spec["paramKind"].is_null();
    let list = |field: &str| spec[field].as_array().map_or(&[][..], Vec::as_slice);
    let text = |json: &'_ Json, field: &str| json[field].as_str().unwrap_or_default().to_owned();
    let mut compilers = Vec::with_capacity(kinds.len());
    for (kind, decl) in kinds {
        let types = Types {
            object: Some(decl.clone()),
            params: params.cloned(),
        };
        let mut compiler = Compiler::of_types(has_params, types);
        for variable in list("variables") {
            compiler.variable(&text(variable, "name"), &text(variable, "expression"));
        }
        compilers.push((kind, compiler));
    }
    let mut warnings = Vec::new();
    for (at, validation) in list("validations").iter().enumerate() {
        for field in ["expression", "messageExpression"] {
            let source = text(validation, field);
            if source.is_empty() && field == "messageExpression" {
                continue;
            }
            let wrong: Vec<String> = compilers
                .iter()
                .filter_map(|(kind, compiler)| {
                    let error = compiler.compile(&source, Want::Anything).err()?;
                    Some(format!("{kind}: {error}\n"))
                })
                .collect();
            if !wrong.is_empty() {
                warnings.push(Warning {
                    field: format!("spec.validations[{at}].{field}"),
                    warning: wrong.join("\n"),
                });
            }
        }
    }
    warnings
}
