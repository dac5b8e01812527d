//! To which requests a webhook or a policy applies, as its configuration says: rules, selectors of
//! namespaces and of objects, and equivalent resources. Match conditions come after that
//! ([`super::expressions`]).

use std::borrow::Cow;
use std::sync::Arc;

use api::{GroupResource, LabelSelector, Status};
use registry::{Kinds, Row};
use serde_json::Value;

use super::Operation;
use crate::object::meta;
use crate::state::State;

const ADMISSION: &str = "admissionregistration.k8s.io";

/// A group, a version and a kind.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Gvk {
    pub group: Arc<str>,
    pub version: Arc<str>,
    pub kind: Arc<str>,
}

impl Gvk {
    /// What a resource's or a subresource's body is of in a version; none where there is no such
    /// subresource.
    pub fn of(row: &Row, version: &str, subresource: &str) -> Option<Self> {
        if !subresource.is_empty() {
            let sub = row.subresource(subresource)?;
            if *sub.kind != *row.kind {
                return Some(Self {
                    group: sub.group.clone(),
                    version: sub.version.clone(),
                    kind: sub.kind.clone(),
                });
            }
        }
        Some(Self {
            group: row.group.clone(),
            version: row.version(version)?.version.clone(),
            kind: row.kind.clone(),
        })
    }

    /// `v1`, `apps/v1`.
    pub fn api_version(&self) -> String {
        match &*self.group {
            "" => self.version.to_string(),
            group => format!("{group}/{}", self.version),
        }
    }
}

impl Operation {
    /// As rules and reviews write it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }
}

/// A request, as rules see it.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    pub operation: Operation,
    /// The kinds that the request began with.
    pub kinds: &'a Kinds,
    pub row: &'a Arc<Row>,
    /// The version of the request.
    pub version: &'a str,
    /// Empty for the object itself.
    pub subresource: &'a str,
    /// Empty for objects of the whole cluster, but for namespaces, which are in themselves.
    pub namespace: &'a str,
    /// Empty while a generated name is not chosen.
    pub name: &'a str,
    /// The new object, in any version.
    pub object: Option<&'a Value>,
    pub old: Option<&'a Value>,
}

impl Subject<'_> {
    /// Configurations of admission are judged by no webhook and no policy: whoever made one that
    /// refuses everything can take it back.
    pub fn is_exempt(&self) -> bool {
        const KINDS: [&str; 6] = [
            "ValidatingWebhookConfiguration",
            "MutatingWebhookConfiguration",
            "ValidatingAdmissionPolicy",
            "ValidatingAdmissionPolicyBinding",
            "MutatingAdmissionPolicy",
            "MutatingAdmissionPolicyBinding",
        ];
        *self.row.group == *ADMISSION && KINDS.contains(&&*self.row.kind)
    }

    fn is_namespaces(&self) -> bool {
        self.row.group.is_empty() && &*self.row.resource == "namespaces"
    }

    /// The namespace, as rules see it: that of a namespace is itself.
    pub fn namespace(&self) -> &str {
        match self.is_namespaces() {
            true => self.name,
            false => self.namespace,
        }
    }

    /// The labels of the namespace that the request is about.
    async fn namespace_labels(&self, state: &State) -> Result<Value, Status> {
        let written = matches!(self.operation, Operation::Create | Operation::Update);
        if self.is_namespaces() && self.subresource.is_empty() && written {
            // The one that is stored is not the newest.
            return Ok(self.object.map(labels).cloned().unwrap_or_default());
        }
        let name = self.namespace();
        let found = state.fresh("", "namespaces", "", name).await?;
        let found =
            found.ok_or_else(|| Status::not_found(&GroupResource::new("", "namespaces"), name))?;
        Ok(labels(&found.to_value()).clone())
    }
}

fn labels(object: &Value) -> &Value {
    meta(object).get("labels").unwrap_or(&Value::Null)
}

fn selects(selector: &LabelSelector, object: Option<&Value>) -> bool {
    object.is_some_and(|o| selector.matches(&labels(o).as_object()))
}

/// The resource that a rule names and the kind that is shown: the request's, or equivalent ones.
#[derive(Clone, Debug)]
pub struct Hit {
    pub row: Arc<Row>,
    pub version: Arc<str>,
    pub kind: Gvk,
}

/// When something applies.
#[derive(Debug)]
pub struct Criteria {
    rules: Vec<Rule>,
    /// Of these, none may apply.
    exclude: Vec<Rule>,
    /// Without rules everything matches: of policies, not of webhooks.
    empty_is_all: bool,
    /// An error is what is wrong with the selector.
    namespaces: Result<LabelSelector, String>,
    objects: Result<LabelSelector, String>,
    equivalent: bool,
}

