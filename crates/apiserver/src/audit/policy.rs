//! What is to be recorded of a request: the rules of an audit.k8s.io/v1 Policy. Pure: it knows a
//! request by its attributes and who asks, and nothing of events or where they go.

use access::{Attributes, UserInfo};
use api::{FieldError, FieldPath};
use serde::Deserialize;
use serde_json::Value;

use crate::configuration_file::{self, Problem};

/// How much is recorded of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    None,
    /// Who asked what of whom, when, and what came of it.
    Metadata,
    /// The body of the request, too.
    Request,
    /// The body of the answer, too.
    RequestResponse,
}

impl Level {
    pub const ALL: [Self; 4] = [
        Self::None,
        Self::Metadata,
        Self::Request,
        Self::RequestResponse,
    ];

    pub fn word(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Metadata => "Metadata",
            Self::Request => "Request",
            Self::RequestResponse => "RequestResponse",
        }
    }

    fn read(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|l| l.word() == text)
    }
}

/// When something is recorded of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The request is known, and nothing done for it.
    RequestReceived,
    /// The head of an answer is sent whose body lasts: watches and other streams.
    ResponseStarted,
    /// The answer is whole.
    ResponseComplete,
    /// The request caused a fault in the server.
    Panic,
}

impl Stage {
    pub const ALL: [Self; 4] = [
        Self::RequestReceived,
        Self::ResponseStarted,
        Self::ResponseComplete,
        Self::Panic,
    ];

    pub fn word(self) -> &'static str {
        match self {
            Self::RequestReceived => "RequestReceived",
            Self::ResponseStarted => "ResponseStarted",
            Self::ResponseComplete => "ResponseComplete",
            Self::Panic => "Panic",
        }
    }

    fn bit(self) -> u8 {
        1 << (self as u8)
    }
}

/// Some stages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stages(u8);

impl Stages {
    pub fn has(self, stage: Stage) -> bool {
        self.0 & stage.bit() != 0
    }

    fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Reads a list of them; what is none is named.
    fn read(names: &[String], path: &FieldPath, errors: &mut Vec<FieldError>) -> Self {
        let mut all = Self::default();
        for (n, name) in names.iter().enumerate() {
            match Stage::ALL.iter().find(|s| s.word() == name) {
                Some(stage) => all.0 |= stage.bit(),
                None => {
                    let known = Stage::ALL.map(Stage::word).join(",");
                    let why = format!("allowed stages are {known}");
                    errors.push(invalid(&path.index(n), name, &why));
                }
            }
        }
        all
    }
}

/// What the policy says of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub level: Level,
    /// For which nothing is recorded.
    pub omitted: Stages,
    pub omits_managed_fields: bool,
}

/// The rules, in order: the first that fits decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    rules: Vec<Rule>,
    /// Where no rule fits.
    otherwise: Verdict,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    verdict: Verdict,
    users: Vec<String>,
    groups: Vec<String>,
    verbs: Vec<String>,
    resources: Vec<Resources>,
    namespaces: Vec<String>,
    paths: Vec<String>,
}

/// Why a policy is not taken.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    #[error("{0}")]
    Form(#[from] Problem),
    #[error("{}", joined(.0))]
    Invalid(Vec<FieldError>),
    #[error("it has no rules, so nothing would be recorded")]
    Empty,
}

fn joined(errors: &[FieldError]) -> String {
    let all: Vec<String> = errors.iter().map(ToString::to_string).collect();
    all.join(", ")
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    #[serde(default)]
    rules: Vec<RuleOfDocument>,
    #[serde(default)]
    omit_stages: Vec<String>,
    #[serde(default)]
    omit_managed_fields: bool,
    /// Has no effect, as upstream.
    #[serde(default, rename = "metadata")]
    _metadata: Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RuleOfDocument {
    #[serde(default)]
    level: String,
    #[serde(default)]
    users: Vec<String>,
    #[serde(default)]
    user_groups: Vec<String>,
    #[serde(default)]
    verbs: Vec<String>,
    #[serde(default)]
    resources: Vec<Resources>,
    #[serde(default)]
    namespaces: Vec<String>,
    #[serde(default, rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
    #[serde(default)]
    omit_stages: Vec<String>,
    #[serde(default)]
    omit_managed_fields: Option<bool>,
}

/// Resources of a group.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Resources {
    #[serde(default)]
    group: String,
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    resource_names: Vec<String>,
}