#[derive(Debug)]
struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    resources: Vec<(String, String)>,
    scope: Scope,
    /// Any when there are none.
    names: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Scope {
    All,
    Cluster,
    Namespaced,
    /// A word that is none of those: nothing.
    Unknown,
}

impl Criteria {
    /// Of a webhook: `rules`, `namespaceSelector`, `objectSelector`, `matchPolicy`.
    pub fn of_webhook(webhook: &Value) -> Self {
        Self {
            rules: rules(&webhook["rules"]),
            exclude: Vec::new(),
            empty_is_all: false,
            equivalent: webhook["matchPolicy"] == "Equivalent",
            namespaces: selector(&webhook["namespaceSelector"]),
            objects: selector(&webhook["objectSelector"]),
        }
    }

    /// Of a policy or a binding: `matchConstraints`, `matchResources`.
    pub fn of_policy(resources: &Value) -> Self {
        Self {
            rules: rules(&resources["resourceRules"]),
            exclude: rules(&resources["excludeResourceRules"]),
            empty_is_all: true,
            equivalent: resources["matchPolicy"] == "Equivalent",
            namespaces: selector(&resources["namespaceSelector"]),
            objects: selector(&resources["objectSelector"]),
        }
    }

    /// Whether the rules name a request, whatever selectors say of it; it costs no look at anything
    /// else. One that they do not name is not met.
    pub fn concerns(&self, subject: &Subject<'_>) -> bool {
        let named = |rules| !matches!(self.hit(rules, subject), Ok(None));
        (self.empty_is_all && self.rules.is_empty()) || named(&self.rules)
    }

    /// Whether a request meets the criteria, and by which resource. An error only where it would
    /// matter.
    pub async fn matches(
        &self,
        state: &State,
        subject: &Subject<'_>,
    ) -> Result<Option<Hit>, Status> {
        // Rules first: they cost least, and what they leave out needs no labels.
        if !self.exclude.is_empty() && self.hit(&self.exclude, subject)?.is_some() {
            return Ok(None);
        }
        let hit = match self.empty_is_all && self.rules.is_empty() {
            true => own(subject),
            false => self.hit(&self.rules, subject)?,
        };
        let Some(hit) = hit else {
            return Ok(None);
        };
        let namespaces = self.namespace_matches(state, subject).await;
        if let Ok(false) = namespaces {
            return Ok(None);
        }
        let objects = self.object_matches(subject);
        if let Ok(false) = objects {
            return Ok(None);
        }
        namespaces?;
        objects?;
        Ok(Some(hit))
    }

    /// The resource that one of the rules names: the request's own, else an equivalent one.
    fn hit(&self, rules: &[Rule], subject: &Subject<'_>) -> Result<Option<Hit>, Status> {
        let own_version = (&**subject.row, subject.version);
        if rules.iter().any(|r| r.matches(subject, own_version)) {
            return Ok(own(subject));
        }
        if !self.equivalent {
            return Ok(None);
        }
        for rule in rules {
            for (row, version) in equivalents(subject) {
                if !rule.matches(subject, (row, version)) {
                    continue;
                }
                let kind = Gvk::of(row, version, subject.subresource);
                let kind = kind.ok_or_else(|| {
                    let resource = &row.resource;
                    Status::internal(format!("unable to convert to {resource}: unknown kind"))
                })?;
                return Ok(Some(Hit {
                    row: row.clone(),
                    version: version.clone(),
                    kind,
                }));
            }
        }
        Ok(None)
    }

    async fn namespace_matches(
        &self,
        state: &State,
        subject: &Subject<'_>,
    ) -> Result<bool, Status> {
        if subject.namespace.is_empty() && !subject.is_namespaces() {
            // Objects of the whole cluster are in no namespace that could be left out.
            return Ok(true);
        }
        let selector = self.namespaces.as_ref().map_err(Status::internal)?;
        if selector.is_everything() {
            return Ok(true);
        }
        let labels = subject.namespace_labels(state).await?;
        Ok(selector.matches(&labels.as_object()))
    }

    /// The new object or the old one: so a change does not leave the selector unseen.
    fn object_matches(&self, subject: &Subject<'_>) -> Result<bool, Status> {
        let selector = self.objects.as_ref().map_err(Status::internal)?;
        Ok(selector.is_everything()
            || selects(selector, subject.object)
            || selects(selector, subject.old))
    }
}

/// The request's own resource.
fn own(subject: &Subject<'_>) -> Option<Hit> {
    let version = &subject.row.version(subject.version)?.version;
    Some(Hit {
        row: subject.row.clone(),
        version: version.clone(),
        kind: Gvk::of(subject.row, version, subject.subresource)?,
    })
}

/// Other resources and versions that serve the same objects, and have the subresource.
fn equivalents<'a>(subject: &Subject<'a>) -> impl Iterator<Item = (&'a Arc<Row>, &'a Arc<str>)> {
    let (own, version, sub) = (subject.row, subject.version, subject.subresource);
    let same = subject
        .kinds
        .rows()
        .iter()
        .filter(|r| r.storage_prefix == own.storage_prefix && !r.virtual_kind)
        .filter(move |r| sub.is_empty() || r.subresource(sub).is_some());
    let all = same.flat_map(|r| r.versions.iter().map(move |v| (r, &v.version)));
    let is_own = move |r: &Row, v: &str| r.group == own.group && v == version;
    all.filter(move |(r, v)| !is_own(r, v))
}

fn selector(value: &Value) -> Result<LabelSelector, String> {
    match value {
        // A default fills it in; what is older and has none leaves nothing out.
        Value::Null => Ok(LabelSelector::everything()),
        value => LabelSelector::from_json(value),
    }
}

fn texts(value: &Value) -> Vec<String> {
    let all = value.as_array().into_iter().flatten();
    all.filter_map(|v| Some(v.as_str()?.to_owned())).collect()
}

fn rules(value: &Value) -> Vec<Rule> {
    let all = value.as_array().into_iter().flatten();
    all.map(Rule::read).collect()
}

fn has(list: &[String], word: &str) -> bool {
    list.iter().any(|w| w == "*" || w == word)
}

impl Rule {
    fn read(rule: &Value) -> Self {
        let parted = |name: String| match name.split_once('/') {
            Some((resource, sub)) => (resource.to_owned(), sub.to_owned()),
            None => (name, String::new()),
        };
        Self {
            operations: texts(&rule["operations"]),
            groups: texts(&rule["apiGroups"]),
            versions: texts(&rule["apiVersions"]),
            resources: texts(&rule["resources"]).into_iter().map(parted).collect(),
            scope: match rule["scope"].as_str() {
                None | Some("*") => Scope::All,
                Some("Cluster") => Scope::Cluster,
                Some("Namespaced") => Scope::Namespaced,
                Some(_) => Scope::Unknown,
            },
            names: texts(&rule["resourceNames"]),
        }
    }

    fn matches(&self, subject: &Subject<'_>, (row, version): (&Row, &str)) -> bool {
        let resource = |(resource, sub): &(String, String)| {
            (resource == "*" || *resource == *row.resource)
                && (sub == "*" || *sub == subject.subresource)
        };
        self.in_scope(subject)
            && has(&self.operations, subject.operation.word())
            && has(&self.groups, &row.group)
            && has(&self.versions, version)
            && self.resources.iter().any(resource)
            && (self.names.is_empty() || self.names.iter().any(|n| n == subject.name))
    }

    fn in_scope(&self, subject: &Subject<'_>) -> bool {
        // A namespace is of the whole cluster, though its path looks as if it was in itself.
        let cluster = subject.is_namespaces() || subject.namespace.is_empty();
        match self.scope {
            Scope::All => true,
            Scope::Cluster => cluster,
            Scope::Namespaced => !cluster,
            Scope::Unknown => false,
        }
    }
}