/// What is recorded where nobody says otherwise: who wrote what. Nobody's content: neither bodies
/// nor, therefore, secrets. Without what says the same again every few seconds, and questions that
/// are asked by creating something.
pub const DEFAULT: &str = "\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  resources:
  - {group: coordination.k8s.io, resources: [leases]}
  - {group: '', resources: [events]}
  - {group: events.k8s.io, resources: [events]}
  - {group: authentication.k8s.io, resources: [tokenreviews, selfsubjectreviews]}
  - {group: authorization.k8s.io}
- level: None
  userGroups: [system:nodes]
  resources:
  - {group: '', resources: [nodes/status, pods/status]}
- level: Metadata
  verbs: [create, update, patch, delete, deletecollection]
- level: Metadata
  resources:
  - {group: '', resources: [pods/exec, pods/attach, pods/portforward, '*/proxy']}
";

impl Policy {
    /// Reads a policy from YAML or JSON. Strict: a field that is not known would be a rule that
    /// does not hold.
    pub fn read(bytes: &[u8]) -> Result<Self, PolicyError> {
        let document: Document = configuration_file::read(bytes, "Policy", &["audit.k8s.io/v1"])?;
        let mut errors = Vec::new();
        let omitted = Stages::read(
            &document.omit_stages,
            &FieldPath::new("omitStages"),
            &mut errors,
        );
        let defaults = Verdict {
            level: Level::None,
            omitted,
            omits_managed_fields: document.omit_managed_fields,
        };
        let path = FieldPath::new("rules");
        let rules = document.rules.into_iter().enumerate();
        let rules: Vec<Rule> = rules
            .map(|(n, rule)| Rule::read(rule, &path.index(n), defaults, &mut errors))
            .collect();
        if !errors.is_empty() {
            return Err(PolicyError::Invalid(errors));
        }
        if rules.is_empty() {
            return Err(PolicyError::Empty);
        }
        Ok(Self {
            rules,
            otherwise: defaults,
        })
    }

    /// What is to be recorded of a request. Nobody asks where credentials were wrong.
    pub fn judge(&self, user: Option<&UserInfo>, asked: &Attributes<'_>) -> Verdict {
        let rule = self.rules.iter().find(|r| r.fits(user, asked));
        rule.map_or(self.otherwise, |r| r.verdict)
    }
}

impl Rule {
    fn read(
        rule: RuleOfDocument,
        path: &FieldPath,
        defaults: Verdict,
        errors: &mut Vec<FieldError>,
    ) -> Self {
        let field = path.child("level");
        let level = Level::read(&rule.level);
        if rule.level.is_empty() {
            errors.push(FieldError::required(&field, ""));
        } else if level.is_none() {
            let known = Level::ALL.map(Level::word);
            errors.push(FieldError::not_supported(&field, &rule.level, &known));
        }
        let field = path.child("nonResourceURLs");
        check_paths(&rule.non_resource_urls, &field, errors);
        check_resources(&rule.resources, &path.child("resources"), errors);
        let of_resources = !rule.resources.is_empty() || !rule.namespaces.is_empty();
        if of_resources && !rule.non_resource_urls.is_empty() {
            let why = "rules cannot apply to both regular resources and non-resource URLs";
            let urls = serde_json::json!(rule.non_resource_urls);
            errors.push(FieldError::invalid(&field, &urls, why));
        }
        let omitted = Stages::read(&rule.omit_stages, &path.child("omitStages"), errors);
        Self {
            verdict: Verdict {
                level: level.unwrap_or(Level::None),
                omitted: omitted.and(defaults.omitted),
                omits_managed_fields: rule
                    .omit_managed_fields
                    .unwrap_or(defaults.omits_managed_fields),
            },
            users: rule.users,
            groups: rule.user_groups,
            verbs: rule.verbs,
            resources: rule.resources,
            namespaces: rule.namespaces,
            paths: rule.non_resource_urls,
        }
    }