/// An object in the version of a hit, by a conversion that needs nobody else; none where somebody
/// else must be asked.
pub fn purely<'a>(row: &Row, value: &'a Value, kind: &Gvk) -> Option<Cow<'a, Value>> {
    let want = kind.api_version();
    if value["apiVersion"] == *want {
        return Some(Cow::Borrowed(value));
    }
    if let registry::Conversion::Asked(_) = row.conversion {
        return None;
    }
    let mut value = value.clone();
    row.strategy.convert(&mut value, &kind.version, &kind.group);
    Some(Cow::Owned(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn subject<'a>(row: &'a Arc<Row>, operation: Operation, sub: &'a str) -> Subject<'a> {
        Subject {
            operation,
            kinds: registry::kinds(),
            row,
            version: &row.storage_version,
            subresource: sub,
            namespace: if row.namespaced { "n" } else { "" },
            name: "x",
            object: None,
            old: None,
        }
    }

    fn hit(criteria: &Value, subject: &Subject<'_>) -> Option<String> {
        let criteria = Criteria::of_webhook(criteria);
        let hit = criteria
            .hit(&criteria.rules, subject)
            .expect("known kinds")?;
        let (kind, resource) = (&hit.kind, &hit.row.resource);
        Some(format!("{} {} {resource}", kind.api_version(), kind.kind))
    }

    fn rule(operations: &[&str], groups: &[&str], versions: &[&str], resources: &[&str]) -> Value {
        json!({"operations": operations, "apiGroups": groups, "apiVersions": versions,
            "resources": resources})
    }

    #[test]
    fn rules_name_resources_and_what_lies_below_them() {
        let pods = registry::kinds().resource("", "pods").expect("pods");
        let of = |resources: &[&str], operation, sub| {
            let rules = json!({"rules": [rule(&["CREATE", "CONNECT"], &[""], &["v1"], resources)]});
            hit(&rules, &subject(pods, operation, sub)).is_some()
        };
        let (create, connect) = (Operation::Create, Operation::Connect);
        assert!(of(&["pods"], create, ""));
        assert!(!of(&["pods"], create, "binding"), "of itself alone");
        assert!(of(&["pods/*"], create, "binding") && of(&["pods/*"], create, ""));
        assert!(of(&["*/binding"], create, "binding") && !of(&["*/binding"], create, ""));
        assert!(of(&["*"], create, "") && !of(&["*"], create, "binding"));
        assert!(of(&["*/*"], connect, "exec"));
        assert!(!of(&["pods"], Operation::Update, ""));
        let rules = json!({"rules": [rule(&["*"], &["*"], &["*"], &["pods/exec"])]});
        let exec = hit(&rules, &subject(pods, connect, "exec"));
        assert_eq!(exec.as_deref(), Some("v1 PodExecOptions pods"));
    }

    #[test]
    fn scope_knows_that_a_namespace_is_not_in_itself() {
        let row = |resource| registry::kinds().resource("", resource).expect("built in");
        let of = |scope: &str, resource| {
            let mut rule = rule(&["*"], &["*"], &["*"], &["*"]);
            rule["scope"] = scope.into();
            let mut subject = subject(row(resource), Operation::Update, "");
            if resource == "namespaces" {
                subject.namespace = "x";
            }
            hit(&json!({ "rules": [rule] }), &subject).is_some()
        };
        assert_eq!(
            ["*", "Cluster", "Namespaced"].map(|s| of(s, "pods")),
            [true, false, true]
        );
        assert_eq!(
            ["*", "Cluster", "Namespaced"].map(|s| of(s, "nodes")),
            [true, true, false]
        );
        assert_eq!(
            ["*", "Cluster", "Namespaced"].map(|s| of(s, "namespaces")),
            [true, true, false]
        );
    }

    #[test]
    fn equivalent_resources_count_unless_exact_is_asked() {
        let kinds = registry::kinds();
        let events = kinds.resource("events.k8s.io", "events").expect("events");
        let of = |policy: &str, version: &str| {
            let rules = json!({"matchPolicy": policy,
                "rules": [rule(&["*"], &[""], &[version], &["events"])]});
            hit(
                &rules,
                &Subject {
                    version: "v1",
                    ..subject(events, Operation::Create, "")
                },
            )
        };
        assert_eq!(of("Equivalent", "v1").as_deref(), Some("v1 Event events"));
        assert_eq!(of("Exact", "v1"), None);
        assert_eq!(of("Equivalent", "v2"), None);
        let scalers = kinds
            .resource("autoscaling", "horizontalpodautoscalers")
            .expect("scalers");
        let rules = json!({"matchPolicy": "Equivalent",
            "rules": [rule(&["*"], &["autoscaling"], &["v1"], &["*"])]});
        let found = hit(
            &rules,
            &Subject {
                version: "v2",
                ..subject(scalers, Operation::Create, "")
            },
        );
        assert_eq!(
            found.as_deref(),
            Some("autoscaling/v1 HorizontalPodAutoscaler horizontalpodautoscalers")
        );
    }

    #[test]
    fn objects_are_selected_before_and_after_a_change() {
        let pods = registry::kinds().resource("", "pods").expect("pods");
        let criteria =
            Criteria::of_webhook(&json!({"objectSelector": {"matchLabels": {"a": "b"}}}));
        let (with, without) = (json!({"metadata": {"labels": {"a": "b"}}}), json!({}));
        let of = |object, old| {
            let subject = Subject {
                object,
                old,
                ..subject(pods, Operation::Update, "")
            };
            criteria.object_matches(&subject)
        };
        assert_eq!(of(Some(&with), None), Ok(true));
        assert_eq!(of(Some(&without), Some(&with)), Ok(true));
        assert_eq!(of(Some(&without), Some(&without)), Ok(false));
        assert_eq!(of(None, None), Ok(false));
    }

    #[test]
    fn configurations_are_exempt() {
        let kinds = registry::kinds();
        for resource in [
            "mutatingwebhookconfigurations",
            "validatingadmissionpolicies",
        ] {
            let row = kinds.resource(ADMISSION, resource).expect("built in");
            assert!(
                subject(row, Operation::Delete, "").is_exempt(),
                "{resource}"
            );
        }
        let pods = kinds.resource("", "pods").expect("pods");
        assert!(!subject(pods, Operation::Delete, "").is_exempt());
    }
}