    fn fits(&self, user: Option<&UserInfo>, asked: &Attributes<'_>) -> bool {
        let is_any = |words: &[String], word: &str| words.iter().any(|w| w == word);
        if !self.verbs.is_empty() && !is_any(&self.verbs, asked.verb) {
            return false;
        }
        if !self.users.is_empty() && !user.is_some_and(|u| is_any(&self.users, &u.name)) {
            return false;
        }
        let in_group = |u: &UserInfo| u.groups.iter().any(|g| is_any(&self.groups, g));
        if !self.groups.is_empty() && !user.is_some_and(in_group) {
            return false;
        }
        if !self.namespaces.is_empty() || !self.resources.is_empty() {
            let here = self.namespaces.is_empty() || is_any(&self.namespaces, asked.namespace);
            let what = self.resources.is_empty() || self.resources.iter().any(|r| r.has(asked));
            return asked.is_resource && here && what;
        }
        if self.paths.is_empty() {
            return true;
        }
        !asked.is_resource && self.paths.iter().any(|p| covers(p, asked.path))
    }
}

impl Resources {
    fn has(&self, asked: &Attributes<'_>) -> bool {
        if self.group != asked.group && self.group != "*" {
            return false;
        }
        if self.resources.is_empty() {
            return true;
        }
        let names = &self.resource_names;
        if !names.is_empty() && !names.iter().any(|n| n == asked.name) {
            return false;
        }
        self.resources.iter().any(|r| is_resource(r, asked))
    }
}

/// Whether words such as `pods`, `pods/log`, `pods/*`, `*/scale` or `*` mean what is asked for.
fn is_resource(words: &str, asked: &Attributes<'_>) -> bool {
    match words.split_once('/') {
        None if words == "*" => true,
        None => asked.subresource.is_empty() && words == asked.resource,
        // All of a resource, with and without something below it: as upstream.
        Some((resource, "*")) => resource == asked.resource,
        Some(("*", sub)) => !asked.subresource.is_empty() && sub == asked.subresource,
        Some((resource, sub)) => {
            !asked.subresource.is_empty() && resource == asked.resource && sub == asked.subresource
        }
    }
}

/// Whether a path is one of those that are meant.
fn covers(meant: &str, path: &str) -> bool {
    let beginning = || {
        let beginning = meant.strip_suffix('*')?;
        Some(path.starts_with(beginning.trim_end_matches('*')))
    };
    meant == path || beginning().unwrap_or(false)
}

fn invalid(path: &FieldPath, value: &str, why: &str) -> FieldError {
    FieldError::invalid(path, &Value::String(value.to_owned()), why)
}

fn check_paths(urls: &[String], path: &FieldPath, errors: &mut Vec<FieldError>) {
    for (n, url) in urls.iter().enumerate().filter(|(_, url)| *url != "*") {
        if !url.starts_with('/') {
            let why = "non-resource URL rules must begin with a '/' character";
            errors.push(invalid(&path.index(n), url, why));
        }
        if url.strip_suffix('*').unwrap_or(url).contains('*') {
            let why = "non-resource URL wildcards '*' must be the final character of the rule";
            errors.push(invalid(&path.index(n), url, why));
        }
    }
}

fn check_resources(all: &[Resources], path: &FieldPath, errors: &mut Vec<FieldError>) {
    for resources in all {
        let group = &resources.group;
        if !group.is_empty() && group != "*" {
            for why in api::names::is_dns1123_subdomain(group) {
                errors.push(invalid(&path.child("group"), group, &why));
            }
        }
        if !resources.resource_names.is_empty() && resources.resources.is_empty() {
            let names = serde_json::json!(resources.resource_names);
            let why = "using resourceNames requires at least one resource";
            let field = path.child("resourceNames");
            errors.push(FieldError::invalid(&field, &names, why));
        }
    }
}

#[cfg(test)]
mod tests;
